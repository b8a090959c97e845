//! The port side: packed buffers, the filter graph, the sequencer, service from interrupts, and the master clock.

use crate::fixture::{
    Fixture, LIMIT, SIZES, bytes, capture_until, expect_all_free, mark, message, ms, reach, sysex, until,
};
use alloc::vec::Vec;
use anyhow::{Context, ensure};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use dmus_driver::port::{
    BufferError, CapturePort, HEADER_SIZE, Mxf, Output, PortBuffer, PositionNotify, RenderPort, Sequencer,
    ServiceGroup, ServiceGroups, ServiceSink, Unpacker, event_size,
};
use dmus_driver::{CaptureStream, Card, DriverError, Message, Platform, RenderStream, StreamConfig};
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;

checks! {
    buffers_pack_and_unpack: "A port buffer has events packed as DMUS_EVENTHEADER and data, padded to 8 bytes; \
        GetNextEvent gives back time, channel group and bytes of each.",
    what_does_not_fit_a_buffer_is_refused: "PackStructured takes whole messages only; what does not fit is refused, \
        and the buffer stays as it was.",
    a_buffer_plays_through_the_graph: "The render path: unpacker, GetMessage, sequencer, PutMessage to the hardware \
        when SchedulePreFetch says so, and recycled.",
    without_an_output_events_go_to_the_allocator: "With no ConnectOutput, and after DisconnectOutput, PutMessage goes \
        straight to the allocator.",
    filters_pass_change_and_drop_events: "PutMessage passes an event to the next filter, which may change it or \
        recycle it; the allocator is the last destination of every chain.",
    captured_events_pass_through_filters: "The capture path: what the hardware brings goes through the same filters, \
        the allocator the last destination of all; PositionNotify says how far the stream is.",
    the_sequencer_holds_beyond_the_prefetch: "The port driver itself sequences everything that is later than \
        SchedulePreFetch, by time stamps only.",
    the_sequencer_does_not_hold_what_it_must_not: "An event with DONT_HOLD_FOR_SEQUENCING is not held by the \
        sequencer.",
    the_sequencer_holds_outside_run: "In PAUSE events are held in the graph, too, and presentation time does not \
        advance.",
    stop_discards_what_the_graph_holds: "In STOP what is held, wherever in the graph, is discarded to the \
        allocator, and presentation time is reset.",
    notify_services_a_group_or_all: "Notify schedules service of its group; without a group, of the miniport's and \
        every stream's. Interrupts before a service are served by one.",
    a_service_reaches_every_filter: "PutMessage(NULL) is the port driver's call to service now: filters work on what \
        became due, and pass it on.",
    service_may_be_asked_for_before_there_are_streams: "RegisterServiceGroup lets interrupts be serviced before Init \
        returns: requests are kept.",
    each_stream_interrupts_with_its_own_vector: "A stream has a service group, which its own interrupts notify.",
    the_master_clock_tells_the_reference_time: "IMasterClock::GetTime gives the reference time in 100 ns.",
}

fn buffers_pack_and_unpack<P: Platform>(_: &Card<P>) -> anyhow::Result<()> {
    let mut memory = [0xAA; 256];
    let mut buffer = PortBuffer::new(&mut memory);
    let long = sysex(13);
    buffer.pack_structured(ms(7), 3, u32::from_le_bytes([0x90, 60, 100, 0]))?;
    buffer.pack_unstructured(ms(9), 0, &long)?;
    buffer.pack_structured(ms(5), 1, 0xF8)?;
    ensure!(HEADER_SIZE == 20 && event_size(3) == 24 && event_size(13) == 40, "{HEADER_SIZE}");
    ensure!(buffer.bytes().len() == 24 + 40 + 24);
    ensure!(buffer.get_start_time() == ms(7), "the start time is that of the first event");
    ensure!(buffer.bytes()[..8] == [3, 0, 0, 0, 3, 0, 0, 0] && buffer.bytes()[16..20] == [1, 0, 0, 0]);
    let mut events = Vec::new();
    for event in buffer.events() {
        let event = event?;
        events.push((event.time, event.channel_group, event.structured, event.bytes));
    }
    let expected: [(_, _, _, &[u8]); 3] =
        [(ms(7), 3, true, &[0x90, 60, 100]), (ms(9), 0, false, &long), (ms(5), 1, true, &[0xF8])];
    ensure!(events == expected);
    let late = Unpacker::new(buffer.bytes(), RefTime(i64::MAX)).err();
    ensure!(matches!(late, Some(BufferError::TimeOverflow { at: 24 })), "{late:?}");
    buffer.flush();
    ensure!(buffer.bytes().is_empty() && buffer.events().next().is_none());
    Ok(())
}

