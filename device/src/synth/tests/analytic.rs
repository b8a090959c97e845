//! Times, levels, rates and corners against what the numbers of an articulation say, one destination after the other.
//!
//! Fed by a sine of 1760 Hz, short of period, so that a moment's level and pitch can be told.

use super::dls::{bank_of, constant, from, sine_wave, time, wave, with};
use super::*;
use crate::collection::connection::{Destination as D, Source as S};
use crate::collection::{self, LoopKind};

const KEY: u8 = 93;
const HERTZ: f64 = 1760.0;

fn samples(seconds: f64) -> usize {
    (seconds * f64::from(RATE)) as usize
}

/// Level around a moment, 1 is full scale.
fn level_at(left: &[f32], seconds: f64) -> f64 {
    let middle = samples(seconds);
    f64::from(peak(&left[middle - 30..middle + 30])) / f64::from(FULL)
}

fn decibels_at(left: &[f32], seconds: f64) -> f64 {
    20.0 * libm::log10(level_at(left, seconds).max(1e-9))
}

/// Cents above the key around a moment.
fn cents_at(left: &[f32], seconds: f64) -> f64 {
    let middle = samples(seconds);
    1200.0 * libm::log2(crossings(&left[middle - 480..middle + 480]) / HERTZ)
}

fn near(is: f64, should: f64, by: f64, what: &str) {
    assert!((is - should).abs() <= by, "{what}: {is}, not {should}");
}

#[test]
fn the_second_envelope_takes_its_times() {
    let blocks = [
        from(S::EG2, D::PITCH, 0, 1200.0),
        constant(D::EG2_DELAY, time(0.1)),
        constant(D::EG2_ATTACK, time(0.4)),
        constant(D::EG2_HOLD, time(0.2)),
        constant(D::EG2_DECAY, time(1.0)),
        constant(D::EG2_SUSTAIN, 500.0),
        constant(D::EG2_RELEASE, time(0.8)),
        constant(D::EG1_RELEASE, time(200.0)),
    ];
    let mut s = with(&blocks);
    send(&mut s, &[[0x90, KEY, 127]]);
    let mut left = render(&mut s, samples(2.0)).0;
    send(&mut s, &[[0x80, KEY, 0]]);
    left.extend(render(&mut s, samples(1.0)).0);
    // At these slopes a hundredth of the time is 12 cents of the attack, 12 of the decay and 12 of the release.
    for (seconds, cents) in [
        (0.05, 0.0),
        (0.2, 300.0),
        (0.4, 900.0),
        (0.6, 1200.0),
        (0.69, 1200.0),
        (0.95, 900.0),
        (1.1, 720.0),
        (1.5, 600.0),
        (2.2, 300.0),
        (2.5, 0.0),
    ] {
        near(cents_at(&left, seconds), cents, 6.0, &format!("cents after {seconds} s"));
    }
}

#[test]
fn hold_and_shutdown_take_their_times() {
    let mut s =
        with(&[constant(D::EG1_HOLD, time(0.5)), constant(D::EG1_DECAY, time(0.96)), constant(D::EG1_SUSTAIN, 0.0)]);
    send(&mut s, &[[0x90, KEY, 127]]);
    let left = render(&mut s, 48_000).0;
    // A decibel in a hundredth of a second.
    for (seconds, decibels) in [(0.49, 0.0), (0.6, -10.0), (0.74, -24.0), (0.9, -40.0)] {
        near(decibels_at(&left, seconds), decibels, 0.25, &format!("dB after {seconds} s"));
    }
    for seconds in [0.02, 0.08] {
        let silence = wave(vec![0; 480], RATE, 60, (0, 480), LoopKind::Forward);
        let region = |wave, keys| collection::Region { keys, key_group: 1, ..collection::Region::of(wave) };
        let regions = vec![region(0, (0, 99)), region(1, (100, 127))];
        let bank = bank_of(vec![sine_wave(), silence], regions, &[constant(D::EG1_SHUTDOWN, time(seconds))]);
        let mut s = Synth::new(bank, RATE, 1, 8);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0], [0x90, KEY, 127]]);
        render(&mut s, 4805);
        send(&mut s, &[[0x90, 100, 127]]);
        let left = render(&mut s, 9600).0;
        for part in [0.25, 0.5, 0.75] {
            // The highest of a window is at its beginning.
            let early = 20.0 / (seconds * f64::from(RATE));
            near(
                level_at(&left, part * seconds),
                1.0 - part + early,
                0.02,
                &format!("{part} of a shutdown of {seconds} s"),
            );
        }
        assert_eq!(peak(&left[samples(seconds) + 2 * PERIOD..]), 0.0);
    }
}

