//! What a scenario says of the audio besides its hash: where it is silent, and whether it sounds like a reference.
//!
//! Fed by [`super::judge`] with the card's WAV file; feeds it with sentences of what does not hold. Both are compared
//! in windows: their level, their strongest pitch, and the level of each third-octave band.

use super::scenario::{Audio, Span};
use anyhow::{Context, ensure};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples that are no sound: a step of 16 bits, either way.
const SILENT: f32 = 1.5 / 32768.0;
/// Levels below this are the same, in dB of full scale.
const FLOOR: f32 = -60.0;
/// Third-octave bands, from here on, in Hz.
const LOWEST: f32 = 50.0;
const BANDS: usize = 26;
/// How much of the strongest peak's power one has that may be the strongest as well: 3 dB less.
const TIE: f32 = 0.5;

/// Audio as one channel.
struct Sound {
    samples: Vec<f32>,
    rate: f32,
}

impl Sound {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = || format!("cannot read {}", path.display());
        let mut reader = hound::WavReader::open(path).with_context(name)?;
        let spec = reader.spec();
        ensure!(spec.channels > 0 && spec.sample_rate > 0, "{} has no samples", path.display());
        let samples: Vec<f32> = match spec.sample_format {
            hound::SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>().with_context(name)?,
            hound::SampleFormat::Int => {
                let full = (1u64 << (spec.bits_per_sample - 1)) as f32;
                let samples = reader.samples::<i32>().map(|sample| sample.map(|sample| sample as f32 / full));
                samples.collect::<Result<_, _>>().with_context(name)?
            }
        };
        let channels = usize::from(spec.channels);
        let samples = samples.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32);
        Ok(Self { samples: samples.collect(), rate: spec.sample_rate as f32 })
    }

    fn at(&self, seconds: f64) -> usize {
        ((seconds * f64::from(self.rate)) as usize).min(self.samples.len())
    }

    /// The first and the last sound between two samples.
    fn sounds(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        let is_sound = |sample: &f32| sample.abs() > SILENT;
        let part = &self.samples[from..to.max(from)];
        Some((from + part.iter().position(is_sound)?, from + part.iter().rposition(is_sound)?))
    }

    /// From the first sound on.
    fn since_first_sound(&self) -> &[f32] {
        let first = self.sounds(0, self.samples.len()).map_or(self.samples.len(), |(first, _)| first);
        &self.samples[first..]
    }
}

/// See the module.
pub(super) fn faults(expected: &Audio, audio: &Path, path: impl Fn(&Path) -> PathBuf) -> anyhow::Result<Vec<String>> {
    if expected.silent.is_empty() && expected.not_silent.is_empty() && expected.reference.is_none() {
        return Ok(vec![]);
    }
    let sound = Sound::read(audio)?;
    let mut faults = Vec::new();
    let length = sound.samples.len() as f64 / f64::from(sound.rate);
    for Span { from, to } in &expected.silent {
        if let Some((first, _)) = sound.sounds(sound.at(*from), sound.at(*to)) {
            let at = first as f32 / sound.rate;
            faults.push(format!("the audio is not silent from {from} to {to} s: it sounds at {at:.3} s"));
        }
    }
    for Span { from, to } in &expected.not_silent {
        if sound.sounds(sound.at(*from), sound.at(*to)).is_none() {
            faults.push(format!("the audio is silent from {from} to {to} s; it is {length:.1} s long"));
        }
    }
    if let Some(reference) = &expected.reference {
        let name = reference.display().to_string();
        let reference = Sound::read(&path(reference))?;
        faults.extend(compare(expected, &sound, &reference).map(|what| format!("the audio is not as {name}: {what}")));
    }
    Ok(faults)
}

