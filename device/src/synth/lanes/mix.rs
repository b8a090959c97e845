//! The sums of all voices for up to a period.
//!
//! Fed by `render` and `avx2`; read by the synthesizer, which adds it to its planes and sends it to the effects.

use super::{BLOCKS, Code, LANES, Lane};
use crate::synth::PERIOD;

/// What goes to one place: the samples of a group's voices side by side, and what they come to.
#[derive(Clone)]
#[repr(align(32))]
pub(super) struct Bus {
    pub(super) lanes: [[Lane; LANES]; BLOCKS],
    pub(super) sums: [Lane; BLOCKS],
}

impl Bus {
    const SILENT: Self = Self { lanes: [[[0.0; LANES]; LANES]; BLOCKS], sums: [[0.0; LANES]; BLOCKS] };

    /// Adds up what lies side by side, always by the same tree.
    fn join(&mut self, blocks: usize) {
        for (sums, lanes) in self.sums.iter_mut().zip(&self.lanes).take(blocks) {
            for (sum, v) in sums.iter_mut().zip(lanes) {
                *sum = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
            }
        }
    }
}

/// See the module.
pub(crate) struct Mix {
    pub(super) left: Bus,
    pub(super) right: Bus,
    pub(super) reverb: Bus,
    pub(super) chorus: Bus,
    samples: usize,
    sends: bool,
}

impl Mix {
    pub(crate) fn new() -> Self {
        let [left, right, reverb, chorus] = [Bus::SILENT; 4];
        Self { left, right, reverb, chorus, samples: 0, sends: false }
    }

    fn buses(&mut self) -> impl Iterator<Item = &mut Bus> {
        let sends = if self.sends { 2 } else { 0 };
        let all = [&mut self.left, &mut self.right, &mut self.reverb, &mut self.chorus];
        all.into_iter().take(2 + sends)
    }

    fn blocks(&self) -> usize {
        self.samples.div_ceil(LANES)
    }

    /// Makes room for so many samples, a period at most, with sends or without.
    pub(crate) fn clear(&mut self, samples: usize, sends: bool) {
        (self.samples, self.sends) = (samples.min(PERIOD), sends);
        let blocks = self.blocks();
        self.buses().for_each(|bus| bus.lanes[..blocks].fill([[0.0; LANES]; LANES]));
    }

    /// Sums up, once all voices are in.
    pub(crate) fn join(&mut self, code: Code) {
        let blocks = self.blocks();
        self.buses().for_each(|bus| match code {
            Code::Portable => bus.join(blocks),
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.join(bus, blocks),
        });
    }

    /// What has come together, left and right.
    pub(crate) fn sides(&mut self) -> (&mut [f32], &mut [f32]) {
        let [left, right] = [&mut self.left, &mut self.right].map(|bus| bus.sums.as_flattened_mut());
        (&mut left[..self.samples], &mut right[..self.samples])
    }

    /// What is sent to reverb and chorus at a sample.
    pub(crate) fn sends(&self, sample: usize) -> (f32, f32) {
        let at = |bus: &Bus| bus.sums.as_flattened()[sample % PERIOD];
        if self.sends { (at(&self.reverb), at(&self.chorus)) } else { (0.0, 0.0) }
    }
}
