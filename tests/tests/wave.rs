//! What the DDI says about wave sinks, and the data sheet beyond it: the driver's wave sink stream and bare slots
//! against the card.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::transport::Transport;
use dmus_driver::{Card, Counts, DriverError, Platform, RenderStream, StreamConfig, WaveStream, play_through};
use dmus_interface::doorbell;
use dmus_interface::event::{Data, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::{RefTime, SampleTime};
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::Song;
use dmus_tests::attack::{Attack, next_driver_plays};
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::raw::{BUFFER_SIZE, Bus, RawStream, seconds};
use dmus_tests::songs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const CARD: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
/// 20 ms of `CARD`.
const PERIOD: u32 = 3840;
const SIZES: StreamConfig = StreamConfig { slots: 8, buffers: 4, buffer_size: PERIOD };

/// What came of a wave sink: (stream time, byte position, bytes) of each period.
type Periods = Vec<(RefTime, u64, Vec<u8>)>;

/// Notes on both sides, one each tenth of a second.
fn put_notes<P: Platform>(stream: &RenderStream<'_, P>, seconds: i64) -> anyhow::Result<()> {
    for tenth in 0..seconds * 10 {
        for bytes in [[0xB0, 10, (tenth % 2 * 127) as u8], [0x90, 50 + (tenth % 30) as u8, 100]] {
            let mut message = stream.allocator().get_message()?;
            message.set_time(RefTime(tenth * 1_000_000));
            message.set_data(&bytes)?;
            stream.put_message(message)?;
        }
    }
    stream.flush();
    Ok(())
}

/// Grants time, and takes periods until it has come.
fn take<P: Platform>(card: &Card<P>, wave: &WaveStream<'_, P>, until: RefTime) -> anyhow::Result<Periods> {
    let deadline = Instant::now() + LIMIT;
    let mut periods = vec![];
    card.grant(until);
    loop {
        let reached = card.get_time() >= until;
        while let Some(period) = wave.receive()? {
            periods.push((period.time(), period.byte_position(), period.to_vec()));
        }
        if reached {
            return Ok(periods);
        }
        ensure!(Instant::now() < deadline, "the card stands still after {} periods", periods.len());
        wave.wait(Duration::from_millis(20));
    }
}

/// A song of some seconds through a card: what its own output got, and what the wave sink brought.
fn heard(format: WaveFormat, width: PointerWidth, seconds: i64, drift: i32) -> anyhow::Result<(Vec<i16>, Periods)> {
    let hosted = HostedCard::start_drifting(Transport::Own, ClockMode::Virtual, vec![], drift)?;
    let mut periods;
    {
        let card = Card::open(hosted.connect()?, width)?;
        let render = RenderStream::open(&card, 0, StreamConfig { slots: 256, ..StreamConfig::default() })?;
        let wave = WaveStream::open(&card, 1, SIZES, format)?;
        render.set_state(State::Acquire)?;
        put_notes(&render, seconds)?;
        wave.set_state(State::Run)?;
        render.set_state(State::Run)?;
        periods = take(&card, &wave, RefTime::from_secs(seconds))?;
        wave.set_state(State::Pause)?;
        while let Some(period) = wave.receive()? {
            periods.push((period.time(), period.byte_position(), period.to_vec()));
        }
        wave.set_state(State::Stop)?;
        ensure!(
            wave.receive()?.is_none() && wave.free_slots_and_buffers() == (8, 4),
            "{:?}",
            wave.free_slots_and_buffers()
        );
        render.allocator().reclaim()?;
        let counts: Counts = render.allocator().counts();
        ensure!(counts.presented == seconds as u64 * 20 && counts.late == 0, "{counts:?}");
    }
    ensure!(hosted.stats.faults.get() == 0);
    Ok((hosted.finish()?.samples(), periods))
}

fn bytes_of(periods: &Periods) -> Vec<u8> {
    periods.iter().flat_map(|(_, _, bytes)| bytes.iter().copied()).collect()
}

/// DDI: The wave sink pulls synthesised PCM: Render writes so many bytes at a byte position, and the next continue
///     there.
/// DDI: The same with 4-byte pointers.
#[test]
fn the_wave_sink_brings_what_the_cards_output_gets_sample_for_sample() -> anyhow::Result<()> {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        // Not a whole number of periods: the last is short.
        let (audio, periods) = heard(CARD, width, 3, 0)?;
        let expected: Vec<u8> = audio.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert!(expected.iter().any(|byte| *byte != 0));
        assert!(bytes_of(&periods) == expected, "{} and {} bytes", bytes_of(&periods).len(), expected.len());
        for (number, (time, position, _)) in periods.iter().enumerate() {
            assert_eq!(*position, number as u64 * u64::from(PERIOD));
            assert_eq!(*time, CARD.duration(*position));
        }
    }
    Ok(())
}

