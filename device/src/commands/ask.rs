//! `ask`: what a serving card knows of its slots and of its driver's mistakes.
//!
//! Fed by the command line, or by a debugger's commands; feeds standard output with the answer of the card's control
//! socket.

use super::printed;
use anyhow::Context;
use dmus_card::control::Question;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long the card may take: it answers once it has rendered what was granted.
const LIMIT: Duration = Duration::from_secs(15);

/// Ask a card that serves with --control.
///
/// slots            each open stream, and each slot that the card owns, with what it holds of it
/// slot NUMBER      that slot of each stream: whose it is, the event as it is in memory, its last steps
/// violation        the last report of the checker
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The card's control socket.
    socket: PathBuf,
    /// The question.
    #[arg(required = true, num_args = 1.., value_name = "slots|slot NUMBER|violation")]
    question: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let question = args.question.join(" ");
    if let Err(error) = question.parse::<Question>() {
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{question}: {error}\n")).exit();
    }
    let path = args.socket.display();
    let failed = || format!("no card answers at {path}: one that serves with --control {path} does");
    let mut card = UnixStream::connect(&args.socket).with_context(failed)?;
    card.set_read_timeout(Some(LIMIT)).with_context(failed)?;
    let mut answer = String::new();
    card.write_all(format!("{question}\n").as_bytes())
        .and_then(|()| card.shutdown(Shutdown::Write))
        .and_then(|()| card.read_to_string(&mut answer))
        .with_context(failed)?;
    printed(std::io::stdout().write_all(answer.as_bytes()))?;
    Ok(ExitCode::SUCCESS)
}
