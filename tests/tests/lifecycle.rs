//! Clients that come and go, in the middle of playing: the card keeps nothing of them.

use dmus_interface::event::PointerWidth;
use dmus_interface::ring::Status;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, signal, until};
use dmus_tests::raw::{RawStream, seconds};
use rustix::process::{Resource, Rlimit};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

const ROUNDS: usize = 1000;

/// Descriptors, mappings and threads of a process.
fn holdings(pid: u32) -> anyhow::Result<[usize; 3]> {
    let entries =
        |name: &str| -> anyhow::Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/{name}"))?.count()) };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok([entries("fd")?, maps.lines().filter(|line| line.contains("memfd:")).count(), entries("task")?])
}

/// Whether the card has said something with these words.
fn has_said(log: &Path, words: &str) -> bool {
    std::fs::read_to_string(log).is_ok_and(|said| said.contains(words))
}

/// Neither the client's socket nor a MIDI input is lost when descriptors run out for a while.
#[test]
fn who_connects_while_descriptors_have_run_out_is_served_once_there_are_some() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let [socket, midi, log] = ["card.sock", "midi.sock", "log"].map(|name| dir.path().join(name));
    let mut command = Command::new("bash");
    command.args(["-c", "exec \"$0\" \"$@\" 2>log"]).arg(programs::card()?.get_program());
    command.args(["serve", "--clock", "realtime", "--socket", "card.sock", "--midi-in", "unix:midi.sock"]);
    let card = Running::start(command.current_dir(dir.path()))?;
    until("the sockets", LIMIT, || socket.exists() && midi.exists() && has_said(&log, "listening"))?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(card.id())?);
    let limit = |current| Rlimit { current: Some(current), maximum: Some(4096) };

    rustix::process::prlimit(pid, Resource::Nofile, limit(0))?;
    // The kernel sets a descriptor aside before it waits for a connection: these two are accepted still.
    drop([UnixStream::connect(&midi)?, UnixStream::connect(&socket)?]);
    until("two complaints", LIMIT, || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.matches("a connection waits: Too many open files").count() == 2
    })?;
    let sender = UnixStream::connect(&midi)?;
    let before = holdings(card.id())?[0];
    rustix::process::prlimit(pid, Resource::Nofile, limit(1024))?;
    let client = Loopback::new(&socket)?;
    until("both are accepted", LIMIT, || holdings(card.id()).is_ok_and(|[open, ..]| open >= before + 2))?;
    drop((client, sender));
    assert!(!has_said(&log, "a MIDI input ends"));
    Ok(())
}

#[test]
fn a_client_that_says_nothing_gives_way_and_holds_up_no_end() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("card.sock");
    let log = dir.path().join("log");
    let mut command = programs::card()?;
    command.args(["serve", "--once", "--clock", "virtual", "--socket"]).arg(&socket);
    let mut card = Running::start_logging(&mut command, File::create(&log)?)?;
    until("the socket", LIMIT, || has_said(&log, "listening"))?;
    let mut silent = UnixStream::connect(&socket)?;
    until("a word of it", LIMIT, || has_said(&log, "has not negotiated"))?;
    silent.set_nonblocking(true)?;
    assert_eq!(silent.read(&mut [0]).expect_err("nobody waits").kind(), ErrorKind::WouldBlock);
    // It was no client: a card that serves one serves this one.
    next_driver_plays(&Loopback::new(&socket)?)?;
    silent.set_nonblocking(false)?;
    silent.set_read_timeout(Some(LIMIT))?;
    assert_eq!(silent.read(&mut [0])?, 0);
    until("the card's end", LIMIT, || card.status().is_some())?;

    let card = Running::start_logging(&mut command, Stdio::null())?;
    until("the socket", LIMIT, || socket.exists())?;
    let _silent = UnixStream::connect(&socket)?;
    let asked = Instant::now();
    signal(card.id(), "TERM");
    assert_eq!(card.output()?.status.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    Ok(())
}

#[test]
fn a_thousand_clients_that_leave_while_playing_leave_nothing_behind() -> anyhow::Result<()> {
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("card.sock");
        let arguments = ["serve", "--clock", "virtual", "--transport", transport, "--socket"];
        let mut card = Running::start(programs::card()?.args(arguments).arg(&socket).env("DMUS_LOG", "off"))?;
        until("the socket", LIMIT, || socket.exists())?;
        let mut before = None;
        for round in 0..ROUNDS {
            let platform = Loopback::new(&socket)?;
            let stream = RawStream::running(&platform, PointerWidth::Eight)?;
            stream.submit(0, stream.inline(0, &[0x90, 60, 100]), seconds(1));
            assert_eq!(stream.completion()?.status, Status::Presented, "round {round}");
            // More than is rendered before the client is gone.
            stream.submit(1, stream.inline(seconds(1000), &[0x90, 61, 100]), seconds(1000));
            if round == 9 {
                before = Some(holdings(card.id())?);
            }
            if round == ROUNDS - 1 {
                assert_eq!(before, Some(holdings(card.id())?), "descriptors, mappings, threads behind {transport}");
            }
        }
        assert!(card.status().is_none());
    }
    Ok(())
}
