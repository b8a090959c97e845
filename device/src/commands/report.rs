//! `report`: a recorded run as one page for people.

use super::bank::Banks;
use super::capsule;
use anyhow::Context;
use dmus_card::ClockMode;
use dmus_card::capsule::Ended;
use dmus_card::capsule::report::{Facts, Report};
use dmus_card::sink::NullSink;
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a page of a recorded run, for any browser and without a network: what came of it, mistakes with their
/// histories, slots over time, lateness, the audio's waveform, and what happened last.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recording, by serve --record or dmus-run --record.
    file: PathBuf,
    /// The page to write.
    #[arg(short, long, value_name = "FILE.html", default_value = "report.html")]
    output: PathBuf,
    #[command(flatten)]
    banks: Banks,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (recorded, bank) = capsule::open(&args.file, &args.banks)?;
    let (name, output) = (args.file.display().to_string(), args.output.display());
    let header = recorded.header().clone();
    // Before the replay, which may take long.
    let cannot = || format!("cannot write {output}");
    let file = File::create(&args.output).with_context(cannot)?;
    let mut report = Report::new();
    let (bar, progress) = capsule::progress("replaying")?;
    let run = recorded.replay(bank, Box::new(NullSink), None, Some(&mut report), progress);
    bar.finish_and_clear();
    let run = run.with_context(|| format!("cannot replay {name}"))?;
    let incomplete = match &run.ended {
        Ended::Whole => None,
        Ended::Cut => Some("The recording is cut off: what comes after is missing.".to_owned()),
        _ => capsule::judge(&args.file, &run.ended, run.master).err().map(|error| error.to_string()),
    };
    let banks: Vec<&str> = header.bank.iter().map(|file| file.path.as_str()).collect();
    let facts = Facts {
        title: name,
        clock: match header.clock {
            ClockMode::Virtual => "virtual".into(),
            ClockMode::Realtime => "realtime".into(),
        },
        bank: if banks.is_empty() { "the built-in General MIDI bank".into() } else { banks.join(", ") },
        checker: run.checker.as_ref().map_or(Value::Null, |checker| checker.json()),
        counters: run.stats.json(),
        incomplete,
    };
    let mut out = BufWriter::new(file);
    report.write(&facts, &mut out).and_then(|()| out.flush()).with_context(cannot)?;
    super::print(&format!("{output}: {:.6} s", run.master.as_secs_f64()))?;
    capsule::judge(&args.file, &run.ended, run.master)?;
    Ok(ExitCode::SUCCESS)
}
