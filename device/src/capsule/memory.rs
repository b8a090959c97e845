//! A stream's memory as a card observes it: recorded while it is read, or read from a recording.
//!
//! Fed by a view of the stream's parts, or by a capsule; feeds the stream, which goes the same way with either.

use super::observation::Observation;
use super::records::{Cursor, Put, Tag};
use super::replay_log::{Player, Recording};
use crate::dma::{PostedMemory, SlotWords, StreamMemory};
use crate::stream::queue::SECTION;
use dmus_interface::event::PointerWidth;
use dmus_interface::ring::Completion;
use parking_lot::MutexGuard;
use std::cell::RefCell;
use std::collections::VecDeque;
use zerocopy::{FromBytes, IntoBytes};

/// Entries of a ring and the slots that they name, as they are mostly read: one after the other. Together they are one
/// record, which spares an event most of what a record of its own would cost (`bench ring`, "recorded").
#[derive(Debug)]
pub(super) struct Run {
    entries: [u32; RUN],
    slots: [[u64; 4]; RUN],
    /// How many there are: as many slots as entries, or one less.
    entry_count: usize,
    slot_count: usize,
}

/// Entries of a run at most.
const RUN: usize = SECTION as usize;

impl Default for Run {
    fn default() -> Self {
        Self { entries: [0; RUN], slots: [[0; 4]; RUN], entry_count: 0, slot_count: 0 }
    }
}

impl Run {
    /// Adds an entry; false if it does not belong here.
    #[inline(always)]
    fn add_entry(&mut self, entry: u32) -> bool {
        match self.entries.get_mut(self.entry_count) {
            Some(place) if self.entry_count == self.slot_count => {
                *place = entry;
                self.entry_count += 1;
                true
            }
            _ => false,
        }
    }

    /// Adds the slot of the last entry; false if it does not belong here.
    #[inline(always)]
    fn add_slot(&mut self, words: &SlotWords) -> bool {
        match self.slots.get_mut(self.slot_count) {
            Some(place) if self.slot_count < self.entry_count => {
                *place = [words.header, words.time, words.pointer, words.data];
                self.slot_count += 1;
                true
            }
            _ => false,
        }
    }

    /// Records what there is, and begins anew.
    fn put(&mut self, out: &mut Vec<u8>) {
        if self.entry_count > 0 {
            out.tag(Tag::Run).byte(self.entry_count as u8).byte(self.slot_count as u8);
            out.extend_from_slice(self.entries[..self.entry_count].as_bytes());
            out.extend_from_slice(self.slots[..self.slot_count].as_bytes());
            (self.entry_count, self.slot_count) = (0, 0);
        }
    }

    /// What was recorded so.
    pub(super) fn take(cursor: &mut Cursor) -> Option<(VecDeque<u32>, VecDeque<[u64; 4]>)> {
        let (entries, slots) = (cursor.byte()?, cursor.byte()?);
        let entries = (0..entries).map(|_| cursor.half()).collect::<Option<_>>()?;
        Some((entries, (0..slots).map(|_| cursor.words()).collect::<Option<_>>()?))
    }
}

/// Memory of which each access is recorded.
pub(crate) struct Recorded<'a, M: ?Sized> {
    memory: &'a M,
    recording: RefCell<MutexGuard<'a, Recording>>,
}

impl<M: ?Sized> Drop for Recorded<'_, M> {
    fn drop(&mut self) {
        self.put(|_| ());
    }
}

impl<'a, M: ?Sized> Recorded<'a, M> {
    pub(crate) fn new(memory: &'a M, recording: MutexGuard<'a, Recording>) -> Self {
        Self { memory, recording: RefCell::new(recording) }
    }

    /// A record of its own, behind the run.
    fn put(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut recording = self.recording.borrow_mut();
        let (run, out) = recording.run_and_put();
        run.put(out);
        put(out);
    }

