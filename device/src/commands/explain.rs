//! `explain`: what a code in the log means, how drivers come to break that rule, and what to do about it.
//!
//! Fed by the data sheet's table of rules; feeds the terminal.

use anyhow::Context;
use dmus_interface::rule::Rule;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// Explain a rule that a driver can break, by its code or name; without one, list them all.
///
/// The log names them: `driver fault F14 tail-overrun` is explained by `explain F14` and `explain tail-overrun`. R and
/// a number is a submission that was refused (the flags of its completion), F and a number a fault (the FAULT
/// register, or the answer to a transition), C and a number what only a card that checks names (serve --check warn).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The code (F14, R7) or the name (tail-overrun).
    #[arg(value_parser = find)]
    rule: Option<&'static Rule>,
}

fn find(text: &str) -> Result<&'static Rule, String> {
    Rule::find(text).ok_or("there is no such rule; `dmus-card explain` lists them all".into())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match args.rule {
        None => list()?,
        Some(rule) => explain(rule)?,
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough may close the pipe.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write the rules"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn list() -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for rule in &Rule::ALL {
        writeln!(text, "{:<4} {:<21} {}", rule.code.to_string(), rule.name, rule.code.meaning())?;
    }
    Ok(text)
}

fn explain(rule: &Rule) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{} {} ({}): {}", rule.code, rule.name, rule.severity, rule.code.meaning())?;
    for (what, said) in [("cause", rule.cause), ("mend", rule.mend)] {
        writeln!(text, "\n{what}: {said}")?;
    }
    writeln!(text, "\nin the data sheet: dmus_interface::{}", rule.section)?;
    Ok(text)
}
