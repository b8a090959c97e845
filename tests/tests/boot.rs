//! The main job as a user does it: guests booted in QEMU by `qemu-scripts/play`, and what happens when something dies.

use anyhow::{Context, ensure};
use dmus_song::Song;
use dmus_tests::programs::{self, Running, descendants, guest, run, runs, said, script, signal, signal_group, until};
use dmus_tests::songs;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Plays, and gives the summary.
fn play(dir: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
    let json = dir.join("summary.json");
    let done = run(script("play").args(arguments).arg("--json").arg(&json).current_dir(dir))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(serde_json::from_str(&std::fs::read_to_string(json)?)?)
}

/// What the offline renderer makes of the same song.
fn rendered(dir: &Path, song: &[&str]) -> anyhow::Result<Vec<u8>> {
    let done = run(programs::card()?.arg("render").args(song).args(["-o", "rendered.wav"]).current_dir(dir))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(std::fs::read(dir.join("rendered.wav"))?)
}

/// What it comes to on every image, with either width of pointers, is `scenarios/song.toml`.
#[test]
fn the_bundled_song_plays_and_the_summary_has_every_key() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let summary = play(dir.path(), &[])?;
    let keys: Vec<&str> = summary.as_object().context("no object")?.keys().map(String::as_str).collect();
    let expected = "song events_submitted events_presented late late_by rejected discarded peak_in_flight pool_slots \
        register_accesses interrupts audio_seconds wall_seconds wav sha256 clock image pointer_width";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&summary["clock"], &summary["image"]), (&"virtual".into(), &"elf".into()));
    assert_eq!((&summary["pool_slots"], &summary["peak_in_flight"]), (&64.into(), &64.into()));
    assert!(std::fs::read(dir.path().join("out.wav"))? == rendered(dir.path(), &[])?);
    let scenario = std::fs::read_to_string(programs::repository().join("tests/scenarios/song.toml"))?;
    assert!(scenario.contains(summary["sha256"].as_str().context("no hash")?), "{summary}");
    Ok(())
}

#[test]
fn fifty_thousand_events_go_through_64_slots_without_a_trap_per_event() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("busy song.mid"), songs::busy(50_000))?;
    let summary = play(dir.path(), &["busy song.mid", "-o", "the output.wav"])?;
    assert_eq!((&summary["events_submitted"], &summary["events_presented"]), (&50_000.into(), &50_000.into()));
    assert_eq!((&summary["late"], &summary["rejected"], &summary["discarded"]), (&0.into(), &0.into(), &0.into()));
    let accesses = summary["register_accesses"].as_u64().context("no number")?;
    assert!(accesses < 200, "{accesses} register accesses");
    assert!(std::fs::read(dir.path().join("the output.wav"))? == rendered(dir.path(), &["busy song.mid"])?);
    Ok(())
}

