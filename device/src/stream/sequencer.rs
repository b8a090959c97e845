//! Orders events by time, ties in the order of their arrival.
//!
//! Fed by intake (or by a song, offline) as events arrive; feeds the stream that applies them. Events that arrive in order, as they nearly
//! always do, cost O(1); the others go through a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A queue of `T`s by time.
#[derive(Debug)]
pub(crate) struct Sequencer<T> {
    in_order: VecDeque<(i64, T)>,
    /// What came after something later that is still in order, with the number of its arrival. So these are gone before `in_order` is
    /// empty, and what is in order at the same time as one of them came before it.
    out_of_order: BinaryHeap<Reverse<(i64, u64, T)>>,
    arrivals: u64,
    /// Time of the next event.
    next: Option<i64>,
}

impl<T: Copy + Ord> Sequencer<T> {
    /// A queue that does not allocate for up to `capacity` events.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            in_order: VecDeque::with_capacity(capacity),
            out_of_order: BinaryHeap::with_capacity(capacity),
            arrivals: 0,
            next: None,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, time: i64, item: T) {
        if self.in_order.back().is_none_or(|(last, _)| *last <= time) {
            self.next.get_or_insert(time);
            self.in_order.push_back((time, item));
        } else {
            self.push_out_of_order(time, item);
        }
    }

    #[cold]
    fn push_out_of_order(&mut self, time: i64, item: T) {
        self.next = self.next.map(|next| next.min(time));
        self.out_of_order.push(Reverse((time, self.arrivals, item)));
        self.arrivals += 1;
    }

    /// Time of the next event.
    #[inline]
    pub(crate) fn next_time(&self) -> Option<i64> {
        self.next
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(i64, T)> {
        if !self.out_of_order.is_empty() {
            return self.pop_any();
        }
        let popped = self.in_order.pop_front();
        self.next = self.in_order.front().map(|(time, _)| *time);
        popped
    }

    #[cold]
    fn pop_any(&mut self) -> Option<(i64, T)> {
        let in_order = self.in_order.front().map(|(time, _)| *time);
        let other = self.out_of_order.peek().map(|Reverse((time, ..))| *time);
        let popped = match (in_order, other) {
            (Some(first), Some(other)) if other < first => {
                self.out_of_order.pop().map(|Reverse((time, _, item))| (time, item))
            }
            _ => self.in_order.pop_front(),
        };
        let first = self.in_order.front().map(|(time, _)| *time);
        let other = self.out_of_order.peek().map(|Reverse((time, ..))| *time);
        self.next = first.into_iter().chain(other).min();
        popped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_by_time_and_ties_by_arrival(pushes in proptest::collection::vec((-5i64..5, 0usize..3), 0..200)) {
            let mut sequencer = Sequencer::with_capacity(8);
            let mut model: Vec<(i64, usize)> = vec![];
            for (arrival, (time, pops)) in pushes.into_iter().enumerate() {
                sequencer.push(time, arrival);
                model.push((time, arrival));
                for _ in 0..pops {
                    model.sort();
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(sequencer.next_time(), expected.map(|(time, _)| time));
                    prop_assert_eq!(sequencer.pop(), expected);
                }
            }
            model.sort();
            for expected in model {
                prop_assert_eq!(sequencer.pop(), Some(expected));
            }
            prop_assert_eq!(sequencer.pop(), None);
        }
    }

    #[test]
    fn events_in_order_never_reach_the_heap() {
        let mut sequencer = Sequencer::with_capacity(4);
        for time in [1, 1, 2, 5, 5] {
            sequencer.push(time, ());
        }
        assert!(sequencer.out_of_order.is_empty());
    }
}
