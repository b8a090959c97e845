//! The card as a child process: `dmus-card serve`, for one client, on a socket in a directory of this run.
//!
//! Fed by [`crate::supervisor`] and `shell`; feeds them with the socket to give to QEMU, and at the end with what the
//! card counted.

use crate::exit::{Exit, Failure, Interrupt};
use crate::process::{self, Process};
use crate::programs::Programs;
use anyhow::{Context, bail, ensure};
use dmus_card::check::Allowed;
use serde_json::Value;
use signal_hook::consts::SIGSYS;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long the card may take to listen, and to complete its files at the end.
const LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked for the card's files.
const POLL: Duration = Duration::from_millis(2);
/// How long a card may take to see that its client has gone, before it is told.
const NOTICE: Duration = Duration::from_millis(200);

/// What the card does about mistakes of the guest's driver, and what it keeps of the run.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Checking {
    /// Have the card name each mistake of the driver, with what led to it; see dmus-card serve --help. If one of them
    /// is an error, the exit code is 9. With stop the run ends right there, in software emulation; the command debug
    /// opens gdb there instead.
    #[arg(long, value_enum, default_value = "off")]
    check: Check,
    /// Write what was found to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Let breaches of this rule be no reason to fail; may be given again.
    #[arg(long, value_name = "NAME=REASON")]
    allow: Vec<Allowed>,
    /// Keep all that the card observes in this file, to replay it without QEMU: see dmus-card replay, diff, trace and
    /// report.
    #[arg(long, value_name = "FILE.dmc")]
    record: Option<PathBuf>,
    /// Write a trace of the run for ui.perfetto.dev to this file.
    #[arg(long, value_name = "FILE.pftrace")]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Check {
    #[default]
    Off,
    Warn,
    Stop,
}

impl Checking {
    /// Of a run whose evidence is kept in these files; with a report the driver is checked.
    pub(crate) fn kept(report: Option<PathBuf>, record: PathBuf, allow: Vec<Allowed>) -> Self {
        let check = if report.is_some() { Check::Warn } else { Check::Off };
        Self { check, report, allow, record: Some(record), trace: None }
    }

    /// Whatever the user says of it.
    pub(crate) fn on(&mut self) {
        self.check = Check::Warn;
    }

    /// The same, and the guest is held at mistakes.
    pub(crate) fn stop(&mut self) {
        self.check = Check::Stop;
    }

    /// Whether the guest is held at mistakes.
    pub(crate) fn stops(&self) -> bool {
        self.check == Check::Stop
    }

    /// The same where a culprit is to be named: only a card that checks finds a mistake to name it for.
    pub(crate) fn with(&self, culprit: bool) -> Self {
        let mut checking = self.clone();
        if culprit && !checking.stops() {
            checking.on();
        }
        checking
    }

    /// The same for the card. Its own fault for what does not go together has the same code.
    fn options(&self) -> Vec<OsString> {
        let check = match self.check {
            Check::Off => "off",
            Check::Warn => "warn",
            Check::Stop => "stop",
        };
        let mut options = vec!["--check".into(), check.into()];
        for (option, file) in [("--report", &self.report), ("--record", &self.record), ("--trace", &self.trace)] {
            options.extend(file.iter().flat_map(|file| [option.into(), file.into()]));
        }
        let allow = self.allow.iter().map(|allowed| format!("{}={}", allowed.rule.name, allowed.reason));
        options.extend(allow.flat_map(|allow| ["--allow".into(), allow.into()]));
        options
    }

    /// Has a run that is not the only one of its command keep what it writes in files of its own.
    pub(crate) fn set_apart(&mut self, run: &str) {
        for file in [&mut self.report, &mut self.record, &mut self.trace].into_iter().flatten() {
            *file = apart(file, run);
        }
    }

    /// Fails if the driver broke rules.
    pub(crate) fn judge(violated: bool) -> anyhow::Result<()> {
        let message = "the driver broke rules of the data sheet, as the card's report says";
        ensure!(!violated, Failure::new(Exit::Violation, message));
        Ok(())
    }
}

