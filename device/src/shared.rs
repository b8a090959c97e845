//! What the transport thread and the engine share, behind one lock that is held for bounded sections only.
//!
//! Fed by the PCI function with requests, maps, vectors and resets, and by the engine with answers, faults and clocks;
//! each side sees the other only through a [`Section`]. Every access to guest memory and to the doorbell page takes
//! place inside a section of the right epoch, so nothing is touched after the reply to a reset, an unmap or bus-master
//! off. No lock is held across rendering, nor across a write to a descriptor that a client gave. There is at most one
//! request a stream and one command, which bounds by construction what a guest can pile up.

mod interrupts;
pub(crate) mod questions;
mod section;

use crate::check::{Checker, Rings};
use crate::deviation::Deviations;
use crate::device::{Eventfd, RemoteMemory};
use crate::dma::owners::Owners;
use crate::dma::{DoorbellPage, GuestMemory, Layout, Translation};
use crate::replay_log::{Put, ReplayLog, Tag};
use crate::stats::Stats;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{Fault, Register};
use dmus_interface::time::RefTime;
use dmus_interface::wave::WaveFormat;
use interrupts::Interrupts;
pub(crate) use interrupts::{EngineThread, accept_kicks, allow_kicks};
use parking_lot::{Condvar, Mutex};
use questions::Questions;
pub(crate) use section::Section;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What a turn of the engine has to take notice of: it was woken, it is recorded or replayed, and it does otherwise
/// than it usually would. One test says that it has nothing of that, which each turn asks.
const WOKEN: u8 = 1 << 0;
const LOGGED: u8 = 1 << 1;
const DEVIATES: u8 = 1 << 2;

/// How long rings may be away while the client rearranges its maps.
const REMAP_LIMIT: Duration = Duration::from_secs(1);

/// A stream's registers, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamConfig {
    pub(crate) kind: Type,
    /// Of a wave sink.
    pub(crate) wave: Option<WaveFormat>,
    pub(crate) width: PointerWidth,
    pub(crate) pool_base: u64,
    pub(crate) slots: u32,
    pub(crate) stride: u32,
    pub(crate) buffer_base: u64,
    pub(crate) buffer_size: u32,
    pub(crate) buffers: u32,
    pub(crate) submission_base: u64,
    pub(crate) submission_entries: u32,
    pub(crate) completion_base: u64,
    pub(crate) completion_entries: u32,
}

impl StreamConfig {
    /// Where its parts are.
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            pool: self.pool_base,
            slots: self.slots,
            stride: self.stride,
            buffers: self.buffer_base,
            buffer_bytes: self.buffers as usize * self.buffer_size as usize,
            submissions: (self.submission_base, self.submission_entries),
            completions: (self.completion_base, self.completion_entries),
        }
    }

    /// Bytes of the card's own memory that it takes, and no less: of a synthesizer, what the checker remembers, and
    /// what else does not depend on the sizes, of each slot, and of each buffer.
    pub(crate) fn memory(&self) -> usize {
        const STREAM: usize = 2 << 20;
        const SLOT: usize = 192;
        const BUFFER: usize = 16;
        STREAM + self.slots as usize * SLOT + self.buffers as usize * (self.buffer_size as usize + BUFFER)
    }

    pub(crate) fn slot_iova(&self, slot: u32) -> u64 {
        self.pool_base + u64::from(slot) * u64::from(self.stride)
    }

    pub(crate) fn buffer_iova(&self, buffer: u32) -> u64 {
        self.buffer_base + u64::from(buffer) * u64::from(self.buffer_size)
    }
}

/// What a guest asked of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Open(StreamConfig),
    Close,
    SetState(State),
}

impl Request {
    /// The register whose write asked for it.
    pub(crate) fn register(&self) -> Register {
        match self {
            Self::Open(_) | Self::Close => stream::TYPE,
            Self::SetState(_) => stream::STATE,
        }
    }
}

/// What a guest asked of the mailbox: the registers, as they were when the opcode was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) opcode: u32,
    pub(crate) stream: u32,
    pub(crate) request: u64,
    pub(crate) request_size: u32,
    pub(crate) result: u64,
    pub(crate) result_room: u32,
}

/// What the registers show of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamView {
    pub(crate) open: bool,
    pub(crate) state: State,
    /// A request was left or taken, and not yet answered.
    pub(crate) busy: bool,
    pub(crate) time_base: RefTime,
    transitions: u32,
}

impl StreamView {
    /// Its registers are locked: it is open, or about to be.
    pub(crate) fn is_taken(&self) -> bool {
        self.open || self.busy
    }
}

/// A refused transition: why, and the register that FAULT_DETAIL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    pub(crate) register: Register,
}

impl Refusal {
    pub(crate) const fn of(fault: Fault, register: Register) -> Self {
        Self { fault, register }
    }
}

