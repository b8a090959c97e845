//! The subcommands, and their exit codes.

pub(crate) mod ask;
pub(crate) mod bank;
pub(crate) mod explain;
pub(crate) mod header;
mod midi_in;
pub(crate) mod render;
pub(crate) mod serve;
pub(crate) mod sweep;

use anyhow::Context;
use dmus_card::files::FileError;
use std::io::{ErrorKind, Result, Write};
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Unusable = 3,
    /// The driver broke a rule, and that is an error.
    Violation = 9,
    Interrupted = 130,
}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.is::<FileError>() {
        true => ExitCode::from(Exit::Unusable as u8),
        false => ExitCode::FAILURE,
    }
}

/// Prints a line of output.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    printed(writeln!(std::io::stdout(), "{line}"))
}

/// What became of output: a reader that has seen enough may close the pipe.
pub(crate) fn printed(result: Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
