//! A section of what transport thread and engine share: what each side may do while the lock is held.
//!
//! Fed by the PCI function on the transport's thread and by the engine; feeds each with what the other left.

use super::{
    Clocks, Command, FaultRecord, Inner, Refusal, Request, Requests, Shared, StreamConfig, StreamView, Transitioned,
    WOKEN,
};
use crate::check::{COMPARED, Details, DriverWords, Place, culprit_of_word};
use crate::device::RemoteMemory;
use crate::dma::owners::StoreRecord;
use crate::dma::{DoorbellPage, GuestMemory, Translation, View};
use crate::log;
use dmus_interface::command::{Answer, Status};
use dmus_interface::doorbell;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS};
use dmus_interface::protocol::{Page, card};
use dmus_interface::regs::stream::State;
use dmus_interface::regs::{Fault, stream};
use dmus_interface::ring::Reject;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A section: the lock is held. Vectors that are raised in it are written to once it is over, by the engine.
pub(crate) struct Section<'s> {
    shared: &'s Shared,
    pub(super) inner: MutexGuard<'s, Inner>,
    /// A bit for each vector to raise.
    vectors: u32,
    /// It is the engine's.
    raises: bool,
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.vectors != 0 {
            self.give_vectors();
        }
    }
}

/// What both sides do.
impl<'s> Section<'s> {
    #[inline]
    pub(super) fn new(shared: &'s Shared, raises: bool) -> Self {
        Self { shared, inner: shared.inner.lock(), vectors: 0, raises }
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
        if self.vectors != 0 {
            self.give_vectors();
        }
    }

    /// Raises what is to be raised, or leaves it to the engine.
    #[cold]
    fn give_vectors(&mut self) {
        if self.raises {
            self.unlocked(|| ());
        } else {
            self.inner.vectors |= std::mem::take(&mut self.vectors);
            self.wake();
        }
    }

