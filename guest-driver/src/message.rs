//! The handles of an application: a [`Message`] is a slot of the pool, a [`Buffer`] a piece of the buffer area.
//!
//! Fed by the allocator, which hands them out; feeds the slots in device-visible memory, and the shadow, with what the application sets.
//! They are not `Clone`: giving one away moves it, dropping one recycles it.

use crate::shadow::{NONE, Shadow};
use crate::{Allocator, DriverError};
use core::mem;
use core::sync::atomic::Ordering;
use dmus_interface::event::{DONT_HOLD, INCOMPLETE, PACKAGE};
use dmus_interface::ring::Slot;
use dmus_interface::time::RefTime;

/// An event of the pool, owned by the application. Dropping it recycles it.
#[derive(Debug)]
pub struct Message<'a> {
    allocator: &'a Allocator<'a>,
    slot: u32,
}

/// Offsets of the event's fields that are the same in both widths.
mod field {
    pub(super) const HEADER: usize = 0;
    pub(super) const TIME: usize = 8;
    pub(super) const BYTE_POSITION: usize = 16;
    pub(super) const NEXT: usize = 24;
}

impl<'a> Message<'a> {
    /// A handle on a slot that the caller owns, freshly zeroed.
    pub(crate) fn new(allocator: &'a Allocator<'a>, slot: u32) -> Self {
        let message = Self { allocator, slot };
        message.store_header();
        message
    }

    /// Sets the presentation time, in stream time.
    pub fn set_time(&mut self, time: RefTime) {
        self.store64(field::TIME, time.0 as u64);
    }

    /// Has the card apply it at the first sample that is not rendered yet, unordered (DONT_HOLD_FOR_SEQUENCING).
    pub fn play_at_once(&mut self) {
        self.store64(field::TIME, DONT_HOLD as u64);
    }

    /// Sets the byte position in the stream.
    pub fn set_byte_position(&mut self, position: u64) {
        self.store64(field::BYTE_POSITION, position);
    }

    /// Sets the group of 16 channels that the message is for.
    pub fn set_channel_group(&mut self, group: u16) {
        self.update(|shadow| shadow.channel_group = group);
    }

    /// Says that the SysEx message goes on in the next submission.
    pub fn set_incomplete(&mut self) {
        self.update(|shadow| shadow.flags |= INCOMPLETE);
    }

    /// Gives the event its data: in the event itself up to the pointer size, else in a buffer.
    pub fn set_data(&mut self, bytes: &[u8]) -> Result<(), DriverError> {
        if bytes.len() > self.allocator.width.bytes() {
            let buffer = self.allocator.get_buffer()?;
            buffer.write(0, bytes)?;
            return self.attach(buffer, bytes.len());
        }
        self.expect_empty()?;
        self.allocator.pool.memory.write(self.data_offset(), bytes);
        self.update(|shadow| shadow.event_bytes = bytes.len() as u16);
        Ok(())
    }

    /// Gives the event a buffer whose first `len` bytes are its data. No more than a pointer's worth of bytes are copied
    /// into the event instead, and the buffer goes home.
    pub fn attach(&mut self, buffer: Buffer<'_>, len: usize) -> Result<(), DriverError> {
        self.expect_empty()?;
        let allocator = self.allocator;
        if !core::ptr::addr_eq(buffer.allocator, allocator) {
            return Err(DriverError::Misuse("the buffer is another allocator's"));
        }
        if len > allocator.buffer_size {
            return Err(DriverError::TooLong { len, size: allocator.buffer_size });
        }
        if len <= allocator.width.bytes() {
            let mut bytes = [0; 8];
            buffer.allocator.buffers.memory.read(buffer.offset(), &mut bytes[..len]);
            return self.set_data(&bytes[..len]);
        }
        let index = buffer.index;
        self.store_pointer(self.data_offset(), allocator.buffers.iova + buffer.offset() as u64);
        // The message carries it home from here on.
        mem::forget(buffer);
        self.update(|shadow| {
            shadow.event_bytes = len as u16;
            shadow.buffer = index;
        });
        Ok(())
    }

