//! Messages act at their exact sample, whatever they are.
//!
//! Fed by a sine whose course before and after a message is known to the sample.

use super::dls::{from, with};
use super::*;
use crate::collection::connection::{Destination as D, Source as S};

const OCTAVE: [u8; 20] = [0xf0, 0x7e, 0x7f, 8, 8, 0, 0, 1, 64, 64, 64, 64, 64, 64, 64, 64, 64, 127, 64, 64];

/// A key with these messages before it, and perhaps one more at a sample.
fn play(before: &[[u8; 3]], at: usize, message: Option<&[u8]>) -> Vec<f32> {
    let blocks = [64, 66, 67, 0].map(|pedal| from(S::controller(pedal), D::GAIN, 0, -100.0));
    let blocks =
        [&blocks[..], &[from(S::POLY_PRESSURE, D::GAIN, 0, -100.0), from(S::CHANNEL_PRESSURE, D::PAN, 0, 100.0)]];
    let mut s = with(&blocks.concat());
    send(&mut s, before);
    send(&mut s, &[[0x90, 69, 127]]);
    let mut left = render(&mut s, at).0;
    message.iter().for_each(|message| s.message(0, message));
    left.extend(render(&mut s, 2000).0);
    left
}

/// The first sample that a message at `at` makes different.
fn first(before: &[[u8; 3]], at: usize, message: &[u8]) -> Option<usize> {
    let (without, with) = (play(before, at, None), play(before, at, Some(message)));
    without.iter().zip(&with).position(|(a, b)| a != b)
}

#[test]
fn what_a_message_changes_is_heard_at_its_sample() {
    let bent = [0xe0, 0, 127];
    let rpn = |number| [bent, [0xb0, 101, 0], [0xb0, 100, number]];
    let octave = [&OCTAVE[..], &[0xf7]].concat();
    let cases: [(&[[u8; 3]], &[u8]); 19] = [
        // Bend range (coarse, fine, and by a step), fine tuning, coarse tuning.
        (&rpn(0), &[0xb0, 6, 12]),
        (&rpn(0), &[0xb0, 38, 50]),
        (&rpn(0), &[0xb0, 96, 0]),
        (&rpn(1), &[0xb0, 6, 90]),
        (&rpn(2), &[0xb0, 6, 65]),
        // Pedals, and what else a block may listen to.
        (&[], &[0xb0, 64, 127]),
        (&[], &[0xb0, 66, 127]),
        (&[], &[0xb0, 67, 127]),
        (&[], &[0xb0, 0, 127]),
        (&[], &[0xa0, 69, 127]),
        (&[], &[0xd0, 127]),
        (&[bent], &[0xb0, 121, 0]),
        // All sound off, and all notes off of a release of no time.
        (&[], &[0xb0, 120, 0]),
        (&[], &[0xb0, 123, 0]),
        // Master volume, fine and coarse tuning, the octave's, and GM on.
        (&[], &[0xf0, 0x7f, 0x7f, 4, 1, 0, 64, 0xf7]),
        (&[], &[0xf0, 0x7f, 0x7f, 4, 3, 0, 96, 0xf7]),
        (&[], &[0xf0, 0x7f, 0x7f, 4, 4, 0, 66, 0xf7]),
        (&[], &octave),
        (&[], &[0xf0, 0x7e, 0x7f, 9, 1, 0xf7]),
    ];
    for (before, message) in cases {
        for at in [4800, 4801, 4813, 4830, 4831] {
            let first = first(before, at, message).expect("a difference");
            // A gain or a step is the old one for a last sample.
            assert!((at..=at + 2).contains(&first), "{message:x?} at {at} is heard at {first}");
        }
    }
}

#[test]
fn what_takes_a_voice_acts_at_its_sample() {
    for at in [4800, 4807, 4831] {
        let choke = |message: Option<[u8; 3]>| {
            let mut s = Synth::new(sine_bank(Articulation::DEFAULT, |r| r.self_exclusive = true), RATE, 1, 1);
            send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
            let mut left = render(&mut s, at).0;
            // Of the same key (which excludes itself), or another (which steals), and silent.
            message.iter().for_each(|message| send(&mut s, &[[0xb0, 7, 0], *message]));
            left.extend(render(&mut s, 960).0);
            left
        };
        let held = choke(None);
        for key in [69, 70] {
            let gone = choke(Some([0x90, key, 1]));
            let first = held.iter().zip(&gone).position(|(a, b)| a != b).expect("a difference");
            assert!((at..=at + 2).contains(&first), "key {key} at {at}: {first}");
            assert_eq!(peak(&gone[at + 900..]), 0.0);
        }
    }
}

