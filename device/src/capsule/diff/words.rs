//! Steps and differences in words.
//!
//! Fed by the comparison with what was found; feeds its text.

use super::address::register;
use super::step::{Lane, Member, Placed, Stamp, Step, Submission};
use super::{Kind, Run};
use crate::capsule::Observation;
use crate::check::{hex, message, seconds};
use crate::device::Region;
use dmus_interface::command::{self, Opcode};
use dmus_interface::event::{Data, INCOMPLETE, PACKAGE, is_message};
use dmus_interface::regs::{self, stream};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;
use std::fmt::{self, Display};

impl Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

impl Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("connections and resets"),
            Self::Registers => f.write_str("register writes"),
            Self::Commands => f.write_str("commands"),
            Self::Grants => f.write_str("grants"),
            Self::States(stream) => write!(f, "states of stream {stream}"),
            Self::Submissions(stream) => write!(f, "submissions of stream {stream}"),
            Self::Completions(stream) => write!(f, "completions of stream {stream}"),
            Self::Violations(Some(stream)) => write!(f, "broken rules of stream {stream}"),
            Self::Violations(None) => f.write_str("broken rules"),
            Self::Received(input) => write!(f, "bytes of MIDI input {input}"),
            Self::Audio => f.write_str("audio"),
        }
    }
}

impl Lane {
    /// One step of it, and several.
    fn noun(self) -> [&'static str; 2] {
        match self {
            Self::Control => ["connection or reset", "connections and resets"],
            Self::Registers => ["register write", "register writes"],
            Self::Commands => ["command", "commands"],
            Self::Grants => ["grant", "grants"],
            Self::States(_) => ["change of state", "changes of state"],
            Self::Submissions(_) => ["event", "events"],
            Self::Completions(_) => ["completion", "completions"],
            Self::Violations(_) => ["broken rule", "broken rules"],
            Self::Received(_) => ["block of bytes", "blocks of bytes"],
            Self::Audio => ["block of audio", "blocks of audio"],
        }
    }

    /// What a run does to it.
    fn verb(self) -> &'static str {
        match self {
            Self::Submissions(_) => "sent",
            Self::Grants => "gave",
            Self::Registers => "made",
            _ => "had",
        }
    }
}

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = {
        let first = digits.len() % 3;
        let (head, tail) = digits.split_at(first);
        let tail = (0..tail.len()).step_by(3).map(|at| &tail[at..at + 3]);
        Some(head).filter(|head| !head.is_empty()).into_iter().chain(tail).collect()
    };
    groups.join(",")
}

/// Master time, and of which clock if it was set back before.
pub(super) fn time(stamp: &Stamp) -> String {
    match stamp.resets {
        0 | 1 => seconds(stamp.master),
        resets => format!("{} after reset {resets}", seconds(stamp.master)),
    }
}

/// Which step it is.
fn place(placed: &Placed) -> String {
    match &placed.step {
        Step::Submission(submission) => format!("submission {}", count(submission.index.into())),
        Step::Completion { index, .. } => format!("completion of submission {}", count((*index).into())),
        _ => format!("{} {}", placed.lane.noun()[0], count(placed.ordinal)),
    }
}

/// Where several are, from the first to the last.
fn places(steps: &[&Placed]) -> String {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return "nothing".into();
    };
    let of = match first.lane {
        Lane::Submissions(stream) | Lane::Completions(stream) | Lane::States(stream) => format!(" of stream {stream}"),
        _ => String::new(),
    };
    match (steps.len(), &first.step, &last.step) {
        (1, ..) => format!("{}{of}", place(first)),
        (_, Step::Submission(a), Step::Submission(b)) => {
            format!("submissions {} to {}{of}", count(a.index.into()), count(b.index.into()))
        }
        _ => format!("{} to {}{of}", place(first), count(last.ordinal)),
    }
}

/// A step of a list.
pub(super) fn line(placed: &Placed) -> String {
    let of = match placed.lane {
        Lane::States(stream) => format!("stream {stream}: "),
        Lane::Submissions(_) | Lane::Completions(_) => format!("{}: ", place(placed)),
        _ => String::new(),
    };
    format!("{of}{}", words(&placed.step))
}

