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

mod tempo;
mod write;

use alloc::vec::Vec;
use dmus_interface::event::{MAX_MESSAGE, is_message};
use dmus_interface::time::RefTime;
use midly::live::LiveEvent;
use midly::{Format, Header, MetaMessage, TrackEventKind, TrackIter};
use tempo::Clock;
pub use write::TimeBase;

/// Silence that is rendered after the last event, so that the last notes can fade.
pub const TAIL: RefTime = RefTime::from_secs(3);
/// Longest song. A WAV file of it is just below the format's 4 GiB.
pub const MAX_DURATION: RefTime = RefTime::from_secs(6 * 3600);

/// Why a file cannot be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SongError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// No MThd (or RIFF RMID) at the start.
    #[error("not a standard MIDI file: it does not begin with an MThd header")]
    NotMidi,
    /// The header chunk is damaged.
    #[error("the MIDI header is damaged")]
    BadHeader,
    /// Independent patterns rather than one song.
    #[error("a format 2 MIDI file holds independent patterns, not one song: save it as format 0 or 1")]
    Format2,
    /// Zero ticks a quarter note or frame.
    #[error("the MIDI header gives no time base (division 0)")]
    NoTimeBase,
    /// A chunk that the file's end cuts off.
    #[error("the file is truncated: track {track} does not fit in it")]
    Truncated {
        /// Number of the track, from 1.
        track: usize,
    },
    /// Fewer tracks than the header promises.
    #[error("the file is truncated: its header promises {promised} tracks, it holds {found}")]
    MissingTracks {
        /// Tracks of the header.
        promised: usize,
        /// Tracks in the file.
        found: usize,
    },
    /// Bytes that are no MIDI event.
    #[error("track {track} is damaged after its event {event}: what follows is no MIDI event")]
    BadEvent {
        /// Number of the track, from 1.
        track: usize,
        /// Events read before the damage.
        event: usize,
    },
    /// Longer than [`MAX_DURATION`].
    #[error("the song is longer than {} hours, the most that is played", MAX_DURATION.as_secs_f64() / 3600.0)]
    TooLong,
}

/// One message of a song.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedMessage<'a> {
    /// When, from the start of the song.
    pub time: RefTime,
    /// One complete MIDI message with its status byte.
    pub bytes: &'a [u8],
}

/// A MIDI file, read and ordered.
#[derive(Clone, Debug, Default)]
pub struct Song {
    /// (time, end of its bytes); the bytes begin where those of the message before end.
    messages: Vec<(RefTime, u32)>,
    bytes: Vec<u8>,
    end: RefTime,
    skipped: usize,
}

