//! What a client makes the card allocate is bounded before it is taken, refused where there is no memory for it, and
//! given back by a reset.
//!
//! A process of its own, with an allocator of its own. Its tests share what is counted: there is one, of many parts.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_card::collection::{Instrument, Region, Samples, Wave};
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{CaptureStream, Card, DriverError, Mailbox, RenderStream, StreamConfig};
use dmus_interface::command::Status;
use dmus_interface::event::PointerWidth;
use dmus_interface::property::{PortParams, port};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::counting::{Counting, LARGEST, LIVE, PEAK};
use dmus_tests::direct::Direct;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// Sends 16 MiB of SysEx in messages of 64 KiB, which the card has to hold until they are due. What the card needs for
/// each stream, and these 16 MiB, are all that it may take.
fn sysex_to_capture_streams(clock: ClockMode, cooked: bool) -> anyhow::Result<()> {
    let card = Card::open(Direct::by_clock(clock, vec![Input::Loopback])?, PointerWidth::Eight)?;
    let before = LIVE.load(Ordering::Relaxed);
    let small = StreamConfig { slots: 1, buffers: 1, buffer_size: 64 };
    let captures = (1..8).map(|index| CaptureStream::open(&card, index, small, cooked));
    let captures = captures.collect::<Result<Vec<_>, _>>()?;
    captures.iter().try_for_each(|stream| stream.set_state(State::Run))?;
    let stream = RenderStream::open(&card, 0, StreamConfig { slots: 1024, buffers: 4, buffer_size: 65_528 })?;
    stream.set_state(State::Run)?;
    let due = card.get_time().saturating_add(RefTime(10_000_000));
    let allocator = stream.allocator();
    for _ in 0..255 {
        for (bytes, last) in [([&[0xF0][..], &[1; 65_000]].concat(), false), (vec![0xF7], true)] {
            while allocator.free_buffers() == 0 {
                stream.wait(1, std::time::Duration::ZERO);
                allocator.reclaim()?;
            }
            let mut message = allocator.get_message()?;
            message.set_time(due);
            message.set_data(&bytes)?;
            if !last {
                message.set_incomplete();
            }
            stream.put_message(message)?;
            stream.flush();
            card.platform().run_until_idle();
            allocator.reclaim()?;
        }
    }
    PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
    card.grant(due);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < deadline && card.platform().stats.presented.get() < 255 {
        card.platform().turn();
    }
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let overruns = card.platform().stats.capture_overruns.get();
    ensure!(peak < 32 * MIB, "{} MiB at the peak, {clock:?}, cooked: {cooked}", peak / MIB);
    // In virtual time all of it waits for slots, and nothing is lost.
    ensure!((overruns > 0) == (clock == ClockMode::Realtime), "{overruns} overruns, {clock:?}");
    drop(captures);
    drop(stream);
    card.reset()?;
    card.platform().run_until_idle();
    let kept = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    eprintln!("{clock:?}, cooked {cooked}: {} KiB at the peak, {} KiB after the reset", peak >> 10, kept >> 10);
    ensure!(kept < MIB, "{kept} bytes are kept after a reset, {clock:?}");
    Ok(())
}

/// What the card answers to a driver that asks for more than there is.
fn refusals() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let samples = Samples::new(vec![1; 4 * MIB]);
    let large = Wave { id: None, info: Default::default(), rate: 48_000, samples, sampling: None };
    let small = Wave { samples: Samples::new(vec![1; 100]), ..large.clone() };
    let regions = vec![Region::of(0); 4096];
    let instrument = Instrument { regions, ..Instrument::default() };
    let ids = BTreeMap::from([(0, 2)]);
    let chunks = [wave_chunk(1, &large), instrument_chunk(3, &instrument, std::slice::from_ref(&small), &ids)];
    // Once before, for what the driver itself takes for the requests, and in the bank.
    mailbox.download(&wave_chunk(2, &small))?;
    for chunk in &chunks {
        let handle = mailbox.download(chunk)?;
        mailbox.unload(handle)?;
    }
    mailbox.compact()?;
    let voices = |count: u32| PortParams { valid: port::VOICES.into(), voices: count.into(), ..Default::default() };
    let area = StreamConfig { slots: 64, buffers: 64, buffer_size: 65_528 };

    LARGEST.store(100 << 10, Ordering::Relaxed);
    let refused = chunks.each_ref().map(|chunk| mailbox.download(chunk));
    let set = mailbox.set_port_parameters(0, &voices(4096)).map(|(is, all)| (is.voices.get(), all));
    let opened = RenderStream::open(&card, 1, area).map(drop);
    LARGEST.store(usize::MAX, Ordering::Relaxed);

    for refused in refused {
        let no_memory = matches!(refused, Err(DriverError::Command { status: Status::NoMemory, .. }));
        ensure!(no_memory, "{refused:?}");
    }
    ensure!(matches!(set, Ok((256, false))), "{set:?}");
    ensure!(matches!(opened, Err(DriverError::Refused(Fault::NoMemory))), "{opened:?}");
    // Nothing was taken, and all of it is there once there is memory.
    for chunk in &chunks {
        mailbox.download(chunk)?;
    }
    ensure!(mailbox.set_port_parameters(0, &voices(4096))?.1, "still no voices");
    drop(RenderStream::open(&card, 1, area)?);
    drop(stream);
    Ok(())
}

#[test]
fn memory_is_bounded_refused_and_given_back() -> anyhow::Result<()> {
    refusals()?;
    for (clock, cooked) in [
        (ClockMode::Virtual, true),
        (ClockMode::Virtual, false),
        (ClockMode::Realtime, true),
        (ClockMode::Realtime, false),
    ] {
        sysex_to_capture_streams(clock, cooked)?;
    }
    Ok(())
}
