//! The two processes of a playing, recording or trying, card and QEMU: started, watched, and ended whatever happens.
//!
//! Fed by `play`, `record` and `conform` with a [`Job`]; feeds [`super::guest`] with the serial line, and the caller with what the card counted. Both
//! processes are leashed to this one, so that none outlives it.

use super::guest::GuestReport;
use super::leash::leashed;
use super::machine::{Item, Machine};
use super::{Exit, Failure};
use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGSYS, SIGTERM};
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// isa-debug-exit makes this of the guest's success code; every other way to end gives another.
const GUEST_SUCCESS: i32 = 0x31 << 1 | 1;
/// How long the card may take to listen, and to complete its files at the end.
const CARD_LIMIT: Duration = Duration::from_secs(20);
/// How often signals and processes are looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// What a card and a guest are to do together.
pub(crate) struct Job {
    /// In a word, for people: "playing".
    pub(crate) doing: &'static str,
    /// Options of `serve`, beside those that every card has.
    pub(crate) card: Vec<String>,
    /// What the guest finds under `opt/dmus/`.
    pub(crate) items: Vec<(&'static str, Item)>,
    /// What the Linux guest has as /share: files that are large, since it reads items in a time that grows with the square of their size.
    pub(crate) share: Option<PathBuf>,
    /// The command of the Linux guest; others know by their items.
    pub(crate) linux: String,
    /// Where QEMU's own sound device plays to, if the guest has one.
    pub(crate) speaker: Option<PathBuf>,
    /// What the card logs at least, if the user does not say ("warn": it is quiet about itself, for this process tells the story).
    pub(crate) log: &'static str,
}

/// See the module.
pub(crate) struct Scene<'a> {
    machine: &'a Machine,
    dir: &'a Path,
    interrupted: Arc<AtomicBool>,
}

