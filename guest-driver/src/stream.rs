//! The core under every stream: its memory, its state, its transitions and waits, and the posting of slots for capture.
//!
//! Fed by the three thin streams ([`crate::RenderStream`], [`crate::CaptureStream`], [`crate::WaveStream`]), which say
//! what a message is; feeds the card's stream registers, the queue and the doorbell page.

use crate::card::ANSWER_LIMIT;
use crate::dma::{DmaMemory, DoorbellPage, Pool};
use crate::{Allocator, Card, DriverError, Message, Platform, PlatformError};
use core::cell::Cell;
use core::sync::atomic::Ordering;
use core::time::Duration;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::{Page, driver};
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{Fault, Register};
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
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
    /// Entries of both rings: at least as many as slots.
    pub(crate) fn entries(&self) -> u32 {
        self.slots.next_power_of_two()
    }

    /// Bytes and alignment of pool, buffers, submission ring and completion ring.
    pub(crate) fn sizes(&self) -> [(usize, usize); 4] {
        let entries = self.entries() as usize;
        [
            (self.slots as usize * Pool::STRIDE, Pool::STRIDE),
            (self.buffers as usize * self.buffer_size as usize, 8),
            (entries * SUBMISSION_SIZE, 8),
            (entries * COMPLETION_SIZE, COMPLETION_SIZE),
        ]
    }

    fn check(self, kind: Type) -> Result<(), DriverError> {
        Err(DriverError::BadConfig(if !(1..=stream::MAX_SLOTS).contains(&self.slots) {
            "the pool takes 1 to 4,096 slots"
        } else if self.buffers > stream::MAX_SLOTS {
            "there may be at most 4,096 buffers"
        } else if self.buffers == 0 && kind != Type::Render {
            "this stream needs buffers, one for each slot that it posts"
        } else if !self.buffer_size.is_multiple_of(8) || !(8..=stream::MAX_BUFFER_SIZE).contains(&self.buffer_size) {
            "the buffer size is a multiple of 8 from 8 to 65,528"
        } else {
            return Ok(());
        }))
    }
}

/// What the three streams have in common. Dropping it stops and closes the stream.
#[derive(Debug)]
pub(crate) struct StreamCore<'c, P: Platform> {
    pub(crate) card: &'c Card<P>,
    pub(crate) index: usize,
    config: StreamConfig,
    kind: Type,
    pub(crate) allocator: Allocator<'c>,
    /// Free slots are posted for capture: not in STOP, where the card would hand them back.
    posting: Cell<bool>,
    /// Transitions that the card has answered.
    transitions: Cell<u32>,
}

impl<'c, P: Platform> StreamCore<'c, P> {
    /// `NewStream`: creates stream number `index` of the card.
    pub(crate) fn open(card: &'c Card<P>, index: usize, config: StreamConfig, kind: Type) -> Result<Self, DriverError> {
        config.check(kind)?;
        if index >= STREAMS {
            return Err(DriverError::BadConfig("the card has streams 0 to 7"));
        }
        // Asked first, for an attempt to create it again would count as a transition of the one that is open.
        if card.read(stream::at(index, stream::TYPE)) != stream::CLOSED {
            return Err(DriverError::Refused(Fault::NotStopped));
        }
        let page = DoorbellPage::new(card.platform.doorbell())
            .ok_or(PlatformError::Device("its doorbell page is less than 4 KiB"))?;
        let memory = allocate(card, config.sizes())?;
        let allocator = Allocator::new(page, index, card.pointer_width(), config, memory)
            .ok_or(PlatformError::Device("it gives less DMA memory than it is asked for"))?;
        // The card keeps counting across streams in one block.
        let answered = page.load_u32(doorbell::at(index, doorbell::TRANSITIONS), Ordering::Relaxed);
        let (posting, transitions) = (Cell::new(false), Cell::new(answered));
        let stream = Self { card, index, config, kind, allocator, posting, transitions };
        stream.create()?;
        Ok(stream)
    }

    /// Makes all submissions visible to the card, and wakes it if it sleeps.
    #[inline]
    pub(crate) fn flush(&self) {
        if self.allocator.queue.publish() {
            self.card.wake_if_asleep(&self.allocator.queue.page);
        }
    }

    /// Posts what the application has handed back, if this is a stream that captures and is not in STOP.
    fn post(&self) {
        if self.posting.get() {
            self.allocator.post_free_slots();
            self.flush();
        }
    }

