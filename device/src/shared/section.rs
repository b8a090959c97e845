//! A section of what transport thread and engine share: what each side may do while the lock is held.
//!
//! Fed by the PCI function on the transport's thread and by the engine; feeds each with what the other left.

mod engine;
mod function;

use super::{Inner, Refusal, Shared, StreamView, Transitioned, WOKEN};
use crate::check::{Details, DriverWords, Place};
use crate::device::RemoteMemory;
use crate::dma::{DoorbellPage, GuestMemory};
use crate::log;
use dmus_interface::command::{Answer, Status};
use dmus_interface::doorbell;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS};
use dmus_interface::protocol::{Page, card};
use dmus_interface::regs::{Fault, stream};
use dmus_interface::rule::Code;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A section: the lock is held. Vectors that are raised in it are written to once it is over, by the engine.
pub(crate) struct Section<'s> {
    shared: &'s Shared,
    pub(super) inner: MutexGuard<'s, Inner>,
    /// A bit for each vector to raise, and [`OF_ENGINE`].
    vectors: u32,
}

/// The section is the engine's, which raises vectors itself. Of no vector, and with these, since a word less to store
/// is an instruction less for each turn.
const OF_ENGINE: u32 = 1 << 31;

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.vectors & !OF_ENGINE != 0 {
            self.give_vectors();
        }
    }
}

/// What both sides do.
impl<'s> Section<'s> {
    #[inline]
    pub(super) fn new(shared: &'s Shared, of_engine: bool) -> Self {
        Self { shared, inner: shared.inner.lock(), vectors: if of_engine { OF_ENGINE } else { 0 } }
    }

    fn is_of_engine(&self) -> bool {
        self.vectors & OF_ENGINE != 0
    }

    /// The vectors that are to be raised, which are another's from here on.
    fn take_vectors(&mut self) -> u32 {
        let vectors = self.vectors & !OF_ENGINE;
        self.vectors &= OF_ENGINE;
        vectors
    }

    pub(crate) fn shared(&self) -> &'s Shared {
        self.shared
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Whether no reset has been since that epoch, and the process goes on.
    #[inline]
    pub(crate) fn is_of(&self, epoch: u64) -> bool {
        self.inner.epoch == epoch && !self.inner.shutdown
    }

    /// Raises what is to be raised, which may take another section.
    pub(crate) fn raise_now(&mut self) {
        if self.vectors & !OF_ENGINE != 0 {
            self.give_vectors();
        }
    }

    /// Raises what is to be raised, or leaves it to the engine.
    #[cold]
    fn give_vectors(&mut self) {
        if self.is_of_engine() {
            self.unlocked(|| ());
        } else {
            self.inner.vectors |= self.take_vectors();
            self.wake();
        }
    }

