//! The events of a standard MIDI file, as people's tools write them.
//!
//! Fed with the bytes of a file; feeds [`Song`](super::Song) and [`TimeBase`](super::TimeBase). What can be played is
//! read, whatever is around it: what is not as the standard has it is mended or passed over, and each such place is one
//! [`Warning`]. Only a file that has no track, or whose ticks mean no time, is refused.

use super::SongError;
use alloc::vec::Vec;
use core::fmt;
use dmus_interface::event::{MAX_MESSAGE, is_message, message_length};
use midly::{Fps, Timing, num::u15};

/// The most warnings that a file gets in words; the rest are counted.
pub const MOST_WARNINGS: usize = 20;
/// A size or delta has so many bytes at most.
const LONGEST_NUMBER: usize = 4;

/// What is not as the standard has it, and what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Oddity {
    /// Something before the header, other than a wrapper that is known.
    #[error("the file begins here, what is before is passed over")]
    Preamble,
    /// A header chunk of less than its six bytes, or one that leads to no chunk.
    #[error("the header's length is wrong, the first track follows here")]
    HeaderLength,
    /// A format other than 0, 1 and 2.
    #[error("there is no format {0}, the tracks are played together")]
    Format(u16),
    /// More or fewer tracks than the header promises.
    #[error("the header promises {promised} tracks, {found} are there and are played")]
    TrackCount {
        /// Of the header.
        promised: usize,
        /// In the file.
        found: usize,
    },
    /// Between tracks, or after the last one.
    #[error("{0} bytes that are no chunk are passed over")]
    NoChunk(usize),
    /// A track whose length leads past the end of the file, or into a track.
    #[error("the track's length is wrong, it is read up to its end")]
    TrackLength,
    /// The file or the track ends in the middle of an event.
    #[error("an event is cut off and left out")]
    Cut,
    /// A track without End of Track.
    #[error("the track has no End of Track, it ends with its last event")]
    NoEnd,
    /// Events after End of Track.
    #[error("{0} bytes after End of Track are ignored")]
    AfterEnd(usize),
    /// A data byte where no status was before.
    #[error("a data byte without a status: the rest of the track is left out")]
    NoStatus,
    /// A data byte above 127.
    #[error("a data byte above 127 is played without its highest bit")]
    HighData,
    /// A system message that only a wire has.
    #[error("a system message (status {0:#04x}) has no place in a file and is left out")]
    System(u8),
    /// A number of more than four bytes.
    #[error("a number has more than four bytes, its last ones count")]
    LongNumber,
    /// A tempo event without a tempo.
    #[error("a tempo that is none is ignored")]
    Tempo,
    /// SysEx that never ends.
    #[error("a SysEx message has no end and is played as if it ended here")]
    NoSysExEnd,
    /// SysEx with a status byte inside or of more than 64 KiB, or bytes of an F7 event that are no messages.
    #[error("a message that is no well-formed MIDI is left out")]
    NoMessage,
}

/// One [`Oddity`] and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Byte of the file.
    pub offset: usize,
    /// Number of the track, from 1; 0 outside of tracks.
    pub track: usize,
    /// What is there.
    pub oddity: Oddity,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.track {
            0 => write!(f, "byte {}: {}", self.offset, self.oddity),
            track => write!(f, "byte {}, track {track}: {}", self.offset, self.oddity),
        }
    }
}

/// The first [`MOST_WARNINGS`], and how many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings {
    pub(crate) first: Vec<Warning>,
    pub(crate) count: usize,
}

impl Warnings {
    fn add(&mut self, offset: usize, track: usize, oddity: Oddity) {
        if self.first.len() < MOST_WARNINGS {
            self.first.push(Warning { offset, track, oddity });
        }
        self.count += 1;
    }
}

/// What an event of a track does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A complete message: where it begins in the bytes of all, its length, and the port that the track is for.
    Message(usize, usize, u8),
    /// Microseconds of a quarter note.
    Tempo(u32),
    /// The track is over.
    End,
}

/// A file, read: actions by their ticks, those of one tick in the order of tracks, and in a track in their own.
pub(crate) struct Events {
    pub(crate) timing: Timing,
    pub(crate) actions: Vec<(u64, Action)>,
    /// Of all messages.
    pub(crate) bytes: Vec<u8>,
    pub(crate) warnings: Warnings,
}

