//! The event allocator (`IAllocatorMXF`): messages and buffers, which are recycled together.
//!
//! Fed by the card through the completion ring, which is its free list, and by handles that are dropped; feeds the
//! application with zeroed messages. A small private list has the slots that never reached the card. Which buffer is
//! recycled with a message follows from cbEvent: more bytes than a pointer has, and no package, means that uData refers
//! to a buffer.

use crate::dma::{DataPlace, DmaMemory, DoorbellPage, Part, Pool, Ring, SlotPlace};
use crate::queue::Queue;
use crate::shadow::{FreeList, NONE, SlotRefs, SlotState};
use crate::{Buffer, DriverError, Message, Platform, StreamConfig};
use alloc::boxed::Box;
use core::cell::Cell;
use dmus_interface::event::PointerWidth;
use dmus_interface::ring::{Reject, Slot, Status};

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

/// A stream's allocator.
#[derive(Debug)]
pub struct Allocator<'c> {
    pub(crate) pool: Pool<'c>,
    pub(crate) buffers: Part<'c>,
    pub(crate) queue: Queue<'c>,
    pub(crate) width: PointerWidth,
    /// Bytes that fit in an event, and where they are.
    pub(crate) inline_limit: usize,
    pub(crate) data_place: DataPlace,
    /// The first word of a fresh event: cbStruct.
    pub(crate) header: u64,
    pub(crate) buffer_size: usize,
    refs: Box<[Cell<SlotRefs>]>,
    free_slots: FreeList,
    pub(crate) free_buffers: FreeList,
    /// Messages by the status that they ended with, less one.
    ended: [Cell<u64>; Status::COUNT],
    rejection: Cell<Option<Rejection>>,
    /// The slot of a fragment that was refused, until the end of its message is.
    torn: Cell<Option<u32>>,
}

/// A submission that the card refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The slot (the head of its chain).
    pub slot: Slot,
    /// Why, if the data sheet has the reason.
    pub reason: Option<Reject>,
}

/// A slot that the caller owns, in a state with at most a buffer, which is the caller's too. The shadow may still say
/// that it is submitted; the caller sets it.
pub(crate) struct FreeSlot<'m> {
    pub(crate) slot: u32,
    pub(crate) place: SlotPlace<'m>,
    pub(crate) shadow: &'m Cell<SlotState>,
    pub(crate) state: SlotState,
    /// How its submission ended.
    pub(crate) status: Status,
}

impl<'c> Allocator<'c> {
    /// The allocator of stream number `stream` in memory of the [`StreamConfig::sizes`]; `None` if that has no room for
    /// the rings.
    pub(crate) fn new(
        page: DoorbellPage<'c>,
        stream: usize,
        width: PointerWidth,
        config: StreamConfig,
        memory: [DmaMemory; 4],
    ) -> Option<Self> {
        let [pool, buffers, submissions, completions] = memory;
        let submissions = Ring::new(submissions, config.entries())?;
        let completions = Ring::new(completions, config.entries())?;
        Some(Self {
            pool: Pool::new(pool, config.slots),
            buffers: Part::new(buffers),
            queue: Queue::new(page, stream, submissions, completions),
            width,
            inline_limit: width.bytes(),
            data_place: DataPlace::of(width),
            header: (width.event_size() as u64) << 8,
            buffer_size: config.buffer_size as usize,
            refs: (0..config.slots).map(|_| Cell::new(SlotRefs::NONE)).collect(),
            free_slots: FreeList::full(config.slots),
            free_buffers: FreeList::full(config.buffers),
            ended: Default::default(),
            rejection: Cell::new(None),
            torn: Cell::new(None),
        })
    }

    /// The card is done with the memory, which goes back to where it came from when this is dropped. Otherwise it is
    /// lost: the card may still write to it.
    pub(crate) fn return_to(&mut self, platform: &'c dyn Platform) {
        self.pool.return_to(platform);
        self.buffers.return_to(platform);
        self.queue.submissions.return_to(platform);
        self.queue.completions.return_to(platform);
    }

    /// The device's addresses of pool, buffers, submission ring and completion ring.
    pub(crate) fn iovas(&self) -> [u64; 4] {
        let Queue { submissions, completions, .. } = &self.queue;
        [self.pool.iova(0), self.buffers.iova, submissions.iova(), completions.iova()]
    }

