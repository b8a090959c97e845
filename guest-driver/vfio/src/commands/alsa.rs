//! `dmusd alsa`: the card as ports of ALSA's sequencer, for every MIDI program that there is.
//!
//! Fed by programs through the sequencer, and by the card's capture streams; feeds render streams, and whoever reads
//! the ports.
//!
//! - `bridge` turns: it waits, hands on, recovers from a reset of the card, drains and ends.
//! - `ports` is the sequencer's side: ports, the queue that stamps what arrives, its clock against the card's.
//! - `playback` is one render stream behind a port; `source` is what one program has sent there: unfinished SysEx,
//!   sounding notes.

#[cfg(feature = "alsa")]
mod bridge;
#[cfg(feature = "alsa")]
mod playback;
#[cfg(feature = "alsa")]
mod ports;
#[cfg(any(feature = "alsa", test))]
mod source;

/// Be ports of the ALSA sequencer, until interrupted: any MIDI program plays the card, and reads its MIDI inputs.
///
/// Each playback port is a render stream of its own, a synthesizer with 16 channels; each capture port brings what the
/// card's MIDI inputs receive. What arrives at a port is stamped by an ALSA queue at that instant, and plays a constant
/// time later: nothing that this program, or the machine, is late by can be heard. When a program leaves, what it left
/// sounding ends. SIGINT or SIGTERM drains and ends.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Playback ports, 0 to 8.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    playback: u8,
    /// Capture ports; 8 with the playback ports at most.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    capture: u8,
    /// How much later than it arrived a message plays. Less than the card's own latency makes it late.
    #[arg(long, default_value_t = 30, value_name = "MILLISECONDS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    latency: u16,
}

#[cfg(feature = "alsa")]
pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    bridge::run(device, args)
}

#[cfg(not(feature = "alsa"))]
pub(crate) fn run(_: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let Args { playback: _, capture: _, latency: _ } = args;
    anyhow::bail!("this dmusd was built without ALSA: build it with --features alsa (needs libasound2-dev)")
}