/// What a track event means for playing.
enum Action<'a> {
    Message(LiveEvent<'a>),
    SysEx(&'a [u8]),
    /// Bytes after an F7 event: a further piece of SysEx.
    Piece(&'a [u8]),
    Tempo(u32),
    Nothing,
}

impl<'a> FromIterator<TimedMessage<'a>> for Song {
    /// A song of these messages, which are in order, and no longer than the last of them.
    fn from_iter<T: IntoIterator<Item = TimedMessage<'a>>>(messages: T) -> Self {
        let mut song = Self::default();
        for TimedMessage { time, bytes } in messages {
            song.bytes.extend_from_slice(bytes);
            song.messages.push((time, u32::try_from(song.bytes.len()).unwrap_or(u32::MAX)));
            song.end = time;
        }
        song
    }
}

impl Song {
    /// Reads the bytes of a standard MIDI file of format 0 or 1, with metrical or SMPTE time, or of an RMID file.
    pub fn parse(file: &[u8]) -> Result<Self, SongError> {
        if file.is_empty() {
            return Err(SongError::Empty);
        }
        let (header, tracks) = header_of(unwrap_rmid(file))?;
        let (promised, _) = tracks.size_hint();
        let mut clock = Clock::new(header.timing)?;

        let mut actions = Vec::new();
        let mut found = 0;
        for (index, track) in tracks.enumerate() {
            let track = track.map_err(|_| SongError::Truncated { track: index + 1 })?;
            let mut tick = 0u64;
            for (count, event) in track.enumerate() {
                let event = event.map_err(|_| SongError::BadEvent { track: index + 1, event: count })?;
                tick += u64::from(event.delta.as_int());
                actions.push((tick, index, Action::of(event.kind)));
            }
            found = index + 1;
        }
        if found < promised {
            return Err(SongError::MissingTracks { promised, found });
        }
        // Stable: events of one tick stay in track order, and in file order within a track.
        actions.sort_by_key(|(tick, _, _)| *tick);

        let mut song = Self::default();
        // SysEx that goes on in a later event of its track.
        let mut open: Vec<Option<Vec<u8>>> = Vec::new();
        open.resize(found, None);
        for (tick, track, action) in actions {
            let time = clock.advance(tick);
            if time > MAX_DURATION {
                return Err(SongError::TooLong);
            }
            song.end = time;
            match action {
                Action::Message(message) => song.push_message(time, message),
                Action::SysEx(data) => {
                    song.skipped += usize::from(open[track].is_some());
                    let mut sysex = Vec::with_capacity(data.len() + 1);
                    sysex.push(0xF0);
                    sysex.extend_from_slice(data);
                    open[track] = song.push_or_keep(time, sysex);
                }
                Action::Piece(data) => match open[track].take() {
                    Some(mut sysex) => {
                        sysex.extend_from_slice(data);
                        open[track] = song.push_or_keep(time, sysex);
                    }
                    None => song.push(time, data),
                },
                Action::Tempo(micros) => clock.set_tempo(micros),
                Action::Nothing => {}
            }
        }
        song.skipped += open.iter().flatten().count();
        Ok(song)
    }

    /// The messages in the order of their times.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = TimedMessage<'_>> + Clone {
        let mut start = 0;
        self.messages.iter().map(move |&(time, end)| {
            let bytes = &self.bytes[start..end as usize];
            start = end as usize;
            TimedMessage { time, bytes }
        })
    }

    /// A message by its number.
    pub fn get(&self, index: usize) -> Option<TimedMessage<'_>> {
        let &(time, end) = self.messages.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.messages[before].1 as usize);
        Some(TimedMessage { time, bytes: &self.bytes[start..end as usize] })
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

    /// Messages of the file that are no well-formed MIDI (SysEx with a status byte inside, never ended, or above 64
    /// KiB), left out.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    fn push_message(&mut self, time: RefTime, message: LiveEvent<'_>) {
        // Writing to a Vec cannot fail.
        let written = message.write(&mut self.bytes);
        debug_assert!(written.is_ok());
        self.messages.push((time, self.bytes.len() as u32));
    }

    /// Adds a message when its end has come; gives it back when it goes on.
    fn push_or_keep(&mut self, time: RefTime, sysex: Vec<u8>) -> Option<Vec<u8>> {
        if sysex.last() != Some(&0xF7) {
            return Some(sysex);
        }
        self.push(time, &sysex);
        None
    }

    fn push(&mut self, time: RefTime, bytes: &[u8]) {
        if bytes.len() > MAX_MESSAGE || !is_message(bytes) {
            self.skipped += 1;
            return;
        }
        self.bytes.extend_from_slice(bytes);
        self.messages.push((time, self.bytes.len() as u32));
    }
}

impl<'a> Action<'a> {
    fn of(kind: TrackEventKind<'a>) -> Self {
        match kind {
            TrackEventKind::Midi { channel, message } => Self::Message(LiveEvent::Midi { channel, message }),
            TrackEventKind::SysEx(data) => Self::SysEx(data),
            TrackEventKind::Escape(data) => Self::Piece(data),
            TrackEventKind::Meta(MetaMessage::Tempo(micros)) => Self::Tempo(micros.as_int()),
            TrackEventKind::Meta(_) => Self::Nothing,
        }
    }
}

/// The header of a file, and its tracks to come.
fn header_of(file: &[u8]) -> Result<(Header, TrackIter<'_>), SongError> {
    if !file.starts_with(b"MThd") {
        return Err(SongError::NotMidi);
    }
    if has_impossible_header(file) {
        return Err(SongError::BadHeader);
    }
    let (header, tracks) = midly::parse(file).map_err(|_| SongError::BadHeader)?;
    match header.format {
        Format::Sequential => Err(SongError::Format2),
        Format::SingleTrack | Format::Parallel => Ok((header, tracks)),
    }
}

/// Whether any header chunk, the first or a later one, gives an SMPTE frame rate of -128. midly negates it, which
/// cannot be done.
fn has_impossible_header(mut file: &[u8]) -> bool {
    while let Some((id, rest)) = file.split_first_chunk::<4>()
        && let Some((length, rest)) = rest.split_first_chunk::<4>()
    {
        let length = u32::from_be_bytes(*length) as usize;
        let (body, next) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        if id == b"MThd" && body.get(4) == Some(&0x80) {
            return true;
        }
        file = next;
    }
    false
}

/// The MIDI file inside a RIFF RMID wrapper; any other file as it is.
fn unwrap_rmid(file: &[u8]) -> &[u8] {
    match file {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'R', b'M', b'I', b'D', b'd', b'a', b't', b'a', a, b, c, d, rest @ ..] => {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            rest.get(..length).unwrap_or(rest)
        }
        _ => file,
    }
}

#[cfg(test)]
mod tests;
