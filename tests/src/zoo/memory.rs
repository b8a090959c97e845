//! Memory that is too small, wrongly laid out, not there, or gone.

use super::event::{NOTE, running};
use super::{Mistake, Stream, prepared};
use crate::counting::{ALLOCATIONS, LARGEST};
use crate::raw::{STRIDE, seconds};
use anyhow::ensure;
use dmus_driver::Platform;
use dmus_interface::regs::Register;
use dmus_interface::regs::stream::{self, Type};
use std::sync::atomic::Ordering;

/// Where the guest's memory is seen once more, for reading only.
const ABOVE: u64 = 0x8000_0000;
/// No memory of the guest's.
const NOWHERE: u64 = 0xF000_0000;

/// A stream whose pool can go away without its rings.
fn with_a_pool_above(s: &Stream<'_>) -> anyhow::Result<()> {
    s.platform.map_read_only(ABOVE)?;
    s.write64(stream::POOL_BASE, s.pool.iova + ABOVE);
    running(s)
}

/// Creates the stream. What the card answers is what is looked at.
fn create(s: &Stream<'_>) -> anyhow::Result<()> {
    s.transition(stream::TYPE, Type::Render.value())?;
    Ok(())
}

fn create_with(s: &Stream<'_>, register: Register, value: u64) -> anyhow::Result<()> {
    match register.width {
        8 => s.write64(register, value),
        _ => s.write(register, value.try_into()?),
    }
    create(s)
}

/// Creates a stream with 4 MiB of buffers while the process gets no more than 100 KiB at once.
fn create_large(s: &Stream<'_>) -> anyhow::Result<()> {
    const COUNT: u32 = 64;
    const SIZE: u32 = 65_528;
    ensure!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "card-out-of-memory needs the allocator of dmus_tests::counting");
    let buffers = s.platform.dma_alloc((COUNT * SIZE) as usize, 64)?;
    s.write(stream::BUFFER_COUNT, COUNT);
    s.write(stream::BUFFER_SIZE, SIZE);
    s.write64(stream::BUFFER_BASE, buffers.iova);
    LARGEST.store(100 << 10, Ordering::Relaxed);
    let created = create(s);
    LARGEST.store(usize::MAX, Ordering::Relaxed);
    created
}

pub(super) const MISTAKES: [Mistake; 9] = [
    Mistake::new("event-not-mapped", "unmaps the pool of an open stream", with_a_pool_above, |s| {
        s.platform.unmap_above(ABOVE);
        s.submit(0, s.inline(0, &NOTE), seconds(1));
        Ok(())
    }),
    Mistake::new("pool-geometry", "makes the stride the size of an event and a half", prepared, |s| {
        create_with(s, stream::SLOT_STRIDE, u64::from(STRIDE) * 3 / 2)
    }),
    Mistake::new("buffer-geometry", "makes buffers of 12 bytes", prepared, |s| create_with(s, stream::BUFFER_SIZE, 12)),
    Mistake::new("ring-geometry", "makes a ring of 96 entries", prepared, |s| {
        create_with(s, stream::SUBMISSION_SIZE, 96)
    }),
    Mistake::new("stream-not-mapped", "gives the buffers an address outside its memory", prepared, |s| {
        create_with(s, stream::BUFFER_BASE, NOWHERE)
    }),
    Mistake::new("ring-unmapped", "unmaps its memory while the stream is open", running, |s| {
        s.fill(0, s.inline(0, &NOTE));
        s.put(0);
        s.platform.unmap();
        s.publish();
        Ok(())
    }),
    Mistake::new("memory-overlap", "lays the submission ring over the pool", prepared, |s| {
        create_with(s, stream::SUBMISSION_BASE, s.slot_iova(1))
    }),
    Mistake::new("memory-not-writable", "maps the completion ring for reading only", prepared, |s| {
        s.platform.map_read_only(ABOVE)?;
        create_with(s, stream::COMPLETION_BASE, s.completions.iova + ABOVE)
    }),
    Mistake::new("card-out-of-memory", "creates a stream for which the card has no memory", prepared, create_large),
];
