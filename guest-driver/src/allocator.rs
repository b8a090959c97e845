//! The event allocator (`IAllocatorMXF`): messages and buffers that recycle each other home.
//!
//! Fed by the card through the completion ring, which is its free list, and by handles that are dropped; feeds the application
//! with zeroed messages. A small private stack holds what never reached the card. Which buffer goes home with a message
//! follows from cbEvent: more bytes than a pointer has, and no package, means that uData refers to a buffer.

use crate::dma::{DataPlace, DmaMemory, DoorbellPage, Pool, Ring, SlotPlace};
use crate::shadow::{Carried, FreeStack, Links, NONE};
use crate::{Buffer, DriverError, Message};
use alloc::boxed::Box;
use core::cell::Cell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::driver;
use dmus_interface::ring::{COMPLETION_SIZE, Reject, SUBMISSION_SIZE, Slot, Status};

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
    pub(crate) pool: Pool,
    pub(crate) buffers: DmaMemory,
    submissions: Ring<SUBMISSION_SIZE>,
    completions: Ring<COMPLETION_SIZE>,
    pub(crate) page: DoorbellPage<'c>,
    /// The stream's number.
    stream: usize,
    pub(crate) width: PointerWidth,
    /// Bytes that fit in an event, and where they are.
    pub(crate) inline_limit: usize,
    pub(crate) data_place: DataPlace,
    /// The first word of a fresh event: cbStruct.
    pub(crate) header: u64,
    pub(crate) buffer_size: usize,
    links: Box<[Cell<Links>]>,
    free_slots: FreeStack,
    pub(crate) free_buffers: FreeStack,
    /// Submissions put, and completions taken, so far, wrapping.
    pub(crate) tail: Cell<u32>,
    consumed: Cell<u32>,
    /// The head as last loaded.
    head: Cell<u32>,
    /// Messages by the status that they ended with, less one.
    ended: [Cell<u64>; Status::COUNT],
    rejection: Cell<Option<Rejection>>,
}

/// A submission that the card refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The slot (the head of its chain).
    pub slot: Slot,
    /// Why, if the data sheet has the reason.
    pub reason: Option<Reject>,
}

/// Sizes of an allocator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) stream: usize,
    pub(crate) width: PointerWidth,
    pub(crate) slots: u32,
    pub(crate) buffers: u32,
    pub(crate) buffer_size: usize,
    /// Entries of both rings.
    pub(crate) entries: u32,
}

impl Shape {
    /// Bytes and alignment of pool, buffers, submission ring and completion ring.
    pub(crate) fn sizes(&self) -> [(usize, usize); 4] {
        [
            (self.slots as usize * Pool::STRIDE, Pool::STRIDE),
            (self.buffers as usize * self.buffer_size, 8),
            (self.entries as usize * SUBMISSION_SIZE, 8),
            (self.entries as usize * COMPLETION_SIZE, COMPLETION_SIZE),
        ]
    }
}

/// A slot that is the caller's, its place, and its word in the shadow. What that says it carried came home with the slot, but for the buffer of
/// a message by itself, which is the caller's, too.
struct Home<'m> {
    slot: u32,
    place: SlotPlace<'m>,
    shadow: &'m Cell<Carried>,
}

impl<'c> Allocator<'c> {
    /// An allocator in memory of the [`Shape::sizes`]; `None` if that has no room for the rings.
    pub(crate) fn new(page: DoorbellPage<'c>, shape: Shape, memory: [DmaMemory; 4]) -> Option<Self> {
        let [pool, buffers, submissions, completions] = memory;
        Some(Self {
            pool: Pool::new(pool, shape.slots),
            buffers,
            submissions: Ring::new(submissions, shape.entries)?,
            completions: Ring::new(completions, shape.entries)?,
            page,
            stream: shape.stream,
            width: shape.width,
            inline_limit: shape.width.bytes(),
            data_place: DataPlace::of(shape.width),
            header: (shape.width.event_size() as u64) << 8,
            buffer_size: shape.buffer_size,
            links: (0..shape.slots).map(|_| Cell::new(Links::NONE)).collect(),
            free_slots: FreeStack::full(shape.slots),
            free_buffers: FreeStack::full(shape.buffers),
            tail: Cell::new(0),
            consumed: Cell::new(0),
            head: Cell::new(0),
            ended: Default::default(),
            rejection: Cell::new(None),
        })
    }

    /// Takes the memory out, to give it back; nothing works afterwards.
    pub(crate) fn take_memory(&mut self) -> [DmaMemory; 4] {
        [&mut self.pool.memory, &mut self.buffers, &mut self.submissions.memory, &mut self.completions.memory]
            .map(|memory| core::mem::replace(memory, DmaMemory::NONE))
    }

    /// The device's addresses of pool, buffers, submission ring and completion ring.
    pub(crate) fn iovas(&self) -> [u64; 4] {
        [&self.pool.memory, &self.buffers, &self.submissions.memory, &self.completions.memory].map(|memory| memory.iova)
    }