/// The first window that is too far off.
fn compare(expected: &Audio, sound: &Sound, reference: &Sound) -> Option<String> {
    if sound.rate != reference.rate {
        return Some(format!("it has {} samples a second, not {}", sound.rate, reference.rate));
    }
    let window = (expected.window.unwrap_or(0.1) as f32 * sound.rate) as usize;
    let (heard, wanted) = (sound.since_first_sound(), reference.since_first_sound());
    let last = reference.sounds(0, reference.samples.len()).map_or(0, |(first, last)| last + 1 - first);
    if heard.len() + window < last {
        let seconds = |samples: usize| samples as f32 / sound.rate;
        return Some(format!(
            "it is {:.1} s long from its first sound on, not {:.1} s",
            seconds(heard.len()),
            seconds(last)
        ));
    }
    let mut analysis = Analysis::new(window, sound.rate);
    for (number, (heard, wanted)) in heard.chunks_exact(window).zip(wanted.chunks_exact(window)).enumerate() {
        let (heard, wanted) = (analysis.of(heard), analysis.of(wanted));
        if let Some(what) = heard.differs(&wanted, expected) {
            return Some(format!("{:.2} s after its first sound {what}", (number * window) as f32 / sound.rate));
        }
    }
    None
}

/// What a window sounds like.
struct Window {
    level: f32,
    /// In Hz, the strongest first; none of what is too quiet. Of two notes that are as loud, either may be the
    /// strongest: these are all that are as strong, within [`TIE`].
    pitches: Vec<f32>,
    bands: [f32; BANDS],
}

impl Window {
    fn differs(&self, wanted: &Self, expected: &Audio) -> Option<String> {
        let off = (self.level.max(FLOOR) - wanted.level.max(FLOOR)).abs();
        if off > expected.level.unwrap_or(1.0) as f32 {
            return Some(format!("the level is {:.1} dB, not {:.1} dB", self.level, wanted.level));
        }
        if let (Some(first), Some(wanted_first)) = (self.pitches.first(), wanted.pitches.first()) {
            let cents = |heard: f32, wanted: f32| 1200.0 * (heard / wanted).log2();
            let limit = expected.pitch.unwrap_or(30.0) as f32;
            let is_in = |pitch: f32, pitches: &[f32]| pitches.iter().any(|other| cents(pitch, *other).abs() <= limit);
            if !is_in(*first, &wanted.pitches) || !is_in(*wanted_first, &self.pitches) {
                let off = cents(*first, *wanted_first);
                return Some(format!(
                    "the strongest pitch is {first:.1} Hz, not {wanted_first:.1} Hz ({off:+.0} cents)"
                ));
            }
        }
        let distances = self.bands.iter().zip(&wanted.bands).map(|(a, b)| (a.max(FLOOR) - b.max(FLOOR)).abs());
        let distance = distances.sum::<f32>() / BANDS as f32;
        (distance > expected.spectrum.unwrap_or(6.0) as f32)
            .then(|| format!("third-octave bands are {distance:.1} dB off on average"))
    }
}

struct Analysis {
    fft: Arc<dyn Fft<f32>>,
    buffer: Vec<Complex<f32>>,
    rate: f32,
}

impl Analysis {
    fn new(window: usize, rate: f32) -> Self {
        // Four times as long as what is in it: a peak is then found within some cents.
        let length = (window * 4).next_power_of_two();
        let fft = FftPlanner::new().plan_fft_forward(length);
        Self { fft, buffer: vec![Complex::default(); length], rate }
    }

    fn of(&mut self, samples: &[f32]) -> Window {
        let power = samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len().max(1) as f32;
        self.buffer.fill(Complex::default());
        for (number, (place, sample)) in self.buffer.iter_mut().zip(samples).enumerate() {
            // Hann's window.
            let phase = std::f32::consts::TAU * number as f32 / samples.len() as f32;
            place.re = sample * (0.5 - 0.5 * phase.cos());
        }
        self.fft.process(&mut self.buffer);
        let half = self.buffer.len() / 2;
        let powers: Vec<f32> = self.buffer[..half].iter().map(Complex::norm_sqr).collect();
        let scale = self.rate / self.buffer.len() as f32;
        let total = powers.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        let mut bands = [0.0f32; BANDS];
        for (bin, bin_power) in powers.iter().enumerate() {
            let band = (bin as f32 * scale / LOWEST).log2() * 3.0;
            if band >= 0.0 && (band as usize) < BANDS {
                bands[band as usize] += bin_power;
            }
        }
        let level = decibels(power);
        // Of the window's power, each its share.
        let bands = bands.map(|band| decibels(power * band / total));
        let pitches = if level > FLOOR { peaks(&powers) } else { vec![] };
        Window { level, pitches: pitches.into_iter().map(|pitch| pitch * scale).collect(), bands }
    }
}

