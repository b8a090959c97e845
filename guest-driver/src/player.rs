//! Plays timed messages, records, and does both at once: one loop, which moves a pool's worth in a turn and asks to go
//! on after each.
//!
//! Fed by an iterator of [`TimedMessage`]s in the order of their times, through a pool that may be far smaller than the
//! song, or by a [`CaptureStream`]; feeds a [`RenderStream`], or the application with messages or audio.

use crate::fragments::Fragments;
use crate::{CaptureSink, CaptureStream, Card, Counts, DriverError, Platform, RenderStream, WaveStream};
use alloc::vec;
use core::ops::ControlFlow;
use core::time::Duration;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::TimedMessage;

/// How long neither time nor completions may stand still before the card counts as hung.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// Longest sleep of a turn.
const TURN_LIMIT: Duration = Duration::from_millis(500);

/// How a song went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Played {
    /// Messages by how they ended.
    pub counts: Counts,
    /// Stream time at the end.
    pub end: RefTime,
}

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

/// What the closure answers that is told the stream time, twice a second or more: nothing, or whether to go on.
pub trait Progress {
    /// Whether to end early.
    fn ends(self) -> bool;
}

impl Progress for () {
    fn ends(self) -> bool {
        false
    }
}

impl Progress for ControlFlow<()> {
    fn ends(self) -> bool {
        self.is_break()
    }
}

/// Plays all of `messages` from stream time zero (the stream is in STOP), renders until `end`, and stops.
///
/// It fills the pool, grants time up to the first message that did not fit, and goes on when half of the pool is
/// completed. `progress` is told the stream time; when it ends playing early, what is held is discarded. Everything is
/// completed on return.
pub fn play<'m, P: Platform, R: Progress>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    progress: impl FnMut(RefTime) -> R,
) -> Result<Played, DriverError> {
    play_ahead(stream, messages, end, None, progress)
}

/// As [`play`], but as a sequencer does that knows the future no further than `latency`: each message is put into the
/// pool so long before its time. All times are later by `latency`, the end too. A message whose time has come before it
/// could be put plays late, and is counted so. The card's clock must not be a virtual one.
pub fn play_live<'m, P: Platform, R: Progress>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    latency: RefTime,
    progress: impl FnMut(RefTime) -> R,
) -> Result<Played, DriverError> {
    let messages = messages.map(|message| TimedMessage { time: message.time.saturating_add(latency), ..message });
    play_ahead(stream, messages, end.saturating_add(latency), Some(latency), progress)
}

fn play_ahead<'m, P: Platform, R: Progress>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    latency: Option<RefTime>,
    progress: impl FnMut(RefTime) -> R,
) -> Result<Played, DriverError> {
    let turn = feed(stream, messages, latency);
    stream.set_state(State::Run)?;
    let wait = |turn: &Turn| stream.wait(turn.completions, TURN_LIMIT);
    run(stream.card(), stream.time_base(), end, turn, wait, progress)?;
    stream.set_state(State::Stop)?;
    stream.allocator().settle()?;
    Ok(Played { counts: stream.allocator().counts(), end })
}

