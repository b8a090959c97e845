//! Guest memory that moves under a playing card, page by page, as behind a vIOMMU: every page of the pool, the buffers
//! and both rings is unmapped, copied to another place of the file and mapped again, in maps of any length.
//!
//! Fed by a seed; feeds the card through a [`RawStream`] whose memory is here. What a page leaves behind is filled with
//! a decoy: memory that is as good as the real one, but means something else. Whoever reads it gives a completion that
//! was never asked for, and whoever writes it is found out.

mod pages;

use crate::loopback::Loopback;
use crate::raw::{Completed, RawStream, STRIDE};
use anyhow::{Context, ensure};
use dmus_card::stats::Stats;
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, PointerWidth};
use dmus_interface::regs::{Fault, stream};
use dmus_interface::ring::{COMPLETION_SIZE, Reject, SUBMISSION_SIZE, Status};
use pages::{FRAMES, Pages, address};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

const SLOTS: usize = 1024;
/// Slots from here on are only what decoys of the submission ring name.
const DECOY_SLOTS: usize = 1000;
const BUFFER_COUNT: usize = 48;
const BUFFER_SIZE: usize = 1000;
const RING: usize = 2048;
/// Bytes from the first page to each area: they share pages with their neighbours.
const BUFFERS: usize = SLOTS * STRIDE as usize + 8;
const SUBMISSIONS: usize = BUFFERS + BUFFER_COUNT * BUFFER_SIZE;
const COMPLETIONS: usize = (SUBMISSIONS + RING * SUBMISSION_SIZE).next_multiple_of(16);
const PAGES: usize = (COMPLETIONS + RING * COMPLETION_SIZE).div_ceil(PAGE);

/// How long the card may take for a round.
const LIMIT: Duration = Duration::from_secs(60);

/// What came of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Submissions presented, each as the memory of its time had it.
    pub presented: usize,
    /// Submissions refused because a page was gone.
    pub refused: usize,
    /// Streams that ended because a page of a ring was gone.
    pub faults: usize,
    /// Maps made.
    pub maps: usize,
}

/// One submission of a round.
struct Submission {
    /// Time of its events.
    time: i64,
    /// The pages that hold its events and their data.
    pages: BTreeSet<usize>,
    /// Whether a buffer of it holds no message.
    bad: bool,
}

/// See the module.
pub struct Remapping<'p> {
    platform: &'p Loopback,
    stats: Arc<Stats>,
    stream: RawStream<'p, Loopback>,
    pages: Pages<'p>,
    now: i64,
    tail: u32,
    consumed: u32,
    tally: Tally,
}

impl<'p> Remapping<'p> {
    /// Takes all memory of the platform, maps the pages and begins to play.
    pub fn new(platform: &'p Loopback, stats: Arc<Stats>, seed: u64) -> anyhow::Result<Self> {
        let pages = Pages::new(platform, Arc::clone(&stats), seed)?;
        let mut this = Self {
            platform,
            stats,
            stream: RawStream::prepare(platform, PointerWidth::Eight)?,
            pages,
            now: 0,
            tail: 0,
            consumed: 0,
            tally: Tally::default(),
        };
        this.begin()?;
        for slot in 0..SLOTS {
            this.put_event(slot, this.stream.inline(1, &[0xB0, 7, 1]));
        }
        Ok(this)
    }

