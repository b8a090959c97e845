//! A FLAC file: the same samples in about half the bytes, of which not one is changed.
//!
//! Fed by the engine or the offline renderer; feeds the file, whose header is refreshed as it grows.

use super::{CHANNELS, Sink, SinkError};
use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, Stream, StreamInfo};
use flacenc::config::Encoder;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Context, Fill, FrameBuf};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Frames that are compressed together.
const BLOCK: usize = 4096;
/// Blocks after which the header is refreshed, so that even a killed card leaves a valid file: one second.
const REFRESH: u64 = 12;
/// Most frames of a file: its length field is 36 bits wide.
const MAX_FRAMES: u64 = (1 << 36) - 1;

/// A FLAC file: 16 bits, stereo. It only ever grows; resets and new connections go on where the last audio ended.
pub struct FlacSink<W: Write + Seek + Send = File> {
    path: PathBuf,
    writer: W,
    config: Verified<Encoder>,
    info: StreamInfo,
    /// What is not a whole block yet.
    block: Vec<i32>,
    buffer: FrameBuf,
    /// The digest of all samples.
    digest: Context,
    bits: ByteSink,
    /// Blocks and frames that are in the file.
    blocks: u64,
    frames: u64,
    done: bool,
    error: Option<SinkError>,
}

impl FlacSink {
    /// Creates (or overwrites) the file.
    pub fn create(path: &Path, rate: u32) -> Result<Self, SinkError> {
        let file = File::create(path).map_err(|error| SinkError::create(path, &error))?;
        Self::new(path, file, rate)
    }
}

impl<W: Write + Seek + Send> FlacSink<W> {
    fn new(path: &Path, writer: W, rate: u32) -> Result<Self, SinkError> {
        let failed = |error: io::Error| SinkError::create(path, &error);
        let config = Encoder::default().into_verified().map_err(|(_, error)| failed(defect(error)))?;
        let prepared = StreamInfo::new(rate as usize, CHANNELS, 16).and_then(|mut info| {
            info.set_block_sizes(BLOCK, BLOCK)?;
            info.set_frame_sizes(0, 0)?;
            Ok((info, FrameBuf::with_size(CHANNELS, BLOCK)?))
        });
        let (info, buffer) = prepared.map_err(|error| failed(defect(error)))?;
        let mut sink = Self {
            path: path.to_owned(),
            writer,
            config,
            info,
            block: Vec::with_capacity(BLOCK * CHANNELS),
            buffer,
            digest: Context::new(16, CHANNELS),
            bits: ByteSink::new(),
            blocks: 0,
            frames: 0,
            done: false,
            error: None,
        };
        sink.write_header().map_err(failed)?;
        Ok(sink)
    }

