//! The manuals: each crate's README has a worked example, which is carried out here as it is printed there, and what a
//! README refers to is there.
//!
//! An example is a block that is fenced as `console`. A line that begins with `$ ` is a command, one that begins with
//! `> ` goes on with it, and the lines below are all that it prints. `...` stands for what differs: in a line for a
//! part of it, alone in a line for any number of lines. A command that may fail says so (`COMMAND; echo $?`). The
//! examples of one README are carried out in their order, in one folder.

use anyhow::{Context, bail, ensure};
use dmus_interface::doorbell::{GLOBAL, STREAM, Writer, at};
use dmus_tests::programs::{self, repository, run, said};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Seconds that a command may take: some build what they need.
const LIMIT: &str = "500";

/// Folders of the checkout that commands refer to.
const FOLDERS: [&str; 6] = ["device", "guest-driver", "images", "qemu-scripts", "target", "tests"];

/// A test for each README with examples of this kind.
macro_rules! manuals {
    ($($test:ident: $readme:literal,)*) => {
        const MANUALS: &[&str] = &[$($readme),*];
        $(
            #[test]
            fn $test() -> anyhow::Result<()> {
                carry_out(&read($readme)?).context($readme)
            }
        )*
    };
}

manuals! {
    a_song_and_a_recording_go_through_the_card_as_its_manual_says: "device/README.md",
    the_checks_run_in_a_guest_as_their_manual_says: "guest-driver/conformance/README.md",
    a_bank_is_exported_and_listed_as_its_manual_says: "guest-driver/dls/README.md",
    a_note_becomes_audio_as_its_manual_says: "guest-driver/song/README.md",
    dmusd_plays_under_linux_as_its_manual_says: "guest-driver/vfio/README.md",
    guests_boot_as_their_manual_says: "images/README.md",
    the_driver_in_c_plays_and_errs_as_its_manual_says: "images/c-driver/README.md",
    manual_pages_and_completions_are_made_as_their_manual_says: "qemu-scripts/pages/README.md",
    the_plugin_names_an_instruction_as_its_manual_says: "qemu-scripts/plugin/README.md",
    a_song_is_played_and_a_scenario_runs_as_their_manual_says: "qemu-scripts/runner/README.md",
    rules_are_broken_as_the_manual_of_the_tests_says: "tests/README.md",
}

fn read(file: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(repository().join(file)).with_context(|| file.to_owned())
}

/// A command, and what it prints.
#[derive(Debug, Default, PartialEq)]
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The blocks of a text that are fenced as `kind`, line by line.
fn blocks<'t>(text: &'t str, kind: &str) -> Vec<Vec<&'t str>> {
    let mut lines = text.lines();
    let mut found = vec![];
    while let Some(fence) = lines.find(|line| line.starts_with("```")) {
        let block = lines.by_ref().take_while(|line| *line != "```").collect();
        if fence == format!("```{kind}") {
            found.push(block);
        }
    }
    found
}

fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = vec![];
    for line in blocks(text, "console").into_iter().flatten() {
        let more = line.strip_prefix("> ").or_else(|| line.strip_prefix('>').filter(|rest| rest.is_empty()));
        match (line.strip_prefix("$ "), more, steps.last_mut()) {
            (Some(command), ..) => steps.push(Step { command: command.to_owned(), printed: vec![] }),
            (None, Some(more), Some(step)) if step.printed.is_empty() => step.command += &format!("\n{more}"),
            (None, _, Some(step)) => step.printed.push(line.to_owned()),
            (None, _, None) => bail!("{line:?} is in front of the first command"),
        }
    }
    Ok(steps)
}

/// Whether a line is as it is printed in a README.
fn line_fits(line: &str, expected: &str) -> bool {
    let Some((start, rest)) = expected.split_once("...") else {
        return line == expected;
    };
    let Some(line) = line.strip_prefix(start) else {
        return false;
    };
    (0..=line.len()).filter_map(|from| line.get(from..)).any(|tail| line_fits(tail, rest))
}

/// Whether lines are.
fn fits(lines: &[&str], expected: &[String]) -> bool {
    match (lines, expected.split_first()) {
        (lines, None) => lines.is_empty(),
        (lines, Some((any, rest))) if any == "..." => (0..=lines.len()).any(|from| fits(&lines[from..], rest)),
        ([], Some(_)) => false,
        ([line, lines @ ..], Some((first, rest))) => line_fits(line.trim_end(), first) && fits(lines, rest),
    }
}

