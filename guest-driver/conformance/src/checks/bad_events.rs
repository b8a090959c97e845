//! Events that are wrong: each is refused with its reason, and the rest of the stream is unharmed.

use crate::fixture::{Fixture, NOTE, mark, message, ms};
use crate::raw::{BUFFER_SIZE, RawStream, SLOTS, seconds};
use alloc::vec::Vec;
use anyhow::ensure;
use core::sync::atomic::Ordering;
use dmus_driver::{Card, Platform};
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, Data, Event, INCOMPLETE, PACKAGE};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;

checks! {
    events_with_wrong_fields_are_rejected: "cbStruct, usFlags, usChannelGroup and cbEvent have defined values; an \
        event with another is rejected with its reason.",
    data_that_disagrees_with_cb_event_is_rejected: "The data is one whole message of cbEvent bytes; anything else is \
        rejected.",
    pointers_to_anything_but_a_buffer_are_rejected: "pbData points to an allocator buffer that holds cbEvent bytes: \
        any other pointer is rejected, and what is longer than GetBufferSize.",
    a_buffer_belongs_to_one_event_in_flight: "A buffer is recycled with its event: no two events have one.",
    chains_that_leave_the_pool_or_loop_are_rejected_whole: "A chain is of events of the pool with one time stamp, and \
        ends; any other is rejected as a whole.",
    packages_are_checked_like_chains: "A package is a chain of events; one that is empty, leaves the pool or has \
        itself inside is rejected as a whole.",
    packages_nested_without_end_are_rejected: "Packages are nested to a bounded depth; deeper ones are rejected, and \
        all of their events are recycled.",
    fragments_are_judged_as_one_message: "INCOMPLETE fragments are judged as the one message that they are.",
    slots_that_are_none_or_in_flight_are_faults: "An event is the hardware's from PutMessage until it is completed; \
        one that is put twice, or is no slot of the pool, is reported.",
    a_tail_beyond_the_ring_is_a_fault: "More events than the ring holds are reported, and stop their stream alone.",
    times_at_the_ends_of_their_range_are_held_or_played: "Any time stamp has a defined result: the largest are held, \
        those with bit 63 set play at once.",
    a_slot_for_the_other_direction_is_rejected: "An event for a stream of the wrong type is rejected: an empty one by \
        a render stream, a filled one by a capture stream.",
    the_port_driver_keeps_on_after_a_rejection: "The driver is told which event was refused and why, and plays on.",
}

/// At no time that comes.
const FAR: i64 = 1 << 40;