#[test]
fn a_collection_that_the_guest_downloads_sounds_as_one_that_the_card_was_given() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(3000))?;
    // Not the card's own instruments, or it would make no difference where they come from.
    let mut collection = dmus_card::bank::built_in();
    collection.waves.iter_mut().for_each(|wave| wave.rate += 500);
    std::fs::write(dir.path().join("other.dls"), collection.to_dls()?)?;
    let mut export = programs::card()?;
    let done = run(export.args(["bank", "export", "other.dls", "--dls", "bank.dls"]).current_dir(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    let expected = rendered(dir.path(), &["song.mid", "--bank", "bank.dls"])?;
    ensure!(expected != rendered(dir.path(), &["song.mid"])?, "the test hears no difference");
    for image in ["elf", "linux"] {
        let summary = play(dir.path(), &["song.mid", "--dls", "bank.dls", "--image", image])?;
        assert_eq!(summary["events_presented"], 3000);
        let played = std::fs::read(dir.path().join("out.wav"))?;
        assert!(played == expected, "the downloaded instruments sound different from {image}");
    }
    // A file that is none is found before anything is booted.
    std::fs::write(dir.path().join("bad.dls"), b"RIFF")?;
    let done = run(script("play").args(["song.mid", "--dls", "bad.dls"]).current_dir(dir.path()))?;
    assert_eq!(done.status.code(), Some(3), "{}", said(&done));
    Ok(())
}

/// Two tracks, each for a port of its own, in whose channel groups the same channel has another program; and the
/// instruments that they are played by.
fn rmid() -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let chunk = |id: &[u8; 4], size: [u8; 4], content: &[u8]| [&id[..], &size, content].concat();
    let track = |port: u8, program: u8, key: u8| {
        let events = [&[0, 0xFF, 0x21, 1, port, 0, 0xC0, program, 0, 0x90, key, 100][..], &[96, 0x80, key, 0]].concat();
        let events = [&events[..], &[0, 0xFF, 0x2F, 0]].concat();
        chunk(b"MTrk", (events.len() as u32).to_be_bytes(), &events)
    };
    let song = [&b"MThd\0\0\0\x06\0\x01\0\x02\0\x60"[..], &track(0, 40, 69), &track(3, 56, 50)].concat();
    let mut collection = dmus_card::bank::built_in();
    collection.instruments.retain(|instrument| [40, 56].contains(&instrument.program));
    collection.waves.iter_mut().for_each(|wave| wave.rate += 500);
    let parts = [chunk(b"data", (song.len() as u32).to_le_bytes(), &song), collection.to_dls()?].concat();
    let parts = [b"RMID", &parts[..]].concat();
    Ok((song, chunk(b"RIFF", (parts.len() as u32).to_le_bytes(), &parts)))
}

#[test]
fn an_rmid_file_plays_by_its_own_instruments_on_all_its_ports_and_into_a_pipe() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rmid) = rmid()?;
    std::fs::write(dir.path().join("song.mid"), song)?;
    std::fs::write(dir.path().join("song.rmi"), rmid)?;
    let arguments = ["song.rmi", "--gain=-6", "--reverb=off", "--strict"];
    let expected = rendered(dir.path(), &arguments)?;
    ensure!(expected != rendered(dir.path(), &["song.mid", "--gain=-6", "--reverb=off"])?, "other instruments");
    ensure!(expected != rendered(dir.path(), &["song.rmi", "--reverb=off"])?, "another level");
    let done = run(script("play").args(arguments).args(["-o", "-"]).current_dir(dir.path()))?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && told.contains("events presented   6"), "{told}");
    ensure!(done.stdout == expected, "{} bytes, not those of {}", done.stdout.len(), expected.len());
    let done = run(script("play")
        .args(["song.rmi", "-o", "other.wav", "--rate=44100", "--format=f32"])
        .current_dir(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    let other = hound::WavReader::open(dir.path().join("other.wav"))?;
    let frames = (expected.len() - 44) as u64 / 4 * 44_100;
    ensure!((other.spec().sample_rate, other.spec().bits_per_sample) == (44_100, 32), "{:?}", other.spec());
    ensure!(u64::from(other.duration()) == frames.div_ceil(48_000), "{} frames", other.duration());
    Ok(())
}

/// DDI: The wave sink, in a booted guest: what it pulls and plays on another sound device is what the synthesizer
///     rendered, sample for sample.
#[test]
fn what_the_guest_plays_on_qemus_own_sound_device_is_what_the_card_rendered() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // It takes as long as it plays: a second and a half, and three of silence.
    std::fs::write(dir.path().join("song.mid"), songs::busy(500))?;
    play(dir.path(), &["song.mid", "--through-guest", "guest.wav", "--width", "4"])?;
    let heard = std::fs::read(dir.path().join("guest.wav"))?;
    assert!(heard == std::fs::read(dir.path().join("out.wav"))?);
    assert!(heard == rendered(dir.path(), &["song.mid"])?);
    let samples =
        hound::WavReader::open(dir.path().join("guest.wav"))?.into_samples::<i16>().collect::<Result<Vec<_>, _>>()?;
    assert!(samples.iter().any(|sample| sample.unsigned_abs() > 1000));
    Ok(())
}

