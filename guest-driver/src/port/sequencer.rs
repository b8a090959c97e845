//! The port driver's sequencer: holds messages that are further ahead than the card wants them.
//!
//! Fed with messages in any order; feeds the next filter with those inside the stream's prefetch window, by time, ties
//! in the order of their arrival. It holds the messages themselves, so a held message is a slot that the application's
//! side owns, out of the pool that the stream has anyway: the pool bounds what is held, nothing is copied, and when all
//! slots are held the unpacker waits.

use super::{Mxf, Output};
use crate::{Allocator, DriverError, Message};
use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::fmt;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// A sequencer of one stream.
///
/// In RUN, messages that are due, or not to be held (DONT_HOLD_FOR_SEQUENCING), go on at once, others when a service
/// finds them due. In ACQUIRE and PAUSE it holds everything. In STOP, what it holds and what it is given is recycled.
pub struct Sequencer<'g, 'm> {
    output: Output<'g, 'm>,
    queue: RefCell<Queue<'m>>,
    /// How far ahead of its time a message goes on.
    prefetch: RefTime,
    /// The end of the window at the last service.
    horizon: Cell<RefTime>,
    state: Cell<State>,
    /// Slots of the pool: all that can be held.
    slots: usize,
}

/// Nothing is as early, but for what is not to be held at all.
const NOTHING_DUE: RefTime = RefTime(-1);

impl<'g, 'm> Sequencer<'g, 'm> {
    /// A sequencer in STOP for the messages of `allocator`, which go on `prefetch` before their time
    /// (SchedulePreFetch). It has room for all of the pool, and never allocates again.
    pub fn new(allocator: &'m Allocator<'_>, prefetch: RefTime) -> Self {
        let slots = allocator.slots();
        Self {
            output: Output::new(),
            queue: RefCell::new(Queue(VecDeque::with_capacity(slots))),
            prefetch,
            horizon: Cell::new(NOTHING_DUE),
            state: Cell::new(State::Stop),
            slots,
        }
    }

    /// Messages that it holds (heads of chains and packages count one).
    pub fn held(&self) -> usize {
        self.queue.borrow().0.len()
    }

    /// Whether something due is held, which nothing may overtake: after a change of state, until the next service.
    fn holds_due(&self) -> bool {
        self.queue.borrow().next_time().is_some_and(|first| first <= self.horizon.get())
    }

    /// Takes the first message if it is due.
    fn pop_due(&self, horizon: RefTime) -> Option<Message<'m>> {
        let mut queue = self.queue.borrow_mut();
        if queue.next_time()? > horizon { None } else { queue.0.pop_front().map(|(_, message)| message) }
    }
}

impl<'g, 'm> Mxf<'g, 'm> for Sequencer<'g, 'm> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        let time = message.time();
        match self.state.get() {
            State::Stop => Ok(()),
            State::Run if time <= self.horizon.get() && !self.holds_due() => self.output.put_message(message),
            State::Run | State::Acquire | State::Pause => {
                let mut queue = self.queue.borrow_mut();
                if queue.0.len() >= self.slots {
                    return Err(DriverError::Misuse("the sequencer is given another allocator's messages"));
                }
                queue.push(time, message);
                Ok(())
            }
        }
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.output)
    }

    /// Gives on what became due, all of it even if some of it fails, and services what is behind. The first error is
    /// the result.
    fn service(&self, now: RefTime) -> Result<(), DriverError> {
        let mut result = Ok(());
        if self.state.get() == State::Run {
            let horizon = now.saturating_add(self.prefetch);
            self.horizon.set(horizon);
            // Bounded by what was held at the start, even if a filter behind gives messages back to here.
            for _ in 0..self.held() {
                let Some(message) = self.pop_due(horizon) else {
                    break;
                };
                result = result.and(self.output.put_message(message));
            }
        }
        result.and(self.output.service(now))
    }

    fn next_time(&self) -> Option<RefTime> {
        let own = self.queue.borrow().next_time();
        own.into_iter().chain(self.output.next_time()).min()
    }

    fn set_state(&self, state: State) -> Result<(), DriverError> {
        if state == State::Stop {
            self.state.set(state);
            self.queue.borrow_mut().0.clear();
        }
        self.output.set_state(state)?;
        self.state.set(state);
        // The clock may have moved, or begun anew: nothing is due before the next service.
        self.horizon.set(NOTHING_DUE);
        Ok(())
    }
}

impl fmt::Debug for Sequencer<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, state) = (self.held(), self.state.get());
        f.debug_struct("Sequencer").field("held", &held).field("state", &state).finish_non_exhaustive()
    }
}

/// Messages by time, ties by arrival: a deque that the pool bounds. What comes in order, as nearly all does, is
/// appended.
struct Queue<'m>(VecDeque<(RefTime, Message<'m>)>);

impl<'m> Queue<'m> {
    fn push(&mut self, time: RefTime, message: Message<'m>) {
        // What plays at once is before all else, in the order of arrival.
        let time = if time < RefTime::ZERO { RefTime(i64::MIN) } else { time };
        let place = match self.0.back() {
            Some((last, _)) if *last > time => self.0.partition_point(|(other, _)| *other <= time),
            _ => self.0.len(),
        };
        self.0.insert(place, (time, message));
    }

    fn next_time(&self) -> Option<RefTime> {
        self.0.front().map(|(time, _)| *time)
    }
}

#[cfg(test)]
impl Sequencer<'_, '_> {
    /// Room that was allocated, in messages.
    pub(super) fn room(&self) -> usize {
        self.queue.borrow().0.capacity()
    }
}
