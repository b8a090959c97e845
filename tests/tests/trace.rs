//! Traces against Perfetto's own schema, and the check itself against traces that are wrong.
//!
//! Fed by `qemu-scripts/peers perfetto`, which has the schema.

use anyhow::{Context, ensure};
use dmus_card::capsule::trace::Trace;
use dmus_card::capsule::{Listener, Observation as O};
use dmus_card::device::Region;
use dmus_interface::command::Opcode;
use dmus_interface::event::{DONT_HOLD, Data, Event};
use dmus_interface::pci;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault};
use dmus_interface::ring::{Completion, Reject, Status};
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;
use dmus_tests::programs::{run, said, script};
use std::path::Path;
use std::process::Output;

/// What the check says of a file.
fn check(file: &Path) -> anyhow::Result<Output> {
    run(script("peers").arg("perfetto").arg(file))
}

fn event(time: i64, bytes: &[u8]) -> Event {
    let mut inline = [0; 8];
    inline[..bytes.len()].copy_from_slice(bytes);
    Event {
        struct_size: 40,
        event_bytes: bytes.len() as u16,
        channel_group: 0,
        flags: 0,
        time,
        byte_position: 0,
        next: 0,
        data: Data::Inline(inline),
    }
}

fn completion(slot: u32, status: Status, flags: u16, time: i64) -> Completion {
    Completion { slot: slot.into(), status: (status as u16).into(), flags: flags.into(), time: time.into() }
}

fn opened(stream: usize, kind: Type) -> O {
    O::Opened { stream, kind, slots: 64, buffers: 4, buffer_size: 4096 }
}

fn access(region: Region, offset: u64, write: bool, bytes: &[u8]) -> O {
    O::Access { region, offset, write, bytes: bytes.into() }
}

/// Before anything plays: a client with its memory, its registers, and streams of each kind.
fn beginning() -> Vec<O> {
    let state = u64::from(stream::at(2, stream::STATE).offset);
    let mut all = vec![
        O::Connected,
        O::Mapped { iova: 0x1000, size: 1 << 20, writable: true, shared: true },
        access(Region::Config, 4, true, &[6, 0]),
        access(Region::Registers, regs::MASTER_TIME.offset.into(), false, &[0; 8]),
        access(Region::Registers, state, true, &[3, 0, 0, 0]),
        access(Region::Registers, 0xFFC, true, &[1, 0, 0, 0]),
        access(Region::Registers, u64::MAX, true, &[1, 0, 0, 0]),
        access(Region::Doorbell, 0, true, &[0; 8]),
        access(Region::Msix, 0, true, &[0; 64]),
        O::Reset,
    ];
    let kinds = [Type::Render, Type::Capture { cooked: true }, Type::Capture { cooked: false }, Type::WaveSink];
    for (stream, kind) in kinds.into_iter().enumerate() {
        all.push(opened(stream, kind));
        for state in [State::Acquire, State::Pause, State::Run] {
            all.push(O::Changed { stream, state, time_base: RefTime(0) });
        }
    }
    for stream in [3, 7, pci::STREAMS, usize::MAX] {
        all.push(O::Refused { stream, fault: Fault::TransitionBusy });
    }
    all
}

/// One submission of each message, held for a while; those of a chain with its head.
fn messages() -> Vec<Event> {
    let mut all: Vec<Event> = (0x8..0xF).map(|status| event(500, &[status << 4, 60, 100])).collect();
    all.extend([
        event(DONT_HOLD, &[0xF8]),
        event(500, &[0xF0, 1, 2, 3, 0xF7]),
        event(500, &[60, 100]),
        event(500, &[]),
        Event { channel_group: 3, ..event(500, &[0x90, 1, 2]) },
        Event { event_bytes: 2000, data: Data::Buffer(0x2000), ..event(500, &[]) },
        Event { data: Data::Package(0x3000), ..event(500, &[]) },
    ]);
    all
}

