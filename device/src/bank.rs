//! Instruments as DLS describes them: waves, regions, articulations, and the built-in General MIDI set.
//!
//! Fed by generators (`gm`) or by whoever loads instruments; read by the voices of `crate::synth`.

mod drums;
mod gm;
mod kit;
mod programs;
mod spectrum;
mod tone;
mod tones;

/// Silent samples before and after every wave, and copied samples after a loop, so that an interpolator may read ahead.
pub const GUARD: usize = 8;
/// The longest wave, in samples; longer ones are cut.
pub const MAX_WAVE: usize = 1 << 30;

/// A loop within a wave, in samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// First sample of the loop.
    pub start: usize,
    /// Samples in the loop.
    pub length: usize,
    /// DLS "loop and release": after note-off the rest of the wave is played instead.
    pub until_release: bool,
}

/// How a wave relates to keys and levels (a DLS `wsmp` chunk).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The key at which the wave plays at its own rate, 0..=127.
    pub unity_key: u8,
    /// Added to the pitch, cents.
    pub fine_tune: i16,
    /// Added to the level, dB.
    pub gain: f32,
    /// What repeats while the note sounds; `None` plays once.
    pub looped: Option<Loop>,
}

/// One recording; its samples are in the bank's pool.
#[derive(Clone, Copy, Debug)]
pub struct Wave {
    /// First sample, as an index into [`Bank::samples`].
    pub start: usize,
    /// Length in samples.
    pub length: usize,
    /// Samples per second.
    pub rate: u32,
    /// How it plays where a region says nothing else.
    pub sampling: Sampling,
}

/// The keys and velocities that play a wave, and how.
#[derive(Clone, Debug)]
pub struct Region {
    /// Lowest and highest key.
    pub keys: (u8, u8),
    /// Lowest and highest velocity.
    pub velocities: (u8, u8),
    /// Index into [`Bank::waves`].
    pub wave: usize,
    /// Index into [`Bank::articulations`].
    pub articulation: usize,
    /// Exclusive class: a note silences the other notes of its class on its channel. 0: none.
    pub key_group: u16,
    /// A second note on the same key silences the first.
    pub self_exclusive: bool,
    /// Replaces the wave's own.
    pub sampling: Option<Sampling>,
}

/// Times and levels of an envelope generator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Envelope {
    /// Seconds.
    pub delay: f32,
    /// Seconds from silence to the peak, linear in amplitude.
    pub attack: f32,
    /// Seconds at the peak.
    pub hold: f32,
    /// Seconds for the whole range: 96 dB (EG1, linear in dB) or 100 % (EG2).
    pub decay: f32,
    /// EG1: attenuation in dB, 96 is silence. EG2: how far it falls, in percent.
    pub sustain: f32,
    /// Seconds for the whole range, as for `decay`.
    pub release: f32,
    /// Added to the attack at velocity 128, time cents.
    pub velocity_to_attack: f32,
    /// Added to the decay at key 128, time cents.
    pub key_to_decay: f32,
}

impl Envelope {
    /// On while the key is down.
    pub const GATE: Self = Self {
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
pub struct Lfo {
    /// Hz.
    pub rate: f32,
    /// Seconds from note-on until it starts.
    pub delay: f32,
    /// Peak pitch change, cents.
    pub pitch: f32,
    /// Peak pitch change that a full modulation wheel adds, cents.
    pub wheel_pitch: f32,
    /// Peak level change, dB.
    pub gain: f32,
}

impl Lfo {
    /// Vibrato by modulation wheel only, as General MIDI wants it.
    pub const WHEEL: Self = Self { rate: 5.2, delay: 0.0, pitch: 0.0, wheel_pitch: 50.0, gain: 0.0 };
    /// Does nothing.
    pub const OFF: Self = Self { wheel_pitch: 0.0, ..Self::WHEEL };
}

/// A resonant low-pass filter of two poles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// Absolute pitch cents: 6900 is 440 Hz.
    pub cutoff: f32,
    /// Height of the resonance, dB.
    pub resonance: f32,
    /// Added to the cutoff at velocity 127, cents; less, in proportion, below.
    pub velocity: f32,
    /// Cents of cutoff per key above middle C.
    pub key: f32,
    /// Added to the cutoff at the peak of EG2, cents.
    pub envelope: f32,
}

/// Everything that shapes a note besides its wave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Articulation {
    /// EG1: level.
    pub amplitude: Envelope,
    /// EG2: pitch and filter.
    pub modulation: Envelope,
    /// Pitch change at the peak of EG2, cents.
    pub modulation_pitch: f32,
    /// Pitch oscillator.
    pub vibrato: Lfo,
    /// Level oscillator.
    pub tremolo: Lfo,
    /// Low-pass filter; `None` passes everything.
    pub filter: Option<Filter>,
    /// Cents of pitch per key; DLS and General MIDI say 100.
    pub key_pitch: f32,
    /// Percent, -50 left to +50 right.
    pub pan: f32,
    /// Added to the level, dB.
    pub gain: f32,
}

