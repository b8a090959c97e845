//! The protocol of the doorbell page under loom: driver and card take the steps of [`dmus_interface::protocol`] on a
//! page of loom's atomics, in every order and with every stale value that the memory model allows; and each order and
//! fence is needed: without it loom finds the fault.
//!
//! Guest memory (slots and ring entries) is made of loom's cells, where an access that is not ordered after the other
//! side's is a fault. A wait is for ever: whoever waits for a vector or bell that never comes is a deadlock, which loom
//! reports. So the time limits of the real waits, which would heal a lost wake-up after a while, are left out.
//!
//! What loom does not explore: a load that is delayed beyond a later store of its thread (load buffering) as a *value*;
//! where that matters (a slot read before its completion is published) the cells report the missing order itself. Each
//! search goes on to its end, with as many preemptions as it takes, unless its test says otherwise.

use dmus_interface::doorbell::{
    COMPLETION_EVENT, COMPLETION_HEAD, GRANT, MASTER_TIME, SUBMISSION_TAIL, TRANSITIONS, WAKE_ARMED, at,
};
use dmus_interface::protocol::card::Poll;
use dmus_interface::protocol::{Page, card, driver};
use dmus_interface::time::RefTime;
use loom::cell::Cell;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Driver,
    Card,
}

/// What is left out of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Nothing,
    /// The fences of a side.
    Fence(Side),
    /// The order that a store of the word at this offset has, or a load.
    Store(usize),
    Load(usize),
    /// The vector that the reaching of a grant raises.
    GrantVector,
    /// The number of the sleep that was rung for last.
    RungNumber,
}

/// The words that the models use.
struct Words {
    narrow: BTreeMap<usize, AtomicU32>,
    wide: BTreeMap<usize, AtomicU64>,
}

/// One side's view of the page.
#[derive(Clone)]
struct View {
    words: Arc<Words>,
    side: Side,
    gap: Gap,
}

impl View {
    fn order(&self, weakened: Gap, order: Ordering) -> Ordering {
        if self.gap == weakened { Ordering::Relaxed } else { order }
    }
}

impl Page for View {
    fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.words.narrow[&offset].load(self.order(Gap::Load(offset), order))
    }

    fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        self.words.narrow[&offset].store(value, self.order(Gap::Store(offset), order));
    }

    fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.words.wide[&offset].load(self.order(Gap::Load(offset), order))
    }

    fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        // Clocks that no model reads have no word.
        if let Some(word) = self.words.wide.get(&offset) {
            word.store(value, self.order(Gap::Store(offset), order));
        }
    }

    fn fence(&self) {
        if self.gap != Gap::Fence(self.side) {
            fence(Ordering::SeqCst);
        }
    }
}

/// Guest memory: plain words that both sides access.
struct Memory<const WORDS: usize>([Cell<u32>; WORDS]);

// SAFETY: loom runs one thread at a time, and checks that the accesses to a cell are ordered.
unsafe impl<const WORDS: usize> Sync for Memory<WORDS> {}

impl<const WORDS: usize> Memory<WORDS> {
    fn new() -> Arc<Self> {
        Arc::new(Self(std::array::from_fn(|_| Cell::new(0))))
    }
}

/// A vector, or the bell: raised once or more, it ends one wait.
#[derive(Clone)]
struct Signal(Arc<(Mutex<bool>, Condvar)>);

impl Signal {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn raise(&self) {
        *self.0.0.lock().expect("the signal") = true;
        self.0.1.notify_one();
    }

    fn wait(&self) {
        let mut raised = self.0.0.lock().expect("the signal");
        while !*raised {
            raised = self.0.1.wait(raised).expect("the signal");
        }
        *raised = false;
    }
}

const STREAM: usize = 0;
const TAIL: usize = at(STREAM, SUBMISSION_TAIL);
const HEAD: usize = at(STREAM, COMPLETION_HEAD);
const EVENT: usize = at(STREAM, COMPLETION_EVENT);
const ANSWERS: usize = at(STREAM, TRANSITIONS);
const STATE: usize = at(STREAM, dmus_interface::doorbell::STATE);
const REFUSAL: usize = at(STREAM, dmus_interface::doorbell::REFUSAL);

