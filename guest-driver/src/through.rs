//! Plays timed messages and takes the audio back: the song goes to the card through a render stream, the PCM comes home through a wave sink.
//!
//! Fed by an iterator of [`TimedMessage`]s in the order of their times; feeds a listener with every period. With the virtual clock the card waits for a
//! slow listener, so that none is lost.

use crate::pending::Pending;
use crate::player::{GLANCE, Played, Watch};
use crate::{DriverError, Platform, RenderStream, WaveStream};
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::TimedMessage;

/// Plays all of `messages` from stream time zero (both streams are in STOP), renders until `end`, and stops. `listener` takes all that is rendered, in order,
/// and may wait for as long as the card waits for it.
///
/// `progress` is told the stream time now and then. Ends when everything is home.
///
/// # Errors
/// The driver's, or the listener's.
pub fn play_through<'m, P: Platform, E: From<DriverError>>(
    stream: &RenderStream<'_, P>,
    wave: &mut WaveStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    mut listener: impl FnMut(&[u8]) -> Result<(), E>,
    mut progress: impl FnMut(RefTime),
) -> Result<Played, E> {
    let allocator = stream.allocator();
    let card = stream.card();
    // The listener first, so that it misses nothing.
    wave.set_state(State::Run)?;
    stream.set_state(State::Run)?;
    let base = stream.time_base();
    let mut messages = messages.map(|message| Pending::new(message.time, 0, message.bytes)).peekable();
    let mut watch = Watch::new(card);
    loop {
        while let Some(pending) = messages.peek_mut() {
            if !pending.send(allocator, |message| stream.put_message(message))? {
                break;
            }
            messages.next();
        }
        stream.flush();
        let next = messages.peek().map(Pending::time);
        card.grant(base.saturating_add(next.unwrap_or(end)));

        let now = card.get_time().saturating_sub(base);
        progress(now);
        drain(wave, &mut listener)?;
        if next.is_none() && now >= end && allocator.in_flight() == 0 {
            break;
        }
        // A period is there more often than half of the pool is home; the reaching of the grant comes on this vector, too.
        wave.wait(GLANCE);
        allocator.reclaim()?;
        watch.look(card, allocator.in_flight())?;
    }
    wave.set_state(State::Pause)?;
    drain(wave, &mut listener)?;
    wave.set_state(State::Stop)?;
    drain(wave, &mut listener)?;
    stream.set_state(State::Stop)?;
    allocator.reclaim()?;
    Ok(Played { counts: allocator.counts(), end })
}

fn drain<P: Platform, E: From<DriverError>>(
    wave: &mut WaveStream<'_, P>,
    listener: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    while let Some(period) = wave.receive()? {
        listener(period.bytes)?;
    }
    Ok(())
}
