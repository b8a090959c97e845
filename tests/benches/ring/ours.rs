//! Ours: the real driver against the real card, as the fastest sensible application uses them.
//!
//! Fed by the benchmark with numbers of events. Most are SysEx, which the synthesizer passes over; some are
//! controllers, which it hears.

use crate::{Lane, WINDOW, controller, payload, windowed};
use anyhow::ensure;
use dmus_card::SAMPLE_RATE;
use dmus_card::bank::Bank;
use dmus_card::check::Checker;
use dmus_card::engine::{Engine, Turn};
use dmus_card::synth::Synth;
use dmus_driver::{Card, DriverError, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_tests::direct::Direct;
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Instant;

const CONFIG: StreamConfig = StreamConfig { slots: 256, buffers: 256, buffer_size: 256 };

/// What else the card does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    No,
    Checked,
    Recorded,
}

/// Card, engine and driver take turns in one thread, a batch each. Time stands, and the events are due at once.
pub(crate) fn one_thread(bytes: usize, batch: u64, watched: Watched) -> anyhow::Result<Lane> {
    let data = payload(bytes);
    due(batch, watched, move |stream, _| stream.send(RefTime::ZERO, 0, &data))
}

/// The same, of messages that the synthesizer hears.
pub(crate) fn heard(batch: u64) -> anyhow::Result<Lane> {
    due(batch, Watched::No, |stream, number| stream.send(RefTime::ZERO, 0, &controller(number)))
}

/// What the synthesizer takes for those messages when it is called without a ring.
pub(crate) fn called() -> Lane {
    let mut synth = Synth::new(Arc::new(Bank::default()), SAMPLE_RATE, 1, 64);
    Box::new(move |events| {
        let started = Instant::now();
        for number in 0..events {
            synth.message(0, &black_box(controller(number)));
        }
        Ok(started.elapsed())
    })
}

