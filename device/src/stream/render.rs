//! Rendering a stream: each event that is due is presented at its sample, and the synthesizer renders what is between.
//!
//! Fed by the engine with spans of samples, outside sections; feeds the mix with audio, and the completion queue with
//! what was presented, which the engine publishes afterwards.

use super::in_flight::Message;
use super::{RenderStream, State};
use crate::clock::Now;
use crate::identity::SAMPLE_RATE;
use crate::stats::Stats;
use dmus_interface::event::DONT_HOLD;
use dmus_interface::ring::Status;
use dmus_interface::time::{RefTime, SampleTime};
use std::time::{Duration, Instant};

/// What the streams presented, with its master times, for inputs that capture it.
pub(crate) type Monitor = Vec<(RefTime, Box<[u8]>)>;

/// A run of samples to render from where the card is, and how far events are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) now: Now,
    pub(crate) frames: usize,
}

impl RenderStream {
    /// Whether an event waits for its time.
    #[inline]
    pub(crate) fn has_held(&self) -> bool {
        !self.scheduler.is_empty()
    }

    /// Whether an event waits that is due at master time `due` or before.
    #[inline]
    pub(crate) fn is_due(&self, due: RefTime) -> bool {
        let next = self.scheduler.next().filter(|_| self.state == State::Run);
        // DONT_HOLD is the earliest of all times.
        next.is_some_and(|(time, _)| time <= due.saturating_sub(self.timeline.base).0)
    }

    /// The sample at which the next event is presented that is captured, too.
    pub(crate) fn next_monitored(&self) -> Option<SampleTime> {
        let (time, _) = self.scheduler.next().filter(|_| self.monitored && self.state == State::Run)?;
        let master = if time == DONT_HOLD { RefTime::ZERO } else { RefTime(time).saturating_add(self.timeline.base) };
        Some(master.to_sample(SAMPLE_RATE))
    }

    /// Renders the span into the planes, presenting each event that is due by the horizon at its sample. What falls on
    /// the end of the span is presented there, before any sample of the next one.
    pub(crate) fn render(
        &mut self,
        span: Span,
        left: &mut [f32],
        right: &mut [f32],
        stats: &Stats,
        monitor: &mut Monitor,
    ) {
        if self.state != State::Run {
            return;
        }
        let began = (span.frames > 0).then(Instant::now);
        let Span { now, frames } = span;
        let base = self.timeline.base;
        let due = now.horizon.saturating_sub(base).0;
        // Stream time up to which events belong to the present sample, which is `done` frames into the span.
        let mut sample_end = self.clock.start;
        let (mut done, mut presented) = (0, 0);
        let usual = !self.monitored;
        while let Some((time, head)) = self.scheduler.next() {
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
            self.scheduler.remove(time);
            let inline = self.in_flight.inline();
            let (mut slots, buffers) = self.in_flight.split();
            let lone = if usual && time != DONT_HOLD { slots.release_lone(head, buffers, inline) } else { None };
            if let Some((group, message)) = lone {
                self.synth.hear(group, message);
                presented += 1;
                self.clock.complete(&mut self.queues.completions, head, time, 1, stats);
            } else {
                presented += u64::from(self.present(head, time, &now, stats, monitor));
            }
        }
        if done < frames {
            self.synth.render(&mut left[done..frames], &mut right[done..frames]);
        }
        if presented > 0 {
            stats.note_presented(presented);
        }
        self.busy += began.map_or(Duration::ZERO, |began| began.elapsed());
    }

    /// Presents a submission of any kind; says how many messages it has.
    #[cold]
    #[inline(never)]
    fn present(&mut self, head: u32, time: i64, now: &Now, stats: &Stats, monitor: &mut Monitor) -> u32 {
        let at_once = time == DONT_HOLD;
        let master = match at_once {
            true => now.start.min(now.horizon),
            false => RefTime(time).saturating_add(self.timeline.base),
        };
        // What is captured has a time that the clock has not shown yet.
        let heard_at = master.max(now.passed.saturating_add(RefTime(1)));
        let Self { in_flight, synth, monitored, .. } = self;
        let messages = in_flight.messages(head, |group, message| {
            if *monitored {
                let bytes = match &message {
                    Message::Short(word, len) => word.to_le_bytes()[..*len].into(),
                    Message::Long(bytes) => (*bytes).into(),
                };
                monitor.push((heard_at, bytes));
            }
            synth.hear(group, message);
        });
        self.in_flight.release(head);
        if at_once {
            let time = RefTime(self.clock.start);
            self.queues.completions.complete(head, Status::Presented, 0, time);
        } else {
            self.clock.complete(&mut self.queues.completions, head, time, messages, stats);
        }
        messages
    }
}
