//! Runs a command that dies with its parent: what `play` starts must not outlive it, even if it is killed.

use anyhow::Context;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Runs a command that is killed when the process that started it ends.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Process id of the parent.
    parent: i32,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `command`, leashed to this process.
pub(crate) fn leashed(command: &[String]) -> anyhow::Result<Command> {
    let mut leash = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    leash.arg("leash").arg(std::process::id().to_string()).arg("--").args(command);
    Ok(leash)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot ask for the parent's death signal")?;
    // The parent may have ended before the request.
    anyhow::ensure!(
        getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == args.parent),
        "the process that started this one has ended"
    );
    let (program, rest) = args.command.split_first().context("no command given")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
