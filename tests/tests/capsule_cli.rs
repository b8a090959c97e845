//! `dmus-card replay`, `trace` and `diff` as programs, on recordings of cards in this process.

use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::bank::{Bank, built_in};
use dmus_card::capsule::{BankFile, Options};
use dmus_card::check::Checker;
use dmus_card::collection::{Collection, Samples};
use dmus_conformance::zoo::mistakes;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::programs::{self, run, said, script};
use dmus_tests::zoo;
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(5);
/// A tenth of a second: from one note to the next.
const STEP: i64 = 1_000_000;
/// Ten notes, the last of which is due after 0.95 s of the one second.
const NOTES: [u8; 10] = [60, 61, 62, 63, 64, 65, 66, 67, 68, 69];

/// Made once: that takes longer than a run.
fn bank() -> Arc<Bank> {
    static BANK: OnceLock<Arc<Bank>> = OnceLock::new();
    Arc::clone(BANK.get_or_init(|| Arc::new(Bank::general_midi())))
}

fn card(arguments: &[&str], dir: &Path) -> anyhow::Result<Output> {
    run(programs::card()?.args(arguments).current_dir(dir))
}

/// What a program printed, if it ended with this code.
fn ended(code: i32, arguments: &[&str], dir: &Path) -> anyhow::Result<String> {
    let done = card(arguments, dir)?;
    ensure!(done.status.code() == Some(code), "{arguments:?}: {:?}: {}", done.status, said(&done));
    Ok(said(&done))
}

fn json(file: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

/// What a recorded card is like.
struct Recorded {
    bank: Arc<Bank>,
    options: Options,
    checked: bool,
}

impl Default for Recorded {
    fn default() -> Self {
        Self { bank: bank(), options: Options::default(), checked: false }
    }
}

impl Recorded {
    /// Records a second in which the driver submits all notes and then grants it.
    fn play(self, file: &Path, notes: &[u8]) -> anyhow::Result<()> {
        let checker = self.checked.then(|| Arc::new(Checker::new(&[], None)));
        let (clock, out) = (ClockMode::Virtual, File::create(file)?);
        let platform = Direct::recorded_as(clock, self.bank, checker.as_ref(), self.options, out)?;
        let card = Card::open(platform, PointerWidth::Eight)?;
        let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
        stream.set_state(State::Run)?;
        for (number, key) in (0..).zip(notes) {
            stream.send(RefTime(number * STEP + STEP / 2), 0, &[0x90, *key, 100])?;
        }
        stream.flush();
        card.grant(RefTime(10 * STEP));
        ensure!(stream.wait(u32::MAX, LIMIT), "the grant was not reached");
        stream.set_state(State::Stop)?;
        drop(stream);
        card.platform().end()
    }
}

#[test]
fn diff_says_what_differs_first_and_its_exit_code_whether_anything_does() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let mut others = NOTES;
    others[3] = 72;
    for (name, notes) in [("a.dmc", &NOTES), ("same.dmc", &NOTES), ("other.dmc", &others)] {
        Recorded::default().play(&dir.join(name), notes)?;
    }
    let text = ended(0, &["diff", "a.dmc", "same.dmc"], dir)?;
    ensure!(text == "the same\n", "{text}");
    let text = ended(10, &["diff", "a.dmc", "other.dmc"], dir)?;
    for part in ["submission 3 of stream 0", "note on", "72", "63"] {
        ensure!(text.contains(part), "{part} is missing in {text}");
    }
    let text = ended(3, &["diff", "a.dmc", "none.dmc"], dir)?;
    ensure!(text.contains("none.dmc") && text.contains("No such file"), "{text}");
    Ok(())
}

#[test]
fn runs_by_different_clocks_cannot_be_compared() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    Recorded::default().play(&dir.join("a.dmc"), &NOTES)?;
    let out = File::create(dir.join("real.dmc"))?;
    let platform = Direct::recorded_as(ClockMode::Realtime, bank(), None, Options::default(), out)?;
    let card = Card::open(platform, PointerWidth::Eight)?;
    card.platform().spawn_engine()?.finish()?;
    let text = ended(1, &["diff", "a.dmc", "real.dmc"], dir)?;
    let says = "dmus-card: a.dmc was recorded in virtual time and real.dmc in real: they cannot be compared\n";
    ensure!(text == says, "{text}");
    Ok(())
}

