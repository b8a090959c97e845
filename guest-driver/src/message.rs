//! The handles of an application: a [`Message`] is a slot of the pool, a [`Buffer`] a piece of the buffer area.
//!
//! Fed by the allocator, which hands them out; feeds the slots in device-visible memory, and the shadow, with what the
//! application sets. They are not `Clone`: giving one away moves it, dropping one recycles it.

use crate::allocator::FreeSlot;
use crate::dma::SlotPlace;
use crate::shadow::{SlotRefs, SlotState};
use crate::{Allocator, DriverError};
use core::cell::Cell;
use core::mem;
use dmus_interface::event::{DONT_HOLD, Event, INCOMPLETE, PACKAGE};
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
    /// Its state in the shadow: FREE for as long as there is a handle, which has the state itself.
    shadow: &'a Cell<SlotState>,
    slot: u32,
    /// The first word of the event but for cbStruct; stored when the handle is given up.
    header: u64,
    state: SlotState,
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
    /// A handle on a slot that the caller owns without a buffer, zeroed but for cbStruct.
    #[inline]
    pub(crate) fn new(allocator: &'a Allocator<'a>, free: &FreeSlot<'a>) -> Self {
        let (place, shadow) = (free.place, free.shadow);
        shadow.set(SlotState::FREE);
        place.store::<{ word::TIME }>(0);
        place.store::<{ word::BYTE_POSITION }>(0);
        place.store::<{ word::NEXT }>(0);
        place.store::<{ word::DATA }>(0);
        let message = Self { allocator, place, shadow, slot: free.slot, state: SlotState::MESSAGE, header: 0 };
        message.store_header();
        message
    }

    /// A handle on a slot that the card has filled, with the buffer that it was posted with.
    pub(crate) fn captured(allocator: &'a Allocator<'a>, free: &FreeSlot<'a>, event: &Event) -> Self {
        let &FreeSlot { slot, place, shadow, .. } = free;
        shadow.set(SlotState::FREE);
        let header =
            header(event.channel_group, event.event_bytes.into()) | u64::from(event.flags) << self::header::FLAGS;
        Self { allocator, place, shadow, slot, state: SlotState::MESSAGE.with_buffer(), header }
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
            self.state = self.state.with_messages(self.state.messages().saturating_sub(1));
            self.set_flag(INCOMPLETE);
        }
    }

    /// Gives the event its data: in the event itself up to the pointer size, else in a buffer.
    #[inline]
    pub fn set_data(&mut self, bytes: &[u8]) -> Result<(), DriverError> {
        self.expect_empty()?;
        if bytes.len() > self.allocator.inline_limit {
            let buffer = self.allocator.get_buffer()?;
            buffer.write(0, bytes)?;
            self.set_buffer(buffer.into_index(), bytes.len());
            return Ok(());
        }
        self.store_data(short_word(bytes));
        self.set_event_bytes(bytes.len());
        Ok(())
    }

    /// Gives the event a buffer whose first `len` bytes are its data. No more than a pointer's worth of bytes are
    /// copied into the event instead, and the buffer is free again.
    pub fn attach(&mut self, buffer: Buffer<'_>, len: usize) -> Result<(), DriverError> {
        self.expect_empty()?;
        let allocator = self.allocator;
        if !buffer.belongs_to(allocator) {
            return Err(DriverError::Misuse("the buffer is another allocator's"));
        }
        if len > allocator.buffer_size {
            return Err(DriverError::TooLong { len, size: allocator.buffer_size });
        }
        if len <= allocator.width.bytes() {
            let mut bytes = [0; 8];
            allocator.buffers.memory.read(allocator.buffer_offset(buffer.index), &mut bytes[..len]);
            return self.set_data(&bytes[..len]);
        }
        self.set_buffer(buffer.into_index(), len);
        Ok(())
    }

    /// Makes the first `len` bytes of a buffer, more than fit inline, the event's data. The buffer is recycled with the
    /// message from here on.
    #[inline]
    fn set_buffer(&mut self, buffer: u32, len: usize) {
        let allocator = self.allocator;
        self.store_data(allocator.buffer_iova(buffer));
        self.set_event_bytes(len);
        self.state = self.state.with_buffer();
        self.update_refs(|refs| refs.buffer = buffer);
    }

    /// Appends `next` (and its chain) to this message's chain: one submission, one time stamp, applied together.
    pub fn chain(&mut self, next: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&next)?;
        let allocator = self.allocator;
        self.state = self.state.linked().with_messages(self.state.messages() + next.state.messages());
        let last = allocator.tail_of(self.slot);
        let appended = next.into_slot();
        let refs = allocator.refs(last);
        refs.set(SlotRefs { next: appended, ..refs.get() });
        if last != self.slot {
            allocator.state(last).set(allocator.state(last).get().linked());
        }
        // The first bytes are those of a narrow pointer.
        let iova = allocator.pool.iova(appended).to_le_bytes();
        allocator.pool.write(last, word::NEXT * 8, &iova[..allocator.width.bytes()]);
        let end = allocator.tail_of(appended);
        self.update_refs(|refs| refs.tail = end);
        Ok(())
    }

    /// Makes this message a package of `inner` and its chain, handled atomically.
    pub fn package(&mut self, inner: Message<'_>) -> Result<(), DriverError> {
        self.expect_own(&inner)?;
        self.expect_empty()?;
        // What is chained to it counts beside what is in it; the package itself is no message.
        let others = self.state.messages().saturating_sub(1);
        self.state = self.state.linked().with_messages(others + inner.state.messages());
        let first = inner.into_slot();
        self.store_data(self.allocator.pool.iova(first));
        self.set_flag(PACKAGE);
        self.update_refs(|refs| refs.package = first);
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
    pub(crate) fn flags(&self) -> u16 {
        (self.header >> header::FLAGS) as u16
    }

    /// Gives up the handle of a slot that is linked to another, which recycles it.
    #[inline]
    fn into_slot(self) -> u32 {
        let message = mem::ManuallyDrop::new(self);
        message.store_header();
        message.shadow.set(message.state);
        message.slot
    }

    /// Gives up the handle to the card.
    #[inline]
    pub(crate) fn submit(self) {
        let message = mem::ManuallyDrop::new(self);
        message.store_header();
        message.shadow.set(message.state.submitted());
        message.allocator.queue.submit(message.slot);
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

    fn update_refs(&self, change: impl FnOnce(&mut SlotRefs)) {
        let cell = self.allocator.refs(self.slot);
        let mut refs = cell.get();
        change(&mut refs);
        cell.set(refs);
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
        self.allocator.recycle(self.slot, self.state);
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
        self.allocator.buffers.memory.write(self.allocator.buffer_offset(self.index) + offset, bytes);
        Ok(())
    }

    pub(crate) fn belongs_to(&self, allocator: &Allocator<'_>) -> bool {
        core::ptr::addr_eq(self.allocator, allocator)
    }

    /// Gives up the handle without freeing the buffer.
    pub(crate) fn into_index(self) -> u32 {
        mem::ManuallyDrop::new(self).index
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.allocator.free_buffers.push(self.index);
    }
}
