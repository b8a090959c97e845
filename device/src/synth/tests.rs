//! Analytic tests of the engine; the built-in bank is heard in `music`.
//!
//! Fed by a test bank of one full-scale sine, so that every level, time and pitch has a known answer.

mod analytic;
mod dls;
mod exact;
mod meaning;
mod music;
mod robust;
mod settings;

use std::sync::{Arc, LazyLock};

use super::*;
use crate::bank::draft::{Articulation, Draft, Envelope, Filter, Instrument, Lfo, Loop, Region, Sampling};
use crate::collection::Collection;

pub(crate) const RATE: u32 = 48_000;
/// What a full-scale wave at velocity, volume and expression 127 peaks at on a hard-panned side.
const FULL: f32 = 0.57;

pub(crate) static GM: LazyLock<Arc<Bank>> = LazyLock::new(|| Arc::new(Bank::general_midi()));

/// A bank with one instrument, program 0, playing a sine (key 69: 440 Hz) with the given articulation.
fn sine_bank(articulation: Articulation, change: impl Fn(&mut Region)) -> Arc<Bank> {
    let mut bank = Draft::default();
    // 40 periods in 4800 samples at 52800 Hz are 440 Hz.
    let turn = |t: usize| core::f64::consts::TAU * 40.0 * t as f64 / 4800.0;
    let samples: Vec<i16> = (0..4800).map(|t| (32_767.0 * libm::sin(turn(t))) as i16).collect();
    let looped = Some(Loop { start: 0, length: 4800, until_release: false });
    let sampling = Sampling { unity_key: 69, fine_tune: 0, gain: 0.0, looped };
    let wave = bank.add_wave(&samples, 52_800, sampling);
    let articulation = bank.add_articulation(articulation);
    let mut region = Region {
        keys: (0, 127),
        velocities: (0, 127),
        wave,
        articulation,
        key_group: 0,
        self_exclusive: false,
        sampling: None,
    };
    change(&mut region);
    for drum in [false, true] {
        let regions = vec![region.clone()];
        bank.add_instrument(Instrument { bank: 0, program: 0, drum, regions });
    }
    ready(&bank)
}

fn ready(draft: &Draft) -> Arc<Bank> {
    Arc::new(Bank::new(&[Collection::from(draft)]).expect("a bank that can be played"))
}

fn sine() -> Synth {
    Synth::new(sine_bank(Articulation::DEFAULT, |_| ()), RATE, 1, 32)
}

fn shaped(amplitude: Envelope) -> Synth {
    let articulation = Articulation { amplitude, ..Articulation::DEFAULT };
    Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 32)
}

pub(crate) fn render(synth: &mut Synth, samples: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut left, mut right) = (vec![0.0; samples], vec![0.0; samples]);
    synth.render(&mut left, &mut right);
    (left, right)
}

pub(crate) fn send(synth: &mut Synth, messages: &[[u8; 3]]) {
    for message in messages {
        let length = if message[0] & 0xf0 == 0xc0 { 2 } else { 3 };
        synth.message(0, &message[..length]);
    }
}

pub(crate) fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, x| peak.max(x.abs()))
}

pub(crate) fn db(x: f32) -> f32 {
    20.0 * libm::log10f(x.max(1e-9))
}

/// The frequency of the fundamental, from the phase that it gains between two windows.
pub(crate) fn frequency(samples: &[f32], expected: f64) -> f64 {
    let gap = samples.len() / 2;
    let phase = |from: usize| {
        let (mut re, mut im) = (0.0f64, 0.0f64);
        for t in 0..gap {
            let turn = core::f64::consts::TAU * expected * (from + t) as f64 / f64::from(RATE);
            // A Hann window keeps other partials out.
            let window = 0.5 - 0.5 * libm::cos(core::f64::consts::TAU * t as f64 / gap as f64);
            let x = f64::from(samples[from + t]) * window;
            re += x * libm::cos(turn);
            im -= x * libm::sin(turn);
        }
        libm::atan2(im, re)
    };
    let mut gain = phase(gap) - phase(0);
    gain -= core::f64::consts::TAU * libm::round(gain / core::f64::consts::TAU);
    expected + gain / core::f64::consts::TAU * f64::from(RATE) / gap as f64
}

pub(crate) fn cents_off(samples: &[f32], expected: f64) -> f64 {
    1200.0 * libm::log2(frequency(samples, expected) / expected)
}

pub(crate) fn key_hz(key: f64) -> f64 {
    440.0 * libm::exp2((key - 69.0) / 12.0)
}

