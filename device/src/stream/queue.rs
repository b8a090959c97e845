//! The queues of a stream: the submission ring and the completion ring, with their indices, entries and publication.
//!
//! Fed by the engine with the tails that it polls, and by the stream with completions; feeds the stream with slot
//! numbers, and the driver with completions, faults and interrupts. Nothing else moves an index of a ring.

mod deviating;

use super::in_flight::InFlight;
use super::reach::{StreamWork, Work, access};
use crate::check::{Details, Observer};
use crate::dma::StreamMemory;
use crate::replay_log::{Place, ReplayLog};
use crate::shared::{Section, StreamConfig};
use dmus_interface::protocol::card::{self, Poll};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{CONSUMED, Completion, Reject, Status};
use dmus_interface::rule::{Check, Code};
use dmus_interface::time::RefTime;
use std::time::Instant;

/// Submissions that one section fetches at most: the transport thread may wait for that long.
pub(crate) const SECTION: u32 = 128;

/// The submission ring. Indices are free-running.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub(super) fetched: u32,
    /// The tail up to which to fetch, as it was last polled.
    tail: u32,
    /// How far the tail may be ahead: the entries of the ring, and 0 once the stream stands still.
    room: u32,
}

impl SubmissionQueue {
    /// The index of the next entry, which is fetched now.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = self.fetched;
        (index != self.tail).then(|| {
            self.fetched = index.wrapping_add(1);
            index
        })
    }

    /// Submissions that were fetched so far.
    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    pub(crate) fn fetched(&self) -> u32 {
        self.fetched
    }

    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        self.tail.wrapping_sub(self.fetched)
    }
}

/// The completion ring: what waits to be published, and how many have been.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    waiting: Vec<[u64; 2]>,
    published: u32,
    /// An entry could not be written: from there on nothing can be.
    lost: bool,
}

impl CompletionQueue {
    /// How many wait to be published.
    #[inline(always)]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.len() as u32
    }

    #[inline(always)]
    pub(crate) fn complete(&mut self, head: u32, status: Status, flags: u16, time: RefTime) {
        self.waiting.push(Completion::words(head, status, flags, time.0));
    }

    /// So many are published; says how many were before, and are now.
    #[inline(always)]
    fn advance(&mut self, count: u32) -> (u32, u32) {
        let old = self.published;
        self.published = old.wrapping_add(count);
        (old, self.published)
    }

    /// Completions published so far.
    pub(crate) fn published(&self) -> u32 {
        self.published
    }

    /// Writes what waits into the ring; `None` if the ring cannot be written.
    #[inline(always)]
    pub(super) fn write(&self, memory: &mut impl StreamMemory) -> Option<()> {
        memory.complete(self.published, &self.waiting)
    }
}

