//! What the card says of a driver's mistakes: which code, what FAULT_DETAIL is about, and what is left of the stream.

use anyhow::Context;
use dmus_card::ClockMode;
use dmus_driver::{Card, Platform, RenderStream, StreamConfig};
use dmus_interface::doorbell;
use dmus_interface::event::{Event, INCOMPLETE, PointerWidth};
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault, Register, control};
use dmus_interface::ring::{CONSUMED, Status};
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::raw::{Bus, RawStream, SLOTS, seconds};
use std::sync::atomic::Ordering;
use std::time::Duration;

const NOTE: [u8; 3] = [0x90, 60, 100];

/// FAULT and FAULT_DETAIL, cleared.
fn fault<P: Platform>(s: &RawStream<'_, P>) -> Option<(Fault, u32)> {
    let detail = s.platform.read32(regs::FAULT_DETAIL.offset);
    Some((s.take_fault()?, detail))
}

fn at(register: Register) -> u32 {
    stream::at(0, register).offset
}

#[test]
fn a_tail_beyond_a_small_ring_is_reported_on_a_busy_card() -> anyhow::Result<()> {
    for size in [4, 16, 64] {
        for ahead in [size + 1, size + 5, 128] {
            let platform = Direct::new()?;
            let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
            for register in [stream::SLOT_COUNT, stream::SUBMISSION_SIZE, stream::COMPLETION_SIZE] {
                s.write(register, size);
            }
            s.create()?;
            s.set_state(State::Run)?;
            s.submit(0, s.inline(0, &NOTE), 0);
            assert_eq!(s.completion()?.status, Status::Presented);
            s.publish_tail(1 + ahead);
            platform.run_until_idle();
            assert_eq!(fault(&s), Some((Fault::TailOverrun, 1 + ahead)), "{size} entries, {ahead} ahead");
            assert!(s.is_drained(), "{size} entries, {ahead} ahead");
            assert_eq!(platform.stats.presented.get(), 1);
        }
    }
    Ok(())
}

#[test]
fn a_halted_stream_completes_what_it_has_and_can_be_stopped_closed_and_created_anew() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    for (slot, time) in [(0, seconds(1)), (1, seconds(5))] {
        s.submit(slot, s.inline(time, &NOTE), 0);
    }
    platform.run_until_idle();
    s.publish_tail(500);
    s.grant(seconds(2));
    platform.run_until_idle();
    assert_eq!(s.take_fault(), Some(Fault::TailOverrun));
    let done = s.completion()?;
    assert_eq!((done.slot, done.status, done.time), (0, Status::Presented, seconds(1)));
    for state in [State::Run, State::Pause, State::Acquire] {
        assert_eq!(s.transition(stream::STATE, state as u32)?, Some(Fault::Halted));
        assert_eq!(fault(&s), Some((Fault::Halted, at(stream::STATE))));
    }
    s.set_state(State::Stop)?;
    let discarded = s.completion()?;
    assert_eq!((discarded.slot, discarded.status), (1, Status::Discarded));
    assert_eq!(s.transition(stream::TYPE, stream::CLOSED)?, None);
    assert_eq!(s.transition(stream::TYPE, Type::Render.value())?, None);
    s.set_state(State::Run)?;
    Ok(())
}

#[test]
fn in_virtual_time_a_state_takes_effect_when_the_grant_before_it_is_reached() -> anyhow::Result<()> {
    for _ in 0..20 {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let platform = hosted.connect()?;
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        s.create()?;
        s.grant(seconds(3) + 7);
        s.set_state(State::Run)?;
        let base = platform.read32(at(stream::TIME_BASE));
        assert_eq!(i64::from(base), seconds(3) + 7);
    }
    Ok(())
}