/// All kinds of observations, with their times.
fn everything() -> Vec<(i64, O)> {
    let mut all: Vec<(i64, O)> = beginning().into_iter().map(|observation| (10, observation)).collect();
    let messages = messages();
    let count = messages.len() as u32;
    all.push((100, O::Submitted { stream: 0, tail: count }));
    for (index, event) in (0..count).zip(messages) {
        all.push((200, O::Fetched { stream: 0, index, slot: index }));
        all.push((200, O::Event { stream: 0, slot: index, event }));
        if let Data::Buffer(_) = event.data {
            all.push((200, O::Data { stream: 0, offset: 0, bytes: vec![0xF0; 2000].into() }));
        }
        if let Data::Package(_) = event.data {
            all.extend([40, 41].map(|slot| (200, O::Event { stream: 0, slot, event: Event { next: 0x80, ..event } })));
        }
    }
    all.push((200, O::Granted { until: RefTime(1000) }));
    let ends = [(Status::Presented, 0), (Status::Late, 0), (Status::Discarded, 0), (Status::Copied, 0)];
    let refused = Reject::ALL.map(|reject| (Status::Rejected, reject as u16));
    for (index, (status, flags)) in (0..count).zip(ends.into_iter().chain(refused)) {
        let completion = completion(index, status, flags, 12_345);
        all.push((300 + i64::from(index), O::Completed { stream: 0, index, completion }));
    }
    all.extend((0..=pci::VECTORS).map(|vector| (400, O::Interrupt { vector })));
    all.push((400, O::Audio { samples: vec![0; 512].into(), voices: 0 }));
    all.push((410, O::Audio { samples: vec![100, -20_000].into(), voices: 12 }));
    for (input, bytes) in [(0, &[0x90, 1, 2][..]), (9, &[0; 100]), (0, &[])] {
        all.push((420, O::Received { input, bytes: bytes.into() }));
    }
    for (opcode, status) in [(Opcode::GetCaps as u32, 0), (Opcode::SetVolume as u32, 0x13), (0x7777, 0x7777)] {
        all.push((430, O::Command { opcode, stream: u32::MAX, request: vec![1; 100].into(), status }));
    }
    all.extend(Rule::ALL.iter().enumerate().map(|(number, rule)| {
        let report = (number % 2 == 0).then(|| "Ä driver mistake\n".repeat(2000));
        let stream = Some(number).filter(|number| number % 3 == 0);
        (440, O::Violation { rule: rule.name, stream, slot: stream.map(|_| 5), report })
    }));
    // What a driver, or a recording, has wrong.
    all.extend([
        (450, O::Submitted { stream: 0, tail: u32::MAX }),
        (450, O::Submitted { stream: 5, tail: 1 }),
        (450, O::Submitted { stream: usize::MAX, tail: 1 }),
        (450, O::Fetched { stream: 0, index: count, slot: u32::MAX }),
        (450, O::Fetched { stream: 0, index: count + 1, slot: 1 }),
        (451, O::Fetched { stream: 0, index: count + 2, slot: 1 }),
        (452, O::Completed { stream: 0, index: 0, completion: completion(63, Status::Late, 0, i64::MIN) }),
        (453, O::Closed { stream: 0 }),
        (454, O::Unmapped { iova: 0x1000, size: 1 << 20 }),
        (455, O::Reset),
        // The master clock has started again.
        (1, opened(0, Type::WaveSink)),
        (2, O::Submitted { stream: 0, tail: 1 }),
        (3, O::Fetched { stream: 0, index: 0, slot: 0 }),
        (i64::MAX, O::Granted { until: RefTime(i64::MAX) }),
    ]);
    all
}

#[test]
fn a_trace_of_all_that_is_observed_is_what_perfetto_reads() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("all.pftrace");
    let mut trace = Trace::new(std::fs::File::create(&file)?);
    for (time, observation) in everything() {
        trace.observe(RefTime(time), &observation);
    }
    trace.finish()?;
    let done = check(&file)?;
    ensure!(done.status.success(), "{}", said(&done));
    let said = String::from_utf8(done.stdout)?;
    // The messages and the members of the chain, each held; then what the card did not read, and the one after a reset.
    let submissions = messages().len();
    let slices = 2 * (submissions + 2) + 2 * 2;
    assert!(said.contains(&format!(" {slices} slices, ")), "{said}");
    assert!(said.contains(&format!(" {submissions} flows that end")), "{said}");
    Ok(())
}

/// A field of a protobuf message: its number, and a varint or bytes.
enum Field<'a> {
    Number(u32, u64),
    Fixed(u32, u64),
    Bytes(u32, &'a [u8]),
}
use Field::{Bytes, Fixed, Number};

