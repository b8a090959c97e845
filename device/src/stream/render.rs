//! Rendering a stream: each event that is due is presented at its sample, and the synthesizer renders what is between.
//!
//! Fed by the engine with spans of samples, outside sections; feeds the mix with audio, and the completion queue with
//! what was presented, which the engine publishes afterwards.
//!
//! What a turn presents is bounded. A span is cut short before many events, or before the next one of a stream whose
//! messages may cost much; and what is due at one sample is presented in as many turns as it takes, with no sample
//! between them.

use super::in_flight::{Message, NONE};
use super::{RenderStream, State};
use crate::clock::Now;
use crate::identity::SAMPLE_RATE;
use crate::stats::Stats;
use crate::synth::PERIOD;
use dmus_interface::event::DONT_HOLD;
use dmus_interface::ring::Status;
use dmus_interface::time::{RefTime, SampleTime};
use std::time::{Duration, Instant};

/// What a stream may spend in a turn, in the unit of [`Synth::allow`]: on messages at one sample, and on control ticks.
///
/// [`Synth::allow`]: crate::synth::Synth::allow
const WORK: u64 = 8_000_000;
/// Events that a span may have before its end, in a stream that is light.
const EVENTS: usize = 256;
/// Bytes that a turn may pass on to inputs, and what a message counts besides its own.
const MONITORED: usize = 64 << 10;
const MESSAGE: usize = 64;

/// What the streams presented, with its master times, for inputs that capture it.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    presented: Vec<(RefTime, Box<[u8]>)>,
    bytes: usize,
}

impl Monitor {
    fn push(&mut self, time: RefTime, bytes: Box<[u8]>) {
        self.bytes += bytes.len() + MESSAGE;
        self.presented.push((time, bytes));
    }

    /// Whether it is enough for one turn: other streams have to wait as well, so that all comes in the same order.
    fn is_full(&self) -> bool {
        self.bytes >= MONITORED
    }

    /// Nobody asks for what was presented.
    pub(crate) fn clear(&mut self) {
        self.presented.clear();
        self.bytes = 0;
    }

    /// What was presented, by time.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (RefTime, Box<[u8]>)> {
        self.bytes = 0;
        self.presented.sort_by_key(|(time, _)| *time);
        self.presented.drain(..)
    }
}

/// A submission of many messages, some of which have been presented.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    pub(super) head: u32,
    time: i64,
    /// The slot to go on with.
    pub(super) next: u32,
    /// How many there were before it.
    messages: u32,
}

/// A run of samples to render from where the card is, and how far events are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) now: Now,
    pub(crate) frames: usize,
}

impl RenderStream {
    /// Slots whose events wait for their time.
    #[inline]
    pub(crate) fn held(&self) -> u32 {
        self.in_flight.owned()
    }

    /// Whether an event waits that is due at master time `due` or before.
    #[inline]
    pub(crate) fn is_due(&self, due: RefTime) -> bool {
        if self.state != State::Run {
            return false;
        }
        // DONT_HOLD is the earliest of all times.
        let is_due = |(time, _)| time <= due.saturating_sub(self.timeline.base).0;
        self.under_way.is_some() || self.scheduler.next().is_some_and(is_due)
    }

    /// How many frames may be rendered in one turn from a position on.
    #[inline]
    pub(crate) fn stretch(&self, position: SampleTime) -> u64 {
        // The clock may have to stop at what is captured, too. A chain may be as long as the pool.
        let owned = self.in_flight.owned() as usize;
        let light = self.synth.is_light() && !self.monitored && (owned <= EVENTS || owned == self.scheduler.len());
        let skipped = if light { EVENTS } else { 0 };
        match self.scheduler.time_after(skipped) {
            None if light && self.under_way.is_none() => u64::MAX,
            next => self.short_stretch(next, position),
        }
    }

    #[cold]
    fn short_stretch(&self, next: Option<i64>, position: SampleTime) -> u64 {
        if self.state != State::Run {
            return u64::MAX;
        }
        if self.under_way.is_some() {
            return 0;
        }
        let ticks = (WORK / self.synth.tick_cost().max(1)).max(1);
        let until_next = next.map_or(u64::MAX, |time| self.sample_of(time).0.saturating_sub(position.0));
        until_next.min(ticks.saturating_mul(PERIOD as u64))
    }

