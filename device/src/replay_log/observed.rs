//! What the engine observes in a turn, besides memory and the page.
//!
//! Fed by the engine, its streams, output and inputs at each place where they decide by something that no replay could
//! know; feeds the recording, or tells them what it was.

use super::ReplayLog;
use super::observation::Observation;
use super::player::Player;
use super::records::{Cursor, Put, Tag};
use crate::dma::{AccessError, Reach};
use crate::stats::Stats;
use dmus_interface::doorbell;
use dmus_interface::protocol::Page;
use dmus_interface::time::RefTime;
use std::sync::atomic::Ordering;

/// What a live input received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Box<[u8]>),
    /// The sender has gone.
    End,
}

/// Where a stream is as it observes something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(u16);

impl Place {
    /// It fetches what is at this index of the submission ring.
    pub(crate) fn fetching(stream: usize, index: u32) -> Self {
        Self::new(stream, 0, index)
    }

    /// It publishes at this index of the completion ring.
    pub(crate) fn publishing(stream: usize, index: u32) -> Self {
        Self::new(stream, 1, index)
    }

    fn new(stream: usize, phase: u16, index: u32) -> Self {
        // In one turn an index does not move so far that it looks the same; records of another turn are behind its end.
        Self((stream as u16) << 12 | phase << 11 | index as u16 & 0x7FF)
    }

    pub(super) fn bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }
}

/// What a card seldom observes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unusual {
    /// Words of the page that only the card stores are not as it stored them.
    WrongWords,
    /// The memory of some stream is away for a moment.
    Away,
}

impl ReplayLog {
    /// How a stream's memory can be reached: mostly whole.
    #[inline]
    pub(crate) fn reach(&self, place: Place, real: impl FnOnce() -> Reach) -> Reach {
        match self {
            Self::Record(recorder) => {
                let reach = real();
                if reach != Reach::Whole {
                    recorder.out().tag(Tag::Reach).raw(place.bytes()).byte((reach == Reach::Pieces).into());
                }
                reach
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                match player.takes_at(Tag::Reach, place).then(|| player.cursor.byte()).flatten() {
                    None => Reach::Whole,
                    Some(0) => Reach::Away,
                    Some(_) => Reach::Pieces,
                }
            }
        }
    }

    /// Whether a stream is looked at, which it is if all of its memory is shared.
    pub(crate) fn looks(&self, real: impl FnOnce() -> bool) -> bool {
        self.observe(
            real,
            |out, looks| _ = out.tag(Tag::Look).byte((*looks).into()),
            |player| player.expect(Tag::Look, "whether a stream can be looked at", Cursor::byte) == Some(1),
        )
    }

    /// Publishes completions from `old` up to `new`; whether the driver asked for one of them, which it mostly did not.
    #[inline(always)]
    pub(crate) fn asked<P: Page>(
        &self,
        page: &P,
        stream: usize,
        (old, new): (u32, u32),
        publish: impl FnOnce() -> bool,
    ) -> bool {
        let place = Place::publishing(stream, old);
        match self {
            Self::Record(recorder) => {
                let asked = publish();
                if asked {
                    recorder.out().tag(Tag::Asked).raw(place.bytes());
                }
                asked
            }
            Self::Replay(replaying) => {
                // The event index that the driver stored is one that has the same outcome.
                let asked = replaying.player.lock().takes_at(Tag::Asked, place);
                let event = if asked { old } else { new };
                page.store_u32(doorbell::at(stream, doorbell::COMPLETION_EVENT), event, Ordering::Relaxed);
                publish()
            }
        }
    }

    /// Raises vectors, some of which are connected.
    pub(crate) fn interrupts(&self, vectors: u32, stats: &Stats, raise: impl FnOnce() -> u32) {
        if vectors == 0 {
            return;
        }
        match self {
            Self::Record(recorder) => {
                let connected = raise();
                recorder.out().tag(Tag::Interrupts).number(connected.into());
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let connected = player.expect(Tag::Interrupts, "which interrupts are connected", Cursor::small);
                let connected: u32 = connected.unwrap_or(0) & vectors;
                stats.interrupts.add(connected.count_ones().into());
                for vector in (0..32).filter(|vector| connected & 1 << vector != 0) {
                    player.show(|| Observation::Interrupt { vector });
                }
            }
        }
    }

    /// Whether rendering was broken off by a reset.
    pub(crate) fn is_void(&self, real: bool, stats: &Stats) -> bool {
        let counters = || [&stats.presented, &stats.late].into_iter().chain(&stats.late_by);
        match self {
            Self::Record(recorder) => {
                if real {
                    let mut out = recorder.out();
                    let out = out.tag(Tag::Void);
                    counters().for_each(|counter| _ = out.number(counter.get()));
                }
                real
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let void = player.takes(Tag::Void);
                if void {
                    // The one that was broken off presented less than this one, which was not.
                    counters().for_each(|counter| counter.set(player.cursor.number().unwrap_or(0)));
                }
                void
            }
        }
    }

