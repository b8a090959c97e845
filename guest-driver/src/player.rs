//! Plays timed messages through a render stream whose pool may be far smaller than the song.
//!
//! Fed by an iterator of [`TimedMessage`]s in the order of their times; feeds a [`RenderStream`]. It fills the pool, grants
//! time up to the first message that did not fit, and goes on when half of the pool is home: recycling is what makes it play.

use crate::pending::Pending;
use crate::{Card, Counts, DriverError, Platform, RenderStream};
use core::ops::ControlFlow;
use core::time::Duration;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::TimedMessage;

/// How long neither time nor completions may stand still before the card counts as hung.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How often a waiting player looks at the clock.
pub(crate) const GLANCE: Duration = Duration::from_millis(500);

/// How a song went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Played {
    /// Messages by how they ended.
    pub counts: Counts,
    /// Stream time at the end.
    pub end: RefTime,
}

/// Plays all of `messages` from stream time zero (the stream is in STOP), renders until `end`, and stops.
///
/// `progress` is told the stream time now and then. Ends when everything is home.
pub fn play<'m, P: Platform>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    mut progress: impl FnMut(RefTime),
) -> Result<Played, DriverError> {
    play_while(stream, messages, end, |now| {
        progress(now);
        ControlFlow::Continue(())
    })
}

/// As [`play`], but ends early, with what is held discarded, once `progress` says so. It is asked twice a second or more.
pub fn play_while<'m, P: Platform>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    mut progress: impl FnMut(RefTime) -> ControlFlow<()>,
) -> Result<Played, DriverError> {
    let allocator = stream.allocator();
    let card = stream.card();
    stream.set_state(State::Run)?;
    let base = stream.time_base();
    let mut messages = messages.map(|message| Pending::new(message.time, 0, message.bytes)).peekable();
    let mut watch = Watch::new(card);
    loop {
        while let Some(pending) = messages.peek_mut() {
            if !pending.play(stream)? {
                break;
            }
            messages.next();
        }
        stream.flush();
        let next = messages.peek().map(Pending::time);
        card.grant(base.saturating_add(next.unwrap_or(end)));

        let now = card.get_time().saturating_sub(base);
        if progress(now).is_break() || next.is_none() && now >= end && allocator.in_flight() == 0 {
            break;
        }
        // While messages wait for slots, half of the pool is worth an interrupt; at the end, all of it is.
        let in_flight = allocator.in_flight();
        let wanted = if next.is_some() { in_flight.div_ceil(2) } else { in_flight };
        stream.wait(wanted, GLANCE);
        allocator.reclaim()?;
        watch.look(card, allocator.in_flight())?;
    }
    stream.set_state(State::Stop)?;
    allocator.reclaim()?;
    Ok(Played { counts: allocator.counts(), end })
}

/// Notices a card that stands still: neither its time moves nor a number that says how far things are.
pub(crate) struct Watch {
    seen: (RefTime, u32),
    since: Duration,
}

impl Watch {
    pub(crate) fn new<P: Platform>(card: &Card<P>) -> Self {
        Self { seen: (RefTime::ZERO, 0), since: card.platform().now() }
    }

    pub(crate) fn look<P: Platform>(&mut self, card: &Card<P>, count: u32) -> Result<(), DriverError> {
        let seen = (card.get_time(), count);
        let now = card.platform().now();
        if seen != self.seen {
            *self = Self { seen, since: now };
        } else if now.saturating_sub(self.since) > STALL_LIMIT {
            return Err(DriverError::TimedOut(STALL_LIMIT));
        }
        Ok(())
    }
}