/// Runs a body against a fresh stream in RUN; afterwards, whatever happened, a good event must play in it.
pub(super) fn with_running<P: Platform>(
    card: &Card<P>,
    body: impl Fn(&RawStream<'_, P>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let s = RawStream::prepare(card.platform(), card.pointer_width())?;
    let run = || {
        s.create()?;
        s.set_state(State::Run)?;
        body(&s)?;
        plays_on(&s)
    };
    let result = run();
    s.close();
    result
}

/// A good event plays in the stream, after STOP and RUN.
fn plays_on<P: Platform>(s: &RawStream<'_, P>) -> anyhow::Result<()> {
    s.take_fault();
    s.set_state(State::Stop)?;
    while !s.is_drained() {
        s.completion()?;
    }
    s.set_state(State::Run)?;
    s.submit(40, s.inline(DONT_HOLD, &NOTE), seconds(1000));
    let done = s.completion()?;
    ensure!((done.slot, done.status) == (40, Status::Presented), "{done:?}");
    Ok(())
}

/// The event in slot 0 is rejected for `reason`, and a good one at the same time plays.
fn rejected<P: Platform>(
    card: &Card<P>,
    reason: Reject,
    make: impl Fn(&RawStream<'_, P>) -> Event,
) -> anyhow::Result<()> {
    with_running(card, |s| {
        s.fill(0, make(s));
        s.put(0);
        s.submit(SLOTS - 1, s.inline(0, &mark(1)), ms(1).0);
        let done = [s.completion()?, s.completion()?];
        ensure!((done[0].slot, done[0].status, done[0].reason) == (0, Status::Rejected, Some(reason)), "{done:?}");
        ensure!((done[1].slot, done[1].status) == (SLOTS - 1, Status::Presented), "{done:?}");
        Ok(())
    })
}

fn events_with_wrong_fields_are_rejected<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    // The other width's size among them.
    for struct_size in [0, 31, 33, 39, 41, 72 - card.pointer_width().event_size() as u8, 255] {
        rejected(card, Reject::BadStructSize, |s| Event { struct_size, ..s.inline(0, &NOTE) })?;
    }
    for flags in [4, 5, 0x8000, u16::MAX] {
        rejected(card, Reject::BadFlags, |s| Event { flags, ..s.inline(0, &NOTE) })?;
    }
    rejected(card, Reject::Empty, |s| s.inline(0, &[]))?;
    for channel_group in [16, u16::MAX] {
        rejected(card, Reject::BadChannelGroup, |s| Event { channel_group, ..s.inline(0, &NOTE) })?;
    }
    Ok(())
}

fn data_that_disagrees_with_cb_event_is_rejected<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    // Too few bytes, too many, no status, a data byte that is none, half of SysEx, its end alone.
    let wrong: [&[u8]; 8] = [
        &[0x90, 60],
        &[0x90, 60, 100, 0],
        &[0xC0, 1, 2],
        &[60, 100],
        &[0x90, 200, 1],
        &[0xF0, 1],
        &[0xF7],
        &[0xF8, 0xF8],
    ];
    for bytes in wrong {
        rejected(card, Reject::BadMessage, |s| s.inline(0, bytes))?;
    }
    rejected(card, Reject::BadMessage, |s| s.long(0, 0, &[0x90; 20]))?;
    // A good SysEx message of 12 bytes, of which cbEvent says less or more.
    let sysex = crate::fixture::sysex(12);
    for event_bytes in [9, 11, 13, 200] {
        rejected(card, Reject::BadMessage, |s| Event { event_bytes, ..s.long(0, 0, &sysex) })?;
    }
    // A note whose cbEvent says that it is a pointer.
    rejected(card, Reject::BadBuffer, |s| Event { event_bytes: 9, ..s.inline(0, &NOTE) })
}

fn pointers_to_anything_but_a_buffer_are_rejected<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for event_bytes in [BUFFER_SIZE as u16 + 1, u16::MAX] {
        rejected(card, Reject::TooLong, |s| s.event(0, event_bytes, Data::Buffer(s.buffer_iova(0))))?;
    }
    for wrong in [0, 8, u64::from(u32::MAX) - 7] {
        rejected(card, Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(wrong)))?;
    }
    rejected(card, Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.buffer_iova(0) + 8)))?;
    rejected(card, Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.buffer_iova(8))))?;
    rejected(card, Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.slot_iova(0))))
}

fn a_buffer_belongs_to_one_event_in_flight<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let sysex = crate::fixture::sysex(11);
    with_running(card, |s| {
        s.submit(0, s.long(FAR, 3, &sysex), 0);
        s.submit(1, s.long(FAR, 3, &sysex), 0);
        let done = s.completion()?;
        ensure!((done.slot, done.reason) == (1, Some(Reject::BufferInFlight)), "{done:?}");
        Ok(())
    })?;
    // In one chain, too.
    rejected(card, Reject::BufferInFlight, |s| {
        s.fill(1, s.long(0, 3, &sysex));
        Event { next: s.slot_iova(1), ..s.long(0, 3, &sysex) }
    })
}

