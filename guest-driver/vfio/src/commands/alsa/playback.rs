//! A render stream behind a playback port.
//!
//! Fed by `bridge` with the bytes of the sequencer's events and their times; feeds the card. What the pool has no room
//! for waits here; when too much does, the bridge reads no more until some of it is gone.

use super::source::Source;
use dmus_driver::{Card, DriverError, RenderStream, StreamConfig};
use dmus_driver_vfio::VfioPlatform;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Of each stream. All that is to play within the latency is in the pool: with 30 ms, 130,000 messages a second.
pub(super) const CONFIG: StreamConfig = StreamConfig { slots: 4096, buffers: 512, buffer_size: 256 };
/// Bytes that may wait for room in the pool, with what keeping a message costs. Past this, the sequencer is not read
/// any more.
const MOST_WAITING: usize = 4 << 20;
/// Programs whose unfinished messages are kept apart in a port; of more, one counts as gone.
const MAX_SOURCES: usize = 64;

/// A client and port of the sequencer.
pub(super) type Address = (i32, i32);

/// See the module.
pub(super) struct Playback<'c> {
    pub(super) stream: RenderStream<'c, VfioPlatform>,
    sources: BTreeMap<Address, Source>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Stream time of what was put last: messages of one port do not overtake each other.
    last: RefTime,
    /// Of programs that have gone.
    malformed: u64,
}

struct Waiting {
    time: RefTime,
    bytes: Vec<u8>,
    sent: usize,
}

impl Waiting {
    fn cost(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

impl<'c> Playback<'c> {
    /// Opens stream `index`, in RUN.
    pub(super) fn open(card: &'c Card<VfioPlatform>, index: usize) -> Result<Self, DriverError> {
        let stream = RenderStream::open(card, index, CONFIG)?;
        stream.set_state(State::Run)?;
        let (sources, waiting) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { stream, sources, waiting, waiting_bytes: 0, last: RefTime::ZERO, malformed: 0 })
    }

    /// Takes what a program has sent, to be played at a stream time.
    pub(super) fn take(&mut self, from: Address, time: RefTime, bytes: &[u8]) -> Result<(), DriverError> {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&from) {
            let first = self.sources.keys().next().copied();
            first.map_or(Ok(()), |first| self.leave(first, time))?;
        }
        let mut source = self.sources.remove(&from).unwrap_or_default();
        let mut put = Ok(());
        source.take(bytes, |message| put = std::mem::replace(&mut put, Ok(())).and_then(|()| self.put(time, message)));
        self.sources.insert(from, source);
        put
    }

    /// A program has gone: what it left sounding ends.
    pub(super) fn leave(&mut self, from: Address, time: RefTime) -> Result<(), DriverError> {
        let Some(mut source) = self.sources.remove(&from) else {
            return Ok(());
        };
        let mut put = Ok(());
        source.end(|message| put = std::mem::replace(&mut put, Ok(())).and_then(|()| self.put(time, message)));
        self.malformed += source.malformed;
        put
    }

    fn put(&mut self, time: RefTime, bytes: &[u8]) -> Result<(), DriverError> {
        self.last = self.last.max(time);
        let time = self.last;
        let sent = if self.waiting.is_empty() { self.stream.put_bytes(time, bytes, 0)? } else { 0 };
        if sent < bytes.len() {
            let message = Waiting { time, bytes: bytes.to_vec(), sent };
            self.waiting_bytes += message.cost();
            self.waiting.push_back(message);
        }
        Ok(())
    }

    /// Whether something waits for room.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no more should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes >= MOST_WAITING
    }

    /// Puts what waits, as far as there is room.
    pub(super) fn catch_up(&mut self) -> Result<(), DriverError> {
        // Not only when slots run out: after a reset nobody can tell any more what had been played.
        self.stream.allocator().reclaim()?;
        while let Some(first) = self.waiting.front_mut() {
            first.sent = self.stream.put_bytes(first.time, &first.bytes, first.sent)?;
            if first.sent < first.bytes.len() {
                break;
            }
            self.waiting_bytes -= first.cost();
            self.waiting.pop_front();
        }
        self.stream.flush();
        Ok(())
    }

    /// Sleeps until half of what is in flight is completed, or the limit has passed. False only if the limit passed.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        self.stream.wait(self.stream.allocator().in_flight().div_ceil(2), limit)
    }

    /// Reclaims what is played; whether all is.
    pub(super) fn is_drained(&mut self) -> Result<bool, DriverError> {
        self.catch_up()?;
        Ok(!self.waits() && self.stream.allocator().in_flight() == 0)
    }

    /// The card was reset and is enabled again: goes on where it can. Counts the messages that were lost, if it fails,
    /// too.
    pub(super) fn restore(&mut self, lost: &mut u64) -> Result<(), DriverError> {
        *lost += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.malformed += self.sources.values().map(|source| source.malformed).sum::<u64>();
        self.sources.clear();
        self.last = RefTime::ZERO;
        let before = self.stream.allocator().counts().discarded;
        let restored = self.stream.restore();
        *lost += self.stream.allocator().counts().discarded - before;
        restored?;
        self.stream.set_state(State::Run)
    }

    /// SysEx messages that were no messages.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed + self.sources.values().map(|source| source.malformed).sum::<u64>()
    }
}