    /// Entries of both rings.
    pub(crate) fn entries(&self) -> u32 {
        self.submissions.entries()
    }

    /// Puts a slot, which is the card's from here on, into the submission ring.
    #[inline]
    pub(crate) fn submit(&self, slot: u32) {
        let tail = self.tail.get();
        // At least as many entries as slots, and a slot is submitted once: an entry is never overwritten early.
        self.submissions.store(tail, slot);
        self.tail.set(tail.wrapping_add(1));
    }

    /// `GetMessage`: a fresh event, all zero but cbStruct.
    ///
    /// Takes the next completed slot when none is idle; [`DriverError::NoMessage`] when there is neither.
    #[inline]
    pub fn get_message(&self) -> Result<Message<'_>, DriverError> {
        let home = self.take_slot()?;
        self.settle(&home);
        Ok(Message::new(self, home.place, home.shadow, home.slot))
    }

    /// An idle slot, or the next completed one.
    #[inline]
    fn take_slot(&self) -> Result<Home<'_>, DriverError> {
        match self.free_slots.pop() {
            // All slots have a place: there is no other.
            Some(slot) => self.pool.slot(slot).map(|(place, shadow)| Home { slot, place, shadow }),
            None => self.take_completion()?,
        }
        .ok_or(DriverError::NoMessage)
    }

    /// The slot carries nothing any more; its buffer goes home.
    #[inline(never)]
    fn settle(&self, home: &Home<'_>) {
        if home.shadow.replace(Carried::NOTHING).has_buffer() {
            self.free_buffers.push(self.links(home.slot).replace(Links::NONE).buffer);
        }
    }

    /// `PutMessage` of the allocator: recycles the message, with its chain, packages and buffers. The same as dropping it.
    pub fn put_message(&self, message: Message<'_>) {
        drop(message);
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

    /// Takes a buffer and copies `bytes` into it.
    pub(crate) fn fill_buffer(&self, bytes: &[u8]) -> Result<u32, DriverError> {
        let buffer = self.get_buffer()?;
        buffer.write(0, bytes)?;
        Ok(buffer.into_index())
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
        self.pool.shadow.len()
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
        self.tail.get().wrapping_sub(self.consumed.get())
    }

    /// How submissions ended so far. Looks at every slot.
    pub fn counts(&self) -> Counts {
        let ended = |status: Status| self.ended[status as usize - 1].get();
        let in_flight = self.pool.shadow.iter().map(Cell::get).filter(|carried| carried.is_submitted());
        Counts {
            submitted: self.ended.iter().map(Cell::get).sum::<u64>()
                + in_flight.map(|carried| u64::from(carried.messages())).sum::<u64>(),
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

    /// Takes everything home that the card has completed by now. Bounded by what is in flight.
    pub fn reclaim(&self) -> Result<(), DriverError> {
        while self.reclaim_one()? {}
        Ok(())
    }

    fn reclaim_one(&self) -> Result<bool, DriverError> {
        let taken = self.take_completion()?;
        if let Some(home) = &taken {
            self.settle(home);
            self.free_slots.push(home.slot);
        }
        Ok(taken.is_some())
    }

    /// Whether the card has published completions that were not taken yet.
    pub fn has_completions(&self) -> bool {
        driver::completion_head(&self.page, self.stream) != self.consumed.get()
    }

    /// Completions taken so far, wrapping: the number of the next one.
    pub(crate) fn consumed(&self) -> u32 {
        self.consumed.get()
    }

    /// Takes one completion, and what it brought home but for its slot, which is the caller's; `None` when there is none.
    /// Everything that the entry says is held against the shadow, where the caller must leave another word.
    #[inline]
    fn take_completion(&self) -> Result<Option<Home<'_>>, DriverError> {
        let consumed = self.consumed.get();
        if self.head.get() == consumed && !self.look_at_head()? {
            return Ok(None);
        }
        // The first half of the entry: slot and status. The driver has no use for the rest.
        let [slot, ended] = self.completions.load(consumed);
        let Some((place, cell)) = self.pool.slot(slot) else {
            return Err(DriverError::ForgedCompletion(slot));
        };
        // As nearly all are: one message by itself, with its buffer if it has one, presented on time.
        let carried = cell.get();
        let alone = carried == Carried::MESSAGE.submitted();
        if ended == Status::Presented as u32 && (alone || carried == Carried::MESSAGE.with_buffer().submitted()) {
            let presented = &self.ended[Status::Presented as usize - 1];
            presented.set(presented.get() + 1);
            self.consumed.set(consumed.wrapping_add(1));
        } else {
            self.judge(slot, ended, cell)?;
        }
        Ok(Some(Home { slot, place, shadow: cell }))
    }

    /// Takes the completion of a slot that was posted for capture: the slot and its buffer, which are the caller's, and the entry's first half.
    pub(crate) fn take_posted(&self) -> Result<Option<(u32, u32, u64)>, DriverError> {
        let consumed = self.consumed.get();
        if self.head.get() == consumed && !self.look_at_head()? {
            return Ok(None);
        }
        let [slot, ended_with] = self.completions.load(consumed);
        let posted = |cell: &&Cell<Carried>| cell.get().is_submitted() && cell.get().has_buffer();
        let cell = self.pool.shadow.get(slot as usize).filter(posted).ok_or(DriverError::ForgedCompletion(slot))?;
        let status = ended_with as u16;
        let Some(ended) = self.ended.get(usize::from(status).wrapping_sub(1)) else {
            return Err(DriverError::UnknownStatus { slot, status });
        };
        ended.set(ended.get() + 1);
        cell.set(Carried::NOTHING);
        self.consumed.set(consumed.wrapping_add(1));
        let entry = u64::from(ended_with) << 32 | u64::from(slot);
        Ok(Some((slot, self.links(slot).replace(Links::NONE).buffer, entry)))
    }

    /// Takes home a slot and a buffer that are the caller's.
    pub(crate) fn take_home(&self, slot: u32, buffer: u32) {
        self.free_buffers.push(buffer);
        self.free_slots.push(slot);
    }

    /// Takes the completion of a slot, however it `ended`.
    #[inline(never)]
    fn judge(&self, slot: u32, ended: u32, cell: &Cell<Carried>) -> Result<(), DriverError> {
        let carried = cell.get();
        if !carried.is_submitted() {
            return Err(DriverError::ForgedCompletion(slot));
        }
        // The flags, which come after the status, only say why something was rejected.
        let (status, flags) = (ended as u16, (ended >> 16) as u16);
        if status == Status::Rejected as u16 {
            self.rejection.set(Some(Rejection { slot: Slot(slot), reason: Reject::decode(flags) }));
        }
        let Some(ended) = self.ended.get(usize::from(status).wrapping_sub(1)) else {
            return Err(DriverError::UnknownStatus { slot, status });
        };
        ended.set(ended.get() + u64::from(carried.messages()));
        cell.set(Carried::NOTHING);
        self.consumed.set(self.consumed.get().wrapping_add(1));
        self.recycle_company(slot, carried);
        Ok(())
    }

    /// Loads the head: whether it is beyond what was taken.
    fn look_at_head(&self) -> Result<bool, DriverError> {
        let consumed = self.consumed.get();
        let head = driver::completion_head(&self.page, self.stream);
        let published = head.wrapping_sub(consumed);
        if published > self.in_flight() {
            return Err(DriverError::HeadJump { published, in_flight: self.in_flight() });
        }
        self.head.set(head);
        Ok(published != 0)
    }

    /// Takes home what the card held when it was reset: it may not touch it any more, and publishes nothing.
    pub(crate) fn reclaim_after_reset(&self) {
        for (slot, cell) in self.pool.shadow.iter().enumerate() {
            let carried = cell.get();
            if carried.is_submitted() {
                let discarded = &self.ended[Status::Discarded as usize - 1];
                discarded.set(discarded.get() + u64::from(carried.messages()));
                self.recycle(slot as u32, carried);
            }
        }
        self.tail.set(0);
        self.consumed.set(0);
        self.head.set(0);
    }

    /// Recycles a slot, and what goes home with it.
    #[inline(never)]
    pub(crate) fn recycle(&self, slot: u32, carried: Carried) {
        if let Some(cell) = self.pool.shadow.get(slot as usize) {
            cell.set(Carried::NOTHING);
        }
        if !carried.is_alone() {
            self.recycle_company(slot, carried);
        }
        self.free_slots.push(slot);
    }

    /// Recycles what goes home with a slot: its buffer, and its chain, each event with its own. Packages are spliced into the
    /// chain, so that no recursion is needed.
    fn recycle_company(&self, slot: u32, carried: Carried) {
        let mut next = self.part(slot, carried);
        while next != NONE {
            let slot = next;
            let carried = self.carried(slot).replace(Carried::NOTHING);
            next = self.part(slot, carried);
            self.free_slots.push(slot);
        }
    }

    /// Sends a slot's buffer home, and gives the slot that comes after it.
    fn part(&self, slot: u32, carried: Carried) -> u32 {
        if carried.is_alone() {
            return NONE;
        }
        let links = self.links(slot).replace(Links::NONE);
        if carried.has_buffer() {
            self.free_buffers.push(links.buffer);
        }
        if links.package == NONE {
            return links.next;
        }
        // What follows the package follows its last event.
        let last = self.tail_of(links.package);
        let end = self.links(last);
        end.set(Links { next: links.next, ..end.get() });
        self.carried(last).set(self.carried(last).get().linked());
        links.package
    }

    pub(crate) fn carried(&self, slot: u32) -> &Cell<Carried> {
        &self.pool.shadow[slot as usize]
    }

    pub(crate) fn links(&self, slot: u32) -> &Cell<Links> {
        &self.links[slot as usize]
    }

    /// Last slot of the chain that `slot` heads.
    pub(crate) fn tail_of(&self, slot: u32) -> u32 {
        match self.links(slot).get().tail {
            NONE => slot,
            tail => tail,
        }
    }
}

mod send;
#[cfg(test)]
mod tests;
