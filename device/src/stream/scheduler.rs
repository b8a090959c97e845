//! Orders events by time, ties in the order of their arrival.
//!
//! Fed by a stream (or by a song, offline) as events arrive; feeds the renderer. Events that arrive in order, as they
//! nearly always do, cost O(1); the others go through a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of `T`s by time.
#[derive(Debug)]
pub(crate) struct Scheduler<T> {
    /// What came in order is at `first..end`: several times as cheap as a ring buffer.
    in_order: Vec<(i64, T)>,
    first: usize,
    end: usize,
    /// The time of the last that is in order; the earliest of all if none is.
    last: i64,
    /// What came after something later that is still in order, with the number of its arrival. So these are gone before
    /// all that is in order is, and what is in order at the same time as one of them came before it.
    out_of_order: BinaryHeap<Reverse<(i64, u64, T)>>,
    arrivals: u64,
}

impl<T: Copy + Ord + Default> Scheduler<T> {
    /// A queue that does not allocate for up to `capacity` events.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            // Twice as many, so that moving the rest to the front is paid for by as many that have gone.
            in_order: vec![(0, T::default()); 2 * capacity],
            first: 0,
            end: 0,
            last: i64::MIN,
            out_of_order: BinaryHeap::with_capacity(capacity),
            arrivals: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, time: i64, item: T) {
        match self.in_order.get_mut(self.end) {
            Some(place) if time >= self.last => {
                *place = (time, item);
                self.last = time;
                self.end += 1;
            }
            _ => self.push_unusual(time, item),
        }
    }

    /// What comes out of order, or when the vector is full.
    #[cold]
    #[inline(never)]
    fn push_unusual(&mut self, time: i64, item: T) {
        if time < self.last {
            self.out_of_order.push(Reverse((time, self.arrivals, item)));
            self.arrivals += 1;
            return;
        }
        if self.first == 0 {
            self.in_order.resize(2 * self.end + 1, (0, T::default()));
        } else {
            self.in_order.copy_within(self.first..self.end, 0);
            self.end -= self.first;
            self.first = 0;
        }
        self.push(time, item);
    }

    /// The next event and its time.
    #[inline(always)]
    pub(crate) fn next(&self) -> Option<(i64, T)> {
        match self.out_of_order.is_empty() {
            true if self.first < self.end => self.in_order.get(self.first).copied(),
            true => None,
            false => self.next_of_both(),
        }
    }

    /// The time of the event after the next `skipped` ones; with events out of order, an earlier one.
    #[inline]
    pub(crate) fn time_after(&self, skipped: usize) -> Option<i64> {
        let after = self.in_order.get(self.first + skipped..self.end).and_then(|left| left.first());
        match self.out_of_order.is_empty() {
            true => after.map(|(time, _)| *time),
            false => self.next().map(|(time, _)| time).filter(|_| self.len() > skipped),
        }
    }

    /// All of them with their times, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (i64, T)> {
        let in_order = self.in_order.get(self.first..self.end).unwrap_or(&[]).iter().copied();
        in_order.chain(self.out_of_order.iter().map(|Reverse((time, _, item))| (*time, *item)))
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.first + self.out_of_order.len()
    }

    #[cold]
    #[inline(never)]
    fn next_of_both(&self) -> Option<(i64, T)> {
        let first = self.in_order.get(self.first..self.end).and_then(|left| left.first()).copied();
        match (first, self.out_of_order.peek()) {
            (Some(first), Some(Reverse((time, ..)))) if first.0 <= *time => Some(first),
            (_, Some(Reverse((time, _, item)))) => Some((*time, *item)),
            (first, None) => first,
        }
    }

    /// The next event leaves.
    pub(crate) fn pop(&mut self) -> Option<(i64, T)> {
        let next = self.next()?;
        self.remove(next.0);
        Some(next)
    }

    /// The next event, which has that time, leaves.
    #[inline(always)]
    pub(crate) fn remove(&mut self, time: i64) {
        if !self.out_of_order.is_empty() && !self.is_first_in_order(time) {
            self.out_of_order.pop();
            return;
        }
        self.first += 1;
        if self.first == self.end {
            (self.first, self.end, self.last) = (0, 0, i64::MIN);
        }
    }

    #[cold]
    fn is_first_in_order(&self, time: i64) -> bool {
        self.first < self.end && self.in_order.get(self.first).is_some_and(|first| first.0 <= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // The items are as good as random, as slot numbers are: nothing but the arrival decides a tie.
        #[test]
        fn events_come_by_time_and_ties_by_arrival(
            pushes in proptest::collection::vec((-5i64..5, 0u32..4, 0usize..3), 0..200),
        ) {
            let mut scheduler = Scheduler::with_capacity(8);
            let mut model: Vec<(i64, usize, u32)> = vec![];
            let event = |(time, _, item): (i64, usize, u32)| (time, item);
            for (arrival, (time, item, pops)) in pushes.into_iter().enumerate() {
                scheduler.push(time, item);
                model.push((time, arrival, item));
                model.sort();
                for _ in 0..pops {
                    let expected = (!model.is_empty()).then(|| event(model.remove(0)));
                    prop_assert_eq!(scheduler.next(), expected);
                    prop_assert_eq!(scheduler.pop(), expected);
                }
                prop_assert_eq!(scheduler.len(), model.len());
                let mut all: Vec<_> = scheduler.all().collect();
                all.sort();
                let mut expected: Vec<_> = model.iter().copied().map(event).collect();
                expected.sort();
                prop_assert_eq!(all, expected);
                for skipped in 0..model.len() + 2 {
                    let after = model.get(skipped).map(|(time, ..)| *time);
                    match scheduler.time_after(skipped) {
                        time if scheduler.out_of_order.is_empty() => prop_assert_eq!(time, after),
                        Some(time) => prop_assert!(model[0].0 <= time && after.is_some_and(|after| time <= after)),
                        None => prop_assert_eq!(after, None),
                    }
                }
            }
            for expected in model {
                prop_assert_eq!(scheduler.pop(), Some(event(expected)));
            }
            prop_assert_eq!(scheduler.pop(), None);
        }
    }

    #[test]
    fn a_long_run_in_order_goes_through_the_same_memory() {
        let mut scheduler = Scheduler::with_capacity(4);
        let memory = scheduler.in_order.len();
        (0..3).for_each(|time| scheduler.push(time, time));
        for time in 3..1000 {
            scheduler.push(time, time);
            assert_eq!(scheduler.time_after(3), Some(time));
            assert_eq!(scheduler.pop(), Some((time - 3, time - 3)));
        }
        assert_eq!(scheduler.in_order.len(), memory);
    }

    #[test]
    fn more_than_there_is_room_for_is_kept_all_the_same() {
        for capacity in 0..4 {
            let mut scheduler = Scheduler::with_capacity(capacity);
            (0..20).for_each(|time| scheduler.push(time, time));
            let popped: Vec<_> = std::iter::from_fn(|| scheduler.pop()).collect();
            assert_eq!(popped, (0..20).map(|time| (time, time)).collect::<Vec<_>>());
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
