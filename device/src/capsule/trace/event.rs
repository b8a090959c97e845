//! What a trace says of an event: the name of its slice, and what is in it.

use super::names::{Label, Name};
use super::proto::DebugAnnotation;
use dmus_interface::event::{Data, Event};

/// Bytes that are shown at most of anything.
const SHOWN: usize = 32;

/// The name of an event, and what else there is to say.
pub(super) fn describe(event: &Event) -> (Name, Vec<DebugAnnotation>) {
    let mut about = Vec::with_capacity(6);
    // Times with bit 63 set are due at once (DONT_HOLD).
    match u64::try_from(event.time) {
        Ok(due) => about.push(Label::Due.uint(due)),
        Err(_) => about.push(Label::AtOnce.flag(true)),
    }
    if event.channel_group != 0 {
        about.push(Label::Group.uint(event.channel_group));
    }
    let name = match event.data {
        Data::Package(_) => Name::Package,
        Data::Buffer(_) => {
            about.push(Label::Bytes.uint(event.event_bytes));
            Name::Long
        }
        Data::Inline(_) if event.event_bytes == 0 => Name::Posted,
        Data::Inline(bytes) => {
            let bytes = &bytes[..bytes.len().min(event.event_bytes.into())];
            message(bytes, &mut about)
        }
    };
    (name, about)
}

fn message(bytes: &[u8], about: &mut Vec<DebugAnnotation>) -> Name {
    let byte = |number: usize| bytes.get(number).copied().unwrap_or(0);
    let status = byte(0);
    if (0x80..0xF0).contains(&status) {
        about.push(Label::Channel.uint((status & 0x0F) + 1));
    }
    let (first, second) = (byte(1), byte(2));
    let mut with = |name, keys: &[(Label, u8)]| {
        about.extend(keys.iter().map(|&(key, value)| key.uint(value)));
        name
    };
    match status {
        0x80..=0x8F => with(Name::NoteOff, &[(Label::Key, first), (Label::Velocity, second)]),
        0x90..=0x9F => with(Name::NoteOn, &[(Label::Key, first), (Label::Velocity, second)]),
        0xA0..=0xAF => with(Name::KeyPressure, &[(Label::Key, first), (Label::Value, second)]),
        0xB0..=0xBF => with(Name::Controller, &[(Label::Controller, first), (Label::Value, second)]),
        0xC0..=0xCF => with(Name::Program, &[(Label::Program, first)]),
        0xD0..=0xDF => with(Name::ChannelPressure, &[(Label::Value, first)]),
        0xE0..=0xEF => {
            about.push(Label::Value.int(i64::from(second) * 128 + i64::from(first) - 8192));
            Name::PitchBend
        }
        _ => {
            about.push(Label::Data.text(hex(bytes)));
            if status >= 0xF0 { Name::System } else { Name::NoStatus }
        }
    }
}

/// The first bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text: Vec<String> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN {
        text.push("...".to_owned());
    }
    text.join(" ")
}
