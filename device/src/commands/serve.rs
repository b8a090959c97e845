//! `serve`: the card on a socket, for a QEMU that somebody else runs.

use super::bank::Banks;
use super::deviating::Deviating;
use super::midi_in::MidiIn;
use super::recording::{Files, Recording, Tracer};
use super::sweep::Sweeper;
use super::{Exit, JsonFile};
use anyhow::Context;
use dmus_card::ClockMode;
use dmus_card::capture::inputs::MAX_INPUTS;
use dmus_card::check::{Allowed, Checker, Stop};
use dmus_card::deviation::Deviations;
use dmus_card::engine::EngineHandle;
use dmus_card::owners::Owners;
use dmus_card::sink::audio::AudioSink;
use dmus_card::sink::limited::LimitedSink;
use dmus_card::sink::pipe::PipeSink;
use dmus_card::sink::{AudioFile, Format, NullSink, Sink};
use dmus_card::sound::Sound;
use dmus_card::stats::Stats;
use dmus_card::transport::{self, Transport};
use dmus_card::{control, log, privileges, sandbox};
use dmus_interface::rule::Rule;
use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

/// Serve the card on a Unix socket.
///
/// Then start QEMU (10.1 or newer) with shared memory and the device:
///
/// qemu-system-x86_64 -m 512M -object memory-backend-memfd,id=m,size=512M,share=on -machine q35,memory-backend=m
///   -device '{"driver":"vfio-user-pci","rombar":0,"x-msg-timeout":60000,"socket":{"type":"unix","path":"card.sock"}}'
///
/// Without the memory-backend-memfd, whose memory the card shares, it asks QEMU for memory by messages: slower, and not
/// with --transport crate.
///
/// The card serves one QEMU at a time, one after the other, until SIGINT or SIGTERM; the audio file grows from one to
/// the next.
///
/// A pipe carries raw S16 samples, little-endian, stereo, 48 kHz. A slow reader holds virtual time up; with the
/// realtime clock it misses what it cannot take.
///
/// The sink audio plays on this machine: through PipeWire or PulseAudio, at the socket that PULSE_SERVER names or the
/// user's own, or, where neither runs, through ALSA by aplay (alsa-utils). In virtual time the device paces the card.
///
/// As root it gives up its capabilities once everything is open, and with --user its user and groups. The socket stays
/// root's.
///
/// It serves in a sandbox (seccomp and Landlock): it opens no file and makes no socket from then on. A card that tries
/// what it has no use for is killed (SIGSYS), and the kernel's log says which system call that was. A kernel without
/// Landlock brings a warning; one that takes no seccomp filters, an error.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Where to listen; a stale socket is replaced.
    #[arg(long, value_name = "PATH", required_unless_present = "fd", conflicts_with = "fd")]
    socket: Option<PathBuf>,
    /// Serve on this descriptor, a listening Unix socket that the card was started with (systemd passes 3).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(0..))]
    fd: Option<RawFd>,
    /// Where the audio goes: wav:FILE, flac:FILE, pipe:FIFO, pipe:- (standard output), audio (the sound device) or
    /// null.
    #[arg(long, default_value = "null")]
    sink: SinkArg,
    /// Where MIDI comes from, for capture streams: FILE.mid (from the first RUN on), unix:PATH (raw bytes of whoever
    /// connects there), fd:N (raw bytes of that descriptor) or loopback (what render streams present). May be given up
    /// to 16 times; the first is input 0.
    #[arg(long, value_name = "SOURCE")]
    midi_in: Vec<MidiIn>,
    /// Give the sink so many seconds of audio at most, and go on silently then: a guest can grant years at once.
    #[arg(long, value_name = "SECONDS")]
    max_audio: Option<NonZeroU32>,
    /// What moves time: the driver's grants, as fast as the card renders, or the host's clock.
    #[arg(long, value_enum, default_value = "realtime")]
    clock: ClockArg,
    /// Let the crystal of wave sink streams be off by so many parts per million (at most 1,000 either way), as real
    /// ones are.
    #[arg(long, value_name = "PPM", default_value_t = 0, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    drift: i32,
    #[command(flatten)]
    banks: Banks,
    #[command(flatten)]
    sound: Sound,
    /// Who speaks vfio-user: the card's own server, or the vfio_user crate's, which is for comparison only: it trusts
    /// its client, and a hostile one can end or stop the card.
    #[arg(long, value_enum, default_value = "own")]
    transport: TransportArg,
    /// End when the first client has gone.
    #[arg(long)]
    once: bool,
    /// Write the card's counters to this file at the end, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name each mistake that the driver makes (warn), with the event, the history of its slot, the likely cause and
    /// the mend; the first of a kind in full, then counted. If one of them is an error, the exit code is 9. `dmus-card
    /// explain` lists the rules. With stop the guest is also held at the instruction behind the first mistake of each
    /// kind that is an error, until somebody stops QEMU there and goes on, a debugger say: dmus-plugin does that, by
    /// --owners. dmus-run debug does all of it.
    #[arg(long, value_enum, default_value = "warn")]
    check: CheckArg,
    /// With --check stop: hold the guest at each breach of this rule instead.
    #[arg(long, value_name = "NAME", value_parser = rule)]
    stop_at: Option<&'static Rule>,
    /// Write what the checker found to this file at the end, as one JSON object.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Count and report breaches of this rule, and let them be no reason to fail. May be given again.
    #[arg(long, value_name = "NAME=REASON")]
    allow: Vec<Allowed>,
    /// Tell dmus-plugin, a plugin of QEMU, through this file which guest memory the card owns, and learn from it which
    /// guest instructions store there and to the doorbell page. A missing or empty file becomes a map of 2 GiB. Give
    /// QEMU -plugin file=libdmus_plugin.so,owners=FILE, --accel tcg, and 2 GiB of memory at most.
    #[arg(long, value_name = "FILE")]
    owners: Option<PathBuf>,
    #[command(flatten)]
    deviating: Deviating,
    #[command(flatten)]
    recording: Files,
    /// Answer questions about slots and mistakes at this Unix socket: see dmus-card ask --help.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Serve as this user once everything is open, without any group but its own. Only root can.
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// Stay out of the sandbox, to debug the card, or where the system has no seccomp.
    #[arg(long)]
    no_sandbox: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ClockArg {
    Virtual,
    Realtime,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CheckArg {
    Off,
    Warn,
    Stop,
}

fn rule(name: &str) -> Result<&'static Rule, &'static str> {
    Rule::find(name).ok_or("there is no such rule; `dmus-card explain` lists them all")
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TransportArg {
    Own,
    Crate,
}

#[derive(Clone)]
enum SinkArg {
    Null,
    File(AudioFile),
    Pipe(PathBuf),
    Stdout,
    Audio,
}

impl FromStr for SinkArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("wav", path)) if !path.is_empty() => {
                Ok(Self::File(AudioFile { path: path.into(), format: Format::Wav }))
            }
            Some(("flac", path)) if !path.is_empty() => {
                Ok(Self::File(AudioFile { path: path.into(), format: Format::Flac }))
            }
            Some(("pipe", "-")) => Ok(Self::Stdout),
            Some(("pipe", path)) if !path.is_empty() => Ok(Self::Pipe(path.into())),
            None if text == "audio" => Ok(Self::Audio),
            None if text == "null" => Ok(Self::Null),
            _ => Err("expected wav:FILE, flac:FILE, pipe:FIFO, pipe:-, audio or null"),
        }
    }
}