fn encoded(fields: &[Field<'_>]) -> Vec<u8> {
    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    let mut out = vec![];
    for field in fields {
        match *field {
            Number(tag, value) => {
                varint(u64::from(tag) << 3, &mut out);
                varint(value, &mut out);
            }
            Fixed(tag, value) => {
                varint(u64::from(tag) << 3 | 1, &mut out);
                out.extend(value.to_le_bytes());
            }
            Bytes(tag, bytes) => {
                varint(u64::from(tag) << 3 | 2, &mut out);
                varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
        }
    }
    out
}

const SEQUENCE: Field<'static> = Number(10, 1);
const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;
const COUNTER: u64 = 4;

/// A packet of a file.
fn packet(fields: &[Field<'_>]) -> Vec<u8> {
    encoded(&[Bytes(1, &encoded(fields))])
}

/// An event at a time of the trace's own clock, with a name unless it ends something.
fn at(time: u64, kind: u64, track: u64, more: &[Field<'_>]) -> Vec<u8> {
    let mut event = encoded(&[Number(9, kind), Number(11, track)]);
    if kind == BEGIN || kind == INSTANT {
        event.extend(encoded(&[Number(10, 1)]));
    }
    event.extend(encoded(more));
    packet(&[SEQUENCE, Number(13, 2), Number(8, time), Bytes(11, &event)])
}

/// A file with a track 1, the name 1, and then these packets.
fn file(packets: &[Vec<u8>]) -> Vec<u8> {
    let clock = encoded(&[Bytes(1, &encoded(&[Number(1, 6), Number(2, 0)]))]);
    let names = encoded(&[Bytes(2, &encoded(&[Number(1, 1), Bytes(2, b"name")]))]);
    let track = encoded(&[Number(1, 1), Bytes(2, b"track")]);
    let mut all = packet(&[SEQUENCE, Number(13, 1), Bytes(6, &clock), Bytes(12, &names)]);
    all.extend(packet(&[SEQUENCE, Bytes(60, &track)]));
    all.extend(packets.concat());
    all
}

#[test]
fn the_check_names_what_is_wrong_with_a_trace() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("wrong.pftrace");
    let whole = [at(5, BEGIN, 1, &[Fixed(47, 9)]), at(7, END, 1, &[]), at(8, INSTANT, 1, &[Fixed(48, 9)])];
    std::fs::write(&path, file(&whole))?;
    let done = check(&path)?;
    ensure!(done.status.success(), "{}", said(&done));

    let other_clock = Number(58, 64);
    let deep = encoded(&[Number(9, INSTANT), Number(10, 1), Number(11, 1), Bytes(4, &encoded(&[Number(777, 1)]))]);
    let late_track = packet(&[SEQUENCE, Bytes(60, &encoded(&[Number(1, 2), Bytes(2, b"late"), Number(5, 3)]))]);
    for (wrong, reason) in [
        (vec![0x0A, 0xFF], "is no trace"),
        (file(&[]), "no event"),
        (file(&[packet(&[SEQUENCE, Number(7777, 1)])]), "the schema does not know"),
        (file(&[packet(&[SEQUENCE, Number(13, 2), Number(8, 1), Bytes(11, &deep)])]), "the schema does not know"),
        (file(&[packet(&[Bytes(50, b"not compressed")])]), "compressed part 2"),
        (file(&[packet(&[SEQUENCE, Number(13, 2), other_clock, Number(8, 1), Bytes(11, &deep)])]), "not know"),
        (file(&[at(1, INSTANT, 7, &[])]), "track 7, which is not described"),
        (file(&[late_track]), "track 3, which is not described"),
        (file(&[at(1, INSTANT, 1, &[Number(10, 2)])]), "interned name 2 is used before it is defined"),
        (file(&[at(1, INSTANT, 1, &[Bytes(4, &encoded(&[Number(1, 5)]))])]), "name 5 of an annotation"),
        (file(&[at(1, COUNTER, 1, &[Number(30, 5)])]), "only counters have counter tracks"),
        (file(&[at(1, END, 1, &[])]), "at 1 ns a slice ends that has not begun"),
        (file(&[at(1, BEGIN, 1, &[])]), "the slice that begins at 1 ns does not end"),
        (
            file(&[at(1, BEGIN, 1, &[]), at(5, END, 1, &[]), at(3, BEGIN, 1, &[]), at(9, END, 1, &[])]),
            "nest otherwise by their times",
        ),
        (file(&[at(1, INSTANT, 1, &[Fixed(48, 9)])]), "flow 9 ends, which has not begun"),
        (file(&[at(2, INSTANT, 1, &[Fixed(47, 9)]), at(1, INSTANT, 1, &[Fixed(48, 9)])]), "which has not begun"),
    ] {
        std::fs::write(&path, wrong)?;
        let done = check(&path)?;
        let text = said(&done);
        ensure!(done.status.code() == Some(1), "{reason}: {text}");
        let line = text.lines().last().with_context(|| format!("{reason}: nothing is said"))?;
        assert!(line.contains(reason) && text.lines().count() == 1, "not `{reason}`: {text}");
    }
    Ok(())
}
