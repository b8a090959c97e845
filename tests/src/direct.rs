//! The driver's platform without a socket or a second thread: card, engine and driver take turns in one.
//!
//! Fed by soaks and measurements; feeds the whole driver against the whole card, in the same order each time. Waiting
//! is turning the engine.

use crate::memory::{Page, RAM, RAM_IOVA, Ram};
use crate::raw::Bus;
use anyhow::Context;
use dmus_card::bank::Bank;
use dmus_card::capsule::{self, Options};
use dmus_card::capture::inputs::Input;
use dmus_card::check::Checker;
use dmus_card::deviation::{Deviations, Plan};
use dmus_card::device::{Device, DmaMap, Eventfd, Region};
use dmus_card::engine::{Engine, EngineHandle, Turn};
use dmus_card::pci::Card;
use dmus_card::sink::{NullSink, Sink};
use dmus_card::stats::Stats;
use dmus_card::{ClockMode, assemble, assemble_with};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::pci::BAR_SIZE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A card in virtual time whose audio goes nowhere, and the platform on it.
pub struct Direct {
    card: RefCell<Card>,
    /// Gone once it has a thread of its own.
    engine: RefCell<Option<Engine>>,
    /// The thread that is ended with this.
    thread: RefCell<Option<EngineHandle>>,
    page: Page,
    /// The memory that it shares with the card.
    pub ram: Ram,
    vectors: Vec<OwnedFd>,
    started: Instant,
    /// The card's counters.
    pub stats: Arc<Stats>,
}

impl Direct {
    /// Makes the card and gives it the memory.
    pub fn new() -> anyhow::Result<Self> {
        Self::with_sink(Box::new(NullSink))
    }

    /// The same, with its audio kept.
    pub fn with_sink(sink: Box<dyn Sink>) -> anyhow::Result<Self> {
        Self::drifting(sink, 0)
    }

    /// The same, with the crystal of wave sinks off by so many parts per million.
    pub fn drifting(sink: Box<dyn Sink>, ppm: i32) -> anyhow::Result<Self> {
        let (card, mut engine) = assemble(ClockMode::Virtual, sink)?;
        engine.set_drift(ppm);
        Self::of(card, engine)
    }

    /// The same as [`Self::new`], with other instruments. An empty bank opens sooner than the built-in one.
    pub fn with_bank(bank: Bank) -> anyhow::Result<Self> {
        let (card, engine) = assemble_with(Arc::new(bank), ClockMode::Virtual, Box::new(NullSink), Vec::new())?;
        Self::of(card, engine)
    }

    /// The same, and all that the card observes is recorded.
    pub fn recorded(bank: impl Into<Arc<Bank>>, out: impl Write + Send + 'static) -> anyhow::Result<Self> {
        Self::recorded_as(ClockMode::Virtual, bank, None, Options::default(), out)
    }

    /// The same, by another clock, with a driver that is checked, and with what the header is to say.
    pub fn recorded_as(
        clock: ClockMode,
        bank: impl Into<Arc<Bank>>,
        checker: Option<&Arc<Checker>>,
        options: Options,
        out: impl Write + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (card, engine) = assemble_with(bank.into(), clock, Box::new(NullSink), Vec::new())?;
        if let Some(checker) = checker {
            card.set_checker(Arc::clone(checker));
        }
        capsule::record(out, "the recording".into(), options, &card, &engine)?;
        Self::of(card, engine)
    }

    /// The same, with inputs, by any clock, and checked.
    pub fn recorded_by(clock: ClockMode, inputs: Vec<Input>, out: impl Write + Send + 'static) -> anyhow::Result<Self> {
        let (card, engine) = assemble_with(Arc::new(Bank::default()), clock, Box::new(NullSink), inputs)?;
        card.set_checker(Arc::new(Checker::new(&[], None)));
        capsule::record(out, "the recording".into(), Options::default(), &card, &engine)?;
        Self::of(card, engine)
    }

