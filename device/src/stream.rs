//! A render stream on the card's side: events from the submission ring to the synthesizer.
//!
//! Fed by the engine with its four phases; feeds the mix, and the completion ring. An event's way through it is
//!
//! ```text
//! fetch (here): SubmissionQueue -> Validator -> due already: presented at once
//!                                            -> else: InFlight and Scheduler
//! render:       Scheduler -> synthesizer, at its sample -> CompletionQueue -> publish
//! ```
//!
//! From its fetch until its completion is published a slot belongs to the card.

mod chain;
pub(crate) mod in_flight;
pub(crate) mod queue;
pub(crate) mod reach;
mod render;
pub(crate) mod scheduler;
pub(crate) mod validate;

use crate::check::Observer;
use crate::clock::Now;
use crate::deviation::Deviations;
use crate::dma::{SlotWords, StreamMemory};
use crate::shared::{Section, StreamConfig};
use crate::stats::Stats;
use crate::synth::Synth;
use chain::{Assembler, Outcome, Taking};
use dmus_interface::event::{DONT_HOLD, PointerWidth};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;
use in_flight::{InFlight, Message};
use queue::{CompletionQueue, Queues, SECTION, Timeline};
use reach::{StreamWork, Work, access};
use render::UnderWay;
pub(crate) use render::{Monitor, Span};
use scheduler::Scheduler;
use std::time::Duration;
use validate::{Copied, Validator};

/// Where the card is, in a stream's own time.
#[derive(Clone, Copy, Debug, Default)]
struct StreamClock {
    /// Times below it, as unsigned numbers, have been reached: such an event is presented as it is fetched. 0 outside
    /// RUN.
    reached: u64,
    /// What is no later comes too late, for a sample at `start`.
    passed: i64,
    start: i64,
}

impl StreamClock {
    /// Completes a submission that was due at a stream time and is presented now.
    #[inline(always)]
    fn complete(&self, completions: &mut CompletionQueue, head: u32, time: i64, messages: u32, stats: &Stats) {
        if time > self.passed {
            completions.complete(head, Status::Presented, 0, RefTime(time));
        } else {
            self.complete_late(completions, head, time, messages, stats);
        }
    }

    #[cold]
    #[inline(never)]
    fn complete_late(&self, completions: &mut CompletionQueue, head: u32, time: i64, messages: u32, stats: &Stats) {
        let late = RefTime(self.start.saturating_sub(time));
        stats.note_late(messages.into(), late);
        completions.complete(head, Status::Late, 0, late);
    }
}

/// What ended a run of usual events.
enum Unusual {
    /// A submission that is not by itself, whole and free: its slot, and its words if they were read.
    Submission(u32, Option<SlotWords>),
    /// An event by itself whose data is not what it should be.
    Refused(u32, Reject),
    /// An entry of the ring that cannot be read.
    Unreadable(u32),
}

/// Fetches a section's worth.
struct Fetch<'a> {
    stream: &'a mut RenderStream,
    stats: &'a Stats,
}

impl Work for Fetch<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, memory: &mut impl StreamMemory) {
        self.stream.fetch_from(memory, self.stats);
    }
}

impl StreamWork for Fetch<'_> {
    const FETCHES: bool = true;

    fn queues(&mut self) -> &mut Queues {
        &mut self.stream.queues
    }
}

/// See the module.
pub(crate) struct RenderStream {
    pub(crate) queues: Queues,
    pub(crate) state: State,
    timeline: Timeline,
    clock: StreamClock,
    validator: Validator,
    assembler: Assembler,
    in_flight: InFlight,
    scheduler: Scheduler<u32>,
    /// What was begun to be presented, which comes before all that is scheduled.
    under_way: Option<UnderWay>,
    /// What ended the last run of usual events, if something did. Here rather than returned, which would take an event
    /// registers.
    unusual: Option<Unusual>,
    /// Slots owned, as they were last counted.
    counted: u32,
    /// Most of them at once.
    most: u32,
    pub(crate) synth: Synth,
    /// Time that rendering has taken since the last change to RUN.
    pub(crate) busy: Duration,
    /// No RUN since the synthesizer was reset.
    silent: bool,
    /// What is presented is also captured.
    monitored: bool,
}

impl RenderStream {
    pub(crate) fn new(
        index: usize,
        config: StreamConfig,
        synth: Synth,
        monitored: bool,
        observer: Option<Box<Observer>>,
        elsewhere: bool,
    ) -> Self {
        Self {
            queues: Queues::new(index, config, observer, elsewhere),
            state: State::Stop,
            timeline: Timeline::default(),
            clock: StreamClock::default(),
            validator: Validator::new(&config, synth.groups()),
            assembler: Assembler::new(),
            in_flight: InFlight::new(&config, true),
            scheduler: Scheduler::with_capacity(config.slots as usize),
            unusual: None,
            counted: 0,
            most: 0,
            under_way: None,
            synth,
            busy: Duration::ZERO,
            silent: true,
            monitored,
        }
    }

