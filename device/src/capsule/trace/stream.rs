//! A stream of a trace: which of its slots the card has, since when, and for which submission.
//!
//! Fed with what was observed of one open stream; feeds the packets. It holds no more than the slots of the pool,
//! whatever a recording says.

use super::event;
use super::names::{self, Label, Name, Text};
use super::packets::Packets;
use super::proto::{COUNTER, DebugAnnotation, SLICE_BEGIN, SLICE_END, TrackEvent};
use super::tracks::{DOORBELL, StreamTracks, instant, on};
use dmus_interface::event::Event;
use dmus_interface::regs::stream::{MAX_SLOTS, Type};
use dmus_interface::ring::{Completion, Reject, Status};
use dmus_interface::rule::{Code, Rule};
use std::collections::VecDeque;
use std::io::Write;

/// No slot.
const NONE: u32 = u32::MAX;
/// No flow.
const NO_FLOW: u64 = 0;

/// What is known of a slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The card has it: its slice is open.
    open: bool,
    /// It is in flight with another one, which is the head of its submission.
    member: bool,
    /// It came at this very time, and is not yet said to be held.
    fresh: bool,
    /// The slice that says so is open.
    held: bool,
    described: bool,
    /// The next of its submission.
    next: u32,
    flow: u64,
    /// When it was last completed.
    free: u64,
}

impl Slot {
    const FREE: Self = Self {
        open: false,
        member: false,
        fresh: false,
        held: false,
        described: false,
        next: NONE,
        flow: NO_FLOW,
        free: 0,
    };
}

/// Submissions that one store of the tail published, and that are not fetched.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// Index of its first entry, free-running, and how many there are.
    first: u32,
    count: u32,
    /// Of the first; the others follow.
    flow: u64,
    time: u64,
}

/// A ring entry that was fetched, before the card has read its slot.
#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: u32,
    index: u32,
    flow: u64,
    submitted: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    number: usize,
    tracks: StreamTracks,
    slots: Vec<Slot>,
    tail: u32,
    batches: VecDeque<Batch>,
    entry: Option<Entry>,
    /// Head of the submission that the card has read last.
    head: u32,
    /// The slot of the last event that it has read.
    read: u32,
    fresh: Vec<u32>,
    in_flight: u32,
    /// As the counter has it.
    shown: u32,
    late: bool,
    /// Flows of what was completed since the last interrupt.
    completed: VecDeque<u64>,
}

impl Stream {
    pub(super) fn new<W: Write>(number: usize, kind: Type, slots: u32, packets: &mut Packets<W>) -> Self {
        let tracks = StreamTracks::new(number, kind);
        for track in tracks.describe() {
            packets.describe(track);
        }
        Self {
            number,
            tracks,
            slots: vec![Slot::FREE; slots.min(MAX_SLOTS) as usize],
            tail: 0,
            batches: VecDeque::new(),
            entry: None,
            head: NONE,
            read: NONE,
            fresh: Vec::new(),
            in_flight: 0,
            shown: 0,
            late: false,
            completed: VecDeque::new(),
        }
    }

    /// Something that concerns the whole stream.
    pub(super) fn instant<W: Write>(&self, packets: &mut Packets<W>, name: Name, annotations: Vec<DebugAnnotation>) {
        let event = instant(self.tracks.stream(), name.iid());
        packets.event(TrackEvent { debug_annotations: annotations, ..event });
    }

    /// The driver stored a tail. `next_flow` is the first number that no flow has.
    pub(super) fn submitted<W: Write>(&mut self, packets: &mut Packets<W>, tail: u32, next_flow: &mut u64) {
        // A correct driver has no more slots to submit than the pool; a tail that claims more has no flows for them.
        let waiting: usize = self.batches.iter().map(|batch| batch.count as usize).sum();
        let room = self.slots.len().saturating_sub(waiting) as u32;
        let count = tail.wrapping_sub(self.tail).min(room);
        let flow = *next_flow;
        if count > 0 {
            self.batches.push_back(Batch { first: self.tail, count, flow, time: packets.now() });
            *next_flow += u64::from(count);
        }
        self.tail = tail;
        packets.event(TrackEvent {
            debug_annotations: vec![Label::Tail.uint(tail)],
            flow_ids: (flow..flow + u64::from(count)).collect(),
            ..instant(DOORBELL, names::tail(self.number))
        });
    }

