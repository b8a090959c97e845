//! Percussion: the recipe of a drum, and its wave.
//!
//! Fed by the table in `kit`; `gm` puts the results into the bank. A drum is a sum of up to a few layers that die
//! exponentially: a sliding tone, ringing modes and filtered noise.

use super::draft::{Articulation, Draft, Envelope, Lfo, Region, Sampling};
use super::spectrum::{Noise, hearing};
use super::tone::quantise;

/// Waves of drums, Hz.
const RATE: f32 = 32_000.0;

/// A drum, or anything else that is hit, shaken or scraped once a note.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drum {
    pub(crate) key: u8,
    /// Seconds; the wave fades to nothing at its end.
    pub(crate) length: f32,
    /// dB against the other drums.
    pub(crate) level: f32,
    /// Percent, -50 left to +50 right.
    pub(crate) pan: f32,
    /// Exclusive class, 0 for none.
    pub(crate) group: u16,
    /// A membrane: Hz at the start and later, seconds of the slide, seconds of decay, amplitude.
    pub(crate) skin: (f32, f32, f32, f32, f32),
    /// Ringing modes: Hz, their ratios, seconds of decay, amplitude.
    pub(crate) ring: (f32, &'static [f32], f32, f32),
    /// Noise: lowest and highest Hz, seconds of decay, amplitude.
    pub(crate) noise: (f32, f32, f32, f32),
    /// Cymbals: lowest Hz, seconds of decay, amplitude. Hundreds of unrelated modes.
    pub(crate) metal: (f32, f32, f32),
    /// Repeats of the noise: how many, seconds apart.
    pub(crate) bursts: (u32, f32),
    /// Seconds from silence to the full noise.
    pub(crate) rise: f32,
}

/// The wave and region of a drum.
pub(crate) fn build(drum: &Drum, bank: &mut Draft) -> Region {
    let wave = render(drum);
    let start = &wave[..wave.len().min(RATE as usize / 8)];
    let (samples, gain) = quantise(&wave, loudness(start));
    let sampling = Sampling { unity_key: drum.key, fine_tune: 0, gain, looped: None };
    let wave = bank.add_wave(&samples, RATE as u32, sampling);
    let amplitude = Envelope { release: 1000.0, ..Envelope::GATE };
    let articulation = bank.add_articulation(Articulation {
        amplitude,
        vibrato: Lfo::OFF,
        pan: drum.pan,
        gain: drum.level,
        ..Articulation::DEFAULT
    });
    Region {
        keys: (drum.key, drum.key),
        velocities: (0, 127),
        wave,
        articulation,
        key_group: drum.group,
        self_exclusive: false,
        sampling: None,
    }
}

/// RMS as heard: split in three bands by one-pole filters.
fn loudness(wave: &[f32]) -> f32 {
    let (mut low, mut middle) = (0.0, 0.0);
    let mut power = [0.0f32; 3];
    for x in wave {
        low += 0.028 * (x - low);
        middle += 0.25 * (x - middle);
        let bands = [low, middle - low, x - middle];
        for (sum, band) in power.iter_mut().zip(bands) {
            *sum += band * band;
        }
    }
    let heard = power[0] * hearing(110.0) + power[1] * hearing(700.0) + power[2] * hearing(5000.0);
    (heard / wave.len() as f32).sqrt()
}

/// A factor per sample that decays with a time constant in seconds.
fn decay(seconds: f32) -> f32 {
    if seconds > 0.0 { libm::expf(-1.0 / (seconds * RATE)) } else { 0.0 }
}

fn render(drum: &Drum) -> Vec<f32> {
    let mut noise = Noise::new(u32::from(drum.key) + 1000);
    let mut wave = vec![0.0; (drum.length * RATE) as usize];
    if drum.skin.4 > 0.0 {
        skin(drum, &mut wave);
    }
    let (base, ratios, seconds, level) = drum.ring;
    let modes: Vec<Mode> = (0u8..)
        .zip(ratios)
        .map(|(n, ratio)| {
            let order = f32::from(n);
            let level = level / (1.0 + 0.35 * order);
            Mode { hz: base * ratio, seconds: seconds / (1.0 + 0.2 * order), level, phase: 0.0 }
        })
        .collect();
    ring(&modes, &mut wave);
    if drum.noise.3 > 0.0 {
        hiss(drum, &mut wave, &mut noise);
    }
    let (lowest, seconds, level) = drum.metal;
    if level > 0.0 {
        const MODES: u16 = 56;
        let modes = (0..MODES).map(|n| {
            // Spread over the octaves up to 15 kHz, at random within their places.
            let place = (f32::from(n) + 0.5 + 0.5 * noise.white()) / f32::from(MODES);
            Mode {
                hz: lowest * libm::powf(15_000.0 / lowest, place),
                seconds: seconds * (1.25 - place) * (1.0 + 0.3 * noise.white()),
                level: level * (0.15 + 0.1 * noise.white()),
                phase: noise.white(),
            }
        });
        ring(&modes.collect::<Vec<Mode>>(), &mut wave);
    }
    let length = wave.len() as f32;
    for (t, x) in wave.iter_mut().enumerate() {
        let left = 1.0 - t as f32 / length;
        // Straight to zero over the last tenth.
        *x *= (left * 10.0).min(1.0);
    }
    wave
}

