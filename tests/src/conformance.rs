//! The conformance table: each statement of the DDI that a check or a test names, and what shows it where.
//!
//! Fed by the list of `dmus_conformance`, and by the doc comments of tests, in which a line `DDI: <statement>` names
//! what the test shows; feeds `guest-driver/conformance/conformance.md`, which a test holds against both.

use crate::loopback::Loopback;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Where sources with tests are, below the repository.
const SOURCES: [&str; 4] = ["device", "guest-driver", "images", "tests"];
/// Tests of booted guests.
const BOOTED: [&str; 4] =
    ["tests/tests/boot.rs", "tests/tests/dmusd.rs", "tests/tests/linux.rs", "tests/tests/record.rs"];
/// What a line that names a statement begins with.
const MARK: &str = "/// DDI: ";
/// What its further lines begin with, if it is too long for one.
const FURTHER: &str = "///     ";

/// What of the DDI card and driver do not have, and why.
const NOT_MODELLED: [(&str, &str); 11] = [
    ("INCOMPLETE packages", "a package is one submission, taken whole or not at all; they are rejected"),
    ("`ISynthSinkDMus::Render` as a call that pulls", "the card fills posted periods by DMA"),
    ("SYNTHDOWNLOAD.Free", "the request's memory is the client's again with every answer"),
    ("SYNTH_PORTPARAMS.Share", "a stream is one port's; a request for it is answered NOT_ALL_ASSIGNED"),
    ("the DELAY effect", "the synthesizer has reverb and chorus"),
    ("EXTERNAL in SYNTHCAPS", "the synthesizer is the card's own"),
    ("after UNLOAD, later notes on it are ignored", "the built-in instruments are beneath, and play such notes"),
    ("WAVEARTICULATION and STREAMINGWAVE chunks", "they are refused with a reason of their own"),
    ("COM: aggregation, reference counts, GUIDs of interfaces", "Rust's ownership is in their place"),
    ("PASSIVE_LEVEL of SetState", "a library without an operating system has no levels"),
    ("`IMiniportDMus::Service`", "the DDI does not use it"),
];

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// The file that the table is in.
pub fn file() -> PathBuf {
    repository().join("guest-driver/conformance/conformance.md")
}

/// Makes the table from the sources.
pub fn table() -> anyhow::Result<String> {
    let repository = repository();
    let mut sources = Vec::new();
    for folder in SOURCES {
        collect(&repository.join(folder), &mut sources)?;
    }
    sources.sort();
    // By file, then statement, as the sources have them; a statement may have several tests.
    let mut statements: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    for source in sources {
        let text = fs::read_to_string(&source).with_context(|| format!("{}", source.display()))?;
        let path = source.strip_prefix(&repository)?.display().to_string();
        for (statement, test) in named(&text).with_context(|| path.clone())? {
            let key = (path.clone(), statement);
            if !statements.contains_key(&key) {
                order.push(key.clone());
            }
            statements.entry(key).or_default().push(test);
        }
    }
    let mut table = String::from(
        "# Conformance\n\nWhat the DirectMusic DDI states, in our words, with what shows it: each statement of the \
         first section is a check of `dmus-conformance`, which runs in process (`tests/tests/statements.rs`) and in \
         booted guests, bare metal and Linux, with 8- and 4-byte pointers (`tests/scenarios/conform.toml`); the others \
         are shown by tests, which look where no guest does: into a unit, at the host's side, at live inputs. Made \
         from both by `cargo run -p dmus-tests --bin conformance`: do not edit.\n\n\
         ## guest-driver/conformance\n\n| statement | check | booted guest |\n|---|---|---|\n",
    );
    for check in dmus_conformance::checks::<Loopback>() {
        writeln!(table, "| {} | `{}` | yes |", check.statement.replace('|', "\\|"), check.name)?;
    }
    let mut section = String::new();
    for key in &order {
        let (path, statement) = key;
        if *path != section {
            section.clone_from(path);
            write!(table, "\n## {path}\n\n| statement | tests | booted guest |\n|---|---|---|\n")?;
        }
        let tests: Vec<String> = statements[key].iter().map(|test| format!("`{test}`")).collect();
        let booted = if BOOTED.contains(&path.as_str()) { "yes" } else { "" };
        writeln!(table, "| {} | {} | {booted} |", statement.replace('|', "\\|"), tests.join("<br>"))?;
    }
    table.push_str("\n## Not modelled\n\n| of the DDI | why |\n|---|---|\n");
    for (what, why) in NOT_MODELLED {
        writeln!(table, "| {what} | {why} |")?;
    }
    Ok(table)
}

/// Rust files below a folder, but not what is built.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        // Links could lead in circles, or out.
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != "target" {
            collect(&path, into)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// The statements of a source file, each with the test that names it.
fn named(source: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut waiting: Vec<String> = Vec::new();
    let mut is_test = false;
    for (number, line) in source.lines().map(str::trim).enumerate() {
        if let Some(statement) = line.strip_prefix(MARK) {
            waiting.push(statement.trim().to_owned());
        } else if let (Some(further), Some(statement)) = (line.strip_prefix(FURTHER), waiting.last_mut()) {
            statement.push(' ');
            statement.push_str(further.trim());
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) {
            ensure!(waiting.is_empty() || is_test, "line {}: {name} names a statement, and is no test", number + 1);
            found.extend(waiting.drain(..).map(|statement| (statement, name.to_owned())));
            is_test = false;
        } else {
            let between = line.starts_with("///") || line.starts_with("#[");
            ensure!(waiting.is_empty() || between, "line {}: a statement without a test after it", number + 1);
        }
    }
    ensure!(waiting.is_empty(), "the last statement has no test after it");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_go_with_the_test_below_them() -> anyhow::Result<()> {
        let mark = MARK;
        let source = format!(
            "{mark}first\n{mark}second,\n{FURTHER}and more\n#[test]\nfn one() {{}}\n\
             proptest! {{\n{mark}first\n/// More.\n#[test]\nfn two(x: u8) {{}}\n}}\nfn helper() {{}}\n"
        );
        let found = named(&source)?;
        let expected = [("first", "one"), ("second, and more", "one"), ("first", "two")];
        assert!(found.iter().map(|(statement, test)| (statement.as_str(), test.as_str())).eq(expected), "{found:?}");
        Ok(())
    }

    #[test]
    fn statements_without_a_test_are_errors() {
        for lost in ["fn helper() {}\n", "struct S;\n", ""] {
            assert!(named(&format!("{MARK}first\n{lost}")).is_err(), "{lost:?}");
        }
    }
}
