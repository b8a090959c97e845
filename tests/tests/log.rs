//! The card's log where it cannot be written, and where a guest or a client would fill it.

use anyhow::{Context, ensure};
use dmus_tests::attack::next_driver_plays;
use dmus_tests::loopback::Loopback;
use dmus_tests::programs::{self, Running, said, signal, until};
use dmus_tests::raw::Bus;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
/// A command that vfio-user does not have, answered with a refusal.
const UNKNOWN: u16 = 99;
const HEADER: usize = 16;

/// A card whose standard error is this.
fn serve(dir: &Path, stderr: impl Into<Stdio>) -> anyhow::Result<Running> {
    let mut command = programs::card()?;
    command
        .args(["serve", "--clock", "virtual", "--socket", "card.sock", "--json", "card.json"])
        .args(["--check", "off"])
        .current_dir(dir);
    let card = Running::start_logging(&mut command, stderr)?;
    // It makes that file last of all.
    until("the counters' file", LIMIT, || dir.join("card.json").exists())?;
    Ok(card)
}

/// A guest that accesses what no register is, so many times, and the next driver, whose client stays.
fn misbehaving(dir: &Path, times: usize) -> anyhow::Result<Loopback> {
    let guest = Loopback::new(&dir.join("card.sock"))?;
    for _ in 0..times {
        guest.write_bar0(1, &[0]);
    }
    next_driver_plays(&guest)?;
    Ok(guest)
}

fn misbehave(dir: &Path, times: usize) -> anyhow::Result<()> {
    misbehaving(dir, times).map(drop)
}

/// Ends it, and says how long that took.
fn end(card: Running) -> anyhow::Result<Duration> {
    let asked = Instant::now();
    signal(card.id(), "TERM");
    let done = card.output()?;
    ensure!(done.status.code() == Some(130), "{}: {}", done.status, said(&done));
    Ok(asked.elapsed())
}

/// Sends that command so often; the card answers each.
fn refused(client: &mut UnixStream, command: u16, times: usize) -> anyhow::Result<()> {
    let mut message = [0; HEADER];
    message[2..4].copy_from_slice(&command.to_le_bytes());
    message[4] = HEADER as u8;
    for _ in 0..times {
        client.write_all(&message)?;
        client.read_exact(&mut [0; HEADER])?;
    }
    Ok(())
}

#[test]
fn a_full_disk_under_the_log_ends_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let full = File::options().write(true).open("/dev/full")?;
    let card = serve(dir.path(), full)?;
    for _ in 0..2 {
        misbehave(dir.path(), 100)?;
    }
    end(card)?;
    Ok(())
}

#[test]
fn a_reader_of_the_log_that_has_gone_ends_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let card = serve(dir.path(), writer)?;
    for _ in 0..2 {
        misbehave(dir.path(), 100)?;
    }
    end(card)?;
    Ok(())
}

#[test]
fn a_reader_of_the_log_that_does_not_read_holds_nothing_up() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&writer, 4096)?;
    File::from(writer.try_clone()?).write_all(&[b'x'; 4096])?;
    let card = serve(dir.path(), writer)?;
    for _ in 0..2 {
        misbehave(dir.path(), 100)?;
    }
    let took = end(card)?;
    ensure!(took < Duration::from_secs(4), "its end took {took:?}");
    // What it held is lost with it; a pipe that still is full has nothing else.
    let mut left = String::new();
    File::from(reader).read_to_string(&mut left)?;
    assert_eq!(left, "x".repeat(4096));
    Ok(())
}