#[test]
fn the_detail_of_a_refused_configuration_names_the_register() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let wrong: [(Register, u32, Fault); 10] = [
        (stream::SLOT_COUNT, 0, Fault::BadPool),
        (stream::SLOT_STRIDE, 96, Fault::BadPool),
        (stream::POOL_BASE, 8, Fault::BadPool),
        (stream::BUFFER_SIZE, 12, Fault::BadBuffers),
        (stream::BUFFER_COUNT, 5000, Fault::BadBuffers),
        (stream::SUBMISSION_SIZE, 48, Fault::BadRing),
        (stream::COMPLETION_SIZE, 16, Fault::BadRing),
        (stream::SUBMISSION_BASE, 2, Fault::BadRing),
        (stream::COMPLETION_BASE, 8, Fault::BadRing),
        (stream::BUFFER_BASE, 0, Fault::NotMapped),
    ];
    for (register, value, code) in wrong {
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        match register.width {
            8 => s.write64(register, value.into()),
            _ => s.write(register, value),
        }
        assert_eq!(s.transition(stream::TYPE, Type::Render.value())?, Some(code), "{}", register.name);
        assert_eq!(fault(&s), Some((code, at(register))), "{}", register.name);
        s.close();
    }
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    s.write64(stream::SUBMISSION_BASE, s.pool.iova);
    assert_eq!(s.transition(stream::TYPE, Type::Render.value())?, Some(Fault::Overlap));
    assert_eq!(fault(&s), Some((Fault::Overlap, at(stream::SUBMISSION_BASE))));
    assert_eq!(s.transition(stream::TYPE, 77)?, Some(Fault::BadValue));
    assert_eq!(fault(&s), Some((Fault::BadValue, at(stream::TYPE))));
    Ok(())
}

#[test]
fn a_grant_that_moves_back_or_is_negative_is_reported_and_ignored() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.grant(seconds(2));
    platform.run_until_idle();
    for wrong in [seconds(1), -1, i64::MIN] {
        s.grant(wrong);
        platform.run_until_idle();
        assert_eq!(fault(&s), Some((Fault::GrantBackward, 0)), "{wrong}");
        let now = s.platform.doorbell().load_u64(doorbell::MASTER_TIME, Ordering::Acquire);
        assert_eq!(now as i64, seconds(2));
    }
    s.grant(seconds(3));
    platform.run_until_idle();
    assert_eq!(platform.stats.samples.get(), 3 * 48_000);
    assert_eq!(s.take_fault(), None);
    Ok(())
}

#[test]
fn a_tail_that_moves_back_is_reported_as_a_guest_that_went_back_and_halts_the_stream() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    for slot in 0..3 {
        s.submit(slot, s.inline(0, &NOTE), seconds(2));
        assert_eq!(s.completion()?.slot, slot);
    }
    // What the driver of a snapshot stores that is older than this: its next submission, and its grant for that.
    s.grant(seconds(1));
    s.publish_tail(2);
    platform.run_until_idle();
    assert_eq!(platform.read32(regs::FAULT_COUNT.offset), 2);
    assert_eq!(fault(&s), Some((Fault::GrantBackward, 0)));
    s.publish_tail(1);
    platform.run_until_idle();
    assert_eq!(fault(&s), None, "the stream stands still and says so once");
    assert_eq!(s.transition(stream::STATE, State::Pause as u32)?, Some(Fault::Halted));
    assert!(s.is_drained());
    // Alone, with the card's index about to wrap or not.
    for back in [1, 3] {
        platform.device_reset();
        platform.write_config(4, &[6, 0]);
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.submit(0, s.inline(0, &NOTE), 0);
        assert_eq!(s.completion()?.slot, 0);
        let tail = 1u32.wrapping_sub(back);
        s.publish_tail(tail);
        platform.run_until_idle();
        assert_eq!(fault(&s), Some((Fault::TailBackward, tail & 0xFFFF)));
    }
    Ok(())
}

#[test]
fn bus_mastering_that_is_turned_off_for_a_reset_is_no_fault_and_otherwise_one() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    for resets in [true, false] {
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.submit(0, s.inline(0, &NOTE), 0);
        // As QEMU does at system_reset, with a submission that is still to be fetched.
        platform.write_config(4, &[2, 0]);
        for _ in 0..10 {
            platform.turn();
        }
        if resets {
            platform.device_reset();
            platform.run_until_idle();
            assert_eq!(platform.stats.faults.get(), 0);
            platform.write_config(4, &[6, 0]);
        } else {
            assert_eq!(s.take_fault(), None);
            platform.run_until_idle();
            assert_eq!(fault(&s), Some((Fault::RingFault, 0)));
        }
    }
    Ok(())
}