/// Carries out the examples of a README, in a folder of its own, where a command finds what it finds in the checkout.
fn carry_out(readme: &str) -> anyhow::Result<()> {
    // Two of them build the driver in C, and neither must find the other's half written.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    programs::card()?;
    let checkout = repository().canonicalize()?;
    let dir = tempfile::tempdir()?;
    for folder in FOLDERS {
        std::os::unix::fs::symlink(checkout.join(folder), dir.path().join(folder))?;
    }
    let built = std::path::absolute(programs::target())?.join("release");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(built).chain(std::env::split_paths(&path)))?;
    let steps = steps(readme)?;
    ensure!(!steps.is_empty(), "there is no example");
    for Step { command, printed } in steps {
        let mut shell = Command::new("timeout");
        shell.args(["--kill-after=5", LIMIT, "bash", "-c", &format!("exec 2>&1\n{command}")]);
        // Messages and the order of names are the same everywhere.
        let done = run(shell.current_dir(dir.path()).env("PATH", &path).env("LC_ALL", "C.UTF-8"))?;
        let said = said(&done);
        let lines: Vec<&str> = said.lines().collect();
        ensure!(
            fits(&lines, &printed),
            "$ {command}\nshould print\n{}\nand printed\n{said}\n{}",
            printed.join("\n"),
            done.status
        );
        ensure!(done.status.success(), "$ {command}\n{said}\n{}", done.status);
    }
    Ok(())
}

#[test]
fn an_example_is_read_with_its_commands_and_what_they_print() -> anyhow::Result<()> {
    let text = "# It\n```console\n$ one\nyes\n```\n```sh\n$ no\n```\n```console\n$ two <<END\n> 2\n> END\n```\n";
    let step = |command: &str, printed: &[&str]| Step {
        command: command.to_owned(),
        printed: printed.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(text)?, [step("one", &["yes"]), step("two <<END\n2\nEND", &[])]);
    assert!(steps("```console\nno command\n```\n").is_err());
    Ok(())
}

#[test]
fn a_readme_that_lies_is_found() -> anyhow::Result<()> {
    let readme = |example: &str| format!("```console\n{example}\n```\n");
    for right in [
        "$ echo a >file\n$ cat file\na",
        "$ printf '1\\n2\\n3\\n'\n1\n...\n3",
        "$ printf '1\\n2\\n'\n...",
        "$ echo it took 7 ms; echo more >&2\nit took ... ms\nmore",
        "$ dmus-card explain F0; echo $?\n...\n2",
        "$ cat <<END\n> 1\n>\n> END\n1\n",
        "$ test -x qemu-scripts/play -a -d tests/scenarios",
    ] {
        carry_out(&readme(right)).context(right)?;
    }
    for wrong in [
        "$ echo a\nb",
        "$ echo a",
        "$ true\na",
        "$ printf '1\\n2\\n'\n1\n...\n3",
        "$ echo it took 7 s\nit took ... ms",
        "$ false",
        "$ no-such-command\n...",
        "nothing",
    ] {
        ensure!(carry_out(&readme(wrong)).is_err(), "{wrong}");
    }
    Ok(())
}

