//! One run of a case: card and QEMU, started, fed, followed to their end, and what they left.
//!
//! Fed by [`super::pool`] with a case and a folder for its files; feeds [`super::judge`] with a [`Run`]. An error is a
//! fault of the host: something is missing, was killed, or found no room.

use super::by_hand;
use super::cases::Case;
use super::liveness::{Liveness, Stands};
use super::scenario::{Clock, Limits, Task};
use super::serial::Serial;
use crate::card::{self, Card, Checking};
use crate::commands::{conform, play::Playing, record};
use crate::disk::Disk;
use crate::exit::Interrupt;
use crate::guest::GuestReport;
use crate::machine::{Image, Item, Job, Machine, Setting};
use crate::process::{self, Process};
use crate::programs::Programs;
use crate::qemu::{GUEST_FAILURE, GUEST_SUCCESS, Guest, Qemu};
use crate::supervisor::complaints_of;
use anyhow::{Context, bail, ensure};
use dmus_card::check::Allowed;
use dmus_card::files::{Flaws, NamedSong, load_song};
use dmus_card::sink::{AudioFile, Format};
use dmus_card::sound::Sound;
use dmus_interface::rule::Rule;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

/// How often processes and limits are looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// How often the card's time is looked for in its audio file.
const LOOK: Duration = Duration::from_millis(250);
/// How long QEMU may take to end, once it has closed its output or was asked to.
const QEMU_LIMIT: Duration = Duration::from_secs(20);

/// Where the guests of this project are.
#[derive(Clone, clap::Args)]
pub(crate) struct Guests {
    /// The bare-metal guest's ELF.
    #[arg(long, value_name = "PATH")]
    elf: Option<PathBuf>,
    /// The ISO of it.
    #[arg(long, value_name = "PATH")]
    iso: Option<PathBuf>,
    /// UEFI firmware, for iso-uefi.
    #[arg(long, value_name = "PATH")]
    firmware: Option<PathBuf>,
    /// The kernel of the Linux guest.
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Its initramfs.
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
}

/// What all runs share.
pub(crate) struct Setup {
    pub(crate) programs: Programs,
    pub(crate) guests: Guests,
    pub(crate) interrupt: Interrupt,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// QEMU's exit code, which of a guest of this project is 0 or 1.
    Exit(i32),
    /// A limit was reached, as this says.
    Limit(String),
}

/// What a run left.
pub(crate) struct Run {
    pub(crate) ended: Ended,
    pub(crate) serial: Serial,
    pub(crate) guest: GuestReport,
    /// The card's counters, and what its checker found.
    pub(crate) counters: Value,
    pub(crate) report: Option<Value>,
    pub(crate) audio: PathBuf,
    pub(crate) song: Option<NamedSong>,
}

/// The names of the files in a case's folder.
pub(crate) mod files {
    pub(crate) const SERIAL: &str = "serial.txt";
    pub(crate) const LOG: &str = "card.log";
    pub(crate) const REPORT: &str = "report.json";
    pub(crate) const CAPSULE: &str = "run.dmc";
    pub(crate) const AUDIO: &str = "audio.wav";
    pub(crate) const COUNTERS: &str = "counters.json";
    pub(crate) const SCRIPT: &str = "run.sh";
    pub(crate) const FAULTS: &str = "faults.toml";
    pub(crate) const LIBERTIES: &str = "liberties.toml";
}

