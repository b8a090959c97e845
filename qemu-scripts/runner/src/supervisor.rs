//! The two processes of a playing, recording or trying, card and QEMU: started, watched, and ended whatever happens.
//!
//! Fed by `play`, `record`, `conform` and `zoo` with a [`Job`]; feeds [`crate::guest`] with the serial line, and the
//! caller with what the guest said and what the card counted.

use crate::card::{self, Card, Checking};
use crate::culprit::Culprit;
use crate::debugger::Debugger;
use crate::exit::{Exit, Failure, Interrupt};
use crate::guest::GuestReport;
use crate::machine::{Job, Machine};
use crate::process::{self, Process};
use crate::progress::Progress;
use crate::qemu::{self, GUEST_SUCCESS};
use anyhow::Context;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often signals and processes are looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// How long QEMU may take to end, once it has closed its output.
const QEMU_LIMIT: Duration = Duration::from_secs(20);

/// Runs a job to its end, with the files of the run in `dir`; gives what the guest said and what the card counted.
/// Signals end the run in order.
pub(crate) fn run(
    machine: &Machine,
    job: &Job,
    dir: &Path,
    progress: &mut Progress,
) -> anyhow::Result<(GuestReport, Value)> {
    run_under(machine, job, dir, progress, None)
}

/// The same, under a debugger, which is opened where the guest is held.
pub(crate) fn run_under(
    machine: &Machine,
    job: &Job,
    dir: &Path,
    progress: &mut Progress,
    debugger: Option<&mut Debugger>,
) -> anyhow::Result<(GuestReport, Value)> {
    let interrupt = Interrupt::catch()?;
    let culprit = Culprit::prepare(&machine.programs, machine.guest(), dir, machine.checking.stops())?;
    let mut more = job.card.clone();
    more.extend(debugger.iter().flat_map(|debugger| debugger.card()));
    more.extend(culprit.iter().flat_map(Culprit::card));
    let options = card::Options {
        clock: machine.clock_name(),
        checking: machine.checking.with(culprit.is_some()),
        more,
        log: Some(job.log),
        log_file: job.log_file.clone(),
    };
    let mut card = Card::start(&machine.programs, dir, &options, &interrupt)?;
    let guest = GuestReport::new();
    let more = debugger.as_ref().map(|debugger| debugger.qemu()).unwrap_or_default();
    let watched = start_qemu(machine, job, card.socket(), culprit.as_ref(), &more).and_then(|mut qemu| {
        progress.boot();
        let limit = match &debugger {
            Some(debugger) if debugger.is_attached_by_hand() => Duration::MAX,
            _ => Duration::from_secs(machine.time_limit),
        };
        let culprit = culprit.as_ref();
        Watch { qemu: &mut qemu, card: &mut card, interrupt: &interrupt, limit, culprit, debugger }.run(guest, progress)
    });
    progress.finish();
    if let Some(culprit) = culprit.filter(|_| machine.programs.culprit.culprit) {
        culprit.report();
    }
    // A terminal interrupts all three processes at once, and another's end may be seen first.
    let watched = interrupt.check().map_err(anyhow::Error::from).and(watched);
    match watched {
        Ok(guest) => {
            let (counters, violated) = card.finish()?;
            Checking::judge(violated && !job.misbehaves)?;
            Ok((guest, counters))
        }
        Err(error) => {
            card.abandon();
            Err(error)
        }
    }
}

fn start_qemu(
    machine: &Machine,
    job: &Job,
    socket: &Path,
    culprit: Option<&Culprit>,
    more: &[OsString],
) -> anyhow::Result<Process> {
    let mut command = machine.qemu_command(socket, job, culprit)?;
    command.extend_from_slice(more);
    tracing::debug!("{command:?}");
    let mut command = process::command(&command)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // As the card.
    let qemu = Process::start(command.process_group(0));
    qemu.map_err(|error| Failure::new(Exit::Qemu, format!("cannot start QEMU: {error}")).into())
}

