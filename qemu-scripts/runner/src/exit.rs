//! How a run ends: the exit codes, the failures that have one, and the signals that ask for an early end.
//!
//! Fed by everything that can fail; feeds `main`.

use anyhow::Context;
use dmus_card::files::FileError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Unusable = 3,
    Qemu = 4,
    Guest = 5,
    Stalled = 6,
    CardGone = 7,
    QemuGone = 8,
    /// The driver broke a rule: the card's own exit code for that.
    Violation = 9,
    /// Of `hil`: the host was at fault, and nothing is known of the guest. `git bisect run` skips it.
    Host = 125,
    Interrupted = 130,
}

/// A failure that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let exit = match error.downcast_ref::<Failure>() {
        Some(failure) => failure.exit,
        None if error.is::<FileError>() => Exit::Unusable,
        None => Exit::Failed,
    };
    ExitCode::from(exit as u8)
}

/// Whether somebody asked this process to end.
#[derive(Clone)]
pub(crate) struct Interrupt {
    ended: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
}

impl Interrupt {
    /// From here on, SIGHUP, SIGINT and SIGTERM are noted instead of killing this process.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let this = Self { ended: Arc::default(), interrupted: Arc::default() };
        for (signal, flag) in [(SIGHUP, &this.ended), (SIGTERM, &this.ended), (SIGINT, &this.interrupted)] {
            signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot handle signals")?;
        }
        Ok(this)
    }

    /// What the terminal has sent until now was for another program.
    pub(crate) fn forget_interrupts(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
    }

    /// Fails once a signal came.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.ended.load(Ordering::Relaxed) || self.interrupted.load(Ordering::Relaxed) {
            true => Err(Failure::new(Exit::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }
}
