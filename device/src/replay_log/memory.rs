//! A stream's memory as a card observes it: recorded while it is read, or read from a recording.
//!
//! Fed by a view of the stream's parts, or by a capsule; feeds the stream, which goes the same way with either.

use super::observation::Observation;
use super::player::{OTHER_MEMORY, Player};
use super::records::{Cursor, Put, Tag};
use crate::dma::{SlotWords, StreamMemory};
use dmus_interface::event::PointerWidth;
use dmus_interface::ring::Completion;
use zerocopy::{FromBytes, IntoBytes};

/// Memory of which each access is recorded.
pub(crate) struct Recorded<'a, M> {
    memory: M,
    out: &'a mut Vec<u8>,
    /// One more than an entry of the submission ring that is not recorded yet, or 0: mostly its slot is read next, and
    /// one record has both (`bench ring`, "recorded").
    entry: u64,
}

impl<M> Drop for Recorded<'_, M> {
    fn drop(&mut self) {
        self.put();
    }
}

impl<'a, M> Recorded<'a, M> {
    pub(crate) fn new(memory: M, out: &'a mut Vec<u8>) -> Self {
        Self { memory, out, entry: 0 }
    }

    /// Where the next record goes.
    #[inline]
    fn put(&mut self) -> &mut Vec<u8> {
        if self.entry != 0 {
            self.put_entry();
        }
        self.out
    }

    #[cold]
    #[inline(never)]
    fn put_entry(&mut self) {
        let entry = std::mem::take(&mut self.entry) as u32;
        self.out.tag(Tag::Submission).raw(entry.wrapping_sub(1).to_le_bytes());
    }

    #[cold]
    #[inline(never)]
    fn none(&mut self, tag: Tag) {
        self.put().tag(tag);
    }

    /// A slot that is no entry's. Word by word, which keeps them in registers.
    #[cold]
    #[inline(never)]
    fn put_slot(&mut self, header: u64, time: u64, pointer: u64, data: u64) {
        self.put().tag(Tag::Slot).extend_from_slice([header, time, pointer, data].map(u64::to_le).as_bytes());
    }
}

/// The record of an event: its entry of the ring, and its slot.
#[inline(always)]
fn put_event(out: &mut Vec<u8>, entry: u32, words: &SlotWords) {
    let mut record = [0; 37];
    record[0] = Tag::Event as u8;
    record[1..5].copy_from_slice(&entry.to_le_bytes());
    let words = [words.header, words.time, words.pointer, words.data].map(u64::to_le);
    record[5..].copy_from_slice(words.as_bytes());
    out.extend_from_slice(&record);
}

impl<M: StreamMemory> StreamMemory for Recorded<'_, M> {
    #[inline(always)]
    fn submission(&mut self, index: u32) -> Option<u32> {
        let Some(slot) = self.memory.submission(index) else {
            self.none(Tag::NoSubmission);
            return None;
        };
        self.put();
        self.entry = u64::from(slot) + 1;
        Some(slot)
    }

    #[inline(always)]
    fn slot(&mut self, slot: u32) -> Option<SlotWords> {
        let Some(words) = self.memory.slot(slot) else {
            self.none(Tag::NoSlot);
            return None;
        };
        match std::mem::take(&mut self.entry) {
            0 => self.put_slot(words.header, words.time, words.pointer, words.data),
            entry => put_event(self.out, (entry as u32).wrapping_sub(1), &words),
        }
        Some(words)
    }

    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool> {
        let Some(is_message) = self.memory.copy(offset, out) else {
            self.none(Tag::NoCopy);
            return None;
        };
        self.put().raw([Tag::Copy as u8, is_message.into()]).extend_from_slice(out);
        Some(is_message)
    }

    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        let written = self.memory.complete(index, entries);
        if written.is_none() {
            self.none(Tag::NoComplete);
        }
        written
    }

    fn is_same(&mut self, offset: usize, bytes: &[u8]) -> Option<bool> {
        let is_same = self.memory.is_same(offset, bytes);
        match is_same {
            None => self.none(Tag::NoSame),
            Some(is_same) => _ = self.put().tag(Tag::Same).byte(is_same.into()),
        }
        is_same
    }

    fn consume(&mut self, first: u32, entries: &mut [u32]) {
        self.memory.consume(first, entries);
        let out = self.put().tag(Tag::Consumed);
        entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_le_bytes()));
    }

    fn completion(&mut self, index: u32) -> Option<[u64; 2]> {
        let entry = self.memory.completion(index);
        match entry {
            None => self.none(Tag::NoCompletion),
            Some(words) => self.put().tag(Tag::Completion).extend_from_slice(words.map(u64::to_le).as_bytes()),
        }
        entry
    }

    fn write(&mut self, iova: u64, bytes: &[u8]) -> Option<()> {
        let written = self.memory.write(iova, bytes);
        self.put().tag(Tag::Wrote).byte(written.is_some().into());
        written
    }

    fn write_shared(&mut self, iova: u64, bytes: &[u8]) -> bool {
        let shared = self.memory.write_shared(iova, bytes);
        self.put().tag(Tag::WroteShared).byte(shared.into());
        shared
    }
}

