//! A driver without manners: events, rings and registers written as a test says, right or wrong.
//!
//! Fed by checks and tests of what the card refuses; feeds the card through a [`Platform`]. Everything has a time
//! limit.

use anyhow::{Context, ensure};
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;
use dmus_driver::Platform;
use dmus_driver::dma::DmaMemory;
use dmus_interface::command::{self, Opcode};
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault, Register, control};
use dmus_interface::ring::{COMPLETION_SIZE, Reject, Status};
use dmus_interface::time::RefTime;

/// How long the card may take for anything.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Slots, and entries of both rings.
pub const SLOTS: u32 = 64;
/// Bytes between slots.
pub const STRIDE: u32 = 64;
/// Buffers, and bytes in each.
pub const BUFFERS: u32 = 8;
/// Bytes in a buffer.
pub const BUFFER_SIZE: u32 = 256;

/// A completion as the ring has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The slot.
    pub slot: u32,
    /// The status.
    pub status: Status,
    /// The reason of a rejection.
    pub reason: Option<Reject>,
    /// The time field.
    pub time: i64,
}

impl Completed {
    /// Decodes an entry of the ring.
    pub fn decode(entry: &[u8; COMPLETION_SIZE]) -> anyhow::Result<Self> {
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        Ok(Self {
            slot: u32::from(half(0)) | u32::from(half(2)) << 16,
            status: Status::decode(half(4)).context("an unknown status")?,
            reason: Reject::decode(half(6)),
            time: i64::from_le_bytes(entry[8..].try_into()?),
        })
    }
}

/// Stream 0 of a card, bare.
#[derive(Debug)]
pub struct RawStream<'p, P: Platform + ?Sized> {
    /// The platform beneath.
    pub platform: &'p P,
    /// The slots.
    pub pool: DmaMemory,
    /// The buffers.
    pub buffers: DmaMemory,
    /// The submission ring.
    pub submissions: DmaMemory,
    /// The completion ring.
    pub completions: DmaMemory,
    /// Of events.
    pub width: PointerWidth,
    tail: Cell<u32>,
    consumed: Cell<u32>,
    transitions: Cell<u32>,
    /// The number of the card's sleep that was rung for last.
    pub rung: Cell<u32>,
}

impl<'p, P: Platform + ?Sized> RawStream<'p, P> {
    /// Resets and enables the card and fills the stream's registers; does not create the stream.
    pub fn prepare(platform: &'p P, width: PointerWidth) -> anyhow::Result<Self> {
        let this = Self {
            pool: platform.dma_alloc((SLOTS * STRIDE) as usize, 64)?,
            buffers: platform.dma_alloc((BUFFERS * BUFFER_SIZE) as usize, 64)?,
            submissions: platform.dma_alloc(SLOTS as usize * 4, 64)?,
            completions: platform.dma_alloc(SLOTS as usize * COMPLETION_SIZE, 64)?,
            platform,
            width,
            tail: Cell::new(0),
            consumed: Cell::new(0),
            transitions: Cell::new(0),
            rung: Cell::new(0),
        };
        this.program();
        Ok(this)
    }

    /// Resets and enables the card and fills the stream's registers; all indices are 0 again.
    pub fn program(&self) {
        [&self.tail, &self.consumed, &self.transitions].into_iter().for_each(|index| index.set(0));
        self.write_global(regs::CONTROL, control::RESET);
        self.write_global(regs::POINTER_WIDTH, self.width.bytes() as u32);
        self.write_global(regs::CONTROL, control::ENABLE);
        self.write64(stream::POOL_BASE, self.pool.iova);
        self.write64(stream::BUFFER_BASE, self.buffers.iova);
        self.write64(stream::SUBMISSION_BASE, self.submissions.iova);
        self.write64(stream::COMPLETION_BASE, self.completions.iova);
        for (register, value) in [
            (stream::SLOT_COUNT, SLOTS),
            (stream::SLOT_STRIDE, STRIDE),
            (stream::BUFFER_SIZE, BUFFER_SIZE),
            (stream::BUFFER_COUNT, BUFFERS),
            (stream::SUBMISSION_SIZE, SLOTS),
            (stream::COMPLETION_SIZE, SLOTS),
        ] {
            self.write(register, value);
        }
    }

