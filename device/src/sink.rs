//! Where the rendered audio goes.
//!
//! Fed by the engine (or the offline renderer) with interleaved stereo S16; feeds a WAV file or nothing.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// Frames after which the WAV header is refreshed, so that even a killed card leaves a valid file: one second.
const REFRESH: u64 = 48_000;
/// Largest audio a WAV file can hold: its length fields are 32 bits wide.
const MAX_BYTES: u64 = u32::MAX as u64 - 64;

/// A consumer of audio.
pub trait Sink: Send {
    /// Takes interleaved stereo frames.
    fn write(&mut self, frames: &[i16]);
    /// Completes the output. Returns the first error that this sink met, at any time.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// Audio could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file could not be created, written or completed.
    #[error("cannot write {path}: {error}; what was written so far is a valid WAV file")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// More audio than a WAV file can hold.
    #[error("{path} is full: a WAV file holds at most 4 GiB; the rest was dropped")]
    Full {
        /// The file.
        path: PathBuf,
    },
}

/// Drops everything.
#[derive(Debug)]
pub struct NullSink;

impl Sink for NullSink {
    fn write(&mut self, _: &[i16]) {}

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A WAV file: 16 bits, stereo. It only ever grows; resets and new connections go on where the last audio ended.
pub struct WavSink<W: Write + Seek + Send = BufWriter<File>> {
    path: PathBuf,
    writer: Option<hound::WavWriter<W>>,
    bytes: u64,
    unrefreshed: u64,
    error: Option<SinkError>,
}

impl WavSink {
    /// Creates (or overwrites) the file.
    pub fn create(path: &Path, rate: u32) -> Result<Self, SinkError> {
        let failed = |error| SinkError::File { path: path.to_owned(), error };
        let file = File::create(path).map_err(failed)?;
        Self::new(path, BufWriter::with_capacity(1 << 16, file), rate)
    }
}

impl<W: Write + Seek + Send> WavSink<W> {
    fn new(path: &Path, inner: W, rate: u32) -> Result<Self, SinkError> {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let failed = |error| SinkError::File { path: path.to_owned(), error: into_io(error) };
        let mut writer = hound::WavWriter::new(inner, spec).map_err(failed)?;
        writer.flush().map_err(failed)?;
        Ok(Self { path: path.to_owned(), writer: Some(writer), bytes: 0, unrefreshed: 0, error: None })
    }

    fn try_write(&mut self, frames: &[i16]) -> Result<(), SinkError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        self.bytes += size_of_val(frames) as u64;
        if self.bytes > MAX_BYTES {
            return Err(SinkError::Full { path: self.path.clone() });
        }
        let written = write_samples(writer, frames).and_then(|()| {
            self.unrefreshed += frames.len() as u64 / 2;
            if self.unrefreshed < REFRESH {
                return Ok(());
            }
            self.unrefreshed = 0;
            writer.flush()
        });
        written.map_err(|error| SinkError::File { path: self.path.clone(), error: into_io(error) })
    }
}

fn write_samples<W: Write + Seek>(writer: &mut hound::WavWriter<W>, frames: &[i16]) -> hound::Result<()> {
    let mut block = writer.get_i16_writer(frames.len() as u32);
    for sample in frames {
        block.write_sample(*sample);
    }
    block.flush()
}

fn into_io(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        other => io::Error::other(other),
    }
}

impl<W: Write + Seek + Send> Sink for WavSink<W> {
    fn write(&mut self, frames: &[i16]) {
        if let Err(error) = self.try_write(frames) {
            tracing::error!("{error}");
            self.error = Some(error);
            // The header says what was there at the last refresh. Dropping the writer would try again, and only fail again.
            std::mem::forget(self.writer.take());
        }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.finalize()
        {
            let error = SinkError::File { path: self.path.clone(), error: into_io(error) };
            self.error.get_or_insert(error);
        }
        self.error.take().map_or(Ok(()), Err)
    }
}

/// What 1.0 of the synthesizer becomes: 6 dB below full scale, so that dense songs do not clip.
const UNITY: f32 = 16_384.0;

/// A sample of the mix as 16 bits: rounded to the nearest, clamped; no dither.
pub fn to_s16(sample: f32) -> i16 {
    let scaled = sample * UNITY;
    // The cast truncates, saturates, and makes NaN 0: the same on every CPU, and without a library call.
    (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, SeekFrom};
    use std::sync::{Arc, Mutex};

    /// A disk of limited size whose contents outlive its writer.
    #[derive(Clone)]
    struct Disk {
        contents: Arc<Mutex<Cursor<Vec<u8>>>>,
        size: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut contents = self.contents.lock().expect("lock");
            if contents.position() as usize + bytes.len() > self.size {
                return Err(io::ErrorKind::StorageFull.into());
            }
            contents.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Disk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.contents.lock().expect("lock").seek(to)
        }
    }

    fn samples_in(disk: &Disk) -> usize {
        let contents = disk.contents.lock().expect("lock").get_ref().clone();
        let reader = hound::WavReader::new(Cursor::new(contents)).expect("a valid WAV file");
        reader.into_samples::<i16>().filter(Result::is_ok).count()
    }

    fn disk(size: usize) -> Disk {
        Disk { contents: Arc::default(), size }
    }

    #[test]
    fn a_killed_card_leaves_a_valid_file_of_all_but_the_last_second() {
        let disk = disk(usize::MAX);
        let mut sink = WavSink::new(Path::new("x.wav"), disk.clone(), 48_000).expect("sink");
        for _ in 0..150 {
            sink.write(&[0; 960]);
        }
        // As SIGKILL would: nothing is finished.
        std::mem::forget(sink);
        assert_eq!(samples_in(&disk), 96_000);
    }

    #[test]
    fn a_full_disk_is_reported_once_and_leaves_a_valid_file() {
        let disk = disk(500_000);
        let mut sink = WavSink::new(Path::new("x.wav"), disk.clone(), 48_000).expect("sink");
        for _ in 0..1000 {
            sink.write(&[7; 960]);
        }
        assert!(matches!(sink.finish(), Err(SinkError::File { .. })));
        assert_eq!(samples_in(&disk), 192_000);
    }

    #[test]
    fn samples_are_rounded_and_clamped() {
        assert_eq!(to_s16(0.0), 0);
        assert_eq!(to_s16(1.0), 16_384);
        assert_eq!(to_s16(-1.0), -16_384);
        assert_eq!(to_s16(9.0), 32_767);
        assert_eq!(to_s16(-9.0), -32_768);
        assert_eq!(to_s16(0.5 / 16_384.0), 1);
        assert_eq!(to_s16(0.49 / 16_384.0), 0);
        assert_eq!(to_s16(f32::NAN), 0);
    }
}
