//! The sample-rate part of eight voices: fetch, interpolate, filter, pan and mix.
//!
//! Fed by a [`Group`] and by the bank's pool of samples; adds to a [`Mix`]. One voice is fetched after the other, eight
//! samples at once; where voices are filtered, all eight then go on side by side. The code here runs anywhere; `avx2`
//! does the same sums in the same order, and so gives the same bits.

use super::{
    BLOCKS, Code, FRACTION, FRACTION_BITS, FRACTION_SCALE, Group, Interpolation, LANES, Lane, Mix, SEND_SCALE, bits,
};
use crate::bank::GUARD;
use crate::synth::PERIOD;

/// The fastest steps with which no block can turn twice.
const TAME: i32 = 31;

/// Where the voices of a group stand at the beginning of each block.
pub(super) struct Starts {
    pub(super) at: [[i32; LANES]; BLOCKS],
    pub(super) fraction: [[u32; LANES]; BLOCKS],
    /// 0, if each sample of the block is before the end of a sound that is in the pool with its guard, and none at its
    /// very first.
    pub(super) strays: [[u32; LANES]; BLOCKS],
    /// 0, if that is so in all blocks.
    pub(super) straying: [u32; LANES],
    /// How far the samples of a block are from its first: none further than 7, than 15, or further.
    pub(super) reach: [u32; LANES],
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
    /// Moves all voices on by so many samples.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "eight at most")]
    pub(super) fn advance_positions(&mut self, starts: &mut Starts, pool: usize, samples: usize) {
        // The first end that is none.
        let limit = i32::try_from((pool + 1).saturating_sub(GUARD)).unwrap_or(0);
        let mut wild = 0;
        for lane in 0..LANES {
            let next = self.step[lane] + i32::from(self.step_fraction[lane] != 0);
            starts.reach[lane] = u32::from(next > 1) + u32::from(next > 2);
            let broken = self.fraction[lane] | self.step_fraction[lane];
            wild |= u32::from(!(0..=TAME).contains(&self.step[lane])) | u32::from(broken > FRACTION);
        }
        let (at, fraction) = (self.at, self.fraction);
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
            (self.at, self.fraction) = self.leap(starts, (at, fraction), samples);
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
    pub(super) fn fetch<const CUBIC: bool>(
        &self,
        pool: &[i16],
        mut position: (i32, u32),
        (lane, count): (usize, usize),
    ) -> Lane {
        let mut fetched = [0.0; LANES];
        for x in fetched.iter_mut().take(count) {
            let at = position.0.cast_unsigned() as usize;
            let near: [i16; 4] = match pool.get(at.wrapping_sub(1)..at.wrapping_add(3)) {
                Some(&[a, b, c, d]) => [a, b, c, d],
                _ => [0; 4],
            };
            let [before, now, next, after] = near.map(f32::from);
            let weight = position.1.cast_signed() as f32 * FRACTION_SCALE;
            let line = (next - now) * weight + now;
            *x = if CUBIC {
                let bends = [(before - (now + now)) + next, (now - (next + next)) + after];
                line + (0.5 * (weight * weight - weight)) * ((bends[1] - bends[0]) * weight + bends[0])
            } else {
                line
            };
            position = self.next(position, lane);
        }
        fetched
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
        let cubic = interpolation == Interpolation::Cubic;
        let sends = sends && self.sending != 0;
        match code {
            Code::Portable => match (cubic, sends) {
                (false, false) => self.blend::<false, false>(pool, mix, samples),
                (false, true) => self.blend::<false, true>(pool, mix, samples),
                (true, false) => self.blend::<true, false>(pool, mix, samples),
                (true, true) => self.blend::<true, true>(pool, mix, samples),
            },
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.render(self, pool, mix, samples, (cubic, sends)),
        }
        for since in &mut self.since {
            *since += samples as f32;
        }
    }

    fn blend<const CUBIC: bool, const SEND: bool>(&mut self, pool: &[i16], mix: &mut Mix, samples: usize) {
        let mut starts = Starts::NONE;
        self.advance_positions(&mut starts, pool.len(), samples);
        for lane in bits(self.active) {
            for block in 0..samples.div_ceil(LANES).min(BLOCKS) {
                let start = (starts.at[block][lane], starts.fraction[block][lane]);
                let x = self.fetch::<CUBIC>(pool, start, (lane, (samples - block * LANES).min(LANES)));
                if self.filtered & 1 << lane != 0 {
                    mix.fetched[block][lane] = x;
                    continue;
                }
                for (k, x) in x.into_iter().enumerate() {
                    let since = self.since[lane] + (block * LANES + k) as f32;
                    let left = x * (self.left_step[lane] * since + self.left[lane]);
                    let right = x * (self.right_step[lane] * since + self.right[lane]);
                    mix.left.times[block][k] += left;
                    mix.right.times[block][k] += right;
                    if SEND {
                        let both = (left + right) * SEND_SCALE;
                        mix.reverb.times[block][k] += both * self.reverb[lane];
                        mix.chorus.times[block][k] += both * self.chorus[lane];
                    }
                }
            }
        }
        if self.filtered != 0 {
            self.filter::<SEND>(mix, samples);
        }
    }

    /// Filters what was fetched, all lanes side by side.
    fn filter<const SEND: bool>(&mut self, mix: &mut Mix, samples: usize) {
        mix.begin_filter(self.filtered);
        for row in 0..samples {
            let (block, k) = (row / LANES, row % LANES);
            for lane in 0..LANES {
                let x = mix.fetched[block][lane][k];
                let (w1, w2) = (self.w1[lane], self.w2[lane]);
                let w = (x - self.a2[lane] * w2) - self.a1[lane] * w1;
                let x = self.b[lane] * ((w + w1) + (w1 + w2));
                (self.w1[lane], self.w2[lane]) = (w, w1);
                let since = self.since[lane] + row as f32;
                let left = x * (self.left_step[lane] * since + self.left[lane]);
                let right = x * (self.right_step[lane] * since + self.right[lane]);
                mix.left.lanes[block][k][lane] += left;
                mix.right.lanes[block][k][lane] += right;
                if SEND {
                    let both = (left + right) * SEND_SCALE;
                    mix.reverb.lanes[block][k][lane] += both * self.reverb[lane];
                    mix.chorus.lanes[block][k][lane] += both * self.chorus[lane];
                }
            }
        }
    }
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
                    let reach = [7, 15, i64::MAX][starts.reach[lane] as usize];
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
