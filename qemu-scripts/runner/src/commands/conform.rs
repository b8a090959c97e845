//! `conform`: what the DDI states, tried in a booted guest. A card whose MIDI input is its own loopback, and QEMU with
//! a guest that runs the list.
//!
//! Fed by the command line; feeds the terminal and a JSON summary. The processes are run by [`crate::supervisor`], the
//! list is `dmus-conformance`'s.

use crate::exit::{Exit, Failure};
use crate::guest::GuestReport;
use crate::machine::{Item, Job, Machine};
use crate::progress::Progress;
use crate::{summary, supervisor};
use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Try each statement of the DirectMusic DDI that a guest can see, in a booted guest.
///
/// The guest drives the card in virtual time; what it renders comes back through its MIDI loopback and a wave sink.
/// Each statement is printed with whether it holds. The exit code is 5 if one does not.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the results to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.machine.realtime {
        return Err(Failure::new(Exit::Usage, "the checks are of virtual time: leave --realtime out").into());
    }
    let dir =
        tempfile::Builder::new().prefix("dmus-conform-").tempdir().context("cannot make a temporary directory")?;
    let job = job(args.machine.width);
    let (guest, _) = supervisor::run(&args.machine, &job, dir.path(), &mut Progress::hidden("trying"))?;
    print(&guest);
    let statements = guest.statements.iter().map(|(holds, line)| {
        let (name, statement) = parts(line);
        json!({ "name": name, "statement": statement, "holds": holds })
    });
    let holding = guest.statements.iter().filter(|(holds, _)| *holds).count();
    let results = json!({
        "checks": guest.number("checks"),
        "holding": holding,
        "image": args.machine.image_name(),
        "pointer_width": guest.number("width"),
        "statements": statements.collect::<Vec<_>>(),
    });
    summary::write(args.json.as_deref(), &results)?;
    check(&guest)
}

/// What card and guest are to do.
pub(crate) fn job(width: u8) -> Job {
    Job {
        card: ["--midi-in".into(), "loopback".into()].into(),
        // The guest provokes faults, which the card warns of.
        log: "error",
        log_file: None,
        items: vec![("conform".into(), Item::Text("1".into()))],
        // What does not hold is told by the lines.
        linux: format!("dmusd conform --width {} || :", width),
        share: None,
        speaker: None,
        misbehaves: true,
    }
}

/// The name of a check, and what it states.
fn parts(line: &str) -> (&str, &str) {
    line.split_once(": ").unwrap_or((line, ""))
}

fn print(guest: &GuestReport) {
    // A reader that has seen enough may close the pipe: what was tried was tried all the same.
    let mut out = std::io::stdout().lock();
    for (holds, line) in &guest.statements {
        let (name, statement) = parts(line);
        let _ = writeln!(out, "{}  {statement}  ({name})", if *holds { "pass" } else { "FAIL" });
    }
}

/// Every statement holds, and none was lost on the way.
pub(crate) fn check(guest: &GuestReport) -> anyhow::Result<()> {
    let count = guest.statements.len() as u64;
    let failing = guest.statements.iter().filter(|(holds, _)| !holds).count();
    let wrong = if failing > 0 {
        format!("{failing} of {count} statements do not hold")
    } else if count == 0 || guest.number("checks") != Some(count) || guest.number("holding") != Some(count) {
        format!("{count} statements were told, and the guest says {:?}", guest.summary)
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Guest, wrong).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_passes_only_if_every_statement_came_and_holds() {
        let fault = |lines: &[&str]| {
            let mut guest = GuestReport::new();
            lines.iter().for_each(|line| assert_eq!(guest.take(&format!("dmus: {line}")), None));
            check(&guest).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let (one, two) = ("holds one: One is.", "holds two: Two are.");
        assert_eq!(fault(&[one, two, "conformed checks=2 holding=2 width=8"]), "");
        for (lines, complaint) in [
            (&[one, "fails two: Two are: they are not", "conformed checks=2 holding=1 width=8"][..], "1 of 2"),
            (&[one, "conformed checks=2 holding=2 width=8"], "1 statements were told"),
            (&[one, two, "conformed checks=2 holding=1 width=8"], "2 statements were told"),
            (&["conformed checks=0 holding=0 width=8"], "0 statements were told"),
            (&[one, two], "2 statements were told"),
        ] {
            assert!(fault(lines).contains(complaint), "{lines:?}: {}", fault(lines));
        }
        assert_eq!(parts("one: One: is."), ("one", "One: is."));
    }
}
