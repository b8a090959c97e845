//! Recordings of the wrong drivers, one for each rule, replayed: this card makes of them what is kept in `tests/zoo`.
//!
//! `cargo run --release -p dmus-tests --bin record_zoo` renews them.

use anyhow::{Context, ensure};
use dmus_card::bank::Bank;
use dmus_interface::rule::Rule;
use dmus_tests::recording::Recording;
use dmus_tests::zoo::{OUTCOMES, kept, outcome};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes that all recordings may have, so that a checkout stays small.
const MOST: u64 = 150_000;

/// What is kept.
fn outcomes() -> anyhow::Result<serde_json::Map<String, Value>> {
    let file = kept().join(OUTCOMES);
    Ok(serde_json::from_str(&std::fs::read_to_string(&file).with_context(|| file.display().to_string())?)?)
}

#[test]
fn each_rule_has_a_recording_and_they_are_small() -> anyhow::Result<()> {
    let (mut names, mut sum) = (BTreeSet::new(), 0);
    for entry in std::fs::read_dir(kept())? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".dmc")) {
            names.insert(name.to_owned());
            sum += entry.metadata()?.len();
        }
    }
    let rules: BTreeSet<String> = Rule::ALL.iter().map(|rule| rule.name.to_owned()).collect();
    ensure!(names == rules, "recorded: {names:?}");
    ensure!(outcomes()?.keys().cloned().collect::<BTreeSet<_>>() == rules, "{OUTCOMES} has other rules");
    ensure!(sum <= MOST, "{sum} bytes");
    Ok(())
}

#[test]
fn a_recorded_mistake_comes_to_the_same_report_counters_and_audio() -> anyhow::Result<()> {
    let bank = Arc::new(Bank::general_midi());
    let mut not = Vec::new();
    for (rule, kept_outcome) in outcomes()? {
        let recording = Recording::of(std::fs::read(kept().join(format!("{rule}.dmc")))?);
        let now = outcome(&recording, &bank).with_context(|| rule.clone())?;
        let violations = now["violations"].as_array().context("no list of violations")?;
        ensure!(violations.iter().any(|one| one["name"] == rule[..]), "{rule} is not named: {violations:?}");
        for part in ["violations", "counters", "audio"] {
            if now[part] != kept_outcome[part] {
                not.push(format!("{rule}: {part} {:#}\ninstead of {:#}", now[part], kept_outcome[part]));
            }
        }
    }
    ensure!(not.is_empty(), "{}", not.join("\n"));
    Ok(())
}
