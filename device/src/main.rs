//! `dmus-card`: the card's command line.

mod commands;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// A DirectMusic-capable PCI sound card for QEMU, over vfio-user.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the song or the bank cannot be used; 4 QEMU cannot be started;
/// 5 the guest failed; 6 the guest stood still longer than the time limit; 7 the card ended early; 8 QEMU ended early; 130 interrupted.
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
    Play(commands::play::Args),
    Record(commands::record::Args),
    Conform(commands::conform::Args),
    Bank(commands::bank::Args),
    #[command(hide = true)]
    Leash(commands::leash::Args),
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
    let result = match Cli::parse().command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Render(args) => commands::render::run(&args),
        Command::Play(args) => commands::play::run(&args),
        Command::Record(args) => commands::record::run(&args),
        Command::Conform(args) => commands::conform::run(&args),
        Command::Bank(args) => commands::bank::run(&args),
        Command::Leash(args) => commands::leash::run(&args),
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
