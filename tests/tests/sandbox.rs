//! The sandbox from inside, and the card in it.

use anyhow::ensure;
use dmus_interface::event::PointerWidth;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, run, said, signal, until};
use dmus_tests::raw::RawStream;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

const EACCES: i32 = 13;
const SIGSYS: i32 = 31;
/// How long a card may take to listen or to end.
const SHORT: Duration = Duration::from_secs(20);

/// How an attempt in a directory of its own ends.
fn attempt(what: &str, outside: bool) -> anyhow::Result<ExitStatus> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    let _listener = UnixListener::bind(dir.path().join("socket"))?;
    let mut helper = Command::new(env!("CARGO_BIN_EXE_sandboxed"));
    helper.arg(what).arg(dir.path());
    if outside {
        helper.env("OUTSIDE", "1");
    }
    let done = run(&mut helper)?;
    ensure!(outside || dir.path().join("file").exists() && !dir.path().join("new").exists(), "{what} did something");
    ensure!(!said(&done).contains("Error"), "{what}: {}", said(&done));
    Ok(done.status)
}

#[test]
fn what_libraries_try_in_passing_is_refused() -> anyhow::Result<()> {
    for what in [
        "open a file",
        "open in a thread from before",
        "create a file",
        "ask for a file's size",
        "ask for a file's size by a flag",
        "read a link",
    ] {
        assert_eq!(attempt(what, false)?.code(), Some(EACCES), "{what}");
        assert_eq!(attempt(what, true)?.code(), Some(0), "{what}");
    }
    Ok(())
}

#[test]
fn what_only_an_intruder_tries_ends_the_process() -> anyhow::Result<()> {
    for what in [
        "remove a file",
        "rename a file",
        "make a directory",
        "change a file's mode",
        "make a socket",
        "connect by TCP",
        "listen by TCP",
        "make a UDP socket",
        "connect to a Unix socket",
        "listen on a Unix socket",
        "signal another process",
        "trace a process",
        "make memory executable",
        "execute a program",
        "start a program",
    ] {
        assert_eq!(attempt(what, false)?.signal(), Some(SIGSYS), "{what}");
        // Some of these fail outside too, where nobody listens or a container forbids it; but nothing kills.
        assert_eq!(attempt(what, true)?.signal(), None, "{what}");
    }
    Ok(())
}

const NO_CAPABILITIES: &str = "0000000000000000";

/// A field of every thread's status.
fn of_threads(pid: u32, field: &str) -> anyhow::Result<Vec<String>> {
    let mut values = vec![];
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        values.push(value.unwrap_or_default().trim().to_owned());
    }
    Ok(values)
}

fn serve(dir: &Path, more: &[&str]) -> anyhow::Result<Running> {
    let arguments = ["serve", "--socket", "card.sock", "--clock", "virtual", "--sink", "wav:out.wav"];
    let card = Running::start(programs::card()?.args(arguments).args(more).current_dir(dir))?;
    // The card makes its file when somebody watches over its socket.
    until("the socket and the file", SHORT, || dir.join("card.sock").exists() && dir.join("out.wav").exists())?;
    Ok(card)
}

#[test]
fn every_thread_of_a_serving_card_is_inside_and_with_no_sandbox_none() -> anyhow::Result<()> {
    for (transport, more, filters, privileges) in
        [("own", &[][..], "3", "1"), ("crate", &[], "3", "1"), ("own", &["--no-sandbox"], "0", "0")]
    {
        let dir = tempfile::tempdir()?;
        let card = serve(dir.path(), &[&["--transport", transport], more].concat())?;
        // Once a client is served, all of its threads are there.
        RawStream::running(&Loopback::new(&dir.path().join("card.sock"))?, PointerWidth::Eight)?;
        assert_eq!(of_threads(card.id(), "Seccomp_filters")?, [filters; 4], "{transport} {more:?}");
        assert_eq!(of_threads(card.id(), "NoNewPrivs")?, [privileges; 4], "{transport} {more:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(of_threads(card.id(), set)?, [NO_CAPABILITIES; 4], "{set} {transport} {more:?}");
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(of_threads(card.id(), "CapBnd")?, [NO_CAPABILITIES; 4], "{transport} {more:?}");
        }
        signal(card.id(), "INT");
        let done = card.output()?;
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        assert_eq!(said(&done).contains("without its sandbox"), filters == "0", "{}", said(&done));
        assert!(!dir.path().join("card.sock").exists());
    }
    Ok(())
}