fn chains_that_leave_the_pool_or_loop_are_rejected_whole<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for wrong in [8, u64::from(u32::MAX) - 63] {
        rejected(card, Reject::BadChain, |s| Event { next: wrong, ..s.inline(0, &NOTE) })?;
    }
    rejected(card, Reject::BadChain, |s| Event { next: s.slot_iova(1) + 8, ..s.inline(0, &NOTE) })?;
    rejected(card, Reject::BadChain, |s| Event { next: s.slot_iova(SLOTS), ..s.inline(0, &NOTE) })?;
    rejected(card, Reject::BadChain, |s| Event { next: s.slot_iova(0) - 64, ..s.inline(0, &NOTE) })?;
    rejected(card, Reject::SlotInFlight, |s| Event { next: s.slot_iova(0), ..s.inline(0, &NOTE) })?;
    rejected(card, Reject::SlotInFlight, |s| {
        s.fill(1, Event { next: s.slot_iova(2), ..s.inline(0, &NOTE) });
        s.fill(2, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) });
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    rejected(card, Reject::TimeMismatch, |s| {
        s.fill(1, s.inline(1, &NOTE));
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    rejected(card, Reject::FragmentInChain, |s| {
        s.fill(1, Event { flags: INCOMPLETE, ..s.inline(0, &[0xF0, 1]) });
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    // The good head of a bad chain does not sound: its slots are the driver's again, unplayed.
    with_running(card, |s| {
        s.fill(1, s.inline(0, &[0x90]));
        s.submit(0, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }, ms(1).0);
        let done = s.completion()?;
        ensure!((done.slot, done.reason) == (0, Some(Reject::BadMessage)), "{done:?}");
        for slot in [0, 1] {
            s.submit(slot, s.inline(0, &NOTE), ms(2).0);
            ensure!(s.completion()?.slot == slot, "slot {slot} is not free");
        }
        Ok(())
    })
}

fn packages_are_checked_like_chains<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    rejected(card, Reject::EmptyPackage, |s| s.event(0, 0, Data::Package(0)))?;
    rejected(card, Reject::BadChain, |s| s.event(0, 0, Data::Package(s.slot_iova(0) + 1)))?;
    rejected(card, Reject::BadChain, |s| s.event(0, 0, Data::Package(s.buffer_iova(0))))?;
    rejected(card, Reject::SlotInFlight, |s| s.event(0, 0, Data::Package(s.slot_iova(0))))?;
    // A package whose inner chain leads back to it.
    rejected(card, Reject::SlotInFlight, |s| {
        s.fill(1, Event { next: s.slot_iova(0), ..s.inline(0, &NOTE) });
        s.event(0, 0, Data::Package(s.slot_iova(1)))
    })?;
    rejected(card, Reject::FragmentInChain, |s| Event {
        flags: PACKAGE | INCOMPLETE,
        ..s.event(0, 0, Data::Package(s.slot_iova(1)))
    })
}

fn packages_nested_without_end_are_rejected<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    rejected(card, Reject::TooDeep, |s| {
        for slot in 1..20 {
            s.fill(slot, s.event(0, 0, Data::Package(s.slot_iova(slot + 1))));
        }
        s.event(0, 0, Data::Package(s.slot_iova(1)))
    })?;
    // The same through the driver: as deep as may be plays, one deeper is recycled.
    card.reset()?;
    let mut fixture = Fixture::open(card)?;
    for (number, depth) in [(1, dmus_interface::event::MAX_DEPTH), (2, dmus_interface::event::MAX_DEPTH + 1)] {
        let mut nested = message(&fixture.render, RefTime(0), &mark(number))?;
        for _ in 0..depth {
            let mut package = fixture.render.allocator().get_message()?;
            package.package(nested)?;
            nested = package;
        }
        fixture.render.put_message(nested)?;
    }
    fixture.render.flush();
    let captured = fixture.capture_until(ms(1))?;
    ensure!(crate::fixture::bytes(&captured) == [mark(1)]);
    let reason = fixture.render.allocator().last_rejection().and_then(|rejection| rejection.reason);
    ensure!(reason == Some(Reject::TooDeep), "{reason:?}");
    fixture.expect_all_free()
}