/// A guest that runs.
struct Watch<'a> {
    qemu: &'a mut Process,
    card: &'a mut Card,
    interrupt: &'a Interrupt,
    /// How long the guest may say nothing.
    limit: Duration,
    culprit: Option<&'a Culprit>,
    debugger: Option<&'a mut Debugger>,
}

impl Watch<'_> {
    /// Follows the guest's serial line until QEMU ends.
    fn run(&mut self, mut guest: GuestReport, progress: &mut Progress) -> anyhow::Result<GuestReport> {
        let complaints = complaints_of(self.qemu.stderr()?);
        let lines = lines_of(self.qemu.stdout()?);
        let (mut last_sign, mut held) = (Instant::now(), 0);
        loop {
            let now_held = self.culprit.map_or(0, Culprit::held);
            if std::mem::replace(&mut held, now_held) != now_held {
                self.at_mistake()?;
                (last_sign, held) = (Instant::now(), self.culprit.map_or(0, Culprit::held));
            }
            self.interrupt.check()?;
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    tracing::debug!("guest: {line}");
                    last_sign = Instant::now();
                    if let Some(position) = guest.take(&line) {
                        progress.show(position);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if last_sign.elapsed() > self.limit => {
                    let (limit, last) = (self.limit.as_secs(), guest.last_words());
                    let message = format!("the guest stood still for {limit} s and was ended{last}");
                    return Err(Failure::new(Exit::Stalled, message).into());
                }
                Err(RecvTimeoutError::Timeout) => self.card.check()?,
            }
        }
        let status = self.qemu.wait(QEMU_LIMIT)?.context("QEMU closed its output and did not end")?;
        let complaints = complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        match status.code() {
            // What is debugged may be a guest that says nothing of what this project's do.
            Some(GUEST_SUCCESS) if guest.summary.is_some() || self.debugger.is_some() => Ok(guest),
            _ => {
                self.card.check()?;
                Err(judge(status, &guest, complaints.trim()).into())
            }
        }
    }
}

impl Watch<'_> {
    /// The guest is held at a mistake.
    fn at_mistake(&mut self) -> anyhow::Result<()> {
        let (Some(debugger), Some(culprit)) = (&mut self.debugger, self.culprit) else {
            let message = "the guest was held at its first mistake, which the card's report names, and was ended";
            return Err(Failure::new(Exit::Violation, message).into());
        };
        debugger.open(self.interrupt, culprit)
    }
}

/// What a QEMU that did not end with success died of.
fn judge(status: ExitStatus, guest: &GuestReport, complaints: &str) -> Failure {
    let (exit, message) = match status.code() {
        None => (Exit::QemuGone, format!("QEMU was killed while the guest ran ({status})")),
        Some(_) if guest.error.is_some() || guest.spoke => {
            (Exit::Guest, format!("the guest failed{}", guest.last_words()))
        }
        Some(3 | 4 | 126 | 127) => (Exit::Qemu, format!("QEMU cannot be started: {complaints}")),
        Some(_) if !complaints.is_empty() => (Exit::Qemu, format!("QEMU failed: {complaints}")),
        Some(code) => (Exit::Guest, format!("the guest ended without a word (QEMU's exit code {code})")),
    };
    Failure::new(exit, message)
}

/// Lines of the guest, however broken.
fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// All that QEMU complains of, at its end, less what is harmless; what the plugin says is passed on at once.
pub(crate) fn complaints_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let plugin = |line: &String| {
            let said = line.strip_prefix("dmus-plugin: ");
            said.inspect(|said| tracing::warn!("{said}")).is_some()
        };
        let lines: Vec<_> = lines.filter(|line| !qemu::is_harmless(line) && !plugin(line)).collect();
        let _ = sender.send(lines.join("\n"));
    });
    receiver
}
