//! The inverse of reading: timed messages as a standard MIDI file of one track.
//!
//! Fed with messages in the order of their times, and with a [`TimeBase`]: a song's own, so that what was played comes
//! back to the tick at which it was written, or one for recording live. Feeds a `.mid` file.

use super::read::{self, Action, Events};
use super::tempo::Clock;
use super::{SongError, TimedMessage};
use alloc::vec::Vec;
use midly::num::{u15, u24, u28};
use midly::{Format, Header, MetaMessage, Timing, TrackEvent, TrackEventKind};

/// Ticks of a quarter note, 0.5 s, where no song says otherwise.
const LIVE_TICKS: u16 = 9600;
/// The most ticks from one event of a file to the next.
const LONGEST_DELTA: u64 = 0x0FFF_FFFF;

/// What ticks mean: division and tempo map of a MIDI file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeBase {
    timing: Timing,
    /// Tick, and microseconds of a quarter note from there on, in the order of ticks.
    tempos: Vec<(u64, u32)>,
    /// Where the file's longest track ends.
    end: u64,
}

impl Default for TimeBase {
    /// 9,600 ticks to a quarter note, 120 of these a minute: 52 us a tick.
    fn default() -> Self {
        Self { timing: Timing::Metrical(u15::from(LIVE_TICKS)), tempos: Vec::new(), end: 0 }
    }
}

impl TimeBase {
    /// That of a standard MIDI file, which [`super::Song::parse`] takes.
    pub fn of(file: &[u8]) -> Result<Self, SongError> {
        let Events { timing, actions, .. } = read::read(file)?;
        Clock::new(timing)?;
        let mut base = Self { timing, tempos: Vec::new(), end: 0 };
        for (tick, action) in actions {
            base.end = tick;
            if let Action::Tempo(micros) = action {
                base.tempos.push((tick, micros));
            }
        }
        Ok(base)
    }

    /// The messages as a file of format 0, each at the tick that is nearest to its time, and no earlier than the one
    /// before. What is no message is left out.
    pub fn write<'m>(&self, messages: impl Iterator<Item = TimedMessage<'m>>) -> Result<Vec<u8>, SongError> {
        let mut clock = Clock::new(self.timing)?;
        let mut tempos = self.tempos.iter().copied().peekable();
        let mut track = Track::default();
        for message in messages {
            while let Some((tick, micros)) = tempos.next_if(|(tick, _)| clock.at(*tick) <= message.time) {
                clock.advance(tick);
                clock.set_tempo(micros);
                track.push(tick, tempo(micros));
            }
            if let Some(kind) = kind_of(message.bytes) {
                track.push(clock.nearest(message.time), kind);
            }
        }
        for (tick, micros) in tempos {
            track.push(tick, tempo(micros));
        }
        track.push(self.end, TrackEventKind::Meta(MetaMessage::EndOfTrack));
        let mut file = Vec::new();
        // Only a track beyond 4 GiB fails here: the messages are in memory, and it is no longer than they are.
        midly::write(&Header::new(Format::SingleTrack, self.timing), [&track.events], &mut file)
            .map_err(|_| SongError::TooLong)?;
        Ok(file)
    }
}

fn tempo(micros: u32) -> TrackEventKind<'static> {
    TrackEventKind::Meta(MetaMessage::Tempo(u24::from(micros)))
}

/// A message as a file has it. System messages are written as they are, behind an escape.
fn kind_of(bytes: &[u8]) -> Option<TrackEventKind<'_>> {
    match bytes {
        [0xF0, rest @ ..] => Some(TrackEventKind::SysEx(rest)),
        [0x80..0xF0, ..] => match midly::live::LiveEvent::parse(bytes).ok()? {
            midly::live::LiveEvent::Midi { channel, message } => Some(TrackEventKind::Midi { channel, message }),
            _ => None,
        },
        [0xF1..=0xFF, ..] => Some(TrackEventKind::Escape(bytes)),
        _ => None,
    }
}

/// Events with the ticks between them.
#[derive(Default)]
struct Track<'m> {
    events: Vec<TrackEvent<'m>>,
    tick: u64,
}

impl<'m> Track<'m> {
    fn push(&mut self, tick: u64, kind: TrackEventKind<'m>) {
        let mut delta = tick.saturating_sub(self.tick);
        self.tick += delta;
        // Silence longer than a file can say: marks without meaning on the way.
        while delta > LONGEST_DELTA {
            let mark = TrackEventKind::Meta(MetaMessage::Text(b""));
            self.events.push(TrackEvent { delta: u28::from(LONGEST_DELTA as u32), kind: mark });
            delta -= LONGEST_DELTA;
        }
        self.events.push(TrackEvent { delta: u28::from(delta as u32), kind });
    }
}
