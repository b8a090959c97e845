//! Low-frequency oscillators: sines that start some time after their notes; eight of them at once.
//!
//! Fed by frequencies and delays of an articulation; read by voices at control ticks.

use super::curves::sine;
use super::lanes::{LANES, Lane};

/// The highest frequency, Hz: above, control ticks are too far apart to follow.
const LIMIT: f32 = 200.0;
/// A turn.
const TURN: f64 = 4_294_967_296.0;

/// The oscillators of eight voices.
#[derive(Clone, Debug)]
pub(super) struct Oscillators {
    /// Turns, times 2^32; before it starts, so that it starts at 0.
    phase: [u32; LANES],
    /// A sample's advance, in the same unit.
    step: [u32; LANES],
    /// Samples until it starts.
    wait: Lane,
}

impl Oscillators {
    pub(super) const OFF: Self = Self { phase: [0; LANES], step: [0; LANES], wait: [0.0; LANES] };

    /// Begins one of `hertz` that starts in `wait` samples, in a stream of `rate` samples a second.
    pub(super) fn start(&mut self, lane: usize, (hertz, wait, rate): (f32, f32, f32)) {
        let (step, wait) = ((hertz.clamp(0.0, LIMIT) / rate * TURN as f32) as u32, wait.clamp(0.0, 1e9));
        let turns = f64::from(wait) * f64::from(step) / TURN;
        self.phase[lane] = (((turns.ceil() - turns) * TURN) as u64) as u32;
        self.step[lane] = step;
        self.wait[lane] = wait;
    }

    pub(super) fn stop(&mut self, lane: usize) {
        (self.phase[lane], self.step[lane], self.wait[lane]) = (0, 0, 0.0);
    }

    /// Time passes, for one.
    pub(super) fn advance_one(&mut self, lane: usize, samples: u32) {
        self.phase[lane] = self.phase[lane].wrapping_add(self.step[lane].wrapping_mul(samples));
        self.wait[lane] -= samples as f32;
    }

    /// Time passes.
    #[inline(always)]
    pub(super) fn advance(&mut self, samples: u32) {
        for lane in 0..LANES {
            self.phase[lane] = self.phase[lane].wrapping_add(self.step[lane].wrapping_mul(samples));
            self.wait[lane] -= samples as f32;
        }
    }

    /// -1..=1.
    #[inline(always)]
    pub(super) fn value(&self, lane: usize) -> f32 {
        let value = sine(self.phase[lane]);
        if self.wait[lane] > 0.0 { 0.0 } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_swings_at_its_rate_once_it_has_started() {
        for hertz in [0.1, 5.0, 20.0] {
            let mut o = Oscillators::OFF;
            o.start(2, (hertz, 500.25, 48_000.0));
            let mut now = 0.0f64;
            while now < 500_000.0 {
                let turns = f64::from(hertz) * (now - 500.25).max(0.0) / 48_000.0;
                let should = libm::sin(core::f64::consts::TAU * turns) as f32;
                assert!((o.value(2) - should).abs() < 5e-3, "{hertz} Hz at {now}");
                o.advance(32);
                now += 32.0;
            }
        }
    }
}
