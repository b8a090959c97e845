//! `bank`: what a bank of instruments holds, and the built-in one as a file.
//!
//! Fed by files of instruments; feeds the terminal, or a DLS file.

use super::{print, printed};
use anyhow::Context;
use dmus_card::bank::{self, Bank, Wanted};
use dmus_card::capsule::BankFile;
use dmus_card::collection::{Collection, Instrument, LoopKind, Region, Sampling, Warnings, Wave};
use dmus_card::files::{FileError, Flaws, NamedSong, inspect_collection, load_collection};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// List what a bank of instruments holds, or write the built-in one as a DLS file.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(List),
    Export(Export),
}

/// List the instruments, regions, waves and loops of a DLS collection (.dls) or SoundFont bank (.sf2, .sf3).
///
/// Instruments are named by bank (CC0.CC32) and program, as programs count from 0, with "drums" for percussion. Regions
/// say the keys and velocities that play them, the wave, its unity note (the key at which it sounds as recorded), fine
/// tuning in cents, gain in dB and loop in samples.
///
/// The file is checked in full. What is wrong with it is said with the chunk and the byte, and what was done about it.
/// If nothing of it can be played the exit code is 3.
#[derive(clap::Args)]
struct List {
    /// The .dls, .sf2 or .sf3 file.
    file: PathBuf,
    /// Refuse a file in which something is wrong, be it mended or left out: the exit code is 3.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// Write a bank as a DLS Level 2 collection, which other synthesizers and editors can read.
///
/// The same bank always gives the same bytes.
#[derive(clap::Args)]
struct Export {
    /// The bank: a .dls, .sf2 or .sf3 file [default: the built-in General MIDI bank].
    bank: Option<PathBuf>,
    /// Refuse a bank in which something is wrong, be it mended or left out: the exit code is 3.
    #[arg(long)]
    strict: bool,
    /// The DLS file to write.
    #[arg(long, value_name = "FILE")]
    dls: PathBuf,
}

/// What the card plays by, for the commands that play.
#[derive(clap::Args)]
pub(crate) struct Banks {
    /// Play by this bank, a .dls, .sf2 or .sf3 file; may be given again: later ones are asked for an instrument first,
    /// and the built-in bank last.
    #[arg(long = "bank", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Banks {
    /// Reads the files, those first that are asked first.
    fn read(&self, flaws: Flaws) -> Result<Vec<Collection>, FileError> {
        self.files.iter().rev().map(|path| load_collection(path, flaws)).collect()
    }

    /// The files as a capsule names them, in the order of the command line.
    pub(crate) fn describe(&self) -> Result<Vec<BankFile>, FileError> {
        let describe = |path: &PathBuf| {
            let name = path.display().to_string();
            match BankFile::describe(path) {
                Ok(file) => Ok(file),
                Err(error) => Err(FileError::Unreadable(name, error)),
            }
        };
        self.files.iter().map(describe).collect()
    }

