//! Every kind of stream at once: four that render, two that capture and a wave sink, together 10,000 events a second of
//! virtual time.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_card::transport::Transport;
use dmus_driver::{CaptureSink, CaptureStream, Card, DriverError, RenderStream, StreamConfig, WaveStream};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::{Song, TimeBase, TimedMessage};
use dmus_tests::loopback::HostedCard;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const SECONDS: i64 = 2;
/// Events a second of each render stream, and of what is captured, which two streams get: 4 x 1,500 + 2 x 2,000.
const RENDERED: i64 = 1500;
const CAPTURED: i64 = 2000;
const END: RefTime = RefTime::from_secs(SECONDS);

type Timed = (RefTime, Vec<u8>);

/// So many messages a second, of which every tenth is a note; some are long.
fn messages(rate: i64, salt: u8) -> Vec<Timed> {
    let message = |i: i64| {
        let value = (i % 127) as u8;
        let bytes = match i % 10 {
            0 => vec![0x90 | salt, 40 + (i / 10 % 40) as u8, 80],
            5 => vec![0x80 | salt, 40 + (i / 10 % 40) as u8, 0],
            7 if i % 100 == 7 => [&[0xF0, 0x7D][..], &[value; 100], &[0xF7]].concat(),
            _ => vec![0xB0 | salt, 20 + salt, value],
        };
        (RefTime(i * 10_000_000 / rate), bytes)
    };
    (0..rate * SECONDS).map(message).collect()
}

/// What of a run must be the same each time.
#[derive(PartialEq)]
struct Outcome {
    audio: Vec<i16>,
    wave: Vec<u8>,
    captured: [Vec<Timed>; 2],
}

fn run(input: &Song) -> anyhow::Result<Outcome> {
    let hosted = HostedCard::start_with(Transport::Own, ClockMode::Virtual, vec![Input::Song(input.clone())])?;
    let (mut captured, mut wave_bytes) = ([vec![], vec![]], vec![]);
    {
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let config = StreamConfig { slots: 128, buffers: 32, buffer_size: 256 };
        let mut renders = vec![];
        for index in 0..4 {
            renders.push((RenderStream::open(&card, index, config)?, messages(RENDERED, index as u8), 0));
        }
        let mut captures = [
            (CaptureStream::open(&card, 4, config, true)?, CaptureSink::default()),
            (CaptureStream::open(&card, 5, config, false)?, CaptureSink::default()),
        ];
        let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
        let wave = WaveStream::open(&card, 6, StreamConfig { buffer_size: 3840, ..config }, format)?;
        // The input begins with the first RUN of a capture stream, which in PAUSE listens, too.
        wave.set_state(State::Run)?;
        for state in [State::Pause, State::Run] {
            for (stream, _) in &mut captures {
                stream.set_state(state)?;
            }
        }
        for (stream, ..) in &renders {
            stream.set_state(State::Run)?;
        }
        let deadline = Instant::now() + LIMIT;
        loop {
            ensure!(Instant::now() < deadline, "the card stands still at {:?}", card.get_time());
            let mut next = END;
            for (stream, messages, sent) in &mut renders {
                stream.allocator().reclaim()?;
                while let Some((time, bytes)) = messages.get(*sent) {
                    let put = stream.allocator().get_message().and_then(|mut message| {
                        message.set_time(*time);
                        message.set_data(bytes)?;
                        stream.put_message(message)
                    });
                    match put {
                        Ok(()) => *sent += 1,
                        Err(DriverError::NoMessage | DriverError::NoBuffer) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                stream.flush();
                next = messages.get(*sent).map_or(next, |(time, _)| next.min(*time));
            }
            card.grant(next);
            let reached = card.get_time() >= END;
            for ((stream, sink), got) in captures.iter_mut().zip(&mut captured) {
                while let Some(event) = stream.receive()? {
                    let time = event.time();
                    sink.put_message(&event, |message| got.push((time, message.to_vec())));
                }
            }
            while let Some(period) = wave.receive()? {
                wave_bytes.extend(period.to_vec());
            }
            if reached {
                break;
            }
            wave.wait(Duration::from_millis(1));
        }
        for (stream, messages, sent) in &renders {
            stream.set_state(State::Stop)?;
            stream.allocator().reclaim()?;
            let counts = stream.allocator().counts();
            ensure!(*sent == messages.len() && counts.presented == messages.len() as u64, "{sent} sent, {counts:?}");
        }
    }
    ensure!(hosted.stats.late.get() + hosted.stats.rejected.get() + hosted.stats.faults.get() == 0);
    Ok(Outcome { audio: hosted.finish()?.samples(), wave: wave_bytes, captured })
}

/// DDI: Streams of every type run at once, each with its own pool, rings and state, and disturb each other in nothing.
#[test]
fn seven_streams_with_ten_thousand_events_a_second_lose_and_move_nothing() -> anyhow::Result<()> {
    let expected = messages(CAPTURED, 9);
    let timed = expected.iter().map(|(time, bytes)| TimedMessage { time: *time, group: 0, bytes });
    // By way of a file times are those of its ticks.
    let input = Song::parse(&TimeBase::default().write(timed)?)?;
    let expected: Vec<Timed> = input.messages().map(|message| (message.time, message.bytes.to_vec())).collect();
    let first = run(&input)?;
    for (number, got) in first.captured.iter().enumerate() {
        assert!(*got == expected, "capture stream {number}: {} of {} messages", got.len(), expected.len());
    }
    let audio: Vec<u8> = first.audio.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    assert_eq!(audio.len() as i64, SECONDS * 48_000 * 4);
    assert!(first.audio.iter().any(|sample| *sample != 0) && first.wave == audio, "the wave sink got something else");
    assert!(run(&input)? == first, "the second run is another");
    Ok(())
}
