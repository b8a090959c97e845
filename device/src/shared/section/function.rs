//! What the PCI function does in a section, on the transport's thread.
//!
//! Fed by the client's accesses; feeds the engine with requests, and the checker with what a driver has rung for.

use super::Section;
use crate::check::{COMPARED, Details, Place};
use crate::device::RemoteMemory;
use crate::dma::{DoorbellPage, GuestMemory};
use crate::log;
use crate::shared::{Clocks, Command, FaultRecord, Inner, Refusal, Request, StreamView};
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::State;
use dmus_interface::rule::{Check, Code};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Section<'_> {
    pub(crate) fn views(&self) -> &[StreamView; STREAMS] {
        &self.inner.views
    }

    /// A register is accessed: whether the card is gone, by a plan of faults.
    pub(crate) fn is_removed_by_access(&self) -> bool {
        self.shared.deviations().is_some_and(|deviations| deviations.removed_by_access())
    }

    /// Whether the card is gone.
    pub(crate) fn is_removed(&self) -> bool {
        self.shared.deviations().is_some_and(|deviations| deviations.is_removed())
    }

    /// Whether the card has reset itself since this was last asked.
    pub(crate) fn take_own_reset(&mut self) -> bool {
        std::mem::take(&mut self.inner.own_reset)
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
        if let Some(deviations) = self.shared.deviations() {
            deviations.come_back();
        }
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