    /// Whether the sink has room.
    pub(crate) fn ready(&self, real: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Record(recorder) => {
                let ready = real();
                let mut recording = recorder.recording.lock();
                if !std::mem::replace(&mut recording.ready, ready) || !ready {
                    recording.out(recorder.is_in_turn()).tag(Tag::Ready).byte(ready.into());
                }
                ready
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                !player.takes(Tag::Ready) || player.cursor.byte() != Some(0)
            }
        }
    }

    /// What of the audio has not reached its listener.
    pub(crate) fn losses(&self, real: impl FnOnce() -> (u64, u64)) -> Option<(u64, u64)> {
        match self {
            Self::Record(recorder) => {
                let losses = real();
                let mut recording = recorder.recording.lock();
                if std::mem::replace(&mut recording.losses, losses) != losses {
                    recording.out(recorder.is_in_turn()).tag(Tag::Losses).number(losses.0).number(losses.1);
                }
                Some(losses)
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                let there = player.takes(Tag::Losses);
                there.then(|| Some((player.cursor.number()?, player.cursor.number()?))).flatten()
            }
        }
    }

    /// What a live input received: nothing, bytes, or none any more.
    pub(crate) fn input(&self, input: u16, real: impl FnOnce() -> Option<Piece>) -> Option<Piece> {
        match self {
            Self::Record(recorder) => {
                let received = real();
                match &received {
                    None => {}
                    Some(Piece::Bytes(bytes)) => _ = recorder.out().tag(Tag::Input).number(input.into()).bytes(bytes),
                    Some(Piece::End) => _ = recorder.out().tag(Tag::InputEnd).number(input.into()),
                }
                received
            }
            Self::Replay(replaying) => replaying.player.lock().received(input),
        }
    }

    /// An access of the mailbox to a request or a result: how it ended, and what was read.
    pub(crate) fn access(
        &self,
        read: &mut [u8],
        real: impl FnOnce(&mut [u8]) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        match self {
            Self::Record(recorder) => {
                let result = real(read);
                let outcome = match result {
                    Ok(()) => 0,
                    Err(AccessError::NotMapped) => 1,
                    Err(AccessError::Void) => 2,
                };
                let mut out = recorder.out();
                let out = out.tag(Tag::Access).byte(outcome);
                if result.is_ok() {
                    out.extend_from_slice(read);
                }
                result
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                match player.expect(Tag::Access, "an access of the mailbox to memory", Cursor::byte) {
                    Some(0) => match player.cursor.fill(read) {
                        Some(()) => Ok(()),
                        None => Err(AccessError::Void),
                    },
                    Some(1) => Err(AccessError::NotMapped),
                    _ => Err(AccessError::Void),
                }
            }
        }
    }

    /// Whether there is memory for a stream.
    pub(crate) fn has_room(&self, real: impl FnOnce() -> bool) -> bool {
        self.observe(
            real,
            |out, has_room| _ = out.tag(Tag::Room).byte((*has_room).into()),
            |player| player.expect(Tag::Room, "whether there is memory for a stream", Cursor::byte) == Some(1),
        )
    }

    /// Something that is as it mostly is, at most once between two other records, unless there is a record of it.
    pub(crate) fn unusual(&self, what: Unusual, real: impl FnOnce() -> bool) -> bool {
        let tag = match what {
            Unusual::WrongWords => Tag::PageCheck,
            Unusual::Away => Tag::Away,
        };
        match self {
            Self::Record(recorder) => {
                let is = real();
                if is {
                    recorder.out().tag(tag);
                }
                is
            }
            Self::Replay(replaying) => replaying.player.lock().takes(tag),
        }
    }

    /// A plugin has the card judge what the guest did, which has `stored` into what is held.
    pub(crate) fn note_judgement(&self, stored: bool) {
        if let Self::Record(recorder) = self {
            recorder.out().tag(Tag::Judge).byte(stored.into());
        }
    }

    /// The same, if a plugin had it do so here.
    pub(crate) fn replayed_judgement(&self) -> Option<bool> {
        let mut player = self.player()?;
        if !player.takes(Tag::Judge) {
            return None;
        }
        player.cursor.byte().map(|stored| stored != 0)
    }

    /// Master time has moved.
    pub(crate) fn follow(&self, master: RefTime) {
        if let Some(mut player) = self.player() {
            player.master = master;
        }
    }

    /// Something happened that a listener is shown.
    pub(crate) fn show(&self, observation: impl FnOnce() -> Observation) {
        if let Some(mut player) = self.player() {
            player.show(observation);
        }
    }
}

impl Player {
    fn received(&mut self, input: u16) -> Option<Piece> {
        let tag = self.cursor.peek().filter(|tag| matches!(tag, Tag::Input | Tag::InputEnd))?;
        // Another input's is taken when that one is asked.
        if self.cursor.byte_ahead(1).map(u16::from) != Some(input) || !self.takes(tag) {
            return None;
        }
        self.cursor.byte();
        let piece = match tag {
            Tag::Input => Piece::Bytes(self.cursor.bytes()?.into()),
            _ => Piece::End,
        };
        self.show(|| match &piece {
            Piece::Bytes(bytes) => Observation::Received { input, bytes: bytes.clone() },
            Piece::End => Observation::Received { input, bytes: Box::default() },
        });
        Some(piece)
    }
}
