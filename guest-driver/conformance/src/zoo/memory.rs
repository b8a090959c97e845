//! Memory that is too small, wrongly laid out, not there, or gone.

use super::event::running;
use super::{Mistake, Needs, Stream, prepared};
use crate::raw::{BUFFER_SIZE, BUFFERS, SLOTS, STRIDE, seconds};
use dmus_interface::event::Data;
use dmus_interface::regs::Register;
use dmus_interface::regs::stream::{self, Type};
use dmus_interface::ring::COMPLETION_SIZE;

/// No memory of the guest's.
const NOWHERE: u64 = 0xF000_0000;

/// A stream in RUN, one part of which can go away without the others.
fn with_apart(s: &Stream<'_>, base: Register, bytes: usize) -> anyhow::Result<()> {
    s.write64(base, s.platform.dma_alloc_apart(bytes)?.iova);
    running(s)
}

/// Takes that part from the card, and gives where it was.
pub(super) fn revoke(s: &Stream<'_>, base: Register) -> anyhow::Result<u64> {
    let half = |offset| u64::from(s.platform.read32(stream::at(0, base).offset + offset));
    let iova = half(4) << 32 | half(0);
    s.platform.dma_revoke(iova)?;
    Ok(iova)
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
    let buffers = s.platform.dma_alloc((COUNT * SIZE) as usize, 64)?;
    s.write(stream::BUFFER_COUNT, COUNT);
    s.write(stream::BUFFER_SIZE, SIZE);
    s.write64(stream::BUFFER_BASE, buffers.iova);
    s.platform.limit_card_memory(Some(100 << 10))?;
    let created = create(s);
    s.platform.limit_card_memory(None)?;
    created
}

pub(super) const MISTAKES: [Mistake; 9] = [
    Mistake::new(
        "event-not-mapped",
        "unmaps the buffers of an open stream",
        |s| with_apart(s, stream::BUFFER_BASE, (BUFFERS * BUFFER_SIZE) as usize),
        |s| {
            let buffers = revoke(s, stream::BUFFER_BASE)?;
            s.submit(0, s.event(0, 9, Data::Buffer(buffers)), seconds(1));
            Ok(())
        },
    )
    .refusing(1)
    .needing(Needs::Mappings),
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
    Mistake::new(
        "ring-unmapped",
        "unmaps a ring while the stream is open",
        |s| with_apart(s, stream::SUBMISSION_BASE, SLOTS as usize * 4),
        |s| {
            revoke(s, stream::SUBMISSION_BASE)?;
            s.put(0);
            s.publish();
            Ok(())
        },
    )
    .needing(Needs::Mappings),
    Mistake::new("memory-overlap", "lays the submission ring over the pool", prepared, |s| {
        create_with(s, stream::SUBMISSION_BASE, s.slot_iova(1))
    }),
    Mistake::new("memory-not-writable", "gives a completion ring that the card may only read", prepared, |s| {
        let ring = s.platform.dma_alloc_read_only(SLOTS as usize * COMPLETION_SIZE)?;
        create_with(s, stream::COMPLETION_BASE, ring.iova)
    }),
    Mistake::new("card-out-of-memory", "creates a stream for which the card has no memory", prepared, create_large)
        .needing(Needs::CardMemory),
];
