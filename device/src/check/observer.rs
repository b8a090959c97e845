//! What the checker sees of a stream: after each fetch the entries of the submission ring, and before slots go home
//! their memory, which is compared with what the card holds of them.
//!
//! Fed by the stream's queues; feeds the [`Checker`]. A stream that is not checked has no observer, and none of this on
//! its path. What it costs an event, some thirty instructions, is a gate of `bench ring` ("checked").

mod posted;

use super::Checker;
use super::culprit::Culprit;
use super::describe::{Details, Place, Seen, Step, hex};
use super::journal::Journal;
use super::report::seconds;
use crate::dma::owners::Owners;
use crate::dma::{GuestMemory, SlotWords, StreamMemory};
use crate::replay_log::ReplayLog;
use crate::shared::StreamConfig;
use crate::stream::in_flight::{Carried, InFlight};
use dmus_interface::event::{PACKAGE, PointerWidth};
use dmus_interface::regs::stream::Type;
use dmus_interface::ring::Status;
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

/// No event has this first word.
const NO_HEADER: u64 = u64::MAX;

/// Tells the plugin of what goes home.
#[cold]
#[inline(never)]
fn give_back(culprit: &Culprit, entries: &[[u64; 2]], in_flight: &InFlight) {
    for (slot, carried) in entries.iter().flat_map(|[word, _]| in_flight.chain(*word as u32)) {
        culprit.give_back(slot, carried.has_buffer().then(|| in_flight.copied(&carried).0));
    }
}