fn member(member: &Member) -> Vec<String> {
    let (event, data) = (&member.event, &member.data);
    let mut parts = match event.data {
        _ if event.flags & PACKAGE != 0 => vec!["package".into()],
        _ if event.event_bytes == 0 => vec!["empty slot".into()],
        _ if data.len == 0 => vec![format!("event of {} bytes that the card did not read", event.event_bytes)],
        Data::Inline(_) | Data::Buffer(_) => vec![message(&data.shown)],
        Data::Package(_) => Vec::new(),
    };
    if data.len > 3 || data.len > 0 && !is_message(&data.shown) {
        parts.push(format!("{} bytes", count(data.len as u64)));
    }
    if event.flags & INCOMPLETE != 0 {
        parts.push("which goes on".into());
    }
    if event.channel_group != 0 {
        parts.push(format!("channel group {}", event.channel_group));
    }
    if event.event_bytes != 0 || event.flags != 0 {
        parts.push(due(event.time));
    }
    parts
}

fn due(time: i64) -> String {
    if time < 0 { "due at once".into() } else { format!("due {}", seconds(RefTime(time))) }
}

fn submission(submission: &Submission) -> String {
    let Some(first) = submission.members.first() else {
        return match submission.is_owned {
            true => "a slot that the card owned already".into(),
            false => "an entry that led to no event".into(),
        };
    };
    let mut parts = member(first);
    if submission.count > 1 {
        parts.push(format!("and {} more in one submission", count(u64::from(submission.count) - 1)));
    }
    if let Some(due) = submission.overdue {
        parts.push(format!("fetched after its time ({})", seconds(due)));
    }
    parts.join(", ")
}

/// What a register is for, where its name does not say it.
fn purpose(register: regs::Register) -> &'static str {
    match register {
        stream::SLOT_COUNT => " (slots of the pool)",
        stream::BUFFER_COUNT => " (buffers)",
        stream::BUFFER_SIZE => " (bytes of a buffer)",
        stream::SUBMISSION_SIZE | stream::COMPLETION_SIZE => " (entries of a ring)",
        _ => "",
    }
}

fn write(offset: u64, bytes: &[u8], is_address: bool) -> String {
    let value = || bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let Some(found) = register(offset) else {
        return format!("BAR0 + {offset:#x} written with {:#x}, which is no register", value());
    };
    let of = found.stream.map(|stream| format!(" of stream {stream}")).unwrap_or_default();
    let half = match (found.register.width, bytes.len(), found.high) {
        (8, 4, true) => ", upper half",
        (8, 4, false) => ", lower half",
        _ => "",
    };
    match is_address {
        true => format!("{}{of}{half} written with an address", found.register.name),
        false => format!("{}{of}{half} = {}{}", found.register.name, value(), purpose(found.register)),
    }
}

fn completion(status: u16, flags: u16, time: i64) -> String {
    match Status::decode(status) {
        Some(Status::Presented) => format!("presented at {} of stream time", seconds(RefTime(time))),
        Some(Status::Late) => format!("late by {}", seconds(RefTime(time))),
        Some(Status::Discarded) => "discarded by STOP".into(),
        Some(Status::Copied) => "copied, the message goes on".into(),
        Some(Status::Rejected) => match Reject::decode(flags) {
            Some(reason) => format!("rejected: {reason}"),
            None => format!("rejected for reason {flags}"),
        },
        None => format!("status {status}"),
    }
}