/// Interleaved samples as numbers, full scale 1.
fn samples_of(format: WaveFormat, bytes: &[u8]) -> Vec<f64> {
    match format.sample {
        Sample::S16 => {
            let (samples, _) = bytes.as_chunks::<2>();
            samples.iter().map(|bytes| f64::from(i16::from_le_bytes(*bytes)) / 32_768.0).collect()
        }
        Sample::F32 => {
            let (samples, _) = bytes.as_chunks::<4>();
            samples.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
        }
    }
}

/// DDI: A wave sink has a format: 22,050, 44,100, 48,000 or 96,000 Hz, 16-bit or floating point, mono or stereo.
#[test]
fn every_format_brings_the_same_music_and_the_same_bytes_each_time() -> anyhow::Result<()> {
    for rate in WaveFormat::RATES {
        for (channels, sample) in [(1, Sample::S16), (2, Sample::S16), (1, Sample::F32), (2, Sample::F32)] {
            let format = WaveFormat { rate, channels, sample };
            let (audio, periods) = heard(format, PointerWidth::Eight, 1, 0)?;
            if (channels, sample) == (2, Sample::F32) {
                let again = heard(format, PointerWidth::Eight, 1, 0)?.1;
                assert!(periods == again, "{format:?} has other bytes the second time");
            }
            let got = samples_of(format, &bytes_of(&periods));
            let got: Vec<&[f64]> = got.chunks(channels.into()).collect();
            // What is ahead of the filter comes later.
            let missing = f64::from(rate) - got.len() as f64;
            assert!((0.0..f64::from(rate) * 0.002).contains(&missing), "{format:?}: {missing} frames are missing");
            // Against the card's own output, by a straight line between its samples.
            let expected = |at: f64, channel: usize| {
                let sample = |n: usize| {
                    let at = |channel: usize| f64::from(audio.get(2 * n + channel).copied().unwrap_or(0)) / 32_768.0;
                    if channels == 1 { (at(0) + at(1)) / 2.0 } else { at(channel) }
                };
                let (n, rest) = (at as usize, at.fract());
                sample(n) * (1.0 - rest) + sample(n + 1) * rest
            };
            let (mut error, mut power) = (0.0, 0.0);
            for (frame, samples) in got.iter().enumerate() {
                for (channel, sample) in samples.iter().enumerate() {
                    let expected = expected(frame as f64 * 48_000.0 / f64::from(rate), channel);
                    error += (sample - expected).powi(2);
                    power += expected.powi(2);
                }
            }
            let limit = if rate == 48_000 { 1e-6 } else { 0.05 };
            assert!(power > 0.0 && error / power < limit, "{format:?}: {}", error / power);
        }
    }
    Ok(())
}

#[test]
fn after_a_reset_a_wave_sink_begins_anew() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let wave = WaveStream::open(&card, 3, SIZES, CARD)?;
    for until in [50, 30] {
        wave.set_state(State::Run)?;
        let periods = take(&card, &wave, RefTime(until * 10_000))?;
        assert_eq!((periods.len() as i64, periods[0].0, periods[0].1), (until / 20, RefTime(0), 0));
        card.reset()?;
        wave.restore()?;
        assert_eq!((wave.state(), wave.free_slots_and_buffers()), (Some(State::Stop), (8, 4)));
    }
    Ok(())
}

/// DDI: SampleToRefTime and RefTimeToSample: a crystal that is off is followed by SyncToMaster, with fStart once for
///     each RUN.
/// DDI: The latency clock is the master clock and the guaranteed latency.
#[test]
fn the_sample_clock_follows_a_crystal_that_is_off() -> anyhow::Result<()> {
    for (format, drift) in [(CARD, 500), (CARD, -500), (WaveFormat { rate: 44_100, ..CARD }, 137), (CARD, 0)] {
        let hosted = HostedCard::start_drifting(Transport::Own, ClockMode::Virtual, vec![], drift)?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let wave = WaveStream::open(&card, 0, SIZES, format)?;
        let actual = f64::from(format.rate) * (1.0 + f64::from(drift) / 1e6);
        let mut until = RefTime(0);
        for run in 0..2 {
            // The sample clock is zeroed: it begins with this RUN, wherever the counter is.
            wave.set_state(State::Pause)?;
            take(&card, &wave, until)?;
            wave.set_state(State::Run)?;
            until = RefTime(card.get_time().0 + 30_000_000);
            let periods = take(&card, &wave, until)?;
            // What the filter had not seen enough of at PAUSE comes first.
            let start = periods.first().map_or(0, |(time, ..)| time.0) + wave.time_base().0;
            assert!((until.0 - 30_000_000 - start).abs() < 20_000, "{start}");
            let frames: usize = periods.iter().map(|(_, _, bytes)| bytes.len() / format.frame_bytes()).sum();
            assert!((frames as f64 - 3.0 * actual).abs() < 0.03 * actual, "{frames} frames");
            for ahead in [0.0, 2.0, 3.0, 10.0] {
                let sample = SampleTime((ahead * actual) as u64);
                let time = wave.sample_to_ref_time(sample);
                let error = time.0 as f64 - start as f64 - sample.0 as f64 / actual * 1e7;
                // Far from where the loop was last corrected, what it has not learnt of the drift adds up.
                let limit = if ahead == 3.0 { 1000.0 } else { 10_000.0 };
                assert!(error.abs() < limit, "run {run}, {drift} ppm, after {ahead} s: {error}");
                assert_eq!(wave.ref_time_to_sample(time), sample);
            }
        }
        assert!(card.get_latency_time() > card.get_time());
    }
    Ok(())
}

