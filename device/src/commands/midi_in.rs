//! `--midi-in`: where the card's MIDI inputs come from.
//!
//! Fed by the command line; feeds the card with inputs that are open, since in its sandbox it opens nothing.

use anyhow::Context;
use dmus_card::capture::inputs::Input;
use dmus_card::{files, transport};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

/// An input by its name on the command line.
#[derive(Clone)]
pub(crate) enum MidiIn {
    Song(PathBuf),
    Unix(PathBuf),
    Descriptor(RawFd),
    Loopback,
}

impl FromStr for MidiIn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "loopback" {
            return Ok(Self::Loopback);
        }
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("fd", number)) => match number.parse() {
                Ok(number) if number >= 0 => Ok(Self::Descriptor(number)),
                _ => Err("expected fd:N with the number of a descriptor"),
            },
            Some(("unix", _)) => Err("expected unix:PATH"),
            _ if text.is_empty() => Err("expected FILE.mid, unix:PATH, fd:N or loopback"),
            _ => Ok(Self::Song(text.into())),
        }
    }
}

impl MidiIn {
    /// Opens it.
    pub(crate) fn open(&self) -> anyhow::Result<Input> {
        Ok(match self {
            Self::Song(path) => Input::Song(files::load_song(Some(path), files::Flaws::Mend)?.song),
            Self::Unix(path) => Input::Listener(transport::listen(path)?),
            Self::Descriptor(number) => {
                let name = || format!("--midi-in fd:{number}");
                let descriptor = transport::own(*number).with_context(name)?;
                // Its thread waits in read.
                let flags = fcntl_getfl(&descriptor).with_context(name)?;
                fcntl_setfl(&descriptor, flags - OFlags::NONBLOCK).with_context(name)?;
                Input::Live(Box::new(File::from(descriptor)))
            }
            Self::Loopback => Input::Loopback,
        })
    }
}