    /// The card fetched an entry of the ring.
    pub(super) fn fetched<W: Write>(&mut self, packets: &mut Packets<W>, index: u32, slot: u32) {
        self.settle(packets);
        self.head = NONE;
        self.read = NONE;
        let (flow, submitted) = self.submission(index).unwrap_or((NO_FLOW, packets.now()));
        let wrong = match self.slots.get(slot as usize) {
            None => Name::NoSlot,
            Some(slot) if slot.open => Name::Twice,
            Some(_) => {
                self.entry = Some(Entry { slot, index, flow, submitted });
                return;
            }
        };
        self.instant(packets, wrong, vec![Label::Index.uint(index), Label::Slot.uint(slot)]);
    }

    /// The flow of the entry with this index, and when it was submitted. Entries are fetched in their order.
    fn submission(&mut self, index: u32) -> Option<(u64, u64)> {
        while let Some(batch) = self.batches.front() {
            let offset = index.wrapping_sub(batch.first);
            if offset < batch.count {
                let found = (batch.flow + u64::from(offset), batch.time);
                if offset + 1 == batch.count {
                    self.batches.pop_front();
                }
                return Some(found);
            }
            if offset > u32::MAX / 2 {
                return None;
            }
            self.batches.pop_front();
        }
        None
    }

    /// The card read a slot: that of the entry, or one that its chain goes on with.
    pub(super) fn event<W: Write>(&mut self, packets: &mut Packets<W>, slot: u32, event: &Event) {
        self.read = slot;
        let (name, annotations) = event::describe(event);
        match self.entry {
            Some(entry) if entry.slot == slot => {
                self.entry = None;
                self.begin(packets, entry, name, annotations);
            }
            _ => self.member(packets, slot, name, annotations),
        }
    }

    fn member<W: Write>(&mut self, packets: &mut Packets<W>, slot: u32, name: Name, about: Vec<DebugAnnotation>) {
        let head = self.head as usize;
        // A slot that is in flight already is not this chain's, whatever the chain says.
        if !self.slots.get(head).is_some_and(|head| head.open) || self.slots.get(slot as usize).is_none_or(|s| s.open) {
            return;
        }
        let entry = Entry { slot, index: 0, flow: NO_FLOW, submitted: packets.now() };
        let head = self.head;
        self.begin(packets, entry, name, about);
        self.head = head;
        self.slots[slot as usize].member = true;
        self.slots[slot as usize].next = self.slots[head as usize].next;
        self.slots[head as usize].next = slot;
    }

    /// Begins the slice of a slot below the pool's size that is not in flight.
    fn begin<W: Write>(&mut self, packets: &mut Packets<W>, entry: Entry, name: Name, about: Vec<DebugAnnotation>) {
        let track = self.tracks.slot(entry.slot);
        let slot = &mut self.slots[entry.slot as usize];
        if !slot.described {
            slot.described = true;
            packets.describe(self.tracks.describe_slot(entry.slot));
        }
        let begin = TrackEvent { name_iid: Some(name.iid()), debug_annotations: about, ..on(track, SLICE_BEGIN) };
        packets.earlier(entry.submitted.max(slot.free), begin);
        if !slot.fresh {
            self.fresh.push(entry.slot);
        }
        *slot = Slot { open: true, member: false, fresh: true, held: false, next: NONE, flow: entry.flow, ..*slot };
        self.head = entry.slot;
        self.in_flight += 1;
    }

    /// Begins the slice of an entry whose slot the card did not read.
    fn settle<W: Write>(&mut self, packets: &mut Packets<W>) {
        if let Some(entry) = self.entry.take() {
            self.begin(packets, entry, Name::Unread, vec![Label::Index.uint(entry.index)]);
        }
    }

    /// The card copied data of the event that it read last.
    pub(super) fn data<W: Write>(&self, packets: &mut Packets<W>, offset: usize, bytes: &[u8]) {
        if self.slots.get(self.read as usize).is_some_and(|slot| slot.open) {
            packets.event(TrackEvent {
                debug_annotations: vec![
                    Label::Offset.uint(offset as u64),
                    Label::Bytes.uint(bytes.len() as u64),
                    Label::Data.text(event::hex(bytes)),
                ],
                ..instant(self.tracks.slot(self.read), Name::Copied.iid())
            });
        }
    }

