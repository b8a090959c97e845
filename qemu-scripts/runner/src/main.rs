//! `dmus-run`: starts, watches and ends QEMU and the card, for people and for scripts.
//!
//! Fed by the scripts of `qemu-scripts`, which build what it runs; the card is the program `dmus-card`, in a process of
//! its own.

#![forbid(unsafe_code)]

mod card;
mod commands;
mod culprit;
mod debugger;
mod disk;
mod exit;
mod guest;
mod hil;
mod machine;
mod process;
mod programs;
mod progress;
mod qemu;
mod summary;
mod supervisor;
mod terminal;

use clap::{CommandFactory, Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Starts QEMU with the DirectMusic card, watches both, and leaves no process behind.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the song or the bank cannot be used; 4 QEMU cannot be started;
/// 5 the guest failed; 6 the guest stood still longer than the time limit; 7 the card ended early; 8 QEMU ended early;
/// 9 the driver broke rules of the data sheet (--check warn or stop); 125 the host was at fault (hil);
/// 130 interrupted.
#[derive(Parser)]
#[command(name = "dmus-run", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Play(commands::play::Args),
    Record(commands::record::Args),
    Conform(commands::conform::Args),
    Shell(commands::shell::Args),
    Run(commands::run::Args),
    LibvirtXml(commands::libvirt_xml::Args),
    Zoo(commands::zoo::Args),
    Debug(commands::debug::Args),
    Hil(commands::hil::Args),
    #[command(hide = true)]
    Pages(dmus_pages::Args),
    #[command(hide = true)]
    DieWithParent(process::DieWithParent),
}

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("DMUS_LOG").unwrap_or_else(|_| EnvFilter::new("warn,dmus_run=info,vfio_user=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    let result = match Cli::parse().command {
        Command::Play(args) => commands::play::run(&args),
        Command::Record(args) => commands::record::run(&args),
        Command::Conform(args) => commands::conform::run(&args),
        Command::Shell(args) => commands::shell::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::LibvirtXml(args) => commands::libvirt_xml::run(&args),
        Command::Zoo(args) => commands::zoo::run(&args),
        Command::Debug(args) => commands::debug::run(&args),
        Command::Hil(args) => commands::hil::run(&args),
        Command::Pages(args) => args.write(Cli::command()).map_err(Into::into),
        Command::DieWithParent(args) => process::become_command(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmus-run: {error:#}");
            exit::code(&error)
        }
    }
}
