//! The audio of a wave sink: what the card renders, in periods of the guest's format.
//!
//! Fed by the engine with each block that it renders while the stream is in RUN; feeds the stream with a period for
//! each posted slot. The crystal of the sink may be off by some parts per million: then so many frames more or fewer
//! come in a second of the master clock, as of a real one.

use super::pending::Captured;
use crate::identity::SAMPLE_RATE;
use crate::resampler::Resampler;
use crate::sink::{UNITY, to_s16};
use dmus_interface::event::COMPLETE;
use dmus_interface::time::{RefTime, UNITS_PER_SECOND};
use dmus_interface::wave::{Sample, WaveFormat};
use std::collections::VecDeque;

/// What may wait for slots in realtime, in bytes: a second and more. A period counts [`OVERHEAD`] besides its own.
const MAX_BYTES: usize = 1 << 20;
const OVERHEAD: usize = size_of::<Captured>();
/// Parts of a crystal's error.
const MILLION: u64 = 1_000_000;
/// Largest error of a crystal, either way, in parts per million.
pub(crate) const MOST_DRIFT: i32 = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Wave {
    format: WaveFormat,
    /// Frames of a period.
    period: u64,
    /// Frames in `MILLION` seconds.
    frames_in_million: u64,
    /// One a channel.
    channels: Vec<Resampler>,
    /// Input frames received, and output frames made, since STOP.
    received: u64,
    made: u64,
    /// The frame at which the period under way began, and its bytes so far.
    began: u64,
    bytes: Vec<u8>,
    /// At the last RUN: input frames received before, and the stream time of the next.
    origin: (u64, RefTime),
    periods: VecDeque<Captured>,
    /// What they take.
    waiting: usize,
}

impl Wave {
    /// Periods of `buffer_size` bytes, a multiple of 8.
    pub(super) fn new(format: WaveFormat, buffer_size: usize, drift: i32) -> Self {
        let drift = drift.clamp(-MOST_DRIFT, MOST_DRIFT);
        let frames_in_million = u64::from(format.rate) * MILLION.saturating_add_signed(drift.into());
        let resampler = || Resampler::new(u64::from(SAMPLE_RATE) * MILLION, frames_in_million);
        Self {
            format,
            period: (buffer_size / format.frame_bytes()).max(1) as u64,
            frames_in_million,
            channels: (0..format.channels).map(|_| resampler()).collect(),
            received: 0,
            made: 0,
            began: 0,
            bytes: Vec::with_capacity(buffer_size),
            origin: (0, RefTime::ZERO),
            periods: VecDeque::new(),
            waiting: 0,
        }
    }

    /// RUN begins: the next input frame is at this stream time.
    pub(super) fn run(&mut self, time: RefTime) {
        self.origin = (self.received, time);
    }

    /// Takes a block of audio.
    pub(super) fn push(&mut self, left: &[f32], right: &[f32]) {
        let frames = left.iter().zip(right);
        match &mut self.channels[..] {
            [both] => both.push(frames.map(|(left, right)| (left + right) * 0.5)),
            [first, second] => {
                first.push(left.iter().copied());
                second.push(right.iter().copied());
            }
            _ => {}
        }
        self.received += left.len() as u64;
        while self.channels.first().is_some_and(|channel| channel.needs(self.made) <= self.received) {
            self.make_frame();
            if self.made - self.began == self.period {
                self.end_period();
            }
        }
        self.channels.iter_mut().for_each(|channel| channel.forget_before(self.made));
    }

    fn make_frame(&mut self) {
        for channel in &mut self.channels {
            let sample = channel.frame(self.made).unwrap_or_default();
            match self.format.sample {
                Sample::S16 => self.bytes.extend(to_s16(sample).to_le_bytes()),
                Sample::F32 => self.bytes.extend((sample * (UNITY / 32_768.0)).to_le_bytes()),
            }
        }
        self.made += 1;
    }

    /// Input frames until the period under way is complete, 1 at least.
    pub(super) fn until_full(&self) -> u64 {
        let last = self.began + self.period - 1;
        let needed = self.channels.first().map_or(0, |channel| channel.needs(last));
        needed.saturating_sub(self.received).max(1)
    }