#[test]
fn pitch_bend_and_tuning_are_exact() {
    let cases: [(&[[u8; 3]], f64); 6] = [
        (&[], 0.0),
        (&[[0xe0, 0, 0]], -2.0),
        (&[[0xe0, 0, 96]], 1.0),
        (&[[0xb0, 101, 0], [0xb0, 100, 0], [0xb0, 6, 12], [0xe0, 0, 96]], 6.0),
        (&[[0xb0, 101, 0], [0xb0, 100, 1], [0xb0, 6, 96]], 0.5),
        (&[[0xb0, 101, 0], [0xb0, 100, 2], [0xb0, 6, 61]], -3.0),
    ];
    for (messages, semitones) in cases {
        for key in [24, 60, 69, 100] {
            let mut s = sine();
            send(&mut s, messages);
            send(&mut s, &[[0x90, key, 127]]);
            let (left, _) = render(&mut s, 48_000);
            let off = cents_off(&left, key_hz(f64::from(key) + semitones));
            assert!(off.abs() < 0.05, "key {key} {messages:?}: {off} cents");
        }
    }
}

#[test]
fn velocity_volume_and_expression_follow_the_concave_curve() {
    for value in [1, 10, 40, 64, 100, 127] {
        for (controller, base) in [(None, 127), (Some(7), 127), (Some(11), 127)] {
            let mut s = sine();
            send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0]]);
            let velocity = if controller.is_none() { value } else { base };
            if let Some(controller) = controller {
                send(&mut s, &[[0xb0, controller, value]]);
            }
            send(&mut s, &[[0x90, 69, velocity]]);
            let (left, right) = render(&mut s, 9600);
            let expected = db(FULL) + 40.0 * libm::log10f(f32::from(value) / 127.0);
            let level = db(peak(&left[4800..]));
            assert!((level - expected).abs() < 0.1, "{controller:?} {value}: {level}, not {expected}");
            assert!(peak(&right) < 1e-6);
        }
    }
    let mut s = sine();
    send(&mut s, &[[0xb0, 7, 0], [0x90, 69, 127]]);
    assert_eq!(peak(&render(&mut s, 9600).0), 0.0);
}

#[test]
fn pan_keeps_the_power() {
    for value in 0..128u8 {
        let mut s = sine();
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, value], [0x90, 69, 127]]);
        let (left, right) = render(&mut s, 2400);
        let (left, right) = (peak(&left) / FULL, peak(&right) / FULL);
        assert!((left * left + right * right - 1.0).abs() < 0.01);
        let angle = core::f32::consts::FRAC_PI_2 * (f32::from(value.max(1)) - 1.0) / 126.0;
        assert!((left - libm::cosf(angle)).abs() < 0.01 && (right - libm::sinf(angle)).abs() < 0.01);
    }
}

#[test]
fn master_volume_and_system_on() {
    let mut s = sine();
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 127], [0x90, 69, 127]]);
    s.message(0, &[0xf0, 0x7f, 0x7f, 4, 1, 0, 64, 0xf7]);
    let level = db(peak(&render(&mut s, 9600).1[4800..]));
    assert!((level - (db(FULL) - 12.04)).abs() < 0.1, "{level}");
    s.message(0, &[0xf0, 0x7e, 0x7f, 9, 1, 0xf7]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 0);
    send(&mut s, &[[0x90, 69, 127]]);
    let level = db(peak(&render(&mut s, 9600).1));
    // Volume 100 and pan in the middle.
    let expected = db(FULL) + 40.0 * libm::log10f(100.0 / 127.0) - 3.01;
    assert!((level - expected).abs() < 0.1, "{level}");
}

