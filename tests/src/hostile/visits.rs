//! The manners of clients: each from its connection to its end.
//!
//! Fed by the soak with a socket and a random number; feeds the card behind it, and the soak with what a client leaves
//! behind.

use super::{Left, Manner, play};
use crate::attack::Attack;
use crate::load::Load;
use crate::loopback::Loopback;
use crate::memory::{Page, RAM, RAM_IOVA};
use crate::raw::{Bus, RawStream, SLOTS};
use crate::soak::Random;
use crate::unshared::{Answer, UnsharedClient};
use crate::wire;
use anyhow::ensure;
use dmus_card::collection::Region;
use dmus_driver::{CaptureStream, Card, Mailbox, RenderStream, StreamConfig};
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, PointerWidth};
use dmus_interface::pci::BAR_SIZE;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::time::RefTime;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, ftruncate, memfd_create};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One client from its connection to its end, however that is.
pub(super) fn visit(manner: Manner, socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    match manner {
        Manner::Good => play(socket).map(|_| Left::default()),
        Manner::Noise => noise(socket, random),
        Manner::Refused => refused(socket),
        Manner::Silent => silent(socket, random),
        Manner::Scribbler => scribble(socket, random),
        Manner::FullVectors => full_vectors(socket),
        Manner::WrongVectors => wrong_vectors(socket),
        Manner::PageKeeper => keep_page(socket),
        Manner::Truncater => truncate(socket, random),
        Manner::Debtor => owe(socket, random),
        Manner::Glutton => gorge(socket, random),
        Manner::Hoarder => hoard(socket, random),
    }
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    Ok(stream)
}

fn noise(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let stream = connect(socket)?;
    let bytes: Vec<u8> = (0..random.below(2000)).map(|_| random.below(256) as u8).collect();
    // The card may have hung up before all was said.
    let _ = match random.below(2) {
        0 => (&stream).write_all(&bytes).map_err(anyhow::Error::from),
        _ => wire::speak(&stream, &bytes),
    };
    Ok(Left::default())
}

fn refused(socket: &Path) -> anyhow::Result<Left> {
    let stream = connect(socket)?;
    let messages: Vec<u8> = std::iter::repeat_n([17, 0, 0], 3000).flatten().collect();
    let _ = wire::speak(&stream, &messages);
    Ok(Left::default())
}

fn silent(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let streams: Vec<_> = (0..1 + random.below(4)).map(|_| connect(socket)).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(random.below(4)));
    drop(streams);
    Ok(Left::default())
}

fn scribble(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    let bytes: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
    let mut bytes = &bytes[..];
    while let Some(attack) = Attack::decode(&mut bytes) {
        // This client waits for ever for the reply to an access that the server refuses.
        let refused = match attack {
            Attack::Register(at, width, _) | Attack::Read(at, width) => {
                width == 0 || at + width as u64 > u64::from(BAR_SIZE)
            }
            Attack::Config(at, _) => at + 4 > 256,
            _ => false,
        };
        if !refused {
            attack.carry_out(&stream);
        }
    }
    Ok(Left::default())
}

/// Notes on all slots at one time that is granted already, so that each brings a completion and a vector.
fn notes_at_once<B: Bus>(platform: &B, rounds: u64) -> anyhow::Result<()> {
    let stream = RawStream::running(platform, PointerWidth::Eight)?;
    for _ in 0..rounds {
        for slot in 0..SLOTS {
            stream.fill(slot, stream.inline(DONT_HOLD, &[0x90, 30 + slot as u8, 90]));
            stream.put(slot);
        }
        stream.publish();
        stream.grant(i64::MAX);
        for _ in 0..SLOTS {
            stream.completion()?;
        }
    }
    Ok(())
}

fn full_vectors(socket: &Path) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let vectors: Vec<OwnedFd> = (0..9).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>()?;
    let fill = |vector: &OwnedFd| {
        fcntl_setfl(vector, OFlags::NONBLOCK)?;
        let filled = rustix::io::write(vector, &(u64::MAX - 1).to_ne_bytes());
        fcntl_setfl(vector, OFlags::empty())?;
        filled
    };
    for (number, vector) in vectors.iter().enumerate() {
        platform.set_vector(number as u32, vector)?;
        fill(vector)?;
    }
    let ours: Vec<OwnedFd> = vectors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    let left = Left::files(vectors).busy(move || {
        // It is full again whatever the card does about it.
        ours.iter().for_each(|vector| {
            let _ = fill(vector);
        });
    });
    // What the card is asked for meanwhile need not be answered.
    let raw = RawStream::prepare(&platform, PointerWidth::Eight)?;
    for (register, value) in [(stream::TYPE, Type::Render.value()), (stream::STATE, State::Run as u32)] {
        raw.write(register, value);
        std::thread::sleep(Duration::from_micros(500));
    }
    raw.submit(0, raw.inline(DONT_HOLD, &[0x90, 60, 100]), 1_000_000);
    std::thread::sleep(Duration::from_millis(2));
    Ok(left)
}

