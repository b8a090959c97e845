//! The subcommands, and their exit codes.

pub(crate) mod ask;
pub(crate) mod bank;
mod capsule;
pub(crate) mod deviating;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod header;
mod midi_in;
mod recording;
pub(crate) mod render;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod sweep;
pub(crate) mod trace;

use anyhow::Context;
use dmus_card::files::FileError;
use std::fs::File;
use std::io::{ErrorKind, Result, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Unusable = 3,
    /// The driver broke a rule, and that is an error.
    Violation = 9,
    /// Two recordings do.
    Differs = 10,
    Interrupted = 130,
}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let unusable = error.is::<FileError>() || error.is::<capsule::Unusable>() || error.is::<capsule::OtherBank>();
    if unusable { ExitCode::from(Exit::Unusable as u8) } else { ExitCode::FAILURE }
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

/// A file that is written at the end.
pub(crate) struct JsonFile {
    path: PathBuf,
    file: File,
}

impl JsonFile {
    pub(crate) fn create(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    pub(crate) fn write(mut self, value: &serde_json::Value) -> anyhow::Result<()> {
        let text = format!("{value:#}\n");
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}
