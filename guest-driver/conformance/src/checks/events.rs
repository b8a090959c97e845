//! Events on their way to the hardware: time, order, chains, packages, SysEx, channel groups.
//!
//! What is presented is captured through the loopback.

use crate::fixture::{Fixture, NOTE, SIZES, bytes, capture_until, mark, message, ms, reach, sysex, timed, until};
use alloc::vec::Vec;
use anyhow::ensure;
use dmus_driver::{CaptureStream, Card, Mailbox, Platform, RenderStream, StreamConfig};
use dmus_interface::event::PACKAGE;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

checks! {
    an_event_is_presented_at_its_time: "ullPresTime100ns is the time of presentation, in 100 ns of the master clock; \
        an event is passed on when it is due.",
    ties_play_in_the_order_in_which_they_were_put: "Events of one time are all presented at it, in the order in which \
        they were put, however few slots the pool has.",
    events_play_by_their_times_alone: "Events are ordered by their time stamps only, in whatever order they come.",
    the_past_plays_at_once_and_late: "An event in the past is played at once, and is reported late.",
    what_is_not_to_be_held_plays_at_once: "An event whose time has bit 63 set (DONT_HOLD_FOR_SEQUENCING) plays at \
        once, before what waits for its time.",
    a_chain_plays_together: "pNextEvt leads to the next event of a chain of identically time-stamped events: they are \
        played together, in the chain's order.",
    a_package_plays_together: "usFlags PACKAGE: uData is pPackageEvt, a chain of events that are handled together, \
        atomically, at the time of the event with the flag.",
    packages_in_packages_play_in_their_order: "Packages may be nested, and chains have packages in them; all of it is \
        handled as one event.",
    the_package_flag_comes_before_cb_event: "Whether uData is a package is told by usFlags first, and by cbEvent only \
        if PACKAGE is not set.",
    data_up_to_the_pointer_size_is_in_the_event: "cbEvent is the unrounded number of bytes: up to the size of a \
        pointer (4 or 8) they are in the event (abData), above it in a buffer (pbData).",
    sysex_comes_through_whole: "SysEx in one buffer is one event.",
    an_incomplete_message_goes_on_in_the_next_event: "usFlags INCOMPLETE: the message goes on in the next event; \
        SysEx may be longer than buffers and pool.",
    real_time_messages_stand_between_fragments: "A real-time message is an event of its own, between the INCOMPLETE \
        ones of a SysEx message, too.",
    each_channel_group_is_a_set_of_sixteen_channels: "usChannelGroup says which set of 16 MIDI channels receives the \
        event.",
    the_card_changes_nothing_in_an_event_that_it_renders: "A miniport modifies neither bReserved nor cbStruct, nor \
        anything else of an event that it renders.",
    messages_of_every_kind_come_through_two_streams: "Streams render at once, each with its own pool and rings; an \
        event has one whole message of any kind.",
}

/// More than a sample takes: what comes at once comes with the first sample that is not rendered yet.
const SAMPLE: RefTime = RefTime(250);

fn an_event_is_presented_at_its_time<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let times = [RefTime(1), RefTime(10_001), RefTime(123_457), RefTime(1_234_567)];
    for (number, time) in (1..).zip(times) {
        fixture.put(time, &mark(number))?;
    }
    // Not a unit of time before.
    let early = fixture.capture_until(RefTime(123_456))?;
    ensure!(timed(&early) == [(times[0], &mark(1)[..]), (times[1], &mark(2)[..])]);
    ensure!(fixture.render.allocator().counts().presented == 2);
    let rest = fixture.capture_until(RefTime(1_234_567))?;
    ensure!(timed(&rest) == [(times[2], &mark(3)[..]), (times[3], &mark(4)[..])]);
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.late) == (4, 0), "{counts:?}");
    fixture.expect_all_free()
}

fn ties_play_in_the_order_in_which_they_were_put<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let config = StreamConfig { slots: 4, ..SIZES };
    let mut fixture = Fixture::with(card, config)?;
    let (at, count) = (ms(5), 50u8);
    let mut captured = Vec::new();
    for first in (0..count).step_by(4) {
        let numbers = first..count.min(first + 4);
        for number in numbers.clone() {
            fixture.put(at, &mark(number))?;
        }
        // Time stands at their time until the pool is free, and they are on time nevertheless.
        captured.extend(fixture.capture_until(at)?);
        until(card, "a free pool", || {
            fixture.render.allocator().reclaim()?;
            Ok(fixture.render.allocator().in_flight() == 0)
        })?;
    }
    captured.extend(fixture.capture_until(ms(6))?);
    let expected: Vec<_> = (0..count).map(mark).collect();
    ensure!(timed(&captured) == expected.iter().map(|bytes| (at, &bytes[..])).collect::<Vec<_>>());
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.late) == (count.into(), 0), "{counts:?}");
    fixture.expect_all_free()
}

