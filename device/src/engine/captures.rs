//! What a turn does for capture and wave sink streams: MIDI from the inputs to those that listen, and time that waits
//! for them.
//!
//! Fed by the inputs, and by what render streams presented; feeds the capture streams.

use super::{Core, Streams};
use crate::capture::CaptureStream;
use crate::capture::inputs::{Inputs, Received};
use crate::shared::Section;
use dmus_interface::time::RefTime;

/// Most messages that a turn takes from the inputs.
const MESSAGES: usize = 128;

/// In virtual time the clock visits each thing that is captured, and does not leave it before it has a slot: how far it
/// may go from `reached` on the way to `due`.
pub(super) fn limit(capture: &[CaptureStream], inputs: &Inputs, reached: RefTime, due: RefTime) -> RefTime {
    match capture.iter().any(CaptureStream::is_stalled) {
        true => reached,
        false => inputs.next_time().map_or(due, |next| due.min(next)),
    }
}

impl Core {
    /// Whether time stands for want of posted slots.
    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.clock.is_virtual() && self.streams.capture.iter().any(CaptureStream::is_stalled)
    }

    /// Frames until a wave sink's period is complete: in virtual time the clock has to be able to stop there.
    pub(super) fn until_captured(&self) -> u64 {
        self.streams.capture.iter().filter_map(CaptureStream::until_full).min().unwrap_or(u64::MAX)
    }

    /// Takes from the inputs what is due by now, and gives it to the capture streams; says whether there was anything.
    /// `None` if a reset has made it void, or memory is away.
    pub(super) fn capture(&mut self, section: &mut Section<'_>) -> Option<bool> {
        let now = self.clock.master_time();
        let is_virtual = self.clock.is_virtual();
        let log = section.shared().replay_log();
        let Streams { capture, inputs, monitor, .. } = &mut self.streams;
        inputs.take_monitored(monitor, |input, time, received| {
            capture.iter_mut().for_each(|stream| stream.receive(input, time, received));
        });
        let mut worked = false;
        // Bounded, as everything in a turn.
        for _ in 0..MESSAGES {
            let stalled = is_virtual && capture.iter().any(CaptureStream::is_stalled);
            let receive = |input, time, received: Received<'_>| {
                capture.iter_mut().for_each(|stream| stream.receive(input, time, received));
            };
            if stalled || !inputs.take_one(now, log, receive) {
                break;
            }
            worked = true;
        }
        if capture.iter().any(CaptureStream::has_work) {
            worked = true;
            if !self.fetch_rest(section) {
                return None;
            }
        }
        if !is_virtual {
            let stats = section.shared().stats();
            for stream in &mut self.streams.capture {
                stream.drop_excess(stats);
                stream.publish(section);
            }
        }
        Some(worked)
    }
}
