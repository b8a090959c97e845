//! How the card carries out what is asked of streams: all of it, none of it before what comes before it, and with the
//! same audio in whatever order streams were opened.

use dmus_card::ClockMode;
use dmus_driver::{Card, Message, Platform, RenderStream, StreamConfig};
use dmus_interface::command::Opcode;
use dmus_interface::doorbell;
use dmus_interface::event::{Event, PointerWidth};
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, MAX_SLOTS, State};
use dmus_interface::regs::{self, Fault};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::{HostedCard, MemorySink};
use dmus_tests::memory::RAM_IOVA;
use dmus_tests::programs::until;
use dmus_tests::raw::RawStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const NOTE: [u8; 3] = [0x90, 60, 100];
const LIMIT: Duration = Duration::from_secs(10);

fn word<P: Platform>(platform: &P, word: usize) -> u32 {
    platform.doorbell().load_u32(word, Ordering::Acquire)
}

fn message<'m, P: Platform>(
    stream: &'m RenderStream<'_, P>,
    time: RefTime,
    bytes: &[u8],
) -> anyhow::Result<Message<'m>> {
    let mut message = stream.allocator().get_message()?;
    message.set_time(time);
    message.set_data(bytes)?;
    Ok(message)
}

#[test]
fn what_is_asked_for_at_once_of_several_streams_and_the_mailbox_is_all_done() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let open = |index| RenderStream::open(&card, index, StreamConfig::default());
    let _streams = [open(0)?, open(2)?, open(5)?];
    let platform = card.platform();
    for (register, value) in [(regs::COMMAND_RESULT, RAM_IOVA as u32), (regs::COMMAND_RESULT_ROOM, 8)] {
        platform.write32(register.offset, value);
    }
    let commands = word(platform, doorbell::COMMANDS);
    let transitions = [0, 2, 5].map(|index| word(platform, doorbell::at(index, doorbell::TRANSITIONS)));
    for index in [0, 2, 5] {
        platform.write32(stream::at(index, stream::STATE).offset, State::Run as u32);
    }
    platform.write32(regs::COMMAND.offset, Opcode::GetMasterClock as u32);
    platform.run_until_idle();
    for (index, before) in [0, 2, 5].into_iter().zip(transitions) {
        let at = |of| word(platform, doorbell::at(index, of));
        assert_eq!((at(doorbell::TRANSITIONS), at(doorbell::STATE)), (before + 1, State::Run as u32), "stream {index}");
    }
    assert_eq!(word(platform, doorbell::COMMANDS), commands + 1);
    Ok(())
}

#[test]
fn what_is_due_at_the_grant_is_presented_before_a_state_takes_effect() -> anyhow::Result<()> {
    for chained in [false, true] {
        let platform = Direct::new()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.fill(1, s.inline(0, &NOTE));
        let next = if chained { s.slot_iova(1) } else { 0 };
        // The card finds both in one turn.
        s.submit(0, Event { next, ..s.inline(0, &NOTE) }, 0);
        s.write(stream::STATE, State::Stop as u32);
        platform.run_until_idle();
        assert_eq!(s.completion()?.status, Status::Presented, "chained: {chained}");
        assert_eq!(s.word(doorbell::STATE), State::Stop as u32);
    }
    Ok(())
}

#[test]
fn the_clock_goes_on_after_a_stop_in_the_middle_of_what_is_due_at_once() -> anyhow::Result<()> {
    let card = Card::open(Direct::by_clock(ClockMode::Realtime, vec![])?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: MAX_SLOTS, ..StreamConfig::default() };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    // More than a turn presents.
    let mut chain = message(&stream, RefTime::ZERO, &NOTE)?;
    for number in 1..4000u16 {
        let (channel, key) = ((number % 16) as u8, 30 + (number % 60) as u8);
        chain.chain(message(&stream, RefTime::ZERO, &[0x90 | channel, key, 100])?)?;
    }
    stream.put_message(chain)?;
    stream.flush();
    card.platform().turn();
    assert!(card.platform().stats.in_flight.get() > 0, "it was all presented");
    stream.set_state(State::Stop)?;
    let (stopped, deadline) = (card.get_time(), Instant::now() + LIMIT);
    while card.get_time() == stopped {
        card.platform().turn();
        assert!(Instant::now() < deadline, "time stands");
    }
    Ok(())
}

/// On the way to sleep the card looks for tails of streams that are not open.
#[test]
fn a_tail_is_that_of_a_closed_stream_before_it_is_opened_and_after_it_is_closed() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let platform = card.platform();
    let asleep = || word(platform, doorbell::WAKE_ARMED);
    let stream = RenderStream::open(&card, 2, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    stream.put_message(message(&stream, RefTime::ZERO, &NOTE)?)?;
    stream.flush();
    until("the card's sleep", LIMIT, || asleep() != 0)?;
    assert_eq!(hosted.stats.faults.get(), 0, "it is open");
    drop(stream);
    until("the card's sleep", LIMIT, || asleep() != 0)?;
    while platform.wait(CONTROL_VECTOR, Duration::ZERO) {}
    platform.doorbell().store_u32(doorbell::at(2, doorbell::SUBMISSION_TAIL), 7, Ordering::Release);
    platform.write32(regs::WAKE.offset, 1);
    until("the fault", LIMIT, || hosted.stats.faults.get() > 0)?;
    assert_eq!(platform.read32(regs::FAULT.offset), Fault::ClosedStream as u32);
    assert_eq!(platform.read32(regs::FAULT_DETAIL.offset), 2 << 16 | 7);
    // It looks again each time, and tells of a value once.
    for (tail, faults) in [(7, 1), (8, 2)] {
        until("the card's sleep", LIMIT, || asleep() != 0)?;
        let number = asleep();
        platform.doorbell().store_u32(doorbell::at(2, doorbell::SUBMISSION_TAIL), tail, Ordering::Release);
        platform.write32(regs::WAKE.offset, 1);
        until("the next sleep", LIMIT, || ![0, number].contains(&asleep()))?;
        assert_eq!(hosted.stats.faults.get(), faults, "{tail}");
    }
    Ok(())
}

/// What streams open in that order play together.
fn played_in_order(order: [usize; 3]) -> anyhow::Result<Vec<i16>> {
    let audio = MemorySink::default();
    let card = Card::open(Direct::with_sink(Box::new(audio.clone()))?, PointerWidth::Eight)?;
    let mut streams = vec![];
    for index in order {
        let stream = RenderStream::open(&card, index, StreamConfig::default())?;
        stream.set_state(State::Run)?;
        let [program, key] = [[20, 60], [49, 64], [73, 67]][index];
        for bytes in [&[0xC0, program][..], &[0x90, key, 90], &[0x90, key + 3, 70]] {
            stream.put_message(message(&stream, RefTime::ZERO, bytes)?)?;
        }
        stream.flush();
        streams.push(stream);
    }
    card.grant(RefTime::from_secs(2));
    card.platform().run_until_idle();
    Ok(audio.samples())
}

#[test]
fn streams_sound_the_same_in_whatever_order_they_were_opened() -> anyhow::Result<()> {
    let expected = played_in_order([0, 1, 2])?;
    assert!(expected.iter().any(|sample| sample.unsigned_abs() > 1000));
    for order in [[2, 1, 0], [1, 2, 0], [1, 0, 2]] {
        assert!(played_in_order(order)? == expected, "{order:?}");
    }
    Ok(())
}
