//! A WAV file of any sample format, or one that is streamed into a pipe.
//!
//! Fed by the offline renderer with the mix itself, or with a file that a card has written; feeds a file, whose header
//! gets its lengths at the end, or a pipe, where nobody can go back: its header says that as much follows as a WAV can
//! hold, which readers take for "until the end".

use super::{CHANNELS, SinkError, UNITY, to_s16};
use crate::identity::SAMPLE_RATE;
use crate::resampler::Resampler;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// How audio is written, as command lines say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Encoding {
    /// Samples a second. `dmus-card render` renders at this rate; what a card has played is converted.
    #[arg(long, value_enum, default_value = "48000")]
    pub rate: Rate,
    /// What a sample is: 16 or 24 bits, or floating point. A .flac has 16.
    #[arg(long, value_enum, default_value = "s16")]
    pub format: SampleFormat,
}

impl Encoding {
    /// Whether it is a card's own.
    pub fn is_usual(self) -> bool {
        self == Self { rate: Rate::Card, format: SampleFormat::S16 }
    }
}

/// Samples a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rate {
    /// A compact disc's.
    #[value(name = "44100")]
    Disc,
    /// A card's.
    #[value(name = "48000")]
    Card,
    /// Twice that.
    #[value(name = "96000")]
    High,
}

impl Rate {
    /// As a number.
    pub fn hz(self) -> u32 {
        match self {
            Self::Disc => 44_100,
            Self::Card => SAMPLE_RATE,
            Self::High => 96_000,
        }
    }
}

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SampleFormat {
    /// 16 bits.
    S16,
    /// 24 bits.
    S24,
    /// Floating point, where 1 is full scale and louder is not clamped.
    F32,
}

impl SampleFormat {
    fn bytes(self) -> u16 {
        match self {
            Self::S16 => 2,
            Self::S24 => 3,
            Self::F32 => 4,
        }
    }

    /// Adds a sample of the mix.
    fn put(self, sample: f32, out: &mut Vec<u8>) {
        match self {
            Self::S16 => out.extend(to_s16(sample).to_le_bytes()),
            Self::S24 => {
                // The cast saturates, and makes NaN 0.
                let scaled =
                    ((f64::from(sample) * f64::from(UNITY) * 256.0).round() as i32).clamp(-0x80_0000, 0x7F_FFFF);
                out.extend(&scaled.to_le_bytes()[..3]);
            }
            Self::F32 => out.extend((sample * (UNITY / 32_768.0)).to_le_bytes()),
        }
    }
}

/// Bytes before the samples.
const HEADER: u32 = 44;
/// Most bytes of samples that the header's lengths can say.
const MOST: u32 = u32::MAX - HEADER;

/// See the module.
pub struct MixFile<W: Write = BufWriter<File>> {
    writer: W,
    rate: u32,
    format: SampleFormat,
    bytes: u64,
    block: Vec<u8>,
}

impl MixFile {
    /// Creates (or overwrites) a file.
    ///
    /// # Errors
    /// [`SinkError::Create`].
    pub fn create(path: &Path, rate: u32, format: SampleFormat) -> Result<Self, SinkError> {
        let made = File::create(path).and_then(|file| Self::new(BufWriter::new(file), rate, format));
        made.map_err(|error| SinkError::create(path, &error))
    }

    /// Begins a stream in a pipe, which is waited for as long as nobody reads.
    ///
    /// # Errors
    /// Those of writing.
    pub fn stream(pipe: File, rate: u32, format: SampleFormat) -> io::Result<Self> {
        Self::new(BufWriter::new(pipe), rate, format)
    }
}

impl<W: Write> MixFile<W> {
    fn new(mut writer: W, rate: u32, format: SampleFormat) -> io::Result<Self> {
        writer.write_all(&header(rate, format, MOST))?;
        Ok(Self { writer, rate, format, bytes: 0, block: Vec::new() })
    }

    /// Takes a block of the mix, this much louder.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&mut self, left: &[f32], right: &[f32], gain: f32) -> io::Result<()> {
        self.block.clear();
        for (l, r) in left.iter().zip(right) {
            self.format.put(l * gain, &mut self.block);
            self.format.put(r * gain, &mut self.block);
        }
        self.bytes += self.block.len() as u64;
        self.writer.write_all(&self.block)
    }

    /// All of a stream has been written.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish_stream(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<W: Write + Seek> MixFile<W> {
    /// Completes a file.
    ///
    /// # Errors
    /// Those of writing; or the file is longer than its header can say.
    pub fn finish(mut self) -> io::Result<()> {
        let length = u32::try_from(self.bytes).ok().filter(|bytes| *bytes <= MOST);
        let length = length.ok_or_else(|| io::Error::other("a WAV file holds at most 4 GiB"))?;
        self.writer.seek(SeekFrom::Start(0))?;
        self.writer.write_all(&header(self.rate, self.format, length))?;
        self.writer.flush()
    }
}

/// Frames of a card's file that are converted at once.
const PART: usize = 4096;

