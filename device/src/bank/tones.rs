//! The timbres of the General MIDI programs, as recipes for `tone`.
//!
//! Fed by nothing; `programs` refers to them. Programs that differ in envelope and filter alone share a timbre.

use super::tone::{Knock, Partials, Tone};

const fn power(slope: f32, even: f32) -> Partials {
    Partials::Power { slope, even }
}

const fn pluck(at: f32, slope: f32) -> Partials {
    Partials::Pluck { at, slope }
}

const fn knock(level: f32, hz: f32, time: f32) -> Knock {
    Knock { level, hz, time }
}

const BASE: Tone = Tone::SAW;
const DARK: Tone = Tone { rate: 22_050.0, ..BASE };

// One line a recipe reads as the table that it is.
#[rustfmt::skip]
mod table {
    use super::*;

    // Struck and plucked strings.
    pub(crate) const PIANO: Tone = Tone { partials: pluck(0.12, 1.0), stiffness: 3e-4, mellow: 0.55, strike: (0.8,
        0.11), knock: knock(0.35, 1200.0, 0.012), ..BASE };
    pub(crate) const HONKY: Tone = Tone { spread: 5.0, stiffness: 2e-4, ..PIANO };
    pub(crate) const TINE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.14), (3.0, 0.1), (4.0, 0.05),
        (7.0, 0.12), (14.2, 0.1)]), mellow: 1.2, strike: (1.0, 0.07), knock: knock(0.1, 1000.0, 0.008), ..BASE };
    pub(crate) const FM_PIANO: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.25), (3.0, 0.1), (4.0,
        0.12), (5.0, 0.05), (13.0, 0.1), (14.0, 0.3), (15.0, 0.12)]), mellow: 1.0, strike: (1.2, 0.12), ..BASE };
    pub(crate) const HARPSICHORD: Tone = Tone { partials: pluck(0.11, 0.55), stiffness: 5e-5, mellow: 0.25,
        strike: (0.6, 0.05), knock: knock(0.3, 6000.0, 0.005), ..BASE };
    pub(crate) const CLAVINET: Tone = Tone { partials: pluck(0.07, 0.75), mellow: 0.4, strike: (0.9, 0.05),
        knock: knock(0.25, 3000.0, 0.004), ..BASE };
    pub(crate) const DULCIMER: Tone = Tone { partials: pluck(0.17, 0.8), spread: 3.5, mellow: 0.6, strike: (1.0, 0.08),
        knock: knock(0.4, 4000.0, 0.006), ..BASE };
    pub(crate) const NYLON: Tone = Tone { partials: pluck(0.27, 1.25), body: &[(110.0, 0.6, 0.9), (220.0, 0.9, 1.0),
        (700.0, 2.2, 0.7)], mellow: 0.7, strike: (1.0, 0.06), knock: knock(0.3, 2000.0, 0.006), ..BASE };
    pub(crate) const STEEL: Tone = Tone { partials: pluck(0.13, 0.95), body: &[(180.0, 1.2, 1.0), (900.0, 1.5, 0.5),
        (3500.0, 1.6, 0.8)], stiffness: 3e-5, mellow: 0.5, strike: (1.0, 0.07), knock: knock(0.3, 5000.0, 0.005),
        ..BASE };
    pub(crate) const ELECTRIC: Tone = Tone { partials: pluck(0.22, 1.0), stiffness: 2e-5, mellow: 0.5, strike: (0.8,
        0.06), knock: knock(0.15, 3000.0, 0.004), ..BASE };
    pub(crate) const OVERDRIVE: Tone = Tone { partials: power(0.8, 0.7), body: &[(500.0, 2.0, 1.0), (2200.0, 1.2,
        0.9)], mellow: 0.1, strike: (0.5, 0.04), spread: 1.5, ..BASE };
    pub(crate) const DISTORTION: Tone = Tone { partials: power(0.55, 0.9), body: &[(350.0, 2.0, 0.8), (1400.0, 1.4,
        0.9), (3000.0, 0.8, 0.8)], breath: (0.03, 2500.0), spread: 2.5, ..BASE };
    pub(crate) const HARMONIC: Tone = Tone { partials: power(2.2, 0.5), mellow: 0.5, strike: (0.6, 0.05),
        knock: knock(0.2, 3000.0, 0.005), ..BASE };
    pub(crate) const UPRIGHT: Tone = Tone { partials: pluck(0.3, 1.5), body: &[(90.0, 1.2, 1.0), (350.0, 1.5, 0.6),
        (1200.0, 1.5, 0.25)], mellow: 0.7, strike: (1.2, 0.1), knock: knock(0.35, 1500.0, 0.01), ..BASE };
    pub(crate) const FINGER: Tone = Tone { partials: pluck(0.24, 1.2), mellow: 0.7, strike: (0.9, 0.08),
        knock: knock(0.15, 1500.0, 0.006), ..BASE };
    pub(crate) const PICKED: Tone = Tone { partials: pluck(0.1, 0.95), mellow: 0.6, strike: (1.1, 0.07),
        knock: knock(0.35, 4000.0, 0.004), ..BASE };
    pub(crate) const FRETLESS: Tone = Tone { partials: power(1.5, 0.7), mellow: 0.2, body: &[(120.0, 2.0, 1.0), (700.0,
        0.8, 0.9)], ..BASE };
    pub(crate) const SLAP: Tone = Tone { partials: pluck(0.07, 0.8), mellow: 0.9, strike: (1.6, 0.06),
        knock: knock(0.7, 7000.0, 0.005), ..BASE };
    pub(crate) const HARP: Tone = Tone { partials: pluck(0.4, 1.5), mellow: 0.6, strike: (1.0, 0.07),
        knock: knock(0.12, 2500.0, 0.006), ..BASE };
    pub(crate) const SITAR: Tone = Tone { partials: pluck(0.04, 0.55), body: &[(400.0, 1.6, 0.7), (2400.0, 1.2, 1.0)],
        spread: 1.2, mellow: 0.2, strike: (0.8, 0.15), ..BASE };
    pub(crate) const BANJO: Tone = Tone { partials: pluck(0.09, 0.7), body: &[(500.0, 1.0, 0.7), (1500.0, 1.2, 1.0)],
        mellow: 0.6, strike: (1.2, 0.05), knock: knock(0.5, 2500.0, 0.008), ..BASE };
    pub(crate) const SHAMISEN: Tone = Tone { partials: pluck(0.06, 0.8), body: &[(700.0, 1.0, 1.0), (2200.0, 0.8,
        0.5)], mellow: 0.8, strike: (1.2, 0.05), knock: knock(0.9, 1800.0, 0.01), ..BASE };
    pub(crate) const KOTO: Tone = Tone { partials: pluck(0.15, 1.05), mellow: 0.6, strike: (1.1, 0.08),
        knock: knock(0.35, 3500.0, 0.008), ..BASE };
    pub(crate) const PIZZICATO: Tone = Tone { partials: pluck(0.23, 1.2), body: &[(300.0, 1.2, 1.0), (1000.0, 1.5,
        0.5)], spread: 4.0, mellow: 0.8, strike: (1.3, 0.05), knock: knock(0.3, 1500.0, 0.01), ..DARK };

    // Bars, bells and skins.
    pub(crate) const CELESTA: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.15), (4.0, 0.25), (6.3,
        0.15), (10.5, 0.08)]), mellow: 0.8, strike: (0.9, 0.06), knock: knock(0.15, 3000.0, 0.004), ..BASE };
    pub(crate) const GLOCKENSPIEL: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.76, 0.35), (5.4, 0.3),
        (8.93, 0.15)]), mellow: 0.7, strike: (1.0, 0.07), knock: knock(0.25, 8000.0, 0.003), ..BASE };
    pub(crate) const MUSIC_BOX: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.01, 0.1), (3.0, 0.12), (6.27,
        0.35), (12.1, 0.12)]), mellow: 0.9, strike: (1.0, 0.05), ..BASE };
    pub(crate) const VIBRAPHONE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (4.0, 0.3), (10.0, 0.12)]),
        mellow: 1.5, strike: (0.9, 0.09), knock: knock(0.1, 1500.0, 0.006), ..BASE };
    pub(crate) const MARIMBA: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (3.95, 0.25), (9.2, 0.1)]),
        mellow: 2.0, strike: (1.0, 0.03), knock: knock(0.5, 900.0, 0.009), ..BASE };
    pub(crate) const XYLOPHONE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (3.0, 0.5), (6.1, 0.3), (9.8,
        0.15)]), mellow: 1.0, strike: (1.2, 0.025), knock: knock(0.6, 3500.0, 0.005), ..BASE };
    pub(crate) const TUBULAR: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (0.5, 0.25), (1.5, 0.55), (2.0,
        0.7), (2.74, 0.6), (3.56, 0.45), (4.48, 0.3), (5.5, 0.2), (6.6, 0.1)]), mellow: 0.4, strike: (0.8, 0.15),
        knock: knock(0.15, 5000.0, 0.006), ..BASE };
    pub(crate) const KALIMBA: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.9, 0.08), (5.4, 0.25), (6.7,
        0.1)]), mellow: 1.5, strike: (1.1, 0.03), knock: knock(0.3, 2500.0, 0.006), ..BASE };
    pub(crate) const TINKLE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.41, 0.6), (3.9, 0.5), (5.2, 0.4),
        (7.7, 0.25)]), mellow: 0.3, strike: (0.6, 0.08), ..BASE };
    pub(crate) const AGOGO: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (1.48, 0.5), (2.57, 0.6), (4.1, 0.4),
        (6.3, 0.2)]), mellow: 0.4, strike: (1.0, 0.03), knock: knock(0.4, 6000.0, 0.003), ..BASE };
    pub(crate) const STEEL_DRUM: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.6), (3.0, 0.35), (4.02,
        0.2), (5.1, 0.15), (6.9, 0.08)]), mellow: 0.5, strike: (0.9, 0.06), knock: knock(0.2, 2500.0, 0.006), ..BASE };
    pub(crate) const WOODBLOCK: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.4, 0.4), (4.3, 0.2)]),
        mellow: 0.8, strike: (1.2, 0.012), knock: knock(1.2, 3000.0, 0.005), ..BASE };
    pub(crate) const SKIN: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (1.59, 0.5), (2.14, 0.35), (2.65,
        0.25), (3.5, 0.15)]), mellow: 1.2, strike: (1.0, 0.06), knock: knock(0.9, 700.0, 0.015), ..BASE };
    pub(crate) const TIMPANI: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (1.5, 0.6), (1.99, 0.4), (2.44,
        0.25), (2.9, 0.15)]), mellow: 0.5, strike: (1.0, 0.12), knock: knock(0.9, 400.0, 0.03), ..BASE };
    pub(crate) const BELL_PAD: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.5), (3.01, 0.25), (4.1,
        0.3), (5.43, 0.2), (8.2, 0.12)]), spread: 3.0, mellow: 0.3, strike: (0.8, 0.15), ..DARK };

    // Organs and free reeds.
    pub(crate) const DRAWBAR: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (0.5, 0.6), (1.5, 0.45), (2.0,
        0.7), (3.0, 0.35), (4.0, 0.3), (6.0, 0.1), (8.0, 0.2)]), ..BASE };
    pub(crate) const PERCUSSIVE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.8), (0.5, 0.5), (3.0,
        0.8), (1.5, 0.5)]), mellow: 0.5, strike: (1.3, 0.06), ..BASE };
    pub(crate) const ROCK_ORGAN: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (0.5, 0.8), (1.5, 0.7), (2.0,
        0.8), (3.0, 0.6), (4.0, 0.55), (5.0, 0.35), (6.0, 0.4), (8.0, 0.5), (10.0, 0.15), (12.0, 0.2)]), ..BASE };
    pub(crate) const CHURCH: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (0.5, 0.4), (2.0, 0.8), (3.0, 0.35),
        (4.0, 0.6), (6.0, 0.2), (8.0, 0.35), (12.0, 0.1), (16.0, 0.1)]), spread: 1.2, breath: (0.012, 2000.0), ..BASE };
    pub(crate) const REED_ORGAN: Tone = Tone { partials: power(0.9, 0.8), body: &[(500.0, 1.8, 1.0), (2000.0, 1.2,
        0.45)], spread: 1.5, ..DARK };
    pub(crate) const ACCORDION: Tone = Tone { partials: power(0.7, 0.9), body: &[(600.0, 1.8, 1.0), (2600.0, 1.0,
        0.5)], spread: 5.0, ..BASE };
    pub(crate) const HARMONICA: Tone = Tone { partials: power(0.75, 0.6), body: &[(900.0, 1.2, 1.0), (2800.0, 0.9,
        0.7)], breath: (0.03, 3000.0), ..BASE };

    // Bowed strings, ensembles and voices.
    pub(crate) const VIOLIN: Tone = Tone { partials: power(0.95, 1.0), body: &[(290.0, 0.5, 0.8), (480.0, 0.5, 0.9),
        (1000.0, 0.9, 0.8), (2700.0, 0.8, 1.0)], breath: (0.02, 4000.0), ..BASE };
    pub(crate) const VIOLA: Tone = Tone { partials: power(0.95, 1.0), body: &[(220.0, 0.6, 0.9), (380.0, 0.5, 1.0),
        (900.0, 0.9, 0.8), (1900.0, 0.8, 0.6)], breath: (0.02, 3000.0), ..BASE };
    pub(crate) const CELLO: Tone = Tone { partials: power(0.95, 1.0), body: &[(110.0, 0.8, 1.0), (230.0, 0.6, 1.0),
        (600.0, 1.0, 0.7), (1500.0, 0.9, 0.5)], breath: (0.02, 2000.0), ..BASE };
    pub(crate) const CONTRABASS: Tone = Tone { partials: power(1.05, 1.0), body: &[(70.0, 0.9, 1.0), (150.0, 0.8, 1.0),
        (400.0, 1.2, 0.6), (1000.0, 1.0, 0.3)], breath: (0.025, 1200.0), ..DARK };
    pub(crate) const STRINGS: Tone = Tone { partials: power(1.0, 1.0), body: &[(350.0, 1.5, 1.0), (1100.0, 1.5, 0.75),
        (3000.0, 1.0, 0.8)], spread: 9.0, ..BASE };
    pub(crate) const SLOW_STRINGS: Tone = Tone { partials: power(1.15, 1.0), spread: 11.0, ..DARK };
    pub(crate) const SYNTH_STRINGS: Tone = Tone { partials: power(1.0, 1.0), spread: 7.0, ..BASE };
    pub(crate) const AAHS: Tone = Tone { partials: power(0.7, 1.0), body: &[(300.0, 0.9, 0.5), (760.0, 0.4, 1.0),
        (1180.0, 0.35, 0.6), (2900.0, 0.35, 0.3)], spread: 11.0, breath: (0.03, 2500.0), ..DARK };
    pub(crate) const OOHS: Tone = Tone { partials: power(0.9, 1.0), body: &[(330.0, 0.7, 1.0), (850.0, 0.4, 0.35),
        (2500.0, 0.3, 0.06)], spread: 8.0, breath: (0.03, 1500.0), ..DARK };
    pub(crate) const SYNTH_VOICE: Tone = Tone { partials: power(0.7, 0.6), body: &[(450.0, 0.7, 1.0), (1000.0, 0.4,
        0.5), (2600.0, 0.4, 0.3)], spread: 5.0, ..DARK };
    pub(crate) const HIT: Tone = Tone { partials: power(0.75, 1.0), spread: 9.0, mellow: 0.3, strike: (1.2, 0.1),
        knock: knock(0.8, 2500.0, 0.03), ..BASE };

    // Brass, reeds and pipes.
    pub(crate) const TRUMPET: Tone = Tone { partials: power(0.5, 1.0), body: &[(500.0, 1.5, 0.5), (1300.0, 1.2, 1.0),
        (3200.0, 0.8, 0.3)], ..BASE };
    pub(crate) const TROMBONE: Tone = Tone { partials: power(0.6, 1.0), body: &[(250.0, 1.2, 0.8), (600.0, 1.1, 1.0),
        (1500.0, 1.0, 0.4)], ..BASE };
    pub(crate) const TUBA: Tone = Tone { partials: power(0.9, 1.0), body: &[(110.0, 1.2, 1.0), (280.0, 1.0, 0.8),
        (700.0, 1.0, 0.2)], ..BASE };
    pub(crate) const MUTED: Tone = Tone { partials: power(0.4, 1.0), body: &[(900.0, 0.5, 0.4), (2000.0, 0.7, 1.0),
        (4200.0, 0.6, 0.4)], ..BASE };
    pub(crate) const HORN: Tone = Tone { partials: power(0.9, 1.0), body: &[(200.0, 1.3, 1.0), (450.0, 0.9, 1.0),
        (1100.0, 0.8, 0.25)], spread: 1.5, ..DARK };
    pub(crate) const SECTION: Tone = Tone { partials: power(0.6, 1.0), body: &[(450.0, 1.4, 0.8), (1200.0, 1.2, 1.0),
        (3000.0, 0.8, 0.35)], spread: 6.0, ..BASE };
    pub(crate) const SAX: Tone = Tone { partials: power(0.75, 0.9), body: &[(350.0, 0.9, 0.9), (750.0, 0.7, 1.0),
        (1600.0, 0.8, 0.7), (3200.0, 0.7, 0.35)], breath: (0.03, 2500.0), ..BASE };
    pub(crate) const LOW_SAX: Tone = Tone { partials: power(0.75, 0.9), body: &[(180.0, 0.9, 0.9), (450.0, 0.7, 1.0),
        (1100.0, 0.8, 0.6), (2400.0, 0.7, 0.3)], breath: (0.03, 1800.0), ..BASE };
    pub(crate) const OBOE: Tone = Tone { partials: power(0.35, 0.9), body: &[(600.0, 0.5, 0.5), (1100.0, 0.6, 1.0),
        (2900.0, 0.6, 0.45)], ..BASE };
    pub(crate) const ENGLISH_HORN: Tone = Tone { partials: power(0.5, 0.9), body: &[(450.0, 0.6, 0.7), (950.0, 0.6,
        1.0), (2400.0, 0.6, 0.25)], ..BASE };
    pub(crate) const BASSOON: Tone = Tone { partials: power(0.5, 1.0), body: &[(250.0, 0.6, 0.6), (470.0, 0.5, 1.0),
        (1200.0, 0.7, 0.35)], ..BASE };
    pub(crate) const CLARINET: Tone = Tone { partials: power(0.85, 0.12), body: &[(500.0, 2.0, 1.0), (1700.0, 1.0,
        0.5)], ..BASE };
    pub(crate) const FLUTE: Tone = Tone { partials: power(2.0, 0.8), breath: (0.06, 2000.0), ..BASE };
    pub(crate) const PICCOLO: Tone = Tone { partials: power(2.3, 0.5), breath: (0.05, 5000.0), ..BASE };
    pub(crate) const RECORDER: Tone = Tone { partials: power(2.1, 0.3), breath: (0.025, 3000.0), ..BASE };
    pub(crate) const PAN_FLUTE: Tone = Tone { partials: power(2.3, 0.4), breath: (0.16, 1500.0), knock: knock(0.8,
        2500.0, 0.03), ..BASE };
    pub(crate) const BOTTLE: Tone = Tone { partials: power(3.0, 0.5), breath: (0.3, 900.0), knock: knock(0.8, 1200.0,
        0.04), ..DARK };
    pub(crate) const SHAKUHACHI: Tone = Tone { partials: power(1.7, 0.7), breath: (0.2, 2500.0), knock: knock(1.2,
        3500.0, 0.05), ..BASE };
    pub(crate) const WHISTLE: Tone = Tone { partials: power(4.0, 0.5), breath: (0.04, 2500.0), ..DARK };
    pub(crate) const OCARINA: Tone = Tone { partials: power(3.2, 0.3), breath: (0.03, 1500.0), ..DARK };
    pub(crate) const BAGPIPE: Tone = Tone { partials: power(0.3, 0.9), body: &[(700.0, 0.8, 0.8), (1400.0, 0.7, 1.0),
        (3000.0, 0.8, 0.6)], spread: 1.5, ..BASE };
    pub(crate) const SHANAI: Tone = Tone { partials: power(0.25, 0.8), body: &[(1300.0, 0.7, 1.0), (3300.0, 0.6, 0.8)],
        ..BASE };

    // Synthesizers.
    pub(crate) const SQUARE: Tone = Tone { partials: power(1.0, 0.0), ..BASE };
    pub(crate) const SAWTOOTH: Tone = BASE;
    pub(crate) const SUPER_SAW: Tone = Tone { spread: 5.0, ..BASE };
    pub(crate) const CALLIOPE: Tone = Tone { partials: power(2.0, 0.6), breath: (0.12, 2500.0), knock: knock(0.6,
        4000.0, 0.02), ..BASE };
    pub(crate) const FIFTHS: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (1.5, 0.9), (2.0, 0.5), (3.0, 0.7),
        (4.0, 0.25), (4.5, 0.3), (5.0, 0.2), (6.0, 0.25), (7.0, 0.15), (8.0, 0.1), (9.0, 0.12)]), spread: 3.0, ..DARK };
    pub(crate) const WARM: Tone = Tone { partials: power(1.4, 0.9), spread: 14.0, ..DARK };
    pub(crate) const HALO: Tone = Tone { partials: power(0.8, 0.8), body: &[(400.0, 1.2, 0.8), (2500.0, 0.7, 0.6)],
        spread: 16.0, ..DARK };
    pub(crate) const METALLIC: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.4), (2.76, 0.4), (3.0,
        0.3), (4.6, 0.35), (5.4, 0.3), (7.1, 0.2), (9.3, 0.15)]), spread: 4.0, ..DARK };
    pub(crate) const BOWED_GLASS: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.25), (2.8, 0.2), (4.0,
        0.12), (5.5, 0.12)]), spread: 3.0, breath: (0.02, 2500.0), ..DARK };
    pub(crate) const RAIN: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (2.0, 0.3), (3.0, 0.4), (5.0, 0.35),
        (6.0, 0.2), (9.0, 0.2)]), spread: 8.0, mellow: 0.5, strike: (0.9, 0.15), ..DARK };

    // Effects.
    pub(crate) const SEA: Tone = Tone { partials: power(6.0, 0.0), breath: (40.0, 900.0), ..DARK };
    pub(crate) const WIND: Tone = Tone { partials: power(6.0, 0.0), breath: (40.0, 2500.0), ..BASE };
    pub(crate) const SCRATCH: Tone = Tone { partials: power(0.9, 1.0), breath: (1.0, 3500.0), knock: knock(1.0, 4000.0,
        0.02), ..BASE };
    pub(crate) const ROTOR: Tone = Tone { partials: power(0.4, 1.0), breath: (1.5, 300.0), ..DARK };
    pub(crate) const BIRD: Tone = Tone { partials: power(3.5, 0.7), ..BASE };
    pub(crate) const PHONE: Tone = Tone { partials: Partials::Modes(&[(1.0, 1.0), (1.25, 0.9), (3.0, 0.3), (3.75, 0.3),
        (5.0, 0.2)]), ..BASE };
}

pub(crate) use table::*;
