//! The driver's platform in process: a card on a socket in this process, and the `vfio_user` crate's client.
//!
//! Fed by tests; feeds the whole driver against the whole card without QEMU. Holds the only `unsafe` of the tests: shared memory.

use anyhow::Context;
use dmus_card::engine::EngineHandle;
use dmus_card::sink::{Sink, SinkError};
use dmus_card::stats::Stats;
use dmus_card::{ClockMode, transport};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::pci::{DOORBELL_BAR, REGISTER_BAR, VECTORS};
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
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

/// A card that listens in a temporary directory and serves one client.
pub struct HostedCard {
    /// Its audio.
    pub audio: MemorySink,
    /// Its counters.
    pub stats: Arc<Stats>,
    socket: PathBuf,
    server: Option<JoinHandle<std::io::Result<()>>>,
    engine: Option<EngineHandle>,
    _dir: tempfile::TempDir,
}

impl HostedCard {
    /// Starts it.
    pub fn start(clock: ClockMode) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("card.sock");
        let audio = MemorySink::default();
        let (mut card, engine) = dmus_card::start(clock, Box::new(audio.clone()))?;
        let stats = card.stats();
        let listener = transport::listen(&socket)?;
        let server = std::thread::spawn(move || transport::serve(listener.into(), &mut card, true));
        Ok(Self { audio, stats, socket, server: Some(server), engine: Some(engine), _dir: dir })
    }

    /// Connects the driver's platform.
    pub fn connect(&self) -> anyhow::Result<Loopback> {
        Loopback::new(&self.socket)
    }

    /// Waits until its client's leaving is handled and all audio is written. The client must be gone.
    pub fn finish(mut self) -> anyhow::Result<MemorySink> {
        if let Some(server) = self.server.take() {
            server.join().ok().context("the server panicked")??;
        }
        if let Some(engine) = self.engine.take() {
            engine.finish()?;
        }
        Ok(self.audio.clone())
    }
}

/// Bytes of memory that is shared with the card, and where the card sees it.
const RAM: usize = 32 << 20;
const RAM_IOVA: u64 = 0x10_0000;

/// The driver's platform over the socket.
pub struct Loopback {
    client: RefCell<Client>,
    page: SharedMemory,
    ram: MmapRaw,
    memory: OwnedFd,
    next: Cell<usize>,
    /// Bytes of allocations that were not given back.
    pub outstanding: Cell<usize>,
    vectors: Vec<OwnedFd>,
    started: Instant,
    /// What the page's memory lives in.
    _page: MmapRaw,
}

impl Loopback {
    fn new(socket: &std::path::Path) -> anyhow::Result<Self> {
        let mut client = Client::new(socket)?;
        let region = client.region(DOORBELL_BAR.into()).context("no doorbell region")?;
        let file = region.file_offset.as_ref().context("the doorbell page cannot be mapped")?;
        let page = MmapOptions::new().len(region.size as usize).map_raw(file.file())?;
        let base = NonNull::new(page.as_mut_ptr()).context("null mapping")?;
        // SAFETY: the mapping lives as long as the platform that holds both, and is page aligned.
        let shared = unsafe { SharedMemory::new(base, page.len()) };

        let memory = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, RAM as u64)?;
        let ram = MmapOptions::new().len(RAM).map_raw(memory.as_raw_fd())?;
        client.dma_map(0, RAM_IOVA, RAM as u64, memory.as_raw_fd())?;

        let mut vectors = Vec::new();
        for vector in 0..u32::from(VECTORS) {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
            client.set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, flags, vector, 1, &[fd.as_raw_fd()])?;
            vectors.push(fd);
        }
        let this = Self {
            client: RefCell::new(client),
            page: shared,
            ram,
            memory,
            next: Cell::new(0),
            outstanding: Cell::new(0),
            vectors,
            started: Instant::now(),
            _page: page,
        };
        // Memory space and bus master.
        this.write_config(4, &[0x06, 0x00]);
        Ok(this)
    }

    /// Writes PCI configuration space.
    pub fn write_config(&self, offset: u64, bytes: &[u8]) {
        let written = self.client.borrow_mut().region_write(VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
        assert!(written.is_ok(), "config write: {written:?}");
    }

    /// Gives all memory back that was allocated after `mark`: for tests that set up many streams and forget them.
    pub fn rewind(&self, mark: &DmaMemory) {
        self.next.set((mark.iova - RAM_IOVA) as usize);
    }

    /// Shares all memory a second time, `distance` further up.
    pub fn map_alias(&self, distance: u64) {
        let mapped = self.client.borrow_mut().dma_map(0, RAM_IOVA + distance, RAM as u64, self.memory.as_raw_fd());
        assert!(mapped.is_ok(), "map: {mapped:?}");
    }

    /// Takes the second view back.
    pub fn unmap_alias(&self, distance: u64) {
        let unmapped = self.client.borrow_mut().dma_unmap(RAM_IOVA + distance, RAM as u64);
        assert!(unmapped.is_ok(), "unmap: {unmapped:?}");
    }

    /// Takes the shared memory back from the card.
    pub fn unmap(&self) {
        let unmapped = self.client.borrow_mut().dma_unmap(RAM_IOVA, RAM as u64);
        assert!(unmapped.is_ok(), "unmap: {unmapped:?}");
    }

    /// Function reset, as the host side asks for it.
    pub fn device_reset(&self) {
        let reset = self.client.borrow_mut().reset();
        assert!(reset.is_ok(), "reset: {reset:?}");
    }

    /// Reads BAR0 in any width.
    pub fn read_bar0(&self, offset: u64, bytes: &mut [u8]) {
        let read = self.client.borrow_mut().region_read(REGISTER_BAR.into(), offset, bytes);
        assert!(read.is_ok(), "register read: {read:?}");
    }

    /// Writes BAR0 in any width.
    pub fn write_bar0(&self, offset: u64, bytes: &[u8]) {
        let written = self.client.borrow_mut().region_write(REGISTER_BAR.into(), offset, bytes);
        assert!(written.is_ok(), "register write: {written:?}");
    }
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
        &self.page
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        let start = self.next.get().next_multiple_of(align.max(8));
        let end = start + len;
        if end > RAM {
            return Err(PlatformError::NoMemory(len));
        }
        self.next.set(end);
        self.outstanding.set(self.outstanding.get() + len);
        // SAFETY: a part of the mapping that nothing else is given, which lives as long as the platform; 8-byte aligned.
        let memory = unsafe {
            let base = NonNull::new_unchecked(self.ram.as_mut_ptr().add(start));
            SharedMemory::new(base, len)
        };
        Ok(DmaMemory { memory, iova: RAM_IOVA + start as u64 })
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.outstanding.set(self.outstanding.get() - memory.memory.len());
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        let Some(fd) = self.vectors.get(usize::from(vector)) else {
            return false;
        };
        let limit = Timespec::try_from(limit).ok();
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        let fired = matches!(poll(&mut fds, limit.as_ref()), Ok(1));
        // Empties the counter; an empty one is not an error here.
        let _ = rustix::io::read(fd, &mut [0; 8]);
        fired
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
