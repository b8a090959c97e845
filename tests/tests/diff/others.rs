//! Drivers that download, capture and take audio, through a socket to a card with a thread of its own: what a
//! comparison of two such runs says.

use super::{LIMIT, STEP, beside_busy_threads, compare};
use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::capsule::diff::{Kind, Lane};
use dmus_card::capture::inputs::Input;
use dmus_card::collection::{Info, Instrument, Region, Samples, Wave};
use dmus_card::transport::Transport;
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{CaptureStream, Card, Mailbox, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::{Song, TimedMessage};
use dmus_tests::loopback::HostedCard;
use dmus_tests::recording::Recording;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Notes of the song at the card's first input, one in each tenth of a second.
const SONG: i64 = 8;
const FORMAT: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };

/// What the driver and its card are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// How much later than its tenth the last note of the song is.
    late: i64,
    /// The key of that note.
    last: u8,
    /// What comes at the second input, live, before time begins to pass.
    live: [u8; 3],
    /// Bytes of the wave sink's buffers, each of which is a period.
    period: u32,
    /// The key of the downloaded instrument.
    key: u8,
}

const PLAN: Plan = Plan { late: 0, last: 60, live: [0x91, 70, 100], period: 3840, key: 60 };

/// A wave, and an instrument that plays it at one key.
fn download<P: Platform>(mailbox: &mut Mailbox<'_, P>, key: u8) -> anyhow::Result<()> {
    let samples = Samples::new((0..2000).map(|n| ((n * 37) % 20_000) as i16).collect::<Vec<_>>());
    let wave = Wave { id: None, info: Info::default(), rate: 48_000, samples, sampling: None };
    mailbox.download(&wave_chunk(1, &wave))?;
    let regions = vec![Region { keys: (key, key), ..Region::of(0) }];
    let instrument = Instrument { regions, ..Instrument::default() };
    mailbox.download(&instrument_chunk(2, &instrument, &[wave], &BTreeMap::from([(0, 1)])))?;
    Ok(())
}

/// Plays a second with the downloaded instrument, while one stream captures and another takes the audio. The driver
/// reads a register so many times before it submits, and before it takes what has come.
fn run(plan: Plan, reads: usize) -> anyhow::Result<Recording> {
    let time = |tenth| RefTime(tenth * STEP + if tenth == SONG - 1 { plan.late } else { 0 });
    let notes = (0..SONG).map(|tenth| [0x90, if tenth == SONG - 1 { plan.last } else { 60 }, 100]);
    let notes: Vec<[u8; 3]> = notes.collect();
    let song: Song =
        (0..SONG).zip(&notes).map(|(tenth, bytes)| TimedMessage { time: time(tenth), group: 0, bytes }).collect();
    let (mut sender, receiver) = UnixStream::pair()?;
    let inputs = vec![Input::Song(song), Input::Live(Box::new(receiver))];
    let host = HostedCard::start_with(Transport::Own, ClockMode::Virtual, inputs)?;
    let card = Card::open(host.connect()?, PointerWidth::Eight)?;
    let linger = || (0..reads).for_each(|_| _ = card.platform().read32(regs::MAGIC.offset));
    let mut mailbox = Mailbox::open(&card)?;
    download(&mut mailbox, plan.key)?;
    let render = RenderStream::open(&card, 0, StreamConfig::default())?;
    let capture = CaptureStream::open(&card, 1, StreamConfig { slots: 4, buffers: 4, buffer_size: 64 }, true)?;
    let config = StreamConfig { slots: 8, buffers: 4, buffer_size: plan.period };
    let sink = WaveStream::open(&card, 2, config, FORMAT)?;
    for tenth in 0..10 {
        linger();
        render.send(RefTime(tenth * STEP), 0, &[0x90, 60, 100])?;
    }
    render.flush();
    capture.set_state(State::Run)?;
    sink.set_state(State::Run)?;
    render.set_state(State::Run)?;
    sender.write_all(&plan.live)?;
    // The clock may be there before the last period is: what the driver posts again must not depend on that.
    let (notes, periods) = (1 + SONG as usize, 48_000 * FORMAT.frame_bytes() as u32 / plan.period);
    let (mut captured, mut taken, began) = (Vec::new(), 0, Instant::now());
    while captured.len() < notes || taken < periods {
        linger();
        while let Some(event) = capture.receive()? {
            captured.push(event.to_vec());
            if event.to_vec() == plan.live {
                card.grant(RefTime(10 * STEP));
            }
        }
        while sink.receive()?.is_some() {
            taken += 1;
        }
        ensure!(began.elapsed() < LIMIT, "{taken} periods and {captured:?} came");
        capture.wait(Duration::from_millis(1));
    }
    render.allocator().reclaim()?;
    drop((render, capture, sink, mailbox));
    drop(card);
    let recording = host.recording.clone();
    host.finish()?;
    Ok(recording)
}

#[test]
fn captures_periods_and_downloads_are_the_same_on_any_host() -> anyhow::Result<()> {
    let quiet = run(PLAN, 0)?;
    for other in [run(PLAN, 40)?, beside_busy_threads(|| run(PLAN, 3))?] {
        let comparison = compare(&quiet, &other)?;
        ensure!(comparison.is_same() && comparison.timing.is_some(), "{comparison}");
    }
    Ok(())
}

#[test]
fn another_captured_message_period_or_download_is_the_first_difference() -> anyhow::Result<()> {
    let good = run(PLAN, 0)?;
    for (plan, lane, kind, says) in [
        (
            Plan { late: 5000, ..PLAN },
            Lane::Completions(1),
            Kind::Changed(1),
            "submission 8 of stream 1 differs: A has presented at 0.700000 s of stream time, with 90 3c 64, B has \
             presented at 0.700500 s",
        ),
        (
            Plan { last: 61, ..PLAN },
            Lane::Completions(1),
            Kind::Changed(1),
            "with 90 3c 64, B has presented at 0.700000 s of stream time, with 90 3d 64",
        ),
        (Plan { live: [0x91, 72, 100], ..PLAN }, Lane::Received(1), Kind::Changed(1), "91 48 64"),
        (
            Plan { period: 1920, ..PLAN },
            Lane::Registers,
            Kind::Changed(1),
            "B has BUFFER_SIZE of stream 2 = 1920 (bytes of a buffer)",
        ),
        (Plan { key: 61, ..PLAN }, Lane::Commands, Kind::Changed(1), "command 1 differs: A has Download for stream 0"),
    ] {
        let comparison = compare(&good, &run(plan, 3)?)?;
        let text = comparison.to_string();
        let difference = comparison.difference.with_context(|| format!("{plan:?} was not found"))?;
        ensure!((difference.lane, difference.kind) == (lane, kind), "{plan:?}: {text}");
        ensure!(text.contains(says), "{plan:?}: {says} is missing in {text}");
    }
    Ok(())
}
