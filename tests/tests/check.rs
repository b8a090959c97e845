//! `serve --check`: what a driver's mistakes look like to whoever reads the card's standard error, its report file and
//! its exit status.

use anyhow::{Context, ensure};
use dmus_conformance::raw::RawStream;
use dmus_interface::event::PointerWidth;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, script, signal, until};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];
/// A second, 100 ns.
const SECOND: i64 = 10_000_000;

/// Serves a card with these options while `drive` drives it, and ends it then.
fn served(dir: &Path, options: &[&str], drive: impl FnOnce(&Loopback) -> anyhow::Result<()>) -> anyhow::Result<Output> {
    let arguments = ["serve", "--clock", "virtual", "--socket", "card.sock", "--json", "counters"];
    let card = Running::start(programs::card()?.args(arguments).args(options).current_dir(dir))?;
    until("the card's counters", LIMIT, || dir.join("counters").exists())?;
    let driver = Loopback::new(&dir.join("card.sock"))?;
    drive(&driver)?;
    drop(driver);
    signal(card.id(), "TERM");
    card.output()
}

/// Fills a slot again that the card holds, twice.
fn change_slots(driver: &Loopback) -> anyhow::Result<()> {
    let s = RawStream::running(driver, PointerWidth::Eight)?;
    for (slot, at) in [(5, SECOND), (6, 2 * SECOND)] {
        s.fill(slot, s.inline(at, &NOTE));
        s.put(slot);
        s.publish();
        // It is the card's once the card has looked at the tail.
        s.grant(at - SECOND / 2);
        s.reach(at - SECOND / 2)?;
        s.fill(slot, s.inline(at, &[0x90, 61, 100]));
        s.grant(at);
        s.completion()?;
    }
    Ok(())
}

fn report(dir: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(dir.join("report.json"))?)?)
}

#[test]
fn a_mistake_is_told_in_full_once_counted_and_fails_the_card() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = served(dir.path(), &["--report", "report.json"], change_slots)?;
    let said = said(&done);
    ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
    for line in [
        "ERROR: driver mistake C6 slot-changed: slot that was stored to while the card owned it",
        "  where     stream 0, slot 5 at ",
        "            90 3c 64 (note on, channel 1, key 60, velocity 100)",
        "  expected  uData 0x0000000000643c90",
        "  found     uData 0x0000000000643d90",
        "submitted by the driver",
        "fetched by the card",
        "held by the card",
        "  cause     The driver filled",
        "dmus-card explain slot-changed",
        "the driver broke a rule of the data sheet: C6 slot-changed (2 times)",
    ] {
        ensure!(said.matches(line).count() == 1, "{line}\nis not once in\n{said}");
    }
    let report = report(dir.path())?;
    assert_eq!([&report["version"], &report["errors"], &report["warnings"]], [1, 2, 0].map(Value::from).each_ref());
    let [violation] = &report["violations"].as_array().context("violations")?[..] else {
        anyhow::bail!("{report:#}");
    };
    for (field, value) in [("code", "C6"), ("name", "slot-changed"), ("severity", "error"), ("section", "ring")] {
        assert_eq!(violation[field], value, "{report:#}");
    }
    assert_eq!((&violation["count"], &violation["allowed"]), (&2.into(), &Value::Null));
    let first = &violation["first"];
    assert_eq!((&first["stream"], &first["slot"]), (&0.into(), &5.into()));
    assert_eq!((&first["event"]["bytes"], &first["event"]["time_100ns"]), (&"90 3c 64".into(), &SECOND.into()));
    let steps: Vec<&str> =
        first["history"].as_array().context("history")?.iter().filter_map(|s| s["step"].as_str()).collect();
    assert_eq!(steps, ["submitted by the driver", "fetched by the card", "held by the card"], "{report:#}");
    Ok(())
}

#[test]
fn what_is_allowed_is_reported_and_fails_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let options = ["--report", "report.json", "--allow", "slot-changed=known since the first version"];
    let done = served(dir.path(), &options, change_slots)?;
    ensure!(done.status.code() == Some(130), "{}: {}", done.status, said(&done));
    ensure!(said(&done).contains("allowed   known since the first version"), "{}", said(&done));
    let report = report(dir.path())?;
    assert_eq!((&report["errors"], &report["violations"][0]["count"]), (&0.into(), &2.into()));
    assert_eq!(report["violations"][0]["allowed"], "known since the first version");
    Ok(())
}

#[test]
fn each_client_is_told_anew_and_a_card_that_does_not_check_says_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let twice = served(dir.path(), &[], |driver| {
        change_slots(driver)?;
        // The same client: nothing more is said.
        change_slots(driver)
    })?;
    assert_eq!(said(&twice).matches("C6 slot-changed: ").count(), 1);
    std::fs::remove_file(dir.path().join("counters"))?;
    let off = served(dir.path(), &["--check", "off"], change_slots)?;
    ensure!(off.status.code() == Some(130) && !said(&off).contains("slot-changed"), "{}", said(&off));
    Ok(())
}

#[test]
fn a_report_that_cannot_be_written_is_one_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = served(dir.path(), &["--report", "/dev/full"], change_slots)?;
    let complaint = "dmus-card: cannot write /dev/full: No space left on device";
    ensure!(said(&done).matches(complaint).count() == 1, "{}", said(&done));
    ensure!(done.status.code() == Some(9), "{}", done.status);
    Ok(())
}

#[test]
fn what_does_not_make_sense_is_wrong_usage() -> anyhow::Result<()> {
    for (options, complaint) in [
        (&["--allow", "slot-changed"][..], "expected NAME=REASON"),
        (&["--allow", "slot-changed= "], "expected NAME=REASON"),
        (&["--allow", "no-such-rule=because"], "there is no such rule"),
        (&["--check", "loudly"], "possible values"),
        (&["--check", "off", "--report", "r.json"], "about what --check warn finds"),
    ] {
        let done = run(programs::card()?.args(["serve", "--socket", "never.sock"]).args(options))?;
        ensure!(done.status.code() == Some(2) && said(&done).contains(complaint), "{options:?}: {}", said(&done));
    }
    Ok(())
}

#[test]
fn a_song_that_is_played_right_is_no_reason_to_say_anything() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for image in ["elf", "linux"] {
        let mut play = script("play");
        play.args(["--check", "warn", "--report", "report.json", "--image", image, "-o", "out.wav"]);
        let done = run(play.current_dir(dir.path()))?;
        ensure!(done.status.success(), "{image}: {}", said(&done));
        assert_eq!(report(dir.path())?["violations"], Value::Array(Vec::new()), "{image}");
    }
    Ok(())
}