/// A child that does not outlive its scene.
struct Leashed(Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Scene<'a> {
    /// A scene that keeps its files in `dir`. From here on signals end it in order.
    pub(crate) fn new(machine: &'a Machine, dir: &'a Path) -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot handle signals")?;
        }
        Ok(Self { machine, dir, interrupted })
    }

    /// Does the job; gives what the guest said and what the card counted.
    pub(crate) fn run(&self, job: &Job, bar: &ProgressBar) -> anyhow::Result<(GuestReport, Value)> {
        let mut card = self.start_card(job)?;
        let guest = GuestReport::new();
        let mut qemu = self.start_qemu(job)?;
        let watched = self.watch(&mut qemu, guest, &mut card, &mut Progress::new(bar, job.doing));
        drop(qemu);
        // A terminal interrupts all three processes at once, and another's end may be seen first.
        let watched = match self.interrupted.load(Ordering::Relaxed) {
            true => Err(Failure::new(Exit::Interrupted, "interrupted").into()),
            false => watched,
        };
        if watched.is_err() {
            // The card completes its files when its client has gone.
            self.end_card(&mut card);
        }
        let guest = watched?;
        let status = self.wait_for_card(&mut card)?;
        if !status.success() {
            anyhow::bail!("the card could not complete its work ({status})");
        }
        let text = std::fs::read_to_string(self.card_json()).context("the card left no summary")?;
        Ok((guest, serde_json::from_str(&text).context("the card's summary is no JSON")?))
    }

    fn card_json(&self) -> PathBuf {
        self.dir.join("card.json")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("card.sock")
    }

    fn start_card(&self, job: &Job) -> anyhow::Result<Leashed> {
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let socket = self.socket();
        let text = |path: &Path| path.display().to_string();
        let mut command = vec![text(&this)];
        let clock = if self.machine.realtime { "realtime" } else { "virtual" };
        command.extend(["serve", "--once", "--clock", clock, "--socket"].map(str::to_owned));
        command.extend([text(&socket), "--json".into(), text(&self.card_json())]);
        command.extend(job.card.iter().cloned());
        if self.machine.no_sandbox {
            command.push("--no-sandbox".into());
        }
        let mut leash = leashed(&command)?;
        if std::env::var_os("DMUS_LOG").is_none() {
            leash.env("DMUS_LOG", format!("{},vfio_user=off", job.log));
        }
        let mut card = Leashed(leash.stdin(Stdio::null()).spawn().context("cannot start the card")?);
        let deadline = Instant::now() + CARD_LIMIT;
        while !socket.exists() {
            if let Some(status) = card.0.try_wait()? {
                anyhow::bail!("the card could not start ({status})");
            }
            anyhow::ensure!(Instant::now() < deadline, "the card did not listen within {CARD_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(card)
    }

    fn start_qemu(&self, job: &Job) -> anyhow::Result<Leashed> {
        let command = self.machine.qemu_command(&self.socket(), job)?;
        tracing::debug!("{}", command.join(" "));
        let mut leash = leashed(&command)?;
        let child = leash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| Failure::new(Exit::Qemu, format!("cannot start QEMU: {error}")))?;
        Ok(Leashed(child))
    }

    /// Follows the guest's serial line until QEMU ends.
    fn watch(
        &self,
        qemu: &mut Leashed,
        mut guest: GuestReport,
        card: &mut Leashed,
        progress: &mut Progress,
    ) -> anyhow::Result<GuestReport> {
        let complaints = collect(qemu.0.stderr.take().context("QEMU has no standard error")?);
        let lines = lines_of(qemu.0.stdout.take().context("QEMU has no standard output")?);
        let limit = Duration::from_secs(self.machine.time_limit);
        let mut last_sign = Instant::now();
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Failure::new(Exit::Interrupted, "interrupted").into());
            }
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    tracing::debug!("guest: {line}");
                    last_sign = Instant::now();
                    if let Some(position) = guest.take(&line) {
                        progress.show(position);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if last_sign.elapsed() > limit => {
                    let message =
                        format!("the guest stood still for {} s and was ended{}", limit.as_secs(), guest.last_words());
                    return Err(Failure::new(Exit::Stalled, message).into());
                }
                // The card ends by itself only after QEMU has.
                Err(RecvTimeoutError::Timeout) => self.expect_card(card)?,
            }
        }
        let status = qemu.0.wait().context("cannot wait for QEMU")?;
        let complaints = complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        match status.code() {
            Some(GUEST_SUCCESS) if guest.summary.is_some() => Ok(guest),
            _ => {
                self.expect_card(card)?;
                Err(self.judge(status, &guest, &complaints))
            }
        }
    }

    fn expect_card(&self, card: &mut Leashed) -> anyhow::Result<()> {
        match card.0.try_wait()? {
            Some(status) if !status.success() => {
                let why = match status.signal() {
                    Some(SIGSYS) => {
                        ": it tried a system call that its sandbox forbids (the kernel's log has the number), \
                         which is a defect of the card or an attack; --no-sandbox does without"
                    }
                    _ => "",
                };
                let message = format!("the card ended while the guest ran ({status}){why}");
                Err(Failure::new(Exit::CardGone, message).into())
            }
            _ => Ok(()),
        }
    }

    /// What a QEMU that did not end with success died of.
    fn judge(&self, status: ExitStatus, guest: &GuestReport, complaints: &str) -> anyhow::Error {
        let complaints = complaints.trim();
        let (exit, message) = match status.code() {
            None => (Exit::QemuGone, format!("QEMU was killed while the guest ran ({status})")),
            Some(_) if guest.error.is_some() || guest.spoke => {
                (Exit::Guest, format!("the guest failed{}", guest.last_words()))
            }
            Some(3 | 4 | 126 | 127) => (Exit::Qemu, format!("QEMU cannot be started: {complaints}")),
            Some(_) if !complaints.is_empty() => (Exit::Qemu, format!("QEMU failed: {complaints}")),
            Some(code) => (Exit::Guest, format!("the guest ended without a word (QEMU's exit code {code})")),
        };
        Failure::new(exit, message).into()
    }

    /// Asks the card to complete its files.
    fn end_card(&self, card: &mut Leashed) {
        if self.wait_for_exit(card, Duration::from_millis(200)).is_none()
            && let Some(pid) = rustix::process::Pid::from_raw(card.0.id() as i32)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            self.wait_for_exit(card, CARD_LIMIT);
        }
    }

    fn wait_for_card(&self, card: &mut Leashed) -> anyhow::Result<ExitStatus> {
        self.wait_for_exit(card, CARD_LIMIT)
            .with_context(|| format!("the card did not end within {CARD_LIMIT:?} after its guest"))
    }

    fn wait_for_exit(&self, child: &mut Leashed, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match child.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }
}

/// How far the guest is: a bar on a terminal, elsewhere a line each quarter.
struct Progress<'a> {
    bar: &'a ProgressBar,
    doing: &'static str,
    next_quarter: u64,
}

impl<'a> Progress<'a> {
    fn new(bar: &'a ProgressBar, doing: &'static str) -> Self {
        let plain = !std::io::stderr().is_terminal();
        if plain {
            eprintln!("booting the guest ...");
        }
        bar.set_message("booting");
        bar.tick();
        Self { bar, doing, next_quarter: if plain { 1 } else { u64::MAX } }
    }

    /// The guest is at this millisecond.
    fn show(&mut self, position: u64) {
        self.bar.set_message(self.doing);
        self.bar.set_position(position);
        let length = self.bar.length().unwrap_or(0).max(1);
        while self.next_quarter <= 4 && position * 4 >= self.next_quarter * length {
            eprintln!("{} ... {} %", self.doing, self.next_quarter * 25);
            self.next_quarter += 1;
        }
    }
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

/// All that QEMU complains of, less what is harmless.
fn collect(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let lines: Vec<_> = lines.filter(|line| !line.contains("enable error recovery")).collect();
        let _ = sender.send(lines.join("\n"));
    });
    receiver
}
