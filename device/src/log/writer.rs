//! Writes the log, in a thread of its own: a disk that is full, a reader that has gone and one that does not read hold
//! up that thread only.
//!
//! Fed with whole lines, of which it keeps so many bytes; feeds standard error. Lines that were lost are counted, and
//! the log says how many once it can be written again.

use super::limit;
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Bytes of lines that wait to be written.
const ROOM: usize = 256 << 10;
/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a log that could not be written is tried again, and what was left out is looked for.
const STEP: Duration = Duration::from_secs(1);
/// How often somebody else's non-blocking pipe is tried again.
const SHORT_STEP: Duration = Duration::from_millis(20);

static QUEUE: Queue = Queue { state: Mutex::new(State::new()), filled: Condvar::new(), idle: Condvar::new() };

struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// All that there was has been written, or tried.
    idle: Condvar,
}

struct State {
    lines: Vec<u8>,
    /// Lines for which there was no room, behind the others.
    lost: u64,
    started: bool,
    writing: bool,
}

impl State {
    const fn new() -> Self {
        Self { lines: Vec::new(), lost: 0, started: false, writing: false }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }

    fn push(&mut self, line: &[u8]) {
        // Once some are lost, so are those behind them, until their number has its place.
        if self.lost > 0 || self.lines.len() + line.len() > ROOM {
            self.lost += 1;
        } else {
            self.lines.extend_from_slice(line);
        }
    }
}

/// Takes one line, whole, as `tracing` writes it. Never fails, and never waits for whoever reads the log.
pub(super) struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.state.lock().push(line);
        QUEUE.filled.notify_one();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line that is not `tracing`'s.
pub fn say(line: &str) {
    // It never fails.
    let _ = Line.write(format!("{line}\n").as_bytes());
}

/// Starts the thread that writes. A card does that in its sandbox.
///
/// # Errors
/// The system has no room for a thread.
pub fn start() -> io::Result<()> {
    if std::mem::replace(&mut QUEUE.state.lock().started, true) {
        return Ok(());
    }
    let spawned = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| {
        let mut output = Output { file: File::from(stderr), lost: 0, cut: false };
        std::thread::Builder::new().name("log".into()).spawn(move || write_on(&mut output))
    });
    QUEUE.state.lock().started = spawned.is_ok();
    spawned.map(drop)
}

/// Says what was left out, and waits for the last lines, though not for long: the process may end then.
pub fn finish() {
    limit::say_left_out(true);
    // Without its thread the log is lost.
    let _ = start();
    let deadline = Instant::now() + PATIENCE;
    let mut state = QUEUE.state.lock();
    while state.started && (state.writing || !state.is_empty()) {
        if QUEUE.idle.wait_until(&mut state, deadline).timed_out() {
            return;
        }
    }
}

fn write_on<W: Write>(output: &mut Output<W>) -> ! {
    let mut lines = Vec::new();
    let mut soon = false;
    loop {
        let mut state = QUEUE.state.lock();
        state.writing = false;
        QUEUE.idle.notify_all();
        while state.is_empty() {
            if !soon {
                QUEUE.filled.wait(&mut state);
            } else if QUEUE.filled.wait_for(&mut state, STEP).timed_out() {
                break;
            }
        }
        state.writing = true;
        std::mem::swap(&mut state.lines, &mut lines);
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        output.write(&lines, lost);
        let written = !lines.is_empty();
        lines.clear();
        // Lines are left out only within a second of others.
        soon = limit::say_left_out(false) || written || output.lost > 0;
    }
}

/// Standard error.
struct Output<W> {
    file: W,
    /// Lines that were lost and not yet said to be.
    lost: u64,
    /// Whether what was written last is only the beginning of a line.
    cut: bool,
}

impl<W: Write> Output<W> {
    /// Writes lines, and that so many behind them were lost.
    fn write(&mut self, lines: &[u8], lost: u64) {
        if self.say_lost() {
            let left = self.try_write(lines);
            self.lost += count(&lines[lines.len() - left..]);
        } else {
            self.lost += count(lines);
        }
        self.lost += lost;
        self.say_lost();
    }

    /// Says how many lines were lost, if any were; false if even that cannot be written.
    fn say_lost(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        let end = if self.cut { "\n" } else { "" };
        let line = format!("{end} WARN {} lines of the log were lost: it could not be written\n", self.lost);
        let written = self.try_write(line.as_bytes()) == 0;
        if written {
            self.lost = 0;
        }
        written
    }

    /// Writes as much as can be, and says how many bytes are left.
    fn try_write(&mut self, mut bytes: &[u8]) -> usize {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => break,
                Ok(written) => {
                    let (done, left) = bytes.split_at(written.min(bytes.len()));
                    self.cut = !done.ends_with(b"\n");
                    bytes = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(SHORT_STEP),
                Err(_) => break,
            }
        }
        bytes.len()
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        room: usize,
        contents: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.contents.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_lost_on_a_full_disk_are_counted_and_said_once_there_is_room() {
        let mut output = Output { file: Disk { room: 8, contents: vec![] }, lost: 0, cut: false };
        output.write(b"one\ntwo\nthree\n", 0);
        output.write(b"four\n", 2);
        assert_eq!(output.lost, 4);
        output.file.room = 1000;
        output.write(b"five\n", 0);
        output.file.room = 2;
        output.write(b"six\nseven\n", 0);
        output.file.room = 1000;
        output.write(b"", 0);
        let words = String::from_utf8(output.file.contents).expect("text");
        let lost = |lines| format!(" WARN {lines} lines of the log were lost: it could not be written\n");
        assert_eq!(words, format!("one\ntwo\n{}five\nsi\n{}", lost(4), lost(2)));
    }

    #[test]
    fn a_queue_is_bounded_and_what_is_lost_keeps_its_place() {
        let mut state = State::new();
        let line = [b'x'; 1000];
        for _ in 0..ROOM {
            state.push(&line);
        }
        assert_eq!((state.lines.len(), state.lost as usize), (ROOM / 1000 * 1000, ROOM - ROOM / 1000));
        // Shorter ones would fit, but belong behind those that were lost.
        state.push(b"\n");
        assert_eq!(state.lines.len(), ROOM / 1000 * 1000);
    }
}
