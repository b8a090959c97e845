//! The sample-rate part of eight voices: fetch, interpolate, filter, pan and mix.
//!
//! Fed by `Voice` (steps, filters and gain ramps, set at control ticks) and by the bank's pool of samples; adds to a
//! [`Mix`]. The code here runs anywhere; `avx2` does the same sums in the same order, eight at once, and so gives the
//! same bits.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::PERIOD;
use crate::bank::{GUARD, MAX_STEP, Moved, SILENCE, Sound};

/// Voices in a group: one lane each.
pub(crate) const LANES: usize = 8;
/// Fractions of a position have 31 bits: their sum fits a word, and its top bit is the carry.
const FRACTION: u32 = 0x7fff_ffff;
const FRACTION_SCALE: f32 = 1.0 / (1u32 << 31) as f32;
/// What a centred voice sends is as loud as what it plays on one side.
const SEND_SCALE: f32 = core::f32::consts::FRAC_1_SQRT_2;

/// Where a silent lane begins, ends and turns, and the most that a lane moves on in one sample.
const SILENT_START: i32 = word(GUARD);
const SILENT_END: i32 = word(SILENCE);
const SILENT_TURN: i32 = word(MAX_STEP + 1);
const LONGEST_STEP: i32 = word(MAX_STEP);

type Lane = [f32; LANES];

/// A constant of the pool as a lane holds it: positions in the pool have 31 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "checked, when it is compiled")]
const fn word(samples: usize) -> i32 {
    assert!(samples <= i32::MAX.cast_unsigned() as usize);
    samples as i32
}

/// How samples are found between those of a wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// By straight lines.
    Linear,
    /// By curves through four samples.
    #[default]
    Cubic,
}

/// Which code renders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Available),
}

impl Code {
    /// The fastest that this processor has.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(available) = avx2::Available::detect() {
            return Self::Avx2(available);
        }
        Self::Portable
    }
}

/// The sums of all groups for up to a period, lane by lane.
#[repr(align(32))]
pub(crate) struct Mix {
    left: [Lane; PERIOD],
    right: [Lane; PERIOD],
    reverb: [Lane; PERIOD],
    chorus: [Lane; PERIOD],
}

impl Mix {
    pub(crate) fn new() -> Self {
        let silence = [[0.0; LANES]; PERIOD];
        Self { left: silence, right: silence, reverb: silence, chorus: silence }
    }

    /// Makes room for so many samples, with sends or without.
    pub(crate) fn clear(&mut self, samples: usize, sends: bool) {
        self.left[..samples].fill([0.0; LANES]);
        self.right[..samples].fill([0.0; LANES]);
        if sends {
            self.reverb[..samples].fill([0.0; LANES]);
            self.chorus[..samples].fill([0.0; LANES]);
        }
    }

    /// Adds the lane sums to the planes (at most a period of samples), always by the same tree.
    pub(crate) fn add_to(&self, left: &mut [f32], right: &mut [f32]) {
        for (out, lanes) in left.iter_mut().zip(&self.left) {
            *out += sum(lanes);
        }
        for (out, lanes) in right.iter_mut().zip(&self.right) {
            *out += sum(lanes);
        }
    }

    /// What is sent to reverb and chorus at a sample.
    pub(crate) fn sends(&self, sample: usize) -> (f32, f32) {
        (sum(&self.reverb[sample]), sum(&self.chorus[sample]))
    }
}

fn sum(v: &Lane) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// Coefficients of a low-pass: w = x - a1 w' - a2 w'', y = b (w + 2 w' + w'').
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LowPass {
    pub(crate) b: f32,
    pub(crate) a1: f32,
    pub(crate) a2: f32,
}

