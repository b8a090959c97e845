//! The wave sink (ISynthSinkDMus): PCM, positions, and the sample clock.

use crate::fixture::{LIMIT, NOTE, SIZES, ms, until};
use alloc::vec::Vec;
use anyhow::ensure;
use dmus_driver::{Card, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::regs::stream::State;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_interface::wave::{Sample, WaveFormat};

checks! {
    periods_continue_one_another: "Render writes synthesised PCM of so many bytes at a byte position; the next \
        continues there.",
    what_is_rendered_is_what_was_put: "What the wave sink brings is what the render streams play: silence before a \
        note, and sound from its time on.",
    render_streams_are_summed: "Each render stream is a synthesizer of its own, and their outputs are summed.",
    stop_silences_and_pause_stands: "In STOP a stream's synthesizer is silent and reset; in PAUSE what sounds stands \
        still, and goes on with RUN.",
    every_format_has_its_frames: "The wave sink's format: 22,050, 44,100, 48,000 or 96,000 Hz, 16-bit or floating \
        point, mono or stereo.",
    only_run_brings_frames: "Presentation time does not advance in PAUSE, for a wave sink either; STOP resets it, and \
        the position.",
    samples_and_times_convert_into_one_another: "SampleToRefTime and RefTimeToSample convert between 100 ns and \
        sample positions.",
    the_sample_clock_begins_with_run: "SyncToMaster's fStart is true on the first call after entering RUN: the sample \
        clock is zeroed.",
    the_sample_clock_follows_by_fractions: "SyncToMaster, called periodically, corrects the sample clock by a \
        fraction of the difference each time.",
    the_latency_clock_is_ahead_by_a_constant: "The latency clock is the master clock and a guaranteed latency.",
    virtual_time_waits_for_a_wave_sink: "A wave sink that nobody pulls from loses nothing with the virtual clock.",
}

const PCM: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
/// 20 ms.
const PERIOD: u32 = 3840;
const PERIODS: StreamConfig = StreamConfig { slots: 8, buffers: 4, buffer_size: PERIOD };

/// Time of the first frame, byte position, bytes.
type Period = (RefTime, u64, Vec<u8>);

/// What is rendered until a master time. Time stands at the end of a period that has no slot: what ends just then may
/// still be on its way.
fn take<P: Platform>(card: &Card<P>, wave: &WaveStream<'_, P>, time: RefTime) -> anyhow::Result<Vec<Period>> {
    let mut periods = Vec::new();
    card.grant(time);
    until(card, "the granted time", || {
        let there = card.get_time() >= time;
        while let Some(period) = wave.receive()? {
            periods.push((period.time(), period.byte_position(), period.to_vec()));
        }
        Ok(there)
    })?;
    Ok(periods)
}

fn sizes(periods: &[Period]) -> Vec<(i64, u64, usize)> {
    periods.iter().map(|(time, position, bytes)| (time.0 / 10_000, *position, bytes.len())).collect()
}

fn periods_continue_one_another<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 1, PERIODS, PCM)?;
    wave.set_state(State::Run)?;
    let periods = take(card, &wave, ms(201))?;
    let expected: Vec<_> = (0..10).map(|n| (n * 20, n as u64 * u64::from(PERIOD), PERIOD as usize)).collect();
    ensure!(sizes(&periods) == expected);
    wave.set_state(State::Stop)?;
    ensure!(
        wave.receive()?.is_none() && wave.free_slots_and_buffers() == (8, 4),
        "only {:?} are free",
        wave.free_slots_and_buffers()
    );
    Ok(())
}

fn what_is_rendered_is_what_was_put<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let wave = WaveStream::open(card, 1, PERIODS, PCM)?;
    wave.set_state(State::Run)?;
    render.set_state(State::Run)?;
    render.send(ms(50), 0, &NOTE)?;
    render.flush();
    let periods = take(card, &wave, ms(201))?;
    let bytes: Vec<u8> = periods.into_iter().flat_map(|(_, _, bytes)| bytes).collect();
    let (frames, _) = bytes.as_chunks::<4>();
    let first = frames.iter().position(|frame| *frame != [0; 4]);
    // A sound begins softly.
    ensure!(first.is_some_and(|first| (2400..2600).contains(&first)), "the first sound is in frame {first:?}");
    ensure!(frames.len() == 9600);
    Ok(())
}

/// What sounds until a master time, sample by sample.
fn sound<P: Platform>(card: &Card<P>, wave: &WaveStream<'_, P>, time: RefTime) -> anyhow::Result<Vec<i16>> {
    let periods = take(card, wave, time)?;
    let bytes: Vec<u8> = periods.into_iter().flat_map(|(_, _, bytes)| bytes).collect();
    Ok(bytes.as_chunks::<2>().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect())
}

