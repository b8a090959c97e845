//! Short recordings of everything that a card observes, and what a fuzzer or a test makes of them.
//!
//! Fed by a card in this process; feeds what replays files that no card would write.

use crate::attack::{Attack, next_driver_plays};
use crate::direct::Direct;
use crate::raw::{Bus, RawStream};
use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_driver::{CaptureStream, Card, RenderStream, StreamConfig, WaveStream};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::{Song, TimedMessage};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A file in memory.
#[derive(Clone, Default)]
pub struct InMemory(Arc<Mutex<Vec<u8>>>);

impl InMemory {
    /// Its bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().map(|bytes| bytes.clone()).unwrap_or_default()
    }
}

impl Write for InMemory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A driver that plays, captures and takes waves, each through a stream of its own.
pub fn streams(clock: ClockMode) -> anyhow::Result<Vec<u8>> {
    let messages = (0..4).map(|n| TimedMessage { time: RefTime(n * 20_000), group: 0, bytes: &[0x90, 60, 100] });
    let live: &[u8] = &[0x90, 1, 2, 0xF0, 1, 2, 3, 0xF7];
    let inputs = vec![Input::Song(messages.collect::<Song>()), Input::Live(Box::new(live)), Input::Loopback];
    let file = InMemory::default();
    let platform = Direct::recorded_by(clock, inputs, file.clone())?;
    platform.keep_engine()?;
    let card = Card::open(platform, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 16, buffers: 8, buffer_size: 256 };
    let render = RenderStream::open(&card, 0, config)?;
    let captures = [CaptureStream::open(&card, 4, config, true)?, CaptureStream::open(&card, 5, config, false)?];
    let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
    let wave = WaveStream::open(&card, 6, StreamConfig { buffer_size: 3840, ..config }, format)?;
    wave.set_state(State::Run)?;
    for state in [State::Pause, State::Run] {
        captures.iter().try_for_each(|stream| stream.set_state(state))?;
    }
    render.set_state(State::Run)?;
    for (n, bytes) in [&[0x90, 60, 100][..], &[0xF0, 1, 2, 3, 4, 5, 6, 7, 8, 0xF7], &[0x80, 60, 0]].iter().enumerate() {
        let mut message = render.allocator().get_message()?;
        message.set_time(RefTime(n as i64 * 50_000));
        message.set_data(bytes)?;
        render.put_message(message)?;
    }
    render.flush();
    let end = RefTime(300_000);
    card.grant(end);
    for _ in 0..2000 {
        if card.get_time() >= end {
            break;
        }
        for stream in &captures {
            while stream.receive()?.is_some() {}
        }
        while wave.receive()?.is_some() {}
        wave.wait(Duration::from_millis(1));
    }
    ensure!(card.get_time() >= end, "the card stands still at {:?}", card.get_time());
    render.set_state(State::Stop)?;
    drop((render, captures, wave));
    drop(card);
    Ok(file.bytes())
}

/// A driver that makes mistakes, and is followed by one that does not.
pub fn mistakes() -> anyhow::Result<Vec<u8>> {
    let file = InMemory::default();
    let platform = Direct::recorded_by(ClockMode::Virtual, Vec::new(), file.clone())?;
    let stream = RawStream::running(&platform, PointerWidth::Four)?;
    let bytes: Vec<u8> = (0..1500).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut rest = &bytes[..];
    while let Some(attack) = Attack::decode(&mut rest) {
        attack.carry_out(&stream);
        platform.turn();
    }
    platform.unmap();
    platform.turn();
    platform.map()?;
    platform.device_reset();
    next_driver_plays(&platform)?;
    let engine = platform.take_engine()?.spawn()?;
    engine.finish()?;
    Ok(file.bytes())
}

/// Bytes with any changes: each is how far on it is, how many bytes are taken out there, and what is put in.
pub fn edit(bytes: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some((&[far, further, removed, inserted], after)) = edits.split_first_chunk() {
        let kept = usize::from(u16::from_le_bytes([far, further])).min(rest.len());
        out.extend_from_slice(&rest[..kept]);
        rest = rest[kept..].get(usize::from(removed)..).unwrap_or_default();
        let (put, after) = after.split_at(usize::from(inserted).min(after.len()));
        out.extend_from_slice(put);
        edits = after;
    }
    [&out, rest].concat()
}