#[test]
fn lines_that_were_lost_are_counted_once_the_log_can_be_written_again() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("log");
    let card = serve(dir.path(), File::create(&path)?)?;
    let words = || std::fs::read_to_string(&path).unwrap_or_default();
    until("the card's word", LIMIT, || words().contains("listening on"))?;
    let pid = Pid::from_raw(i32::try_from(card.id())?).context("no process")?;
    let room = |current| Rlimit { current, maximum: None };
    // As a disk that is full, and then is not. The card makes its page for the next client where that limit holds too,
    // so this one stays until there is room.
    let full = words().len() + 7;
    prlimit(Some(pid), Resource::Fsize, room(Some(full as u64)))?;
    let guest = misbehaving(dir.path(), 5)?;
    until("the beginning of a line", LIMIT, || words().len() == full)?;
    prlimit(Some(pid), Resource::Fsize, room(None))?;
    // Without another line.
    until("the number of lost lines", LIMIT, || words().contains(" lines of the log were lost"))?;
    drop(guest);
    misbehave(dir.path(), 3)?;
    end(card)?;
    let words = words();
    let lost = words.lines().find_map(|line| line.strip_prefix(" WARN ")?.split_once(" lines of the log were lost"));
    let lost: usize = lost.context("no number")?.0.parse()?;
    // Those of the faults, and that two clients have gone.
    let written = words.matches("driver fault ").count() + words.matches("the client has gone").count();
    assert!(lost > 0 && written >= 5 && lost + written == 10, "{words}");
    Ok(())
}

/// The commands that a log says were refused: those with a line each, and those that were left out.
fn told(words: &str) -> (usize, usize) {
    let lines = || words.lines().filter(|line| line.contains(" of the client is refused: "));
    let left_out = lines().filter_map(|line| line.trim_start().strip_prefix("WARN ")?.split_once(" more lines"));
    let left_out: Vec<usize> = left_out.filter_map(|(number, _)| number.parse().ok()).collect();
    (lines().count() - left_out.len(), left_out.iter().sum())
}

#[test]
fn a_client_cannot_fill_the_log_and_takes_no_line_from_the_next() -> anyhow::Result<()> {
    const TIMES: usize = 2000;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("log");
    let card = serve(dir.path(), File::create(&path)?)?;
    let words = || std::fs::read_to_string(&path).unwrap_or_default();
    let began = Instant::now();
    let connect = || UnixStream::connect(dir.path().join("card.sock"));
    refused(&mut connect()?, UNKNOWN, TIMES)?;
    refused(&mut connect()?, UNKNOWN + 1, 1)?;
    let seconds = began.elapsed().as_secs() as usize + 1;
    until("the next client's line", LIMIT, || words().contains(&format!("command {} of", UNKNOWN + 1)))?;
    // It is said when its second is over, not when there is another line.
    until("how many were left out", LIMIT, || told(&words()).1 > 0)?;
    end(card)?;
    let (lines, left_out) = told(&words());
    assert_eq!(lines + left_out, TIMES + 1, "{}", words());
    assert!(lines <= 20 * seconds + 1, "{lines} lines in {seconds} s");
    Ok(())
}

#[test]
fn clients_that_come_and_go_cannot_fill_the_log_together() -> anyhow::Result<()> {
    const CLIENTS: usize = 60;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("log");
    let card = serve(dir.path(), File::create(&path)?)?;
    let began = Instant::now();
    for _ in 0..CLIENTS {
        refused(&mut UnixStream::connect(dir.path().join("card.sock"))?, UNKNOWN, 20)?;
    }
    let seconds = began.elapsed().as_secs() as usize + 1;
    end(card)?;
    let words = std::fs::read_to_string(&path)?;
    let (lines, left_out) = told(&words);
    assert_eq!(lines + left_out, CLIENTS * 20, "{words}");
    assert!(lines <= 200 * seconds, "{lines} lines in {seconds} s");
    Ok(())
}

#[test]
fn output_that_nobody_takes_is_no_panic() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let export = |stdout: Stdio| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = programs::card()?;
        command.args(["bank", "export", "--dls", "gm.dls"]).current_dir(dir.path()).stdout(stdout);
        let done = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
        Ok((done.status.code(), said(&done)))
    };
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    assert_eq!(export(writer.into())?, (Some(0), String::new()));
    let (code, words) = export(File::options().write(true).open("/dev/full")?.into())?;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("cannot write to standard output: No space left"), "{words}");
    Ok(())
}