#[test]
fn bus_mastering_off_and_on_around_a_running_stream_is_a_mistake_unless_a_reset_comes_between() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let checker = platform.check();
    let function_reset = || platform.write_config(0x49, &[0x80]);
    let resets: [&dyn Fn(); 3] =
        [&|| platform.device_reset(), &|| platform.write32(regs::CONTROL.offset, control::RESET), &function_reset];
    for reset in resets {
        RawStream::running(&platform, PointerWidth::Eight)?;
        platform.write_config(4, &[2, 0]);
        reset();
        platform.write_config(4, &[6, 0]);
        assert!(checker.counts().is_empty(), "{:?}", checker.counts());
    }
    for (state, mistakes) in [(State::Stop, 0), (State::Pause, 1), (State::Run, 2)] {
        RawStream::running(&platform, PointerWidth::Eight)?.set_state(state)?;
        platform.write_config(4, &[2, 0]);
        platform.write_config(4, &[6, 0]);
        let named: u64 = checker.counts().iter().map(|(_, count)| count).sum();
        assert_eq!(named, mistakes, "{state:?}: {:?}", checker.counts());
    }
    Ok(())
}

#[test]
fn a_tail_stored_for_a_closed_stream_is_reported_when_a_stream_is_created_there() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    s.publish_tail(3);
    s.create()?;
    assert_eq!(fault(&s), Some((Fault::ClosedStream, 3)));
    assert_eq!(s.word(doorbell::SUBMISSION_TAIL), 0, "creating a stream zeroes its words");
    s.set_state(State::Run)?;
    assert!(s.is_drained());
    Ok(())
}

#[test]
fn a_fault_that_is_found_on_the_way_to_sleep_is_an_interrupt_at_once() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.until("the card's sleep", || platform.doorbell().load_u32(doorbell::WAKE_ARMED, Ordering::Relaxed) != 0)?;
    while platform.wait(CONTROL_VECTOR, Duration::ZERO) {}
    // Woken, it finds nothing to do but this.
    platform.doorbell().store_u32(doorbell::at(3, doorbell::SUBMISSION_TAIL), 7, Ordering::Release);
    s.ring();
    assert!(platform.wait(CONTROL_VECTOR, Duration::from_secs(10)));
    assert_eq!(fault(&s), Some((Fault::ClosedStream, 3 << 16 | 7)));
    Ok(())
}

#[test]
fn a_message_left_unfinished_is_rejected_once_and_the_fault_names_its_last_fragment() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let begin = |slot, bytes: &[u8]| -> anyhow::Result<()> {
        s.submit(slot, Event { flags: INCOMPLETE, ..s.inline(0, bytes) }, 0);
        assert_eq!(s.completion()?.status, Status::Copied);
        Ok(())
    };
    begin(3, &[0xF0, 0x7D])?;
    begin(4, &[1])?;
    s.submit(5, s.inline(0, &NOTE), 0);
    assert_eq!(s.completion()?.status, Status::Presented);
    assert_eq!(fault(&s), Some((Fault::UnfinishedMessage, 4)));
    assert_eq!(platform.stats.rejected.get(), 1);
    begin(6, &[0xF0, 0x7D])?;
    s.set_state(State::Stop)?;
    assert_eq!(fault(&s), Some((Fault::UnfinishedMessage, 6)));
    assert_eq!(platform.stats.rejected.get(), 2);
    // The next message begins anew.
    s.set_state(State::Run)?;
    s.submit(7, s.inline(0, &NOTE), 0);
    assert_eq!(s.completion()?.status, Status::Presented);
    assert_eq!((fault(&s), platform.stats.rejected.get()), (None, 2));
    Ok(())
}

