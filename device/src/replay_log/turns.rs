//! The turns of an engine, and what it finds on the doorbell page.
//!
//! Fed by the engine's thread as it turns, rests and sleeps; feeds the recording, or the engine of a replay.

use super::observation::Observation;
use super::records::{Put, Tag};
use super::{ReplayLog, load};
use crate::stats::Stats;
use dmus_interface::doorbell;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::Page;
use dmus_interface::time::RefTime;
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What was recorded is passed on at least so often, so that a card that is killed leaves it.
const OFTEN: Duration = Duration::from_secs(1);

impl ReplayLog {
    /// A turn begins.
    pub(crate) fn begin_turn(&self) {
        if let Self::Record(recorder) = self {
            recorder.set_in_turn(true);
        }
    }

    /// The turn is over, after which grant and time were these; unless it is `notable`, it did nothing if it has
    /// observed nothing. Not to be called in a section: the disk may be slow.
    pub(crate) fn end_turn(&self, notable: bool, grant: RefTime, time: Option<RefTime>) {
        let Self::Record(recorder) = self else {
            return;
        };
        recorder.set_in_turn(false);
        let mut recording = recorder.recording.lock();
        let found = recording.put_found(grant.0, time.map(|time| time.0));
        let told = recorder.put_culprits(&mut recording.batch.between);
        if notable || found || told || recording.batch.has_turn() {
            recording.end_turn();
        }
    }

    /// The turn has found that this is the end.
    pub(crate) fn drop_turn(&self) {
        if let Self::Record(recorder) = self {
            recorder.set_in_turn(false);
            recorder.recording.lock().batch.drop_turn();
        }
    }

    /// The engine has nothing to do: what is recorded so far may be written.
    pub(crate) fn rest(&self) {
        if let Self::Record(recorder) = self {
            let mut recording = recorder.recording.lock();
            if recording.passed.elapsed() >= OFTEN {
                recording.pass();
            }
        }
    }

    /// The run is over, with so many frames of audio.
    pub(crate) fn finish(&self, stats: &Stats) {
        if let Self::Record(recorder) = self {
            let mut recording = recorder.recording.lock();
            let first = stats.first_presented().unwrap_or_default().as_nanos() as u64;
            recording.batch.between.tag(Tag::End).number(first);
            recording.pass();
            recording.writer.finish();
        }
    }

    /// A poll has found this tail of a stream.
    pub(crate) fn found_tail(&self, stream: usize, tail: u32) {
        match self {
            Self::Record(recorder) => {
                let mut recording = recorder.recording.lock();
                if recording.tails.get_mut(stream).is_some_and(|last| std::mem::replace(last, tail) != tail) {
                    // In front of the turn, which finds it on the page.
                    let [a, b, c, d] = tail.to_le_bytes();
                    recording.batch.between.raw([Tag::Tail as u8, stream as u8, a, b, c, d]);
                    recording.found = true;
                }
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                if player.tails.get_mut(stream).is_some_and(|last| std::mem::replace(last, tail) != tail) {
                    player.show(|| Observation::Submitted { stream, tail });
                }
            }
        }
    }

    /// The page's words of a stream are zeroed.
    pub(crate) fn forget_tail(&self, stream: usize) {
        let tails = &mut match self {
            Self::Record(recorder) => MutexGuard::map(recorder.recording.lock(), |recording| &mut recording.tails),
            Self::Replay(replaying) => MutexGuard::map(replaying.player.lock(), |player| &mut player.tails),
        };
        if let Some(tail) = tails.get_mut(stream) {
            *tail = 0;
        }
    }

    /// All words of the page are zeroed.
    pub(crate) fn forget_page(&self) {
        (0..STREAMS).for_each(|stream| self.forget_tail(stream));
        if let Self::Record(recorder) = self {
            recorder.recording.lock().grant = 0;
        }
    }

    /// A word of the page that the engine loads now.
    pub(crate) fn word<P: Page>(&self, page: &P, offset: usize, wide: bool) -> u64 {
        match self {
            Self::Record(recorder) => {
                let value = load(page, offset, wide);
                recorder.out().tag(Tag::Word).number(offset as u64).number(value);
                value
            }
            Self::Replay(replaying) => {
                replaying.player.lock().take_word(page, offset, wide);
                load(page, offset, wide)
            }
        }
    }

    /// The tail of a stream, which is polled once more in this turn.
    pub(crate) fn tail_again<P: Page>(&self, page: &P, stream: usize) -> u32 {
        let tail = self.word(page, doorbell::at(stream, doorbell::SUBMISSION_TAIL), false) as u32;
        if let Self::Record(recorder) = self
            && let Some(known) = recorder.recording.lock().tails.get_mut(stream)
        {
            *known = tail;
        }
        tail
    }

    /// The tail of a stream that is not open is another than the one that was told of last.
    pub(crate) fn closed_tail<P: Page>(&self, page: &P, stream: usize, told: u32) -> u32 {
        let offset = doorbell::at(stream, doorbell::SUBMISSION_TAIL);
        match self {
            Self::Record(recorder) => {
                let tail = page.load_u32(offset, Ordering::Relaxed);
                if tail != told {
                    let mut out = recorder.out();
                    if !recorder.is_in_turn() {
                        out.tag(Tag::ClosedTail).byte(stream as u8);
                    }
                    out.tag(Tag::Word).number(offset as u64).number(tail.into());
                }
                tail
            }
            Self::Replay(replaying) => {
                let mut player = replaying.player.lock();
                // That of another stream may be the next record.
                if player.cursor.peek() == Some(Tag::Word) && player.cursor.number_ahead(1) == Some(offset as u64) {
                    player.take_word(page, offset, false);
                }
                page.load_u32(offset, Ordering::Relaxed)
            }
        }
    }

    /// The engine has armed a sleep, or is awake.
    pub(crate) fn note_sleep(&self, asleep: bool) {
        if let Self::Record(recorder) = self {
            recorder.out().tag(if asleep { Tag::Sleep } else { Tag::Awake });
        }
    }
}