/// Eight lanes as a structure of arrays. A lane that is not active stands in the silence and has zero gains, so it adds
/// nothing.
#[derive(Clone)]
#[repr(align(32))]
pub(crate) struct Group {
    /// Position in the pool, and 31 bits of fraction.
    at: [i32; LANES],
    fraction: [i32; LANES],
    /// Advance per output sample, likewise.
    step: [i32; LANES],
    step_fraction: [i32; LANES],
    /// From `end` on, a position goes back by `turn`.
    end: [i32; LANES],
    turn: [i32; LANES],
    /// All bits set: the lane is filtered.
    wet: [i32; LANES],
    b: Lane,
    a1: Lane,
    a2: Lane,
    w1: Lane,
    w2: Lane,
    /// Gains now, and their change per sample until the next tick.
    left: Lane,
    right: Lane,
    left_step: Lane,
    right_step: Lane,
    /// Gains at the next tick.
    left_goal: Lane,
    right_goal: Lane,
    /// How much of a lane goes to reverb and chorus.
    reverb: Lane,
    chorus: Lane,
    /// The channel that plays in a lane: group x 16 + channel.
    pub(crate) channel: [u32; LANES],
    /// Bit per lane.
    pub(crate) active: u8,
    /// Bit per lane: it sends to an effect.
    pub(crate) sending: u8,
    filtered: u8,
}

impl Group {
    pub(crate) const SILENT: Self = Self {
        at: [SILENT_START; LANES],
        fraction: [0; LANES],
        step: [0; LANES],
        step_fraction: [0; LANES],
        end: [SILENT_END; LANES],
        turn: [SILENT_TURN; LANES],
        wet: [0; LANES],
        b: [0.0; LANES],
        a1: [0.0; LANES],
        a2: [0.0; LANES],
        w1: [0.0; LANES],
        w2: [0.0; LANES],
        left: [0.0; LANES],
        right: [0.0; LANES],
        left_step: [0.0; LANES],
        right_step: [0.0; LANES],
        left_goal: [0.0; LANES],
        right_goal: [0.0; LANES],
        reverb: [0.0; LANES],
        chorus: [0.0; LANES],
        channel: [u32::MAX; LANES],
        active: 0,
        sending: 0,
        filtered: 0,
    };

    /// Brings a lane to life for a channel at the start of `sound`, silent and without a filter.
    pub(crate) fn start(&mut self, lane: usize, channel: u32, sound: &Sound) {
        self.stop(lane);
        self.active |= 1 << lane;
        self.channel[lane] = channel;
        self.at[lane] = sound.base.cast_signed();
        self.end[lane] = sound.end.cast_signed();
        self.turn[lane] = sound.turn.cast_signed();
    }

    /// The gains from which a lane's first ramp starts.
    pub(crate) fn set_gains(&mut self, lane: usize, gains: (f32, f32)) {
        (self.left_goal[lane], self.right_goal[lane]) = gains;
    }

    /// Silences a lane at once.
    pub(crate) fn stop(&mut self, lane: usize) {
        self.active &= !(1 << lane);
        self.filtered &= !(1 << lane);
        self.channel[lane] = u32::MAX;
        self.at[lane] = SILENT_START;
        self.fraction[lane] = 0;
        self.end[lane] = SILENT_END;
        self.turn[lane] = SILENT_TURN;
        self.wet[lane] = 0;
        self.set_step(lane, 0);
        self.set_sends(lane, (0.0, 0.0));
        for field in [&mut self.b, &mut self.a1, &mut self.a2, &mut self.w1, &mut self.w2] {
            field[lane] = 0.0;
        }
        for field in [&mut self.left, &mut self.left_step, &mut self.left_goal] {
            field[lane] = 0.0;
        }
        for field in [&mut self.right, &mut self.right_step, &mut self.right_goal] {
            field[lane] = 0.0;
        }
    }

    /// Samples of the wave per output sample, 32.32. No more than [`MAX_STEP`] and a fraction.
    pub(crate) fn set_step(&mut self, lane: usize, step: u64) {
        let step = step.min((MAX_STEP as u64) << 32);
        self.step[lane] = (step >> 32) as i32;
        self.step_fraction[lane] = ((step & 0xFFFF_FFFF) as u32 >> 1).cast_signed();
    }