    /// The next captured event. The slots of those that were dropped are posted again.
    pub(crate) fn receive(&self) -> Result<Option<Message<'_>>, DriverError> {
        self.post();
        self.allocator.receive()
    }

    /// `SetState`. Returns when the new state is in force. A capture stream has its slots posted from ACQUIRE on.
    pub(crate) fn set_state(&self, state: State) -> Result<(), DriverError> {
        let captures = self.kind != Type::Render;
        if captures && state == State::Run && !self.posting.get() {
            // So that nothing comes before there are slots.
            self.set_state(State::Acquire)?;
        }
        self.transition(stream::STATE, state as u32)?;
        self.posting.set(captures && state != State::Stop);
        self.post();
        Ok(())
    }

    /// The state that is in force; `None` if the card has gone.
    pub(crate) fn state(&self) -> Option<State> {
        State::decode(self.card.read(self.register(stream::STATE)))
    }

    /// Sleeps until `completions` more completions are there, the grant is reached, or the limit has passed. False only
    /// if the limit passed.
    pub(crate) fn wait(&self, completions: u32, limit: Duration) -> bool {
        self.post();
        self.allocator.queue.await_completions(completions.max(1)) || self.card.platform.wait(self.index as u16, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub(crate) fn time_base(&self) -> RefTime {
        RefTime(self.card.read64(self.register(stream::TIME_BASE)).cast_signed())
    }

    /// How far ahead the card wants events (SchedulePreFetch).
    pub(crate) fn prefetch(&self) -> RefTime {
        RefTime(self.card.read64(self.register(stream::PREFETCH)).cast_signed())
    }

    /// After [`Card::reset`]: recycles whatever the card held, and creates the stream anew, in STOP.
    pub(crate) fn restore(&self) -> Result<(), DriverError> {
        self.allocator.reclaim_after_reset();
        self.posting.set(false);
        self.transitions.set(0);
        self.create()
    }

    fn create(&self) -> Result<(), DriverError> {
        let registers = [stream::POOL_BASE, stream::BUFFER_BASE, stream::SUBMISSION_BASE, stream::COMPLETION_BASE];
        for (register, iova) in registers.into_iter().zip(self.allocator.iovas()) {
            self.card.write64(self.register(register), iova);
        }
        let entries = self.config.entries();
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
        let page = &self.allocator.queue.page;
        let refusal =
            self.card.await_answer(self.index as u16, ANSWER_LIMIT, || driver::answer(page, self.index, expected))?;
        self.transitions.set(expected);
        match refusal {
            0 => Ok(()),
            code => Err(Fault::decode(code).map_or(DriverError::UnknownRefusal(code), DriverError::Refused)),
        }
    }

    fn close(&self) -> Result<(), DriverError> {
        self.set_state(State::Stop)?;
        self.transition(stream::TYPE, stream::CLOSED)
    }

    fn register(&self, register: Register) -> Register {
        stream::at(self.index, register)
    }
}

impl<P: Platform> Drop for StreamCore<'_, P> {
    fn drop(&mut self) {
        // Creating it was refused, or a reset has closed it: the card is done with its memory, and counts transitions
        // anew.
        let closed = match self.card.read(self.register(stream::TYPE)) {
            // All ones, too, is what a card reads that is gone: it answers nothing, and there is no use in waiting.
            stream::CLOSED => self.card.read(dmus_interface::regs::MAGIC) == dmus_interface::regs::MAGIC_VALUE,
            _ => self.close().is_ok(),
        };
        // A card that has not closed the stream may still write: such memory is lost rather than reused.
        if closed {
            self.allocator.return_to(&self.card.platform);
        }
    }
}

/// Allocates the four parts of a stream, or none.
fn allocate<P: Platform>(card: &Card<P>, sizes: [(usize, usize); 4]) -> Result<[DmaMemory; 4], DriverError> {
    let limit = match card.pointer_width() {
        PointerWidth::Four => u64::from(u32::MAX),
        PointerWidth::Eight => u64::MAX,
    };
    let mut parts = [const { DmaMemory::NONE }; 4];
    for number in 0..parts.len() {
        // A stream without buffers still has an area, of one word.
        let (len, align) = sizes[number];
        let part = card.platform.dma_alloc(len.max(8), align).map_err(DriverError::from).and_then(|memory| {
            if memory.iova.saturating_add(memory.memory.len() as u64) <= limit {
                return Ok(memory);
            }
            card.platform.dma_free(memory);
            Err(PlatformError::Device("4-byte pointers need DMA memory below 4 GiB").into())
        });
        match part {
            Ok(memory) => parts[number] = memory,
            Err(error) => {
                parts.into_iter().take(number).for_each(|memory| card.platform.dma_free(memory));
                return Err(error);
            }
        }
    }
    Ok(parts)
}
