//! A standard MIDI file as a list of (time in 100 ns, message bytes), and back.
//!
//! Fed with the bytes of a `.mid` file; feeds the player of every guest and the card's offline renderer, so that both
//! have the same integers. Tracks are merged by tick, ties in track order; running status is expanded; SysEx that the
//! file holds in pieces is put together and takes the time of its last piece.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

// The example of the manual is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod read;
mod tempo;
mod write;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dmus_interface::time::RefTime;
use read::{Action, Events, Warnings};
pub use read::{MOST_WARNINGS, Oddity, Warning, collection_of};
use tempo::Clock;
pub use write::TimeBase;

/// Silence that is rendered after the last event, so that the last notes can fade.
pub const TAIL: RefTime = RefTime::from_secs(3);
/// Longest song. A WAV file of it is just below the format's 4 GiB.
pub const MAX_DURATION: RefTime = RefTime::from_secs(6 * 3600);

/// Channel groups that a song can use; a file with more ports uses them again from the first on. A stream has as many.
pub const MAX_GROUPS: u16 = 16;

/// Why a file cannot be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SongError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// No MThd anywhere.
    #[error("not a standard MIDI file: it has no MThd header")]
    NotMidi,
    /// The header chunk is damaged.
    #[error("the MIDI header is damaged")]
    BadHeader,
    /// Several independent patterns rather than one song.
    #[error("a format 2 MIDI file holds independent patterns, not one song: save it as format 0 or 1")]
    Format2,
    /// Zero ticks a quarter note or frame.
    #[error("the MIDI header gives no time base (division 0)")]
    NoTimeBase,
    /// A header and nothing else.
    #[error("the file holds no track")]
    NoTracks,
    /// Longer than [`MAX_DURATION`].
    #[error("the song is longer than {} hours, the most that is played", MAX_DURATION.as_secs_f64() / 3600.0)]
    TooLong,
}

/// One message of a song.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedMessage<'a> {
    /// When, from the start of the song.
    pub time: RefTime,
    /// The channel group that it is for, below [`MAX_GROUPS`]: tracks for different ports are for different ones.
    pub group: u16,
    /// One complete MIDI message with its status byte.
    pub bytes: &'a [u8],
}

/// A MIDI file, read and ordered.
#[derive(Clone, Debug, Default)]
pub struct Song {
    /// (time, end of its bytes, channel group); the bytes begin where those of the message before end.
    messages: Vec<(RefTime, u32, u8)>,
    bytes: Vec<u8>,
    end: RefTime,
    warnings: Warnings,
}

impl<'a> FromIterator<TimedMessage<'a>> for Song {
    /// A song of these messages, which are in order, and no longer than the last of them.
    fn from_iter<T: IntoIterator<Item = TimedMessage<'a>>>(messages: T) -> Self {
        let mut song = Self::default();
        for TimedMessage { time, group, bytes } in messages {
            song.bytes.extend_from_slice(bytes);
            let group = (group % MAX_GROUPS) as u8;
            song.messages.push((time, u32::try_from(song.bytes.len()).unwrap_or(u32::MAX), group));
            song.end = time;
        }
        song
    }
}

impl Song {
    /// Reads the bytes of a standard MIDI file of format 0 or 1 (or 2 with one track), with metrical or SMPTE time, or
    /// of one in an RMID or MacBinary wrapper. What is not as the standard has it is mended or passed over, and is
    /// among the [`warnings`](Self::warnings).
    pub fn parse(file: &[u8]) -> Result<Self, SongError> {
        let Events { timing, actions, bytes, warnings } = read::read(file)?;
        let mut clock = Clock::new(timing)?;
        let mut song = Self { warnings, ..Self::default() };
        let groups = groups(&actions);
        for (tick, action) in actions {
            let time = clock.advance(tick);
            if time > MAX_DURATION {
                return Err(SongError::TooLong);
            }
            song.end = time;
            match action {
                Action::Message(start, length, port) => {
                    song.bytes.extend_from_slice(&bytes[start..start + length]);
                    song.messages.push((time, song.bytes.len() as u32, groups[usize::from(port)]));
                }
                Action::Tempo(micros) => clock.set_tempo(micros),
                Action::End => {}
            }
        }
        Ok(song)
    }

    /// The messages in the order of their times.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = TimedMessage<'_>> + Clone {
        let mut start = 0;
        self.messages.iter().map(move |&(time, end, group)| {
            let bytes = &self.bytes[start..end as usize];
            start = end as usize;
            TimedMessage { time, group: group.into(), bytes }
        })
    }

    /// A message by its number.
    pub fn get(&self, index: usize) -> Option<TimedMessage<'_>> {
        let &(time, end, group) = self.messages.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.messages[before].1 as usize);
        Some(TimedMessage { time, group: group.into(), bytes: &self.bytes[start..end as usize] })
    }

    /// Number of messages: channel messages and SysEx.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message at all.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Time of the last event of any kind, the end of the longest track included.
    pub fn end(&self) -> RefTime {
        self.end
    }

    /// How long playing it takes: [`Self::end`] and [`TAIL`].
    pub fn duration(&self) -> RefTime {
        self.end.saturating_add(TAIL)
    }

    /// What in the file is not as the standard has it, and was mended or passed over: the first [`MOST_WARNINGS`].
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings.first
    }

    /// How many of them there are in all.
    pub fn warned(&self) -> usize {
        self.warnings.count
    }

    /// What to say of them: a line each, and how many more there are.
    pub fn complaints(&self) -> impl Iterator<Item = String> + '_ {
        let more = self.warned() - self.warnings().len();
        let rest = (more > 0).then(|| format!("and {more} more of the kind"));
        self.warnings().iter().map(ToString::to_string).chain(rest)
    }
}

/// The channel group of each port that is used: the lowest port is the first group.
fn groups(actions: &[(u64, Action)]) -> [u8; 256] {
    let mut used = [false; 256];
    for (_, action) in actions {
        if let Action::Message(_, _, port) = action {
            used[usize::from(*port)] = true;
        }
    }
    let mut next = 0;
    used.map(|used| {
        let group = next % MAX_GROUPS as u8;
        next = if used { group + 1 } else { next };
        group
    })
}

#[cfg(test)]
mod tests;
