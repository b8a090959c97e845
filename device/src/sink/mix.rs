//! A WAV file of any sample format, or one that is streamed into a pipe.
//!
//! Fed by the offline renderer with the mix itself; feeds a file, whose header gets its lengths at the end, or a pipe,
//! where nobody can go back: its header says that as much follows as a WAV can hold, which readers take for "until the
//! end".

use super::{CHANNELS, SinkError, UNITY, to_s16};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
