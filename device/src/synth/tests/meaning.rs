//! What messages mean that songs rely on besides General MIDI: recommended practices, GS and XG.

use super::dls::{bank_of, sine_wave};
use super::*;
use crate::collection::connection::{Connection, Destination, Source, Transform};
use crate::collection::{Instrument as Made, Region as Part};

const GS_RESET: [u8; 11] = [0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7f, 0x00, 0x41, 0xf7];
const XG_ON: [u8; 9] = [0xf0, 0x43, 0x10, 0x4c, 0x00, 0x00, 0x7e, 0x00, 0xf7];

/// A second of a key is so many cents from its own pitch.
fn is_off(synth: &mut Synth, key: u8, cents: f64) {
    send(synth, &[[0x90, key, 127]]);
    let (left, _) = render(synth, 48_000);
    send(synth, &[[0xb0, 120, 0]]);
    render(synth, 480);
    in_tune(&left, key_hz(f64::from(key) + cents / 100.0));
}

fn in_tune(samples: &[f32], hz: f64) {
    // What is far away would be taken for what is near.
    let turns = samples.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    let expected = hz * samples.len() as f64 / f64::from(RATE);
    assert!((turns as f64 - expected).abs() < 2.0, "{turns} periods, not {expected}");
    let off = cents_off(samples, hz);
    assert!(off.abs() < 0.05, "{off} cents from {hz} Hz");
}

#[test]
fn resetting_controllers_takes_the_pressure_off_keys() {
    let pressed = Connection::from(Source::POLY_PRESSURE, Destination::PITCH, Transform::NONE, 1280 << 16);
    let mut s = Synth::new(bank_of(vec![sine_wave()], vec![Part::of(0)], &[pressed]), RATE, 1, 8);
    send(&mut s, &[[0x90, 69, 127], [0xa0, 69, 64]]);
    let (left, _) = render(&mut s, 48_000);
    in_tune(&left, key_hz(75.4));
    send(&mut s, &[[0xb0, 121, 0]]);
    let (left, _) = render(&mut s, 48_000);
    in_tune(&left, 440.0);
}

#[test]
fn steps_of_the_bend_range_are_cents() {
    let mut s = sine();
    send(&mut s, &[[0xb0, 101, 0], [0xb0, 100, 0], [0xb0, 6, 2], [0xb0, 38, 99], [0xe0, 0, 0]]);
    is_off(&mut s, 69, -299.0);
    send(&mut s, &[[0xb0, 96, 0]]);
    is_off(&mut s, 69, -300.0);
    send(&mut s, &[[0xb0, 97, 0], [0xb0, 97, 0]]);
    is_off(&mut s, 69, -298.0);
}

#[test]
fn the_modulation_depth_range_is_what_the_wheel_does_at_its_end() {
    let depth = |messages: &[[u8; 3]]| {
        let mut s = sine();
        send(&mut s, messages);
        send(&mut s, &[[0xb0, 1, 127], [0x90, 69, 127]]);
        let (left, _) = render(&mut s, 96_000);
        // The widest of short windows: the oscillator's peak, nearly.
        let cents = left[9600..].chunks_exact(960).map(|window| cents_off(window, 440.0));
        cents.fold(0.0, f64::max)
    };
    let usual = depth(&[]);
    assert!((40.0..51.0).contains(&usual), "{usual}");
    let range = |semitones, parts| depth(&[[0xb0, 101, 0], [0xb0, 100, 5], [0xb0, 6, semitones], [0xb0, 38, parts]]);
    let (one, quarter) = (range(1, 0), range(0, 32));
    assert!((one / usual - 2.0).abs() < 0.05 && (quarter / usual - 0.5).abs() < 0.02, "{usual}, {one}, {quarter}");
}

#[test]
fn octaves_and_single_keys_are_tuned_in_all_their_forms() {
    let mut s = sine();
    // A by a quarter of a semitone, in two bytes; E of the first channel by 10 cents, GS.
    let mut tuning = vec![0xf0, 0x7e, 0x7f, 8, 9, 3, 127, 127];
    (0..12).for_each(|key| tuning.extend([if key == 9 { 80 } else { 64 }, 0]));
    tuning.push(0xf7);
    s.message(0, &tuning);
    is_off(&mut s, 69, 25.0);
    is_off(&mut s, 64, 0.0);
    let mut tuning = vec![0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x11, 0x40];
    (0..12).for_each(|key| tuning.push(if key == 4 { 74 } else { 64 }));
    tuning.extend([0, 0xf7]);
    s.message(0, &tuning);
    is_off(&mut s, 64, 10.0);
    is_off(&mut s, 69, 0.0);
    // Key 70 sounds as 60 and a half, and no other moves.
    s.message(0, &[0xf0, 0x7f, 0x7f, 8, 2, 0, 1, 70, 60, 64, 0, 0xf7]);
    is_off(&mut s, 70, -950.0);
    is_off(&mut s, 58, 0.0);
    // No key of a drum part is a pitch.
    s.message(0, &[0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x11, 0x15, 1, 0, 0xf7]);
    is_off(&mut s, 70, 0.0);
}

