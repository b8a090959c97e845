//! The journal of a stream's rings: which slots were fetched and completed, in which step, when.
//!
//! Fed by the observer, a batch at a time; feeds reports with the history of a slot.

use super::describe::{Happened, Step};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;

/// Entries of each ring that are remembered, and steps: a power of two, and more than a pool has slots.
const REMEMBERED: usize = 8192;

/// A batch of entries.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    /// Number of its first entry.
    first: u32,
    time: RefTime,
    tail: u32,
    /// Submissions that had been fetched by then.
    fetched: u32,
}

/// What became of one ring's entries, the last ones.
#[derive(Debug)]
struct Log<T> {
    entries: Box<[T; REMEMBERED]>,
    /// How many there were.
    end: u32,
    batches: Box<[Batch; REMEMBERED]>,
    next_batch: usize,
}

impl<T: Copy + Default> Log<T> {
    fn new() -> Self {
        Self {
            entries: Box::new([T::default(); REMEMBERED]),
            end: 0,
            batches: Box::new([Batch::default(); REMEMBERED]),
            next_batch: 0,
        }
    }

    /// Adds the next `count` entries, in one batch: `fill` is told a piece of them by the number of its first one.
    #[inline(always)]
    fn add(&mut self, first: u32, count: u32, batch: Batch, mut fill: impl FnMut(u32, &mut [T])) {
        self.end = first.wrapping_add(count);
        self.batches[self.next_batch % REMEMBERED] = Batch { first, ..batch };
        self.next_batch = self.next_batch.wrapping_add(1);
        let (from, count) = (first as usize % REMEMBERED, count as usize);
        match self.entries.get_mut(from..from + count) {
            Some(place) => fill(first, place),
            None => self.add_around(first, count as u32, fill),
        }
    }

    /// The same, over the end.
    #[cold]
    fn add_around(&mut self, first: u32, count: u32, mut fill: impl FnMut(u32, &mut [T])) {
        let from = first as usize % REMEMBERED;
        let in_front = REMEMBERED - from;
        fill(first, &mut self.entries[from..]);
        // There is no batch of more than that.
        let behind = (count as usize).saturating_sub(in_front).min(from);
        fill(first.wrapping_add(in_front as u32), &mut self.entries[..behind]);
    }

    /// The last entries that `is` picks, newest first, with their batches if these are remembered.
    fn last(&self, is: impl Fn(T) -> bool) -> impl Iterator<Item = (T, Option<Batch>)> {
        let remembered = self.end.min(REMEMBERED as u32);
        let numbers = (1..=remembered).map(|back| self.end.wrapping_sub(back));
        let entries = numbers.map(|number| (number, self.entries[number as usize % REMEMBERED]));
        entries.filter(move |(_, entry)| is(*entry)).map(|(number, entry)| (entry, self.batch(number)))
    }

    fn batch(&self, number: u32) -> Option<Batch> {
        let remembered = self.next_batch.min(REMEMBERED);
        let mut batches = (1..=remembered).map(|back| self.batches[(self.next_batch - back) % REMEMBERED]);
        batches.find(|batch| number.wrapping_sub(batch.first).cast_signed() >= 0)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    fetched: Log<u32>,
    completed: Log<[u64; 2]>,
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { fetched: Log::new(), completed: Log::new() }
    }

    /// Entries of the submission ring were fetched, so many from the first one on, up to this tail; `fill` gives them.
    #[inline(always)]
    pub(super) fn fetched(
        &mut self,
        (first, count): (u32, u32),
        time: RefTime,
        tail: u32,
        fill: impl FnMut(u32, &mut [u32]),
    ) {
        self.fetched.add(first, count, Batch { time, tail, ..Batch::default() }, fill);
    }

    /// Completions are written.
    #[inline(always)]
    pub(super) fn completed(&mut self, entries: &[[u64; 2]], time: RefTime, tail: u32) {
        let (first, fetched) = (self.completed.end, self.fetched.end);
        let batch = Batch { time, tail, fetched, ..Batch::default() };
        self.completed.add(first, entries.len() as u32, batch, |number, place| {
            let from = number.wrapping_sub(first) as usize;
            place.copy_from_slice(&entries[from..from + place.len()]);
        });
    }

