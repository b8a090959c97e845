//! Connection blocks, loops, phase lock, pedals and effects, as collections ask for them.
//!
//! Fed by collections of one region, so that what a block does has a known answer.

use super::*;
use crate::collection::connection::{Connection, Destination as D, Source as S, Transform};
use crate::collection::{self, Info, LoopKind, Samples, Wave, WaveLink};

/// A sine of 440 Hz at key 69, of 40 periods.
pub(super) fn sine_wave() -> Wave {
    let turn = |t: usize| core::f64::consts::TAU * 40.0 * t as f64 / 4800.0;
    let samples: Vec<i16> = (0..4800).map(|t| (32_767.0 * libm::sin(turn(t))) as i16).collect();
    wave(samples, 52_800, 69, (0, 4800), LoopKind::Forward)
}

pub(super) fn wave(samples: Vec<i16>, rate: u32, unity_note: u8, (start, length): (u32, u32), kind: LoopKind) -> Wave {
    let looped = Some(collection::Loop { kind, start, length });
    let sampling = Some(collection::Sampling { unity_note, looped, ..collection::Sampling::DEFAULT });
    Wave { id: None, info: Info::default(), rate, samples: Samples::new(samples), sampling }
}

pub(super) fn bank_of(waves: Vec<Wave>, regions: Vec<collection::Region>, connections: &[Connection]) -> Arc<Bank> {
    let instrument = collection::Instrument { regions, connections: connections.to_vec(), ..Default::default() };
    let collection = Collection { waves, instruments: vec![instrument], ..Collection::default() };
    Arc::new(Bank::new(&[collection]).expect("a bank"))
}

/// A synth whose sine has these connections, at full volume on the left.
pub(super) fn with(connections: &[Connection]) -> Synth {
    let bank = bank_of(vec![sine_wave()], vec![collection::Region::of(0)], connections);
    let mut s = Synth::new(bank, RATE, 1, 16);
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0]]);
    s
}

pub(super) fn from(source: S, destination: D, transform: u16, scale: f64) -> Connection {
    Connection::from(source, destination, Transform(transform), (scale * 65_536.0) as i32)
}

pub(super) fn constant(destination: D, value: f64) -> Connection {
    from(S::NONE, destination, 0, value)
}

pub(super) fn time(seconds: f64) -> f64 {
    1200.0 * libm::log2(seconds)
}

#[test]
fn all_keys_and_scale_tunings_are_in_tune() {
    for cents in [0.0, 25.0, 50.0, 100.0, 120.0] {
        for key in 0..128u8 {
            // As readers of SoundFonts write it: the scale turns about the unity note.
            let scale = [from(S::KEY, D::PITCH, 0, 128.0 * cents), constant(D::PITCH, 69.0 * (100.0 - cents))];
            let mut s = with(&scale);
            let hertz = key_hz(69.0 + (f64::from(key) - 69.0) * cents / 100.0);
            if !(12.0..20_000.0).contains(&hertz) {
                continue;
            }
            send(&mut s, &[[0x90, key, 127]]);
            let (left, _) = render(&mut s, 24_000);
            let off = cents_off(&left, hertz);
            assert!(off.abs() < 0.5, "key {key} at {cents} cents a key: {off} cents");
        }
    }
}

#[test]
fn a_key_that_is_fixed_or_moved_is_the_key_that_blocks_see() {
    for (block, expected) in [(constant(D::KEY, 6000.0), 60.0), (from(S::controller(20), D::KEY, 0, 12_800.0), 77.0)] {
        let mut s = with(&[block]);
        send(&mut s, &[[0xb0, 20, 10], [0x90, 67, 127]]);
        let off = cents_off(&render(&mut s, 24_000).0, key_hz(expected));
        assert!(off.abs() < 0.5, "{off} cents from {expected}");
    }
}

