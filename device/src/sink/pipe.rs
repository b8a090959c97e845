//! Raw audio for another program: S16, little-endian, stereo, 48 kHz, into a FIFO or to standard output.
//!
//! Fed by the engine; feeds whoever reads. A reader that is slow makes virtual time wait; in realtime it misses what it
//! cannot take. One that goes away misses everything, until the next one comes.

use super::{CHANNELS, Losses, Sink, SinkError};
use crate::identity::ClockMode;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the end of the audio waits for its reader.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a stereo frame.
const FRAME: usize = CHANNELS * size_of::<i16>();

/// See the module. Blocks arrive whole or not at all, so that a reader always finds frames where it expects them.
pub struct PipeSink<W: Write + Send = File> {
    name: String,
    writer: W,
    waits: bool,
    /// What of the last block does not fit yet.
    pending: Vec<u8>,
    /// Whether somebody has ever read.
    met: bool,
    /// Whether the last attempt found nobody.
    alone: bool,
    dropped: u64,
    error: Option<SinkError>,
}

impl PipeSink {
    /// Opens an existing FIFO. Whether it has a reader yet does not matter: in virtual time the first one misses
    /// nothing.
    pub fn open(path: &Path, clock: ClockMode) -> Result<Self, SinkError> {
        let name = path.display().to_string();
        let failed = |why: String| SinkError::Pipe { name: name.clone(), why };
        let found = std::fs::metadata(path).map_err(|error| failed(format!("{error}; mkfifo makes a pipe")))?;
        match std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type()) {
            true => Ok(Self::new(name.clone(), open_fifo(path).map_err(|error| failed(error.to_string()))?, clock)),
            false => Err(failed("it is no pipe; mkfifo makes one".into())),
        }
    }

    /// Takes standard output: a pipe, a file or a device, but not a terminal.
    pub fn stdout(clock: ClockMode) -> Result<Self, SinkError> {
        let name = "standard output".to_owned();
        let failed = |why: String| SinkError::Pipe { name: name.clone(), why };
        let stdout = std::io::stdout();
        if std::io::IsTerminal::is_terminal(&stdout) {
            return Err(failed("it is a terminal; pipe it into a program, or redirect it".into()));
        }
        let prepared = || -> io::Result<File> {
            match FileType::from_raw_mode(fstat(&stdout)?.st_mode) {
                // Non-blocking by itself: the flag belongs to the open file, which the program that started this one
                // may share.
                FileType::Fifo => open_fifo(Path::new("/proc/self/fd/1")),
                FileType::RegularFile | FileType::CharacterDevice => {
                    Ok(std::os::fd::AsFd::as_fd(&stdout).try_clone_to_owned()?.into())
                }
                _ => Err(io::Error::other("it is no pipe and no file; put a cat behind it")),
            }
        };
        let file = prepared().map_err(|error| failed(error.to_string()))?;
        Ok(Self::new(name, file, clock))
    }
}

/// The write end of a FIFO, which does not block. For a moment it is its own reader, since without any it could not be
/// opened.
fn open_fifo(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let _reader = open(path, OFlags::RDWR | flags, Mode::empty())?;
    Ok(open(path, OFlags::WRONLY | flags, Mode::empty())?.into())
}

impl<W: Write + Send> PipeSink<W> {
    fn new(name: String, writer: W, clock: ClockMode) -> Self {
        Self {
            name,
            writer,
            waits: clock == ClockMode::Virtual,
            pending: vec![],
            met: false,
            alone: false,
            dropped: 0,
            error: None,
        }
    }

    /// Writes as much as fits.
    fn push(&mut self) {
        while !self.pending.is_empty() {
            match self.writer.write(&self.pending) {
                Ok(0) => return,
                Ok(written) => {
                    self.pending.drain(..written);
                    self.met = true;
                    self.alone = false;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    if self.waits && !self.met {
                        return;
                    }
                    if self.met && !self.alone {
                        tracing::warn!("nobody reads {} any more: its audio is dropped", self.name);
                    }
                    self.alone = true;
                    self.drop_pending();
                }
                Err(error) => {
                    let why = error.to_string();
                    let error = SinkError::Pipe { name: self.name.clone(), why };
                    tracing::error!("{error}; the rest of the audio is dropped");
                    self.error = Some(error);
                    self.drop_pending();
                }
            }
        }
    }

    fn drop_pending(&mut self) {
        self.dropped += self.pending.len().div_ceil(FRAME) as u64;
        self.pending.clear();
    }
}

impl<W: Write + Send> Sink for PipeSink<W> {
    fn ready(&mut self) -> bool {
        if self.waits {
            self.push();
        }
        !self.waits || self.pending.is_empty()
    }

    fn write(&mut self, frames: &[i16]) {
        self.push();
        if !self.pending.is_empty() || self.error.is_some() {
            self.dropped += (frames.len() / CHANNELS) as u64;
            return;
        }
        self.pending.extend(frames.iter().flat_map(|sample| sample.to_le_bytes()));
        self.push();
    }