    /// Leaves the section for a while; says what `work` does. The other side may have changed anything meanwhile.
    #[cold]
    pub(crate) fn unlocked<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let vectors = std::mem::take(&mut self.vectors);
        let shared = self.shared;
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
        let inner = &mut *self.inner;
        match self.shared.replay_log() {
            None if wide => inner.page.load_u64(offset, Ordering::Relaxed),
            None => inner.page.load_u32(offset, Ordering::Relaxed).into(),
            Some(log) if self.raises => log.word(&inner.page, offset, wide),
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
        self.shared.stats.faults.add(1);
        match self.shared.checker() {
            None => log::fault(fault, detail),
            Some(checker) => checker.found(code, details),
        }
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
            *view = StreamView { open, state, time_base, ..*view };
        }
        let (state, transitions) = (view.state as u32, view.transitions);
        let refusal = result.err().map_or(0, |refusal| refusal.fault as u32);
        card::publish_answer(&self.inner.page, index, state, refusal, transitions);
        self.raise(index as u16);
        if let Err(Refusal { fault, register }) = result {
            self.fault(fault, stream::at(index, register).offset);
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

/// What the PCI function does, on the transport's thread.
impl Section<'_> {
    pub(crate) fn views(&self) -> &[StreamView; STREAMS] {
        &self.inner.views
    }

    /// Commands answered so far.
    pub(crate) fn commands(&self) -> u32 {
        self.inner.commands
    }

    pub(crate) fn clocks(&self) -> Clocks {
        self.inner.clocks
    }

    pub(crate) fn fault_record(&self) -> FaultRecord {
        self.inner.fault
    }

    pub(crate) fn clear_fault(&mut self, written: u32) {
        // Here, so that the line comes after those of all faults before it.
        log::fault_cleared(written, &self.shared.stats);
        self.inner.fault = FaultRecord { count: self.inner.fault.count, ..FaultRecord::default() };
    }

    /// Leaves a request for the engine, which answers it once. Refused while the answer to another is due: that is the
    /// only one.
    pub(crate) fn request(&mut self, index: usize, request: Result<Request, Refusal>) {
        match request {
            Ok(request) => {
                self.inner.views[index].busy = true;
                self.inner.requests.streams[index] = Some(request);
                self.inner.requests.any = true;
                self.wake();
            }
            Err(refusal) => self.answer(index, Err(refusal)),
        }
    }

    pub(crate) fn has_command(&self) -> bool {
        self.inner.command_busy
    }

    /// Leaves a command for the engine.
    pub(crate) fn command(&mut self, command: Command) {
        if self.shared.checker().is_some() {
            self.inner.request = match self.shared.replay_log() {
                None => self.copy_request(&command),
                Some(log) => {
                    let mut accesses = std::mem::take(&mut self.inner.accesses);
                    let request = log.request_then(&mut accesses, || self.copy_request(&command));
                    self.inner.accesses = accesses;
                    request
                }
            };
        }
        self.inner.command_busy = true;
        self.inner.requests.command = Some(command);
        self.inner.requests.any = true;
        self.wake();
    }

    /// WAKE was written. A driver that has not seen an answer since the reset may have seen the page from before it.
    pub(crate) fn ring(&mut self) {
        self.wake();
        let Some(checker) = self.shared.checker() else {
            return;
        };
        let inner = &mut *self.inner;
        if inner.views.iter().any(|view| view.transitions > 0) {
            inner.rings.rung(checker, inner.clocks.master);
        } else {
            inner.rings.over();
        }
    }

    /// The page was stored to by a message, which wakes the engine, too.
    pub(crate) fn ring_by_page(&mut self) {
        self.wake();
        self.inner.rings.over();
    }

    /// A register is read: a card that checks looks what the driver has not rung for.
    pub(crate) fn show_read(&mut self) {
        if self.shared.checker().is_none() {
            return;
        }
        if !self.inner.rings.is_asleep() {
            return;
        }
        let words = self.driver_words();
        let Inner { rings, views, .. } = &mut *self.inner;
        rings.read(&words, |index| views.get(index).is_some_and(|view| view.open));
    }

    /// The beginning of a request, if the client shares its memory: nobody may wait for a message here.
    fn copy_request(&self, command: &Command) -> Vec<u8> {
        let mut copy = vec![0; COMPARED.min(command.request_size as usize)];
        let read = self.memory().is_some_and(|memory| {
            memory.covers(command.request, copy.len() as u64, false) && memory.read(command.request, &mut copy).is_ok()
        });
        if read { copy } else { Vec::new() }
    }

    pub(crate) fn offer_memory(&mut self, client: Arc<dyn RemoteMemory>) {
        self.inner.client = Some(client);
    }

    pub(crate) fn maps_mut(&mut self) -> &mut GuestMemory {
        &mut self.inner.memory
    }

    pub(crate) fn is_bus_master(&self) -> bool {
        self.inner.bus_master
    }

    pub(crate) fn set_bus_master(&mut self, bus_master: bool) {
        if self.inner.bus_master != bus_master {
            self.inner.bus_master = bus_master;
            self.check_bus_master(bus_master);
            // What was translated under the other rule is void.
            self.inner.memory.renew();
        }
    }

    /// Bus mastering was turned off, and perhaps a reset comes next: it was wrong once it is turned on again without
    /// one.
    fn check_bus_master(&mut self, bus_master: bool) {
        let Some(checker) = self.shared.checker() else {
            return;
        };
        let inner = &mut *self.inner;
        let mut views = inner.views.iter().enumerate();
        if !bus_master {
            let plays = views.find(|(_, view)| view.open && view.state != State::Stop);
            inner.master_off = plays.map(|(index, view)| (index, view.state));
        } else if let Some((index, state)) = inner.master_off.take() {
            let place = Place { stream: Some(index), ..Place::default() };
            checker.found(Code::Check(Check::MasterOffInFlight), || Details {
                found: Some(format!("the stream in {state:?}")),
                ..Details::at(place, inner.clocks.master)
            });
        }
    }

    /// The driver resets the card, as [`Self::reset`] does.
    pub(crate) fn reset_by_driver(&mut self) {
        let inner = &mut *self.inner;
        if let Some(checker) = self.shared.checker() {
            inner.rings.reset(checker, inner.clocks.master);
        }
        self.reset();
    }

    /// Forgets everything but maps and vectors.
    pub(crate) fn reset(&mut self) {
        self.inner.epoch += 1;
        let tails = self.tails();
        self.inner.clear(tails);
        if let Some(owners) = self.shared.owners() {
            owners.clear_all();
        }
        self.shared.void.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// The client has gone, and its memory with it.
    pub(crate) fn disconnect(&mut self) {
        self.inner.memory.clear();
        self.inner.client = None;
        self.inner.slow_way_logged = false;
        if let Some(checker) = self.shared.checker() {
            checker.next_client();
        }
    }

    /// The next client has this page, and everything begins anew with it; gives the one that was there.
    pub(crate) fn change_page(&mut self, page: DoorbellPage) -> DoorbellPage {
        let old = std::mem::replace(&mut self.inner.page, page);
        self.reset();
        old
    }
}

/// The guest's last store to a word of the doorbell page, if a plugin watches, or did in a replay.
fn last_store(shared: &Shared, word: usize) -> Option<StoreRecord> {
    culprit_of_word(shared.owners().map(|owners| &**owners), shared.replay_log().map(|log| &**log), word)
}

/// What the engine does.
impl<'s> Section<'s> {
    pub(crate) fn is_ending(&self) -> bool {
        self.inner.shutdown
    }

    /// The engine has seen all resets so far: what it does from now on counts again.
    pub(crate) fn take_up(&self) {
        self.shared.void.store(self.inner.shutdown, Ordering::Relaxed);
    }

    /// The guest's last store to a word of the page, if a plugin watches.
    pub(crate) fn last_store(&self, word: usize) -> Option<StoreRecord> {
        last_store(self.shared, word)
    }

    /// A grant was stored that lies before one that was stored already.
    #[cold]
    pub(crate) fn grant_backward(&mut self) {
        let (shared, master) = (self.shared, self.inner.clocks.master);
        let place = Place { detail: Some(0), ..Place::default() };
        self.fault_with(Fault::GrantBackward, 0, Code::Fault(Fault::GrantBackward), || Details {
            culprit: last_store(shared, doorbell::GRANT),
            ..Details::at(place, master)
        });
    }

    /// A tail was stored for a stream that is not open.
    #[cold]
    pub(crate) fn closed_tail(&mut self, index: usize, tail: u32) {
        let before = self.inner.tails_before.get(index).copied().unwrap_or(0);
        let goes_on = before > 0 && (1..=stream::MAX_RING).contains(&tail.wrapping_sub(before));
        let code = if goes_on { Code::Check(Check::UseAfterReset) } else { Code::Fault(Fault::ClosedStream) };
        let detail = (index as u32) << 16 | tail & 0xFFFF;
        let place = Place { stream: Some(index), detail: Some(detail), ..Place::default() };
        let master = self.inner.clocks.master;
        let found = goes_on.then(|| format!("tail {tail}, which was {before} at the last reset"));
        let shared = self.shared;
        self.fault_with(Fault::ClosedStream, detail, code, || Details {
            found,
            culprit: last_store(shared, doorbell::at(index, doorbell::SUBMISSION_TAIL)),
            ..Details::at(place, master)
        });
    }

    /// Whether a turn has to take notice of anything but the page.
    #[inline]
    pub(crate) fn has_notice(&self) -> bool {
        self.inner.notice != 0
    }

    /// Whether the engine was woken since it last asked. If so, it takes over the vectors that were left to it.
    pub(crate) fn take_wake(&mut self) -> bool {
        let woken = self.inner.notice & WOKEN != 0;
        self.inner.notice &= !WOKEN;
        if woken {
            self.vectors |= std::mem::take(&mut self.inner.vectors);
        }
        woken
    }

    /// A sleep was armed.
    pub(crate) fn show_armed(&mut self) {
        if let Some(log) = self.shared.replay_log() {
            log.note_sleep(true);
        }
        if self.shared.checker().is_some() {
            let words = self.driver_words();
            self.inner.rings.armed(words);
        }
    }

    /// The armed sleep is over.
    pub(crate) fn show_awake(&mut self) {
        if let Some(log) = self.shared.replay_log() {
            log.note_sleep(false);
        }
        self.inner.rings.over();
    }

    /// Sleeps until woken, or for `limit`. What is to be raised is raised before.
    pub(crate) fn sleep(&mut self, limit: Option<Duration>) {
        self.raise_now();
        let wake = &self.shared.wake;
        match limit {
            Some(limit) => {
                wake.wait_while_for(&mut self.inner, |inner| inner.notice & WOKEN == 0, limit);
            }
            None => wake.wait_while(&mut self.inner, |inner| inner.notice & WOKEN == 0),
        }
        self.take_accesses();
    }

    /// Takes what has been asked since the last time.
    #[inline(always)]
    pub(crate) fn take_requests(&mut self, requests: &mut Requests) {
        if self.inner.requests.any {
            requests.append(&mut self.inner.requests);
        }
    }

    /// The parts of a stream, where all of them are shared and in one piece.
    #[inline(always)]
    pub(crate) fn view(&self, index: usize) -> Option<View<'_>> {
        self.inner.memory.view(self.inner.translations.get(index)?)
    }

    /// Translates the parts of a stream anew if the maps have changed since; says whether they had.
    #[inline(always)]
    pub(crate) fn renew(&mut self, index: usize, config: &StreamConfig) -> bool {
        let stale = self.inner.translations.get(index).is_some_and(|known| self.inner.memory.is_stale(known));
        if stale {
            self.translate(index, config);
        }
        stale
    }

    #[cold]
    fn translate(&mut self, index: usize, config: &StreamConfig) {
        let translation = self.inner.memory.translate(&config.layout(), self.inner.bus_master);
        if let Some(known) = self.inner.translations.get_mut(index) {
            *known = translation;
        }
    }

    /// Counts and tells of a submission that was refused.
    #[cold]
    pub(crate) fn rejected(
        &mut self,
        index: usize,
        slot: u32,
        reason: Reject,
        code: Code,
        details: impl FnOnce() -> Details,
    ) {
        match self.shared.checker() {
            None => log::rejected(index, slot, reason),
            Some(checker) => checker.found(code, details),
        }
    }

    /// Zeroes the words of a stream that is created or closed, and forgets where its parts were: one that was here
    /// before may have left some.
    pub(crate) fn clear_stream(&mut self, index: usize) {
        if let Some(known) = self.inner.translations.get_mut(index) {
            *known = Translation::STALE;
        }
        for word in [doorbell::SUBMISSION_TAIL, doorbell::COMPLETION_EVENT, doorbell::COMPLETION_HEAD] {
            self.inner.page.store_u32(doorbell::at(index, word), 0, Ordering::Relaxed);
        }
        if let Some(log) = self.shared.replay_log() {
            log.forget_tail(index);
        }
    }

    pub(crate) fn publish_clocks(&mut self, clocks: Clocks, latency: RefTime) {
        self.inner.clocks = clocks;
        card::publish_clocks(&self.inner.page, clocks.samples, latency, clocks.master);
    }

    /// The tail of a stream that is not open; `told` is the one that was told of last.
    pub(crate) fn closed_tail_word(&self, index: usize, told: u32) -> u32 {
        match self.shared.replay_log() {
            None => self.page().load_u32(doorbell::at(index, doorbell::SUBMISSION_TAIL), Ordering::Relaxed),
            Some(log) => log.closed_tail(self.page(), index, told),
        }
    }

    /// What was copied of the request of the command under way.
    pub(crate) fn take_request(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inner.request)
    }

    /// Tells that so many unloads that were pending are carried out.
    pub(crate) fn announce_unloads(&mut self, unloads: u32) {
        self.inner.unloads = self.inner.unloads.wrapping_add(unloads);
        self.inner.page.store_u32(doorbell::UNLOADS, self.inner.unloads, Ordering::Release);
        self.raise(CONTROL_VECTOR);
    }
}