    /// A submission, or a slot with something captured, went home.
    pub(super) fn completed<W: Write>(&mut self, packets: &mut Packets<W>, index: u32, completion: &Completion) {
        let slot = completion.slot.get();
        if self.entry.is_some_and(|entry| entry.slot == slot) {
            self.settle(packets);
        }
        let status = Status::decode(completion.status.get());
        let mut about = vec![Label::Status.word(Text::of_status(status))];
        let mark = match status {
            Some(Status::Late) => {
                let late = completion.time.get() as f64 / 10_000.0;
                about.push(Label::Late.number(late));
                self.lateness(packets, late);
                Some(Name::Late)
            }
            Some(Status::Discarded) => Some(Name::Discarded),
            Some(Status::Rejected) => {
                let rule = Reject::decode(completion.flags.get()).and_then(|reject| Rule::of(Code::Reject(reject)));
                about.push(Label::Reason.text(rule.map_or("unknown", |rule| rule.name)));
                Some(Name::Rejected)
            }
            Some(Status::Presented) => {
                if self.late {
                    self.lateness(packets, 0.0);
                }
                None
            }
            _ => None,
        };
        match self.slots.get(slot as usize) {
            Some(known) if known.open && !known.member => {
                let flow = known.flow;
                if flow != NO_FLOW {
                    // If nobody wants to be interrupted, the oldest are forgotten.
                    if self.completed.len() >= self.slots.len() {
                        self.completed.pop_front();
                    }
                    self.completed.push_back(flow);
                }
                self.home(packets, slot, mark, about);
            }
            _ => {
                about.extend([Label::Index.uint(index), Label::Slot.uint(slot)]);
                self.instant(packets, Name::Unknown, about);
            }
        }
    }

    fn lateness<W: Write>(&mut self, packets: &mut Packets<W>, late: f64) {
        self.late = late != 0.0;
        let event = on(self.tracks.lateness(), COUNTER);
        packets.event(TrackEvent { double_counter_value: Some(late), ..event });
    }

    /// Ends the slices of a submission. What is told about it is on its head's.
    fn home<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        head: u32,
        mark: Option<Name>,
        mut about: Vec<DebugAnnotation>,
    ) {
        let mut number = head;
        while let Some(slot) = self.slots.get_mut(number as usize).filter(|slot| slot.open) {
            let track = self.tracks.slot(number);
            if slot.held {
                packets.event(on(track, SLICE_END));
            }
            if let Some(mark) = mark.filter(|_| !slot.member) {
                packets.event(instant(track, mark.iid()));
            }
            let flow_ids = if slot.flow == NO_FLOW { vec![] } else { vec![slot.flow] };
            let end = on(track, SLICE_END);
            packets.event(TrackEvent { debug_annotations: std::mem::take(&mut about), flow_ids, ..end });
            number = slot.next;
            *slot = Slot { open: false, held: false, next: NONE, flow: NO_FLOW, free: packets.now(), ..*slot };
            self.in_flight -= 1;
        }
    }

    /// Flows that end at the interrupt which is raised now.
    pub(super) fn interrupted(&mut self) -> Vec<u64> {
        self.completed.drain(..).collect()
    }

    /// Time is about to pass: what came now and is still there is held, from now on.
    pub(super) fn pass<W: Write>(&mut self, packets: &mut Packets<W>) {
        self.settle(packets);
        for number in self.fresh.drain(..) {
            let Some(slot) = self.slots.get_mut(number as usize) else { continue };
            slot.fresh = false;
            if slot.open {
                slot.held = true;
                packets.event(TrackEvent {
                    name_iid: Some(Name::Held.iid()),
                    ..on(self.tracks.slot(number), SLICE_BEGIN)
                });
            }
        }
        if self.in_flight != self.shown {
            self.shown = self.in_flight;
            packets.event(TrackEvent {
                counter_value: Some(i64::from(self.shown)),
                ..on(self.tracks.in_flight(), COUNTER)
            });
        }
    }

    /// Ends the slices of what was not completed, and will not be.
    pub(super) fn end<W: Write>(&mut self, packets: &mut Packets<W>, cause: Text) {
        self.settle(packets);
        for number in 0..self.slots.len() {
            let slot = self.slots[number];
            if slot.open && !slot.member {
                // A flow that no completion has is left open.
                self.slots[number].flow = NO_FLOW;
                self.home(packets, number as u32, Some(Name::Lost), vec![Label::Cause.word(cause)]);
            }
        }
        self.pass(packets);
        if self.late {
            self.lateness(packets, 0.0);
        }
    }

    /// Slots of the pool, and the most that anything beside them holds.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let lengths = [self.batches.len(), self.fresh.len(), self.completed.len(), self.in_flight as usize];
        (self.slots.len(), lengths.into_iter().max().unwrap_or(0))
    }
}
