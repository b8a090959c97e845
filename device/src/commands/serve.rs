//! `serve`: the card on a socket, for a QEMU that somebody else runs.

use super::Exit;
use anyhow::Context;
use dmus_card::engine::EngineHandle;
use dmus_card::sink::{NullSink, Sink, WavSink};
use dmus_card::stats::Stats;
use dmus_card::transport::{self, Transport};
use dmus_card::{ClockMode, SAMPLE_RATE};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Serve the card on a Unix socket.
///
/// Then start QEMU (10.1 or newer) with shared memory and the device:
///
/// qemu-system-x86_64 -m 512M -object memory-backend-memfd,id=m,size=512M,share=on -machine q35,memory-backend=m
///   -device '{"driver":"vfio-user-pci","rombar":0,"x-msg-timeout":60000,"socket":{"type":"unix","path":"card.sock"}}'
///
/// The card serves one QEMU at a time, one after the other, until SIGINT or SIGTERM; the WAV file grows from one to the next.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Where to listen; a stale socket is replaced.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Where the audio goes: wav:FILE or null.
    #[arg(long, default_value = "null")]
    sink: SinkArg,
    /// What moves time: the driver's grants, as fast as the card renders, or the host's clock.
    #[arg(long, value_enum, default_value = "realtime")]
    clock: ClockArg,
    /// Who speaks vfio-user: the card's own server, or the vfio_user crate's.
    #[arg(long, value_enum, default_value = "own")]
    transport: TransportArg,
    /// End when the first client has gone.
    #[arg(long)]
    once: bool,
    /// Write the card's counters to this file at the end, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ClockArg {
    Virtual,
    Realtime,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TransportArg {
    Own,
    Crate,
}

#[derive(Clone)]
enum SinkArg {
    Null,
    Wav(PathBuf),
}

impl FromStr for SinkArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("wav", path)) if !path.is_empty() => Ok(Self::Wav(path.into())),
            None if text == "null" => Ok(Self::Null),
            _ => Err("expected wav:FILE or null"),
        }
    }
}

/// What is left to do at the end, by whichever thread gets there first.
struct Ending {
    engine: Mutex<Option<EngineHandle>>,
    stats: Arc<Stats>,
    socket: PathBuf,
    json: Option<PathBuf>,
}

impl Ending {
    /// Completes the output; does nothing the second time.
    fn finish(&self) -> anyhow::Result<()> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = engine.take() else {
            return Ok(());
        };
        let finished = engine.finish();
        // Whoever removed it already has done our work.
        let _ = std::fs::remove_file(&self.socket);
        if let Some(path) = &self.json {
            write_json(path, &self.stats)?;
        }
        Ok(finished?)
    }
}

fn write_json(path: &Path, stats: &Stats) -> anyhow::Result<()> {
    let report = serde_json::json!({
        "presented": stats.presented.get(),
        "late": stats.late.get(),
        "rejected": stats.rejected.get(),
        "discarded": stats.discarded.get(),
        "peak_in_flight": stats.peak_in_flight.get(),
        "in_flight": stats.in_flight.get(),
        "pool_slots": stats.pool_slots.get(),
        "register_accesses": stats.register_accesses.get(),
        "interrupts": stats.interrupts.get(),
        "faults": stats.faults.get(),
        "resets": stats.resets.get(),
        "maps": stats.maps.get(),
        "unmaps": stats.unmaps.get(),
        "audio_seconds": stats.samples.get() as f64 / f64::from(SAMPLE_RATE),
        "first_presented_unix_seconds": stats.first_presented().map(|time| time.as_secs_f64()),
    });
    std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let clock = match args.clock {
        ClockArg::Virtual => ClockMode::Virtual,
        ClockArg::Realtime => ClockMode::Realtime,
    };
    // From here on a signal is kept until somebody can complete the output.
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let transport = match args.transport {
        TransportArg::Own => Transport::Own,
        TransportArg::Crate => Transport::Crate,
    };
    let listener = transport::listen(&args.socket)?;
    let sink: Box<dyn Sink> = match &args.sink {
        SinkArg::Null => Box::new(NullSink),
        SinkArg::Wav(path) => Box::new(WavSink::create(path, SAMPLE_RATE)?),
    };
    let (mut card, engine) = dmus_card::start(clock, sink).context("cannot make the card")?;
    let ending = Arc::new(Ending {
        engine: Mutex::new(Some(engine)),
        stats: card.stats(),
        socket: args.socket.clone(),
        json: args.json.clone(),
    });

    let at_signal = Arc::clone(&ending);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // The main thread waits in accept or read, which nothing else ends.
            if let Err(error) = at_signal.finish() {
                eprintln!("dmus-card: {error:#}");
            }
            std::process::exit(Exit::Interrupted as i32);
        }
    });

    tracing::info!("listening on {}", args.socket.display());
    let served = transport::serve(transport, listener, &mut card, args.once);
    ending.finish()?;
    served.with_context(|| format!("cannot serve on {}", args.socket.display()))?;
    Ok(ExitCode::SUCCESS)
}
