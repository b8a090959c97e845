//! The words of a trace, each of which is in the file once and has a number there.
//!
//! All are known beforehand, so that no recording makes them more.

use super::proto::{DebugAnnotation, Interned, InternedData};
use dmus_interface::pci;
use dmus_interface::ring::Status;

macro_rules! interned {
    ($(#[$about:meta])* $kind:ident { $($word:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $kind { $($word,)* }

        impl $kind {
            const ALL: &[(Self, &'static str)] = &[$((Self::$word, $text),)*];

            /// Its number in the file; 0 is none.
            pub(super) const fn iid(self) -> u64 {
                self as u64 + 1
            }

            fn table() -> Vec<Interned> {
                Self::ALL.iter().map(|(word, text)| entry(word.iid(), *text)).collect()
            }
        }
    };
}

interned! {
    /// Names of slices and instants.
    Name {
        NoteOff = "note off",
        NoteOn = "note on",
        KeyPressure = "key pressure",
        Controller = "controller",
        Program = "program",
        ChannelPressure = "channel pressure",
        PitchBend = "pitch bend",
        System = "system message",
        NoStatus = "no status byte",
        Long = "long message",
        Package = "package",
        Posted = "empty slot",
        Unread = "submission",
        Held = "held",
        Copied = "data copied",
        Late = "late",
        Discarded = "discarded",
        Rejected = "rejected",
        Lost = "not completed",
        Unknown = "completion of a slot that is not in flight",
        NoSlot = "entry that is no slot",
        Twice = "slot submitted twice",
        Grant = "grant",
        Vector = "vector that the card does not have",
        Tail = "tail of a stream that is not open",
        Connected = "client connected",
        Disconnected = "client disconnected",
        Reset = "reset",
        Clock = "clock starts again",
        Opened = "opened",
        Closed = "closed",
        Stop = "STOP",
        Acquire = "ACQUIRE",
        Pause = "PAUSE",
        Run = "RUN",
        Refused = "transition refused",
        Mapped = "map",
        Unmapped = "unmap",
        Read = "read",
        Write = "write",
        Received = "MIDI received",
        Gone = "sender gone",
        Command = "unknown command",
    }
}

interned! {
    /// Names of what is told about a slice or an instant: in SQL, `debug.` and this.
    Label {
        Index = "index",
        Due = "due_100ns",
        AtOnce = "at_once",
        Group = "group",
        Channel = "channel",
        Key = "key",
        Velocity = "velocity",
        Controller = "controller",
        Program = "program",
        Value = "value",
        Bytes = "bytes",
        Data = "data",
        Status = "status",
        Late = "late_ms",
        Reason = "reason",
        Stream = "stream",
        Slot = "slot",
        Slots = "slots",
        Buffers = "buffers",
        BufferSize = "buffer_size",
        TimeBase = "time_base_100ns",
        Until = "until_100ns",
        Offset = "offset",
        Iova = "iova",
        Writable = "writable",
        Shared = "shared",
        Vector = "vector",
        Tail = "tail",
        Code = "code",
        Severity = "severity",
        Meaning = "meaning",
        Report = "report",
        Opcode = "opcode",
        Input = "input",
        Cause = "cause",
    }
}

interned! {
    /// What is often told.
    Text {
        Presented = "presented",
        Late = "late",
        Discarded = "discarded",
        Rejected = "rejected",
        Copied = "copied",
        Unknown = "no status",
        AtReset = "reset",
        AtClose = "stream closed",
        AtEnd = "end of the trace",
    }
}

impl Text {
    pub(super) fn of_status(status: Option<Status>) -> Self {
        match status {
            Some(Status::Presented) => Self::Presented,
            Some(Status::Late) => Self::Late,
            Some(Status::Discarded) => Self::Discarded,
            Some(Status::Rejected) => Self::Rejected,
            Some(Status::Copied) => Self::Copied,
            None => Self::Unknown,
        }
    }
}

const VECTORS: u64 = Name::ALL.len() as u64 + 1;
const TAILS: u64 = VECTORS + pci::VECTORS as u64;

/// The name of an interrupt.
pub(super) fn vector(vector: u16) -> u64 {
    if vector < pci::VECTORS { VECTORS + u64::from(vector) } else { Name::Vector.iid() }
}

/// The name of a new tail of an open stream.
pub(super) fn tail(stream: usize) -> u64 {
    if stream < pci::STREAMS { TAILS + stream as u64 } else { Name::Tail.iid() }
}

/// All of them.
pub(super) fn table() -> InternedData {
    let mut event_names = Name::table();
    event_names.extend((0..pci::VECTORS).map(|number| {
        let whose = if number == pci::CONTROL_VECTOR { "control".to_owned() } else { format!("stream {number}") };
        entry(vector(number), format!("vector {number}, {whose}"))
    }));
    event_names.extend((0..pci::STREAMS).map(|number| entry(tail(number), format!("tail of stream {number}"))));
    InternedData { event_names, debug_annotation_names: Label::table(), debug_annotation_string_values: Text::table() }
}

fn entry(iid: u64, text: impl Into<String>) -> Interned {
    Interned { iid: Some(iid), text: Some(text.into()) }
}

impl Label {
    fn annotation(self) -> DebugAnnotation {
        DebugAnnotation { name_iid: Some(self.iid()), ..DebugAnnotation::default() }
    }

    pub(super) fn uint(self, value: impl Into<u64>) -> DebugAnnotation {
        DebugAnnotation { uint_value: Some(value.into()), ..self.annotation() }
    }

    pub(super) fn int(self, value: i64) -> DebugAnnotation {
        DebugAnnotation { int_value: Some(value), ..self.annotation() }
    }

    pub(super) fn number(self, value: f64) -> DebugAnnotation {
        DebugAnnotation { double_value: Some(value), ..self.annotation() }
    }

    pub(super) fn flag(self, value: bool) -> DebugAnnotation {
        DebugAnnotation { bool_value: Some(value), ..self.annotation() }
    }

    /// Shown in hexadecimal.
    pub(super) fn address(self, value: u64) -> DebugAnnotation {
        DebugAnnotation { pointer_value: Some(value), ..self.annotation() }
    }

    pub(super) fn text(self, value: impl Into<String>) -> DebugAnnotation {
        DebugAnnotation { string_value: Some(value.into()), ..self.annotation() }
    }

    pub(super) fn word(self, value: Text) -> DebugAnnotation {
        DebugAnnotation { string_value_iid: Some(value.iid()), ..self.annotation() }
    }
}
