//! Machines that a test starts, resets and kills: one `dmus-card serve`, and QEMUs with the player guest on it, one
//! after the other.
//!
//! Fed by tests of booted guests; feeds them with what the guest says, and at the end with the card's counters and
//! audio. QEMU's monitor is reached through QMP. Everything has a time limit, and nothing outlives the test.

use crate::programs::{self, Running, guest, script, signal, until};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take to start, to answer, and to play.
const LIMIT: Duration = Duration::from_secs(60);

/// A card of virtual time that serves one QEMU after the other.
pub struct Served<'d> {
    dir: &'d Path,
    card: Running,
}

impl<'d> Served<'d> {
    /// Starts it; its files are in `dir`.
    pub fn start(dir: &'d Path) -> anyhow::Result<Self> {
        let arguments = "serve --clock virtual --socket card.sock --sink wav:out.wav --json card.json";
        let card = Running::start(programs::card()?.args(arguments.split(' ')).current_dir(dir))?;
        until("the card's socket", LIMIT, || dir.join("card.sock").exists())?;
        Ok(Self { dir, card })
    }

    /// Boots the player guest with a song, and with more options for QEMU in front of the card.
    pub fn boot(&self, song: &Path, more: &[&str]) -> anyhow::Result<Machine> {
        let qmp = self.dir.join("qmp.sock");
        let serial = self.dir.join("serial");
        for left in [&qmp, &serial] {
            // The first boot finds none.
            let _ = std::fs::remove_file(left);
        }
        let device = json!({
            "driver": "vfio-user-pci", "rombar": 0, "x-msg-timeout": 60_000,
            "socket": { "type": "unix", "path": self.dir.join("card.sock") },
        });
        let mut qemu = script("qemu");
        qemu.args(["-accel", "tcg", "-m", "256M", "-object", "memory-backend-memfd,id=ram,size=256M,share=on"]);
        qemu.args(["-machine", "q35,memory-backend=ram", "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-vga", "none", "-net", "none", "-device", "isa-debug-exit,iobase=0xf4"]);
        qemu.args(["-serial", &format!("file:{}", serial.display())]);
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())]);
        qemu.args(["-fw_cfg", &format!("name=opt/dmus/song,file={}", song.display())]);
        qemu.args(more).args(["-device", &device.to_string()]).arg("-kernel").arg(guest()?);
        let qemu = Running::start(&mut qemu)?;
        let mut monitor = None;
        until("QEMU's monitor", LIMIT, || {
            monitor = UnixStream::connect(&qmp).ok();
            monitor.is_some()
        })?;
        let monitor = monitor.context("no monitor")?;
        monitor.set_read_timeout(Some(LIMIT))?;
        let mut machine = Machine { qemu, qmp: BufReader::new(monitor), serial };
        machine.execute("qmp_capabilities", json!({}))?;
        Ok(machine)
    }

    /// Ends it in order; gives what it counted, and the samples as bytes.
    pub fn finish(self) -> anyhow::Result<(Value, Vec<u8>)> {
        signal(self.card.id(), "TERM");
        let done = self.card.output()?;
        let said = programs::said(&done);
        ensure!(done.status.code() == Some(130), "{said}");
        // QEMU goes on without a range that the card refuses.
        ensure!(!said.contains("is left out"), "the card refused guest memory:\n{said}");
        let counters = serde_json::from_str(&std::fs::read_to_string(self.dir.join("card.json"))?)?;
        Ok((counters, audio(&self.dir.join("out.wav"))?))
    }
}

/// A QEMU with the player guest.
pub struct Machine {
    qemu: Running,
    qmp: BufReader<UnixStream>,
    serial: PathBuf,
}

impl Machine {
    /// What the guest has said since QEMU was started.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest is in the middle of its song, `boots` boots after QEMU's start counted from 1.
    pub fn plays(&mut self, boots: usize) -> anyhow::Result<()> {
        let mut ended = None;
        until("a playing guest", LIMIT, || {
            ended = self.qemu.status();
            let said = self.said();
            let (before, last) = said.rsplit_once("dmus: progress 0").unwrap_or_default();
            // Two signs are two seconds of music.
            let playing = last.matches("dmus: progress").count() >= 2;
            ended.is_some() || playing && before.matches("dmus: progress 0").count() == boots - 1
        })?;
        ensure!(ended.is_none(), "QEMU ended ({ended:?}), the guest said:\n{}", self.said());
        Ok(())
    }

    /// A command of the monitor for people; gives its answer.
    pub fn monitor(&mut self, line: &str) -> anyhow::Result<String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.qmp.get_mut(), "{request}")?;
        loop {
            let mut line = String::new();
            ensure!(
                self.qmp.read_line(&mut line)? > 0,
                "QEMU ended before {request}, the guest said:\n{}",
                self.said()
            );
            let mut answer: Value = serde_json::from_str(&line)?;
            ensure!(answer.get("error").is_none(), "{request}: {answer}");
            // Greeting and events are something else.
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// Kills QEMU without a warning.
    pub fn kill(self) -> anyhow::Result<()> {
        signal(self.qemu.id(), "KILL");
        self.qemu.output().map(drop)
    }

    /// Waits for the guest's end, which must be a song that was played.
    pub fn played(mut self) -> anyhow::Result<()> {
        let mut ended = None;
        until("the end of the song", LIMIT, || {
            ended = self.qemu.status();
            ended.is_some()
        })?;
        let said = self.said();
        ensure!(ended.and_then(|status| status.code()) == Some(99), "{ended:?}, the guest said:\n{said}");
        ensure!(said.matches("dmus: played").count() == 1, "{said}");
        Ok(())
    }
}

/// The samples of a WAV file, which must be a valid one, as bytes: four for a frame.
pub fn audio(wav: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(wav)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let samples = bytes.get(44..).context("no samples")?;
    ensure!(&bytes[..4] == b"RIFF" && &bytes[36..40] == b"data", "{} is no WAV file", wav.display());
    let lengths = (word(4), word(40));
    let right = (Some(bytes.len() as u32 - 8), Some(samples.len() as u32));
    ensure!(lengths == right, "{} has {lengths:?} for lengths, not {right:?}", wav.display());
    Ok(samples.to_vec())
}

/// Whether `audio` is `whole` from its start so often, each time broken off somewhere, and then all of `whole`.
pub fn is_broken_off(audio: &[u8], whole: &[u8], times: usize) -> bool {
    fn parts(audio: &[u8], whole: &[u8], times: usize) -> bool {
        if times == 0 {
            return audio.is_empty();
        }
        let same = audio.chunks(4).zip(whole.chunks(4)).take_while(|(a, b)| a == b).count();
        let longest = same.min(whole.len() / 4 - 1);
        // The next part's first frames may be as this one's would have been.
        (longest.saturating_sub(64).max(1)..=longest).rev().any(|frames| parts(&audio[frames * 4..], whole, times - 1))
    }
    audio.strip_suffix(whole).is_some_and(|before| parts(before, whole, times))
}