fn events_play_by_their_times_alone<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    for number in [5, 1, 4, 2, 3, 0] {
        fixture.put(ms(i64::from(number) + 1), &mark(number))?;
    }
    let captured = fixture.capture_until(ms(10))?;
    let expected: Vec<_> = (0..6).map(|number| (ms(i64::from(number) + 1), mark(number))).collect();
    ensure!(timed(&captured) == expected.iter().map(|(time, bytes)| (*time, &bytes[..])).collect::<Vec<_>>());
    fixture.expect_all_free()
}

fn the_past_plays_at_once_and_late<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    fixture.put(ms(10), &mark(1))?;
    let mut captured = fixture.capture_until(ms(20))?;
    fixture.put(ms(5), &mark(2))?;
    fixture.put(ms(21), &mark(3))?;
    captured.extend(fixture.capture_until(ms(30))?);
    ensure!(bytes(&captured) == [mark(1), mark(2), mark(3)]);
    // Nor does its coming late move it back: time goes on as it went.
    ensure!(captured[1].time > ms(20).saturating_sub(SAMPLE) && captured[2].time == ms(21), "{captured:?}");
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.late) == (2, 1), "{counts:?}");
    fixture.expect_all_free()
}

fn what_is_not_to_be_held_plays_at_once<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    fixture.put(ms(10), &mark(1))?;
    let mut captured = fixture.capture_until(ms(5))?;
    let mut at_once = message(&fixture.render, RefTime::ZERO, &mark(2))?;
    at_once.play_at_once();
    fixture.render.put_message(at_once)?;
    captured.extend(fixture.capture_until(ms(20))?);
    ensure!(bytes(&captured) == [mark(2), mark(1)]);
    let at = captured[0].time;
    ensure!(at > ms(5).saturating_sub(SAMPLE) && at < ms(6) && captured[1].time == ms(10), "{captured:?}");
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.late) == (2, 0), "{counts:?}");
    fixture.expect_all_free()
}

fn a_chain_plays_together<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let long = sysex(40);
    // What is put before and behind stays there.
    fixture.put(ms(3), &mark(0))?;
    let mut chain = message(&fixture.render, ms(3), &mark(1))?;
    chain.chain(message(&fixture.render, ms(3), &long)?)?;
    chain.chain(message(&fixture.render, ms(3), &mark(3))?)?;
    fixture.render.put_message(chain)?;
    fixture.put(ms(3), &mark(4))?;
    ensure!(fixture.render.allocator().in_flight() == 3, "a chain is one submission");
    let captured = fixture.capture_until(ms(4))?;
    ensure!(bytes(&captured) == [&mark(0)[..], &mark(1), &long, &mark(3), &mark(4)]);
    ensure!(captured.iter().all(|captured| captured.time == ms(3)), "{captured:?}");
    ensure!(fixture.render.allocator().counts().presented == 5, "each member counts");
    fixture.expect_all_free()
}

fn a_package_plays_together<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    // The times of the events inside are not looked at.
    let mut inner = message(&fixture.render, ms(1), &mark(1))?;
    inner.chain(message(&fixture.render, ms(9), &mark(2))?)?;
    let mut package = fixture.render.allocator().get_message()?;
    package.set_time(ms(3));
    package.package(inner)?;
    fixture.put(ms(3), &mark(0))?;
    fixture.render.put_message(package)?;
    fixture.put(ms(3), &mark(3))?;
    ensure!(fixture.render.allocator().in_flight() == 3, "a package is one submission");
    let captured = fixture.capture_until(ms(4))?;
    ensure!(bytes(&captured) == [mark(0), mark(1), mark(2), mark(3)]);
    ensure!(captured.iter().all(|captured| captured.time == ms(3)), "{captured:?}");
    ensure!(fixture.render.allocator().counts().presented == 4, "each member counts, and the package is none");
    fixture.expect_all_free()
}

