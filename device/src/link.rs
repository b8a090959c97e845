//! The meeting point of the transport thread and the engine: one lock, held for bounded sections only.
//!
//! The transport thread changes maps, vectors, enables and resets here, and leaves at most one request a stream; the engine takes
//! them, and does each access to guest memory and the doorbell page inside a section. So nothing is
//! touched after the reply to a reset, an unmap or bus-master off, and no lock is held across rendering. Memory that the client does
//! not share is asked for inside a section, too; the answer is awaited outside ([`crate::remote`]). A request a stream
//! instead of a queue bounds by construction what a guest can pile up.

use crate::device::RemoteMemory;
use crate::dma::{DoorbellPage, GuestMemory, Layout, NotMapped, Windows};
use crate::stats::Stats;
use dmus_interface::command::Answer;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS, VECTORS};
use dmus_interface::protocol::{Page, card};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::time::RefTime;
use dmus_interface::wave::WaveFormat;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long rings may be away while the client rearranges its maps.
const REMAP_LIMIT: Duration = Duration::from_secs(1);
/// Faults that the log tells of; the rest are only counted.
const MAX_LOGGED: u64 = 100;

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
}

/// What a guest asked of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Open(StreamConfig),
    Close,
    SetState(State),
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

/// The card's clocks, as last published.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    pub(crate) master: RefTime,
    pub(crate) samples: u64,
}

/// All that both threads see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) memory: GuestMemory,
    /// The way to what is mapped but not shared.
    pub(crate) client: Option<Arc<dyn RemoteMemory>>,
    /// Somebody was told that this is slow.
    pub(crate) warned: bool,
    pub(crate) page: DoorbellPage,
    pub(crate) bus_master: bool,
    /// Grows with every reset: what the engine holds from before is void.
    pub(crate) epoch: u64,
    pub(crate) requests: [Option<Request>; STREAMS],
    pub(crate) views: [StreamView; STREAMS],
    /// The command that nobody has taken yet.
    pub(crate) command: Option<Command>,
    /// A command was left or taken, and not yet answered.
    pub(crate) command_busy: bool,
    commands: u32,
    unloads: u32,
    pub(crate) clocks: Clocks,
    pub(crate) fault: u32,
    pub(crate) fault_detail: u32,
    pub(crate) fault_count: u32,
    /// Something happened that a sleeping engine must look at.
    pub(crate) rung: bool,
    /// The engine has found itself settled, and nothing has rung since: its next turn may be a short one.
    pub(crate) settled: bool,
    pub(crate) shutdown: bool,
    vectors: [Option<File>; VECTORS as usize],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Mutex<Shared>,
    bell: Condvar,
    /// Maps were taken back, and the client has done nothing but change maps since.
    remapping: AtomicBool,
    pub(crate) stats: Arc<Stats>,
}

impl Link {
    pub(crate) fn new() -> io::Result<Self> {
        let shared = Shared {
            memory: GuestMemory::default(),
            client: None,
            warned: false,
            page: DoorbellPage::new()?,
            bus_master: false,
            epoch: 0,
            requests: [None; STREAMS],
            views: [StreamView::default(); STREAMS],
            command: None,
            command_busy: false,
            commands: 0,
            unloads: 0,
            clocks: Clocks::default(),
            fault: 0,
            fault_detail: 0,
            fault_count: 0,
            rung: false,
            settled: false,
            shutdown: false,
            vectors: [const { None }; VECTORS as usize],
        };
        Ok(Self {
            shared: Mutex::new(shared),
            bell: Condvar::new(),
            remapping: AtomicBool::new(false),
            stats: Arc::default(),
        })
    }

    /// Begins a section.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// A client that moves memory takes it back and maps it anew, with nothing in between: what is away meanwhile is no fault.
    pub(crate) fn set_remapping(&self, remapping: bool) {
        // Only a hint of how long to wait: nothing is ordered by it.
        self.remapping.store(remapping, Ordering::Relaxed);
    }

    /// Whether what has been away since then may still come back.
    pub(crate) fn is_remapping(&self, since: Instant) -> bool {
        self.remapping.load(Ordering::Relaxed) && since.elapsed() < REMAP_LIMIT
    }

    /// Wakes the engine.
    pub(crate) fn ring(&self, shared: &mut Shared) {
        shared.rung = true;
        shared.settled = false;
        self.bell.notify_one();
    }

    /// Sleeps until rung, or for `limit`; the section goes on afterwards.
    pub(crate) fn sleep<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, Shared> {
        match limit {
            Some(limit) => {
                self.bell.wait_while_for(&mut shared, |shared| !shared.rung, limit);
            }
            None => self.bell.wait_while(&mut shared, |shared| !shared.rung),
        }
        shared
    }