#[test]
fn in_realtime_every_event_is_presented() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // Four seconds, 20 notes a second.
    let notes = (0..80u8).flat_map(|i| [(0, vec![0x90, 40 + i % 40, 90]), (10, vec![0x80, 40 + i % 40, 0])]);
    let song = songs::file(notes.collect::<Vec<_>>());
    std::fs::write(dir.path().join("song.mid"), &song)?;
    let summary = play(dir.path(), &["song.mid", "--realtime"])?;
    assert_eq!((&summary["events_presented"], &summary["clock"]), (&160.into(), &"realtime".into()));
    let (wall, audio) = (summary["wall_seconds"].as_f64(), summary["audio_seconds"].as_f64());
    let length = Song::parse(&song)?.duration().as_secs_f64();
    assert!(wall > Some(length), "{wall:?} s for {length} s");
    assert!(audio > Some(length - 0.01) && audio < Some(length + 1.0), "{audio:?} s for {length} s");
    Ok(())
}

#[test]
fn with_a_latency_every_event_is_presented_and_the_late_are_told_by_how_late() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(300))?;
    let summary = play(dir.path(), &["song.mid", "--realtime", "--latency", "50"])?;
    assert_eq!((&summary["events_presented"], &summary["rejected"]), (&300.into(), &0.into()));
    // How many are late is the machine's affair; that they add up is not.
    let late_by = summary["late_by"].as_object().context("no object")?;
    assert_eq!(late_by.len(), 7);
    assert_eq!(summary["late"], late_by.values().filter_map(Value::as_u64).sum::<u64>());
    Ok(())
}

#[test]
fn a_guest_without_a_song_or_a_card_says_so_and_fails() -> anyhow::Result<()> {
    let guest = guest()?;
    let boot = |more: &[&str]| {
        let mut qemu = script("qemu");
        qemu.args(["-M", "q35", "-accel", "tcg", "-m", "128M", "-nodefaults", "-display", "none", "-vga", "none"]);
        qemu.args(["-net", "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4"]);
        run(qemu.arg("-kernel").arg(&guest).args(more))
    };
    let done = boot(&[])?;
    assert_eq!(done.status.code(), Some(33), "{}", said(&done));
    assert!(said(&done).contains("dmus: error: no song"), "{}", said(&done));
    let dir = tempfile::tempdir()?;
    let song = dir.path().join("song.mid");
    std::fs::write(&song, songs::busy(10))?;
    let done = boot(&["-fw_cfg", &format!("name=opt/dmus/song,file={}", song.display())])?;
    assert_eq!(done.status.code(), Some(33), "{}", said(&done));
    assert!(said(&done).contains("no PCI device d5ca:0001"), "{}", said(&done));
    Ok(())
}

/// Boots the player with memory as these arguments say, which is not shared or cannot be mapped, on a card behind this
/// server; gives what QEMU and the card printed. The song is `song.mid` in `dir`, the audio `out.wav`.
fn boot_unshared(dir: &Path, transport: &str, memory: &[&str]) -> anyhow::Result<(Output, Output)> {
    let guest = guest()?;
    let arguments = "serve --once --clock virtual --socket card.sock --sink wav:out.wav --transport";
    let card = Running::start(programs::card()?.args(arguments.split(' ')).arg(transport).current_dir(dir))?;
    until("the socket", Duration::from_secs(20), || dir.join("card.sock").exists())?;
    let device = serde_json::json!({
        "driver": "vfio-user-pci", "rombar": 0, "x-msg-timeout": 60_000,
        "socket": { "type": "unix", "path": dir.join("card.sock") },
    });
    let song = format!("name=opt/dmus/song,file={}", dir.join("song.mid").display());
    let mut qemu = script("qemu");
    qemu.args(["-M", "q35", "-accel", "tcg", "-m", "512M", "-nodefaults", "-display", "none", "-vga", "none"]);
    qemu.args(memory).args(["-net", "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4"]);
    let done = run(qemu.args(["-device", &device.to_string(), "-fw_cfg", &song]).arg("-kernel").arg(&guest))?;
    Ok((done, card.output()?))
}

