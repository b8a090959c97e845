//! A guest that is stopped at a mistake, with gdb on it, or somebody else: where it stands, and what the card tells.

use anyhow::{Context, ensure};
use dmus_tests::programs::{LIMIT, Running, repository, run, said, script, target, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Bytes of an instruction of x86 at most.
const INSTRUCTION: u64 = 15;

/// The guest in C, whose mistakes are named by its command line.
fn guest() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let output =
            run(&mut Command::new(repository().join("images/c-driver/build"))).map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    });
    built.clone().map_err(anyhow::Error::msg)?;
    Ok(target().join("c-driver/guest"))
}

fn debug(dir: &Path) -> anyhow::Result<Command> {
    let mut command = script("debug");
    command.arg("--guest").arg(guest()?).current_dir(dir);
    Ok(command)
}

/// Debugs the guest that makes this mistake, with these commands for gdb.
fn stopped_at(mistake: &str, commands: &[&str]) -> anyhow::Result<Output> {
    let dir = tempfile::tempdir()?;
    let mut command = debug(dir.path())?;
    command.args(["--append", &format!("wrong={mistake}")]).env("DMUS_LOG", "warn,dmus_run=debug");
    run(command.args(commands.iter().flat_map(|text| ["--ex", text])))
}

/// What follows a word, up to the next space or the end of the line.
fn number_after(text: &str, word: &str) -> anyhow::Result<u64> {
    let rest = text.split_once(word).with_context(|| format!("no {word}in {text}"))?.1;
    let digits = rest.trim_start_matches("0x").split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default();
    u64::from_str_radix(digits, 16).with_context(|| format!("{digits} behind {word}in {text}"))
}

#[test]
fn a_guest_is_stopped_behind_the_store_that_was_wrong() -> anyhow::Result<()> {
    for (mistake, function) in [("slot-changed", "slot_changed"), ("buffer-changed", "buffer_changed")] {
        let done = stopped_at(mistake, &["printf \"stands at 0x%lx\\n\", $pc", "bt", "dmus slots", "continue"])?;
        let said = said(&done);
        ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
        let (wrong, stands) = (number_after(&said, "at pc ")?, number_after(&said, "stands at ")?);
        // The next instruction, not one more.
        ensure!(stands > wrong && stands - wrong <= INSTRUCTION, "{mistake}: {stands:#x}, {wrong:#x}: {said}");
        let frame = said.lines().find(|line| line.starts_with("#0 ")).unwrap_or_default();
        ensure!(frame.contains(function) && frame.contains("wrong.c:"), "{mistake}: {said}");
        // Before its time has come: the card still has it.
        ensure!(said.contains(": 1 of 16 slots are the card's; tail 1, fetched 1, completed 0\n"), "{said}");
        // It is told once, although the slot goes home later.
        ensure!(said.contains(&format!("{mistake} (once)")), "{said}");
    }
    Ok(())
}

#[test]
fn a_guest_is_stopped_behind_the_tail_that_published_a_mistake_and_plays_on() -> anyhow::Result<()> {
    let done = stopped_at("struct-size", &["bt", "dmus slot 15", "dmus violation", "continue"])?;
    let said = said(&done);
    ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
    let frames: Vec<&str> = said.lines().filter(|line| line.starts_with('#')).collect();
    ensure!(frames.iter().any(|frame| frame.contains("stream_flush")), "{frames:?}");
    ensure!(frames.iter().any(|frame| frame.contains("wrong (")), "{frames:?}");
    ensure!(said.contains("stream 0, slot 15: the driver's\n  memory    cbEvent 3, "), "{said}");
    ensure!(said.contains("  history   submitted by the driver "), "{said}");
    // The card tells it by itself, and again when it is asked.
    ensure!(said.matches("submission rejected R2 struct-size: ").count() == 2, "{said}");
    // To its end.
    ensure!(said.contains("guest: dmus: the card found this driver wrong"), "{said}");
    Ok(())
}