/// Writes a WAV of a card's anew, in another encoding.
///
/// # Errors
/// Either file: which, and why.
pub fn convert(from: &Path, to: &Path, encoding: Encoding) -> Result<(), SinkError> {
    let unreadable = |error: hound::Error| SinkError::Create { path: from.into(), why: error.to_string() };
    let mut reader = hound::WavReader::open(from).map_err(unreadable)?;
    let rate = encoding.rate.hz();
    let frames = (u64::from(reader.duration()) * u64::from(rate)).div_ceil(u64::from(SAMPLE_RATE));
    let channel = || Resampler::new(SAMPLE_RATE.into(), rate.into());
    let (mut left, mut right) = (channel(), channel());
    let mut file = MixFile::create(to, rate, encoding.format)?;
    let mut samples = reader.samples::<i16>();
    let (mut done, mut input, mut output) = (0, [vec![], vec![]], [vec![], vec![]]);
    while done < frames {
        input.iter_mut().chain(&mut output).for_each(Vec::clear);
        for _ in 0..PART {
            for side in &mut input {
                // Behind its end there is silence, which the last frames reach into.
                let sample = samples.next().transpose().map_err(unreadable)?.unwrap_or(0);
                side.push(f32::from(sample) / UNITY);
            }
        }
        left.push(input[0].iter().copied());
        right.push(input[1].iter().copied());
        while let (true, Some(l), Some(r)) = (done < frames, left.frame(done), right.frame(done)) {
            output[0].push(l);
            output[1].push(r);
            done += 1;
        }
        left.forget_before(done);
        right.forget_before(done);
        file.write(&output[0], &output[1], 1.0).map_err(|error| SinkError::File { path: to.into(), error })?;
    }
    file.finish().map_err(|error| SinkError::File { path: to.into(), error })
}

/// Of so many bytes of samples.
fn header(rate: u32, format: SampleFormat, length: u32) -> Vec<u8> {
    let frame = CHANNELS as u16 * format.bytes();
    let tag: u16 = if format == SampleFormat::F32 { 3 } else { 1 };
    let mut header = Vec::with_capacity(HEADER as usize);
    header.extend(b"RIFF");
    header.extend((length + HEADER - 8).to_le_bytes());
    header.extend(b"WAVEfmt ");
    header.extend(16u32.to_le_bytes());
    header.extend([tag, CHANNELS as u16].into_iter().flat_map(u16::to_le_bytes));
    header.extend([rate, rate * u32::from(frame)].into_iter().flat_map(u32::to_le_bytes));
    header.extend([frame, 8 * format.bytes()].into_iter().flat_map(u16::to_le_bytes));
    header.extend(b"data");
    header.extend(length.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn what_a_card_wrote_is_the_same_sound_in_any_encoding() {
        let dir = tempfile::tempdir().expect("directory");
        let (from, to) = (dir.path().join("card.wav"), dir.path().join("other.wav"));
        let mut card = MixFile::create(&from, SAMPLE_RATE, SampleFormat::S16).expect("a file");
        let tone = |n: usize, rate: u32| libm::sinf(n as f32 * 1000.0 * core::f32::consts::TAU / rate as f32) * 0.5;
        let (left, right): (Vec<f32>, Vec<f32>) = (0..10_001).map(|n| (tone(n, SAMPLE_RATE), 0.25)).unzip();
        card.write(&left, &right, 1.0).expect("written");
        card.finish().expect("complete");
        for (rate, frames) in [(Rate::Disc, 9189), (Rate::Card, 10_001), (Rate::High, 20_002)] {
            convert(&from, &to, Encoding { rate, format: SampleFormat::F32 }).expect("converted");
            let reader = hound::WavReader::open(&to).expect("a WAV");
            assert_eq!((reader.spec().sample_rate, reader.duration()), (rate.hz(), frames));
            let samples: Vec<f32> = reader.into_samples().map(|sample| sample.expect("a sample")).collect();
            // But for its ends, where silence begins.
            for n in 200..frames as usize - 200 {
                let (l, r) = (samples[2 * n] * 2.0, samples[2 * n + 1] * 2.0);
                assert!(
                    (l - tone(n, rate.hz())).abs() < 1e-3 && (r - 0.25).abs() < 1e-3,
                    "{rate:?}, frame {n}: {l}, {r}"
                );
            }
        }
        convert(&from, &to, Encoding { rate: Rate::Card, format: SampleFormat::S16 }).expect("converted");
        assert!(std::fs::read(&from).expect("one") == std::fs::read(&to).expect("other"));
        assert!(convert(&to.join("no"), &to, Encoding { rate: Rate::Card, format: SampleFormat::S16 }).is_err());
    }

    #[test]
    fn another_reader_finds_every_sample_in_every_format() {
        let mix = [0.0, 0.5, -0.25, 1.0, -3.0, 3.0];
        for (format, bits, expected) in [
            (SampleFormat::S16, 16, [0, 8192, -4096, 16_384, -32_768, 32_767]),
            (SampleFormat::S24, 24, [0, 2_097_152, -1_048_576, 4_194_304, -8_388_608, 8_388_607]),
        ] {
            let mut disk = Cursor::new(Vec::new());
            let mut file = MixFile::new(&mut disk, 44_100, format).expect("begun");
            file.write(&[mix[0], mix[2], mix[4]], &[mix[1], mix[3], mix[5]], 1.0).expect("written");
            file.finish().expect("complete");
            let reader = hound::WavReader::new(Cursor::new(disk.into_inner())).expect("a WAV");
            assert_eq!(
                (reader.spec().sample_rate, reader.spec().bits_per_sample, reader.duration()),
                (44_100, bits, 3)
            );
            let samples: Vec<i32> = reader.into_samples().map(|sample| sample.expect("a sample")).collect();
            assert_eq!(samples, expected);
        }
        let mut disk = Cursor::new(Vec::new());
        let mut file = MixFile::new(&mut disk, 96_000, SampleFormat::F32).expect("begun");
        file.write(&[0.5], &[-3.0], 2.0).expect("written");
        file.finish().expect("complete");
        let reader = hound::WavReader::new(Cursor::new(disk.into_inner())).expect("a WAV");
        let samples: Vec<f32> = reader.into_samples().map(|sample| sample.expect("a sample")).collect();
        assert_eq!(samples, [0.5, -3.0]);
    }
}