#[test]
fn envelope_times_are_right_within_a_percent() {
    for seconds in [0.2, 1.0, 4.0] {
        let level = |s: &mut Synth, samples: usize| {
            let (left, _) = render(s, samples);
            f64::from(peak(&left[samples.saturating_sub(40)..])) / f64::from(FULL)
        };
        let at = |part: f64| (part * seconds * f64::from(RATE)) as usize;
        // Half-way up, the amplitude is a half.
        let mut s = with(&[constant(D::EG1_ATTACK, time(seconds))]);
        send(&mut s, &[[0x90, 93, 127]]);
        let height = level(&mut s, at(0.5));
        assert!((height - 0.5).abs() < 0.005, "attack of {seconds} s: {height} at half");
        // 96 dB in the time of the decay, so 24 in a quarter of it; then the sustain.
        let sustain = [constant(D::EG1_DECAY, time(seconds)), constant(D::EG1_SUSTAIN, 500.0)];
        let mut s = with(&sustain);
        send(&mut s, &[[0x90, 93, 127]]);
        let fallen = 20.0 * level(&mut s, at(0.25)).log10();
        assert!((fallen + 24.0).abs() < 0.24 + 96.0 * 40.0 / at(1.0) as f64, "decay of {seconds} s: {fallen} dB");
        let sustained = 20.0 * level(&mut s, at(1.0)).log10();
        assert!((sustained + 48.0).abs() < 0.1, "{sustained} dB");
        let mut s = with(&[constant(D::EG1_RELEASE, time(seconds)), constant(D::EG1_DELAY, time(0.1))]);
        send(&mut s, &[[0x90, 93, 127]]);
        let early = level(&mut s, 4700);
        assert!(early < 1e-6 && level(&mut s, 500) > 0.9, "delayed by 0.1 s: {early}");
        send(&mut s, &[[0x80, 93, 0]]);
        render(&mut s, at(0.99));
        assert_eq!(s.sounding(), 1, "released for 99 % of {seconds} s");
        render(&mut s, at(0.02) + 3 * PERIOD);
        assert_eq!(s.sounding(), 0, "released for 101 % of {seconds} s");
    }
}

#[test]
fn the_filter_has_its_corner_and_its_resonance() {
    for resonance in [0.0f32, 6.0, 20.0] {
        let level = |key: u8| {
            let mut s = with(&[constant(D::CUTOFF, 6900.0), constant(D::RESONANCE, f64::from(resonance) * 10.0)]);
            send(&mut s, &[[0x90, key, 127]]);
            db(peak(&render(&mut s, 24_000).0[12_000..]) / FULL)
        };
        // Half of the height is taken off everything; at the corner it is Q, which is the height less 3 dB.
        let [low, corner, high] = [21, 69, 105].map(level);
        assert!((low + resonance / 2.0).abs() < 0.2, "{resonance} dB: {low} far below");
        assert!((corner - (resonance / 2.0 - 3.01)).abs() < 0.2, "{resonance} dB: {corner} at the corner");
        assert!((high + 36.0 + resonance / 2.0).abs() < 1.0, "{resonance} dB: {high} three octaves above");
    }
}

#[test]
fn oscillators_have_their_rate_depth_and_delay() {
    let vibrato = [
        from(S::VIBRATO, D::PITCH, 0x4000, 30.0),
        constant(D::VIBRATO_FREQUENCY, 6900.0 + 1200.0 * libm::log2(4.0 / 440.0)),
        constant(D::VIBRATO_DELAY, time(0.5)),
    ];
    let mut s = with(&vibrato);
    send(&mut s, &[[0x90, 93, 127]]);
    let (left, _) = render(&mut s, 96_000);
    let off: Vec<f64> = left.chunks_exact(960).map(|c| cents_off(c, key_hz(93.0))).collect();
    assert!(off[..24].iter().all(|cents| cents.abs() < 1.0), "it starts before its time");
    // Twenty milliseconds a window; a quarter turn takes 62.5 ms, four turns a second.
    for (window, cents) in off.iter().enumerate().skip(26) {
        let seconds = (window as f64 + 0.5) * 0.02 - 0.5;
        let expected = 30.0 * libm::sin(core::f64::consts::TAU * 4.0 * seconds);
        assert!((cents - expected).abs() < 1.5, "at {seconds} s: {cents}, not {expected}");
    }
}

