//! `trace`: a recorded run, for Perfetto.

use super::bank::Banks;
use super::capsule;
use anyhow::Context;
use dmus_card::capsule::trace::Trace;
use dmus_card::sink::NullSink;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a trace of a recorded run, which ui.perfetto.dev shows: a track for each slot, with what became of it, and
/// tracks for doorbells, interrupts, mistakes and counters.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recording, by serve --record or dmus-run --record.
    file: PathBuf,
    /// The trace to write.
    #[arg(short, long, value_name = "FILE.pftrace", default_value = "out.pftrace")]
    output: PathBuf,
    #[command(flatten)]
    banks: Banks,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (recorded, bank) = capsule::open(&args.file, &args.banks)?;
    let output = args.output.display();
    let cannot = || format!("cannot write {output}");
    let mut trace = Trace::new(BufWriter::new(File::create(&args.output).with_context(cannot)?));
    let (bar, progress) = capsule::progress("tracing")?;
    let run = recorded.replay(bank, Box::new(NullSink), None, Some(&mut trace), progress);
    bar.finish_and_clear();
    let run = run.with_context(|| format!("cannot replay {}", args.file.display()))?;
    trace.finish().with_context(cannot)?;
    super::print(&format!("{output}: {:.6} s; open it at ui.perfetto.dev", run.master.as_secs_f64()))?;
    capsule::judge(&args.file, &run.ended, run.master)?;
    Ok(ExitCode::SUCCESS)
}
