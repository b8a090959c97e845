//! A tone: the recipe of a pitched timbre, and its waves over the keyboard.
//!
//! Fed by the table in `tones`; `gm` puts the waves into the bank. A wave is a periodic sum of partials that loops for
//! good, preceded (struck and plucked tones) by the same partials with a brighter, dying layer and the noise of the
//! stroke.

use super::draft::{Draft, Loop, Sampling};
use super::spectrum::{Fourier, MAX_LENGTH, Noise, Pair, hearing};

/// Strength of the partials of a tone, before its body colours them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Partials {
    /// Harmonic k at k^-slope; the even ones times `even`.
    Power { slope: f32, even: f32 },
    /// A string plucked (or a pulse of a duty cycle) at a fraction `at` of its length.
    Pluck { at: f32, slope: f32 },
    /// Frequency ratios and amplitudes.
    Modes(&'static [(f32, f32)]),
}

/// The noise of a hammer, pick or breath at the start of a note.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Knock {
    /// Relative to the tone.
    pub(crate) level: f32,
    /// Highest frequency, Hz.
    pub(crate) hz: f32,
    /// Time constant, seconds.
    pub(crate) time: f32,
}

/// The keys that one wave of a tone serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    /// Lowest and highest key.
    pub(crate) keys: (u8, u8),
    /// Index into [`Draft::waves`].
    pub(crate) wave: usize,
}

/// A timbre.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tone {
    pub(crate) partials: Partials,
    /// Resonances: Hz, width in octaves, amplitude. None: a flat body.
    pub(crate) body: &'static [(f32, f32, f32)],
    /// Stretches the partials: f = k f0 sqrt(1 + stiffness k^2).
    pub(crate) stiffness: f32,
    /// Width of each partial, cents: a chorus of many players.
    pub(crate) spread: f32,
    /// Steady noise: level relative to the tone, and centre in Hz.
    pub(crate) breath: (f32, f32),
    /// Exponent by which the steady part is darker than the stroke.
    pub(crate) mellow: f32,
    /// Strength of the dying layer, and its time constant in seconds at 220 Hz.
    pub(crate) strike: (f32, f32),
    pub(crate) knock: Knock,
    /// Sampling rate that the waves are near, Hz.
    pub(crate) rate: f32,
}

impl Tone {
    /// A sawtooth.
    pub(crate) const SAW: Self = Self {
        partials: Partials::Power { slope: 1.0, even: 1.0 },
        body: &[],
        stiffness: 0.0,
        spread: 0.0,
        breath: (0.0, 0.0),
        mellow: 0.0,
        strike: (0.0, 0.0),
        knock: Knock { level: 0.0, hz: 0.0, time: 0.0 },
        rate: 44_100.0,
    };

    /// Needs a loop so long that its repetition is not heard.
    fn lively(&self) -> bool {
        self.spread > 0.0 || self.breath.0 > 0.0
    }

    fn strength(&self, k: usize) -> f32 {
        let harmonic = k as f32;
        match self.partials {
            Partials::Power { slope, even } => {
                libm::powf(harmonic, -slope) * if k.is_multiple_of(2) { even } else { 1.0 }
            }
            Partials::Pluck { at, slope } => {
                libm::sinf(core::f32::consts::PI * harmonic * at).abs() * libm::powf(harmonic, -slope)
            }
            Partials::Modes(modes) => modes.get(k - 1).map_or(0.0, |m| m.1),
        }
    }

    fn ratio(&self, k: usize) -> f32 {
        match self.partials {
            Partials::Modes(modes) => modes.get(k - 1).map_or(0.0, |m| m.0),
            _ => {
                let k = k as f32;
                k * ((1.0 + self.stiffness * k * k) / (1.0 + self.stiffness)).sqrt()
            }
        }
    }

