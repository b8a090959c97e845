//! `replay`: makes a recorded run again, without QEMU.

use super::bank::Banks;
use super::{Exit, JsonFile, capsule};
use anyhow::Context;
use dmus_card::capsule::Until;
use dmus_card::sink::limited::LimitedSink;
use dmus_card::sink::{AudioFile, NullSink, Sink};
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a recorded run again: the same card, told by a file what it observed, and no QEMU, image or driver.
///
/// The audio, the report and the counters are those of the run, on any CPU. A run in which the driver broke rules ends
/// with 9, as then. A file that was cut off plays to its last whole block.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recording, by serve --record or dmus-run --record.
    file: PathBuf,
    /// End at this time of the master clock, in seconds, or at the first breach of the rule of this name (dmus-card
    /// explain lists them).
    #[arg(long, value_name = "SECONDS|NAME", value_parser = until)]
    until: Option<Until>,
    /// Write the audio to this file, a .wav or .flac.
    #[arg(short, long, value_name = "FILE")]
    output: Option<AudioFile>,
    /// Write what the checker found to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the card's counters to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print each slot that the card owns at the end, and what it holds of it; of a run that was recorded with --check,
    /// each slot that was in use, whose it is, and its last steps.
    #[arg(long)]
    slots: bool,
    #[command(flatten)]
    banks: Banks,
}

fn until(text: &str) -> Result<Until, &'static str> {
    if let Some(rule) = Rule::find(text) {
        return Ok(Until::Breach(rule.name));
    }
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.0..=1e9).contains(seconds));
    let time = seconds.map(|seconds| Until::Time(RefTime((seconds * 1e7).round() as i64)));
    time.ok_or("expected seconds, as in 12.5, or the name of a rule; `dmus-card explain` lists them all")
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (recorded, bank) = capsule::open(&args.file, &args.banks)?;
    let name = args.file.display();
    if !recorded.header().is_checked() {
        let wants_report = args.report.is_some() || matches!(args.until, Some(Until::Breach(_)));
        anyhow::ensure!(!wants_report, "{name} was recorded without --check: it has no report");
    }
    let report = args.report.clone().map(JsonFile::create).transpose()?;
    let json = args.json.clone().map(JsonFile::create).transpose()?;
    let mut sink: Box<dyn Sink> = match &args.output {
        Some(file) => file.create()?,
        None => Box::new(NullSink),
    };
    if let Some(seconds) = recorded.header().max_audio {
        sink = Box::new(LimitedSink::new(sink, seconds));
    }
    let (bar, progress) = capsule::progress("replaying")?;
    let run = recorded.replay(bank, sink, args.until.as_ref(), None, progress);
    bar.finish_and_clear();
    let run = run.with_context(|| format!("cannot replay {name}"))?;
    run.output?;
    let presented = run.stats.presented.get();
    let late = run.stats.late.get();
    super::print(&format!("{name}: {:.6} s, {presented} messages, {late} late", run.master.as_secs_f64()))?;
    if args.slots {
        let slots = if run.slots.is_empty() { "no stream is open\n" } else { &run.slots };
        super::print(slots.trim_end())?;
    }
    if let Some(file) = json {
        file.write(&run.stats.json())?;
    }
    if let (Some(file), Some(checker)) = (report, &run.checker) {
        file.write(&checker.json())?;
    }
    capsule::judge(&args.file, &run.ended, run.master)?;
    if let Some(summary) = run.checker.as_ref().and_then(|checker| checker.summary()) {
        super::print(&summary)?;
    }
    let violated = run.checker.is_some_and(|checker| checker.has_errors());
    Ok(if violated { ExitCode::from(Exit::Violation as u8) } else { ExitCode::SUCCESS })
}
