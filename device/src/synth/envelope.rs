//! The DLS envelope generator: delay, attack, hold, decay, sustain, release; eight of them at once.
//!
//! Fed by the times that an articulation gives a note; read at control ticks, as amplitude (EG1) or as a fraction
//! (EG2). Where an envelope stands follows from its age alone, so that it needs no steps, and can be read at any time.

use super::curves::{SILENCE_DB, max, min};
use super::lanes::{LANES, Lane};

/// What makes a slope of no time reach its end at once, and no number infinite.
const AT_ONCE: f32 = 1e28;

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

/// The envelopes of eight voices. Each rises in a straight line from nothing to 1, and falls in one from 0 at the peak
/// to 1 at silence: linear in dB for EG1, in percent for EG2.
#[derive(Clone, Debug)]
pub(super) struct Envelopes {
    /// Samples since it began, or since its release, at the next tick.
    age: Lane,
    delay: Lane,
    attack: Lane,
    risen: Lane,
    /// When it begins to fall.
    peak: Lane,
    decay: Lane,
    fallen: Lane,
    /// How far it falls.
    sustain: Lane,
    release: Lane,
}

impl Envelopes {
    /// All of them silent for good.
    pub(super) const IDLE: Self = Self {
        age: [0.0; LANES],
        delay: [0.0; LANES],
        attack: [0.0; LANES],
        risen: [0.0; LANES],
        peak: [0.0; LANES],
        decay: [0.0; LANES],
        fallen: [1.0; LANES],
        sustain: [1.0; LANES],
        release: [0.0; LANES],
    };

    /// Starts one.
    pub(super) fn start(&mut self, lane: usize, times: &Times) {
        let samples = |samples: f32| clean(samples, 0.0, 1e9);
        let (delay, attack, hold) = (samples(times.delay), samples(times.attack), samples(times.hold));
        self.age[lane] = 0.0;
        self.delay[lane] = delay;
        (self.attack[lane], self.risen[lane]) = slope(attack);
        self.peak[lane] = delay + attack + hold;
        (self.decay[lane], self.fallen[lane]) = slope(samples(times.decay));
        self.sustain[lane] = clean(times.fall, 0.0, 1.0);
        self.release[lane] = samples(times.release);
    }

    /// Ends one at once.
    pub(super) fn stop(&mut self, lane: usize) {
        (self.attack[lane], self.risen[lane]) = (0.0, 0.0);
        (self.fallen[lane], self.sustain[lane]) = (1.0, 1.0);
    }

    /// Time passes, for one.
    pub(super) fn advance_one(&mut self, lane: usize, samples: f32) {
        self.age[lane] += samples;
    }

    /// Time passes.
    #[inline(always)]
    pub(super) fn advance(&mut self, samples: f32) {
        for age in &mut self.age {
            *age += samples;
        }
    }

    /// How high it has risen, so many samples before the next tick.
    #[inline(always)]
    pub(super) fn rise(&self, lane: usize, before: f32) -> f32 {
        let risen = (self.age[lane] - before - self.delay[lane]) * self.attack[lane] + self.risen[lane];
        max(min(risen, 1.0), 0.0)
    }

    /// How far it has fallen, likewise.
    #[inline(always)]
    pub(super) fn fall(&self, lane: usize, before: f32) -> f32 {
        let fallen = (self.age[lane] - before - self.peak[lane]) * self.decay[lane] + self.fallen[lane];
        max(min(fallen, self.sustain[lane]), 0.0)
    }

    /// Whether it is silent for good.
    #[inline(always)]
    pub(super) fn is_over(&self, lane: usize) -> bool {
        self.fall(lane, 0.0) >= 1.0
    }

    /// EG2's reading: a fraction, 0..=1.
    #[inline(always)]
    pub(super) fn fraction(&self, lane: usize) -> f32 {
        self.rise(lane, 0.0) * (1.0 - self.fall(lane, 0.0))
    }

    /// Starts the release of an amplitude envelope (EG1) from where it stands, so many samples before the next tick.
    pub(super) fn release_amplitude(&mut self, lane: usize, until_tick: f32) {
        let attenuation = -20.0 * libm::log10f(self.rise(lane, until_tick).max(1e-6));
        self.begin_release(lane, attenuation / SILENCE_DB, until_tick);
    }

    /// The same of a modulation envelope (EG2).
    pub(super) fn release_fraction(&mut self, lane: usize, until_tick: f32) {
        self.begin_release(lane, 1.0 - self.rise(lane, until_tick), until_tick);
    }

