//! The steps on the doorbell page whose order matters: what is stored or loaded before what, and where a fence stands
//! between.
//!
//! Fed with the page by the driver and by the card, which take these very steps; so does `tests/loom.rs`, in every
//! order that it can find. The [`driver`]'s steps and the [`card`]'s come in pairs, and each pair says what the other
//! side may rely on.

use crate::command::Answer;
use crate::doorbell::{
    COMMAND_DETAIL, COMMAND_SIZE, COMMAND_STATUS, COMMANDS, COMPLETION_EVENT, COMPLETION_HEAD, GRANT, LATENCY_TIME,
    MASTER_TIME, REFUSAL, SAMPLE_POSITION, STATE, SUBMISSION_TAIL, TRANSITIONS, WAKE_ARMED, at,
};
use crate::time::RefTime;
use core::sync::atomic::{self, Ordering};

/// The doorbell page as one side sees it. Offsets are those of [`crate::doorbell`].
pub trait Page {
    /// Loads a u32.
    fn load_u32(&self, offset: usize, order: Ordering) -> u32;
    /// Stores a u32.
    fn store_u32(&self, offset: usize, value: u32, order: Ordering);
    /// Loads a u64.
    fn load_u64(&self, offset: usize, order: Ordering) -> u64;
    /// Stores a u64.
    fn store_u64(&self, offset: usize, value: u64, order: Ordering);

    /// Store-load: what was stored before is out before anything is loaded after. If both sides store, fence and then
    /// load what the other stores, then at least one of them sees the other's store.
    #[inline]
    fn fence(&self) {
        atomic::fence(Ordering::SeqCst);
    }
}

/// The driver's steps.
pub mod driver {
    use super::*;

    /// Publishes the submissions before number `tail`; [`armed_sleep`] comes next. Who sees it sees their ring entries,
    /// events and data.
    #[inline]
    pub fn publish_tail(page: &impl Page, stream: usize, tail: u32) {
        page.store_u32(at(stream, SUBMISSION_TAIL), tail, Ordering::Release);
    }

    /// Publishes the grant; [`armed_sleep`] comes next. Who sees it sees every tail published before.
    #[inline]
    pub fn publish_grant(page: &impl Page, until: RefTime) {
        page.store_u64(GRANT, until.0 as u64, Ordering::Release);
    }

    /// After a tail or grant: the number of the card's sleep, if the card may have missed it and must be rung, once a
    /// number; else 0. Pairs with [`card::arm_sleep`].
    #[inline]
    pub fn armed_sleep(page: &impl Page) -> u32 {
        page.fence();
        page.load_u32(WAKE_ARMED, Ordering::Relaxed)
    }

    /// A stream's completions so far. Who sees it sees their entries, and may use their slots.
    #[inline]
    pub fn completion_head(page: &impl Page, stream: usize) -> u32 {
        page.load_u32(at(stream, COMPLETION_HEAD), Ordering::Acquire)
    }

    /// Asks for the vector when `wanted` completions (1 or more) beyond the `consumed` ones are published; true if they
    /// are there already, and perhaps no vector will come. One that comes does not mean that they are there.
    /// Pairs with [`card::publish_head`].
    #[inline]
    pub fn await_completions(page: &impl Page, stream: usize, consumed: u32, wanted: u32) -> bool {
        let event = consumed.wrapping_add(wanted).wrapping_sub(1);
        page.store_u32(at(stream, COMPLETION_EVENT), event, Ordering::Relaxed);
        page.fence();
        completion_head(page, stream).wrapping_sub(consumed) >= wanted
    }

    /// The answer to transition number `expected`, once it is there: the refusal, or 0. Pairs with
    /// [`card::publish_answer`].
    #[inline]
    pub fn answer(page: &impl Page, stream: usize, expected: u32) -> Option<u32> {
        let answered = page.load_u32(at(stream, TRANSITIONS), Ordering::Acquire);
        (answered == expected).then(|| page.load_u32(at(stream, REFUSAL), Ordering::Relaxed))
    }