/// Time stands: an event is presented as it is fetched.
fn due(
    batch: u64,
    watched: Watched,
    send: impl Fn(&RenderStream<'_, Direct>, u64) -> Result<(), DriverError> + 'static,
) -> anyhow::Result<Lane> {
    let (card, stream, _) = open(watched, |_| Ok(()))?;
    let mut engine = card.platform().take_engine()?;
    Ok(Box::new(move |events| {
        let stream = &stream;
        let allocator = stream.allocator();
        let before = allocator.counts().presented;
        let mut number = 0;
        let started = Instant::now();
        for _ in 0..events / batch {
            for _ in 0..batch {
                send(stream, number)?;
                number += 1;
            }
            stream.flush();
            // Completed slots are the next free slots.
            engine.turn();
        }
        allocator.reclaim()?;
        let taken = started.elapsed();
        ensure!(allocator.counts().presented - before == events / batch * batch, "not every event was presented");
        Ok(taken)
    }))
}

/// A batch is sent ahead of the grant that makes it due, as a song is: the card fetches it, holds it, renders up to
/// its time and presents it. All of a batch is for one sample, and each grant is worth one.
pub(crate) fn ahead(bytes: usize, batch: u64, watched: Watched) -> anyhow::Result<Lane> {
    let (card, stream, checker) = open(watched, |_| Ok(()))?;
    let mut engine = card.platform().take_engine()?;
    let mut sample = 0;
    let data = payload(bytes);

    // Once with a look before the grant: if the events are not held, something else is counted.
    let [time, grant] = next_sample(&mut sample);
    send_at(&stream, time, &data, batch)?;
    run_until_idle(&mut engine);
    stream.allocator().reclaim()?;
    ensure!(u64::from(stream.allocator().in_flight()) == batch, "events ahead of the grant were not held");
    card.grant(grant);
    run_until_idle(&mut engine);
    stream.allocator().reclaim()?;

    Ok(Box::new(move |events| {
        let allocator = stream.allocator();
        let before = allocator.counts().presented;
        let started = Instant::now();
        for _ in 0..events / batch {
            let [time, grant] = next_sample(&mut sample);
            send_at(&stream, time, &data, batch)?;
            card.grant(grant);
            run_until_idle(&mut engine);
        }
        allocator.reclaim()?;
        let taken = started.elapsed();
        ensure!(allocator.counts().presented - before == events / batch * batch, "not every event was presented");
        ensure!(checker.as_ref().is_none_or(|checker| checker.counts().is_empty()), "a false alarm");
        Ok(taken)
    }))
}

/// The grants that `ahead` gives for so many events, over as many samples, but no events.
pub(crate) fn empty(batch: u64) -> anyhow::Result<Lane> {
    let (card, _stream, _) = open(Watched::No, |_| Ok(()))?;
    let mut engine = card.platform().take_engine()?;
    let mut sample = 0;
    Ok(Box::new(move |events| {
        let started = Instant::now();
        for _ in 0..events / batch {
            let [_, grant] = next_sample(&mut sample);
            card.grant(grant);
            run_until_idle(&mut engine);
        }
        Ok(started.elapsed())
    }))
}

/// The time of the next sample, and a grant that covers it but not the one after: half a sample later, so that the
/// events lie before the grant, as those of a song do.
fn next_sample(sample: &mut u64) -> [RefTime; 2] {
    *sample += 1;
    let time = SampleTime(*sample).to_time(SAMPLE_RATE);
    [time, time.saturating_add(RefTime(104))]
}

/// Turns until there is nothing more to do, as the engine's thread does. One piece of code for all, so that what is
/// taken off is the same as what is counted.
#[inline(never)]
fn run_until_idle(engine: &mut Engine) {
    while engine.turn() == Turn::Worked {}
}

/// The driver here, the card's engine in a thread of its own. A quarter of what may be in flight is flushed at a time,
/// so that the card works on it while more is sent: after a whole window, each would wait for the other.
pub(crate) fn two_threads(bytes: usize) -> anyhow::Result<Lane> {
    let (_, stream, _) = open(Watched::No, |card| card.platform().spawn_engine().map(drop))?;
    let data = payload(bytes);
    Ok(Box::new(move |events| {
        let allocator = stream.allocator();
        let quarter = WINDOW / 4;
        windowed(
            events,
            |count| {
                let mut sizes = (0..count).step_by(quarter as usize).map(|sent| quarter.min(count - sent));
                sizes.try_for_each(|size| send_at(&stream, RefTime::ZERO, &data, size))
            },
            || {
                let before = allocator.in_flight();
                allocator.reclaim()?;
                Ok(u64::from(before - allocator.in_flight()))
            },
        )
    }))
}

type Opened = (&'static Card<Direct>, ManuallyDrop<RenderStream<'static, Direct>>, Option<Arc<Checker>>);

/// Opens a stream and runs it. Card and stream are left to the process's end: closing would wait for an engine that
/// nobody turns any more.
fn open(watched: Watched, prepare: impl FnOnce(&Card<Direct>) -> anyhow::Result<()>) -> anyhow::Result<Opened> {
    let direct = match watched {
        // Compressed and written, but to nowhere.
        Watched::Recorded => Direct::recorded(Bank::default(), std::io::sink())?,
        Watched::No | Watched::Checked => Direct::with_bank(Bank::default())?,
    };
    let card = Box::leak(Box::new(Card::open(direct, PointerWidth::Eight)?));
    let checker = (watched == Watched::Checked).then(|| card.platform().check());
    prepare(card)?;
    let stream = ManuallyDrop::new(RenderStream::open(card, 0, CONFIG)?);
    stream.set_state(State::Run)?;
    Ok((card, stream, checker))
}

#[inline(always)]
fn send_at(stream: &RenderStream<'_, Direct>, time: RefTime, data: &[u8], count: u64) -> anyhow::Result<()> {
    for _ in 0..count {
        stream.send(time, 0, data)?;
    }
    stream.flush();
    Ok(())
}
