//! The two processes of a playing, card and QEMU: started, watched, and ended whatever happens.
//!
//! Fed by the arguments of `play`; feeds [`super::guest`] with the serial line, and the caller with what the card counted. Both
//! processes are leashed to this one, so that none outlives it.

use super::{Args, GuestReport, Image};
use crate::commands::leash::leashed;
use crate::commands::{Exit, Failure, NamedSong};
use anyhow::Context;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use signal_hook::consts::SIGSYS;
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Guest memory, of the player and of Linux.
const MEMORY: &str = "256M";
const LINUX_MEMORY: &str = "512M";
/// For the kernel of Linux: little on the serial line, and QEMU ends when it panics.
const LINUX_OPTIONS: &str = "console=ttyS0 quiet panic=-1";
/// isa-debug-exit makes this of the guest's success code; every other way to end gives another.
const GUEST_SUCCESS: i32 = 0x31 << 1 | 1;
/// How long the card may take to listen, and to complete its files at the end.
const CARD_LIMIT: Duration = Duration::from_secs(20);
/// How often signals and processes are looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// See the module.
pub(crate) struct Scene<'a> {
    args: &'a Args,
    dir: &'a Path,
    interrupted: &'a AtomicBool,
}

/// A child that does not outlive its scene.
struct Leashed(Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Scene<'a> {
    pub(crate) fn new(args: &'a Args, dir: &'a Path, interrupted: &'a AtomicBool) -> Self {
        Self { args, dir, interrupted }
    }

    /// Plays the song; gives what the guest said and what the card counted.
    pub(crate) fn play(&self, song: &NamedSong, bar: &ProgressBar) -> anyhow::Result<(GuestReport, Value)> {
        let song_file = self.dir.join("song.mid");
        std::fs::write(&song_file, &song.bytes).context("cannot write a temporary file")?;
        let mut card = self.start_card()?;
        let guest = GuestReport::new();
        let mut qemu = self.start_qemu(&song_file)?;
        let watched = self.watch(&mut qemu, guest, &mut card, bar);
        drop(qemu);
        // A terminal interrupts all three processes at once, and another's end may be seen first.
        let watched = match self.interrupted.load(Ordering::Relaxed) {
            true => Err(Failure::new(Exit::Interrupted, "interrupted").into()),
            false => watched,
        };
        if watched.is_err() {
            // The card completes the WAV when its client has gone.
            self.end_card(&mut card);
        }
        let guest = watched?;
        let status = self.wait_for_card(&mut card)?;
        if !status.success() {
            anyhow::bail!("the card could not complete its work ({status})");
        }
        let text = std::fs::read_to_string(self.card_json()).context("the card left no summary")?;
        Ok((guest, serde_json::from_str(&text).context("the card's summary is no JSON")?))
    }

    fn card_json(&self) -> PathBuf {
        self.dir.join("card.json")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("card.sock")
    }

    fn start_card(&self) -> anyhow::Result<Leashed> {
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let socket = self.socket();
        let text = |path: &Path| path.display().to_string();
        let mut command = vec![
            text(&this),
            "serve".into(),
            "--once".into(),
            "--socket".into(),
            text(&socket),
            "--sink".into(),
            self.args.output.to_string(),
            "--clock".into(),
            if self.args.realtime { "realtime" } else { "virtual" }.into(),
            "--json".into(),
            text(&self.card_json()),
        ];
        command.extend(self.args.banks.files.iter().flat_map(|file| ["--bank".into(), text(file)]));
        if self.args.no_sandbox {
            command.push("--no-sandbox".into());
        }
        let mut leash = leashed(&command)?;
        // Quiet about itself: this process tells the story.
        if std::env::var_os("DMUS_LOG").is_none() {
            leash.env("DMUS_LOG", "warn,vfio_user=off");
        }
        let mut card = Leashed(leash.stdin(Stdio::null()).spawn().context("cannot start the card")?);
        let deadline = Instant::now() + CARD_LIMIT;
        while !socket.exists() {
            if let Some(status) = card.0.try_wait()? {
                anyhow::bail!("the card could not start ({status})");
            }
            anyhow::ensure!(Instant::now() < deadline, "the card did not listen within {CARD_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(card)
    }

    fn start_qemu(&self, song: &Path) -> anyhow::Result<Leashed> {
        let args = self.args;
        let guest = args.guest.display();
        anyhow::ensure!(args.guest.exists(), "there is no guest image at {guest}: qemu-scripts/play builds it");
        let device = json!({
            "driver": "vfio-user-pci",
            "rombar": 0,
            "x-msg-timeout": 60_000,
            "socket": { "type": "unix", "path": self.socket() },
        });
        let mut command = vec![args.qemu.clone()];
        let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
        let memory = if args.image == Image::Linux { LINUX_MEMORY } else { MEMORY };
        add(&["-accel", &args.accel, "-m", memory]);
        add(&["-object", &format!("memory-backend-memfd,id=ram,size={memory},share=on")]);
        // VFIO in the guest wants interrupts remapped, which KVM leaves to QEMU only with a split controller.
        let split = if args.image == Image::Linux { ",kernel-irqchip=split" } else { "" };
        add(&["-machine", &format!("q35,memory-backend=ram{split}"), "-nodefaults", "-no-user-config", "-no-reboot"]);
        add(&["-display", "none", "-vga", "none", "-net", "none"]);
        add(&["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        add(&["-fw_cfg", &format!("name=opt/dmus/song,file={}", option(song))]);
        if let Some(dls) = &args.dls {
            add(&["-fw_cfg", &format!("name=opt/dmus/dls,file={}", option(dls))]);
        }
        if args.image == Image::Linux {
            // Programs reach devices through an IOMMU only; it must come before them.
            add(&["-device", "intel-iommu,caching-mode=on"]);
        }
        add(&["-device", &device.to_string()]);
        let guest = args.guest.display().to_string();
        match args.image {
            Image::Elf => add(&["-kernel", &guest]),
            Image::Linux => {
                let initrd = args.initrd.as_ref().context("no initramfs given")?.display().to_string();
                let run = if args.realtime { "play realtime" } else { "play" };
                add(&["-kernel", &guest, "-initrd", &initrd, "-append", LINUX_OPTIONS]);
                add(&["-fw_cfg", &format!("name=opt/dmus/run,string={run}")]);
            }
            Image::Iso | Image::IsoUefi => {
                add(&["-drive", &format!("file={},format=raw,media=cdrom,readonly=on,if=ide", option(&args.guest))]);
                add(&["-boot", "d"]);
            }
        }
        if let Some(firmware) = &args.firmware {
            add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", option(firmware))]);
        }
        tracing::debug!("{}", command.join(" "));
        let mut leash = leashed(&command)?;
        let child = leash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| Failure::new(Exit::Qemu, format!("cannot start QEMU: {error}")))?;
        Ok(Leashed(child))
    }

    /// Follows the guest's serial line until QEMU ends.
    fn watch(
        &self,
        qemu: &mut Leashed,
        mut guest: GuestReport,
        card: &mut Leashed,
        bar: &ProgressBar,
    ) -> anyhow::Result<GuestReport> {
        let complaints = collect(qemu.0.stderr.take().context("QEMU has no standard error")?);
        let lines = lines_of(qemu.0.stdout.take().context("QEMU has no standard output")?);
        let limit = Duration::from_secs(self.args.time_limit);
        let mut last_sign = Instant::now();
        let mut plain = PlainProgress::new(bar);
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Failure::new(Exit::Interrupted, "interrupted").into());
            }
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    tracing::debug!("guest: {line}");
                    last_sign = Instant::now();
                    guest.take(&line, bar);
                    plain.show(bar);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if last_sign.elapsed() > limit => {
                    let message =
                        format!("the guest stood still for {} s and was ended{}", limit.as_secs(), guest.last_words());
                    return Err(Failure::new(Exit::Stalled, message).into());
                }
                // The card ends by itself only after QEMU has.
                Err(RecvTimeoutError::Timeout) => self.expect_card(card)?,
            }
        }
        let status = qemu.0.wait().context("cannot wait for QEMU")?;
        let complaints = complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        match status.code() {
            Some(GUEST_SUCCESS) if guest.played.is_some() => Ok(guest),
            _ => {
                self.expect_card(card)?;
                Err(self.judge(status, &guest, &complaints))
            }
        }
    }

    fn expect_card(&self, card: &mut Leashed) -> anyhow::Result<()> {
        match card.0.try_wait()? {
            Some(status) if !status.success() => {
                let why = match status.signal() {
                    Some(SIGSYS) => {
                        ": it tried a system call that its sandbox forbids (the kernel's log has the number), \
                         which is a defect of the card or an attack; --no-sandbox plays without"
                    }
                    _ => "",
                };
                let message = format!("the card ended while the guest played ({status}){why}");
                Err(Failure::new(Exit::CardGone, message).into())
            }
            _ => Ok(()),
        }
    }

    /// What a QEMU that did not end with success died of.
    fn judge(&self, status: ExitStatus, guest: &GuestReport, complaints: &str) -> anyhow::Error {
        let complaints = complaints.trim();
        let (exit, message) = match status.code() {
            None => (Exit::QemuGone, format!("QEMU was killed while the guest played ({status})")),
            Some(_) if guest.error.is_some() || guest.spoke => {
                (Exit::Guest, format!("the guest failed{}", guest.last_words()))
            }
            Some(3 | 4 | 126 | 127) => (Exit::Qemu, format!("QEMU cannot be started: {complaints}")),
            Some(_) if !complaints.is_empty() => (Exit::Qemu, format!("QEMU failed: {complaints}")),
            Some(code) => (Exit::Guest, format!("the guest ended without a word (QEMU's exit code {code})")),
        };
        Failure::new(exit, message).into()
    }

    /// Asks the card to complete its files.
    fn end_card(&self, card: &mut Leashed) {
        if self.wait_for_exit(card, Duration::from_millis(200)).is_none()
            && let Some(pid) = rustix::process::Pid::from_raw(card.0.id() as i32)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            self.wait_for_exit(card, CARD_LIMIT);
        }
    }

    fn wait_for_card(&self, card: &mut Leashed) -> anyhow::Result<ExitStatus> {
        self.wait_for_exit(card, CARD_LIMIT)
            .with_context(|| format!("the card did not end within {CARD_LIMIT:?} after its guest"))
    }

    fn wait_for_exit(&self, child: &mut Leashed, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match child.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }

    /// Adds what is left of the audio to an error.
    pub(crate) fn with_remains(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(seconds) = self.args.output.seconds() else {
            return error;
        };
        let remains = format!("{} holds the {seconds:.1} s that were rendered", self.args.output.path.display());
        match error.downcast_ref::<Failure>() {
            Some(failure) => Failure::new(failure.exit, format!("{}; {remains}", failure.message)).into(),
            None => anyhow::anyhow!("{error:#}; {remains}"),
        }
    }
}

/// A path as part of an option of QEMU, where a comma ends the part.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Without a terminal: a line each quarter of the song.
struct PlainProgress {
    next_quarter: u64,
}

impl PlainProgress {
    fn new(bar: &ProgressBar) -> Self {
        let plain = !std::io::stderr().is_terminal();
        if plain {
            eprintln!("booting the guest ...");
        }
        bar.tick();
        Self { next_quarter: if plain { 1 } else { u64::MAX } }
    }

    fn show(&mut self, bar: &ProgressBar) {
        let length = bar.length().unwrap_or(0).max(1);
        while self.next_quarter <= 4 && bar.position() * 4 >= self.next_quarter * length {
            eprintln!("playing ... {} %", self.next_quarter * 25);
            self.next_quarter += 1;
        }
    }
}

/// Lines of the guest, however broken.
fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// All that QEMU complains of, less what is harmless.
fn collect(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let lines: Vec<_> = lines.filter(|line| !line.contains("enable error recovery")).collect();
        let _ = sender.send(lines.join("\n"));
    });
    receiver
}
