//! Guest memory that moves under a playing card, page by page, as behind a vIOMMU: every page of the pool, the buffers
//! and both rings is unmapped, copied to another place of the file and mapped again, in maps of any length.
//!
//! Fed by a seed; feeds the card through a [`RawStream`] whose memory is here. What a page leaves behind is filled with
//! a decoy: memory that is as good as the real one, but means something else. Whoever reads it gives a completion that
//! was never asked for, and whoever writes it is found out.

use crate::loopback::Loopback;
use crate::raw::{Completed, RawStream, STRIDE};
use crate::soak::Random;
use anyhow::{Context, ensure};
use dmus_card::stats::Stats;
use dmus_driver::Platform;
use dmus_driver::dma::SharedMemory;
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, PointerWidth};
use dmus_interface::regs::{Fault, stream};
use dmus_interface::ring::{COMPLETION_SIZE, Reject, SUBMISSION_SIZE, Status};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
/// Where the card sees the first page.
const IOVA: u64 = 0x7F_0000_0000;

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

/// Pages of the file that may stand behind these.
const FRAMES: usize = 4096;
/// Frames left behind that are watched at once.
const WATCHED: usize = 128;
/// What decoys of the completion ring are filled with.
const PATTERN: u8 = 0xC5;
/// How long the card may take for a round.
const LIMIT: Duration = Duration::from_secs(10);

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
    /// All frames.
    memory: SharedMemory,
    /// Frame of each page.
    frames: [usize; PAGES],
    /// What is mapped: first page to number of pages.
    maps: BTreeMap<usize, usize>,
    /// What the pages hold, as far as it is not the card's to write.
    real: Vec<u8>,
    /// What their places are filled with when they have moved away.
    decoy: Vec<u8>,
    used: Vec<bool>,
    left_behind: VecDeque<(usize, Vec<u8>)>,
    random: Random,
    now: i64,
    tail: u32,
    consumed: u32,
    tally: Tally,
}

