//! What the built-in instruments are drafted in: waves, regions and articulations in dB, seconds and hertz.
//!
//! Fed by the generators (`gm`); `collection` turns a [`Draft`] into DLS.

use super::{Wanted, gm};

/// The longest wave, in samples; longer ones are cut.
pub(crate) const MAX_WAVE: usize = 1 << 30;

/// A loop within a wave, in samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    /// First sample of the loop.
    pub(crate) start: usize,
    /// Samples in the loop.
    pub(crate) length: usize,
    /// DLS "loop and release": after note-off the rest of the wave is played instead.
    pub(crate) until_release: bool,
}

/// How a wave relates to keys and levels (a DLS `wsmp` chunk).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// The key at which the wave plays at its own rate, 0..=127.
    pub(crate) unity_key: u8,
    /// Added to the pitch, cents.
    pub(crate) fine_tune: i16,
    /// Added to the level, dB.
    pub(crate) gain: f32,
    /// What repeats while the note sounds; `None` plays once.
    pub(crate) looped: Option<Loop>,
}

/// One recording; its samples are in the bank's pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wave {
    /// First sample, as an index into [`Draft::samples`].
    pub(crate) start: usize,
    /// Length in samples.
    pub(crate) length: usize,
    /// Samples per second.
    pub(crate) rate: u32,
    /// How it plays where a region says nothing else.
    pub(crate) sampling: Sampling,
}

/// The keys and velocities that play a wave, and how.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Lowest and highest key.
    pub(crate) keys: (u8, u8),
    /// Lowest and highest velocity.
    pub(crate) velocities: (u8, u8),
    /// Index into [`Draft::waves`].
    pub(crate) wave: usize,
    /// Index into [`Draft::articulations`].
    pub(crate) articulation: usize,
    /// Exclusive class: a note silences the other notes of its class on its channel. 0: none.
    pub(crate) key_group: u16,
    /// A second note on the same key silences the first.
    pub(crate) self_exclusive: bool,
    /// Replaces the wave's own.
    pub(crate) sampling: Option<Sampling>,
}

/// Times and levels of an envelope generator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Envelope {
    /// Seconds.
    pub(crate) delay: f32,
    /// Seconds from silence to the peak, linear in amplitude.
    pub(crate) attack: f32,
    /// Seconds at the peak.
    pub(crate) hold: f32,
    /// Seconds for the whole range: 96 dB (EG1, linear in dB) or 100 % (EG2).
    pub(crate) decay: f32,
    /// EG1: attenuation in dB, 96 is silence. EG2: how far it falls, in percent.
    pub(crate) sustain: f32,
    /// Seconds for the whole range, as for `decay`.
    pub(crate) release: f32,
    /// Added to the attack at velocity 128, time cents.
    pub(crate) velocity_to_attack: f32,
    /// Added to the decay at key 128, time cents.
    pub(crate) key_to_decay: f32,
}

impl Envelope {
    /// On while the key is down.
    pub(crate) const GATE: Self = Self {
        delay: 0.0,
        attack: 0.0,
        hold: 0.0,
        decay: 0.0,
        sustain: 0.0,
        release: 0.0,
        velocity_to_attack: 0.0,
        key_to_decay: 0.0,
    };
}

/// A low-frequency oscillator (sine).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lfo {
    /// Hz.
    pub(crate) rate: f32,
    /// Seconds from note-on until it starts.
    pub(crate) delay: f32,
    /// Peak pitch change, cents.
    pub(crate) pitch: f32,
    /// Peak pitch change that a full modulation wheel adds, cents.
    pub(crate) wheel_pitch: f32,
    /// Peak level change, dB.
    pub(crate) gain: f32,
}

impl Lfo {
    /// Vibrato by modulation wheel only, as General MIDI wants it.
    pub(crate) const WHEEL: Self = Self { rate: 5.2, delay: 0.0, pitch: 0.0, wheel_pitch: 50.0, gain: 0.0 };
    /// Does nothing.
    pub(crate) const OFF: Self = Self { wheel_pitch: 0.0, ..Self::WHEEL };
}

/// A resonant low-pass filter of two poles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Filter {
    /// Absolute pitch cents: 6900 is 440 Hz.
    pub(crate) cutoff: f32,
    /// Height of the resonance, dB.
    pub(crate) resonance: f32,
    /// Added to the cutoff at velocity 127, cents; less, in proportion, below.
    pub(crate) velocity: f32,
    /// Cents of cutoff per key above middle C.
    pub(crate) key: f32,
    /// Added to the cutoff at the peak of EG2, cents.
    pub(crate) envelope: f32,
}

