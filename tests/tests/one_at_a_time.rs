//! Events that come one at a time to a card that stands still: the shortest way through it must do what the others do.
//!
//! Fed by the driver's sending in one step, on driver and card in one thread; feeds nothing.

use dmus_card::sink::{Sink, SinkError};
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is heard and what is not, short SysEx of both kinds among it.
const MESSAGES: [&[u8]; 10] = [
    &[0xC0, 48],
    &[0xB0, 7, 90],
    &[0xF0, 0x7F, 0x7F, 4, 1, 0, 0x50, 0xF7],
    &[0x90, 60, 100],
    &[0xF8],
    &[0xF0, 0x7D, 1, 0xF7],
    &[0x90, 67, 100],
    &[0xE0, 0, 80],
    &[0x80, 60, 64],
    &[0xD0, 70],
];

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<i16>>>);

impl Sink for Kept {
    fn write(&mut self, frames: &[i16]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(frames);
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A second of audio after the messages, given to the card one by one or all at once, on a stream of some number with
/// others beside it.
fn heard(width: PointerWidth, alone: bool, streams: usize) -> anyhow::Result<Vec<i16>> {
    let kept = Kept::default();
    let card = Card::open(Direct::with_sink(Box::new(kept.clone()))?, width)?;
    let others = (0..streams).map(|index| RenderStream::open(&card, index, StreamConfig::default()));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let stream = RenderStream::open(&card, streams, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let direct = card.platform();
    direct.run_until_idle();
    for message in MESSAGES {
        stream.send(RefTime::ZERO, 0, message)?;
        if alone {
            stream.flush();
            direct.run_until_idle();
            assert!(stream.allocator().has_completions(), "{message:02x?} was not presented at once");
        }
    }
    stream.flush();
    direct.run_until_idle();
    stream.allocator().reclaim()?;
    assert_eq!(stream.allocator().counts().presented, MESSAGES.len() as u64);
    assert_eq!(direct.stats.presented.get(), MESSAGES.len() as u64);
    assert_eq!(direct.stats.peak_in_flight.get(), if alone { 1 } else { MESSAGES.len() as u64 });
    card.grant(RefTime::from_secs(1));
    direct.run_until_idle();
    drop((stream, others));
    let heard = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(heard)
}

#[test]
fn events_that_come_alone_sound_as_those_that_come_together() -> anyhow::Result<()> {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let together = heard(width, false, 0)?;
        let loudest = together.iter().map(|sample| sample.unsigned_abs()).max();
        assert!(loudest > Some(300), "{loudest:?} of {} samples", together.len());
        assert!(together == heard(width, true, 0)?, "alone, {width:?}");
        assert!(together == heard(width, true, 2)?, "alone, beside other streams, {width:?}");
    }
    Ok(())
}

#[test]
fn a_single_event_raises_the_vector_that_was_asked_for() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    card.platform().run_until_idle();
    for message in MESSAGES {
        // What was raised before is taken; there is nothing to wait for.
        while stream.wait(1, Duration::ZERO) {}
        stream.send(RefTime::ZERO, 0, message)?;
        stream.flush();
        assert!(stream.wait(1, Duration::ZERO), "{message:02x?} raised nothing");
        assert!(stream.allocator().has_completions());
        stream.allocator().reclaim()?;
    }
    Ok(())
}