#[test]
fn a_card_killed_by_its_sandbox_leaves_a_valid_wav_and_no_socket() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let card = serve(dir.path(), &[])?;
    RawStream::running(&Loopback::new(&dir.path().join("card.sock"))?, PointerWidth::Eight)?;
    // What the kernel does to it.
    signal(card.id(), "SYS");
    assert_eq!(card.output()?.status.signal(), Some(SIGSYS));
    until("the socket's removal", SHORT, || !dir.path().join("card.sock").exists())?;
    assert!(hound::WavReader::open(dir.path().join("out.wav")).is_ok());
    Ok(())
}

#[test]
fn a_swept_socket_is_never_another_cards() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let card = serve(dir.path(), &[])?;
    let socket = dir.path().join("card.sock");
    std::fs::remove_file(&socket)?;
    let _other = UnixListener::bind(&socket)?;
    signal(card.id(), "INT");
    assert_eq!(card.output()?.status.code(), Some(130));
    assert!(socket.exists());
    Ok(())
}

#[test]
fn a_card_of_root_serves_as_the_user_that_it_is_told() -> anyhow::Result<()> {
    let refused = |user: &str| -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let done = run(programs::card()?.args(["serve", "--socket", "s", "--user", user]).current_dir(dir.path()))?;
        ensure!(done.status.code() == Some(1), "{user}: {}", done.status);
        Ok(said(&done))
    };
    for user in ["no such user", "4294967295", "4294967296"] {
        assert!(refused(user)?.contains("there is no such user"), "{user}");
    }
    if !rustix::process::geteuid().is_root() {
        assert!(refused("nobody")?.contains("cannot serve as user nobody: "));
        return Ok(());
    }
    for (user, uid, gid) in [("nobody", "65534", "65534"), ("65534", "65534", "65534"), ("54321", "54321", "54321")] {
        let dir = tempfile::tempdir()?;
        let card = serve(dir.path(), &["--user", user])?;
        next_driver_plays(&Loopback::new(&dir.path().join("card.sock"))?)?;
        assert_eq!(of_threads(card.id(), "Uid")?, vec![[uid; 4].join("\t"); 4], "{user}");
        assert_eq!(of_threads(card.id(), "Gid")?, vec![[gid; 4].join("\t"); 4], "{user}");
        assert_eq!(of_threads(card.id(), "Groups")?, [""; 4], "{user}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(of_threads(card.id(), set)?, [NO_CAPABILITIES; 4], "{set} of {user}");
        }
        signal(card.id(), "TERM");
        assert_eq!(card.output()?.status.code(), Some(130));
        assert!(hound::WavReader::open(dir.path().join("out.wav")).is_ok());
        assert!(!dir.path().join("card.sock").exists());
    }
    Ok(())
}

#[test]
fn a_stopped_sweeper_does_not_hold_up_the_cards_end() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut card = serve(dir.path(), &["--midi-in", "unix:midi.sock", "--json", "card.json"])?;
    until("the last of its files", SHORT, || dir.path().join("card.json").exists())?;
    let sweepers = programs::descendants(card.id());
    assert_eq!(sweepers.len(), 2, "{sweepers:?}");
    sweepers.iter().for_each(|(sweeper, _)| signal(*sweeper, "STOP"));
    signal(card.id(), "TERM");
    let ended = until("its end", Duration::from_secs(4), || card.status().is_some());
    sweepers.iter().for_each(|(sweeper, _)| signal(*sweeper, "CONT"));
    ended?;
    assert_eq!(card.status().and_then(|status| status.code()), Some(130));
    until("the sockets' removal", SHORT, || {
        !["card.sock", "midi.sock"].iter().any(|name| dir.path().join(name).exists())
    })
}