    /// The header of what is in the file, at its beginning; goes on at its end.
    fn write_header(&mut self) -> io::Result<()> {
        self.info.set_total_samples(self.frames as usize);
        self.bits.clear();
        Stream::with_stream_info(self.info.clone()).write(&mut self.bits).map_err(defect)?;
        self.writer.seek(SeekFrom::Start(0))?;
        self.writer.write_all(self.bits.as_slice())?;
        self.writer.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Compresses the block and writes it at once: a file ends with a whole one, however the card ends.
    fn write_block(&mut self) -> io::Result<()> {
        self.buffer.fill_interleaved(&self.block).map_err(defect)?;
        let frame = flacenc::encode_fixed_size_frame(&self.config, &self.buffer, self.blocks as usize, &self.info);
        self.bits.clear();
        frame.map_err(defect)?.write(&mut self.bits).map_err(defect)?;
        self.writer.write_all(self.bits.as_slice())?;
        self.digest.fill_interleaved(&self.block).map_err(defect)?;
        self.blocks += 1;
        self.frames += (self.block.len() / CHANNELS) as u64;
        self.block.clear();
        if self.blocks.is_multiple_of(REFRESH) { self.write_header() } else { Ok(()) }
    }

    fn try_write(&mut self, mut frames: &[i16]) -> Result<(), SinkError> {
        while !frames.is_empty() {
            let room = BLOCK * CHANNELS - self.block.len();
            let (now, later) = frames.split_at(room.min(frames.len()));
            self.block.extend(now.iter().map(|&sample| i32::from(sample)));
            frames = later;
            if self.block.len() < BLOCK * CHANNELS {
                continue;
            }
            if self.frames + BLOCK as u64 > MAX_FRAMES {
                let limit = "a FLAC file holds at most 68,719,476,735 frames";
                return Err(SinkError::Full { path: self.path.clone(), limit });
            }
            self.write_block().map_err(|error| SinkError::File { path: self.path.clone(), error })?;
        }
        Ok(())
    }

    /// The rest, and a header with the digest of everything.
    fn complete(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.info.set_md5_digest(&self.digest.md5_digest());
        self.write_header()
    }
}

/// Frames that a file of this sink holds, as its header tells.
pub(super) fn frames(file: &mut impl Read) -> Option<u64> {
    // The mark, the first block's header, and of that block the part that ends with the length.
    let mut header = [0; 26];
    file.read_exact(&mut header).ok()?;
    let length = header[20..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    header.starts_with(b"fLaC").then_some(length & MAX_FRAMES)
}

/// What the encoder refuses is a defect of this sink: there are no samples that it cannot hold.
fn defect(error: impl fmt::Display) -> io::Error {
    io::Error::other(format!("the encoder refuses: {error}"))
}

impl<W: Write + Seek + Send> Sink for FlacSink<W> {
    fn write(&mut self, frames: &[i16]) {
        if self.done {
            return;
        }
        if let Err(error) = self.try_write(frames) {
            tracing::error!("{error}");
            self.error = Some(error);
            self.done = true;
            // The header takes no new room. It leaves out a block that did not fit; failing, it stays as it was last
            // refreshed.
            let _ = self.write_header();
        }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        if !std::mem::replace(&mut self.done, true)
            && let Err(error) = self.complete()
        {
            self.error = Some(SinkError::File { path: self.path.clone(), error });
            let _ = self.write_header();
        }
        self.error.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Disk, music};
    use super::*;
    use std::io::Cursor;

    /// Plays `samples` in blocks of all sizes, and then is killed, or not.
    fn written(disk: &Disk, samples: &[i16], killed: bool) -> Result<(), SinkError> {
        let mut sink = FlacSink::new(Path::new("x.flac"), disk.clone(), 48_000)?;
        let mut rest = samples;
        for size in (1..=1024).cycle().step_by(37) {
            let (now, later) = rest.split_at((size * CHANNELS).min(rest.len()));
            sink.write(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        if killed { Ok(()) } else { sink.finish() }
    }

    /// What another implementation reads, up to the length that the header tells.
    fn read(disk: &Disk) -> Vec<i16> {
        let contents = disk.contents();
        let mut reader = claxon::FlacReader::new(Cursor::new(contents)).expect("a valid FLAC file");
        let info = reader.streaminfo();
        assert_eq!((info.sample_rate, info.channels, info.bits_per_sample), (48_000, 2, 16));
        let length = info.samples.unwrap_or(0) as usize * CHANNELS;
        let samples = reader.samples().take(length).map(|sample| sample.expect("a sample") as i16).collect::<Vec<_>>();
        assert_eq!((samples.len(), frames(&mut disk.contents().as_slice())), (length, info.samples.or(Some(0))));
        samples
    }

    #[test]
    fn every_sample_comes_back() {
        for frames in [0, 1, 15, 16, 4095, 4096, 4097, 150_000] {
            let disk = Disk::new(usize::MAX);
            let samples = music(frames);
            written(&disk, &samples, false).expect("written");
            assert!(read(&disk) == samples, "{frames} frames");
        }
    }

    #[test]
    fn the_extremes_come_back() {
        let disk = Disk::new(usize::MAX);
        let samples: Vec<_> = (0..20_000).map(|n| if n / 2 % 3 == n % 2 { i16::MIN } else { i16::MAX }).collect();
        written(&disk, &samples, false).expect("written");
        assert!(read(&disk) == samples);
    }

    #[test]
    fn a_killed_card_leaves_a_valid_file_of_all_but_the_last_second() {
        let disk = Disk::new(usize::MAX);
        let samples = music(150_000);
        written(&disk, &samples, true).expect("written");
        let read = read(&disk);
        assert_eq!(read.len(), 36 * BLOCK * CHANNELS);
        assert!(samples.starts_with(&read));
    }

    #[test]
    fn a_full_disk_is_reported_once_and_leaves_a_valid_file() {
        let disk = Disk::new(100_000);
        let samples = music(150_000);
        assert!(matches!(written(&disk, &samples, false), Err(SinkError::File { .. })));
        let read = read(&disk);
        assert!(read.len() > 20 * BLOCK && samples.starts_with(&read), "{}", read.len());
    }
}