#[test]
fn master_and_octave_tuning_reach_what_sounds_but_coarse_tuning_no_drum() {
    let off = |status: u8, key: u8, exclusive: &[u8], expected: f64| {
        let mut s = sine();
        send(&mut s, &[[status, key, 127]]);
        s.message(0, exclusive);
        render(&mut s, 480);
        cents_off(&render(&mut s, 48_000).0, key_hz(f64::from(key) + expected / 100.0))
    };
    let mut octave = [0xf0, 0x7e, 0x7f, 8, 8, 0, 0, 1, 64, 64, 64, 64, 64, 64, 64, 64, 64, 94, 64, 64, 0xf7];
    let cases = [
        (0x90, 69, &[0xf0, 0x7f, 0x7f, 4, 3, 0, 96, 0xf7][..], 50.0),
        (0x99, 69, &[0xf0, 0x7f, 0x7f, 4, 3, 0, 32, 0xf7], -50.0),
        (0x90, 69, &[0xf0, 0x7f, 0x7f, 4, 4, 0, 66, 0xf7], 200.0),
        (0x99, 69, &[0xf0, 0x7f, 0x7f, 4, 4, 0, 66, 0xf7], 0.0),
        (0x90, 69, &octave.clone(), 30.0),
        (0x90, 81, &octave.clone(), 30.0),
        (0x90, 70, &octave.clone(), 0.0),
        (0x91, 69, &octave.clone(), 0.0),
    ];
    for (status, key, exclusive, expected) in cases {
        let off = off(status, key, exclusive, expected);
        assert!(off.abs() < 0.2, "{status:x} {key} {exclusive:x?}: {off} from {expected}");
    }
    // Channel 16 has the highest bit, and a message that is cut short tunes nothing.
    octave[5..8].copy_from_slice(&[2, 0, 0]);
    assert!(off(0x9f, 69, &octave, 30.0).abs() < 0.2);
    assert!(off(0x9f, 69, &[&octave[..18], &[0xf7]].concat(), 0.0).abs() < 0.2);
}

/// Frequency of a tone whose pitch moves, from its first upward crossing of zero to its last one.
fn crossings(samples: &[f32]) -> f64 {
    let up = |(t, pair): (usize, &[f32])| {
        (pair[0] < 0.0 && pair[1] >= 0.0).then(|| t as f64 + f64::from(pair[0] / (pair[0] - pair[1])))
    };
    let all: Vec<f64> = samples.windows(2).enumerate().filter_map(up).collect();
    (all.len() - 1) as f64 / (all[all.len() - 1] - all[0]) * f64::from(RATE)
}

#[test]
fn portamento_glides_in_its_time_from_the_note_before_or_from_a_key() {
    // Time 64 is half a second, nearly.
    let time = 2.0 * (64.0f64 / 127.0).powi(2);
    let glides = |setup: &[[u8; 3]]| {
        let mut s = sine();
        send(&mut s, &[[0xb0, 5, 64]]);
        send(&mut s, setup);
        send(&mut s, &[[0x90, 69, 127]]);
        let (left, _) = render(&mut s, 48_000);
        let off = |at: f64| {
            let middle = (at * f64::from(RATE)) as usize;
            1200.0 * libm::log2(crossings(&left[middle - 960..middle + 960]) / 440.0)
        };
        [0.02, time / 2.0, time + 0.1].map(off)
    };
    let on = [0xb0, 65, 127];
    let [start, half, end] = glides(&[on, [0x90, 57, 1], [0x80, 57, 0], [0xb0, 120, 0]]);
    assert!((start + 1200.0 * (1.0 - 0.02 / time)).abs() < 12.0 && (half + 600.0).abs() < 12.0, "{start} {half}");
    assert!(end.abs() < 0.5, "{end}");
    // Controller 84 says where from, whatever the switch, and for one note.
    let [start, half, end] = glides(&[[0xb0, 84, 81]]);
    assert!((start - 1200.0 * (1.0 - 0.02 / time)).abs() < 12.0 && (half - 600.0).abs() < 12.0, "{start} {half}");
    assert!(end.abs() < 0.5, "{end}");
    for still in [&[on][..], &[[0x90, 57, 1], [0xb0, 120, 0]], &[on, [0x90, 57, 1], [0xb0, 120, 0], [0xb0, 5, 0]]] {
        let [start, ..] = glides(still);
        assert!(start.abs() < 12.0, "{still:x?}: {start}");
    }
}

#[test]
fn the_soft_pedal_softens_what_begins_under_it() {
    let level = |before: u8, after: u8| {
        let mut s = sine();
        send(&mut s, &[[0xb0, 67, before], [0x90, 69, 127], [0xb0, 67, after]]);
        db(peak(&render(&mut s, 9600).0[4800..]))
    };
    assert!((level(0, 0) - level(127, 127) - 3.0).abs() < 0.05);
    assert_eq!(level(0, 127), level(0, 0));
}