    /// Leaves the section for a while; says what `work` does. The other side may have changed anything meanwhile.
    #[cold]
    pub(crate) fn unlocked<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let vectors = self.take_vectors();
        let shared = self.shared;
        let vectors = if vectors == 0 { 0 } else { self.raised_of(vectors) };
        let Some(log) = shared.replay_log() else {
            return MutexGuard::unlocked(&mut self.inner, || {
                shared.interrupts.raise(vectors, &shared.stats, |_| ());
                work()
            });
        };
        let result = MutexGuard::unlocked(&mut self.inner, || {
            log.interrupts(vectors, &shared.stats, || {
                let mut connected = 0;
                shared.interrupts.raise(vectors, &shared.stats, |vector| connected |= 1 << vector);
                connected
            });
            let result = work();
            log.repeat_accesses();
            result
        });
        self.take_accesses();
        result
    }

    /// Which of these vectors are raised now: all, unless the card does otherwise. What it raises twice is left to the
    /// end of the section, too.
    #[inline(always)]
    fn raised_of(&mut self, vectors: u32) -> u32 {
        let Some(deviations) = self.shared.deviations() else {
            return vectors;
        };
        let (now, twice) = deviations.raised(vectors);
        if twice != 0 {
            deviations.defer(twice);
        }
        now
    }

    /// Adds what the client does to the recording, if there is one.
    pub(crate) fn note(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if let Some(log) = self.shared.replay_log() {
            log.note_access(&mut self.inner.accesses, put);
        }
    }

    /// The engine's recording takes over what the client did.
    #[inline]
    pub(crate) fn take_accesses(&mut self) {
        if !self.inner.accesses.is_empty() {
            self.take_some();
        }
    }

    #[cold]
    #[inline(never)]
    fn take_some(&mut self) {
        if let Some(log) = self.shared.replay_log() {
            log.take_accesses(&mut self.inner.accesses);
        }
    }

    /// A word of the page, of which a replay has to be told.
    fn word(&mut self, offset: usize, wide: bool) -> u64 {
        let of_engine = self.is_of_engine();
        let inner = &mut *self.inner;
        match self.shared.replay_log() {
            None if wide => inner.page.load_u64(offset, Ordering::Relaxed),
            None => inner.page.load_u32(offset, Ordering::Relaxed).into(),
            Some(log) if of_engine => log.word(&inner.page, offset, wide),
            Some(log) => log.word_at_access(&mut inner.accesses, &inner.page, offset, wide),
        }
    }

    /// The tails of all streams.
    fn tails(&mut self) -> [u32; STREAMS] {
        std::array::from_fn(|index| self.word(doorbell::at(index, doorbell::SUBMISSION_TAIL), false) as u32)
    }

    fn driver_words(&mut self) -> DriverWords {
        DriverWords { tails: self.tails(), grant: self.word(doorbell::GRANT, true) }
    }

    #[inline]
    pub(crate) fn page(&self) -> &DoorbellPage {
        &self.inner.page
    }

    /// The memory that the client shares, if the function may master the bus.
    pub(crate) fn memory(&self) -> Option<&GuestMemory> {
        self.inner.bus_master.then_some(&self.inner.memory)
    }

    /// All that the client has mapped, whether it may be accessed now or not.
    pub(crate) fn maps(&self) -> &GuestMemory {
        &self.inner.memory
    }

    /// The way to memory that is mapped but not shared.
    pub(crate) fn client(&self) -> Option<Arc<dyn RemoteMemory>> {
        self.inner.client.clone()
    }

    /// Whether this is the first time for this client.
    pub(crate) fn logs_slow_way(&mut self) -> bool {
        !std::mem::replace(&mut self.inner.slow_way_logged, true)
    }

    /// Raises a vector when the section is over.
    #[inline]
    pub(crate) fn raise(&mut self, vector: u16) {
        self.vectors |= 1 << vector;
    }

    /// Wakes the engine.
    pub(crate) fn wake(&mut self) {
        self.inner.notice |= WOKEN;
        self.shared.wake.notify_one();
    }

    /// Records what a driver did wrong; the first one since FAULT was cleared raises the control vector.
    #[cold]
    #[inline(never)]
    pub(crate) fn fault(&mut self, fault: Fault, detail: u32) {
        let master = self.inner.clocks.master;
        let place = Place { detail: Some(detail), ..Place::default() };
        self.fault_with(fault, detail, Code::Fault(fault), || Details::at(place, master));
    }

    /// The same, with what a card that checks calls it and knows of it.
    #[cold]
    pub(crate) fn fault_with(&mut self, fault: Fault, detail: u32, code: Code, details: impl FnOnce() -> Details) {
        match self.shared.checker() {
            None => log::fault(fault, detail),
            Some(checker) => checker.found(code, details),
        }
        self.record_fault(fault, detail);
    }

    /// Records a mistake that no driver has made.
    #[cold]
    pub(crate) fn pretend_fault(&mut self, fault: Fault, detail: u32) {
        log::fault(fault, detail);
        self.record_fault(fault, detail);
    }

    /// Whether what is told of a stream follows from a fault of the card's.
    #[cold]
    pub(crate) fn excuses(&self, stream: usize) -> bool {
        self.shared.deviations().is_some_and(|deviations| deviations.excuses(stream))
    }

    fn record_fault(&mut self, fault: Fault, detail: u32) {
        self.shared.stats.faults.add(1);
        let record = &mut self.inner.fault;
        record.count = record.count.wrapping_add(1);
        if record.code == 0 {
            record.code = fault as u32;
            record.detail = detail;
            self.raise(CONTROL_VECTOR);
        }
    }

    /// Answers a transition of a stream.
    pub(crate) fn answer(&mut self, index: usize, result: Result<Transitioned, Refusal>) {
        let Some(view) = self.inner.views.get_mut(index) else {
            return;
        };
        view.busy = false;
        view.transitions = view.transitions.wrapping_add(1);
        if let Ok(Transitioned { open, state, time_base }) = result {
            if open
                && !view.open
                && let Some(deviations) = self.shared.deviations()
            {
                deviations.created(index);
            }
            *view = StreamView { open, state, time_base, ..*view };
        }
        let (state, transitions) = (view.state as u32, view.transitions);
        let refusal = result.err().map_or(0, |refusal| refusal.fault as u32);
        card::publish_answer(&self.inner.page, index, state, refusal, transitions);
        self.raise(index as u16);
        if let Err(Refusal { fault, register }) = result {
            let detail = stream::at(index, register).offset;
            match self.excuses(index) {
                false => self.fault(fault, detail),
                true => self.pretend_fault(fault, detail),
            }
        }
    }

    /// Answers the command under way, which had that opcode.
    pub(crate) fn answer_command(&mut self, opcode: u32, answer: Answer) {
        if answer.status >= Status::InvalidRequest as u32 {
            log::command_failed(opcode, answer);
        }
        self.inner.command_busy = false;
        self.inner.commands = self.inner.commands.wrapping_add(1);
        card::publish_command(&self.inner.page, answer, self.inner.commands);
        self.raise(CONTROL_VECTOR);
    }
}
