//! `dmusd`: the card's driver as a program of Linux, for whoever wants to play, record or try a card.

mod commands;

use clap::{CommandFactory, Parser, Subcommand};
use commands::Failure;
use dmus_driver_vfio::VfioError;
use std::process::ExitCode;

/// Drives a DirectMusic card from user space, through VFIO.
///
/// The card must be behind an IOMMU and bound to vfio-pci, and this program may open its group in /dev/vfio; what is
/// missing is said, with its mend. What dmusd tells a host (progress, what came of it) is lines on standard output that
/// begin with "dmus: ".
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the song cannot be used, or this machine lacks something; 130
/// interrupted.
#[derive(Parser)]
#[command(name = "dmusd", version, arg_required_else_help = true)]
struct Cli {
    /// The card's PCI address, like 0000:00:03.0 [default: the only card that there is].
    #[arg(long, global = true, value_name = "ADDRESS")]
    device: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Info(commands::info::Args),
    Play(commands::play::Args),
    Record(commands::record::Args),
    Wave(commands::wave::Args),
    Alsa(commands::alsa::Args),
    Conform(commands::conform::Args),
    Selftest(commands::selftest::Args),
    Zoo(commands::zoo::Args),
    #[command(hide = true)]
    Pages(dmus_pages::Args),
}

fn main() -> ExitCode {
    let Cli { device, command } = Cli::parse();
    let device = device.as_deref();
    let result = match command {
        Command::Info(args) => commands::info::run(device, &args),
        Command::Play(args) => commands::play::run(device, &args),
        Command::Record(args) => commands::record::run(device, &args),
        Command::Wave(args) => commands::wave::run(device, &args),
        Command::Alsa(args) => commands::alsa::run(device, &args),
        Command::Conform(args) => commands::conform::run(device, &args),
        Command::Selftest(args) => commands::selftest::run(device, &args),
        Command::Zoo(args) => commands::zoo::run(device, &args),
        Command::Pages(args) => args.write(Cli::command()).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            match error.downcast_ref::<Failure>() {
                Some(failure) => ExitCode::from(failure.code()),
                None if error.is::<VfioError>() => ExitCode::from(commands::LACKING),
                None => ExitCode::FAILURE,
            }
        }
    }
}
