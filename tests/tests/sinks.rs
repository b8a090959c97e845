//! Where the audio of a served card goes, in its sandbox: files that agree, and pipes whose readers are slow or gone.

use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::{RawStream, seconds};
use dmus_tests::songs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];

fn connect(dir: &Path) -> anyhow::Result<Loopback> {
    until("the socket", SHORT, || dir.join("card.sock").exists())?;
    Loopback::new(&dir.join("card.sock"))
}

fn position(platform: &Loopback) -> u64 {
    platform.doorbell().load_u64(doorbell::SAMPLE_POSITION, Ordering::Acquire)
}

#[test]
fn a_flac_holds_the_samples_of_the_wav() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(500))?;
    for output in ["out.wav", "out.FLAC"] {
        let done = run(programs::card()?.args(["render", "song.mid", "-o", output]).current_dir(dir.path()))?;
        assert!(done.status.success(), "{}", said(&done));
    }
    let wav: Result<Vec<i32>, _> = hound::WavReader::open(dir.path().join("out.wav"))?.samples().collect();
    let flac: Result<Vec<i32>, _> = claxon::FlacReader::open(dir.path().join("out.FLAC"))?.samples().collect();
    assert!(wav? == flac?);
    Ok(())
}

#[test]
fn a_pipe_that_nobody_empties_holds_time_up_and_not_the_card() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--once", "--socket", "card.sock", "--clock", "virtual", "--sink", "pipe:-"];
    let card = Running::start(programs::card()?.args(serve).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &NOTE), seconds(20));
    s.until("a full pipe", || position(&platform) >= 16_384)?;
    // The card answers all the same.
    s.set_state(State::Pause)?;
    s.set_state(State::Run)?;
    assert!(position(&platform) < 48_000, "{}", position(&platform));
    let reader = std::thread::spawn(|| card.output());
    s.reach(seconds(20))?;
    drop(platform);
    let done = reader.join().expect("the reader")?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.stdout.len(), 20 * 48_000 * 4);
    assert!(done.stdout[..48_000].iter().any(|byte| *byte != 0));
    Ok(())
}

#[test]
fn a_reader_that_goes_away_costs_only_its_audio() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let line = "\"$0\" serve --once --socket card.sock --clock virtual --sink pipe:- --json card.json \
                | head -c 1000 >/dev/null; exit \"${PIPESTATUS[0]}\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", line]).arg(programs::card()?.get_program()).current_dir(dir.path());
    let card = Running::start(&mut shell)?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &NOTE), seconds(60));
    s.reach(seconds(60))?;
    drop(platform);
    let done = card.output()?;
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("nobody reads standard output any more"), "{}", said(&done));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert_eq!(report["presented"], 1);
    assert!(report["dropped_samples"].as_u64() > Some(30 * 48_000), "{report}");
    Ok(())
}

#[test]
fn past_its_limit_of_audio_a_card_goes_on_silently() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--socket", "card.sock", "--clock", "virtual", "--sink", "wav:out.wav", "--max-audio", "2"];
    let card = Running::start(programs::card()?.args(serve).args(["--json", "card.json"]).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // The first of them covers the limit, the last is all time there is.
    for until in [seconds(3), seconds(100)] {
        s.submit(0, s.inline(0, &NOTE), until);
        s.completion()?;
        s.reach(until)?;
    }
    s.grant(i64::MAX);
    drop(platform);
    next_driver_plays(&connect(dir.path())?)?;
    signal(card.id(), "TERM");
    let done = card.output()?;
    assert_eq!(done.status.code(), Some(130), "{}", said(&done));
    assert_eq!(said(&done).matches("--max-audio").count(), 1, "{}", said(&done));
    assert_eq!(hound::WavReader::open(dir.path().join("out.wav"))?.duration(), 2 * 48_000);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert!(report["dropped_samples"].as_u64() >= Some(98 * 48_000), "{report}");
    let done = run(programs::card()?.args(["serve", "--socket", "s", "--max-audio", "0"]).current_dir(dir.path()))?;
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    Ok(())
}

#[test]
fn a_sink_that_cannot_be_is_an_error_that_says_what_to_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    for (sink, advice) in [("pipe:none", "mkfifo makes a pipe"), ("pipe:file", "mkfifo")] {
        let done = run(programs::card()?.args(["serve", "--socket", "s", "--sink", sink]).current_dir(dir.path()))?;
        let words = said(&done);
        assert_eq!((done.status.code(), words.trim().lines().count()), (Some(1), 1), "{words}");
        assert!(words.contains(advice), "{words}");
        assert!(!dir.path().join("s").exists());
    }
    Ok(())
}

#[test]
fn an_audio_file_that_cannot_be_created_is_an_error_that_says_why() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::os::unix::fs::symlink("none/at-all", dir.path().join("link"))?;
    for format in ["wav", "flac"] {
        for (file, why) in [
            ("no/such/x", "the folder no/such does not exist"),
            // The folder of the link is there.
            ("link", "No such file or directory (os error 2)"),
            (".", "Is a directory (os error 21)"),
            ("/dev/full", "No space left on device (os error 28)"),
        ] {
            let sink = format!("{format}:{file}");
            let done =
                run(programs::card()?.args(["serve", "--socket", "s", "--sink", &sink]).current_dir(dir.path()))?;
            let sentence = format!("dmus-card: cannot create {file}: {why}\n");
            assert_eq!((done.status.code(), said(&done)), (Some(1), sentence));
            assert!(!dir.path().join("s").exists());
        }
    }
    Ok(())
}

/// DDI: The latency clock is the master clock plus the latency that the card guarantees.
#[test]
fn the_latency_clock_is_ahead_of_the_master_clock_by_a_constant() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let serve = ["serve", "--once", "--socket", "card.sock", "--clock", "virtual"];
    let card = Running::start(programs::card()?.args(serve).current_dir(dir.path()))?;
    let platform = connect(dir.path())?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    for time in [1, 7_654_321, seconds(5)] {
        s.grant(time);
        s.reach(time)?;
        let shown = |word| RefTime(platform.doorbell().load_u64(word, Ordering::Acquire) as i64);
        let (master, latency) = (shown(doorbell::MASTER_TIME), shown(doorbell::LATENCY_TIME));
        assert_eq!((master, latency), (RefTime(time), RefTime(time + 200_000)));
    }
    drop(platform);
    assert!(card.output()?.status.success());
    Ok(())
}
