//! A render stream: MIDI from the application to the card's synthesizer.
//!
//! Fed with messages by [`RenderStream::put_message`]; feeds the submission ring and the doorbell page. A batch of messages costs one
//! store of the tail ([`RenderStream::flush`]); nothing traps unless the card sleeps.

use crate::allocator::{Allocator, Shape};
use crate::card::ANSWER_LIMIT;
use crate::dma::{DmaMemory, DoorbellPage, Pool};
use crate::pending::Pending;
use crate::{Card, DriverError, Message, Platform, PlatformError};
use core::cell::Cell;
use core::sync::atomic::Ordering;
use core::time::Duration;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::{Page, driver};
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{Fault, Register};
use dmus_interface::time::RefTime;

/// Sizes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Events in the pool.
    pub slots: u32,
    /// Buffers for long data.
    pub buffers: u32,
    /// Bytes in a buffer, a multiple of 8.
    pub buffer_size: u32,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self { slots: 64, buffers: 16, buffer_size: 256 }
    }
}

impl StreamConfig {
    fn check(self) -> Result<Self, DriverError> {
        let complaint = if !(1..=stream::MAX_SLOTS).contains(&self.slots) {
            "the pool takes 1 to 4,096 slots"
        } else if self.buffers > stream::MAX_SLOTS {
            "there may be at most 4,096 buffers"
        } else if !self.buffer_size.is_multiple_of(8) || !(8..=stream::MAX_BUFFER_SIZE).contains(&self.buffer_size) {
            "the buffer size is a multiple of 8 from 8 to 65,528"
        } else {
            return Ok(self);
        };
        Err(DriverError::BadConfig(complaint))
    }
}

/// An open render stream of a card. Dropping it stops and closes it.
#[derive(Debug)]
pub struct RenderStream<'c, P: Platform> {
    card: &'c Card<P>,
    index: usize,
    config: StreamConfig,
    kind: Type,
    allocator: Allocator<'c>,
    published: Cell<u32>,
    /// Transitions that the card has answered.
    transitions: Cell<u32>,
}

impl<'c, P: Platform> RenderStream<'c, P> {
    /// `NewStream`: creates render stream number `index` of the card.
    pub fn open(card: &'c Card<P>, index: usize, config: StreamConfig) -> Result<Self, DriverError> {
        Self::open_as(card, index, config, Type::Render)
    }

    /// Creates a stream of any type: what is here beneath the messages is the same for all.
    pub(crate) fn open_as(
        card: &'c Card<P>,
        index: usize,
        config: StreamConfig,
        kind: Type,
    ) -> Result<Self, DriverError> {
        let config = config.check()?;
        if index >= STREAMS {
            return Err(DriverError::BadConfig("the card has streams 0 to 7"));
        }
        // Asked first, for an attempt to create it again would count as a transition of the one that is open.
        if card.read(stream::at(index, stream::TYPE)) != stream::CLOSED {
            return Err(DriverError::Refused(Fault::NotStopped));
        }
        let shape = Shape {
            stream: index,
            width: card.pointer_width(),
            slots: config.slots,
            buffers: config.buffers,
            buffer_size: config.buffer_size as usize,
            entries: config.slots.next_power_of_two(),
        };
        let page = DoorbellPage::new(card.platform.doorbell())
            .ok_or(PlatformError::Device("its doorbell page is less than 4 KiB"))?;
        let memory = allocate(card, shape.sizes())?;
        let allocator = Allocator::new(page, shape, memory)
            .ok_or(PlatformError::Device("it gives less DMA memory than it is asked for"))?;
        let stream = Self { card, index, config, kind, allocator, published: Cell::new(0), transitions: Cell::new(0) };
        // The card keeps counting across streams in one block.
        let word = doorbell::at(index, doorbell::TRANSITIONS);
        stream.transitions.set(page.load_u32(word, Ordering::Relaxed));
        stream.create()?;
        Ok(stream)
    }

