//! Every legal card: a case with cards that take liberties, each from a seed, and what it takes for the driver to fail.
//!
//! Fed by the command with cases that pass; feeds the terminal, and for a seed that fails a scenario of its own, with
//! the few liberties that matter.

use super::cases::Case;
use super::outcome::Outcome;
use super::parallel::{Told, parallel};
use super::pool::{Single, single};
use super::run::{Setup, files};
use super::show::Show;
use crate::exit::{Exit, Failure};
use crate::summary::say;
use anyhow::Context;
use dmus_card::deviation::{Liberties, Liberty, Plan, shrink};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item};

/// Runs each case with the seeds 1 to `seeds`. Fails if one of them does.
pub(crate) fn explore(
    cases: &[Case],
    (setup, output): (&Setup, &Path),
    (jobs, seeds, quiet): (usize, u64, bool),
) -> anyhow::Result<()> {
    let (mut failed, mut errors) = (0, 0);
    for case in cases {
        let folder = output.join(&case.name);
        let exploration = Exploration { case, setup, usual: usual(case, &folder.join("usual"), setup)?, folder };
        match exploration.seeds(jobs, seeds, quiet)? {
            None => say(&format!("{}: {seeds} seeds, and all holds with each", case.name)),
            Some((seed, Outcome::Error, reasons)) => {
                errors += 1;
                say(&format!("{}: seed {seed}: the host was at fault: {}", case.name, reasons.join("; ")));
            }
            Some((seed, _, reasons)) => {
                failed += 1;
                say(&format!("{}: seed {seed} fails: {}", case.name, reasons.join("; ")));
                exploration.shrink(seed)?;
            }
        }
    }
    match (failed, errors) {
        (0, 0) => Ok(()),
        (0, errors) => Err(Failure::new(Exit::Host, format!("the host was at fault for {errors} cases")).into()),
        (failed, _) => {
            Err(Failure::new(Exit::Failed, format!("{failed} cases fail with a card that may be so")).into())
        }
    }
}

/// The same with a card that takes none, and counts where it could.
fn usual(case: &Case, folder: &Path, setup: &Setup) -> anyhow::Result<Single> {
    let mut case = case.clone();
    case.liberties = Some(Liberties { seed: 0, only: Some(BTreeMap::new()) });
    let usual = single(&case, folder, setup)?;
    let exit = match usual.outcome {
        Outcome::Passed => return Ok(usual),
        Outcome::Error => Exit::Host,
        _ => Exit::Failed,
    };
    let why = usual.reasons.join("; ");
    Err(Failure::new(exit, format!("{} does not pass with a card that takes no liberty: {why}", case.name)).into())
}

struct Exploration<'a> {
    case: &'a Case,
    setup: &'a Setup,
    usual: Single,
    folder: PathBuf,
}