/// The driver's and the card's view of a new page.
fn views(gap: Gap) -> (View, View) {
    let narrow = [TAIL, HEAD, EVENT, ANSWERS, STATE, REFUSAL, WAKE_ARMED].map(|word| (word, AtomicU32::new(0)));
    let wide = [GRANT, MASTER_TIME].map(|word| (word, AtomicU64::new(0)));
    let words = Arc::new(Words { narrow: narrow.into_iter().collect(), wide: wide.into_iter().collect() });
    let view = |side| View { words: words.clone(), side, gap };
    (view(Side::Driver), view(Side::Card))
}

/// Runs a model to the end of loom's search.
fn check(model: fn(Gap)) {
    explore(model, Gap::Nothing);
}

fn explore(model: fn(Gap), gap: Gap) {
    loom::model(move || model(gap));
}

/// Sees loom find this fault in a model with a gap.
fn finds(model: fn(Gap), gap: Gap, fault: &str) {
    let found = catch_unwind(AssertUnwindSafe(|| explore(model, gap))).expect_err("the gap is noticed");
    let found = found.downcast_ref::<String>().map(String::as_str).or(found.downcast_ref::<&str>().copied());
    let found = found.unwrap_or_default();
    assert!(found.contains(fault), "{gap:?} ends in another way: {found}");
}

/// What loom says of cells, and of waits.
const RACE: &str = "Causality violation";
const DEADLOCK: &str = "deadlock";

/// Exactly 1: entry and event are there when the card sees the tail.
fn submission(gap: Gap) {
    const EVENTS: usize = 3;
    let (page, card) = views(gap);
    let (ring, slots) = (Memory::<EVENTS>::new(), Memory::<EVENTS>::new());
    let (ring_there, slots_there) = (ring.clone(), slots.clone());
    let engine = thread::spawn(move || {
        let mut fetched = 0;
        for _ in 0..2 {
            let tail = Poll::at(&card).tail(&card, STREAM);
            while fetched < tail {
                let slot = ring_there.0[fetched as usize].get();
                assert_eq!(slots_there.0[slot as usize].get(), 100 + fetched);
                fetched += 1;
            }
        }
    });
    // One, and then two in a batch.
    for (index, publish) in [(0, true), (1, false), (2, true)] {
        let slot = EVENTS as u32 - 1 - index;
        slots.0[slot as usize].set(100 + index);
        ring.0[index as usize].set(slot);
        if publish {
            driver::publish_tail(&page, STREAM, index + 1);
        }
    }
    engine.join().expect("the card");
}

#[test]
fn the_card_sees_what_a_tail_publishes() {
    check(submission);
    finds(submission, Gap::Store(TAIL), RACE);
    finds(submission, Gap::Load(TAIL), RACE);
}

/// A slot that goes round: the card reads it before it is completed, the driver rewrites it only afterwards.
fn recycling(gap: Gap) {
    const ROUNDS: u32 = 3;
    let (page, card) = views(gap);
    // The slot, the submission ring's entry and the completion ring's.
    let memory = Memory::<3>::new();
    let there = memory.clone();
    let engine = thread::spawn(move || {
        for done in 0..ROUNDS {
            while Poll::at(&card).tail(&card, STREAM) == done {
                thread::yield_now();
            }
            assert_eq!((there.0[0].get(), there.0[1].get()), (100 + done, 7 + done));
            there.0[2].set(200 + done);
            card::publish_head(&card, STREAM, done, done + 1);
        }
    });
    for round in 0..ROUNDS {
        memory.0[0].set(100 + round);
        memory.0[1].set(7 + round);
        driver::publish_tail(&page, STREAM, round + 1);
        while driver::completion_head(&page, HEAD) == round {
            thread::yield_now();
        }
        assert_eq!(memory.0[2].get(), 200 + round);
    }
    engine.join().expect("the card");
}

#[test]
fn a_slot_is_the_other_sides_only_when_the_index_has_passed_it() {
    check(recycling);
    finds(recycling, Gap::Store(HEAD), RACE);
    finds(recycling, Gap::Load(HEAD), RACE);
    finds(recycling, Gap::Store(TAIL), RACE);
    finds(recycling, Gap::Load(TAIL), RACE);
}

/// The card's lock and the bell in it, as `Link` has them.
#[derive(Clone)]
struct Link(Arc<(Mutex<bool>, Condvar)>);

