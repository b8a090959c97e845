//! A render stream on the card's side: its state, and its own synthesizer, on [`rings`] like those of any stream.
//!
//! Fed by the engine with sections (fetch, publish) and spans of samples (render); feeds the mix, and the completion ring. Between a
//! slot's fetch and its completion the slot belongs to the card.

mod hold;
mod intake;
mod plain;
mod remote;
pub(crate) mod rings;
pub(crate) mod sequencer;

use crate::link::{Link, Shared, StreamConfig};
use crate::stats::Stats;
use crate::synth::Synth;
use dmus_interface::event::DONT_HOLD;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::{RefTime, SampleTime};
use intake::{Intake, Outcome};
pub(crate) use plain::Glance;
use rings::{Rings, Timeline};
use sequencer::Sequencer;
use std::time::{Duration, Instant};

/// Submissions, and completions, that one section handles at most: the transport thread may wait for that long.
pub(crate) const SECTION: usize = 128;

/// What the streams presented, with its master times, for inputs that hear it.
pub(crate) type Tap = Vec<(RefTime, Box<[u8]>)>;

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
    /// What is no later comes too late, for a sample at `start`: the first time that does not is `in_time`, or 0.
    passed: i64,
    in_time: u64,
    start: i64,
}

/// Stream times of which an event is presented as it is fetched: `span` of them, from `from` on. Both of unsigned numbers, so that DONT_HOLD
/// is outside.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    from: u64,
    span: u64,
}

/// What a settled stream presents as it is fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    due: Due,
    /// What is fixed in the first word of a plain event, if that has 8-byte pointers; else what no event has.
    fixed: u64,
    /// Completions when what was presented so was last reported, and the most in a section since.
    reported: u32,
    most: u32,
    /// What is left to do for an event after its completion: raise the vector, and have it heard (channel group, bytes, and how many they are).
    raise: bool,
    heard: Option<(u16, u64, usize)>,
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
    pub(crate) rings: Rings,
    pub(crate) state: State,
    timeline: Timeline,
    clock: StreamClock,
    settled: Settled,
    intake: Intake,
    sequencer: Sequencer<u32>,
    pub(crate) synth: Synth,
    /// Time that rendering has taken since the last change to RUN.
    pub(crate) busy: Duration,
    /// No RUN since the synthesizer was reset.
    silent: bool,
    /// What is presented is also captured.
    tapped: bool,
}

impl Stream {
    pub(crate) fn new(index: usize, config: StreamConfig, synth: Synth, tapped: bool) -> Self {
        let slots = config.slots as usize;
        Self {
            rings: Rings::new(index, config),
            state: State::Stop,
            timeline: Timeline::default(),
            clock: StreamClock::default(),
            settled: Settled::default(),
            intake: Intake::new(config, synth.groups()),
            sequencer: Sequencer::with_capacity(slots),
            synth,
            busy: Duration::ZERO,
            silent: true,
            tapped,
        }
    }