#[test]
fn velocity_key_and_controllers_stretch_the_times_of_a_note() {
    let attack = constant(D::EG1_ATTACK, time(0.4));
    let height = |blocks: &[_], setup: &[[u8; 3]], velocity: u8, seconds: f64| {
        let mut s = with(blocks);
        send(&mut s, setup);
        send(&mut s, &[[0x90, KEY, velocity]]);
        let left = render(&mut s, 96_000).0;
        level_at(&left, seconds) / level_at(&left, 1.9)
    };
    for velocity in [1, 64, 127] {
        let scaled = [attack, from(S::VELOCITY, D::EG1_ATTACK, 0, -1200.0)];
        let should = 0.1 / (0.4 * libm::exp2(-f64::from(velocity) / 128.0));
        near(height(&scaled, &[], velocity, 0.1), should, 0.01 * should + 0.005, "velocity to attack");
    }
    for value in [32, 64, 80] {
        let should = 0.1 / (0.4 * libm::exp2((f64::from(value) - 64.0) * 3.0 / 64.0));
        near(height(&[attack], &[[0xb0, 73, value]], 127, 0.1), should, 0.01 * should + 0.005, "controller 73");
    }
    let decay = [constant(D::EG1_DECAY, time(1.0)), constant(D::EG1_SUSTAIN, 0.0)];
    let fall = |blocks: &[_], setup: &[[u8; 3]]| {
        let mut s = with(blocks);
        send(&mut s, setup);
        send(&mut s, &[[0x90, KEY, 127]]);
        decibels_at(&render(&mut s, 9600).0, 0.15)
    };
    let stretched = [&decay[..], &[from(S::KEY, D::EG1_DECAY, 0, 1200.0)]].concat();
    near(fall(&decay, &[]), -14.4, 0.15, "decay");
    near(fall(&stretched, &[]), -14.4 / libm::exp2(f64::from(KEY) / 128.0), 0.15, "key to decay");
    for value in [48, 80] {
        let should = -14.4 / libm::exp2((f64::from(value) - 64.0) * 3.0 / 64.0);
        near(fall(&decay, &[[0xb0, 75, value]]), should, 0.3, "controller 75");
    }
    for value in [48, 64, 80] {
        let mut s = with(&[constant(D::EG1_RELEASE, time(1.0))]);
        send(&mut s, &[[0xb0, 72, value], [0x90, KEY, 127]]);
        render(&mut s, 4800);
        send(&mut s, &[[0x80, KEY, 0]]);
        let should = -14.4 / libm::exp2((f64::from(value) - 64.0) * 3.0 / 64.0);
        near(decibels_at(&render(&mut s, 9600).0, 0.15), should, 0.3, "controller 72");
    }
}

#[test]
fn gains_of_waves_regions_and_blocks_add_up_within_a_tenth_of_a_decibel() {
    for (of_wave, of_region, of_blocks, master) in
        [(-6, None, 0.0, 127), (0, Some(-3), -12.0, 64), (-20, Some(6), 0.0, 127), (0, None, -40.0, 100)]
    {
        let mut sine = sine_wave();
        let gained = |gain: i32| sine.sampling.map(|own| collection::Sampling { gain: gain * 655_360, ..own });
        let (own, instead) = (gained(of_wave), of_region.and_then(gained));
        sine.sampling = own;
        let region = collection::Region { sampling: instead, ..collection::Region::of(0) };
        let bank = bank_of(vec![sine], vec![region], &[constant(D::GAIN, of_blocks * 10.0)]);
        let mut s = Synth::new(bank, RATE, 1, 4);
        send(&mut s, &[[0xb0, 7, 127], [0xb0, 10, 0]]);
        s.message(0, &[0xf0, 0x7f, 0x7f, 4, 1, 0, master, 0xf7]);
        send(&mut s, &[[0x90, KEY, 127]]);
        let master = 40.0 * libm::log10(f64::from(master) * 128.0 / 16_383.0);
        // A region's sampling stands in for the wave's.
        let should = f64::from(of_region.unwrap_or(of_wave)) + of_blocks + master;
        near(decibels_at(&render(&mut s, 9600).0, 0.1), should, 0.1, &format!("{of_wave} {of_region:?} {of_blocks}"));
    }
}

