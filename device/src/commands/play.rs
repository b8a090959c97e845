//! `play`: the whole path. A card, QEMU with the player guest on it, and somebody who watches both.
//!
//! Fed by the command line; feeds the terminal, an audio file and a JSON summary. The processes are run by [`scene`], what the guest says is read by [`guest`].

mod guest;
mod scene;

use super::bank::Banks;
use super::{NamedSong, load_song, song_bar};
use anyhow::Context;
use dmus_card::sink::AudioFile;
use guest::GuestReport;
use scene::Scene;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Play a MIDI file: boot the player guest in QEMU on a card, through its driver and DMA rings, into a WAV or FLAC file.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file, format 0 or 1 [default: the bundled song].
    song: Option<PathBuf>,
    /// The audio file to write: a .wav, or a .flac of the same samples.
    #[arg(short, long, value_name = "FILE", default_value = "out.wav")]
    output: AudioFile,
    /// Write the summary to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Play in real time instead of as fast as the card renders.
    #[arg(long)]
    realtime: bool,
    /// What to boot: the ELF itself, the ISO through BIOS or UEFI, or Linux (with --realtime the song is played by aplaymidi there).
    #[arg(long, value_enum, default_value = "elf")]
    image: Image,
    /// Give up when the guest shows no progress for this long.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    time_limit: u64,
    /// The guest image: ELF or ISO, or the kernel of Linux.
    #[arg(long, value_name = "PATH")]
    guest: PathBuf,
    /// The initramfs, for linux.
    #[arg(long, value_name = "PATH", required_if_eq("image", "linux"))]
    initrd: Option<PathBuf>,
    /// UEFI firmware, for iso-uefi.
    #[arg(long, value_name = "PATH", required_if_eq("image", "iso-uefi"))]
    firmware: Option<PathBuf>,
    /// A QEMU with vfio-user-pci (10.1 or newer).
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// QEMU's accelerator.
    #[arg(long, default_value = "tcg")]
    accel: String,
    #[command(flatten)]
    banks: Banks,
    /// Have the guest download what the song needs of this .dls or .sf2 file into the card, before it plays.
    #[arg(long, value_name = "FILE")]
    dls: Option<PathBuf>,
    /// Keep the card out of its sandbox (see serve --help), to debug it.
    #[arg(long)]
    no_sandbox: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Image {
    Elf,
    Iso,
    IsoUefi,
    Linux,
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Iso => "iso",
            Self::IsoUefi => "iso-uefi",
            Self::Linux => "linux",
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let song = load_song(args.song.as_deref())?;
    // The card reads them again. A fault is told here, before anything starts.
    args.banks.read()?;
    if let Some(dls) = &args.dls {
        anyhow::ensure!(
            args.image != Image::Linux,
            "--dls is for the player guest: leave --image linux out, or use --bank"
        );
        super::bank::load(dls)?;
    }
    let started = Instant::now();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot handle signals")?;
    }
    let dir = tempfile::Builder::new().prefix("dmus-play-").tempdir().context("cannot make a temporary directory")?;
    let scene = Scene::new(args, dir.path(), &interrupted);
    let bar = song_bar(&song.song)?.with_message("booting");
    let result = scene.play(&song, &bar);
    bar.finish_and_clear();
    let (guest, card) = result.map_err(|error| scene.with_remains(error))?;
    let summary = summary(args, &song, &guest, &card, started.elapsed())?;
    print_summary(&summary, &card, guest.qemu_start);
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{summary:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    guest.check(&song, &card)?;
    Ok(ExitCode::SUCCESS)
}

/// Everything worth knowing, under the names of the JSON file.
fn summary(args: &Args, song: &NamedSong, guest: &GuestReport, card: &Value, wall: Duration) -> anyhow::Result<Value> {
    let output = &args.output.path;
    let played = guest.played.as_ref().context("the guest gave no summary")?;
    Ok(json!({
        "song": song.name,
        "events_submitted": played.get("submitted"),
        "events_presented": card["presented"],
        "late": card["late"],
        "rejected": card["rejected"],
        "discarded": card["discarded"],
        "peak_in_flight": card["peak_in_flight"],
        "pool_slots": card["pool_slots"],
        "register_accesses": card["register_accesses"],
        "interrupts": card["interrupts"],
        "audio_seconds": card["audio_seconds"],
        "wall_seconds": (wall.as_secs_f64() * 1000.0).round() / 1000.0,
        "wav": output.display().to_string(),
        "sha256": sha256(output).with_context(|| format!("cannot read {}", output.display()))?,
        "clock": if args.realtime { "realtime" } else { "virtual" },
        "image": args.image.name(),
    }))
}

fn print_summary(summary: &Value, card: &Value, qemu_start: Duration) {
    // A reader that has seen enough may close the pipe: the song was played all the same.
    let mut out = std::io::stdout().lock();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Value::Object(fields) = summary {
        for (name, value) in fields {
            let _ = writeln!(out, "{:<18} {}", name.replace('_', " "), plain(value));
        }
    }
    if let Some(first) = card["first_presented_unix_seconds"].as_f64() {
        let seconds = first - qemu_start.as_secs_f64();
        let _ = writeln!(out, "{:<18} {seconds:.3} s after QEMU's start", "first event");
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => break,
            n => hasher.update(&block[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