/// What a transition left a stream in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transitioned {
    pub(crate) open: bool,
    pub(crate) state: State,
    pub(crate) time_base: RefTime,
}

/// The card's clocks, as last published.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    pub(crate) master: RefTime,
    pub(crate) samples: u64,
}

/// The first fault since it was cleared, and how many there were since the reset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultRecord {
    pub(crate) code: u32,
    pub(crate) detail: u32,
    pub(crate) count: u32,
}

/// What a guest has asked for: at most one request a stream, and one command, until each is answered.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) streams: [Option<Request>; STREAMS],
    pub(crate) command: Option<Command>,
    /// Whether there is any of them.
    pub(crate) any: bool,
}

impl Requests {
    /// Adds those that came later.
    #[cold]
    #[inline(never)]
    fn append(&mut self, later: &mut Self) {
        for (request, later) in self.streams.iter_mut().zip(&mut later.streams) {
            *request = request.or(later.take());
        }
        self.command = self.command.or(later.command.take());
        self.any |= std::mem::take(&mut later.any);
    }
}

/// Everything behind the lock.
#[derive(Debug)]
struct Inner {
    memory: GuestMemory,
    /// The way to what is mapped but not shared.
    client: Option<Arc<dyn RemoteMemory>>,
    /// The log says already that this way is slow.
    slow_way_logged: bool,
    page: DoorbellPage,
    bus_master: bool,
    /// Grows with every reset: what the engine holds from before is void.
    epoch: u64,
    requests: Requests,
    views: [StreamView; STREAMS],
    /// Where the parts of each open stream are.
    translations: [Translation; STREAMS],
    /// A command was left or taken, and not yet answered.
    command_busy: bool,
    commands: u32,
    /// The beginning of the command's request as it was when the opcode was written, for a card that checks.
    request: Vec<u8>,
    unloads: u32,
    clocks: Clocks,
    fault: FaultRecord,
    /// The tails at the last reset.
    tails_before: [u32; STREAMS],
    /// Of a card that checks.
    rings: Rings,
    /// A stream that was not in STOP when bus mastering was turned off, and its state; for a card that checks.
    master_off: Option<(usize, State)>,
    /// What the client did since the engine last looked, for a card that records.
    accesses: Vec<u8>,
    /// A bit for each vector that the transport leaves to the engine to raise.
    vectors: u32,
    /// What a turn has to take notice of, a bit each.
    notice: u8,
    shutdown: bool,
    /// The card has reset itself, and the PCI function does not know.
    own_reset: bool,
}