fn decibels(power: f32) -> f32 {
    10.0 * power.max(1e-12).log10()
}

/// The places of the strongest peaks, the strongest first, each between bins, by a parabola through the three highest.
fn peaks(powers: &[f32]) -> Vec<f32> {
    let at = |bin: usize| powers.get(bin).copied().unwrap_or(0.0);
    let strongest = powers.iter().skip(1).copied().fold(0.0, f32::max);
    let is_peak = |bin: &usize| at(*bin) >= strongest * TIE && at(*bin) >= at(bin - 1) && at(*bin) > at(bin + 1);
    let mut peaks: Vec<usize> = (1..powers.len()).filter(is_peak).collect();
    peaks.sort_by(|a, b| at(*b).total_cmp(&at(*a)));
    let place = |bin: usize| {
        let log = |bin: usize| at(bin).max(1e-20).ln();
        let (before, here, after) = (log(bin - 1), log(bin), log(bin + 1));
        let bend = before - 2.0 * here + after;
        let shift = if bend == 0.0 { 0.0 } else { (before - after) / (2.0 * bend) };
        bin as f32 + shift.clamp(-0.5, 0.5)
    };
    peaks.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f32 = 48_000.0;

    /// A second of silence, and two of a tone with its octave, so loud.
    fn tone(pitch: f32, gain: f32, octave: f32) -> Sound {
        let sample = |number: usize| {
            let phase = std::f32::consts::TAU * pitch * number as f32 / RATE;
            gain * (phase.sin() + octave * (2.0 * phase).sin())
        };
        let samples = std::iter::repeat_n(0.0, 48_000).chain((0..96_000).map(sample)).collect();
        Sound { samples, rate: RATE }
    }

    #[test]
    fn a_sound_is_held_against_a_reference_by_level_pitch_and_spectrum() {
        let expected = Audio { reference: Some("reference.wav".into()), ..Audio::default() };
        let reference = tone(440.0, 0.2, 0.1);
        let fault = |sound: &Sound| compare(&expected, sound, &reference).unwrap_or_default();
        // Another start, half a decibel and a few cents are no difference.
        let mut near = tone(440.5, 0.21, 0.1);
        near.samples.drain(..20_000);
        assert_eq!(fault(&near), "");
        for (sound, complaint) in [
            (tone(440.0, 0.1, 0.1), "level"),
            (tone(466.2, 0.2, 0.1), "(+100 cents)"),
            (tone(440.0, 0.2, 0.0), ""),
            (Sound { samples: tone(440.0, 0.2, 0.1).samples[..96_000].to_vec(), rate: RATE }, "long"),
            (Sound { samples: vec![0.0; 144_000], rate: RATE }, "long"),
        ] {
            assert!(fault(&sound).contains(complaint), "{complaint}: {}", fault(&sound));
        }
        // Two notes as loud, in whichever one is the stronger; and one that is not there.
        let chord = |low: f32, high: f32, pitch: f32| {
            let notes = [tone(440.0, low, 0.0), tone(pitch, high, 0.0)].map(|note| note.samples);
            Sound { samples: notes[0].iter().zip(&notes[1]).map(|(a, b)| a + b).collect(), rate: RATE }
        };
        let fault = |sound: &Sound| compare(&expected, sound, &chord(0.2, 0.19, 587.3)).unwrap_or_default();
        assert_eq!(fault(&chord(0.19, 0.2, 587.3)), "");
        assert!(fault(&chord(0.19, 0.2, 622.3)).contains("strongest pitch"), "{}", fault(&chord(0.19, 0.2, 622.3)));
        let strict = Audio { spectrum: Some(0.5), ..expected.clone() };
        let dull = compare(&strict, &tone(440.0, 0.2, 0.0), &reference).unwrap_or_default();
        assert!(dull.contains("third-octave bands"), "{dull}");
    }

    #[test]
    fn silence_is_where_nothing_sounds() {
        let sound = tone(440.0, 0.2, 0.0);
        assert_eq!(sound.sounds(0, sound.at(0.9)), None);
        assert_eq!(sound.sounds(0, sound.at(9.0)).map(|(first, _)| first), Some(48_001));
    }
}