#[test]
fn a_guest_that_gdb_has_left_plays_on_past_its_next_mistakes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = script("debug");
    command.args(["--zoo", "slot-changed", "--zoo", "buffer-changed", "--zoo", "struct-size", "--ex", "bt"]);
    let done = run(command.env("DMUS_LOG", "warn,dmus_run=debug").current_dir(dir.path()))?;
    let said = said(&done);
    ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
    ensure!(said.matches("\n#0 ").count() == 1, "gdb was opened again: {said}");
    for told in ["C6 slot-changed: ", "C7 buffer-changed: ", "R2 struct-size: ", "guest: dmus: misbehaved mistakes=3"] {
        ensure!(said.contains(told), "{told}: {said}");
    }
    Ok(())
}

#[test]
fn a_guest_without_a_mistake_is_never_stopped_and_another_rule_can_be_chosen() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = run(&mut debug(dir.path())?)?;
    ensure!(done.status.success() && said(&done).contains("the driver broke no rule"), "{}", said(&done));
    let mut command = debug(dir.path())?;
    command.args(["--append", "wrong=struct-size", "--at", "slot-changed", "--ex", "bt"]);
    let done = run(&mut command)?;
    ensure!(!said(&done).contains("\n#0 "), "{}", said(&done));
    let done = run(debug(dir.path())?.args(["--at", "slot-chanegd"]))?;
    ensure!(done.status.code() == Some(2), "{}", done.status);
    ensure!(
        said(&done).contains("there is no rule slot-chanegd; `dmus-card explain` lists them all"),
        "{}",
        said(&done)
    );
    Ok(())
}

#[test]
fn a_song_is_the_same_on_a_card_that_stops_at_mistakes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let play = |check: &str| -> anyhow::Result<Vec<u8>> {
        let mut command = script("play");
        let done = run(command.args(["-o", "out.wav", "--check", check]).current_dir(dir.path()))?;
        ensure!(done.status.success(), "{}: {}", done.status, said(&done));
        Ok(std::fs::read(dir.path().join("out.wav"))?)
    };
    ensure!(play("stop")? == play("off")?, "another song");
    Ok(())
}

#[test]
fn somebody_attaches_by_hand_as_an_editor_does() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = debug(dir.path())?;
    command.args(["--append", "wrong=tail-overrun", "--socket", "debug.sock"]);
    let log = dir.path().join("log");
    let debugged = Running::start_logging(&mut command, std::fs::File::create(&log)?)?;
    let words = || std::fs::read_to_string(&log).unwrap_or_default();
    // It is built first.
    until("the guest to be held", LIMIT, || words().contains("the guest stands behind its mistake"))?;
    // The machine interface of gdb is what editors speak.
    let socket = dir.path().join("debug.sock");
    let script = format!("-target-select remote {}\n-stack-list-frames\n-exec-continue\n", socket.display());
    std::fs::write(dir.path().join("mi"), script)?;
    let mut gdb = Command::new("sh");
    gdb.args(["-c", "\"$0\" -q -nx -i=mi \"$1\" < mi"]).arg(gdb_program()?).arg(guest()?).current_dir(dir.path());
    let talk = said(&run(gdb.stdin(Stdio::null()))?);
    ensure!(talk.contains("^connected") && talk.contains("func=\"stream_flush\""), "{talk}: {}", words());
    let done = debugged.output()?;
    ensure!(done.status.code() == Some(9), "{}: {}", done.status, words());
    Ok(())
}

/// What `qemu-scripts/debug` takes.
fn gdb_program() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = target().join("gdb-trixie");
    let found =
        std::env::split_paths(&path).chain([fetched]).map(|folder| folder.join("gdb")).find(|gdb| gdb.is_file());
    found.context("there is no gdb")
}

#[test]
fn questions_to_no_card_and_questions_that_are_none_are_told_in_a_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let ask = |words: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let mut card = dmus_tests::programs::card()?;
        let done = run(card.arg("ask").arg("card.sock").args(words).current_dir(dir.path()))?;
        Ok((done.status.code(), said(&done)))
    };
    let (code, words) = ask(&["slots"])?;
    ensure!(code == Some(1) && words.contains("no card answers at card.sock"), "{words}");
    let (code, words) = ask(&["slot", "x"])?;
    ensure!(code == Some(2) && words.contains("slot x: expected `slots`, `slot NUMBER` or `violation`"), "{words}");
    Ok(())
}
