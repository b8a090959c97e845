//! What is known of a mistake: where it was made, the event with its bytes, what was expected and found, and the slot's
//! history.
//!
//! Fed by whoever finds a mistake; feeds the report.

use crate::dma::SlotWords;
use crate::dma::owners::StoreRecord;
use dmus_interface::event::{Event, PointerWidth};
use dmus_interface::regs::stream::Type;
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;

/// Bytes of an event's data that a report shows at most.
const SHOWN: usize = 64;

/// Where a mistake was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) stream: Option<usize>,
    pub(crate) slot: Option<u32>,
    /// Bytes from the start of the buffer area.
    pub(crate) buffer: Option<usize>,
    /// FAULT_DETAIL.
    pub(crate) detail: Option<u32>,
    /// Offset of a word of the doorbell page.
    pub(crate) word: Option<usize>,
}

/// What happened to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Submitted,
    Fetched,
    Held,
    Completed(Status),
    TakenHome,
}

/// A step of a slot's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) happened: Happened,
    /// Master time, and the stream's tail (submissions so far), unless that is long ago.
    pub(crate) when: Option<(RefTime, u32)>,
}

/// An event as the card fetched it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) event: Event,
    /// Its message, or the beginning of it.
    pub(crate) bytes: Vec<u8>,
}

impl Seen {
    pub(crate) fn new(words: &SlotWords, width: PointerWidth, data: &[u8]) -> Self {
        let event = words.event(width);
        let len = usize::from(event.event_bytes);
        let inline = match event.data {
            dmus_interface::event::Data::Inline(bytes) => Some(bytes),
            _ => None,
        };
        let bytes = inline.as_ref().map_or(data, |bytes| &bytes[..]);
        Self { event, bytes: bytes[..len.min(bytes.len()).min(SHOWN)].to_vec() }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    pub(crate) place: Place,
    /// Master time.
    pub(crate) time: RefTime,
    pub(crate) event: Option<Seen>,
    /// The guest's store that did it.
    pub(crate) culprit: Option<StoreRecord>,
    /// What should be there, and what is, in words.
    pub(crate) expected: Option<String>,
    pub(crate) found: Option<String>,
    /// Oldest first.
    pub(crate) history: Vec<Step>,
}

impl Details {
    /// Of a place alone.
    pub(crate) fn at(place: Place, time: RefTime) -> Self {
        Self { place, time, ..Self::default() }
    }
}

/// Bytes as text, as many as a report shows.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text: Vec<String> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN {
        text.push(format!("... ({} bytes)", bytes.len()));
    }
    text.join(" ")
}

/// A kind of stream in words.
pub(crate) fn kind(kind: Type) -> &'static str {
    match kind {
        Type::Render => "render",
        Type::Capture { cooked: true } => "capture",
        Type::Capture { cooked: false } => "capture, raw bytes",
        Type::WaveSink => "wave sink",
    }
}

/// A MIDI message in words.
pub(crate) fn message(bytes: &[u8]) -> String {
    let Some(&status) = bytes.first() else {
        return "no message".into();
    };
    let data = |number: usize| bytes.get(number).copied().unwrap_or(0);
    let channel = (status & 0x0F) + 1;
    match status {
        0x80..=0x8F => format!("note off, channel {channel}, key {}", data(1)),
        0x90..=0x9F => format!("note on, channel {channel}, key {}, velocity {}", data(1), data(2)),
        0xA0..=0xAF => format!("key pressure, channel {channel}, key {}, {}", data(1), data(2)),
        0xB0..=0xBF => format!("controller {}, channel {channel}, value {}", data(1), data(2)),
        0xC0..=0xCF => format!("program {}, channel {channel}", data(1)),
        0xD0..=0xDF => format!("channel pressure, channel {channel}, {}", data(1)),
        0xE0..=0xEF => {
            format!("pitch bend, channel {channel}, {}", i32::from(data(2)) * 128 + i32::from(data(1)) - 8192)
        }
        0xF0 => "system exclusive".into(),
        0xF8..=0xFF => "system real time".into(),
        0xF1..=0xF7 => "system common".into(),
        _ => "no status byte".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_in_words() {
        for (bytes, words) in [
            (&[0x93, 60, 100][..], "note on, channel 4, key 60, velocity 100"),
            (&[0xE0, 0, 64], "pitch bend, channel 1, 0"),
            (&[0xE0], "pitch bend, channel 1, -8192"),
            (&[0xF0, 1, 0xF7], "system exclusive"),
            (&[60, 100], "no status byte"),
            (&[], "no message"),
        ] {
            assert_eq!(message(bytes), words);
        }
    }

    #[test]
    fn a_report_shows_a_bounded_number_of_bytes() {
        assert_eq!(hex(&[0x90, 0x0A]), "90 0a");
        let long = hex(&[0; 1000]);
        assert!(long.ends_with("... (1000 bytes)") && long.len() < 64 * 3 + 20, "{long}");
    }
}