/// As [`play`], and takes the audio back through a wave sink in STOP. `listener` takes all that is rendered, in order;
/// with the virtual clock the card waits for a slow listener, so that none is lost.
///
/// # Errors
/// The driver's, or the listener's.
pub fn play_through<'m, P: Platform, E: From<DriverError>, R: Progress>(
    stream: &RenderStream<'_, P>,
    wave: &WaveStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    end: RefTime,
    mut listener: impl FnMut(&[u8]) -> Result<(), E>,
    progress: impl FnMut(RefTime) -> R,
) -> Result<Played, E> {
    let mut memory = vec![0; usize::from(u16::MAX)];
    let (mut next, loses_none) = (0, stream.card().has_virtual_clock());
    // Bounded by the pool, however fast the card fills what is posted again.
    let mut take_periods = || {
        for _ in 0..wave.slots() {
            let Some(period) = wave.receive()? else {
                break;
            };
            let position = period.byte_position();
            check_order(position, next, loses_none)?;
            next = position.wrapping_add(period.event_bytes().into());
            let len = period.read(0, &mut memory);
            listener(&memory[..len])?;
        }
        Ok::<_, E>(())
    };
    let mut put = feed(stream, messages, None);
    // What an earlier STOP has discarded is none of this run; bounded, for nothing is posted in STOP.
    while wave.receive()?.is_some() {}
    let discarded = wave.discarded();
    // The wave sink first, so that it misses nothing.
    wave.set_state(State::Run)?;
    stream.set_state(State::Run)?;
    let turn = |now| {
        let turn = put(now)?;
        take_periods()?;
        Ok::<_, E>(turn)
    };
    // A period is there more often than half of the pool is completed; that the grant is reached comes on this vector,
    // too.
    run(stream.card(), stream.time_base(), end, turn, |_| wave.wait(TURN_LIMIT), progress)?;
    check_discarded(wave.discarded(), discarded)?;
    for state in [State::Pause, State::Stop] {
        wave.set_state(state)?;
        take_periods()?;
    }
    wave.settle()?;
    stream.set_state(State::Stop)?;
    stream.allocator().settle().map_err(E::from)?;
    Ok(Played { counts: stream.allocator().counts(), end })
}

/// Runs the stream (in STOP) from stream time zero `until` a later one, and shows each message with its stream time to
/// `message`. Ends in STOP.
///
/// `progress` is told the stream time; when it ends recording early, what came until then counts.
pub fn record<P: Platform, R: Progress>(
    card: &Card<P>,
    stream: &CaptureStream<'_, P>,
    until: RefTime,
    mut message: impl FnMut(RefTime, &[u8]),
    mut progress: impl FnMut(RefTime) -> R,
) -> Result<Recorded, DriverError> {
    let mut recorded = Recorded::default();
    let mut sink = CaptureSink::default();
    let (mut position, mut events) = (0, 0u32);
    // What an earlier STOP has discarded is none of this run; bounded, for nothing is posted in STOP.
    while stream.receive()?.is_some() {}
    let discarded = stream.discarded();
    stream.set_state(State::Run)?;
    let turn = |_| {
        // What was due when the time was read is in the slots that were posted by then.
        for _ in 0..stream.slots() {
            let Some(event) = stream.receive()? else {
                break;
            };
            check_order(event.byte_position(), position, false)?;
            recorded.lost = recorded.lost.wrapping_add(event.byte_position().wrapping_sub(position));
            position = event.byte_position().wrapping_add(event.event_bytes().into());
            events = events.wrapping_add(1);
            sink.put_message(&event, |bytes| {
                recorded.messages += 1;
                recorded.bytes += bytes.len() as u64;
                message(event.time(), bytes);
            });
        }
        Ok::<_, DriverError>(Turn { next: None, in_flight: 0, completions: 1, count: events })
    };
    let mut last = RefTime::ZERO;
    let progress = |now| {
        last = now;
        progress(now)
    };
    run(card, stream.time_base(), until, turn, |_| stream.wait(TURN_LIMIT), progress)?;
    check_discarded(stream.discarded(), discarded)?;
    stream.set_state(State::Stop)?;
    // What came after the end is dropped; bounded, for nothing is posted in STOP. What was due before the end was there
    // by then.
    while let Some(event) = stream.receive()? {
        let (position, expected) = (event.byte_position(), position);
        check_order(position, expected, false)?;
        if card.has_virtual_clock() && event.time() < last {
            return Err(DriverError::OutOfOrder { position, expected });
        }
    }
    stream.settle()?;
    Ok(recorded)
}

/// What is captured follows on what was, with a gap only where something may be lost.
fn check_order(position: u64, expected: u64, loses_none: bool) -> Result<(), DriverError> {
    if position < expected || loses_none && position != expected {
        return Err(DriverError::OutOfOrder { position, expected });
    }
    Ok(())
}

