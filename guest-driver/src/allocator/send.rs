//! `GetMessage`, fill and `PutMessage` in one step, for messages that nobody looks at in between: what players do by
//! the thousand.
//!
//! Fed by a render stream with whole messages; feeds the submission ring. Its instructions are counted by the benchmark
//! `ring`.

use super::{Allocator, FreeSlot};
use crate::shadow::{SlotRefs, SlotState};
use crate::{DriverError, message};
use dmus_interface::time::RefTime;

impl Allocator<'_> {
    /// `GetMessage`, filling it with a whole message, and `PutMessage`, in one step: nothing is stored twice, and the
    /// buffer that a slot comes with is used again. The same errors, and nothing is sent then.
    #[inline(always)]
    pub(crate) fn send(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        if bytes.len() > self.inline_limit {
            return self.send_long(time, channel_group, bytes);
        }
        let word = message::short_word(bytes);
        let free = self.take_slot(SlotState::MESSAGE)?;
        self.fill_and_submit(&free, SlotState::MESSAGE, time, message::header(channel_group, bytes.len()), word);
        Ok(())
    }

    #[inline(always)]
    fn send_long(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        let (len, size) = (bytes.len(), self.buffer_size);
        if len > size {
            return Err(DriverError::TooLong { len, size });
        }
        let free = self.take_slot(SlotState::MESSAGE.with_buffer())?;
        let buffer =
            if free.state.has_buffer() { self.refs(free.slot).get().buffer } else { self.attach_buffer(&free)? };
        let offset = self.buffer_offset(buffer);
        self.buffers.memory.write(offset, bytes);
        let (header, iova) = (message::header(channel_group, len), self.buffers.iova + offset as u64);
        self.fill_and_submit(&free, SlotState::MESSAGE.with_buffer(), time, header, iova);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn fill_and_submit(&self, free: &FreeSlot<'_>, state: SlotState, time: RefTime, header: u64, data: u64) {
        free.place.fill(self.header | header, time.0, self.data_place, data);
        free.shadow.set(state.submitted());
        self.queue.submit(free.slot);
    }

    /// Gives a slot without a buffer one; the slot is free again if there is none.
    #[inline(never)]
    fn attach_buffer(&self, free: &FreeSlot<'_>) -> Result<u32, DriverError> {
        free.shadow.set(SlotState::FREE);
        let buffer = self.get_buffer().inspect_err(|_| self.free_slots.push(free.slot))?.into_index();
        self.refs(free.slot).set(SlotRefs { buffer, ..SlotRefs::NONE });
        Ok(buffer)
    }
}
