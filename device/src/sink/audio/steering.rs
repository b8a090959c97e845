//! Keeps a sound device's buffer as full as it should be, by playing a little faster or slower than the card renders.
//!
//! Fed by the audio sink with what the card renders, by the host's clock, and with how full the buffer was found; feeds
//! the device with as many samples as its own crystal asks for. The two crystals differ by parts per million, which
//! nobody hears and which fill or empty a buffer within the hour.

use crate::resampler::Resampler;
use crate::sink::CHANNELS;

/// Most that playing may be off the card's rate: 1.7 hundredths of a semitone. Crystals are off by a tenth of it.
const LIMIT: f64 = 1e-3;
/// How fast the loop acts, per second. A device that is 200 parts per million off moves the level by 8 ms at most then,
/// and is matched after some minutes; what a server's wake-ups do to the level is not heard.
const STIFFNESS: f64 = 0.01;
/// Seconds over which measured levels are averaged.
const SMOOTHING: f64 = 4.0;

/// See the module.
pub(super) struct Steering {
    channels: [Resampler; CHANNELS],
    place: Place,
    control: Control,
}

impl Steering {
    pub(super) fn new() -> Self {
        // The filter of the lowest rate that can be asked for.
        let channel = || Resampler::new(1001, 1000);
        Self { channels: [channel(), channel()], place: Place::default(), control: Control::default() }
    }

    /// The buffer has so many seconds of audio more than it should, so many seconds after it was last measured.
    pub(super) fn measured(&mut self, surplus: f64, elapsed: f64) {
        self.control.measured(surplus, elapsed);
    }

    /// The buffer ran dry and is filled anew.
    pub(super) fn restart(&mut self) {
        self.control.smoothed = 0.0;
    }

    /// Adds the samples that are to be played for these.
    pub(super) fn play(&mut self, frames: &[i16], out: &mut Vec<u8>) {
        for (channel, resampler) in self.channels.iter_mut().enumerate() {
            resampler.push(frames.iter().skip(channel).step_by(CHANNELS).map(|sample| f32::from(*sample)));
        }
        let [left, right] = &mut self.channels;
        while let Some((l, r)) = self.place.of(left).zip(self.place.of(right)) {
            // The cast saturates.
            out.extend([l, r].into_iter().flat_map(|sample| (sample.round() as i16).to_le_bytes()));
            self.place.move_on(self.control.correction);
        }
        left.forget_input_before(self.place.at);
        right.forget_input_before(self.place.at);
    }
}

/// Where in the card's samples the device is.
#[derive(Default)]
struct Place {
    at: u64,
    fraction: f64,
}

impl Place {
    fn of(&self, channel: &Resampler) -> Option<f32> {
        channel.input_at(self.at, self.fraction)
    }

    /// By a frame of the device.
    fn move_on(&mut self, correction: f64) {
        self.fraction += 1.0 + correction;
        let whole = self.fraction as u64;
        self.at += whole;
        self.fraction -= whole as f64;
    }
}

/// A loop with a proportional and an integral part, critically damped: the buffer is itself an integrator.
#[derive(Default)]
struct Control {
    smoothed: f64,
    /// What the device is found to be off by.
    integral: f64,
    /// What is played faster: a fraction of the rate.
    correction: f64,
}

impl Control {
    fn measured(&mut self, surplus: f64, elapsed: f64) {
        self.smoothed += (surplus - self.smoothed) * (elapsed / SMOOTHING).min(1.0);
        let wanted = self.integral + 2.0 * STIFFNESS * self.smoothed;
        self.correction = wanted.clamp(-LIMIT, LIMIT);
        // At the limit the level says nothing about the crystal.
        if wanted.abs() <= LIMIT {
            self.integral = (self.integral + STIFFNESS * STIFFNESS * self.smoothed * elapsed).clamp(-LIMIT, LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 48_000.0;
    /// Seconds between two measurements.
    const EACH: f64 = 0.1;
    const HOUR: usize = 36_000;

    /// Each measurement's level (seconds of audio) and correction, of a buffer that should hold 80 ms and whose device
    /// is off by this fraction. A server's wake-ups show it up to 10 ms too high or too low.
    fn hour(off: f64) -> Vec<(f64, f64)> {
        let (mut control, mut level, mut noise) = (Control::default(), 0.08, 1u32);
        let mut seen = Vec::with_capacity(HOUR);
        for _ in 0..HOUR {
            // What the card rendered, as it is played, and what the device took.
            level += EACH / (1.0 + control.correction) - EACH * (1.0 + off);
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wrong = (f64::from(noise) / f64::from(u32::MAX) - 0.5) * 0.02;
            control.measured(level - 0.08 + wrong, EACH);
            seen.push((level, control.correction));
        }
        seen
    }

    #[test]
    fn a_device_that_is_off_neither_runs_dry_nor_overflows_in_an_hour() {
        for off in [-500e-6, -200e-6, -50e-6, 0.0, 50e-6, 200e-6, 500e-6] {
            for (level, _) in hour(off) {
                // A device's buffer takes twice what it should hold.
                assert!((0.03..0.13).contains(&level), "{off}: {level} s");
            }
        }
    }

    #[test]
    fn the_pitch_is_steady_and_becomes_the_devices() {
        for off in [-200e-6, -50e-6, 50e-6, 200e-6] {
            let seen = hour(off);
            let steps = seen.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs());
            // From one tenth of a second to the next, two hundredths of a cent at most.
            assert!(steps.fold(0.0, f64::max) < 12e-6, "{off}");
            // The crystal's own rate after ten minutes, as well as the noise lets it be known: a tenth of a cent.
            let wrong = seen[6000..].iter().map(|(_, correction)| (correction + off).abs()).fold(0.0, f64::max);
            assert!(wrong < 60e-6, "{off}: {wrong}");
            let mean = seen[6000..].iter().map(|(_, correction)| correction).sum::<f64>() / (HOUR - 6000) as f64;
            assert!((mean + off).abs() < 1e-6, "{off}: {mean}");
        }
    }

    #[test]
    fn a_tone_is_played_at_the_rate_that_is_asked_for_and_stays_pure() {
        let mut steering = Steering::new();
        steering.control.correction = 500e-6;
        let hertz = 1000.0;
        let wave = |n: f64| (n * hertz / RATE * std::f64::consts::TAU).sin() * 20_000.0;
        let mut out = vec![];
        for block in 0..200 {
            let frames: Vec<i16> =
                (0..240).flat_map(|n| [wave(f64::from(block * 240 + n)).round() as i16, 0]).collect();
            steering.play(&frames, &mut out);
        }
        let samples: Vec<i16> = out.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
        let frames = samples.len() / CHANNELS;
        assert!((frames as f64 - 48_000.0 / 1.0005).abs() < 40.0, "{frames}");
        for (n, frame) in samples.as_chunks::<CHANNELS>().0.iter().enumerate().skip(100) {
            assert!((f64::from(frame[0]) - wave(n as f64 * 1.0005)).abs() < 3.0 && frame[1] == 0, "{n}: {frame:?}");
        }
    }
}
