//! The interrupt vectors: which eventfd each signals, and the writes to them.
//!
//! Fed by the transport with eventfds, and by the engine with vectors to raise; feeds the client. A write to an eventfd
//! blocks while its counter is full, and no flag helps: the client shares flags and counter, and changes both at any
//! time. So only the engine writes, with no lock held, and whoever takes the vectors away interrupts the write that
//! still goes on. The transport, which has to see its client go, never writes.

use crate::device::Eventfd;
use crate::sink::SinkError;
use crate::stats::Stats;
use dmus_interface::pci::VECTORS;
use libc::{c_int, c_void, siginfo_t};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

/// How often a write that goes on is interrupted, and how many times. One time will do, unless it comes before the
/// write blocks.
const KICK_STEP: Duration = Duration::from_millis(1);
const KICKS: u32 = 1000;

type Table = [Option<Arc<Eventfd>>; VECTORS as usize];

const NONE: Table = [const { None }; VECTORS as usize];

/// The engine's thread, and how it ends.
pub(crate) type EngineThread = JoinHandle<Result<(), SinkError>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// `None` once the process is about to end: nothing is raised any more.
    vectors: Mutex<Option<Table>>,
    /// The engine may be writing to an eventfd that it has found among them.
    raising: AtomicBool,
    /// The engine, if it has a thread of its own.
    engine: Mutex<Option<EngineThread>>,
}

impl Interrupts {
    pub(super) fn new() -> Self {
        Self { vectors: Mutex::new(Some(NONE)), raising: AtomicBool::new(false), engine: Mutex::new(None) }
    }

    pub(super) fn set(&self, vector: u16, eventfd: Option<Eventfd>) {
        if let Some(place) = self.vectors.lock().as_mut().and_then(|table| table.get_mut(usize::from(vector))) {
            *place = eventfd.map(Arc::new);
        }
    }

    /// Raises the vectors whose bits are set; `raised` is told which of them are connected. For the engine: a client
    /// can make it wait here, for as long as that client is connected.
    #[inline]
    pub(super) fn raise(&self, vectors: u32, stats: &Stats, mut raised: impl FnMut(usize)) {
        // Ordered by the lock: who takes the vectors away sees this, or nothing of theirs is found here any more.
        self.raising.store(true, Ordering::Relaxed);
        for vector in (0..VECTORS as usize).filter(|vector| vectors & 1 << vector != 0) {
            let eventfd = self.vectors.lock().as_ref().and_then(|table| table.get(vector)?.clone());
            if let Some(eventfd) = eventfd {
                raised(vector);
                stats.interrupts.add(1);
                // One that is interrupted has no client any more.
                let _ = eventfd.signal();
            }
        }
        self.raising.store(false, Ordering::Release);
    }

    /// Takes all vectors away. On return nothing is written to them any more.
    pub(super) fn clear(&self) {
        if let Some(table) = self.vectors.lock().as_mut() {
            *table = NONE;
        }
        self.kick();
    }

    /// As [`Self::clear`], for good.
    pub(super) fn close(&self) {
        *self.vectors.lock() = None;
        self.kick();
    }

    /// Interrupts the write that goes on, until it has ended.
    fn kick(&self) {
        for _ in 0..KICKS {
            if !self.raising.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(KICK_STEP);
            // It fails if the engine has ended, which is looked for above.
            let _ = self.engine.lock().as_ref().map(|engine| engine.kill(SIGRTMIN()));
        }
        tracing::error!("an interrupt cannot be taken back: the engine hangs");
    }

    /// The thread of the engine from now on, whose writes can be interrupted.
    pub(super) fn set_engine(&self, engine: EngineThread) {
        *self.engine.lock() = Some(engine);
    }

    pub(super) fn take_engine(&self) -> Option<EngineThread> {
        self.engine.lock().take()
    }
}

/// Lets threads of this process be interrupted in the way that a write to an eventfd needs: by a handler that does
/// nothing, without SA_RESTART.
pub(crate) fn allow_kicks() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), ignore).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Lets the calling thread be interrupted, even if the process was started with the signal blocked.
pub(crate) fn accept_kicks() {
    if let Err(error) = unblock_signal(SIGRTMIN()) {
        tracing::warn!("a client that blocks an interrupt may hang the card: {error}");
    }
}

extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
