//! Eight voices side by side: where each stands in its wave, its filter and its gains.
//!
//! Fed by `voice` and `control` (steps, filters and gain ramps). `fetch` takes samples of the waves up to the next
//! control tick, `render` filters and mixes them, up to the next event at a time; `avx2` does the same with vectors.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod fetch;
mod mix;
mod render;

use super::PERIOD;
use super::control::Control;
use super::curves::{floor, max, min};
use crate::bank::{GUARD, MAX_STEP, Moved, SILENCE, Sound};
pub(crate) use mix::Mix;

/// Voices in a group: one lane each.
pub(crate) const LANES: usize = 8;
/// Samples are made in blocks of so many, one of a voice for each lane of a vector.
const BLOCKS: usize = PERIOD / LANES;
/// Bits of a position's fraction: what eight steps add to it fits a word.
const FRACTION_BITS: u32 = 28;
const FRACTION: u32 = (1 << FRACTION_BITS) - 1;
const FRACTION_SCALE: f32 = 1.0 / (1u32 << FRACTION_BITS) as f32;
/// What a centred voice sends is as loud as what it plays on one side.
const SEND_SCALE: f32 = core::f32::consts::FRAC_1_SQRT_2;

/// Where a silent lane begins, ends and turns, and the most that a lane moves on in one sample.
const SILENT_START: i32 = word(GUARD);
pub(super) const SILENT_END: i32 = word(SILENCE);
const SILENT_TURN: i32 = word(MAX_STEP + 1);

pub(crate) type Lane = [f32; LANES];

/// The lanes of a mask.
pub(super) fn bits(mut mask: u8) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// Kinds of voices, which are kept together: what has no filter, or sends nothing, then costs none.
pub(super) const KINDS: usize = 4;

/// The kind of a voice that is filtered, or sends to an effect.
pub(super) fn kind(filtered: bool, sending: bool) -> usize {
    usize::from(filtered) * 2 + usize::from(sending)
}

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
    /// Position in the pool, and [`FRACTION_BITS`] of fraction: at the next tick if samples were fetched up to there,
    /// now if the lane is `stale`.
    pub(super) at: [i32; LANES],
    fraction: [u32; LANES],
    /// Bit per lane: what was fetched, if anything, is not what it plays.
    pub(super) stale: u8,
    /// Where and how long before the tick fetching began.
    from: [i32; LANES],
    from_fraction: [u32; LANES],
    from_samples: [u32; LANES],
    /// What was fetched of each lane, by the sample's place in the period. Vectors end behind it.
    fetched: [[f32; PERIOD + LANES]; LANES],
    /// Advance per output sample, likewise.
    step: [i32; LANES],
    step_fraction: [u32; LANES],
    /// From `end` on, a position goes back by `turn`.
    end: [i32; LANES],
    turn: [i32; LANES],
    pub(super) b: Lane,
    pub(super) a1: Lane,
    pub(super) a2: Lane,
    pub(super) w1: Lane,
    pub(super) w2: Lane,
    /// Gains, and their change per sample until the next tick.
    pub(super) left: Lane,
    pub(super) right: Lane,
    pub(super) left_step: Lane,
    pub(super) right_step: Lane,
    /// Gains at the next tick.
    pub(super) left_goal: Lane,
    pub(super) right_goal: Lane,
    /// How much of a lane goes to reverb and chorus.
    pub(super) reverb: Lane,
    pub(super) chorus: Lane,
    /// The channel that plays in a lane: group x 16 + channel.
    pub(crate) channel: [u32; LANES],
    /// Bit per lane.
    pub(crate) active: u8,
    /// Bit per lane: it sends to an effect.
    pub(crate) sending: u8,
    pub(super) filtered: u8,
    /// Of its first voice; those of the same kind come here.
    pub(super) kind: usize,
    /// What sets it up at control ticks.
    pub(super) control: Control,
}

