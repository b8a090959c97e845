//! The General MIDI bank as heard: pitch, loudness, decay and kit.
//!
//! Fed by the engine playing `Bank::general_midi`.

use super::*;

fn note(program: u8, key: u8, velocity: u8, samples: usize) -> (Vec<f32>, Vec<f32>) {
    let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 4);
    send(&mut s, &[[0xc0, program, 0], [0x90, key, velocity]]);
    render(&mut s, samples)
}

/// RMS of both sides together.
fn rms(left: &[f32], right: &[f32]) -> f32 {
    let power: f32 = left.iter().zip(right).map(|(l, r)| l * l + r * r).sum();
    (power / left.len() as f32).sqrt()
}

/// The loudest fifth of a second.
fn loudest((left, right): &(Vec<f32>, Vec<f32>)) -> f32 {
    let windows = left.chunks_exact(9600).zip(right.chunks_exact(9600));
    windows.fold(0.0, |most, (l, r)| most.max(rms(l, r)))
}

#[test]
fn programs_are_in_tune() {
    // Piano, celesta, organ, guitar, bass, trumpet, oboe, clarinet, square: straight tones without vibrato at first.
    for program in [0, 8, 17, 24, 33, 59, 71, 80, 87] {
        for key in [28u8, 37, 48, 55, 60, 69, 76, 84, 93] {
            let (left, _) = note(program, key, 100, 26_000);
            let off = cents_off(&left[6000..], key_hz(f64::from(key)));
            assert!(off.abs() < 1.0, "program {program} key {key}: {off} cents");
        }
    }
}

#[test]
fn choruses_are_in_tune_on_average() {
    for program in [48, 50, 52, 61, 81, 89, 90] {
        for key in [36u8, 48, 60, 72, 84] {
            let (left, _) = note(program, key, 100, 240_000);
            let off = cents_off(&left[24_000..], key_hz(f64::from(key)));
            assert!(off.abs() < 6.0, "program {program} key {key}: {off} cents");
        }
    }
}

#[test]
fn every_program_sounds_and_is_balanced() {
    let mut levels = Vec::new();
    for program in 0..128 {
        for key in [36, 60, 84] {
            let out = note(program, key, 127, 96_000);
            assert!(peak(&out.0).max(peak(&out.1)) < 0.5, "program {program} key {key} is too loud");
            assert!(out.0.iter().chain(&out.1).all(|x| x.is_finite()));
            if key == 60 {
                levels.push((program, db(loudest(&out))));
            }
        }
    }
    let mut sorted: Vec<f32> = levels.iter().map(|l| l.1).collect();
    sorted.sort_by(f32::total_cmp);
    let median = sorted[64];
    for (program, level) in levels {
        assert!((level - median).abs() < 8.0, "program {program}: {level} dB, the median is {median}");
    }
}

#[test]
fn every_drum_sounds_and_ends() {
    for key in 27..=87 {
        let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 4);
        send(&mut s, &[[0x99, key, 127], [0x89, key, 0]]);
        let (left, right) = render(&mut s, 48_000 * 3);
        let top = peak(&left).max(peak(&right));
        assert!((0.04..0.5).contains(&top), "drum {key}: {} dB", db(top));
        assert_eq!(s.sounding(), 0, "drum {key} does not end");
    }
    for key in [0, 26, 88, 127] {
        let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 4);
        send(&mut s, &[[0x99, key, 127]]);
        assert_eq!(s.sounding(), 0);
    }
}

#[test]
fn hats_choke_each_other() {
    let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 8);
    send(&mut s, &[[0x99, 46, 127]]);
    render(&mut s, 4800);
    let ringing = peak(&render(&mut s, 2400).0);
    send(&mut s, &[[0x99, 44, 1]]);
    render(&mut s, 960);
    let choked = peak(&render(&mut s, 2400).0);
    assert!(choked < ringing * 0.05, "{choked} after {ringing}");
}

#[test]
fn struck_programs_decay_and_blown_ones_last() {
    let fall = |program: u8| {
        let (left, right) = note(program, 60, 100, 144_000);
        db(rms(&left[14_400..24_000], &right[14_400..24_000])) - db(rms(&left[134_400..], &right[134_400..]))
    };
    for program in (0..16).chain(24..29).chain(32..38).chain([45, 46, 47, 55, 104, 105, 106, 107, 108]) {
        assert!(fall(program) > 6.0, "program {program} falls by {}", fall(program));
    }
    for program in (16..24).chain(40..44).chain(48..55).chain(56..88).chain([109, 110, 111]) {
        assert!(fall(program) < 4.0, "program {program} falls by {}", fall(program));
    }
}

#[test]
fn a_fortissimo_piano_note_peaks_near_minus_twelve_decibels() {
    for key in [36, 48, 60] {
        let (left, _) = note(0, key, 127, 24_000);
        let level = db(peak(&left));
        assert!((-15.5..-9.0).contains(&level), "key {key}: {level}");
    }
}

#[test]
fn released_notes_end_in_exact_silence() {
    for program in 0..128 {
        let mut s = Synth::new(Arc::clone(&GM), RATE, 1, 4);
        send(&mut s, &[[0xc0, program, 0], [0x90, 60, 127]]);
        render(&mut s, 2400);
        send(&mut s, &[[0x80, 60, 0]]);
        render(&mut s, 48_000 * 10);
        let (left, right) = render(&mut s, 480);
        assert_eq!((s.sounding(), peak(&left), peak(&right)), (0, 0.0, 0.0), "program {program}");
    }
}

/// Strengths of ten harmonics, brightness and levels at five moments, dB.
fn fingerprint(program: u8) -> Vec<f32> {
    let (left, right) = note(program, 60, 110, 72_000);
    let heard = &left[4800..14_400];
    let harmonic = |k: u8| {
        let (mut re, mut im) = (0.0f64, 0.0f64);
        for (t, x) in heard.iter().enumerate() {
            let turn = core::f64::consts::TAU * key_hz(60.0) * f64::from(k) * t as f64 / f64::from(RATE);
            re += f64::from(*x) * libm::cos(turn);
            im += f64::from(*x) * libm::sin(turn);
        }
        db(libm::hypot(re, im) as f32 / 4800.0).max(-75.0)
    };
    let moments = [0, 2400, 9600, 33_600, 62_400];
    let level = |at: &usize| db(rms(&left[*at..at + 2400], &right[*at..at + 2400])).max(-75.0);
    // Differences of rising order weigh the treble, stretched partials and noise included.
    let mut difference = heard.to_vec();
    let brightness = (0..4).map(|_| {
        difference = difference.windows(2).map(|w| w[1] - w[0]).collect();
        db(rms(&difference, &difference))
    });
    let mut print: Vec<f32> = brightness.collect();
    print.extend((1..=10).map(harmonic));
    print.extend(moments.iter().map(level));
    print
}

#[test]
fn neighbouring_programs_differ_in_spectrum_or_envelope() {
    let prints: Vec<Vec<f32>> = (0..128).map(fingerprint).collect();
    let apart =
        |pair: &[Vec<f32>]| pair[0].iter().zip(&pair[1]).fold(0.0, |most, (a, b)| f32::max(most, (a - b).abs()));
    let all: Vec<f32> = prints.windows(2).map(apart).collect();
    let alike: Vec<(usize, &f32)> = all.iter().enumerate().filter(|(_, d)| **d < 4.0).collect();
    assert!(alike.is_empty(), "program and distance to the next in dB: {alike:?}");
}
