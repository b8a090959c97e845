//! What download chunks say is what is heard: articulations of Level 1, waves of 8 bits, connections in circles; and
//! chunks that end where they must not.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::collection::connection::{Connection, Destination as D, Source as S, Transform};
use dmus_card::collection::{Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{Card, DriverError, Mailbox, RenderStream, StreamConfig, play};
use dmus_interface::download::{self as layout, Problem};
use dmus_interface::event::PointerWidth;
use dmus_song::Song;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::songs;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

const RATE: f64 = 48_000.0;
/// Ticks a second of the songs here.
const SECOND: u32 = 192;

/// A sine of 1000 Hz at key 60, as a loop.
fn sine() -> Wave {
    let samples: Vec<i16> =
        (0..480).map(|t| (32_000.0 * (std::f64::consts::TAU * t as f64 / 48.0).sin()) as i16).collect();
    let looped = Some(Loop { kind: LoopKind::Forward, start: 0, length: 480 });
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    Wave { id: None, info: Default::default(), rate: 48_000, samples: Samples::new(samples), sampling }
}

/// Downloads chunks and plays: left and right, full scale is 1.
fn heard(chunks: &[Vec<u8>], messages: &[(u32, &[u8])]) -> anyhow::Result<[Vec<f64>; 2]> {
    let song = Song::parse(&songs::file(messages.iter().map(|(ticks, bytes)| (*ticks, bytes.to_vec()))))?;
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    for chunk in chunks {
        mailbox.download(chunk)?;
    }
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    play(&stream, song.messages(), song.duration(), |_| {})?;
    drop((stream, mailbox));
    drop(card);
    let samples = hosted.finish()?.samples();
    let side = |side: usize| samples.iter().skip(side).step_by(2).map(|x| f64::from(*x) / 32_768.0).collect();
    Ok([side(0), side(1)])
}

fn peak(side: &[f64], seconds: f64) -> f64 {
    let at = (seconds * RATE) as usize;
    side[at - 48..at + 48].iter().fold(0.0, |peak, x| peak.max(x.abs()))
}

/// Structures one after the other behind their offset table.
fn chunk(kind: u32, id: u32, structures: &[Vec<u8>]) -> Vec<u8> {
    let mut offset = 16 + 4 * structures.len() as u32;
    let mut table = Vec::new();
    for structure in structures {
        assert!(structure.len().is_multiple_of(4));
        table.extend(offset.to_le_bytes());
        offset += structure.len() as u32;
    }
    let entries = structures.len() as u32;
    let header =
        layout::DownloadInfo { kind: kind.into(), id: id.into(), entries: entries.into(), size: offset.into() };
    [header.as_bytes(), &table, &structures.concat()].concat()
}

fn instrument_layout(articulation: u32) -> Vec<u8> {
    let none = 0.into();
    let first = layout::Instrument {
        patch: none,
        first_region: 1.into(),
        articulation: articulation.into(),
        first_extension: none,
        copyright: none,
        flags: none,
    };
    first.as_bytes().to_vec()
}

/// The region of wave 1 with a loop of all of [`sine`].
fn region_layout(articulation: u32, next: u32) -> Vec<u8> {
    let range = [0.into(), 127.into()];
    let region = layout::Region {
        keys: range,
        velocities: range,
        options: 1.into(),
        key_group: 0.into(),
        articulation: articulation.into(),
        next: next.into(),
        first_extension: 0.into(),
        link: layout::WaveLink { options: 0.into(), phase_group: 0.into(), channels: 1.into(), wave: 1.into() },
        sample: layout::WaveSample {
            size: 20.into(),
            unity_note: 60.into(),
            fine_tune: 0.into(),
            gain: 0.into(),
            options: 0.into(),
            loops: 1.into(),
        },
    };
    let looped = layout::WaveLoop { size: 16.into(), kind: 0.into(), start: 0.into(), length: 480.into() };
    [region.as_bytes(), looped.as_bytes()].concat()
}

fn articulation_layout(content: u32) -> Vec<u8> {
    layout::Articulation { content: content.into(), first_extension: 0.into() }.as_bytes().to_vec()
}

fn fixed(value: f64) -> i32 {
    (value * 65_536.0) as i32
}

fn time(seconds: f64) -> i32 {
    fixed(1200.0 * seconds.log2())
}

/// One of each: what all fields say is heard.
fn params() -> layout::ArticParams {
    let frequency = fixed(6900.0 + 1200.0 * (4.0f64 / 440.0).log2());
    let lfo = [frequency, time(0.2), fixed(20.0), fixed(40.0), fixed(30.0), fixed(70.0)];
    let volume = [time(0.3), time(2.0), fixed(500.0), time(1.5), fixed(-1500.0), fixed(-900.0)];
    let pitch = [time(0.1), time(0.4), fixed(250.0), time(0.3), fixed(600.0), fixed(300.0)];
    layout::ArticParams {
        lfo: lfo.map(Into::into),
        volume: volume.map(Into::into),
        pitch: pitch.map(Into::into),
        pitch_range: fixed(120.0).into(),
        pan: fixed(-200.0).into(),
    }
}

/// The same in the terms of Level 2, as the specification has them.
fn blocks() -> Vec<Connection> {
    let params = params();
    let constant = |destination, value: i32| Connection::constant(destination, value);
    let from = |source, destination, bits, value: i32| Connection::from(source, destination, Transform(bits), value);
    let [frequency, delay, volume, pitch, wheel_volume, wheel_pitch] = params.lfo.map(|value| value.get());
    let wheel = S::controller(1);
    let mut blocks = vec![
        constant(D::LFO_FREQUENCY, frequency),
        constant(D::LFO_DELAY, delay),
        from(S::LFO, D::GAIN, 0x4000, volume),
        from(S::LFO, D::PITCH, 0x4000, pitch),
        from(S::LFO, D::GAIN, 0x4000, wheel_volume).controlled(wheel),
        from(S::LFO, D::PITCH, 0x4000, wheel_pitch).controlled(wheel),
        from(S::EG2, D::PITCH, 0, params.pitch_range.get()),
        constant(D::PAN, params.pan.get()),
    ];
    for (values, [attack, decay, sustain, release]) in [
        (params.volume, [D::EG1_ATTACK, D::EG1_DECAY, D::EG1_SUSTAIN, D::EG1_RELEASE]),
        (params.pitch, [D::EG2_ATTACK, D::EG2_DECAY, D::EG2_SUSTAIN, D::EG2_RELEASE]),
    ] {
        let [a, d, s, r, velocity, key] = values.map(|value| value.get());
        blocks.extend([constant(attack, a), constant(decay, d), constant(sustain, s), constant(release, r)]);
        blocks.extend([from(S::VELOCITY, attack, 0, velocity), from(S::KEY, decay, 0, key)]);
    }
    blocks
}

fn level_2(connections: Vec<Connection>) -> Vec<u8> {
    let link = dmus_card::collection::WaveLink { channels: 1, ..Region::of(0).link };
    let instrument = Instrument { regions: vec![Region { link, ..Region::of(0) }], connections, ..Default::default() };
    instrument_chunk(2, &instrument, &[sine()], &BTreeMap::from([(0, 1)]))
}

/// DDI: an instrument of DLS Level 1 (DMUS_ARTICULATION with DMUS_ARTICPARAMS) is played as its oscillator and
///     envelopes say
#[test]
fn an_articulation_of_level_1_is_heard_as_its_connections_are() -> anyhow::Result<()> {
    let wave = wave_chunk(1, &sine());
    let messages: [(u32, &[u8]); 8] = [
        (0, &[0x90, 60, 100]),
        (SECOND, &[0xB0, 1, 90]),
        (0, &[0x90, 76, 30]),
        (SECOND, &[0x80, 60, 0]),
        (SECOND / 2, &[0x80, 76, 0]),
        (0, &[0xE0, 0, 90]),
        (SECOND / 3, &[0x90, 40, 127]),
        (SECOND, &[0x80, 40, 0]),
    ];
    let params = params().as_bytes().to_vec();
    let shared = chunk(1, 2, &[instrument_layout(2), region_layout(0, 0), articulation_layout(3), params.clone()]);
    // A region's own stands before the instrument's, which is another one here.
    let mut other = params.clone();
    other[24..28].copy_from_slice(&time(3.0).to_le_bytes());
    let own =
        [instrument_layout(4), region_layout(2, 0), articulation_layout(3), params, articulation_layout(5), other];
    let expected = heard(&[wave.clone(), level_2(blocks())], &messages)?;
    for chunk in [shared, chunk(1, 2, &own)] {
        ensure!(heard(&[wave.clone(), chunk], &messages)? == expected, "Level 1 sounds otherwise");
    }
    ensure!(heard(&[wave, level_2(vec![])], &messages)? != expected, "nothing of it is heard");
    Ok(())
}

#[test]
fn levels_times_and_sides_of_level_1_are_what_the_numbers_say() -> anyhow::Result<()> {
    // Attack 0.4 s, decay 4 s (for 96 dB) to 75 % (24 dB down), release 2 s; and quite to the left.
    let mut envelope = layout::ArticParams {
        lfo: [0, i32::MIN, 0, 0, 0, 0].map(Into::into),
        volume: [time(0.4), time(4.0), fixed(750.0), time(2.0), 0, 0].map(Into::into),
        pitch: [i32::MIN, i32::MIN, 0, i32::MIN, 0, 0].map(Into::into),
        pitch_range: 0.into(),
        pan: fixed(-500.0).into(),
    };
    let play = |params: &layout::ArticParams, velocity: u8| {
        let own = params.as_bytes().to_vec();
        let chunk = chunk(1, 2, &[instrument_layout(2), region_layout(0, 0), articulation_layout(3), own]);
        let messages: [(u32, &[u8]); 4] =
            [(0, &[0xB0, 7, 127]), (0, &[0xB0, 91, 0]), (0, &[0x90, 60, velocity]), (2 * SECOND, &[0x80, 60, 0])];
        heard(&[wave_chunk(1, &sine()), chunk], &messages)
    };
    let [left, right] = play(&envelope, 127)?;
    let full = peak(&left, 0.4);
    let decibels = |seconds: f64| 20.0 * (peak(&left, seconds) / full).log10();
    // A window of 2 ms has the higher end of a slope.
    assert!((peak(&left, 0.2) / full - 0.5).abs() < 0.005, "half of the attack: {}", peak(&left, 0.2) / full);
    for (seconds, expected) in [(0.9, -12.0), (1.35, -22.8), (1.9, -24.0), (2.5, -48.0)] {
        assert!(
            (decibels(seconds) - expected).abs() < 0.15,
            "{} dB after {seconds} s, not {expected}",
            decibels(seconds)
        );
    }
    assert!(right.iter().all(|x| *x == 0.0));
    // Velocity makes the attack shorter: at full velocity by an octave of time, nearly.
    envelope.volume[4] = fixed(-1200.0).into();
    let [left, _] = play(&envelope, 127)?;
    let attack = 0.4 * 2f64.powf(-127.0 / 128.0);
    let height = peak(&left, 0.1) / full;
    assert!((height - 0.1 / attack).abs() < 0.01, "{height} of an attack of {attack} s after 0.1 s");
    Ok(())
}

#[test]
fn waves_of_8_bits_sound_as_the_same_numbers_in_16() -> anyhow::Result<()> {
    let bytes: Vec<u8> = (0..481u32).map(|t| (t * t / 7 % 251) as u8).collect();
    let wide = bytes.iter().map(|byte| (i16::from(*byte) - 128) << 8);
    let wide = Wave { samples: Samples::new(wide.collect::<Vec<i16>>()), ..sine() };
    for kind in [layout::WAVE, layout::ONE_SHOT_WAVE] {
        let wave = layout::Wave {
            first_extension: 0.into(),
            copyright: 0.into(),
            data: 1.into(),
            format: layout::WaveFormat::pcm(1, 48_000, 8),
        };
        let padded = [wave.as_bytes(), &[0; 2]].concat();
        // An odd number of samples, and the padding that puts the end of the chunk at a multiple of 4.
        let data = [&481u32.to_le_bytes()[..], &bytes, &[0; 3]].concat();
        let narrow = chunk(kind, 1, &[padded, data]);
        let instrument = level_2(vec![]);
        let messages: [(u32, &[u8]); 2] = [(0, &[0x90, 62, 100]), (SECOND, &[0x80, 62, 0])];
        let expected = heard(&[wave_chunk(1, &wide), instrument.clone()], &messages)?;
        ensure!(heard(&[narrow, instrument], &messages)? == expected, "8 bits sound otherwise");
        ensure!(peak(&expected[0], 0.5) > 0.05);
    }
    Ok(())
}

/// A refusal's problem and place.
fn refusal(chunk: &[u8]) -> anyhow::Result<Option<(Problem, u32)>> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    mailbox.download(&wave_chunk(1, &sine()))?;
    let free = mailbox.compact()?;
    match mailbox.download(chunk) {
        Err(DriverError::BadDownload { problem, at }) => {
            ensure!(mailbox.compact()? == free, "something stays");
            Ok(Some((problem, at)))
        }
        other => other.map(|_| None).map_err(Into::into),
    }
}

