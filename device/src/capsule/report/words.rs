//! An observation in words.
//!
//! Fed by the last observations; feeds the page.

use super::super::Observation;
use super::html::{count, grouped, millis};
use super::recent::Kept;
use super::stream::{kind_name, state_name};
use crate::check::{hex, message, seconds};
use crate::device::Region;
use dmus_interface::command::{Opcode, Status as CommandStatus};
use dmus_interface::event::{self, Data, Event};
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::regs;
use dmus_interface::ring::{Completion, Reject, Status};
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;

/// What it is about, by which lines can be told apart.
pub(super) fn topic(what: &Observation) -> &'static str {
    match what {
        Observation::Connected
        | Observation::Disconnected
        | Observation::Mapped { .. }
        | Observation::Unmapped { .. } => "client",
        Observation::Access { .. } | Observation::Reset | Observation::Command { .. } => "register",
        Observation::Granted { .. } => "time",
        Observation::Opened { .. }
        | Observation::Changed { .. }
        | Observation::Closed { .. }
        | Observation::Refused { .. } => "stream",
        Observation::Submitted { .. } | Observation::Fetched { .. } => "submit",
        Observation::Event { .. } | Observation::Data { .. } => "event",
        Observation::Completed { .. } => "complete",
        Observation::Interrupt { .. } => "interrupt",
        Observation::Received { .. } | Observation::Captured { .. } => "input",
        Observation::Audio { .. } => "audio",
        Observation::Violation { .. } => "violation",
    }
}

/// It, as a sentence without its full stop.
pub(super) fn words(kept: &Kept) -> String {
    match &kept.what {
        Observation::Connected => "a client connected".into(),
        Observation::Disconnected => "the client has gone".into(),
        Observation::Access { region, offset, write, bytes } => access(*region, *offset, *write, bytes, kept.size),
        Observation::Mapped { iova, size, writable, shared } => {
            let rights = if *writable { "writable" } else { "for reading only" };
            let way = if *shared { "shared" } else { "by messages" };
            format!("memory {iova:#x}, {size:#x} bytes, was mapped: {rights}, {way}")
        }
        Observation::Unmapped { iova, size } => format!("memory {iova:#x}, {size:#x} bytes, was taken back"),
        Observation::Reset => "the function was reset".into(),
        Observation::Granted { until } => format!("the driver granted time up to {}", seconds(*until)),
        Observation::Opened { stream, kind, slots, buffers, buffer_size } => {
            let pool = format!("{slots} slots, {buffers} buffers of {buffer_size} bytes");
            format!("stream {stream} was opened ({}): {pool}", kind_name(Some(*kind)))
        }
        Observation::Changed { stream, state, time_base } => {
            format!("stream {stream} is in {}, its time zero at {}", state_name(Some(*state)), seconds(*time_base))
        }
        Observation::Closed { stream } => format!("stream {stream} was closed"),
        Observation::Refused { stream, fault } => {
            format!("a transition of stream {stream} was refused: {fault} (F{})", *fault as u32)
        }
        Observation::Command { opcode, stream, status, .. } => command(*opcode, *stream, kept.size, *status),
        Observation::Submitted { stream, tail } => {
            format!("stream {stream}: the tail is {tail}")
        }
        Observation::Fetched { stream, index, slot } => format!("stream {stream}: entry {index} is slot {slot}"),
        Observation::Event { stream, slot, event } => format!("stream {stream}, slot {slot}: {}", an_event(event)),
        Observation::Data { stream, offset, bytes } => {
            let what = count(kept.size, "byte");
            let more = if kept.size > bytes.len() as u64 { " ..." } else { "" };
            let is = message(bytes);
            format!("stream {stream}: {what} at buffer area + {offset:#x}: {}{more} ({is})", hex(bytes))
        }
        Observation::Captured { stream, slot, bytes } => {
            let what = count(kept.size, "byte");
            let more = if kept.size > bytes.len() as u64 { " ..." } else { "" };
            format!("stream {stream}, slot {slot}: {what} were captured: {}{more}", hex(bytes))
        }
        Observation::Completed { stream, completion, .. } => completed(*stream, completion),
        Observation::Interrupt { vector } => match *vector {
            CONTROL_VECTOR => "the control vector was raised".into(),
            stream if stream < CONTROL_VECTOR => format!("the vector of stream {stream} was raised"),
            other => format!("vector {other} was raised"),
        },
        Observation::Received { input, bytes } if bytes.is_empty() => format!("the sender of input {input} has gone"),
        Observation::Received { input, bytes } => {
            format!("input {input} received {}: {}", count(kept.size, "byte"), hex(bytes))
        }
        Observation::Audio { voices, .. } => {
            let blocks = count(kept.count, "block");
            format!("rendered {blocks}, {} frames; {} at the end", grouped(kept.size), count(*voices as u64, "voice"))
        }
        Observation::Violation { rule, stream, slot, .. } => {
            let known = Rule::find(rule);
            let meaning = known.map_or(String::new(), |rule| format!(" ({})", rule.code.meaning()));
            let code = known.map_or(String::new(), |rule| format!("{} ", rule.code));
            let stream = stream.map_or(String::new(), |stream| format!(", stream {stream}"));
            let slot = slot.map_or(String::new(), |slot| format!(", slot {slot}"));
            format!("{code}{rule} was broken{stream}{slot}{meaning}")
        }
    }
}

