//! The command line, right and wrong: every failure is one clear sentence and its exit code.

use dmus_card::collection::{Collection, Samples};
use dmus_interface::event::PointerWidth;
use dmus_interface::rule::Rule;
use dmus_song::Song;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::RawStream;
use dmus_tests::songs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn write(dir: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<std::path::PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

fn card(arguments: &[&str], dir: &Path) -> anyhow::Result<Command> {
    let mut command = programs::card()?;
    command.args(arguments).current_dir(dir);
    Ok(command)
}

fn runner(arguments: &[&str], dir: &Path) -> anyhow::Result<Command> {
    let mut command = programs::runner()?;
    command.args(arguments).current_dir(dir);
    Ok(command)
}

#[test]
fn render_writes_exactly_the_song_and_three_seconds() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let bytes = songs::busy(500);
    write(dir.path(), "a song.mid", &bytes)?;
    for output in ["one.wav", "two.wav"] {
        let done = run(&mut card(&["render", "a song.mid", "-o", output], dir.path())?)?;
        assert!(done.status.success(), "{}", said(&done));
    }
    let reader = hound::WavReader::open(dir.path().join("one.wav"))?;
    let expected = Song::parse(&bytes)?.duration().to_sample(48_000).0;
    assert_eq!(
        (u64::from(reader.duration()), reader.spec().channels, reader.spec().sample_rate),
        (expected, 2, 48_000)
    );
    assert!(std::fs::read(dir.path().join("one.wav"))? == std::fs::read(dir.path().join("two.wav"))?);
    Ok(())
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error_like_a_full_disk() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "song.mid", &songs::busy(500))?;
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""]).arg(card(&[], dir.path())?.get_program());
    let done = run(limited.args(["render", "song.mid", "-o", "out.wav"]).current_dir(dir.path()))?;
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("File too large") && said(&done).contains("out.wav"), "{}", said(&done));
    Ok(())
}

#[test]
fn a_bank_replaces_what_it_has_and_a_bad_one_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "song.mid", &songs::busy(200))?;
    write(dir.path(), "bad.dls", b"RIFF\x04\0\0\0DLS ")?;
    // The built-in bank as a file, and as a file whose instruments are all silent waves.
    let done = run(&mut card(&["bank", "export", "--dls", "same.dls"], dir.path())?)?;
    assert!(done.status.success(), "{}", said(&done));
    let mut collection = Collection::read(std::fs::read(dir.path().join("same.dls"))?, &mut Default::default())?;
    for wave in &mut collection.waves {
        wave.samples = Samples::new(vec![0; wave.samples.len()]);
    }
    std::fs::write(dir.path().join("silent.dls"), collection.to_dls()?)?;
    let render = |banks: &[&str], output: &str| -> anyhow::Result<Vec<u8>> {
        let options = banks.iter().flat_map(|bank| ["--bank", bank]);
        let arguments: Vec<&str> = ["render", "song.mid", "-o", output].into_iter().chain(options).collect();
        let done = run(&mut card(&arguments, dir.path())?)?;
        anyhow::ensure!(done.status.success(), "{}", said(&done));
        Ok(std::fs::read(dir.path().join(output))?)
    };
    let built_in = render(&[], "a.wav")?;
    assert!(render(&["same.dls"], "b.wav")? == built_in);
    assert!(render(&["silent.dls", "same.dls"], "c.wav")? == built_in, "the later bank comes first");
    assert!(render(&["same.dls", "silent.dls"], "d.wav")?[44..].iter().all(|byte| *byte == 0));
    for command in [&["render", "song.mid", "--bank", "bad.dls"][..], &["serve", "--socket", "s", "--bank", "no.sf2"]] {
        let done = run(&mut card(command, dir.path())?)?;
        assert_eq!(done.status.code(), Some(3), "{}", said(&done));
    }
    Ok(())
}

