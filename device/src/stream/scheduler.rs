//! Orders events by time, ties in the order of their arrival.
//!
//! Fed by a stream (or by a song, offline) as events arrive; feeds the renderer. Events that arrive in order, as they nearly always
//! do, cost O(1); the others go through a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of `T`s by time.
#[derive(Debug)]
pub(crate) struct Scheduler<T> {
    /// A queue in a vector, of which the first `gone` have left: several times as cheap as a ring buffer.
    in_order: Vec<(i64, T)>,
    gone: usize,
    /// What came after something later that is still in order, with the number of its arrival. So these are gone before `in_order` is
    /// empty, and what is in order at the same time as one of them came before it.
    out_of_order: BinaryHeap<Reverse<(i64, u64, T)>>,
    arrivals: u64,
}

impl<T: Copy + Ord> Scheduler<T> {
    /// A queue that does not allocate for up to `capacity` events.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            // Twice as many, so that moving the rest to the front is paid for by as many that have gone.
            in_order: Vec::with_capacity(2 * capacity),
            gone: 0,
            out_of_order: BinaryHeap::with_capacity(capacity),
            arrivals: 0,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, time: i64, item: T) {
        match self.in_order.last() {
            Some((last, _)) if *last > time => self.push_out_of_order(time, item),
            _ => {
                if self.in_order.len() == self.in_order.capacity() {
                    self.make_room();
                }
                self.in_order.push((time, item));
            }
        }
    }

    #[cold]
    fn push_out_of_order(&mut self, time: i64, item: T) {
        self.out_of_order.push(Reverse((time, self.arrivals, item)));
        self.arrivals += 1;
    }

    #[cold]
    fn make_room(&mut self) {
        self.in_order.drain(..self.gone);
        self.gone = 0;
    }

    /// The next event and its time.
    #[inline]
    pub(crate) fn next(&self) -> Option<(i64, T)> {
        match self.out_of_order.is_empty() {
            true => self.in_order.get(self.gone).copied(),
            false => self.next_of_both(),
        }
    }

    #[cold]
    fn next_of_both(&self) -> Option<(i64, T)> {
        let first = self.in_order.get(self.gone).copied();
        match (first, self.out_of_order.peek()) {
            (Some(first), Some(Reverse((time, ..)))) if first.0 <= *time => Some(first),
            (_, Some(Reverse((time, _, item)))) => Some((*time, *item)),
            (first, None) => first,
        }
    }

    /// The next event leaves.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(i64, T)> {
        let next = self.next()?;
        self.remove(next.0);
        Some(next)
    }

    /// The next event, which has that time, leaves.
    #[inline]
    fn remove(&mut self, time: i64) {
        if !self.out_of_order.is_empty() && self.in_order.get(self.gone).is_none_or(|first| first.0 > time) {
            self.out_of_order.pop();
            return;
        }
        self.gone += 1;
        if self.gone == self.in_order.len() {
            self.in_order.clear();
            self.gone = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_by_time_and_ties_by_arrival(pushes in proptest::collection::vec((-5i64..5, 0usize..3), 0..200)) {
            let mut scheduler = Scheduler::with_capacity(8);
            let mut model: Vec<(i64, usize)> = vec![];
            for (arrival, (time, pops)) in pushes.into_iter().enumerate() {
                scheduler.push(time, arrival);
                model.push((time, arrival));
                for _ in 0..pops {
                    model.sort();
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(scheduler.next(), expected);
                    prop_assert_eq!(scheduler.pop(), expected);
                }
            }
            model.sort();
            for expected in model {
                prop_assert_eq!(scheduler.pop(), Some(expected));
            }
            prop_assert_eq!(scheduler.pop(), None);
        }
    }

    #[test]
    fn events_in_order_never_reach_the_heap() {
        let mut scheduler = Scheduler::with_capacity(4);
        for time in [1, 1, 2, 5, 5] {
            scheduler.push(time, ());
        }
        assert!(scheduler.out_of_order.is_empty());
    }
}