/// See the module.
pub(crate) struct Observer {
    checker: Arc<Checker>,
    stream: usize,
    config: StreamConfig,
    /// Late completions are the driver's doing: time moves by its grants alone.
    is_virtual: bool,
    /// Master time.
    time: RefTime,
    journal: Journal,
    /// What an event whose data is in it, and one whose data is in a buffer, has as first word if it is like the last
    /// one that was found in order: of the next one only the data is looked at, of which these bits are 0.
    short: Cell<u64>,
    long: Cell<u64>,
    zeros: Cell<u64>,
    /// The words of slots that are more than one message by itself, or posted, as they were fetched.
    words: RefCell<Box<[SlotWords]>>,
    /// Among the completions that wait, those of submissions that were completed as they were fetched: of these the
    /// card holds nothing to compare with.
    fresh: Range<usize>,
    /// Of a guest that a plugin watches.
    culprit: Option<Culprit>,
    /// What posted buffers are filled with, and which of them are, by their slots.
    canary: Box<[u8]>,
    guarded: Box<[Cell<bool>]>,
    /// Slots that were found changed while they were held, for a guest that is held at mistakes: they are not told of
    /// again when they go home.
    told: Box<[Cell<bool>]>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Observer {
    pub(crate) fn new(checker: Arc<Checker>, stream: usize, config: StreamConfig, is_virtual: bool) -> Self {
        let renders = config.kind == Type::Render;
        let posted = if renders { 0 } else { config.slots };
        let nothing = SlotWords { header: 0, time: 0, pointer: 0, data: 0 };
        Self {
            checker,
            stream,
            config,
            is_virtual,
            time: RefTime::ZERO,
            journal: Journal::new(),
            short: Cell::new(NO_HEADER),
            long: Cell::new(NO_HEADER),
            zeros: Cell::new(0),
            words: RefCell::new(vec![nothing; config.slots as usize].into()),
            fresh: 0..0,
            culprit: None,
            canary: if renders { Box::default() } else { (0..config.buffer_size).map(posted::canary).collect() },
            guarded: (0..posted).map(|_| Cell::new(false)).collect(),
            told: (0..config.slots).map(|_| Cell::new(false)).collect(),
        }
    }

    /// Tells this map from now on what the card owns, and asks it, or the log of a replay, whose doing a mistake is.
    pub(crate) fn set_owners(
        &mut self,
        owners: Option<Arc<Owners>>,
        log: Option<Arc<ReplayLog>>,
        memory: &GuestMemory,
    ) {
        self.culprit = Some(Culprit::new(owners, log, memory, &self.config));
    }

    /// Time has moved.
    pub(crate) fn follow(&mut self, master: RefTime) {
        self.time = master;
    }

    /// So many entries were fetched, which added the `fresh` ones to the completions that wait.
    pub(crate) fn fetched(
        &mut self,
        memory: &mut (impl StreamMemory + ?Sized),
        (first, count): (u32, u32),
        tail: u32,
        fresh: Range<u32>,
        in_flight: &InFlight,
    ) {
        self.journal.fetched((first, count), self.time, tail, |first, entries| memory.consume(first, entries));
        if let Some(culprit) = &self.culprit {
            self.take(culprit, (first, count), in_flight);
        }
        if !fresh.is_empty() {
            let start = if self.fresh.is_empty() { fresh.start as usize } else { self.fresh.start };
            self.fresh = start..fresh.end as usize;
        }
    }

    /// What is known of a mistake of this stream. `detail` is FAULT_DETAIL.
    pub(crate) fn details(&self, slot: Option<u32>, detail: Option<u32>) -> Details {
        let slot = slot.filter(|slot| *slot < self.config.slots);
        let place = Place { stream: Some(self.stream), slot, detail, ..Place::default() };
        Details {
            // What is wrong with a submission was published by the last store of the tail, or by one before it.
            culprit: self.culprit.as_ref().and_then(|culprit| culprit.of_tail(self.stream)),
            history: slot.map(|slot| self.history(slot)).unwrap_or_default(),
            ..Details::at(place, self.time)
        }
    }

    /// The same, with the event as it is in a slot now.
    pub(crate) fn details_of(
        &self,
        memory: &mut (impl StreamMemory + ?Sized),
        slot: u32,
        detail: Option<u32>,
    ) -> Details {
        let words = memory.slot_again(slot);
        Details { event: words.map(|words| self.seen(&words, &[])), ..self.details(Some(slot), detail) }
    }

    /// The last steps of a slot, oldest first.
    pub(crate) fn history(&self, slot: u32) -> Vec<Step> {
        if slot < self.config.slots { self.journal.history(slot) } else { Vec::new() }
    }

    /// Whether this mistake would be the first of its kind.
    pub(crate) fn is_news(&self, code: Code) -> bool {
        self.checker.is_news(code)
    }

    fn seen(&self, words: &SlotWords, data: &[u8]) -> Seen {
        Seen::new(words, self.config.width, data)
    }

    fn noted(&self, slot: u32) -> Option<SlotWords> {
        self.words.borrow().get(slot as usize).copied()
    }

    /// A slot was fetched that is not one message by itself, or posted.
    pub(crate) fn note(&self, slot: u32, words: &SlotWords) {
        if let Some(place) = self.words.borrow_mut().get_mut(slot as usize) {
            *place = *words;
        }
    }

    /// What is about to be completed goes home once this is published: here the card looks at it again.
    #[inline(always)]
    pub(crate) fn completing(
        &mut self,
        memory: &mut (impl StreamMemory + ?Sized),
        entries: &[[u64; 2]],
        in_flight: &InFlight,
        tail: u32,
    ) {
        if self.fresh.is_empty() {
            self.look_again(memory, entries, in_flight);
        } else {
            self.look_at_fresh(memory, entries, in_flight);
        }
        if let Some(culprit) = &self.culprit {
            give_back(culprit, entries, in_flight);
        }
        self.journal.completed(entries, self.time, tail);
    }

    /// Tells the plugin of what was fetched and is held.
    #[cold]
    #[inline(never)]
    fn take(&self, culprit: &Culprit, (first, count): (u32, u32), in_flight: &InFlight) {
        let entries = (0..count).map(|number| self.journal.entry(first.wrapping_add(number)));
        for head in entries.filter(|head| in_flight.is_owned(*head)) {
            for (slot, carried) in in_flight.chain(head) {
                if let Some(told) = self.told.get(slot as usize) {
                    told.set(false);
                }
                culprit.take(slot, carried.has_buffer().then(|| in_flight.copied(&carried).0));
            }
        }
    }

    /// The same, with some among them that were never held.
    #[inline(never)]
    fn look_at_fresh(&mut self, memory: &mut (impl StreamMemory + ?Sized), entries: &[[u64; 2]], in_flight: &InFlight) {
        let fresh = std::mem::take(&mut self.fresh);
        for held in [entries.get(..fresh.start), entries.get(fresh.end..)].into_iter().flatten() {
            self.look_again(memory, held, in_flight);
        }
        for [word, _] in entries.get(fresh).unwrap_or(&[]) {
            let (slot, status) = (*word as u32, (*word >> 32) as u16);
            self.check_late(memory, slot, status);
            match memory.slot_again(slot) {
                Some(now) if status != Status::Rejected as u16 && !self.is_known(&now) => self.judge(slot, &now),
                _ => {}
            }
        }
    }

    /// Whether its first word is one that was found in order, and its data is zeroed as it should be.
    fn is_known(&self, words: &SlotWords) -> bool {
        words.header == self.short.get() && words.data & self.zeros.get() == 0 || words.header == self.long.get()
    }

    /// Looks at the slots of submissions that were held.
    #[inline(always)]
    fn look_again(&self, memory: &mut (impl StreamMemory + ?Sized), mut entries: &[[u64; 2]], in_flight: &InFlight) {
        loop {
            let same = self.count_same(memory, entries, in_flight);
            let Some((entry, rest)) = entries.get(same..).and_then(<[_]>::split_first) else {
                return;
            };
            self.look_at_buffer(memory, *entry, in_flight);
            entries = rest;
        }
    }

    /// How many of these, from the first on, are messages by themselves with their data in them, and as they were. By
    /// itself, without a call in it, it has registers enough.
    #[inline(never)]
    fn count_same(
        &self,
        memory: &mut (impl StreamMemory + ?Sized),
        entries: &[[u64; 2]],
        in_flight: &InFlight,
    ) -> usize {
        let (short, zeros) = (self.short.get(), self.zeros.get());
        let mut is_same = |[word, time]: &[u64; 2]| {
            let slot = *word as u32;
            in_flight.carried(slot).is_some_and(|carried| {
                carried.header == short
                    && memory.slot_again(slot).is_some_and(|now| {
                        let changed =
                            (now.header ^ short) | (now.time ^ time) | now.pointer | (now.data ^ carried.data);
                        changed | now.data & zeros == 0
                    })
            })
        };
        entries.iter().position(|entry| !is_same(entry)).unwrap_or(entries.len())
    }

    /// The same, of what is not a message by itself with its data in it, or not as it was.
    #[inline(never)]
    fn look_at_buffer(&self, memory: &mut (impl StreamMemory + ?Sized), entry: [u64; 2], in_flight: &InFlight) {
        let [word, time] = entry;
        let slot = word as u32;
        if let Some(carried) = in_flight.carried(slot)
            && carried.header == self.long.get()
            && let Some(now) = memory.slot_again(slot)
        {
            let (offset, copy) = in_flight.copied(&carried);
            let data = self.config.buffer_base + offset as u64;
            if (now.header ^ carried.header) | (now.time ^ time) | now.pointer | (now.data ^ data) == 0
                && memory.is_same(offset, copy) == Some(true)
            {
                return;
            }
        }
        self.look_closer(memory, entry, in_flight);
    }

    /// The same, of any submission, and of one that is not as it was.
    #[inline(never)]
    fn look_closer(&self, memory: &mut (impl StreamMemory + ?Sized), [word, time]: [u64; 2], in_flight: &InFlight) {
        let (head, status) = (word as u32, (word >> 32) as u16);
        if status == Status::Rejected as u16 || status == Status::Copied as u16 {
            // It was never held.
            return;
        }
        self.check_late(memory, head, status);
        if !self.guarded.is_empty() {
            // The card has filled it.
            return;
        }
        for (slot, carried) in in_flight.chain(head) {
            let Some(now) = memory.slot_again(slot) else {
                return self.unmapped(slot);
            };
            let fetched = self.fetched_words(slot, &carried, status, time, &now, in_flight);
            if !self.is_known(&fetched) {
                self.judge(slot, &fetched);
            }
            let told = self.told.get(slot as usize).is_some_and(|told| told.replace(false));
            if !told {
                self.compare(memory, slot, (&fetched, &now), &carried, in_flight);
            }
        }
    }

    /// The words of an event as it was fetched.
    fn fetched_words(
        &self,
        slot: u32,
        carried: &Carried,
        status: u16,
        time: u64,
        now: &SlotWords,
        in_flight: &InFlight,
    ) -> SlotWords {
        match carried.is_single() {
            true => self.single(carried, status, time, now, in_flight),
            false => self.noted(slot).unwrap_or(*now),
        }
    }

    /// Whether a slot, or the buffer of its event, is another than it was, which is told.
    fn compare(
        &self,
        memory: &mut (impl StreamMemory + ?Sized),
        slot: u32,
        (fetched, now): (&SlotWords, &SlotWords),
        carried: &Carried,
        in_flight: &InFlight,
    ) -> bool {
        if now != fetched {
            self.changed(slot, fetched, now);
            return true;
        }
        let (offset, copy) = if carried.has_buffer() { in_flight.copied(carried) } else { return false };
        let changed = memory.is_same(offset, copy) != Some(true);
        if changed {
            self.buffer_changed(memory, slot, offset, copy);
        }
        changed
    }

    /// Compares a submission that is held, due at this stream time, with what it was: the guest has just stored there.
    pub(crate) fn look_at_held(
        &self,
        memory: &mut (impl StreamMemory + ?Sized),
        head: u32,
        time: i64,
        in_flight: &InFlight,
    ) {
        for (slot, carried) in in_flight.chain(head) {
            let (Some(now), Some(told)) = (memory.slot_again(slot), self.told.get(slot as usize)) else {
                return;
            };
            let fetched = self.fetched_words(slot, &carried, Status::Presented as u16, time as u64, &now, in_flight);
            if !told.get() && self.compare(memory, slot, (&fetched, &now), &carried, in_flight) {
                told.set(true);
            }
        }
    }

    /// In virtual time only the driver can make an event late.
    fn check_late(&self, memory: &mut (impl StreamMemory + ?Sized), head: u32, status: u16) {
        if status == Status::Late as u16 && self.is_virtual {
            self.checker.found(Code::Check(Check::GrantBroken), || Details {
                expected: Some("submitted before the grant that covers its time".into()),
                found: Some(format!("submitted when time was granted to {} already", seconds(self.time))),
                ..self.details_of(memory, head, None)
            });
        }
    }

    /// The words of an event by itself, as it was fetched. Its time is in the completion, unless that says something
    /// else there.
    fn single(&self, carried: &Carried, status: u16, time: u64, now: &SlotWords, in_flight: &InFlight) -> SlotWords {
        let at_once = (now.time as i64) < 0;
        let told = status == Status::Presented as u16 && !at_once;
        let data = match carried.has_buffer() {
            true => self.config.buffer_base + in_flight.copied(carried).0 as u64,
            false => carried.data,
        };
        let (pointer, data) = match self.config.width {
            PointerWidth::Eight => (0, data),
            // What follows is none of the event.
            PointerWidth::Four => (data << 32, now.data),
        };
        SlotWords { header: carried.header, time: if told { time } else { now.time }, pointer, data }
    }

    #[cold]
    #[inline(never)]
    fn buffer_changed(&self, memory: &mut (impl StreamMemory + ?Sized), slot: u32, offset: usize, copied: &[u8]) {
        let mut now = vec![0; copied.len()];
        if memory.copy_again(offset, &mut now).is_none() {
            return self.unmapped(slot);
        }
        let differs = copied.iter().zip(&now).position(|(a, b)| a != b).unwrap_or(0);
        let from = differs.saturating_sub(8);
        let show = |bytes: &[u8]| format!("from byte {from} on: {}", hex(&bytes[from..bytes.len().min(from + 32)]));
        self.checker.found(Code::Check(Check::BufferChanged), || Details {
            culprit: self.culprit.as_ref().and_then(|culprit| culprit.of_memory(slot, Some(offset))),
            expected: Some(show(copied)),
            found: Some(show(&now)),
            ..self.with_buffer(memory, slot, offset, copied)
        });
    }

    fn with_buffer(&self, memory: &mut (impl StreamMemory + ?Sized), slot: u32, offset: usize, data: &[u8]) -> Details {
        let mut details = self.details(Some(slot), None);
        details.place.buffer = Some(offset);
        details.event = memory.slot_again(slot).map(|words| self.seen(&words, data));
        details
    }

    #[cold]
    #[inline(never)]
    fn changed(&self, slot: u32, fetched: &SlotWords, now: &SlotWords) {
        let names = ["header", "ullPresTime100ns", "pointers", "uData"];
        let words = |words: &SlotWords| [words.header, words.time, words.pointer, words.data];
        let (expected, found): (Vec<_>, Vec<_>) = names
            .iter()
            .zip(words(fetched).iter().zip(words(now)))
            .filter(|(_, (fetched, now))| **fetched != *now)
            .map(|(name, (fetched, now))| (format!("{name} {fetched:#018x}"), format!("{name} {now:#018x}")))
            .unzip();
        self.checker.found(Code::Check(Check::SlotChanged), || Details {
            event: Some(self.seen(fetched, &[])),
            culprit: self.culprit.as_ref().and_then(|culprit| culprit.of_memory(slot, None)),
            expected: Some(expected.join(", ")),
            found: Some(found.join(", ")),
            ..self.details(Some(slot), None)
        });
    }

    #[cold]
    #[inline(never)]
    fn unmapped(&self, slot: u32) {
        self.checker.found(Code::Check(Check::UnmappedInFlight), || self.details(Some(slot), None));
    }

    /// Whether guest memory has gone back to what it was: the last completion that the card has written, before
    /// `published` were, is not there any more.
    pub(crate) fn went_back(&self, memory: &mut (impl StreamMemory + ?Sized), published: u32) -> bool {
        let now = memory.completion(published.wrapping_sub(1));
        self.journal.last_completion().zip(now).is_some_and(|(written, now)| written != now)
    }

    /// What no rule refuses may be wrong all the same.
    #[cold]
    #[inline(never)]
    fn judge(&self, slot: u32, words: &SlotWords) {
        let width = self.config.width;
        let event = words.event(width);
        let len = usize::from(event.event_bytes);
        let mistake = |check, found| {
            self.checker.found(Code::Check(check), || Details {
                event: Some(self.seen(words, &[])),
                found,
                ..self.details(Some(slot), None)
            });
        };
        let reserved = words.header & 0xFF;
        if reserved != 0 {
            mistake(Check::ReservedSet, Some(format!("bReserved {reserved:#04x}")));
        }
        if len == 0 || event.flags & PACKAGE != 0 {
            return;
        }
        let inline = len <= width.bytes();
        let zeros = if inline { u64::MAX.checked_shl(8 * len as u32).unwrap_or(0) } else { 0 };
        let zeros = if width == PointerWidth::Four { zeros & 0xFFFF_FFFF } else { zeros };
        if words.data(width) & zeros != 0 {
            mistake(Check::NotZeroed, Some(format!("uData {:#018x}", words.data(width))));
        } else if reserved == 0 && event.flags == 0 && width == PointerWidth::Eight {
            if inline {
                self.short.set(words.header);
                self.zeros.set(zeros);
            } else {
                self.long.set(words.header);
            }
        }
    }
}
