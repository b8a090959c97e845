//! The sample-rate part of eight voices: fetch, interpolate, filter, pan and mix.
//!
//! Fed by `Voice` (steps, filters and gain ramps, set at control ticks) and by the bank's pool of samples; adds to a [`Mix`].

/// Voices in a group: one lane each.
pub(crate) const LANES: usize = 8;
/// Samples between control ticks; these fall on multiples of it, counted from the start of the stream.
pub(crate) const PERIOD: usize = 32;

type Lane = [f32; LANES];

/// What a lane plays: samples `base..base + end` of the pool, the last `loop_length` of them again and again (0: once).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Source {
    pub(crate) base: usize,
    pub(crate) end: usize,
    pub(crate) loop_length: usize,
}

/// The sums of all groups for up to a period, lane by lane, and the scratch space for fetched samples.
pub(crate) struct Mix {
    left: [Lane; PERIOD],
    right: [Lane; PERIOD],
    /// A sample in the low half and its successor in the high half.
    pairs: [[u32; LANES]; PERIOD],
}

impl Mix {
    pub(crate) fn new() -> Self {
        Self { left: [[0.0; LANES]; PERIOD], right: [[0.0; LANES]; PERIOD], pairs: [[0; LANES]; PERIOD] }
    }

    pub(crate) fn clear(&mut self) {
        self.left = [[0.0; LANES]; PERIOD];
        self.right = [[0.0; LANES]; PERIOD];
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
}

fn sum(v: &Lane) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// Eight lanes as a structure of arrays. A lane that is not active has zero gains and coefficients, so it adds nothing.
#[derive(Clone)]
pub(crate) struct Group {
    /// Bit per lane.
    pub(crate) active: u8,
    /// Bit per lane: its filter is not a plain wire.
    pub(crate) filtered: u8,
    pub(crate) source: [Source; LANES],
    /// Position in the wave, samples in 32.32 fixed point.
    pub(crate) phase: [u64; LANES],
    /// Advance per output sample, 32.32.
    pub(crate) step: [u64; LANES],
    /// Two-pole low-pass: y = k x - b1 y' - b2 y''.
    pub(crate) k: Lane,
    pub(crate) b1: Lane,
    pub(crate) b2: Lane,
    y1: Lane,
    y2: Lane,
    /// Gains now, and their change per sample until the next tick.
    left: Lane,
    right: Lane,
    left_step: Lane,
    right_step: Lane,
    /// Gains at the next tick.
    left_goal: Lane,
    right_goal: Lane,
}

impl Group {
    pub(crate) const SILENT: Self = Self {
        active: 0,
        filtered: 0,
        source: [Source { base: 0, end: 0, loop_length: 0 }; LANES],
        phase: [0; LANES],
        step: [0; LANES],
        k: [0.0; LANES],
        b1: [0.0; LANES],
        b2: [0.0; LANES],
        y1: [0.0; LANES],
        y2: [0.0; LANES],
        left: [0.0; LANES],
        right: [0.0; LANES],
        left_step: [0.0; LANES],
        right_step: [0.0; LANES],
        left_goal: [0.0; LANES],
        right_goal: [0.0; LANES],
    };

    /// Brings a lane to life at the start of `source`, with the given gains and no filter.
    pub(crate) fn start(&mut self, lane: usize, source: Source, gains: (f32, f32)) {
        self.stop(lane);
        self.active |= 1 << lane;
        self.source[lane] = source;
        self.phase[lane] = 0;
        self.k[lane] = 1.0;
        (self.left_goal[lane], self.right_goal[lane]) = gains;
    }

    /// Silences a lane at once.
    pub(crate) fn stop(&mut self, lane: usize) {
        self.active &= !(1 << lane);
        self.filtered &= !(1 << lane);
        self.step[lane] = 0;
        for field in [&mut self.k, &mut self.b1, &mut self.b2, &mut self.y1, &mut self.y2] {
            field[lane] = 0.0;
        }
        for field in [&mut self.left, &mut self.left_step, &mut self.left_goal] {
            field[lane] = 0.0;
        }
        for field in [&mut self.right, &mut self.right_step, &mut self.right_goal] {
            field[lane] = 0.0;
        }
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
        // A filter that rings out would end in denormal numbers, which cost a hundred times as much.
        if self.y1[lane].abs() < 1e-12 && self.y2[lane].abs() < 1e-12 {
            self.y1[lane] = 0.0;
            self.y2[lane] = 0.0;
        }
    }

    /// Makes the lane forget its loop: the rest of the wave, up to `end`, is played once.
    pub(crate) fn leave_loop(&mut self, lane: usize, end: usize) {
        let source = &mut self.source[lane];
        if source.loop_length > 0 {
            // The position may be past the loop's end, where the next fetch would have gone round.
            self.phase[lane] = wrapped(self.phase[lane], source);
            source.loop_length = 0;
            source.end = end;
        }
    }

