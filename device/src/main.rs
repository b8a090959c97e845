//! `dmus-card`: the card's command line.

mod commands;

use clap::{Parser, Subcommand};
use signal_hook::consts::SIGXFSZ;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// A DirectMusic-capable PCI sound card for QEMU, over vfio-user.
///
/// It starts no QEMU: `dmus-run` does, with this program beside it.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the song or the bank cannot be used; 130 interrupted.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(commands::serve::Args),
    Render(commands::render::Args),
    Bank(commands::bank::Args),
    #[command(hide = true)]
    Sweep(commands::sweep::Args),
}

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("DMUS_LOG").unwrap_or_else(|_| EnvFilter::new("warn,dmus_card=info,vfio_user=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    // At a limit of the size of files, a write fails as on a full disk.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        tracing::warn!("a file that grows too large will end the card: {error}");
    }
    let result = match Cli::parse().command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Render(args) => commands::render::run(&args),
        Command::Bank(args) => commands::bank::run(&args),
        Command::Sweep(args) => commands::sweep::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = commands::exit_code(&error);
            eprintln!("dmus-card: {error:#}");
            code
        }
    }
}
