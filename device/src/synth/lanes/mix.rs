//! The sums of all voices for up to a period.
//!
//! Fed by `render` and `avx2`; read by the synthesizer, which adds it to its planes and sends it to the effects.

use super::{BLOCKS, Code, LANES, Lane, bits};
use crate::synth::PERIOD;

/// What goes to one place. Voices without a filter are mixed along time, eight samples at once, and those with one side
/// by side.
#[derive(Clone)]
#[repr(align(32))]
pub(super) struct Bus {
    pub(super) times: [Lane; BLOCKS],
    pub(super) lanes: [[Lane; LANES]; BLOCKS],
}

impl Bus {
    const SILENT: Self = Self { times: [[0.0; LANES]; BLOCKS], lanes: [[[0.0; LANES]; LANES]; BLOCKS] };

    /// Adds what lies side by side to the rest, always by the same tree.
    fn join(&mut self, blocks: usize) {
        for (times, lanes) in self.times.iter_mut().zip(&self.lanes).take(blocks) {
            for (sum, v) in times.iter_mut().zip(lanes) {
                *sum += ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
            }
        }
    }

    /// Its sums.
    pub(super) fn samples(&self) -> &[f32] {
        self.times.as_flattened()
    }
}

/// See the module.
pub(crate) struct Mix {
    pub(super) left: Bus,
    pub(super) right: Bus,
    pub(super) reverb: Bus,
    pub(super) chorus: Bus,
    /// What was fetched for a group whose voices are filtered.
    pub(super) fetched: [[Lane; LANES]; BLOCKS],
    /// Blocks that are in use.
    blocks: usize,
    /// Something lies side by side.
    filtered: bool,
    sends: bool,
}

impl Mix {
    pub(crate) fn new() -> Self {
        let [left, right, reverb, chorus] = [Bus::SILENT; 4];
        let fetched = [[[0.0; LANES]; LANES]; BLOCKS];
        Self { left, right, reverb, chorus, fetched, blocks: 0, filtered: false, sends: false }
    }

    fn buses(&mut self) -> impl Iterator<Item = &mut Bus> {
        let sends = if self.sends { 2 } else { 0 };
        let all = [&mut self.left, &mut self.right, &mut self.reverb, &mut self.chorus];
        all.into_iter().take(2 + sends)
    }

    /// Makes room for so many samples, with sends or without.
    pub(crate) fn clear(&mut self, samples: usize, sends: bool) {
        let blocks = samples.div_ceil(LANES).min(BLOCKS);
        (self.blocks, self.filtered, self.sends) = (blocks, false, sends);
        self.buses().for_each(|bus| bus.times[..blocks].fill([0.0; LANES]));
    }

    /// Some lanes of a group are going to be filtered: nothing was fetched for the others.
    pub(super) fn begin_filter(&mut self, filtered: u8) {
        let blocks = self.blocks;
        for lane in bits(!filtered) {
            self.fetched[..blocks].iter_mut().for_each(|block| block[lane] = [0.0; LANES]);
        }
        if !std::mem::replace(&mut self.filtered, true) {
            self.buses().for_each(|bus| bus.lanes[..blocks].fill([[0.0; LANES]; LANES]));
        }
    }

    /// Sums up, once all voices are in.
    pub(crate) fn join(&mut self, code: Code) {
        if !self.filtered {
            return;
        }
        let blocks = self.blocks;
        self.buses().for_each(|bus| match code {
            Code::Portable => bus.join(blocks),
            #[cfg(target_arch = "x86_64")]
            Code::Avx2(available) => available.join(bus, blocks),
        });
    }

    /// What has come together, left and right: a period.
    pub(crate) fn sides(&self) -> (&[f32], &[f32]) {
        (self.left.samples(), self.right.samples())
    }

    /// What is sent to reverb and chorus at a sample.
    pub(crate) fn sends(&self, sample: usize) -> (f32, f32) {
        let at = |bus: &Bus| bus.samples()[sample % PERIOD];
        (at(&self.reverb), at(&self.chorus))
    }
}
