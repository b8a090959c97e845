//! What of a scenario did not hold in a run.
//!
//! Fed by [`super::run`]; feeds [`super::pool`] with sentences, none if all holds.

use super::audio;
use super::cases::Case;
use super::run::{Ended, Run};
use super::scenario::{Bound, Clock, Hash, Task};
use crate::commands::{conform, play, record};
use dmus_card::files::{Flaws, load_song};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a run came to.
pub(crate) struct Judged {
    /// All that did not hold, a sentence each.
    pub(crate) faults: Vec<String>,
    /// Of the audio, in virtual time.
    pub(crate) sha256: Option<String>,
    /// All holds but this.
    pub(crate) only_hash: bool,
}

/// See the module.
pub(crate) fn judge(case: &Case, run: &Run) -> anyhow::Result<Judged> {
    let expect = &case.of.scenario.expect;
    let mut faults = Vec::new();
    let ours = case.of.scenario.guest.is_ours();
    match (&run.ended, expect.exit.or(ours.then_some(0))) {
        (Ended::Limit(message), _) => faults.push(message.clone()),
        (Ended::Exit(code), Some(expected)) if *code != expected => {
            let said = run.guest.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            faults.push(format!("the guest's exit code is {code}, not {expected}{said}"));
        }
        (Ended::Exit(0), _) => faults.extend(task_fault(case, run)),
        (Ended::Exit(_), _) => {}
    }
    faults.extend(run.serial.faults());
    if let Some(midi) = &expect.midi {
        let wrong = record::missing(&load_song(Some(&case.of.path(midi)), Flaws::Mend)?, &run.guest.captured);
        faults.extend(wrong.map(|wrong| format!("what was captured is not {}: {wrong}", midi.display())));
    }
    faults.extend(violations(case, run));
    for (name, bound) in &expect.counters {
        faults.extend(counter(&run.counters, name, bound));
    }
    let sha256 = match case.clock {
        Clock::Virtual => Some(play::sha256(&run.audio)?),
        Clock::Realtime => None,
    };
    let mut only_hash = false;
    if let Some(expected) = &expect.audio {
        let of_case = match &expected.sha256 {
            Some(Hash::Same(hash)) => Some(hash),
            Some(Hash::ByCase(hashes)) => {
                hashes.iter().find_map(|(values, hash)| case.has_values(values).then_some(hash))
            }
            None => None,
        };
        if let (Some(expected), Some(hash)) = (of_case, &sha256)
            && !expected.eq_ignore_ascii_case(hash)
        {
            only_hash = faults.is_empty();
            faults.push(format!("the audio's SHA-256 is {hash}, not {expected:?} (--bless writes it)"));
        }
        faults.extend(audio::faults(expected, &run.audio, |path| case.of.path(path))?);
    }
    Ok(Judged { only_hash: only_hash && faults.len() == 1, faults, sha256 })
}

/// What the command of the task's name would complain of.
fn task_fault(case: &Case, run: &Run) -> Option<String> {
    let checked = match (case.task()?, &run.song) {
        (Task::Play, Some(song)) => play::check(song, &run.guest, &run.counters),
        (Task::Record, Some(song)) => record::check(song, &run.guest, &run.counters),
        (Task::Conform, _) => conform::check(&run.guest),
        _ => return None,
    };
    checked.err().map(|error| error.to_string())
}

/// The rules that were broken and may not have been, or the reverse.
fn violations(case: &Case, run: &Run) -> Option<String> {
    let report = run.report.as_ref()?;
    let found = report["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let broken = found.iter().filter(|found| found["allowed"].is_null());
    let name = |found: &Value| found["name"].as_str().unwrap_or_default().to_owned();
    let (broken, expected): (BTreeSet<_>, BTreeSet<_>) = match &case.of.scenario.expect.violations {
        Some(expected) => (broken.map(name).collect(), expected.iter().cloned().collect()),
        None => (broken.filter(|found| found["severity"] == "error").map(name).collect(), BTreeSet::new()),
    };
    let list = |names: &BTreeSet<String>| match names.is_empty() {
        true => "none".into(),
        false => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    (broken != expected).then(|| {
        format!("the driver broke these rules: {} (expected: {}); card.log has each", list(&broken), list(&expected))
    })
}

fn counter(counters: &Value, name: &str, bound: &Bound) -> Option<String> {
    let Some(value) = counters[name].as_f64() else {
        return Some(format!("the card has no counter {name:?}"));
    };
    let wanted = match bound {
        Bound::Exactly(number) if value != *number => format!("{number}"),
        Bound::Within(within) if within.min.is_some_and(|min| value < min) => {
            format!("{} or more", within.min.unwrap_or_default())
        }
        Bound::Within(within) if within.max.is_some_and(|max| value > max) => {
            format!("{} or less", within.max.unwrap_or_default())
        }
        _ => return None,
    };
    Some(format!("the card's counter {name} is {value}, not {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Within;
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_held_against_their_bounds() {
        let counters = json!({ "rejected": 3, "late_by": {} });
        let within = |min, max| Bound::Within(Within { min, max });
        assert_eq!(counter(&counters, "rejected", &Bound::Exactly(3.0)), None);
        assert_eq!(counter(&counters, "rejected", &within(Some(3.0), Some(3.0))), None);
        for (name, bound, complaint) in [
            ("rejected", Bound::Exactly(2.0), "is 3, not 2"),
            ("rejected", within(Some(4.0), None), "is 3, not 4 or more"),
            ("rejected", within(None, Some(2.0)), "is 3, not 2 or less"),
            ("reject", Bound::Exactly(3.0), "no counter"),
            ("late_by", Bound::Exactly(0.0), "no counter"),
        ] {
            let told = counter(&counters, name, &bound).unwrap_or_default();
            assert!(told.contains(complaint), "{told}");
        }
    }
}