/// Everything that shapes a note besides its wave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Articulation {
    /// EG1: level.
    pub(crate) amplitude: Envelope,
    /// EG2: pitch and filter.
    pub(crate) modulation: Envelope,
    /// Pitch change at the peak of EG2, cents.
    pub(crate) modulation_pitch: f32,
    /// Pitch oscillator.
    pub(crate) vibrato: Lfo,
    /// Level oscillator.
    pub(crate) tremolo: Lfo,
    /// Low-pass filter; `None` passes everything.
    pub(crate) filter: Option<Filter>,
    /// Cents of pitch per key; DLS and General MIDI say 100.
    pub(crate) key_pitch: f32,
    /// Percent, -50 left to +50 right.
    pub(crate) pan: f32,
    /// Added to the level, dB.
    pub(crate) gain: f32,
}

impl Articulation {
    /// What DLS gives an instrument that has no articulation of its own.
    pub(crate) const DEFAULT: Self = Self {
        amplitude: Envelope::GATE,
        modulation: Envelope::GATE,
        modulation_pitch: 0.0,
        vibrato: Lfo::WHEEL,
        tremolo: Lfo::OFF,
        filter: None,
        key_pitch: 100.0,
        pan: 0.0,
        gain: 0.0,
    };
}

/// What a program number selects.
#[derive(Clone, Debug)]
pub(crate) struct Instrument {
    /// CC0 x 128 + CC32.
    pub(crate) bank: u16,
    /// MIDI program, 0..=127.
    pub(crate) program: u8,
    /// Played by the percussion channel.
    pub(crate) drum: bool,
    /// All that match a note sound.
    pub(crate) regions: Vec<Region>,
}

impl Instrument {
    fn order(drum: bool, bank: u16, program: u8) -> u32 {
        u32::from(drum) << 24 | u32::from(bank) << 8 | u32::from(program)
    }
}

/// A set of instruments with all that they refer to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    samples: Vec<i16>,
    waves: Vec<Wave>,
    articulations: Vec<Articulation>,
    /// Sorted by [`Instrument::order`].
    instruments: Vec<Instrument>,
}

impl Draft {
    /// What is wanted of the General MIDI instruments and drum kit, computed: no two calls differ by a bit.
    pub(crate) fn general_midi(wanted: &Wanted) -> Self {
        gm::build(wanted)
    }

    /// Adds a wave and returns its index. `rate` is in Hz; a loop that does not fit the samples is dropped.
    pub(crate) fn add_wave(&mut self, samples: &[i16], rate: u32, sampling: Sampling) -> usize {
        let samples = &samples[..samples.len().min(MAX_WAVE)];
        let looped = sampling
            .looped
            .filter(|l| l.length > 0 && l.start.checked_add(l.length).is_some_and(|end| end <= samples.len()));
        let start = self.samples.len();
        // Nothing behind a plain loop is ever played.
        let length = looped.filter(|l| !l.until_release).map_or(samples.len(), |l| l.start + l.length);
        self.samples.extend_from_slice(&samples[..length]);
        self.waves.push(Wave { start, length, rate, sampling: Sampling { looped, ..sampling } });
        self.waves.len() - 1
    }

    /// Adds an articulation and returns its index.
    pub(crate) fn add_articulation(&mut self, articulation: Articulation) -> usize {
        self.articulations.push(articulation);
        self.articulations.len() - 1
    }

    /// Adds an instrument; it replaces one with the same bank, program and kind.
    pub(crate) fn add_instrument(&mut self, instrument: Instrument) {
        let order = Instrument::order(instrument.drum, instrument.bank, instrument.program);
        match self.find(order) {
            Ok(at) => self.instruments[at] = instrument,
            Err(at) => self.instruments.insert(at, instrument),
        }
    }

    fn find(&self, order: u32) -> Result<usize, usize> {
        self.instruments.binary_search_by_key(&order, |i| Instrument::order(i.drum, i.bank, i.program))
    }

    /// All samples of all waves.
    pub(crate) fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// All waves, by index.
    pub(crate) fn waves(&self) -> &[Wave] {
        &self.waves
    }

    /// All articulations, by index.
    pub(crate) fn articulations(&self) -> &[Articulation] {
        &self.articulations
    }

    /// All instruments.
    pub(crate) fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }
}
