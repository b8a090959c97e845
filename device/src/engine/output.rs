//! The sink, and the block of audio on its way to it.
//!
//! Fed by the engine, which lets the streams add to a block; feeds the sink.

use super::BLOCK;
use crate::replay_log::ReplayLog;
use crate::sink::{Sink, SinkError, to_s16};
use crate::stats::Stats;

/// See the module.
pub(super) struct Output {
    sink: Box<dyn Sink>,
    ready: bool,
    paused: bool,
    left: Vec<f32>,
    right: Vec<f32>,
    pcm: Vec<i16>,
    /// What samples are multiplied with.
    gain: f32,
}

impl Output {
    pub(super) fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            ready: true,
            paused: true,
            left: vec![0.0; BLOCK],
            right: vec![0.0; BLOCK],
            pcm: vec![0; BLOCK * 2],
            gain: 1.0,
        }
    }

    pub(super) fn set_gain(&mut self, gain: f32) {
        self.gain = gain;
    }

    /// Whether the sink had room for a block when it was last asked.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Asks again a sink that had no room.
    #[inline]
    pub(super) fn look(&mut self, log: Option<&ReplayLog>) {
        if !self.ready {
            self.ask(log);
        }
    }

    fn ask(&mut self, log: Option<&ReplayLog>) {
        let mut ready = || self.sink.ready();
        self.ready = match log {
            None => ready(),
            Some(log) => log.ready(ready),
        };
    }

    /// What a sink said when this was recorded.
    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Has `mix` add so many frames to silence, and passes them on if it says that they are whole. With none, `mix`
    /// still presents what is due.
    pub(super) fn block(
        &mut self,
        frames: usize,
        stats: &Stats,
        log: Option<&ReplayLog>,
        mix: impl FnOnce(&mut [f32], &mut [f32]) -> bool,
    ) {
        let (left, right) = (&mut self.left[..frames], &mut self.right[..frames]);
        left.fill(0.0);
        right.fill(0.0);
        if !mix(left, right) || frames == 0 {
            return;
        }
        let pcm = &mut self.pcm[..frames * 2];
        for (frame, (l, r)) in pcm.as_chunks_mut::<2>().0.iter_mut().zip(left.iter().zip(right.iter())) {
            *frame = [to_s16(*l * self.gain), to_s16(*r * self.gain)];
        }
        self.paused = false;
        self.sink.write(pcm);
        self.ask(log);
        self.count_losses(stats, log);
        stats.samples.add(frames as u64);
    }

    /// No stream plays.
    pub(super) fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.sink.pause();
        }
    }

    fn count_losses(&self, stats: &Stats, log: Option<&ReplayLog>) {
        let real = || {
            let losses = self.sink.losses();
            (losses.dropped, losses.underruns)
        };
        let losses = match log {
            None => Some(real()),
            Some(log) => log.losses(real),
        };
        if let Some((dropped, underruns)) = losses {
            stats.dropped_samples.set(dropped);
            stats.underruns.set(underruns);
        }
    }

    /// Completes the output.
    pub(super) fn finish(&mut self, stats: &Stats, log: Option<&ReplayLog>) -> Result<(), SinkError> {
        let finished = self.sink.finish();
        self.count_losses(stats, log);
        finished
    }
}