fn fragments_are_judged_as_one_message<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        let part = |bytes: &[u8]| Event { flags: INCOMPLETE, ..s.inline(0, bytes) };
        // No SysEx at the start: refused up to and including the last fragment.
        for (slot, event) in [(0, part(&[1, 2])), (1, part(&[3])), (2, s.inline(0, &[4, 0xF7]))] {
            s.submit(slot, event, ms(1).0);
            let done = s.completion()?;
            ensure!(done.reason == Some(Reject::BadMessage), "{done:?}");
        }
        // Left unfinished: the next message plays, the fault says what happened.
        s.submit(0, part(&[0xF0, 1]), ms(1).0);
        ensure!(s.completion()?.status == Status::Copied);
        s.submit(1, s.inline(ms(2).0, &NOTE), ms(2).0);
        ensure!(s.completion()?.status == Status::Presented);
        ensure!(s.take_fault() == Some(Fault::UnfinishedMessage));
        // Longer than 64 KiB.
        let piece = [0x55; BUFFER_SIZE as usize];
        let mut first = piece;
        first[0] = 0xF0;
        s.submit(0, Event { flags: INCOMPLETE, ..s.long(0, 0, &first) }, ms(2).0);
        ensure!(s.completion()?.status == Status::Copied);
        for _ in 0..255 {
            s.submit(0, Event { flags: INCOMPLETE, ..s.long(0, 0, &piece) }, ms(2).0);
            ensure!(s.completion()?.status == Status::Copied);
        }
        s.submit(0, s.inline(0, &[0xF7]), ms(2).0);
        let done = s.completion()?;
        ensure!(done.reason == Some(Reject::MessageTooLong), "{done:?}");
        Ok(())
    })
}

fn faults<P: Platform>(s: &RawStream<'_, P>) -> u32 {
    s.platform.read32(regs::FAULT_COUNT.offset)
}

fn slots_that_are_none_or_in_flight_are_faults<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        s.put(SLOTS);
        s.put(u32::MAX);
        s.publish();
        s.until("the faults", || faults(s) == 2)?;
        ensure!(s.take_fault() == Some(Fault::BadSlot));
        s.fill(7, s.inline(FAR, &NOTE));
        s.put(7);
        s.put(7);
        s.publish();
        s.until("the fault", || faults(s) == 3)?;
        ensure!(s.take_fault() == Some(Fault::SlotInFlight));
        // They complete nothing, and a good one between them plays.
        ensure!(s.is_drained());
        s.put(SLOTS);
        s.submit(8, s.inline(0, &NOTE), ms(1).0);
        let done = s.completion()?;
        ensure!((done.slot, done.status) == (8, Status::Presented), "{done:?}");
        Ok(())
    })
}

fn a_tail_beyond_the_ring_is_a_fault<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let s = RawStream::prepare(card.platform(), card.pointer_width())?;
    let run = || {
        s.create()?;
        s.set_state(State::Run)?;
        s.publish_tail(SLOTS + 1);
        s.until("the fault", || faults(&s) == 1)?;
        ensure!(s.take_fault() == Some(Fault::TailOverrun));
        // The stream stands still until it is closed; the card does not.
        s.grant(ms(100).0);
        s.reach(ms(100).0)?;
        ensure!(s.is_drained());
        s.set_state(State::Stop)?;
        ensure!(s.transition(stream::TYPE, stream::CLOSED)?.is_none());
        Ok(())
    };
    let result = run();
    s.close();
    result?;
    with_running(card, |_| Ok(()))
}

fn times_at_the_ends_of_their_range_are_held_or_played<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        // Each with bit 63 plays at once, all others wait.
        for (slot, time) in (0..).zip([i64::MAX, i64::MAX - 1, FAR, i64::MIN, -1, i64::MIN + 1, 0]) {
            s.fill(slot, s.inline(time, &mark(slot as u8)));
            s.put(slot);
        }
        s.publish();
        s.grant(ms(10).0);
        let mut done = Vec::new();
        for _ in 0..4 {
            done.push(s.completion()?);
        }
        ensure!(done.iter().all(|done| done.status == Status::Presented), "{done:?}");
        done.sort_unstable_by_key(|done| done.slot);
        ensure!(done.iter().map(|done| done.slot).eq([3, 4, 5, 6]), "{done:?}");
        s.reach(ms(10).0)?;
        ensure!(s.is_drained(), "the end of time has come");
        // Time runs neither backwards nor away: grants that make no sense are none.
        for grant in [ms(1).0, 0, -1, i64::MIN] {
            s.grant(grant);
        }
        s.submit(8, s.inline(ms(5).0, &NOTE), ms(20).0);
        let late = s.completion()?;
        ensure!((late.slot, late.status) == (8, Status::Late), "{late:?}");
        s.set_state(State::Stop)?;
        for _ in 0..3 {
            ensure!(s.completion()?.status == Status::Discarded);
        }
        let now = s.platform.doorbell().load_u64(doorbell::MASTER_TIME, Ordering::Acquire) as i64;
        ensure!((ms(10).0..=ms(20).0).contains(&now), "{now}");
        Ok(())
    })
}

