//! The tracks of a trace: their numbers in the file, their names, and what is above and below which.

use super::proto::{CounterDescriptor, EXPLICIT, INSTANT, ProcessDescriptor, TrackDescriptor, TrackEvent};
use crate::check::kind;
use dmus_interface::regs::stream::{MAX_SLOTS, Type};

/// The process that all of them belong to.
const CARD: u64 = 1;
pub(super) const DOORBELL: u64 = 2;
pub(super) const INTERRUPTS: u64 = 3;
pub(super) const VIOLATIONS: u64 = 4;
/// Connections, resets, and the clock.
pub(super) const CONNECTION: u64 = 5;
pub(super) const ACCESSES: u64 = 6;
pub(super) const MAILBOX: u64 = 7;
pub(super) const MEMORY: u64 = 8;
pub(super) const INPUTS: u64 = 9;
/// What concerns streams that are not open.
pub(super) const NOT_OPEN: u64 = 10;
pub(super) const VOICES: u64 = 11;
pub(super) const LEVEL: u64 = 12;

const FIRST_STREAM: u64 = 16;
/// From the number of a stream's track to the next one's.
const STRIDE: u64 = 8192;
const IN_FLIGHT: u64 = 1;
const LATENESS: u64 = 2;
const FIRST_SLOT: u64 = 16;
const _: () = assert!(FIRST_SLOT + MAX_SLOTS as u64 <= STRIDE);

/// The tracks of a stream. One that is opened again as another kind has others.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTracks {
    number: usize,
    kind: Type,
}

impl StreamTracks {
    pub(super) fn new(number: usize, kind: Type) -> Self {
        Self { number, kind }
    }

    /// For what happens to the stream as a whole.
    pub(super) fn stream(self) -> u64 {
        let kind = match self.kind {
            Type::Render => 0,
            Type::Capture { cooked: true } => 1,
            Type::Capture { cooked: false } => 2,
            Type::WaveSink => 3,
        };
        FIRST_STREAM + (self.number as u64 * 4 + kind) * STRIDE
    }

    pub(super) fn in_flight(self) -> u64 {
        self.stream() + IN_FLIGHT
    }

    pub(super) fn lateness(self) -> u64 {
        self.stream() + LATENESS
    }

    /// Of a slot below [`MAX_SLOTS`].
    pub(super) fn slot(self, slot: u32) -> u64 {
        self.stream() + FIRST_SLOT + u64::from(slot)
    }

    /// All of them, without the slots'.
    pub(super) fn describe(self) -> [TrackDescriptor; 3] {
        let kind = kind(self.kind);
        let stream = TrackDescriptor {
            child_ordering: Some(EXPLICIT),
            ..track(self.stream(), format!("stream {}, {kind}", self.number), CARD, self.stream())
        };
        [
            stream,
            counter(track(self.in_flight(), "slots in flight", self.stream(), IN_FLIGHT), "slots"),
            counter(track(self.lateness(), "lateness", self.stream(), LATENESS), "ms"),
        ]
    }

    pub(super) fn describe_slot(self, slot: u32) -> TrackDescriptor {
        track(self.slot(slot), format!("slot {slot}"), self.stream(), FIRST_SLOT + u64::from(slot))
    }
}

/// The tracks that every trace has.
pub(super) fn common() -> impl Iterator<Item = TrackDescriptor> {
    let card = TrackDescriptor {
        uuid: Some(CARD),
        process: Some(ProcessDescriptor { pid: Some(1), process_name: Some("DirectMusic card".to_owned()) }),
        child_ordering: Some(EXPLICIT),
        ..TrackDescriptor::default()
    };
    let events = [
        (DOORBELL, "doorbell"),
        (INTERRUPTS, "interrupts"),
        (VIOLATIONS, "violations"),
        (CONNECTION, "connection"),
        (ACCESSES, "register accesses"),
        (MAILBOX, "mailbox"),
        (MEMORY, "memory maps"),
        (INPUTS, "MIDI inputs"),
        (NOT_OPEN, "streams that are not open"),
    ];
    let counters = [(VOICES, "voices", "voices"), (LEVEL, "audio level", "dBFS")];
    let events = events.into_iter().map(|(uuid, name)| track(uuid, name, CARD, uuid));
    let counters = counters.into_iter().map(|(uuid, name, unit)| counter(track(uuid, name, CARD, uuid), unit));
    std::iter::once(card).chain(events).chain(counters)
}

fn track(uuid: u64, name: impl Into<String>, parent: u64, rank: u64) -> TrackDescriptor {
    TrackDescriptor {
        uuid: Some(uuid),
        name: Some(name.into()),
        parent_uuid: Some(parent),
        sibling_order_rank: i32::try_from(rank).ok(),
        ..TrackDescriptor::default()
    }
}

fn counter(track: TrackDescriptor, unit: &str) -> TrackDescriptor {
    TrackDescriptor { counter: Some(CounterDescriptor { unit_name: Some(unit.to_owned()) }), ..track }
}

/// An event of this type on a track.
pub(super) fn on(track: u64, r#type: i32) -> TrackEvent {
    TrackEvent { r#type: Some(r#type), track_uuid: Some(track), ..TrackEvent::default() }
}

/// An instant on a track.
pub(super) fn instant(track: u64, name_iid: u64) -> TrackEvent {
    TrackEvent { name_iid: Some(name_iid), ..on(track, INSTANT) }
}
