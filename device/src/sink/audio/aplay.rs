//! ALSA, where there is no sound server: aplay (alsa-utils), a process that is started before the sandbox.
//!
//! Fed by the audio sink; feeds aplay's standard input, a pipe that is kept full and so short that what waits here says
//! how fast the device plays.

use super::{Device, FRAME, frames_of};
use crate::identity::{ClockMode, SAMPLE_RATE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long aplay may take to open the device.
const START: Duration = Duration::from_secs(5);
/// Bytes of the pipe, as few as it can have: 21 ms.
const PIPE: usize = 4096;
/// Frames that should wait here: 30 ms, of which aplay takes 10 at once.
const TARGET: usize = frames_of(30);
/// Bytes of a line that aplay prints, at most.
const LINE: usize = 4096;

/// An aplay that plays.
pub(super) struct Aplay {
    /// `None` once it was told that there is no more.
    input: Option<ChildStdin>,
    said: ChildStderr,
    /// What of a line it has said.
    line: Vec<u8>,
    /// Bytes of a frame that the pipe has taken a part of.
    part: usize,
    surplus: Option<i64>,
    dry: bool,
}

impl Aplay {
    /// Starts it on the default device, and waits until it plays.
    pub(super) fn start(clock: ClockMode) -> Result<Self, String> {
        // Microseconds.
        let (buffer, period) = if clock == ClockMode::Realtime { ("60000", "10000") } else { ("500000", "50000") };
        let mut command = Command::new("aplay");
        command.args(["--file-type=raw", "--format=S16_LE", "--channels=2", "--buffer-time", buffer, "--period-time"]);
        command.arg(period).arg(format!("--rate={SAMPLE_RATE}"));
        // It is read what it says. Nor is it of this process's group: what a terminal sends to that ends the card
        // first.
        command.env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => "aplay is missing (package alsa-utils), which plays through ALSA".to_owned(),
            _ => format!("aplay, which plays through ALSA, cannot be started: {error}"),
        })?;
        let (Some(input), Some(said)) = (child.stdin.take(), child.stderr.take()) else {
            return Err("aplay cannot be spoken to".into());
        };
        let prepared = || -> rustix::io::Result<()> {
            rustix::pipe::fcntl_setpipe_size(&input, PIPE)?;
            fcntl_setfl(&input, fcntl_getfl(&input)? | OFlags::NONBLOCK)?;
            fcntl_setfl(&said, fcntl_getfl(&said)? | OFlags::NONBLOCK)
        };
        prepared().map_err(|error| format!("aplay cannot be spoken to: {error}"))?;
        let mut this = Self { input: Some(input), said, line: vec![], part: 0, surplus: None, dry: false };
        // It opens the device before it reads, and says what it plays once it has read something.
        this.write(&[0; FRAME * frames_of(1)])?;
        let deadline = Instant::now() + START;
        loop {
            match this.line()? {
                Some(line) if line.starts_with("Playing") => return Ok(this),
                Some(line) => return Err(format!("ALSA has no device: {line}")),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("aplay does not play within {START:?}"));
            }
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&this.said, PollFlags::IN)], Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("aplay cannot be waited for: {error}")),
            }
        }
    }

    /// The next line that it has said, if it has.
    fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.line[..end]).into_owned();
                self.line.drain(..=end);
                return Ok(Some(line));
            }
            if self.line.len() > LINE {
                self.line.clear();
            }
            let mut bytes = [0; 512];
            match self.said.read(&mut bytes) {
                Ok(0) => return Err("aplay has ended".into()),
                Ok(count) => self.line.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(format!("aplay cannot be heard: {error}")),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let Some(input) = &mut self.input else {
            return Ok(0);
        };
        let mut written = 0;
        while written < bytes.len() {
            match input.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("aplay has ended: {error}")),
            }
        }
        Ok(written)
    }
}

impl Device for Aplay {
    fn play(&mut self, bytes: &[u8]) -> Result<usize, String> {
        while let Some(line) = self.line()? {
            match line.contains("underrun") {
                true => self.dry = true,
                false => tracing::warn!("aplay: {line}"),
            }
        }
        // What waits here begins with the whole frame of which the pipe has a part.
        let rest = bytes.get(self.part..).unwrap_or_default();
        let taken = self.part + self.write(rest)?;
        self.part = taken % FRAME;
        Ok(taken - self.part)
    }

    fn measure(&mut self, waiting: usize) -> Result<(), String> {
        // The pipe and the device's own buffer are full as long as anything waits.
        self.surplus = Some(waiting as i64 - TARGET as i64);
        Ok(())
    }

    fn surplus(&mut self) -> Option<i64> {
        self.surplus.take()
    }

    fn ran_dry(&mut self) -> bool {
        std::mem::take(&mut self.dry)
    }

    fn drain(&mut self) -> Result<bool, String> {
        // At the end of its input it plays what it has, and ends.
        self.input = None;
        Ok(self.line().is_err())
    }
}
