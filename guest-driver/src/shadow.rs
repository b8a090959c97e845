//! The private shadow: who owns each slot and buffer, and what a slot carries.
//!
//! Fed by the handles of the allocator as they are filled; feeds recycling. The device never sees it, so nothing that the
//! device writes can make the driver recycle a wrong pointer.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

/// No slot, or no buffer.
pub(crate) const NONE: u32 = u32::MAX;

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// On the free stack.
    Free,
    /// In a handle, or in the chain or package of one.
    Application,
    /// Submitted: the head of a submission.
    Card,
}

/// What the driver knows of a slot, whatever device-visible memory says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow {
    pub(crate) owner: Owner,
    /// usFlags.
    pub(crate) flags: u16,
    /// cbEvent.
    pub(crate) event_bytes: u16,
    /// usChannelGroup.
    pub(crate) channel_group: u16,
    /// The buffer in uData.
    pub(crate) buffer: u32,
    /// pNextEvt as a slot.
    pub(crate) next: u32,
    /// Last slot of the chain that this slot heads.
    pub(crate) tail: u32,
    /// pPackageEvt as a slot.
    pub(crate) package: u32,
    /// Messages in this slot: 1, or those of its package.
    pub(crate) messages: u32,
}

impl Shadow {
    /// A fresh event.
    pub(crate) const fn fresh(owner: Owner, slot: u32) -> Self {
        Self {
            owner,
            flags: 0,
            event_bytes: 0,
            channel_group: 0,
            buffer: NONE,
            next: NONE,
            tail: slot,
            package: NONE,
            messages: 1,
        }
    }
}

/// A stack of free numbers with room for all of them.
#[derive(Debug)]
pub(crate) struct FreeStack {
    numbers: Box<[Cell<u32>]>,
    len: Cell<usize>,
}

impl FreeStack {
    /// All of 0..count, the lowest on top.
    pub(crate) fn full(count: u32) -> Self {
        let numbers: Vec<_> = (0..count).rev().map(Cell::new).collect();
        Self { len: Cell::new(numbers.len()), numbers: numbers.into_boxed_slice() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    pub(crate) fn pop(&self) -> Option<u32> {
        let len = self.len.get().checked_sub(1)?;
        self.len.set(len);
        self.numbers.get(len).map(Cell::get)
    }

    /// Pushes a number that was popped before; ownership is unique, so there is always room.
    pub(crate) fn push(&self, number: u32) {
        let len = self.len.get();
        debug_assert!(len < self.numbers.len(), "{number} came home twice");
        if let Some(place) = self.numbers.get(len) {
            place.set(number);
            self.len.set(len + 1);
        }
    }
}