fn packages_in_packages_play_in_their_order<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let long = sysex(20);
    {
        let package = |inner| -> anyhow::Result<_> {
            let mut package = fixture.render.allocator().get_message()?;
            package.set_time(ms(2));
            package.package(inner)?;
            Ok(package)
        };
        let event = |bytes: &[u8]| message(&fixture.render, ms(2), bytes);
        // [1, [2, long], [[4]]], 5
        let mut second = event(&mark(2))?;
        second.chain(event(&long)?)?;
        let mut members = event(&mark(1))?;
        members.chain(package(second)?)?;
        members.chain(package(package(event(&mark(4))?)?)?)?;
        let mut head = package(members)?;
        head.chain(event(&mark(5))?)?;
        fixture.render.put_message(head)?;
    }
    fixture.render.flush();
    ensure!(fixture.render.allocator().in_flight() == 1);
    let captured = fixture.capture_until(ms(3))?;
    ensure!(bytes(&captured) == [&mark(1)[..], &mark(2), &long, &mark(4), &mark(5)]);
    ensure!(captured.iter().all(|captured| captured.time == ms(2)), "{captured:?}");
    ensure!(fixture.render.allocator().counts().presented == 5);
    fixture.expect_all_free()
}

fn the_package_flag_comes_before_cb_event<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    super::bad_events::with_running(card, |s| {
        // As many bytes as would be inline, and as many as would be in a buffer.
        for (slot, event_bytes) in [(0, 3), (2, 200)] {
            s.fill(slot + 1, s.inline(0, &NOTE));
            let package = s.event(0, event_bytes, dmus_interface::event::Data::Package(s.slot_iova(slot + 1)));
            ensure!(package.flags == PACKAGE);
            s.submit(slot, package, ms(1).0);
            let done = s.completion()?;
            ensure!(done.slot == slot && done.reason.is_none(), "{done:?}");
        }
        Ok(())
    })
}

fn data_up_to_the_pointer_size_is_in_the_event<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let pointer = card.pointer_width().bytes();
    let buffers = SIZES.buffers as usize;
    for (number, len) in (1i64..).zip(2..pointer + 4) {
        let bytes = sysex(len);
        let event = message(&fixture.render, ms(number), &bytes)?;
        ensure!(usize::from(event.event_bytes()) == len, "cbEvent is {} of {len} bytes", event.event_bytes());
        let taken = buffers - fixture.render.allocator().free_buffers();
        ensure!(taken == usize::from(len > pointer), "{len} bytes take {taken} buffers");
        fixture.render.put_message(event)?;
        let captured = fixture.capture_until(ms(number))?;
        ensure!(timed(&captured) == [(ms(number), &bytes[..])]);
        fixture.expect_all_free()?;
    }
    Ok(())
}

fn sysex_comes_through_whole<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let size = fixture.render.allocator().get_buffer_size();
    for (number, len) in (1i64..).zip([2, 3, 17, size - 1, size]) {
        let bytes = sysex(len);
        fixture.put(ms(number), &bytes)?;
        let captured = fixture.capture_until(ms(number))?;
        ensure!(timed(&captured) == [(ms(number), &bytes[..])], "{len} bytes");
    }
    fixture.expect_all_free()
}

fn an_incomplete_message_goes_on_in_the_next_event<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let config = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };
    let mut fixture = Fixture::with(card, config)?;
    let bytes = sysex(1000);
    ensure!(bytes.len() > config.slots as usize * config.buffer_size as usize);
    let mut sent = 0;
    until(card, "room for all fragments", || {
        fixture.render.allocator().reclaim()?;
        sent = fixture.render.put_bytes(ms(2), &bytes, sent)?;
        fixture.render.flush();
        Ok(sent == bytes.len())
    })?;
    fixture.put(ms(3), &mark(1))?;
    let captured = fixture.capture_until(ms(4))?;
    ensure!(timed(&captured) == [(ms(2), &bytes[..]), (ms(3), &mark(1)[..])]);
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.submitted) == (2, 2), "{counts:?}");
    fixture.expect_all_free()
}