    fn resonance(&self, hz: f32) -> f32 {
        if self.body.is_empty() {
            return 1.0;
        }
        let peak = |&(centre, width, amplitude): &(f32, f32, f32)| {
            let away = libm::log2f(hz / centre) / width;
            amplitude * libm::expf(-away * away)
        };
        0.03 + self.body.iter().map(peak).sum::<f32>()
    }

    /// Lowest key, highest key and centre of each wave.
    fn zones(&self) -> &'static [(u8, u8, u8)] {
        if self.lively() {
            &[(0, 42, 36), (43, 55, 49), (56, 67, 62), (68, 80, 74), (81, 127, 88)]
        } else {
            &[
                (0, 36, 31),
                (37, 47, 42),
                (48, 58, 53),
                (59, 69, 64),
                (70, 80, 75),
                (81, 91, 86),
                (92, 104, 98),
                (105, 127, 110),
            ]
        }
    }

    /// Samples in the loop at a fundamental of `hz`, a power of two.
    fn loop_length(&self, hz: f32) -> usize {
        let full = ((self.rate * 0.7) as usize).next_power_of_two().min(MAX_LENGTH);
        if self.breath.0 > 1.0 {
            full
        } else if self.lively() {
            // High notes beat faster, so their pattern may repeat sooner; faint breath hides its pattern.
            let faint = self.spread == 0.0 && self.breath.0 <= 0.03;
            full >> (u8::from(faint) + u8::from(hz > 200.0) + u8::from(hz > 500.0))
        } else if self.stiffness > 0.0 || matches!(self.partials, Partials::Modes(_)) {
            // Partials that are no harmonics need a fine raster.
            if hz < 150.0 { 8192 } else { 4096 }
        } else {
            ((6.0 * self.rate / hz) as usize).next_power_of_two().max(2048)
        }
    }

    /// Adds the waves of the tone to a bank.
    pub(crate) fn build(&self, bank: &mut Draft, fourier: &Fourier) -> Vec<Zone> {
        let zone = |&(low, high, centre): &(u8, u8, u8)| Zone {
            keys: (low, high),
            wave: self.wave(bank, fourier, high, centre),
        };
        self.zones().iter().map(zone).collect()
    }

    fn wave(&self, bank: &mut Draft, fourier: &Fourier, high: u8, centre: u8) -> usize {
        let pitch = |key: u8| 440.0 * libm::exp2f((f32::from(key) - 69.0) / 12.0);
        let hz = pitch(centre);
        // The loop holds a whole, even number of periods: with the rate adapted to it the pitch is exact.
        let length = self.loop_length(hz);
        let periods = ((hz * length as f32 / self.rate / 2.0 + 0.5) as usize * 2).max(2);
        let rate = (f64::from(hz) * length as f64 / periods as f64 + 0.5) as u32;
        let bin_hz = rate as f32 / length as f32;
        // Nothing above 19 kHz at the top of the zone (as far as keys are played), nor near half the wave's own rate.
        let ceiling = (19_000.0 * hz / pitch(high.min(112))).min(0.46 * rate as f32).max(hz * 1.01);

        let mut noise = Noise::new(u32::from(centre));
        let mut pair = Pair::new(length);
        let mut loudness = 0.0;
        let mut power = 0.0;
        for k in 1..=512 {
            let at = hz * self.ratio(k);
            if at == 0.0 || at > ceiling && k > 1 && !matches!(self.partials, Partials::Modes(_)) {
                break;
            }
            let strength = self.strength(k) * self.resonance(at);
            if at > ceiling && k > 1 || strength < 1e-4 {
                continue;
            }
            let steady = strength * libm::powf(k as f32, -self.mellow);
            let dying = self.strike.0 * (strength - 0.6 * steady);
            power += steady * steady;
            loudness += (steady * steady + 0.4 * dying * dying) * hearing(at);
            let bin = at / bin_hz;
            if self.spread > 0.0 {
                // A bell of random phases around the partial.
                let width = (bin * self.spread * 5.8e-4).max(0.4);
                let reach = (width * 2.5) as i32;
                let level = 1.0 / (width * 1.77).sqrt();
                for offset in -reach..=reach {
                    let away = offset as f32 / width;
                    let level = level * libm::expf(-0.5 * away * away);
                    let at = (bin + offset as f32 + 0.5).max(0.0) as usize;
                    pair.add(at, fourier.random_phase(&mut noise), steady * level, dying * level);
                }
            } else {
                pair.add((bin + 0.5) as usize, fourier.random_phase(&mut noise), steady, dying);
            }
        }
        if self.breath.0 > 0.0 {
            let centre_bin = self.breath.1 / bin_hz;
            let top = (length / 2 - 1).min((centre_bin * 3.0) as usize);
            let level = self.breath.0 * (power / centre_bin.max(1.0)).sqrt();
            for bin in 1..top {
                let away = bin as f32 / centre_bin;
                let shape = 2.0 * away / (1.0 + away * away * away);
                loudness += level * level * shape * shape * hearing(bin as f32 * bin_hz);
                pair.add(bin, fourier.random_phase(&mut noise), level * shape, 0.0);
            }
        }
        fourier.inverse(&mut pair.re, &mut pair.im);

        let wave = self.struck(&pair, rate as f32, hz, (power * 0.5).sqrt(), &mut noise);
        let start = wave.len() - length;
        let (samples, gain) = quantise(&wave, (loudness * 0.5).sqrt());
        let looped = Some(Loop { start, length, until_release: false });
        bank.add_wave(&samples, rate, Sampling { unity_key: centre, fine_tune: 0, gain, looped })
    }

    /// The stroke followed by one round of the loop.
    fn struck(&self, pair: &Pair, rate: f32, hz: f32, level: f32, noise: &mut Noise) -> Vec<f32> {
        let length = pair.re.len();
        // Short strings die sooner.
        let time = self.strike.1 * libm::powf(220.0 / hz, 0.35) * rate;
        let attack = (2.2 * time).max(self.knock.time * 5.0 * rate).min(0.14 * rate) as usize;
        let mut wave = Vec::with_capacity(attack + length);
        let decay = if time > 0.0 { libm::expf(-1.0 / time) } else { 0.0 };
        let knock_decay = if self.knock.time > 0.0 { libm::expf(-1.0 / (self.knock.time * rate)) } else { 0.0 };
        let smooth = (self.knock.hz * core::f32::consts::TAU / rate).min(1.0);
        let (mut dying, mut knock, mut filtered) = (1.0, self.knock.level * level * 2.0, 0.0);
        let slope = 1.0 / attack.max(1) as f32;
        for t in 0..attack {
            let left = 1.0 - t as f32 * slope;
            filtered += smooth * (noise.white() * knock - filtered);
            let i = t % length;
            // The window takes what is left of the stroke to zero where the loop begins.
            wave.push(pair.re[i] + (pair.im[i] * dying + filtered) * left);
            dying *= decay;
            knock *= knock_decay;
        }
        wave.extend((attack..attack + length).map(|t| pair.re[t % length]));
        wave
    }
}

/// Samples at full scale, and the gain in dB at which a wave of this loudness (RMS as heard) sits right among the
/// others.
pub(crate) fn quantise(wave: &[f32], loudness: f32) -> (Vec<i16>, f32) {
    /// Loudness of a wave at 0 dB, full scale being 1.
    const TARGET: f32 = 0.25;
    let peak = wave.iter().fold(1e-9f32, |peak, x| peak.max(x.abs()));
    let scale = 32_000.0 / peak;
    let round = |x: &f32| (x * scale + if *x < 0.0 { -0.5 } else { 0.5 }) as i16;
    let gain = 20.0 * libm::log10f((TARGET * peak / loudness.max(1e-9)).min(1.0));
    (wave.iter().map(round).collect(), gain)
}
