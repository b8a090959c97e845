//! A WAV file.
//!
//! Fed by the engine or the offline renderer; feeds the file, whose header is refreshed as it grows.

use super::{CHANNELS, Sink, SinkError};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// Frames after which the header is refreshed, so that even a killed card leaves a valid file: one second.
const REFRESH: u64 = 48_000;
/// Largest audio a WAV file can hold: its length fields are 32 bits wide.
const MAX_BYTES: u64 = u32::MAX as u64 - 64;

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
        let file = File::create(path).map_err(|error| SinkError::create(path, &error))?;
        Self::new(path, BufWriter::with_capacity(1 << 16, file), rate)
    }
}

impl<W: Write + Seek + Send> WavSink<W> {
    fn new(path: &Path, inner: W, rate: u32) -> Result<Self, SinkError> {
        let spec = hound::WavSpec {
            channels: CHANNELS as u16,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let failed = |error| SinkError::create(path, &into_io(error));
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
            return Err(SinkError::Full { path: self.path.clone(), limit: "a WAV file holds at most 4 GiB" });
        }
        let written = write_samples(writer, frames).and_then(|()| {
            self.unrefreshed += (frames.len() / CHANNELS) as u64;
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
            // The header says what was there at the last refresh. Dropping the writer would try again, and only fail
            // again.
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

#[cfg(test)]
mod tests {
    use super::super::tests::Disk;
    use super::*;
    use std::io::Cursor;

    fn samples_in(disk: &Disk) -> usize {
        let reader = hound::WavReader::new(Cursor::new(disk.contents())).expect("a valid WAV file");
        reader.into_samples::<i16>().filter(Result::is_ok).count()
    }

    #[test]
    fn a_killed_card_leaves_a_valid_file_of_all_but_the_last_second() {
        let disk = Disk::new(usize::MAX);
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
        let disk = Disk::new(500_000);
        let mut sink = WavSink::new(Path::new("x.wav"), disk.clone(), 48_000).expect("sink");
        for _ in 0..1000 {
            sink.write(&[7; 960]);
        }
        assert!(matches!(sink.finish(), Err(SinkError::File { .. })));
        assert_eq!(samples_in(&disk), 192_000);
    }
}
