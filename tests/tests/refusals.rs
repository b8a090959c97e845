//! What the card refuses and a guest alone cannot try: accesses that no driver makes, memory and rights that are taken
//! away. What a guest can try is in `dmus_conformance`.

use dmus_card::ClockMode;
use dmus_driver::Platform;
use dmus_interface::command::{Opcode, Status as Answered};
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault, Register, control};
use dmus_interface::ring::{Reject, Status};
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::raw::{Bus, RawStream, seconds};

const NOTE: [u8; 3] = [0x90, 60, 100];

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
    assert_eq!(s.transition(stream::STATE, State::Run as u32)?, Some(Fault::Halted));
    let answer = s.command(Opcode::GetMasterClock, (0, 0), (s.buffer_iova(0), 8))?;
    assert_eq!(answer, Some(Answered::NotMapped), "a command that could not tell its result");
    s.set_state(State::Stop)?;
    assert_eq!(s.transition(stream::TYPE, stream::CLOSED)?, None);
    assert_eq!(s.transition(stream::TYPE, 0)?, Some(Fault::NotEnabled), "created");
    Ok(())
}

#[test]
fn memory_that_the_card_has_to_write_to_may_not_be_read_only() -> anyhow::Result<()> {
    const ABOVE: u64 = 0x8000_0000;
    let platform = Direct::new()?;
    platform.map_read_only(ABOVE)?;
    let s = RawStream::prepare(&platform, PointerWidth::Eight)?;
    let refused = |kind: Type, register: Register, iova: u64| -> anyhow::Result<()> {
        s.write64(register, iova + ABOVE);
        assert_eq!(s.transition(stream::TYPE, kind.value())?, Some(Fault::NotWritable), "{}", register.name);
        let detail = platform.read32(regs::FAULT_DETAIL.offset);
        assert_eq!(detail, stream::at(0, register).offset, "{}", register.name);
        assert_eq!(s.take_fault(), Some(Fault::NotWritable));
        s.write64(register, iova);
        Ok(())
    };
    refused(Type::Render, stream::COMPLETION_BASE, s.completions.iova)?;
    refused(Type::Capture { cooked: true }, stream::POOL_BASE, s.pool.iova)?;
    refused(Type::Capture { cooked: true }, stream::BUFFER_BASE, s.buffers.iova)?;
    // What the card only reads may be there.
    for (register, iova) in [
        (stream::POOL_BASE, s.pool.iova),
        (stream::BUFFER_BASE, s.buffers.iova),
        (stream::SUBMISSION_BASE, s.submissions.iova),
    ] {
        s.write64(register, iova + ABOVE);
    }
    s.create()?;
    s.set_state(State::Run)?;
    s.submit(0, s.inline(0, &NOTE), seconds(1));
    assert_eq!(s.completion()?.status, Status::Presented);
    Ok(())
}