/// A step in words.
fn words(step: &Step) -> String {
    match step {
        Step::Connected => "a client connected".into(),
        Step::Disconnected => "the client has gone".into(),
        Step::Reset => "reset".into(),
        Step::Write { offset, bytes, is_address } => write(*offset, bytes, *is_address),
        Step::Enabled { memory, master } => {
            let on = |on: bool| if on { "on" } else { "off" };
            format!("memory space {}, bus-master {}", on(*memory), on(*master))
        }
        Step::Command { opcode, stream, request, status, .. } => {
            let name = Opcode::decode(*opcode).map_or(format!("command {opcode:#x}"), |opcode| format!("{opcode:?}"));
            let end = command::Status::decode(*status).map_or(format!("status {status}"), |status| status.to_string());
            format!("{name} for stream {stream}, {} bytes ({}): {end}", count(request.len as u64), hex(&request.shown))
        }
        Step::Grant { until, early: None } => format!("grant of {}", seconds(*until)),
        Step::Grant { until, early: Some(before) } => {
            format!("grant of {}, before that of {} was reached", seconds(*until), seconds(*before))
        }
        Step::Opened { kind, slots, buffers, buffer_size, .. } => {
            format!("opened, {kind:?}: pool of {slots} slots, {buffers} buffers of {buffer_size} bytes")
        }
        Step::Changed { state, time_base, .. } => {
            format!("{}, time base {}", format!("{state:?}").to_uppercase(), seconds(*time_base))
        }
        Step::Closed { .. } => "closed".into(),
        Step::Refused(fault) => format!("refused: {fault}"),
        Step::Submission(it) => submission(it),
        Step::Completion { status, flags, time, captured, .. } => {
            let with = if captured.len > 0 { format!(", with {}", hex(&captured.shown)) } else { String::new() };
            completion(*status, *flags, *time) + &with
        }
        Step::Violation { rule, .. } => match Rule::find(rule) {
            Some(known) => format!("{} {rule}: {}", known.code, known.code.meaning()),
            None => (*rule).into(),
        },
        Step::Received(bytes) => hex(bytes),
        Step::Audio { first, samples } => format!("{} frames from {} on", samples.len() / 2, count(first / 2)),
    }
}

/// The fields in which two steps differ.
fn changes(a: &Placed, b: &Placed) -> String {
    let mut parts = Vec::new();
    if let (Step::Submission(a), Step::Submission(b)) = (&a.step, &b.step)
        && let (Some(of_a), Some(of_b)) = (a.members.first(), b.members.first())
    {
        let (x, y) = (&of_a.event, &of_b.event);
        let fields = [
            ("cbStruct", x.struct_size.into(), y.struct_size.into()),
            ("cbEvent", u64::from(x.event_bytes), u64::from(y.event_bytes)),
            ("channel group", x.channel_group.into(), y.channel_group.into()),
            ("usFlags", x.flags.into(), y.flags.into()),
            ("byte position", x.byte_position, y.byte_position),
            ("events", a.count.into(), b.count.into()),
        ];
        parts.extend(
            fields.into_iter().filter(|(_, x, y)| x != y).map(|(name, x, y)| format!("{name} {y} instead of {x}")),
        );
        if x.time != y.time {
            parts.push(format!("{} instead of {}", due(y.time), due(x.time)));
        }
        if of_a.data != of_b.data {
            parts.push(format!("the bytes {} instead of {}", hex(&of_b.data.shown), hex(&of_a.data.shown)));
        }
        match (a.overdue, b.overdue) {
            (None, Some(due)) => parts.push(late(Run::B, due)),
            (Some(due), None) => parts.push(late(Run::A, due)),
            _ => {}
        }
    }
    let all = format!("A has {}, B has {}", words(&a.step), words(&b.step));
    if parts.is_empty() { all } else { format!("{}; {all}", parts.join(", ")) }
}

fn late(run: Run, due: RefTime) -> String {
    format!("the tail of {run} came after the grant that covers it: it was due {}", seconds(due))
}

