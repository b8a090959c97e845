//! Tables that stand in for transcendental functions at control rate.
//!
//! Fed once by `libm`, so that every processor gets the same bits; read by the voices at every control tick.

/// Steps per decibel of [`Tables::amplitude`].
const STEPS_PER_DB: f32 = 8.0;
/// The deepest attenuation that still sounds, in dB: the range of a DLS envelope.
pub(crate) const SILENCE_DB: f32 = 96.0;
const DECIBEL_STEPS: usize = (SILENCE_DB * STEPS_PER_DB) as usize;
/// Entries of the sine table for one turn.
const SINE_STEPS: usize = 2048;
/// Pan positions of the table: -50 % to +50 % in steps of 0.1 %.
const PAN_STEPS: usize = 1001;
/// The furthest a pitch may stray from a wave's own, in cents (ten octaves).
const PITCH_LIMIT: f32 = 12_000.0;

/// Pitch, level, pan and sine tables.
pub(crate) struct Tables {
    cents: Vec<f64>,
    decibels: Box<[f32; DECIBEL_STEPS + 2]>,
    sine: Box<[f32; SINE_STEPS + 1]>,
    pan: Vec<(f32, f32)>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        let half_turn = core::f64::consts::PI;
        Self {
            cents: (0..=1200).map(|c| libm::exp2(f64::from(c) / 1200.0)).collect(),
            decibels: Box::new(core::array::from_fn(|i| {
                libm::exp10(-(i as f64) / f64::from(STEPS_PER_DB) / 20.0) as f32
            })),
            sine: Box::new(core::array::from_fn(|i| libm::sin(2.0 * half_turn * i as f64 / SINE_STEPS as f64) as f32)),
            pan: (0..PAN_STEPS)
                .map(|i| {
                    let angle = half_turn / 2.0 * i as f64 / (PAN_STEPS - 1) as f64;
                    (libm::cos(angle) as f32, libm::sin(angle) as f32)
                })
                .collect(),
        }
    }

    /// The frequency ratio of an interval in cents, to better than 0.001 cent.
    pub(crate) fn ratio(&self, cents: f32) -> f64 {
        let cents = f64::from(cents.clamp(-PITCH_LIMIT, PITCH_LIMIT));
        let octave = (cents / 1200.0).floor();
        let rest = cents - octave * 1200.0;
        let index = (rest as usize).min(1199);
        let (low, high) = (self.cents[index], self.cents[index + 1]);
        let within = low + (high - low) * (rest - index as f64);
        // The power of two is put together from its bits: |octave| <= 10, so the exponent is in range.
        within * f64::from_bits(((1023 + octave as i64) as u64) << 52)
    }

    /// The amplitude of an attenuation in dB (0 and up); zero from [`SILENCE_DB`] on.
    pub(crate) fn amplitude(&self, attenuation: f32) -> f32 {
        if attenuation >= SILENCE_DB {
            return 0.0;
        }
        let at = attenuation.max(0.0) * STEPS_PER_DB;
        lerp(&self.decibels, at)
    }

    /// The amplitude of a gain in dB, at most 48.
    pub(crate) fn gain(&self, decibels: f32) -> f32 {
        if decibels > 0.0 { 1.0 / self.amplitude(decibels.min(48.0)) } else { self.amplitude(-decibels) }
    }

    /// The sine of a phase in turns (any finite number).
    pub(crate) fn sine(&self, turns: f32) -> f32 {
        lerp(&self.sine, (turns - turns.floor()) * SINE_STEPS as f32)
    }

    /// The sine of a phase of 2^32 to a turn.
    pub(crate) fn sine_at(&self, phase: u32) -> f32 {
        const SHIFT: u32 = 32 - SINE_STEPS.trailing_zeros();
        let index = (phase >> SHIFT) as usize;
        let part = (phase << (32 - SHIFT) >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32);
        let [low, high] = [self.sine[index], self.sine[index + 1]];
        low + (high - low) * part
    }

    /// Left and right gain of a pan position in percent, -50 (left) to +50: constant power.
    pub(crate) fn pan(&self, percent: f32) -> (f32, f32) {
        let index = (percent + 50.0).clamp(0.0, 100.0) * 10.0 + 0.5;
        self.pan[(index as usize).min(PAN_STEPS - 1)]
    }
}

/// Linear interpolation; `at` is clamped to the table.
#[inline]
fn lerp<const N: usize>(table: &[f32; N], at: f32) -> f32 {
    let index = (at as u32 as usize).min(N - 2);
    table[index] + (table[index + 1] - table[index]) * (at - index as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_functions() {
        let t = Tables::new();
        for i in -24_000..24_000 {
            let cents = i as f32 * 0.37;
            let error = 1200.0 * libm::log2(t.ratio(cents) / libm::exp2(f64::from(cents) / 1200.0));
            assert!(error.abs() < 1e-3, "{cents} cents: off by {error}");
        }
        for i in 0..960 {
            let db = i as f32 * 0.1;
            let error = 20.0 * libm::log10f(t.amplitude(db)) + db;
            assert!(error.abs() < 1e-3, "{db} dB: off by {error}");
        }
        assert_eq!(t.amplitude(SILENCE_DB), 0.0);
        for i in -500..500 {
            let turns = i as f32 * 0.011;
            let error = t.sine(turns) - libm::sinf(core::f32::consts::TAU * turns);
            assert!(error.abs() < 1e-5);
        }
        let (left, right) = t.pan(-50.0);
        assert!(left == 1.0 && right == 0.0);
        let (left, right) = t.pan(0.0);
        assert!((left - right).abs() < 1e-6 && (left * left + right * right - 1.0).abs() < 1e-6);
    }
}