    /// The stream's allocator.
    pub fn allocator(&self) -> &Allocator<'c> {
        &self.allocator
    }

    /// The card.
    pub fn card(&self) -> &'c Card<P> {
        self.card
    }

    /// `IMXF::PutMessage`: gives the message (its chain, packages and buffers) to the card. [`Self::flush`] makes it visible.
    #[inline]
    pub fn put_message(&self, message: Message<'_>) -> Result<(), DriverError> {
        if !message.belongs_to(&self.allocator) {
            return Err(DriverError::Misuse("it is another stream's"));
        }
        message.submit();
        Ok(())
    }

    /// `GetMessage`, filling it with one whole message in the channel group, and `PutMessage`, in one step. [`Self::flush`] makes it visible.
    ///
    /// [`DriverError::NoMessage`] or [`DriverError::NoBuffer`] while the pool has no room, [`DriverError::TooLong`] for more bytes than a buffer
    /// has; nothing is sent then.
    #[inline]
    pub fn send(&self, time: RefTime, channel_group: u16, bytes: &[u8]) -> Result<(), DriverError> {
        self.allocator.send(time, channel_group, bytes)
    }

    /// Puts one MIDI message of any length: as one event, or as the fragments that the buffers make of it. Takes up after the first `sent` bytes
    /// of it, and gives how many are put by now: fewer than all when the pool has run dry. Nothing else may be put before the rest is.
    pub fn put_bytes(&self, time: RefTime, bytes: &[u8], sent: usize) -> Result<usize, DriverError> {
        let mut pending = Pending::resume(time, bytes, sent);
        pending.send(&self.allocator, |message| self.put_message(message))?;
        Ok(pending.sent())
    }

    /// Makes all messages put so far visible to the card.
    #[inline]
    pub fn flush(&self) {
        let tail = self.allocator.tail.get();
        if tail != self.published.get() {
            self.published.set(tail);
            driver::publish_tail(&self.allocator.page, self.index, tail);
            self.card.ring_if_asleep(&self.allocator.page);
        }
    }

    /// `SetState`. Returns when the new state is in force; from STOP on, everything that was held has been completed.
    pub fn set_state(&self, state: State) -> Result<(), DriverError> {
        self.transition(stream::STATE, state as u32)
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        State::decode(self.card.read(self.register(stream::STATE)))
    }

    /// Sleeps until `completions` more completions are there, the grant is reached, or the limit has passed. False only if the limit passed.
    pub fn wait(&self, completions: u32, limit: Duration) -> bool {
        driver::await_completions(&self.allocator.page, self.index, self.allocator.consumed(), completions.max(1))
            || self.card.platform.wait(self.index as u16, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        RefTime(self.card.read64(self.register(stream::TIME_BASE)) as i64)
    }

    /// How far ahead the card wants events (SchedulePreFetch).
    pub fn prefetch(&self) -> RefTime {
        RefTime(self.card.read64(self.register(stream::PREFETCH)) as i64)
    }

    /// After [`Card::reset`]: takes home whatever the card held, and creates the stream anew.
    pub fn restore(&self) -> Result<(), DriverError> {
        self.allocator.reclaim_after_reset();
        self.published.set(0);
        self.transitions.set(0);
        self.create()
    }

    fn create(&self) -> Result<(), DriverError> {
        let registers = [stream::POOL_BASE, stream::BUFFER_BASE, stream::SUBMISSION_BASE, stream::COMPLETION_BASE];
        for (register, iova) in registers.into_iter().zip(self.allocator.iovas()) {
            self.card.write64(self.register(register), iova);
        }
        let entries = self.allocator.entries();
        for (register, value) in [
            (stream::SLOT_COUNT, self.config.slots),
            (stream::SLOT_STRIDE, Pool::STRIDE as u32),
            (stream::BUFFER_SIZE, self.config.buffer_size),
            (stream::BUFFER_COUNT, self.config.buffers),
            (stream::SUBMISSION_SIZE, entries),
            (stream::COMPLETION_SIZE, entries),
        ] {
            self.card.write(self.register(register), value);
        }
        self.transition(stream::TYPE, self.kind.value())
    }

    /// Writes TYPE or STATE and waits for the answer.
    fn transition(&self, register: Register, value: u32) -> Result<(), DriverError> {
        let expected = self.transitions.get().wrapping_add(1);
        self.card.write(self.register(register), value);
        let platform = &self.card.platform;
        let deadline = platform.now() + ANSWER_LIMIT;
        let refusal = loop {
            if let Some(refusal) = driver::answer(&self.allocator.page, self.index, expected) {
                break refusal;
            }
            let left = deadline.saturating_sub(platform.now());
            if left.is_zero() {
                return Err(match self.card.read(dmus_interface::regs::MAGIC) {
                    u32::MAX => DriverError::CardGone,
                    _ => DriverError::TimedOut(ANSWER_LIMIT),
                });
            }
            platform.wait(self.index as u16, left);
        };
        self.transitions.set(expected);
        match refusal {
            0 => Ok(()),
            code => Err(Fault::decode(code).map_or(DriverError::UnknownRefusal(code), DriverError::Refused)),
        }
    }

    fn register(&self, register: Register) -> Register {
        stream::at(self.index, register)
    }
}

impl<P: Platform> Drop for RenderStream<'_, P> {
    fn drop(&mut self) {
        // Creating it was refused, or a reset has closed it: the card is done with its memory, and counts transitions anew.
        let none = self.card.read(self.register(stream::TYPE)) == stream::CLOSED
            && self.card.read(dmus_interface::regs::MAGIC) == dmus_interface::regs::MAGIC_VALUE;
        let closed =
            none || self.set_state(State::Stop).and_then(|()| self.transition(stream::TYPE, stream::CLOSED)).is_ok();
        // A card that has not closed the stream may still write: such memory is lost rather than reused.
        if closed {
            for memory in self.allocator.take_memory() {
                self.card.platform.dma_free(memory);
            }
        }
    }
}

/// Allocates the four parts of a stream, or none.
fn allocate<P: Platform>(card: &Card<P>, sizes: [(usize, usize); 4]) -> Result<[DmaMemory; 4], DriverError> {
    let mut got: [Option<DmaMemory>; 4] = [const { None }; 4];
    for (place, (len, align)) in got.iter_mut().zip(sizes) {
        // A stream without buffers still has an area, of one word.
        match card.platform.dma_alloc(len.max(8), align) {
            Ok(memory) => *place = Some(memory),
            Err(error) => {
                free_all(card, got);
                return Err(error.into());
            }
        }
    }
    let reachable = |memory: &DmaMemory| {
        card.pointer_width() == PointerWidth::Eight || memory.iova + memory.memory.len() as u64 <= u64::from(u32::MAX)
    };
    if !got.iter().flatten().all(reachable) {
        free_all(card, got);
        return Err(PlatformError::Device("4-byte pointers need DMA memory below 4 GiB").into());
    }
    match got {
        [Some(a), Some(b), Some(c), Some(d)] => Ok([a, b, c, d]),
        _ => Err(PlatformError::NoMemory(0).into()),
    }
}

fn free_all<P: Platform>(card: &Card<P>, memories: [Option<DmaMemory>; 4]) {
    for memory in memories.into_iter().flatten() {
        card.platform.dma_free(memory);
    }
}