#[test]
fn memory_that_is_not_shared_is_reached_by_messages_and_plays_the_same_bytes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(20_000))?;
    let file = format!("memory-backend-file,id=ram,size=512M,share=on,mem-path={}", dir.path().join("ram").display());
    for (memory, warnings) in [(&[][..], 0), (&["-object", &file, "-machine", "memory-backend=ram"][..], 1)] {
        let (qemu, card) = boot_unshared(dir.path(), "own", memory)?;
        assert_eq!(qemu.status.code(), Some(99), "{}\n{}", said(&qemu), said(&card));
        assert!(said(&qemu).contains("submitted=20000 presented=20000 late=0 rejected=0"), "{}", said(&qemu));
        assert_eq!(said(&card).matches("slower").count(), 1, "{}", said(&card));
        assert_eq!(said(&card).matches("can shrink").count(), warnings, "{}", said(&card));
        assert!(said(&card).contains("memory-backend-memfd"), "{}", said(&card));
        assert!(std::fs::read(dir.path().join("out.wav"))? == rendered(dir.path(), &["song.mid"])?);
    }
    Ok(())
}

#[test]
fn memory_that_is_not_shared_is_refused_behind_the_crates_server_by_card_and_guest() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::busy(10))?;
    let (qemu, card) = boot_unshared(dir.path(), "crate", &[])?;
    assert_eq!(qemu.status.code(), Some(33), "{}", said(&qemu));
    assert!(said(&qemu).contains("outside the memory that the guest shares"), "{}", said(&qemu));
    assert!(said(&card).contains("memory-backend-memfd"), "{}", said(&card));
    Ok(())
}

/// Begins a long playing in real time, lets `kill` end some process of it, and expects the exit code, a valid WAV, and
/// no orphan.
fn interrupted(
    kill: impl Fn(&[(u32, String)], u32) -> anyhow::Result<()>,
    code: i32,
    complaint: &str,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let notes = (0..2000u32).map(|i| (48, vec![0x90, 40 + (i % 40) as u8, 90 * (i % 2) as u8]));
    std::fs::write(dir.path().join("song.mid"), songs::file(notes.collect::<Vec<_>>()))?;
    let wav = dir.path().join("out.wav");
    let playing = Running::start(script("play").args(["song.mid", "--realtime"]).current_dir(dir.path()))?;
    // The header is refreshed each second of audio: with it, something was rendered and saved.
    let heard = || hound::WavReader::open(&wav).is_ok_and(|reader| reader.duration() >= 48_000);
    until("audio", programs::LIMIT, heard)?;
    let family = descendants(playing.id());
    ensure!(family.iter().any(|(_, line)| line.contains("qemu-system")), "no QEMU in {family:?}");
    kill(&family, playing.id())?;
    let done = playing.output()?;
    assert_eq!(done.status.code(), Some(code), "{}", said(&done));
    assert!(said(&done).contains(complaint), "{}", said(&done));
    assert!(heard(), "the WAV file is damaged");
    until("the end of every process", Duration::from_secs(10), || family.iter().all(|(pid, _)| !runs(*pid)))
}

/// The process whose command line has `part`.
fn find(family: &[(u32, String)], part: &str) -> anyhow::Result<u32> {
    let found = family.iter().find(|(_, line)| line.contains(part)).with_context(|| format!("{part}: {family:?}"))?;
    Ok(found.0)
}

#[test]
fn a_card_killed_while_the_guest_plays_is_reported_and_nothing_is_left() -> anyhow::Result<()> {
    let kill = |family: &[(u32, String)], _| {
        signal(find(family, "dmus-card serve")?, "KILL");
        Ok(())
    };
    interrupted(kill, 7, "the card ended")
}

