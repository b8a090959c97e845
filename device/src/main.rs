//! `dmus-card`: the card's command line.

mod commands;

use clap::{CommandFactory, Parser, Subcommand};
use dmus_card::log;
use signal_hook::consts::SIGXFSZ;
use std::process::ExitCode;
use std::sync::Arc;

/// A DirectMusic-capable PCI sound card for QEMU, over vfio-user.
///
/// It starts no QEMU: `dmus-run` does, with this program beside it.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the song, the bank or the recording cannot be used; 9 the driver
/// broke rules of the data sheet (serve --check warn, replay); 10 two recordings
/// differ (diff); 130 interrupted.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<commands::serve::Args>),
    Render(commands::render::Args),
    Bank(commands::bank::Args),
    Explain(commands::explain::Args),
    Ask(commands::ask::Args),
    Replay(commands::replay::Args),
    Trace(commands::trace::Args),
    Diff(commands::diff::Args),
    Report(commands::report::Args),
    Header(commands::header::Args),
    #[command(hide = true)]
    Sweep(commands::sweep::Args),
    #[command(hide = true)]
    Pages(dmus_pages::Args),
}

fn main() -> ExitCode {
    log::init();
    // At a limit of the size of files, a write fails as on a full disk.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        tracing::warn!("a file that grows too large will end the card: {error}");
    }
    let command = Cli::parse().command;
    // A card that serves has no other thread until it is in its sandbox.
    if !matches!(command, Command::Serve(_)) && log::start().is_err() {
        log::say("dmus-card: cannot start a thread: its log comes at the end");
    }
    let result = match command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Render(args) => commands::render::run(&args),
        Command::Bank(args) => commands::bank::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Ask(args) => commands::ask::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Header(args) => commands::header::run(&args),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Pages(args) => args.write(Cli::command()).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    let code = result.unwrap_or_else(|error| {
        log::say(&format!("dmus-card: {error:#}"));
        commands::exit_code(&error)
    });
    log::finish();
    code
}
