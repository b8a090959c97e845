//! The 128 General MIDI programs: which tone each plays, and its envelopes, filter and oscillators.
//!
//! Fed by `tones`; `gm` turns the rows into articulations and regions.

use super::tone::Tone;
use super::tones::*;

/// A program in musical terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) tone: Tone,
    /// dB.
    pub(crate) level: f32,
    /// Seconds.
    pub(crate) attack: f32,
    /// Seconds for 96 dB at middle C.
    pub(crate) decay: f32,
    /// Attenuation that the decay stops at, dB; 96 fades to silence.
    pub(crate) sustain: f32,
    /// Seconds for 96 dB.
    pub(crate) release: f32,
    /// Cutoff at middle C and full velocity, Hz. 0: no filter.
    pub(crate) cutoff: f32,
    /// dB.
    pub(crate) resonance: f32,
    /// Filter sweep: cents above the cutoff at the start, and seconds until it is gone.
    pub(crate) sweep: (f32, f32),
    /// The sweep rises in this time first, seconds.
    pub(crate) swell: f32,
    /// Pitch at the start of the sweep, cents.
    pub(crate) bend: f32,
    /// Hz, seconds until it starts, cents.
    pub(crate) vibrato: (f32, f32, f32),
    /// Hz, dB.
    pub(crate) tremolo: (f32, f32),
}

/// Sounds while the key is down.
const HELD: Patch = Patch {
    tone: SAWTOOTH,
    level: 0.0,
    attack: 0.01,
    decay: 1.0,
    sustain: 0.0,
    release: 0.5,
    cutoff: 0.0,
    resonance: 0.0,
    sweep: (0.0, 0.5),
    swell: 0.0,
    bend: 0.0,
    vibrato: (5.2, 0.0, 0.0),
    tremolo: (0.0, 0.0),
};
/// Dies away by itself.
const STRUCK: Patch = Patch { attack: 0.0015, decay: 12.0, sustain: 96.0, release: 0.8, level: 2.0, ..HELD };
const PIANOS: Patch = Patch { tone: PIANO, decay: 19.0, release: 0.7, cutoff: 2000.0, sweep: (1400.0, 1.4), ..STRUCK };
const BARS: Patch = Patch { decay: 9.0, release: 2.5, ..STRUCK };
const GUITARS: Patch = Patch { tone: NYLON, decay: 11.0, release: 0.7, cutoff: 6000.0, sweep: (1200.0, 1.5), ..STRUCK };
const BASSES: Patch = Patch { tone: FINGER, decay: 20.0, release: 0.6, cutoff: 1800.0, sweep: (1800.0, 0.8), ..STRUCK };
const BOWED: Patch =
    Patch { tone: VIOLIN, attack: 0.09, release: 0.9, vibrato: (5.6, 0.35, 9.0), cutoff: 9000.0, ..HELD };
const PADS: Patch = Patch { tone: WARM, attack: 0.35, release: 3.5, level: -1.0, ..HELD };
const BRASS: Patch = Patch {
    tone: TRUMPET,
    attack: 0.035,
    release: 0.5,
    cutoff: 2600.0,
    sweep: (1300.0, 1.2),
    swell: 0.05,
    vibrato: (5.0, 0.5, 5.0),
    ..HELD
};
const REEDS: Patch = Patch { tone: SAX, attack: 0.03, release: 0.4, cutoff: 6500.0, vibrato: (5.0, 0.4, 8.0), ..HELD };
const PIPES: Patch = Patch { tone: FLUTE, attack: 0.05, release: 0.4, vibrato: (5.0, 0.4, 7.0), ..HELD };
const LEADS: Patch = Patch { tone: SQUARE, attack: 0.004, release: 0.5, cutoff: 6000.0, level: -1.0, ..HELD };