/// Runs a case once, with its files in `folder`.
pub(crate) fn run(case: &Case, folder: &Path, setup: &Setup) -> anyhow::Result<Run> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // The path of a socket is short.
    let dir = tempfile::Builder::new().prefix("dmus-hil-").tempdir().context("cannot make a temporary directory")?;
    let song = song(case)?;
    let audio = AudioFile { path: folder.join(files::AUDIO), format: Format::Wav };
    let job = job(case, song.as_ref(), &audio, folder)?;
    let options = card_options(case, &job, folder)?;
    let qemu = qemu_command(case, &job, &dir.path().join(card::SOCKET), setup)?;
    by_hand::write(folder, dir.path(), &Card::command(&setup.programs, dir.path(), &options)?, &qemu)?;
    let started = Card::start(&setup.programs, dir.path(), &options, &setup.interrupt);
    let mut card = started.with_context(|| last_line(folder))?;
    let started = start_qemu(case, &qemu);
    let serial = Serial::new(&case.of.scenario);
    let (limits, seconds) = (&case.of.scenario.limits, Duration::from_secs_f64);
    let followed = started.and_then(|qemu| {
        let mut following = Following {
            liveness: Liveness::new(seconds(limits.still), seconds(limits.total), vec![qemu.id(), card.id()]),
            case,
            qemu,
            card: &mut card,
            interrupt: &setup.interrupt,
            audio: &audio,
            at: 0.0,
            guest: GuestReport::new(),
            serial,
            input: None,
        };
        let ended = following.run(&folder.join(files::SERIAL))?;
        Ok((ended, following.serial, following.guest, following.liveness.last()))
    });
    let (mut ended, serial, guest, last) = match followed {
        Ok(followed) => followed,
        Err(error) => {
            // What it says of its own end is the better reason.
            let gone = card.check();
            card.abandon();
            return Err(gone.map_or_else(|gone| gone, |()| error).context(last_line(folder)));
        }
    };
    let (counters, _) = card.finish().with_context(|| last_line(folder))?;
    // One that was fast may have been past it and at its end between two looks.
    if let (Ended::Exit(_), Some(message)) = (&ended, past_limit(limits, audio.seconds().unwrap_or(0.0), &last)) {
        ended = Ended::Limit(message);
    }
    let written = std::fs::write(folder.join(files::COUNTERS), format!("{counters:#}\n"));
    written.with_context(|| format!("cannot write into {}", folder.display()))?;
    let report = match case.checks() {
        false => None,
        true => {
            let text = std::fs::read_to_string(folder.join(files::REPORT)).context("the card left no report")?;
            Some(serde_json::from_str(&text).context("the card's report is no JSON")?)
        }
    };
    Ok(Run { ended, serial, guest, counters, report, audio: audio.path, song })
}

/// What to say if the card's time is past its limit.
fn past_limit(limits: &Limits, at: f64, last: &str) -> Option<String> {
    let limit = limits.card;
    (at > limit).then(|| format!("the card's time is at {at:.1} s, past its limit of {limit} s; {last}"))
}