impl Group {
    pub(crate) const SILENT: Self = Self {
        at: [SILENT_START; LANES],
        fraction: [0; LANES],
        stale: 0,
        from: [SILENT_START; LANES],
        from_fraction: [0; LANES],
        from_samples: [0; LANES],
        fetched: [[0.0; PERIOD + LANES]; LANES],
        step: [0; LANES],
        step_fraction: [0; LANES],
        end: [SILENT_END; LANES],
        turn: [SILENT_TURN; LANES],
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
        kind: 0,
        control: Control::IDLE,
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
        self.stale |= 1 << lane;
        self.channel[lane] = u32::MAX;
        self.at[lane] = SILENT_START;
        self.fraction[lane] = 0;
        self.end[lane] = SILENT_END;
        self.turn[lane] = SILENT_TURN;
        self.set_step(lane, 0.0);
        self.control.stop(lane);
        self.show_sends();
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

    /// The lanes in which a channel plays.
    #[inline(always)]
    pub(super) fn playing(&self, channel: u32) -> u8 {
        (0..LANES).fold(0, |playing, lane| playing | u8::from(self.channel[lane] == channel) << lane)
    }

    /// Samples of the wave per output sample, [`MAX_STEP`] at most. For lanes that are stale, as all are at a tick.
    #[inline(always)]
    pub(super) fn set_step(&mut self, lane: usize, step: f32) {
        (self.step[lane], self.step_fraction[lane]) = Self::rate_of(step);
    }

    /// The same from this very sample on, so long before the next tick.
    pub(super) fn change_step(&mut self, lane: usize, step: f32, until_tick: usize) {
        self.follow(lane, Self::rate_of(step), until_tick);
    }

    #[inline(always)]
    fn rate_of(step: f32) -> (i32, u32) {
        // The fraction in two parts, each of which a number holds exactly.
        const PART: u32 = FRACTION_BITS / 2;
        const SCALE: f32 = (1u32 << PART) as f32;
        let step = max(min(step, MAX_STEP as f32), 0.0);
        let (below, whole) = floor(step);
        let rest = (step - below) * SCALE;
        let (below, high) = floor(rest);
        let (_, low) = floor((rest - below) * SCALE);
        (whole.cast_signed(), high << PART | low)
    }

    /// Runs at the rate of another lane, from this very sample on.
    pub(crate) fn follow(&mut self, lane: usize, rate: (i32, u32), until_tick: usize) {
        if rate != self.rate(lane) {
            self.return_to(until_tick, lane);
            (self.step[lane], self.step_fraction[lane]) = rate;
        }
    }

    /// The rate of a lane, for [`Self::follow`].
    pub(crate) fn rate(&self, lane: usize) -> (i32, u32) {
        (self.step[lane], self.step_fraction[lane])
    }

    pub(crate) fn set_filter(&mut self, lane: usize, filter: LowPass) {
        (self.b[lane], self.a1[lane], self.a2[lane]) = (filter.b, filter.a1, filter.a2);
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
    pub(crate) fn leave_loop(&mut self, lane: usize, (sound, tail): (&Sound, &Sound), until_tick: usize) {
        self.return_to(until_tick, lane);
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
    pub(crate) fn move_along(&mut self, moved: &[Moved], until_tick: usize) {
        for lane in 0..LANES {
            self.return_to(until_tick, lane);
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

    /// A wave without a loop has been played to its end, if what was fetched ends here.
    pub(crate) fn exhausted(&self, lane: usize) -> bool {
        self.at[lane] < SILENT_END
    }

    /// A period has passed for the controls; of the next one, nothing is fetched yet.
    pub(super) fn advance(&mut self, code: Code) {
        self.stale = u8::MAX;
        match code {
            Code::Portable => self.control.advance_lanes(),
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.advance(&mut self.control),
        }
    }

    /// A control tick: sets the lanes up for the next period, at `rate` output samples a second. Gives those that have
    /// come to their end, whose level runs down to nothing in that period.
    pub(super) fn tick(&mut self, rate: f32, code: Code) -> u8 {
        match code {
            Code::Portable => self.tick_lanes(rate),
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.tick(self, rate),
        }
    }
}
