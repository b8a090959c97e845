//! The samples of eight voices' waves, each up to the next control tick.
//!
//! Fed by a [`Group`]'s positions and by the bank's pool of samples; feeds `render`. Positions of all eight voices are
//! found at once, and then one voice is fetched after the other, eight samples at once. An event that leaves a voice's
//! rate and wave alone leaves what was fetched of it as it is.

use super::{BLOCKS, Code, FRACTION, FRACTION_BITS, FRACTION_SCALE, Group, Interpolation, LANES, Lane, bits};
use crate::bank::GUARD;
use crate::synth::PERIOD;

/// The fastest steps with which no block can turn twice.
const TAME: i32 = 31;

/// Where the voices of a group stand at the beginning of each block that is fetched.
pub(super) struct Starts {
    pub(super) at: [[i32; LANES]; BLOCKS],
    pub(super) fraction: [[u32; LANES]; BLOCKS],
    /// 0, if each sample of the block is before the end of a sound that is in the pool with its guard, and none at its
    /// very first.
    pub(super) strays: [[u32; LANES]; BLOCKS],
    /// 0, if that is so in all blocks.
    pub(super) straying: [u32; LANES],
    /// How far a sample is from the one before at most.
    pub(super) reach: [i32; LANES],
}

impl Starts {
    pub(super) const NONE: Self = Self {
        at: [[0; LANES]; BLOCKS],
        fraction: [[0; LANES]; BLOCKS],
        strays: [[0; LANES]; BLOCKS],
        straying: [0; LANES],
        reach: [0; LANES],
    };
}

impl Group {
    /// Fetches what voices play from here to the next tick, of those of which something else or nothing was fetched.
    pub(super) fn fetch(&mut self, pool: &[i16], until_tick: usize, interpolation: Interpolation, code: Code) {
        let lanes = self.stale & self.active;
        if lanes == 0 {
            return;
        }
        let samples = until_tick.min(PERIOD);
        let cubic = interpolation == Interpolation::Cubic;
        match code {
            Code::Portable if cubic => self.fetch_lanes::<true>(pool, samples, lanes),
            Code::Portable => self.fetch_lanes::<false>(pool, samples, lanes),
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.fetch(self, pool, (samples, lanes), cubic),
        }
        self.stale &= !lanes;
    }

    fn fetch_lanes<const CUBIC: bool>(&mut self, pool: &[i16], samples: usize, lanes: u8) {
        let mut starts = Starts::NONE;
        self.advance_positions(&mut starts, pool.len(), samples);
        for lane in bits(lanes) {
            for block in 0..samples.div_ceil(LANES).min(BLOCKS) {
                let start = (starts.at[block][lane], starts.fraction[block][lane]);
                let x = if starts.strays[block][lane] == 0 {
                    self.fetch_straight::<CUBIC>(pool, start, lane)
                } else {
                    self.fetch_some::<CUBIC>(pool, start, (lane, (samples - block * LANES).min(LANES)))
                };
                let first = PERIOD - samples + block * LANES;
                self.fetched[lane][first..first + LANES].copy_from_slice(&x);
            }
        }
    }

    /// Lets a lane stand where it stands so long before the next tick, for something else to be fetched from there on.
    pub(super) fn return_to(&mut self, until_tick: usize, lane: usize) {
        if self.stale & 1 << lane != 0 {
            return;
        }
        self.stale |= 1 << lane;
        let mut position = (self.from[lane], self.from_fraction[lane]);
        for _ in until_tick..self.from_samples[lane] as usize {
            position = self.next(position, lane);
        }
        (self.at[lane], self.fraction[lane]) = position;
    }