impl SinkArg {
    fn open(&self, clock: ClockMode) -> anyhow::Result<Box<dyn Sink>> {
        Ok(match self {
            Self::Null => Box::new(NullSink),
            Self::File(file) => file.create()?,
            Self::Pipe(path) => Box::new(PipeSink::open(path, clock)?),
            Self::Stdout => Box::new(PipeSink::stdout(clock)?),
            Self::Audio => Box::new(AudioSink::open(clock)?),
        })
    }
}

/// What is left to do at the end, by whichever thread gets there first. In the sandbox by then, it can open nothing.
struct Ending {
    left: Mutex<Option<Left>>,
    stats: Arc<Stats>,
    checker: Option<Arc<Checker>>,
    deviations: Option<Arc<Deviations>>,
}

struct Left {
    engine: EngineHandle,
    tracer: Option<Tracer>,
    sweepers: Vec<Sweeper>,
    json: Option<JsonFile>,
    report: Option<JsonFile>,
}

impl Ending {
    /// Completes the output; does nothing the second time.
    fn finish(&self) -> anyhow::Result<()> {
        let mut left = self.left.lock();
        let Some(left) = left.take() else {
            return Ok(());
        };
        let finished = left.engine.finish();
        let traced = left.tracer.map_or(Ok(()), Tracer::finish);
        Sweeper::finish(left.sweepers);
        if let Some(summary) = self.checker.as_ref().and_then(|checker| checker.summary()) {
            log::say(&format!("dmus-card: {summary}"));
        }
        let found = self.checker.as_ref().map(|checker| checker.json());
        let mut counters = self.stats.json();
        if let Some(deviations) = &self.deviations {
            counters["occasions"] = deviations.occasions();
        }
        let written = left.json.map_or(Ok(()), |file| file.write(&counters));
        if let (Some(file), Some(found)) = (left.report, found) {
            file.write(&found)?;
        }
        written?;
        finished?;
        traced
    }

