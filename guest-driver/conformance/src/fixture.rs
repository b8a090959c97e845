//! What the checks have in common: a render stream with a capture stream that receives what it presents, time, and
//! waits with a limit.
//!
//! Fed by checks; feeds the driver.

use alloc::vec::Vec;
use anyhow::ensure;
use core::time::Duration;
use dmus_driver::{CaptureStream, Card, Message, Platform, RenderStream, StreamConfig};
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// How long the card may take for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// A middle-sized stream.
pub(crate) const SIZES: StreamConfig = StreamConfig { slots: 32, buffers: 8, buffer_size: 256 };
/// A note that is captured.
pub(crate) const NOTE: [u8; 3] = [0x90, 60, 100];

/// A message without a sound, told from others by its number.
pub(crate) fn mark(number: u8) -> [u8; 3] {
    [0xB0, 20, number & 0x7F]
}

/// A SysEx message of so many bytes, two at least.
pub(crate) fn sysex(len: usize) -> Vec<u8> {
    let data = (0..len.saturating_sub(3)).map(|n| (n % 128) as u8);
    // An identifier that is nobody's.
    let mut bytes: Vec<u8> = [0xF0].into_iter().chain((len > 2).then_some(0x7D)).chain(data).collect();
    bytes.push(0xF7);
    bytes
}

/// Milliseconds.
pub(crate) const fn ms(ms: i64) -> RefTime {
    RefTime(ms * 10_000)
}

/// Something that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) time: RefTime,
    pub(crate) bytes: Vec<u8>,
    pub(crate) incomplete: bool,
    pub(crate) position: u64,
    pub(crate) group: u16,
}

/// What was captured without the particulars.
pub(crate) fn timed(captured: &[Captured]) -> Vec<(RefTime, &[u8])> {
    captured.iter().map(|captured| (captured.time, &captured.bytes[..])).collect()
}

/// The bytes alone.
pub(crate) fn bytes(captured: &[Captured]) -> Vec<&[u8]> {
    captured.iter().map(|captured| &captured.bytes[..]).collect()
}

/// Waits for something that is the card's to do.
pub(crate) fn until<P: Platform>(
    card: &Card<P>,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let platform = card.platform();
    let deadline = platform.now() + LIMIT;
    while !condition()? {
        ensure!(platform.now() < deadline, "{what}: not within {LIMIT:?}; the card's clock is at {}", card.get_time());
        platform.wait(0, Duration::from_millis(1));
    }
    Ok(())
}

/// Grants time, and waits until the master clock is there. What was due by then is published.
pub(crate) fn reach<P: Platform>(card: &Card<P>, time: RefTime) -> anyhow::Result<()> {
    card.grant(time);
    until(card, "the granted time", || Ok(card.get_time() >= time))
}

/// Grants time, and takes what is captured until then.
pub(crate) fn capture_until<P: Platform>(
    card: &Card<P>,
    stream: &CaptureStream<'_, P>,
    time: RefTime,
) -> anyhow::Result<Vec<Captured>> {
    let mut captured = Vec::new();
    card.grant(time);
    until(card, "the granted time", || {
        let there = card.get_time() >= time;
        while let Some(event) = stream.receive()? {
            captured.push(Captured {
                time: event.time(),
                bytes: event.to_vec(),
                incomplete: event.is_incomplete(),
                position: event.byte_position(),
                group: event.channel_group(),
            });
        }
        Ok(there)
    })?;
    Ok(captured)
}

/// A message with data.
pub(crate) fn message<'m, P: Platform>(
    stream: &'m RenderStream<'_, P>,
    time: RefTime,
    bytes: &[u8],
) -> anyhow::Result<Message<'m>> {
    let mut message = stream.allocator().get_message()?;
    message.set_time(time);
    message.set_data(bytes)?;
    Ok(message)
}

/// Every slot and buffer of a stream is free.
pub(crate) fn expect_all_free<P: Platform>(stream: &RenderStream<'_, P>, config: StreamConfig) -> anyhow::Result<()> {
    let allocator = stream.allocator();
    allocator.reclaim()?;
    let free = (allocator.free_slots(), allocator.free_buffers());
    ensure!(free == (config.slots as usize, config.buffers as usize), "only {free:?} are free of {config:?}");
    Ok(())
}

/// A render stream, and a capture stream that receives what it presents.
pub(crate) struct Fixture<'c, P: Platform> {
    pub(crate) card: &'c Card<P>,
    pub(crate) render: RenderStream<'c, P>,
    pub(crate) capture: CaptureStream<'c, P>,
    config: StreamConfig,
}

impl<'c, P: Platform> Fixture<'c, P> {
    /// Both in RUN, their times at zero.
    pub(crate) fn open(card: &'c Card<P>) -> anyhow::Result<Self> {
        Self::with(card, SIZES)
    }

    /// The same with a render stream of other sizes.
    pub(crate) fn with(card: &'c Card<P>, config: StreamConfig) -> anyhow::Result<Self> {
        let render = RenderStream::open(card, 0, config)?;
        let sizes = StreamConfig { slots: 32, buffers: 32, buffer_size: 2048 };
        let capture = CaptureStream::open(card, 1, sizes, true)?;
        // First, so that it misses nothing.
        capture.set_state(State::Run)?;
        render.set_state(State::Run)?;
        Ok(Self { card, render, capture, config })
    }

    /// Submits a message.
    pub(crate) fn put(&self, time: RefTime, bytes: &[u8]) -> anyhow::Result<()> {
        self.render.put_message(message(&self.render, time, bytes)?)?;
        self.render.flush();
        Ok(())
    }

    /// Submits what was put, and gives what is presented until a master time.
    pub(crate) fn capture_until(&mut self, time: RefTime) -> anyhow::Result<Vec<Captured>> {
        self.render.flush();
        let captured = capture_until(self.card, &self.capture, time)?;
        self.render.allocator().reclaim()?;
        Ok(captured)
    }

    /// Every slot and buffer of the render stream is free.
    pub(crate) fn expect_all_free(&self) -> anyhow::Result<()> {
        expect_all_free(&self.render, self.config)
    }
}

/// Whether what is rendered is captured, once, and nothing else is.
pub(crate) fn captures_only_what_it_presents<P: Platform>(card: &Card<P>) -> anyhow::Result<bool> {
    let mut fixture = Fixture::open(card)?;
    fixture.put(ms(1), &mark(1))?;
    let captured = fixture.capture_until(RefTime::from_secs(1))?;
    Ok(timed(&captured) == [(ms(1), &mark(1)[..])])
}
