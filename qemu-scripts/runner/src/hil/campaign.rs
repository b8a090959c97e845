//! A campaign: each kind of fault at each of its occasions, one a run, and what the driver does about it.
//!
//! Fed by the command with cases that pass; feeds the terminal with a table, and `campaign.json`.

use super::cases::Case;
use super::outcome::Outcome;
use super::parallel::{Told, parallel};
use super::pool::{Single, single};
use super::run::{Ended, Setup};
use super::show::Show;
use crate::exit::{Exit, Failure};
use crate::summary::say;
use anyhow::{Context, ensure};
use dmus_card::deviation::{Fault, Liberties, Occasions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What a driver does about a fault of its card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reaction {
    /// All holds that holds without the fault.
    Recovered,
    /// It ends, and says why.
    Error,
    /// It goes on, and its own counts or its serial line tell that something is wrong.
    Told,
    /// It stands still until a limit ends it.
    Hang,
    /// It says that all went well, and the audio is another.
    WrongAudio,
    /// It breaks a rule of the data sheet.
    Violation,
    /// The host was at fault: it is not known.
    Unknown,
}

const REACTIONS: [(Reaction, &str); 7] = [
    (Reaction::Recovered, "recovered"),
    (Reaction::Error, "typed error"),
    (Reaction::Told, "told"),
    (Reaction::Hang, "HANG"),
    (Reaction::WrongAudio, "WRONG AUDIO"),
    (Reaction::Violation, "VIOLATION"),
    (Reaction::Unknown, "host error"),
];

impl Reaction {
    fn name(self) -> &'static str {
        REACTIONS.iter().find(|(reaction, _)| *reaction == self).map_or("", |(_, name)| name)
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::Hang | Self::WrongAudio | Self::Violation)
    }
}

/// Runs each case with each fault at each occasion up to `up_to`. Fails if a driver does what it must not.
pub(crate) fn campaign(
    cases: &[Case],
    (setup, output): (&Setup, &Path),
    (jobs, up_to, quiet): (usize, u64, bool),
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let mut worst = Reaction::Recovered;
    for case in cases {
        let mut usual = case.clone();
        usual.faults.clear();
        // One that takes none: the card then counts the occasions.
        usual.liberties.get_or_insert_with(|| Liberties { seed: 0, only: Some(BTreeMap::new()) });
        let folder = output.join(&case.name).join("usual");
        let first = single(&usual, &folder, setup)?;
        let run = match (&first.run, first.outcome) {
            (Some(run), Outcome::Passed) => run,
            (_, Outcome::Error) => {
                return Err(Failure::new(Exit::Host, format!("{}: {}", case.name, first.reasons.join("; "))).into());
            }
            _ => {
                let why = first.reasons.join("; ");
                let message = format!("{} does not pass without a fault: {why}", case.name);
                return Err(Failure::new(Exit::Failed, message).into());
            }
        };
        let occasions = run.counters["occasions"]["faults"].clone();
        let planned: Vec<(Fault, u64)> = Fault::ALL
            .iter()
            .flat_map(|fault| {
                let there = occasions[fault.name()].as_u64().unwrap_or(0);
                (1..=there.min(up_to)).map(|occasion| (*fault, occasion))
            })
            .collect();
        ensure!(!planned.is_empty(), "{}: the card counted no occasion of any fault", case.name);
        say(&format!("{}: {} runs, a fault each, up to occasion {up_to} of each kind", case.name, planned.len()));
        let found = runs(&usual, &planned, (setup, output), &first, (jobs, quiet))?;
        table(&found, &occasions);
        worst = found.iter().map(|(_, reaction, _)| *reaction).filter(|it| it.is_bad()).fold(worst, Ord::max);
        let rows = found.iter().map(|((fault, occasion), reaction, reasons)| {
            json!({ "fault": fault.name(), "occasion": occasion, "reaction": reaction.name(), "reasons": reasons })
        });
        all.push(json!({ "case": case.name, "occasions": occasions, "runs": rows.collect::<Vec<_>>() }));
        let _ = std::fs::remove_dir_all(&folder);
    }
    let path = output.join("campaign.json");
    let text = serde_json::to_string_pretty(&json!({ "version": 1, "cases": all }))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    say(&format!("{} has each run", path.display()));
    match worst.is_bad() {
        true => Err(Failure::new(Exit::Failed, "the driver does not survive every fault of its card").into()),
        false => Ok(()),
    }
}

