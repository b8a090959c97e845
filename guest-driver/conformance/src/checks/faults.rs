//! Faults: what the codes and FAULT_DETAIL say, streams that stand still after one, and requests in virtual time.

use super::bad_events::with_running;
use super::bad_streams::with_prepared;
use crate::fixture::{NOTE, ms};
use crate::raw::{BUFFER_SIZE, RawStream, SLOTS, STRIDE, seconds};
use anyhow::ensure;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use dmus_driver::{Card, Platform};
use dmus_interface::command::{MAX_REQUEST, Opcode, Status as Answered};
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, Event, INCOMPLETE, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault, Register};
use dmus_interface::ring::Status;

checks! {
    a_tail_beyond_a_busy_ring_of_any_size_is_a_fault: "More events than the ring holds are reported whatever its size, \
        also right after one was completed: none is played twice.",
    a_stream_that_stands_still_says_so: "A stream that a wrong tail has halted refuses every state but STOP; what it \
        had taken plays or is discarded, and it can be created anew.",
    a_state_takes_effect_when_the_grant_is_reached: "SetState and properties take effect at one defined time: in \
        virtual time, when what was granted before is reached.",
    the_detail_of_a_refusal_is_the_register: "NewStream and SetState say which of their parameters was wrong.",
    narrow_pointers_reach_4_gib: "With 4-byte pointers the pool and the buffers end at 4 GiB at the latest; rings may \
        be anywhere.",
    a_grant_that_moves_back_is_ignored: "The master clock never goes back: an earlier time that is granted is \
        reported, and ignored.",
    a_tail_of_a_closed_stream_is_a_fault: "Events for a stream that is not open are reported.",
    a_request_that_is_too_large_is_refused: "A download has a greatest size; a larger one is refused before its memory \
        is looked at.",
    a_message_left_unfinished_is_reported: "A SysEx message whose INCOMPLETE events are not followed by its end is \
        reported, by whatever comes instead: another message, a chain, STOP; a real-time message is none of them.",
    a_completion_has_the_time_stamp: "An event that was presented is completed with its own time; one that was not \
        held, with that of its sample.",
}

/// At no time that comes.
const FAR: i64 = 1 << 40;

/// Waits for a fault, which must be this one, and clears it.
fn expect<P: Platform>(s: &RawStream<'_, P>, fault: Fault, detail: u32) -> anyhow::Result<()> {
    s.until("the fault", || s.platform.read32(regs::FAULT.offset) != 0)?;
    let is = s.platform.read32(regs::FAULT_DETAIL.offset);
    let taken = s.take_fault();
    ensure!((taken, is) == (Some(fault), detail), "{taken:?}, {is:#x} instead of {fault:?}, {detail:#x}");
    Ok(())
}

fn a_tail_beyond_a_busy_ring_of_any_size_is_a_fault<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for entries in [4, 16, SLOTS] {
        with_prepared(card, card.pointer_width(), |s| {
            for register in [stream::SLOT_COUNT, stream::SUBMISSION_SIZE, stream::COMPLETION_SIZE] {
                s.write(register, entries);
            }
            s.create()?;
            s.set_state(State::Run)?;
            s.submit(0, s.inline(0, &NOTE), ms(1).0);
            ensure!(s.completion()?.status == Status::Presented);
            // Each entry of the ring is 0, the slot that was just completed: it would be presented again.
            let tail = 1 + entries + 5;
            s.publish_tail(tail);
            expect(s, Fault::TailOverrun, tail)?;
            s.grant(ms(100).0);
            s.reach(ms(100).0)?;
            ensure!(s.is_drained(), "a ring of {entries}: {} completions", s.word(doorbell::COMPLETION_HEAD));
            Ok(())
        })?;
    }
    Ok(())
}