fn what_does_not_fit_a_buffer_is_refused<P: Platform>(_: &Card<P>) -> anyhow::Result<()> {
    let mut memory = [0; 64];
    let mut buffer = PortBuffer::new(&mut memory);
    // Running status, SysEx, half a message: no structured events.
    for message in [60, 0xF0, 0xF7, 0x00_FF_90] {
        ensure!(matches!(buffer.pack_structured(ms(1), 0, message), Err(BufferError::NotAMessage { at: 0 })));
    }
    buffer.pack_unstructured(ms(1), 0, &sysex(30))?;
    ensure!(matches!(buffer.pack_unstructured(ms(1), 0, &mark(1)), Err(BufferError::Full { needed: 24, left: 8 })));
    ensure!(matches!(buffer.pack_unstructured(ms(1), 0x1_0000, &mark(1)), Err(BufferError::ChannelGroup { .. })));
    ensure!(buffer.bytes().len() == 56);
    // Nothing of a buffer that is cut short, or lies about a length, is played.
    for (at, value) in [(0, 0), (0, 200), (16, 2)] {
        let mut bytes = buffer.bytes().to_vec();
        bytes[at] = value;
        ensure!(Unpacker::new(&bytes, ms(0)).is_err(), "{value} at {at}");
    }
    ensure!(Unpacker::new(&buffer.bytes()[..40], ms(0)).is_err());
    Ok(())
}

/// Keeps what it is given, as an application does that is slow.
#[derive(Default)]
struct Keeper<'m>(RefCell<Vec<Message<'m>>>);

impl<'g, 'm: 'g> Mxf<'g, 'm> for Keeper<'m> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.0.borrow_mut().push(message);
        Ok(())
    }
}

/// The last position that it was told, and how often it was told one.
#[derive(Default)]
struct Position(Cell<(u64, u32)>);

impl PositionNotify for Position {
    fn position_notify(&self, byte_position: u64) {
        self.0.set((byte_position, self.0.get().1 + 1));
    }
}

fn captured_events_pass_through_filters<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let capture = CaptureStream::open(card, 1, StreamConfig { slots: 8, buffers: 8, buffer_size: 64 }, true)?;
    let (keeper, position) = (Keeper::default(), Position::default());
    let filter = Filter(Output::new());
    let port = CapturePort::new(&capture, Some(&position));
    filter.connect_output(&keeper)?;
    port.connect_output(&filter)?;
    port.set_state(State::Run)?;
    render.set_state(State::Run)?;
    let long = sysex(40);
    for (number, bytes) in (1..).zip([&mark(1)[..], &mark(9), &long, &mark(20)]) {
        render.put_message(message(&render, ms(number), bytes)?)?;
    }
    render.flush();
    reach(card, ms(5))?;
    port.request_service()?;
    let kept: Vec<_> = keeper.0.borrow().iter().map(|event| (event.time(), event.to_vec())).collect();
    ensure!(kept == [(ms(1), mark(2).to_vec()), (ms(3), long), (ms(4), mark(21).to_vec())], "{kept:?}");
    ensure!(position.0.get() == (3 + 3 + 40 + 3, 4), "{:?}", position.0.get());
    // Three are the application's still; the others are posted again, and the end of the graph is where all are
    // recycled.
    ensure!(capture.free_slots_and_buffers() == (0, 0), "{:?}", capture.free_slots_and_buffers());
    keeper.0.borrow_mut().clear();
    ensure!(capture.free_slots_and_buffers() == (3, 3), "{:?}", capture.free_slots_and_buffers());
    port.request_service()?;
    ensure!(capture.free_slots_and_buffers() == (0, 0), "{:?} were not posted again", capture.free_slots_and_buffers());
    port.disconnect_output(&filter)?;
    render.put_message(message(&render, ms(6), &mark(1))?)?;
    render.flush();
    reach(card, ms(7))?;
    port.set_state(State::Stop)?;
    ensure!(position.0.get().1 == 5 && keeper.0.borrow().is_empty());
    ensure!(capture.free_slots_and_buffers() == (8, 8), "{:?}", capture.free_slots_and_buffers());
    Ok(())
}

