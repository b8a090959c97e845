//! What the card owns, and the driver touches all the same; and what only a card that looks twice sees.

use super::event::{FAR, NOTE, running};
use super::memory::revoke;
use super::ring::once_around;
use super::{Mistake, Needs, Stream};
use crate::raw::{SLOTS, STRIDE, seconds};
use anyhow::{bail, ensure};
use core::sync::atomic::Ordering;
use dmus_interface::command::Opcode;
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::wave::{Sample, WaveFormat};

const LONG: [u8; 12] = [0xF0, 0x43, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xF7];

/// A second until which an event is held.
const LATER: i64 = 10_000_000;

/// A stream in RUN that holds a note in slot 5 for a second.
fn holding(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    s.submit(5, s.inline(LATER, &NOTE), 0);
    Ok(())
}

/// The same of a message in a buffer.
fn holding_long(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    s.submit(5, s.long(LATER, 2, &LONG), 0);
    Ok(())
}

/// Lets the note of [`holding`] be presented.
fn present(s: &Stream<'_>) {
    s.grant(2 * LATER);
}

/// A wave sink in RUN with one slot posted, whose buffer is not full yet.
fn posted(s: &Stream<'_>) -> anyhow::Result<()> {
    let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
    s.write(stream::WAVE_RATE, format.rate);
    s.write(stream::WAVE_FORMAT, format.value());
    ensure!(s.transition(stream::TYPE, Type::WaveSink.value())?.is_none(), "the wave sink is refused");
    s.set_state(State::Run)?;
    s.fill(0, s.event(0, 0, Data::Inline(s.buffer_iova(0).to_le_bytes())));
    s.put(0);
    s.publish();
    Ok(())
}

/// A stream that has completed two events, and given back their memory's state before that.
fn completed(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    for slot in 0..2 {
        s.submit(slot, s.inline(0, &NOTE), 0);
        s.completion()?;
    }
    Ok(())
}

/// Sets the volume, and stores another one into the request while the command waits until the card has rendered what
/// is granted. A card that was quicker has set the first one, and is asked again.
fn change_request(s: &Stream<'_>) -> anyhow::Result<()> {
    const VOLUMES: [i32; 2] = [-600, -1200];
    /// Where the volume is read back.
    const RESULT: usize = 64;
    let commands = || s.platform.doorbell().load_u32(doorbell::COMMANDS, Ordering::Acquire);
    let store = |volume: i32| s.buffers.memory.write(0, &volume.to_le_bytes());
    for attempt in 1..=4 {
        let before = commands();
        store(VOLUMES[0]);
        s.grant(seconds(50 * attempt));
        s.write_global(regs::COMMAND_REQUEST, s.buffers.iova as u32);
        s.write_global(regs::COMMAND_REQUEST_SIZE, 4);
        s.write_global(regs::COMMAND, Opcode::SetVolume as u32);
        // The answer to a read says that the write has arrived.
        s.platform.read32(regs::MAGIC.offset);
        store(VOLUMES[1]);
        s.until("the answer to a command", || commands() != before)?;
        s.command(Opcode::GetVolume, (0, 0), (s.buffers.iova + RESULT as u64, 4))?;
        let mut volume = [0; 4];
        s.buffers.memory.read(RESULT, &mut volume);
        if i32::from_le_bytes(volume) == VOLUMES[1] {
            return Ok(());
        }
    }
    bail!("the card is too quick for its request to be changed")
}

pub(super) const MISTAKES: [Mistake; 14] = [
    Mistake::new("entry-stale", "stores the tail before the ring entry", once_around, |s| {
        s.fill(0, s.inline(0, &NOTE));
        s.publish_tail(SLOTS + 1);
        Ok(())
    }),
    Mistake::new(
        "grant-broken",
        "grants time for an event that it submits later",
        |s| {
            running(s)?;
            s.grant(seconds(2));
            s.reach(seconds(2))
        },
        |s| {
            s.submit(0, s.inline(LATER, &NOTE), seconds(2));
            Ok(())
        },
    ),
    Mistake::new("foreign-word", "acknowledges completions by storing the card's head", completed, |s| {
        s.platform.doorbell().store_u32(doorbell::at(0, doorbell::COMPLETION_HEAD), 0, Ordering::Release);
        s.platform.settle(&s.rung)?;
        // As it was, so that this side does not wait for what it has taken.
        s.platform.doorbell().store_u32(doorbell::at(0, doorbell::COMPLETION_HEAD), 2, Ordering::Release);
        Ok(())
    }),
    Mistake::new("reserved-set", "keeps a flag of its own in bReserved", running, |s| {
        let (mut bytes, len) = s.inline(0, &NOTE).encode(s.width);
        bytes[0] = 1;
        s.pool.memory.write(0, &bytes[..len]);
        s.put(0);
        s.publish();
        Ok(())
    }),
    Mistake::new("not-zeroed", "leaves the end of a longer message behind a shorter one", running, |s| {
        let event = s.event(0, 3, Data::Inline([0x90, 60, 100, 0, 0, 0, 1, 2]));
        s.submit(0, event, 0);
        Ok(())
    }),
    Mistake::new("slot-changed", "fills a slot again before it came home", holding, |s| {
        s.fill(5, s.inline(LATER, &[0x90, 61, 100]));
        present(s);
        Ok(())
    }),
    Mistake::new("buffer-changed", "copies the next message into a buffer in flight", holding_long, |s| {
        s.long(LATER, 2, &[0xF0, 0x43, 9, 2, 3, 4, 5, 6, 7, 8, 9, 0xF7]);
        present(s);
        Ok(())
    }),
    Mistake::new("posted-buffer-touched", "clears a buffer after it was posted", posted, |s| {
        s.buffers.memory.write(16, &[0; 16]);
        s.grant(seconds(1));
        Ok(())
    }),
    Mistake::new(
        "unmapped-in-flight",
        "unmaps the pool while an event is held in it",
        |s| {
            let pool = s.platform.dma_alloc_apart((SLOTS * STRIDE) as usize)?;
            let (bytes, len) = s.inline(LATER, &NOTE).encode(s.width);
            pool.memory.write(0, &bytes[..len]);
            s.write64(stream::POOL_BASE, pool.iova);
            running(s)?;
            s.put(0);
            s.publish();
            Ok(())
        },
        |s| {
            revoke(s, stream::POOL_BASE)?;
            present(s);
            Ok(())
        },
    )
    .needing(Needs::Mappings),
    Mistake::new("use-after-reset", "goes on with the tail from before a reset", completed, |s| {
        s.program();
        s.publish_tail(3);
        // Otherwise the card says so when it goes to sleep.
        s.platform.settle(&s.rung)?;
        s.create()?;
        Ok(())
    }),
    Mistake::new("went-back", "is a guest that went back to a snapshot", completed, |s| {
        s.completions.memory.write(0, &[0; 32]);
        s.publish_tail(1);
        Ok(())
    }),
    Mistake::new("chain-steals", "chains a slot that was submitted by itself", holding, |s| {
        s.submit(0, Event { next: s.slot_iova(5), ..s.inline(FAR, &NOTE) }, 0);
        Ok(())
    })
    .refusing(1),
    Mistake::new(
        "master-off-in-flight",
        "turns bus mastering off for a while, with an event in flight",
        holding,
        |s| {
            s.platform.set_bus_master(false)?;
            s.platform.set_bus_master(true)
        },
    ),
    Mistake::new("request-changed", "uses a command's request again before the answer", running, change_request),
];