fn a_stream_that_stands_still_says_so<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_prepared(card, card.pointer_width(), |s| {
        s.create()?;
        s.set_state(State::Run)?;
        for (slot, time) in [(0, FAR), (1, ms(5).0)] {
            s.fill(slot, s.inline(time, &NOTE));
            s.put(slot);
        }
        s.submit(2, s.inline(0, &NOTE), ms(1).0);
        ensure!(s.completion()?.slot == 2);
        s.publish_tail(3 + SLOTS + 1);
        expect(s, Fault::TailOverrun, 3 + SLOTS + 1)?;
        let state = stream::at(0, stream::STATE).offset;
        let refuses = || -> anyhow::Result<()> {
            for to in [State::Run, State::Pause, State::Acquire] {
                let refused = s.transition(stream::STATE, to as u32)?;
                ensure!(refused == Some(Fault::Halted), "{refused:?} for {to:?}");
                expect(s, Fault::Halted, state)?;
            }
            Ok(())
        };
        refuses()?;
        ensure!(s.word(doorbell::STATE) == State::Run as u32, "it is in RUN still");
        // A good tail does not mend it, and what was taken before plays.
        s.publish_tail(4);
        s.grant(ms(10).0);
        let done = s.completion()?;
        ensure!((done.slot, done.status, done.time) == (1, Status::Presented, ms(5).0), "{done:?}");
        s.reach(ms(10).0)?;
        ensure!(s.is_drained());
        s.set_state(State::Stop)?;
        let done = s.completion()?;
        ensure!((done.slot, done.status) == (0, Status::Discarded), "{done:?}");
        refuses()?;
        s.set_state(State::Stop)?;
        ensure!(s.transition(stream::TYPE, stream::CLOSED)?.is_none());
        s.create_anew()?;
        s.set_state(State::Run)?;
        s.submit(3, s.inline(0, &NOTE), ms(20).0);
        let done = s.completion()?;
        ensure!((done.slot, done.status) == (3, Status::Presented), "{done:?}");
        ensure!(s.take_fault().is_none());
        Ok(())
    })
}

fn a_state_takes_effect_when_the_grant_is_reached<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for _ in 0..4 {
        with_prepared(card, card.pointer_width(), |s| {
            s.create()?;
            let mut granted = 0;
            // The first ends between two samples.
            for step in [ms(300).0 + 1234, ms(500).0] {
                granted += step;
                s.grant(granted);
                s.set_state(State::Run)?;
                let base = i64::from(s.platform.read32(stream::at(0, stream::TIME_BASE).offset));
                ensure!(base == granted, "RUN took effect at {base} and not at {granted}");
                s.set_state(State::Stop)?;
            }
            // A command, too: it tells the time at which it is carried out.
            granted += seconds(1);
            s.grant(granted);
            let answer = s.command(Opcode::GetMasterClock, (0, 0), (s.buffer_iova(0), 8))?;
            ensure!(answer == Some(Answered::Done), "{answer:?}");
            let mut time = [0; 8];
            s.buffers.memory.read(0, &mut time);
            ensure!(i64::from_le_bytes(time) == granted, "{} and not {granted}", i64::from_le_bytes(time));
            Ok(())
        })?;
    }
    Ok(())
}