/// A render stream with its graph of port and sequencer in RUN, and a capture stream that receives what they present.
macro_rules! graph {
    ($card:ident, $config:expr, $stream:ident, $sequencer:ident, $port:ident) => {
        let $stream = RenderStream::open($card, 0, $config)?;
        let $sequencer = Sequencer::new($stream.allocator(), $stream.prefetch());
        let $port = RenderPort::new(&$stream);
        $sequencer.connect_output(&$stream)?;
        $port.connect_output(&$sequencer)?;
        $port.set_state(State::Run)?;
    };
}

fn sizes<P: Platform>(card: &Card<P>) -> anyhow::Result<CaptureStream<'_, P>> {
    let capture = CaptureStream::open(card, 1, StreamConfig { buffers: 32, ..SIZES }, true)?;
    capture.set_state(State::Run)?;
    Ok(capture)
}

fn a_buffer_plays_through_the_graph<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let config = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };
    let capture = sizes(card)?;
    graph!(card, config, stream, sequencer, port);
    let long = sysex(150);
    // Two seconds, more than prefetch and pool hold.
    let messages: Vec<(RefTime, Vec<u8>)> = (0..40u8)
        .map(|n| (ms(i64::from(n) * 50 + 1), if n % 10 == 9 { long.clone() } else { mark(n).to_vec() }))
        .collect();
    let mut memory = [0; 2048];
    let mut buffer = PortBuffer::new(&mut memory);
    for (time, bytes) in &messages {
        buffer.pack_unstructured(*time, 0, bytes)?;
    }
    let mut unpacker = Unpacker::new(buffer.bytes(), buffer.get_start_time())?;
    let (mut captured, end) = (Vec::new(), ms(2100));
    until(card, "the end of the buffer", || {
        let all = port.play_buffer(&mut unpacker)?;
        port.request_service()?;
        port.grant(unpacker.next_time().unwrap_or(end));
        let there = all && port.now() >= end;
        while let Some(event) = capture.receive()? {
            captured.push((event.time(), event.to_vec()));
        }
        Ok(there)
    })?;
    ensure!(captured == messages);
    // The last of them may have been completed since the last service.
    expect_all_free(&stream, config)?;
    let counts = stream.allocator().counts();
    ensure!((counts.presented, counts.late) == (40, 0), "{counts:?}");
    ensure!(sequencer.held() == 0);
    Ok(())
}