#[test]
fn articulations_that_lead_in_circles_are_refused() -> anyhow::Result<()> {
    let link = |content: u32, next: u32| [articulation_layout(content), next.to_le_bytes().to_vec()].concat();
    let list = |count: u32| {
        let block = layout::Connection {
            source: 0.into(),
            control: 0.into(),
            destination: 4.into(),
            transform: 0.into(),
            scale: 0.into(),
        };
        let header = layout::ConnectionList { size: 8.into(), count: count.into() };
        [header.as_bytes(), &block.as_bytes().repeat(count as usize)].concat()
    };
    // Header and table 36, instrument to 60, region to 132, links of 12 each.
    let chained = |first: u32, second: u32| {
        let structures = [instrument_layout(2), region_layout(0, 0), link(4, first), link(4, second), list(0)];
        chunk(3, 2, &structures)
    };
    assert_eq!(refusal(&chained(3, 0))?, None, "a chain of two lists");
    // To itself, to each other, and to what is no articulation but looks like one.
    for (first, second) in [(2, 0), (3, 2), (3, 3)] {
        let found = refusal(&chained(first, second))?;
        assert!(matches!(found, Some((Problem::Cycle, 132 | 144))), "{first} {second}: {found:?}");
    }
    // A chain may come by one list twice, but not by more connections than the chunk has room for.
    let many = |links: u32| {
        let mut structures = vec![instrument_layout(2), region_layout(0, 0)];
        structures.extend((0..links).map(|n| link(2 + links, if n + 1 == links { 0 } else { 3 + n })));
        structures.push(list(20));
        chunk(3, 2, &structures)
    };
    assert_eq!(refusal(&many(1))?, None);
    let found = refusal(&many(40))?;
    assert!(matches!(found, Some((Problem::Count, _))), "{found:?}");
    // An articulation of Level 1 that a region takes for its own content leads nowhere.
    let own = [instrument_layout(0), region_layout(1, 1)];
    let found = refusal(&chunk(1, 2, &own))?;
    assert!(found.is_some(), "{found:?}");
    Ok(())
}

/// A target of the fuzzer once took an error at the very end of a chunk for one outside.
#[test]
fn what_is_missing_at_the_end_of_a_chunk_is_missed_at_its_end() -> anyhow::Result<()> {
    let plain = Wave { sampling: None, ..sine() };
    let instrument = Instrument { regions: vec![Region::of(0)], ..Default::default() };
    let mut chunk = instrument_chunk(2, &instrument, &[plain], &BTreeMap::from([(0, 1)]));
    let end = chunk.len();
    // The region says that a loop follows it.
    chunk[end - 4] = 1;
    assert_eq!(refusal(&chunk)?, Some((Problem::TooShort, end as u32)));
    chunk[end - 4] = 0;
    assert_eq!(refusal(&chunk)?, None);
    // And an offset that leads just there.
    chunk[20..24].copy_from_slice(&(end as u32).to_le_bytes());
    assert_eq!(refusal(&chunk)?, Some((Problem::Offset, 20)));
    Ok(())
}