    /// Moves all voices that are stale on by so many samples, up to the next tick.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "eight at most")]
    pub(super) fn advance_positions(&mut self, starts: &mut Starts, pool: usize, samples: usize) {
        // The first end that is none.
        let limit = i32::try_from((pool + 1).saturating_sub(GUARD)).unwrap_or(0);
        let mut wild = 0;
        for lane in 0..LANES {
            starts.reach[lane] = self.step[lane].wrapping_add(i32::from(self.step_fraction[lane] != 0));
            let broken = self.fraction[lane] | self.step_fraction[lane];
            wild |= u32::from(!(0..=TAME).contains(&self.step[lane])) | u32::from(broken > FRACTION);
        }
        let before = (self.at, self.fraction);
        for block in 0..samples.div_ceil(LANES).min(BLOCKS) {
            let count = (samples - block * LANES).min(LANES) as u32;
            (starts.at[block], starts.fraction[block]) = (self.at, self.fraction);
            for lane in 0..LANES {
                let after = |steps: u32| {
                    let sum = self.fraction[lane].wrapping_add(steps.wrapping_mul(self.step_fraction[lane]));
                    let whole = steps.cast_signed().wrapping_mul(self.step[lane]);
                    let further = whole.wrapping_add((sum >> FRACTION_BITS).cast_signed());
                    (self.at[lane].wrapping_add(further), sum & FRACTION)
                };
                let (last, _) = after(LANES as u32 - 1);
                let (at, fraction) = after(count);
                let end = self.end[lane];
                // Each by itself: a sum may wrap.
                let outside = u32::from(self.at[lane] < 1) | u32::from(self.at[lane] >= end);
                let strays = outside | u32::from(last >= end) | u32::from(end >= limit);
                starts.strays[block][lane] = strays;
                starts.straying[lane] |= strays;
                // A step is less than a turn, so one turn brings a position back before the end.
                self.at[lane] = at.wrapping_sub(if at >= end { self.turn[lane] } else { 0 });
                self.fraction[lane] = fraction;
            }
        }
        if wild != 0 {
            (self.at, self.fraction) = self.leap(starts, before, samples);
        }
        if self.stale == u8::MAX {
            (self.from, self.from_fraction) = before;
            self.from_samples = [samples as u32; LANES];
        } else {
            self.advance_some(before, samples);
        }
    }

    /// In the middle of a period, all have moved on, and only those that are stale should have.
    #[cold]
    #[expect(clippy::cast_possible_truncation, reason = "a period at most")]
    fn advance_some(&mut self, before: ([i32; LANES], [u32; LANES]), samples: usize) {
        for lane in 0..LANES {
            if self.stale & 1 << lane != 0 {
                (self.from[lane], self.from_fraction[lane]) = (before.0[lane], before.1[lane]);
                self.from_samples[lane] = samples as u32;
            } else {
                (self.at[lane], self.fraction[lane]) = (before.0[lane], before.1[lane]);
            }
        }
    }

    /// The same for voices that may turn several times in a block: sample by sample.
    #[cold]
    fn leap(
        &self,
        starts: &mut Starts,
        (mut at, mut fraction): ([i32; LANES], [u32; LANES]),
        samples: usize,
    ) -> ([i32; LANES], [u32; LANES]) {
        starts.straying = [1; LANES];
        for row in 0..samples {
            if row % LANES == 0 {
                (starts.at[row / LANES], starts.fraction[row / LANES]) = (at, fraction);
                starts.strays[row / LANES] = [1; LANES];
            }
            for lane in 0..LANES {
                (at[lane], fraction[lane]) = self.next((at[lane], fraction[lane]), lane);
            }
        }
        (at, fraction)
    }

    /// The position after another one.
    #[inline(always)]
    fn next(&self, (at, fraction): (i32, u32), lane: usize) -> (i32, u32) {
        let sum = fraction.wrapping_add(self.step_fraction[lane]);
        let at = at.wrapping_add(self.step[lane].wrapping_add((sum >> FRACTION_BITS).cast_signed()));
        (at.wrapping_sub(if at >= self.end[lane] { self.turn[lane] } else { 0 }), sum & FRACTION)
    }

    /// The samples of a voice from a position on, wherever that is: no more than eight, and zeros after them.
    #[inline(never)]
    pub(super) fn fetch_some<const CUBIC: bool>(
        &self,
        pool: &[i16],
        mut position: (i32, u32),
        (lane, count): (usize, usize),
    ) -> Lane {
        let mut fetched = [0.0; LANES];
        for x in fetched.iter_mut().take(count) {
            *x = between::<CUBIC>(pool, position);
            position = self.next(position, lane);
        }
        fetched
    }

