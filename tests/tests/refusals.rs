//! What the card refuses: every reject reason and every fault of the data sheet, each provoked once.

use dmus_card::ClockMode;
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, Data, Event, INCOMPLETE, PACKAGE, PointerWidth};
use dmus_interface::regs::stream::{self, State};
use dmus_interface::regs::{self, Fault, control};
use dmus_interface::ring::{Reject, Status};
use dmus_tests::direct::Direct;
use dmus_tests::loopback::{HostedCard, Loopback};
use dmus_tests::raw::{BUFFER_SIZE, Bus, RawStream, SLOTS, seconds};
use std::sync::atomic::Ordering;

const NOTE: [u8; 3] = [0x90, 60, 100];
const FAR: i64 = 1 << 40;

/// Runs a body against a fresh card, twice: once for each pointer width.
fn with_stream(body: impl Fn(&RawStream<'_, Loopback>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let platform = hosted.connect()?;
        let stream = RawStream::running(&platform, width)?;
        body(&stream)?;
        // Whatever happened: a good event still plays.
        stream.take_fault();
        stream.set_state(State::Stop)?;
        while !stream.is_drained() {
            stream.completion()?;
        }
        stream.set_state(State::Run)?;
        stream.submit(40, stream.inline(DONT_HOLD, &NOTE), seconds(1000));
        assert_eq!(stream.completion()?.status, Status::Presented);
        drop(platform);
        hosted.finish()?;
    }
    Ok(())
}

/// The event in slot 0 is rejected for `reason`.
fn rejected(reason: Reject, make: impl Fn(&RawStream<'_, Loopback>) -> Event) -> anyhow::Result<()> {
    with_stream(|stream| {
        stream.submit(0, make(stream), seconds(1));
        let done = stream.completion()?;
        assert_eq!((done.slot, done.status, done.reason), (0, Status::Rejected, Some(reason)));
        Ok(())
    })
}

/// DDI: cbStruct, usFlags, usChannelGroup and cbEvent have defined values; an event with another is rejected with its reason, and nothing else is harmed.
#[test]
fn events_with_wrong_fields_are_rejected() -> anyhow::Result<()> {
    rejected(Reject::BadStructSize, |s| Event { struct_size: 39, ..s.inline(0, &NOTE) })?;
    rejected(Reject::BadFlags, |s| Event { flags: 4, ..s.inline(0, &NOTE) })?;
    rejected(Reject::Empty, |s| s.inline(0, &[]))?;
    rejected(Reject::BadChannelGroup, |s| Event { channel_group: 16, ..s.inline(0, &NOTE) })
}

#[test]
fn bytes_that_are_not_one_message_are_rejected() -> anyhow::Result<()> {
    for bytes in [&[60, 100][..], &[0x90, 60], &[0x90, 200, 1], &[0xF7], &[0xF0, 1]] {
        rejected(Reject::BadMessage, |s| s.inline(0, bytes))?;
    }
    rejected(Reject::BadMessage, |s| s.long(0, 0, &[0x90; 20]))
}

/// DDI: pbData points to an allocator buffer that holds cbEvent bytes; any other pointer is rejected, and what is longer than GetBufferSize.
#[test]
fn pointers_to_anything_but_a_buffer_are_rejected() -> anyhow::Result<()> {
    rejected(Reject::TooLong, |s| s.event(0, BUFFER_SIZE as u16 + 1, Data::Buffer(s.buffer_iova(0))))?;
    for wrong in [0, 8, u64::from(u32::MAX) - 7] {
        rejected(Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(wrong)))?;
    }
    rejected(Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.buffer_iova(0) + 8)))?;
    rejected(Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.buffer_iova(8))))?;
    rejected(Reject::BadBuffer, |s| s.event(0, 20, Data::Buffer(s.slot_iova(0))))
}

/// DDI: A buffer is recycled with its event: no two events have one.
#[test]
fn a_buffer_belongs_to_one_event_in_flight() -> anyhow::Result<()> {
    with_stream(|s| {
        let sysex = [0xF0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xF7];
        s.submit(0, s.long(FAR, 3, &sysex), 0);
        s.submit(1, s.long(FAR, 3, &sysex), 0);
        let done = s.completion()?;
        assert_eq!((done.slot, done.reason), (1, Some(Reject::BufferInFlight)));
        Ok(())
    })
}

