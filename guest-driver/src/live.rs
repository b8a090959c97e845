//! Plays timed messages as a sequencer does that knows the future no further than some latency: each is put into the pool so long before its time.
//!
//! Fed by an iterator of [`TimedMessage`]s in the order of their times, and by the card's clock, which must not be a virtual one; feeds a [`RenderStream`].

use crate::pending::Pending;
use crate::player::{GLANCE, Played, Watch};
use crate::{DriverError, Platform, RenderStream};
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::TimedMessage;

/// Plays all of `messages` from `latency` after stream time zero on (the stream is in STOP), and stops `end` after that. A message whose time has come before
/// it could be put plays late, and is counted so.
///
/// `progress` is told the stream time now and then. Ends when everything is home.
pub fn play_live<'m, P: Platform>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    latency: RefTime,
    mut progress: impl FnMut(RefTime),
) -> Result<Played, DriverError> {
    let allocator = stream.allocator();
    let card = stream.card();
    stream.set_state(State::Run)?;
    let base = stream.time_base();
    let end = end.saturating_add(latency);
    let messages = messages.map(|message| Pending::new(message.time.saturating_add(latency), 0, message.bytes));
    let mut messages = messages.peekable();
    let mut watch = Watch::new(card);
    loop {
        let now = card.get_time().saturating_sub(base);
        allocator.reclaim()?;
        while let Some(pending) = messages.next_if(|pending| pending.time().saturating_sub(latency) <= now) {
            let mut pending = pending;
            if !pending.send(allocator, |message| stream.put_message(message))? {
                return Err(DriverError::NoMessage);
            }
        }
        stream.flush();
        progress(now);
        // The alarm: when the next message is to be put.
        let next = messages.peek().map(|pending| pending.time().saturating_sub(latency));
        card.grant(base.saturating_add(next.unwrap_or(end)));
        if next.is_none() && now >= end && allocator.in_flight() == 0 {
            break;
        }
        if next.is_none_or(|next| next > now) {
            stream.wait(u32::MAX, GLANCE);
        }
        watch.look(card, allocator.in_flight())?;
    }
    stream.set_state(State::Stop)?;
    allocator.reclaim()?;
    Ok(Played { counts: allocator.counts(), end })
}
