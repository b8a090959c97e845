//! Tables that stand in for transcendental functions.
//!
//! Fed once by `libm`, so that every processor gets the same bits; read by voices when their place changes, and by the
//! chorus.

/// Entries of the sine table for one turn.
const SINE_STEPS: usize = 2048;
/// Pan positions of the table: -50 % to +50 % in steps of 0.1 %.
const PAN_STEPS: usize = 1001;
/// Pan and sine tables.
pub(crate) struct Tables {
    sine: Box<[f32; SINE_STEPS + 1]>,
    pan: Vec<(f32, f32)>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        let half_turn = core::f64::consts::PI;
        Self {
            sine: Box::new(core::array::from_fn(|i| libm::sin(2.0 * half_turn * i as f64 / SINE_STEPS as f64) as f32)),
            pan: (0..PAN_STEPS)
                .map(|i| {
                    let angle = half_turn / 2.0 * i as f64 / (PAN_STEPS - 1) as f64;
                    (libm::cos(angle) as f32, libm::sin(angle) as f32)
                })
                .collect(),
        }
    }

    /// The sine of a phase in turns (any finite number).
    pub(crate) fn sine(&self, turns: f32) -> f32 {
        lerp(&self.sine, (turns - turns.floor()) * SINE_STEPS as f32)
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
