//! Ours: the real driver against the real card, as the fastest sensible application uses them.
//!
//! Fed by the benchmark with numbers of events. The events are SysEx at time zero, due at once, that the synthesizer passes over.

use crate::{Lane, payload, windowed};
use anyhow::ensure;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use std::time::Instant;

const CONFIG: StreamConfig = StreamConfig { slots: 256, buffers: 256, buffer_size: 256 };

/// Card, engine and driver take turns in one thread, a batch each.
pub(crate) fn one_thread(bytes: usize, batch: u64) -> anyhow::Result<Lane> {
    let (card, stream) = open(|_| Ok(()))?;
    let mut engine = card.platform().take_engine()?;
    let data = payload(bytes);
    Ok(Box::new(move |events| {
        let (stream, data) = (&stream, data.as_slice());
        let allocator = stream.allocator();
        let before = allocator.counts().presented;
        let started = Instant::now();
        for _ in 0..events / batch {
            send(stream, data, batch)?;
            // What is completed comes home as the next messages.
            engine.turn();
        }
        allocator.reclaim()?;
        let taken = started.elapsed();
        ensure!(allocator.counts().presented - before == events / batch * batch, "not every event was presented");
        Ok(taken)
    }))
}

/// The driver here, the card's engine in a thread of its own.
pub(crate) fn two_threads(bytes: usize) -> anyhow::Result<Lane> {
    let (_, stream) = open(|card| card.platform().spawn_engine().map(drop))?;
    let data = payload(bytes);
    Ok(Box::new(move |events| {
        let allocator = stream.allocator();
        windowed(
            events,
            |count| send(&stream, &data, count),
            || {
                let before = allocator.in_flight();
                allocator.reclaim()?;
                Ok(u64::from(before - allocator.in_flight()))
            },
        )
    }))
}

type Opened = (&'static Card<Direct>, RenderStream<'static, Direct>);

/// Opens a stream and runs it. Card and stream are left to the process's end.
fn open(prepare: impl FnOnce(&Card<Direct>) -> anyhow::Result<()>) -> anyhow::Result<Opened> {
    let card = Box::leak(Box::new(Card::open(Direct::new()?, PointerWidth::Eight)?));
    prepare(card)?;
    let stream = RenderStream::open(card, 0, CONFIG)?;
    stream.set_state(State::Run)?;
    Ok((card, stream))
}

#[inline(always)]
fn send(stream: &RenderStream<'_, Direct>, data: &[u8], count: u64) -> anyhow::Result<()> {
    for _ in 0..count {
        stream.send(RefTime::ZERO, 0, data)?;
    }
    stream.flush();
    Ok(())
}