#[test]
fn loops_are_exact_to_the_sample_and_left_at_release() {
    let samples: Vec<i16> = (0..2000u32).map(|t| (t.wrapping_mul(2_654_435_761) >> 18) as i16).collect();
    for (looped, kind) in
        [((100, 7), LoopKind::Forward), ((3, 1500), LoopKind::Forward), ((50, 333), LoopKind::Release)]
    {
        for (interpolation, code) in [
            (Interpolation::Linear, Code::best()),
            (Interpolation::Cubic, Code::best()),
            (Interpolation::Cubic, Code::Portable),
        ] {
            let hold = [constant(D::EG1_RELEASE, time(1000.0))];
            let wave = wave(samples.clone(), RATE, 60, looped, kind);
            let bank = bank_of(vec![wave], vec![collection::Region::of(0)], &hold);
            let mut s = Synth::new(bank, RATE, 1, 4).with_interpolation(interpolation);
            s.code = code;
            send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 60, 127]]);
            let (mut left, _) = render(&mut s, 4999);
            send(&mut s, &[[0x80, 60, 0]]);
            left.extend(render(&mut s, 1000).0);
            let (start, length) = (looped.0 as usize, looped.1 as usize);
            let turned = |at: usize| if at < start { at } else { start + (at - start) % length };
            for (at, x) in left.iter().enumerate() {
                let index = match kind {
                    LoopKind::Release if at > 4999 => turned(4999) + (at - 4999),
                    _ => turned(at),
                };
                let expected = samples.get(index).map_or(0.0, |x| f32::from(*x) / 32_768.0 * FULL);
                // In the release it falls by a dB a second.
                assert!((x - expected).abs() < 4e-3 * expected.abs() + 1e-6, "{looped:?} {kind:?}: {x} at {at}");
            }
        }
    }
}

#[test]
fn phase_locked_regions_run_in_step() {
    let (mut left, mut right) = (sine_wave(), sine_wave());
    right.sampling = right.sampling.map(|own| collection::Sampling { fine_tune: 35, ..own });
    left.rate -= 1;
    let link =
        |wave, channels, phase_master| WaveLink { wave, channels, phase_group: 3, phase_master, multichannel: true };
    let region = |link| collection::Region { link, ..collection::Region::of(0) };
    for master in [false, true] {
        let regions = vec![region(link(0, WaveLink::LEFT, !master)), region(link(1, WaveLink::RIGHT, master))];
        let bank = bank_of(vec![left.clone(), right.clone()], regions, &[]);
        let mut s = Synth::new(bank, RATE, 1, 16);
        send(&mut s, &[[0x90, 69, 127]]);
        let mut played = render(&mut s, 4800);
        send(&mut s, &[[0xe0, 0, 100]]);
        let bent = render(&mut s, 48_000);
        played.0.extend(bent.0);
        played.1.extend(bent.1);
        assert!(played.0 == played.1 && peak(&played.0) > 0.1, "the second leads: {master}");
    }
}

#[test]
fn pressure_and_unusual_blocks_move_what_they_say() {
    // Channel pressure, poly pressure, and an envelope that scales an oscillator, which is no plain depth.
    for (block, message) in [
        (from(S::CHANNEL_PRESSURE, D::GAIN, 0, -480.0), &[0xd0, 64][..]),
        (from(S::POLY_PRESSURE, D::GAIN, 0, -480.0), &[0xa0, 69, 64]),
        (from(S::controller(20), D::GAIN, 0, -480.0).controlled(S::EG2), &[0xb0, 20, 64]),
        (from(S::EG1, D::GAIN, 0, -240.0).controlled(S::EG2), &[0xb0, 20, 64]),
    ] {
        let mut s = with(&[block]);
        send(&mut s, &[[0x90, 69, 127]]);
        s.message(0, message);
        let level = db(peak(&render(&mut s, 24_000).0[12_000..]) / FULL);
        assert!((level + 24.0).abs() < 0.1, "{block:?}: {level} dB");
    }
}

