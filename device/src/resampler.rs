//! A change of sample rate, by a windowed sinc between tables of phases: the same samples on any machine.
//!
//! Fed by a wave sink with what the card renders; feeds it with frames at the rate of the sink's crystal. Output frame
//! m is the input at m x step, a rational number that is kept exactly, so that an hour brings the frames of an hour. At
//! step 1 the input is the output. The host's sound device, whose crystal nobody knows, asks for the input between two
//! frames instead, wherever it is by then.

use libm::{fabs, floor, sin, sqrt};
use std::f64::consts::PI;

/// Zero crossings of the sinc on either side.
const CROSSINGS: f64 = 24.0;
/// Sets of coefficients between two input frames; between two sets they are interpolated.
const PHASES: usize = 256;
/// The pass band, of the lower of the two rates: the rest is the filter's slope.
const PASS: f64 = 0.92;
/// Shape of the Kaiser window: 90 dB.
const BETA: f64 = 9.0;
/// Input that is kept at least before the used part of it is let go.
const SLACK: usize = 4096;

/// See the module. One channel.
#[derive(Debug)]
pub(crate) struct Resampler {
    /// Input frames in an output frame: a fraction.
    step: (u64, u64),
    /// Coefficients on either side of a point; 0 where the input is the output.
    side: usize,
    /// `PHASES + 1` rows of `2 * side` coefficients.
    rows: Box<[f32]>,
    /// Input from the frame `base` on; it begins with `side` frames of silence before frame 0.
    input: Vec<f32>,
    base: i64,
}

impl Resampler {
    /// One that makes an output frame of `numerator / denominator` input frames. Both below 2^38; neither is 0.
    pub(crate) fn new(numerator: u64, denominator: u64) -> Self {
        let step = (numerator, denominator);
        let mut this = Self { step, side: 0, rows: Box::new([]), input: Vec::new(), base: 0 };
        if numerator != denominator {
            // Above the lower rate's half there must be nothing.
            let cutoff = (denominator as f64 / numerator as f64).min(1.0) * PASS;
            this.side = (CROSSINGS / cutoff) as usize + 1;
            this.rows = rows(this.side, cutoff);
        }
        this.clear();
        this
    }

    /// As new.
    pub(crate) fn clear(&mut self) {
        self.input.clear();
        self.input.resize(self.side, 0.0);
        self.base = -(self.side as i64);
    }

    /// Takes input.
    pub(crate) fn push(&mut self, frames: impl Iterator<Item = f32>) {
        self.input.extend(frames);
    }

    /// Input frames from the start that output frame `frame` needs.
    pub(crate) fn needs(&self, frame: u64) -> u64 {
        let (at, _) = self.place(frame);
        at + self.side as u64 + 1
    }

    /// Output frame `frame`, no earlier than those before; `None` if the input does not reach that far.
    pub(crate) fn frame(&mut self, frame: u64) -> Option<f32> {
        let (at, rest) = self.place(frame);
        // In units of a phase.
        self.between(at, rest as f64 * PHASES as f64 / self.step.1 as f64)
    }

    /// The input at `at` and a fraction below 1, no earlier than before; `None` if the input does not reach that far.
    pub(crate) fn input_at(&self, at: u64, fraction: f64) -> Option<f32> {
        self.between(at, fraction * PHASES as f64)
    }

    fn between(&self, at: u64, position: f64) -> Option<f32> {
        let first = usize::try_from(at as i64 - self.base - self.side as i64).ok()?;
        if self.side == 0 {
            return self.input.get(first).copied();
        }
        let input = self.input.get(first + 1..first + 1 + 2 * self.side)?;
        // Where between two rows: whole and rest.
        let row = (position as usize).min(PHASES - 1);
        let between = (position - row as f64) as f32;
        let (lower, upper) = self.rows[row * 2 * self.side..].split_at(2 * self.side);
        let mut sum = 0.0;
        for ((sample, low), high) in input.iter().zip(lower).zip(upper) {
            sum += sample * (low + (high - low) * between);
        }
        Some(sum)
    }

    /// Lets go of input that frame `frame` and those after it do not need.
    pub(crate) fn forget_before(&mut self, frame: u64) {
        let (at, _) = self.place(frame);
        self.forget_input_before(at);
    }

    /// The same, for [`Self::input_at`].
    pub(crate) fn forget_input_before(&mut self, at: u64) {
        let unused = at as i64 - self.side as i64 - self.base;
        if let Ok(unused @ SLACK..) = usize::try_from(unused) {
            let unused = unused.min(self.input.len());
            self.input.drain(..unused);
            self.base += unused as i64;
        }
    }

    /// The input frame at or before an output frame, and what is left, in parts of the denominator.
    fn place(&self, frame: u64) -> (u64, u64) {
        let at = u128::from(frame) * u128::from(self.step.0);
        ((at / u128::from(self.step.1)) as u64, (at % u128::from(self.step.1)) as u64)
    }
}