    /// A card that does otherwise than usually, by a plan, with its audio, inputs and recording, and checked by this.
    pub fn deviating(
        plan: Plan,
        bank: impl Into<Arc<Bank>>,
        (sink, inputs): (Box<dyn Sink>, Vec<Input>),
        checker: &Arc<Checker>,
        out: impl Write + Send + 'static,
    ) -> anyhow::Result<(Self, Arc<Deviations>)> {
        let (card, engine) = assemble_with(bank.into(), ClockMode::Virtual, sink, inputs)?;
        let deviations = Arc::new(Deviations::new(plan));
        card.set_deviations(Arc::clone(&deviations));
        card.set_checker(Arc::clone(checker));
        capsule::record(out, "the recording".into(), Options::default(), &card, &engine)?;
        Ok((Self::of(card, engine)?, deviations))
    }

    /// The same with nothing but that to it: it is silent, checked by nobody, and not recorded.
    pub fn deviating_alone(plan: Plan) -> anyhow::Result<(Self, Arc<Deviations>)> {
        let bank = Arc::new(Bank::default());
        let (card, engine) = assemble_with(bank, ClockMode::Virtual, Box::new(NullSink), Vec::new())?;
        let deviations = Arc::new(Deviations::new(plan));
        card.set_deviations(Arc::clone(&deviations));
        Ok((Self::of(card, engine)?, deviations))
    }

    /// The same as [`Self::new`], with MIDI inputs.
    pub fn with_inputs(inputs: Vec<Input>) -> anyhow::Result<Self> {
        Self::by_clock(ClockMode::Virtual, inputs)
    }

    /// The same, by another clock.
    pub fn by_clock(clock: ClockMode, inputs: Vec<Input>) -> anyhow::Result<Self> {
        let (card, engine) = assemble_with(Arc::new(Bank::general_midi()), clock, Box::new(NullSink), inputs)?;
        Self::of(card, engine)
    }

    /// Has what the driver does checked from here on; to be asked before a stream is opened, once.
    pub fn check(&self) -> Arc<Checker> {
        let checker = Arc::new(Checker::new(&[], None));
        self.card.borrow().set_checker(Arc::clone(&checker));
        checker
    }

    fn of(mut card: Card, engine: Engine) -> anyhow::Result<Self> {
        let stats = card.stats();
        let page = Page::map(&card.doorbell_fd()?, BAR_SIZE as usize)?;
        let ram = Ram::new()?;
        let file = Some(ram.file.try_clone()?);
        card.map(DmaMap { iova: RAM_IOVA, size: RAM as u64, offset: 0, file, writable: true })?;
        let mut vectors = Vec::new();
        for vector in 0..dmus_interface::pci::VECTORS {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            card.set_vector(vector, Eventfd::new(fd.try_clone().context("eventfd")?.into()));
            vectors.push(fd);
        }
        card.write(Region::Config, 4, &[0x06, 0x00]);
        let (card, engine, thread) = (RefCell::new(card), RefCell::new(Some(engine)), RefCell::default());
        Ok(Self { card, engine, thread, page, ram, vectors, started: Instant::now(), stats })
    }

    /// Takes all memory back from the card.
    pub fn unmap(&self) {
        self.unmap_range(RAM_IOVA, RAM as u64);
    }

    /// Gives it back.
    pub fn map(&self) -> anyhow::Result<()> {
        self.map_range(RAM_IOVA, RAM as u64)
    }

    /// Takes back what was given from here to there, piece by piece or in one.
    pub fn unmap_range(&self, iova: u64, len: u64) {
        self.card.borrow_mut().unmap(iova, len);
    }

    /// Gives a part of the memory, which is whole pages, where it is.
    pub fn map_range(&self, iova: u64, len: u64) -> anyhow::Result<()> {
        let file = Some(self.ram.file.try_clone()?);
        let map = DmaMap { iova, size: len, offset: iova - RAM_IOVA, file, writable: true };
        Ok(self.card.borrow_mut().map(map)?)
    }