/// A run of a campaign: the fault and its occasion, what the driver did, and the sentences of what did not hold.
type Row = ((Fault, u64), Reaction, Vec<String>);

fn runs(
    usual: &Case,
    planned: &[(Fault, u64)],
    (setup, output): (&Setup, &Path),
    first: &Single,
    (jobs, quiet): (usize, bool),
) -> anyhow::Result<Vec<Row>> {
    let name = |(fault, occasion): (Fault, u64)| format!("{}-{occasion}", fault.name());
    let work = |number: usize| {
        let (fault, occasion) = planned[number];
        let mut case = usual.clone();
        case.faults.insert(fault, Occasions::One(occasion));
        let folder = output.join(&usual.name).join(name((fault, occasion)));
        let single = single(&case, &folder, setup)?;
        let reaction = reaction(&single, first);
        if !reaction.is_bad() {
            // What is left of a run that is no bug is of no use.
            let _ = std::fs::remove_dir_all(&folder);
        }
        Ok((reaction, single.reasons))
    };
    let (mut show, mut found, mut interrupted) = (Show::new(planned.len(), quiet), Vec::new(), None);
    parallel(jobs, planned.len(), work, |told| {
        match told {
            Told::Began(number) => show.began(&name(planned[number])),
            Told::Ended(number, Ok((reaction, reasons))) => {
                let name = name(planned[number]);
                let line: String = reasons.join("; ").chars().take(200).collect();
                let line = format!("{:<11} {name}: {line}", reaction.name());
                show.ended(&name, reaction.is_bad().then_some(line.as_str()));
                found.push((planned[number], reaction, reasons));
            }
            Told::Ended(_, Err(error)) => interrupted = Some(error),
        }
        true
    });
    show.finish();
    found.sort_by_key(|(planned, ..)| *planned);
    interrupted.map_or(Ok(found), Err)
}

fn reaction(single: &Single, usual: &Single) -> Reaction {
    let Some(run) = &single.run else {
        return Reaction::Unknown;
    };
    let breaks = |report: &Value| report["errors"].as_u64() > Some(0);
    match &run.ended {
        _ if run.report.as_ref().is_some_and(breaks) => Reaction::Violation,
        Ended::Limit(_) => Reaction::Hang,
        _ if single.outcome == Outcome::Passed && single.sha256 == usual.sha256 => Reaction::Recovered,
        _ if run.guest.error.is_some() => Reaction::Error,
        _ if single.outcome == Outcome::Passed || single.only_hash => Reaction::WrongAudio,
        _ => Reaction::Told,
    }
}

/// A row a kind: its occasions, and how many runs came to what.
fn table(found: &[Row], occasions: &Value) {
    let shown: Vec<_> =
        REACTIONS.iter().filter(|(reaction, _)| found.iter().any(|(_, its, _)| its == reaction)).collect();
    let titles: Vec<String> = shown.iter().map(|(_, name)| format!("{name:>11}")).collect();
    say(&format!("{:<20} {:>9} {:>5} {}", "fault", "occasions", "runs", titles.join(" ")));
    for fault in Fault::ALL {
        let own: Vec<_> = found.iter().filter(|((its, _), ..)| its == fault).collect();
        let counts = shown.iter().map(|(reaction, _)| own.iter().filter(|(_, its, _)| its == reaction).count());
        let counts: Vec<String> = counts.map(|count| format!("{count:>11}")).collect();
        let there = occasions[fault.name()].as_u64().unwrap_or(0);
        say(&format!("{:<20} {there:>9} {:>5} {}", fault.name(), own.len(), counts.join(" ")));
    }
}