#[test]
fn connections_in_circles_are_gone_through_once() {
    let play = |blocks: &[Connection]| {
        let mut s = with(blocks);
        send(&mut s, &[[0x90, 60, 127]]);
        render(&mut s, 24_000).0
    };
    // A key that moves itself is moved once: from 60 by 60 x 100 / 128 semitones.
    let off = cents_off(&play(&[from(S::KEY, D::KEY, 0, 10_000.0)]), key_hz(60.0 + 60.0 * 100.0 / 128.0));
    assert!(off.abs() < 0.5, "{off} cents");
    // What moves is at rest when the times and rates of a note are worked out: an oscillator or envelope does not move
    // its own.
    let vibrato = from(S::VIBRATO, D::PITCH, 0x4000, 30.0);
    let sweep =
        [from(S::EG2, D::PITCH, 0, 600.0), constant(D::EG2_ATTACK, time(0.2)), constant(D::EG2_DECAY, time(0.3))];
    let decay = [constant(D::EG1_DECAY, time(1.0)), constant(D::EG1_SUSTAIN, 0.0)];
    let straight = [&[vibrato][..], &sweep, &decay].concat();
    let circles = [
        from(S::VIBRATO, D::VIBRATO_FREQUENCY, 0x4000, 2400.0),
        from(S::VIBRATO, D::VIBRATO_DELAY, 0x4000, 2400.0),
        from(S::EG2, D::EG2_ATTACK, 0, 2400.0),
        from(S::EG2, D::EG2_DECAY, 0, 2400.0).controlled(S::EG1),
        from(S::EG1, D::EG1_DECAY, 0, 2400.0),
        from(S::EG1, D::EG1_SUSTAIN, 0, 500.0).controlled(S::EG2),
        from(S::EG1, D::KEY, 0, 1200.0),
    ];
    assert!(play(&[&straight[..], &circles].concat()) == play(&straight));
    // Two that move one sound by each other are a product, which is finite.
    let product = [
        from(S::VIBRATO, D::PITCH, 0x4000, 1200.0).controlled(S::VIBRATO),
        from(S::EG1, D::GAIN, 0, 100.0).controlled(S::EG1),
    ];
    assert!(play(&[&straight[..], &product].concat()).iter().all(|x| x.abs() < 8.0));
}

#[test]
fn regions_are_chosen_by_key_and_velocity_and_layers_sound_together() {
    let region = |keys, velocities| collection::Region { keys, velocities, ..collection::Region::of(0) };
    let soft = region((0, 63), (0, 63));
    let loud = region((0, 63), (64, 127));
    let layer = region((40, 127), (100, 127));
    let bank = bank_of(vec![sine_wave()], vec![soft, loud, layer], &[]);
    for (key, velocity, voices) in [
        (0, 1, 1),
        (63, 63, 1),
        (63, 64, 1),
        (39, 127, 1),
        (40, 99, 1),
        (40, 100, 2),
        (63, 127, 2),
        (64, 127, 1),
        (127, 100, 1),
        (64, 99, 0),
        (100, 1, 0),
    ] {
        let mut s = Synth::new(Arc::clone(&bank), RATE, 1, 8);
        send(&mut s, &[[0x90, key, velocity]]);
        assert_eq!(s.sounding(), voices, "key {key}, velocity {velocity}");
    }
}

