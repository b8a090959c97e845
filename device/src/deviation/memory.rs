//! A stream's memory as a card finds it that has faults.
//!
//! Fed by the way that a stream's memory is reached; feeds what is done there with less than there is.

use super::{Deviations, Fault};
use crate::dma::{SlotWords, StreamMemory};

/// A stream's memory, with the faults of who reads and writes it. The checker, which looks at what was read again, has
/// none: what the driver did is as it is.
pub(crate) struct FaultyMemory<'a> {
    memory: &'a mut dyn StreamMemory,
    deviations: &'a Deviations,
    /// Nothing of it can be reached.
    unreachable: bool,
    /// What was submitted last is refused.
    refuses: bool,
}

impl<'a> FaultyMemory<'a> {
    /// For one section's worth.
    pub(crate) fn new(memory: &'a mut dyn StreamMemory, deviations: &'a Deviations) -> Self {
        let unreachable = deviations.has(Fault::DmaError);
        if unreachable {
            deviations.pretend();
        }
        Self { memory, deviations, unreachable, refuses: false }
    }

    fn reached(&mut self) -> Option<&mut dyn StreamMemory> {
        if self.unreachable { None } else { Some(&mut *self.memory) }
    }
}

impl StreamMemory for FaultyMemory<'_> {
    fn submission(&mut self, index: u32) -> Option<u32> {
        let slot = self.reached()?.submission(index)?;
        self.refuses = self.deviations.has(Fault::FetchRefused);
        if self.deviations.has(Fault::Reset) {
            self.deviations.reset_soon();
        }
        Some(slot)
    }

    fn slot(&mut self, slot: u32) -> Option<SlotWords> {
        let mut words = self.reached()?.slot(slot)?;
        if self.refuses {
            // No event has a cbStruct of 0.
            words.header &= !0xFF00;
            self.deviations.pretend();
        }
        Some(words)
    }

    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool> {
        self.reached()?.copy(offset, out)
    }

    fn slot_again(&mut self, slot: u32) -> Option<SlotWords> {
        self.memory.slot_again(slot)
    }

    fn copy_again(&mut self, offset: usize, out: &mut [u8]) -> Option<()> {
        self.memory.copy_again(offset, out)
    }

    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        self.reached()?.complete(index, entries)
    }

    fn is_same(&mut self, offset: usize, bytes: &[u8]) -> Option<bool> {
        self.memory.is_same(offset, bytes)
    }

    fn consume(&mut self, first: u32, entries: &mut [u32]) {
        if let Some(memory) = self.reached() {
            memory.consume(first, entries);
        }
    }

    fn completion(&mut self, index: u32) -> Option<[u64; 2]> {
        self.memory.completion(index)
    }

    fn write(&mut self, iova: u64, bytes: &[u8]) -> Option<()> {
        self.reached()?.write(iova, bytes)
    }

    fn write_shared(&mut self, iova: u64, bytes: &[u8]) -> bool {
        self.reached().is_some_and(|memory| memory.write_shared(iova, bytes))
    }

    fn filled(&mut self, slot: u32, bytes: &[u8]) {
        self.memory.filled(slot, bytes);
    }
}
