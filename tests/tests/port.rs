//! The port side of the driver against the card: packed buffers through filters and sequencer, serviced from
//! interrupts.

use dmus_card::ClockMode;
use dmus_driver::port::{
    BufferError, Mxf, Output, PortBuffer, RenderPort, Sequencer, ServiceGroup, ServiceGroups, ServiceSink, Unpacker,
};
use dmus_driver::{Card, DriverError, Message, Platform, RenderStream, StreamConfig, play};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::{Song, TimedMessage};
use dmus_tests::loopback::HostedCard;
use dmus_tests::songs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a transposing filter does to a message: notes a fourth up, but not drums.
fn transpose(bytes: &mut [u8]) {
    if let [status @ 0x80..=0xAF, key, _] = bytes
        && *status & 15 != 9
    {
        *key = (*key + 5).min(127);
    }
}

struct Transpose<'g, 'm>(Output<'g, 'm>);

impl<'g, 'm> Mxf<'g, 'm> for Transpose<'g, 'm> {
    fn put_message(&self, mut message: Message<'m>) -> Result<(), DriverError> {
        message.edit_short(transpose);
        self.0.put_message(message)
    }

    fn output(&self) -> Option<&Output<'g, 'm>> {
        Some(&self.0)
    }
}

const NOTE: [u8; 3] = [0x90, 60, 100];

fn seconds(seconds: f64) -> RefTime {
    RefTime((seconds * 1e7) as i64)
}

/// Puts a note into a graph.
fn put<'g, 'm: 'g, P: Platform>(
    graph: &RenderPort<'g, 'm, P>,
    stream: &'m RenderStream<'m, P>,
    time: RefTime,
) -> Result<(), DriverError> {
    let mut message = stream.allocator().get_message()?;
    message.set_time(time);
    message.set_data(&NOTE)?;
    graph.put_message(message)
}

/// Waits for interrupts and services them, until `there` says that it is there.
fn service_until<P: Platform>(
    port: &RenderPort<'_, '_, P>,
    card: &Card<P>,
    there: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(Instant::now() < deadline, "stands still at {}", card.get_time());
        // The stream's vector while it runs, the miniport's otherwise.
        for vector in [0, CONTROL_VECTOR] {
            card.platform().wait(vector, Duration::from_millis(5));
        }
        port.request_service()?;
    }
    Ok(())
}