impl Inner {
    /// As after a reset, but for memory, the epoch and the end of the process; the page had these tails.
    fn clear(&mut self, tails: [u32; STREAMS]) {
        self.requests = Requests::default();
        self.views = [StreamView::default(); STREAMS];
        self.translations = [Translation::STALE; STREAMS];
        self.command_busy = false;
        self.commands = 0;
        self.request = Vec::new();
        self.unloads = 0;
        self.clocks = Clocks::default();
        self.fault = FaultRecord::default();
        self.vectors = 0;
        self.rings = Rings::default();
        self.master_off = None;
        self.tails_before = tails;
        self.own_reset = false;
        self.page.zero();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    interrupts: Interrupts,
    /// A reset or the end of the process, which the engine has not looked at yet: what it does is void.
    void: Arc<AtomicBool>,
    /// Maps were taken back, or bus mastering was turned off, and the client has done nothing but change maps since.
    remapping: AtomicBool,
    stats: Arc<Stats>,
    checker: OnceLock<Arc<Checker>>,
    owners: OnceLock<Arc<Owners>>,
    /// Of a card that records or replays.
    replay_log: OnceLock<Arc<ReplayLog>>,
    /// Of a card that takes liberties or has faults.
    deviations: OnceLock<Arc<Deviations>>,
    /// What the control socket wants to know.
    questions: Questions,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        let inner = Inner {
            memory: GuestMemory::default(),
            client: None,
            slow_way_logged: false,
            page: DoorbellPage::new()?,
            bus_master: false,
            epoch: 0,
            requests: Requests::default(),
            views: [StreamView::default(); STREAMS],
            translations: [Translation::STALE; STREAMS],
            command_busy: false,
            commands: 0,
            request: Vec::new(),
            unloads: 0,
            clocks: Clocks::default(),
            fault: FaultRecord::default(),
            tails_before: [0; STREAMS],
            rings: Rings::default(),
            master_off: None,
            accesses: Vec::new(),
            vectors: 0,
            notice: 0,
            shutdown: false,
            own_reset: false,
        };
        Ok(Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            interrupts: Interrupts::new(),
            void: Arc::default(),
            remapping: AtomicBool::new(false),
            stats: Arc::default(),
            checker: OnceLock::new(),
            owners: OnceLock::new(),
            replay_log: OnceLock::new(),
            deviations: OnceLock::new(),
            questions: Questions::default(),
        })
    }

    /// Streams that are opened from here on are checked.
    pub(crate) fn set_checker(&self, checker: Arc<Checker>) {
        // The first one stays.
        let _ = self.checker.set(checker);
    }

    /// Streams that are opened from here on tell this map what they own, if they are checked.
    pub(crate) fn set_owners(&self, owners: Arc<Owners>) {
        // The first one stays.
        let _ = self.owners.set(owners);
    }

    pub(crate) fn owners(&self) -> Option<&Arc<Owners>> {
        self.owners.get()
    }

    pub(crate) fn checker(&self) -> Option<&Arc<Checker>> {
        self.checker.get()
    }

    /// What happens from here on is recorded, or replayed: before the first client.
    pub(crate) fn set_replay_log(&self, log: Arc<ReplayLog>) {
        self.inner.lock().notice |= LOGGED;
        // The first one stays.
        let _ = self.replay_log.set(log);
    }

    /// Of a card that records or replays.
    #[inline]
    pub(crate) fn replay_log(&self) -> Option<&ReplayLog> {
        self.replay_log.get().map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub(crate) fn shared_replay_log(&self) -> Option<Arc<ReplayLog>> {
        self.replay_log.get().cloned()
    }

    /// The card takes liberties or has faults from here on: before the first client.
    pub(crate) fn set_deviations(&self, deviations: Arc<Deviations>) {
        self.inner.lock().notice |= DEVIATES;
        // The first one stays.
        let _ = self.deviations.set(deviations);
    }

    /// Of a card that takes liberties or has faults.
    #[inline]
    pub(crate) fn deviations(&self) -> Option<&Arc<Deviations>> {
        self.deviations.get()
    }

    pub(crate) fn questions(&self) -> &Questions {
        &self.questions
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Begins a section. Vectors that are raised in it are left to the engine.
    #[inline]
    pub(crate) fn section(&self) -> Section<'_> {
        Section::new(self, false)
    }

    /// Begins a section of the engine's, which raises vectors itself.
    #[inline]
    pub(crate) fn engine_section(&self) -> Section<'_> {
        Section::new(self, true)
    }

    /// Begins a section of the engine's in the middle of a turn, if it is of that epoch.
    pub(crate) fn engine_section_of(&self, epoch: u64) -> Option<Section<'_>> {
        if let Some(log) = self.replay_log() {
            log.repeat_accesses();
        }
        let mut section = self.engine_section();
        section.take_accesses();
        section.is_of(epoch).then_some(section)
    }

    /// Begins a section of an epoch; none once a reset or the end of the process has made it void.
    pub(crate) fn section_of(&self, epoch: u64) -> Option<Section<'_>> {
        let section = self.section();
        section.is_of(epoch).then_some(section)
    }

    /// Set while what the engine does is void: whatever may take long breaks off then. Changed in sections alone; to
    /// look at it needs none.
    pub(crate) fn void(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.void)
    }

    pub(crate) fn is_void(&self) -> bool {
        self.void.load(Ordering::Relaxed)
    }

    /// A client that moves memory takes it back and maps it anew, and one that resets the function turns bus mastering
    /// off first, with nothing in between: what is away meanwhile is no fault.
    pub(crate) fn set_remapping(&self, remapping: bool) {
        // Only a hint of how long to wait: nothing is ordered by it.
        self.remapping.store(remapping, Ordering::Relaxed);
    }

    /// Whether what has been away since then may still come back.
    pub(crate) fn is_remapping(&self, since: Instant) -> bool {
        self.remapping.load(Ordering::Relaxed) && since.elapsed() < REMAP_LIMIT
    }

    /// The engine has a thread of its own from now on.
    pub(crate) fn set_engine(&self, engine: EngineThread) {
        self.interrupts.set_engine(engine);
    }

    /// Ends the engine, which waits neither for an answer that a client owes nor in a write to an eventfd; gives its
    /// thread, if it has one.
    pub(crate) fn shut_down(&self) -> Option<EngineThread> {
        let mut section = self.section();
        section.note(|out| _ = out.tag(Tag::ShutDown));
        section.inner.shutdown = true;
        self.void.store(true, Ordering::Relaxed);
        section.wake();
        let client = section.client();
        drop(section);
        if let Some(client) = client {
            client.close();
        }
        self.interrupts.close();
        self.interrupts.take_engine()
    }

    /// Connects or disconnects a vector.
    pub(crate) fn set_vector(&self, vector: u16, eventfd: Option<Eventfd>) {
        let connected = eventfd.is_some().into();
        self.section().note(|out| _ = out.tag(Tag::Vector).number(vector.into()).byte(connected));
        self.interrupts.set(vector, eventfd);
    }

    /// Disconnects all vectors. On return nothing is written to their eventfds any more.
    pub(crate) fn clear_vectors(&self) {
        self.interrupts.clear();
    }
}
