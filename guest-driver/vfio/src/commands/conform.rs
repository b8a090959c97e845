//! `dmusd conform`: what the DirectMusic DDI states, tried on the card at hand through VFIO.
//!
//! Fed by a card of virtual time whose MIDI input is the loopback alone; feeds a line for each statement. The list is
//! `dmus-conformance`'s.

use super::{Width, open, say};
use anyhow::ensure;
use dmus_conformance::Tally;
use dmus_driver::Card;
use dmus_driver_vfio::VfioPlatform;

/// Try each statement of the DirectMusic DDI that a driver can see. The card must be one of virtual time, with its
/// loopback for MIDI input.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes of the pointers in events: those of a 64-bit or of a 32-bit system.
    #[arg(long, value_enum, default_value_t)]
    width: Width,
}

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let card = open(device, args.width.into())?;
    let Tally { checks, holding } = try_all(&card)?;
    say(format_args!("conformed checks={checks} holding={holding} width={}", card.pointer_width().bytes()));
    ensure!(holding == checks, "{} of {checks} statements do not hold", checks - holding);
    Ok(())
}

/// Tries the list, with a line for each statement.
pub(crate) fn try_all(card: &Card<VfioPlatform>) -> anyhow::Result<Tally> {
    dmus_conformance::run(card, |name, statement, result| match result {
        Ok(()) => say(format_args!("holds {name}: {statement}")),
        Err(error) => say(format_args!("fails {name}: {statement}: {error:#}")),
    })
}