#[test]
fn songs_that_cannot_be_played_are_refused_in_one_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let good = songs::busy(50);
    // Two patterns, not one song.
    let mut format2 = [&good[..], &good[14..]].concat();
    (format2[9], format2[11]) = (2, 2);
    write(dir.path(), "empty.mid", b"")?;
    write(dir.path(), "text.mid", b"this is no music")?;
    write(dir.path(), "format2.mid", &format2)?;
    for (song, complaint) in [
        ("missing.mid", "No such file"),
        ("empty.mid", "the file is empty"),
        ("text.mid", "not a standard MIDI file"),
        ("format2.mid", "format 2"),
        (".", "Is a directory"),
    ] {
        for command in ["render", "play", "record"] {
            let done = match command {
                "render" => run(&mut card(&[command, song], dir.path())?)?,
                _ => run(&mut runner(&[command, song, "--guest", "none"], dir.path())?)?,
            };
            let words = said(&done);
            assert_eq!(done.status.code(), Some(3), "{song}: {words}");
            assert!(words.contains(song) && words.contains(complaint), "{words}");
            assert_eq!(words.trim().lines().count(), 1, "{words}");
        }
    }
    assert!(!dir.path().join("out.wav").exists());
    Ok(())
}

#[test]
fn what_can_be_played_is_with_a_warning_and_strict_refuses_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let good = songs::busy(50);
    write(dir.path(), "good.mid", &good)?;
    write(dir.path(), "cut.mid", &good[..good.len() / 2])?;
    let done = run(&mut card(&["render", "good.mid", "--strict"], dir.path())?)?;
    assert!(done.status.success() && !said(&done).contains("cut off"), "{}", said(&done));
    let done = run(&mut card(&["render", "cut.mid"], dir.path())?)?;
    assert!(done.status.success() && said(&done).contains("cut.mid: byte "), "{}", said(&done));
    for done in [
        run(&mut card(&["render", "cut.mid", "--strict"], dir.path())?)?,
        run(&mut runner(&["play", "cut.mid", "--strict", "--guest", "none"], dir.path())?)?,
    ] {
        assert_eq!(done.status.code(), Some(3), "{}", said(&done));
        assert!(said(&done).contains("cannot play cut.mid: byte ") && said(&done).contains("(--strict)"));
    }
    Ok(())
}

#[test]
fn smpte_timed_songs_are_played() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut smpte = songs::busy(50);
    smpte[12..14].copy_from_slice(&[0xE7, 40]);
    write(dir.path(), "smpte.mid", &smpte)?;
    let done = run(&mut card(&["render", "smpte.mid"], dir.path())?)?;
    assert!(done.status.success(), "{}", said(&done));
    Ok(())
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = run(&mut card(&["render", "-o", "no/such/dir.wav"], dir.path())?)?;
    assert_eq!(done.status.code(), Some(1));
    assert!(said(&done).contains("no/such/dir.wav"), "{}", said(&done));
    Ok(())
}