    /// A wave without a loop has been played to its end.
    pub(crate) fn exhausted(&self, lane: usize) -> bool {
        let source = &self.source[lane];
        source.loop_length == 0 && (self.phase[lane] >> 32) as usize >= source.end
    }

    /// Adds the next `samples` (at most a period, never across a tick) of all lanes to the mix.
    pub(crate) fn render(&mut self, pool: &[i16], mix: &mut Mix, samples: usize) {
        let fraction = core::array::from_fn(|lane| self.phase[lane] as u32);
        for lane in 0..LANES {
            if self.active & (1 << lane) != 0 {
                self.fetch(lane, pool, &mut mix.pairs, samples);
            }
        }
        if self.filtered == 0 {
            self.blend::<false>(fraction, mix, samples);
        } else {
            self.blend::<true>(fraction, mix, samples);
        }
    }

    /// Fetches the sample pairs of one lane and moves its phase on.
    fn fetch(&mut self, lane: usize, pool: &[i16], pairs: &mut [[u32; LANES]; PERIOD], samples: usize) {
        let source = &self.source[lane];
        let step = self.step[lane];
        let mut phase = wrapped(self.phase[lane], source);
        let wave = pool.get(source.base..source.base + source.end).unwrap_or(&[]);
        let pairs = &mut pairs[..samples];
        let last = (phase + step * (samples as u64 - 1)) >> 32;
        if last as usize + 1 < wave.len() {
            for row in pairs {
                let i = (phase >> 32) as usize;
                // Always in range by the test above.
                if let Some(&[now, next]) = wave.get(i..i + 2) {
                    row[lane] = pack(now, next);
                }
                phase += step;
            }
        } else {
            let after = if source.loop_length > 0 {
                wave.get(source.end - source.loop_length).copied().unwrap_or(0)
            } else {
                0
            };
            for row in pairs {
                phase = wrapped(phase, source);
                let i = (phase >> 32) as usize;
                let now = wave.get(i).copied().unwrap_or(0);
                let next = if i + 1 < source.end { wave.get(i + 1).copied().unwrap_or(0) } else { after };
                row[lane] = pack(now, next);
                phase += step;
            }
        }
        self.phase[lane] = phase;
    }

    /// Interpolates, filters and mixes what was fetched. Written lane by lane so that it vectorises.
    fn blend<const FILTER: bool>(&mut self, mut fraction: [u32; LANES], mix: &mut Mix, samples: usize) {
        const FRACTION_SCALE: f32 = 1.0 / (1 << 24) as f32;
        let step: [u32; LANES] = core::array::from_fn(|lane| self.step[lane] as u32);
        let (mut left, mut right) = (self.left, self.right);
        let (left_step, right_step) = (self.left_step, self.right_step);
        let (k, b1, b2) = (self.k, self.b1, self.b2);
        let (mut y1, mut y2) = (self.y1, self.y2);
        let rows = mix.left.iter_mut().zip(&mut mix.right).zip(&mix.pairs).take(samples);
        for ((out_left, out_right), pairs) in rows {
            for lane in 0..LANES {
                let low = ((pairs[lane] << 16) as i32 >> 16) as f32;
                let high = (pairs[lane] as i32 >> 16) as f32;
                let weight = (fraction[lane] >> 8) as i32 as f32 * FRACTION_SCALE;
                fraction[lane] = fraction[lane].wrapping_add(step[lane]);
                let mut x = low + (high - low) * weight;
                if FILTER {
                    x = k[lane] * x - b1[lane] * y1[lane] - b2[lane] * y2[lane];
                    y2[lane] = y1[lane];
                    y1[lane] = x;
                }
                out_left[lane] += x * left[lane];
                out_right[lane] += x * right[lane];
                left[lane] += left_step[lane];
                right[lane] += right_step[lane];
            }
        }
        (self.left, self.right, self.y1, self.y2) = (left, right, y1, y2);
    }
}

/// A position at or past the end, brought back into the loop; without one it stays at the end.
fn wrapped(phase: u64, source: &Source) -> u64 {
    let index = phase >> 32;
    let (end, length) = (source.end as u64, source.loop_length as u64);
    if index < end {
        phase
    } else if length == 0 {
        end << 32
    } else if index - end < length {
        phase - (length << 32)
    } else {
        phase - ((((index - end) / length + 1) * length) << 32)
    }
}

fn pack(now: i16, next: i16) -> u32 {
    u32::from(now as u16) | u32::from(next as u16) << 16
}
