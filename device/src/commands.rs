//! The subcommands, and their exit codes.

pub(crate) mod bank;
mod midi_in;
pub(crate) mod render;
pub(crate) mod serve;
pub(crate) mod sweep;

use dmus_card::files::FileError;
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Unusable = 3,
    Interrupted = 130,
}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.is::<FileError>() {
        true => ExitCode::from(Exit::Unusable as u8),
        false => ExitCode::FAILURE,
    }
}
