//! The private shadow: who owns each slot and buffer, and what goes back to the pool together with a slot.
//!
//! Written by the allocator and its handles; read when a slot completes or a handle is dropped. The device never sees
//! it, so nothing that the device writes can make the driver recycle a wrong pointer. For nearly every event the one
//! word of [`SlotState`] is enough.

use alloc::boxed::Box;
use core::cell::Cell;

/// No slot, or no buffer.
pub(crate) const NONE: u32 = u32::MAX;

/// What the driver knows of a slot in one word, whatever device-visible memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotState(u32);

impl SlotState {
    /// Free, or owned by a handle that keeps the state itself.
    pub(crate) const FREE: Self = Self(0);
    /// An event of one message, without a buffer or other slots.
    pub(crate) const MESSAGE: Self = Self(1);

    /// Owned by the card, as the head of a submission.
    const SUBMITTED: u32 = 1 << 28;
    /// Other slots are recycled with it: [`SlotRefs::next`], [`SlotRefs::package`].
    const LINKED: u32 = 1 << 29;
    /// It has a buffer: [`SlotRefs::buffer`].
    const BUFFER: u32 = 1 << 30;
    /// The messages that it and what is linked to it count for: no more than a pool has slots.
    const MESSAGES: u32 = 0xFFFF;

    pub(crate) fn messages(self) -> u32 {
        self.0 & Self::MESSAGES
    }

    pub(crate) fn with_messages(self, messages: u32) -> Self {
        Self(self.0 & !Self::MESSAGES | messages & Self::MESSAGES)
    }

    pub(crate) const fn submitted(self) -> Self {
        Self(self.0 | Self::SUBMITTED)
    }

    pub(crate) fn is_submitted(self) -> bool {
        self.0 & Self::SUBMITTED != 0
    }

    pub(crate) const fn with_buffer(self) -> Self {
        Self(self.0 | Self::BUFFER)
    }

    #[inline]
    pub(crate) fn has_buffer(self) -> bool {
        self.0 & Self::BUFFER != 0
    }

    pub(crate) fn linked(self) -> Self {
        Self(self.0 | Self::LINKED)
    }

    /// Whether anything is recycled with the slot.
    pub(crate) fn has_refs(self) -> bool {
        self.0 & (Self::BUFFER | Self::LINKED) != 0
    }
}

/// What is recycled with a slot, where its [`SlotState`] says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRefs {
    /// The buffer in uData.
    pub(crate) buffer: u32,
    /// pNextEvt as a slot.
    pub(crate) next: u32,
    /// Last slot of the chain that this slot heads, if that is another.
    pub(crate) tail: u32,
    /// pPackageEvt as a slot.
    pub(crate) package: u32,
}

impl SlotRefs {
    pub(crate) const NONE: Self = Self { buffer: NONE, next: NONE, tail: NONE, package: NONE };
}

/// A stack of free slots or buffers, by number, with room for all of them.
#[derive(Debug)]
pub(crate) struct FreeList {
    numbers: Box<[Cell<u32>]>,
    len: Cell<usize>,
}

impl FreeList {
    /// All of 0..count, the lowest on top.
    pub(crate) fn full(count: u32) -> Self {
        let numbers: Box<[_]> = (0..count).rev().map(Cell::new).collect();
        Self { len: Cell::new(numbers.len()), numbers }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    #[inline]
    pub(crate) fn pop(&self) -> Option<u32> {
        let len = self.len.get().checked_sub(1)?;
        let number = self.numbers.get(len)?.get();
        self.len.set(len);
        Some(number)
    }

    /// Pushes a number that was popped before; ownership is unique, so there is always room.
    #[inline]
    pub(crate) fn push(&self, number: u32) {
        let len = self.len.get();
        debug_assert!(len < self.numbers.len(), "{number} was freed twice");
        if let Some(place) = self.numbers.get(len) {
            place.set(number);
            self.len.set(len + 1);
        }
    }
}