    /// Appends `next` (and its chain) to this message's chain: one submission, one time stamp, applied together.
    pub fn chain(&mut self, next: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&next)?;
        let tail = self.shadow().tail;
        let appended = next.into_slot();
        let allocator = self.allocator;
        let last = allocator.shadow(tail);
        last.set(Shadow { next: appended, ..last.get() });
        let place = allocator.slot_offset(tail) + field::NEXT;
        self.store_pointer(place, allocator.slot_iova(appended));
        let end = allocator.shadow(appended).get().tail;
        self.update(|shadow| shadow.tail = end);
        Ok(())
    }

    /// Makes this message a package of `inner` and its chain, handled atomically.
    pub fn package(&mut self, inner: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&inner)?;
        self.expect_empty()?;
        let allocator = self.allocator;
        let messages = allocator.messages_from(inner.slot, inner.shadow());
        let first = inner.into_slot();
        self.store_pointer(self.data_offset(), allocator.slot_iova(first));
        self.update(|shadow| {
            shadow.flags |= PACKAGE;
            shadow.package = first;
            shadow.messages = messages as u32;
        });
        Ok(())
    }

    /// The slot in the pool.
    pub fn slot(&self) -> Slot {
        Slot(self.slot)
    }

    /// cbEvent: bytes of data.
    pub fn event_bytes(&self) -> u16 {
        self.shadow().event_bytes
    }

    /// Gives up the handle without recycling.
    pub(crate) fn into_slot(self) -> u32 {
        let slot = self.slot;
        mem::forget(self);
        slot
    }

    pub(crate) fn belongs_to(&self, allocator: &Allocator<'_>) -> bool {
        core::ptr::addr_eq(self.allocator, allocator)
    }

    fn expect_own(&self, other: &Message<'_>) -> Result<(), DriverError> {
        match other.belongs_to(self.allocator) {
            true => Ok(()),
            false => Err(DriverError::Misuse("the message is another allocator's")),
        }
    }

    /// Data once set stays: replacing a pointer would lose what it leads to.
    fn expect_empty(&self) -> Result<(), DriverError> {
        let shadow = self.shadow();
        match shadow.event_bytes == 0 && shadow.package == NONE {
            true => Ok(()),
            false => Err(DriverError::Misuse("it carries data already")),
        }
    }

    fn shadow(&self) -> Shadow {
        self.allocator.shadow(self.slot).get()
    }

    fn update(&self, change: impl FnOnce(&mut Shadow)) {
        let cell = self.allocator.shadow(self.slot);
        let mut shadow = cell.get();
        change(&mut shadow);
        cell.set(shadow);
        self.store_header();
    }

    /// cbStruct, cbEvent, usChannelGroup and usFlags are one word.
    fn store_header(&self) {
        let shadow = self.shadow();
        let word = (self.allocator.width.event_size() as u64) << 8
            | u64::from(shadow.event_bytes) << 16
            | u64::from(shadow.channel_group) << 32
            | u64::from(shadow.flags) << 48;
        self.store64(field::HEADER, word);
    }

    fn data_offset(&self) -> usize {
        self.allocator.slot_offset(self.slot) + field::NEXT + self.allocator.width.bytes()
    }

    fn store64(&self, field: usize, value: u64) {
        let place = self.allocator.slot_offset(self.slot) + field;
        self.allocator.pool.memory.store_u64(place, value.to_le(), Ordering::Relaxed);
    }

    fn store_pointer(&self, place: usize, iova: u64) {
        let bytes = iova.to_le_bytes();
        self.allocator.pool.memory.write(place, &bytes[..self.allocator.width.bytes()]);
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.allocator.recycle(self.slot);
    }
}

/// A buffer for long event data, owned by the application. Dropping it hands it back.
#[derive(Debug)]
pub struct Buffer<'a> {
    allocator: &'a Allocator<'a>,
    index: u32,
}

impl<'a> Buffer<'a> {
    /// A handle on a buffer that the caller owns.
    pub(crate) fn new(allocator: &'a Allocator<'a>, index: u32) -> Self {
        Self { allocator, index }
    }

    /// Copies bytes in, from `offset` on.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), DriverError> {
        let size = self.allocator.buffer_size;
        let len = offset.saturating_add(bytes.len());
        if len > size {
            return Err(DriverError::TooLong { len, size });
        }
        self.allocator.buffers.memory.write(self.offset() + offset, bytes);
        Ok(())
    }

    fn offset(&self) -> usize {
        self.index as usize * self.allocator.buffer_size
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.allocator.free_buffers.push(self.index);
    }
}
