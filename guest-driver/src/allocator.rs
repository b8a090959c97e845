//! The event allocator (`IAllocatorMXF`): messages and buffers that recycle each other home.
//!
//! Fed by the card through the completion ring, which is its free list, and by handles that are dropped; feeds the application
//! with zeroed messages. A small private stack holds what never reached the card. Which buffer goes home with a message
//! follows from cbEvent: more bytes than a pointer has, and no package, means that uData refers to a buffer.

use crate::dma::{DmaMemory, SharedMemory};
use crate::shadow::{FreeStack, NONE, Owner, Shadow};
use crate::{Buffer, DriverError, Message};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use dmus_interface::doorbell;
use dmus_interface::event::{INCOMPLETE, PointerWidth};
use dmus_interface::ring::{COMPLETION_SIZE, Completion, Status};
use zerocopy::{FromZeros, IntoBytes};

/// How submissions ended, in messages: members of a chain or package count one each, a fragmented SysEx one in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to the card.
    pub submitted: u64,
    /// Applied at their exact sample.
    pub presented: u64,
    /// Applied after their sample had passed.
    pub late: u64,
    /// Discarded by STOP, or by a reset.
    pub discarded: u64,
    /// Refused by the card.
    pub rejected: u64,
}

/// [`Counts`], each by itself: one changes with every event.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) submitted: Cell<u64>,
    presented: Cell<u64>,
    late: Cell<u64>,
    discarded: Cell<u64>,
    rejected: Cell<u64>,
}

/// A stream's allocator.
#[derive(Debug)]
pub struct Allocator<'c> {
    pub(crate) pool: DmaMemory,
    pub(crate) buffers: DmaMemory,
    pub(crate) completions: DmaMemory,
    page: &'c SharedMemory,
    /// Where the card publishes this stream's completion head.
    head_word: usize,
    pub(crate) width: PointerWidth,
    stride: usize,
    pub(crate) buffer_size: usize,
    completion_mask: u32,
    shadows: Box<[Cell<Shadow>]>,
    free_slots: FreeStack,
    pub(crate) free_buffers: FreeStack,
    consumed: Cell<u32>,
    /// The head as last loaded.
    head: Cell<u32>,
    pub(crate) in_flight: Cell<u32>,
    pub(crate) tallies: Tallies,
}

/// Sizes of an allocator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) stream: usize,
    pub(crate) width: PointerWidth,
    pub(crate) slots: u32,
    pub(crate) stride: usize,
    pub(crate) buffers: u32,
    pub(crate) buffer_size: usize,
    pub(crate) completion_entries: u32,
}

impl<'c> Allocator<'c> {
    pub(crate) fn new(
        page: &'c SharedMemory,
        shape: Shape,
        pool: DmaMemory,
        buffers: DmaMemory,
        completions: DmaMemory,
    ) -> Self {
        let shadows: Vec<_> = (0..shape.slots).map(|slot| Cell::new(Shadow::fresh(Owner::Free, slot))).collect();
        Self {
            pool,
            buffers,
            completions,
            page,
            head_word: doorbell::at(shape.stream, doorbell::COMPLETION_HEAD),
            width: shape.width,
            stride: shape.stride,
            buffer_size: shape.buffer_size,
            completion_mask: shape.completion_entries - 1,
            shadows: shadows.into_boxed_slice(),
            free_slots: FreeStack::full(shape.slots),
            free_buffers: FreeStack::full(shape.buffers),
            consumed: Cell::new(0),
            head: Cell::new(0),
            in_flight: Cell::new(0),
            tallies: Tallies::default(),
        }
    }