#[test]
fn a_replay_has_the_audio_the_counters_and_the_report() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    Recorded { checked: true, ..Recorded::default() }.play(&dir.join("a.dmc"), &NOTES)?;
    let files = ["-o", "a.wav", "--json", "a.json", "--report", "report.json", "--slots"];
    let text = ended(0, &[&["replay", "a.dmc"], &files[..]].concat(), dir)?;
    let mut lines = text.lines();
    let first = lines.next().context("no output")?;
    ensure!(first.starts_with("a.dmc: 1.00") && first.ends_with(" s, 10 messages, 0 late"), "{text}");
    ensure!(lines.eq(["no stream is open"]), "{text}");
    let audio = hound::WavReader::open(dir.join("a.wav"))?.into_samples::<i16>().collect::<Result<Vec<_>, _>>()?;
    ensure!(audio.len() >= 2 * 48_000, "{} samples", audio.len());
    let (before, after) = audio.split_at(2 * 2400);
    ensure!(before.iter().all(|sample| *sample == 0), "the first note is early");
    ensure!(after.iter().any(|sample| *sample != 0), "no note is heard");
    ensure!(json(&dir.join("a.json"))?["presented"] == 10);
    let report = json(&dir.join("report.json"))?;
    ensure!(report["errors"] == 0 && report["violations"] == Value::Array(Vec::new()), "{report}");
    Ok(())
}

#[test]
fn a_replay_ends_at_a_time_with_the_slots_that_the_card_owns_then() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    Recorded::default().play(&dir.join("a.dmc"), &NOTES)?;
    let text = ended(0, &["replay", "a.dmc", "--until", "0.5", "--slots", "--json", "a.json"], dir)?;
    let seconds = text.strip_prefix("a.dmc: ").and_then(|text| text.split_once(' ')).context("no time")?.0;
    let seconds: f64 = seconds.parse()?;
    ensure!((0.5..0.65).contains(&seconds), "{text}");
    let presented = json(&dir.join("a.json"))?["presented"].as_u64().context("no count")?;
    let owned = text.lines().filter(|line| line.contains("  slot ")).count();
    ensure!((5..7).contains(&presented) && owned as u64 == 10 - presented, "{presented} presented: {text}");
    ensure!(text.contains("note on") && text.contains("due 0.950000 s of stream time"), "{text}");
    ensure!(!text.contains("due 0.150000 s"), "{text}");
    let text = ended(1, &["replay", "a.dmc", "--until", "60"], dir)?;
    ensure!(text.contains("the point of --until never comes: a.dmc ends at 1.00"), "{text}");
    Ok(())
}

#[test]
fn a_replay_ends_at_the_first_breach_of_a_rule() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let mistake = mistakes().into_iter().find(|mistake| mistake.rule == "tail-overrun").context("no such mistake")?;
    std::fs::write(dir.join("wrong.dmc"), zoo::record(mistake, &bank())?.bytes())?;
    let text = ended(9, &["replay", "wrong.dmc", "--until", "tail-overrun", "--report", "report.json"], dir)?;
    ensure!(text.contains("tail-overrun"), "{text}");
    let report = json(&dir.join("report.json"))?;
    let [violation] = &report["violations"].as_array().context("no list")?[..] else {
        anyhow::bail!("not one violation: {report}");
    };
    ensure!(violation["name"] == "tail-overrun" && violation["count"] == 1, "{report}");
    ensure!(violation["first"].is_object(), "{report}");
    let mistake = mistakes().into_iter().find(|mistake| mistake.rule == "slot-changed").context("no such mistake")?;
    std::fs::write(dir.join("changed.dmc"), zoo::record(mistake, &bank())?.bytes())?;
    let text = ended(9, &["replay", "changed.dmc", "--until", "slot-changed", "--slots"], dir)?;
    let slots = "\n  slot 5     the driver's\n    history   submitted by the driver    at 0.000000 s, tail 1\n";
    ensure!(text.contains(slots), "{text}");
    ensure!(text.contains("\n              completed: presented       at "), "{text}");
    let text = ended(1, &["replay", "wrong.dmc", "--until", "slot-changed"], dir)?;
    ensure!(text.contains("the point of --until never comes"), "{text}");
    ended(2, &["replay", "wrong.dmc", "--until", "no-such-rule"], dir)?;
    Recorded::default().play(&dir.join("unchecked.dmc"), &NOTES)?;
    for options in [["--until", "slot-changed"], ["--report", "none.json"]] {
        let text = ended(1, &[&["replay", "unchecked.dmc"], &options[..]].concat(), dir)?;
        ensure!(text.contains("unchecked.dmc was recorded without --check"), "{text}");
    }
    ensure!(!dir.join("none.json").exists(), "a report was written");
    Ok(())
}