fn a_slot_for_the_other_direction_is_rejected<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    // Posted for capture: no bytes, and a buffer.
    rejected(card, Reject::Empty, |s| s.event(0, 0, Data::Inline(s.buffer_iova(0).to_le_bytes())))?;
    for kind in [Type::Capture { cooked: true }, Type::Capture { cooked: false }, Type::WaveSink] {
        let s = RawStream::prepare(card.platform(), card.pointer_width())?;
        let run = || {
            s.write(stream::WAVE_RATE, 48_000);
            s.write(stream::WAVE_FORMAT, 2);
            ensure!(s.transition(stream::TYPE, kind.value())?.is_none(), "{kind:?} is refused");
            s.set_state(State::Acquire)?;
            let wrong = [
                (Reject::NotEmpty, s.inline(0, &NOTE)),
                (Reject::NotEmpty, s.long(0, 1, &crate::fixture::sysex(20))),
                (Reject::NotEmpty, s.event(0, 0, Data::Package(s.slot_iova(9)))),
                (Reject::BadBuffer, s.event(0, 0, Data::Inline([0; 8]))),
                (Reject::BadStructSize, Event { struct_size: 1, ..s.event(0, 0, Data::Inline([0; 8])) }),
            ];
            for (slot, (reason, event)) in (0..).zip(wrong) {
                s.submit(slot, event, 0);
                let done = s.completion()?;
                let is = (done.slot, done.status, done.reason);
                ensure!(is == (slot, Status::Rejected, Some(reason)), "{kind:?}: {done:?}");
            }
            // A good one waits, and STOP discards it.
            s.submit(9, s.event(0, 0, Data::Inline(s.buffer_iova(2).to_le_bytes())), 0);
            s.set_state(State::Stop)?;
            let done = s.completion()?;
            ensure!((done.slot, done.status) == (9, Status::Discarded), "{kind:?}: {done:?}");
            Ok(())
        };
        let result = run();
        s.close();
        result?;
    }
    Ok(())
}

fn the_port_driver_keeps_on_after_a_rejection<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    ensure!(fixture.render.allocator().last_rejection().is_none());
    let bad = message(&fixture.render, ms(1), &[0x90, 60])?;
    let slot = bad.slot();
    fixture.put(ms(1), &mark(1))?;
    fixture.render.put_message(bad)?;
    fixture.put(ms(1), &mark(2))?;
    let mut captured = fixture.capture_until(ms(2))?;
    let refused = fixture.render.allocator().last_rejection();
    ensure!(refused.is_some_and(|is| (is.slot, is.reason) == (slot, Some(Reject::BadMessage))), "{refused:?}");
    let mut group = message(&fixture.render, ms(1), &NOTE)?;
    group.set_channel_group(u16::MAX);
    let other = group.slot();
    fixture.render.put_message(group)?;
    fixture.put(ms(3), &mark(3))?;
    captured.extend(fixture.capture_until(ms(4))?);
    let refused = fixture.render.allocator().last_rejection();
    ensure!(refused.is_some_and(|is| (is.slot, is.reason) == (other, Some(Reject::BadChannelGroup))), "{refused:?}");
    ensure!(crate::fixture::bytes(&captured) == [mark(1), mark(2), mark(3)]);
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.rejected, counts.submitted) == (3, 2, 5), "{counts:?}");
    fixture.expect_all_free()
}