/// The difference in one sentence.
pub(super) fn sentence(kind: Kind, before: &[&Placed], a: &[&Placed], b: &[&Placed]) -> String {
    let Some(first) = a.first().or(b.first()) else {
        return "the runs differ".into();
    };
    let lane = first.lane;
    let [one, many] = lane.noun();
    let verb = lane.verb();
    let several = |number: usize| match number {
        1 => format!("the {one}"),
        number => format!("the {} {many}", count(number as u64)),
    };
    let told = |steps: &[&Placed]| match steps {
        [] => String::new(),
        [only] => words(&only.step),
        [first, ..] => format!("the first: {}", words(&first.step)),
    };
    match kind {
        Kind::Lost(number) => {
            let lost = &a[..number.min(a.len())];
            format!("B lost {} that A {verb} as {}: {}", several(number), places(lost), told(lost))
        }
        Kind::Added(number) => {
            let added = &b[..number.min(b.len())];
            format!("B {verb} {} that A has not, as {}: {}", several(number), places(added), told(added))
        }
        Kind::Doubled(number) => {
            let added = &b[..number.min(b.len())];
            let original = &before[before.len().saturating_sub(number)..];
            let (original, again) = (places(original), places(added));
            format!("B {verb} {} of {original} once more, as {again}: {}", several(number), told(added))
        }
        Kind::Reordered(number) => {
            let (a, b) = (&a[..number.min(a.len())], &b[..number.min(b.len())]);
            let [of_a, of_b] = [a, b].map(|steps| steps.first().map_or(String::new(), |placed| words(&placed.step)));
            let (which, where_) = (several(number), places(a));
            format!("B {verb} {which} of {where_} in another order: A begins with {of_a}, B with {of_b}")
        }
        Kind::Changed(number) => {
            let (Some(of_a), Some(of_b)) = (a.first(), b.first()) else {
                return "the runs differ".into();
            };
            let which = places(&a[..number.min(a.len())]);
            let differ = if number == 1 { "differs" } else { "differ, the first" };
            format!("{which} {differ}: {}", changes(of_a, of_b))
        }
        Kind::Ended(run) => {
            let goes_on = if run == Run::B { a } else { b };
            let other = if run == Run::B { Run::A } else { Run::B };
            format!(
                "{run} ends where {other} goes on with {}: {}",
                places(&goes_on[..1.min(goes_on.len())]),
                told(&goes_on[..1.min(goes_on.len())])
            )
        }
        Kind::NotWaited(run) => {
            let (own, other) = if run == Run::B { (b, Run::A) } else { (a, Run::B) };
            let Some(Placed { step, stamp, .. }) = own.first() else {
                return "the runs differ".into();
            };
            let Step::Grant { until, early: Some(before) } = step else {
                return "the runs differ".into();
            };
            let [until, before] = [until, before].map(|time| seconds(*time));
            let what = format!("it granted {until} before its grant of {before} was reached, with no interrupt since");
            format!("{run} did not wait: at {} {what}; {other} waits for each of its grants", time(stamp))
        }
        Kind::Unlike => {
            let [of_a, of_b] = [a, b].map(|steps| steps.first().map_or(String::new(), |placed| words(&placed.step)));
            format!("from {} on the runs are unlike: A has {of_a}, B has {of_b}", places(&[first]))
        }
    }
}

/// An observation that host timing has a part in, in words.
pub(super) fn observation(observation: &Observation) -> String {
    match observation {
        Observation::Access { region: Region::Registers, offset, write, .. } => {
            let name = register(*offset).map_or("no register", |found| found.register.name);
            format!("a {} of {name}", if *write { "write" } else { "read" })
        }
        Observation::Access { region, write, .. } => {
            format!("a {} of {region:?}", if *write { "write" } else { "read" })
        }
        Observation::Connected => "a connection".into(),
        Observation::Disconnected => "the end of a connection".into(),
        Observation::Mapped { .. } => "memory that was mapped".into(),
        Observation::Unmapped { .. } => "memory that was taken back".into(),
        Observation::Reset => "a reset".into(),
        Observation::Granted { until } => format!("a grant of {}", seconds(*until)),
        Observation::Opened { stream, .. } => format!("the creation of stream {stream}"),
        Observation::Changed { stream, .. } => format!("a change of state of stream {stream}"),
        Observation::Closed { stream } => format!("the closing of stream {stream}"),
        Observation::Refused { stream, .. } => format!("a refused transition of stream {stream}"),
        Observation::Command { .. } => "a command".into(),
        Observation::Submitted { stream, tail } => format!("a poll that found tail {tail} of stream {stream}"),
        Observation::Fetched { stream, index, .. } => {
            format!("the fetch of submission {} of stream {stream}", count((*index).into()))
        }
        Observation::Event { stream, .. } => format!("an event of stream {stream}"),
        Observation::Data { stream, .. } => format!("data of stream {stream}"),
        Observation::Completed { stream, index, .. } => {
            format!("completion {} of stream {stream}", count((*index).into()))
        }
        Observation::Captured { stream, .. } => format!("something captured by stream {stream}"),
        Observation::Interrupt { vector } => format!("an interrupt of vector {vector}"),
        Observation::Received { input, .. } => format!("bytes of MIDI input {input}"),
        Observation::Audio { .. } => "audio".into(),
        Observation::Violation { rule, .. } => format!("a breach of {rule}"),
    }
}
