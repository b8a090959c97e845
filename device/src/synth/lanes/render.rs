//! Eight voices from what was fetched of them to the mix: filter, gains and sends.
//!
//! Fed by `fetch`; adds to a [`Mix`]. All eight voices go side by side, sample after sample, so that a cut anywhere
//! costs little. The code here runs anywhere; `avx2` does the same sums in the same order, and so gives the same bits.

use super::{Code, Group, Interpolation, LANES, Lane, Mix, SEND_SCALE};
use crate::synth::PERIOD;

impl Group {
    /// Adds the next `samples` (never across a tick, which is so far away) of all lanes to the mix, with their sends or
    /// without.
    pub(crate) fn render(
        &mut self,
        pool: &[i16],
        mix: &mut Mix,
        (samples, until_tick): (usize, usize),
        (interpolation, sends): (Interpolation, bool),
        code: Code,
    ) {
        self.fetch(pool, until_tick, interpolation, code);
        let first = PERIOD.saturating_sub(until_tick);
        let samples = samples.min(PERIOD - first);
        let sends = sends && self.sending != 0;
        match code {
            Code::Portable => match (self.filtered != 0, sends) {
                (false, false) => self.blend::<false, false>(mix, first, samples),
                (false, true) => self.blend::<false, true>(mix, first, samples),
                (true, false) => self.blend::<true, false>(mix, first, samples),
                (true, true) => self.blend::<true, true>(mix, first, samples),
            },
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.blend(self, mix, (first, samples), sends),
        }
    }

    fn blend<const FILTER: bool, const SEND: bool>(&mut self, mix: &mut Mix, first: usize, samples: usize) {
        let mask: [u32; LANES] = core::array::from_fn(|lane| 0u32.wrapping_sub(u32::from(self.filtered) >> lane & 1));
        let (mut w1, mut w2) = (self.w1, self.w2);
        let (mut left, mut right) = (self.left, self.right);
        for row in 0..samples {
            let (block, k) = (row / LANES, row % LANES);
            let mut x: Lane = core::array::from_fn(|lane| self.fetched[lane][first + row]);
            if FILTER {
                for lane in 0..LANES {
                    let w = (x[lane] - self.a2[lane] * w2[lane]) - self.a1[lane] * w1[lane];
                    let filtered = self.b[lane] * ((w + w1[lane]) + (w1[lane] + w2[lane]));
                    x[lane] = f32::from_bits(filtered.to_bits() & mask[lane] | x[lane].to_bits() & !mask[lane]);
                    (w1[lane], w2[lane]) = (w, w1[lane]);
                }
            }
            let (out_left, out_right) = (&mut mix.left.lanes[block][k], &mut mix.right.lanes[block][k]);
            let (out_reverb, out_chorus) = (&mut mix.reverb.lanes[block][k], &mut mix.chorus.lanes[block][k]);
            for lane in 0..LANES {
                let (to_left, to_right) = (x[lane] * left[lane], x[lane] * right[lane]);
                left[lane] += self.left_step[lane];
                right[lane] += self.right_step[lane];
                out_left[lane] += to_left;
                out_right[lane] += to_right;
                if SEND {
                    let both = (to_left + to_right) * SEND_SCALE;
                    out_reverb[lane] += both * self.reverb[lane];
                    out_chorus[lane] += both * self.chorus[lane];
                }
            }
        }
        (self.left, self.right) = (left, right);
        if FILTER {
            for lane in 0..LANES {
                self.w1[lane] = f32::from_bits(w1[lane].to_bits() & mask[lane]);
                self.w2[lane] = f32::from_bits(w2[lane].to_bits() & mask[lane]);
            }
        }
    }
}
