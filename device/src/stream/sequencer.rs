//! Orders events by time, ties in the order of their arrival.
//!
//! Fed by intake (or by a song, offline) as events arrive; feeds the stream that applies them. Events that arrive in order, as they nearly
//! always do, cost O(1); the others go through a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// An event that waits for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: i64,
    arrival: u64,
}

/// A queue of `T`s by time.
#[derive(Debug)]
pub(crate) struct Sequencer<T> {
    in_order: VecDeque<(Key, T)>,
    out_of_order: BinaryHeap<Reverse<(Key, T)>>,
    arrivals: u64,
}

impl<T: Copy + Ord> Sequencer<T> {
    /// A queue that does not allocate for up to `capacity` events.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            in_order: VecDeque::with_capacity(capacity),
            out_of_order: BinaryHeap::with_capacity(capacity),
            arrivals: 0,
        }
    }

    pub(crate) fn push(&mut self, time: i64, item: T) {
        let key = Key { time, arrival: self.arrivals };
        self.arrivals += 1;
        if self.in_order.back().is_none_or(|(last, _)| *last <= key) {
            self.in_order.push_back((key, item));
        } else {
            self.out_of_order.push(Reverse((key, item)));
        }
    }

    /// Time of the next event.
    pub(crate) fn next_time(&self) -> Option<i64> {
        let first = self.in_order.front().map(|(key, _)| key.time);
        let other = self.out_of_order.peek().map(|Reverse((key, _))| key.time);
        first.into_iter().chain(other).min()
    }

    pub(crate) fn pop(&mut self) -> Option<(i64, T)> {
        let first = self.in_order.front().map(|(key, _)| *key);
        let other = self.out_of_order.peek().map(|Reverse((key, _))| *key);
        let take_other = match (first, other) {
            (Some(first), Some(other)) => other < first,
            (None, Some(_)) => true,
            _ => false,
        };
        let (key, item) = if take_other { self.out_of_order.pop()?.0 } else { self.in_order.pop_front()? };
        Some((key.time, item))
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
