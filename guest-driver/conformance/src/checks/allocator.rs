//! The event allocator (IAllocatorMXF): what is recycled, with what, and when there is nothing left.

use crate::desk::{Desk, SIZES, expect_home, mark, message, ms, sysex};
use alloc::vec::Vec;
use anyhow::ensure;
use dmus_driver::{Card, DriverError, Platform, RenderStream, StreamConfig};
use dmus_interface::regs::stream::State;
use dmus_interface::ring::Reject;
use dmus_interface::time::RefTime;

checks! {
    a_message_is_fresh: "GetMessage gives a freshly zeroed event out of a pool that is filled at creation, whatever \
        its slot held before.",
    an_empty_pool_says_so_at_once: "GetMessage and GetBuffer give a status when nothing is left; they do not block.",
    a_message_takes_its_buffer_home: "PutMessage recycles the event, and with it the buffer that it was given: \
        that of the driver's own record, which agrees with cbEvent as it was set.",
    chains_and_packages_go_home_whole: "Chains and packages are recycled as a whole, each event with its buffer: \
        unplayed, presented, discarded or refused.",
    a_buffer_by_itself_goes_home: "PutBuffer hands back a buffer that was never attached to an event.",
    get_buffer_size_is_constant_and_bounds_an_event: "GetBufferSize is constant for the allocator's life; an event \
        with more data is an error, and nothing is lost by it.",
    what_belongs_to_another_allocator_is_refused: "An event belongs to the allocator that it came from: another \
        stream refuses it, and it goes home.",
}

const SMALL: StreamConfig = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };

fn home<P: Platform>(stream: &RenderStream<'_, P>) -> (usize, usize) {
    (stream.allocator().free_slots(), stream.allocator().free_buffers())
}

fn a_message_is_fresh<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SMALL)?;
    let allocator = stream.allocator();
    ensure!(home(&stream) == (4, 2));
    for round in 0..3 {
        let mut messages = Vec::new();
        for _ in 0..SMALL.slots {
            let mut fresh = allocator.get_message()?;
            let fields = (fresh.time(), fresh.channel_group(), fresh.event_bytes());
            ensure!(fields == (RefTime::ZERO, 0, 0), "{fields:?} in round {round}");
            fresh.set_time(RefTime(i64::MAX));
            fresh.set_channel_group(u16::MAX);
            fresh.set_byte_position(u64::MAX);
            fresh.set_data(&mark(127))?;
            fresh.set_incomplete();
            messages.push(fresh);
        }
    }
    Ok(())
}

fn an_empty_pool_says_so_at_once<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SMALL)?;
    let allocator = stream.allocator();
    let mut messages = Vec::new();
    let mut buffers = Vec::new();
    for _ in 0..SMALL.slots {
        messages.push(allocator.get_message()?);
    }
    for _ in 0..SMALL.buffers {
        buffers.push(allocator.get_buffer()?);
    }
    ensure!(allocator.get_message().err() == Some(DriverError::NoMessage));
    ensure!(allocator.get_buffer().err() == Some(DriverError::NoBuffer));
    messages.pop();
    buffers.pop();
    let mut last = allocator.get_message()?;
    last.set_data(&sysex(20))?;
    ensure!(allocator.get_message().err() == Some(DriverError::NoMessage));
    ensure!(allocator.get_buffer().err() == Some(DriverError::NoBuffer));
    drop((messages, buffers, last));
    expect_home(&stream, SMALL)
}

fn a_message_takes_its_buffer_home<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut desk = Desk::with(card, SMALL)?;
    let pointer = card.pointer_width().bytes();
    for (number, (len, buffers)) in (1..).zip([(2, 0), (pointer, 0), (pointer + 1, 1), (64, 1)]) {
        let event = message(&desk.render, ms(1), &sysex(len))?;
        ensure!(home(&desk.render) == (3, 2 - buffers), "{len} bytes");
        desk.render.allocator().put_message(event)?;
        ensure!(home(&desk.render) == (4, 2), "{len} bytes");
        // And by way of the card.
        desk.put(ms(number), &sysex(len))?;
        ensure!(home(&desk.render) == (3, 2 - buffers), "{len} bytes");
        desk.hear(ms(number))?;
        desk.expect_home()?;
    }
    Ok(())
}