impl Articulation {
    /// What DLS gives an instrument that has no articulation of its own.
    pub const DEFAULT: Self = Self {
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
pub struct Instrument {
    /// CC0 x 128 + CC32.
    pub bank: u16,
    /// MIDI program, 0..=127.
    pub program: u8,
    /// Played by the percussion channel.
    pub drum: bool,
    /// All that match a note sound.
    pub regions: Vec<Region>,
}

impl Instrument {
    fn order(drum: bool, bank: u16, program: u8) -> u32 {
        u32::from(drum) << 24 | u32::from(bank) << 8 | u32::from(program)
    }
}

/// A set of instruments with all that they refer to.
#[derive(Clone, Debug, Default)]
pub struct Bank {
    samples: Vec<i16>,
    waves: Vec<Wave>,
    articulations: Vec<Articulation>,
    /// Sorted by [`Instrument::order`].
    instruments: Vec<Instrument>,
}

impl Bank {
    /// The General MIDI instruments and drum kit, computed: no two calls differ by a bit.
    pub fn general_midi() -> Self {
        gm::build()
    }

    /// Adds a wave and returns its index. `rate` is in Hz; a loop that does not fit the samples is dropped.
    pub fn add_wave(&mut self, samples: &[i16], rate: u32, sampling: Sampling) -> usize {
        let samples = &samples[..samples.len().min(MAX_WAVE)];
        let looped = sampling
            .looped
            .filter(|l| l.length > 0 && l.start.checked_add(l.length).is_some_and(|end| end <= samples.len()));
        self.samples.extend_from_slice(&[0; GUARD]);
        let start = self.samples.len();
        let mut length = samples.len();
        if let Some(l) = looped.filter(|l| !l.until_release) {
            length = l.start + l.length;
        }
        self.samples.extend_from_slice(&samples[..length]);
        match looped {
            // Nothing behind a plain loop is ever played: its guard is the loop's own beginning.
            Some(l) if !l.until_release => {
                let round = samples[l.start..length].iter().cycle().take(GUARD);
                self.samples.extend(round);
            }
            _ => self.samples.extend_from_slice(&[0; GUARD]),
        }
        self.waves.push(Wave { start, length, rate, sampling: Sampling { looped, ..sampling } });
        self.waves.len() - 1
    }

    /// Adds an articulation and returns its index.
    pub fn add_articulation(&mut self, articulation: Articulation) -> usize {
        self.articulations.push(articulation);
        self.articulations.len() - 1
    }

    /// Adds an instrument; it replaces one with the same bank, program and kind.
    pub fn add_instrument(&mut self, instrument: Instrument) {
        let order = Instrument::order(instrument.drum, instrument.bank, instrument.program);
        match self.find(order) {
            Ok(at) => self.instruments[at] = instrument,
            Err(at) => self.instruments.insert(at, instrument),
        }
    }

    fn find(&self, order: u32) -> Result<usize, usize> {
        self.instruments.binary_search_by_key(&order, |i| Instrument::order(i.drum, i.bank, i.program))
    }

    /// The instrument that a channel plays: the very one, else the same program of bank 0, else (drums) program 0.
    pub fn instrument(&self, drum: bool, bank: u16, program: u8) -> Option<&Instrument> {
        let at = |bank, program| self.find(Instrument::order(drum, bank, program)).ok();
        let found = at(bank, program).or_else(|| at(0, program));
        let found = found.or_else(|| if drum { at(0, 0) } else { None });
        found.map(|at| &self.instruments[at])
    }

    /// All samples of all waves, with guards between them.
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// All waves, by index.
    pub fn waves(&self) -> &[Wave] {
        &self.waves
    }

    /// All articulations, by index.
    pub fn articulations(&self) -> &[Articulation] {
        &self.articulations
    }

    /// All instruments.
    pub fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// Memory that the bank holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.samples.capacity() * 2
            + size_of_val(&self.waves[..])
            + size_of_val(&self.articulations[..])
            + self.instruments.iter().map(|i| size_of_val(&i.regions[..])).sum::<usize>()
    }
}