    /// Changes the state at a master time, before the sample at the position is rendered; what STOP discards is completed by the
    /// following publications.
    pub(crate) fn set_state(&mut self, state: State, master: RefTime, now: &Now, stats: &Stats) {
        self.timeline.change(self.state, state, master);
        self.state = state;
        match state {
            State::Run => {
                self.busy = Duration::ZERO;
                self.synth.forget_statistics();
                if std::mem::take(&mut self.silent) {
                    self.synth.seek(now.position.0);
                }
            }
            State::Stop => {
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
        let stream_time = |master: RefTime| master.saturating_sub(self.timeline.base).0;
        let passed = stream_time(now.passed);
        self.clock = StreamClock {
            reached: match self.state {
                // What the inputs hear must not be presented at once: the sequencer has all of it.
                State::Run if !self.tapped => stream_time(now.reached).saturating_add(1).max(0) as u64,
                _ => 0,
            },
            passed,
            in_time: passed.saturating_add(1).max(0) as u64,
            start: stream_time(now.start),
        };
    }

    /// What may be presented as it is fetched.
    #[inline]
    fn due(&self) -> Due {
        // What would overtake a completion that waits to be written, or an event that is held, has to wait, too.
        let reached = if self.rings.completions.is_empty() { self.clock.reached } else { 0 };
        let due = self.sequencer.next_time().map_or(reached, |next| reached.min(next.max(0) as u64));
        Due { from: self.clock.in_time, span: due.saturating_sub(self.clock.in_time) }
    }

    /// Until [`Stream::report`], nothing but [`Stream::present_one`] and [`Stream::serve_due`] touches the rings.
    pub(crate) fn settle_down(&mut self) {
        let plain = !self.rings.broken && self.intake.is_idle();
        let due = if plain { self.due() } else { Due::default() };
        let fixed = plain::fixed(self.rings.config.width);
        self.settled = Settled { due, fixed, reported: self.rings.written, ..Settled::default() };
    }

    /// Reports what was presented since the stream settled, or since the last report.
    pub(crate) fn report(&mut self, stats: &Stats) {
        let messages =
            self.rings.written.wrapping_sub(std::mem::replace(&mut self.settled.reported, self.rings.written));
        stats.present_at_once(messages.into(), std::mem::take(&mut self.settled.most).max(1));
    }

    /// Master time less stream time, as the register shows it.
    pub(crate) fn time_base(&self) -> RefTime {
        self.timeline.base
    }

    /// Whether an event waits that is due at master time `due` or before.
    #[inline]
    pub(crate) fn is_due(&self, due: RefTime) -> bool {
        let time = self.sequencer.next_time().filter(|_| self.state == State::Run);
        time.is_some_and(|time| time == DONT_HOLD || RefTime(time).saturating_add(self.timeline.base) <= due)
    }

    /// The sample at which the next event is presented, of those that are captured, too.
    pub(crate) fn next_sample(&self, rate: u32) -> Option<SampleTime> {
        let time = self.sequencer.next_time().filter(|_| self.tapped && self.state == State::Run)?;
        let master = if time == DONT_HOLD { RefTime::ZERO } else { RefTime(time).saturating_add(self.timeline.base) };
        Some(master.to_sample(rate))
    }

    /// A section: fetches and publishes some; call while there is [`Rings::has_work`]. What is due already is presented at once.
    #[inline]
    pub(crate) fn serve(&mut self, link: &Link, shared: &mut Shared) {
        self.intake.hold.begin_section();
        if !self.rings.completions.is_empty() {
            self.rings.write_completions(link, shared);
        }
        let mut left = SECTION as u32;
        while left > 0 && self.rings.fetched != self.rings.tail && !self.rings.broken {
            let fetched = self.rings.fetched;
            self.fetch_plain(link, shared, left);
            if self.rings.fetched == fetched {
                self.fetch_one(link, shared);
                self.rings.write_completions(link, shared);
            }
            left = left.saturating_sub(self.rings.fetched.wrapping_sub(fetched));
        }
        if self.rings.written != self.rings.published {
            self.rings.publish(link, shared);
        }
    }

    /// Fetches one submission, whatever it is.
    #[cold]
    fn fetch_one(&mut self, link: &Link, shared: &mut Shared) {
        if let Some(head) = self.rings.fetch_head(link, shared) {
            self.take(link, shared, head);
        }
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
                link.fault(shared, fault, self.rings.detail(head));
                return;
            }
        };
        for _ in 0..self.intake.take_abandoned() {
            link.stats.rejected.add(1);
            link.fault(shared, Fault::UnfinishedMessage, self.rings.detail(head));
        }
        match outcome {
            Outcome::Accepted { time } => {
                let taken = u64::from(self.intake.hold.owned - owned);
                link.stats.take_slots(taken);
                if self.state == State::Stop {
                    self.discard(head, &link.stats);
                } else {
                    // DONT_HOLD comes before everything that has a time.
                    self.sequencer.push(if time & DONT_HOLD != 0 { DONT_HOLD } else { time }, head);
                }
            }
            Outcome::Copied => self.rings.complete(head, Status::Copied, 0, RefTime::ZERO),
            Outcome::Rejected { reason, messages } => {
                link.stats.rejected.add(u64::from(messages));
                tracing::debug!(stream = self.rings.index, slot = head, "rejected: {reason}");
                self.reject(head, reason);
            }
        }
    }

    fn reject(&mut self, head: u32, reason: Reject) {
        self.rings.complete(head, Status::Rejected, reason as u16, RefTime::ZERO);
    }

    fn discard(&mut self, head: u32, stats: &Stats) {
        stats.discarded.add(u64::from(self.intake.hold.messages(head, |_, _| {})));
        self.let_go(head, stats);
        self.rings.complete(head, Status::Discarded, 0, RefTime::ZERO);
    }

    fn let_go(&mut self, head: u32, stats: &Stats) {
        let owned = self.intake.hold.owned;
        self.intake.hold.release(head);
        stats.in_flight.sub(u64::from(owned - self.intake.hold.owned));
    }

    /// Renders the span into the planes, applying each due event at its sample. With no frames: applies what is due at its start.
    pub(crate) fn render(&mut self, span: Span, left: &mut [f32], right: &mut [f32], stats: &Stats, tap: &mut Tap) {
        if self.state != State::Run {
            return;
        }
        let began = (span.frames > 0).then(Instant::now);
        let now = span.now;
        let mut done = 0;
        while let Some(time) = self.sequencer.next_time() {
            let at_once = time == DONT_HOLD;
            let master =
                if at_once { now.start.min(span.due) } else { RefTime(time).saturating_add(self.timeline.base) };
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
            let messages = self.intake.hold.messages(head, |group, bytes| {
                synth.message(group, bytes);
                if self.tapped {
                    tap.push((master.max(now.passed.saturating_add(RefTime(1))), bytes.into()));
                }
            });
            stats.note_presented(u64::from(messages));
            self.let_go(head, stats);
            if master <= now.passed && !at_once {
                let late = now.start.saturating_sub(master);
                stats.note_late(u64::from(messages), late);
                self.rings.complete(head, Status::Late, 0, late);
            } else {
                let time = if at_once { now.start.saturating_sub(self.timeline.base) } else { RefTime(time) };
                self.rings.complete(head, Status::Presented, 0, time);
            }
        }
        if done < span.frames {
            self.synth.render(&mut left[done..span.frames], &mut right[done..span.frames]);
        }
        self.busy += began.map_or(Duration::ZERO, |began| began.elapsed());
    }

    /// Has so many channel groups; what waits for those that are gone is not heard.
    pub(crate) fn set_groups(&mut self, groups: u16) {
        self.intake.channel_groups = groups;
        self.synth.set_groups(groups);
    }

    /// Gives up everything at once, as a reset does: nothing is published.
    pub(crate) fn abandon(self, stats: &Stats) -> Synth {
        stats.in_flight.sub(u64::from(self.intake.hold.owned));
        self.synth
    }
}