    fn losses(&self) -> Losses {
        Losses { dropped: self.dropped, underruns: 0 }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let deadline = Instant::now() + PATIENCE;
        self.push();
        while !self.pending.is_empty() && self.met && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            self.push();
        }
        self.drop_pending();
        if self.dropped > 0 {
            tracing::warn!("{} frames of audio found no reader at {}", self.dropped, self.name);
        }
        self.error.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ClockMode::{Realtime, Virtual};
    use std::collections::VecDeque;
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    /// What a pipe does next: takes so many bytes, or fails.
    type Script = Arc<Mutex<VecDeque<Result<usize, ErrorKind>>>>;

    struct Scripted {
        script: Script,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let next = self.script.lock().expect("lock").pop_front().unwrap_or(Err(ErrorKind::WouldBlock))?;
            let taken = next.min(bytes.len());
            self.taken.lock().expect("lock").extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        sink: PipeSink<Scripted>,
        script: Script,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    fn bench(clock: ClockMode) -> Bench {
        let (script, taken) = (Script::default(), Arc::default());
        let writer = Scripted { script: Arc::clone(&script), taken: Arc::clone(&taken) };
        Bench { sink: PipeSink::new("a pipe".into(), writer, clock), script, taken }
    }

    impl Bench {
        fn expect(&self, steps: &[Result<usize, ErrorKind>]) {
            self.script.lock().expect("lock").extend(steps);
        }

        fn taken(&self) -> Vec<u8> {
            std::mem::take(&mut self.taken.lock().expect("lock"))
        }
    }

    #[test]
    fn virtual_time_waits_for_a_slow_reader_and_loses_nothing() {
        let mut bench = bench(Virtual);
        bench.expect(&[Ok(3)]);
        bench.sink.write(&[0x0201, 0x0403, 0x0605, 0x0807]);
        assert!(!bench.sink.ready());
        bench.expect(&[Err(ErrorKind::Interrupted), Ok(4), Err(ErrorKind::WouldBlock)]);
        assert!(!bench.sink.ready());
        bench.expect(&[Ok(99)]);
        assert!(bench.sink.ready());
        assert_eq!(bench.taken(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bench.sink.losses(), Losses::default());
    }

    #[test]
    fn virtual_time_waits_for_the_first_reader_and_for_none_after() {
        let mut bench = bench(Virtual);
        bench.expect(&[Err(ErrorKind::BrokenPipe), Err(ErrorKind::BrokenPipe)]);
        bench.sink.write(&[1, 2]);
        assert!(!bench.sink.ready());
        bench.expect(&[Ok(99)]);
        assert!(bench.sink.ready());
        bench.expect(&[Ok(2), Err(ErrorKind::BrokenPipe)]);
        bench.sink.write(&[3, 4, 5, 6]);
        assert!(bench.sink.ready());
        // Half of its first frame went to nobody.
        assert_eq!(bench.sink.losses().dropped, 2);
        bench.taken();
        bench.expect(&[Ok(99)]);
        bench.sink.write(&[7, 8]);
        assert_eq!(bench.taken(), [7, 0, 8, 0]);
    }

    #[test]
    fn realtime_never_waits_and_drops_whole_blocks() {
        let mut bench = bench(Realtime);
        bench.expect(&[Ok(5)]);
        bench.sink.write(&[1, 2, 3, 4]);
        assert!(bench.sink.ready());
        bench.sink.write(&[5, 6]);
        bench.sink.write(&[7, 8]);
        assert_eq!(bench.sink.losses().dropped, 2);
        bench.expect(&[Ok(99), Ok(99)]);
        bench.sink.write(&[9, 10]);
        assert_eq!(bench.taken(), [1, 0, 2, 0, 3, 0, 4, 0, 9, 0, 10, 0]);
        assert!(bench.sink.finish().is_ok());
    }

    #[test]
    fn a_broken_device_is_reported_and_holds_nothing_up() {
        let mut bench = bench(Virtual);
        bench.expect(&[Err(ErrorKind::StorageFull)]);
        bench.sink.write(&[1, 2]);
        assert!(bench.sink.ready());
        bench.sink.write(&[1, 2]);
        assert_eq!(bench.sink.losses().dropped, 2);
        assert!(matches!(bench.sink.finish(), Err(SinkError::Pipe { .. })));
    }

    #[test]
    fn a_fifo_needs_no_reader_to_open_and_outlives_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("fifo");
        let refused = |path: &Path| PipeSink::open(path, Virtual).err().expect("a refusal").to_string();
        assert!(refused(&path).contains("mkfifo makes a pipe"));
        std::fs::write(&path, "x").expect("file");
        assert!(refused(&path).contains("it is no pipe"));
        std::fs::remove_file(&path).expect("file");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");

        let mut sink = PipeSink::open(&path, Virtual).expect("the pipe");
        sink.write(&[1, 2]);
        assert!(!sink.ready());
        let mut reader = File::open(&path).expect("the pipe");
        assert!(sink.ready());
        let mut bytes = [0; FRAME];
        reader.read_exact(&mut bytes).expect("a frame");
        assert_eq!(bytes, [1, 0, 2, 0]);
        // The pipe fills up, and is emptied.
        let blocks = (1..=1000).find(|_| {
            sink.write(&[7; 2048]);
            !sink.ready()
        });
        assert!(blocks.is_some_and(|blocks| blocks > 1));
        drop(reader);
        assert!(sink.ready());
        sink.write(&[3, 4]);
        assert!(sink.ready() && sink.losses().dropped > 0);
        assert!(sink.finish().is_ok());
    }
}