fn without_an_output_events_go_to_the_allocator<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let port = RenderPort::new(&stream);
    let put = |number| -> anyhow::Result<()> { Ok(port.put_message(message(&stream, ms(1), &mark(number))?)?) };
    port.set_state(State::Run)?;
    put(1)?;
    ensure!(stream.allocator().free_slots() == SIZES.slots as usize);
    port.connect_output(&stream)?;
    ensure!(port.connect_output(&stream).is_err(), "it has an output already");
    put(2)?;
    ensure!(stream.allocator().free_slots() == SIZES.slots as usize - 1);
    port.disconnect_output(&stream)?;
    ensure!(port.disconnect_output(&stream).is_err(), "it has none any more");
    put(3)?;
    ensure!(stream.allocator().free_slots() == SIZES.slots as usize - 1);
    port.request_service()?;
    // What went before still plays.
    let captured = capture_until(card, &capture, ms(2))?;
    ensure!(bytes(&captured) == [mark(2)]);
    expect_all_free(&stream, SIZES)
}

/// Adds one to the last byte of short messages, and drops those in which it becomes 10.
struct Filter<'g, 'm>(Output<'g, 'm>);

impl<'g, 'm> Mxf<'g, 'm> for Filter<'g, 'm> {
    fn put_message(&self, mut message: Message<'m>) -> Result<(), DriverError> {
        let mut last = 0;
        message.edit_short(|bytes| {
            if let Some(byte) = bytes.last_mut() {
                *byte += 1;
                last = *byte;
            }
        });
        if last == 10 { Ok(()) } else { self.0.put_message(message) }
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.0)
    }
}

fn filters_pass_change_and_drop_events<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let filters = [Filter(Output::new()), Filter(Output::new())];
    let port = RenderPort::new(&stream);
    filters[1].connect_output(&stream)?;
    filters[0].connect_output(&filters[1])?;
    port.connect_output(&filters[0])?;
    port.set_state(State::Run)?;
    ensure!(stream.state() == Some(State::Run), "SetState reaches the end of the graph");
    let long = sysex(40);
    for number in [1, 8, 9, 20] {
        port.put_message(message(&stream, ms(1), &mark(number))?)?;
    }
    let mut chain = message(&stream, ms(2), &mark(30))?;
    chain.chain(message(&stream, ms(2), &long)?)?;
    chain.chain(message(&stream, ms(2), &mark(40))?)?;
    port.put_message(chain)?;
    port.request_service()?;
    let captured = capture_until(card, &capture, ms(3))?;
    ensure!(bytes(&captured) == [&mark(3)[..], &mark(22), &mark(32), &long, &mark(42)]);
    expect_all_free(&stream, SIZES)
}

fn the_sequencer_holds_beyond_the_prefetch<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    graph!(card, SIZES, stream, sequencer, port);
    let prefetch = stream.prefetch();
    let near = prefetch.saturating_sub(ms(1));
    let far = prefetch.saturating_add(ms(100));
    for (number, time) in [(3, RefTime(far.0 + 2)), (1, near), (2, far), (4, RefTime(far.0 + 2))] {
        port.put_message(message(&stream, time, &mark(number))?)?;
    }
    ensure!((sequencer.held(), stream.allocator().in_flight()) == (3, 1), "{} are held", sequencer.held());
    let captured = capture_until(card, &capture, ms(50))?;
    port.request_service()?;
    ensure!(captured.is_empty() && sequencer.held() == 3);
    capture_until(card, &capture, ms(101))?;
    port.request_service()?;
    ensure!((sequencer.held(), stream.allocator().in_flight()) == (0, 4));
    let captured = capture_until(card, &capture, far.saturating_add(ms(1)))?;
    ensure!(bytes(&captured) == [mark(1), mark(2), mark(3), mark(4)]);
    expect_all_free(&stream, SIZES)
}

fn the_sequencer_does_not_hold_what_it_must_not<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    graph!(card, SIZES, stream, sequencer, port);
    port.put_message(message(&stream, RefTime::from_secs(3600), &mark(1))?)?;
    let mut at_once = message(&stream, RefTime::ZERO, &mark(2))?;
    at_once.play_at_once();
    port.put_message(at_once)?;
    ensure!((sequencer.held(), stream.allocator().in_flight()) == (1, 1));
    port.request_service()?;
    let captured = capture_until(card, &capture, ms(1))?;
    ensure!(bytes(&captured) == [mark(2)]);
    Ok(())
}