#[test]
fn a_disk_that_fills_up_is_an_error_and_leaves_a_valid_wav() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let program = programs::card()?.get_program().to_owned();
    // A limit on the size of files stands in for the disk: 3 MB, where the song wants 10.
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 3000; exec \"$0\" render"]).arg(program).current_dir(dir.path());
    let done = run(&mut limited)?;
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("cannot write out.wav"), "{}", said(&done));
    let seconds = hound::WavReader::open(dir.path().join("out.wav"))?.duration() / 48_000;
    assert!((14..=16).contains(&seconds), "{seconds} s");
    Ok(())
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_teaches() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for arguments in [
        &["dance"][..],
        &["serve"],
        &["serve", "--socket", "s", "--sink", "mp3:x"],
        &["serve", "--socket", "s", "--fd", "3"],
        &["serve", "--fd", "-1"],
        &["render", "a", "b"],
        &["serve", "--socket", "s", "--drift", "1001"],
        // It starts no QEMU.
        &["play"],
    ] {
        assert_eq!(run(&mut card(arguments, dir.path())?)?.status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [
        &["dance"][..],
        &["play"],
        &["record", "--guest", "none", "--width", "5"],
        &["play", "--guest", "none", "--realtime", "--through-guest", "x.wav"],
        &["play", "--guest", "none", "--image", "linux", "--initrd", "none", "--through-guest", "x.wav"],
        &["conform", "--guest", "none", "--realtime"],
        &["zoo", "--guest", "none", "--width", "4"],
        &["zoo", "--guest", "none", "no-such-rule"],
        &["shell"],
    ] {
        assert_eq!(run(&mut runner(arguments, dir.path())?)?.status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["render", "--help"], &["bank", "--help"]] {
        let done = run(&mut card(arguments, dir.path())?)?;
        assert!(done.status.success() && said(&done).contains("Usage"), "{arguments:?}");
    }
    for command in ["play", "record", "conform", "shell", "zoo"] {
        let done = run(&mut runner(&[command, "--help"], dir.path())?)?;
        assert!(done.status.success() && said(&done).contains("Usage"), "{command}");
    }
    Ok(())
}

#[test]
fn every_rule_that_is_listed_is_explained_by_code_and_by_name() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let list = run(&mut card(&["explain"], dir.path())?)?;
    let list = String::from_utf8(list.stdout)?;
    assert!(list.lines().count() == Rule::ALL.len(), "{list}");
    for line in list.lines() {
        let mut words = line.split_whitespace();
        for word in [words.next(), words.next()].into_iter().flatten() {
            let explained = run(&mut card(&["explain", word], dir.path())?)?;
            let text = said(&explained);
            assert!(explained.status.success() && text.contains("cause: ") && text.contains("mend: "), "{text}");
            assert!(text.split_whitespace().take(2).any(|said| said == word), "{word}: {text}");
        }
    }
    let unknown = run(&mut card(&["explain", "F999"], dir.path())?)?;
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("there is no such rule"), "{}", said(&unknown));
    Ok(())
}

#[test]
fn a_socket_in_use_is_refused_a_stale_one_replaced_and_a_signal_completes_the_wav() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("card.sock");
    let serve = ["serve", "--socket", "card.sock", "--sink", "wav:out.wav", "--json", "card.json"];
    let first = Running::start(&mut card(&serve, dir.path())?)?;
    until("the socket", Duration::from_secs(20), || UnixStream::connect(&socket).is_ok())?;
    let second = run(&mut card(&["serve", "--socket", "card.sock"], dir.path())?)?;
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("in use"), "{}", said(&second));

    signal(first.id(), "KILL");
    assert!(!first.output()?.status.success());
    until("the socket's removal", Duration::from_secs(20), || !socket.exists())?;
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(&socket)?);

    let third = Running::start(&mut card(&serve, dir.path())?)?;
    until("the socket", Duration::from_secs(20), || UnixStream::connect(&socket).is_ok())?;
    signal(third.id(), "INT");
    let done = third.output()?;
    assert_eq!(done.status.code(), Some(130), "{}", said(&done));
    assert!(!socket.exists());
    assert_eq!(hound::WavReader::open(dir.path().join("out.wav"))?.duration(), 0);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert_eq!(report["presented"], 0);
    Ok(())
}

#[test]
fn an_inherited_socket_is_served_and_left_in_place() -> anyhow::Result<()> {
    for number in [0, 3, 9] {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("theirs.sock");
        let listener = UnixListener::bind(&socket)?;
        // The shell moves its standard input to the number.
        let mut shell = Command::new("bash");
        let line = format!("exec \"$0\" serve --once --fd {number} --clock virtual --json card.json {number}<&0");
        shell.args(["-c", &line]).arg(programs::card()?.get_program()).current_dir(dir.path());
        let card = Running::start_with(&mut shell, OwnedFd::from(listener))?;
        RawStream::running(&Loopback::new(&socket)?, PointerWidth::Eight)?;
        let done = card.output()?;
        assert!(done.status.success(), "{}", said(&done));
        assert!(socket.exists(), "the socket is not the card's to remove");
        let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
        assert!(report["register_accesses"].as_u64() > Some(0), "{report}");
    }
    Ok(())
}

#[test]
fn a_descriptor_that_cannot_be_served_is_an_error() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for (number, complaint) in [("7", "Bad file descriptor"), ("0", "Socket operation on non-socket")] {
        let done = run(&mut card(&["serve", "--fd", number], dir.path())?)?;
        let words = said(&done);
        assert_eq!(done.status.code(), Some(1), "{words}");
        assert!(words.contains(&format!("descriptor {number}: {complaint}")), "{words}");
        assert_eq!(words.trim().lines().count(), 1, "{words}");
    }
    Ok(())
}