#[test]
fn what_is_told_of_a_mistake_is_about_the_slot_that_it_names_and_says_when() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let checker = platform.check();
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.grant(seconds(2));
    s.reach(seconds(2))?;
    // Held, and submitted once more; and a message that another one breaks off.
    s.fill(5, s.inline(seconds(3), &NOTE));
    s.put(5);
    s.put(5);
    s.fill(6, Event { flags: INCOMPLETE, ..s.inline(0, &[0xF0, 0x7D]) });
    s.put(6);
    s.fill(7, s.inline(0, &NOTE));
    s.put(7);
    s.publish();
    platform.run_until_idle();
    let report = checker.json();
    for (name, slot) in [("slot-resubmitted", 5), ("sysex-unfinished", 6)] {
        let violations = report["violations"].as_array().into_iter().flatten();
        let told = violations.map(|violation| (&violation["name"], &violation["first"])).find(|told| told.0 == name);
        let first = told.with_context(|| format!("{name} is not told of: {report:#}"))?.1;
        assert_eq!((&first["slot"], &first["master_time_100ns"]), (&slot.into(), &seconds(2).into()), "{report:#}");
    }
    Ok(())
}

#[test]
fn a_ring_that_went_away_is_named_with_the_entry_that_could_not_be_reached() -> anyhow::Result<()> {
    const FURTHER_UP: u64 = 1 << 30;
    for ring in [stream::COMPLETION_BASE.offset, stream::SUBMISSION_BASE.offset] {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let platform = hosted.connect()?;
        platform.map_alias(FURTHER_UP);
        let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        // In its first round, or in the next one.
        let events = if ring == stream::COMPLETION_BASE.offset {
            s.write64(stream::COMPLETION_BASE, s.completions.iova + FURTHER_UP);
            3
        } else {
            s.write64(stream::SUBMISSION_BASE, s.submissions.iova + FURTHER_UP);
            SLOTS + 3
        };
        s.create()?;
        s.set_state(State::Run)?;
        for _ in 0..events {
            s.submit(0, s.inline(0, &NOTE), 1000);
            s.completion()?;
        }
        platform.unmap_alias(FURTHER_UP);
        // More than a change of maps: the client is not moving memory.
        platform.read32(regs::MAGIC.offset);
        s.submit(0, s.inline(0, &NOTE), 2000);
        s.until("the fault", || platform.read32(regs::FAULT.offset) != 0)?;
        assert_eq!(fault(&s), Some((Fault::RingFault, 3)), "the ring of {ring:#x}");
    }
    Ok(())
}

#[test]
fn a_fault_names_the_stream_that_it_is_about() -> anyhow::Result<()> {
    for index in [0, 3, 7] {
        let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
        let _stream = RenderStream::open(&card, index, StreamConfig::default())?;
        let platform = card.platform();
        platform.doorbell().store_u32(doorbell::at(index, doorbell::SUBMISSION_TAIL), 0x1_2345, Ordering::Release);
        platform.run_until_idle();
        assert_eq!(platform.read32(regs::FAULT.offset), Fault::TailOverrun as u32);
        assert_eq!(platform.read32(regs::FAULT_DETAIL.offset), (index as u32) << 16 | 0x2345);
    }
    Ok(())
}

#[test]
fn an_entry_that_was_never_put_into_the_ring_is_named_as_the_card_has_left_it() -> anyhow::Result<()> {
    for index in [0, 3, 7] {
        let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
        // A card that checks leaves a number there that is no slot.
        let _checker = card.platform().check();
        let rendering = RenderStream::open(&card, index, StreamConfig { slots: 4, ..StreamConfig::default() })?;
        rendering.set_state(State::Run)?;
        let platform = card.platform();
        let entries = platform.read32(stream::at(index, stream::SUBMISSION_SIZE).offset);
        // Once around, and one entry further.
        for _ in 0..entries {
            let mut message = rendering.allocator().get_message()?;
            message.set_data(&NOTE)?;
            rendering.put_message(message)?;
            rendering.flush();
            platform.run_until_idle();
            rendering.allocator().reclaim()?;
        }
        assert_eq!((platform.stats.presented.get(), platform.stats.faults.get()), (entries.into(), 0));
        let tail = doorbell::at(index, doorbell::SUBMISSION_TAIL);
        platform.doorbell().store_u32(tail, entries + 1, Ordering::Release);
        platform.run_until_idle();
        assert_eq!(platform.read32(regs::FAULT.offset), Fault::BadSlot as u32);
        assert_eq!(platform.read32(regs::FAULT_DETAIL.offset), (index as u32) << 16 | CONSUMED & 0xFFFF);
    }
    Ok(())
}