fn the_sequencer_holds_outside_run<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    graph!(card, SIZES, stream, sequencer, port);
    reach(card, ms(5))?;
    port.set_state(State::Pause)?;
    port.put_message(message(&stream, ms(6), &mark(1))?)?;
    let mut at_once = message(&stream, RefTime::ZERO, &mark(2))?;
    at_once.play_at_once();
    port.put_message(at_once)?;
    let captured = capture_until(card, &capture, ms(50))?;
    port.request_service()?;
    ensure!(captured.is_empty() && port.now() == ms(5), "stream time is {}", port.now());
    ensure!((sequencer.held(), stream.allocator().in_flight()) == (2, 0));
    port.set_state(State::Run)?;
    ensure!(port.now() == ms(5), "stream time goes on at {}", port.now());
    let captured = capture_until(card, &capture, ms(60))?;
    ensure!(bytes(&captured) == [mark(2), mark(1)]);
    ensure!(captured[1].time == ms(51), "{captured:?}");
    expect_all_free(&stream, SIZES)
}

fn stop_discards_what_the_graph_holds<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    graph!(card, SIZES, stream, sequencer, port);
    let far = stream.prefetch().saturating_add(ms(100));
    for time in [ms(50), far, far] {
        port.put_message(message(&stream, time, &sysex(30))?)?;
    }
    port.request_service()?;
    reach(card, ms(10))?;
    ensure!((sequencer.held(), stream.allocator().in_flight()) == (2, 1));
    port.set_state(State::Stop)?;
    ensure!(sequencer.held() == 0 && port.now() == RefTime::ZERO);
    expect_all_free(&stream, SIZES)?;
    let counts = stream.allocator().counts();
    ensure!((counts.presented, counts.discarded) == (0, 1), "{counts:?}");
    port.put_message(message(&stream, ms(1), &mark(1))?)?;
    expect_all_free(&stream, SIZES)
}

/// Counts its services.
struct Counter(Cell<u32>);

impl ServiceSink for Counter {
    fn request_service(&self) -> Result<(), DriverError> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
}

fn group(vector: u16) -> anyhow::Result<ServiceGroup> {
    ServiceGroup::of_vector(vector).context("no group of this vector")
}

fn notify_services_a_group_or_all<P: Platform>(_: &Card<P>) -> anyhow::Result<()> {
    let groups = ServiceGroups::new();
    let sinks = [Counter(Cell::new(0)), Counter(Cell::new(0)), Counter(Cell::new(0))];
    let [one, other, miniport] = &sinks;
    let members: [(_, &dyn ServiceSink); 3] =
        [(group(0)?, one), (group(1)?, other), (group(CONTROL_VECTOR)?, miniport)];
    let counts = || sinks.each_ref().map(|sink| sink.0.get());
    groups.service(&members)?;
    ensure!(counts() == [0, 0, 0] && !groups.is_requested());
    for _ in 0..3 {
        groups.notify(Some(group(1)?));
    }
    ensure!(groups.is_requested() && counts() == [0, 0, 0], "the interrupt routine only schedules");
    groups.service(&members)?;
    ensure!(counts() == [0, 1, 0] && !groups.is_requested());
    groups.notify(None);
    groups.service(&members)?;
    groups.service(&members)?;
    ensure!(counts() == [1, 2, 1]);
    // An interrupt during the deferred call schedules another.
    struct Again<'g>(&'g ServiceGroups, ServiceGroup, Counter);
    impl ServiceSink for Again<'_> {
        fn request_service(&self) -> Result<(), DriverError> {
            self.0.notify(Some(self.1));
            self.2.request_service()
        }
    }
    let again = Again(&groups, group(2)?, Counter(Cell::new(0)));
    groups.notify(Some(group(2)?));
    for round in 1..=3 {
        groups.service(&[(group(2)?, &again)])?;
        ensure!(again.2.0.get() == round && groups.is_requested(), "{} services", again.2.0.get());
    }
    Ok(())
}