    #[cold]
    #[inline(never)]
    fn none(&self, tag: Tag) {
        self.put(|out| _ = out.tag(tag));
    }

    #[cold]
    #[inline(never)]
    fn put_submission(&self, entry: u32) {
        self.put(|_| ());
        self.recording.borrow_mut().run.add_entry(entry);
    }

    #[cold]
    #[inline(never)]
    fn put_slot(&self, words: &SlotWords) {
        self.put(|out| {
            out.tag(Tag::Slot);
            for word in [words.header, words.time, words.pointer, words.data] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        });
    }
}

impl<M: StreamMemory + ?Sized> StreamMemory for Recorded<'_, M> {
    #[inline(always)]
    fn submission(&self, index: u32) -> Option<u32> {
        let Some(slot) = self.memory.submission(index) else {
            self.none(Tag::NoSubmission);
            return None;
        };
        if !self.recording.borrow_mut().run.add_entry(slot) {
            self.put_submission(slot);
        }
        Some(slot)
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<SlotWords> {
        let Some(words) = self.memory.slot(slot) else {
            self.none(Tag::NoSlot);
            return None;
        };
        if !self.recording.borrow_mut().run.add_slot(&words) {
            self.put_slot(&words);
        }
        Some(words)
    }

    fn copy(&self, offset: usize, out: &mut [u8]) -> Option<bool> {
        let Some(is_message) = self.memory.copy(offset, out) else {
            self.none(Tag::NoCopy);
            return None;
        };
        self.put(|record| {
            record.tag(Tag::Copy).byte(is_message.into()).extend_from_slice(out);
        });
        Some(is_message)
    }

    fn complete(&self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        let written = self.memory.complete(index, entries);
        if written.is_none() {
            self.none(Tag::NoComplete);
        }
        written
    }

    fn is_same(&self, offset: usize, bytes: &[u8]) -> Option<bool> {
        let is_same = self.memory.is_same(offset, bytes);
        match is_same {
            None => self.none(Tag::NoSame),
            Some(is_same) => self.put(|out| _ = out.tag(Tag::Same).byte(is_same.into())),
        }
        is_same
    }

    fn consume(&self, first: u32, entries: &mut [u32]) {
        self.memory.consume(first, entries);
        self.put(|out| {
            out.tag(Tag::Consumed);
            entries.iter().for_each(|entry| out.extend_from_slice(&entry.to_le_bytes()));
        });
    }

    fn completion(&self, index: u32) -> Option<[u64; 2]> {
        let entry = self.memory.completion(index);
        match entry {
            None => self.none(Tag::NoCompletion),
            Some(words) => self.put(|out| {
                out.tag(Tag::Completion);
                words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            }),
        }
        entry
    }
}

impl<M: PostedMemory + ?Sized> PostedMemory for Recorded<'_, M> {
    fn write(&self, iova: u64, bytes: &[u8]) -> Option<()> {
        let written = self.memory.write(iova, bytes);
        self.put(|out| _ = out.tag(Tag::Wrote).byte(written.is_some().into()));
        written
    }

    fn write_shared(&self, iova: u64, bytes: &[u8]) -> bool {
        let shared = self.memory.write_shared(iova, bytes);
        self.put(|out| _ = out.tag(Tag::WroteShared).byte(shared.into()));
        shared
    }
}

/// Memory as it was recorded.
pub(crate) struct Replayed<'a> {
    player: RefCell<MutexGuard<'a, Player>>,
    stream: usize,
    width: PointerWidth,
    /// Slots are read for the first time, which a listener is shown.
    first: bool,
}

impl<'a> Replayed<'a> {
    /// Of a stream from which events are fetched.
    pub(crate) fn fetched(player: MutexGuard<'a, Player>, stream: usize, width: PointerWidth) -> Self {
        Self { player: RefCell::new(player), stream, width, first: true }
    }