/// The last line of the card's log, which says more of how it ended than its exit code.
fn last_line(folder: &Path) -> String {
    let log = std::fs::read(folder.join(files::LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    match log.lines().rfind(|line| line.starts_with("dmus-card: ")) {
        Some(line) => format!("the host failed ({line})"),
        None => "the host failed".into(),
    }
}

/// The song of a guest of this project.
fn song(case: &Case) -> anyhow::Result<Option<NamedSong>> {
    match case.task() {
        Some(Task::Play | Task::Record) => Ok(Some(load_song(case.song.as_deref(), Flaws::Mend)?)),
        _ => Ok(None),
    }
}

fn job(case: &Case, song: Option<&NamedSong>, audio: &AudioFile, dir: &Path) -> anyhow::Result<Job> {
    let guest = &case.of.scenario.guest;
    let setting =
        Setting { linux: case.image == Image::Linux, realtime: case.clock == Clock::Realtime, width: case.width };
    let banks: Vec<PathBuf> = case.of.scenario.card.bank.iter().map(|bank| case.of.path(bank)).collect();
    let dls = guest.dls.as_ref().map(|dls| case.of.path(dls));
    let plays = |song| {
        Playing {
            song,
            output: Some(audio),
            sound: Sound::default(),
            banks: &banks,
            dls: dls.as_deref(),
            through_guest: false,
            latency: guest.latency,
        }
        .job(setting, dir)
    };
    let mut job = match (case.task(), song) {
        (Some(Task::Play), Some(song)) => plays(song)?,
        (Some(Task::Record), Some(song)) => record::job(song, setting, dir)?,
        (Some(Task::Conform), _) => conform::job(setting.width),
        _ => Job {
            card: Vec::new(),
            log: "warn",
            log_file: None,
            items: Vec::new(),
            share: None,
            linux: guest.run.clone().unwrap_or_default(),
            speaker: None,
            misbehaves: false,
        },
    };
    if case.task() != Some(Task::Play) {
        job.card.extend(["--sink".into(), audio.to_string().into()]);
        job.card.extend(banks.iter().flat_map(|bank| ["--bank".into(), bank.into()]));
    }
    let feed = &case.of.scenario.feed;
    for source in &feed.midi {
        let source =
            if source == "loopback" { source.into() } else { case.of.path(Path::new(source)).into_os_string() };
        job.card.extend(["--midi-in".into(), source]);
    }
    job.items.extend(feed.files.iter().map(|(name, file)| (name.clone(), Item::File(case.of.path(file)))));
    job.items.extend(feed.texts.iter().map(|(name, text)| (name.clone(), Item::Text(text.clone()))));
    if let Some(share) = &feed.share {
        ensure!(job.share.is_none(), "the guest's folder is taken: it brings dls into the guest");
        job.share = Some(case.of.path(share));
    }
    Ok(job)
}

impl Case {
    /// What a guest of this project does.
    pub(crate) fn task(&self) -> Option<Task> {
        let guest = &self.of.scenario.guest;
        (guest.is_ours() && guest.run.is_none()).then(|| guest.task.unwrap_or(Task::Play))
    }

    /// Whether the driver is checked: the guest that tries what the DDI states breaks rules on purpose.
    pub(crate) fn checks(&self) -> bool {
        self.of.scenario.card.check.unwrap_or(self.task() != Some(Task::Conform))
    }
}

fn card_options(case: &Case, job: &Job, folder: &Path) -> anyhow::Result<card::Options> {
    let mut more = job.card.clone();
    more.extend(["--drift".into(), case.drift.to_string().into()]);
    let plan = case.plan();
    let write = |name: &str, text: Result<String, toml::ser::Error>| {
        let path = folder.join(name);
        std::fs::write(&path, text?).with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(OsString::from(path))
    };
    if !plan.faults.is_empty() {
        more.extend(["--faults".into(), write(files::FAULTS, toml::to_string(&plan.faults))?]);
    }
    if let Some(liberties) = &plan.liberties {
        more.extend(["--liberties".into(), write(files::LIBERTIES, toml::to_string(liberties))?]);
    }
    let allow = case.of.scenario.card.allow.iter();
    let allow = allow.filter_map(|(name, reason)| Some(Allowed { rule: Rule::find(name)?, reason: reason.clone() }));
    let report = case.checks().then(|| folder.join(files::REPORT));
    Ok(card::Options {
        clock: case.clock.name(),
        checking: Checking::kept(report, folder.join(files::CAPSULE), allow.collect()),
        more,
        log: Some(job.log),
        log_file: Some(folder.join(files::LOG)),
    })
}

fn start_qemu(case: &Case, words: &[OsString]) -> anyhow::Result<Process> {
    let mut command = process::command(words)?;
    let stdin = if case.of.scenario.feed.serial.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What a terminal sends to this process's group is this process's business.
    Process::start(command.process_group(0)).context("cannot start QEMU")
}

fn qemu_command(case: &Case, job: &Job, socket: &Path, setup: &Setup) -> anyhow::Result<Vec<OsString>> {
    let guest = &case.of.scenario.guest;
    let more = || guest.qemu.iter().map(OsString::from);
    if guest.is_ours() {
        let Guests { elf, iso, firmware, kernel, initrd } = setup.guests.clone();
        let (image, initrd, firmware) = match case.image {
            Image::Elf => (elf, None, None),
            Image::Iso => (iso, None, None),
            Image::IsoUefi => (iso, None, firmware),
            Image::Linux => (kernel, initrd, None),
        };
        let name = case.image.name();
        let image = image.with_context(|| format!("no image {name} was given: qemu-scripts/hil builds it"))?;
        let realtime = case.clock == Clock::Realtime;
        let programs = setup.programs.clone();
        let machine = Machine::of(case.image, (image, initrd, firmware), (realtime, case.width), programs);
        let mut words = machine.qemu_command(socket, job, None)?;
        words.extend(more());
        return Ok(words);
    }
    let mut qemu = Qemu::with_memory(&setup.programs, Guest::BareMetal, guest.memory.unwrap_or(512).into());
    qemu.serial();
    for (name, item) in &job.items {
        match item {
            Item::File(path) => qemu.file(name, path),
            Item::Text(text) => qemu.text(name, text),
        }
    }
    if let Some(kernel) = &guest.kernel {
        qemu.kernel(&case.of.path(kernel));
        qemu.initrd(guest.initrd.as_ref().map(|initrd| case.of.path(initrd)).as_deref(), guest.append.as_deref());
    }
    if let Some(iso) = &guest.iso {
        qemu.cd(&case.of.path(iso));
    }
    if let Some(disk) = &guest.disk {
        let disk = case.of.path(disk);
        qemu.disk(&disk, Disk::recognise(&disk)?.format.name());
    }
    if let Some(share) = &job.share {
        qemu.share(share, true);
    }
    let words: Vec<&str> = guest.qemu.iter().map(String::as_str).collect();
    qemu.add(&words);
    qemu.card(socket);
    Ok(qemu.into_words())
}

/// A guest that runs.
struct Following<'a> {
    liveness: Liveness,
    case: &'a Case,
    qemu: Process,
    card: &'a mut Card,
    interrupt: &'a Interrupt,
    audio: &'a AudioFile,
    /// Seconds of the card's time.
    at: f64,
    guest: GuestReport,
    serial: Serial,
    /// Who writes to the serial line, once there was something to write.
    input: Option<Sender<String>>,
}

impl Following<'_> {
    /// Follows the serial line until QEMU ends, or a limit is reached.
    fn run(&mut self, serial: &Path) -> anyhow::Result<Ended> {
        let complaints = complaints_of(self.qemu.stderr()?);
        let file = File::create(serial).with_context(|| format!("cannot write {}", serial.display()))?;
        let output = chunks_of(self.qemu.stdout()?, file);
        let mut looked = Instant::now();
        loop {
            self.interrupt.check()?;
            if let Some(text) = self.serial.next_input() {
                self.send(text);
            }
            match output.recv_timeout(GLANCE) {
                Ok(chunk) => {
                    let chunk = chunk.with_context(|| format!("cannot write {}", serial.display()))?;
                    let Self { serial, guest, .. } = self;
                    serial.take(&chunk, |line| _ = guest.take(line));
                    let last = self.serial.last();
                    self.liveness.moved(|| format!("the serial line, with {last:?}"));
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.card.check()?,
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if let Some(message) = self.limit()? {
                    self.qemu.terminate(QEMU_LIMIT);
                    return Ok(Ended::Limit(message));
                }
            }
        }
        let Self { serial, guest, .. } = self;
        serial.finish(|line| _ = guest.take(line));
        let status = self.qemu.wait(QEMU_LIMIT)?.context("QEMU closed its output and did not end")?;
        let complaints = complaints.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        self.ended(status, complaints.trim())
    }

    /// A guest that takes none of it keeps the writer, which ends with QEMU.
    fn send(&mut self, text: String) {
        if let Some(mut serial) = self.qemu.stdin() {
            let (sender, texts) = channel::<String>();
            self.input = Some(sender);
            std::thread::spawn(move || {
                for text in texts {
                    if serial.write_all(text.as_bytes()).and_then(|()| serial.flush()).is_err() {
                        break;
                    }
                }
            });
        }
        // What the guest has no ears for any more is lost.
        self.input.iter().for_each(|input| _ = input.send(text.clone()));
    }

    /// Why the run is to be ended now, if it is.
    fn limit(&mut self) -> anyhow::Result<Option<String>> {
        let at = self.audio.seconds().unwrap_or(0.0);
        if at > self.at {
            self.at = at;
            self.liveness.moved(|| format!("the card's time, to {at:.1} s"));
        }
        if let Some(message) = past_limit(&self.case.of.scenario.limits, at, &self.liveness.last()) {
            return Ok(Some(message));
        }
        Ok(match self.liveness.stands() {
            None => None,
            Some(Stands::Still(still)) => {
                let last = self.liveness.last();
                Some(format!("it stood still for {:.1} s; {last}", still.as_secs_f64()))
            }
            Some(Stands::Endless(ran)) => {
                let last = self.liveness.last();
                Some(format!("it came to no end in {:.1} s; {last}", ran.as_secs_f64()))
            }
            Some(Stands::Starved(why)) => bail!("it did not get on: {why}; {}", self.liveness.last()),
        })
    }

    /// Tells what the guest ended with from what QEMU or the card did.
    fn ended(&mut self, status: ExitStatus, complaints: &str) -> anyhow::Result<Ended> {
        self.card.check()?;
        let Some(code) = status.code() else {
            bail!("QEMU was killed while the guest ran (signal {})", status.signal().unwrap_or(0));
        };
        let spoke = self.serial.has_any();
        match code {
            GUEST_SUCCESS if self.case.of.scenario.guest.is_ours() => Ok(Ended::Exit(0)),
            GUEST_FAILURE if self.case.of.scenario.guest.is_ours() => Ok(Ended::Exit(1)),
            3 | 4 | 126 | 127 if !spoke => bail!("QEMU cannot be started: {complaints}"),
            1 if !complaints.is_empty() && !spoke => bail!("QEMU failed: {complaints}"),
            code => Ok(Ended::Exit(code)),
        }
    }
}

/// The guest's output, which goes into a file first.
fn chunks_of(mut output: ChildStdout, mut file: File) -> Receiver<std::io::Result<Vec<u8>>> {
    /// More than a run that anybody reads, and less than a disk.
    const MAX: usize = 8 << 20;
    let (sender, receiver) = sync_channel(16);
    std::thread::spawn(move || {
        let (mut chunk, mut room) = (vec![0; 64 << 10], MAX);
        // An error of reading is the end of it.
        while let Ok(count @ 1..) = output.read(&mut chunk) {
            let kept = count.min(room);
            room -= kept;
            let written = file.write_all(&chunk[..kept]).map(|()| chunk[..count].to_vec());
            if sender.send(written).is_err() {
                break;
            }
        }
    });
    receiver
}
