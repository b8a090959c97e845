//! A low-frequency oscillator: a sine that starts some time after its note.
//!
//! Fed by frequencies and delays of an articulation; read by the voice at control ticks.

use super::tables::Tables;

/// The highest frequency, Hz: above, control ticks are too far apart to follow.
const LIMIT: f32 = 200.0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Oscillator {
    /// Turns, times 2^32.
    phase: u32,
    /// A sample's advance, in the same unit.
    step: u32,
    /// Samples until it starts.
    wait: f32,
}

impl Oscillator {
    pub(crate) const OFF: Self = Self { phase: 0, step: 0, wait: 0.0 };

    /// One of `hertz` that starts in `wait` samples, in a stream of `rate` samples a second.
    pub(crate) fn start(hertz: f32, wait: f32, rate: f32) -> Self {
        Self { phase: 0, step: (hertz.clamp(0.0, LIMIT) / rate * 4_294_967_296.0) as u32, wait: wait.clamp(0.0, 1e9) }
    }

    /// Moves on by some samples.
    pub(crate) fn advance(&mut self, samples: f32) {
        let run = samples - self.wait;
        if run <= 0.0 {
            self.wait -= samples;
            return;
        }
        if self.wait == 0.0 {
            self.phase = self.phase.wrapping_add(self.step.wrapping_mul(samples as u32));
        } else {
            // A wait may end within a sample.
            self.phase = (f64::from(run) * f64::from(self.step)) as u64 as u32;
            self.wait = 0.0;
        }
    }

    /// -1..=1.
    pub(crate) fn value(&self, tables: &Tables) -> f32 {
        tables.sine_at(self.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_swings_at_its_rate_once_it_has_started() {
        let tables = Tables::new();
        for hertz in [0.1, 5.0, 20.0] {
            let mut o = Oscillator::start(hertz, 500.25, 48_000.0);
            let mut now = 0.0f64;
            while now < 500_000.0 {
                let turns = f64::from(hertz) * (now - 500.25).max(0.0) / 48_000.0;
                let should = libm::sin(core::f64::consts::TAU * turns) as f32;
                assert!((o.value(&tables) - should).abs() < 5e-3, "{hertz} Hz at {now}");
                o.advance(32.0);
                now += 32.0;
            }
        }
    }
}