/// Holds one event until it is serviced at its time, or after it.
struct Waiting<'g, 'm> {
    held: Cell<Option<Message<'m>>>,
    output: Output<'g, 'm>,
}

impl<'g, 'm> Mxf<'g, 'm> for Waiting<'g, 'm> {
    fn put_message(&self, message: Message<'m>) -> Result<(), DriverError> {
        self.held.set(Some(message));
        Ok(())
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.output)
    }

    fn service(&self, now: RefTime) -> Result<(), DriverError> {
        match self.held.take() {
            Some(message) if message.time() <= now => self.output.put_message(message)?,
            held => self.held.set(held),
        }
        self.output.service(now)
    }
}

fn a_service_reaches_every_filter<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let capture = sizes(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let filters = [(); 2].map(|()| Waiting { held: Cell::new(None), output: Output::new() });
    let port = RenderPort::new(&stream);
    filters[1].connect_output(&stream)?;
    filters[0].connect_output(&filters[1])?;
    port.connect_output(&filters[0])?;
    port.set_state(State::Run)?;
    port.put_message(message(&stream, ms(5), &mark(1))?)?;
    ensure!(capture_until(card, &capture, ms(4))?.is_empty());
    port.request_service()?;
    ensure!(stream.allocator().in_flight() == 0, "serviced before it was due");
    ensure!(capture_until(card, &capture, ms(5))?.is_empty());
    // One service takes it through both, and shows it to the card.
    port.request_service()?;
    ensure!(bytes(&capture_until(card, &capture, ms(6))?) == [mark(1)]);
    port.request_service()?;
    expect_all_free(&stream, SIZES)
}

fn service_may_be_asked_for_before_there_are_streams<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    static GROUPS: ServiceGroups = ServiceGroups::new();
    GROUPS.notify(Some(group(0)?));
    graph!(card, SIZES, stream, sequencer, port);
    port.put_message(message(&stream, ms(1), &mark(1))?)?;
    ensure!(GROUPS.is_requested() && sequencer.held() == 0);
    // The service shows the card what was put.
    GROUPS.service(&[(group(0)?, &port)])?;
    reach(card, ms(2))?;
    stream.allocator().reclaim()?;
    ensure!(stream.allocator().counts().presented == 1);
    Ok(())
}

fn each_stream_interrupts_with_its_own_vector<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let platform = card.platform();
    for index in [0, 5] {
        let stream = RenderStream::open(card, index, SIZES)?;
        stream.set_state(State::Run)?;
        // Those of opening, which are few.
        let quiet = (0..100).any(|_| !platform.wait(index as u16, Duration::from_millis(5)));
        ensure!(quiet, "vector {index} fires for nothing");
        let now = card.get_time();
        stream.send(ms(1), 0, &mark(1))?;
        stream.flush();
        card.grant(now.saturating_add(ms(1)));
        while stream.allocator().in_flight() > 0 {
            ensure!(stream.wait(1, LIMIT), "no interrupt came within {LIMIT:?}");
            stream.allocator().reclaim()?;
        }
        ensure!(stream.allocator().counts().presented == 1);
    }
    Ok(())
}

fn the_master_clock_tells_the_reference_time<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let fixture = Fixture::open(card)?;
    let mut last = card.get_time();
    for time in [RefTime(1), RefTime(9_999), ms(1), ms(100)] {
        reach(card, time)?;
        // Just what was granted, and never back.
        ensure!(card.get_time() == time && time >= last, "{} at {time}", card.get_time());
        last = time;
    }
    // A grant that goes back is none.
    card.grant(ms(50));
    ensure!(card.get_time() == ms(100));
    drop(fixture);
    Ok(())
}
