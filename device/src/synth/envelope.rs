//! The DLS envelope generator: delay, attack, hold, decay, sustain, release.
//!
//! Fed by an articulation's times at note-on; read by the voice at control ticks, as amplitude (EG1) or as a fraction (EG2).

use super::tables::{SILENCE_DB, Tables};
use crate::bank::Envelope as Shape;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Delay,
    Attack,
    Hold,
    Decay,
    Sustain,
    Release,
    Done,
}

/// One running envelope. `fall` counts from 0 at the peak to 1 at silence: linear in dB for EG1, in percent for EG2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    stage: Stage,
    /// Samples spent in the current stage (delay and hold).
    spent: f32,
    /// Height reached by the attack, 0..=1, linear in amplitude.
    rise: f32,
    fall: f32,
    delay: f32,
    attack: f32,
    hold: f32,
    decay: f32,
    sustain_fall: f32,
    release: f32,
}

impl Envelope {
    pub(crate) const IDLE: Self = Self {
        stage: Stage::Done,
        spent: 0.0,
        rise: 0.0,
        fall: 1.0,
        delay: 0.0,
        attack: 0.0,
        hold: 0.0,
        decay: 0.0,
        sustain_fall: 1.0,
        release: 0.0,
    };

    /// Starts an envelope. `sustain_fall` is the fall of the sustain level; times become samples at `rate` Hz.
    pub(crate) fn start(shape: &Shape, sustain_fall: f32, key: u8, velocity: u8, rate: f32) -> Self {
        let samples = |seconds: f32| clean(seconds, 0.0, 1000.0) * rate;
        let scaled = |cents: f32, value: u8| {
            libm::exp2f(clean(cents, -14_400.0, 14_400.0) * f32::from(value) / (128.0 * 1200.0))
        };
        let mut envelope = Self {
            stage: Stage::Delay,
            fall: 0.0,
            delay: samples(shape.delay),
            attack: samples(shape.attack * scaled(shape.velocity_to_attack, velocity)),
            hold: samples(shape.hold),
            decay: samples(shape.decay * scaled(shape.key_to_decay, key)),
            sustain_fall: clean(sustain_fall, 0.0, 1.0),
            release: samples(shape.release),
            ..Self::IDLE
        };
        envelope.advance(0.0);
        envelope
    }