    /// The slot of a submission, by its number.
    pub(super) fn entry(&self, number: u32) -> u32 {
        self.fetched.entries[number as usize % REMEMBERED]
    }

    /// The last completion that was written.
    pub(super) fn last_completion(&self) -> Option<[u64; 2]> {
        self.completed.last(|_| true).next().map(|(words, _)| words)
    }

    /// What happened to a slot, oldest first: two rounds of it at most.
    pub(super) fn history(&self, slot: u32) -> Vec<Step> {
        let mut history = Vec::new();
        let mut add = |happened, batch: Option<Batch>| {
            history.push(Step { happened, when: batch.map(|batch| (batch.time, batch.tail)) });
        };
        let mut ends = self.completed.last(|[word, _]| word as u32 == slot).peekable();
        let fetches: Vec<_> = self.fetched.last(|entry| entry == slot).take(2).collect();
        // Newest first, and turned round at the end.
        for (number, (_, fetch)) in fetches.iter().enumerate() {
            // A completion is of this round if the slot was fetched before it.
            let first = fetch.map_or(0, |batch| batch.first);
            let is_later = |batch: &Batch| batch.fetched.wrapping_sub(first).cast_signed() > 0;
            let end = ends.next_if(|(_, batch)| batch.as_ref().is_some_and(is_later));
            match end.and_then(|([word, _], batch)| Some((Status::decode((word >> 32) as u16)?, batch))) {
                Some((status, batch)) => {
                    if number > 0 {
                        add(Happened::TakenHome, fetches[number - 1].1);
                    }
                    add(Happened::Completed(status), batch);
                }
                None => add(Happened::Held, *fetch),
            }
            add(Happened::Fetched, *fetch);
            add(Happened::Submitted, *fetch);
        }
        history.reverse();
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(slot: u32, status: Status) -> [u64; 2] {
        [u64::from(slot) | (status as u64) << 32, 0]
    }

    fn fetch(journal: &mut Journal, slots: &[u32], time: i64, tail: u32) {
        let first = journal.fetched.end;
        journal.fetched((first, slots.len() as u32), RefTime(time), tail, |number, entries| {
            let from = number.wrapping_sub(first) as usize;
            entries.copy_from_slice(&slots[from..from + entries.len()]);
        });
    }

    fn told(journal: &Journal, slot: u32) -> Vec<(Happened, i64)> {
        journal.history(slot).iter().map(|step| (step.happened, step.when.map_or(-1, |(time, _)| time.0))).collect()
    }

    #[test]
    fn a_slot_is_followed_from_its_submission_until_the_driver_has_it_again() {
        use Happened::{Completed, Fetched, Held, Submitted, TakenHome};
        let mut journal = Journal::new();
        fetch(&mut journal, &[3, 7], 10, 2);
        assert_eq!(told(&journal, 7), [(Submitted, 10), (Fetched, 10), (Held, 10)]);
        journal.completed(&[completion(7, Status::Presented)], RefTime(20), 2);
        let first = [(Submitted, 10), (Fetched, 10), (Completed(Status::Presented), 20)];
        assert_eq!(told(&journal, 7), first);
        assert_eq!(told(&journal, 3), [(Submitted, 10), (Fetched, 10), (Held, 10)]);
        fetch(&mut journal, &[7], 30, 3);
        let second = [(TakenHome, 30), (Submitted, 30), (Fetched, 30), (Held, 30)];
        assert_eq!(told(&journal, 7), [&first[..], &second[..]].concat());
        journal.completed(&[completion(7, Status::Discarded)], RefTime(40), 3);
        assert_eq!(told(&journal, 7).last(), Some(&(Completed(Status::Discarded), 40)));
        assert!(told(&journal, 5).is_empty());
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut journal = Journal::new();
        fetch(&mut journal, &[1], 1, 1);
        for number in 0..REMEMBERED as u32 {
            fetch(&mut journal, &[2], 2, number + 2);
        }
        assert!(told(&journal, 1).is_empty());
        assert!(!told(&journal, 2).is_empty());
    }
}