fn chains_and_packages_go_home_whole<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SIZES)?;
    // long, [long, 1, [long]], 2: with a second one that the card refuses at its very end.
    let build = |last: &[u8]| -> anyhow::Result<_> {
        let event = |bytes: &[u8]| message(&stream, ms(1), bytes);
        let package = |inner| -> anyhow::Result<_> {
            let mut package = stream.allocator().get_message()?;
            package.set_time(ms(1));
            package.package(inner)?;
            Ok(package)
        };
        let mut members = event(&sysex(30))?;
        members.chain(event(&mark(1))?)?;
        members.chain(package(event(&sysex(31))?)?)?;
        let mut head = event(&sysex(32))?;
        head.chain(package(members)?)?;
        head.chain(event(last)?)?;
        Ok(head)
    };
    let taken = |slots: usize, buffers: usize| {
        home(&stream) == (SIZES.slots as usize - slots, SIZES.buffers as usize - buffers)
    };
    let unplayed = build(&mark(2))?;
    ensure!(taken(7, 3), "{:?}", home(&stream));
    drop(unplayed);
    expect_home(&stream, SIZES)?;

    stream.set_state(State::Run)?;
    stream.put_message(build(&mark(2))?)?;
    stream.flush();
    crate::desk::reach(card, ms(1))?;
    expect_home(&stream, SIZES)?;
    // Half a message is none.
    stream.put_message(build(&[0x90, 60])?)?;
    stream.flush();
    crate::desk::reach(card, ms(2))?;
    expect_home(&stream, SIZES)?;
    let refused = stream.allocator().last_rejection().and_then(|rejection| rejection.reason);
    ensure!(refused == Some(Reject::BadMessage), "{refused:?}");

    stream.set_state(State::Pause)?;
    stream.put_message(build(&mark(2))?)?;
    stream.flush();
    stream.set_state(State::Stop)?;
    expect_home(&stream, SIZES)?;
    let counts = stream.allocator().counts();
    ensure!((counts.presented, counts.rejected, counts.discarded) == (5, 5, 5), "{counts:?}");
    Ok(())
}

fn a_buffer_by_itself_goes_home<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut desk = Desk::with(card, SMALL)?;
    let bytes = sysex(20);
    {
        let allocator = desk.render.allocator();
        let buffer = allocator.get_buffer()?;
        buffer.write(0, &bytes)?;
        allocator.put_buffer(buffer)?;
        ensure!(home(&desk.render) == (4, 2));
        // One that is attached goes with the event; of few bytes it holds none, and is home at once.
        for (len, left) in [(20, 1), (2, 2)] {
            let buffer = allocator.get_buffer()?;
            buffer.write(0, &bytes[..len])?;
            let mut event = allocator.get_message()?;
            event.attach(buffer, len)?;
            ensure!(home(&desk.render) == (3, left), "{len} bytes");
        }
        let buffer = allocator.get_buffer()?;
        buffer.write(0, &bytes)?;
        let mut event = allocator.get_message()?;
        event.set_time(ms(1));
        event.attach(buffer, bytes.len())?;
        desk.render.put_message(event)?;
    }
    desk.render.flush();
    let heard = desk.hear(ms(1))?;
    ensure!(crate::desk::bytes(&heard) == [&bytes[..]]);
    desk.expect_home()
}

fn get_buffer_size_is_constant_and_bounds_an_event<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut desk = Desk::with(card, SMALL)?;
    let size = desk.render.allocator().get_buffer_size();
    ensure!(size == SMALL.buffer_size as usize);
    let too_long = Some(DriverError::TooLong { len: size + 1, size });
    let mut event = desk.render.allocator().get_message()?;
    ensure!(event.set_data(&sysex(size + 1)).err() == too_long);
    let buffer = desk.render.allocator().get_buffer()?;
    ensure!(buffer.write(0, &sysex(size + 1)).err() == too_long);
    ensure!(event.attach(buffer, size + 1).err() == too_long);
    // It is empty still, and takes data once.
    event.set_data(&sysex(size))?;
    ensure!(matches!(event.set_data(&mark(1)), Err(DriverError::Misuse(_))));
    event.set_time(ms(1));
    desk.render.put_message(event)?;
    desk.render.flush();
    let heard = desk.hear(ms(1))?;
    ensure!(crate::desk::bytes(&heard) == [&sysex(size)[..]]);
    for state in [State::Pause, State::Acquire, State::Stop, State::Run] {
        desk.render.set_state(state)?;
        ensure!(desk.render.allocator().get_buffer_size() == size);
    }
    desk.expect_home()
}

fn what_belongs_to_another_allocator_is_refused<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let (one, other) = (RenderStream::open(card, 0, SMALL)?, RenderStream::open(card, 1, SMALL)?);
    let theirs = || message(&other, ms(1), &sysex(20));
    ensure!(matches!(one.put_message(theirs()?), Err(DriverError::Misuse(_))));
    let mut event = one.allocator().get_message()?;
    ensure!(matches!(event.chain(theirs()?), Err(DriverError::Misuse(_))));
    ensure!(matches!(event.package(theirs()?), Err(DriverError::Misuse(_))));
    let buffer = other.allocator().get_buffer()?;
    ensure!(matches!(event.attach(buffer, 20), Err(DriverError::Misuse(_))));
    drop(event);
    expect_home(&one, SMALL)?;
    expect_home(&other, SMALL)
}