    /// Runs at the rate of another lane.
    pub(crate) fn follow(&mut self, lane: usize, (step, step_fraction): (i32, i32)) {
        (self.step[lane], self.step_fraction[lane]) = (step, step_fraction);
    }

    /// The rate of a lane, for [`Self::follow`].
    pub(crate) fn rate(&self, lane: usize) -> (i32, i32) {
        (self.step[lane], self.step_fraction[lane])
    }

    /// Parts of the lane that go to reverb and chorus.
    pub(crate) fn set_sends(&mut self, lane: usize, (reverb, chorus): (f32, f32)) {
        (self.reverb[lane], self.chorus[lane]) = (reverb, chorus);
        let sends = u8::from(reverb != 0.0 || chorus != 0.0);
        self.sending = self.sending & !(1 << lane) | sends << lane;
    }

    pub(crate) fn set_filter(&mut self, lane: usize, filter: LowPass) {
        (self.b[lane], self.a1[lane], self.a2[lane]) = (filter.b, filter.a1, filter.a2);
        self.wet[lane] = -1;
        self.filtered |= 1 << lane;
    }

    /// Lets the gains run from the last goal to a new one within `samples`. Starting at the exact goal, not at the
    /// accumulated value, keeps rounding from piling up.
    pub(crate) fn ramp(&mut self, lane: usize, goal: (f32, f32), samples: usize) {
        let scale = 1.0 / samples as f32;
        self.left[lane] = self.left_goal[lane];
        self.right[lane] = self.right_goal[lane];
        self.left_step[lane] = (goal.0 - self.left[lane]) * scale;
        self.right_step[lane] = (goal.1 - self.right[lane]) * scale;
        (self.left_goal[lane], self.right_goal[lane]) = goal;
        if self.filtered & (1 << lane) == 0 {
            return;
        }
        // A filter that rings out would end in denormal numbers, which cost a hundred times as much.
        if self.w1[lane].abs() < 1e-12 && self.w2[lane].abs() < 1e-12 {
            self.w1[lane] = 0.0;
            self.w2[lane] = 0.0;
        }
    }

    /// Lets the gains run from where they are to a new goal within `samples`, up to the next tick. They fall no faster
    /// than a whole period would let them, since few samples would make a click of it.
    pub(crate) fn bend(&mut self, lane: usize, goal: (f32, f32), samples: usize) {
        let scale = 1.0 / samples as f32;
        let left_over = 1.0 - samples as f32 * (1.0 / PERIOD as f32);
        let goal = (goal.0.max(self.left[lane] * left_over), goal.1.max(self.right[lane] * left_over));
        self.left_step[lane] = (goal.0 - self.left[lane]) * scale;
        self.right_step[lane] = (goal.1 - self.right[lane]) * scale;
        (self.left_goal[lane], self.right_goal[lane]) = goal;
    }

    /// Goes on at the same place of the same wave without its loop.
    pub(crate) fn leave_loop(&mut self, lane: usize, sound: &Sound, tail: &Sound) {
        if self.exhausted(lane) {
            return;
        }
        let (start, length) = sound.looped;
        let mut place = self.at[lane].cast_unsigned().saturating_sub(sound.base);
        if length > 0 && place >= start {
            place = start + (place - start) % length;
        }
        self.at[lane] = (tail.base + place).min(tail.end - 1).cast_signed();
        self.end[lane] = tail.end.cast_signed();
        self.turn[lane] = tail.turn.cast_signed();
    }

    /// Goes on in sounds that have moved, sorted by where they ended.
    pub(crate) fn move_along(&mut self, moved: &[Moved]) {
        for lane in 0..LANES {
            let end = self.end[lane].cast_unsigned();
            let Ok(found) = moved.binary_search_by_key(&end, |moved| moved.from.end) else {
                continue;
            };
            let Moved { from, to } = moved[found];
            if !self.exhausted(lane) {
                self.at[lane] =
                    self.at[lane].cast_unsigned().wrapping_sub(from.base).wrapping_add(to.base).cast_signed();
            }
            self.end[lane] = to.end.cast_signed();
            self.turn[lane] = to.turn.cast_signed();
        }
    }

