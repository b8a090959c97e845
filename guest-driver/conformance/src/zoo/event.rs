//! Events that are wrong in themselves, or in how they hang together.

use super::{Mistake, Stream};
use crate::raw::{BUFFER_SIZE, seconds};
use anyhow::ensure;
use dmus_interface::event::{Data, Event, INCOMPLETE};
use dmus_interface::regs;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::ring::Status;

pub(super) const NOTE: [u8; 3] = [0x90, 60, 100];
const SYSEX: [u8; 11] = [0xF0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7F, 0x00, 0x41, 0xF7];
/// At no time that comes.
pub(super) const FAR: i64 = 1 << 40;

/// A stream in RUN.
pub(super) fn running(s: &Stream<'_>) -> anyhow::Result<()> {
    s.create()?;
    s.set_state(State::Run)
}

fn capturing(s: &Stream<'_>) -> anyhow::Result<()> {
    ensure!(s.transition(stream::TYPE, Type::Capture { cooked: true }.value())?.is_none(), "capture is refused");
    s.set_state(State::Acquire)
}

/// Submits an event in slot 0, and grants a second for it.
fn send(s: &Stream<'_>, event: Event) -> anyhow::Result<()> {
    s.submit(0, event, seconds(1));
    Ok(())
}

/// A SysEx message of 64 KiB in fragments, and its end.
fn send_without_end(s: &Stream<'_>) -> anyhow::Result<()> {
    let mut piece = [0x55; BUFFER_SIZE as usize];
    piece[0] = 0xF0;
    for _ in 0..(64 << 10) / BUFFER_SIZE {
        s.submit(0, Event { flags: INCOMPLETE, ..s.long(0, 0, &piece) }, seconds(1));
        let done = s.completion()?;
        ensure!(done.status == Status::Copied, "a fragment: {done:?}");
        piece[0] = 0x55;
    }
    send(s, s.inline(0, &[0xF7]))
}

pub(super) const MISTAKES: [Mistake; 17] = [
    Mistake::new("struct-size", "sets cbStruct to the size for 4-byte pointers", running, |s| {
        send(s, Event { struct_size: 32, ..s.inline(0, &NOTE) })
    })
    .refusing(1),
    Mistake::new("flags-unknown", "leaves an application's flag in usFlags", running, |s| {
        send(s, Event { flags: 0x8000, ..s.inline(0, &NOTE) })
    })
    .refusing(1),
    Mistake::new("event-empty", "submits a slot that nothing was put into", running, |s| send(s, s.inline(0, &[])))
        .refusing(1),
    Mistake::new("event-too-long", "sends one byte more than a buffer holds", running, |s| {
        send(s, s.event(0, BUFFER_SIZE as u16 + 1, Data::Buffer(s.buffer_iova(0))))
    })
    .refusing(1),
    Mistake::new("buffer-foreign", "points uData behind a header in the buffer", running, |s| {
        let event = s.long(0, 0, &SYSEX);
        send(s, Event { data: Data::Buffer(s.buffer_iova(0) + 16), ..event })
    })
    .refusing(1),
    Mistake::new("buffer-shared", "gives a buffer out again before its event completed", running, |s| {
        s.submit(1, s.long(FAR, 3, &SYSEX), 0);
        send(s, s.long(FAR, 3, &SYSEX))
    })
    .refusing(1),
    Mistake::new("chain-foreign", "stores a pointer of the guest's in pNextEvt", running, |s| {
        send(s, Event { next: 0xFFFF_8880_0010_0000, ..s.inline(0, &NOTE) })
    })
    .refusing(1),
    Mistake::new("chain-in-flight", "chains an event to itself", running, |s| {
        send(s, Event { next: s.slot_iova(0), ..s.inline(0, &NOTE) })
    })
    .refusing(1),
    Mistake::new("chain-times", "stamps the members of a chain one by one", running, |s| {
        s.fill(1, s.inline(1, &NOTE));
        send(s, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) })
    })
    .refusing(2),
    Mistake::new("package-deep", "puts packages into packages without end", running, |s| {
        for slot in 1..20 {
            s.fill(slot, s.event(0, 0, Data::Package(s.slot_iova(slot + 1))));
        }
        send(s, s.event(0, 0, Data::Package(s.slot_iova(1))))
    }),
    Mistake::new("fragment-in-chain", "chains a part of a SysEx message", running, |s| {
        s.fill(1, Event { flags: INCOMPLETE, ..s.inline(0, &[0xF0, 1]) });
        send(s, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) })
    })
    .refusing(2),
    Mistake::new("channel-group", "counts channel groups from 1", running, |s| {
        let groups = s.platform.read32(regs::CHANNEL_GROUPS.offset);
        send(s, Event { channel_group: groups as u16, ..s.inline(0, &NOTE) })
    })
    .refusing(1),
    Mistake::new("midi-malformed", "sends running status, without the status byte", running, |s| {
        send(s, s.inline(0, &NOTE[1..]))
    })
    .refusing(1),
    Mistake::new("sysex-too-long", "sends a SysEx message of more than 64 KiB in fragments", running, send_without_end)
        .refusing(1),
    Mistake::new("sysex-unfinished", "sends a note before the last fragment of SysEx", running, |s| {
        s.submit(1, Event { flags: INCOMPLETE, ..s.inline(0, &SYSEX[..4]) }, 0);
        send(s, s.inline(0, &NOTE))
    })
    .refusing(1),
    Mistake::new("package-empty", "sets PACKAGE and leaves pPackageEvt 0", running, |s| {
        send(s, s.event(0, 0, Data::Package(0)))
    }),
    Mistake::new("posted-not-empty", "posts a slot as it came home from capture", capturing, |s| {
        send(s, s.long(0, 0, &SYSEX))
    })
    .refusing(1),
];
