//! What the engine does in a section.
//!
//! Fed by the engine's turns; feeds the guest with the words of the doorbell page, and FAULT.

use super::Section;
use crate::check::{Details, Place, culprit_of_word};
use crate::dma::owners::StoreRecord;
use crate::dma::{Translation, View};
use crate::log;
use crate::shared::{Clocks, Requests, Shared, StreamConfig, WOKEN};
use dmus_interface::doorbell;
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::protocol::{Page, card};
use dmus_interface::regs::{Fault, stream};
use dmus_interface::ring::Reject;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
        if self.excuses(index) {
            return self.pretend_fault(Fault::ClosedStream, detail);
        }
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

    /// Resets the card if it has the fault of doing so by itself; the PCI function follows at its next access.
    #[cold]
    pub(crate) fn reset_if_due(&mut self) {
        if self.shared.deviations().is_some_and(|deviations| deviations.takes_reset()) {
            self.shared.stats.resets.add(1);
            self.reset();
            self.inner.own_reset = true;
        }
    }

    /// Has the vectors raised that a card that takes liberties has put off.
    pub(crate) fn raise_deferred(&mut self) {
        if let Some(deviations) = self.shared.deviations() {
            self.vectors |= deviations.take_deferred();
        }
    }

    /// Sleeps until woken, or for `limit`. What is to be raised is raised before.
    pub(crate) fn sleep(&mut self, limit: Option<Duration>) {
        self.raise_deferred();
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

    /// Takes what has been asked since the last time, which has woken the engine.
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

/// The guest's last store to a word of the doorbell page, if a plugin watches, or did in a replay.
fn last_store(shared: &Shared, word: usize) -> Option<StoreRecord> {
    culprit_of_word(shared.owners().map(|owners| &**owners), shared.replay_log(), word)
}