    /// A wave without a loop has been played to its end.
    pub(crate) fn exhausted(&self, lane: usize) -> bool {
        self.at[lane] < SILENT_END
    }

    /// Adds the next `samples` (at most a period, never across a tick) of all lanes to the mix, with their sends or
    /// without.
    pub(crate) fn render(
        &mut self,
        pool: &[i16],
        mix: &mut Mix,
        samples: usize,
        (interpolation, sends): (Interpolation, bool),
        code: Code,
    ) {
        let samples = samples.min(PERIOD);
        let variant = (interpolation == Interpolation::Cubic, self.filtered != 0, sends && self.sending != 0);
        match code {
            Code::Portable => match variant {
                (false, false, false) => self.blend::<false, false, false>(pool, mix, samples),
                (false, false, true) => self.blend::<false, false, true>(pool, mix, samples),
                (false, true, false) => self.blend::<false, true, false>(pool, mix, samples),
                (false, true, true) => self.blend::<false, true, true>(pool, mix, samples),
                (true, false, false) => self.blend::<true, false, false>(pool, mix, samples),
                (true, false, true) => self.blend::<true, false, true>(pool, mix, samples),
                (true, true, false) => self.blend::<true, true, false>(pool, mix, samples),
                (true, true, true) => self.blend::<true, true, true>(pool, mix, samples),
            },
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.render(self, pool, mix, samples, variant),
        }
    }

    /// Written lane by lane so that it vectorises where it can. Each sum is also in `avx2`.
    fn blend<const CUBIC: bool, const FILTER: bool, const SEND: bool>(
        &mut self,
        pool: &[i16],
        mix: &mut Mix,
        samples: usize,
    ) {
        for row in 0..samples {
            let mut fetched = [0.0; LANES];
            for (lane, x) in fetched.iter_mut().enumerate() {
                let at = self.at[lane].cast_unsigned() as usize;
                let near: [i16; 4] = match pool.get(at.wrapping_sub(1)..at.wrapping_add(3)) {
                    Some(&[a, b, c, d]) => [a, b, c, d],
                    _ => [0; 4],
                };
                let [before, now, next, after] = near.map(f32::from);
                let weight = self.fraction[lane] as f32 * FRACTION_SCALE;
                *x = if CUBIC {
                    let rise = next - before;
                    let slope = 0.5 * rise;
                    let bend = 0.5 * (after - before) + 1.5 * (now - next);
                    let lift = ((before - now) + slope) - bend;
                    ((bend * weight + lift) * weight + slope) * weight + now
                } else {
                    (next - now) * weight + now
                };
            }
            for lane in 0..LANES {
                let sum = self.fraction[lane].cast_unsigned() + self.step_fraction[lane].cast_unsigned();
                self.fraction[lane] = (sum & FRACTION).cast_signed();
                let at = self.at[lane] + (self.step[lane] + (sum >> 31).cast_signed());
                self.at[lane] = if at >= self.end[lane] { at - self.turn[lane] } else { at };
            }
            for (lane, mut x) in fetched.into_iter().enumerate() {
                if FILTER {
                    let w = x - self.a1[lane] * self.w1[lane] - self.a2[lane] * self.w2[lane];
                    let y = self.b[lane] * ((w + self.w2[lane]) + (self.w1[lane] + self.w1[lane]));
                    self.w2[lane] = self.w1[lane];
                    self.w1[lane] = w;
                    x = if self.wet[lane] != 0 { y } else { x };
                }
                let (left, right) = (x * self.left[lane], x * self.right[lane]);
                mix.left[row][lane] += left;
                mix.right[row][lane] += right;
                if SEND {
                    let both = (left + right) * SEND_SCALE;
                    mix.reverb[row][lane] += both * self.reverb[lane];
                    mix.chorus[row][lane] += both * self.chorus[lane];
                }
                self.left[lane] += self.left_step[lane];
                self.right[lane] += self.right_step[lane];
            }
        }
    }
}
