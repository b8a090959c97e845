//! Which guest instruction made a mistake: what a plugin of QEMU is told of the memory that the card owns, and what it
//! saw.
//!
//! Fed by the observer of a stream as slots come and go; feeds reports, through the owners map, with the store.

use crate::dma::GuestMemory;
use crate::dma::owners::{Owners, StoreRecord};
use crate::replay_log::ReplayLog;
use crate::shared::StreamConfig;
use dmus_interface::doorbell;
use dmus_interface::owners::Ring;
use std::sync::Arc;
use std::time::Duration;

/// The record of a store comes a moment after the store: how often, and after how long, it is looked for again.
const LOOKS: u32 = 10;
const STEP: Duration = Duration::from_millis(1);

/// Ranges of the guest's memory, by number: where each is in the file of that memory, as far as it is shared.
#[derive(Debug)]
struct Places {
    /// Offsets and bytes.
    pieces: Vec<(u64, u64)>,
    /// Where those of a range end, and those of the next one begin.
    ends: Vec<usize>,
}

impl Places {
    fn new(memory: &GuestMemory, count: u32, bytes: u64, iova: impl Fn(u32) -> u64) -> Self {
        let mut places = Self { pieces: Vec::with_capacity(count as usize), ends: Vec::with_capacity(count as usize) };
        for number in 0..count {
            places.pieces.extend(memory.file_pieces(iova(number), bytes));
            places.ends.push(places.pieces.len());
        }
        places
    }

    fn of(&self, number: u32) -> &[(u64, u64)] {
        let end = |number: usize| self.ends.get(number).copied();
        let number = number as usize;
        let start = number.checked_sub(1).map_or(Some(0), end).unwrap_or(0);
        end(number).and_then(|end| self.pieces.get(start..end)).unwrap_or(&[])
    }
}

/// A stream's slots and buffers in the owners map.
#[derive(Debug)]
pub(super) struct Culprit {
    /// None in a replay, which is told by its log.
    owners: Option<Arc<Owners>>,
    log: Option<Arc<ReplayLog>>,
    /// As it was when the stream was created.
    slots: Places,
    buffers: Places,
    /// Bytes of a buffer.
    buffer: u64,
}

impl Culprit {
    pub(super) fn new(
        owners: Option<Arc<Owners>>,
        log: Option<Arc<ReplayLog>>,
        memory: &GuestMemory,
        config: &StreamConfig,
    ) -> Self {
        let (event, buffer) = (config.width.event_size() as u64, config.buffer_size.into());
        Self {
            owners,
            log,
            slots: Places::new(memory, config.slots, event, |slot| config.slot_iova(slot)),
            buffers: Places::new(memory, config.buffers, buffer, |number| config.buffer_iova(number)),
            buffer,
        }
    }

    /// Of the buffer that begins at an offset of the area.
    fn buffer(&self, offset: usize) -> &[(u64, u64)] {
        let number = (offset as u64).checked_div(self.buffer).and_then(|number| u32::try_from(number).ok());
        number.map_or(&[], |number| self.buffers.of(number))
    }

    /// Of a slot, and of the buffer that its event has.
    fn both(&self, slot: u32, buffer: Option<usize>) -> impl Iterator<Item = (u64, u64)> {
        let buffer = buffer.map_or(&[][..], |at| self.buffer(at));
        self.slots.of(slot).iter().chain(buffer).copied()
    }

    /// A slot, and the buffer that its event has, are the card's from here on, or the driver's.
    pub(super) fn take(&self, slot: u32, buffer: Option<usize>) {
        if let Some(owners) = &self.owners {
            self.both(slot, buffer).for_each(|(offset, bytes)| owners.mark(offset, bytes));
        }
    }

    pub(super) fn give_back(&self, slot: u32, buffer: Option<usize>) {
        if let Some(owners) = &self.owners {
            self.both(slot, buffer).for_each(|(offset, bytes)| owners.clear(offset, bytes));
        }
    }

    /// The last store into a slot, or into the buffer that begins there, while it was the card's.
    pub(super) fn of_memory(&self, slot: u32, buffer: Option<usize>) -> Option<StoreRecord> {
        let pieces = buffer.map_or_else(|| self.slots.of(slot), |at| self.buffer(at));
        let touched = |store: &StoreRecord| pieces.iter().any(|(offset, bytes)| store.touches(*offset, *bytes));
        look(self.owners.as_deref(), self.log.as_deref(), |owners| owners.records(Ring::Owned, touched))
    }

    /// The last store of a stream's tail.
    pub(super) fn of_tail(&self, stream: usize) -> Option<StoreRecord> {
        of_word(self.owners.as_deref(), self.log.as_deref(), doorbell::at(stream, doorbell::SUBMISSION_TAIL))
    }
}

/// The last store to the word of the doorbell page at an offset.
pub(crate) fn of_word(owners: Option<&Owners>, log: Option<&ReplayLog>, word: usize) -> Option<StoreRecord> {
    look(owners, log, |owners| owners.doorbell_stores(word as u64))
}

/// What the map knows, or knew when this was recorded.
fn look(
    owners: Option<&Owners>,
    log: Option<&ReplayLog>,
    stores: impl Fn(&Owners) -> Vec<StoreRecord>,
) -> Option<StoreRecord> {
    let known = || look_again(owners?, stores);
    match log {
        None => known(),
        Some(log) => log.culprit(owners.is_some(), known),
    }
}

fn look_again(owners: &Owners, stores: impl Fn(&Owners) -> Vec<StoreRecord>) -> Option<StoreRecord> {
    for _ in 0..if owners.is_watched() { LOOKS } else { 0 } {
        if let Some(store) = stores(owners).into_iter().next() {
            return Some(store);
        }
        std::thread::sleep(STEP);
    }
    None
}

impl Drop for Culprit {
    /// A stream that is closed, or reset, owns nothing.
    fn drop(&mut self) {
        if let Some(owners) = &self.owners {
            for (offset, bytes) in self.slots.pieces.iter().chain(&self.buffers.pieces) {
                owners.clear(*offset, *bytes);
            }
        }
    }
}