    /// Changes the state at a master time, before the sample at the position is rendered; what STOP discards is
    /// completed with the next publication.
    pub(crate) fn set_state(&mut self, state: State, master: RefTime, now: &Now, stats: &Stats) {
        self.timeline.change(self.state, state, master);
        self.state = state;
        match state {
            State::Run => {
                self.busy = Duration::ZERO;
                self.synth.forget_statistics();
                if std::mem::take(&mut self.silent) {
                    self.synth.seek(now.position.0);
                }
            }
            State::Stop => {
                self.synth.reset();
                self.silent = true;
                self.assembler.abandon();
                self.report_unfinished(stats);
                if let Some(UnderWay { head, next, .. }) = self.under_way.take() {
                    self.discard(head, next, stats);
                }
                while let Some((_, head)) = self.scheduler.pop() {
                    self.discard(head, head, stats);
                }
            }
            State::Acquire | State::Pause => {}
        }
        self.follow(now);
    }

    /// Time has moved, or what it means to this stream.
    pub(crate) fn follow(&mut self, now: &Now) {
        let stream_time = |master: RefTime| master.saturating_sub(self.timeline.base).0;
        self.clock = StreamClock {
            reached: match self.state {
                // What is captured, too, is presented by the renderer, which knows its sample; and what may cost much,
                // outside a section.
                State::Run if !self.monitored && self.synth.is_light() && self.under_way.is_none() => {
                    stream_time(now.reached).saturating_add(1).max(0) as u64
                }
                _ => 0,
            },
            passed: stream_time(now.passed),
            start: stream_time(now.start),
        };
    }

    /// Master time less stream time, as the register shows it.
    pub(crate) fn time_base(&self) -> RefTime {
        self.timeline.base
    }

