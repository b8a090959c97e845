//! What the player guest says on its serial line, and whether it adds up.
//!
//! Fed by [`super::scene`], line by line; feeds the progress bar and the summary. The lines are described in the guest's own `main.rs`.

use crate::commands::{Exit, Failure, NamedSong};
use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the guest said of itself.
#[derive(Default)]
pub(crate) struct GuestReport {
    pub(crate) played: Option<BTreeMap<String, u64>>,
    pub(crate) error: Option<String>,
    last: String,
    /// The player itself printed something: it was booted.
    pub(crate) spoke: bool,
    /// When QEMU was started, as Unix time.
    pub(crate) qemu_start: Duration,
}

impl GuestReport {
    /// A guest whose QEMU starts now.
    pub(crate) fn new() -> Self {
        let qemu_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { qemu_start, ..Self::default() }
    }

    /// One line of the serial port. Lines of the player begin with "dmus: ".
    pub(crate) fn take(&mut self, line: &str, bar: &ProgressBar) {
        if !line.trim().is_empty() {
            self.last = line.trim().to_owned();
        }
        let Some((_, said)) = line.split_once("dmus: ") else {
            return;
        };
        self.spoke = true;
        if let Some(position) = said.strip_prefix("progress ") {
            bar.set_message("playing");
            bar.set_position(position.trim().parse().unwrap_or(0));
        } else if let Some(fields) = said.strip_prefix("played ") {
            let field = |field: &str| {
                let (name, value) = field.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            };
            self.played = Some(fields.split_whitespace().filter_map(field).collect());
        } else if let Some(error) = said.strip_prefix("error: ") {
            // The first: what comes after it is that something failed.
            self.error.get_or_insert_with(|| error.trim().to_owned());
        }
    }

    pub(crate) fn last_words(&self) -> String {
        match &self.error {
            Some(error) => format!(": {error}"),
            None if self.last.is_empty() => String::new(),
            None => format!("; its last line was: {}", self.last),
        }
    }

    /// Everything submitted was presented on time, and everything is home, on both sides.
    pub(crate) fn check(&self, song: &NamedSong, card: &Value) -> anyhow::Result<()> {
        let played = self.played.as_ref().context("the guest gave no summary")?;
        let guest = |name: &str| played.get(name).copied();
        let messages = Some(song.song.len() as u64);
        let agreed = guest("submitted") == messages
            && card["presented"].as_u64() == messages
            && guest("presented").zip(guest("late")).map(|(on_time, late)| on_time + late) == messages
            && guest("slots_home") == guest("slots")
            && guest("buffers_home") == guest("buffers")
            && card["in_flight"].as_u64() == Some(0);
        if agreed {
            return Ok(());
        }
        let message =
            format!("not every event was presented: the song has {}, guest {played:?}, card {card}", song.song.len());
        Err(Failure::new(Exit::Guest, message).into())
    }
}
