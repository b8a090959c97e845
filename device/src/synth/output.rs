//! What a synthesizer's mix passes on its way out: volume, the meter of its peak, and boost.
//!
//! Fed with the sums of voices and effects, up to a period at a time; adds to the stream's planes.

use super::PERIOD;

/// A fader that is this near to its goal, as a gain, is there.
const NEAR: f32 = 1e-5;
/// Ticks after which every fader is at its goal.
const SETTLED: usize = 128;

/// A gain that moves in straight lines between ticks.
#[derive(Clone, Copy)]
struct Fader {
    from: f32,
    to: f32,
    goal: f32,
}

impl Fader {
    const OPEN: Self = Self { from: 1.0, to: 1.0, goal: 1.0 };

    fn tick(&mut self) {
        self.from = self.to;
        let left = self.goal - self.to;
        self.to = if left.abs() < NEAR { self.goal } else { self.to + 0.25 * left };
    }

    /// Multiplies samples from `phase` on.
    fn apply(&self, phase: usize, plane: &mut [f32]) {
        if self.from == 1.0 && self.to == 1.0 {
            return;
        }
        for (sample, number) in plane.iter_mut().zip(phase + 1..) {
            *sample *= self.from + (self.to - self.from) * (number as f32 * (1.0 / PERIOD as f32));
        }
    }
}

/// See the module.
pub(super) struct Output {
    volume: Fader,
    boost: Fader,
    /// In 0.01 dB, as they were set.
    hundredths: (i32, i32),
    /// The largest sample so far.
    peak: f32,
}

/// A level of 0.01 dB as a gain; -200 dB is silence.
fn gain(hundredths: i32) -> f32 {
    if hundredths <= -20_000 { 0.0 } else { libm::exp10f(hundredths as f32 * (1.0 / 2000.0)) }
}

impl Output {
    pub(super) fn new() -> Self {
        Self { volume: Fader::OPEN, boost: Fader::OPEN, hundredths: (0, 0), peak: 0.0 }
    }

    /// Volume and boost, 0.01 dB.
    pub(super) fn levels(&self) -> (i32, i32) {
        self.hundredths
    }

    /// Sets volume and boost, 0.01 dB: on their way from the next tick on.
    pub(super) fn set_levels(&mut self, volume: i32, boost: i32) {
        self.hundredths = (volume, boost);
        (self.volume.goal, self.boost.goal) = (gain(volume), gain(boost));
    }

    /// So many ticks have passed.
    pub(super) fn tick(&mut self, ticks: usize) {
        for fader in [&mut self.volume, &mut self.boost] {
            if fader.from != fader.goal || fader.to != fader.goal {
                (0..ticks.min(SETTLED)).for_each(|_| fader.tick());
            }
        }
    }

    /// The largest sample since it was last taken.
    pub(super) fn peak(&self) -> f32 {
        self.peak
    }

    pub(super) fn forget_peak(&mut self) {
        self.peak = 0.0;
    }

    /// Adds a mix, whose first sample is number `phase` of its period, to a plane. The mix is used up.
    pub(super) fn pass(&mut self, phase: usize, mix: &mut [f32], plane: &mut [f32]) {
        self.volume.apply(phase, mix);
        // Numbers that are not negative are in the order of their bits.
        let bits = mix.iter().fold(self.peak.to_bits(), |peak, sample| peak.max(sample.abs().to_bits()));
        self.peak = f32::from_bits(bits);
        self.boost.apply(phase, mix);
        for (out, sample) in plane.iter_mut().zip(mix) {
            *out += *sample;
        }
    }
}