impl<'p> Remapping<'p> {
    /// Takes all memory of the platform, maps the pages and begins to play.
    pub fn new(platform: &'p Loopback, stats: Arc<Stats>, seed: u64) -> anyhow::Result<Self> {
        platform.unmap();
        let memory = platform.dma_alloc(FRAMES * PAGE, PAGE)?.memory;
        let mut this = Self {
            platform,
            stats,
            stream: RawStream::prepare(platform, PointerWidth::Eight)?,
            memory,
            frames: std::array::from_fn(|page| page),
            maps: BTreeMap::new(),
            real: vec![0; PAGES * PAGE],
            decoy: vec![PATTERN; PAGES * PAGE],
            used: (0..FRAMES).map(|frame| frame < PAGES).collect(),
            left_behind: VecDeque::new(),
            random: Random(seed | 1),
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
        self.map_holes(0)?;
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
        while !self.left_behind.is_empty() {
            self.forget_one()?;
        }
        Ok(self.tally)
    }

    /// Submits events, moves memory before the card looks at them or while it does, and judges every completion.
    fn round(&mut self) -> anyhow::Result<()> {
        let until = self.now + 4000 + self.below(60_000) as i64;
        let submissions = self.write_events(until);
        let count = submissions.len() as u32;
        let published = self.tail;
        let moves = self.below(6) as u32;
        let racing = self.below(2) == 0;
        if !racing {
            for _ in 0..moves {
                self.move_something()?;
            }
        }
        // Gone all the time, and gone at some time, from the first publication on.
        let mut gone = self.holes();
        let mut touched = gone.clone();
        if racing {
            // Either the fetching takes as long as the moving, or the rendering and the completions do.
            let fetching = self.below(2) == 0;
            for step in 1..=moves {
                match fetching {
                    true => self.stream.publish_tail(published + count * step / moves),
                    false => {
                        self.stream.publish_tail(published + count);
                        self.stream.grant(self.now + (until - self.now) * i64::from(step) / i64::from(moves));
                    }
                }
                for _ in 0..self.below(2000) {
                    std::hint::spin_loop();
                }
                touched.extend(self.move_something()?);
                let holes = self.holes();
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
        self.expect_unwritten()?;
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
        let count = [1, 10, 100, 600][self.below(4)];
        let mut slots: Vec<usize> = (0..DECOY_SLOTS).collect();
        let mut buffers: Vec<usize> = (0..BUFFER_COUNT).collect();
        let mut submissions = BTreeMap::new();
        for i in 0..count {
            // Even: the times of decoys are odd.
            let time = (self.now + 1000 + self.below((until - self.now - 2000) as usize) as i64) & !1;
            let mut submission = Submission { time, pages: BTreeSet::new(), bad: false };
            let length = [1, 1, 1, 2, 3][self.below(5)];
            if slots.len() < length {
                break;
            }
            let chain: Vec<usize> = (0..length).map(|_| slots.swap_remove(self.below(slots.len()))).collect();
            for (member, &slot) in chain.iter().enumerate() {
                let mut event = match (self.below(3), buffers.len()) {
                    (0, left @ 1..) => {
                        let buffer = buffers.swap_remove(self.below(left));
                        self.write_long(buffer, time, &mut submission)
                    }
                    _ => self.stream.inline(time, &[0xB0, 7, slot as u8 & 0x7F]),
                };
                event.next = chain.get(member + 1).map_or(0, |next| address(slot_at(*next)));
                self.put_event(slot, event);
                submission.pages.extend(pages(slot_at(slot), STRIDE as usize));
            }
            let place = SUBMISSIONS + entry(self.tail, i) * SUBMISSION_SIZE;
            let decoy = DECOY_SLOTS + self.below(SLOTS - DECOY_SLOTS);
            self.put(place, &(chain[0] as u32).to_le_bytes(), &(decoy as u32).to_le_bytes());
            submissions.insert(chain[0], submission);
        }
        submissions
    }

    /// An event with its data in a buffer: a message or not, and the decoy the other way round.
    fn write_long(&mut self, buffer: usize, time: i64, submission: &mut Submission) -> Event {
        let place = BUFFERS + buffer * BUFFER_SIZE;
        let bytes = 9 + self.below(BUFFER_SIZE - 8);
        let mut message = vec![0x7D; bytes];
        (message[0], message[bytes - 1]) = (0xF0, 0xF7);
        let mut other = message.clone();
        // Anywhere, so that every page of it counts.
        other[1 + self.below(bytes - 1)] = 0xF1;
        let bad = self.below(2) == 0;
        submission.bad |= bad;
        submission.pages.extend(pages(place, bytes));
        match bad {
            true => self.put(place, &other, &message),
            false => self.put(place, &message, &other),
        }
        self.stream.event(time, bytes as u16, Data::Buffer(address(place)))
    }

    fn put_event(&mut self, slot: usize, event: Event) {
        let (real, len) = event.encode(PointerWidth::Eight);
        let (decoy, _) = Event { time: event.time + 1, ..event }.encode(PointerWidth::Eight);
        self.put(slot_at(slot), &real[..len], &decoy[..len]);
    }

    /// Writes where the pages are now, mapped or not.
    fn put(&mut self, at: usize, real: &[u8], decoy: &[u8]) {
        self.decoy[at..at + decoy.len()].copy_from_slice(decoy);
        self.real[at..at + real.len()].copy_from_slice(real);
        let mut done = 0;
        while done < real.len() {
            let (page, offset) = ((at + done) / PAGE, (at + done) % PAGE);
            let piece = (real.len() - done).min(PAGE - offset);
            self.memory.write(self.frames[page] * PAGE + offset, &real[done..done + piece]);
            done += piece;
        }
    }

    /// Pages that are not mapped.
    fn holes(&self) -> BTreeSet<usize> {
        let mapped = |page: &usize| self.maps.iter().any(|(first, len)| (*first..first + len).contains(page));
        (0..PAGES).filter(|page| !mapped(page)).collect()
    }

    /// Unmaps a map or all, or maps holes, or both. Gives the pages that were unmapped.
    fn move_something(&mut self) -> anyhow::Result<BTreeSet<usize>> {
        let what = self.below(8);
        let unmapped: BTreeSet<usize> = match what {
            // As a vIOMMU that is switched off says it.
            0 => {
                let mapped = self.maps.iter().flat_map(|(&first, &len)| first..first + len).collect();
                self.platform.unmap_range(0, 1 << 47);
                self.maps.clear();
                mapped
            }
            1..6 if !self.maps.is_empty() => {
                let which = self.below(self.maps.len());
                let (&first, &len) = self.maps.iter().nth(which).context("no map")?;
                self.platform.unmap_range(address(first * PAGE), (len * PAGE) as u64);
                self.maps.remove(&first);
                (first..first + len).collect()
            }
            _ => BTreeSet::new(),
        };
        // What the card has written so far is part of the page. From here on it writes no more.
        for page in &unmapped {
            let written = (page * PAGE).max(COMPLETIONS)..(page + 1) * PAGE;
            if !written.is_empty() {
                let place = self.frames[*page] * PAGE + written.start % PAGE;
                self.memory.read(place, &mut self.real[written]);
            }
        }
        let leave = 2 + self.below(8);
        match what {
            0 => self.map_holes(leave)?,
            3.. => self.map_holes(0)?,
            _ => {}
        }
        Ok(unmapped)
    }

    /// Maps what is not mapped, as much as possible at once or in small maps; one of `leave` stays out, if that is not
    /// 0.
    fn map_holes(&mut self, leave: usize) -> anyhow::Result<()> {
        let most = [1, 4, PAGES][self.below(3)];
        let holes: Vec<usize> = self.holes().into_iter().collect();
        for row in holes.chunk_by(|page, next| page + 1 == *next) {
            let mut row = row;
            while let Some(&page) = row.first() {
                let len = if most == PAGES { row.len() } else { 1 + self.below(row.len().min(most)) };
                row = &row[len..];
                if leave == 0 || self.below(leave) != 0 {
                    self.map(page, len)?;
                }
            }
        }
        Ok(())
    }

    /// Maps pages: where they are, or where they are copied to.
    fn map(&mut self, first: usize, len: usize) -> anyhow::Result<()> {
        let in_row = (first..first + len).all(|page| self.frames[page] == self.frames[first] + page - first);
        if !in_row || self.below(4) != 0 {
            let place = loop {
                let place = self.below(FRAMES - len);
                match self.used[place..place + len].contains(&true) {
                    true if self.left_behind.is_empty() => {}
                    true => self.forget_one()?,
                    false => break place,
                }
            };
            for page in first..first + len {
                self.leave(page, place + page - first)?;
            }
        }
        let before = self.stats.maps.get();
        let offset = self.frames[first] * PAGE;
        self.platform.map_range(address(first * PAGE), (len * PAGE) as u64, offset as u64);
        ensure!(self.stats.maps.get() == before + 1, "the card refused a map of {len} pages at page {first}");
        self.tally.maps += 1;
        self.maps.insert(first, len);
        Ok(())
    }

    /// Moves a page that is not mapped, and leaves a decoy behind.
    fn leave(&mut self, page: usize, frame: usize) -> anyhow::Result<()> {
        let old = std::mem::replace(&mut self.frames[page], frame);
        let bytes = page * PAGE..(page + 1) * PAGE;
        self.expect(old, &self.real[bytes.clone()])?;
        self.memory.write(frame * PAGE, &self.real[bytes.clone()]);
        self.memory.write(old * PAGE, &self.decoy[bytes.clone()]);
        self.used[frame] = true;
        self.left_behind.push_back((old, self.decoy[bytes].to_vec()));
        if self.left_behind.len() > WATCHED {
            self.forget_one()?;
        }
        Ok(())
    }

    /// Frees the frame that was left first, which must be as it was left.
    fn forget_one(&mut self) -> anyhow::Result<()> {
        let (frame, decoy) = self.left_behind.pop_front().context("nothing was left behind")?;
        self.expect(frame, &decoy)?;
        self.used[frame] = false;
        Ok(())
    }

    /// The card has not written where it may not.
    fn expect(&self, frame: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let mut found = vec![0; bytes.len()];
        self.memory.read(frame * PAGE, &mut found);
        let changed = found.iter().zip(bytes).position(|(a, b)| a != b);
        ensure!(changed.is_none(), "the card wrote to byte {changed:?} of memory that is not its own to write");
        Ok(())
    }

    /// Pages that are gone, and all but the completion ring, are as the driver wrote them.
    fn expect_unwritten(&self) -> anyhow::Result<()> {
        let holes = self.holes();
        for page in 0..PAGES {
            let written = if holes.contains(&page) { PAGES * PAGE } else { COMPLETIONS };
            let end = written.clamp(page * PAGE, (page + 1) * PAGE);
            self.expect(self.frames[page], &self.real[page * PAGE..end]).with_context(|| format!("page {page}"))?;
        }
        Ok(())
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
                self.memory.read(self.frames[place / PAGE] * PAGE + place % PAGE, &mut bytes);
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

    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }
}

/// The address of a place, as the card sees it.
fn address(at: usize) -> u64 {
    IOVA + at as u64
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
