//! Whether the driver rings as the data sheet says: once for each sleep of the card that it stored something in, and
//! for nothing else.
//!
//! Fed by the engine as it goes to sleep, and by trapped accesses; feeds the [`Checker`]. A driver may have looked at
//! WAKE_ARMED long before its write to WAKE arrives, so neither rule asks whether the card sleeps at that moment: one
//! counts, the other waits for a reset.

use super::{Checker, Details, Place};
use dmus_interface::doorbell;
use dmus_interface::pci::STREAMS;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;

/// What the driver stores: the tails, and the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DriverWords {
    pub(crate) tails: [u32; STREAMS],
    pub(crate) grant: u64,
}

impl DriverWords {
    /// The first word that is another now: its stream, where it is, what it was and what it is.
    fn moved(&self, now: &Self, open: impl Fn(usize) -> bool) -> Option<Moved> {
        let tails = self.tails.iter().zip(&now.tails).enumerate();
        let mut moved = tails.filter(|(index, (before, now))| before != now && open(*index));
        match moved.next() {
            Some((index, (before, now))) => Some(Moved {
                stream: Some(index),
                word: doorbell::at(index, doorbell::SUBMISSION_TAIL),
                before: (*before).into(),
                now: (*now).into(),
            }),
            None => (self.grant != now.grant).then_some(Moved {
                stream: None,
                word: doorbell::GRANT,
                before: self.grant,
                now: now.grant,
            }),
        }
    }
}

/// A word that moved while the card slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    stream: Option<usize>,
    word: usize,
    before: u64,
    now: u64,
}

/// The card's sleeps since the last reset, and how they were rung for.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    sleeps: u64,
    rings: u64,
    /// The driver's words when the present sleep was armed, unless it has been rung for.
    asleep: Option<DriverWords>,
    /// What a read of a register has found moved since.
    unrung: Option<Moved>,
}

impl Rings {
    /// The card has armed a sleep, and not yet looked whether anything moved.
    pub(crate) fn armed(&mut self, words: DriverWords) {
        self.sleeps += 1;
        self.asleep = Some(words);
    }

    /// Whether a sleep is armed that was not rung for.
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// The sleep is over, or was rung for.
    pub(crate) fn over(&mut self) {
        self.asleep = None;
        self.unrung = None;
    }

    /// WAKE was written, by a driver that has seen its last reset done. It may have rung once for each sleep since
    /// then.
    pub(crate) fn rung(&mut self, checker: &Checker, master: RefTime) {
        self.over();
        self.rings += 1;
        let (rings, sleeps) = (self.rings, self.sleeps);
        if rings > sleeps {
            // The next one that is too many is told of by itself.
            self.rings = sleeps;
            checker.found(Code::Check(Check::WakeNeedless), || Details {
                expected: Some(format!("one at most for each of {sleeps} sleeps since the reset")),
                found: Some("one more".into()),
                ..Details::at(Place { word: Some(doorbell::WAKE_ARMED), ..Place::default() }, master)
            });
        }
    }

    /// A register is read. Whatever was written before has arrived, so that what is seen moved here is rung for by then
    /// or after it.
    pub(crate) fn read(&mut self, now: &DriverWords, open: impl Fn(usize) -> bool) {
        if let Some(words) = &self.asleep {
            self.unrung = words.moved(now, open);
        }
    }

    /// The driver resets the card: it is between no store and its ring.
    pub(crate) fn reset(&mut self, checker: &Checker, master: RefTime) {
        if let Some(Moved { stream, word, before, now }) = self.unrung.take() {
            checker.found(Code::Check(Check::WakeMissing), || Details {
                expected: Some(format!("a write to WAKE, or {before:#x} as when the card went to sleep")),
                found: Some(format!("{now:#x}")),
                ..Details::at(Place { stream, word: Some(word), ..Place::default() }, master)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::DoorbellPage;
    use dmus_interface::protocol::{Page, driver};
    use std::sync::atomic::Ordering;

    struct Sleeper {
        rings: Rings,
        checker: Checker,
        page: DoorbellPage,
    }

    impl Sleeper {
        fn new() -> Self {
            let page = DoorbellPage::new().expect("a page");
            Self { rings: Rings::default(), checker: Checker::new(&[], None), page }
        }

        fn words(&self) -> DriverWords {
            let tail = |index| self.page.load_u32(doorbell::at(index, doorbell::SUBMISSION_TAIL), Ordering::Relaxed);
            DriverWords {
                tails: std::array::from_fn(tail),
                grant: self.page.load_u64(doorbell::GRANT, Ordering::Relaxed),
            }
        }

        fn arm(&mut self) {
            self.rings.armed(self.words());
        }

        fn ring(&mut self) {
            self.rings.rung(&self.checker, RefTime::ZERO);
        }

        fn read(&mut self) {
            let words = self.words();
            self.rings.read(&words, |stream| stream == 0);
        }

        /// The codes that were named.
        fn named(&self) -> Vec<(String, u64)> {
            self.checker.counts().into_iter().map(|(rule, count)| (rule.code.to_string(), count)).collect()
        }

        /// After a reset.
        fn named_at_reset(mut self) -> Vec<(String, u64)> {
            self.rings.reset(&self.checker, RefTime::ZERO);
            self.named()
        }
    }

    #[test]
    fn a_ring_for_each_sleep_is_asked_for_however_late_it_comes() {
        let mut card = Sleeper::new();
        for _ in 0..3 {
            card.arm();
            card.rings.over();
        }
        (0..3).for_each(|_| card.ring());
        assert_eq!(card.named(), []);
        (0..2).for_each(|_| card.ring());
        assert_eq!(card.named(), [("C13".into(), 2)]);
        card.arm();
        card.ring();
        assert_eq!(card.named(), [("C13".into(), 2)]);
    }

    #[test]
    fn what_moved_in_a_sleep_is_missing_its_ring_if_none_came_until_the_reset() {
        let tail = |card: &Sleeper| driver::publish_tail(&card.page, 0, 1);
        let grant = |card: &Sleeper| driver::publish_grant(&card.page, RefTime(5));
        for store in [tail, grant] {
            let mut card = Sleeper::new();
            card.arm();
            store(&card);
            card.read();
            assert_eq!(card.named_at_reset(), [("C14".into(), 1)]);
        }
    }

    #[test]
    fn what_may_yet_be_rung_for_is_not_missing() {
        type Happens = fn(&mut Sleeper);
        let cases: [(&str, Happens); 5] = [
            ("stored before the sleep", |card| {
                driver::publish_tail(&card.page, 0, 1);
                card.arm();
                card.read();
            }),
            ("not seen by a read: the reset may have been written before it", |card| {
                card.arm();
                driver::publish_grant(&card.page, RefTime(5));
            }),
            ("the ring came late", |card| {
                card.arm();
                driver::publish_tail(&card.page, 0, 1);
                card.read();
                card.ring();
            }),
            ("the card woke by itself, and the driver may have seen that", |card| {
                card.arm();
                driver::publish_tail(&card.page, 0, 1);
                card.read();
                card.rings.over();
                card.read();
            }),
            ("of a stream that is not open", |card| {
                card.arm();
                driver::publish_tail(&card.page, 1, 1);
                card.read();
            }),
        ];
        for (what, happens) in cases {
            let mut card = Sleeper::new();
            happens(&mut card);
            assert_eq!(card.named_at_reset(), [], "{what}");
        }
    }
}