/// The programs by number.
// One line a program reads as the table that it is.
#[rustfmt::skip]
pub(crate) static PROGRAMS: [Patch; 128] = [
    // Piano: grand, bright, electric grand, honky-tonk, electric 1 and 2, harpsichord, clavinet.
    PIANOS,
    Patch { cutoff: 7000.0, sweep: (1500.0, 2.0), ..PIANOS },
    Patch { tone: ELECTRIC, decay: 15.0, cutoff: 5000.0, ..PIANOS },
    Patch { tone: HONKY, decay: 15.0, cutoff: 8000.0, ..PIANOS },
    Patch { tone: TINE, decay: 16.0, cutoff: 5000.0, tremolo: (4.5, 1.2), ..PIANOS },
    Patch { tone: FM_PIANO, decay: 15.0, cutoff: 9000.0, ..PIANOS },
    Patch { tone: HARPSICHORD, decay: 12.0, release: 0.35, level: 0.0, cutoff: 12_000.0, ..PIANOS },
    Patch { tone: CLAVINET, decay: 10.0, release: 0.25, level: 0.0, cutoff: 4500.0, sweep: (1500.0, 0.5),
        resonance: 4.0, ..PIANOS },
    // Chromatic percussion: celesta, glockenspiel, music box, vibraphone, marimba, xylophone, tubular bells, dulcimer.
    Patch { tone: CELESTA, decay: 8.0, ..BARS },
    Patch { tone: GLOCKENSPIEL, decay: 11.0, release: 5.0, ..BARS },
    Patch { tone: MUSIC_BOX, decay: 9.0, release: 4.0, ..BARS },
    Patch { tone: VIBRAPHONE, decay: 18.0, release: 1.2, tremolo: (5.5, 2.5), ..BARS },
    Patch { tone: MARIMBA, decay: 4.0, level: 4.0, ..BARS },
    Patch { tone: XYLOPHONE, decay: 2.2, level: 4.0, ..BARS },
    Patch { tone: TUBULAR, decay: 20.0, release: 9.0, ..BARS },
    Patch { tone: DULCIMER, decay: 11.0, release: 4.0, ..BARS },
    // Organ: drawbar, percussive, rock, church, reed, accordion, harmonica, bandoneon.
    Patch { tone: DRAWBAR, attack: 0.006, release: 0.12, tremolo: (6.2, 1.0), vibrato: (6.2, 0.0, 4.0), ..HELD },
    Patch { tone: PERCUSSIVE, attack: 0.004, release: 0.12, vibrato: (6.4, 0.0, 3.0), ..HELD },
    Patch { tone: ROCK_ORGAN, attack: 0.004, release: 0.12, tremolo: (6.8, 2.0), vibrato: (6.8, 0.0, 8.0), ..HELD },
    Patch { tone: CHURCH, attack: 0.06, release: 1.5, ..HELD },
    Patch { tone: REED_ORGAN, attack: 0.05, release: 0.35, ..HELD },
    Patch { tone: ACCORDION, attack: 0.04, release: 0.3, ..HELD },
    Patch { tone: HARMONICA, attack: 0.04, release: 0.3, vibrato: (5.5, 0.3, 8.0), tremolo: (5.5, 1.5), ..HELD },
    Patch { tone: ACCORDION, attack: 0.03, release: 0.3, cutoff: 2200.0, resonance: 3.0, ..HELD },
    // Guitar: nylon, steel, jazz, clean, muted, overdriven, distorted, harmonics.
    GUITARS,
    Patch { tone: STEEL, decay: 13.0, cutoff: 9000.0, ..GUITARS },
    Patch { tone: ELECTRIC, decay: 12.0, cutoff: 1700.0, sweep: (900.0, 1.0), ..GUITARS },
    Patch { tone: ELECTRIC, decay: 14.0, cutoff: 6500.0, ..GUITARS },
    Patch { tone: ELECTRIC, decay: 1.8, release: 0.3, cutoff: 2200.0, level: 4.0, ..GUITARS },
    Patch { tone: OVERDRIVE, decay: 40.0, cutoff: 5000.0, level: -1.0, vibrato: (5.0, 0.6, 6.0), ..GUITARS },
    Patch { tone: DISTORTION, decay: 70.0, cutoff: 6500.0, sweep: (0.0, 1.0), level: -2.0, vibrato: (5.0, 0.8, 6.0),
        ..GUITARS },
    Patch { tone: HARMONIC, decay: 14.0, cutoff: 0.0, release: 2.0, ..GUITARS },
    // Bass: acoustic, fingered, picked, fretless, slap 1 and 2, synth 1 and 2.
    Patch { tone: UPRIGHT, decay: 11.0, cutoff: 1600.0, ..BASSES },
    BASSES,
    Patch { tone: PICKED, cutoff: 3200.0, ..BASSES },
    Patch { tone: FRETLESS, attack: 0.02, decay: 35.0, cutoff: 1300.0, sweep: (1100.0, 1.6), swell: 0.09,
        vibrato: (4.8, 0.4, 8.0), ..BASSES },
    Patch { tone: SLAP, cutoff: 5000.0, decay: 13.0, ..BASSES },
    Patch { tone: SLAP, cutoff: 1500.0, sweep: (3600.0, 0.18), decay: 8.0, resonance: 8.0, ..BASSES },
    Patch { tone: SAWTOOTH, decay: 22.0, cutoff: 700.0, sweep: (2800.0, 0.45), resonance: 8.0, release: 0.3, ..BASSES },
    Patch { tone: SQUARE, decay: 30.0, cutoff: 900.0, sweep: (1800.0, 0.3), resonance: 3.0, release: 0.3, ..BASSES },
    // Strings: violin, viola, cello, contrabass, tremolo, pizzicato, harp, timpani.
    BOWED,
    Patch { tone: VIOLA, attack: 0.1, vibrato: (5.3, 0.35, 9.0), ..BOWED },
    Patch { tone: CELLO, attack: 0.1, vibrato: (5.0, 0.4, 8.0), cutoff: 6000.0, ..BOWED },
    Patch { tone: CONTRABASS, attack: 0.11, vibrato: (4.6, 0.5, 5.0), cutoff: 4000.0, ..BOWED },
    Patch { tone: STRINGS, attack: 0.06, tremolo: (11.0, 5.0), vibrato: (5.5, 0.0, 3.0), ..BOWED },
    Patch { tone: PIZZICATO, decay: 3.6, release: 1.2, level: 5.0, ..STRUCK },
    Patch { tone: HARP, decay: 12.0, release: 4.0, ..STRUCK },
    Patch { tone: TIMPANI, decay: 9.0, release: 4.0, level: 5.0, ..STRUCK },
    // Ensemble: strings 1 and 2, synth strings 1 and 2, aahs, oohs, synth voice, orchestra hit.
    Patch { tone: STRINGS, attack: 0.12, release: 1.6, cutoff: 7000.0, ..PADS },
    Patch { tone: SLOW_STRINGS, attack: 0.3, release: 2.4, cutoff: 4500.0, ..PADS },
    Patch { tone: SYNTH_STRINGS, attack: 0.09, release: 1.8, cutoff: 4200.0, resonance: 2.0, ..PADS },
    Patch { tone: SYNTH_STRINGS, attack: 0.3, release: 2.5, cutoff: 2200.0, sweep: (900.0, 4.0), swell: 0.6, ..PADS },
    Patch { tone: AAHS, attack: 0.12, release: 1.4, vibrato: (5.0, 0.4, 5.0), ..PADS },
    Patch { tone: OOHS, attack: 0.1, release: 1.2, vibrato: (5.0, 0.4, 6.0), ..PADS },
    Patch { tone: SYNTH_VOICE, attack: 0.06, release: 1.2, vibrato: (5.2, 0.2, 7.0), ..PADS },
    Patch { tone: HIT, decay: 4.5, release: 1.6, cutoff: 6000.0, level: 4.0, ..STRUCK },
    // Brass: trumpet, trombone, tuba, muted trumpet, horn, section, synth 1 and 2.
    BRASS,
    Patch { tone: TROMBONE, attack: 0.045, cutoff: 2000.0, ..BRASS },
    Patch { tone: TUBA, attack: 0.05, cutoff: 1200.0, vibrato: (4.5, 0.6, 3.0), ..BRASS },
    Patch { tone: MUTED, cutoff: 6000.0, sweep: (400.0, 1.0), ..BRASS },
    Patch { tone: HORN, attack: 0.06, cutoff: 1500.0, sweep: (700.0, 1.5), release: 0.7, ..BRASS },
    Patch { tone: SECTION, attack: 0.04, cutoff: 3400.0, vibrato: (5.0, 0.5, 2.0), ..BRASS },
    Patch { tone: SUPER_SAW, attack: 0.02, cutoff: 1900.0, sweep: (2200.0, 0.7), swell: 0.04, resonance: 3.0, ..BRASS },
    Patch { tone: SYNTH_STRINGS, attack: 0.04, cutoff: 1400.0, sweep: (1700.0, 1.4), swell: 0.1, resonance: 1.0,
        release: 0.9, ..BRASS },
    // Reed: soprano, alto, tenor and baritone sax, oboe, English horn, bassoon, clarinet.
    Patch { tone: OBOE, cutoff: 3500.0, attack: 0.035, level: -0.5, ..REEDS },
    REEDS,
    Patch { tone: LOW_SAX, cutoff: 5500.0, ..REEDS },
    Patch { tone: LOW_SAX, cutoff: 3000.0, vibrato: (4.6, 0.5, 6.0), ..REEDS },
    Patch { tone: OBOE, cutoff: 9000.0, ..REEDS },
    Patch { tone: ENGLISH_HORN, attack: 0.04, ..REEDS },
    Patch { tone: BASSOON, attack: 0.035, vibrato: (4.8, 0.5, 4.0), ..REEDS },
    Patch { tone: CLARINET, attack: 0.035, vibrato: (5.0, 0.5, 2.0), ..REEDS },
    // Pipe: piccolo, flute, recorder, pan flute, bottle, shakuhachi, whistle, ocarina.
    Patch { tone: PICCOLO, attack: 0.04, ..PIPES },
    PIPES,
    Patch { tone: RECORDER, attack: 0.03, vibrato: (4.8, 0.5, 3.0), ..PIPES },
    Patch { tone: PAN_FLUTE, attack: 0.03, ..PIPES },
    Patch { tone: BOTTLE, attack: 0.04, vibrato: (4.5, 0.6, 4.0), ..PIPES },
    Patch { tone: SHAKUHACHI, attack: 0.03, vibrato: (4.6, 0.5, 14.0), bend: -60.0, sweep: (0.0, 0.12), ..PIPES },
    Patch { tone: WHISTLE, attack: 0.04, vibrato: (5.5, 0.2, 14.0), ..PIPES },
    Patch { tone: OCARINA, attack: 0.03, ..PIPES },
    // Synth lead: square, saw, calliope, chiff, charang, voice, fifths, bass and lead.
    LEADS,
    Patch { tone: SUPER_SAW, ..LEADS },
    Patch { tone: CALLIOPE, attack: 0.02, cutoff: 0.0, vibrato: (5.0, 0.3, 6.0), ..LEADS },
    Patch { tone: CALLIOPE, attack: 0.003, cutoff: 2500.0, sweep: (2500.0, 0.12), resonance: 4.0, ..LEADS },
    Patch { tone: DISTORTION, cutoff: 9000.0, decay: 90.0, sustain: 12.0, ..LEADS },
    Patch { tone: SYNTH_VOICE, attack: 0.03, cutoff: 5000.0, vibrato: (5.3, 0.3, 9.0), ..LEADS },
    Patch { tone: FIFTHS, cutoff: 5000.0, resonance: 3.0, ..LEADS },
    Patch { tone: SAWTOOTH, cutoff: 1500.0, sweep: (2600.0, 0.5), resonance: 7.0, ..LEADS },
    // Synth pad: new age, warm, polysynth, choir, bowed, metallic, halo, sweep.
    Patch { tone: BELL_PAD, attack: 0.02, decay: 30.0, sustain: 12.0, ..PADS },
    PADS,
    Patch { tone: SUPER_SAW, attack: 0.05, cutoff: 3000.0, release: 1.6, sweep: (800.0, 1.5), ..PADS },
    Patch { tone: AAHS, attack: 0.4, cutoff: 2600.0, vibrato: (4.6, 0.5, 4.0), ..PADS },
    Patch { tone: BOWED_GLASS, attack: 0.5, vibrato: (4.2, 0.5, 4.0), ..PADS },
    Patch { tone: METALLIC, attack: 0.3, tremolo: (1.1, 2.0), ..PADS },
    Patch { tone: HALO, attack: 0.6, vibrato: (4.5, 0.3, 5.0), ..PADS },
    Patch { tone: SYNTH_STRINGS, attack: 0.5, cutoff: 700.0, sweep: (3200.0, 6.0), swell: 2.2, resonance: 8.0, ..PADS },
    // Synth effects: rain, soundtrack, crystal, atmosphere, brightness, goblins, echoes, sci-fi.
    Patch { tone: RAIN, attack: 0.003, decay: 24.0, sustain: 30.0, ..PADS },
    Patch { tone: FIFTHS, attack: 0.6, cutoff: 1800.0, sweep: (1500.0, 5.0), swell: 1.2, ..PADS },
    Patch { tone: TINKLE, attack: 0.002, decay: 16.0, sustain: 96.0, release: 6.0, level: 2.0, ..PADS },
    Patch { tone: HARP, attack: 0.002, decay: 26.0, sustain: 18.0, cutoff: 5000.0, level: 2.0, ..PADS },
    Patch { tone: METALLIC, attack: 0.02, decay: 30.0, sustain: 8.0, cutoff: 9000.0, ..PADS },
    Patch { tone: HALO, attack: 0.7, cutoff: 900.0, resonance: 9.0, sweep: (1800.0, 4.0), swell: 1.5, vibrato: (3.0,
        0.0, 25.0), ..PADS },
    Patch { tone: SYNTH_VOICE, attack: 0.02, decay: 20.0, sustain: 24.0, tremolo: (3.0, 9.0), ..PADS },
    Patch { tone: TUBULAR, attack: 0.1, decay: 40.0, sustain: 10.0, vibrato: (2.2, 0.0, 40.0), ..PADS },
    // Ethnic: sitar, banjo, shamisen, koto, kalimba, bagpipe, fiddle, shanai.
    Patch { tone: SITAR, decay: 15.0, release: 2.0, cutoff: 7000.0, bend: 25.0, sweep: (600.0, 0.5), ..STRUCK },
    Patch { tone: BANJO, decay: 5.0, ..STRUCK },
    Patch { tone: SHAMISEN, decay: 4.0, level: 3.0, ..STRUCK },
    Patch { tone: KOTO, decay: 10.0, release: 3.0, bend: 12.0, sweep: (0.0, 0.15), ..STRUCK },
    Patch { tone: KALIMBA, decay: 6.0, level: 4.0, release: 3.0, ..STRUCK },
    Patch { tone: BAGPIPE, attack: 0.04, release: 0.3, level: -2.0, ..HELD },
    Patch { tone: VIOLIN, attack: 0.035, vibrato: (6.0, 0.15, 12.0), cutoff: 12_000.0, ..BOWED },
    Patch { tone: SHANAI, attack: 0.03, vibrato: (5.6, 0.2, 16.0), level: -2.0, ..HELD },
    // Percussive: tinkle bell, agogo, steel drums, woodblock, taiko, melodic tom, synth drum, reverse cymbal.
    Patch { tone: TINKLE, decay: 7.0, release: 5.0, ..STRUCK },
    Patch { tone: AGOGO, decay: 4.0, release: 3.0, level: 3.0, ..STRUCK },
    Patch { tone: STEEL_DRUM, decay: 7.0, release: 2.0, bend: 15.0, sweep: (0.0, 0.1), ..STRUCK },
    Patch { tone: WOODBLOCK, decay: 1.2, release: 1.0, level: 6.0, ..STRUCK },
    Patch { tone: SKIN, decay: 6.0, release: 5.0, level: 5.0, bend: 150.0, sweep: (0.0, 0.2), cutoff: 1800.0,
        ..STRUCK },
    Patch { tone: SKIN, decay: 4.5, release: 3.5, level: 5.0, bend: 250.0, sweep: (0.0, 0.15), ..STRUCK },
    Patch { tone: HARMONIC, decay: 4.0, release: 3.0, level: 5.0, bend: 1200.0, sweep: (0.0, 0.3), ..STRUCK },
    Patch { tone: WIND, attack: 1.6, decay: 0.4, sustain: 96.0, release: 0.3, level: 2.0, ..HELD },
    // Sound effects: fret noise, breath, seashore, bird, telephone, helicopter, applause, gunshot.
    Patch { tone: SCRATCH, decay: 1.6, release: 0.8, cutoff: 3500.0, bend: 700.0, sweep: (1500.0, 0.25), ..STRUCK },
    Patch { tone: WIND, attack: 0.05, decay: 4.0, sustain: 96.0, cutoff: 3000.0, resonance: 4.0, release: 0.6, ..HELD },
    Patch { tone: SEA, attack: 1.2, release: 5.0, tremolo: (0.16, 9.0), cutoff: 1500.0, sweep: (1800.0, 7.0),
        swell: 2.0, ..HELD },
    Patch { tone: BIRD, attack: 0.01, level: 3.0, tremolo: (7.0, 12.0), vibrato: (7.0, 0.0, 350.0), ..HELD },
    Patch { tone: PHONE, attack: 0.003, tremolo: (20.0, 12.0), level: 5.0, ..HELD },
    Patch { tone: ROTOR, attack: 0.3, release: 2.0, tremolo: (11.0, 12.0), cutoff: 1200.0, ..HELD },
    Patch { tone: SEA, attack: 0.5, release: 3.0, tremolo: (9.0, 3.0), ..HELD },
    Patch { tone: WIND, attack: 0.001, decay: 4.0, sustain: 96.0, release: 3.0, cutoff: 700.0, sweep: (4500.0, 0.5),
        level: 6.0, ..HELD },
];
