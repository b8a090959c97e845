//! `dmusd record`: what the card's MIDI inputs bring, as a MIDI file.
//!
//! Fed by a capture stream through `dmus_driver`'s recorder; feeds a standard MIDI file of one track, 52 us a tick.

use super::{Failure, Width, interruption, open, say, signs_of_life};
use anyhow::Context;
use dmus_driver::{CaptureStream, StreamConfig};
use dmus_interface::time::RefTime;
use dmus_song::{TimeBase, TimedMessage};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Record from the card's MIDI inputs into a MIDI file, for some seconds or until interrupted (Ctrl-C).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to write.
    output: PathBuf,
    /// How long. Without it, until interrupted, which is no failure then; a card with the virtual clock needs it.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=21_600))]
    seconds: Option<u32>,
    /// Print each message, too: its time in 100 ns, and its bytes in hexadecimal digits.
    #[arg(long)]
    print: bool,
    /// Bytes of the pointers in events.
    #[arg(long, value_enum, default_value = "8")]
    width: Width,
}

/// Bytes that are kept at most: a recording grows no further.
const LIMIT: usize = 64 << 20;

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    let asked = interruption()?;
    let mut progress = signs_of_life(&asked);
    let card = open(device, args.width.into())?;
    anyhow::ensure!(args.seconds.is_some() || !card.is_virtual(), "the card's clock is virtual: say --seconds");
    let config = StreamConfig { slots: 64, buffers: 64, ..StreamConfig::default() };
    let stream = CaptureStream::open(&card, 0, config, true)?;

    let until = RefTime::from_secs(args.seconds.map_or(i64::MAX, i64::from));
    let mut messages: Vec<(RefTime, Box<[u8]>)> = Vec::new();
    let kept = Cell::new(0);
    let keep = |time: RefTime, bytes: &[u8]| {
        if args.print {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            say(format_args!("captured {} {digits}", time.0));
        }
        if kept.get() <= LIMIT {
            kept.set(kept.get() + bytes.len() + size_of::<(RefTime, Box<[u8]>)>());
            messages.push((time, bytes.into()));
        }
    };
    let progress = |now| match progress(now) {
        ControlFlow::Continue(()) if kept.get() <= LIMIT => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let recorded = dmus_driver::record(&card, &stream, until, keep, progress)?;

    let timed = messages.iter().map(|(time, bytes)| TimedMessage { time: *time, group: 0, bytes });
    let file = TimeBase::default().write(timed).map_err(|error| Failure::Unusable(error.to_string()))?;
    std::fs::write(&args.output, file).with_context(|| format!("cannot write {}", args.output.display()))?;
    let (slots_free, buffers_free) = stream.free_slots_and_buffers();
    say(format_args!(
        "recorded messages={} bytes={} lost={} slots={} slots_free={slots_free} buffers={} buffers_free={buffers_free}",
        recorded.messages, recorded.bytes, recorded.lost, config.slots, config.buffers,
    ));
    anyhow::ensure!(kept.get() <= LIMIT, "the recording reached {LIMIT} bytes; the file has it up to there");
    anyhow::ensure!(args.seconds.is_none() || asked_not(&asked), Failure::Interrupted);
    Ok(())
}

fn asked_not(asked: &std::sync::atomic::AtomicBool) -> bool {
    !asked.load(std::sync::atomic::Ordering::Relaxed)
}
