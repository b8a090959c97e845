//! Cases: what a scenario's lists expand into, each with a name of its own; and which of them are run.
//!
//! Fed by [`super::scenario`]; feeds [`super::pool`], which runs them.

use super::scenario::{Clock, Each, Loaded, file_name, wrong};
use crate::exit::{Exit, Failure};
use crate::machine::Image;
use dmus_card::deviation::{Faults, Liberties, Plan};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most cases of a scenario.
const MAX_CASES: usize = 100_000;

/// One run of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The scenario's name, and the values of its lists.
    pub(crate) name: String,
    pub(crate) of: Arc<Loaded>,
    pub(crate) image: Image,
    pub(crate) song: Option<PathBuf>,
    pub(crate) width: u8,
    pub(crate) clock: Clock,
    pub(crate) drift: i32,
    pub(crate) faults: Faults,
    pub(crate) liberties: Option<Liberties>,
}

impl Case {
    /// What the card does otherwise than usually.
    pub(crate) fn plan(&self) -> Plan {
        Plan { faults: self.faults.clone(), liberties: self.liberties.clone() }
    }

    /// The values of its lists, as its name has them.
    pub(crate) fn values(&self) -> &str {
        self.name.split_once(',').map_or("", |(_, values)| values)
    }

    /// Whether a name in a scenario or in a file of quarantine is of it: the whole name, or some of its values.
    pub(crate) fn has_values(&self, values: &str) -> bool {
        let own: BTreeSet<_> = self.values().split(',').collect();
        values.split(',').all(|value| own.contains(value))
    }
}

/// The scenarios of files and folders: of a folder, all `.toml` files in it, by name.
pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Arc<Loaded>>> {
    let mut files = Vec::new();
    for path in paths {
        let cannot = |error: std::io::Error| wrong(path, None, &format!("it cannot be read: {error}"));
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            if file.extension().is_some_and(|extension| extension == "toml") && !super::quarantine::is_named(&file) {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(wrong(path, None, "there is no scenario in this folder: no .toml file").into());
        }
        found.sort();
        files.extend(found);
    }
    files.iter().map(|file| Ok(Arc::new(Loaded::read(file)?))).collect()
}

/// The cases of scenarios, in their order.
pub(crate) fn expand(scenarios: &[Arc<Loaded>]) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for scenario in scenarios {
        expand_one(scenario, &mut cases)?;
    }
    let mut known: BTreeMap<&str, &Path> = BTreeMap::new();
    for case in &cases {
        if let Some(other) = known.insert(&case.name, &case.of.file) {
            let what = format!("the case {} is there twice, here and in {}", case.name, other.display());
            return Err(wrong(&case.of.file, Some(1), &what).into());
        }
    }
    Ok(cases)
}

fn expand_one(of: &Arc<Loaded>, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let scenario = &of.scenario;
    let first = Case {
        name: of.name(),
        of: Arc::clone(of),
        image: Image::Elf,
        song: None,
        width: 8,
        clock: Clock::Virtual,
        drift: 0,
        faults: scenario.faults.clone(),
        liberties: scenario.liberties.clone(),
    };
    let (guest, card) = (&scenario.guest, &scenario.card);
    let mut all = vec![first];
    each(&mut all, "image", guest.image.as_ref(), |image| image.name().into(), |case, image| case.image = *image);
    each(&mut all, "song", guest.song.as_ref(), |song| file_name(song), |case, song| case.song = Some(of.path(song)));
    each(&mut all, "width", guest.width.as_ref(), u8::to_string, |case, width| case.width = *width);
    each(&mut all, "clock", card.clock.as_ref(), |clock| clock.name().into(), |case, clock| case.clock = *clock);
    each(&mut all, "drift", card.drift.as_ref(), i32::to_string, |case, drift| case.drift = *drift);
    let seeded = |case: &mut Case, seed: &u64| case.liberties = Some(Liberties { seed: *seed, only: None });
    each(&mut all, "seed", card.seed.as_ref(), u64::to_string, seeded);
    if all.len() > MAX_CASES {
        let what = format!("it has {} cases; {MAX_CASES} are allowed", all.len());
        return Err(wrong(&of.file, None, &what).into());
    }
    cases.append(&mut all);
    Ok(())
}

/// Sets a value in all cases; of a list, makes each case one of each value.
fn each<T>(
    cases: &mut Vec<Case>,
    key: &str,
    values: Option<&Each<T>>,
    name: impl Fn(&T) -> String,
    set: impl Fn(&mut Case, &T),
) {
    let Some(values) = values else {
        return;
    };
    let (before, listed) = (std::mem::take(cases), values.is_list());
    for case in before {
        for value in values.all() {
            // What is too many is told by whoever asked.
            if cases.len() > MAX_CASES {
                return;
            }
            let mut case = case.clone();
            set(&mut case, value);
            if listed {
                case.name = format!("{},{key}={}", case.name, name(value));
            }
            cases.push(case);
        }
    }
}

/// Keeps those whose names match one of the patterns, if there is any.
pub(crate) fn filter(cases: &mut Vec<Case>, patterns: &[Regex]) -> anyhow::Result<()> {
    if patterns.is_empty() {
        return Ok(());
    }
    let all = cases.len();
    cases.retain(|case| patterns.iter().any(|pattern| pattern.is_match(&case.name)));
    match cases.is_empty() {
        true => Err(Failure::new(Exit::Usage, format!("--filter leaves none of the {all} cases")).into()),
        false => Ok(()),
    }
}
