//! What a guest may do that no driver should: single steps, and the check that the card survived them.
//!
//! Fed by generated tests and by fuzzing; feeds the card through a [`RawStream`].

use crate::raw::{Bus, RawStream, SLOTS};
use anyhow::ensure;
use dmus_interface::event::{Data, Event, PACKAGE, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs;
use dmus_interface::ring::Status;
use std::sync::atomic::Ordering;

/// One step.
#[derive(Clone, Debug)]
pub enum Attack {
    /// Writes BAR0: offset, width, value.
    Register(u64, usize, u64),
    /// Reads BAR0: offset, width.
    Read(u64, usize),
    /// Writes configuration space.
    Config(u64, u32),
    /// Writes a word of the doorbell page.
    Page(usize, u32),
    /// Writes an entry of the submission ring.
    Ring(u32, u32),
    /// Writes an event into a slot.
    Event(u32, Event),
    /// Writes eight bytes somewhere into pool and buffers.
    Scribble(usize, u64),
    /// Publishes a tail.
    Tail(u32),
    /// Grants time.
    Grant(i64),
    /// Function reset.
    Reset,
}

impl Attack {
    /// Takes the step.
    pub fn carry_out<B: Bus>(self, stream: &RawStream<'_, B>) {
        let platform = stream.platform;
        match self {
            Self::Register(at, width, value) => {
                let bytes: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(width).collect();
                platform.write_bar0(at, &bytes);
            }
            Self::Read(at, width) => platform.read_bar0(at, &mut vec![0; width]),
            Self::Config(at, value) => platform.write_config(at, &value.to_le_bytes()),
            Self::Page(at, value) => {
                platform.doorbell().store_u32(at, value, Ordering::SeqCst);
                stream.ring();
            }
            Self::Ring(at, value) => {
                stream.submissions.memory.write(at as usize * 4, &value.to_le_bytes());
            }
            Self::Event(slot, event) => stream.fill(slot, event),
            Self::Scribble(at, value) => {
                stream.pool.memory.write(at, &value.to_le_bytes());
            }
            Self::Tail(tail) => stream.publish_tail(tail),
            Self::Grant(until) => stream.grant(until),
            Self::Reset => platform.device_reset(),
        }
    }

    /// Makes a step of arbitrary bytes; `None` when there are no more.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (kind, at, value) = (take::<1>(bytes)?[0], u16::from_le_bytes(take(bytes)?), take::<8>(bytes)?);
        let word = u64::from_le_bytes(value);
        let near = u32::from(at);
        Some(match kind % 13 {
            0 => Self::Register(u64::from(at % 0x600), usize::from(kind / 13) % 10, word),
            1 | 2 => Self::Register(u64::from(at % 0x600) / 4 * 4, 4, word),
            3 => Self::Read(u64::from(at), usize::from(kind / 13) % 10),
            4 => Self::Config(u64::from(at % 0x110), word as u32),
            5 => Self::Page(usize::from(at % 4096) / 4 * 4, word as u32),
            6 => Self::Ring(near % SLOTS, word as u32 % (SLOTS + 2)),
            7 | 8 => Self::Event(near % SLOTS, Self::event(bytes, word)?),
            9 => Self::Scribble(usize::from(at % 8192), word),
            10 => Self::Tail(word as u32 % (SLOTS * 2)),
            11 => Self::Grant(word as i64 % 2_000_000),
            _ => Self::Reset,
        })
    }

    /// An event that is nearly right: its pointers mostly point to slots and buffers.
    fn event(bytes: &mut &[u8], word: u64) -> Option<Event> {
        let [size, flags, group, next, to] = take(bytes)?;
        let near = |byte: u8| if byte < 250 { 0x10_0000 + u64::from(byte) * 64 } else { word };
        let (flags, event_bytes) = (u16::from(flags % 5), (word >> 48) as u16 % 300);
        let data = match flags & PACKAGE != 0 || event_bytes > 8 {
            true => Data::Buffer(near(to)),
            false => Data::Inline(word.to_le_bytes()),
        };
        Some(Event {
            struct_size: if size < 240 { 40 } else { size },
            event_bytes,
            channel_group: u16::from(group % 18),
            flags,
            time: if size & 1 == 0 { (word >> 20) as i64 % 2_000_000 } else { word as i64 },
            byte_position: 0,
            next: if next < 128 { 0 } else { near(next) },
            data,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Resets the card and plays a note as the next driver would: exactly as if nothing had happened before.
pub fn next_driver_plays<B: Bus>(platform: &B) -> anyhow::Result<()> {
    platform.device_reset();
    platform.write_config(4, &[6, 0]);
    let next = RawStream::running(platform, PointerWidth::Eight)?;
    next.submit(0, next.inline(0, &[0x90, 60, 100]), 1000);
    let done = next.completion()?;
    ensure!((done.slot, done.status) == (0, Status::Presented), "{done:?}");
    let fault = platform.read32(regs::FAULT.offset);
    ensure!(fault == 0, "fault {fault}");
    Ok(())
}