fn the_detail_of_a_refusal_is_the_register<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    type Spoil<P> = fn(&RawStream<'_, P>);
    let wrong: [(Fault, Register, Spoil<P>); 19] = [
        (Fault::BadPool, stream::SLOT_COUNT, |s| s.write(stream::SLOT_COUNT, 0)),
        (Fault::BadPool, stream::SLOT_STRIDE, |s| s.write(stream::SLOT_STRIDE, 96)),
        (Fault::BadPool, stream::POOL_BASE, |s| s.write64(stream::POOL_BASE, s.pool.iova + 8)),
        (Fault::BadBuffers, stream::BUFFER_SIZE, |s| s.write(stream::BUFFER_SIZE, 12)),
        (Fault::BadBuffers, stream::BUFFER_COUNT, |s| s.write(stream::BUFFER_COUNT, 4097)),
        (Fault::BadBuffers, stream::BUFFER_BASE, |s| s.write64(stream::BUFFER_BASE, s.buffers.iova + 4)),
        (Fault::BadRing, stream::SUBMISSION_SIZE, |s| s.write(stream::SUBMISSION_SIZE, 96)),
        (Fault::BadRing, stream::COMPLETION_SIZE, |s| s.write(stream::COMPLETION_SIZE, SLOTS / 2)),
        (Fault::BadRing, stream::SUBMISSION_BASE, |s| s.write64(stream::SUBMISSION_BASE, s.submissions.iova + 2)),
        (Fault::BadRing, stream::COMPLETION_BASE, |s| s.write64(stream::COMPLETION_BASE, s.completions.iova + 8)),
        (Fault::NotMapped, stream::POOL_BASE, |s| s.write64(stream::POOL_BASE, 0xF000_0000)),
        (Fault::NotMapped, stream::BUFFER_BASE, |s| s.write64(stream::BUFFER_BASE, 0xF000_0000)),
        (Fault::NotMapped, stream::SUBMISSION_BASE, |s| s.write64(stream::SUBMISSION_BASE, 0xF000_0000)),
        (Fault::NotMapped, stream::COMPLETION_BASE, |s| s.write64(stream::COMPLETION_BASE, 0xF000_0000)),
        // Of two that overlap, the later in the order of the registers.
        (Fault::Overlap, stream::BUFFER_BASE, |s| s.write64(stream::POOL_BASE, s.buffers.iova)),
        (Fault::Overlap, stream::SUBMISSION_BASE, |s| s.write64(stream::SUBMISSION_BASE, s.slot_iova(1))),
        (Fault::Overlap, stream::COMPLETION_BASE, |s| s.write64(stream::COMPLETION_BASE, s.submissions.iova)),
        (Fault::NotEnabled, stream::TYPE, |s| s.write_global(regs::CONTROL, 0)),
        (Fault::BadPool, stream::SLOT_COUNT, |s| {
            // The first that is wrong, of several.
            s.write(stream::SLOT_COUNT, 4097);
            s.write(stream::SUBMISSION_SIZE, 5);
        }),
    ];
    for (fault, register, spoil) in wrong {
        with_prepared(card, card.pointer_width(), |s| {
            spoil(s);
            let refused = s.transition(stream::TYPE, Type::Render.value())?;
            ensure!(refused == Some(fault), "{refused:?} instead of {fault:?}");
            expect(s, fault, stream::at(0, register).offset)
        })?;
    }
    with_prepared(card, card.pointer_width(), |s| {
        let refused = |written: Register, value, fault, register| -> anyhow::Result<()> {
            let refused = s.transition(written, value)?;
            ensure!(refused == Some(fault), "{refused:?} instead of {fault:?}");
            expect(s, fault, stream::at(0, register).offset)
        };
        refused(stream::TYPE, 77, Fault::BadValue, stream::TYPE)?;
        refused(stream::STATE, 3, Fault::Closed, stream::STATE)?;
        refused(stream::TYPE, stream::CLOSED, Fault::NotStopped, stream::TYPE)?;
        for (rate, format, register) in [(44_101, 2, stream::WAVE_RATE), (48_000, 3, stream::WAVE_FORMAT)] {
            s.write(stream::WAVE_RATE, rate);
            s.write(stream::WAVE_FORMAT, format);
            refused(stream::TYPE, Type::WaveSink.value(), Fault::BadValue, register)?;
        }
        s.create()?;
        refused(stream::STATE, 4, Fault::BadValue, stream::STATE)?;
        s.write(stream::SLOT_COUNT, 1);
        expect(s, Fault::Locked, stream::at(0, stream::SLOT_COUNT).offset)?;
        for (register, value, fault) in [
            (regs::POINTER_WIDTH, 5, Fault::BadValue),
            (regs::CONTROL, 4, Fault::BadValue),
            (regs::CONTROL, 0, Fault::Locked),
        ] {
            s.write_global(register, value);
            expect(s, fault, register.offset)?;
        }
        // What is about a slot has the stream above it.
        s.put(SLOTS);
        s.publish();
        expect(s, Fault::BadSlot, SLOTS)
    })
}

fn narrow_pointers_reach_4_gib<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    const END: u64 = 1 << 32;
    let pool = u64::from(SLOTS) * u64::from(STRIDE);
    let create = |width, register, base| -> anyhow::Result<Option<Fault>> {
        let answer = Cell::new(None);
        with_prepared(card, width, |s| {
            s.write64(register, base);
            answer.set(s.transition(stream::TYPE, Type::Render.value())?);
            if let Some(fault) = answer.get() {
                expect(s, fault, stream::at(0, register).offset)?;
            }
            Ok(())
        })?;
        Ok(answer.get())
    };
    let stride = u64::from(STRIDE);
    for (register, base, fault) in [
        (stream::POOL_BASE, END - pool + stride, Fault::BadPool),
        (stream::POOL_BASE, END, Fault::BadPool),
        (stream::BUFFER_BASE, END - 8, Fault::BadBuffers),
        (stream::BUFFER_BASE, END, Fault::BadBuffers),
        (stream::SUBMISSION_BASE, END << 8, Fault::NotMapped),
        (stream::COMPLETION_BASE, END << 8, Fault::NotMapped),
    ] {
        let refused = create(PointerWidth::Four, register, base)?;
        ensure!(refused == Some(fault), "{refused:?} for {} {base:#x}", register.name);
    }
    // What ends there is within reach, and wide pointers reach all. Whether there is memory is another matter.
    for (width, base) in [(PointerWidth::Four, END - pool), (PointerWidth::Eight, END << 8)] {
        let refused = create(width, stream::POOL_BASE, base)?;
        ensure!(refused != Some(Fault::BadPool), "a pool at {base:#x} with {width:?}");
    }
    Ok(())
}

fn a_grant_that_moves_back_is_ignored<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        s.grant(ms(10).0);
        s.reach(ms(10).0)?;
        s.fill(0, s.inline(ms(15).0, &NOTE));
        s.put(0);
        s.publish();
        for back in [ms(5).0, 0, -1, i64::MIN] {
            s.grant(back);
            expect(s, Fault::GrantBackward, 0)?;
        }
        let now = s.platform.doorbell().load_u64(doorbell::MASTER_TIME, Ordering::Acquire) as i64;
        ensure!(now == ms(10).0, "the clock is at {now}");
        ensure!(s.is_drained());
        s.grant(ms(20).0);
        s.reach(ms(20).0)?;
        let done = s.completion()?;
        ensure!((done.slot, done.status) == (0, Status::Presented), "{done:?}");
        ensure!(s.take_fault().is_none(), "a grant that moves on is no fault");
        Ok(())
    })
}