/// DDI: A chain is of events of the pool with one time stamp, and ends; any other is rejected as a whole.
#[test]
fn chains_that_leave_the_pool_or_loop_are_rejected_whole() -> anyhow::Result<()> {
    for wrong in [8, u64::from(u32::MAX) - 63] {
        rejected(Reject::BadChain, |s| Event { next: wrong, ..s.inline(0, &NOTE) })?;
    }
    rejected(Reject::BadChain, |s| Event { next: s.slot_iova(1) + 8, ..s.inline(0, &NOTE) })?;
    rejected(Reject::BadChain, |s| Event { next: s.slot_iova(SLOTS), ..s.inline(0, &NOTE) })?;
    rejected(Reject::SlotInFlight, |s| Event { next: s.slot_iova(0), ..s.inline(0, &NOTE) })?;
    rejected(Reject::SlotInFlight, |s| {
        s.fill(1, Event { next: s.slot_iova(2), ..s.inline(0, &NOTE) });
        s.fill(2, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) });
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    rejected(Reject::TimeMismatch, |s| {
        s.fill(1, s.inline(1, &NOTE));
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    rejected(Reject::FragmentInChain, |s| {
        s.fill(1, Event { flags: INCOMPLETE, ..s.inline(0, &[0xF0, 1]) });
        Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }
    })?;
    // The good head of a bad chain does not sound.
    with_stream(|s| {
        s.fill(1, s.inline(0, &[0x90]));
        s.submit(0, Event { next: s.slot_iova(1), ..s.inline(0, &NOTE) }, seconds(1));
        assert_eq!(s.completion()?.reason, Some(Reject::BadMessage));
        s.reach(seconds(1))
    })
}

/// DDI: A package is a chain of events, nested to a bounded depth; any other is rejected as a whole.
#[test]
fn packages_are_checked_like_chains() -> anyhow::Result<()> {
    rejected(Reject::EmptyPackage, |s| s.event(0, 0, Data::Package(0)))?;
    rejected(Reject::BadChain, |s| s.event(0, 0, Data::Package(s.slot_iova(0) + 1)))?;
    rejected(Reject::SlotInFlight, |s| s.event(0, 0, Data::Package(s.slot_iova(0))))?;
    rejected(Reject::FragmentInChain, |s| Event {
        flags: PACKAGE | INCOMPLETE,
        ..s.event(0, 0, Data::Package(s.slot_iova(1)))
    })?;
    rejected(Reject::TooDeep, |s| {
        for slot in 1..20 {
            s.fill(slot, s.event(0, 0, Data::Package(s.slot_iova(slot + 1))));
        }
        s.event(0, 0, Data::Package(s.slot_iova(1)))
    })
}

/// DDI: INCOMPLETE fragments are judged as the one message that they are.
#[test]
fn fragments_are_judged_as_one_message() -> anyhow::Result<()> {
    with_stream(|s| {
        let part = |bytes: &[u8]| Event { flags: INCOMPLETE, ..s.inline(0, bytes) };
        // No SysEx at the start: refused up to and including the last fragment.
        for (slot, event) in [(0, part(&[1, 2])), (1, part(&[3])), (2, s.inline(0, &[4, 0xF7]))] {
            s.submit(slot, event, seconds(1));
            assert_eq!(s.completion()?.reason, Some(Reject::BadMessage));
        }
        // Left unfinished: the next message plays, the fault says what happened.
        s.submit(0, part(&[0xF0, 1]), seconds(1));
        assert_eq!(s.completion()?.status, Status::Copied);
        s.submit(1, s.inline(seconds(2), &NOTE), seconds(2));
        assert_eq!(s.completion()?.status, Status::Presented);
        assert_eq!(s.take_fault(), Some(Fault::UnfinishedMessage));
        // Longer than 64 KiB.
        let piece = [0x55; BUFFER_SIZE as usize];
        let mut first = piece;
        first[0] = 0xF0;
        s.submit(0, Event { flags: INCOMPLETE, ..s.long(0, 0, &first) }, seconds(2));
        assert_eq!(s.completion()?.status, Status::Copied);
        for _ in 0..255 {
            s.submit(0, Event { flags: INCOMPLETE, ..s.long(0, 0, &piece) }, seconds(2));
            assert_eq!(s.completion()?.status, Status::Copied);
        }
        s.submit(0, s.inline(0, &[0xF7]), seconds(2));
        assert_eq!(s.completion()?.reason, Some(Reject::MessageTooLong));
        Ok(())
    })
}

#[test]
fn wrong_ring_entries_and_tails_are_faults_and_complete_nothing() -> anyhow::Result<()> {
    with_stream(|s| {
        s.put(SLOTS);
        s.put(u32::MAX);
        s.publish();
        s.until("the fault", || s.platform.read32(regs::FAULT_COUNT.offset) == 2)?;
        assert_eq!(s.take_fault(), Some(Fault::BadSlot));
        s.fill(7, s.inline(FAR, &NOTE));
        s.put(7);
        s.put(7);
        s.publish();
        s.until("the fault", || s.platform.read32(regs::FAULT_COUNT.offset) == 3)?;
        assert_eq!(s.take_fault(), Some(Fault::SlotInFlight));
        assert!(s.is_drained());
        Ok(())
    })?;
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.publish_tail(SLOTS + 1);
    s.until("the fault", || s.platform.read32(regs::FAULT_COUNT.offset) == 1)?;
    assert_eq!(s.take_fault(), Some(Fault::TailOverrun));
    // The stream stands still until it is closed; the card does not.
    s.grant(seconds(1));
    s.reach(seconds(1))?;
    s.set_state(State::Stop)
}

/// DDI: NewStream gives a stream of the asked type, or says what is wrong with it.
#[test]
fn streams_with_wrong_registers_are_not_created() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    type Spoil<'a> = &'a dyn Fn(&RawStream<'_, Loopback>);
    let wrong: [(Fault, Spoil<'_>); 14] = [
        (Fault::BadPool, &|s| s.write(stream::SLOT_COUNT, 0)),
        (Fault::BadPool, &|s| s.write(stream::SLOT_COUNT, 4097)),
        (Fault::BadPool, &|s| s.write(stream::SLOT_STRIDE, 96)),
        (Fault::BadPool, &|s| s.write(stream::SLOT_STRIDE, 32)),
        (Fault::BadPool, &|s| s.write64(stream::POOL_BASE, s.pool.iova + 8)),
        (Fault::BadBuffers, &|s| s.write(stream::BUFFER_SIZE, 12)),
        (Fault::BadBuffers, &|s| s.write(stream::BUFFER_COUNT, u32::MAX)),
        (Fault::BadBuffers, &|s| s.write64(stream::BUFFER_BASE, 4)),
        (Fault::BadRing, &|s| s.write(stream::SUBMISSION_SIZE, 63)),
        (Fault::BadRing, &|s| s.write(stream::COMPLETION_SIZE, 32)),
        (Fault::BadRing, &|s| s.write64(stream::COMPLETION_BASE, s.completions.iova + 8)),
        (Fault::NotMapped, &|s| s.write64(stream::COMPLETION_BASE, 0xF000_0000)),
        (Fault::NotMapped, &|s| s.write64(stream::SUBMISSION_BASE, u64::MAX - 3)),
        (Fault::NotEnabled, &|s| s.write_global(regs::CONTROL, 0)),
    ];
    for (fault, spoil) in wrong {
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        spoil(&s);
        assert_eq!(s.transition(stream::TYPE, 0)?, Some(fault));
        assert_eq!(s.take_fault(), Some(fault));
    }
    let s = RawStream::prepare(&platform, PointerWidth::Four)?;
    s.write64(stream::POOL_BASE, 1 << 32);
    assert_eq!(s.transition(stream::TYPE, 0)?, Some(Fault::BadPool));
    for kind in [2, 3, 1 | 1 << 9, 1 << 31] {
        assert_eq!(s.transition(stream::TYPE, kind)?, Some(Fault::BadValue), "type {kind}");
    }
    platform.write_config(4, &[2]);
    s.write64(stream::POOL_BASE, s.pool.iova);
    assert_eq!(s.transition(stream::TYPE, 0)?, Some(Fault::NotEnabled), "bus master off");
    Ok(())
}

/// DDI: each stream has its own pool and rings: what would share memory with another of them is refused, and the open stream plays on.
#[test]
fn pools_and_rings_that_overlap_are_refused() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    type Spoil<'a> = &'a dyn Fn(&RawStream<'_, Loopback>);
    let overlaps: [Spoil<'_>; 4] = [
        &|s| s.write64(stream::POOL_BASE, s.buffers.iova),
        &|s| s.write64(stream::SUBMISSION_BASE, s.pool.iova + u64::from((SLOTS - 1) * 64)),
        &|s| s.write64(stream::COMPLETION_BASE, s.submissions.iova),
        &|s| s.write64(stream::BUFFER_BASE, s.completions.iova - 8),
    ];
    for spoil in overlaps {
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        spoil(&s);
        assert_eq!(s.transition(stream::TYPE, 0)?, Some(Fault::Overlap));
        assert_eq!(s.take_fault(), Some(Fault::Overlap));
    }
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let words = [
        (stream::SLOT_COUNT, 1),
        (stream::SLOT_STRIDE, 64),
        (stream::SUBMISSION_SIZE, 1),
        (stream::COMPLETION_SIZE, 1),
        (stream::BUFFER_SIZE, 8),
        (stream::BUFFER_COUNT, 0),
    ];
    for (register, value) in words {
        platform.write32(stream::at(1, register).offset, value);
    }
    let own = platform.dma_alloc(4096, 64)?.iova;
    let place = |pool: u64, submissions: u64, completions: u64| {
        let bases =
            [(stream::POOL_BASE, pool), (stream::SUBMISSION_BASE, submissions), (stream::COMPLETION_BASE, completions)];
        for (register, base) in bases {
            platform.write_bar0(stream::at(1, register).offset.into(), &base.to_le_bytes());
        }
    };
    let create = || -> anyhow::Result<u32> {
        let word = |word| platform.doorbell().load_u32(doorbell::at(1, word), Ordering::Acquire);
        let before = word(doorbell::TRANSITIONS);
        platform.write32(stream::at(1, stream::TYPE).offset, 0);
        s.until("an answer", || word(doorbell::TRANSITIONS) != before)?;
        Ok(word(doorbell::REFUSAL))
    };
    for taken in [s.pool.iova + 64, s.buffers.iova, s.submissions.iova, s.completions.iova] {
        let taken = taken & !63;
        for (pool, submissions, completions) in [(taken, own, own + 64), (own, taken, own + 64), (own, own + 64, taken)]
        {
            place(pool, submissions, completions);
            assert_eq!(create()?, Fault::Overlap as u32, "{pool:#x} {submissions:#x} {completions:#x}");
        }
    }
    place(own, own + 64, own + 128);
    assert_eq!(create()?, 0);
    s.submit(0, s.inline(0, &[0x90, 60, 100]), seconds(1));
    assert_eq!(s.completion()?.status, Status::Presented);
    Ok(())
}

/// DDI: SetState and NewStream out of place have a defined result: they are refused.
#[test]
fn transitions_out_of_place_are_refused() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    assert_eq!(s.transition(stream::STATE, 3)?, Some(Fault::Closed));
    assert_eq!(s.transition(stream::TYPE, stream::CLOSED)?, Some(Fault::NotStopped));
    s.create()?;
    assert_eq!(s.transition(stream::TYPE, 0)?, Some(Fault::NotStopped), "created twice");
    assert_eq!(s.transition(stream::STATE, 4)?, Some(Fault::BadValue));
    s.set_state(State::Run)?;
    assert_eq!(s.transition(stream::TYPE, stream::CLOSED)?, Some(Fault::NotStopped));
    s.take_fault();
    for (register, value) in [(stream::SLOT_COUNT, 1), (stream::SUBMISSION_SIZE, 128)] {
        s.write(register, value);
        assert_eq!(s.take_fault(), Some(Fault::Locked), "{}", register.name);
    }
    s.write_global(regs::POINTER_WIDTH, 4);
    assert_eq!(s.take_fault(), Some(Fault::Locked));
    s.write_global(regs::CONTROL, 0);
    assert_eq!(s.take_fault(), Some(Fault::Locked));
    Ok(())
}

#[test]
fn register_accesses_that_the_data_sheet_does_not_have_read_all_ones_and_are_recorded() -> anyhow::Result<()> {
    // Without a transport: those refuse some of these before the card sees them.
    let platform = Direct::new()?;
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    let reads: [(u64, usize, Fault); 8] = [
        (0, 1, Fault::BadAccess),
        (2, 4, Fault::BadAccess),
        (0, 16, Fault::BadAccess),
        (0, 8, Fault::BadAccess),
        (0x34, 8, Fault::BadAccess),
        (0xFC, 4, Fault::Reserved),
        (4096, 4, Fault::Reserved),
        (u64::MAX - 3, 4, Fault::Reserved),
    ];
    for (offset, width, fault) in reads {
        let mut bytes = vec![0; width];
        platform.read_bar0(offset, &mut bytes);
        assert_eq!(bytes, vec![0xFF; width], "{offset:#x}");
        assert_eq!(s.take_fault(), Some(fault), "{offset:#x}, {width} bytes");
    }
    platform.read_bar0(regs::WAKE.offset.into(), &mut [0; 4]);
    assert_eq!(s.take_fault(), Some(Fault::AccessRights));
    s.write_global(regs::MAGIC, 1);
    assert_eq!(s.take_fault(), Some(Fault::AccessRights));
    s.write_global(regs::POINTER_WIDTH, 5);
    assert_eq!(s.take_fault(), Some(Fault::BadValue));
    s.write_global(regs::CONTROL, !control::RESET);
    assert_eq!(s.take_fault(), Some(Fault::BadValue));
    let mut whole = [0; 8];
    platform.read_bar0(stream::at(0, stream::POOL_BASE).offset.into(), &mut whole);
    assert_eq!(u64::from_le_bytes(whole), s.pool.iova, "an 8-byte register reads whole");
    assert_eq!(s.take_fault(), None);
    Ok(())
}

#[test]
fn memory_that_goes_away_is_a_rejection_or_a_fault_never_an_access() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.fill(0, s.inline(0, &NOTE));
    s.put(0);
    platform.unmap();
    s.publish();
    s.until("the fault", || platform.read32(regs::FAULT_COUNT.offset) > 0)?;
    assert_eq!(s.take_fault(), Some(Fault::RingFault));
    s.set_state(State::Stop)
}