/// Nothing that was posted comes back as discarded while a stream runs.
fn check_discarded(now: u64, before: u64) -> Result<(), DriverError> {
    match now.wrapping_sub(before) {
        0 => Ok(()),
        slots => Err(DriverError::DiscardedInRun(slots)),
    }
}

/// What a turn has left.
struct Turn {
    /// When there is more to put: everything before this stream time is put.
    next: Option<RefTime>,
    /// Submissions that the end waits for.
    in_flight: u32,
    /// Completions that are worth waking up for.
    completions: u32,
    /// A number that changes while something moves.
    count: u32,
}

/// The loop of players and recorders. `turn` moves a bounded number of messages and is told the stream time as it was
/// before; then time is granted as far as messages are put. Ends at `end` with nothing left, or when `progress` says
/// so.
fn run<P: Platform, E: From<DriverError>, R: Progress>(
    card: &Card<P>,
    base: RefTime,
    end: RefTime,
    mut turn: impl FnMut(RefTime) -> Result<Turn, E>,
    wait: impl Fn(&Turn) -> bool,
    mut progress: impl FnMut(RefTime) -> R,
) -> Result<(), E> {
    let mut watch = Watch::new(card);
    loop {
        let now = card.get_time();
        card.check_clock(now)?;
        let now = now.saturating_sub(base);
        let turn = turn(now)?;
        card.grant(base.saturating_add(turn.next.unwrap_or(end)));
        let is_over = turn.next.is_none() && now >= end && turn.in_flight == 0;
        if progress(now).ends() || is_over {
            return Ok(());
        }
        wait(&turn);
        watch.check(card, base.saturating_add(end), turn.count)?;
    }
}

/// Gives messages to a render stream in turns, as far as the pool has room: those due within `latency`, or all of them.
fn feed<'m, P: Platform>(
    stream: &RenderStream<'_, P>,
    messages: impl Iterator<Item = TimedMessage<'m>>,
    latency: Option<RefTime>,
) -> impl FnMut(RefTime) -> Result<Turn, DriverError> {
    let mut messages = messages.map(|message| Fragments::new(message.time, message.group, message.bytes)).peekable();
    move |now| {
        let allocator = stream.allocator();
        allocator.reclaim()?;
        let horizon = latency.map_or(RefTime(i64::MAX), |latency| now.saturating_add(latency));
        for _ in 0..allocator.slots() {
            let Some(message) = messages.peek_mut().filter(|message| message.time() <= horizon) else {
                break;
            };
            if !message.send(stream)? {
                break;
            }
            messages.next();
        }
        stream.flush();
        let in_flight = allocator.in_flight();
        let next = messages.peek().map(Fragments::time);
        let completions = match next {
            // While messages wait for slots, half of the pool is worth an interrupt.
            Some(time) if time <= horizon => in_flight.div_ceil(2),
            // The grant alone wakes it when the next message is due.
            Some(_) => u32::MAX,
            None => in_flight,
        };
        let next = next.map(|time| time.saturating_sub(latency.unwrap_or_default()));
        Ok(Turn { next, in_flight, completions, count: allocator.queue.consumed() })
    }
}

/// Notices a card that stands still: neither its time moves towards the end nor a number that says how far things are;
/// and one that has gone or was reset, whose time may well go on.
struct Watch {
    seen: (RefTime, u32),
    since: Duration,
    asked: Duration,
}

impl Watch {
    fn new<P: Platform>(card: &Card<P>) -> Self {
        let now = card.platform().now();
        Self { seen: (RefTime::ZERO, 0), since: now, asked: now }
    }

    fn check<P: Platform>(&mut self, card: &Card<P>, end: RefTime, count: u32) -> Result<(), DriverError> {
        let seen = (card.get_time().min(end), count);
        let now = card.platform().now();
        if now.saturating_sub(self.asked) >= TURN_LIMIT {
            self.asked = now;
            card.check_alive()?;
        }
        if seen != self.seen {
            (self.seen, self.since) = (seen, now);
        } else if now.saturating_sub(self.since) > STALL_LIMIT {
            return Err(DriverError::TimedOut(STALL_LIMIT));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
