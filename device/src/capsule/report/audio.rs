//! The audio's waveform: the lowest and the highest sample of each column, for both channels.
//!
//! Fed by the blocks that the card rendered; feeds the charts.

use super::series::{Cell, Series};
use crate::SAMPLE_RATE;
use dmus_interface::time::{RefTime, SampleTime};

/// How far the clock may be ahead of the audio before it is taken for a gap, 100 ns.
const GAP: i64 = 1_000_000;

/// Lowest and highest sample of each channel; `None` where nothing was rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wave {
    pub(super) ranges: Option<[(i16, i16); 2]>,
}

impl Cell for Wave {
    fn fold(&mut self, later: &Self) {
        self.ranges = match (self.ranges, later.ranges) {
            (Some([left, right]), Some([later_left, later_right])) => {
                let both = |one: (i16, i16), other: (i16, i16)| (one.0.min(other.0), one.1.max(other.1));
                Some([both(left, later_left), both(right, later_right)])
            }
            (ranges, None) | (None, ranges) => ranges,
        };
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Audio {
    pub(super) waves: Series<Wave>,
    /// The run time of the first sample of what goes on without a gap, and the frames since.
    from: i64,
    frames: u64,
    /// All there were.
    pub(super) total: u64,
    pub(super) blocks: u64,
    /// The furthest from silence, of both channels.
    pub(super) peak: u16,
    /// Samples at the end of their range.
    pub(super) clipped: u64,
    pub(super) most_voices: usize,
}

impl Audio {
    /// A block was rendered; `time` is the run's.
    pub(super) fn add(&mut self, time: i64, samples: &[i16], voices: usize) {
        self.blocks += 1;
        self.most_voices = self.most_voices.max(voices);
        // Blocks follow each other without a gap, though the clock that is published moves in other steps.
        if self.blocks == 1 || self.end() < time.saturating_sub(GAP) {
            (self.from, self.frames) = (time, 0);
        }
        let mut rest = samples;
        while rest.len() >= 2 {
            let time = self.end();
            // The frames up to the end of the column; widths change only when a column is entered.
            let column = self.waves.at(time);
            let now = *column;
            let end = (time / self.waves.width() + 1).saturating_mul(self.waves.width());
            let frames = RefTime(end - time).to_sample(SAMPLE_RATE).0.clamp(1, rest.len() as u64 / 2);
            let (these, others) = rest.split_at(frames as usize * 2);
            let mut wave = now;
            wave.fold(&Wave { ranges: Some([range(these, 0), range(these, 1)]) });
            *self.waves.at(time) = wave;
            self.note(these);
            self.frames += frames;
            self.total += frames;
            rest = others;
        }
    }

    fn note(&mut self, samples: &[i16]) {
        for sample in samples {
            self.peak = self.peak.max(sample.unsigned_abs());
            self.clipped += u64::from(matches!(*sample, i16::MIN | i16::MAX));
        }
    }

    /// The run time behind the last sample.
    pub(super) fn end(&self) -> i64 {
        self.from.saturating_add(SampleTime(self.frames).to_time(SAMPLE_RATE).0)
    }

    /// The level of the loudest sample.
    pub(super) fn peak_level(&self) -> String {
        match self.peak {
            0 => "silence".into(),
            peak => format!("{:.1} dBFS", 20.0 * (f64::from(peak) / 32_768.0).log10()),
        }
    }
}

fn range(samples: &[i16], channel: usize) -> (i16, i16) {
    let of_channel = samples.iter().skip(channel).step_by(2);
    of_channel.fold((i16::MAX, i16::MIN), |(low, high), sample| (low.min(*sample), high.max(*sample)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_in_the_column_of_its_time() {
        let mut audio = Audio::default();
        let block: Vec<i16> = (0..96).flat_map(|frame| [frame, -frame]).collect();
        audio.add(0, &block, 3);
        audio.add(0, &[i16::MAX, 0], 1);
        let ranges: Vec<_> = audio.waves.cells().iter().map(|wave| wave.ranges).collect();
        let of = |left, right| Some([left, right]);
        assert_eq!(ranges, [of((0, 47), (-47, 0)), of((48, 95), (-95, -48)), of((32767, 32767), (0, 0))]);
        assert_eq!((audio.total, audio.clipped, audio.peak, audio.most_voices), (97, 1, 32767, 3));
    }

    #[test]
    fn a_gap_is_left_where_the_clock_went_on_without_audio() {
        let mut audio = Audio::default();
        audio.add(0, &[5, 5], 0);
        audio.add(10 * GAP, &[7, 7], 0);
        let with: Vec<_> = audio.waves.cells().iter().enumerate().filter(|(_, wave)| wave.ranges.is_some()).collect();
        assert_eq!(with.iter().map(|(column, _)| *column).collect::<Vec<_>>(), [0, 1000]);
    }

    #[test]
    fn half_a_frame_and_far_times_are_harmless() {
        let mut audio = Audio::default();
        for (time, samples) in [(i64::MAX, &[1, 2, 3][..]), (0, &[1]), (i64::MAX, &[]), (-5, &[i16::MIN, 4])] {
            audio.add(time, samples, usize::MAX);
        }
        assert_eq!((audio.total, audio.peak_level()), (2, "0.0 dBFS".into()));
    }
}