/// Reads a file.
pub(crate) fn read(file: &[u8]) -> Result<Events, SongError> {
    if file.is_empty() {
        return Err(SongError::Empty);
    }
    let (start, end) = unwrap(file);
    let file = &file[..end];
    let mut reader = Reader {
        file,
        at: start,
        starts: places(file, b"MTrk").collect(),
        track: 0,
        port: 0,
        actions: Vec::new(),
        bytes: Vec::new(),
        warnings: Warnings::default(),
    };
    let timing = reader.header()?;
    if reader.track == 0 {
        return Err(SongError::NoTracks);
    }
    let Reader { mut actions, bytes, warnings, .. } = reader;
    actions.sort_by_key(|(tick, _)| *tick);
    Ok(Events { timing, actions, bytes, warnings })
}

/// Where the MIDI file is in one that wraps it: RMID, whose chunks come in any order, or MacBinary.
fn unwrap(file: &[u8]) -> (usize, usize) {
    if let [0, 1..=63, ..] = file
        && file.get(128..132) == Some(b"MThd")
    {
        return (128, file.len());
    }
    chunk_of_rmid(file, |id, body| id == b"data" && body.starts_with(b"MThd")).unwrap_or((0, file.len()))
}

/// The first chunk of an RMID file that is wanted: where its body begins and ends.
fn chunk_of_rmid(file: &[u8], wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<(usize, usize)> {
    if !file.starts_with(b"RIFF") || file.get(8..12) != Some(b"RMID") {
        return None;
    }
    let mut at = 12usize;
    while let Some(head) = file.get(at..at.checked_add(8)?) {
        let (id, size) = head.split_at(4);
        let size = size.iter().rev().fold(0usize, |size, byte| size << 8 | usize::from(*byte));
        let start = at + 8;
        let end = start.saturating_add(size).min(file.len());
        if wanted(id, &file[start..end]) {
            return Some((start, end));
        }
        at = end + (end - start) % 2;
    }
    None
}

/// The collection of instruments that an RMID file brings along: a DLS file.
pub fn collection_of(file: &[u8]) -> Option<&[u8]> {
    let (start, end) = chunk_of_rmid(file, |id, body| id == b"RIFF" && body.starts_with(b"DLS "))?;
    file.get(start - 8..end)
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// Where tracks seem to begin, in order. Found once: a hostile file would have it looked for again and again.
    starts: Vec<usize>,
    /// Tracks so far.
    track: usize,
    /// Of the track that is read, as its last FF 21 says it.
    port: u8,
    actions: Vec<(u64, Action)>,
    bytes: Vec<u8>,
    warnings: Warnings,
}

impl<'a> Reader<'a> {
    fn warn(&mut self, offset: usize, oddity: Oddity) {
        self.warnings.add(offset, self.track, oddity);
    }

    /// The first place from one on where a track seems to begin, or the end of the file.
    fn next_track(&self, from: usize) -> usize {
        let before = self.starts.partition_point(|start| *start < from);
        self.starts.get(before).copied().unwrap_or(self.file.len())
    }

    /// A number of the header, the highest byte first.
    fn number(&self, at: usize, bytes: usize) -> Option<usize> {
        let bytes = self.file.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Reads the header, and all tracks after it.
    fn header(&mut self) -> Result<Timing, SongError> {
        let start = places(self.file, b"MThd").find(|start| *start >= self.at).ok_or(SongError::NotMidi)?;
        if start != self.at {
            self.warn(start, Oddity::Preamble);
        }
        let fields = [4, 8, 10, 12].map(|at| self.number(start + at, if at == 4 { 4 } else { 2 }));
        let [Some(length), Some(format), Some(promised), Some(division)] = fields else {
            return Err(SongError::BadHeader);
        };
        let timing = timing(division as u16)?;
        self.at = start + 14;
        match (start + 8).checked_add(length) {
            Some(next) if length >= 6 && next <= self.file.len() => self.at = next,
            _ => self.warn(start + 4, Oddity::HeaderLength),
        }
        self.tracks();
        match format {
            0 | 1 => {}
            2 if self.track < 2 => {}
            2 => return Err(SongError::Format2),
            _ => self.warnings.add(start + 8, 0, Oddity::Format(format as u16)),
        }
        if self.track != promised && self.track > 0 {
            self.warnings.add(start + 10, 0, Oddity::TrackCount { promised, found: self.track });
        }
        Ok(timing)
    }

    fn tracks(&mut self) {
        while self.at < self.file.len() {
            let at = self.at;
            let id = self.file.get(at..at + 4).unwrap_or_default();
            let length = self.number(at + 4, 4);
            let end = length.and_then(|length| (at + 8).checked_add(length));
            if id == b"MTrk" && length.is_some() {
                self.track += 1;
                self.read_track(at + 8, end.unwrap_or(usize::MAX));
            } else if let (true, Some(end)) = (is_name(id), end.filter(|end| *end <= self.file.len())) {
                // Of another kind, which the standard allows.
                self.at = end;
            } else {
                let next = self.next_track(at + 1);
                self.warnings.add(at, 0, Oddity::NoChunk(next - at));
                self.at = next;
            }
        }
    }

    /// Whether a chunk begins here, or the file has ended.
    fn is_border(&self, at: usize) -> bool {
        at == self.file.len() || self.file.get(at..).is_some_and(|rest| rest.starts_with(b"MTrk"))
    }

    /// Reads a track that should be as long as its chunk says, and leaves `at` behind it.
    fn read_track(&mut self, start: usize, declared: usize) {
        let total = self.file.len();
        // A length that leads to no chunk may be too short or too long: what is up to the next track is read.
        let border = declared <= total && (self.is_border(declared) || is_name(&self.file[declared..]));
        let limit = if border { declared } else { self.next_track(declared) };
        self.port = 0;
        let mut events = Track { at: start, limit, tick: 0, status: None, open: None };
        let ended = self.events(&mut events);
        let behind = events.at.min(limit);
        if let Some((tick, mut bytes)) = events.open.take() {
            self.warn(behind, Oddity::NoSysExEnd);
            bytes.push(0xF7);
            self.message((tick, behind), &bytes);
        }
        self.actions.push((events.tick, Action::End));
        if !ended {
            self.warn(behind, Oddity::NoEnd);
        }
        // Another track may begin within a length that is too long.
        let swallows = ended && self.next_track(behind) < declared;
        if ended && behind == declared || border && !swallows {
            if ended && behind < declared {
                self.warn(behind, Oddity::AfterEnd(declared - behind));
            }
            self.at = declared;
        } else {
            self.warn(start - 4, Oddity::TrackLength);
            self.at = if ended { behind } else { limit };
        }
    }

    /// Reads events up to End of Track, which gives true, or as far as they can be read.
    fn events(&mut self, track: &mut Track) -> bool {
        while track.at < track.limit {
            let start = track.at;
            let Some(delta) = self.size(track) else {
                self.warn(start, Oddity::Cut);
                break;
            };
            let Some(&first) = self.file[..track.limit].get(track.at) else {
                self.warn(start, Oddity::Cut);
                break;
            };
            let tick = track.tick + delta as u64;
            match self.event(track, tick, first) {
                Some(Next::Event) => track.tick = tick,
                Some(Next::End) => {
                    track.tick = tick;
                    return true;
                }
                None => break,
            }
        }
        false
    }

    /// Reads what follows a delta. None: the rest of the track cannot be read.
    fn event(&mut self, track: &mut Track, tick: u64, first: u8) -> Option<Next> {
        let at = track.at;
        match first {
            0..0x80 => {
                let Some(status) = track.status else {
                    self.warn(at, Oddity::NoStatus);
                    return None;
                };
                self.channel_message(track, tick, status)?;
            }
            0x80..0xF0 => {
                track.status = Some(first);
                track.at += 1;
                self.channel_message(track, tick, first)?;
            }
            0xF0 | 0xF7 => {
                track.at += 1;
                let data = self.data(track)?;
                self.sysex(track, (tick, at), first, data);
            }
            0xFF => {
                let kind = self.file[..track.limit].get(at + 1).copied();
                track.at += 2;
                let Some(kind) = kind else {
                    self.warn(at, Oddity::Cut);
                    return None;
                };
                let data = self.data(track)?;
                match (kind, data) {
                    (0x2F, _) => return Some(Next::End),
                    (0x51, [a, b, c, ..]) if (*a, *b, *c) != (0, 0, 0) => {
                        let micros = u32::from_be_bytes([0, *a, *b, *c]);
                        self.actions.push((tick, Action::Tempo(micros)));
                    }
                    (0x51, _) => self.warn(at, Oddity::Tempo),
                    (0x21, [port, ..]) => self.port = *port,
                    _ => {}
                }
            }
            _ => {
                self.warn(at, Oddity::System(first));
                track.at += message_length(first).unwrap_or(1);
            }
        }
        Some(Next::Event)
    }

    fn channel_message(&mut self, track: &mut Track, tick: u64, status: u8) -> Option<()> {
        let length = message_length(status).unwrap_or(1);
        let at = track.at;
        let Some(data) = self.file[..track.limit].get(at..at + length - 1) else {
            self.warn(at, Oddity::Cut);
            return None;
        };
        if data.iter().any(|byte| *byte > 127) {
            self.warn(at, Oddity::HighData);
        }
        track.at += data.len();
        self.actions.push((tick, Action::Message(self.bytes.len(), length, self.port)));
        self.bytes.push(status);
        self.bytes.extend(data.iter().map(|byte| byte & 0x7F));
        Some(())
    }

    /// A size, and as many bytes.
    fn data(&mut self, track: &mut Track) -> Option<&'a [u8]> {
        let at = track.at;
        let file = self.file;
        let size = self.size(track);
        let data = size.and_then(|size| file[..track.limit].get(track.at..track.at.checked_add(size)?));
        let Some(data) = data else {
            self.warn(at, Oddity::Cut);
            track.at = track.limit;
            return None;
        };
        track.at += data.len();
        Some(data)
    }

    /// A number in sevens of bits, the highest first.
    fn size(&mut self, track: &mut Track) -> Option<usize> {
        let start = track.at;
        let mut size = 0usize;
        for (count, byte) in self.file[..track.limit].get(start..)?.iter().enumerate() {
            size = (size << 7 | usize::from(byte & 0x7F)) & 0x0FFF_FFFF;
            if *byte < 0x80 {
                track.at = start + count + 1;
                if count >= LONGEST_NUMBER {
                    self.warn(start, Oddity::LongNumber);
                }
                return Some(size);
            }
        }
        track.at = track.limit;
        None
    }

    /// An F0 or F7 event: SysEx, a further piece of it, or messages as a wire has them.
    fn sysex(&mut self, track: &mut Track, (tick, at): (u64, usize), first: u8, data: &[u8]) {
        let goes_on = first == 0xF7 && matches!(data, [0..0x80 | 0xF7, ..] | []);
        if !goes_on && let Some((tick, mut bytes)) = track.open.take() {
            self.warn(at, Oddity::NoSysExEnd);
            bytes.push(0xF7);
            self.message((tick, at), &bytes);
        }
        let mut bytes = match track.open.take() {
            Some((_, bytes)) => bytes,
            None if first == 0xF0 => [0xF0].into(),
            None => return self.wire((tick, at), data),
        };
        bytes.extend_from_slice(data);
        if bytes.last() == Some(&0xF7) {
            self.message((tick, at), &bytes);
        } else {
            track.open = Some((tick, bytes));
        }
    }

    /// Messages one after the other, perhaps with running status.
    fn wire(&mut self, when: (u64, usize), mut data: &[u8]) {
        let mut running = None;
        while let Some(&first) = data.first() {
            let length = match first {
                0xF0 => data.iter().position(|byte| *byte == 0xF7).map_or(data.len(), |end| end + 1),
                _ => message_length(first).unwrap_or(1),
            };
            let (message, rest) = match running {
                Some(status) if first < 0x80 => {
                    let length = (message_length(status).unwrap_or(1) - 1).min(data.len());
                    ([&[status], &data[..length]].concat(), &data[length..])
                }
                _ => (data[..length.min(data.len())].to_vec(), &data[length.min(data.len())..]),
            };
            if let 0x80..0xF0 = first {
                running = Some(first);
            }
            match first {
                0xF1..=0xF6 | 0xF8..=0xFF => self.warn(when.1, Oddity::System(first)),
                _ => self.message(when, &message),
            }
            data = rest;
        }
    }

    fn message(&mut self, (tick, at): (u64, usize), bytes: &[u8]) {
        if bytes.len() > MAX_MESSAGE || !is_message(bytes) {
            self.warn(at, Oddity::NoMessage);
        } else {
            self.actions.push((tick, Action::Message(self.bytes.len(), bytes.len(), self.port)));
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Where a track is read.
struct Track {
    at: usize,
    limit: usize,
    tick: u64,
    status: Option<u8>,
    /// SysEx that goes on, and the tick of its last piece.
    open: Option<(u64, Vec<u8>)>,
}

enum Next {
    Event,
    End,
}

/// Where these four bytes are.
fn places<'a>(file: &'a [u8], id: &'a [u8; 4]) -> impl Iterator<Item = usize> + 'a {
    file.windows(4).enumerate().filter(move |(_, window)| window == id).map(|(place, _)| place)
}

/// Whether a chunk's name begins here.
fn is_name(bytes: &[u8]) -> bool {
    bytes.get(..4).is_some_and(|name| name.iter().all(u8::is_ascii_alphanumeric))
}

fn timing(division: u16) -> Result<Timing, SongError> {
    let [frames, subframes] = division.to_be_bytes();
    let fps = match frames {
        0..0x80 => return Ok(Timing::Metrical(u15::from(division))),
        0xE8 => Fps::Fps24,
        0xE7 => Fps::Fps25,
        0xE3 => Fps::Fps29,
        0xE2 => Fps::Fps30,
        _ => return Err(SongError::BadHeader),
    };
    Ok(Timing::Timecode(fps, subframes))
}
