//! The handles of an application: a [`Message`] is a slot of the pool, a [`Buffer`] a piece of the buffer area.
//!
//! Fed by the allocator, which hands them out; feeds the slots in device-visible memory, and the shadow, with what the application sets.
//! They are not `Clone`: giving one away moves it, dropping one recycles it.

use crate::dma::SlotPlace;
use crate::shadow::{Carried, Links};
use crate::{Allocator, DriverError};
use core::cell::Cell;
use core::mem;
use dmus_interface::event::{DONT_HOLD, INCOMPLETE, PACKAGE, PointerWidth};
use dmus_interface::ring::Slot;
use dmus_interface::time::RefTime;

mod view;

/// An event of the pool, owned by the application. Dropping it recycles it.
// In this order, because compilers join two halves of a word that lie together, and pay for it with every message.
#[repr(C)]
#[derive(Debug)]
pub struct Message<'a> {
    allocator: &'a Allocator<'a>,
    place: SlotPlace<'a>,
    /// Its word in the shadow, which has what it carries only once the handle is gone.
    shadow: &'a Cell<Carried>,
    slot: u32,
    /// The first word of the event but for cbStruct; stored when the handle is given up.
    header: u64,
    carried: Carried,
}

/// Words of the event that are the same in both widths; after them pNextEvt and uData fill two words, or one.
mod word {
    pub(super) const HEADER: usize = 0;
    pub(super) const TIME: usize = 1;
    pub(super) const BYTE_POSITION: usize = 2;
    pub(super) const NEXT: usize = 3;
    pub(super) const DATA: usize = 4;
}

/// Places in the first word of the event, where cbStruct comes before them.
mod header {
    pub(super) const EVENT_BYTES: u32 = 16;
    pub(super) const CHANNEL_GROUP: u32 = 32;
    pub(super) const FLAGS: u32 = 48;
}

/// The first word of an event but for cbStruct, of one that has data and no flags.
#[inline]
pub(crate) fn header(channel_group: u16, len: usize) -> u64 {
    u64::from(channel_group) << header::CHANNEL_GROUP | u64::from(len as u16) << header::EVENT_BYTES
}

impl<'a> Message<'a> {
    /// A handle on a slot that the caller owns, zeroed but for cbStruct.
    #[inline]
    pub(crate) fn new(
        allocator: &'a Allocator<'a>,
        place: SlotPlace<'a>,
        shadow: &'a Cell<Carried>,
        slot: u32,
    ) -> Self {
        place.store::<{ word::TIME }>(0);
        place.store::<{ word::BYTE_POSITION }>(0);
        place.store::<{ word::NEXT }>(0);
        place.store::<{ word::DATA }>(0);
        let message = Self { allocator, place, shadow, slot, carried: Carried::MESSAGE, header: 0 };
        message.store_header();
        message
    }

    /// Sets the presentation time, in stream time.
    #[inline]
    pub fn set_time(&mut self, time: RefTime) {
        self.place.store::<{ word::TIME }>(time.0 as u64);
    }

    /// Has the card apply it at the first sample that is not rendered yet, unordered (DONT_HOLD_FOR_SEQUENCING).
    pub fn play_at_once(&mut self) {
        self.place.store::<{ word::TIME }>(DONT_HOLD as u64);
    }

    /// Sets the byte position in the stream.
    pub fn set_byte_position(&mut self, position: u64) {
        self.place.store::<{ word::BYTE_POSITION }>(position);
    }

    /// Sets the group of 16 channels that the message is for.
    #[inline]
    pub fn set_channel_group(&mut self, group: u16) {
        self.header = self.header & !(0xFFFF << header::CHANNEL_GROUP) | u64::from(group) << header::CHANNEL_GROUP;
    }

    /// Says that the SysEx message goes on in the next submission.
    pub fn set_incomplete(&mut self) {
        if self.flags() & INCOMPLETE == 0 {
            // The message counts with its last fragment.
            self.carried = self.carried.with_messages(self.carried.messages().saturating_sub(1));
            self.set_flag(INCOMPLETE);
        }
    }

    /// Gives the event its data: in the event itself up to the pointer size, else in a buffer.
    #[inline]
    pub fn set_data(&mut self, bytes: &[u8]) -> Result<(), DriverError> {
        if bytes.len() > self.allocator.inline_limit {
            self.expect_empty()?;
            let buffer = self.allocator.fill_buffer(bytes)?;
            self.carry(buffer, bytes.len());
            return Ok(());
        }
        self.expect_empty()?;
        self.store_data(short_word(bytes));
        self.set_event_bytes(bytes.len());
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
        // The message carries it home from here on.
        self.carry(buffer.into_index(), len);
        Ok(())
    }