impl Link {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }
}

/// The driver's bell, as `Card::ring_if_asleep` rings it.
struct Bell {
    link: Link,
    gap: Gap,
    rung: u32,
}

impl Bell {
    fn ring_if_asleep(&mut self, page: &View) {
        let last = if self.gap == Gap::RungNumber { 0 } else { self.rung };
        let sleep = driver::armed_sleep(page);
        if sleep != 0 && sleep != last {
            assert_ne!(sleep, self.rung, "rung twice for one sleep");
            self.rung = sleep;
            // What the trapped write does.
            *self.link.0.0.lock().expect("the lock") = true;
            self.link.0.1.notify_one();
        }
    }
}

/// The engine of a card that has waited long enough to sleep whenever it finds nothing new, until it has seen this tail
/// and grant.
fn doze(page: &View, link: &Link, tail: u32, grant: RefTime) {
    let (mut fetched, mut granted, mut sleeps) = (0, RefTime::ZERO, 0);
    loop {
        let mut rung = link.0.0.lock().expect("the lock");
        *rung = false;
        let poll = Poll::at(page);
        let tail_there = poll.tail(page, STREAM);
        let worked = tail_there != fetched || poll.grant() > granted;
        (fetched, granted) = (tail_there, granted.max(poll.grant()));
        if fetched == tail && granted == grant {
            return;
        }
        if !worked {
            sleeps += 1;
            let poll = card::arm_sleep(page, sleeps);
            if poll.grant() <= granted && poll.tail(page, STREAM) == fetched {
                while !*rung {
                    rung = link.0.1.wait(rung).expect("the lock");
                }
            }
            card::end_sleep(page);
        }
    }
}

/// What the driver publishes.
enum Step {
    Tail(u32),
    Grant(RefTime),
}

/// Exactly 5 and 6: the driver publishes, step after step, while the card falls asleep.
fn wake_up(gap: Gap, steps: &[Step]) {
    let (page, card) = views(gap);
    let link = Link::new();
    let mut bell = Bell { link: link.clone(), gap, rung: 0 };
    let (mut tail, mut grant) = (0, RefTime::ZERO);
    for step in steps {
        match *step {
            Step::Tail(last) => tail = last,
            Step::Grant(last) => grant = last,
        }
    }
    let engine = thread::spawn(move || doze(&card, &link, tail, grant));
    for step in steps {
        match *step {
            Step::Tail(tail) => driver::publish_tail(&page, STREAM, tail),
            Step::Grant(grant) => driver::publish_grant(&page, grant),
        }
        bell.ring_if_asleep(&page);
    }
    engine.join().expect("the card");
}

fn tails_wake(gap: Gap) {
    wake_up(gap, &[Step::Tail(1), Step::Tail(2)]);
}

fn grants_wake(gap: Gap) {
    wake_up(gap, &[Step::Grant(RefTime(1)), Step::Grant(RefTime(2))]);
}

fn a_tail_and_its_grant_wake(gap: Gap) {
    wake_up(gap, &[Step::Tail(1), Step::Grant(RefTime(1))]);
}

#[test]
fn no_tail_is_slept_through() {
    check(tails_wake);
    for gap in [Gap::Fence(Side::Driver), Gap::Fence(Side::Card)] {
        finds(tails_wake, gap, DEADLOCK);
    }
    finds(tails_wake, Gap::RungNumber, "rung twice");
}

#[test]
fn no_grant_is_slept_through() {
    for model in [grants_wake, a_tail_and_its_grant_wake] {
        check(model);
        for gap in [Gap::Fence(Side::Driver), Gap::Fence(Side::Card)] {
            finds(model, gap, DEADLOCK);
        }
    }
}

/// The driver waits for completions, `wanted` at a time, as `RenderStream::wait` does; the card publishes them in these
/// lots.
fn interrupts(gap: Gap, wanted: u32, lots: &'static [u32]) {
    let (page, card) = views(gap);
    let vector = Signal::new();
    let raised = vector.clone();
    let all: u32 = lots.iter().sum();
    let engine = thread::spawn(move || {
        let mut published = 0;
        for lot in lots {
            if card::publish_head(&card, STREAM, published, published + lot) {
                raised.raise();
            }
            published += lot;
        }
    });
    let mut consumed = 0;
    while consumed < all {
        if !driver::await_completions(&page, STREAM, consumed, wanted.min(all - consumed)) {
            vector.wait();
        }
        consumed = driver::completion_head(&page, HEAD);
    }
    engine.join().expect("the card");
}