    /// Resets the card and creates the stream anew: then, and only then, every page must be there.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.pages.map_holes(0)?;
        self.platform.ram.restart();
        self.platform.dma_alloc(FRAMES * PAGE, PAGE)?;
        self.stream = RawStream::prepare(self.platform, PointerWidth::Eight)?;
        self.stream.write64(stream::POOL_BASE, address(0));
        self.stream.write64(stream::BUFFER_BASE, address(BUFFERS));
        self.stream.write64(stream::SUBMISSION_BASE, address(SUBMISSIONS));
        self.stream.write64(stream::COMPLETION_BASE, address(COMPLETIONS));
        for (register, value) in [
            (stream::SLOT_COUNT, SLOTS),
            (stream::SLOT_STRIDE, STRIDE as usize),
            (stream::BUFFER_SIZE, BUFFER_SIZE),
            (stream::BUFFER_COUNT, BUFFER_COUNT),
            (stream::SUBMISSION_SIZE, RING),
            (stream::COMPLETION_SIZE, RING),
        ] {
            self.stream.write(register, value as u32);
        }
        self.stream.create()?;
        self.stream.set_state(stream::State::Run)?;
        (self.now, self.tail, self.consumed) = (0, 0, 0);
        Ok(())
    }

    /// Plays `rounds` rounds, and looks at all that was left behind.
    pub fn run(mut self, rounds: usize) -> anyhow::Result<Tally> {
        for round in 0..rounds {
            self.round().with_context(|| format!("round {round}"))?;
        }
        self.pages.forget_all()?;
        Ok(Tally { maps: self.pages.made, ..self.tally })
    }

    /// Submits events, moves memory before the card looks at them or while it does, and judges every completion.
    fn round(&mut self) -> anyhow::Result<()> {
        let until = self.now + 4000 + self.pages.below(60_000) as i64;
        let submissions = self.write_events(until);
        let count = submissions.len() as u32;
        let published = self.tail;
        let moves = self.pages.below(6) as u32;
        let racing = self.pages.below(2) == 0;
        if !racing {
            for _ in 0..moves {
                self.pages.remap()?;
            }
        }
        // Gone all the time, and gone at some time, from the first publication on.
        let mut gone = self.pages.holes();
        let mut touched = gone.clone();
        if racing {
            // Either the fetching takes as long as the moving, or the rendering and the completions do.
            let fetching = self.pages.below(2) == 0;
            for step in 1..=moves {
                match fetching {
                    true => self.stream.publish_tail(published + count * step / moves),
                    false => {
                        self.stream.publish_tail(published + count);
                        self.stream.grant(self.now + (until - self.now) * i64::from(step) / i64::from(moves));
                    }
                }
                for _ in 0..self.pages.below(2000) {
                    std::hint::spin_loop();
                }
                touched.extend(self.pages.remap()?);
                let holes = self.pages.holes();
                gone.retain(|page| holes.contains(page));
                touched.extend(holes);
            }
        }
        self.tail = published.wrapping_add(count);
        self.stream.publish_tail(self.tail);
        self.stream.grant(until);
        let ring = (0..count).flat_map(|i| {
            let submission = SUBMISSIONS + entry(published, i) * SUBMISSION_SIZE;
            let completion = COMPLETIONS + entry(self.consumed, i) * COMPLETION_SIZE;
            [submission / PAGE, completion / PAGE]
        });
        let ring = ring.collect();
        let broken = self.judge(submissions, &gone, &touched, &ring)?;
        self.pages.expect_unwritten()?;
        if broken {
            self.tally.faults += 1;
            return self.begin();
        }
        self.stream.reach(until)?;
        self.now = until;
        let in_flight = self.stats.in_flight.get();
        ensure!(in_flight == 0, "the card keeps {in_flight} slots");
        Ok(())
    }

    /// Fills slots, buffers and ring entries for a round. The submissions by the slots of their heads.
    fn write_events(&mut self, until: i64) -> BTreeMap<usize, Submission> {
        let count = [1, 10, 100, 600][self.pages.below(4)];
        let mut slots: Vec<usize> = (0..DECOY_SLOTS).collect();
        let mut buffers: Vec<usize> = (0..BUFFER_COUNT).collect();
        let mut submissions = BTreeMap::new();
        for i in 0..count {
            // Even: the times of decoys are odd.
            let time = (self.now + 1000 + self.pages.below((until - self.now - 2000) as usize) as i64) & !1;
            let mut submission = Submission { time, pages: BTreeSet::new(), bad: false };
            let length = [1, 1, 1, 2, 3][self.pages.below(5)];
            if slots.len() < length {
                break;
            }
            let chain: Vec<usize> = (0..length).map(|_| slots.swap_remove(self.pages.below(slots.len()))).collect();
            for (member, &slot) in chain.iter().enumerate() {
                let mut event = match (self.pages.below(3), buffers.len()) {
                    (0, left @ 1..) => {
                        let buffer = buffers.swap_remove(self.pages.below(left));
                        self.write_long(buffer, time, &mut submission)
                    }
                    _ => self.stream.inline(time, &[0xB0, 7, slot as u8 & 0x7F]),
                };
                event.next = chain.get(member + 1).map_or(0, |next| address(slot_at(*next)));
                self.put_event(slot, event);
                submission.pages.extend(pages(slot_at(slot), STRIDE as usize));
            }
            let place = SUBMISSIONS + entry(self.tail, i) * SUBMISSION_SIZE;
            let decoy = DECOY_SLOTS + self.pages.below(SLOTS - DECOY_SLOTS);
            self.pages.put(place, &(chain[0] as u32).to_le_bytes(), &(decoy as u32).to_le_bytes());
            submissions.insert(chain[0], submission);
        }
        submissions
    }

    /// An event with its data in a buffer: a message or not, and the decoy the other way round.
    fn write_long(&mut self, buffer: usize, time: i64, submission: &mut Submission) -> Event {
        let place = BUFFERS + buffer * BUFFER_SIZE;
        let bytes = 9 + self.pages.below(BUFFER_SIZE - 8);
        let mut message = vec![0x7D; bytes];
        (message[0], message[bytes - 1]) = (0xF0, 0xF7);
        let mut other = message.clone();
        // Anywhere, so that every page of it counts.
        other[1 + self.pages.below(bytes - 1)] = 0xF1;
        let bad = self.pages.below(2) == 0;
        submission.bad |= bad;
        submission.pages.extend(pages(place, bytes));
        match bad {
            true => self.pages.put(place, &other, &message),
            false => self.pages.put(place, &message, &other),
        }
        self.stream.event(time, bytes as u16, Data::Buffer(address(place)))
    }

    fn put_event(&mut self, slot: usize, event: Event) {
        let (real, len) = event.encode(PointerWidth::Eight);
        let (decoy, _) = Event { time: event.time + 1, ..event }.encode(PointerWidth::Eight);
        self.pages.put(slot_at(slot), &real[..len], &decoy[..len]);
    }

    /// Takes the completions of a round, each of which must be what memory said at the time; says whether the stream
    /// ended on a ring's page that was gone.
    fn judge(
        &mut self,
        mut submissions: BTreeMap<usize, Submission>,
        gone: &BTreeSet<usize>,
        touched: &BTreeSet<usize>,
        ring: &BTreeSet<usize>,
    ) -> anyhow::Result<bool> {
        let deadline = Instant::now() + LIMIT;
        let mut fault = None;
        loop {
            let head = self.stream.word(doorbell::COMPLETION_HEAD);
            ensure!(head.wrapping_sub(self.consumed) as usize <= submissions.len(), "{head} completions");
            while self.consumed != head {
                let place = COMPLETIONS + entry(self.consumed, 0) * COMPLETION_SIZE;
                ensure!(!gone.contains(&(place / PAGE)), "a completion in a page that is gone");
                let mut bytes = [0; COMPLETION_SIZE];
                self.pages.read(place, &mut bytes);
                let done = Completed::decode(&bytes)?;
                self.consumed = self.consumed.wrapping_add(1);
                let slot = done.slot as usize;
                let submission = submissions.remove(&slot);
                let submission = submission.with_context(|| format!("slot {slot} was not submitted: {done:?}"))?;
                self.judge_one(&submission, done, gone, touched).with_context(|| format!("slot {slot}: {done:?}"))?;
            }
            if submissions.is_empty() || fault.is_some() {
                break;
            }
            ensure!(Instant::now() < deadline, "{} completions are missing", submissions.len());
            fault = self.stream.take_fault();
        }
        match fault.or_else(|| self.stream.take_fault()) {
            None => {
                ensure!(ring.is_disjoint(gone), "no fault, though a page of a ring is gone");
                Ok(false)
            }
            Some(Fault::RingFault) => {
                ensure!(!ring.is_disjoint(touched), "a ring fault, though all its pages are there");
                Ok(true)
            }
            Some(other) => anyhow::bail!("{other}"),
        }
    }

    fn judge_one(
        &mut self,
        submission: &Submission,
        done: Completed,
        gone: &BTreeSet<usize>,
        touched: &BTreeSet<usize>,
    ) -> anyhow::Result<()> {
        match (done.status, done.reason) {
            (Status::Presented, None) => {
                ensure!(submission.pages.is_disjoint(gone), "its memory is gone");
                ensure!(!submission.bad, "its buffer holds no message");
                ensure!(done.time == submission.time, "its time is {}", submission.time);
                self.tally.presented += 1;
            }
            (Status::Rejected, Some(Reject::NotMapped)) => {
                ensure!(!submission.pages.is_disjoint(touched), "all its memory is there");
                self.tally.refused += 1;
            }
            (Status::Rejected, Some(Reject::BadMessage)) => ensure!(submission.bad, "its buffers hold messages"),
            _ => anyhow::bail!("neither presented nor rightly refused"),
        }
        Ok(())
    }
}

fn slot_at(slot: usize) -> usize {
    slot * STRIDE as usize
}

/// The entry of a ring that is `i` after an index.
fn entry(index: u32, i: u32) -> usize {
    index.wrapping_add(i) as usize % RING
}

/// Pages that a range touches.
fn pages(at: usize, len: usize) -> std::ops::RangeInclusive<usize> {
    at / PAGE..=(at + len - 1) / PAGE
}