    /// Carries the first `len` bytes of a buffer, which is more than fit inline.
    #[inline]
    fn carry(&mut self, buffer: u32, len: usize) {
        let allocator = self.allocator;
        self.store_data(allocator.buffers.iova + (buffer as usize * allocator.buffer_size) as u64);
        self.set_event_bytes(len);
        self.carried = self.carried.with_buffer();
        let links = allocator.links(self.slot);
        links.set(Links { buffer, ..links.get() });
    }

    /// Appends `next` (and its chain) to this message's chain: one submission, one time stamp, applied together.
    pub fn chain(&mut self, next: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&next)?;
        let allocator = self.allocator;
        self.carried = self.carried.linked().with_messages(self.carried.messages() + next.carried.messages());
        let last = allocator.tail_of(self.slot);
        let appended = next.into_shadow();
        let place = allocator.links(last);
        place.set(Links { next: appended, ..place.get() });
        if last != self.slot {
            allocator.carried(last).set(allocator.carried(last).get().linked());
        }
        let iova = allocator.pool.iova(appended);
        match (allocator.pool.slot(last), allocator.width) {
            (Some((place, _)), PointerWidth::Eight) => place.store::<{ word::NEXT }>(iova),
            (Some((place, _)), PointerWidth::Four) => place.store_half::<{ word::NEXT }>(iova as u32),
            (None, _) => {}
        }
        let end = allocator.tail_of(appended);
        self.update_links(|links| links.tail = end);
        Ok(())
    }

    /// Makes this message a package of `inner` and its chain, handled atomically.
    pub fn package(&mut self, inner: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&inner)?;
        self.expect_empty()?;
        // What is chained to it counts beside what is in it; the package itself is no message.
        let others = self.carried.messages().saturating_sub(1);
        self.carried = self.carried.linked().with_messages(others + inner.carried.messages());
        let first = inner.into_shadow();
        self.store_data(self.allocator.pool.iova(first));
        self.set_flag(PACKAGE);
        self.update_links(|links| links.package = first);
        Ok(())
    }

    /// The slot in the pool.
    pub fn slot(&self) -> Slot {
        Slot(self.slot)
    }

    /// cbEvent: bytes of data.
    #[inline]
    pub fn event_bytes(&self) -> u16 {
        (self.header >> header::EVENT_BYTES) as u16
    }

    #[inline]
    fn flags(&self) -> u16 {
        (self.header >> header::FLAGS) as u16
    }

    /// Gives up the handle without recycling: the shadow has what it carried.
    #[inline]
    fn into_shadow(self) -> u32 {
        let slot = self.slot;
        self.store_header();
        self.shadow.set(self.carried);
        mem::forget(self);
        slot
    }

    /// Gives up the handle to the card, empty, with a buffer for what is captured.
    pub(crate) fn post(mut self, buffer: Buffer<'_>) {
        let allocator = self.allocator;
        let buffer = buffer.into_index();
        self.store_data(allocator.buffers.iova + (buffer as usize * allocator.buffer_size) as u64);
        self.carried = self.carried.with_buffer();
        self.update_links(|links| links.buffer = buffer);
        self.submit();
    }

    /// Gives up the handle to the card.
    #[inline]
    pub(crate) fn submit(self) {
        let message = mem::ManuallyDrop::new(self);
        message.store_header();
        message.shadow.set(message.carried.submitted());
        message.allocator.submit(message.slot);
    }

    #[inline]
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
    #[inline]
    fn expect_empty(&self) -> Result<(), DriverError> {
        match self.event_bytes() == 0 && self.flags() & PACKAGE == 0 {
            true => Ok(()),
            false => Err(DriverError::Misuse("it carries data already")),
        }
    }

    fn set_flag(&mut self, flag: u16) {
        self.header |= u64::from(flag) << header::FLAGS;
    }

    /// Sets cbEvent of an event that has no data yet.
    #[inline]
    fn set_event_bytes(&mut self, len: usize) {
        self.header |= u64::from(len as u16) << header::EVENT_BYTES;
    }

    #[inline]
    fn store_header(&self) {
        self.place.store::<{ word::HEADER }>(self.allocator.header | self.header);
    }

    /// Stores uData.
    #[inline]
    fn store_data(&self, data: u64) {
        self.place.store_data(self.allocator.data_place, data);
    }

    fn update_links(&self, change: impl FnOnce(&mut Links)) {
        let cell = self.allocator.links(self.slot);
        let mut links = cell.get();
        change(&mut links);
        cell.set(links);
    }
}

/// Up to eight bytes as a little-endian word.
#[inline]
pub(crate) fn short_word(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c] => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => other_word(bytes),
    }
}

/// [`short_word`] of a length that is not that of nearly all messages.
#[inline(never)]
fn other_word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl Drop for Message<'_> {
    // Small wherever it is inlined, so that a handle can live in registers.
    #[inline]
    fn drop(&mut self) {
        self.allocator.recycle(self.slot, self.carried);
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

    /// Gives up the handle without handing the buffer back.
    pub(crate) fn into_index(self) -> u32 {
        let index = self.index;
        mem::forget(self);
        index
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