/// What comes before the note, the message, and the cents that it makes.
type Case<'a> = (&'a [[u8; 3]], &'a [u8], f64);

#[test]
fn tuning_turns_a_sine_into_another_at_one_sample() {
    let octave = [&OCTAVE[..], &[0xf7]].concat();
    let rpn = |number| [[0xb0, 101, 0], [0xb0, 100, number]];
    let cases: [Case<'_>; 5] = [
        (&[], &[0xf0, 0x7f, 0x7f, 4, 4, 0, 76, 0xf7], 1200.0),
        (&[], &[0xf0, 0x7f, 0x7f, 4, 3, 0, 0, 0xf7], -100.0),
        (&[], &octave, 63.0),
        (&rpn(1), &[0xb0, 6, 0], -100.0),
        (&rpn(2), &[0xb0, 6, 71], 700.0),
    ];
    for (before, message, cents) in cases {
        for at in [4800, 4817, 4831] {
            let played = play(before, at, Some(message));
            let rate = libm::exp2(cents / 1200.0);
            for (t, x) in played.iter().enumerate().take(at + 1000) {
                // A step counts from the sample at which it is made on.
                let passed = t.min(at) as f64 + (t - t.min(at)) as f64 * rate;
                let expected = f64::from(FULL) * libm::sin(core::f64::consts::TAU * 440.0 * passed / f64::from(RATE));
                assert!((f64::from(*x) - expected).abs() < 2e-3, "{message:x?} at {at}: {x}, not {expected}, at {t}");
            }
        }
    }
}

#[test]
fn each_sample_may_have_its_own_bend_and_volume() {
    let mut s = sine();
    send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, 69, 127]]);
    let mut passed = render(&mut s, 4805).0.len() as f64;
    let mut level = f64::from(FULL);
    for sample in 0..500u32 {
        let wheel = (sample * 37 % 128) as u8;
        send(&mut s, &[[0xe0, 0, wheel], [0xb0, 1, 0]]);
        let x = f64::from(render(&mut s, 1).0[0]);
        let expected = level * libm::sin(core::f64::consts::TAU * 440.0 * passed / f64::from(RATE));
        assert!((x - expected).abs() < 2e-3, "{x}, not {expected}, {sample} samples on");
        // A bend moves the sound on from its own sample to the next.
        passed += libm::exp2((f64::from(wheel) - 64.0) / 64.0 * 2.0 / 12.0);
    }
    // And a fader that is moved with each sample is followed without a click.
    let mut all = vec![];
    for sample in 0..1000u32 {
        send(&mut s, &[[0xb0, 7, 127 - (sample / 8) as u8]]);
        all.extend(render(&mut s, 1).0);
        level = f64::from(FULL) * libm::exp10(40.0 * libm::log10(f64::from(127 - sample / 8) / 127.0) / 20.0);
    }
    assert!(super::robust::roughness(&all) < 5e-3, "{}", super::robust::roughness(&all));
    assert!(f64::from(peak(&all[950..])) < 4.0 * level + 0.02, "{} of {level}", peak(&all[950..]));
}

#[test]
fn a_pedal_counts_from_its_sample_on() {
    let sounding = |messages: &[&[[u8; 3]]]| {
        let mut s = sine();
        send(&mut s, &[[0x90, 69, 127]]);
        render(&mut s, 4801);
        for at in messages {
            send(&mut s, at);
            render(&mut s, 1);
        }
        render(&mut s, 4800);
        s.sounding()
    };
    let off = [0x80, 69, 0];
    for pedal in [64, 66] {
        let (down, up) = ([0xb0, pedal, 127], [0xb0, pedal, 0]);
        assert_eq!(sounding(&[&[down], &[off]]), 1);
        assert_eq!(sounding(&[&[down, off]]), 1, "in their order, at one sample");
        assert_eq!(sounding(&[&[off, down]]), 0);
        assert_eq!(sounding(&[&[off], &[down]]), 0);
        assert_eq!(sounding(&[&[down], &[off], &[up]]), 0);
        assert_eq!(sounding(&[&[down], &[up, off]]), 0);
    }
}