/// DDI: A wave sink that nobody pulls from loses nothing: with the virtual clock, time waits.
#[test]
fn virtual_time_stands_at_a_period_without_a_posted_slot() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = bare(&platform, CARD)?;
    let posted = 3;
    post(&s, posted);
    s.set_state(State::Run)?;
    s.grant(seconds(1));
    let frames = u64::from(BUFFER_SIZE) / 4;
    for number in 0..posted {
        let done = s.completion()?;
        assert_eq!(
            (done.slot, done.status, done.time),
            (number, Status::Presented, CARD.duration(u64::from(number * BUFFER_SIZE)).0)
        );
    }
    // One period more is rendered, and waits.
    let stands = SampleTime(u64::from(posted + 1) * frames).to_time(48_000);
    let master = || platform.doorbell().load_u64(doorbell::MASTER_TIME, Ordering::Acquire) as i64;
    s.until("the next period", || master() >= stands.0)?;
    post(&s, 1);
    let done = s.completion()?;
    assert_eq!((done.slot, done.time), (0, SampleTime(u64::from(posted) * frames).to_time(48_000).0));
    let stands = SampleTime(u64::from(posted + 2) * frames).to_time(48_000);
    s.until("the period after it", || master() >= stands.0)?;
    assert_eq!(master(), stands.0);
    Ok(())
}

#[test]
fn in_realtime_periods_without_slots_are_lost_counted_and_reported_and_those_that_come_are_whole() -> anyhow::Result<()>
{
    let hosted = HostedCard::start(ClockMode::Realtime)?;
    let platform = hosted.connect()?;
    let s = bare(&platform, WaveFormat { rate: 96_000, channels: 2, sample: Sample::F32 })?;
    s.set_state(State::Run)?;
    // 768,000 bytes a second, of which 1 MiB may wait.
    s.until("an overrun", || s.take_fault() == Some(Fault::CaptureOverrun))?;
    post(&s, 2);
    let (first, second) = (s.completion()?, s.completion()?);
    assert!(first.time > 0, "the oldest were not dropped");
    let period = SampleTime(u64::from(BUFFER_SIZE) / 8).to_time(96_000).0;
    assert!((second.time - first.time - period).abs() <= 1, "{first:?} {second:?}");
    Ok(())
}

/// A wave sink stream without manners, in ACQUIRE.
fn bare<B: Bus>(platform: &B, format: WaveFormat) -> anyhow::Result<RawStream<'_, B>> {
    let s = RawStream::prepare(platform, PointerWidth::Eight)?;
    s.write(stream::WAVE_RATE, format.rate);
    s.write(stream::WAVE_FORMAT, format.value());
    ensure!(s.transition(stream::TYPE, Type::WaveSink.value())?.is_none());
    s.set_state(State::Acquire)?;
    Ok(s)
}

fn post<B: Bus>(s: &RawStream<'_, B>, count: u32) {
    for number in 0..count {
        s.fill(number, s.event(0, 0, Data::Inline(s.buffer_iova(number).to_le_bytes())));
        s.put(number);
    }
    s.publish();
}

