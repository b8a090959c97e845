//! What a message holds, as a filter reads and changes it before the message is submitted.
//!
//! Fed by the slots of messages that the application owns; feeds filters and the sequencer. A card that writes to slots which it does not own
//! can change what is read here, and so the music, but neither bounds nor ownership: those come from the handle and from the shadow.

use super::{Message, header, word};
use crate::dma::Pool;
use crate::shadow::NONE;
use core::sync::atomic::Ordering;
use dmus_interface::event::{MAX_DEPTH, PACKAGE, PointerWidth};
use dmus_interface::time::RefTime;

impl Message<'_> {
    /// The presentation time as it was set; negative for what plays at once (DONT_HOLD_FOR_SEQUENCING is the sign).
    pub fn time(&self) -> RefTime {
        RefTime(self.load(self.slot, word::TIME) as i64)
    }

    /// The group of 16 channels that the message is for.
    pub fn channel_group(&self) -> u16 {
        (self.header >> header::CHANNEL_GROUP) as u16
    }

    /// Lets `edit` change the data bytes of each event that holds them inline: of this one, of its chain, and of packages in it, in the order
    /// in which they play. Their number stays. Data in buffers (more than a pointer has) is left alone, and so are packages nested deeper than
    /// any card takes. The last fragment of a SysEx message can be short too: then its first byte is no status.
    pub fn edit_short(&mut self, mut edit: impl FnMut(&mut [u8])) {
        let allocator = self.allocator;
        let mut after = [NONE; MAX_DEPTH];
        let mut depth = 0;
        let mut slot = self.slot;
        loop {
            let links = allocator.links(slot).get();
            if links.package != NONE && depth < MAX_DEPTH {
                after[depth] = links.next;
                depth += 1;
                slot = links.package;
                continue;
            }
            if links.package == NONE {
                self.edit_event(slot, &mut edit);
            }
            slot = links.next;
            // Ends: a slot has one owner, so that each is met once.
            while slot == NONE {
                let Some(outer) = depth.checked_sub(1) else {
                    return;
                };
                depth = outer;
                slot = after[depth];
            }
        }
    }

    fn edit_event(&self, slot: u32, edit: &mut impl FnMut(&mut [u8])) {
        let width = self.allocator.width;
        let (len, flags) = if slot == self.slot {
            (usize::from(self.event_bytes()), self.flags())
        } else {
            let header = self.load(slot, word::HEADER);
            (usize::from((header >> header::EVENT_BYTES) as u16), (header >> header::FLAGS) as u16)
        };
        if len == 0 || len > width.bytes() || flags & PACKAGE != 0 {
            return;
        }
        let memory = &self.allocator.pool.memory.memory;
        let base = slot as usize * Pool::STRIDE;
        match width {
            PointerWidth::Eight => {
                let place = base + word::DATA * 8;
                let mut bytes = u64::from_le(memory.load_u64(place, Ordering::Relaxed)).to_le_bytes();
                edit(&mut bytes[..len]);
                memory.store_u64(place, u64::from_le_bytes(bytes).to_le(), Ordering::Relaxed);
            }
            PointerWidth::Four => {
                let place = base + word::NEXT * 8 + 4;
                let mut bytes = u32::from_le(memory.load_u32(place, Ordering::Relaxed)).to_le_bytes();
                edit(&mut bytes[..len]);
                memory.store_u32(place, u32::from_le_bytes(bytes).to_le(), Ordering::Relaxed);
            }
        }
    }

    fn load(&self, slot: u32, word: usize) -> u64 {
        let place = slot as usize * Pool::STRIDE + word * 8;
        u64::from_le(self.allocator.pool.memory.memory.load_u64(place, Ordering::Relaxed))
    }
}