fn wrong_vectors(socket: &Path) -> anyhow::Result<Left> {
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, Some(0));
    let (reader, writer) = std::io::pipe()?;
    let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty())?;
    let (one, other) = UnixStream::pair()?;
    let wrong: [OwnedFd; 4] = [writer, one.into(), other.into(), memfd_create("vector", MemfdFlags::CLOEXEC)?];
    for (number, descriptor) in wrong.iter().enumerate() {
        ensure!(client.connect_vector(number as u32, descriptor.as_fd()).is_err(), "descriptor {number} is a vector");
    }
    notes_at_once(&client, 1)?;
    Ok(Left::files(wrong.into_iter().chain([reader])))
}

fn keep_page(socket: &Path) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    notes_at_once(&platform, 1)?;
    let page = platform.page_file.try_clone()?;
    let kept = Page::map(&page, 4096)?;
    // Refused where the page is sealed against it.
    let _ = fcntl_add_seals(&page, SealFlags::FUTURE_WRITE);
    let mut at = 0;
    Ok(Left::files([page.into()]).busy(move || {
        kept.shared().store_u64(doorbell::GRANT, i64::MAX as u64, Ordering::Relaxed);
        at = (at + 4) % 4096;
        kept.shared().store_u32(at, 0xFFFF_FF00, Ordering::Relaxed);
    }))
}

fn truncate(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    const PLACE: u64 = RAM_IOVA + (64 << 20);
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, Some(0));
    let file = match random.below(3) {
        0 => OwnedFd::from(tempfile::tempfile()?),
        1 => memfd_create("truncated", MemfdFlags::CLOEXEC)?,
        _ => memfd_create("truncated", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?,
    };
    ftruncate(&file, 1 << 20)?;
    // Refused, or sealed, or the card survives it.
    let _ = client.share(PLACE, 1 << 20, Some((0, file.as_fd())));
    let _ = ftruncate(&file, 0);
    let raw = RawStream::prepare(&client, PointerWidth::Eight)?;
    for register in [stream::POOL_BASE, stream::SUBMISSION_BASE] {
        raw.write64(register, PLACE);
    }
    // Whether there is such a stream is the card's to say.
    let _ = raw.transition(stream::TYPE, Type::Render.value());
    raw.publish_tail(SLOTS);
    raw.grant(1_000_000);
    Ok(Left::files([file]))
}

fn owe(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, None);
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    let leaves = random.below(2) == 0;
    client.behave(move |_| if leaves { Answer::Leave } else { Answer::Hold });
    stream.submit(0, stream.inline(0, &[0x90, 60, 100]), 1_000_000);
    std::thread::sleep(Duration::from_millis(random.below(4)));
    Ok(Left::default())
}

fn gorge(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let load = match random.below(8) {
        0 => Some(Load::layers(4096, |_| Region::of(0))),
        1 => Some(Load::exclusive(4096)),
        2 => Some(Load::locked(4096, 2)),
        3 => Some(Load::intricate()),
        _ => None,
    };
    if let Some(load) = load {
        load.put_on(&Card::open(platform, PointerWidth::Eight)?)?;
        return Ok(Left::default());
    }
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    for round in 0..1 + random.below(40) {
        for slot in 0..SLOTS {
            let (channel, note) = (round as u8 % 16, (slot + round as u32 * 7) as u8 % 128);
            let time = 100_000 + (round % 2) as i64;
            stream.fill(slot, stream.inline(time, &[0x90 | channel, note, 100]));
            stream.put(slot);
        }
        stream.publish();
        stream.grant(100_001);
        for _ in 0..SLOTS {
            stream.completion()?;
        }
    }
    stream.grant(i64::MAX);
    Ok(Left::default())
}

fn hoard(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    const SIZES: StreamConfig = StreamConfig { slots: 16, buffers: 16, buffer_size: 4096 };
    let card = Card::open(Loopback::new(socket)?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    // Whether such a chunk is taken is the card's to say; the memory that it needs to find out is not.
    let chunk: Vec<u8> = (0..random.below(1 << 20)).map(|at| (at >> 3) as u8).collect();
    let _ = mailbox.download(&chunk);
    let render = RenderStream::open(&card, 0, StreamConfig { slots: 256, buffers: 256, buffer_size: 4096 })?;
    let captures: Vec<_> =
        (1..8).map(|index| CaptureStream::open(&card, index, SIZES, true)).collect::<Result<_, _>>()?;
    for capture in &captures {
        capture.set_state(State::Run)?;
    }
    render.set_state(State::Run)?;
    let mut message = [0x33; 4096];
    (message[0], message[4095]) = (0xF0, 0xF7);
    for number in 0..256 {
        render.send(RefTime(number * 10), 0, &message)?;
    }
    render.flush();
    card.grant(RefTime(i64::MAX));
    std::thread::sleep(Duration::from_millis(random.below(5)));
    Ok(Left::default())
}