#[test]
fn an_event_in_memory_that_went_away_is_rejected() -> anyhow::Result<()> {
    const ALIAS: u64 = 0x8000_0000;
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    platform.map_alias(ALIAS);
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    s.write64(stream::POOL_BASE, s.pool.iova + ALIAS);
    s.create()?;
    s.set_state(State::Run)?;
    s.submit(0, s.inline(0, &NOTE), seconds(1));
    assert_eq!(s.completion()?.status, Status::Presented);
    platform.unmap_alias(ALIAS);
    s.submit(1, s.inline(0, &NOTE), seconds(2));
    assert_eq!(s.completion()?.reason, Some(Reject::NotMapped));
    Ok(())
}

#[test]
fn a_second_transition_before_the_answer_is_dropped_and_recorded() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // The card renders, so that an answer takes a block of audio; it may still come between the two writes.
    s.grant(seconds(86_400));
    for attempt in 0.. {
        assert!(attempt < 1000, "every answer came between two writes");
        let before = s.word(doorbell::TRANSITIONS);
        s.write(stream::STATE, State::Pause as u32);
        s.write(stream::STATE, State::Run as u32);
        let busy = s.take_fault() == Some(Fault::TransitionBusy);
        let answers = if busy { 1 } else { 2 };
        s.until("the answers", || s.word(doorbell::TRANSITIONS) == before.wrapping_add(answers))?;
        if busy {
            break;
        }
    }
    // The write that was dropped changed nothing.
    assert_eq!(platform.read32(stream::at(0, stream::STATE).offset), State::Pause as u32);
    Ok(())
}

#[test]
fn bus_master_off_ends_all_access() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    platform.write_config(4, &[2, 0]);
    s.submit(0, s.inline(0, &NOTE), seconds(1));
    s.until("the fault", || platform.read32(regs::FAULT_COUNT.offset) > 0)?;
    assert_eq!(s.take_fault(), Some(Fault::RingFault));
    s.reach(seconds(1))?;
    assert!(s.is_drained());
    assert_eq!(hosted.stats.presented.get(), 0, "the event was read");
    Ok(())
}
