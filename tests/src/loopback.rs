//! The driver's platform in process: a card on a socket in this process, and the `vfio_user` crate's client.
//!
//! Fed by tests; feeds the whole driver against the whole card without QEMU.

use crate::memory::{Page, RAM, RAM_IOVA, Ram};
use crate::raw::Bus;
use crate::recording::Recording;
use anyhow::Context;
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::{self, Options};
use dmus_card::capture::inputs::Input;
use dmus_card::check::Checker;
use dmus_card::engine::{Engine, EngineHandle};
use dmus_card::pci::Card;
use dmus_card::sink::{Sink, SinkError};
use dmus_card::stats::Stats;
use dmus_card::transport::{self, Transport};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::pci::{DOORBELL_BAR, REGISTER_BAR, VECTORS};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::Client;

/// Keeps the audio in memory.
#[derive(Clone, Default)]
pub struct MemorySink(Arc<Mutex<Vec<i16>>>);

impl MemorySink {
    /// All audio so far, interleaved.
    pub fn samples(&self) -> Vec<i16> {
        self.0.lock().map(|samples| samples.clone()).unwrap_or_default()
    }
}

impl Sink for MemorySink {
    fn write(&mut self, frames: &[i16]) {
        if let Ok(mut samples) = self.0.lock() {
            samples.extend_from_slice(frames);
        }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// What a run and its replay have to agree on.
fn counters(stats: &Stats) -> impl PartialEq + std::fmt::Debug {
    format!("{stats:?}")
}

/// A card that listens in a temporary directory and serves one client.
pub struct HostedCard {
    /// Its audio.
    pub audio: MemorySink,
    /// Its counters.
    pub stats: Arc<Stats>,
    socket: PathBuf,
    server: Option<JoinHandle<std::io::Result<()>>>,
    engine: Option<EngineHandle>,
    checker: Option<Arc<Checker>>,
    /// Its recording, which is whole once the card has ended.
    pub recording: Recording,
    /// Its instruments.
    pub bank: Arc<Bank>,
    _dir: tempfile::TempDir,
}

impl HostedCard {
    /// Starts it behind the card's own server.
    pub fn start(clock: ClockMode) -> anyhow::Result<Self> {
        Self::start_with(Transport::Own, clock, Vec::new())
    }

    /// Starts it behind a server, unchecked.
    pub fn start_behind(transport: Transport, clock: ClockMode) -> anyhow::Result<Self> {
        Self::start_as(transport, clock, Vec::new(), |_, _| None)
    }

    /// Starts it behind a server, with MIDI inputs.
    pub fn start_with(transport: Transport, clock: ClockMode, inputs: Vec<Input>) -> anyhow::Result<Self> {
        Self::start_drifting(transport, clock, inputs, 0)
    }

    /// As [`Self::start_with`], the crystal of wave sinks off by so many parts per million.
    pub fn start_drifting(
        transport: Transport,
        clock: ClockMode,
        inputs: Vec<Input>,
        drift: i32,
    ) -> anyhow::Result<Self> {
        Self::start_as(transport, clock, inputs, |card, engine| {
            engine.set_drift(drift);
            let checker = Arc::new(Checker::new(&[], None));
            card.set_checker(Arc::clone(&checker));
            Some(checker)
        })
    }

    fn start_as(
        transport: Transport,
        clock: ClockMode,
        inputs: Vec<Input>,
        set_up: impl FnOnce(&Card, &mut Engine) -> Option<Arc<Checker>>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("card.sock");
        let audio = MemorySink::default();
        let bank = Arc::new(Bank::general_midi());
        let (mut card, mut engine) =
            dmus_card::assemble_with(Arc::clone(&bank), clock, Box::new(audio.clone()), inputs)?;
        let checker = set_up(&card, &mut engine);
        let recording = Recording::default();
        capsule::record(recording.clone(), "memory".into(), Options::default(), &card, &engine)?;
        let engine = engine.spawn()?;
        let stats = card.stats();
        let listener = transport::listen(&socket)?;
        let server = std::thread::spawn(move || transport::serve(transport, listener, &mut card, true));
        let (server, engine) = (Some(server), Some(engine));
        Ok(Self { audio, stats, socket, server, engine, checker, recording, bank, _dir: dir })
    }

    /// Connects the driver's platform.
    pub fn connect(&self) -> anyhow::Result<Loopback> {
        Loopback::new(&self.socket)
    }

    /// Waits until its client's leaving is handled and all audio is written, and replays the run: that has to come to
    /// the same. The client must be gone.
    pub fn finish(mut self) -> anyhow::Result<MemorySink> {
        self.end()?;
        self.replay()?;
        Ok(self.audio.clone())
    }

    /// The same, without the replay.
    pub fn end(&mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            server.join().ok().context("the server panicked")??;
        }
        if let Some(engine) = self.engine.take() {
            engine.finish()?;
        }
        Ok(())
    }

    fn replay(&self) -> anyhow::Result<()> {
        let replayed = MemorySink::default();
        let run = self.recording.replay(&self.bank, Box::new(replayed.clone()), None)?;
        assert!(replayed.samples() == self.audio.samples(), "a replay sounds otherwise");
        assert_eq!(counters(&run.stats), counters(&self.stats));
        assert_eq!(run.checker.map(|found| found.json()), self.checker.as_ref().map(|found| found.json()));
        Ok(())
    }
}

/// The driver's platform over the socket.
pub struct Loopback {
    client: RefCell<Client>,
    /// What the doorbell page is in.
    pub page_file: File,
    page: Page,
    /// The memory that it shares with the card.
    pub ram: Ram,
    vectors: Vec<OwnedFd>,
    started: Instant,
}

impl Loopback {
    /// Connects to a card that listens there.
    pub fn new(socket: &std::path::Path) -> anyhow::Result<Self> {
        let mut client = Client::new(socket)?;
        let region = client.region(DOORBELL_BAR.into()).context("no doorbell region")?;
        let file = region.file_offset.as_ref().context("the doorbell page cannot be mapped")?;
        let page_file = file.file().try_clone()?;
        let page = Page::map(&page_file, region.size as usize)?;
        let ram = Ram::new()?;
        client.dma_map(0, RAM_IOVA, RAM as u64, ram.file.as_raw_fd())?;

        let mut vectors = Vec::new();
        for vector in 0..u32::from(VECTORS) {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            connect_vector(&mut client, vector, &fd)?;
            vectors.push(fd);
        }
        let this = Self { client: RefCell::new(client), page_file, page, ram, vectors, started: Instant::now() };
        // Memory space and bus master.
        this.write_config(4, &[0x06, 0x00]);
        Ok(this)
    }