/// For each phase, what the frames from `side - 1` before to `side` after a point weigh there. Each row's sum is 1.
fn rows(side: usize, cutoff: f64) -> Box<[f32]> {
    let mut rows = Vec::with_capacity((PHASES + 1) * 2 * side);
    for phase in 0..=PHASES {
        let between = phase as f64 / PHASES as f64;
        let row: Vec<f64> = (0..2 * side)
            .map(|tap| {
                let distance = tap as f64 - (side as f64 - 1.0) - between;
                sinc(distance * cutoff) * kaiser(distance / side as f64)
            })
            .collect();
        let sum: f64 = row.iter().sum();
        rows.extend(row.iter().map(|weight| (weight / sum) as f32));
    }
    rows.into()
}

fn sinc(x: f64) -> f64 {
    if fabs(x) < 1e-9 { 1.0 } else { sin(PI * x) / (PI * x) }
}

/// The Kaiser window over -1 to 1.
fn kaiser(x: f64) -> f64 {
    let inside = 1.0 - x * x;
    if inside <= 0.0 { 0.0 } else { bessel(BETA * sqrt(inside)) / bessel(BETA) }
}

/// The modified Bessel function of order 0, by its series: exact to the last digits for what a window asks.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..40 {
        let part = x / (2.0 * f64::from(k));
        term *= part * part;
        sum += term;
    }
    // Rounded, so that no last digit of a library shows.
    floor(sum * 1e12 + 0.5) / 1e12
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: u64 = 48_000;

    /// A tone of unity at `hertz`, changed to `rate`, without the ends.
    fn changed(rate: u64, ppm: i64, hertz: f64) -> Vec<f64> {
        let mut resampler = Resampler::new(INPUT * 1_000_000, rate * (1_000_000 + ppm) as u64);
        let tone = |n: u64| sin(2.0 * PI * hertz * n as f64 / INPUT as f64) as f32;
        let mut out = vec![];
        let mut received = 0;
        for frame in 0..rate / 4 {
            let needed = resampler.needs(frame);
            resampler.push((received..needed).map(tone));
            received = received.max(needed);
            out.push(f64::from(resampler.frame(frame).expect("it has what it needs")));
            resampler.forget_before(frame);
        }
        out.split_off(2000)
    }

    /// The level of a tone of this frequency, by least squares, and what is not that tone, in dB below it.
    fn faults(samples: &[f64], rate: f64, hertz: f64) -> (f64, f64) {
        let wave = |n: usize| {
            let at = 2.0 * PI * hertz * (n + 2000) as f64 / rate;
            (sin(at), libm::cos(at))
        };
        let (mut ss, mut sc, mut cc, mut xs, mut xc) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (n, x) in samples.iter().enumerate() {
            let (s, c) = wave(n);
            (ss, sc, cc, xs, xc) = (ss + s * s, sc + s * c, cc + c * c, xs + x * s, xc + x * c);
        }
        let determinant = ss * cc - sc * sc;
        let (a, b) = ((xs * cc - xc * sc) / determinant, (xc * ss - xs * sc) / determinant);
        let power = |x: f64| 10.0 * x.log10();
        let rest = samples.iter().enumerate().map(|(n, x)| {
            let (s, c) = wave(n);
            (x - a * s - b * c).powi(2)
        });
        let level = a * a + b * b;
        (power(level), power(rest.sum::<f64>() * 2.0 / samples.len() as f64 / level))
    }

    #[test]
    fn a_tone_keeps_its_level_and_stays_pure() {
        for (rate, ppm, hertz) in [
            (44_100, 0, 1000.0),
            (44_100, 0, 17_000.0),
            (22_050, 0, 1000.0),
            (22_050, 0, 8000.0),
            (96_000, 0, 15_000.0),
            (48_000, 500, 10_000.0),
            (48_000, -500, 10_000.0),
        ] {
            let actual = rate as f64 * (1.0 + ppm as f64 / 1e6);
            let (level, rest) = faults(&changed(rate, ppm, hertz), actual, hertz);
            assert!(level.abs() < 0.05, "{rate} Hz, {ppm} ppm, {hertz} Hz: {level:.2} dB");
            assert!(rest < -75.0, "{rate} Hz, {ppm} ppm, {hertz} Hz: {rest:.1} dB");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        for (rate, hertz) in [(22_050, 13_000.0), (22_050, 20_000.0), (44_100, 23_500.0)] {
            let loudest = changed(rate, 0, hertz).iter().fold(0.0f64, |most, s| most.max(s.abs()));
            assert!(loudest < 2e-4, "{rate} Hz, {hertz} Hz: {loudest}");
        }
    }

    #[test]
    fn at_one_rate_the_input_is_the_output_without_delay() {
        let mut resampler = Resampler::new(7, 7);
        assert_eq!((resampler.needs(0), resampler.needs(9)), (1, 10));
        resampler.push([0.5, -0.25].into_iter());
        assert_eq!([resampler.frame(0), resampler.frame(1), resampler.frame(2)], [Some(0.5), Some(-0.25), None]);
    }

    #[test]
    fn it_asks_for_no_more_than_it_uses() {
        let mut resampler = Resampler::new(48_000, 44_100);
        for frame in [0, 1, 5000, 100_000] {
            let needed = resampler.needs(frame);
            resampler.clear();
            resampler.push((0..needed - 1).map(|_| 1.0));
            assert_eq!(resampler.frame(frame), None);
            resampler.push([1.0].into_iter());
            assert!(
                resampler.frame(frame).is_some_and(|sample| frame == 0 || (sample - 1.0).abs() < 1e-2 || frame < 60)
            );
        }
    }
}