    /// Fetches some of what the tail publishes, and publishes what that completes. False if there is more, or it has to
    /// wait until the stream's memory is back.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, section: &mut Section<'_>) -> bool {
        match self.queues.config.width {
            PointerWidth::Eight => self.fetch_and_publish::<true>(section),
            PointerWidth::Four => self.fetch_and_publish::<false>(section),
        }
    }

    #[inline(always)]
    fn fetch_and_publish<const WIDE: bool>(&mut self, section: &mut Section<'_>) -> bool {
        let Some(mut view) = section.view(self.queues.unwatched) else {
            let fetched = self.fetch_watched(section);
            return fetched && self.publish(section) && self.queues.submissions.pending() == 0;
        };
        let stats = section.shared().stats();
        self.fetch_events::<WIDE>(&mut view, stats);
        self.count_owned(stats);
        let waiting = self.queues.completions.waiting();
        if waiting > 0 {
            let written = self.queues.completions.write(&mut view);
            self.queues.announce(section, waiting, written);
        }
        self.queues.conclude(section, &mut self.in_flight);
        self.queues.submissions.pending() == 0
    }

    /// The same without publishing, of a stream that the checker watches, or whose maps have changed.
    #[cold]
    #[inline(never)]
    fn fetch_watched(&mut self, section: &mut Section<'_>) -> bool {
        let Some(mut view) = section.view(self.queues.usual) else {
            return self.fetch_elsewhere(section);
        };
        self.queues.tell_time(section);
        self.fetch_from(&mut view, section.shared().stats());
        true
    }

    /// Fetches a section's worth, whichever way the stream goes.
    #[inline(always)]
    fn fetch_from(&mut self, memory: &mut impl StreamMemory, stats: &Stats) {
        let (first, waited) = (self.queues.submissions.fetched, self.queues.completions.waiting());
        match self.queues.config.width {
            PointerWidth::Eight => self.fetch_events::<true>(memory, stats),
            PointerWidth::Four => self.fetch_events::<false>(memory, stats),
        }
        self.queues.show_fetched(memory, first, waited, &self.in_flight);
    }

    /// The maps have changed, or the stream is not shared whole, or what is fetched is recorded or replayed.
    #[cold]
    #[inline(never)]
    fn fetch_elsewhere(&mut self, section: &mut Section<'_>) -> bool {
        if self.queues.submissions.pending() == 0 {
            return true;
        }
        if let Some(log) = section.shared().replay_log() {
            self.queues.note_tail(log);
        }
        self.queues.tell_time(section);
        if let Some(deviations) = section.shared().deviations() {
            return self.fetch_otherwise(section, deviations);
        }
        let (place, stats) = (self.queues.fetching(), section.shared().stats());
        access(section, place, Fetch { stream: self, stats }).is_some()
    }

    /// The same, of a card that takes liberties or has faults.
    #[cold]
    #[inline(never)]
    fn fetch_otherwise(&mut self, section: &mut Section<'_>, deviations: &Deviations) -> bool {
        let pending = self.queues.submissions.pending();
        let tail = self.queues.fetch_only(self.queues.fewer(deviations, pending));
        let (place, stats) = (self.queues.fetching(), section.shared().stats());
        let fetched = access(section, place, Fetch { stream: self, stats }).is_some();
        self.queues.fetch_up_to(tail);
        // It is published right after this.
        self.queues.may_keep = fetched && self.queues.completions.waiting() > 0;
        fetched
    }

    /// Fetches a section's worth of submissions. Events by themselves that are one whole message are presented or held
    /// in one loop, which costs 66 instructions an event (`bench ring`, "due at once"); what is not leaves it for a
    /// moment.
    #[inline(always)]
    fn fetch_events<const WIDE: bool>(&mut self, memory: &mut impl StreamMemory, stats: &Stats) {
        let end = self.queues.submissions.fetched.wrapping_add(self.queues.submissions.pending().min(SECTION));
        loop {
            // In STOP all is discarded, and between fragments all may be part of a message.
            if self.state != State::Stop && self.assembler.is_idle() {
                let completed = self.queues.completions.waiting();
                self.fetch_usual::<WIDE>(memory, end, stats);
                let presented = self.queues.completions.waiting() - completed;
                if presented > 0 {
                    stats.note_presented(presented.into());
                }
            } else {
                self.fetch_one(memory, end);
            }
            if self.unusual.is_none() || !self.fetch_unusual(memory, stats) {
                return;
            }
        }
    }

    /// Not inlined: by itself it has registers enough, which spares each event ten instructions.
    #[inline(never)]
    fn fetch_usual<const WIDE: bool>(&mut self, memory: &mut impl StreamMemory, end: u32, stats: &Stats) {
        let Self { queues, validator, in_flight, scheduler, synth, clock, unusual, .. } = self;
        // What is held now is not due, so no event can overtake one that is held within this loop.
        let next = scheduler.next().map_or(i64::MAX, |(time, _)| time);
        let due = clock.reached.min(next.max(0) as u64);
        let publication = in_flight.publication();
        let (mut slots, buffers) = in_flight.split();
        let mut index = queues.submissions.fetched;
        while index != end {
            let Some(slot) = memory.submission(index) else {
                *unusual = Some(Unusual::Unreadable(index));
                break;
            };
            index = index.wrapping_add(1);
            let Some(free) = slots.free(slot) else {
                *unusual = Some(Unusual::Submission(slot, None));
                break;
            };
            let Some(words) = memory.slot(slot) else {
                *unusual = Some(Unusual::Submission(slot, None));
                break;
            };
            let (next, data) = words.pointers::<WIDE>();
            let Some(kind) = validator.kind::<WIDE>(words.header).filter(|_| next == 0) else {
                *unusual = Some(Unusual::Submission(slot, Some(words)));
                break;
            };
            let time = words.time as i64;
            let copied = match Validator::copy(memory, (&mut *buffers, publication), kind.inline, data, kind.len) {
                Ok(copied) if copied.is_message => copied,
                refused => {
                    let reason = refused.and_then(Copied::whole).err().unwrap_or(Reject::BadMessage);
                    free.pass(buffers, None);
                    *unusual = Some(Unusual::Refused(slot, reason));
                    break;
                }
            };
            if (time as u64) < due {
                match copied.buffer {
                    None => _ = synth.short_message(kind.channel_group, copied.data, kind.len),
                    Some(buffer) => _ = synth.long_message(kind.channel_group, buffers.copy_mut(buffer, kind.len)),
                }
                free.pass(buffers, copied.buffer);
                clock.complete(&mut queues.completions, slot, time, 1, stats);
            } else {
                free.hold(buffers, kind.header, copied.data, copied.buffer);
                // DONT_HOLD comes before everything that has a time.
                scheduler.push(if time < 0 { DONT_HOLD } else { time }, slot);
            }
        }
        queues.submissions.fetched = index;
    }

    /// Fetches an entry alone, whatever it is of.
    #[cold]
    fn fetch_one(&mut self, memory: &mut impl StreamMemory, end: u32) {
        let submissions = &mut self.queues.submissions;
        self.unusual = (submissions.fetched != end).then(|| submissions.take()).flatten().map(|index| {
            memory.submission(index).map_or(Unusual::Unreadable(index), |slot| Unusual::Submission(slot, None))
        });
    }

    /// What follows on a submission that is no event by itself, whole and right; false if nothing can be fetched any
    /// more.
    #[cold]
    #[inline(never)]
    fn fetch_unusual(&mut self, memory: &mut impl StreamMemory, stats: &Stats) -> bool {
        match self.unusual.take() {
            None => {}
            Some(Unusual::Submission(slot, words)) => self.take(memory, slot, words, stats),
            Some(Unusual::Refused(slot, reason)) => {
                stats.rejected.add(1);
                self.queues.reject(slot, reason, slot, false);
            }
            Some(Unusual::Unreadable(index)) => {
                self.queues.unreadable(index);
                return false;
            }
        }
        true
    }

    /// Takes over a submission that is not one message by itself, or not free.
    fn take(&mut self, memory: &mut impl StreamMemory, head: u32, words: Option<SlotWords>, stats: &Stats) {
        match self.in_flight.is_free(head) {
            None => return self.queues.no_slot(head),
            Some(false) => return self.queues.fault(Fault::SlotInFlight, head),
            Some(true) => {}
        }
        let Self { validator, in_flight, assembler, .. } = self;
        let words = words.or_else(|| memory.slot(head));
        let observer = self.queues.observer.as_deref();
        let outcome = Taking { memory, validator, in_flight, assembler, observer }.take(head, words);
        self.report_unfinished(stats);
        match outcome {
            Outcome::Accepted { .. } if self.state == State::Stop => self.discard(head, head, stats),
            // DONT_HOLD comes before everything that has a time.
            Outcome::Accepted { time } => self.scheduler.push(if time < 0 { DONT_HOLD } else { time }, head),
            Outcome::Copied => self.queues.completions.complete(head, Status::Copied, 0, RefTime::ZERO),
            Outcome::Rejected { reason, messages, at, stolen } => {
                stats.rejected.add(messages.into());
                self.queues.reject(head, reason, at, stolen);
            }
        }
    }

    /// Tells of a message whose other fragments do not come any more.
    fn report_unfinished(&mut self, stats: &Stats) {
        if let Some(slot) = self.assembler.take_abandoned() {
            stats.rejected.add(1);
            self.queues.fault(Fault::UnfinishedMessage, slot);
        }
    }

    /// Discards a submission, of which the messages from a slot on have not been presented.
    fn discard(&mut self, head: u32, next: u32, stats: &Stats) {
        let (messages, _) = self.in_flight.messages(next, |_, _| true);
        stats.discarded.add(messages.into());
        self.in_flight.release(head);
        self.queues.completions.complete(head, Status::Discarded, 0, RefTime::ZERO);
    }

    /// Publishes what is completed. False if that has to wait until the completion ring is back.
    pub(crate) fn publish(&mut self, section: &mut Section<'_>) -> bool {
        self.count_owned(section.shared().stats());
        self.queues.publish(section, &mut self.in_flight)
    }

    /// Counts the slots that the card owns, before those that are completed go home.
    #[inline(always)]
    fn count_owned(&mut self, stats: &Stats) {
        let owned = self.in_flight.owned();
        if owned != self.counted {
            stats.in_flight.set(stats.in_flight.get() - u64::from(self.counted) + u64::from(owned));
            self.counted = owned;
        }
        let with_completed = owned + self.queues.completions.waiting();
        if with_completed > self.most {
            self.most = with_completed;
            stats.peak_in_flight.raise_to(with_completed.into());
        }
    }

    /// Has so many channel groups; what waits for those that are gone is not heard.
    pub(crate) fn set_groups(&mut self, groups: u16) {
        self.validator.set_groups(groups);
        self.synth.set_groups(groups);
    }

    /// The submissions that wait, with their stream times.
    pub(crate) fn due(&self) -> impl Iterator<Item = (i64, u32)> {
        self.scheduler.all()
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The guest has stored into memory of the card: the checker compares all that is held with what it was.
    pub(crate) fn look_at_held(&self, section: &Section<'_>) {
        if let Some(observer) = &self.queues.observer {
            self.queues.look(section, |memory| {
                for (time, head) in self.scheduler.all() {
                    observer.look_at_held(memory, head, time, &self.in_flight);
                }
            });
        }
    }

    /// Gives up everything at once, as a reset does: nothing is published.
    pub(crate) fn abandon(self, stats: &Stats) -> Synth {
        stats.in_flight.sub(u64::from(self.counted));
        self.synth
    }
}

impl Synth {
    /// A message as a stream holds it. Whether that is [enough](Self::is_enough).
    #[inline(always)]
    fn apply(&mut self, group: u16, message: Message<'_>) -> bool {
        match message {
            Message::Short(word, len) => self.short_message(group, word, len),
            Message::Long(bytes) => self.long_message(group, bytes),
        }
    }
}