fn access(region: Region, offset: u64, write: bool, bytes: &[u8], size: u64) -> String {
    let place = match region {
        Region::Registers => {
            let found = u32::try_from(offset).ok().and_then(|offset| regs::find(offset & !3));
            let name = found.map_or("a reserved offset".into(), |found| {
                let half = if found.high { ", high half" } else { "" };
                let stream = found.stream.map_or(String::new(), |stream| format!(" of stream {stream}"));
                format!("{}{stream}{half}", found.register.name)
            });
            format!("{name} (BAR0 + {offset:#x})")
        }
        Region::Config => format!("configuration space + {offset:#x}"),
        Region::Doorbell => format!("the doorbell page + {offset:#x}"),
        Region::Msix => format!("the MSI-X table (BAR4 + {offset:#x})"),
    };
    let value = match (size, bytes.len()) {
        (1..=8, 1..=8) => format!("{:#x}", bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))),
        _ => format!("{} ({})", hex(bytes), count(size, "byte")),
    };
    if write { format!("wrote {value} to {place}") } else { format!("read {value} from {place}") }
}

fn command(opcode: u32, stream: u32, size: u64, status: u32) -> String {
    let name = Opcode::ALL.iter().find(|known| **known as u32 == opcode);
    let name = name.map_or("an unknown command".into(), |name| format!("{name:?}"));
    let known = CommandStatus::ALL.iter().find(|known| **known as u32 == status);
    let ended = known.map_or("unknown".into(), |status| status.to_string());
    let request = count(size, "byte");
    format!("command {name} ({opcode:#x}) for stream {stream}, {request} of request: {ended} (status {status:#x})")
}

fn an_event(event: &Event) -> String {
    let due = if event.time < 0 { "at once".into() } else { seconds(RefTime(event.time)) };
    let what = match event.data {
        Data::Inline(bytes) => message(&bytes[..bytes.len().min(event.event_bytes.into())]),
        Data::Buffer(iova) => format!("{} at {iova:#x}", count(event.event_bytes.into(), "byte")),
        Data::Package(iova) => format!("package at {iova:#x}"),
    };
    let goes_on = if event.next == 0 { "" } else { ", chain goes on" };
    let part = if event.flags & event::INCOMPLETE == 0 { "" } else { ", incomplete" };
    format!("{what}, due {due} of stream time{part}{goes_on}")
}

fn completed(stream: usize, completion: &Completion) -> String {
    let (slot, flags) = (completion.slot.get(), completion.flags.get());
    let ended = match Status::decode(completion.status.get()) {
        Some(Status::Presented) => "presented".into(),
        Some(Status::Late) => format!("presented {} late", millis(completion.time.get())),
        Some(Status::Discarded) => "discarded".into(),
        Some(Status::Copied) => "copied".into(),
        Some(Status::Rejected) => {
            let reason = Reject::ALL.iter().find(|reason| **reason as u16 == flags);
            format!("rejected: {} (R{flags})", reason.map_or("unknown".into(), |reason| reason.to_string()))
        }
        None => format!("with the unknown status {}", completion.status.get()),
    };
    format!("stream {stream}: slot {slot} went home, {ended}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::regs::stream::{self, State};

    fn told(what: Observation, size: u64) -> String {
        words(&Kept { first: 0, last: 0, count: 1, what, size })
    }

    #[test]
    fn observations_are_told_in_the_words_of_the_data_sheet() {
        let at = u64::from(stream::at(2, stream::STATE).offset);
        let write =
            Observation::Access { region: Region::Registers, offset: at, write: true, bytes: [3, 0, 0, 0].into() };
        assert_eq!(told(write, 4), format!("wrote 0x3 to STATE of stream 2 (BAR0 + {at:#x})"));
        let changed = Observation::Changed { stream: 1, state: State::Run, time_base: RefTime(5_000_000) };
        assert_eq!(told(changed, 0), "stream 1 is in RUN, its time zero at 0.500000 s");
        let completion = Completion { slot: 5.into(), status: 4.into(), flags: 7.into(), time: 0.into() };
        let completed = told(Observation::Completed { stream: 0, index: 9, completion }, 0);
        assert_eq!(completed, format!("stream 0: slot 5 went home, rejected: {} (R7)", Reject::BufferInFlight));
        assert_eq!(told(Observation::Interrupt { vector: CONTROL_VECTOR }, 0), "the control vector was raised");
    }

    #[test]
    fn codes_that_nobody_knows_are_told_as_numbers() {
        let completion = Completion { slot: 5.into(), status: 77.into(), flags: 0.into(), time: 0.into() };
        let completed = told(Observation::Completed { stream: usize::MAX, index: 9, completion }, 0);
        assert!(completed.ends_with("with the unknown status 77"), "{completed}");
        let command = Observation::Command { opcode: 999, stream: 7, request: Box::default(), status: 999 };
        assert!(told(command, 0).contains("an unknown command (0x3e7) for stream 7"));
        let read = Observation::Access { region: Region::Registers, offset: u64::MAX, write: false, bytes: [].into() };
        assert!(told(read, 0).contains("a reserved offset"));
    }
}