#[test]
fn a_trace_is_written_for_perfetto() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    Recorded::default().play(&dir.join("a.dmc"), &NOTES)?;
    let text = ended(0, &["trace", "a.dmc"], dir)?;
    ensure!(text.starts_with("out.pftrace: 1.00") && text.ends_with(" s; open it at ui.perfetto.dev\n"), "{text}");
    ended(0, &["trace", "a.dmc", "-o", "again.pftrace"], dir)?;
    let traces = ["out.pftrace", "again.pftrace"].map(|name| std::fs::read(dir.join(name)));
    let [trace, again] = traces;
    ensure!(trace? == again?, "two traces of one run differ");
    let checked = run(script("peers").arg("perfetto").arg(dir.join("out.pftrace")))?;
    ensure!(checked.status.success() && said(&checked).contains(" 10 flows that end"), "{}", said(&checked));
    let text = ended(1, &["trace", "a.dmc", "-o", "no/such/dir.pftrace"], dir)?;
    ensure!(text.contains("cannot write no/such/dir.pftrace"), "{text}");
    Ok(())
}

#[test]
fn a_replay_finds_the_bank_that_was_recorded_and_takes_no_other() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let mut silent = built_in();
    for wave in &mut silent.waves {
        wave.samples = Samples::new(vec![0; wave.samples.len()]);
    }
    let (here, there) = (dir.join("bank.dls"), dir.join("moved.dls"));
    std::fs::write(&here, silent.to_dls()?)?;
    let collections: [Collection; 2] = [Collection::read(std::fs::read(&here)?, &mut Default::default())?, built_in()];
    let options = Options { bank: vec![BankFile::describe(&here)?], ..Options::default() };
    let recorded = Recorded { bank: Arc::new(Bank::new(&collections)?), options, checked: false };
    recorded.play(&dir.join("a.dmc"), &NOTES)?;
    let is_silent = |arguments: &[&str]| -> anyhow::Result<bool> {
        ended(0, &[&["replay", "a.dmc", "-o", "a.wav"], arguments].concat(), dir)?;
        Ok(hound::WavReader::open(dir.join("a.wav"))?.into_samples::<i16>().all(|sample| sample.is_ok_and(|s| s == 0)))
    };
    ensure!(is_silent(&[])?, "the bank was not found");

    std::fs::rename(&here, &there)?;
    let text = ended(3, &["replay", "a.dmc"], dir)?;
    ensure!(text.contains(&format!("its bank was {}: give that by --bank", here.display())), "{text}");
    ensure!(is_silent(&["--bank", "moved.dls"])?, "--bank was not taken");

    std::fs::write(&here, built_in().to_dls()?)?;
    let another = format!("is another file than {}, by which it was recorded", here.display());
    for arguments in [&["replay", "a.dmc"][..], &["trace", "a.dmc"], &["diff", "a.dmc", "a.dmc"]] {
        let text = ended(3, arguments, dir)?;
        ensure!(text.contains(&another), "{text}");
    }
    let text = ended(3, &["replay", "a.dmc", "--bank", "moved.dls", "--bank", "bank.dls"], dir)?;
    ensure!(text.contains("give that one file by --bank"), "{text}");
    Recorded::default().play(&dir.join("built-in.dmc"), &NOTES)?;
    let text = ended(3, &["replay", "built-in.dmc", "--bank", "moved.dls"], dir)?;
    ensure!(text.contains("its bank was the built-in one: leave --bank out"), "{text}");
    Ok(())
}

#[test]
fn what_is_no_recording_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    Recorded::default().play(&dir.join("a.dmc"), &NOTES)?;
    std::fs::write(dir.join("text.dmc"), b"this is no recording")?;
    std::fs::write(dir.join("cut.dmc"), &std::fs::read(dir.join("a.dmc"))?[..20])?;
    for (file, says) in [("text.dmc", "it is no capsule"), ("cut.dmc", "it ends before its first block does")] {
        for arguments in [&["replay", file][..], &["trace", file], &["diff", "a.dmc", file]] {
            let text = ended(3, arguments, dir)?;
            ensure!(text.contains(&format!("cannot replay {file}: {says}")), "{text}");
        }
    }
    Ok(())
}