#[test]
fn the_corner_of_the_filter_is_where_it_is_put() {
    // A cutoff of 100 cents a key is the frequency of the key.
    for key in [33u8, 57, 81, 105, 117] {
        for resonance in [0.0, 12.0, 24.0] {
            let level = |blocks: &[_], setup: &[[u8; 3]]| {
                let mut s = with(blocks);
                send(&mut s, setup);
                send(&mut s, &[[0x90, key, 127]]);
                let left = render(&mut s, 48_000).0;
                20.0 * libm::log10(f64::from(peak(&left[40_000..]) / FULL))
            };
            let corner = |cents: f64| [constant(D::CUTOFF, cents), constant(D::RESONANCE, resonance * 10.0)];
            let should = resonance / 2.0 - 3.01;
            let cents = f64::from(key) * 100.0;
            near(level(&corner(cents), &[]), should, 0.2, &format!("key {key}, {resonance} dB"));
            // Sources that put it there: the key, a controller of General MIDI 2, and an envelope at its peak.
            let by_key = [&corner(0.0)[..], &[from(S::KEY, D::CUTOFF, 0, 12_800.0)]].concat();
            near(level(&by_key, &[]), should, 0.2, "by the key");
            near(level(&corner(cents - 750.0), &[[0xb0, 74, 74]]), should, 0.2, "by controller 74");
            let by_envelope = [&corner(cents - 1000.0)[..], &[from(S::EG2, D::CUTOFF, 0, 1000.0)]].concat();
            near(level(&by_envelope, &[]), should, 0.2, "by the envelope");
            if resonance > 0.0 {
                let steeper = should + 1.0;
                near(level(&corner(cents), &[[0xb0, 71, 74]]), steeper, 0.2, "by controller 71");
            }
        }
    }
}

#[test]
fn oscillators_swing_at_their_rates_and_to_their_depths() {
    let absolute = |hertz: f64| 6900.0 + 1200.0 * libm::log2(hertz / 440.0);
    for hertz in [0.5, 5.0, 18.0] {
        let tremolo = [
            from(S::LFO, D::GAIN, 0x4000, 60.0),
            constant(D::LFO_FREQUENCY, absolute(hertz)),
            constant(D::LFO_DELAY, time(0.25)),
        ];
        let mut s = with(&tremolo);
        send(&mut s, &[[0xb0, 7, 90], [0x90, KEY, 127]]);
        let left = render(&mut s, samples(3.0)).0;
        let still = 40.0 * libm::log10(90.0 / 127.0);
        for step in 1..145 {
            let seconds = f64::from(step) * 0.02;
            let swing = |seconds: f64| 6.0 * libm::sin(core::f64::consts::TAU * hertz * (seconds - 0.25).max(0.0));
            // The highest of a window.
            let should = [-30.0, 0.0, 30.0].map(|off| swing(seconds + off / f64::from(RATE)));
            let should = still + should.into_iter().fold(-99.0, f64::max);
            // A window of two periods need not have a crest at its end.
            near(decibels_at(&left, seconds), should, 0.1 + 0.01 * hertz, &format!("{hertz} Hz after {seconds} s"));
        }
    }
    // Controllers 76 and 78: an octave faster, and later.
    let vibrato = [
        from(S::VIBRATO, D::PITCH, 0x4000, 50.0),
        constant(D::VIBRATO_FREQUENCY, absolute(2.0)),
        constant(D::VIBRATO_DELAY, time(0.2)),
    ];
    let mut s = with(&vibrato);
    send(&mut s, &[[0xb0, 76, 96], [0xb0, 78, 80], [0x90, KEY, 127]]);
    let left = render(&mut s, samples(2.0)).0;
    let (rate, delay) = (2.0 * libm::exp2(0.5), 0.2 * libm::exp2(16.0 * 3.0 / 64.0));
    for step in 1..95 {
        let seconds = f64::from(step) * 0.02;
        let should = 50.0 * libm::sin(core::f64::consts::TAU * rate * (seconds - delay).max(0.0));
        near(cents_at(&left, seconds), should, 2.0, &format!("after {seconds} s"));
    }
}

#[test]
fn pan_and_sends_go_where_blocks_put_them() {
    let sides = |blocks: &[_], setup: &[[u8; 3]]| {
        let mut s = with(blocks);
        send(&mut s, setup);
        send(&mut s, &[[0x90, KEY, 127]]);
        let (left, right) = render(&mut s, 9600);
        [left, right].map(|side| f64::from(peak(&side[4800..])) / f64::from(FULL))
    };
    // Tenths of a percent from -500 to 500, as an angle.
    for pan in [-500.0, -200.0, 0.0, 350.0, 500.0, 900.0f64] {
        let angle = core::f64::consts::FRAC_PI_2 * (pan.min(500.0) + 500.0) / 1000.0;
        // The controller in the middle.
        let [left, right] = sides(&[constant(D::PAN, pan)], &[[0xb0, 10, 64]]);
        near(left, libm::cos(angle), 0.005, "left");
        near(right, libm::sin(angle), 0.005, "right");
    }
    for (destination, controller) in [(D::REVERB, 91), (D::CHORUS, 93)] {
        let play = |blocks: &[_], setup: &[[u8; 3]]| {
            let mut s = with(blocks);
            send(&mut s, setup);
            send(&mut s, &[[0x90, KEY, 127]]);
            render(&mut s, 9600)
        };
        // Half of all, said by a block or by the controller.
        let by_block = play(&[constant(destination, 500.0)], &[]);
        assert!(by_block == play(&[], &[[0xb0, controller, 64]]) && by_block != play(&[], &[]));
    }
}
