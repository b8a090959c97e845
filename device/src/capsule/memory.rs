//! A stream's memory as a card observes it: recorded while it is read, or read from a recording.
//!
//! Fed by a view of the stream's parts, or by a capsule; feeds the stream, which goes the same way with either.

use super::observation::Observation;
use super::records::{Cursor, Put, Tag};
use super::replay_log::{Player, Recording};
use crate::dma::{PostedMemory, SlotWords, StreamMemory};
use dmus_interface::event::PointerWidth;
use dmus_interface::ring::Completion;
use parking_lot::MutexGuard;
use std::cell::RefCell;
use zerocopy::FromBytes;

/// Memory of which each access is recorded.
pub(crate) struct Recorded<'a, M: ?Sized> {
    memory: &'a M,
    recording: RefCell<MutexGuard<'a, Recording>>,
}

impl<'a, M: ?Sized> Recorded<'a, M> {
    pub(crate) fn new(memory: &'a M, recording: MutexGuard<'a, Recording>) -> Self {
        Self { memory, recording: RefCell::new(recording) }
    }

    #[inline(always)]
    fn put(&self, put: impl FnOnce(&mut Vec<u8>)) {
        put(self.recording.borrow_mut().put());
    }

    #[cold]
    #[inline(never)]
    fn none(&self, tag: Tag) {
        self.put(|out| _ = out.tag(tag));
    }
}

impl<M: StreamMemory + ?Sized> StreamMemory for Recorded<'_, M> {
    #[inline(always)]
    fn submission(&self, index: u32) -> Option<u32> {
        let Some(slot) = self.memory.submission(index) else {
            self.none(Tag::NoSubmission);
            return None;
        };
        self.put(|out| {
            let [a, b, c, d] = slot.to_le_bytes();
            out.extend_from_slice(&[Tag::Submission as u8, a, b, c, d]);
        });
        Some(slot)
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<SlotWords> {
        let Some(words) = self.memory.slot(slot) else {
            self.none(Tag::NoSlot);
            return None;
        };
        self.put(|out| {
            let mut record = [0; 33];
            record[0] = Tag::Slot as u8;
            let all = [words.header, words.time, words.pointer, words.data];
            for (place, word) in record[1..].as_chunks_mut::<8>().0.iter_mut().zip(all) {
                *place = word.to_le_bytes();
            }
            out.extend_from_slice(&record);
        });
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
        if written.is_none() {
            self.none(Tag::NoWrite);
        }
        written
    }

    fn write_shared(&self, iova: u64, bytes: &[u8]) -> bool {
        let shared = self.memory.write_shared(iova, bytes);
        if !shared {
            self.none(Tag::NotShared);
        }
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
        self.take((Tag::Submission, Tag::NoSubmission), Cursor::half, |player, slot| {
            player.show(|| Observation::Fetched { stream, index, slot: *slot });
        })
    }

    fn slot(&self, slot: u32) -> Option<SlotWords> {
        let Self { stream, width, first, .. } = *self;
        let words = |cursor: &mut Cursor| {
            let [header, time, pointer, data] = cursor.words()?;
            Some(SlotWords { header, time, pointer, data })
        };
        self.take((Tag::Slot, Tag::NoSlot), words, |player, words| {
            if first {
                player.show(|| Observation::Event { stream, slot, event: words.event(width) });
            }
        })
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
        (!self.player.borrow_mut().takes(Tag::NoWrite)).then_some(())
    }

    fn write_shared(&self, _: u64, _: &[u8]) -> bool {
        !self.player.borrow_mut().takes(Tag::NotShared)
    }
}
