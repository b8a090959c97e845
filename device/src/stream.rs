//! A render stream on the card's side: its rings, its state, and its own synthesizer.
//!
//! Fed by the engine with sections (fetch, publish) and spans of samples (render); feeds the mix, and the completion ring. Between a
//! slot's fetch and its completion the slot belongs to the card.

mod hold;
mod intake;
mod plain;
mod remote;
pub(crate) mod sequencer;

use crate::dma::Windows;
use crate::link::{Guest, Link, Shared, StreamConfig};
use crate::stats::Stats;
use crate::synth::Synth;
use dmus_interface::event::DONT_HOLD;
use dmus_interface::protocol::card::{self, Look};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{COMPLETION_SIZE, Completion, Reject, SUBMISSION_SIZE, Status};
use dmus_interface::time::{RefTime, SampleTime};
use intake::{Intake, Outcome};
use sequencer::Sequencer;
use std::collections::VecDeque;
use std::time::Instant;

/// Submissions, and completions, that one section handles at most: the transport thread may wait for that long.
const SECTION: usize = 128;

/// How far the card is, between two spans of samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The next sample to render.
    pub(crate) position: SampleTime,
    /// The latest master time of that sample, and of the one before it: what is no later than `passed` comes too late.
    start: RefTime,
    passed: RefTime,
    /// Master time up to which every event that was here has been presented.
    pub(crate) reached: RefTime,
}

impl Now {
    /// Before sample `position`, with everything up to `horizon` presented that has its sample before or there.
    pub(crate) fn at(position: SampleTime, horizon: RefTime, rate: u32) -> Self {
        let start = position.to_time(rate);
        let passed = match position.0.checked_sub(1) {
            Some(before) => SampleTime(before).to_time(rate),
            None => RefTime(i64::MIN),
        };
        Self { position, start, passed, reached: horizon.min(start) }
    }

    /// The latest master time of the next sample.
    #[inline]
    pub(crate) fn position_time(&self) -> RefTime {
        self.start
    }
}

/// What [`Now`] is in a stream's own time.
#[derive(Clone, Copy, Debug, Default)]
struct StreamClock {
    /// Times below it have been reached; 0 outside RUN.
    reached: u64,
    /// What is no later comes too late, for a sample at `start`.
    passed: i64,
    start: i64,
}

/// A run of samples to render, and how far events are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) now: Now,
    pub(crate) frames: usize,
    /// Master time up to which every event is due.
    pub(crate) due: RefTime,
    pub(crate) rate: u32,
}

/// See the module.
pub(crate) struct Stream {
    pub(crate) index: usize,
    config: StreamConfig,
    /// Pool, buffers, submission ring and completion ring.
    windows: Windows,
    pub(crate) state: State,
    /// Stream time while not in RUN.
    stopped_at: RefTime,
    /// Master time less stream time while in RUN.
    base: RefTime,
    clock: StreamClock,
    intake: Intake,
    sequencer: Sequencer<u32>,
    pub(crate) synth: Synth,
    /// No RUN since the synthesizer was reset.
    silent: bool,
    /// Submissions fetched, and the tail up to which to fetch, both wrapping.
    fetched: u32,
    tail: u32,
    /// Completions written to the ring, and those of them that are published, both wrapping.
    written: u32,
    published: u32,
    /// Entries that wait to be written.
    completions: VecDeque<[u64; 2]>,
    /// A ring could not be accessed, or was overrun: the stream stands still until it is closed.
    broken: bool,
    /// Since when a ring is away, while the client may be moving it.
    away: Option<Instant>,
}

impl Stream {
    pub(crate) fn new(index: usize, config: StreamConfig, synth: Synth) -> Self {
        let slots = config.slots as usize;
        Self {
            index,
            config,
            windows: Windows::STALE,
            state: State::Stop,
            stopped_at: RefTime::ZERO,
            base: RefTime::ZERO,
            clock: StreamClock::default(),
            intake: Intake::new(config, synth.groups()),
            sequencer: Sequencer::with_capacity(slots),
            synth,
            silent: true,
            fetched: 0,
            tail: 0,
            written: 0,
            published: 0,
            completions: VecDeque::with_capacity(slots),
            broken: false,
            away: None,
        }
    }

    /// Changes the state at a master time, before the sample at the position is rendered; what STOP discards is completed by the
    /// following publications.
    pub(crate) fn set_state(&mut self, state: State, master: RefTime, now: &Now, stats: &Stats) {
        if self.state == State::Run {
            self.stopped_at = master.saturating_sub(self.base);
        }
        self.state = state;
        match state {
            State::Run => {
                self.base = master.saturating_sub(self.stopped_at);
                if std::mem::take(&mut self.silent) {
                    self.synth.seek(now.position.0);
                }
            }
            State::Stop => {
                self.stopped_at = RefTime::ZERO;
                self.base = RefTime::ZERO;
                self.synth.reset();
                self.silent = true;
                self.intake.abandon_assembly();
                while let Some((_, head)) = self.sequencer.pop() {
                    self.discard(head, stats);
                }
            }
            State::Acquire | State::Pause => {}
        }
        self.look_at_clock(now);
    }