fn real_time_messages_stand_between_fragments<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let mut first = message(&fixture.render, ms(1), &[0xF0, 0x7D])?;
    first.set_incomplete();
    fixture.render.put_message(first)?;
    fixture.put(ms(2), &[0xF8])?;
    fixture.put(ms(3), &[5, 0xF7])?;
    let captured = fixture.capture_until(ms(4))?;
    ensure!(timed(&captured) == [(ms(2), &[0xF8][..]), (ms(3), &[0xF0, 0x7D, 5, 0xF7])]);
    fixture.expect_all_free()
}

fn each_channel_group_is_a_set_of_sixteen_channels<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let groups = mailbox.channel_groups(0)?;
    ensure!(groups >= 2, "{groups} groups");
    // The peak of a note on a channel of a group, when channel 3 of the last group has its volume at zero.
    let mut peak = |group: u16, channel: u8| -> anyhow::Result<i32> {
        stream.set_state(State::Run)?;
        let last = groups as u16 - 1;
        for (group, bytes) in [(last, [0xB3, 7, 0]), (group, [0x90 | channel, 60, 127])] {
            let mut event = message(&stream, RefTime(1), &bytes)?;
            event.set_channel_group(group);
            ensure!(event.channel_group() == group);
            stream.put_message(event)?;
        }
        stream.flush();
        reach(card, stream.time_base().saturating_add(ms(50)))?;
        let peak = mailbox.running_stats(0)?.peak_volume.get();
        stream.set_state(State::Stop)?;
        Ok(peak)
    };
    let (last, silence) = (groups as u16 - 1, -20_000);
    ensure!(peak(last, 3)? == silence, "the channel's own volume does not count");
    for (group, channel) in [(last, 4), (last - 1, 3), (0, 3)] {
        ensure!(peak(group, channel)? > silence, "group {group}, channel {channel} is silent");
    }
    Ok(())
}

fn the_card_changes_nothing_in_an_event_that_it_renders<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    super::bad_events::with_running(card, |s| {
        let long = sysex(40);
        for (slot, event) in [(0, s.inline(0, &NOTE)), (1, s.long(0, 3, &long))] {
            s.fill(slot, event);
            // bReserved is whatever the port driver left there.
            let place = (slot * crate::raw::STRIDE) as usize;
            s.pool.memory.write(place, &[0xAB]);
            let mut before = [0; crate::raw::STRIDE as usize];
            s.pool.memory.read(place, &mut before);
            s.put(slot);
            s.publish();
            s.grant(ms(1).0);
            let done = s.completion()?;
            ensure!(done.slot == slot && done.reason.is_none(), "{done:?}");
            let mut after = [0; crate::raw::STRIDE as usize];
            s.pool.memory.read(place, &mut after);
            ensure!(before == after, "the slot was {before:x?}, and is {after:x?}");
        }
        let mut data = [0; 40];
        s.buffers.memory.read((3 * crate::raw::BUFFER_SIZE) as usize, &mut data);
        ensure!(data[..] == long[..], "the buffer was changed");
        Ok(())
    })
}

fn messages_of_every_kind_come_through_two_streams<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    // Two streams that render at once: each has its pool and rings, and the sum is captured.
    let config = SIZES;
    let streams = [RenderStream::open(card, 0, config)?, RenderStream::open(card, 2, config)?];
    let capture = CaptureStream::open(card, 1, StreamConfig { buffers: 32, ..config }, true)?;
    capture.set_state(State::Run)?;
    let messages: [&[u8]; 10] = [
        &[0x80, 60, 0],
        &[0x90, 60, 0],
        &[0xA0, 60, 1],
        &[0xB0, 20, 1],
        &[0xC0, 1],
        &[0xD0, 1],
        &[0xE0, 0, 64],
        &[0xF2, 1, 2],
        &[0xF6],
        &[0xFE],
    ];
    for stream in &streams {
        stream.set_state(State::Run)?;
    }
    for (number, bytes) in (1i64..).zip(messages) {
        let stream = &streams[number as usize % 2];
        stream.put_message(message(stream, ms(number), bytes)?)?;
        stream.flush();
    }
    let captured = capture_until(card, &capture, ms(20))?;
    ensure!(bytes(&captured) == messages);
    ensure!((1..).zip(&captured).all(|(number, captured)| captured.time == ms(number)), "{captured:?}");
    for stream in &streams {
        stream.allocator().reclaim()?;
        ensure!(stream.allocator().counts().presented == 5);
        stream.set_state(State::Stop)?;
        crate::fixture::expect_all_free(stream, config)?;
    }
    Ok(())
}
