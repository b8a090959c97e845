//! The driver in C, booted: the right one sounds like the song that it plays, and each wrong one is named by its rule.

use anyhow::{Context, ensure};
use dmus_interface::rule::Rule;
use dmus_tests::machine::audio;
use dmus_tests::programs::{self, Running, repository, run, said, signal_group, until};
use dmus_tests::songs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The mistakes of `wrong.c`.
const MISTAKES: [&str; 10] = [
    "struct-size",
    "channel-group",
    "midi-malformed",
    "buffer-foreign",
    "chain-in-flight",
    "slot-resubmitted",
    "tail-overrun",
    "entry-no-slot",
    "register-width",
    "grant-backward",
];

/// Those of which the driver itself is told nothing.
const SILENT: [&str; 2] = ["slot-changed", "buffer-changed"];

fn script(name: &str) -> Command {
    Command::new(repository().join("images/c-driver").join(name))
}

/// How it is booted, once it is built; its audio goes into a file of `dir`.
fn boot(dir: &Path, options: &[&str]) -> anyhow::Result<Command> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let output = run(&mut script("build")).map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    });
    built.clone().map_err(anyhow::Error::msg)?;
    let mut command = script("boot");
    command.args(["-o", "out.wav"]).args(options).current_dir(dir);
    Ok(command)
}

/// What the card says of a driver, line by line.
fn complaints(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.contains("driver fault") || line.contains("submission rejected")).collect()
}

/// The tune of `main.c`, message by message.
fn tune() -> Vec<u8> {
    // A quarter of a second, in ticks of `songs::file`.
    const STEP: u32 = 48;
    const MELODY: [u8; 16] = [72, 76, 79, 76, 69, 72, 76, 72, 65, 69, 72, 69, 67, 71, 74, 79];
    const CHORDS: [[u8; 3]; 4] = [[48, 55, 64], [45, 52, 60], [41, 48, 57], [43, 50, 59]];
    let gs_reset = vec![0xF0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7F, 0x00, 0x41, 0xF7];
    let mut messages = vec![(0, gs_reset), (0, vec![0xC0, 11]), (0, vec![0xC1, 48])];
    for (step, key) in MELODY.into_iter().enumerate() {
        let chord = |status: u8| CHORDS[step / 4].map(|key| (0, vec![status, key, 60]));
        match step % 4 {
            0 => messages.extend(chord(0x91)),
            3 => messages.extend(chord(0x81)),
            _ => {}
        }
        messages.push((0, vec![0x90, key, 90]));
        messages.push((STEP, vec![0x80, key, 90]));
    }
    songs::file(messages)
}

#[test]
fn the_driver_in_c_plays_what_the_same_midi_file_sounds_like() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = run(&mut boot(dir.path(), &[])?)?;
    let said_all = said(&done);
    ensure!(done.status.success() && said_all.contains("dmus: played"), "{}: {said_all}", done.status);
    // Three for the set-up, sixteen notes and their ends, and eight chains; none was late.
    ensure!(said_all.contains("dmus: presented 43\n"), "{said_all}");
    ensure!(complaints(&said_all).is_empty(), "{said_all}");

    std::fs::write(dir.path().join("tune.mid"), tune())?;
    let rendered = run(programs::card()?.args(["render", "tune.mid", "-o", "tune.wav"]).current_dir(dir.path()))?;
    ensure!(rendered.status.success(), "{}", said(&rendered));
    let (heard, expected) = (audio(&dir.path().join("out.wav"))?, audio(&dir.path().join("tune.wav"))?);
    ensure!(expected.iter().any(|byte| *byte != 0), "the tune is silent");
    ensure!(heard == expected, "the audio differs: {} bytes and {}", heard.len(), expected.len());
    Ok(())
}

/// Boots a wrong driver; the card must name the mistake, and nothing else.
fn is_named(name: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let code = Rule::find(name).context("no such rule")?.code.to_string();
    let done = run(&mut boot(dir.path(), &[&format!("wrong={name}")])?)?;
    let said_all = said(&done);
    ensure!(done.status.code() == Some(33), "{}: {said_all}", done.status);
    let complaints = complaints(&said_all);
    let right = !complaints.is_empty() && complaints.iter().all(|line| line.contains(&format!(" {code} {name}:")));
    ensure!(right, "not {code} alone: {said_all}");
    // The driver was told the same.
    let told = said_all.lines().filter(|line| line.ends_with(&format!(" {code}"))).count();
    ensure!(
        told == 1 && said_all.matches("dmus: rejected").count() + said_all.matches("dmus: fault").count() == 1,
        "{said_all}"
    );
    Ok(())
}

/// The same of a mistake that only the card sees.
fn is_seen(name: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let code = Rule::find(name).context("no such rule")?.code.to_string();
    let done = run(&mut boot(dir.path(), &[&format!("wrong={name}")])?)?;
    let said = said(&done);
    ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
    ensure!(said.contains(&format!("broke a rule of the data sheet: {code} {name} (once)")), "{said}");
    Ok(())
}

#[test]
fn each_mistake_in_c_is_named_by_its_own_rule() -> anyhow::Result<()> {
    SILENT.into_iter().try_for_each(|name| is_seen(name).context(name))?;
    MISTAKES.into_iter().try_for_each(|name| is_named(name).context(name))
}

/// What a debugger does: asks why the machine stands and where, then has it go on.
fn go_on(socket: &Path) -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let mut debugger = None;
    until("the debugger's socket", LIMIT, || {
        debugger = UnixStream::connect(socket).ok();
        debugger.is_some()
    })?;
    let mut debugger = debugger.context("no socket")?;
    debugger.set_read_timeout(Some(LIMIT))?;
    // Register 16 is RIP, FFF0 after a reset.
    for (packet, answer) in [("$?#3f", "$T05"), ("+$p10#d1", "$f0ff000000000000#"), ("+$c#63", "+")] {
        debugger.write_all(packet.as_bytes())?;
        let mut said = String::new();
        while !said.contains(answer) {
            let mut some = [0; 4096];
            let count = debugger.read(&mut some)?;
            ensure!(count > 0, "{packet} is answered by {said}");
            said += &String::from_utf8_lossy(&some[..count]);
        }
    }
    Ok(())
}

#[test]
fn a_debugger_stops_the_machine_and_has_it_go_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let guest = Running::start(&mut boot(dir.path(), &["--gdb", "gdb.sock"])?)?;
    let gone_on = go_on(&dir.path().join("gdb.sock"));
    if gone_on.is_err() {
        // It would wait for a debugger for ever.
        signal_group(guest.id(), "TERM");
    }
    let done = guest.output()?;
    let said = said(&done);
    ensure!(
        gone_on.is_ok() && done.status.success() && said.contains("dmus: played"),
        "{gone_on:?} {}: {said}",
        done.status
    );
    Ok(())
}