    /// Eight samples of a voice that does not stray there.
    fn fetch_straight<const CUBIC: bool>(&self, pool: &[i16], (mut at, mut fraction): (i32, u32), lane: usize) -> Lane {
        let (step, step_fraction) = (self.step[lane], self.step_fraction[lane]);
        core::array::from_fn(|_| {
            let x = between::<CUBIC>(pool, (at, fraction));
            let sum = fraction + step_fraction;
            at += step + (sum >> FRACTION_BITS).cast_signed();
            fraction = sum & FRACTION;
            x
        })
    }
}

/// The sample at a position, found between those of the pool around it; 0 outside.
#[inline(always)]
fn between<const CUBIC: bool>(pool: &[i16], (at, fraction): (i32, u32)) -> f32 {
    let at = at.cast_unsigned() as usize;
    let near: [i16; 4] = match pool.get(at.wrapping_sub(1)..at.wrapping_add(3)) {
        Some(&[a, b, c, d]) => [a, b, c, d],
        _ => [0; 4],
    };
    let [before, now, next, after] = near.map(f32::from);
    let weight = fraction.cast_signed() as f32 * FRACTION_SCALE;
    let line = (next - now) * weight + now;
    if !CUBIC {
        return line;
    }
    let bends = [(before - (now + now)) + next, (now - (next + next)) + after];
    line + (0.5 * (weight * weight - weight)) * ((bends[1] - bends[0]) * weight + bends[0])
}

#[cfg(test)]
mod tests {
    use super::super::{SILENT_END, SILENT_TURN};
    use super::*;
    use crate::bank::SILENCE;

    const EDGES: [i32; 11] = [
        i32::MIN,
        -1,
        0,
        1,
        SILENT_TURN,
        SILENT_END - 300,
        SILENT_END - 1,
        SILENT_END,
        SILENT_END + 1,
        i32::MAX - 1,
        i32::MAX,
    ];
    const STEPS: [(i32, u32); 9] =
        [(0, 0), (0, FRACTION), (1, 5), (2, 1), (31, FRACTION), (-1, 0), (32, 0), (255, 5), (0, FRACTION + 1)];

    /// Vector code reads there without a look at the pool.
    #[test]
    fn no_number_at_the_edge_of_its_width_passes_for_a_position_inside() {
        let pool = SILENCE + GUARD;
        let (mut straight, mut tried) = (0, 0);
        for (at, end) in EDGES.iter().flat_map(|at| EDGES.map(|end| (*at, end))) {
            for (turn, (step, step_fraction)) in EDGES.iter().flat_map(|turn| STEPS.map(|step| (*turn, step))) {
                let mut group = Group::SILENT;
                let lane = tried % LANES;
                (group.at[lane], group.end[lane], group.turn[lane]) = (at, end, turn);
                (group.step[lane], group.step_fraction[lane]) = (step, step_fraction);
                group.fraction[lane] = FRACTION;
                group.stale = u8::MAX;
                let mut starts = Starts::NONE;
                group.advance_positions(&mut starts, pool, PERIOD);
                tried += 1;
                for block in 0..BLOCKS {
                    let last = i64::from(starts.at[block][lane])
                        + 7 * i64::from(step)
                        + ((i64::from(starts.fraction[block][lane]) + 7 * i64::from(step_fraction)) >> FRACTION_BITS);
                    let inside = starts.at[block][lane] >= 1
                        && step >= 0
                        && step_fraction <= FRACTION
                        && starts.fraction[block][lane] <= FRACTION
                        && last < i64::from(end)
                        && usize::try_from(end).is_ok_and(|end| end + GUARD <= pool);
                    let reach = 7 * i64::from(starts.reach[lane]);
                    if starts.strays[block][lane] == 0 {
                        assert!(inside, "{at} {end} {turn} {step} {step_fraction}");
                        assert!(last - i64::from(starts.at[block][lane]) <= reach, "{step} {step_fraction}");
                        straight += 1;
                    } else {
                        assert_ne!(starts.straying[lane], 0);
                    }
                }
            }
        }
        assert!(straight > 100, "some are right: {straight} of {tried}");
    }
}
