//! Where the rendered audio goes.
//!
//! Fed by the engine (or the offline renderer) with interleaved stereo S16; feeds a [`wav`] or [`flac`] file, a
//! [`pipe`], the host's sound device ([`audio`]), or nothing. What it takes to open a sink is done when it is made: one
//! that is fed opens nothing, since by then the card is in its sandbox.

pub mod audio;
pub mod flac;
pub mod limited;
pub mod mix;
pub mod pipe;
pub mod wav;

use crate::identity::SAMPLE_RATE;
use flac::FlacSink;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wav::WavSink;

/// Samples of a stereo frame.
const CHANNELS: usize = 2;

/// A consumer of audio. None of its calls blocks for long: the engine that makes them also answers the guest.
pub trait Sink: Send {
    /// Whether it has room for a block. As long as it says no, audio time waits, and it is asked again about each
    /// millisecond. A sink that plays in realtime, where time cannot wait, always says yes.
    fn ready(&mut self) -> bool {
        true
    }

    /// Takes interleaved stereo frames. What there is no room for is dropped, and counted.
    fn write(&mut self, frames: &[i16]);

    /// Nothing plays any more: what comes next may come at any time, and a device that runs dry meanwhile is no loss.
    fn pause(&mut self) {}

    /// What of the audio has not reached its listener so far.
    fn losses(&self) -> Losses {
        Losses::default()
    }

    /// Completes the output. Returns the first error that this sink met, at any time.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// What a listener missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Frames for which there was no room, or no listener.
    pub dropped: u64,
    /// Times that a sound device ran out of audio before there was more.
    pub underruns: u64,
}

/// Audio could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file could not be created, or not be begun: it holds no audio.
    #[error("cannot create {path}: {why}")]
    Create {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file could not be written or completed.
    #[error("cannot write {path}: {error}; what was written so far is a valid file")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// More audio than the format can hold.
    #[error("{path} is full: {limit}; the rest was dropped")]
    Full {
        /// The file.
        path: PathBuf,
        /// What the format holds at most.
        limit: &'static str,
    },
    /// The pipe could not be opened or written.
    #[error("cannot write raw audio to {name}: {why}")]
    Pipe {
        /// Its path, or that it is standard output.
        name: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The host's sound device cannot be used.
    #[error("cannot play live: {why}")]
    Device {
        /// What is wrong, and what to do.
        why: String,
    },
}

impl SinkError {
    /// Why a file could not be created. The system says "no such file" of its folder, too.
    fn create(path: &Path, error: &io::Error) -> Self {
        let folder = path.parent().filter(|folder| *folder != Path::new("") && !folder.exists());
        let why = match folder {
            Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                format!("the folder {} does not exist", folder.display())
            }
            _ => error.to_string(),
        };
        Self::Create { path: path.to_owned(), why }
    }
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

/// How a file holds audio; the samples are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Wav,
    /// Compressed, without loss.
    Flac,
}

/// A file to be written, in the format that its name says: parsed from a path that ends in `.wav`, `.flac` or no
/// extension (a WAV).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioFile {
    /// Where.
    pub path: PathBuf,
    /// How.
    pub format: Format,
}

/// What a song becomes if nobody says otherwise.
impl Default for AudioFile {
    fn default() -> Self {
        Self { path: "out.wav".into(), format: Format::Wav }
    }
}

impl AudioFile {
    /// Creates (or overwrites) the file.
    pub fn create(&self) -> Result<Box<dyn Sink>, SinkError> {
        self.create_at(SAMPLE_RATE)
    }

    /// The same, for audio of another rate.
    pub fn create_at(&self, rate: u32) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self.format {
            Format::Wav => Box::new(WavSink::create(&self.path, rate)?),
            Format::Flac => Box::new(FlacSink::create(&self.path, rate)?),
        })
    }

    /// How much audio the file holds, as its header tells; `None` if it cannot be read.
    pub fn seconds(&self) -> Option<f64> {
        let frames = match self.format {
            Format::Wav => u64::from(hound::WavReader::open(&self.path).ok()?.duration()),
            Format::Flac => flac::frames(&mut File::open(&self.path).ok()?)?,
        };
        Some(frames as f64 / f64::from(SAMPLE_RATE))
    }
}

impl FromStr for AudioFile {
    type Err = UnknownFormat;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let extension = Path::new(path).extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let format = match extension.as_deref() {
            None | Some("wav") => Format::Wav,
            Some("flac") => Format::Flac,
            Some(other) => return Err(UnknownFormat(other.to_owned())),
        };
        Ok(Self { path: path.into(), format })
    }
}

/// As `--sink` has it.
impl fmt::Display for AudioFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = match self.format {
            Format::Wav => "wav",
            Format::Flac => "flac",
        };
        write!(f, "{format}:{}", self.path.display())
    }
}

/// A file name that says no format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} files cannot be written: name it .wav or .flac")]
pub struct UnknownFormat(String);

/// What 1.0 of the synthesizer becomes: 6 dB below full scale, so that dense songs do not clip.
pub(crate) const UNITY: f32 = 16_384.0;

/// A sample of the mix as 16 bits: rounded to the nearest, clamped; no dither.
pub fn to_s16(sample: f32) -> i16 {
    let scaled = sample * UNITY;
    // The cast truncates, saturates, and makes NaN 0: the same on every CPU, and without a library call.
    (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Seek, SeekFrom, Write};
    use std::sync::{Arc, Mutex};

    /// A disk of limited size whose contents outlive its writer.
    #[derive(Clone)]
    pub(super) struct Disk {
        contents: Arc<Mutex<Cursor<Vec<u8>>>>,
        size: usize,
    }

    impl Disk {
        pub(super) fn new(size: usize) -> Self {
            Self { contents: Arc::default(), size }
        }

        pub(super) fn contents(&self) -> Vec<u8> {
            self.contents.lock().expect("lock").get_ref().clone()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut contents = self.contents.lock().expect("lock");
            let room = self.size.saturating_sub(contents.position() as usize).min(bytes.len());
            match contents.write(&bytes[..room])? {
                0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
                written => Ok(written),
            }
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

    /// Something like music: two tones, some noise, silence, and full scale.
    pub(super) fn music(frames: usize) -> Vec<i16> {
        let mut noise = 1u32;
        let mut samples = Vec::with_capacity(frames * CHANNELS);
        for n in 0..frames {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let phase = n as f64 / 48_000.0 * std::f64::consts::TAU;
            let left = (phase * 440.0).sin() * 12_000.0 + f64::from(noise >> 24);
            let right = if n % 20_000 < 5000 { 0.0 } else { (phase * 660.0).sin() * 40_000.0 };
            samples.extend([left as i16, right as i16]);
        }
        samples
    }

    #[test]
    fn a_file_has_the_format_that_its_name_says() {
        let format = |path: &str| path.parse().map(|file: AudioFile| file.format);
        for wav in ["out.wav", "a.b/OUT.WAV", "out", ".wav"] {
            assert_eq!(format(wav), Ok(Format::Wav), "{wav}");
        }
        assert_eq!(format("my song.Flac"), Ok(Format::Flac));
        let refused = format("out.mp3").expect_err("no such format").to_string();
        assert_eq!(refused, "mp3 files cannot be written: name it .wav or .flac");
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
