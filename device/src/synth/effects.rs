//! Reverb and chorus, shared by all voices of a synth.
//!
//! Fed with what voices send, sample by sample; adds to the stream's mix. Costs nothing until something is sent, and
//! again when the last echo has died away.

use super::tables::Tables;

/// Lengths of the reverb's delay lines at 48 kHz, in samples: primes, so that their echoes fall together late.
const LINES: [usize; 8] = [1429, 1637, 1867, 2089, 2311, 2543, 2801, 3163];
/// Seconds in which the reverb falls by 60 dB.
const DECAY: f32 = 1.7;
/// How much of the highs each round loses.
const DAMPING: f32 = 0.28;
const REVERB_LEVEL: f32 = 0.35;
/// Seconds for which an effect goes on after the last voice that sends: twice the decay is 120 dB.
const AFTERGLOW: f32 = 2.0 * DECAY;

/// Depth and middle of the chorus's delay, seconds; frequency, Hz; and how its taps lie in the oscillator's turn.
const CHORUS_DEPTH: f32 = 0.0022;
const CHORUS_DELAY: f32 = 0.011;
const CHORUS_HERTZ: f32 = 0.45;
const CHORUS_TAPS: [f32; 4] = [0.0, 0.25, 0.5, 0.75];
const CHORUS_LEVEL: f32 = 0.5;

/// A delay line of the reverb with what damps it.
struct Line {
    samples: Vec<f32>,
    at: usize,
    /// What one round leaves of the level.
    feedback: f32,
    low: f32,
}

/// Both effects.
pub(crate) struct Effects {
    lines: [Line; 8],
    chorus: Vec<f32>,
    chorus_at: usize,
    /// Turns of the chorus's oscillator, and a sample's part of one.
    phase: f32,
    step: f32,
    rate: f32,
    /// Samples until silence; 0 is off.
    left: u32,
    afterglow: u32,
}

impl Effects {
    pub(crate) fn new(rate: f32) -> Self {
        let lines = LINES.map(|length| {
            let samples = ((length as f32 * rate / 48_000.0) as usize).max(1);
            let seconds = samples as f32 / rate;
            let feedback = libm::exp10f(-3.0 * seconds / DECAY);
            Line { samples: vec![0.0; samples], at: 0, feedback, low: 0.0 }
        });
        let longest = ((CHORUS_DELAY + CHORUS_DEPTH) * rate) as usize + 4;
        Self {
            lines,
            chorus: vec![0.0; longest],
            chorus_at: 0,
            phase: 0.0,
            step: CHORUS_HERTZ / rate,
            rate,
            left: 0,
            afterglow: (AFTERGLOW * rate) as u32,
        }
    }

    /// Something is sent from now on.
    pub(crate) fn wake(&mut self) {
        self.left = self.afterglow;
    }

    pub(crate) fn sounding(&self) -> bool {
        self.left > 0
    }

    /// Of the next samples, how many have something of the effects in them.
    pub(crate) fn remaining(&self, samples: usize) -> usize {
        samples.min(self.left as usize)
    }

    /// So many samples have passed since something was sent. In the end there is exact silence.
    pub(crate) fn fade(&mut self, samples: usize) {
        if self.left > 0 {
            self.left = self.left.saturating_sub(samples as u32);
            if self.left == 0 {
                self.clear();
            }
        }
    }

    /// Forgets all echoes.
    pub(crate) fn clear(&mut self) {
        for line in &mut self.lines {
            line.samples.fill(0.0);
            (line.at, line.low) = (0, 0.0);
        }
        self.chorus.fill(0.0);
        (self.chorus_at, self.phase, self.left) = (0, 0.0, 0);
    }

    /// What comes back of a sample that is sent to reverb and chorus: left and right.
    pub(crate) fn next(&mut self, (reverb, chorus): (f32, f32), tables: &Tables) -> (f32, f32) {
        let (left, right) = self.echo(reverb);
        let (a, b) = self.sway(chorus, tables);
        (left + a, right + b)
    }

    /// Eight lines whose ends are mixed by a reflection, which loses nothing, and fed back.
    fn echo(&mut self, sent: f32) -> (f32, f32) {
        let mut ends = [0.0; 8];
        let mut sum = 0.0;
        for (line, end) in self.lines.iter_mut().zip(&mut ends) {
            let now = line.samples[line.at];
            line.low = now + DAMPING * (line.low - now);
            *end = line.low * line.feedback;
            sum += *end;
        }
        let mean = 0.25 * sum;
        for (line, end) in self.lines.iter_mut().zip(&ends) {
            // Adding and taking away a constant turns what would become denormal into nothing.
            line.samples[line.at] = (sent + (*end - mean)) + 1e-15 - 1e-15;
            line.at = if line.at + 1 == line.samples.len() { 0 } else { line.at + 1 };
        }
        let left = (ends[0] - ends[2]) + (ends[4] - ends[6]);
        let right = (ends[1] - ends[3]) + (ends[5] - ends[7]);
        (left * REVERB_LEVEL, right * REVERB_LEVEL)
    }

    /// Four taps of a delay that sways.
    fn sway(&mut self, sent: f32, tables: &Tables) -> (f32, f32) {
        let length = self.chorus.len();
        self.chorus[self.chorus_at] = sent;
        let tap = |turn: f32| {
            let delay = (CHORUS_DELAY + CHORUS_DEPTH * tables.sine(self.phase + turn)) * self.rate;
            let whole = delay as usize;
            let part = delay - whole as f32;
            let at = |back: usize| self.chorus[(self.chorus_at + 2 * length - back) % length];
            at(whole) + (at(whole + 1) - at(whole)) * part
        };
        let [a, b, c, d] = CHORUS_TAPS.map(tap);
        self.chorus_at = if self.chorus_at + 1 == length { 0 } else { self.chorus_at + 1 };
        self.phase += self.step;
        if self.phase >= 1.0 {
            self.phase -= 1.0;
        }
        ((a + c) * CHORUS_LEVEL, (b + d) * CHORUS_LEVEL)
    }
}