#[test]
fn general_midi_2_starts_with_reverb_and_omni_messages_end_notes() {
    for (system, echoes) in [(1, false), (3, true)] {
        let mut s = with(&[]);
        s.message(0, &[0xf0, 0x7e, 0x7f, 9, system, 0xf7]);
        send(&mut s, &[[0x90, 60, 127]]);
        render(&mut s, 4800);
        send(&mut s, &[[0xb0, 120, 0]]);
        render(&mut s, 960);
        assert_eq!((s.sounding(), peak(&render(&mut s, 9600).0) > 1e-4), (0, echoes), "system {system}");
    }
    for mode in 123..=127 {
        let mut s = with(&[]);
        send(&mut s, &[[0x90, 60, 127], [0xb0, mode, 0]]);
        render(&mut s, 4800);
        assert_eq!(s.sounding(), 0, "{mode}");
    }
}

#[test]
fn sostenuto_mono_and_bank_select() {
    let mut s = with(&[]);
    send(&mut s, &[[0x90, 60, 100], [0xb0, 66, 127], [0x90, 64, 100], [0x80, 60, 0], [0x80, 64, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 1, "the pedal holds what was down");
    send(&mut s, &[[0xb0, 66, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 0);
    send(&mut s, &[[0xb0, 126, 1], [0x90, 60, 100], [0x90, 64, 100]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 1, "one note at a time");
    send(&mut s, &[[0xb0, 127, 0], [0xb0, 0, 120], [0xc0, 0, 0], [0x90, 60, 100]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 0, "bank 120 is percussion, of which there is none");
}

#[test]
fn the_lowest_priority_is_stolen_first() {
    let bank = bank_of(vec![sine_wave()], vec![collection::Region::of(0)], &[]);
    let mut s = Synth::new(bank, RATE, 1, 3);
    // The last channel is worth least, and the first one most of those that are not percussion.
    send(&mut s, &[[0x9f, 60, 127], [0x90, 61, 1], [0x95, 62, 127], [0x94, 63, 127]]);
    let mut keys: Vec<u8> = s.voices.iter().filter(|v| v.counts()).map(|v| v.key).collect();
    keys.sort();
    assert_eq!(keys, [61, 62, 63]);
}

#[test]
fn sends_echo_and_end_in_exact_silence() {
    for controller in [91, 93] {
        let play = |value: u8, dry: bool| {
            let mut s = with(&[]);
            s.dry = dry;
            send(&mut s, &[[0xb0, controller, value], [0x90, 69, 127]]);
            render(&mut s, 4800);
            send(&mut s, &[[0x80, 69, 0]]);
            render(&mut s, 600);
            // A chorus ends within 15 ms, a reverb does not.
            let tail = peak(&render(&mut s, 400).1);
            let (left, right) = render(&mut s, 48_000 * 5);
            (tail, peak(&left[48_000 * 4..]).max(peak(&right[48_000 * 4..])), s.used)
        };
        let (tail, end, used) = play(100, false);
        assert!(tail > 1e-4 && end == 0.0 && used == 0, "{controller}: {tail} {end}");
        assert_eq!(play(0, false), (0.0, 0.0, 0));
        assert_eq!(play(100, true), (0.0, 0.0, 0));
    }
}

#[test]
fn echoes_end_at_one_sample_however_the_stream_is_cut() {
    let play = |block: usize| {
        let mut s = with(&[]);
        send(&mut s, &[[0xb0, 91, 127], [0x90, 69, 127]]);
        let (mut left, mut right) = (vec![0.0; 48_000 * 4], vec![0.0; 48_000 * 4]);
        s.render(&mut left[..100], &mut right[..100]);
        send(&mut s, &[[0x80, 69, 0]]);
        for (l, r) in left[100..].chunks_mut(block).zip(right[100..].chunks_mut(block)) {
            s.render(l, r);
        }
        left.iter().chain(&right).map(|x| x.to_bits()).collect::<Vec<u32>>()
    };
    let whole = play(48_000 * 4);
    for block in [1, 31, 77, 480] {
        assert!(play(block) == whole, "blocks of {block}");
    }
}
