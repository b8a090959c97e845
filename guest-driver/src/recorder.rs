//! Records what a capture stream brings, for some time.
//!
//! Fed by a [`CaptureStream`] in STOP; feeds the application with whole messages in the order of their times, and with how much came.

use crate::player::{GLANCE, Watch};
use crate::{CaptureSink, CaptureStream, Card, DriverError, Platform};
use core::ops::ControlFlow;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// What a recording brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Messages, each with all of its bytes.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes that an overrun lost.
    pub lost: u64,
}

/// Runs the stream from stream time zero `until` a later one, and shows each message with its stream time to `message`. Ends in STOP.
///
/// `progress` is told the stream time now and then.
pub fn record<P: Platform>(
    card: &Card<P>,
    stream: &mut CaptureStream<'_, P>,
    until: RefTime,
    message: impl FnMut(RefTime, &[u8]),
    mut progress: impl FnMut(RefTime),
) -> Result<Recorded, DriverError> {
    record_while(card, stream, until, message, |now| {
        progress(now);
        ControlFlow::Continue(())
    })
}

/// As [`record`], but ends early, with what came until then, once `progress` says so. It is asked twice a second or more.
pub fn record_while<P: Platform>(
    card: &Card<P>,
    stream: &mut CaptureStream<'_, P>,
    until: RefTime,
    mut message: impl FnMut(RefTime, &[u8]),
    mut progress: impl FnMut(RefTime) -> ControlFlow<()>,
) -> Result<Recorded, DriverError> {
    let mut recorded = Recorded::default();
    let mut sink = CaptureSink::default();
    let mut position = 0;
    stream.set_state(State::Run)?;
    let base = stream.time_base();
    card.grant(base.saturating_add(until));
    let mut watch = Watch::new(card);
    loop {
        // Before the events: what was due by then is among them.
        let now = card.get_time().saturating_sub(base);
        while let Some(event) = stream.receive()? {
            recorded.lost = recorded.lost.wrapping_add(event.byte_position.wrapping_sub(position));
            position = event.byte_position.wrapping_add(event.bytes.len() as u64);
            sink.put_message(&event, |bytes| {
                recorded.messages += 1;
                recorded.bytes += bytes.len() as u64;
                message(event.time, bytes);
            });
        }
        if progress(now).is_break() || now >= until {
            break;
        }
        stream.wait(GLANCE);
        watch.look(card, recorded.messages as u32)?;
    }
    stream.set_state(State::Stop)?;
    // What came after the end is let go; with it the last slots come home.
    while stream.receive()?.is_some() {}
    Ok(recorded)
}