    /// Raises a vector.
    pub(crate) fn raise(&self, shared: &Shared, vector: u16) {
        if let Some(Some(eventfd)) = shared.vectors.get(usize::from(vector)) {
            self.stats.interrupts.add(1);
            // Non-blocking: a full counter means that the interrupt is pending anyway.
            let _ = (&*eventfd).write(&1u64.to_ne_bytes());
        }
    }

    /// Records what a driver did wrong; the first one raises the control vector.
    pub(crate) fn fault(&self, shared: &mut Shared, fault: Fault, detail: u32) {
        shared.fault_count = shared.fault_count.wrapping_add(1);
        self.stats.faults.add(1);
        if shared.fault == 0 {
            // A guest can make faults without end, but not the log.
            if self.stats.faults.get() <= MAX_LOGGED {
                tracing::warn!(code = fault as u32, detail = format_args!("{detail:#x}"), "driver fault: {fault}");
            }
            shared.fault = fault as u32;
            shared.fault_detail = detail;
            self.raise(shared, CONTROL_VECTOR);
        }
    }

    /// Answers a transition of a stream.
    pub(crate) fn answer(&self, shared: &mut Shared, stream: usize, result: Result<(), Fault>) {
        let Some(view) = shared.views.get_mut(stream) else {
            return;
        };
        view.busy = false;
        view.transitions = view.transitions.wrapping_add(1);
        let (state, transitions) = (view.state as u32, view.transitions);
        let refusal = result.err().map_or(0, |fault| fault as u32);
        card::publish_answer(&shared.page, stream, state, refusal, transitions);
        self.raise(shared, stream as u16);
        if let Err(fault) = result {
            self.fault(shared, fault, (stream as u32) << 16);
        }
    }

    /// Answers the command under way.
    pub(crate) fn answer_command(&self, shared: &mut Shared, answer: Answer) {
        shared.command_busy = false;
        shared.commands = shared.commands.wrapping_add(1);
        card::publish_command(&shared.page, answer, shared.commands);
        self.raise(shared, CONTROL_VECTOR);
    }

    /// Tells that so many unloads that were pending are carried out.
    pub(crate) fn announce_unloads(&self, shared: &mut Shared, unloads: u32) {
        shared.unloads = shared.unloads.wrapping_add(unloads);
        shared.page.store_u32(doorbell::UNLOADS, shared.unloads, Ordering::Release);
        self.raise(shared, CONTROL_VECTOR);
    }
}

/// Guest memory, however it is reached.
pub(crate) trait Guest {
    /// Copies guest memory out, once.
    fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), NotMapped>;
    /// Copies into guest memory.
    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped>;
}

/// The memory that the client shares; none while the function may not master the bus.
impl Guest for Shared {
    fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), NotMapped> {
        match self.bus_master {
            true => self.memory.read(iova, out),
            false => Err(NotMapped { iova }),
        }
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped> {
        match self.bus_master {
            true => self.memory.write(iova, bytes),
            false => Err(NotMapped { iova }),
        }
    }
}

impl Shared {
    /// Translates the parts of a stream; to nothing while the function may not master the bus.
    #[cold]
    pub(crate) fn translate(&self, layout: &Layout) -> Windows {
        self.memory.translate(layout, self.bus_master)
    }

    pub(crate) fn set_bus_master(&mut self, bus_master: bool) {
        if self.bus_master != bus_master {
            self.bus_master = bus_master;
            // What was translated under the other rule is void.
            self.memory.renew();
        }
    }

    /// Forgets everything but maps and vectors, as a reset does.
    pub(crate) fn reset(&mut self) {
        self.epoch += 1;
        // The engine looks for requests and resets only when it is rung.
        self.rung = true;
        self.settled = false;
        self.requests = [None; STREAMS];
        self.views = [StreamView::default(); STREAMS];
        self.command = None;
        self.command_busy = false;
        self.commands = 0;
        self.unloads = 0;
        self.clocks = Clocks::default();
        self.fault = 0;
        self.fault_detail = 0;
        self.fault_count = 0;
        self.page.zero();
    }

    /// Connects a vector; its eventfd must never block the card.
    pub(crate) fn set_vector(&mut self, vector: u16, eventfd: Option<File>) {
        if let Some(file) = &eventfd {
            let flags = rustix::fs::fcntl_getfl(file).unwrap_or(rustix::fs::OFlags::empty());
            if let Err(error) = rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK) {
                tracing::warn!(
                    "interrupt vector {vector} is left out, its descriptor cannot be made non-blocking: {error}"
                );
                return;
            }
        }
        if let Some(place) = self.vectors.get_mut(usize::from(vector)) {
            *place = eventfd;
        }
    }

    pub(crate) fn clear_vectors(&mut self) {
        self.vectors = [const { None }; VECTORS as usize];
    }
}
