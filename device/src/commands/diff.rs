//! `diff`: the first thing in which two recorded runs differ.

use super::bank::Banks;
use super::{Exit, capsule, print};
use anyhow::Context;
use dmus_card::ClockMode;
use dmus_card::capsule::diff::diff;
use dmus_card::capsule::{Ended, Listener};
use dmus_card::sink::NullSink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Say in what two recorded runs differ first, with what came before it on both sides: two versions of a driver, or a
/// good and a bad run of one.
///
/// Runs are held against each other stream by stream and submission by submission. What the host's load decides is no
/// difference. The exit code is 0 if the driver did the same in both, and 10 if not.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The first recording.
    a: PathBuf,
    /// The second.
    b: PathBuf,
    #[command(flatten)]
    banks: Banks,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let clock = |path: &Path| anyhow::Ok(capsule::open(path, &args.banks)?.0.header().clock);
    let (a, b) = (clock(&args.a)?, clock(&args.b)?);
    anyhow::ensure!(
        a == b,
        "{} was recorded in {} time and {} in {}: they cannot be compared",
        args.a.display(),
        name(a),
        args.b.display(),
        name(b)
    );
    let compared = diff(a == ClockMode::Virtual, |to| replay(&args.a, args, to), |to| replay(&args.b, args, to))?;
    print(compared.to_string().trim_end())?;
    Ok(if compared.is_same() { ExitCode::SUCCESS } else { ExitCode::from(Exit::Differs as u8) })
}

fn name(clock: ClockMode) -> &'static str {
    match clock {
        ClockMode::Virtual => "virtual",
        ClockMode::Realtime => "real",
    }
}

fn replay(path: &Path, args: &Args, listener: &mut dyn Listener) -> anyhow::Result<()> {
    let (recorded, bank) = capsule::open(path, &args.banks)?;
    let (bar, progress) = capsule::progress("comparing")?;
    let run = recorded.replay(bank, Box::new(NullSink), None, Some(listener), progress);
    bar.finish_and_clear();
    let run = run.with_context(|| format!("cannot replay {}", path.display()))?;
    if run.ended == Ended::Cut {
        // Where it ends is told as a difference.
        return Ok(());
    }
    capsule::judge(path, &run.ended, run.master)
}
