//! A stream's two rings with all their indices: the only place that moves the tail or takes a completion.
//!
//! Fed by the allocator with slot numbers, and by the card with completions; feeds the doorbell page, and the allocator
//! with raw entries.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

use crate::DriverError;
use crate::dma::{DoorbellPage, Ring};
use core::cell::Cell;
use dmus_interface::protocol::driver;
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};

/// The submission and completion ring of a stream. Indices run freely, modulo 2^32.
#[derive(Debug)]
pub(crate) struct Queue<'c> {
    pub(crate) page: DoorbellPage<'c>,
    /// The stream's number.
    stream: usize,
    pub(crate) submissions: Ring<'c, SUBMISSION_SIZE>,
    pub(crate) completions: Ring<'c, COMPLETION_SIZE>,
    /// Slots submitted so far.
    tail: Cell<u32>,
    /// The tail that the card was last shown.
    published: Cell<u32>,
    /// Completions taken so far.
    consumed: Cell<u32>,
    /// Completions published so far, as last loaded.
    pub(crate) head: Cell<u32>,
}

impl<'c> Queue<'c> {
    /// An empty queue of stream number `stream`.
    pub(crate) fn new(
        page: DoorbellPage<'c>,
        stream: usize,
        submissions: Ring<'c, SUBMISSION_SIZE>,
        completions: Ring<'c, COMPLETION_SIZE>,
    ) -> Self {
        let [tail, published, consumed, head] = Default::default();
        Self { page, stream, submissions, completions, tail, published, consumed, head }
    }

    /// Puts a slot into the submission ring. The card owns it from here on, and sees it after [`Self::publish`].
    #[inline]
    pub(crate) fn submit(&self, slot: u32) {
        let tail = self.tail.get();
        // There are at least as many entries as slots, and a slot is submitted once: no entry is overwritten before the
        // card has read it.
        self.submissions.store(tail, slot);
        self.tail.set(tail.wrapping_add(1));
    }

    /// Publishes the tail; false if the card has seen it already.
    #[inline]
    pub(crate) fn publish(&self) -> bool {
        let tail = self.tail.get();
        let is_new = self.published.replace(tail) != tail;
        if is_new {
            driver::publish_tail(&self.page, self.stream, tail);
        }
        is_new
    }

    /// Whether a completion is known to be there, without a look at the doorbell page.
    #[inline]
    pub(crate) fn has_known(&self) -> bool {
        self.head.get() != self.consumed.get()
    }

    /// Whether there is a completion to take.
    #[inline]
    pub(crate) fn has_next(&self) -> Result<bool, DriverError> {
        if self.has_known() { Ok(true) } else { self.poll() }
    }

    /// Loads the head, and checks it against what is in flight; whether there is a completion to take.
    #[inline(never)]
    fn poll(&self) -> Result<bool, DriverError> {
        let head = driver::completion_head(&self.page, self.stream);
        let published = head.wrapping_sub(self.consumed.get());
        if published > self.in_flight() {
            return Err(DriverError::HeadJump { published, in_flight: self.in_flight() });
        }
        self.head.set(head);
        Ok(published != 0)
    }

    /// The first half of the next entry: slot in bits 0 to 31, status up to bit 47, flags above. There must be one.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        self.completions.load(self.consumed.get())
    }

    /// The entry that [`Self::peek`] gives is taken.
    #[inline]
    pub(crate) fn advance(&self) {
        self.consumed.set(self.consumed.get().wrapping_add(1));
    }

    /// Asks for the vector when `wanted` more completions (1 or more) are published; true if they are there already.
    pub(crate) fn await_completions(&self, wanted: u32) -> bool {
        driver::await_completions(&self.page, self.stream, self.consumed.get(), wanted)
    }

    /// Whether the card has published completions that were not taken yet.
    pub(crate) fn has_completions(&self) -> bool {
        driver::completion_head(&self.page, self.stream) != self.consumed.get()
    }

    /// Submissions whose completions were not taken yet.
    pub(crate) fn in_flight(&self) -> u32 {
        self.tail.get().wrapping_sub(self.consumed.get())
    }

    /// All indices are zero, as after a reset of the card.
    pub(crate) fn reset(&self) {
        [&self.tail, &self.published, &self.consumed, &self.head].into_iter().for_each(|index| index.set(0));
    }

    /// Completions taken so far, wrapping.
    pub(crate) fn consumed(&self) -> u32 {
        self.consumed.get()
    }

    #[cfg(test)]
    pub(crate) fn tail(&self) -> u32 {
        self.tail.get()
    }
}