#[test]
fn no_interrupt_is_lost() {
    let models: [fn(Gap); 3] =
        [|gap| interrupts(gap, 1, &[1, 1]), |gap| interrupts(gap, 1, &[2, 1]), |gap| interrupts(gap, 2, &[1, 1])];
    for model in models {
        check(model);
        for gap in [Gap::Fence(Side::Driver), Gap::Fence(Side::Card)] {
            finds(model, gap, DEADLOCK);
        }
    }
}

/// Exactly 3: every tail that was stored before a grant is seen with it.
fn grants(gap: Gap) {
    let (page, card) = views(gap);
    let engine = thread::spawn(move || {
        for _ in 0..2 {
            let poll = Poll::at(&card);
            let (tail, grant) = (poll.tail(&card, STREAM), poll.grant());
            assert!(i64::from(tail) >= grant.0, "grant {} without its tail: {tail}", grant.0);
        }
    });
    for number in 1..=2 {
        driver::publish_tail(&page, STREAM, number);
        driver::publish_grant(&page, RefTime(i64::from(number)));
    }
    engine.join().expect("the card");
}

#[test]
fn a_grant_comes_with_the_tails_before_it() {
    check(grants);
    finds(grants, Gap::Store(GRANT), "without its tail");
    finds(grants, Gap::Load(GRANT), "without its tail");
}

/// Exactly 4: the driver has asked for no completion's vector, grants, and sleeps until the clock is there; all
/// completions are, too.
fn reaching_a_grant(gap: Gap) {
    const UNTIL: RefTime = RefTime(10);
    let (page, card) = views(gap);
    let (link, vector, completion) = (Link::new(), Signal::new(), Memory::<1>::new());
    let (raised, there) = (vector.clone(), completion.clone());
    let mut bell = Bell { link: link.clone(), gap, rung: 0 };
    let engine = thread::spawn(move || {
        doze(&card, &link, 1, UNTIL);
        there.0[0].set(200);
        if card::publish_head(&card, STREAM, 0, 1) {
            raised.raise();
        }
        card::publish_clocks(&card, 0, UNTIL, UNTIL);
        if gap != Gap::GrantVector {
            raised.raise();
        }
    });
    driver::publish_tail(&page, STREAM, 1);
    assert!(!driver::await_completions(&page, STREAM, 0, 1000));
    driver::publish_grant(&page, UNTIL);
    bell.ring_if_asleep(&page);
    while driver::master_time(&page) < UNTIL {
        vector.wait();
    }
    assert_eq!(driver::completion_head(&page, HEAD), 1, "the clock is there without the completions");
    assert_eq!(completion.0[0].get(), 200);
    engine.join().expect("the card");
}

#[test]
fn reaching_a_grant_wakes_a_driver_that_asked_for_nothing() {
    check(reaching_a_grant);
    finds(reaching_a_grant, Gap::GrantVector, DEADLOCK);
    // The order of the clock's store has no such test: the fence that follows each publication of completions gives it
    // too.
    finds(reaching_a_grant, Gap::Load(MASTER_TIME), "without the completions");
}

/// Exactly 14: who sees a transition answered sees the refusal, and the completions of what it discarded.
fn transition(gap: Gap) {
    let (page, card) = views(gap);
    let engine = thread::spawn(move || {
        card::publish_head(&card, STREAM, 0, 3);
        card::publish_answer(&card, STREAM, 0, 9, 1);
    });
    for _ in 0..2 {
        if let Some(refusal) = driver::answer(&page, STREAM, 1) {
            assert_eq!((refusal, driver::completion_head(&page, HEAD)), (9, 3), "an answer in parts");
        }
    }
    engine.join().expect("the card");
}

#[test]
fn an_answer_comes_with_all_that_it_is_about() {
    check(transition);
    finds(transition, Gap::Store(ANSWERS), "an answer in parts");
    finds(transition, Gap::Load(ANSWERS), "an answer in parts");
}