    /// `GetMessage`: a fresh event, all zero but cbStruct.
    ///
    /// Takes a completed slot when none is idle; [`DriverError::NoMessage`] when there is neither.
    #[inline]
    pub fn get_message(&self) -> Result<Message<'_>, DriverError> {
        Ok(Message::new(self, &self.take_slot(SlotState::MESSAGE)?))
    }

    /// A completed slot, or an idle one. It has a buffer only if it is `usual` that it has.
    #[inline(always)]
    fn take_slot(&self, usual: SlotState) -> Result<FreeSlot<'_>, DriverError> {
        if self.queue.has_known() { self.pop_completion(usual) } else { self.take_idle_slot(usual) }
    }

    /// An idle slot, or a slot that was completed since the last look at the doorbell page.
    #[inline(never)]
    fn take_idle_slot(&self, usual: SlotState) -> Result<FreeSlot<'_>, DriverError> {
        match self.take_free_slot() {
            Some(free) => Ok(free),
            None if self.queue.has_next()? => self.pop_completion(usual),
            None => Err(DriverError::NoMessage),
        }
    }

    fn take_free_slot(&self) -> Option<FreeSlot<'_>> {
        let slot = self.free_slots.pop()?;
        let (place, shadow) = self.pool.slot(slot.into())?;
        Some(FreeSlot { slot, place, shadow, state: SlotState::FREE, status: Status::Presented })
    }

    /// `PutMessage` of the allocator: recycles the message, with its chain, packages and buffers. The same as dropping
    /// it.
    ///
    /// # Errors
    /// [`DriverError::Misuse`] for another allocator's message, which that allocator recycles.
    pub fn put_message(&self, message: Message<'_>) -> Result<(), DriverError> {
        if message.belongs_to(self) { Ok(()) } else { Err(DriverError::Misuse("the message is another allocator's")) }
    }

    /// `GetBuffer`: a buffer for long event data.
    #[inline]
    pub fn get_buffer(&self) -> Result<Buffer<'_>, DriverError> {
        loop {
            if let Some(index) = self.free_buffers.pop() {
                return Ok(Buffer::new(self, index));
            }
            if !self.reclaim_one()? {
                return Err(DriverError::NoBuffer);
            }
        }
    }

    /// `GetBufferSize`: bytes in a buffer, constant for the allocator's life.
    pub fn get_buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// `PutBuffer`: hands back a buffer that no message has. The same as dropping it.
    ///
    /// # Errors
    /// [`DriverError::Misuse`] for another allocator's buffer, which goes back to that allocator.
    pub fn put_buffer(&self, buffer: Buffer<'_>) -> Result<(), DriverError> {
        if buffer.belongs_to(self) { Ok(()) } else { Err(DriverError::Misuse("the buffer is another allocator's")) }
    }

    /// Slots in the pool.
    pub fn slots(&self) -> usize {
        self.pool.shadow().len()
    }

    /// Slots that are free, as far as completions were taken.
    pub fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    /// Buffers that are free, as far as completions were taken.
    pub fn free_buffers(&self) -> usize {
        self.free_buffers.len()
    }

    /// Submissions that the card has not completed, as far as completions were taken.
    pub fn in_flight(&self) -> u32 {
        self.queue.in_flight()
    }

    /// How submissions ended so far. Looks at every slot.
    pub fn counts(&self) -> Counts {
        let ended = |status: Status| self.ended[status as usize - 1].get();
        let in_flight = self.pool.shadow().iter().map(Cell::get).filter(|state| state.is_submitted());
        Counts {
            submitted: self.ended.iter().map(Cell::get).sum::<u64>()
                + in_flight.map(|state| u64::from(state.messages())).sum::<u64>(),
            presented: ended(Status::Presented),
            late: ended(Status::Late),
            discarded: ended(Status::Discarded),
            rejected: ended(Status::Rejected),
        }
    }

    /// What the card refused last.
    pub fn last_rejection(&self) -> Option<Rejection> {
        self.rejection.get()
    }

    /// Recycles everything that the card has completed by now. Bounded by what is in flight.
    pub fn reclaim(&self) -> Result<(), DriverError> {
        while self.reclaim_one()? {}
        Ok(())
    }

    /// As [`Self::reclaim`], once the card has nothing left: in STOP, or when all that was submitted is completed.
    ///
    /// # Errors
    /// [`DriverError::NotCompleted`] if a slot is the card's still, which completed another one in its stead, or none;
    /// [`DriverError::FragmentRefused`] if a message was presented with a hole, which no count shows.
    pub fn settle(&self) -> Result<(), DriverError> {
        self.reclaim()?;
        if let Some(slot) = self.torn.take() {
            return Err(DriverError::FragmentRefused(slot));
        }
        let held = (0..).zip(self.pool.shadow()).find(|(_, state)| state.get().is_submitted());
        held.map_or(Ok(()), |(slot, _)| Err(DriverError::NotCompleted(slot)))
    }

    fn reclaim_one(&self) -> Result<bool, DriverError> {
        let there = self.queue.has_next()?;
        if there {
            let free = self.pop_completion(SlotState::MESSAGE)?;
            self.recycle(free.slot, free.state);
        }
        Ok(there)
    }

    /// Whether the card has published completions that were not taken yet.
    pub fn has_completions(&self) -> bool {
        self.queue.has_completions()
    }

    /// Takes the next completion: there must be one. All that the entry says is checked against the shadow.
    ///
    /// What was submitted in the `usual` state and presented costs the fewest instructions, and keeps its buffer. The
    /// benchmark `ring` counts them.
    #[inline(always)]
    pub(crate) fn pop_completion(&self, usual: SlotState) -> Result<FreeSlot<'_>, DriverError> {
        let entry = self.queue.peek();
        // What is above the slot number is the status. With any other status the difference is no slot.
        let presented = entry.wrapping_sub((Status::Presented as u64) << 32);
        match self.pool.slot(presented) {
            Some((place, shadow)) if shadow.get() == usual.submitted() => {
                self.count(Status::Presented, 1);
                self.queue.advance();
                Ok(FreeSlot { slot: presented as u32, place, shadow, state: usual, status: Status::Presented })
            }
            _ => self.pop_any_completion(entry),
        }
    }

    /// The other half of [`Self::pop_completion`]: any entry. All that its slot refers to is recycled.
    #[inline(never)]
    fn pop_any_completion(&self, entry: u64) -> Result<FreeSlot<'_>, DriverError> {
        let (slot, status, flags) = (entry as u32, (entry >> 32) as u16, (entry >> 48) as u16);
        let submitted = self.pool.slot(slot.into()).filter(|(_, shadow)| shadow.get().is_submitted());
        let (place, shadow) = submitted.ok_or(DriverError::ForgedCompletion(slot))?;
        let status = Status::decode(status).ok_or(DriverError::UnknownStatus { slot, status })?;
        if status == Status::Rejected {
            self.rejection.set(Some(Rejection { slot: Slot(slot), reason: Reject::decode(flags) }));
            self.torn.set((shadow.get().messages() == 0).then_some(slot));
        }
        let state = shadow.get();
        self.count(status, state.messages());
        self.queue.advance();
        self.recycle_refs(slot, state);
        Ok(FreeSlot { slot, place, shadow, state: SlotState::FREE, status })
    }

    #[inline]
    fn count(&self, status: Status, messages: u32) {
        let ended = &self.ended[status as usize - 1];
        ended.set(ended.get() + u64::from(messages));
    }

    /// Recycles what the card held when it was reset: it may not touch it any more, and publishes nothing.
    pub(crate) fn reclaim_after_reset(&self) {
        for (slot, shadow) in (0..).zip(self.pool.shadow()) {
            let state = shadow.get();
            if state.is_submitted() {
                self.count(Status::Discarded, state.messages());
                self.recycle(slot, state);
            }
        }
        self.queue.reset();
    }

    /// Recycles a slot that the caller owns, with all that it refers to.
    #[inline(never)]
    pub(crate) fn recycle(&self, slot: u32, state: SlotState) {
        self.recycle_refs(slot, state);
        self.free_slots.push(slot);
    }

    /// Recycles what a slot refers to: its buffer, and its chain, each event with its own. Packages are spliced into
    /// the chain, so that no recursion is needed.
    fn recycle_refs(&self, slot: u32, state: SlotState) {
        self.state(slot).set(SlotState::FREE);
        let mut next = self.detach(slot, state);
        while next != NONE {
            let slot = next;
            next = self.detach(slot, self.state(slot).replace(SlotState::FREE));
            self.free_slots.push(slot);
        }
    }

    /// Frees a slot's buffer, and gives the slot that comes after it in its chain.
    fn detach(&self, slot: u32, state: SlotState) -> u32 {
        if !state.has_refs() {
            return NONE;
        }
        let refs = self.refs(slot).replace(SlotRefs::NONE);
        if state.has_buffer() {
            self.free_buffers.push(refs.buffer);
        }
        if refs.package == NONE {
            return refs.next;
        }
        // What follows the package follows its last event.
        let last = self.tail_of(refs.package);
        let end = self.refs(last);
        end.set(SlotRefs { next: refs.next, ..end.get() });
        self.state(last).set(self.state(last).get().linked());
        refs.package
    }

    pub(crate) fn state(&self, slot: u32) -> &Cell<SlotState> {
        &self.pool.shadow()[slot as usize]
    }

    pub(crate) fn refs(&self, slot: u32) -> &Cell<SlotRefs> {
        &self.refs[slot as usize]
    }

    /// Last slot of the chain that `slot` heads.
    pub(crate) fn tail_of(&self, slot: u32) -> u32 {
        match self.refs(slot).get().tail {
            NONE => slot,
            tail => tail,
        }
    }

    /// Byte offset of a buffer in the buffer area.
    #[inline]
    pub(crate) fn buffer_offset(&self, buffer: u32) -> usize {
        buffer as usize * self.buffer_size
    }

    /// The device's address of a buffer.
    #[inline]
    pub(crate) fn buffer_iova(&self, buffer: u32) -> u64 {
        self.buffers.iova + self.buffer_offset(buffer) as u64
    }
}

mod post;
mod send;
#[cfg(test)]
mod tests;
