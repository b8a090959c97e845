//! What the PCM of a wave sink stream looks like.
//!
//! Fed by a driver through the registers [`crate::regs::stream::WAVE_RATE`] and [`crate::regs::stream::WAVE_FORMAT`];
//! feeds the card, which converts to it, and the driver, which counts in it.

use crate::regs::Fault;
use crate::time::{RefTime, SampleTime};

/// How a sample is written, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// 16 bits with a sign.
    S16,
    /// 32-bit floating point; 1.0 is what S16 has 32,768 for. Never limited.
    F32,
}

/// A format of PCM: frames of one sample a channel, left before right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveFormat {
    /// Frames a second: one of [`WaveFormat::RATES`].
    pub rate: u32,
    /// 1 (the mean of left and right) or 2.
    pub channels: u8,
    /// Each sample.
    pub sample: Sample,
}

impl WaveFormat {
    /// The rates that a card gives, in Hz.
    pub const RATES: [u32; 4] = [22_050, 44_100, 48_000, 96_000];

    /// Value of WAVE_FORMAT: channels in bits 0 to 7; bit 8 set for F32.
    pub const fn value(self) -> u32 {
        self.channels as u32 | (matches!(self.sample, Sample::F32) as u32) << 8
    }

    /// Reads the two registers.
    ///
    /// # Errors
    /// [`Fault::BadValue`] for a rate, a number of channels or bits that no card has.
    pub fn decode(rate: u32, value: u32) -> Result<Self, Fault> {
        let sample = if value & 1 << 8 == 0 { Sample::S16 } else { Sample::F32 };
        match value & !(1 << 8) {
            channels @ 1..=2 if Self::RATES.contains(&rate) => Ok(Self { rate, channels: channels as u8, sample }),
            _ => Err(Fault::BadValue),
        }
    }

    /// Bytes of a frame: 2, 4 or 8.
    pub const fn frame_bytes(self) -> usize {
        let sample = match self.sample {
            Sample::S16 => 2,
            Sample::F32 => 4,
        };
        sample * self.channels as usize
    }

    /// The frame that begins at a byte position.
    pub const fn frame_at(self, byte_position: u64) -> SampleTime {
        SampleTime(byte_position / self.frame_bytes() as u64)
    }

    /// How long so many bytes play by the nominal rate.
    pub fn duration(self, bytes: u64) -> RefTime {
        self.frame_at(bytes).to_time(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_decodes_to_itself_and_nothing_else_does() {
        for rate in WaveFormat::RATES {
            for (channels, sample, bytes) in
                [(1, Sample::S16, 2), (2, Sample::S16, 4), (1, Sample::F32, 4), (2, Sample::F32, 8)]
            {
                let format = WaveFormat { rate, channels, sample };
                assert_eq!(WaveFormat::decode(rate, format.value()), Ok(format));
                assert_eq!((format.frame_bytes(), format.frame_at(8 * bytes)), (bytes as usize, SampleTime(8)));
            }
        }
        for (rate, value) in [(0, 2), (48_001, 2), (48_000, 0), (48_000, 3), (48_000, 0x202), (48_000, u32::MAX)] {
            assert_eq!(WaveFormat::decode(rate, value), Err(Fault::BadValue), "{rate} {value:#x}");
        }
    }
}
