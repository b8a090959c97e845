//! What a message holds, as a filter or a capture sink reads it, and a filter changes it before the message is
//! submitted.
//!
//! Reads the slots and buffers of messages that the application owns; feeds filters, the sequencer and capture sinks. A
//! card that writes to slots which it does not own can change what is read here, and so the music, but neither bounds
//! nor ownership: those come from the handle and from the shadow.

use super::{Message, header, word};
use crate::shadow::NONE;

use alloc::vec;
use alloc::vec::Vec;
use dmus_interface::event::{INCOMPLETE, MAX_DEPTH, PACKAGE};
use dmus_interface::time::RefTime;

impl Message<'_> {
    /// The presentation time as it was set, or captured, in stream time; negative for what plays at once
    /// (DONT_HOLD_FOR_SEQUENCING is the sign).
    pub fn time(&self) -> RefTime {
        RefTime(self.load(self.slot, word::TIME).cast_signed())
    }

    /// ullBytePosition: bytes of the stream before this event. In a captured stream a gap means that an overrun lost
    /// some.
    pub fn byte_position(&self) -> u64 {
        self.load(self.slot, word::BYTE_POSITION)
    }

    /// The group of 16 channels that the message is for, or the number of the input that it was captured from.
    pub fn channel_group(&self) -> u16 {
        (self.header >> header::CHANNEL_GROUP) as u16
    }

    /// Whether the message goes on in a later event, or (uncooked capture) holds raw bytes.
    pub fn is_incomplete(&self) -> bool {
        self.flags() & INCOMPLETE != 0
    }

    /// Copies this event's data out, from byte `offset` on, as far as it goes; gives the number of bytes. A package has
    /// none.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let allocator = self.allocator;
        let event_bytes = if self.flags() & PACKAGE == 0 { usize::from(self.event_bytes()) } else { 0 };
        let len = event_bytes.saturating_sub(offset).min(bytes.len());
        let bytes = &mut bytes[..len];
        let there = if event_bytes <= allocator.inline_limit {
            allocator.pool.read(self.slot, allocator.data_place.offset() + offset, bytes)
        } else {
            let buffer = allocator.buffer_offset(allocator.refs(self.slot).get().buffer);
            allocator.buffers.memory.read(buffer + offset, bytes)
        };
        if there { len } else { 0 }
    }

    /// A copy of this event's data, for applications with a heap.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.event_bytes().into()];
        let len = self.read(0, &mut bytes);
        bytes.truncate(len);
        bytes
    }

    /// Lets `edit` change the data bytes of each event that holds them inline: of this one, of its chain, and of
    /// packages in it, in the order in which they play. Their number stays. Data in buffers (more than a pointer has)
    /// is left alone, and so are packages nested deeper than any card takes. The last fragment of a SysEx message can
    /// be short too: then its first byte is no status.
    pub fn edit_short(&mut self, mut edit: impl FnMut(&mut [u8])) {
        self.edit_chain(self.slot, MAX_DEPTH, &mut edit);
    }

    /// Edits a chain, and packages in it down to `depth`. Ends: a slot has one owner, so that each is met once.
    fn edit_chain(&self, first: u32, depth: usize, edit: &mut dyn FnMut(&mut [u8])) {
        let mut slot = first;
        while slot != NONE {
            let refs = self.allocator.refs(slot).get();
            match refs.package {
                NONE => self.edit_event(slot, edit),
                inner if depth > 0 => self.edit_chain(inner, depth - 1, edit),
                _ => {}
            }
            slot = refs.next;
        }
    }

    fn edit_event(&self, slot: u32, edit: &mut dyn FnMut(&mut [u8])) {
        let allocator = self.allocator;
        let header = if slot == self.slot { self.header } else { self.load(slot, word::HEADER) };
        let (len, flags) = (usize::from((header >> header::EVENT_BYTES) as u16), (header >> header::FLAGS) as u16);
        if len == 0 || len > allocator.inline_limit || flags & PACKAGE != 0 {
            return;
        }
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..len];
        if allocator.pool.read(slot, allocator.data_place.offset(), bytes) {
            edit(bytes);
            allocator.pool.write(slot, allocator.data_place.offset(), bytes);
        }
    }

    fn load(&self, slot: u32, word: usize) -> u64 {
        let mut bytes = [0; 8];
        self.allocator.pool.read(slot, word * 8, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}