    /// `unrisen`: the fall that equals what an unfinished attack still lacks.
    fn begin_release(&mut self, lane: usize, unrisen: f32, until_tick: f32) {
        let fallen = (self.fall(lane, until_tick) + unrisen).min(1.0);
        self.age[lane] = until_tick;
        (self.attack[lane], self.risen[lane]) = (0.0, 1.0);
        self.peak[lane] = 0.0;
        self.decay[lane] = slope(self.release[lane]).0;
        (self.fallen[lane], self.sustain[lane]) = (fallen, 1.0);
    }
}

/// What each sample adds on the way from 0 to 1, and what is there at the beginning.
fn slope(samples: f32) -> (f32, f32) {
    if samples > 0.0 { (1.0 / samples, 0.0) } else { (AT_ONCE, 1.0) }
}

/// Clamps a number that comes from a bank; anything that is not a number becomes `low`.
pub(crate) fn clean(value: f32, low: f32, high: f32) -> f32 {
    if value.is_nan() { low } else { value.clamp(low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { delay: 100.0, attack: 200.0, hold: 300.0, decay: 1000.0, fall: 0.25, release: 500.0 };

    fn amplitude(e: &Envelopes) -> f32 {
        let fall = e.fall(3, 0.0);
        if fall >= 1.0 { 0.0 } else { e.rise(3, 0.0) * libm::exp10f(-fall * SILENCE_DB / 20.0) }
    }

    fn started(times: &Times) -> Envelopes {
        let mut e = Envelopes::IDLE;
        e.start(3, times);
        e
    }

    #[test]
    fn stages_last_as_long_as_they_say_however_time_is_cut() {
        for chunk in [1.0, 7.0, 32.0, 480.0] {
            let mut e = started(&TIMES);
            let mut now = 0.0;
            let mut seen = |e: &mut Envelopes, until: f32| {
                while now < until {
                    let step = f32::min(chunk, until - now);
                    e.advance(step);
                    now += step;
                }
                amplitude(e)
            };
            let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-3, "{a} is not {b}");
            near(seen(&mut e, 99.0), 0.0);
            near(seen(&mut e, 200.0), 0.5);
            near(seen(&mut e, 301.0), 1.0);
            near(seen(&mut e, 599.0), 1.0);
            near(20.0 * libm::log10f(seen(&mut e, 700.0)), -9.6);
            near(20.0 * libm::log10f(seen(&mut e, 2000.0)), -24.0);
            e.release_amplitude(3, 0.0);
            near(20.0 * libm::log10f(seen(&mut e, 2250.0)), -72.0);
            assert!(e.fall(3, 0.0) < 1.0);
            seen(&mut e, 2376.0);
            assert!(e.fall(3, 0.0) >= 1.0 && amplitude(&e) == 0.0);
        }
    }

    #[test]
    fn release_in_the_attack_starts_at_the_height_reached_wherever_the_tick_is() {
        for until_tick in [0.0, 1.0, 31.0] {
            let mut e = started(&TIMES);
            e.advance(150.0);
            let before = amplitude(&e);
            e.advance(until_tick);
            e.release_amplitude(3, until_tick);
            e.advance(-until_tick);
            assert!((amplitude(&e) - before).abs() < 1e-3);
            let mut e = started(&TIMES);
            e.advance(150.0 + until_tick);
            e.release_fraction(3, until_tick);
            e.advance(-until_tick);
            assert!((e.fraction(3) - 0.25).abs() < 1e-6);
        }
    }

    #[test]
    fn what_takes_no_time_is_there_at_once() {
        let none = Times { delay: 0.0, attack: 0.0, hold: 0.0, decay: 0.0, fall: 0.5, release: 0.0 };
        let mut e = started(&none);
        assert_eq!((e.rise(3, 0.0), e.fall(3, 0.0)), (1.0, 0.5));
        e.release_fraction(3, 0.0);
        e.advance(1.0);
        assert_eq!(e.fall(3, 0.0), 1.0);
        let mut e = started(&Times { delay: 100.5, ..none });
        e.advance(100.0);
        assert_eq!((e.rise(3, 0.0), e.fall(3, 0.0)), (0.0, 0.0));
        e.advance(1.0);
        assert_eq!((e.rise(3, 0.0), e.fall(3, 0.0)), (1.0, 0.5));
    }

    #[test]
    fn numbers_that_are_none_are_harmless() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            let times = Times { delay: bad, attack: bad, hold: bad, decay: bad, fall: bad, release: bad };
            let mut e = started(&times);
            for _ in 0..10 {
                e.advance(32.0);
                assert!(amplitude(&e).is_finite());
            }
        }
    }
}