    /// How the process ends when nothing else went wrong.
    fn exit(&self, otherwise: u8) -> u8 {
        match self.checker.as_ref().is_some_and(|checker| checker.has_errors()) {
            true => Exit::Violation as u8,
            false => otherwise,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let clock = match args.clock {
        ClockArg::Virtual => ClockMode::Virtual,
        ClockArg::Realtime => ClockMode::Realtime,
    };
    let checks = args.check != CheckArg::Off;
    for (wrong, message) in [
        (
            !checks && (args.report.is_some() || !args.allow.is_empty() || args.control.is_some()),
            "--report, --allow and --control are about what --check warn finds\n",
        ),
        (
            args.check == CheckArg::Stop && args.owners.is_none(),
            "--check stop needs --owners FILE, and dmus-plugin in QEMU: nothing else can hold the guest\n",
        ),
        (args.check != CheckArg::Stop && args.stop_at.is_some(), "--stop-at says where --check stop holds the guest\n"),
    ] {
        if wrong {
            clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message).exit();
        }
    }
    let deviations = args.deviating.read()?.map(|plan| Arc::new(Deviations::new(plan)));
    let bank = args.banks.load()?;
    // From here on a signal is kept until somebody can complete the output.
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let transport = match args.transport {
        TransportArg::Own => Transport::Own,
        TransportArg::Crate => Transport::Crate,
    };
    let (listener, mut sweepers, place) = match (&args.socket, args.fd) {
        (Some(path), _) => {
            let listener = transport::listen(path)?;
            (listener, vec![Sweeper::start(path)?], path.display().to_string())
        }
        (None, Some(fd)) => (transport::inherit(fd)?, vec![], format!("descriptor {fd}")),
        (None, None) => anyhow::bail!("neither --socket nor --fd is given"),
    };
    let mut sink = args.sink.open(clock)?;
    if let Some(seconds) = args.max_audio {
        sink = Box::new(LimitedSink::new(sink, seconds));
    }
    anyhow::ensure!(args.midi_in.len() <= MAX_INPUTS, "--midi-in may be given {MAX_INPUTS} times at most");
    let mut inputs = Vec::new();
    for source in &args.midi_in {
        inputs.push(source.open()?);
        if let MidiIn::Unix(path) = source {
            sweepers.push(Sweeper::start(path)?);
        }
    }
    let questions = args.control.as_deref().map(transport::listen).transpose()?;
    if let Some(path) = &args.control {
        sweepers.push(Sweeper::start(path)?);
    }
    let report = args.report.clone().map(JsonFile::create).transpose()?;
    let mut recording = Recording::create(&args.recording, &args.banks, args.max_audio)?;
    let owners = args.owners.as_deref().map(Owners::open).transpose()?.map(Arc::new);
    // Last of all files: whoever sees it knows that the card could open everything else.
    let json = args.json.clone().map(JsonFile::create).transpose()?;
    let made = dmus_card::assemble_with(Arc::clone(&bank), clock, sink, inputs);
    let (mut card, mut engine) = made.context("cannot make the card")?;
    engine.set_drift(args.drift);
    engine.set_sound(args.sound);
    let stop = owners.as_ref().filter(|_| args.check == CheckArg::Stop).map(|owners| {
        owners.set_stopping();
        Stop { owners: Some(Arc::clone(owners)), at: args.stop_at }
    });
    let checker = checks.then(|| Arc::new(Checker::new(&args.allow, stop)));
    if let Some(checker) = &checker {
        card.set_checker(Arc::clone(checker));
    }
    if let Some(deviations) = &deviations {
        card.set_deviations(Arc::clone(deviations));
    }
    if let Some(owners) = owners {
        card.set_owners(owners);
    }
    // The last moment at which there is one thread, and the first at which nothing more is to be opened.
    privileges::drop_all(args.user.as_deref())?;
    match args.no_sandbox {
        true => tracing::warn!("the card serves without its sandbox"),
        false => sandbox::enter().map_err(|error| anyhow::anyhow!("{error}; --no-sandbox serves without"))?,
    }
    log::start().context("cannot start the log")?;
    let tracer = recording.start(&bank, &card, &engine)?;
    drop(bank);
    let engine = engine.spawn().context("cannot start the engine")?;
    if let Some(listener) = questions {
        control::start(listener, &card).context("cannot start answering at the control socket")?;
    }
    let stats = card.stats();
    let ending = Arc::new(Ending {
        left: Mutex::new(Some(Left { engine, tracer, sweepers, json, report })),
        stats,
        checker,
        deviations,
    });

    let at_signal = Arc::clone(&ending);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // The main thread waits in accept or read, which nothing else ends.
            if let Err(error) = at_signal.finish() {
                log::say(&format!("dmus-card: {error:#}"));
            }
            log::finish();
            std::process::exit(at_signal.exit(Exit::Interrupted as u8).into());
        }
    });

    tracing::info!("listening on {place}");
    let served = transport::serve(transport, listener, &mut card, args.once);
    ending.finish()?;
    served.with_context(|| format!("cannot serve on {place}"))?;
    Ok(ExitCode::from(ending.exit(0)))
}
