//! The private shadow: who owns each slot and buffer, and what a slot carries.
//!
//! Fed by the handles of the allocator as they are filled; feeds recycling. The device never sees it, so nothing that the
//! device writes can make the driver recycle a wrong pointer. What nearly every event needs of it is one word.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

/// No slot, or no buffer.
pub(crate) const NONE: u32 = u32::MAX;

/// What the driver knows of a slot in one word, whatever device-visible memory says; 0 for a slot at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried(u32);

impl Carried {
    /// At home, or in a handle that keeps the word itself.
    pub(crate) const NOTHING: Self = Self(0);
    /// An event of one message, without a buffer or other slots.
    pub(crate) const MESSAGE: Self = Self(1);

    /// Submitted: the head of a submission.
    const SUBMITTED: u32 = 1 << 28;
    /// It has a buffer: [`Links::buffer`].
    const BUFFER: u32 = 1 << 30;
    /// Other slots go home with it: [`Links::next`], [`Links::package`].
    const LINKED: u32 = 1 << 29;
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

    pub(crate) fn has_buffer(self) -> bool {
        self.0 & Self::BUFFER != 0
    }

    pub(crate) fn linked(self) -> Self {
        Self(self.0 | Self::LINKED)
    }

    /// Whether the slot goes home by itself, with nothing else.
    pub(crate) fn is_alone(self) -> bool {
        self.0 & (Self::BUFFER | Self::LINKED) == 0
    }
}

/// What goes home with a slot, where its [`Carried`] says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    /// The buffer in uData.
    pub(crate) buffer: u32,
    /// pNextEvt as a slot.
    pub(crate) next: u32,
    /// Last slot of the chain that this slot heads, if that is another.
    pub(crate) tail: u32,
    /// pPackageEvt as a slot.
    pub(crate) package: u32,
}

impl Links {
    pub(crate) const NONE: Self = Self { buffer: NONE, next: NONE, tail: NONE, package: NONE };
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
        debug_assert!(len < self.numbers.len(), "{number} came home twice");
        if let Some(place) = self.numbers.get(len) {
            place.set(number);
            self.len.set(len + 1);
        }
    }
}
