//! Cases side by side: each run, judged, and run once more if it failed.
//!
//! Fed by the command with cases; feeds it with what each came to, as it ends. There are no retries: the second run of
//! a case that failed only says whether it fails each time.

use super::cases::Case;
use super::evidence;
use super::judge::{Judged, judge};
use super::outcome::{Finished, Outcome};
use super::parallel::{Told, parallel};
use super::quarantine::Quarantine;
use super::run::{Ended, Run, Setup, run};
use super::scenario::Clock;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder of a second run, in the case's own.
pub(crate) const AGAIN: &str = "again";

/// How cases are run.
pub(crate) struct Pool<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) quarantine: &'a Quarantine,
    /// The folder in which each case has one.
    pub(crate) output: &'a Path,
    pub(crate) jobs: usize,
    pub(crate) fail_fast: bool,
    /// Keep the files of cases that pass, too.
    pub(crate) keep: bool,
}

/// What a single run came to.
pub(crate) struct Single {
    pub(crate) outcome: Outcome,
    pub(crate) reasons: Vec<String>,
    pub(crate) sha256: Option<String>,
    /// All holds but the hash of the audio.
    pub(crate) only_hash: bool,
    /// What it left, unless the host was at fault.
    pub(crate) run: Option<Run>,
}

/// What is told while cases run.
pub(crate) enum Tale<'a> {
    Began(&'a str),
    Ended(&'a Finished),
}

/// Runs and judges once; `Err` only if somebody interrupts.
pub(crate) fn single(case: &Case, folder: &Path, setup: &Setup) -> anyhow::Result<Single> {
    let ran = run(case, folder, setup).and_then(|run| judge(case, &run).map(|judged| (run, judged)));
    setup.interrupt.check()?;
    Ok(match ran {
        Ok((run, Judged { faults, sha256, only_hash })) => {
            let outcome = if faults.is_empty() { Outcome::Passed } else { Outcome::Failed };
            Single { outcome, reasons: faults, sha256, only_hash, run: Some(run) }
        }
        Err(error) => {
            let reasons = vec![format!("{error:#}")];
            Single { outcome: Outcome::Error, reasons, sha256: None, only_hash: false, run: None }
        }
    })
}

impl Pool<'_> {
    /// Runs all; gives what each came to, in their order.
    pub(crate) fn run(&self, cases: &[Case], mut tell: impl FnMut(Tale<'_>)) -> anyhow::Result<Vec<Finished>> {
        let mut finished: Vec<Option<Finished>> = cases.iter().map(|_| None).collect();
        let mut interrupted = None;
        parallel(
            self.jobs,
            cases.len(),
            |number| self.case(&cases[number]),
            |told| {
                let mut go_on = true;
                match told {
                    Told::Began(number) => tell(Tale::Began(&cases[number].name)),
                    Told::Ended(number, Ok(done)) => {
                        go_on = !self.fail_fast || !matches!(done.outcome, Outcome::Failed | Outcome::Error);
                        tell(Tale::Ended(&done));
                        finished[number] = Some(done);
                    }
                    Told::Ended(_, Err(error)) => interrupted = Some(error),
                }
                go_on
            },
        );
        if let Some(error) = interrupted {
            return Err(error);
        }
        let all = finished.into_iter().zip(cases);
        Ok(all.map(|(done, case)| done.unwrap_or_else(|| not_run(case))).collect())
    }

    fn case(&self, case: &Case) -> anyhow::Result<Finished> {
        let started = Instant::now();
        let folder = self.output.join(&case.name);
        let first = single(case, &folder, self.setup)?;
        let card_seconds = first.run.as_ref().and_then(|run| run.counters["audio_seconds"].as_f64()).unwrap_or(0.0);
        let serial = match (&first.run, first.outcome) {
            (Some(run), Outcome::Failed) => run.serial.tail(),
            _ => Vec::new(),
        };
        let mut done = Finished {
            name: case.name.clone(),
            file: case.of.file.display().to_string(),
            outcome: first.outcome,
            nondeterministic: false,
            quarantine: None,
            reasons: first.reasons.clone(),
            seconds: 0.0,
            card_seconds,
            sha256: first.sha256.clone(),
            serial,
            evidence: Vec::new(),
            only_hash: false,
        };
        if first.outcome == Outcome::Failed {
            let again = single(case, &folder.join(AGAIN), self.setup)?;
            compare(case, &first, &again, &mut done);
            done.only_hash = first.only_hash && !done.nondeterministic;
        }
        if let Some(held) = self.quarantine.of(case) {
            hold(&mut done, &held);
            done.quarantine = Some(held);
        }
        let kept = self.keep_files(&mut done, &folder);
        done.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if let Err(error) = kept {
            // What it came to is known, and what tells of it is not there.
            done.reasons.push(format!("its evidence cannot be kept: {error:#}"));
            if done.outcome == Outcome::Passed {
                done.outcome = Outcome::Error;
            }
        }
        Ok(done)
    }

    fn keep_files(&self, done: &mut Finished, folder: &Path) -> anyhow::Result<()> {
        if done.outcome == Outcome::Passed && !self.keep {
            return Ok(std::fs::remove_dir_all(folder)?);
        }
        for part in [folder.to_path_buf(), folder.join(AGAIN)] {
            if part.is_dir() {
                evidence::keep(&part, &self.setup.programs)?;
            }
        }
        let name = |file: String| PathBuf::from(&done.name).join(file).display().to_string();
        let own = evidence::list(folder).into_iter().map(name);
        let again = evidence::list(&folder.join(AGAIN)).into_iter().map(|file| name(format!("{AGAIN}/{file}")));
        done.evidence = own.chain(again).collect();
        Ok(())
    }
}

/// What the second run of a case that failed says of the first.
fn compare(case: &Case, first: &Single, again: &Single, done: &mut Finished) {
    let limit = |single: &Single| matches!(single.run, Some(Run { ended: Ended::Limit(_), .. }));
    let told = |single: &Single| (single.reasons.clone(), single.sha256.clone());
    let same = again.outcome == Outcome::Failed
        && limit(first) == limit(again)
        // What a run came to in real time is never the same to the letter; one that a limit ended stopped somewhere.
        && (case.clock == Clock::Realtime || limit(first) || told(first) == told(again));
    match again.outcome {
        Outcome::Error => {
            done.reasons.push(format!("whether it fails each time is not known: {}", again.reasons.join("; ")));
        }
        _ if !same => {
            done.nondeterministic = true;
            let what = match again.outcome {
                Outcome::Passed => "passed".into(),
                _ => format!("failed otherwise: {}", again.reasons.join("; ")),
            };
            done.reasons.insert(0, format!("NONDETERMINISTIC: a second run of it {what}"));
        }
        _ => {}
    }
}

/// What the quarantine makes of an outcome.
fn hold(done: &mut Finished, held: &super::quarantine::Held) {
    let super::quarantine::Held { reason, expires, is_over } = held;
    match (is_over, done.outcome) {
        (true, Outcome::Passed | Outcome::Failed) => {
            done.outcome = Outcome::Failed;
            done.reasons
                .insert(0, format!("its quarantine is over since {expires} ({reason}): mend it, or renew the entry"));
        }
        (false, Outcome::Failed) => {
            done.outcome = Outcome::Quarantined;
            done.reasons.insert(0, format!("in quarantine until {expires}: {reason}"));
        }
        (false, Outcome::Passed) => done.reasons.push("it passes: its quarantine can end".into()),
        _ => {}
    }
}

fn not_run(case: &Case) -> Finished {
    Finished {
        name: case.name.clone(),
        file: case.of.file.display().to_string(),
        outcome: Outcome::NotRun,
        nondeterministic: false,
        quarantine: None,
        reasons: vec!["left out after a case that did not pass (--fail-fast)".into()],
        seconds: 0.0,
        card_seconds: 0.0,
        sha256: None,
        serial: Vec::new(),
        evidence: Vec::new(),
        only_hash: false,
    }
}