#[test]
fn vibrato_is_deepened_and_delayed_by_its_controllers() {
    let swing = |setup: &[[u8; 3]], from: usize| {
        let mut s = sine();
        send(&mut s, setup);
        send(&mut s, &[[0x90, 69, 127]]);
        let (left, _) = render(&mut s, 96_000);
        let pieces = left[from..].chunks_exact(1200).map(|piece| cents_off(piece, 440.0));
        pieces.fold(0.0, |most: f64, cents| most.max(cents.abs()))
    };
    assert!(swing(&[], 48_000) < 1.0);
    let full = swing(&[[0xb0, 77, 127]], 48_000);
    assert!((full - 49.0).abs() < 8.0, "{full} cents");
    // The modulation wheel's vibrato can be taken back.
    let (wheel, less) = (swing(&[[0xb0, 1, 127]], 48_000), swing(&[[0xb0, 1, 127], [0xb0, 77, 32]], 48_000));
    assert!(less < 0.7 * wheel, "{less} of {wheel} cents");
}

#[test]
fn attack_decay_and_release_take_their_time() {
    let mut s = shaped(Envelope { attack: 0.5, decay: 2.0, sustain: 12.0, release: 1.0, ..Envelope::GATE });
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
    let (left, _) = render(&mut s, 48_000);
    let around = |seconds: f32| {
        let at = (seconds * RATE as f32) as usize;
        peak(&left[at - 60..at + 60]) / FULL
    };
    assert!((around(0.25) - 0.5).abs() < 0.01, "{}", around(0.25));
    assert!((around(0.5) - 1.0).abs() < 0.01);
    assert!((db(around(0.6)) + 4.8).abs() < 0.1, "{}", db(around(0.6)));
    assert!((db(around(0.95)) + 12.0).abs() < 0.1);
    send(&mut s, &[[0x80, 69, 0]]);
    let (left, _) = render(&mut s, 48_000);
    let level = db(peak(&left[23_940..24_060]) / FULL);
    assert!((level + 60.0).abs() < 0.5, "{level}");
    // 84 dB of the 96 were left.
    let silence = (48_000.0 * 84.0 / 96.0) as usize + 3 * PERIOD;
    assert_eq!((s.sounding(), peak(&left[silence..])), (0, 0.0));
    assert!(peak(&left[silence - 8 * PERIOD..silence]) > 0.0);
}

#[test]
fn a_note_starts_at_its_very_sample() {
    for at in [0, 1, 31, 32, 33, 1000] {
        let mut s = shaped(Envelope::GATE);
        let (before, _) = render(&mut s, at);
        assert_eq!(peak(&before), 0.0);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
        let (left, _) = render(&mut s, 64);
        // A sine from zero at full level: the first sample is its zero, the second is on its slope.
        assert_eq!(left[0], 0.0);
        let slope = FULL * libm::sinf(core::f32::consts::TAU * 440.0 / RATE as f32);
        assert!((left[1] - slope).abs() < 1e-3, "{} at {at}", left[1]);
    }
}

#[test]
fn an_attack_is_a_straight_line_wherever_the_note_starts() {
    let play = |at: usize| {
        let mut s = shaped(Envelope { attack: 0.01, ..Envelope::GATE });
        render(&mut s, at);
        send(&mut s, &[[0x90, 69, 127]]);
        render(&mut s, 600).0
    };
    let whole = play(0);
    for at in [1, 16, 30, 31] {
        for (a, b) in play(at).iter().zip(&whole).take(448) {
            assert!((a - b).abs() < 1e-4, "started at {at}");
        }
    }
}

