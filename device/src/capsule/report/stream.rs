//! What a stream did over time: its slots in flight, its states, and what became of its submissions.
//!
//! Fed by the observations of a stream; feeds the summary and the charts.

use super::lateness::{Lateness, Schedule};
use super::occupancy::Occupancy;
use super::series::{Cell, Series};
use dmus_interface::event::Event;
use dmus_interface::regs::stream::{MAX_SLOTS, State, Type};
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::RefTime;

/// Changes of state that are told.
const TOLD: usize = 24;

/// Slots in flight within a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Most, and how many at the end; `None` where nothing changed.
    pub(super) seen: Option<(u32, u32)>,
}

impl Cell for Level {
    fn fold(&mut self, later: &Self) {
        self.seen = match (self.seen, later.seen) {
            (Some((most, _)), Some((also, last))) => Some((most.max(also), last)),
            (seen, None) | (None, seen) => seen,
        };
    }
}

/// The last state in a column, and whether it was changed there; `None` where it was not. A closed stream has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) last: Option<Option<State>>,
}

impl Cell for Changes {
    fn fold(&mut self, later: &Self) {
        self.last = later.last.or(self.last);
    }
}

/// A slot that is the card's.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    since: Option<i64>,
    /// The next one of the same submission.
    next: Option<u32>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) kind: Option<Type>,
    /// As it was opened last, and how often.
    pub(super) slots: u32,
    pub(super) buffers: u32,
    pub(super) buffer_size: u32,
    pub(super) opened: u64,
    /// `None` while it is closed.
    state: Option<State>,
    /// The first ones, with their times.
    pub(super) told: Vec<(i64, Option<State>)>,
    pub(super) changed: u64,
    pub(super) changes: Series<Changes>,
    pub(super) refused: u64,
    held: Vec<Held>,
    /// The last slot of the submission that is being fetched.
    last: Option<u32>,
    in_flight: u32,
    pub(super) peak: u32,
    pub(super) level: Series<Level>,
    pub(super) occupancy: Occupancy,
    schedule: Schedule,
    pub(super) submissions: u64,
    /// By their status less one.
    pub(super) ended: [u64; Status::COUNT],
    /// Entries that cannot be: numbers that are no slot of a pool, and slots that were not in flight.
    pub(super) strange: u64,
}

impl Stream {
    pub(super) fn open(&mut self, time: i64, kind: Type, slots: u32, buffers: u32, buffer_size: u32) {
        self.release_all(time);
        (self.kind, self.slots, self.buffers, self.buffer_size) = (Some(kind), slots, buffers, buffer_size);
        self.opened += 1;
        self.occupancy.make_room(slots.clamp(1, MAX_SLOTS) - 1);
        self.set_state(time, Some(State::Stop));
    }

    pub(super) fn change(&mut self, time: i64, state: State, time_base: RefTime) {
        self.schedule = Schedule { runs: state == State::Run, base: time_base.0 };
        self.set_state(time, Some(state));
    }

    /// It was closed, or the card was reset.
    pub(super) fn close(&mut self, time: i64) {
        self.release_all(time);
        if self.state.is_some() {
            self.set_state(time, None);
        }
    }

    fn set_state(&mut self, time: i64, state: Option<State>) {
        self.state = state;
        self.changed += 1;
        if self.told.len() < TOLD {
            self.told.push((time, state));
        }
        self.changes.at(time).fold(&Changes { last: Some(state) });
    }

    pub(super) fn fetch(&mut self, time: i64, slot: u32) {
        self.submissions += 1;
        self.last = self.take(time, slot).then_some(slot);
        self.strange += u64::from(self.last.is_none());
    }

    /// An event was read: that of the slot that was fetched, or of a further one of its chain.
    pub(super) fn event(&mut self, time: i64, master: i64, slot: u32, event: &Event, lateness: &mut Lateness) {
        if self.kind == Some(Type::Render)
            && let Some(ahead) = self.schedule.ahead(event.time, master)
        {
            lateness.fetched(time, ahead);
        }
        let Some(last) = self.last.filter(|last| *last != slot) else {
            return;
        };
        if self.take(time, slot) {
            self.held[last as usize].next = Some(slot);
            self.last = Some(slot);
        }
    }

    /// Whether the slot was not in flight, and is one.
    fn take(&mut self, time: i64, slot: u32) -> bool {
        if slot >= MAX_SLOTS {
            return false;
        }
        if self.held.len() <= slot as usize {
            self.held.resize(slot as usize + 1, Held::default());
        }
        let held = &mut self.held[slot as usize];
        if held.since.is_some() {
            return false;
        }
        *held = Held { since: Some(time), next: None };
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        self.mark_level(time);
        true
    }

