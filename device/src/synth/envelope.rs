//! The DLS envelope generator: delay, attack, hold, decay, sustain, release.
//!
//! Fed by the times that an articulation gives a note; read by the voice at control ticks, as amplitude (EG1) or as a
//! fraction (EG2).

use super::tables::{SILENCE_DB, Tables};

/// Times and level of an envelope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    /// Samples.
    pub(crate) delay: f32,
    /// Samples from nothing to the peak, linear in amplitude.
    pub(crate) attack: f32,
    /// Samples at the peak.
    pub(crate) hold: f32,
    /// Samples for the whole range: 96 dB (EG1, linear in dB) or 100 % (EG2).
    pub(crate) decay: f32,
    /// How far it falls, 0..=1 of the range.
    pub(crate) fall: f32,
    /// As for `decay`.
    pub(crate) release: f32,
}

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

    /// Starts an envelope.
    pub(crate) fn start(times: &Times) -> Self {
        let samples = |samples: f32| clean(samples, 0.0, 1e9);
        let mut envelope = Self {
            stage: Stage::Delay,
            fall: 0.0,
            delay: samples(times.delay),
            attack: samples(times.attack),
            hold: samples(times.hold),
            decay: samples(times.decay),
            sustain_fall: clean(times.fall, 0.0, 1.0),
            release: samples(times.release),
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

/// Clamps a number that comes from a bank; anything that is not a number becomes `low`.
pub(crate) fn clean(value: f32, low: f32, high: f32) -> f32 {
    if value.is_nan() { low } else { value.clamp(low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { delay: 100.0, attack: 200.0, hold: 300.0, decay: 1000.0, fall: 0.25, release: 500.0 };

    #[test]
    fn stages_last_as_long_as_they_say_however_time_is_cut() {
        let tables = Tables::new();
        for chunk in [1.0, 7.0, 32.0, 480.0] {
            let mut e = Envelope::start(&TIMES);
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
        let mut e = Envelope::start(&TIMES);
        e.advance(150.0);
        let before = e.amplitude(&tables);
        e.release_amplitude();
        assert!((e.amplitude(&tables) - before).abs() < 1e-3);
        let mut e = Envelope::start(&TIMES);
        e.advance(150.0);
        e.release_fraction();
        assert!((e.fraction() - 0.25).abs() < 1e-6);
    }

    #[test]
    fn numbers_that_are_none_are_harmless() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            let times = Times { delay: bad, attack: bad, hold: bad, decay: bad, fall: bad, release: bad };
            let mut e = Envelope::start(&times);
            for _ in 0..10 {
                e.advance(32.0);
                assert!(e.amplitude(&Tables::new()).is_finite());
            }
        }
    }
}