#[test]
fn pedal_holds_and_lets_go() {
    let mut s = sine();
    send(&mut s, &[[0x90, 60, 100], [0xb0, 64, 127], [0x80, 60, 0], [0x90, 64, 100], [0x90, 64, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 2);
    // A key still down when the pedal goes up sounds on.
    send(&mut s, &[[0x90, 67, 100], [0xb0, 64, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 1);
    send(&mut s, &[[0xb0, 64, 127], [0xb0, 123, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 1, "all notes off respects the pedal");
    send(&mut s, &[[0xb0, 121, 0]]);
    render(&mut s, 4800);
    assert_eq!(s.sounding(), 0, "reset of controllers lifts it");
    assert_eq!(peak(&render(&mut s, 480).0), 0.0);
}

#[test]
fn all_sound_off_and_reset_leave_exact_silence() {
    let long = Envelope { release: 10.0, ..Envelope::GATE };
    let mut s = shaped(long);
    send(&mut s, &[[0x90, 60, 100], [0xb0, 64, 127]]);
    render(&mut s, 1000);
    send(&mut s, &[[0xb0, 120, 0]]);
    render(&mut s, 6 * PERIOD);
    let (left, right) = render(&mut s, 4800);
    assert_eq!((s.sounding(), peak(&left), peak(&right)), (0, 0.0, 0.0));
    send(&mut s, &[[0x90, 60, 100]]);
    render(&mut s, 1000);
    s.reset();
    let (left, right) = render(&mut s, 4800);
    assert_eq!((s.sounding(), peak(&left), peak(&right)), (0, 0.0, 0.0));
}

#[test]
fn exclusive_classes_and_self_exclusion() {
    let mut s = Synth::new(sine_bank(Articulation::DEFAULT, |r| r.key_group = 5), RATE, 1, 32);
    send(&mut s, &[[0x99, 46, 100], [0x90, 46, 100]]);
    render(&mut s, 480);
    assert_eq!(s.sounding(), 2, "classes are per channel");
    send(&mut s, &[[0x99, 42, 100]]);
    render(&mut s, 960);
    assert_eq!(s.sounding(), 2, "the older one is choked");
    for (exclusive, voices) in [(false, 2), (true, 1)] {
        let bank = sine_bank(Articulation::DEFAULT, |r| r.self_exclusive = exclusive);
        let mut s = Synth::new(bank, RATE, 1, 32);
        send(&mut s, &[[0x90, 60, 100], [0x90, 60, 100]]);
        render(&mut s, 960);
        assert_eq!(s.sounding(), voices);
    }
}

#[test]
fn a_loop_until_release_lets_the_tail_sound() {
    let mut bank = Draft::default();
    let mut samples = vec![1000i16; 9600];
    samples[4800..].fill(-2000);
    let looped = Some(Loop { start: 100, length: 4700, until_release: true });
    let sampling = Sampling { unity_key: 60, fine_tune: 0, gain: 0.0, looped };
    let wave = bank.add_wave(&samples, RATE, sampling);
    let amplitude = Envelope { release: 100.0, ..Envelope::GATE };
    let articulation = bank.add_articulation(Articulation { amplitude, ..Articulation::DEFAULT });
    let region = Region {
        keys: (0, 127),
        velocities: (0, 127),
        wave,
        articulation,
        key_group: 0,
        self_exclusive: false,
        sampling: None,
    };
    bank.add_instrument(Instrument { bank: 0, program: 0, drum: false, regions: vec![region] });
    let mut s = Synth::new(ready(&bank), RATE, 1, 4);
    send(&mut s, &[[0x90, 60, 127]]);
    assert!(render(&mut s, 20_000).0.iter().all(|&x| x > 0.0));
    send(&mut s, &[[0x80, 60, 0]]);
    let (left, _) = render(&mut s, 12_000);
    assert!(left.iter().any(|&x| x < 0.0));
    assert_eq!((s.sounding(), left[11_999]), (0, 0.0));
}

#[test]
fn filter_and_oscillators_act() {
    let filter = Filter { cutoff: 6900.0, resonance: 0.0, velocity: 0.0, key: 0.0, envelope: 0.0 };
    let level = |key: u8| {
        let articulation = Articulation { filter: Some(filter), ..Articulation::DEFAULT };
        let mut s = Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 4);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, key, 127]]);
        db(peak(&render(&mut s, 9600).0[4800..]) / FULL)
    };
    // Flat below, -3 dB at the cutoff, 12 dB an octave above.
    let [low, corner, high] = [33, 69, 93].map(level);
    assert!(low.abs() < 0.2 && (corner + 3.0).abs() < 0.3 && (high + 24.0).abs() < 1.0, "{low} {corner} {high}");

    let mut s = sine();
    send(&mut s, &[[0xb0, 1, 127], [0x90, 69, 127]]);
    let (left, _) = render(&mut s, 48_000);
    let off: Vec<f64> = left.chunks_exact(1200).map(|c| cents_off(c, 440.0)).collect();
    let (low, high) = off.iter().fold((0.0f64, 0.0f64), |(l, h), &x| (l.min(x), h.max(x)));
    assert!((-52.0..-40.0).contains(&low) && (40.0..52.0).contains(&high), "{low} {high}");

    let tremolo = Lfo { rate: 5.0, gain: 6.0, ..Lfo::OFF };
    let articulation = Articulation { tremolo, ..Articulation::DEFAULT };
    let mut s = Synth::new(sine_bank(articulation, |_| ()), RATE, 1, 4);
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
    let (left, _) = render(&mut s, 48_000);
    let levels: Vec<f32> = left.chunks_exact(480).map(|c| db(peak(c) / FULL)).collect();
    let (low, high) = levels.iter().fold((0.0f32, -99.0f32), |(l, h), &x| (l.min(x), h.max(x)));
    assert!((low + 12.0).abs() < 0.5 && high.abs() < 0.2, "{low} {high}");
}