    /// What there is of the period under way is a period.
    pub(super) fn end_period(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let capacity = self.bytes.capacity();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity)).into_boxed_slice();
        let position = self.began * self.format.frame_bytes() as u64;
        let time = self.time_of(self.began);
        self.waiting += bytes.len() + OVERHEAD;
        self.periods.push_back(Captured { time, input: 0, flags: COMPLETE, position, bytes });
        self.began = self.made;
    }

    /// Stream time of an output frame, rounded down. It is at input frame `frame x SAMPLE_RATE x MILLION /
    /// frames_in_million`.
    fn time_of(&self, frame: u64) -> RefTime {
        let (received, time) = self.origin;
        let units = i128::from(UNITS_PER_SECOND);
        let (rate, million) = (i128::from(SAMPLE_RATE), i128::from(MILLION));
        let all = i128::from(self.frames_in_million);
        let since = (i128::from(frame) * rate * million - i128::from(received) * all) * units;
        RefTime(time.0.saturating_add(since.div_euclid(all * rate) as i64))
    }

    pub(super) fn periods(&self) -> &VecDeque<Captured> {
        &self.periods
    }

    pub(super) fn pop(&mut self) {
        if let Some(period) = self.periods.pop_front() {
            self.waiting -= period.bytes.len() + OVERHEAD;
        }
    }

    /// STOP: as new.
    pub(super) fn clear(&mut self) {
        self.channels.iter_mut().for_each(Resampler::clear);
        (self.received, self.made, self.began) = (0, 0, 0);
        self.bytes.clear();
        self.periods.clear();
        self.waiting = 0;
        self.origin = (0, RefTime::ZERO);
    }

    /// Drops the oldest periods beyond what may wait; says how many.
    pub(super) fn drop_excess(&mut self) -> u64 {
        let mut dropped = 0;
        while self.waiting > MAX_BYTES {
            self.pop();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rate: u32, drift: i32) -> Wave {
        Wave::new(WaveFormat { rate, channels: 1, sample: Sample::S16 }, 2000, drift)
    }

    /// Renders silence to the end of each of so many periods.
    fn periods(wave: &mut Wave, count: usize) {
        for _ in 0..count {
            let before = wave.periods.len();
            let silence = vec![0.0; wave.until_full() as usize];
            wave.push(&silence[1..], &silence[1..]);
            assert_eq!(wave.periods.len(), before, "too early");
            wave.push(&silence[..1], &silence[..1]);
            assert_eq!(wave.periods.len(), before + 1, "too late");
        }
    }

    #[test]
    fn a_period_is_complete_at_the_frame_that_was_foretold_and_has_the_time_of_its_first() {
        for (rate, drift) in [(22_050, 0), (44_100, 500), (48_000, 0), (48_000, -500), (96_000, 0)] {
            let mut wave = wave(rate, drift);
            wave.run(RefTime(7));
            periods(&mut wave, 20);
            for (number, period) in wave.periods.iter().enumerate() {
                let frames = number as f64 * 1000.0 / (f64::from(rate) * (1.0 + f64::from(drift) / 1e6));
                assert_eq!((period.position, period.bytes.len()), (number as u64 * 2000, 2000));
                assert!((period.time.0 as f64 - 7.0 - frames * 1e7).abs() <= 1.0, "{rate} {drift}: {:?}", period.time);
            }
        }
    }

    #[test]
    fn a_short_period_is_followed_by_the_next_frame() {
        let mut wave = wave(48_000, 0);
        wave.run(RefTime(0));
        wave.push(&[0.5; 10], &[0.5; 10]);
        wave.end_period();
        wave.end_period();
        wave.run(RefTime(5_000_000));
        wave.push(&[0.25; 1001], &[0.25; 1001]);
        let found: Vec<_> = wave.periods.iter().map(|p| (p.time.0, p.position, p.bytes.len())).collect();
        assert_eq!(found, [(0, 0, 20), (5_000_000, 20, 2000)]);
        assert_eq!(wave.until_full(), 999);
    }
}