/// `all.dmc` of a run is `all-RUN.dmc`. A device or a pipe, which nothing is kept in, has no other beside it.
fn apart(file: &Path, run: &str) -> PathBuf {
    let Some(stem) = file.file_stem().filter(|_| file.is_file() || !file.exists()) else {
        return file.into();
    };
    let mut name = stem.to_owned();
    name.push("-");
    name.push(run);
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

/// The exit code of a card that found mistakes of the driver.
const VIOLATION: i32 = Exit::Violation as i32;

/// Whether a card has done all that it had to.
fn is_done(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(VIOLATION)
}

/// How a card is started.
pub(crate) struct Options {
    /// As of `serve --clock`.
    pub(crate) clock: &'static str,
    pub(crate) checking: Checking,
    /// More options of `serve`.
    pub(crate) more: Vec<OsString>,
    /// What it logs if the user does not say: a level, or nothing for its own choice.
    pub(crate) log: Option<&'static str>,
    /// Where the log goes instead of standard error. The user has no say then.
    pub(crate) log_file: Option<PathBuf>,
}

/// A card that listens.
pub(crate) struct Card {
    process: Process,
    socket: PathBuf,
    json: PathBuf,
}

/// The socket, and the file of the counters, in the directory of a card.
pub(crate) const SOCKET: &str = "card.sock";
const COUNTERS: &str = "card.json";

impl Card {
    /// The command line of a card whose socket and counters are in `dir`.
    pub(crate) fn command(programs: &Programs, dir: &Path, options: &Options) -> anyhow::Result<Vec<OsString>> {
        let mut command: Vec<OsString> = vec![programs.card()?.into()];
        command.extend(["serve", "--once", "--clock", options.clock, "--socket"].map(OsString::from));
        command.extend([dir.join(SOCKET).into(), "--json".into(), dir.join(COUNTERS).into()]);
        command.extend(options.checking.options());
        command.extend(options.more.iter().cloned());
        if programs.no_sandbox {
            command.push("--no-sandbox".into());
        }
        Ok(command)
    }

    /// Starts a card whose socket and counters are in `dir`, and waits until it listens.
    pub(crate) fn start(
        programs: &Programs,
        dir: &Path,
        options: &Options,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let (socket, json) = (dir.join(SOCKET), dir.join(COUNTERS));
        let mut command = process::command(&Self::command(programs, dir, options)?)?;
        if let Some(log) = options.log
            && (options.log_file.is_some() || std::env::var_os("DMUS_LOG").is_none())
        {
            command.env("DMUS_LOG", format!("{log},vfio_user=off"));
        }
        if let Some(path) = &options.log_file {
            command.stderr(File::create(path).with_context(|| format!("cannot create {}", path.display()))?);
        }
        // Not of this process's group: what a terminal sends to that is this process's business.
        command.stdin(Stdio::null()).process_group(0);
        let mut process = Process::start(&mut command).context("cannot start the card")?;
        let deadline = Instant::now() + LIMIT;
        // It makes the file of its counters once it listens and has opened all else.
        while !json.exists() {
            interrupt.check()?;
            ensure!(Instant::now() < deadline, "the card did not listen within {LIMIT:?}");
            if let Some(status) = process.wait(POLL)? {
                // The card has said on standard error what is wrong; its codes for that mean the same here.
                let exit = match status.code() {
                    Some(2) => Exit::Usage,
                    Some(3) => Exit::Unusable,
                    _ => Exit::Failed,
                };
                return Err(Failure::new(exit, format!("the card could not start ({status})")).into());
            }
        }
        Ok(Self { process, socket, json })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Fails if it has ended with an error. (It ends by itself only after QEMU has.)
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.status()? {
            Some(status) if !is_done(status) => {
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

    /// Waits until it has completed its files, its client being gone, and gives what it counted, and whether the driver
    /// broke rules.
    pub(crate) fn finish(mut self) -> anyhow::Result<(Value, bool)> {
        let violated = match self.process.wait(LIMIT)? {
            None => bail!("the card did not end within {LIMIT:?} after its guest"),
            Some(status) if !is_done(status) => bail!("the card could not complete its work ({status})"),
            Some(status) => status.code() == Some(VIOLATION),
        };
        let text = std::fs::read_to_string(&self.json).context("the card left no summary")?;
        Ok((serde_json::from_str(&text).context("the card's summary is no JSON")?, violated))
    }

    /// Has it complete its files after a run that failed.
    pub(crate) fn abandon(mut self) {
        // It does by itself when its client has gone; without one, it must be told.
        if let Ok(None) = self.process.wait(NOTICE) {
            self.process.terminate(LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_run_that_is_not_the_only_one_have_names_of_their_own() {
        for (file, named) in [
            ("all.dmc", "all-realtime.dmc"),
            ("some/dir.d/all.v2.pftrace", "some/dir.d/all.v2-realtime.pftrace"),
            ("dir.d/all", "dir.d/all-realtime"),
            (".dmc", ".dmc-realtime"),
            ("/dev/null", "/dev/null"),
        ] {
            let file = || Some(PathBuf::from(file));
            let mut checking =
                Checking { check: Check::Off, report: file(), allow: Vec::new(), record: file(), trace: file() };
            checking.set_apart("realtime");
            let named = Some(PathBuf::from(named));
            assert_eq!([&checking.report, &checking.record, &checking.trace], [&named; 3]);
        }
    }
}