    /// As [`Self::prepare`]; then creates the stream and sets it to RUN.
    pub fn running(platform: &'p P, width: PointerWidth) -> anyhow::Result<Self> {
        let this = Self::prepare(platform, width)?;
        this.create()?;
        this.set_state(State::Run)?;
        Ok(this)
    }

    /// Resets the card and gives the memory back. Without it, the memory is lost.
    pub fn close(self) {
        self.write_global(regs::CONTROL, control::RESET);
        for memory in [self.pool, self.buffers, self.submissions, self.completions] {
            self.platform.dma_free(memory);
        }
    }

    /// Creates the stream from its registers.
    pub fn create(&self) -> anyhow::Result<()> {
        let answer = self.transition(stream::TYPE, Type::Render.value())?;
        ensure!(answer.is_none(), "refused: {answer:?}");
        Ok(())
    }

    /// The same where a stream was before: its indices begin at 0.
    pub fn create_anew(&self) -> anyhow::Result<()> {
        self.tail.set(0);
        self.consumed.set(0);
        self.create()
    }

    /// Starts a command with a request and room for a result (IOVA and bytes), and gives how it ended.
    pub fn command(
        &self,
        opcode: Opcode,
        (request, bytes): (u64, u32),
        (result, room): (u64, u32),
    ) -> anyhow::Result<Option<command::Status>> {
        let word = |word| self.platform.doorbell().load_u32(word, Ordering::Acquire);
        let before = word(doorbell::COMMANDS);
        for (register, value) in [(regs::COMMAND_REQUEST, request), (regs::COMMAND_RESULT, result)] {
            self.write_global(register, value as u32);
            self.platform.write32(register.offset + 4, (value >> 32) as u32);
        }
        self.write_global(regs::COMMAND_REQUEST_SIZE, bytes);
        self.write_global(regs::COMMAND_RESULT_ROOM, room);
        self.write_global(regs::COMMAND, opcode as u32);
        self.until("the answer to a command", || word(doorbell::COMMANDS) != before)?;
        Ok(command::Status::decode(word(doorbell::COMMAND_STATUS)))
    }

    /// Sets the state, which must be accepted.
    pub fn set_state(&self, state: State) -> anyhow::Result<()> {
        let answer = self.transition(stream::STATE, state as u32)?;
        ensure!(answer.is_none(), "refused: {answer:?}");
        Ok(())
    }

    /// Writes TYPE or STATE, and gives the refusal.
    pub fn transition(&self, register: Register, value: u32) -> anyhow::Result<Option<Fault>> {
        self.write(register, value);
        let expected = self.transitions.get().wrapping_add(1);
        self.until("a transition", || self.word(doorbell::TRANSITIONS) == expected)?;
        self.transitions.set(expected);
        match self.word(doorbell::REFUSAL) {
            0 => Ok(None),
            code => Ok(Some(Fault::decode(code).context("an unknown refusal")?)),
        }
    }

    /// Writes a register of the stream.
    pub fn write(&self, register: Register, value: u32) {
        self.platform.write32(stream::at(0, register).offset, value);
    }

    /// Writes a wide register of the stream.
    pub fn write64(&self, register: Register, value: u64) {
        let offset = stream::at(0, register).offset;
        self.platform.write32(offset, value as u32);
        self.platform.write32(offset + 4, (value >> 32) as u32);
    }

    /// Writes a register outside the blocks.
    pub fn write_global(&self, register: Register, value: u32) {
        self.platform.write32(register.offset, value);
    }

    /// The first fault since this was last asked.
    pub fn take_fault(&self) -> Option<Fault> {
        let fault = Fault::decode(self.platform.read32(regs::FAULT.offset))?;
        // Only now: one that came since would be lost.
        self.write_global(regs::FAULT, 0);
        Some(fault)
    }

    /// A word of the stream on the doorbell page.
    pub fn word(&self, word: usize) -> u32 {
        self.platform.doorbell().load_u32(doorbell::at(0, word), Ordering::Acquire)
    }

    /// IOVA of a slot.
    pub fn slot_iova(&self, slot: u32) -> u64 {
        self.pool.iova + u64::from(slot * STRIDE)
    }

    /// IOVA of a buffer.
    pub fn buffer_iova(&self, buffer: u32) -> u64 {
        self.buffers.iova + u64::from(buffer * BUFFER_SIZE)
    }