    /// Of a stream that is looked at again, and given what is completed.
    pub(crate) fn completed(player: MutexGuard<'a, Player>, stream: usize, width: PointerWidth) -> Self {
        Self { first: false, ..Self::fetched(player, stream, width) }
    }

    /// The next record, which is such a one, or the one that says there is nothing.
    fn take<T>(
        &self,
        (tag, none): (Tag, Tag),
        get: impl FnOnce(&mut Cursor) -> Option<T>,
        show: impl FnOnce(&mut Player, &T),
    ) -> Option<T> {
        let mut player = self.player.borrow_mut();
        if player.takes(none) {
            return None;
        }
        let got = player.expect(tag, "another access to guest memory", get)?;
        show(&mut player, &got);
        Some(got)
    }
}

impl StreamMemory for Replayed<'_> {
    fn submission(&self, index: u32) -> Option<u32> {
        let stream = self.stream;
        let mut player = self.player.borrow_mut();
        if player.takes(Tag::NoSubmission) {
            return None;
        }
        let slot = player.submission()?;
        player.show(|| Observation::Fetched { stream, index, slot });
        Some(slot)
    }

    fn slot(&self, slot: u32) -> Option<SlotWords> {
        let Self { stream, width, first, .. } = *self;
        let mut player = self.player.borrow_mut();
        if player.takes(Tag::NoSlot) {
            return None;
        }
        let [header, time, pointer, data] = player.slot()?;
        let words = SlotWords { header, time, pointer, data };
        if first {
            player.show(|| Observation::Event { stream, slot, event: words.event(width) });
        }
        Some(words)
    }

    fn copy(&self, offset: usize, out: &mut [u8]) -> Option<bool> {
        let Self { stream, first, .. } = *self;
        let get = |cursor: &mut Cursor| {
            let is_message = cursor.byte()? != 0;
            cursor.fill(out)?;
            Some((is_message, out))
        };
        let copied = self.take((Tag::Copy, Tag::NoCopy), get, |player, (_, bytes)| {
            if first {
                player.show(|| Observation::Data { stream, offset, bytes: (**bytes).into() });
            }
        });
        copied.map(|(is_message, _)| is_message)
    }

    fn complete(&self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        let mut player = self.player.borrow_mut();
        if player.takes(Tag::NoComplete) {
            return None;
        }
        for (number, entry) in (0..).zip(entries) {
            let bytes = [entry[0].to_le_bytes(), entry[1].to_le_bytes()];
            if let Ok(completion) = Completion::read_from_bytes(bytes.as_flattened()) {
                let index = index.wrapping_add(number);
                player.show(|| Observation::Completed { stream: self.stream, index, completion });
            }
        }
        Some(())
    }

    fn is_same(&self, _: usize, _: &[u8]) -> Option<bool> {
        self.take((Tag::Same, Tag::NoSame), |cursor| Some(cursor.byte()? != 0), |_, _| ())
    }

    fn consume(&self, _: u32, entries: &mut [u32]) {
        let all =
            |cursor: &mut Cursor| entries.iter_mut().try_for_each(|entry| cursor.half().map(|half| *entry = half));
        self.player.borrow_mut().expect(Tag::Consumed, "the submission ring once more", all);
    }

    fn completion(&self, _: u32) -> Option<[u64; 2]> {
        self.take((Tag::Completion, Tag::NoCompletion), Cursor::words, |_, _| ())
    }
}

impl PostedMemory for Replayed<'_> {
    fn write(&self, _: u64, _: &[u8]) -> Option<()> {
        let wrote = self.player.borrow_mut().expect(Tag::Wrote, "whether capture could store", Cursor::byte);
        (wrote == Some(1)).then_some(())
    }

    fn write_shared(&self, _: u64, _: &[u8]) -> bool {
        let wrote = self.player.borrow_mut().expect(Tag::WroteShared, "whether a buffer is shared", Cursor::byte);
        wrote == Some(1)
    }
}