/// Packs as many messages as the buffer takes, and gives the number.
fn pack(buffer: &mut PortBuffer<'_>, messages: &[(RefTime, Vec<u8>)]) -> anyhow::Result<usize> {
    buffer.flush();
    for (packed, (time, bytes)) in messages.iter().enumerate() {
        let packing = match bytes[..] {
            [a, b] if a < 0xF0 => buffer.pack_structured(*time, 0, u32::from_le_bytes([a, b, 0, 0])),
            [a, b, c] if a < 0xF0 => buffer.pack_structured(*time, 0, u32::from_le_bytes([a, b, c, 0])),
            _ => buffer.pack_unstructured(*time, 0, bytes),
        };
        match packing {
            Ok(()) => {}
            Err(BufferError::Full { .. }) if packed > 0 => return Ok(packed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(messages.len())
}

/// Plays all messages through a port in virtual time, buffer by buffer, as interrupts come.
fn play_through<P: Platform>(
    port: &RenderPort<'_, '_, P>,
    stream: &RenderStream<'_, P>,
    messages: &[(RefTime, Vec<u8>)],
    end: RefTime,
) -> anyhow::Result<()> {
    static GROUPS: ServiceGroups = ServiceGroups::new();
    let group = ServiceGroup::of_vector(0).expect("a stream's vector");
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut memory = vec![0; 4096];
    let mut buffer = PortBuffer::new(&mut memory);
    port.set_state(State::Run)?;
    let mut rest = messages;
    while !rest.is_empty() || port.now() < end || stream.allocator().in_flight() > 0 {
        let packed = pack(&mut buffer, rest)?;
        rest = &rest[packed..];
        let mut unpacker = Unpacker::new(buffer.bytes(), buffer.get_start_time())?;
        loop {
            assert!(Instant::now() < deadline, "stands still at {} of {end}", port.now());
            let all = port.play_buffer(&mut unpacker)?;
            // As after any interrupt, so that what is due by now is with the card before more time is granted.
            GROUPS.notify(Some(group));
            GROUPS.service(&[(group, port)])?;
            let next = unpacker.next_time().or(rest.first().map(|(time, _)| *time));
            port.grant(next.unwrap_or(end));
            if all && !rest.is_empty() {
                break;
            }
            if all && port.now() >= end && stream.allocator().in_flight() == 0 {
                break;
            }
            if stream.wait(stream.allocator().in_flight().div_ceil(2), Duration::from_millis(500)) {
                GROUPS.notify(Some(group));
            }
            GROUPS.service(&[(group, port)])?;
        }
    }
    port.set_state(State::Stop)?;
    Ok(())
}

/// DDI: the port driver unpacks buffers, its sequencer orders the events, and filters in the graph may change each of
///     them on its way to the hardware
/// DDI: a message moves along the filters, and the allocator is behind the last
#[test]
fn a_song_through_packer_filter_and_sequencer_sounds_as_if_it_were_transposed_before() -> anyhow::Result<()> {
    for (song, width) in [
        (dmus_card::demo::song(), PointerWidth::Eight),
        (songs::busy(5_000), PointerWidth::Eight),
        (songs::busy(5_000), PointerWidth::Four),
    ] {
        let song = Song::parse(&song)?;
        let plain: Vec<(RefTime, Vec<u8>)> = song.messages().map(|m| (m.time, m.bytes.to_vec())).collect();
        let mut transposed = plain.clone();
        transposed.iter_mut().for_each(|(_, bytes)| transpose(bytes));
        assert!(plain != transposed);

        let expected = {
            let hosted = HostedCard::start(ClockMode::Virtual)?;
            let card = Card::open(hosted.connect()?, width)?;
            let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
            let messages = transposed.iter().map(|(time, bytes)| TimedMessage { time: *time, group: 0, bytes });
            play(&stream, messages, song.duration(), |_| {})?;
            drop(stream);
            drop(card);
            hosted.finish()?.samples()
        };

        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let stats = Arc::clone(&hosted.stats);
        let card = Card::open(hosted.connect()?, width)?;
        {
            let config = StreamConfig::default();
            let stream = RenderStream::open(&card, 0, config)?;
            let allocator = stream.allocator();
            let sequencer = Sequencer::new(allocator, stream.prefetch());
            let filter = Transpose(Output::new());
            let port = RenderPort::new(&stream);
            sequencer.connect_output(&stream)?;
            filter.connect_output(&sequencer)?;
            port.connect_output(&filter)?;
            play_through(&port, &stream, &plain, song.duration())?;
            let counts = allocator.counts();
            assert_eq!((counts.submitted, counts.presented), (plain.len() as u64, plain.len() as u64), "{counts:?}");
            assert_eq!(sequencer.held(), 0);
            assert_eq!(allocator.free_slots(), config.slots as usize);
            assert_eq!(allocator.free_buffers(), config.buffers as usize);
        }
        assert_eq!((stats.late.get(), stats.rejected.get(), stats.faults.get()), (0, 0, 0));
        assert!(stats.register_accesses.get() < 200, "{} register accesses", stats.register_accesses.get());
        drop(card);
        let heard = hosted.finish()?.samples();
        assert!(heard.iter().any(|sample| sample.abs() > 1000));
        assert!(heard == expected, "the audio differs with {width:?}");
    }
    Ok(())
}

/// DDI: after DisconnectOutput in the middle of playing, what comes goes to the allocator and what went before still
///     plays
#[test]
fn a_graph_that_is_cut_while_it_plays_loses_nothing() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let config = StreamConfig::default();
    let stream = RenderStream::open(&card, 0, config)?;
    let sequencer = Sequencer::new(stream.allocator(), stream.prefetch());
    let filter = Transpose(Output::new());
    let port = RenderPort::new(&stream);
    sequencer.connect_output(&stream)?;
    filter.connect_output(&sequencer)?;
    port.connect_output(&filter)?;
    port.set_state(State::Run)?;
    for i in 0..40 {
        put(&port, &stream, seconds(f64::from(i) * 0.05))?;
    }
    // Before the sequencer: what it holds goes on.
    filter.disconnect_output(&sequencer)?;
    for i in 0..40 {
        put(&port, &stream, seconds(f64::from(i) * 0.05))?;
    }
    assert_eq!(stream.allocator().free_slots(), config.slots as usize - 40);
    filter.connect_output(&sequencer)?;
    port.grant(seconds(0.5));
    service_until(&port, &card, || port.now() == seconds(0.5))?;
    // Behind it: what it gives on from here is recycled.
    let flying = u64::from(stream.allocator().in_flight()) + stream.allocator().counts().presented;
    assert!((10..40).contains(&flying) && sequencer.held() as u64 + flying == 40, "{flying}");
    sequencer.disconnect_output(&stream)?;
    let base = stream.time_base();
    card.grant(base.saturating_add(seconds(3.0)));
    service_until(&port, &card, || port.now() == seconds(3.0) && stream.allocator().in_flight() == 0)?;
    let counts = stream.allocator().counts();
    assert_eq!((counts.submitted, counts.presented), (flying, flying), "{counts:?}");
    assert_eq!((sequencer.held(), stream.allocator().free_slots()), (0, config.slots as usize));
    Ok(())
}

/// DDI: IMasterClock::GetTime gives the reference time in 100 ns; here without a trapped access, and so does a service
///     with nothing to do
#[test]
fn the_clock_is_read_and_a_service_done_without_a_trap() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let stats = Arc::clone(&hosted.stats);
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let port = RenderPort::new(&stream);
    port.connect_output(&stream)?;
    port.set_state(State::Run)?;
    port.grant(seconds(1.5));
    service_until(&port, &card, || port.now() == seconds(1.5))?;
    let base = stream.time_base();
    let before = stats.register_accesses.get();
    for _ in 0..1000 {
        assert_eq!(card.get_time(), base.saturating_add(seconds(1.5)));
        assert_eq!(port.now(), seconds(1.5));
        port.request_service()?;
    }
    assert_eq!(stats.register_accesses.get(), before);
    Ok(())
}