/// Memory as it was recorded.
pub(crate) struct Replayed<'a> {
    player: &'a mut Player,
    stream: usize,
    width: PointerWidth,
}

impl<'a> Replayed<'a> {
    pub(crate) fn new(player: &'a mut Player, stream: usize, width: PointerWidth) -> Self {
        Self { player, stream, width }
    }

    /// The next record, which is such a one, or the one that says there is nothing.
    fn take<T>(&mut self, (tag, none): (Tag, Tag), get: impl FnOnce(&mut Cursor) -> Option<T>) -> Option<T> {
        match self.player.takes(none) {
            true => None,
            false => self.player.expect(tag, OTHER_MEMORY, get),
        }
    }

    fn take_copy(&mut self, out: &mut [u8]) -> Option<bool> {
        self.take((Tag::Copy, Tag::NoCopy), |cursor| {
            let is_message = cursor.byte()? != 0;
            cursor.fill(out)?;
            Some(is_message)
        })
    }
}

impl StreamMemory for Replayed<'_> {
    fn submission(&mut self, index: u32) -> Option<u32> {
        let stream = self.stream;
        if self.player.takes(Tag::NoSubmission) {
            return None;
        }
        let slot = self.player.submission()?;
        self.player.show(|| Observation::Fetched { stream, index, slot });
        Some(slot)
    }

    fn slot(&mut self, slot: u32) -> Option<SlotWords> {
        let Self { stream, width, .. } = *self;
        let words = self.slot_again(slot)?;
        self.player.show(|| Observation::Event { stream, slot, event: words.event(width) });
        Some(words)
    }

    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool> {
        let stream = self.stream;
        let is_message = self.take_copy(out)?;
        self.player.show(|| Observation::Data { stream, offset, bytes: (&*out).into() });
        Some(is_message)
    }

    fn slot_again(&mut self, _: u32) -> Option<SlotWords> {
        if self.player.takes(Tag::NoSlot) {
            return None;
        }
        let [header, time, pointer, data] = self.player.slot()?;
        Some(SlotWords { header, time, pointer, data })
    }

    fn copy_again(&mut self, _: usize, out: &mut [u8]) -> Option<()> {
        self.take_copy(out).map(drop)
    }

    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        if self.player.takes(Tag::NoComplete) {
            return None;
        }
        for (number, entry) in (0..).zip(entries) {
            let bytes = [entry[0].to_le_bytes(), entry[1].to_le_bytes()];
            if let Ok(completion) = Completion::read_from_bytes(bytes.as_flattened()) {
                let (stream, index) = (self.stream, index.wrapping_add(number));
                self.player.show(|| Observation::Completed { stream, index, completion });
            }
        }
        Some(())
    }

    fn is_same(&mut self, _: usize, _: &[u8]) -> Option<bool> {
        self.take((Tag::Same, Tag::NoSame), |cursor| Some(cursor.byte()? != 0))
    }

    fn consume(&mut self, _: u32, entries: &mut [u32]) {
        let all =
            |cursor: &mut Cursor| entries.iter_mut().try_for_each(|entry| cursor.half().map(|half| *entry = half));
        self.player.expect(Tag::Consumed, "the submission ring once more", all);
    }

    fn completion(&mut self, _: u32) -> Option<[u64; 2]> {
        self.take((Tag::Completion, Tag::NoCompletion), Cursor::words)
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Option<()> {
        let wrote = self.player.expect(Tag::Wrote, "whether capture could store", Cursor::byte);
        (wrote == Some(1)).then_some(())
    }

    fn filled(&mut self, slot: u32, bytes: &[u8]) {
        let stream = self.stream;
        self.player.show(|| Observation::Captured { stream, slot, bytes: bytes.into() });
    }

    fn write_shared(&mut self, _: u64, _: &[u8]) -> bool {
        self.player.expect(Tag::WroteShared, "whether a buffer is shared", Cursor::byte) == Some(1)
    }
}
