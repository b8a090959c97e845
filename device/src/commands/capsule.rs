//! Capsules for the commands that replay one: the file, and the bank that its card had.
//!
//! Fed by the command line; feeds `replay`, `trace`, `diff` and `report`.

use super::bank::Banks;
use anyhow::Context;
use dmus_card::bank::Bank;
use dmus_card::capsule::{BankFile, Capsule, CapsuleError, Ended};
use dmus_interface::time::RefTime;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A recording that cannot be used: the exit code says so.
#[derive(Debug, thiserror::Error)]
#[error("cannot replay {0}: {1}")]
pub(crate) struct Unusable(String, CapsuleError);

/// The files that are there are not those of the recording: the exit code says so, too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OtherBank(String);

/// Opens a capsule, and loads the bank that it was recorded with, from where it was or from `banks`.
pub(crate) fn open(path: &Path, banks: &Banks) -> anyhow::Result<(Capsule, Arc<Bank>)> {
    let name = path.display().to_string();
    let unusable = |error| Unusable(name.clone(), error);
    let file = File::open(path).map_err(|error| unusable(error.into()))?;
    let capsule = Capsule::open(file).map_err(unusable)?;
    let recorded = &capsule.header().bank;
    let there: Vec<PathBuf> = recorded.iter().map(|file| file.path.clone().into()).collect();
    let at_its_place = Banks::of(there);
    let banks = if banks.is_empty() { &at_its_place } else { banks };
    check(recorded, banks).with_context(|| format!("cannot replay {name}"))?;
    let bank = banks.load()?;
    Ok((capsule, bank))
}

/// Whether these are the files that were there at the recording.
fn check(recorded: &[BankFile], banks: &Banks) -> anyhow::Result<()> {
    let names = || recorded.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ");
    let here = banks.describe().with_context(|| format!("its bank was {}: give that by --bank", names()))?;
    if here.len() != recorded.len() {
        return Err(OtherBank(match recorded.len() {
            0 => "its bank was the built-in one: leave --bank out".into(),
            1 => format!("its bank was {}: give that one file by --bank", names()),
            count => format!("its bank was {}: give these {count} files by --bank", names()),
        })
        .into());
    }
    match recorded.iter().zip(&here).find(|(was, is)| !was.is_same(is)) {
        None => Ok(()),
        Some((was, is)) => {
            Err(OtherBank(format!("{} is another file than {}, by which it was recorded", is.path, was.path)).into())
        }
    }
}

/// How far a replay is, for a terminal.
pub(crate) fn progress(what: &'static str) -> anyhow::Result<(ProgressBar, impl FnMut(RefTime))> {
    let style = ProgressStyle::with_template("{msg:>10} {spinner} {pos} s").context("the progress bar's template")?;
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what);
    let shown = bar.clone();
    let mut last = 0;
    let progress = move |time: RefTime| {
        let seconds = (time.0 / 10_000_000).max(0) as u64;
        if std::mem::replace(&mut last, seconds) != seconds {
            shown.set_position(seconds);
        }
    };
    Ok((bar, progress))
}

/// What is to be said of how a replay ended, if anything; an error if it did not come to what was asked.
pub(crate) fn judge(path: &Path, ended: &Ended, master: RefTime) -> anyhow::Result<()> {
    let (name, seconds) = (path.display(), master.as_secs_f64());
    match ended {
        Ended::Whole | Ended::Until => {}
        Ended::Cut => tracing::warn!("{name} is cut off or damaged behind {seconds:.6} s: what comes after is missing"),
        Ended::NeverCame => anyhow::bail!("the point of --until never comes: {name} ends at {seconds:.6} s"),
        Ended::TooLong => anyhow::bail!("{name} goes on after a day of audio: say by --until where to end"),
        Ended::Diverged(what) => anyhow::bail!(
            "{name} does not go on at {seconds:.6} s as this card does: it does not have {what}; replay it with the \
             version of the card that recorded it"
        ),
    }
    Ok(())
}