#[test]
fn clients_that_break_the_protocol_do_not_end_the_card() -> anyhow::Result<()> {
    use std::io::Write;
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("card.sock");
        let mut serve = card(&["serve", "--socket", "card.sock", "--transport", transport], dir.path())?;
        // A panic reads symbols, as far as the sandbox lets it.
        let mut served = Running::start(serve.env("RUST_BACKTRACE", "full"))?;
        until("the socket", Duration::from_secs(20), || socket.exists())?;
        // A VERSION message whose JSON has no end, on which the server's crate panics; then noise; then nothing.
        let broken: [&[u8]; 3] =
            [&[0, 0, 1, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'{', b'}'], &[0xFF; 64], &[]];
        for bytes in broken {
            let mut client = UnixStream::connect(&socket)?;
            client.write_all(bytes)?;
            client.shutdown(std::net::Shutdown::Write)?;
        }
        let hosted = vfio_user::Client::new(&socket);
        assert!(hosted.is_ok(), "{:?}", hosted.err());
        assert_eq!(served.status(), None);
    }
    Ok(())
}

#[test]
fn play_says_what_became_of_its_guest() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    write(dir.path(), "guest", b"")?;
    // What stands in for QEMU connects nowhere: only its output and its end matter here.
    let cases = [
        ("echo 'dmus: progress 5'; echo 'dmus: error: no card'; exit 33", 5, "the guest failed: no card"),
        ("echo 'dmus: progress 5'; echo 'panicked at x.rs'; exit 33", 5, "panicked at x.rs"),
        ("echo 'dmus: progress 5'; exit 0", 5, "the guest failed"),
        ("echo 'dmus: progress 5'; kill -9 $$", 8, "QEMU was killed"),
        ("echo 'no such option' >&2; exit 1", 4, "no such option"),
        ("exit 127", 4, "QEMU cannot be started"),
        ("exit 99", 5, "without a word"),
        ("echo 'dmus: progress 5'; sleep 60", 6, "stood still for 1 s"),
    ];
    for (body, code, complaint) in cases {
        let qemu = write(dir.path(), "qemu", format!("#!/bin/sh\n{body}\n").as_bytes())?;
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755))?;
        let arguments = ["play", "--guest", "guest", "--qemu", "./qemu", "--time-limit", "1"];
        let done = run(&mut runner(&arguments, dir.path())?)?;
        assert_eq!(done.status.code(), Some(code), "{body}: {}", said(&done));
        assert!(said(&done).contains(complaint), "{body}: {}", said(&done));
        assert!(hound::WavReader::open(dir.path().join("out.wav")).is_ok());
    }
    Ok(())
}

#[test]
fn a_card_that_cannot_start_is_told_with_its_own_reason_and_code() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "guest", b"")?;
    let play = ["play", "--guest", "guest", "--qemu", "/bin/false"];
    for (options, code, complaint) in [
        (&["--card", "no-such-card"][..], 1, "there is no card at no-such-card"),
        (&["-o", "no/such/dir.wav"], 1, "no/such/dir.wav"),
        (&["--bank", "no.sf2"], 3, "cannot read no.sf2"),
    ] {
        let done = run(&mut runner(&[&play[..], options].concat(), dir.path())?)?;
        assert_eq!(done.status.code(), Some(code), "{options:?}: {}", said(&done));
        assert!(said(&done).contains(complaint), "{options:?}: {}", said(&done));
    }
    Ok(())
}

#[test]
fn the_benchmarks_refuse_what_they_do_not_know() -> anyhow::Result<()> {
    for (arguments, complaint) in [
        (&[][..], "what is to be measured"),
        (&["frobnicate"], "unknown argument frobnicate"),
        (&["ring", "transport"], "one subject at a time"),
        (&["ring", "--json"], "--json wants a file"),
    ] {
        let done = run(programs::script("bench").args(arguments))?;
        assert_eq!(done.status.code(), Some(2), "{}", said(&done));
        assert!(said(&done).contains(complaint), "{}", said(&done));
    }
    Ok(())
}
