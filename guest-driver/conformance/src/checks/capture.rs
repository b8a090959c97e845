//! The capture path: hardware bytes, events, the capture sink, the packer.

use crate::fixture::{Fixture, SIZES, bytes, capture_until, mark, ms, sysex, timed};
use alloc::vec;
use alloc::vec::Vec;
use anyhow::ensure;
use dmus_driver::port::PortBuffer;
use dmus_driver::{CaptureSink, CaptureStream, Card, Platform, RenderStream, StreamConfig};
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

checks! {
    captured_messages_are_complete_and_time_stamped: "Cooked capture: one complete, time-stamped message an event, in \
        the order of the hardware.",
    a_captured_event_says_where_it_comes_from: "usChannelGroup says which set of channels originated the event; \
        ullBytePosition is its byte position in the stream.",
    long_sysex_comes_in_incomplete_events: "INCOMPLETE means, in capture too, that the message goes on in the next \
        event.",
    only_data_beyond_the_pointer_size_needs_a_buffer: "A captured event needs a buffer only for data beyond the \
        pointer size; cbEvent is its unrounded length.",
    uncooked_events_are_raw_bytes: "Uncooked capture: raw bytes, INCOMPLETE set; the capture sink makes messages of \
        them.",
    the_capture_sink_parses: "The capture sink expands running status, takes real-time bytes out of messages, and \
        puts SysEx together across events.",
    the_capture_sink_goes_on_after_a_gap: "What an overrun lost shows in the byte position; the capture sink goes on \
        with the next message.",
    nothing_captured_is_lost_for_want_of_slots: "A capture stream that has few slots loses nothing with the virtual \
        clock: time waits.",
    captured_messages_are_packed_for_the_application: "Captured messages go on through the packer, which gives them \
        to the application in a buffer.",
}

fn captured_messages_are_complete_and_time_stamped<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let long = sysex(200);
    let messages: [(i64, &[u8]); 5] =
        [(3, &[0x90, 60, 0]), (12_345, &[0xC1, 5]), (12_345, &long), (99_999, &[0xF8]), (100_000, &[0xE2, 1, 2])];
    for (time, bytes) in messages {
        fixture.put(RefTime(time), bytes)?;
    }
    let captured = fixture.capture_until(ms(20))?;
    let expected: Vec<_> = messages.into_iter().map(|(time, bytes)| (RefTime(time), bytes)).collect();
    ensure!(timed(&captured) == expected);
    ensure!(captured.iter().all(|captured| !captured.incomplete));
    Ok(())
}

fn a_captured_event_says_where_it_comes_from<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let mut position = 0;
    for (number, len) in (1..).zip([3, 2, 40, 9, 8, 5, 4]) {
        fixture.put(ms(number), &sysex(len))?;
        let captured = fixture.capture_until(ms(number))?;
        // The loopback is input number 0.
        ensure!((captured[0].group, captured[0].position) == (0, position), "{captured:?}");
        position += len as u64;
    }
    Ok(())
}

fn long_sysex_comes_in_incomplete_events<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let config = StreamConfig { slots: 8, buffers: 8, buffer_size: 64 };
    let capture = CaptureStream::open(card, 1, config, true)?;
    capture.set_state(State::Run)?;
    render.set_state(State::Run)?;
    let long = sysex(200);
    render.send(ms(1), 0, &long)?;
    render.send(ms(2), 0, &mark(1))?;
    render.flush();
    let captured = capture_until(card, &capture, ms(3))?;
    let parts: Vec<_> =
        captured.iter().map(|captured| (captured.bytes.len(), captured.incomplete, captured.position)).collect();
    ensure!(parts == [(64, true, 0), (64, true, 64), (64, true, 128), (8, false, 192), (3, false, 200)]);
    ensure!(bytes(&captured[..4]).concat() == long);
    ensure!(captured[..4].iter().all(|captured| captured.time == ms(1)), "{captured:?}");
    Ok(())
}

fn only_data_beyond_the_pointer_size_needs_a_buffer<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    // The driver holds what the card wrote against the pointer size: data that is elsewhere would be an error, or other
    // bytes.
    let mut fixture = Fixture::open(card)?;
    for (number, len) in (1..).zip(2..20) {
        let bytes = sysex(len);
        fixture.put(ms(number), &bytes)?;
        let captured = fixture.capture_until(ms(number))?;
        ensure!(timed(&captured) == [(ms(number), &bytes[..])], "{len} bytes");
    }
    Ok(())
}