    /// Has the card signal a vector to this descriptor instead.
    pub fn set_vector(&self, vector: u32, fd: impl AsFd) -> anyhow::Result<()> {
        connect_vector(&mut self.client.borrow_mut(), vector, fd)
    }

    /// Shares all memory a second time, `distance` further up.
    pub fn map_alias(&self, distance: u64) {
        self.map_range(RAM_IOVA + distance, RAM as u64, 0);
    }

    /// Takes the second view back.
    pub fn unmap_alias(&self, distance: u64) {
        self.unmap_range(RAM_IOVA + distance, RAM as u64);
    }

    /// Takes the shared memory back from the card.
    pub fn unmap(&self) {
        self.unmap_range(RAM_IOVA, RAM as u64);
    }

    /// Takes whatever is mapped in a range back from the card. On return the card has let go of it.
    pub fn unmap_range(&self, iova: u64, len: u64) {
        let unmapped = self.client.borrow_mut().dma_unmap(iova, len);
        assert!(unmapped.is_ok(), "unmap: {unmapped:?}");
    }

    /// Shares a part of the memory, wherever the card is to see it. Refusals do not show here: the card counts what it
    /// maps.
    pub fn map_range(&self, iova: u64, len: u64, offset: u64) {
        let mapped = self.client.borrow_mut().dma_map(offset, iova, len, self.ram.file.as_raw_fd());
        assert!(mapped.is_ok(), "map: {mapped:?}");
    }
}

fn connect_vector(client: &mut Client, vector: u32, fd: impl AsFd) -> anyhow::Result<()> {
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    Ok(client.set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, flags, vector, 1, &[fd.as_fd().as_raw_fd()])?)
}

/// Waits until a vector has fired, and empties its counter; false if the limit passed.
pub(crate) fn await_vector(eventfd: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    let fired = matches!(poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], limit.as_ref()), Ok(1));
    // An empty one is not an error here.
    let _ = rustix::io::read(eventfd, &mut [0; 8]);
    fired
}

impl Platform for Loopback {
    fn read32(&self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read_bar0(offset.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write_bar0(offset.into(), &value.to_le_bytes());
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
        self.vectors.get(usize::from(vector)).is_some_and(|fd| await_vector(fd, limit))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Bus for Loopback {
    fn read_bar0(&self, offset: u64, bytes: &mut [u8]) {
        let read = self.client.borrow_mut().region_read(REGISTER_BAR.into(), offset, bytes);
        assert!(read.is_ok(), "register read: {read:?}");
    }

    fn write_bar0(&self, offset: u64, bytes: &[u8]) {
        let written = self.client.borrow_mut().region_write(REGISTER_BAR.into(), offset, bytes);
        assert!(written.is_ok(), "register write: {written:?}");
    }

    fn write_config(&self, offset: u64, bytes: &[u8]) {
        let written = self.client.borrow_mut().region_write(VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
        assert!(written.is_ok(), "config write: {written:?}");
    }

    fn device_reset(&self) {
        let reset = self.client.borrow_mut().reset();
        assert!(reset.is_ok(), "reset: {reset:?}");
    }
}