    pub(super) fn complete(&mut self, time: i64, completion: &Completion, lateness: &mut Lateness) {
        match Status::decode(completion.status.get()) {
            Some(status) => {
                self.ended[status as usize - 1] += 1;
                if self.kind == Some(Type::Render) {
                    lateness.completed(time, status, completion.time.get());
                }
            }
            None => self.strange += 1,
        }
        let mut next = Some(completion.slot.get());
        self.strange += u64::from(!self.is_held(completion.slot.get()));
        // Each was added once, while it was in flight, and is not any more then: so this ends.
        while let Some(slot) = next.filter(|slot| self.is_held(*slot)) {
            next = self.release(time, slot);
        }
        self.mark_level(time);
    }

    fn is_held(&self, slot: u32) -> bool {
        self.held.get(slot as usize).is_some_and(|held| held.since.is_some())
    }

    /// Gives the next one of its submission.
    fn release(&mut self, time: i64, slot: u32) -> Option<u32> {
        let held = std::mem::take(self.held.get_mut(slot as usize)?);
        if self.last == Some(slot) {
            self.last = None;
        }
        let since = held.since?;
        self.in_flight -= 1;
        self.occupancy.add(slot, since, time);
        held.next
    }

    /// Whatever is in flight is nobody's any more.
    fn release_all(&mut self, time: i64) {
        for slot in 0..self.held.len() as u32 {
            self.release(time, slot);
        }
        self.last = None;
        self.schedule = Schedule::default();
        self.mark_level(time);
    }

    fn mark_level(&mut self, time: i64) {
        let now = self.in_flight;
        self.level.at(time).fold(&Level { seen: Some((now, now)) });
    }

    /// The recording has ended: what is in flight stays so. Gives how much that is.
    pub(super) fn end(&mut self, time: i64) -> u32 {
        for (slot, held) in self.held.iter().enumerate() {
            if let Some(since) = held.since {
                self.occupancy.add(slot as u32, since, time);
            }
        }
        self.in_flight
    }

    /// How many submissions ended so.
    pub(super) fn count(&self, status: Status) -> u64 {
        self.ended[status as usize - 1]
    }

    /// Its kind in words.
    pub(super) fn kind(&self) -> &'static str {
        kind_name(self.kind)
    }
}

/// A kind in words.
pub(super) fn kind_name(kind: Option<Type>) -> &'static str {
    match kind {
        Some(kind) => crate::check::kind(kind),
        None => "never seen open",
    }
}

/// A state as drivers write it.
pub(super) fn state_name(state: Option<State>) -> &'static str {
    match state {
        Some(State::Stop) => "STOP",
        Some(State::Acquire) => "ACQUIRE",
        Some(State::Pause) => "PAUSE",
        Some(State::Run) => "RUN",
        None => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::event::{DONT_HOLD, Data};

    fn event(time: i64) -> Event {
        let data = Data::Inline([0; 8]);
        Event { struct_size: 40, event_bytes: 3, channel_group: 0, flags: 0, time, byte_position: 0, next: 0, data }
    }

    fn completion(slot: u32, status: u16) -> Completion {
        Completion { slot: slot.into(), status: status.into(), flags: 0.into(), time: 0.into() }
    }

    #[test]
    fn a_chain_goes_home_as_one() {
        let (mut stream, mut lateness) = (Stream::default(), Lateness::default());
        stream.open(0, Type::Render, 16, 0, 0);
        stream.fetch(1, 3);
        for slot in [3, 4, 5, 4] {
            stream.event(1, 1, slot, &event(DONT_HOLD), &mut lateness);
        }
        stream.fetch(1, 7);
        assert_eq!((stream.in_flight, stream.peak), (4, 4));
        stream.complete(2, &completion(3, 1), &mut lateness);
        assert_eq!((stream.in_flight, stream.count(Status::Presented), stream.strange), (1, 1, 0));
        stream.close(3);
        assert_eq!(stream.in_flight, 0);
    }

    #[test]
    fn what_cannot_be_is_counted_and_bounded() {
        let (mut stream, mut lateness) = (Stream::default(), Lateness::default());
        for slot in [u32::MAX, MAX_SLOTS, 5, 5] {
            stream.fetch(1, slot);
            stream.event(1, 1, slot ^ 1, &event(i64::MAX), &mut lateness);
        }
        stream.complete(1, &completion(9, 1), &mut lateness);
        stream.complete(1, &completion(5, 77), &mut lateness);
        assert_eq!((stream.strange, stream.in_flight), (5, 0));
        for _ in 0..1000 {
            stream.change(2, State::Run, RefTime(i64::MIN));
        }
        assert_eq!((stream.changed, stream.told.len()), (1000, TOLD));
        assert!(stream.held.len() <= MAX_SLOTS as usize);
    }
}