#[test]
fn what_is_wrong_with_a_wave_sink_is_refused_with_its_reason() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    for (rate, format) in [(0, 2), (44_101, 2), (48_000, 0), (48_000, 3), (48_000, 0x202), (u32::MAX, u32::MAX)] {
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        s.write(stream::WAVE_RATE, rate);
        s.write(stream::WAVE_FORMAT, format);
        assert_eq!(s.transition(stream::TYPE, Type::WaveSink.value())?, Some(Fault::BadValue), "{rate} {format:#x}");
    }
    // No buffers to render into; and a type that does not exist.
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    s.write(stream::WAVE_RATE, 48_000);
    s.write(stream::WAVE_FORMAT, CARD.value());
    s.write(stream::BUFFER_COUNT, 0);
    assert_eq!(s.transition(stream::TYPE, Type::WaveSink.value())?, Some(Fault::BadBuffers));
    assert_eq!(s.transition(stream::TYPE, 2 | stream::UNCOOKED)?, Some(Fault::BadValue));
    assert_eq!(s.transition(stream::TYPE, 3)?, Some(Fault::BadValue));

    let s = bare(&platform, CARD)?;
    s.write(stream::WAVE_RATE, 44_100);
    assert_eq!(s.take_fault(), Some(Fault::Locked));
    // Slots that are no empty ones, or whose buffers are none, are rejected; the good one among them is filled.
    let empty = s.event(0, 0, Data::Inline(s.buffer_iova(0).to_le_bytes()));
    let mut full = empty;
    full.event_bytes = 3;
    for (slot, event) in
        [(0, full), (1, s.event(0, 0, Data::Inline((s.buffer_iova(0) + 8).to_le_bytes()))), (2, empty), (3, empty)]
    {
        s.fill(slot, event);
        s.put(slot);
    }
    s.publish();
    s.set_state(State::Run)?;
    s.grant(seconds(1));
    let reasons =
        [(0, Some(Reject::NotEmpty)), (1, Some(Reject::BadBuffer)), (3, Some(Reject::BufferInFlight)), (2, None)];
    for expected in reasons {
        let done = s.completion()?;
        assert_eq!((done.slot, done.reason), expected);
    }
    Ok(())
}

#[test]
fn the_driver_refuses_formats_that_no_card_has_and_streams_without_buffers() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    for format in
        [WaveFormat { rate: 8000, ..CARD }, WaveFormat { channels: 3, ..CARD }, WaveFormat { channels: 0, ..CARD }]
    {
        let refused = WaveStream::open(&card, 0, SIZES, format).map(|_| ());
        assert!(matches!(refused, Err(DriverError::BadConfig(_))), "{format:?}");
    }
    for (index, config) in
        [(0, StreamConfig { buffers: 0, ..SIZES }), (8, SIZES), (0, StreamConfig { buffer_size: 12, ..SIZES })]
    {
        let refused = WaveStream::open(&card, index, config, CARD).map(|_| ());
        assert!(matches!(refused, Err(DriverError::BadConfig(_))), "{index} {config:?}");
    }
    Ok(())
}

#[test]
fn a_song_played_through_comes_back_whole_in_periods_of_any_size() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(300))?;
    for buffer_size in [8, 1000, 65_528] {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let mut heard = vec![];
        {
            let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
            let render = RenderStream::open(&card, 0, StreamConfig::default())?;
            // Few slots, or the smallest periods would take a turn of both sides each.
            let slots = if buffer_size == 8 { 512 } else { 2 };
            let config = StreamConfig { slots, buffers: slots, buffer_size };
            let wave = WaveStream::open(&card, 1, config, CARD)?;
            let end = song.end().saturating_add(RefTime(100_000));
            let listener = |period: &[u8]| -> anyhow::Result<()> {
                ensure!(period.len() <= buffer_size as usize);
                heard.extend_from_slice(period);
                Ok(())
            };
            let played = play_through(&render, &wave, song.messages(), end, listener, |_| {})?;
            assert_eq!(played.counts.presented, song.len() as u64);
        }
        let audio: Vec<u8> = hosted.finish()?.samples().iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert!(!audio.is_empty() && heard == audio, "periods of {buffer_size}: {} of {}", heard.len(), audio.len());
    }
    Ok(())
}

#[test]
fn nothing_that_a_guest_does_to_a_wave_sink_keeps_the_card_from_the_next_driver() -> anyhow::Result<()> {
    // Without a transport: those refuse some of these before the card sees them.
    let platform = Direct::new()?;
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u8
    };
    for round in 0..150 {
        platform.device_reset();
        platform.write_config(4, &[6, 0]);
        let format = WaveFormat { rate: WaveFormat::RATES[round % 4], ..CARD };
        let s = bare(&platform, format)?;
        post(&s, 8);
        s.set_state(State::Run)?;
        s.grant(i64::from(random()) * 1000);
        let bytes: Vec<u8> = (0..600).map(|_| random()).collect();
        let mut bytes = &bytes[..];
        while let Some(attack) = Attack::decode(&mut bytes) {
            attack.carry_out(&s);
        }
        next_driver_plays(&platform)?;
    }
    Ok(())
}