    /// An event with inline data, 8 bytes at most.
    pub fn inline(&self, time: i64, bytes: &[u8]) -> Event {
        let mut data = [0; 8];
        data.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        self.event(time, bytes.len() as u16, Data::Inline(data))
    }

    /// An event whose data is in a buffer, which is filled.
    pub fn long(&self, time: i64, buffer: u32, bytes: &[u8]) -> Event {
        self.buffers.memory.write((buffer * BUFFER_SIZE) as usize, bytes);
        self.event(time, bytes.len() as u16, Data::Buffer(self.buffer_iova(buffer)))
    }

    /// Any event.
    pub fn event(&self, time: i64, event_bytes: u16, data: Data) -> Event {
        Event {
            struct_size: self.width.event_size() as u8,
            event_bytes,
            channel_group: 0,
            flags: if matches!(data, Data::Package(_)) { dmus_interface::event::PACKAGE } else { 0 },
            time,
            byte_position: 0,
            next: 0,
            data,
        }
    }

    /// Writes an event into a slot.
    pub fn fill(&self, slot: u32, event: Event) {
        let (bytes, len) = event.encode(self.width);
        self.pool.memory.write((slot * STRIDE) as usize, &bytes[..len]);
    }

    /// Puts a number into the submission ring, whatever it is. [`Self::publish`] makes it visible.
    pub fn put(&self, slot: u32) {
        let entry = (self.tail.get() % SLOTS) as usize * 4;
        self.submissions.memory.store_u32(entry, slot, Ordering::Relaxed);
        self.tail.set(self.tail.get().wrapping_add(1));
    }

    /// Publishes the tail.
    pub fn publish(&self) {
        self.publish_tail(self.tail.get());
    }

    /// Publishes any tail.
    pub fn publish_tail(&self, tail: u32) {
        let word = doorbell::at(0, doorbell::SUBMISSION_TAIL);
        self.platform.doorbell().store_u32(word, tail, Ordering::Release);
        self.ring();
    }

    /// Fills a slot, submits it, and grants time up to `until`.
    pub fn submit(&self, slot: u32, event: Event, until: i64) {
        self.fill(slot, event);
        self.put(slot);
        self.publish();
        self.grant(until);
    }

    /// Grants time.
    pub fn grant(&self, until: i64) {
        self.platform.doorbell().store_u64(doorbell::GRANT, until as u64, Ordering::Release);
        self.ring();
    }

    /// Wakes the card if it sleeps, once a sleep.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        let sleep = self.platform.doorbell().load_u32(doorbell::WAKE_ARMED, Ordering::Relaxed);
        if sleep != 0 && self.rung.replace(sleep) != sleep {
            self.write_global(regs::WAKE, 1);
        }
    }

    /// Waits until the master clock reaches `until`.
    pub fn reach(&self, until: i64) -> anyhow::Result<()> {
        let page = self.platform.doorbell();
        let clock = || page.load_u64(doorbell::MASTER_TIME, Ordering::Acquire) as i64;
        self.until("the clock", || clock() >= until)
    }

    /// The next completion.
    pub fn completion(&self) -> anyhow::Result<Completed> {
        self.until("a completion", || self.word(doorbell::COMPLETION_HEAD) != self.consumed.get())?;
        let mut entry = [0; COMPLETION_SIZE];
        let place = (self.consumed.get() % SLOTS) as usize * COMPLETION_SIZE;
        self.completions.memory.read(place, &mut entry);
        self.consumed.set(self.consumed.get().wrapping_add(1));
        Completed::decode(&entry)
    }

    /// Whether there is no completion that was not taken.
    pub fn is_drained(&self) -> bool {
        self.word(doorbell::COMPLETION_HEAD) == self.consumed.get()
    }

    /// Waits for something that is the card's to do.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
        let deadline = self.platform.now() + LIMIT;
        while !condition() {
            ensure!(self.platform.now() < deadline, "{what} did not come within {LIMIT:?}");
            self.platform.wait(0, Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A number of samples of 48 kHz in 100 ns, rounded down.
pub fn samples(n: u64) -> i64 {
    dmus_interface::time::SampleTime(n).to_time(48_000).0
}

/// Seconds in 100 ns.
pub fn seconds(n: i64) -> i64 {
    RefTime::from_secs(n).0
}
