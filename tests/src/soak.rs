//! The soak: events without end through a small pool, in every shape, with state changes and resets in between.
//!
//! Fed by a number of events; feeds the driver and the card, in one thread and always in the same order. It ends with
//! every slot and buffer free, every message accounted for on both sides, and no more memory than it began with.

use crate::direct::Direct;
use anyhow::{Context, ensure};
use dmus_driver::{Allocator, Card, DriverError, Message, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

/// The pool.
const CONFIG: StreamConfig = StreamConfig { slots: 256, buffers: 64, buffer_size: 256 };
/// Events between two changes of state, and between two resets.
const STATE_EVERY: u64 = 20_000;
const RESET_EVERY: u64 = 1_000_000;
/// Resident memory may grow by this much after the first tenth: the kernel's own bookkeeping.
const GROWTH: u64 = 1 << 20;

/// How a soak went.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Messages by how they ended.
    pub counts: dmus_driver::Counts,
    /// Resets on the way.
    pub resets: u64,
    /// Bytes of resident memory that were added after the first tenth.
    pub growth: u64,
}

/// Sends `events` messages, to a card that checks its driver if it is to. `progress` is told how many are sent, now and
/// then.
pub fn run(events: u64, checked: bool, mut progress: impl FnMut(u64)) -> anyhow::Result<Report> {
    let direct = Direct::new()?;
    let checker = checked.then(|| direct.check());
    let card = Card::open(direct, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, CONFIG)?;
    stream.set_state(State::Run)?;
    let allocator = stream.allocator();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut now = RefTime::ZERO;
    let (mut next_state, mut next_reset) = (STATE_EVERY, RESET_EVERY);
    // Master time at stream time zero.
    let mut base = RefTime::ZERO;
    let (mut resets, mut idle) = (0, 0);
    let mut resident = None;
    loop {
        let sent = allocator.counts().submitted;
        if sent >= events {
            break;
        }
        // Some events are for later, so that STOP and resets find the card holding them.
        let later = RefTime(if random.below(4) == 0 { 1000 } else { 0 });
        let time = now.saturating_sub(base).saturating_add(later);
        for _ in 0..random.below(100) {
            match submit(&stream, &mut random, time) {
                Ok(()) => {}
                Err(DriverError::NoMessage | DriverError::NoBuffer) => break,
                Err(error) => return Err(error.into()),
            }
        }
        stream.flush();
        // A sample now and then, so that time moves but the synthesizer is not what is measured.
        now = now.saturating_add(RefTime(if random.below(64) == 0 { 209 } else { 0 }));
        card.grant(now);
        card.platform().run_until_idle();
        allocator.reclaim()?;
        idle = if allocator.counts().submitted > sent { 0 } else { idle + 1 };
        ensure!(idle < 10_000, "nothing moves any more: {:?}", allocator.counts());
        if sent >= next_state {
            next_state += STATE_EVERY;
            let state = [State::Pause, State::Acquire, State::Stop][random.below(3) as usize];
            stream.set_state(state)?;
            stream.set_state(State::Run)?;
            base = stream.time_base();
            progress(sent);
        }
        if sent >= next_reset {
            next_reset += RESET_EVERY;
            resets += 1;
            card.reset()?;
            stream.restore()?;
            stream.set_state(State::Run)?;
            (now, base) = (RefTime::ZERO, RefTime::ZERO);
        }
        if resident.is_none() && sent >= events / 10 {
            resident = Some(resident_bytes()?);
        }
    }
    stream.set_state(State::Stop)?;
    allocator.reclaim()?;
    let counts = allocator.counts();
    let growth = resident_bytes()?.saturating_sub(resident.unwrap_or(u64::MAX));
    ensure!(allocator.free_slots() == CONFIG.slots as usize, "{} slots are free", allocator.free_slots());
    ensure!(allocator.free_buffers() == CONFIG.buffers as usize, "{} buffers are free", allocator.free_buffers());
    let ended = counts.presented + counts.late + counts.discarded + counts.rejected;
    ensure!(ended == counts.submitted && counts.rejected == 0, "{counts:?}");
    let stats = &card.platform().stats;
    ensure!(stats.in_flight.get() == 0 && stats.faults.get() == 0, "{stats:?}");
    let found = checker.and_then(|checker| checker.summary());
    ensure!(found.is_none(), "a false alarm: {found:?}");
    ensure!(growth <= GROWTH, "{growth} bytes more are resident at the end");
    Ok(Report { counts, resets, growth })
}

/// Submits one message, chain, package, or SysEx in fragments.
fn submit(stream: &RenderStream<'_, Direct>, random: &mut Random, now: RefTime) -> Result<(), DriverError> {
    let allocator = stream.allocator();
    match random.below(16) {
        0 => {
            let mut head = message(allocator, random, now)?;
            for _ in 0..random.below(5) {
                head.chain(message(allocator, random, now)?)?;
            }
            stream.put_message(head)
        }
        1 => {
            let mut package = allocator.get_message()?;
            package.set_time(now);
            let mut inner = message(allocator, random, now)?;
            inner.chain(message(allocator, random, now)?)?;
            package.package(inner)?;
            stream.put_message(package)
        }
        2 => fragments(stream, random, now),
        // Taken and handed back: it never reaches the card.
        3 => message(allocator, random, now).and_then(|message| allocator.put_message(message)),
        _ => stream.put_message(message(allocator, random, now)?),
    }
}

fn message<'a>(allocator: &'a Allocator<'a>, random: &mut Random, now: RefTime) -> Result<Message<'a>, DriverError> {
    let mut message = allocator.get_message()?;
    message.set_time(now);
    message.set_channel_group(random.below(16) as u16);
    let (channel, value) = (random.below(16) as u8, random.below(128) as u8);
    match random.below(8) {
        0 => message.set_data(&[0x90 | channel, value, 1])?,
        1 => message.set_data(&[0xB0 | channel, 120, 0])?,
        2 => message.set_data(&[0xE0 | channel, value, value])?,
        3 | 4 => {
            let mut sysex = [0x55; 256];
            let length = 2 + random.below(255) as usize;
            sysex[0] = 0xF0;
            sysex[length - 1] = 0xF7;
            message.set_data(&sysex[..length])?;
        }
        _ => message.set_data(&[0xC0 | channel, value])?,
    }
    Ok(message)
}

/// One SysEx message in three events. All three are taken first: a message must not be left unfinished.
fn fragments(stream: &RenderStream<'_, Direct>, random: &mut Random, now: RefTime) -> Result<(), DriverError> {
    let allocator = stream.allocator();
    let mut events = [allocator.get_message()?, allocator.get_message()?, allocator.get_message()?];
    let length = 1 + random.below(100) as usize;
    let mut first = [0x44; 101];
    first[0] = 0xF0;
    let bytes: [&[u8]; 3] = [&first[..length], &[0x33; 101][..length], &[0x22, 0xF7]];
    for (i, (event, bytes)) in events.iter_mut().zip(bytes).enumerate() {
        event.set_time(now);
        event.set_data(bytes)?;
        if i < 2 {
            event.set_incomplete();
        }
    }
    events.into_iter().try_for_each(|event| stream.put_message(event))
}

/// xorshift: the same soak each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn resident_bytes() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("no resident pages")?.parse()?;
    Ok(pages * 4096)
}
