//! The subcommands, and what they share: songs, progress and exit codes.

pub(crate) mod bank;
pub(crate) mod conform;
mod guest;
pub(crate) mod leash;
mod machine;
mod midi_in;
pub(crate) mod play;
pub(crate) mod record;
pub(crate) mod render;
mod scene;
pub(crate) mod serve;
pub(crate) mod sweep;

use anyhow::Context;
use dmus_interface::time::RefTime;
use dmus_song::{Song, SongError};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Song = 3,
    Qemu = 4,
    Guest = 5,
    Stalled = 6,
    CardGone = 7,
    QemuGone = 8,
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

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return ExitCode::from(failure.exit as u8);
    }
    match error.is::<SongFile>() || error.is::<bank::BankFile>() {
        true => ExitCode::from(Exit::Song as u8),
        false => ExitCode::FAILURE,
    }
}

/// A song that cannot be played.
#[derive(Debug, thiserror::Error)]
enum SongFile {
    #[error("cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    #[error("cannot play {0}: {1}")]
    Unplayable(String, SongError),
}

/// A song with its file's bytes, and the name to call it by.
pub(crate) struct NamedSong {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) song: Song,
}

/// Reads a song, or takes the bundled one.
pub(crate) fn load_song(path: Option<&Path>) -> anyhow::Result<NamedSong> {
    let (name, bytes) = match path {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path).map_err(|error| SongFile::Unreadable(name.clone(), error))?;
            (name, bytes)
        }
        None => ("bundled song".into(), dmus_card::demo::song()),
    };
    let song = Song::parse(&bytes).map_err(|error| SongFile::Unplayable(name.clone(), error))?;
    if song.skipped() > 0 {
        tracing::warn!("{name}: {} messages are no well-formed MIDI and are left out", song.skipped());
    }
    Ok(NamedSong { name, bytes, song })
}

/// A bar of song position on a terminal; nothing elsewhere.
pub(crate) fn song_bar(length: RefTime) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(length.0.max(0) as u64 / 10_000);
    let style = ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} %")
        .context("the progress bar's template")?
        .progress_chars("=> ");
    bar.set_style(style);
    Ok(bar)
}

/// The fields of a summary, a line each.
fn print_fields(summary: &Value) {
    // A reader that has seen enough may close the pipe: what was done is done all the same.
    let mut out = std::io::stdout().lock();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Value::Object(fields) = summary {
        for (name, value) in fields {
            let _ = writeln!(out, "{:<18} {}", name.replace('_', " "), plain(value));
        }
    }
}

/// The summary as a file, if one is wanted.
fn write_json(path: Option<&Path>, summary: &Value) -> anyhow::Result<()> {
    match path {
        Some(path) => {
            std::fs::write(path, format!("{summary:#}\n")).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(()),
    }
}