    /// Moves on by `samples`, through as many stages as fit.
    pub(crate) fn advance(&mut self, samples: f32) {
        let mut left = samples;
        // Each pass ends or enters a later stage, so six are always enough.
        loop {
            match self.stage {
                Stage::Delay => {
                    if self.spent + left < self.delay {
                        self.spent += left;
                        return;
                    }
                    left -= self.delay - self.spent;
                    self.enter(Stage::Attack);
                }
                Stage::Attack => {
                    let needed = (1.0 - self.rise) * self.attack;
                    if left < needed {
                        self.rise += left / self.attack;
                        return;
                    }
                    left -= needed;
                    self.rise = 1.0;
                    self.enter(Stage::Hold);
                }
                Stage::Hold => {
                    if self.spent + left < self.hold {
                        self.spent += left;
                        return;
                    }
                    left -= self.hold - self.spent;
                    self.enter(Stage::Decay);
                }
                Stage::Decay => {
                    let needed = (self.sustain_fall - self.fall) * self.decay;
                    if left < needed {
                        self.fall += left / self.decay;
                        return;
                    }
                    self.fall = self.sustain_fall;
                    self.enter(if self.fall >= 1.0 { Stage::Done } else { Stage::Sustain });
                    return;
                }
                Stage::Release => {
                    if left < (1.0 - self.fall) * self.release {
                        self.fall += left / self.release;
                    } else {
                        self.fall = 1.0;
                        self.enter(Stage::Done);
                    }
                    return;
                }
                Stage::Sustain | Stage::Done => return,
            }
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.spent = 0.0;
    }

    /// Starts the release of an amplitude envelope (EG1) from where it stands.
    pub(crate) fn release_amplitude(&mut self) {
        let attenuation = -20.0 * libm::log10f(self.rise.max(1e-6));
        self.release(attenuation / SILENCE_DB);
    }

    /// Starts the release of a modulation envelope (EG2) from where it stands.
    pub(crate) fn release_fraction(&mut self) {
        self.release(1.0 - self.rise);
    }

    /// `unrisen`: the fall that equals what an unfinished attack still lacks.
    fn release(&mut self, unrisen: f32) {
        if !matches!(self.stage, Stage::Release | Stage::Done) {
            self.fall = (self.fall + unrisen).min(1.0);
            self.rise = 1.0;
            self.enter(Stage::Release);
        }
    }

    /// EG1's reading: an amplitude, 0..=1.
    pub(crate) fn amplitude(&self, tables: &Tables) -> f32 {
        self.rise * tables.amplitude(self.fall * SILENCE_DB)
    }

    /// EG2's reading: a fraction, 0..=1.
    pub(crate) fn fraction(&self) -> f32 {
        self.rise * (1.0 - self.fall)
    }

    /// Before the peak, where the present amplitude does not yet tell how loud the note is.
    pub(crate) fn rising(&self) -> bool {
        matches!(self.stage, Stage::Delay | Stage::Attack)
    }

    /// Silent for good.
    pub(crate) fn done(&self) -> bool {
        self.stage == Stage::Done
    }
}

/// Clamps a number from a bank; anything that is not a number becomes `low`.
pub(crate) fn clean(value: f32, low: f32, high: f32) -> f32 {
    if value.is_nan() { low } else { value.clamp(low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { delay: 0.1, attack: 0.2, hold: 0.3, decay: 1.0, release: 0.5, ..Shape::GATE };

    #[test]
    fn stages_last_as_long_as_they_say_however_time_is_cut() {
        let tables = Tables::new();
        for chunk in [1.0, 7.0, 32.0, 480.0] {
            let mut e = Envelope::start(&SHAPE, 0.25, 60, 100, 1000.0);
            let mut now = 0.0;
            let mut seen = |e: &mut Envelope, until: f32| {
                while now < until {
                    let step = f32::min(chunk, until - now);
                    e.advance(step);
                    now += step;
                }
                e.amplitude(&tables)
            };
            let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-3, "{a} is not {b}");
            near(seen(&mut e, 99.0), 0.0);
            near(seen(&mut e, 200.0), 0.5);
            near(seen(&mut e, 301.0), 1.0);
            near(seen(&mut e, 599.0), 1.0);
            near(20.0 * libm::log10f(seen(&mut e, 700.0)), -9.6);
            near(20.0 * libm::log10f(seen(&mut e, 2000.0)), -24.0);
            e.release_amplitude();
            near(20.0 * libm::log10f(seen(&mut e, 2250.0)), -72.0);
            assert!(!e.done());
            seen(&mut e, 2376.0);
            assert!(e.done() && e.amplitude(&tables) == 0.0);
        }
    }

    #[test]
    fn release_in_the_attack_starts_at_the_height_reached() {
        let tables = Tables::new();
        let mut e = Envelope::start(&SHAPE, 0.0, 60, 100, 1000.0);
        e.advance(150.0);
        let before = e.amplitude(&tables);
        e.release_amplitude();
        assert!((e.amplitude(&tables) - before).abs() < 1e-3);
        let mut e = Envelope::start(&SHAPE, 0.0, 60, 100, 1000.0);
        e.advance(150.0);
        e.release_fraction();
        assert!((e.fraction() - 0.25).abs() < 1e-6);
    }

    #[test]
    fn numbers_that_are_none_are_harmless() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            let shape = Shape { delay: bad, attack: bad, hold: bad, decay: bad, release: bad, ..SHAPE };
            let mut e = Envelope::start(&shape, bad, 127, 127, 48_000.0);
            for _ in 0..10 {
                e.advance(32.0);
                assert!(e.amplitude(&Tables::new()).is_finite());
            }
        }
    }
}