    /// Maps all memory once more, `above` where it is, for reading only.
    pub fn map_read_only(&self, above: u64) -> anyhow::Result<()> {
        let file = Some(self.ram.file.try_clone()?);
        let map = DmaMap { iova: RAM_IOVA + above, size: RAM as u64, offset: 0, file, writable: false };
        Ok(self.card.borrow_mut().map(map)?)
    }

    /// Takes back what [`Self::map_read_only`] gave.
    pub fn unmap_above(&self, above: u64) {
        self.card.borrow_mut().unmap(RAM_IOVA + above, RAM as u64);
    }

    /// Turns the engine until it has nothing more to do.
    pub fn run_until_idle(&self) {
        while self.turn() == Turn::Worked {}
    }

    /// Turns the engine once. One with a thread of its own is quiet here.
    pub fn turn(&self) -> Turn {
        self.engine.borrow_mut().as_mut().map_or(Turn::Quiet, Engine::turn)
    }

    /// Whether a vector was raised since this was last asked. Turns no engine.
    pub fn fired(&self, vector: u16) -> bool {
        self.vectors.get(usize::from(vector)).is_some_and(|fd| rustix::io::read(fd, &mut [0; 8]).is_ok())
    }

    /// Hands the engine over to one who turns it without asking here.
    pub fn take_engine(&self) -> anyhow::Result<Engine> {
        self.engine.borrow_mut().take().context("the engine has a thread already")
    }

    /// Gives the engine a thread of its own, as in the card's process. It runs until the handle is finished, or the
    /// process ends.
    pub fn spawn_engine(&self) -> anyhow::Result<EngineHandle> {
        Ok(self.take_engine()?.spawn()?)
    }

    /// Ends the card: its output is complete, and so is its recording.
    pub fn end(&self) -> anyhow::Result<()> {
        if self.has_engine() {
            self.run_until_idle();
            self.keep_engine()?;
        }
        self.thread.take().map_or(Ok(()), |thread| Ok(thread.finish()?))
    }

    /// Whether the engine is turned here.
    pub fn has_engine(&self) -> bool {
        self.engine.borrow().is_some()
    }

    /// Gives the engine a thread of its own until this is dropped, if it has none yet.
    pub fn keep_engine(&self) -> anyhow::Result<()> {
        if self.has_engine() {
            *self.thread.borrow_mut() = Some(self.spawn_engine()?);
        }
        Ok(())
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Nobody is left to be told of its output.
            let _ = thread.finish();
        }
    }
}

impl Platform for Direct {
    fn read32(&self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.card.borrow_mut().read(Region::Registers, offset.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.card.borrow_mut().write(Region::Registers, offset.into(), &value.to_le_bytes());
    }

    fn doorbell(&self) -> &SharedMemory {
        self.page.shared()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.ram.allocate(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.ram.release(&memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        if !self.has_engine() {
            let limit = Timespec::try_from(limit).ok();
            if let Some(fd) = self.vectors.get(usize::from(vector)) {
                // Whether it fired is seen below.
                let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], limit.as_ref());
            }
        }
        // A guest may grant a thousand years: nobody waits for all of it here.
        for _ in 0..64 {
            if self.turn() != Turn::Worked {
                break;
            }
        }
        self.fired(vector)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Bus for Direct {
    fn read_bar0(&self, offset: u64, bytes: &mut [u8]) {
        self.card.borrow_mut().read(Region::Registers, offset, bytes);
    }

    fn write_bar0(&self, offset: u64, bytes: &[u8]) {
        self.card.borrow_mut().write(Region::Registers, offset, bytes);
    }

    fn write_config(&self, offset: u64, bytes: &[u8]) {
        self.card.borrow_mut().write(Region::Config, offset, bytes);
    }

    fn device_reset(&self) {
        self.card.borrow_mut().reset();
    }
}