/// What a section tells the driver and the log besides completions.
#[derive(Clone, Copy, Debug)]
enum Notice {
    Fault(Fault, u32),
    /// A ring entry that is no slot, because the card has stored over it.
    Stale(u32),
    /// A submission, why, and the slot of it that was wrong; whether that is another submission's.
    Rejected {
        head: u32,
        reason: Reject,
        at: u32,
        stolen: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queues {
    /// The number of the stream.
    pub(crate) stream: usize,
    /// The same, for whoever goes the way that no checker watches; no stream's if one does.
    pub(super) unwatched: usize,
    /// The same, for whoever goes the way of a card that neither records nor replays, nor does otherwise than usually.
    pub(super) usual: usize,
    pub(crate) config: StreamConfig,
    pub(crate) submissions: SubmissionQueue,
    pub(crate) completions: CompletionQueue,
    notices: Vec<Notice>,
    /// Of a card that checks.
    pub(crate) observer: Option<Box<Observer>>,
    /// Since when a part is away, while the client may be moving it.
    pub(super) away: Option<Instant>,
    /// Of a card that takes liberties: what is completed may be kept until the next turn.
    pub(super) may_keep: bool,
    /// Of a card that has faults: completions that wait a second time.
    looked_at: usize,
}

impl Queues {
    /// Of a card that records or replays, or does otherwise than usually, its memory is reached `elsewhere`.
    pub(crate) fn new(stream: usize, config: StreamConfig, observer: Option<Box<Observer>>, elsewhere: bool) -> Self {
        let unless = |is: bool| if is { usize::MAX } else { stream };
        Self {
            stream,
            unwatched: unless(elsewhere || observer.is_some()),
            usual: unless(elsewhere),
            config,
            submissions: SubmissionQueue { fetched: 0, tail: 0, room: config.submission_entries },
            completions: CompletionQueue {
                waiting: Vec::with_capacity(config.slots as usize + SECTION as usize),
                published: 0,
                lost: false,
            },
            notices: Vec::new(),
            observer,
            away: None,
            may_keep: false,
            looked_at: 0,
        }
    }

    /// Takes the tail from the page; says whether there is something to fetch, or to tell of it.
    #[inline]
    pub(crate) fn poll(&mut self, poll: Poll, section: &Section<'_>) -> bool {
        self.take_tail(poll.tail(section.page(), self.stream), section)
    }

    /// The same, once more in a turn.
    pub(crate) fn poll_again(&mut self, poll: Poll, section: &Section<'_>) {
        let tail = match section.shared().replay_log() {
            None => poll.tail(section.page(), self.stream),
            Some(log) => log.tail_again(section.page(), self.stream),
        };
        self.take_tail(tail, section);
    }

    #[inline(always)]
    fn take_tail(&mut self, tail: u32, section: &Section<'_>) -> bool {
        let pending = tail.wrapping_sub(self.submissions.fetched);
        if pending == 0 {
            return false;
        }
        if pending > self.submissions.room {
            return self.wrong_tail(tail, section);
        }
        self.submissions.tail = tail;
        true
    }

    /// A tail that cannot be, of which nothing is fetched: the stream stands still from here on, unless it does
    /// already. Says whether there is something to tell.
    #[cold]
    fn wrong_tail(&mut self, tail: u32, section: &Section<'_>) -> bool {
        let goes_on = !self.is_halted();
        if goes_on {
            if let Some(log) = section.shared().replay_log() {
                log.found_tail(self.stream, tail);
            }
            let behind = tail.wrapping_sub(self.submissions.fetched).cast_signed() < 0;
            self.halt(if behind { Fault::TailBackward } else { Fault::TailOverrun }, tail);
        }
        goes_on
    }

    /// A recording is told what the last poll has found.
    pub(crate) fn note_tail(&self, log: &ReplayLog) {
        if !self.is_halted() {
            log.found_tail(self.stream, self.submissions.tail);
        }
    }

    /// Whether the driver has submitted more since the last poll.
    pub(crate) fn tail_moved(&self, poll: Poll, section: &Section<'_>) -> bool {
        !self.is_halted() && poll.tail(section.page(), self.stream) != self.submissions.fetched
    }

    /// Whether the stream stands still, after TailOverrun, TailBackward or RingFault: what it has completes or is
    /// discarded, and nothing more is fetched until it is created anew.
    pub(crate) fn is_halted(&self) -> bool {
        self.submissions.room == 0
    }

    #[cold]
    fn halt(&mut self, fault: Fault, number: u32) {
        self.submissions.room = 0;
        self.submissions.tail = self.submissions.fetched;
        self.fault(fault, number);
    }

    /// The entry of an index could not be read: the stream stands still.
    #[cold]
    pub(crate) fn unreadable(&mut self, index: u32) {
        self.submissions.fetched = index;
        self.halt(Fault::RingFault, index & (self.config.submission_entries - 1));
    }

    /// Tells the driver of a mistake with the next publication; `number` is that of a slot or an entry.
    #[cold]
    pub(crate) fn fault(&mut self, fault: Fault, number: u32) {
        self.notices.push(Notice::Fault(fault, (self.stream as u32) << 16 | number & 0xFFFF));
    }

    /// Tells the driver of a ring entry that is no slot.
    #[cold]
    pub(crate) fn no_slot(&mut self, entry: u32) {
        match entry == CONSUMED {
            true => self.notices.push(Notice::Stale((self.stream as u32) << 16 | entry & 0xFFFF)),
            false => self.fault(Fault::BadSlot, entry),
        }
    }

    /// Completes a submission that is refused, for what its slot `at` is.
    #[cold]
    pub(crate) fn reject(&mut self, head: u32, reason: Reject, at: u32, stolen: bool) {
        self.notices.push(Notice::Rejected { head, reason, at, stolen });
        self.completions.complete(head, Status::Rejected, reason as u16, RefTime::ZERO);
    }

    /// Whether there is something to publish.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        !self.completions.waiting.is_empty() || !self.notices.is_empty()
    }

    /// Publishes what is completed. False if that has to wait until the completion ring is back.
    #[inline]
    pub(crate) fn publish(&mut self, section: &mut Section<'_>, in_flight: &mut InFlight) -> bool {
        !self.has_news() || self.publish_news(section, in_flight)
    }

    #[inline(never)]
    fn publish_news(&mut self, section: &mut Section<'_>, in_flight: &mut InFlight) -> bool {
        self.tell_time(section);
        let waiting = self.completions.waiting();
        if waiting > 0 {
            let Some(mut view) = section.view(self.usual) else {
                return self.publish_elsewhere(section, in_flight);
            };
            let written = self.complete(&mut view, in_flight);
            self.announce(section, waiting, written);
        }
        self.conclude(section, in_flight);
        true
    }

    /// The same, by a ring that is not shared whole, or of a card that records, replays or does otherwise than usually.
    #[cold]
    fn publish_elsewhere(&mut self, section: &mut Section<'_>, in_flight: &mut InFlight) -> bool {
        if let Some(deviations) = section.shared().deviations() {
            return self.publish_otherwise(section, in_flight, deviations);
        }
        let mut written = None;
        if !self.completions.lost {
            let place = Place::publishing(self.stream, self.completions.published);
            let Some(done) = access(section, place, Complete { queues: self, in_flight }) else {
                return false;
            };
            written = done;
        }
        let count = self.completions.waiting();
        self.completions.waiting.clear();
        self.announce_elsewhere(section, count, written);
        self.conclude(section, in_flight);
        true
    }

    /// So many completions are written into the ring, if they could be.
    #[inline(always)]
    fn announce_elsewhere(&mut self, section: &mut Section<'_>, count: u32, written: Option<()>) {
        match written {
            None => self.unwritable(),
            Some(()) => {
                let (old, new) = self.completions.advance(count);
                let publish = || card::publish_head(section.page(), self.stream, old, new);
                let asked = match section.shared().replay_log() {
                    None => publish(),
                    Some(log) => log.asked(section.page(), self.stream, (old, new), publish),
                };
                if asked {
                    section.raise(self.stream as u16);
                }
            }
        }
    }

    /// Tells the checker's eyes what time it is.
    #[inline(always)]
    pub(crate) fn tell_time(&mut self, section: &Section<'_>) {
        if let Some(observer) = &mut self.observer {
            observer.follow(section.clocks().master);
        }
    }

    /// Shows the checker what was fetched from an index on, when so many completions waited.
    #[inline(always)]
    pub(crate) fn show_fetched(
        &mut self,
        memory: &mut (impl StreamMemory + ?Sized),
        first: u32,
        waited: u32,
        in_flight: &InFlight,
    ) {
        if let Some(observer) = &mut self.observer {
            let (fetched, tail) = (self.submissions.fetched, self.submissions.tail);
            let fresh = waited..self.completions.waiting();
            observer.fetched(memory, (first, fetched.wrapping_sub(first)), tail, fresh, in_flight);
        }
    }

    /// Writes what waits into the ring; `None` if the ring cannot be written.
    #[inline(always)]
    fn complete(&mut self, memory: &mut impl StreamMemory, in_flight: &InFlight) -> Option<()> {
        self.look_at_waiting(0, memory, in_flight);
        self.completions.write(memory)
    }

    /// A card that checks looks again at what is about to go home.
    #[inline(always)]
    fn look_at_waiting(&mut self, from: usize, memory: &mut impl StreamMemory, in_flight: &InFlight) {
        if let Some(observer) = &mut self.observer {
            observer.completing(memory, &self.completions.waiting[from..], in_flight, self.submissions.tail);
        }
    }

    /// What waited (some did) is written into the ring, if it could be: its slots are the driver's from here on, and
    /// the vector is raised when the driver asked for one of these completions.
    #[inline(always)]
    pub(super) fn announce(&mut self, section: &mut Section<'_>, waiting: u32, written: Option<()>) {
        self.completions.waiting.clear();
        match written {
            Some(()) => self.publish_head(section, waiting),
            None => self.unwritable(),
        }
    }

    /// After what waited was announced, the driver is told of mistakes.
    #[inline(always)]
    pub(super) fn conclude(&mut self, section: &mut Section<'_>, in_flight: &mut InFlight) {
        if !self.notices.is_empty() {
            self.publish_notices(section);
        }
        in_flight.published();
    }

    #[inline]
    fn publish_head(&mut self, section: &mut Section<'_>, count: u32) {
        let (old, new) = self.completions.advance(count);
        if card::publish_head(section.page(), self.stream, old, new) {
            section.raise(self.stream as u16);
        }
    }

    /// The completion ring cannot be written: the stream stands still, and its slots come home only by closing it.
    #[cold]
    fn unwritable(&mut self) {
        if !std::mem::replace(&mut self.completions.lost, true) {
            self.halt(Fault::RingFault, self.completions.published & (self.config.completion_entries - 1));
        }
    }

    #[cold]
    #[inline(never)]
    fn publish_notices(&mut self, section: &mut Section<'_>) {
        let excused = section.excuses(self.stream);
        for notice in std::mem::take(&mut self.notices) {
            if excused {
                notice.pretend(self.stream, section);
                continue;
            }
            let code = self.code(notice, section);
            let details = self.details(notice, code, section);
            match notice {
                Notice::Fault(fault, detail) => section.fault_with(fault, detail, code, || details),
                Notice::Stale(detail) => section.fault_with(Fault::BadSlot, detail, code, || details),
                Notice::Rejected { head, reason, .. } => {
                    section.rejected(self.stream, head, reason, code, || details);
                }
            }
        }
    }

    /// What a card that checks knows of a mistake, if it is the first of its kind: the others are only counted.
    fn details(&self, notice: Notice, code: Code, section: &Section<'_>) -> Details {
        let Some(observer) = self.observer.as_deref().filter(|observer| observer.is_news(code)) else {
            return Details::default();
        };
        let (slot, detail) = match notice {
            Notice::Fault(Fault::SlotInFlight | Fault::UnfinishedMessage, detail) => {
                (Some(detail & 0xFFFF), Some(detail))
            }
            Notice::Fault(_, detail) | Notice::Stale(detail) => (None, Some(detail)),
            Notice::Rejected { at, .. } => (Some(at), None),
        };
        let details_of = |slot: u32| self.look(section, |memory| observer.details_of(memory, slot, detail));
        let mut details = slot.and_then(details_of).unwrap_or_else(|| observer.details(slot, detail));
        if let Notice::Rejected { head, stolen: true, .. } = notice {
            details.found = Some(format!("this slot, which is in flight by itself, in the submission of slot {head}"));
        }
        details
    }

    /// What a card that checks calls a mistake: it knows some of them better.
    fn code(&self, notice: Notice, section: &Section<'_>) -> Code {
        let Some(observer) = self.observer.as_deref() else {
            return notice.code();
        };
        let published = self.completions.published;
        match notice {
            Notice::Stale(_) => Code::Check(Check::EntryStale),
            Notice::Fault(Fault::TailBackward, _)
                if self.look(section, |memory| observer.went_back(memory, published)) == Some(true) =>
            {
                Code::Check(Check::WentBack)
            }
            Notice::Rejected { stolen: true, .. } => Code::Check(Check::ChainSteals),
            _ => notice.code(),
        }
    }
}

impl Notice {
    /// Tells the driver, and not the checker: it is a fault of the card's.
    fn pretend(self, stream: usize, section: &mut Section<'_>) {
        match self {
            Self::Fault(fault, detail) => section.pretend_fault(fault, detail),
            Self::Stale(detail) => section.pretend_fault(Fault::BadSlot, detail),
            Self::Rejected { head, reason, .. } => crate::log::rejected(stream, head, reason),
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Fault(fault, _) => Code::Fault(fault),
            Self::Stale(_) => Code::Fault(Fault::BadSlot),
            Self::Rejected { reason, .. } => Code::Reject(reason),
        }
    }
}

/// Writes what waits into the completion ring.
struct Complete<'a> {
    queues: &'a mut Queues,
    in_flight: &'a InFlight,
}

impl Work for Complete<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn run(self, memory: &mut impl StreamMemory) -> Option<()> {
        self.queues.complete(memory, self.in_flight)
    }
}

impl StreamWork for Complete<'_> {
    fn queues(&mut self) -> &mut Queues {
        self.queues
    }
}

/// Stream time: master time less what passed outside RUN, and zero at the first RUN after STOP.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeline {
    /// Stream time while not in RUN.
    stopped_at: RefTime,
    /// Master time less stream time while in RUN.
    pub(crate) base: RefTime,
}

impl Timeline {
    /// The state changes at a master time.
    pub(crate) fn change(&mut self, from: State, to: State, master: RefTime) {
        if from == State::Run {
            self.stopped_at = master.saturating_sub(self.base);
        }
        match to {
            State::Run => self.base = master.saturating_sub(self.stopped_at),
            State::Stop => *self = Self::default(),
            State::Acquire | State::Pause => {}
        }
    }

    /// The stream time of a master time.
    pub(crate) fn at(&self, state: State, master: RefTime) -> RefTime {
        match state {
            State::Run => master.saturating_sub(self.base),
            _ => self.stopped_at,
        }
    }
}
