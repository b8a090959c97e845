//! Register accesses that the data sheet does not have, and values that no register takes.

use super::event::running;
use super::{Mistake, prepared};
use dmus_interface::regs::{self, stream};

pub(super) const MISTAKES: [Mistake; 5] = [
    Mistake::new("register-width", "reads a register with 2 bytes", prepared, |s| {
        s.platform.read16(regs::STREAMS.offset);
        Ok(())
    }),
    Mistake::new("register-reserved", "reads where no register is", prepared, |s| {
        s.platform.read32(0xFC);
        Ok(())
    }),
    Mistake::new("register-rights", "writes a register that is read-only", prepared, |s| {
        s.write_global(regs::SAMPLE_RATE, 44_100);
        Ok(())
    }),
    Mistake::new("register-value", "sets a pointer width of 5 bytes", prepared, |s| {
        s.write_global(regs::POINTER_WIDTH, 5);
        Ok(())
    }),
    Mistake::new("register-locked", "changes the pool of an open stream", running, |s| {
        s.write(stream::SLOT_COUNT, 1);
        Ok(())
    }),
];