    /// `GetMessage`: a fresh event, all zero but cbStruct.
    ///
    /// Takes the next completed slot when none is idle; [`DriverError::NoMessage`] when there is neither.
    pub fn get_message(&self) -> Result<Message<'_>, DriverError> {
        let slot = loop {
            if let Some(slot) = self.free_slots.pop() {
                break slot;
            }
            if !self.take_completion()? {
                return Err(DriverError::NoMessage);
            }
        };
        self.shadow(slot).set(Shadow::fresh(Owner::Application, slot));
        let place = self.slot_offset(slot);
        self.pool.memory.write(place, &[0; 40][..self.width.event_size()]);
        Ok(Message::new(self, slot))
    }

    /// `PutMessage` of the allocator: recycles the message, with its chain, packages and buffers. The same as dropping it.
    pub fn put_message(&self, message: Message<'_>) {
        drop(message);
    }

    /// `GetBuffer`: a buffer for long event data.
    pub fn get_buffer(&self) -> Result<Buffer<'_>, DriverError> {
        loop {
            if let Some(index) = self.free_buffers.pop() {
                return Ok(Buffer::new(self, index));
            }
            if !self.take_completion()? {
                return Err(DriverError::NoBuffer);
            }
        }
    }

    /// `GetBufferSize`: bytes in a buffer, constant for the allocator's life.
    pub fn get_buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// `PutBuffer`: hands back a buffer that no message carries. The same as dropping it.
    pub fn put_buffer(&self, buffer: Buffer<'_>) {
        drop(buffer);
    }

    /// Slots in the pool.
    pub fn slots(&self) -> usize {
        self.shadows.len()
    }

    /// Slots that are at home.
    pub fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    /// Buffers that are at home.
    pub fn free_buffers(&self) -> usize {
        self.free_buffers.len()
    }

    /// Submissions that the card has not completed, as far as the driver has looked.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// How submissions ended so far.
    pub fn counts(&self) -> Counts {
        let tallies = &self.tallies;
        Counts {
            submitted: tallies.submitted.get(),
            presented: tallies.presented.get(),
            late: tallies.late.get(),
            discarded: tallies.discarded.get(),
            rejected: tallies.rejected.get(),
        }
    }

    /// Takes everything home that the card has completed by now. Bounded by what is in flight.
    pub fn reclaim(&self) -> Result<(), DriverError> {
        while self.take_completion()? {}
        Ok(())
    }

    /// Whether the card has published completions that were not taken yet.
    pub fn has_completions(&self) -> bool {
        self.page.load_u32(self.head_word, Ordering::Acquire) != self.consumed.get()
    }

    /// Completions taken so far, wrapping: the number of the next one.
    pub(crate) fn consumed(&self) -> u32 {
        self.consumed.get()
    }

    /// Takes one completion; false when there is none. Everything that the entry says is held against the shadow.
    fn take_completion(&self) -> Result<bool, DriverError> {
        let consumed = self.consumed.get();
        if self.head.get() == consumed {
            // Acquire: the entries were written before the head.
            let head = self.page.load_u32(self.head_word, Ordering::Acquire);
            let published = head.wrapping_sub(consumed);
            if published > self.in_flight.get() {
                return Err(DriverError::HeadJump { published, in_flight: self.in_flight.get() });
            }
            if published == 0 {
                return Ok(false);
            }
            self.head.set(head);
        }
        let mut entry = Completion::new_zeroed();
        let place = (consumed & self.completion_mask) as usize * COMPLETION_SIZE;
        self.completions.memory.read(place, entry.as_mut_bytes());
        let slot = entry.slot.get();
        let owned = self.shadows.get(slot as usize).map(Cell::get);
        let Some(shadow) = owned.filter(|shadow| shadow.owner == Owner::Card) else {
            return Err(DriverError::ForgedCompletion(slot));
        };
        let status = Status::decode(entry.status.get())
            .ok_or(DriverError::UnknownStatus { slot, status: entry.status.get() })?;
        self.consumed.set(consumed.wrapping_add(1));
        self.in_flight.set(self.in_flight.get() - 1);
        self.count(slot, shadow, status);
        self.recycle(slot);
        Ok(true)
    }

    fn count(&self, slot: u32, head: Shadow, status: Status) {
        let messages = self.messages_from(slot, head);
        let tally = match status {
            Status::Presented => &self.tallies.presented,
            Status::Late => &self.tallies.late,
            Status::Discarded => &self.tallies.discarded,
            Status::Rejected => &self.tallies.rejected,
            Status::Copied => return,
        };
        tally.set(tally.get() + messages);
    }

    /// Messages in the chain that `slot` heads. A fragment that goes on counts with its last.
    pub(crate) fn messages_from(&self, slot: u32, head: Shadow) -> u64 {
        if head.next == NONE {
            return u64::from(head.messages) * u64::from(head.flags & INCOMPLETE == 0);
        }
        let mut messages = 0;
        let mut next = slot;
        while next != NONE {
            let shadow = self.shadow(next).get();
            messages += u64::from(shadow.messages);
            next = shadow.next;
        }
        messages
    }

    /// Takes home what the card held when it was reset: it may not touch it any more, and publishes nothing.
    pub(crate) fn reclaim_after_reset(&self) {
        for slot in 0..self.shadows.len() as u32 {
            let shadow = self.shadow(slot).get();
            if shadow.owner == Owner::Card {
                self.count(slot, shadow, Status::Discarded);
                self.recycle(slot);
            }
        }
        self.in_flight.set(0);
        self.consumed.set(0);
        self.head.set(0);
    }

    /// Recycles a chain: each event by its own cbEvent and flags, packages spliced in, so that no recursion is needed.
    pub(crate) fn recycle(&self, head: u32) {
        let mut slot = head;
        while slot != NONE {
            let mut shadow = self.shadow(slot).get();
            if shadow.package != NONE {
                let package = self.shadow(shadow.package);
                let last = self.shadow(package.get().tail);
                last.set(Shadow { next: shadow.next, ..last.get() });
                shadow.next = shadow.package;
            } else if usize::from(shadow.event_bytes) > self.width.bytes() {
                self.free_buffers.push(shadow.buffer);
            }
            self.shadow(slot).set(Shadow::fresh(Owner::Free, slot));
            self.free_slots.push(slot);
            slot = shadow.next;
        }
    }

    pub(crate) fn mark(&self, slot: u32, owner: Owner) -> Shadow {
        let shadow = Shadow { owner, ..self.shadow(slot).get() };
        self.shadow(slot).set(shadow);
        shadow
    }

    pub(crate) fn shadow(&self, slot: u32) -> &Cell<Shadow> {
        &self.shadows[slot as usize]
    }

    pub(crate) fn slot_offset(&self, slot: u32) -> usize {
        slot as usize * self.stride
    }

    pub(crate) fn slot_iova(&self, slot: u32) -> u64 {
        self.pool.iova + self.slot_offset(slot) as u64
    }
}

#[cfg(test)]
mod tests;
