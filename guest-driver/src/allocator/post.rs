//! The capture half of an allocator: posts empty slots with a buffer each, and makes messages of what the card has
//! filled.
//!
//! Fed by capture and wave sink streams; feeds the submission ring, and those streams with [`Message`]s. What the card
//! writes is checked once, against the shadow: the buffer of a slot is the one that it was posted with, whatever
//! cbEvent and uData say.

use super::{Allocator, FreeSlot};
use crate::shadow::{SlotRefs, SlotState};
use crate::{DriverError, Message};
use dmus_interface::event::{Data, Event, INCOMPLETE, MAX_EVENT_SIZE};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;

impl Allocator<'_> {
    /// Posts every free slot for which there is a free buffer.
    pub(crate) fn post_free_slots(&self) {
        while self.free_buffers.len() > 0
            && let Some(free) = self.take_free_slot()
            && let Some(buffer) = self.free_buffers.pop()
        {
            self.refs(free.slot).set(SlotRefs { buffer, ..SlotRefs::NONE });
            self.fill_and_submit(&free, SlotState::MESSAGE.with_buffer(), RefTime::ZERO, 0, self.buffer_iova(buffer));
        }
    }

    /// The next event that the card has captured; `None` when there is none yet.
    ///
    /// # Errors
    /// What the card did wrong; the slot is free again.
    pub(crate) fn receive(&self) -> Result<Option<Message<'_>>, DriverError> {
        // Discarded slots bring nothing: there are no more of them than slots.
        for _ in 0..=self.slots() {
            if !self.queue.has_next()? {
                break;
            }
            let free = self.pop_completion(SlotState::MESSAGE.with_buffer())?;
            let (slot, status) = (free.slot, free.status);
            let result = match status {
                Status::Presented => self.captured(&free).map(Some),
                Status::Discarded => Ok(None),
                Status::Rejected => {
                    let reason = self.rejection.get().and_then(|rejection| rejection.reason);
                    Err(DriverError::PostRefused { slot, reason })
                }
                Status::Late | Status::Copied => Err(DriverError::UnknownStatus { slot, status: status as u16 }),
            };
            match result {
                Ok(Some(event)) => return Ok(Some(Message::captured(self, &free, &event))),
                Ok(None) => self.recycle(slot, free.state),
                Err(error) => {
                    self.recycle(slot, free.state);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Checks a private copy of a filled slot.
    fn captured(&self, free: &FreeSlot<'_>) -> Result<Event, DriverError> {
        let nonsense = |what| DriverError::BadCapture { slot: free.slot, what };
        let mut bytes = [0; MAX_EVENT_SIZE];
        let size = self.width.event_size();
        if !self.pool.read(free.slot, 0, &mut bytes[..size]) {
            return Err(nonsense("the slot is outside the pool"));
        }
        let event = Event::decode(&bytes[..size], self.width).map_err(|_| nonsense("it is too short"))?;
        let len = usize::from(event.event_bytes);
        if event.flags & !INCOMPLETE != 0 {
            return Err(nonsense("flags that no captured event has"));
        }
        if event.next != 0 {
            return Err(nonsense("a chain"));
        }
        if len == 0 || len > self.buffer_size {
            return Err(nonsense("cbEvent is 0, or more than the buffer holds"));
        }
        match event.data {
            Data::Inline(_) => Ok(event),
            Data::Buffer(iova) if iova == self.buffer_iova(self.refs(free.slot).get().buffer) => Ok(event),
            _ => Err(nonsense("uData is not the buffer that was posted")),
        }
    }
}