/// A sine whose pitch slides down exponentially, as a membrane's does when its tension eases.
fn skin(drum: &Drum, wave: &mut [f32]) {
    let (from, to, slide, seconds, level) = drum.skin;
    let (mut hz, mut amplitude) = (from - to, level);
    let (slide, fall) = (decay(slide), decay(seconds));
    let (mut cos, mut sin) = (1.0f32, 0.0f32);
    for x in wave {
        *x += sin * amplitude;
        // A rotation by Taylor terms; drums stay far below the rate, where these are exact enough.
        let turn = core::f32::consts::TAU * (to + hz) / RATE;
        let (c, s) = (1.0 - turn * turn * 0.5, turn - turn * turn * turn / 6.0);
        let next = (cos * c - sin * s, cos * s + sin * c);
        let norm = 1.5 - 0.5 * (next.0 * next.0 + next.1 * next.1);
        (cos, sin) = (next.0 * norm, next.1 * norm);
        hz *= slide;
        amplitude *= fall;
    }
}

/// A damped sine.
#[derive(Clone, Copy)]
struct Mode {
    hz: f32,
    /// Time constant.
    seconds: f32,
    level: f32,
    /// Half turns.
    phase: f32,
}

/// Adds damped sines. A resonator of two terms needs no sine per sample, and eight at a time hide its latency.
fn ring(modes: &[Mode], wave: &mut [f32]) {
    const WIDTH: usize = 8;
    for modes in modes.chunks(WIDTH) {
        let mut state = [[0.0f32; WIDTH]; 4];
        let mut longest = 0.0f32;
        for (n, mode) in modes.iter().enumerate().filter(|(_, m)| m.hz < 0.45 * RATE) {
            let seconds = mode.seconds.max(0.002);
            let radius = decay(seconds);
            let turn = core::f32::consts::TAU * mode.hz / RATE;
            let phase = core::f32::consts::PI * mode.phase;
            state[0][n] = 2.0 * radius * libm::cosf(turn);
            state[1][n] = -radius * radius;
            state[2][n] = mode.level * libm::sinf(phase);
            state[3][n] = mode.level * libm::sinf(phase - turn) / radius;
            longest = longest.max(seconds);
        }
        let [c1, c2, mut x1, mut x2] = state;
        // Until the longest has died by 80 dB.
        let end = wave.len().min((longest * 9.2 * RATE) as usize);
        for x in &mut wave[..end] {
            *x += ((x1[0] + x1[4]) + (x1[2] + x1[6])) + ((x1[1] + x1[5]) + (x1[3] + x1[7]));
            for n in 0..WIDTH {
                let next = c1[n] * x1[n] + c2[n] * x2[n];
                (x2[n], x1[n]) = (x1[n], next);
            }
        }
    }
}

/// Band-passed noise, in one burst or several.
fn hiss(drum: &Drum, wave: &mut [f32], noise: &mut Noise) {
    let (low, high, seconds, level) = drum.noise;
    let smooth = |hz: f32| 1.0 - libm::expf(-core::f32::consts::TAU * hz / RATE);
    let (low, high) = (smooth(low), smooth(high));
    let (count, apart) = drum.bursts;
    let apart = (apart * RATE) as usize;
    let fall = decay(seconds);
    // All bursts but the last are cut short by the next.
    let short = if count > 1 { decay(seconds.min(apart as f32 / RATE * 0.4)) } else { fall };
    let rise = 1.0 / (drum.rise * RATE).max(1.0);
    let (mut a, mut b, mut rumble, mut rumble2) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    let (mut amplitude, mut burst, mut height) = (level, 0, 0.0f32);
    for (t, x) in wave.iter_mut().enumerate() {
        if apart > 0 && burst + 1 < count as usize && t == (burst + 1) * apart {
            burst += 1;
            amplitude = level;
            height = 0.0;
        }
        height = (height + rise).min(1.0);
        a += high * (noise.white() - a);
        b += high * (a - b);
        rumble += low * (b - rumble);
        rumble2 += low * (b - rumble - rumble2);
        *x += (b - rumble - rumble2) * amplitude * height;
        amplitude *= if burst + 1 < count as usize { short } else { fall };
    }
}