/// The files below a folder that have one of these names, but for what is built.
fn files(folder: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        let passed = file == "target" || file.to_str().is_none_or(|file| file.starts_with('.'));
        if entry.file_type()?.is_dir() && !passed {
            found.extend(files(&entry.path(), name)?);
        } else if file == name {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The name of a file in the checkout.
fn name(file: &Path) -> anyhow::Result<String> {
    let name = file.strip_prefix(repository())?;
    Ok(name.to_str().context("a name")?.to_owned())
}

/// Whether the README of a crate has an example in Rust that runs with the crate's documentation tests.
fn has_doc_test(crate_folder: &Path) -> bool {
    let text = |file: &str| std::fs::read_to_string(crate_folder.join(file)).unwrap_or_default();
    text("src/lib.rs").contains("include_str!(\"../README.md\")") && !blocks(&text("README.md"), "rust").is_empty()
}

#[test]
fn every_crate_has_a_readme_with_an_example_that_runs() -> anyhow::Result<()> {
    let mut lacking = vec![];
    for manifest in files(repository(), "Cargo.toml")? {
        let folder = manifest.parent().context("a folder")?;
        if !std::fs::read_to_string(&manifest)?.contains("[package]") {
            continue;
        }
        // A crate that is a workspace of its own may be described in the README of the folder that has it.
        let mut readmes = [folder, folder.parent().context("a folder")?].map(|folder| folder.join("README.md"));
        readmes.reverse();
        let readme = readmes.into_iter().rfind(|readme| readme.exists()).context("no README")?;
        if !MANUALS.contains(&name(&readme)?.as_str()) && !has_doc_test(folder) {
            lacking.push(name(folder)?);
        }
    }
    ensure!(lacking.is_empty(), "without an example that runs: {lacking:?}");
    // And what looks like such an example is one.
    let readmes =
        files(repository(), "README.md")?.iter().map(|file| name(file)).collect::<anyhow::Result<Vec<_>>>()?;
    for readme in readmes {
        let is_one = !blocks(&read(&readme)?, "console").is_empty();
        ensure!(is_one == MANUALS.contains(&readme.as_str()), "{readme}: is in the list, or has an example, alone");
    }
    Ok(())
}

/// The part of an address by which a heading is reached, as GitHub and rustdoc make it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).collect::<String>().replace(' ', "-")
}

/// What a text links to, and the anchors of its headings. Code is not looked at.
fn links(text: &str) -> (Vec<&str>, BTreeSet<String>) {
    let (mut links, mut anchors, mut code) = (vec![], BTreeSet::new(), false);
    for line in text.lines() {
        code ^= line.starts_with("```");
        if code || line.starts_with("    ") {
            continue;
        }
        if line.starts_with('#') {
            anchors.insert(anchor(line.trim_start_matches('#').trim()));
        }
        links.extend(line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link));
    }
    (links, anchors)
}

#[test]
fn what_a_readme_links_to_is_there() -> anyhow::Result<()> {
    for readme in files(repository(), "README.md")? {
        let text = std::fs::read_to_string(&readme)?;
        for link in links(&text).0.into_iter().filter(|link| !link.contains("://")) {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { readme.clone() } else { readme.with_file_name("").join(file) };
            ensure!(target.exists(), "{}: {link} is not there", name(&readme)?);
            if !wanted.is_empty() {
                let there = links(&std::fs::read_to_string(target)?).1;
                ensure!(there.contains(wanted), "{}: {link} has no such heading", name(&readme)?);
            }
        }
    }
    Ok(())
}

/// The first page of the data sheet.
fn data_sheet() -> anyhow::Result<String> {
    let source = read("device/interface/src/lib.rs")?;
    let lines = source.lines().filter_map(|line| line.strip_prefix("//!"));
    Ok(lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_contents_of_the_data_sheet_are_its_sections() -> anyhow::Result<()> {
    let page = data_sheet()?;
    let (links, sections) = links(&page);
    let contents: BTreeSet<_> = links.iter().filter_map(|link| link.strip_prefix('#')).map(str::to_owned).collect();
    ensure!(!sections.is_empty() && contents == sections, "the contents are {contents:?}, the sections {sections:?}");
    Ok(())
}

#[test]
fn the_picture_of_the_doorbell_page_has_each_word_in_its_place() -> anyhow::Result<()> {
    let page = data_sheet()?;
    let pictures = blocks(&page, "text");
    let lines = pictures.first().and_then(|picture| picture.split_first());
    let (title, lines) = lines.context("no picture")?;
    let cards = title.find("stored by the card").context("no column of the card")?;
    let (mut drawn, mut offset) = (BTreeSet::new(), 0);
    for line in lines {
        if let Some(digits) = line.strip_prefix("0x").and_then(|rest| rest.get(..3)) {
            offset = usize::from_str_radix(digits, 16)?;
        }
        for word in line.split([' ', ',']).filter(|word| word.len() > 4 && !word.starts_with("0x")) {
            let at = line.find(word).unwrap_or_default();
            let writer = if at < cards { Writer::Driver } else { Writer::Card };
            drawn.insert((offset, format!("{writer:?} {word}")));
        }
    }
    let global = GLOBAL.map(|word| (word, word.offset));
    let words = global.into_iter().chain(STREAM.map(|word| (word, at(0, word.offset))));
    let there: BTreeSet<_> = words.map(|(w, offset)| (offset & !63, format!("{:?} {}", w.writer, w.name))).collect();
    ensure!(drawn == there, "the picture has {drawn:#?}, the page {there:#?}");
    Ok(())
}
