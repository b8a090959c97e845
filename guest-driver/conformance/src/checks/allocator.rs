//! The event allocator (IAllocatorMXF): what is recycled, with what, and when there is nothing left.

use crate::fixture::{Fixture, SIZES, expect_all_free, mark, message, ms, sysex};
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
    a_message_is_recycled_with_its_buffer: "PutMessage recycles the event, and with it the buffer that it was given: \
        that of the driver's own record, which agrees with cbEvent as it was set.",
    chains_and_packages_are_recycled_whole: "Chains and packages are recycled as a whole, each event with its buffer: \
        unplayed, presented, discarded or refused.",
    a_buffer_by_itself_is_recycled: "PutBuffer hands back a buffer that was never attached to an event.",
    get_buffer_size_is_constant_and_bounds_an_event: "GetBufferSize is constant for the allocator's life; an event \
        with more data is an error, and nothing is lost by it.",
    what_belongs_to_another_allocator_is_refused: "An event belongs to the allocator that it came from: another \
        stream refuses it, and recycles it.",
}

const SMALL: StreamConfig = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };

fn free<P: Platform>(stream: &RenderStream<'_, P>) -> (usize, usize) {
    (stream.allocator().free_slots(), stream.allocator().free_buffers())
}

fn a_message_is_fresh<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SMALL)?;
    let allocator = stream.allocator();
    ensure!(free(&stream) == (4, 2));
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
    expect_all_free(&stream, SMALL)
}

fn a_message_is_recycled_with_its_buffer<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::with(card, SMALL)?;
    let pointer = card.pointer_width().bytes();
    for (number, (len, buffers)) in (1..).zip([(2, 0), (pointer, 0), (pointer + 1, 1), (64, 1)]) {
        let event = message(&fixture.render, ms(1), &sysex(len))?;
        ensure!(free(&fixture.render) == (3, 2 - buffers), "{len} bytes");
        fixture.render.allocator().put_message(event)?;
        ensure!(free(&fixture.render) == (4, 2), "{len} bytes");
        // And by way of the card.
        fixture.put(ms(number), &sysex(len))?;
        ensure!(free(&fixture.render) == (3, 2 - buffers), "{len} bytes");
        fixture.capture_until(ms(number))?;
        fixture.expect_all_free()?;
    }
    Ok(())
}

fn chains_and_packages_are_recycled_whole<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
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
        free(&stream) == (SIZES.slots as usize - slots, SIZES.buffers as usize - buffers)
    };
    let unplayed = build(&mark(2))?;
    ensure!(taken(7, 3), "{:?}", free(&stream));
    drop(unplayed);
    expect_all_free(&stream, SIZES)?;

    stream.set_state(State::Run)?;
    stream.put_message(build(&mark(2))?)?;
    stream.flush();
    crate::fixture::reach(card, ms(1))?;
    expect_all_free(&stream, SIZES)?;
    // Half a message is none.
    stream.put_message(build(&[0x90, 60])?)?;
    stream.flush();
    crate::fixture::reach(card, ms(2))?;
    expect_all_free(&stream, SIZES)?;
    let refused = stream.allocator().last_rejection().and_then(|rejection| rejection.reason);
    ensure!(refused == Some(Reject::BadMessage), "{refused:?}");

    stream.set_state(State::Pause)?;
    stream.put_message(build(&mark(2))?)?;
    stream.flush();
    stream.set_state(State::Stop)?;
    expect_all_free(&stream, SIZES)?;
    let counts = stream.allocator().counts();
    ensure!((counts.presented, counts.rejected, counts.discarded) == (5, 5, 5), "{counts:?}");
    Ok(())
}

fn a_buffer_by_itself_is_recycled<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::with(card, SMALL)?;
    let bytes = sysex(20);
    {
        let allocator = fixture.render.allocator();
        let buffer = allocator.get_buffer()?;
        buffer.write(0, &bytes)?;
        allocator.put_buffer(buffer)?;
        ensure!(free(&fixture.render) == (4, 2));
        // One that is attached goes with the event; of few bytes it holds none, and is free at once.
        for (len, left) in [(20, 1), (2, 2)] {
            let buffer = allocator.get_buffer()?;
            buffer.write(0, &bytes[..len])?;
            let mut event = allocator.get_message()?;
            event.attach(buffer, len)?;
            ensure!(free(&fixture.render) == (3, left), "{len} bytes");
        }
        let buffer = allocator.get_buffer()?;
        buffer.write(0, &bytes)?;
        let mut event = allocator.get_message()?;
        event.set_time(ms(1));
        event.attach(buffer, bytes.len())?;
        fixture.render.put_message(event)?;
    }
    fixture.render.flush();
    let captured = fixture.capture_until(ms(1))?;
    ensure!(crate::fixture::bytes(&captured) == [&bytes[..]]);
    fixture.expect_all_free()
}

fn get_buffer_size_is_constant_and_bounds_an_event<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::with(card, SMALL)?;
    let size = fixture.render.allocator().get_buffer_size();
    ensure!(size == SMALL.buffer_size as usize);
    let too_long = Some(DriverError::TooLong { len: size + 1, size });
    let mut event = fixture.render.allocator().get_message()?;
    ensure!(event.set_data(&sysex(size + 1)).err() == too_long);
    let buffer = fixture.render.allocator().get_buffer()?;
    ensure!(buffer.write(0, &sysex(size + 1)).err() == too_long);
    ensure!(event.attach(buffer, size + 1).err() == too_long);
    // It is empty still, and takes data once.
    event.set_data(&sysex(size))?;
    ensure!(matches!(event.set_data(&mark(1)), Err(DriverError::Misuse(_))));
    event.set_time(ms(1));
    fixture.render.put_message(event)?;
    fixture.render.flush();
    let captured = fixture.capture_until(ms(1))?;
    ensure!(crate::fixture::bytes(&captured) == [&sysex(size)[..]]);
    for state in [State::Pause, State::Acquire, State::Stop, State::Run] {
        fixture.render.set_state(state)?;
        ensure!(fixture.render.allocator().get_buffer_size() == size);
    }
    fixture.expect_all_free()
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
    expect_all_free(&one, SMALL)?;
    expect_all_free(&other, SMALL)
}