    /// Time has moved, or what it means to this stream.
    pub(crate) fn look_at_clock(&mut self, now: &Now) {
        let stream_time = |master: RefTime| master.saturating_sub(self.base).0;
        self.clock = StreamClock {
            reached: match self.state {
                State::Run => stream_time(now.reached).saturating_add(1).max(0) as u64,
                _ => 0,
            },
            passed: stream_time(now.passed),
            start: stream_time(now.start),
        };
    }

    /// Master time less stream time, as the register shows it.
    pub(crate) fn time_base(&self) -> RefTime {
        self.base
    }

    /// Looks at the submission tail.
    #[inline]
    pub(crate) fn look_at_tail(&mut self, look: Look, link: &Link, shared: &mut Shared) {
        if self.broken {
            return;
        }
        let tail = look.tail(&shared.page, self.index);
        if tail.wrapping_sub(self.fetched) > self.config.submission_entries {
            link.fault(shared, Fault::TailOverrun, self.detail(tail));
            self.broken = true;
            return;
        }
        self.tail = tail;
    }

    /// Whether the driver has submitted more since the last look.
    pub(crate) fn tail_moved(&self, look: Look, shared: &Shared) -> bool {
        !self.broken && look.tail(&shared.page, self.index) != self.fetched
    }

    /// Whether there are submissions to fetch or completions to publish.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.broken && (self.fetched != self.tail || !self.completions.is_empty())
    }

    /// Whether an event waits that is due at master time `due` or before.
    #[inline]
    pub(crate) fn is_due(&self, due: RefTime) -> bool {
        let time = self.sequencer.next_time().filter(|_| self.state == State::Run);
        time.is_some_and(|time| time == DONT_HOLD || RefTime(time).saturating_add(self.base) <= due)
    }

    /// Whether a part of the stream is in memory that the client does not share: [`Self::serve_remote`] then takes the place of
    /// [`Self::serve`].
    #[inline]
    pub(crate) fn is_remote(&mut self, shared: &Shared) -> bool {
        if shared.memory.is_stale(&self.windows) {
            self.windows = shared.translate(&self.config.layout());
            self.away = None;
        }
        self.windows.is_remote()
    }

    /// Whether a ring is away, but may come back: [`Self::serve`] has to wait.
    #[inline]
    pub(crate) fn is_away(&mut self, link: &Link, shared: &Shared) -> bool {
        match self.windows.is_whole() {
            true => false,
            false => self.look_for_rings(link, shared),
        }
    }

    #[cold]
    fn look_for_rings(&mut self, link: &Link, shared: &Shared) -> bool {
        let rings = [
            (self.config.submission_base, self.config.submission_entries, SUBMISSION_SIZE, false),
            (self.config.completion_base, self.config.completion_entries, COMPLETION_SIZE, true),
        ];
        let here = |(iova, entries, size, write)| shared.memory.covers(iova, u64::from(entries) * size as u64, write);
        if rings.into_iter().all(here) {
            self.away = None;
            return false;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        link.is_remapping(since)
    }

    /// A section: fetches and publishes some; call while [`Self::has_work`]. What is due already is presented at once.
    #[inline]
    pub(crate) fn serve(&mut self, link: &Link, shared: &mut Shared) {
        self.intake.hold.begin_section();
        if !self.completions.is_empty() {
            self.write_completions(link, shared);
        }
        let mut left = SECTION as u32;
        while left > 0 && self.fetched != self.tail && !self.broken {
            let fetched = self.fetched;
            self.fetch_plain(link, shared, left);
            if self.fetched == fetched {
                self.fetch_one(link, shared);
                self.write_completions(link, shared);
            }
            left = left.saturating_sub(self.fetched.wrapping_sub(fetched));
        }
        if self.written != self.published {
            self.publish(link, shared);
        }
    }

    /// Fetches one submission, whatever it is.
    #[cold]
    fn fetch_one(&mut self, link: &Link, shared: &mut Shared) {
        let entry = self.fetched & (self.config.submission_entries - 1);
        let mut head = [0; SUBMISSION_SIZE];
        if shared.read(self.config.submission_base + u64::from(entry) * SUBMISSION_SIZE as u64, &mut head).is_err() {
            self.fail(link, shared, entry);
            return;
        }
        self.fetched = self.fetched.wrapping_add(1);
        self.take(link, shared, u32::from_le_bytes(head));
    }

    /// A ring is not there: the stream stands still.
    fn fail(&mut self, link: &Link, shared: &mut Shared, entry: u32) {
        link.fault(shared, Fault::RingFault, self.detail(entry));
        self.broken = true;
        self.completions.clear();
    }

    fn take(&mut self, link: &Link, shared: &mut Shared, head: u32) {
        let owned = self.intake.hold.owned;
        let taken = self.intake.take(shared, head);
        self.settle(link, shared, head, taken, owned);
    }

    /// What follows from the intake's answer to a submission; `owned` slots were the card's before.
    fn settle(&mut self, link: &Link, shared: &mut Shared, head: u32, taken: Result<Outcome, Fault>, owned: u32) {
        let outcome = match taken {
            Ok(outcome) => outcome,
            Err(fault) => {
                link.fault(shared, fault, self.detail(head));
                return;
            }
        };
        for _ in 0..self.intake.take_abandoned() {
            link.stats.rejected.add(1);
            link.fault(shared, Fault::UnfinishedMessage, self.detail(head));
        }
        match outcome {
            Outcome::Accepted { time } => {
                let taken = u64::from(self.intake.hold.owned - owned);
                link.stats.take_slots(taken, taken);
                if self.state == State::Stop {
                    self.discard(head, &link.stats);
                } else {
                    // DONT_HOLD comes before everything that has a time.
                    self.sequencer.push(if time & DONT_HOLD != 0 { DONT_HOLD } else { time }, head);
                }
            }
            Outcome::Copied => self.complete(head, Status::Copied, 0, RefTime::ZERO),
            Outcome::Rejected { reason, messages } => {
                link.stats.rejected.add(u64::from(messages));
                tracing::debug!(stream = self.index, slot = head, "rejected: {reason}");
                self.reject(head, reason);
            }
        }
    }

    fn reject(&mut self, head: u32, reason: Reject) {
        self.complete(head, Status::Rejected, reason as u16, RefTime::ZERO);
    }

    fn discard(&mut self, head: u32, stats: &Stats) {
        stats.discarded.add(u64::from(self.intake.hold.messages(head, |_, _| {})));
        self.let_go(head, stats);
        self.complete(head, Status::Discarded, 0, RefTime::ZERO);
    }

    fn let_go(&mut self, head: u32, stats: &Stats) {
        let owned = self.intake.hold.owned;
        self.intake.hold.release(head);
        stats.in_flight.sub(u64::from(owned - self.intake.hold.owned));
    }

    fn complete(&mut self, head: u32, status: Status, flags: u16, time: RefTime) {
        self.completions.push_back(Completion::words(head, status, flags, time.0));
    }

    /// Renders the span into the planes, applying each due event at its sample. With no frames: applies what is due at its start.
    pub(crate) fn render(&mut self, span: Span, left: &mut [f32], right: &mut [f32], stats: &Stats) {
        if self.state != State::Run {
            return;
        }
        let now = span.now;
        let mut done = 0;
        while let Some(time) = self.sequencer.next_time() {
            let at_once = time == DONT_HOLD;
            let master = if at_once { now.start.min(span.due) } else { RefTime(time).saturating_add(self.base) };
            if master > span.due {
                break;
            }
            let ahead = match master <= now.start {
                true => 0,
                false => master.to_sample(span.rate).0.saturating_sub(now.position.0),
            };
            // At the end of the span is before any sample there: the same as at the start of the next one.
            if ahead > span.frames as u64 {
                break;
            }
            let Some((_, head)) = self.sequencer.pop() else {
                break;
            };
            let at = ahead as usize;
            if at > done {
                self.synth.render(&mut left[done..at], &mut right[done..at]);
                done = at;
            }
            let synth = &mut self.synth;
            let messages = self.intake.hold.messages(head, |group, bytes| synth.message(group, bytes));
            stats.note_presented(u64::from(messages));
            self.let_go(head, stats);
            if master <= now.passed && !at_once {
                stats.late.add(u64::from(messages));
                self.complete(head, Status::Late, 0, now.start.saturating_sub(master));
            } else {
                let time = if at_once { now.start.saturating_sub(self.base) } else { RefTime(time) };
                self.complete(head, Status::Presented, 0, time);
            }
        }
        if done < span.frames {
            self.synth.render(&mut left[done..span.frames], &mut right[done..span.frames]);
        }
    }

    /// Writes some completions to the ring.
    fn write_completions(&mut self, link: &Link, shared: &mut Shared) {
        for _ in 0..SECTION {
            let Some(words) = self.completions.pop_front() else {
                return;
            };
            let entry = self.written & (self.config.completion_entries - 1);
            let iova = self.config.completion_base + u64::from(entry) * COMPLETION_SIZE as u64;
            if shared.write(iova, words.map(u64::to_le_bytes).as_flattened()).is_err() {
                self.fail(link, shared, entry);
                return;
            }
            self.written = self.written.wrapping_add(1);
        }
    }

    /// Publishes what is written, and raises the vector when the driver asked for one of these completions.
    #[inline]
    fn publish(&mut self, link: &Link, shared: &Shared) {
        let old = self.published;
        self.published = self.written;
        if card::publish_head(&shared.page, self.index, old, self.published) {
            link.raise(shared, self.index as u16);
        }
    }

    /// Gives up everything at once, as a reset does: nothing is published.
    pub(crate) fn abandon(self, stats: &Stats) -> Synth {
        stats.in_flight.sub(u64::from(self.intake.hold.owned));
        self.synth
    }

    /// What a fault was about: the stream, and a number in it.
    fn detail(&self, number: u32) -> u32 {
        (self.index as u32) << 16 | number & 0xFFFF
    }
}