/// Programs 0 of melody and drums, of which the drums are an octave higher.
fn two_kinds() -> Synth {
    let higher = Connection::constant(Destination::PITCH, 1200 << 16);
    let made = |drum, connections| Made { drum, regions: vec![Part::of(0)], connections, ..Made::default() };
    let instruments = vec![made(false, vec![]), made(true, vec![higher])];
    let collection = Collection { waves: vec![sine_wave()], instruments, ..Collection::default() };
    Synth::new(Arc::new(Bank::new(&[collection]).expect("a bank")), RATE, 1, 8)
}

/// Whether a channel is a drum part.
fn drums(synth: &mut Synth, channel: u8) -> bool {
    synth.message(0, &[0x90 | channel, 69, 127]);
    let (left, _) = render(synth, 48_000);
    synth.message(0, &[0xb0 | channel, 120, 0]);
    render(synth, 480);
    let turns = left.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    assert!([439, 440, 879, 880].contains(&turns), "{turns} periods");
    turns > 500
}

#[test]
fn gs_makes_drum_parts_of_any_channel_and_a_part_of_the_tenth() {
    let mut s = two_kinds();
    assert_eq!([0, 2, 9].map(|channel| drums(&mut s, channel)), [false, false, true]);
    let part = |part: u8, map: u8| [0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x10 | part, 0x15, map, 0, 0xf7];
    s.message(0, &GS_RESET);
    s.message(0, &part(3, 1));
    s.message(0, &part(0, 0));
    assert_eq!([0, 2, 9].map(|channel| drums(&mut s, channel)), [false, true, false]);
    // A program does not change that, nor does a bank.
    for message in [&[0xb2, 0, 0][..], &[0xc2, 0], &[0xb9, 0, 8], &[0xc9, 0]] {
        s.message(0, message);
    }
    assert_eq!([0, 2, 9].map(|channel| drums(&mut s, channel)), [false, true, false]);
    s.message(0, &GS_RESET);
    assert_eq!([0, 2, 9].map(|channel| drums(&mut s, channel)), [false, false, true]);
}

#[test]
fn xg_has_drums_where_the_bank_says_so() {
    let mut s = two_kinds();
    let bank = |s: &mut Synth, channel: u8, high: u8| {
        s.message(0, &[0xb0 | channel, 0, high]);
        s.message(0, &[0xc0 | channel, 0]);
    };
    bank(&mut s, 2, 127);
    assert!(!drums(&mut s, 2), "not without XG");
    s.message(0, &XG_ON);
    // The tenth is one from the beginning, and stays one as its program changes.
    s.message(0, &[0xc9, 0]);
    assert!(drums(&mut s, 9) && !drums(&mut s, 2));
    bank(&mut s, 2, 127);
    bank(&mut s, 3, 126);
    bank(&mut s, 9, 64);
    assert_eq!([2, 3, 9].map(|channel| drums(&mut s, channel)), [true, true, false]);
    s.message(0, &[0xf0, 0x43, 0x10, 0x4c, 0x08, 2, 0x07, 0, 0xf7]);
    assert!(!drums(&mut s, 2));
}

#[test]
fn resets_of_all_makers_reset_and_gs_has_a_master_volume() {
    let level = |s: &mut Synth| {
        send(s, &[[0x90, 69, 127]]);
        render(s, 4800);
        let level = peak(&render(s, 4800).0);
        send(s, &[[0xb0, 120, 0]]);
        level
    };
    let mut s = sine().without_effects();
    let full = level(&mut s);
    for reset in [&GS_RESET[..], &XG_ON, &[0xf0, 0x7e, 0x7f, 9, 1, 0xf7], &[0xf0, 0x7e, 0x7f, 9, 3, 0xf7]] {
        s.message(0, &[0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0, 4, 64, 0, 0xf7]);
        // 40 log10 (64 / 127).
        let lower = db(level(&mut s)) - db(full);
        assert!((lower + 11.9).abs() < 0.1, "{lower} dB");
        send(&mut s, &[[0xb0, 7, 0]]);
        assert_eq!(level(&mut s), 0.0);
        s.message(0, reset);
        assert!((db(level(&mut s)) - db(full)).abs() < 0.1, "{reset:x?}");
    }
}