    /// The sample at which an event of this time is presented.
    fn sample_of(&self, time: i64) -> SampleTime {
        let master = if time == DONT_HOLD { RefTime::ZERO } else { RefTime(time).saturating_add(self.timeline.base) };
        master.to_sample(SAMPLE_RATE)
    }

    /// Renders the span into the planes, presenting each event that is due by the horizon at its sample. What falls on
    /// the end of the span is presented there, before any sample of the next one; false if that is more than a turn may
    /// take, and some of it is left.
    pub(crate) fn render(
        &mut self,
        span: Span,
        left: &mut [f32],
        right: &mut [f32],
        stats: &Stats,
        monitor: &mut Monitor,
    ) -> bool {
        if self.state != State::Run {
            return true;
        }
        let began = (span.frames > 0).then(Instant::now);
        let Span { now, frames } = span;
        let base = self.timeline.base;
        let due = now.horizon.saturating_sub(base).0;
        // Stream time up to which events belong to the present sample, which is `done` frames into the span.
        let mut sample_end = self.clock.start;
        let (mut done, mut presented) = (0, 0);
        let usual = !self.monitored;
        self.synth.allow(WORK);
        if let Some(part) = self.under_way.take() {
            presented += u64::from(self.present(part, &now, stats, monitor, true));
        }
        let mut all = self.under_way.is_none();
        while all && let Some((time, head)) = self.scheduler.next() {
            if time > due {
                break;
            }
            if time > sample_end {
                let sample = RefTime(time).saturating_add(base).to_sample(SAMPLE_RATE);
                let at = sample.0.saturating_sub(now.position.0);
                if at > frames as u64 {
                    break;
                }
                let at = at as usize;
                self.synth.render(&mut left[done..at], &mut right[done..at]);
                done = at;
                sample_end = sample.to_time(SAMPLE_RATE).saturating_sub(base).0;
            }
            let inline = self.in_flight.inline();
            let (mut slots, buffers) = self.in_flight.split();
            let single = if usual && time != DONT_HOLD { slots.release_single(head, buffers, inline) } else { None };
            if let Some((group, message)) = single {
                self.scheduler.remove(time);
                let enough = self.synth.apply(group, message);
                presented += 1;
                self.clock.complete(&mut self.queues.completions, head, time, 1, stats);
                all = !(enough && done == frames);
            } else {
                let at_end = done == frames;
                all = usual || !(at_end && monitor.is_full());
                if all {
                    self.scheduler.remove(time);
                    let whole = UnderWay { head, time, next: head, messages: 0 };
                    presented += u64::from(self.present(whole, &now, stats, monitor, at_end));
                    all = self.under_way.is_none() && !(at_end && self.synth.is_enough());
                }
            }
        }
        if done < frames {
            self.synth.render(&mut left[done..frames], &mut right[done..frames]);
        }
        if presented > 0 {
            stats.note_presented(presented);
        }
        self.busy += began.map_or(Duration::ZERO, |began| began.elapsed());
        all
    }

    /// Presents a submission of any kind, or what is left of it; of one that is `bounded`, until that is enough for a
    /// turn. Says how many messages.
    #[cold]
    #[inline(never)]
    fn present(&mut self, part: UnderWay, now: &Now, stats: &Stats, monitor: &mut Monitor, bounded: bool) -> u32 {
        let UnderWay { head, time, next, messages } = part;
        let at_once = time == DONT_HOLD;
        let master = match at_once {
            true => now.start.min(now.horizon),
            false => RefTime(time).saturating_add(self.timeline.base),
        };
        // What is captured has a time that the clock has not shown yet.
        let presented_at = master.max(now.passed.saturating_add(RefTime(1)));
        let Self { in_flight, synth, monitored, .. } = self;
        let (presented, next) = in_flight.messages(next, |group, message| {
            if *monitored {
                let bytes = match &message {
                    Message::Short(word, len) => word.to_le_bytes()[..*len].into(),
                    Message::Long(bytes) => (*bytes).into(),
                };
                monitor.push(presented_at, bytes);
            }
            let enough = synth.apply(group, message);
            !(bounded && (enough || *monitored && monitor.is_full()))
        });
        let messages = messages + presented;
        if next != NONE {
            self.under_way = Some(UnderWay { head, time, next, messages });
            return presented;
        }
        self.in_flight.release(head);
        if at_once {
            let time = RefTime(self.clock.start);
            self.queues.completions.complete(head, Status::Presented, 0, time);
        } else {
            self.clock.complete(&mut self.queues.completions, head, time, messages, stats);
        }
        presented
    }
}
