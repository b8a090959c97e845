//! `GetMessage`, fill and `PutMessage` in one step, for messages that nobody looks at in between: what players do by the thousand.
//!
//! Fed by a render stream with whole messages; feeds the submission ring. What came home in the usual way is not even stored in the shadow anew.

use super::{Allocator, Home};
use crate::shadow::{Carried, Links};
use crate::{DriverError, message};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;

impl Allocator<'_> {
    /// `GetMessage`, filling it with a whole message, and `PutMessage`, in one step: what is not looked at between them is not stored twice, and
    /// the buffer that comes home with a slot goes out again with it. The same errors, and nothing is sent then.
    #[inline(always)]
    pub(crate) fn send(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        if bytes.len() > self.inline_limit {
            return self.send_long(time, channel_group, bytes);
        }
        let word = message::short_word(bytes);
        let home = match self.next_plain(Carried::MESSAGE.submitted()) {
            Some(home) => home,
            None => self.take_slot_alone()?,
        };
        let header = self.header | message::header(channel_group, bytes.len());
        home.place.fill(header, time.0, self.data_place, word);
        home.shadow.set(Carried::MESSAGE.submitted());
        self.submit(home.slot);
        Ok(())
    }

    #[inline(always)]
    fn send_long(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        let (len, size) = (bytes.len(), self.buffer_size);
        if len > size {
            return Err(DriverError::TooLong { len, size });
        }
        let carried = Carried::MESSAGE.with_buffer().submitted();
        let (home, buffer) = match self.next_plain(carried) {
            Some(home) => {
                let buffer = self.links(home.slot).get().buffer;
                (home, buffer)
            }
            None => self.take_slot_with_buffer()?,
        };
        let offset = buffer as usize * size;
        self.buffers.memory.write(offset, bytes);
        let header = self.header | message::header(channel_group, len);
        home.place.fill(header, time.0, self.data_place, self.buffers.iova + offset as u64);
        home.shadow.set(carried);
        self.submit(home.slot);
        Ok(())
    }

    /// The next completed slot, if it carried just this and was presented, and the driver knows it to be there: what comes round again and again.
    /// The shadow still says so.
    #[inline(always)]
    fn next_plain(&self, carried: Carried) -> Option<Home<'_>> {
        let consumed = self.consumed.get();
        if self.head.get() == consumed {
            return None;
        }
        // What is above the slot is its status: with another one, what is left is no slot.
        let slot = self.completions.load_long(consumed).wrapping_sub((Status::Presented as u64) << 32);
        let (place, shadow) = self.pool.place(slot)?;
        if shadow.get() != carried {
            return None;
        }
        let slot = slot as u32;
        let presented = &self.ended[Status::Presented as usize - 1];
        presented.set(presented.get() + 1);
        self.consumed.set(consumed.wrapping_add(1));
        Some(Home { slot, place, shadow })
    }

    /// A slot that carries nothing.
    #[inline(never)]
    fn take_slot_alone(&self) -> Result<Home<'_>, DriverError> {
        let home = self.take_slot()?;
        self.settle(&home);
        Ok(home)
    }

    /// A slot, and the buffer that it came with, or another; the slot goes home if there is none.
    #[inline(never)]
    fn take_slot_with_buffer(&self) -> Result<(Home<'_>, u32), DriverError> {
        let home = self.take_slot()?;
        if home.shadow.get().has_buffer() {
            let buffer = self.links(home.slot).get().buffer;
            return Ok((home, buffer));
        }
        home.shadow.set(Carried::NOTHING);
        match self.get_buffer() {
            Ok(buffer) => {
                let buffer = buffer.into_index();
                self.links(home.slot).set(Links { buffer, ..Links::NONE });
                Ok((home, buffer))
            }
            Err(error) => {
                self.free_slots.push(home.slot);
                Err(error)
            }
        }
    }
}