    /// The answer to command number `expected`, once it is there. Who sees it sees the result. Pairs with
    /// [`card::publish_command`].
    #[inline]
    pub fn command(page: &impl Page, expected: u32) -> Option<Answer> {
        let answered = page.load_u32(COMMANDS, Ordering::Acquire);
        (answered == expected).then(|| Answer {
            status: page.load_u32(COMMAND_STATUS, Ordering::Relaxed),
            size: page.load_u32(COMMAND_SIZE, Ordering::Relaxed),
            detail: page.load_u32(COMMAND_DETAIL, Ordering::Relaxed),
        })
    }

    /// The master clock. Who sees it sees the completions of everything that was due by then. Pairs with
    /// [`card::publish_clocks`].
    #[inline]
    pub fn master_time(page: &impl Page) -> RefTime {
        RefTime(page.load_u64(MASTER_TIME, Ordering::Acquire) as i64)
    }

    /// The latency clock.
    pub fn latency_time(page: &impl Page) -> RefTime {
        RefTime(page.load_u64(LATENCY_TIME, Ordering::Acquire) as i64)
    }
}

/// The card's steps.
pub mod card {
    use super::*;

    /// A poll of the page: the grant, and only then the tails, so that what the grant covers is among what the tails
    /// publish.
    #[derive(Clone, Copy, Debug)]
    pub struct Poll {
        grant: RefTime,
    }

    impl Poll {
        /// Loads the grant.
        #[inline]
        pub fn at(page: &impl Page) -> Self {
            Self { grant: RefTime(page.load_u64(GRANT, Ordering::Acquire) as i64) }
        }

        /// The grant.
        #[inline]
        pub fn grant(self) -> RefTime {
            self.grant
        }

        /// Loads a stream's tail.
        #[inline]
        pub fn tail(self, page: &impl Page, stream: usize) -> u32 {
            page.load_u32(at(stream, SUBMISSION_TAIL), Ordering::Acquire)
        }
    }

    /// Announces sleep `number` (not 0), and polls once more: the card may sleep only if that shows nothing new.
    #[inline]
    pub fn arm_sleep(page: &impl Page, number: u32) -> Poll {
        page.store_u32(WAKE_ARMED, number, Ordering::Relaxed);
        page.fence();
        Poll::at(page)
    }

    /// The sleep is over.
    #[inline]
    pub fn end_sleep(page: &impl Page) {
        page.store_u32(WAKE_ARMED, 0, Ordering::Relaxed);
    }

    /// Publishes the completions from `old` up to `new`, whose entries are written; true if the vector has to be raised
    /// for them.
    #[inline]
    pub fn publish_head(page: &impl Page, stream: usize, old: u32, new: u32) -> bool {
        page.store_u32(at(stream, COMPLETION_HEAD), new, Ordering::Release);
        page.fence();
        crate::ring::passes(page.load_u32(at(stream, COMPLETION_EVENT), Ordering::Relaxed), old, new)
    }

    /// Publishes the clocks, after the completions of what was due by then.
    #[inline]
    pub fn publish_clocks(page: &impl Page, samples: u64, latency: RefTime, master: RefTime) {
        page.store_u64(SAMPLE_POSITION, samples, Ordering::Relaxed);
        page.store_u64(LATENCY_TIME, latency.0 as u64, Ordering::Relaxed);
        page.store_u64(MASTER_TIME, master.0 as u64, Ordering::Release);
    }

    /// Publishes the answer to transition number `transitions`, after the completions that it brought.
    #[inline]
    pub fn publish_answer(page: &impl Page, stream: usize, state: u32, refusal: u32, transitions: u32) {
        page.store_u32(at(stream, STATE), state, Ordering::Relaxed);
        page.store_u32(at(stream, REFUSAL), refusal, Ordering::Relaxed);
        page.store_u32(at(stream, TRANSITIONS), transitions, Ordering::Release);
    }

    /// Publishes the answer to command number `commands`, after its result.
    #[inline]
    pub fn publish_command(page: &impl Page, answer: Answer, commands: u32) {
        page.store_u32(COMMAND_STATUS, answer.status, Ordering::Relaxed);
        page.store_u32(COMMAND_SIZE, answer.size, Ordering::Relaxed);
        page.store_u32(COMMAND_DETAIL, answer.detail, Ordering::Relaxed);
        page.store_u32(COMMANDS, commands, Ordering::Release);
    }
}
