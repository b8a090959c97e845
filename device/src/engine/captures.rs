//! What a turn does for capture and wave sink streams: MIDI from the inputs to those that listen, and time that waits for them.
//!
//! Fed by the inputs, and by what render streams presented; feeds the capture streams, whose rings the engine serves as all others.

use super::Core;
use crate::capture::CaptureStream;
use crate::identity::SAMPLE_RATE;
use crate::link::{Link, Shared};
use crate::stream::Stream;
use dmus_interface::time::RefTime;
use parking_lot::MutexGuard;

/// Most messages that a turn takes from the inputs.
const SECTION: usize = 128;

impl Core {
    /// In virtual time the clock visits each thing that is captured, and does not leave it before it has a slot.
    pub(super) fn limit_horizon(&self, horizon: RefTime) -> RefTime {
        if self.captures.is_empty() || !self.clock.is_virtual() {
            horizon
        } else if self.is_stalled() {
            self.horizon
        } else {
            self.inputs.next_time().map_or(horizon, |next| horizon.min(next))
        }
    }

    /// Whether time stands for want of posted slots.
    pub(super) fn is_stalled(&self) -> bool {
        self.clock.is_virtual() && self.captures.iter().any(CaptureStream::is_stalled)
    }

    /// Frames until something is presented that is captured, too, or until a wave sink's period is complete: in virtual time the clock has to be able
    /// to stop there.
    pub(super) fn until_heard(&self) -> u64 {
        if self.captures.is_empty() || !self.clock.is_virtual() {
            return u64::MAX;
        }
        let ahead = |stream: &Stream| Some(stream.next_sample(SAMPLE_RATE)?.0.saturating_sub(self.now.position.0));
        let presented = self.streams.iter().filter_map(ahead);
        presented.chain(self.captures.iter().filter_map(CaptureStream::until_full)).min().unwrap_or(u64::MAX)
    }

    /// Takes from the inputs what is due by now, and gives it to the capture streams. `None` if a reset has made it void.
    pub(super) fn capture<'a>(
        &mut self,
        link: &'a Link,
        mut shared: MutexGuard<'a, Shared>,
        worked: &mut bool,
    ) -> Option<MutexGuard<'a, Shared>> {
        let now = self.master_time();
        let captures = &mut self.captures;
        self.inputs.take_tap(&mut self.tap, |input, time, bytes| {
            captures.iter_mut().for_each(|stream| stream.hear(input, time, bytes));
        });
        // Bounded, as everything in a turn.
        for _ in 0..SECTION {
            if self.is_stalled() {
                break;
            }
            let captures = &mut self.captures;
            let hear = |input, time, bytes: &[u8]| {
                captures.iter_mut().for_each(|stream| stream.hear(input, time, bytes));
            };
            if !self.inputs.take_one(now, hear) {
                break;
            }
            *worked = true;
        }
        if self.has_work() {
            *worked = true;
            shared = self.serve(link, shared)?;
        }
        if !self.clock.is_virtual() {
            for stream in &mut self.captures {
                stream.drop_excess(link, &mut shared);
            }
        }
        Some(shared)
    }
}