fn render_streams_are_summed<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let play = |keys: [Option<u8>; 2]| -> anyhow::Result<Vec<i16>> {
        card.reset()?;
        let streams = [RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 4, SIZES)?];
        let wave = WaveStream::open(card, 1, PERIODS, PCM)?;
        wave.set_state(State::Run)?;
        for (stream, key) in streams.iter().zip(keys) {
            stream.set_state(State::Run)?;
            if let Some(key) = key {
                stream.send(ms(1), 0, &[0x90, key, 80])?;
                stream.flush();
            }
        }
        sound(card, &wave, ms(101))
    };
    let (one, other) = (play([Some(60), None])?, play([None, Some(67)])?);
    let both = play([Some(60), Some(67)])?;
    ensure!(both.len() == 9600 && one.len() == both.len() && other.len() == both.len());
    ensure!([&one, &other].iter().all(|alone| alone.iter().any(|sample| sample.unsigned_abs() > 200)));
    // Each is rounded by itself.
    let sum = one.iter().zip(&other).map(|(one, other)| one.saturating_add(*other));
    let wrong = sum.zip(&both).position(|(sum, both)| sum.abs_diff(*both) > 1);
    ensure!(wrong.is_none(), "sample {wrong:?} is not the sum");
    // Two of the same would show nothing.
    ensure!(one != other);
    Ok(())
}

fn stop_silences_and_pause_stands<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let play = |pause: bool| -> anyhow::Result<Vec<i16>> {
        card.reset()?;
        let render = RenderStream::open(card, 0, SIZES)?;
        let wave = WaveStream::open(card, 1, PERIODS, PCM)?;
        wave.set_state(State::Run)?;
        render.set_state(State::Run)?;
        render.send(ms(1), 0, &NOTE)?;
        render.flush();
        let mut captured = sound(card, &wave, ms(61))?;
        if pause {
            // Both stand, so that what comes after is what would have come.
            render.set_state(State::Pause)?;
            wave.set_state(State::Pause)?;
            captured.extend(sound(card, &wave, ms(161))?);
            wave.set_state(State::Run)?;
            render.set_state(State::Run)?;
            captured.extend(sound(card, &wave, ms(221))?);
        } else {
            captured.extend(sound(card, &wave, ms(121))?);
        }
        ensure!(captured.len() >= 9600, "{} samples", captured.len());
        captured.truncate(9600);
        if !pause {
            let now = card.get_time();
            render.set_state(State::Stop)?;
            // The period that had begun, and one more.
            sound(card, &wave, now.saturating_add(ms(41)))?;
            let after = sound(card, &wave, now.saturating_add(ms(101)))?;
            ensure!(!after.is_empty() && after.iter().all(|sample| *sample == 0), "STOP left sound");
        }
        Ok(captured)
    };
    let (through, paused) = (play(false)?, play(true)?);
    ensure!(through.iter().any(|sample| sample.unsigned_abs() > 200), "nobody hears a note");
    let differs = through.iter().zip(&paused).position(|(through, paused)| through != paused);
    ensure!(differs.is_none(), "from sample {differs:?} on, what was paused is not what would have come");
    Ok(())
}

fn every_format_has_its_frames<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for rate in WaveFormat::RATES {
        for (channels, sample) in [(1, Sample::S16), (2, Sample::S16), (1, Sample::F32), (2, Sample::F32)] {
            let format = WaveFormat { rate, channels, sample };
            card.reset()?;
            let render = RenderStream::open(card, 0, SIZES)?;
            let wave = WaveStream::open(card, 1, PERIODS, format)?;
            wave.set_state(State::Run)?;
            render.set_state(State::Run)?;
            render.send(ms(10), 0, &NOTE)?;
            render.flush();
            let mut periods = take(card, &wave, ms(100))?;
            wave.set_state(State::Pause)?;
            periods.extend(take(card, &wave, ms(101))?);
            let len: usize = periods.iter().map(|(_, _, bytes)| bytes.len()).sum();
            let (frames, expected) = (len / format.frame_bytes(), rate as usize / 10);
            // Other rates come from a filter that looks 2 ms ahead.
            let ahead = if rate == card.sample_rate() { 0 } else { rate as usize / 500 };
            ensure!(len.is_multiple_of(format.frame_bytes()) && frames <= expected, "{format:?}: {len} bytes");
            ensure!(frames + ahead >= expected, "{format:?}: {frames} frames of {expected}");
            let sounds = periods.iter().any(|(_, _, bytes)| bytes.iter().any(|byte| *byte != 0));
            ensure!(sounds, "{format:?} is silent");
        }
    }
    Ok(())
}