impl Exploration<'_> {
    /// The first seed that does not pass, with what came of it.
    fn seeds(&self, jobs: usize, seeds: u64, quiet: bool) -> anyhow::Result<Option<(u64, Outcome, Vec<String>)>> {
        let name = |number: usize| format!("seed {}", number + 1);
        let work = |number: usize| {
            let seed = number as u64 + 1;
            self.one(&Liberties { seed, only: None }, &self.folder.join(format!("seed-{seed}")))
        };
        let (mut show, mut interrupted) = (Show::new(seeds as usize, quiet), None);
        let mut first: Option<(u64, Outcome, Vec<String>)> = None;
        parallel(jobs, seeds as usize, work, |told| {
            match told {
                Told::Began(number) => show.began(&name(number)),
                Told::Ended(number, Ok((outcome, reasons))) => {
                    show.ended(&name(number), None);
                    let is_first = first.as_ref().is_none_or(|(seed, ..)| number as u64 + 1 < *seed);
                    if outcome != Outcome::Passed && is_first {
                        first = Some((number as u64 + 1, outcome, reasons));
                    }
                }
                Told::Ended(_, Err(error)) => interrupted = Some(error),
            }
            first.is_none()
        });
        show.finish();
        interrupted.map_or(Ok(first), Err)
    }

    /// A run with these liberties, whose files are dropped if it passes.
    fn one(&self, liberties: &Liberties, folder: &Path) -> anyhow::Result<(Outcome, Vec<String>)> {
        let mut case = self.case.clone();
        case.liberties = Some(liberties.clone());
        let mut single = single(&case, folder, self.setup)?;
        let (now, usual) = (single.run.as_ref(), self.usual.run.as_ref());
        let captured = |run: Option<&super::run::Run>| run.map(|run| run.guest.captured.clone()).unwrap_or_default();
        if single.outcome != Outcome::Error {
            // Of a realtime clock there is no hash; its audio is held against what the scenario says.
            if single.sha256 != self.usual.sha256 {
                single.reasons.push("the audio is another than with a card that takes no liberty".into());
            }
            if single.sha256.is_some() && captured(now) != captured(usual) {
                single.reasons.push("what was captured is another than with a card that takes no liberty".into());
            }
            if !single.reasons.is_empty() {
                single.outcome = Outcome::Failed;
            }
        }
        if single.outcome == Outcome::Passed {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok((single.outcome, single.reasons))
    }

    /// Finds out which liberties it takes to fail, and keeps them as a scenario, with what there is of a run with them.
    fn shrink(&self, seed: u64) -> anyhow::Result<()> {
        let failing = self.folder.join(format!("seed-{seed}"));
        let counters = std::fs::read(failing.join(files::COUNTERS)).unwrap_or_default();
        let counters: Value = serde_json::from_slice(&counters).unwrap_or_default();
        let occasions = |liberty: Liberty| counters["occasions"]["liberties"][liberty.name()].as_u64().unwrap_or(0);
        let (folder, mut runs) = (self.folder.join("shrinking"), 0);
        let few = shrink(&Liberties { seed, only: None }, occasions, |liberties| {
            runs += 1;
            let (outcome, _) = self.one(liberties, &folder)?;
            let _ = std::fs::remove_dir_all(&folder);
            anyhow::Ok(outcome == Outcome::Failed)
        })?;
        let scenario = self.folder.join(format!("{}-seed-{seed}.toml", self.case.of.name()));
        self.write(&few, &scenario)?;
        self.one(&few, &self.folder.join(format!("seed-{seed}-few")))?;
        let few = toml::to_string(&few).context("the liberties make no TOML")?;
        say(&format!("after {runs} more runs, it takes this:\n{few}{} is that scenario", scenario.display()));
        Ok(())
    }

    /// The scenario, of this case alone, with liberties in it.
    fn write(&self, liberties: &Liberties, path: &Path) -> anyhow::Result<()> {
        let file = &self.case.of.file;
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut document: DocumentMut = text.parse().with_context(|| format!("{} is no TOML", file.display()))?;
        let case = self.case;
        paths(&mut document, |path| {
            let path = self.case.of.path(Path::new(path));
            std::path::absolute(&path).unwrap_or(path).display().to_string()
        });
        for (table, key, text) in [
            ("guest", "image", Some(case.image.name().to_owned())),
            ("card", "clock", Some(case.clock.name().to_owned())),
            ("card", "seed", None),
        ] {
            if let Some(table) = document.get_mut(table).and_then(Item::as_table_like_mut) {
                match text {
                    Some(text) if table.contains_key(key) => _ = table.insert(key, toml_edit::value(text)),
                    _ => _ = table.remove(key),
                }
            }
        }
        for (table, key, number) in [("guest", "width", case.width.into()), ("card", "drift", case.drift.into())] {
            if let Some(table) = document.get_mut(table).and_then(Item::as_table_like_mut)
                && table.contains_key(key)
            {
                table.insert(key, toml_edit::value::<i64>(number));
            }
        }
        let plan = Plan { liberties: Some(liberties.clone()), ..Plan::default() };
        let plan = toml::to_string(&plan).context("the liberties make no TOML")?;
        let plan: DocumentMut = plan.parse().context("the liberties make no TOML")?;
        if let Some(liberties) = plan.get("liberties") {
            document.insert("liberties", liberties.clone());
        }
        std::fs::write(path, document.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Makes the paths of a scenario other ones: it is to be read in another folder.
fn paths(document: &mut DocumentMut, other: impl Fn(&str) -> String) {
    let change = |item: &mut Item| match item {
        Item::Value(toml_edit::Value::Array(paths)) => {
            for path in paths.iter_mut() {
                if let Some(text) = path.as_str().filter(|text| *text != "loopback").map(&other) {
                    *path = text.into();
                }
            }
        }
        item => {
            if let Some(text) = item.as_str().map(&other) {
                *item = toml_edit::value(text);
            }
        }
    };
    for keys in [
        &["guest", "song"][..],
        &["guest", "dls"],
        &["guest", "kernel"],
        &["guest", "initrd"],
        &["guest", "iso"],
        &["guest", "disk"],
        &["card", "bank"],
        &["feed", "share"],
        &["feed", "midi"],
        &["expect", "midi"],
        &["expect", "audio", "reference"],
    ] {
        let mut item = Some(document.as_item_mut());
        for key in keys {
            item = item.and_then(Item::as_table_like_mut).and_then(|table| table.get_mut(key));
        }
        if let Some(item) = item {
            change(item);
        }
    }
    let files = document.get_mut("feed").and_then(Item::as_table_like_mut).and_then(|feed| feed.get_mut("files"));
    if let Some(files) = files.and_then(Item::as_table_like_mut) {
        files.iter_mut().for_each(|(_, file)| change(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_scenario_are_found_wherever_they_are() -> anyhow::Result<()> {
        let text = r#"
            guest = { song = ["a.mid", "b.mid"], image = "elf" }
            [feed]
            files = { x = "c.bin" }
            midi = ["d.mid", "loopback"]
            [expect.audio]
            reference = "e.wav"
        "#;
        let mut document: DocumentMut = text.parse()?;
        paths(&mut document, |path| format!("/there/{path}"));
        for name in ["a.mid", "b.mid", "c.bin", "d.mid", "e.wav"] {
            assert!(document.to_string().contains(&format!("\"/there/{name}\"")), "{document}");
        }
        assert!(!document.to_string().contains("/there/elf") && !document.to_string().contains("/there/loopback"));
        Ok(())
    }
}
