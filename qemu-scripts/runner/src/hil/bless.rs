//! New hashes, written into the scenarios whose audio has changed on purpose.
//!
//! Fed by cases that fail by their hash alone; feeds their files, which stay as they are but for that.

use super::cases::Case;
use super::outcome::{Finished, Outcome};
use super::scenario::{Hash, wrong};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::Path;
use toml_edit::{DocumentMut, Table, Value, value};

/// Writes the hashes; gives the files that changed.
pub(crate) fn bless(cases: &[Case], finished: &[Finished]) -> anyhow::Result<Vec<String>> {
    let mut files: BTreeMap<&Path, Vec<(&Case, &Finished)>> = BTreeMap::new();
    for pair @ (case, _) in cases.iter().zip(finished) {
        files.entry(&case.of.file).or_default().push(pair);
    }
    let mut changed = Vec::new();
    for (file, cases) in files {
        if cases.iter().any(|(_, done)| done.only_hash) {
            bless_file(file, &cases)?;
            changed.push(file.display().to_string());
        }
    }
    Ok(changed)
}

fn bless_file(file: &Path, cases: &[(&Case, &Finished)]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut document: DocumentMut =
        text.parse().map_err(|error| wrong(file, None, &format!("it is no TOML any more: {error}")))?;
    let Some(place) = document.get_mut("expect").and_then(|expect| expect.get_mut("audio")).and_then(|audio| {
        // Inline tables are tables, too.
        audio.as_table_like_mut().and_then(|audio| audio.get_mut("sha256"))
    }) else {
        return Ok(());
    };
    // Of all that are known to be right, those that are new and those that were right before.
    let known: BTreeMap<&str, &str> = cases
        .iter()
        .filter(|(_, done)| done.only_hash || done.outcome == Outcome::Passed)
        .filter_map(|(case, done)| Some((case.values(), done.sha256.as_deref()?)))
        .collect();
    let audio = cases.iter().find_map(|(case, _)| case.of.scenario.expect.audio.as_ref()?.sha256.as_ref());
    match audio {
        Some(Hash::ByCase(hashes)) => {
            for (case, done) in cases.iter().filter(|(_, done)| done.only_hash) {
                let key = hashes.keys().find(|values| case.has_values(values));
                if let (Some(key), Some(hash), Some(table)) = (key, &done.sha256, place.as_table_like_mut()) {
                    table.insert(key, value(hash));
                }
            }
        }
        _ => {
            let mut hashes = known.values();
            let first = hashes.next().copied().unwrap_or_default();
            let new = match hashes.all(|hash| *hash == first) {
                true => first.into(),
                false => by_case(&known),
            };
            if let Some(old) = place.as_value_mut() {
                // What stands around it, a comment say, stays.
                let around = old.decor().clone();
                *old = new;
                *old.decor_mut() = around;
            }
        }
    }
    std::fs::write(file, document.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

fn by_case(hashes: &BTreeMap<&str, &str>) -> Value {
    let mut table = Table::new();
    for (values, hash) in hashes {
        table.insert(values, value(*hash));
    }
    Value::InlineTable(table.into_inline_table())
}
