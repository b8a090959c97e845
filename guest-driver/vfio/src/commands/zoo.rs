//! `dmusd zoo`: a wrong driver for each rule of the data sheet, on the card at hand through VFIO.
//!
//! Fed by names of rules; feeds a line for each with what the card said. The list is `dmus_conformance`'s.

use super::say;
use anyhow::ensure;
use dmus_conformance::zoo::{self, Place, words};
use dmus_driver::Platform;
use dmus_driver_vfio::{VfioPlatform, find};
use dmus_interface::regs::{self, feature};

/// Break rules of the data sheet, one after the other, and show what the card says of each. Which rules can be broken
/// depends on the card's clock.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The rules, by name or code (tail-overrun, F14) [default: all].
    #[arg(value_parser = rule)]
    rules: Vec<String>,
}

fn rule(text: &str) -> Result<String, String> {
    zoo::select(&[text]).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let mut mistakes = zoo::select(&args.rules)?;
    let card = VfioPlatform::open(&find(device)?)?;
    let realtime = card.read32(regs::FEATURES.offset) & feature::VIRTUAL_CLOCK == 0;
    mistakes.retain(|mistake| mistake.needs.are_met(Place::Linux) && mistake.realtime == realtime);
    let mut failed = 0;
    zoo::run(&card, &mistakes, |mistake, said| match said {
        Ok(said) => say(format_args!("broke {}: {}", mistake.rule, words(&said))),
        Err(error) => {
            failed += 1;
            say(format_args!("kept {}: {error:#}", mistake.rule));
        }
    })?;
    say(format_args!("misbehaved mistakes={}", mistakes.len()));
    ensure!(failed == 0, "{failed} of {} rules could not be broken", mistakes.len());
    Ok(())
}