fn uncooked_events_are_raw_bytes<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let capture = CaptureStream::open(card, 1, StreamConfig { buffer_size: 64, ..SIZES }, false)?;
    capture.set_state(State::Run)?;
    render.set_state(State::Run)?;
    let messages = [mark(1).to_vec(), sysex(150), vec![0xF8], mark(2).to_vec()];
    for (number, bytes) in (1..).zip(&messages) {
        render.send(ms(number), 0, bytes)?;
    }
    render.flush();
    let captured = capture_until(card, &capture, ms(10))?;
    ensure!(captured.iter().all(|captured| captured.incomplete), "{captured:?}");
    let pieces: Vec<_> = captured.iter().map(|captured| (captured.position, &captured.bytes[..])).collect();
    let parsed = parse(&render, &pieces)?;
    ensure!(bytes(&captured).concat() == messages.concat());
    ensure!(parsed == messages);
    Ok(())
}

/// What the sink makes of pieces of a stream, each at its byte position.
fn parse<P: Platform>(stream: &RenderStream<'_, P>, pieces: &[(u64, &[u8])]) -> anyhow::Result<Vec<Vec<u8>>> {
    let (mut sink, mut messages) = (CaptureSink::default(), Vec::new());
    for (byte_position, bytes) in pieces {
        let mut event = stream.allocator().get_message()?;
        event.set_byte_position(*byte_position);
        event.set_data(bytes)?;
        event.set_incomplete();
        sink.put_message(&event, |message| messages.push(message.to_vec()));
    }
    Ok(messages)
}

fn the_capture_sink_parses<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SIZES)?;
    let wire = [0x90, 60, 0xF8, 100, 62, 101, 0xC1, 5, 6, 0xF0, 1, 0xFE, 2, 0xF7, 0xF6];
    let expected: [&[u8]; 9] = [
        &[0xF8],
        &[0x90, 60, 100],
        &[0x90, 62, 101],
        &[0xC1, 5],
        &[0xC1, 6],
        &[0xFE],
        &[0xF0, 1, 2, 0xF7],
        &[0xF6],
        &[],
    ];
    // However it is cut.
    for len in 1..=wire.len() {
        let pieces: Vec<_> = wire.chunks(len).enumerate().map(|(n, piece)| ((n * len) as u64, piece)).collect();
        let messages = parse(&stream, &pieces)?;
        ensure!(messages == expected[..8], "in pieces of {len}");
    }
    Ok(())
}

fn the_capture_sink_goes_on_after_a_gap<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let stream = RenderStream::open(card, 0, SIZES)?;
    // After the gap the first bytes are the end of something that is lost.
    let messages = parse(&stream, &[(0, &[0x90, 60, 100, 0x91, 1]), (20, &[2, 0x92, 3, 4])])?;
    ensure!(messages == [[0x90, 60, 100], [0x92, 3, 4]]);
    let messages = parse(&stream, &[(0, &[0xF0, 1, 2]), (9, &[3, 0xF7, 0xF6])])?;
    ensure!(messages == [[0xF6]]);
    Ok(())
}

fn nothing_captured_is_lost_for_want_of_slots<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let capture = CaptureStream::open(card, 1, StreamConfig { slots: 2, buffers: 1, buffer_size: 64 }, true)?;
    capture.set_state(State::Run)?;
    render.set_state(State::Run)?;
    for number in 0..SIZES.slots as u8 {
        render.send(ms(i64::from(number / 8)), 0, &mark(number))?;
    }
    render.flush();
    let captured = capture_until(card, &capture, ms(10))?;
    let expected: Vec<_> = (0..SIZES.slots as u8).map(mark).collect();
    ensure!(bytes(&captured) == expected.iter().map(|bytes| &bytes[..]).collect::<Vec<_>>());
    Ok(())
}

fn captured_messages_are_packed_for_the_application<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let long = sysex(100);
    let messages: [(i64, &[u8]); 4] = [(5, &[0x93, 60, 0]), (6, &[0xC1, 5]), (6, &long), (7, &[0xE2, 1, 2])];
    for (time, bytes) in messages {
        fixture.put(ms(time), bytes)?;
    }
    let captured = fixture.capture_until(ms(10))?;
    let mut memory = [0; 512];
    let mut buffer = PortBuffer::new(&mut memory);
    for captured in &captured {
        match captured.bytes[..] {
            [a, b] => buffer.pack_structured(captured.time, captured.group.into(), u32::from_le_bytes([a, b, 0, 0]))?,
            [a, b, c] => {
                buffer.pack_structured(captured.time, captured.group.into(), u32::from_le_bytes([a, b, c, 0]))?
            }
            _ => buffer.pack_unstructured(captured.time, captured.group.into(), &captured.bytes)?,
        }
    }
    ensure!(buffer.get_start_time() == ms(5));
    let mut events = Vec::new();
    for event in buffer.events() {
        let event = event?;
        events.push((event.time, event.bytes));
    }
    ensure!(events == messages.map(|(time, bytes)| (ms(time), bytes)));
    Ok(())
}
