//! Which guest instruction made a mistake: what a plugin of QEMU is told of the memory that the card owns, and what it
//! saw.
//!
//! Fed by the observer of a stream as slots come and go; feeds reports, through the owners map, with the store.

use crate::dma::GuestMemory;
use crate::dma::owners::{Owners, StoreRecord};
use crate::shared::StreamConfig;
use dmus_interface::doorbell;
use std::sync::Arc;
use std::time::Duration;

/// The record of a store comes a moment after the store: how often, and after how long, it is looked for again.
const LOOKS: u32 = 10;
const STEP: Duration = Duration::from_millis(1);

/// A stream's slots and buffers in the owners map.
#[derive(Debug)]
pub(super) struct Culprit {
    owners: Arc<Owners>,
    /// Where they are in the guest's memory, as far as it is shared; as it was when the stream was created.
    slots: Box<[Option<u64>]>,
    buffers: Box<[Option<u64>]>,
    /// Bytes of an event, and of a buffer.
    event: u64,
    buffer: u64,
}

impl Culprit {
    pub(super) fn new(owners: Arc<Owners>, memory: &GuestMemory, config: &StreamConfig) -> Self {
        Self {
            owners,
            slots: (0..config.slots).map(|slot| memory.file_offset(config.slot_iova(slot))).collect(),
            buffers: (0..config.buffers).map(|buffer| memory.file_offset(config.buffer_iova(buffer))).collect(),
            event: config.width.event_size() as u64,
            buffer: config.buffer_size.into(),
        }
    }

    fn slot(&self, slot: u32) -> Option<(u64, u64)> {
        Some((self.slots.get(slot as usize).copied()??, self.event))
    }

    /// Of the buffer that begins at an offset of the area.
    fn buffer(&self, offset: usize) -> Option<(u64, u64)> {
        let number = (offset as u64).checked_div(self.buffer)?;
        Some((self.buffers.get(usize::try_from(number).ok()?).copied()??, self.buffer))
    }

    /// A slot, and the buffer that its event has, are the card's from here on, or the driver's.
    pub(super) fn take(&self, slot: u32, buffer: Option<usize>) {
        for (offset, bytes) in [self.slot(slot), buffer.and_then(|at| self.buffer(at))].into_iter().flatten() {
            self.owners.mark(offset, bytes);
        }
    }

    pub(super) fn give_back(&self, slot: u32, buffer: Option<usize>) {
        for (offset, bytes) in [self.slot(slot), buffer.and_then(|at| self.buffer(at))].into_iter().flatten() {
            self.owners.clear(offset, bytes);
        }
    }

    /// The last store into a slot, or into the buffer that begins there, while it was the card's.
    pub(super) fn of_memory(&self, slot: u32, buffer: Option<usize>) -> Option<StoreRecord> {
        let (offset, bytes) = buffer.map_or_else(|| self.slot(slot), |at| self.buffer(at))?;
        self.look(|owners| owners.stores_into(offset, bytes))
    }

    /// The last store of a stream's tail.
    pub(super) fn of_tail(&self, stream: usize) -> Option<StoreRecord> {
        let tail = doorbell::at(stream, doorbell::SUBMISSION_TAIL) as u64;
        self.look(|owners| owners.doorbell_stores(tail))
    }

    fn look(&self, stores: impl Fn(&Owners) -> Vec<StoreRecord>) -> Option<StoreRecord> {
        for _ in 0..if self.owners.is_watched() { LOOKS } else { 0 } {
            if let Some(store) = stores(&self.owners).into_iter().next() {
                return Some(store);
            }
            std::thread::sleep(STEP);
        }
        None
    }
}

impl Drop for Culprit {
    /// A stream that is closed, or reset, owns nothing.
    fn drop(&mut self) {
        for (offset, bytes) in self.slots.iter().flatten().map(|offset| (*offset, self.event)) {
            self.owners.clear(offset, bytes);
        }
        for (offset, bytes) in self.buffers.iter().flatten().map(|offset| (*offset, self.buffer)) {
            self.owners.clear(offset, bytes);
        }
    }
}