fn only_run_brings_frames<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 3, PERIODS, PCM)?;
    wave.set_state(State::Acquire)?;
    ensure!(take(card, &wave, ms(5))?.is_empty(), "ACQUIRE brought frames");
    wave.set_state(State::Run)?;
    ensure!(sizes(&take(card, &wave, ms(30))?) == [(0, 0, 3840)]);
    wave.set_state(State::Pause)?;
    // 5 ms of a period were there.
    ensure!(sizes(&take(card, &wave, ms(90))?) == [(20, 3840, 960)]);
    wave.set_state(State::Run)?;
    ensure!(sizes(&take(card, &wave, ms(111))?) == [(25, 4800, 3840)]);
    ensure!(wave.time_base() == ms(65), "stream time goes on at {}", wave.time_base());
    wave.set_state(State::Stop)?;
    ensure!(wave.receive()?.is_none(), "STOP brought the rest");
    wave.set_state(State::Run)?;
    ensure!(sizes(&take(card, &wave, ms(140))?) == [(0, 0, 3840)]);
    Ok(())
}

fn samples_and_times_convert_into_one_another<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 0, PERIODS, PCM)?;
    wave.set_state(State::Run)?;
    take(card, &wave, ms(100))?;
    for sample in [0, 1, 47, 48_000, 48_000 * 3600 + 1] {
        let time = wave.sample_to_ref_time(SampleTime(sample));
        ensure!(time == SampleTime(sample).to_time(PCM.rate), "sample {sample} is at {time}");
        ensure!(wave.ref_time_to_sample(time) == SampleTime(sample));
        // What begins after a sample is the next one's.
        ensure!(wave.ref_time_to_sample(RefTime(time.0 + 1)) == SampleTime(sample + 1));
    }
    Ok(())
}

fn the_sample_clock_begins_with_run<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 0, PERIODS, PCM)?;
    for state in [State::Pause, State::Acquire, State::Stop] {
        wave.set_state(State::Run)?;
        let began = card.get_time();
        take(card, &wave, began.saturating_add(ms(100)))?;
        let zero = wave.sample_to_ref_time(SampleTime(0));
        ensure!(zero == began, "RUN began at {began}, the sample clock at {zero}");
        wave.set_state(state)?;
        take(card, &wave, card.get_time().saturating_add(ms(33)))?;
    }
    Ok(())
}

fn the_sample_clock_follows_by_fractions<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 0, PERIODS, PCM)?;
    wave.sync_to_master(RefTime(0), SampleTime(1000), true);
    ensure!(wave.ref_time_to_sample(RefTime(0)) == SampleTime(0), "fStart does not zero");
    // A crystal that is 400 ppm fast, and a millisecond ahead after the first 20 ms.
    let counted = |n: i64| SampleTime(1048 + (n * 960_384 / 1000) as u64);
    let error = |wave: &WaveStream<'_, P>, n: i64| {
        let at = wave.sample_to_ref_time(SampleTime(counted(n).0 - 1000));
        (at.0 - n * 200_000).abs()
    };
    let mut last = 10_100;
    for n in 1..=100 {
        wave.sync_to_master(RefTime(n * 200_000), counted(n), false);
        let now = error(&wave, n);
        ensure!(now < 10_100 && now > last / 2 - 500, "from {last} to {now} in the call {n}");
        last = now;
    }
    // Two seconds later it is locked, to about a sample.
    ensure!(error(&wave, 101) < 500, "off by {} after two seconds", error(&wave, 101));
    Ok(())
}

fn the_latency_clock_is_ahead_by_a_constant<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SIZES)?;
    stream.set_state(State::Run)?;
    let mut ahead = None;
    for step in 0..5 {
        crate::fixture::reach(card, ms(step * 7))?;
        let now = card.get_latency_time().saturating_sub(card.get_time());
        ensure!(now > RefTime::ZERO && now == *ahead.get_or_insert(now), "{now} ahead of the master clock");
    }
    Ok(())
}

fn virtual_time_waits_for_a_wave_sink<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wave = WaveStream::open(card, 0, PERIODS, PCM)?;
    wave.set_state(State::Run)?;
    card.grant(ms(1000));
    // Four periods have a slot, and one more is rendered.
    until(card, "the fifth period", || Ok(card.get_time() >= ms(100)))?;
    card.platform().wait(0, LIMIT / 100);
    ensure!(card.get_time() == ms(100), "time went on to {}", card.get_time());
    let periods = take(card, &wave, ms(1001))?;
    ensure!(periods.len() == 50);
    ensure!((0..).zip(&periods).all(|(n, (_, position, _))| *position == n * u64::from(PERIOD)));
    Ok(())
}
