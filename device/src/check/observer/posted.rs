//! What the checker sees of slots that a capture or wave sink stream has posted: their buffers are filled with bytes
//! that no driver stores, and held against these before the card stores what it captured.
//!
//! Fed by capture streams; feeds the checker.

use super::super::describe::{Details, hex};
use super::Observer;
use crate::dma::{SlotWords, StreamMemory};
use dmus_interface::rule::{Check, Code};

/// The byte of a posted buffer at an offset: unlike its neighbours, and no status byte of a message.
pub(super) fn canary(offset: u32) -> u8 {
    (offset as u8).wrapping_mul(0x9D) & 0x7F ^ 0x55
}

impl Observer {
    /// A slot was posted with the buffer that begins at `offset`: its bytes are such as no driver stores.
    pub(crate) fn guard(&self, memory: &mut dyn StreamMemory, slot: u32, words: &SlotWords, offset: usize) {
        self.note(slot, words);
        if let Some(told) = self.told.get(slot as usize) {
            told.set(false);
        }
        let iova = self.config.buffer_base + offset as u64;
        if let Some(guarded) = self.guarded.get(slot as usize) {
            guarded.set(memory.write_shared(iova, &self.canary));
        }
    }

    /// A posted slot is about to be filled, or the guest has just stored there: neither it nor its buffer may have
    /// changed.
    pub(crate) fn check_posted(&self, memory: &mut dyn StreamMemory, slot: u32, offset: usize) {
        if let (Some(fetched), Some(now), Some(told)) =
            (self.noted(slot), memory.slot_again(slot), self.told.get(slot as usize))
            && now != fetched
            && !told.replace(true)
        {
            self.changed(slot, &fetched, &now);
        }
        let guarded = self.guarded.get(slot as usize).filter(|guarded| guarded.get());
        if let Some(guarded) = guarded
            && memory.is_same(offset, &self.canary) == Some(false)
        {
            guarded.set(false);
            self.touched(memory, slot, offset);
        }
    }

    #[cold]
    fn touched(&self, memory: &mut dyn StreamMemory, slot: u32, offset: usize) {
        let mut now = vec![0; self.canary.len()];
        if memory.copy_again(offset, &mut now).is_none() {
            return;
        }
        let differs = self.canary.iter().zip(&now).position(|(a, b)| a != b).unwrap_or(0);
        self.checker.found(Code::Check(Check::PostedBufferTouched), || {
            let mut details = self.details(Some(slot), None);
            details.place.buffer = Some(offset);
            let show = |bytes: &[u8]| {
                format!("from byte {differs} on: {}", hex(&bytes[differs..bytes.len().min(differs + 32)]))
            };
            let culprit = self.culprit.as_ref().and_then(|culprit| culprit.of_memory(slot, Some(offset)));
            let expected = Some(format!("{}, with which the card fills it", show(&self.canary)));
            Details { culprit, expected, found: Some(show(&now)), ..details }
        });
    }
}