fn a_tail_of_a_closed_stream_is_a_fault<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let store = |s: &RawStream<'_, P>, index, tail| {
        let word = doorbell::at(index, doorbell::SUBMISSION_TAIL);
        s.platform.doorbell().store_u32(word, tail, Ordering::Release);
        s.ring();
    };
    // Again after a reset, which forgets what was reported.
    for _ in 0..2 {
        with_prepared(card, card.pointer_width(), |s| {
            store(s, 3, 0x1_0007);
            expect(s, Fault::ClosedStream, 3 << 16 | 7)?;
            // Stored before the stream is there: creating it says so, and begins at 0.
            for _ in 0..2 {
                store(s, 0, 2);
                s.create_anew()?;
                expect(s, Fault::ClosedStream, 2)?;
                s.set_state(State::Run)?;
                s.submit(0, s.inline(DONT_HOLD, &NOTE), ms(1).0);
                ensure!(s.completion()?.slot == 0);
                ensure!(s.is_drained());
                s.set_state(State::Stop)?;
                ensure!(s.transition(stream::TYPE, stream::CLOSED)?.is_none());
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn a_request_that_is_too_large_is_refused<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_prepared(card, card.pointer_width(), |s| {
        let result = (s.buffer_iova(0), BUFFER_SIZE);
        for (bytes, status) in [(MAX_REQUEST + 1, Answered::BadSize), (u32::MAX, Answered::BadSize)] {
            let answer = s.command(Opcode::Download, (s.buffer_iova(1), bytes), result)?;
            ensure!(answer == Some(status), "{answer:?} for {bytes} bytes");
        }
        // As large as may be, and nowhere.
        let answer = s.command(Opcode::Download, (u64::MAX << 28, MAX_REQUEST), result)?;
        ensure!(answer == Some(Answered::NotMapped), "{answer:?}");
        Ok(())
    })
}

fn a_message_left_unfinished_is_reported<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        let begin = |slot, bytes: &[u8]| -> anyhow::Result<()> {
            s.submit(slot, Event { flags: INCOMPLETE, ..s.inline(0, bytes) }, ms(1).0);
            let done = s.completion()?;
            ensure!((done.slot, done.status) == (slot, Status::Copied), "{done:?}");
            Ok(())
        };
        let plays = |slot, event| -> anyhow::Result<()> {
            s.submit(slot, event, ms(1).0);
            let done = s.completion()?;
            ensure!((done.slot, done.reason) == (slot, None) && done.status != Status::Copied, "{done:?}");
            Ok(())
        };
        begin(4, &[0xF0, 0x7D])?;
        plays(5, s.inline(0, &[0xF8]))?;
        begin(6, &[1])?;
        ensure!(s.take_fault().is_none(), "a real-time message left it unfinished");
        plays(7, s.inline(0, &NOTE))?;
        expect(s, Fault::UnfinishedMessage, 6)?;
        begin(8, &[0xF0, 0x7D])?;
        s.fill(10, s.inline(0, &NOTE));
        plays(9, Event { next: s.slot_iova(10), ..s.inline(0, &NOTE) })?;
        expect(s, Fault::UnfinishedMessage, 8)?;
        begin(11, &[0xF0, 0x7D])?;
        s.set_state(State::Stop)?;
        ensure!(s.platform.read32(regs::FAULT.offset) != 0, "STOP was answered before the fault was told");
        expect(s, Fault::UnfinishedMessage, 11)?;
        ensure!(s.is_drained());
        Ok(())
    })
}

fn a_completion_has_the_time_stamp<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_running(card, |s| {
        // Samples are 208.33 apart: none of these times is that of one.
        let times = [1, 12_345, 99_999];
        for (slot, time) in (0..).zip(times) {
            s.fill(slot, s.inline(time, &NOTE));
            s.put(slot);
        }
        s.publish();
        s.grant(ms(20).0);
        for time in times {
            let done = s.completion()?;
            ensure!((done.status, done.time) == (Status::Presented, time), "{done:?}");
        }
        s.reach(ms(20).0)?;
        s.submit(0, s.inline(DONT_HOLD | 1, &NOTE), ms(20).0);
        let done = s.completion()?;
        ensure!((done.status, done.time) == (Status::Presented, ms(20).0), "{done:?}");
        Ok(())
    })
}
