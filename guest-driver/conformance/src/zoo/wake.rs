//! Rings for nothing, and rings that do not come.

use super::event::{NOTE, running};
use super::{Mistake, Stream, prepared};
use core::sync::atomic::Ordering;
use dmus_interface::doorbell;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::{self, control};

/// Rings in a row: more than the card sleeps meanwhile, which takes it some 20 ms for each sleep.
const RINGS: u32 = 16;

/// Creates a stream, whose answer shows that the reset is done, and rings again and again.
fn ring_always(s: &Stream<'_>) -> anyhow::Result<()> {
    s.program();
    s.create()?;
    (0..RINGS).for_each(|_| s.write_global(regs::WAKE, 1));
    Ok(())
}

/// Submits to a card that sleeps, finds that nothing comes of it, and resets the card.
fn ring_never(s: &Stream<'_>) -> anyhow::Result<()> {
    s.platform.let_sleep()?;
    s.fill(0, s.inline(0, &NOTE));
    s.put(0);
    s.platform.doorbell().store_u32(doorbell::at(0, doorbell::SUBMISSION_TAIL), 1, Ordering::Release);
    s.platform.read32(regs::FAULT.offset);
    s.write_global(regs::CONTROL, control::RESET);
    Ok(())
}

pub(super) const MISTAKES: [Mistake; 2] = [
    Mistake::new("wake-needless", "writes WAKE without a look at WAKE_ARMED", prepared, ring_always),
    Mistake::new("wake-missing", "submits to a card that sleeps, and does not ring", running, ring_never),
];