#[test]
fn a_card_that_its_sandbox_killed_is_named_so() -> anyhow::Result<()> {
    let kill = |family: &[(u32, String)], _| {
        signal(find(family, "dmus-card serve")?, "SYS");
        Ok(())
    };
    interrupted(kill, 7, "a system call that its sandbox forbids")
}

#[test]
fn a_qemu_killed_while_the_guest_plays_is_reported_and_nothing_is_left() -> anyhow::Result<()> {
    let kill = |family: &[(u32, String)], _| {
        signal(find(family, "isa-debug-exit")?, "KILL");
        Ok(())
    };
    interrupted(kill, 8, "QEMU was killed")
}

#[test]
fn an_interrupt_ends_everything_in_order() -> anyhow::Result<()> {
    let kill = |_: &[(u32, String)], leader| {
        signal_group(leader, "INT");
        Ok(())
    };
    interrupted(kill, 130, "interrupted")
}

#[test]
fn a_killed_supervisor_takes_its_children_with_it() -> anyhow::Result<()> {
    let kill = |family: &[(u32, String)], _| {
        signal(find(family, "dmus-run play")?, "KILL");
        Ok(())
    };
    interrupted(kill, 137, "was killed")
}

#[test]
fn two_songs_play_side_by_side() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let start = |name: &str| Running::start(script("play").args(["-o", name]).current_dir(dir.path()));
    let both = [start("one.wav")?, start("two.wav")?];
    for playing in both {
        let done = playing.output()?;
        ensure!(done.status.success(), "{}", said(&done));
    }
    assert!(std::fs::read(dir.path().join("one.wav"))? == std::fs::read(dir.path().join("two.wav"))?);
    Ok(())
}

#[test]
fn a_qemu_that_will_not_do_is_named_with_the_version_that_will() -> anyhow::Result<()> {
    for program in ["/bin/false", "no-such-qemu"] {
        let done = run(script("play").env("DMUS_QEMU", program))?;
        assert_eq!(done.status.code(), Some(4), "{}", said(&done));
        assert!(said(&done).contains(program), "{}", said(&done));
    }
    let done = run(script("qemu").arg("--find").env("DMUS_QEMU", "/bin/false"))?;
    assert!(said(&done).contains("10.1"), "{}", said(&done));
    Ok(())
}

/// DDI: everything is the same with 4-byte pointers, in a booted guest: the 32-bit layout, and 4 bytes at most inline.
///
/// The list of `dmus-conformance`, every check of it. On the other images it holds by `scenarios/conform.toml`.
#[test]
fn every_statement_holds_in_a_booted_guest_and_the_summary_has_each() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let expected: BTreeSet<&str> =
        dmus_conformance::checks::<dmus_tests::loopback::Loopback>().iter().map(|check| check.name).collect();
    let done = run(script("conform").args(["--width", "4", "--json", "summary.json"]).current_dir(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    let summary: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("summary.json"))?)?;
    assert_eq!((&summary["image"], &summary["pointer_width"]), (&"elf".into(), &4.into()));
    let statements = summary["statements"].as_array().context("no statements")?;
    let held: BTreeSet<&str> =
        statements.iter().filter(|is| is["holds"] == true).filter_map(|is| is["name"].as_str()).collect();
    assert_eq!(held, expected);
    Ok(())
}

#[test]
fn scripts_teach_what_they_do() -> anyhow::Result<()> {
    for name in ["play", "record", "conform", "shell", "test", "qemu", "iso", "soak", "fuzz", "bench", "zoo", "hil"] {
        let done = run(script(name).arg("--help"))?;
        assert!(done.status.success(), "{name}: {}", said(&done));
        assert!(said(&done).contains(&format!("qemu-scripts/{name}")), "{}", said(&done));
        let refused = run(Command::new("bash").arg("-n").arg(programs::repository().join("qemu-scripts").join(name)))?;
        assert!(refused.status.success(), "{name}: {}", said(&refused));
    }
    Ok(())
}