    /// These files.
    pub(crate) fn of(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads the files, makes them ready, and puts the built-in bank behind them.
    pub(crate) fn load(&self) -> Result<Arc<Bank>, FileError> {
        self.make(self.read(Flaws::Mend)?, &Wanted::ALL)
    }

    /// As [`Self::load`], no more than a song plays. Instruments that it brings along come before all.
    pub(crate) fn load_for(&self, song: &NamedSong, flaws: Flaws) -> Result<Arc<Bank>, FileError> {
        let own = song.collection(flaws)?;
        self.make(own.into_iter().chain(self.read(flaws)?).collect(), &Wanted::by(&song.song))
    }

    fn make(&self, collections: Vec<Collection>, wanted: &Wanted) -> Result<Arc<Bank>, FileError> {
        let names = || self.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Bank::with_built_in(collections, wanted).map(Arc::new).map_err(|error| FileError::Bank(names(), error))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::List(list) => {
            if list.strict {
                load_collection(&list.file, Flaws::Refuse)?;
            }
            let (collection, warnings) = inspect_collection(&list.file)?;
            let mut out = BufWriter::new(std::io::stdout().lock());
            printed(match list.json {
                true => writeln!(out, "{:#}", as_json(&collection, &warnings)).and_then(|()| out.flush()),
                false => tables(&collection, &warnings, &mut out).and_then(|()| out.flush()),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Export(export) => {
            let collection = match &export.bank {
                Some(path) => load_collection(path, Flaws::by(export.strict))?,
                None => bank::built_in(),
            };
            let name = export.bank.as_ref().map_or("the built-in bank".into(), |path| path.display().to_string());
            let file = collection.to_dls().map_err(|error| FileError::Collection(name, error))?;
            let path = export.dls.display();
            std::fs::write(&export.dls, &file).with_context(|| format!("cannot write {path}"))?;
            let (instruments, waves) = (collection.instruments.len(), collection.waves.len());
            print(&format!("{path}: {instruments} instruments, {waves} waves, {} bytes", file.len()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a region plays by: its own, the wave's, or the default.
fn sampling(region: &Region, wave: &Wave) -> Sampling {
    region.sampling.or(wave.sampling).unwrap_or(Sampling::DEFAULT)
}

fn decibels(gain: i32) -> f64 {
    (f64::from(gain) / 655_360.0 * 100.0).round() / 100.0
}

fn loop_name(kind: LoopKind) -> &'static str {
    match kind {
        LoopKind::Forward => "forward",
        LoopKind::Release => "release",
    }
}

fn sampling_json(sampling: &Sampling) -> Value {
    json!({
        "unity_note": sampling.unity_note,
        "fine_tune_cents": sampling.fine_tune,
        "gain_db": decibels(sampling.gain),
        "loop": sampling.looped.map(|l| json!({ "kind": loop_name(l.kind), "start": l.start, "length": l.length })),
    })
}

fn as_json(collection: &Collection, warnings: &Warnings) -> Value {
    let region = |instrument: &Instrument, region: &Region| {
        json!({
            "keys": [region.keys.0, region.keys.1],
            "velocities": [region.velocities.0, region.velocities.1],
            "wave": region.link.wave,
            "sampling": sampling_json(&sampling(region, &collection.waves[region.link.wave])),
            "exclusive_class": region.key_group,
            "self_exclusive": region.self_exclusive,
            "phase_group": region.link.phase_group,
            "channels": region.link.channels,
            "connections": instrument.articulation(region).len(),
        })
    };
    let instrument = |i: &Instrument| {
        json!({
            "name": i.info.name(),
            "drums": i.drum,
            "bank": [i.bank >> 7, i.bank & 0x7f],
            "program": i.program,
            "regions": i.regions.iter().map(|r| region(i, r)).collect::<Vec<Value>>(),
        })
    };
    let wave = |wave: &Wave| {
        json!({
            "name": wave.info.name(),
            "rate": wave.rate,
            "samples": wave.samples.len(),
            "sampling": wave.sampling.as_ref().map(sampling_json),
        })
    };
    json!({
        "name": collection.info.name(),
        "instruments": collection.instruments.iter().map(instrument).collect::<Vec<Value>>(),
        "waves": collection.waves.iter().map(wave).collect::<Vec<Value>>(),
        "mended": warnings.first().iter().map(ToString::to_string).collect::<Vec<String>>(),
        "mended_count": warnings.count(),
    })
}

/// A name from a file, fit for a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn sampling_row(sampling: &Sampling) -> String {
    let looped = sampling.looped.map_or("-".into(), |l| format!("{} {}+{}", loop_name(l.kind), l.start, l.length));
    let Sampling { unity_note, fine_tune, .. } = sampling;
    format!("{unity_note:>5} {fine_tune:>6} {:>7.2}  {looped}", decibels(sampling.gain))
}

fn tables(collection: &Collection, warnings: &Warnings, out: &mut impl Write) -> std::io::Result<()> {
    let regions: usize = collection.instruments.iter().map(|i| i.regions.len()).sum();
    let (instruments, waves) = (collection.instruments.len(), collection.waves.len());
    let name = printable(collection.info.name());
    writeln!(out, "{name}: {instruments} instruments, {regions} regions, {waves} waves\n")?;
    for complaint in warnings.complaints() {
        writeln!(out, "mended: {complaint}")?;
    }
    if warnings.count() > 0 {
        writeln!(out)?;
    }
    for instrument in &collection.instruments {
        let (high, low) = (instrument.bank >> 7, instrument.bank & 0x7f);
        let drums = if instrument.drum { ", drums" } else { "" };
        let name = printable(instrument.info.name());
        writeln!(out, "program {}, bank {high}.{low}{drums}: {name}", instrument.program)?;
        writeln!(out, "  {:>7} {:>7} {:>5} {:>5} {:>6} {:>7}  loop", "keys", "veloc.", "wave", "unity", "cents", "dB")?;
        for region in &instrument.regions {
            let range = |(low, high): (u8, u8)| format!("{low}-{high}");
            let wave = region.link.wave;
            let sampling = sampling_row(&sampling(region, &collection.waves[wave]));
            writeln!(out, "  {:>7} {:>7} {wave:>5} {sampling}", range(region.keys), range(region.velocities))?;
        }
    }
    writeln!(
        out,
        "\n{:>5} {:>8} {:>9} {:>5} {:>6} {:>7}  loop, name",
        "wave", "Hz", "samples", "unity", "cents", "dB"
    )?;
    for (number, wave) in collection.waves.iter().enumerate() {
        let sampling = sampling_row(&wave.sampling.unwrap_or(Sampling::DEFAULT));
        let name = printable(wave.info.name());
        writeln!(out, "{number:>5} {:>8} {:>9} {sampling}, {name}", wave.rate, wave.samples.len())?;
    }
    Ok(())
}
