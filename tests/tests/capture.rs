//! What the DDI says about capture, and the data sheet beyond it: the driver's capture stream and bare slots against
//! the card.

use dmus_card::ClockMode;
use dmus_card::capture::inputs::Input;
use dmus_card::transport::Transport;
use dmus_driver::{CaptureSink, CaptureStream, Card, DriverError, Platform, RenderStream, StreamConfig};
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, INCOMPLETE, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::loopback::{HostedCard, Loopback};
use dmus_tests::programs::{self, Running};
use dmus_tests::raw::{BUFFER_SIZE, Completed, RawStream, STRIDE, seconds};
use dmus_tests::songs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const COOKED: Type = Type::Capture { cooked: true };

type Timed = (RefTime, Vec<u8>);

fn hosted(clock: ClockMode, inputs: Vec<Input>) -> anyhow::Result<HostedCard> {
    HostedCard::start_with(Transport::Own, clock, inputs)
}

fn song_of(messages: &[(u32, &[u8])]) -> anyhow::Result<Song> {
    Ok(Song::parse(&songs::file(messages.iter().map(|(delta, bytes)| (*delta, bytes.to_vec()))))?)
}

fn contents(song: &Song) -> Vec<Timed> {
    song.messages().map(|message| (message.time, message.bytes.to_vec())).collect()
}

/// Receives until `count` messages are there, or all until the clock is at `until`.
fn record<P: Platform>(
    card: &Card<P>,
    stream: &CaptureStream<'_, P>,
    sink: &mut CaptureSink,
    count: usize,
    until: RefTime,
) -> anyhow::Result<Vec<Timed>> {
    let deadline = Instant::now() + LIMIT;
    let mut got = vec![];
    card.grant(until);
    loop {
        let reached = card.get_time() >= until;
        while let Some(event) = stream.receive()? {
            let time = event.time();
            sink.put_message(&event, |message| got.push((time, message.to_vec())));
        }
        if got.len() >= count || reached {
            return Ok(got);
        }
        anyhow::ensure!(Instant::now() < deadline, "only {} messages came", got.len());
        stream.wait(Duration::from_millis(20));
    }
}

/// A capture stream without manners.
fn bare<'p>(platform: &'p Loopback, kind: Type) -> anyhow::Result<RawStream<'p, Loopback>> {
    let s = RawStream::prepare(platform, PointerWidth::Eight)?;
    assert_eq!(s.transition(stream::TYPE, kind.value())?, None);
    s.set_state(State::Acquire)?;
    Ok(s)
}

fn empty(s: &RawStream<'_, Loopback>, buffer: u32) -> Event {
    s.event(0, 0, Data::Inline(s.buffer_iova(buffer).to_le_bytes()))
}

fn post(s: &RawStream<'_, Loopback>, count: u32) {
    for number in 0..count {
        s.fill(number, empty(s, number));
        s.put(number);
    }
    s.publish();
}

fn filled(s: &RawStream<'_, Loopback>) -> anyhow::Result<(Completed, Event, Vec<u8>)> {
    let done = s.completion()?;
    let mut bytes = [0; 40];
    s.pool.memory.read((done.slot * STRIDE) as usize, &mut bytes);
    let event = Event::decode(&bytes, PointerWidth::Eight)?;
    let len = usize::from(event.event_bytes);
    let mut data = vec![0; len];
    match event.data {
        Data::Inline(word) => data.copy_from_slice(&word[..len]),
        Data::Buffer(iova) | Data::Package(iova) => {
            s.buffers.memory.read((iova - s.buffers.iova) as usize, &mut data);
        }
    }
    Ok((done, event, data))
}

fn sysex(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i % 128) as u8).collect();
    bytes[0] = 0xF0;
    bytes[len - 1] = 0xF7;
    bytes
}

/// DDI: hardware bytes become time-stamped events that go through the capture sink to the application, none lost or
///     changed.
#[test]
fn a_song_captured_is_the_song() -> anyhow::Result<()> {
    for file in [dmus_card::demo::song(), songs::busy(3000)] {
        for (cooked, width) in [(true, PointerWidth::Eight), (false, PointerWidth::Four)] {
            let song = Song::parse(&file)?;
            let expected = contents(&song);
            let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song.clone())])?;
            let card = Card::open(hosted.connect()?, width)?;
            let stream = CaptureStream::open(&card, 0, StreamConfig::default(), cooked)?;
            stream.set_state(State::Run)?;
            let got = record(&card, &stream, &mut CaptureSink::default(), expected.len(), song.duration())?;
            assert!(got == expected, "{} of {} messages, cooked: {cooked}", got.len(), expected.len());
            stream.set_state(State::Stop)?;
            assert!(stream.receive()?.is_none());
            assert_eq!(stream.free_slots_and_buffers(), (64, 16));
            assert_eq!(hosted.stats.faults.get() + hosted.stats.capture_overruns.get(), 0);
        }
    }
    Ok(())
}

/// DDI: usChannelGroup says which set of channels originated the event, ullBytePosition where it is in the stream,
///     bReserved and cbStruct are not modified.
/// DDI: a captured event needs a buffer only for data beyond the pointer size.
#[test]
fn a_captured_event_says_where_it_comes_from() -> anyhow::Result<()> {
    let long = sysex(9);
    let first = song_of(&[(10, &[0x90, 60, 100]), (10, &long)])?;
    let second = song_of(&[(15, &[0xF0, 1, 2, 3, 4, 5, 6, 0xF7])])?;
    let expected = [contents(&first)[0].clone(), contents(&second)[0].clone(), contents(&first)[1].clone()];
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(first), Input::Song(second)])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    post(&s, 3);
    for slot in 0..3 {
        s.pool.memory.write((slot * STRIDE) as usize, &[0xAB]);
    }
    s.set_state(State::Run)?;
    s.grant(seconds(1));
    for (number, (group, position)) in [(0, 0), (1, 3), (0, 11)].into_iter().enumerate() {
        let (done, event, data) = filled(&s)?;
        assert_eq!((done.slot, done.status, done.time), (number as u32, Status::Presented, event.time));
        assert_eq!((RefTime(event.time), data), expected[number]);
        assert_eq!((event.channel_group, event.byte_position, event.flags, event.next), (group, position, 0, 0));
        assert_eq!(event.struct_size, 40);
        let mut reserved = [0];
        s.pool.memory.read(number * STRIDE as usize, &mut reserved);
        assert_eq!(reserved, [0xAB]);
        assert_eq!(matches!(event.data, Data::Buffer(iova) if iova == s.buffer_iova(2)), number == 2);
    }
    Ok(())
}

/// DDI: in cooked mode an event is one complete message; running status is expanded and real-time bytes inside messages
///     are events of their own.
/// DDI: INCOMPLETE means that the message goes on in the next event: SysEx beyond a buffer.
#[test]
fn cooked_bytes_are_complete_messages() -> anyhow::Result<()> {
    let long = sysex(600);
    let mut wire = vec![0x90, 60, 0xF8, 100, 62, 101, 0xC1, 5];
    wire.extend(&long[..400]);
    wire.push(0xFE);
    wire.extend(&long[400..]);
    let (mut sender, receiver) = UnixStream::pair()?;
    let hosted = hosted(ClockMode::Realtime, vec![Input::Live(Box::new(receiver))])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    post(&s, 8);
    s.set_state(State::Run)?;
    sender.write_all(&wire)?;
    let expected: [(u16, &[u8]); 8] = [
        (0, &[0xF8]),
        (0, &[0x90, 60, 100]),
        (0, &[0x90, 62, 101]),
        (0, &[0xC1, 5]),
        (INCOMPLETE, &long[..256]),
        (0, &[0xFE]),
        (INCOMPLETE, &long[256..512]),
        (0, &long[512..]),
    ];
    let mut position = 0;
    for (flags, bytes) in expected {
        let (_, event, data) = filled(&s)?;
        assert_eq!((event.flags, &data[..], event.byte_position), (flags, bytes, position));
        position += bytes.len() as u64;
    }
    Ok(())
}

/// DDI: in uncooked mode events hold raw bytes, several or partial messages, with INCOMPLETE set, and the capture sink
///     parses them.
#[test]
fn uncooked_bytes_come_as_they_are_and_the_sink_parses_them() -> anyhow::Result<()> {
    let mut wire = vec![0x90, 60, 0xF8, 100, 62, 101];
    wire.extend(sysex(700));
    let (mut sender, receiver) = UnixStream::pair()?;
    let hosted = hosted(ClockMode::Realtime, vec![Input::Live(Box::new(receiver))])?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = CaptureStream::open(&card, 3, StreamConfig::default(), false)?;
    stream.set_state(State::Run)?;
    for piece in wire.chunks(5) {
        sender.write_all(piece)?;
    }
    let (mut raw, mut messages, mut sink) = (Vec::<u8>::new(), vec![], CaptureSink::default());
    let deadline = Instant::now() + LIMIT;
    while raw.len() < wire.len() {
        anyhow::ensure!(Instant::now() < deadline, "{} bytes came", raw.len());
        while let Some(event) = stream.receive()? {
            assert!(event.is_incomplete());
            raw.extend(event.to_vec());
            sink.put_message(&event, |message| messages.push(message.to_vec()));
        }
        stream.wait(Duration::from_millis(10));
    }
    assert_eq!(raw, wire);
    assert_eq!(messages, [vec![0xF8], vec![0x90, 60, 100], vec![0x90, 62, 101], sysex(700)]);
    Ok(())
}

/// DDI: presentation time is reset in STOP. What was posted comes back to the allocator.
#[test]
fn stop_discards_posted_slots_and_starts_time_anew() -> anyhow::Result<()> {
    let song = song_of(&[(192, &[0x90, 1, 1]), (192, &[0x90, 2, 1]), (192, &[0x90, 3, 1])])?;
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song)])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    post(&s, 3);
    s.set_state(State::Run)?;
    s.grant(seconds(1));
    assert_eq!(filled(&s)?.2, [0x90, 1, 1]);
    s.reach(seconds(1))?;
    s.set_state(State::Stop)?;
    for slot in [1, 2] {
        let done = s.completion()?;
        assert_eq!((done.slot, done.status), (slot, Status::Discarded));
    }
    // In STOP, what it is given is discarded, too.
    s.fill(5, empty(&s, 5));
    s.put(5);
    s.publish();
    assert_eq!(s.completion()?.status, Status::Discarded);
    s.grant(seconds(2) + seconds(1) / 2);
    s.reach(seconds(2) + seconds(1) / 2)?;
    s.set_state(State::Acquire)?;
    post(&s, 1);
    s.set_state(State::Run)?;
    s.grant(seconds(4));
    let (_, event, data) = filled(&s)?;
    assert_eq!((data, event.time, event.byte_position), (vec![0x90, 3, 1], seconds(1) / 2, 0));
    Ok(())
}

#[test]
fn virtual_time_stands_at_what_has_no_slot() -> anyhow::Result<()> {
    let song = song_of(&[(192, &[0x90, 1, 1]), (0, &[0x90, 2, 1]), (192, &[0x90, 3, 1])])?;
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song)])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    s.set_state(State::Run)?;
    s.grant(seconds(10));
    s.reach(seconds(1))?;
    let clock = || platform.doorbell().load_u64(doorbell::MASTER_TIME, Ordering::Acquire) as i64;
    // It stands at the first note, then at the second, which comes at the same time, then at the third.
    for (slot, stands, goes_to) in [(0, 1, 1), (1, 1, 2), (2, 2, 10)] {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(clock(), seconds(stands));
        s.fill(slot, empty(&s, slot));
        s.put(slot);
        s.publish();
        assert_eq!(filled(&s)?.2, [0x90, slot as u8 + 1, 1]);
        s.reach(seconds(goes_to))?;
    }
    assert_eq!(hosted.stats.capture_overruns.get(), 0);
    Ok(())
}

#[test]
fn loopback_captures_what_is_presented_at_its_time_with_few_slots() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(400))?;
    let hosted = hosted(ClockMode::Virtual, vec![Input::Loopback])?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 1024, buffers: 512, buffer_size: 1024 };
    let render = RenderStream::open(&card, 0, config)?;
    let config = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };
    let stream = CaptureStream::open(&card, 1, config, true)?;
    stream.set_state(State::Run)?;
    render.set_state(State::Run)?;
    for message in song.messages() {
        let mut event = render.allocator().get_message()?;
        event.set_time(message.time);
        event.set_data(message.bytes)?;
        render.put_message(event)?;
    }
    render.flush();
    let got = record(&card, &stream, &mut CaptureSink::default(), song.len(), song.duration())?;
    assert!(got == contents(&song), "{} of {} messages", got.len(), song.len());
    Ok(())
}

#[test]
fn an_overrun_is_counted_and_reported_once_and_the_newest_is_intact() -> anyhow::Result<()> {
    let (mut sender, receiver) = UnixStream::pair()?;
    let hosted = hosted(ClockMode::Realtime, vec![Input::Live(Box::new(receiver))])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    s.set_state(State::Run)?;
    for number in 0..3000u32 {
        sender.write_all(&[0x90, (number >> 7) as u8, number as u8 & 0x7F])?;
    }
    s.until("the overruns", || hosted.stats.capture_overruns.get() == 3000 - 1024)?;
    assert_eq!(s.take_fault(), Some(Fault::CaptureOverrun));
    assert_eq!(hosted.stats.faults.get(), 1);
    post(&s, 1);
    for number in 3000 - 1024..3000u32 {
        let (_, event, data) = filled(&s)?;
        assert_eq!(data, [0x90, (number >> 7) as u8, number as u8 & 0x7F]);
        assert_eq!(event.byte_position, u64::from(number) * 3);
        post(&s, 1);
    }
    Ok(())
}

#[test]
fn a_wrong_post_is_rejected_with_its_reason_and_the_rest_goes_on() -> anyhow::Result<()> {
    let song = song_of(&[(10, &[0x90, 1, 1])])?;
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song)])?;
    let platform = hosted.connect()?;
    let s = bare(&platform, COOKED)?;
    s.fill(0, empty(&s, 0));
    s.put(0);
    let wrong = [
        (Reject::BadStructSize, Event { struct_size: 39, ..empty(&s, 1) }),
        (Reject::NotEmpty, Event { event_bytes: 3, ..empty(&s, 1) }),
        (Reject::NotEmpty, Event { flags: INCOMPLETE, ..empty(&s, 1) }),
        (Reject::NotEmpty, Event { next: s.slot_iova(9), ..empty(&s, 1) }),
        (Reject::BadBuffer, s.event(0, 0, Data::Inline([0; 8]))),
        (Reject::BadBuffer, s.event(0, 0, Data::Inline((s.buffer_iova(1) + 8).to_le_bytes()))),
        (Reject::BadBuffer, s.event(0, 0, Data::Inline((s.buffers.iova + 8 * u64::from(BUFFER_SIZE)).to_le_bytes()))),
        (Reject::BufferInFlight, empty(&s, 0)),
    ];
    for (slot, (_, event)) in (1..).zip(wrong) {
        s.fill(slot, event);
        s.put(slot);
    }
    s.publish();
    for (slot, (reason, _)) in (1..).zip(wrong) {
        let done = s.completion()?;
        assert_eq!((done.slot, done.status, done.reason), (slot, Status::Rejected, Some(reason)));
    }
    for (number, fault) in [(0, Fault::SlotInFlight), (9999, Fault::BadSlot)] {
        s.put(number);
        s.publish();
        s.until("a fault", || platform.read32(dmus_interface::regs::FAULT.offset) != 0)?;
        assert_eq!(s.take_fault(), Some(fault));
    }
    s.set_state(State::Run)?;
    s.grant(seconds(1));
    assert_eq!(filled(&s)?.2, [0x90, 1, 1]);
    Ok(())
}

#[test]
fn after_a_reset_in_the_middle_the_song_begins_anew_and_nothing_was_written() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(300))?;
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song.clone())])?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = CaptureStream::open(&card, 0, StreamConfig::default(), true)?;
    for messages in [20, song.len()] {
        stream.set_state(State::Run)?;
        let until = if messages < song.len() { song.end() } else { song.duration() };
        let got = record(&card, &stream, &mut CaptureSink::default(), messages, until)?;
        assert!(got[..] == contents(&song)[..got.len()] && got.len() >= messages, "{} messages", got.len());
        card.reset()?;
        stream.restore()?;
        assert_eq!(stream.free_slots_and_buffers(), (64, 16));
    }
    Ok(())
}

/// The card's writes are overwritten before the driver looks: as a card that lies would have written them.
#[test]
fn each_lie_about_a_captured_event_is_a_typed_error_and_loses_no_slot() -> anyhow::Result<()> {
    let lies: [(usize, &[u8]); 8] = [
        (2, &[0, 0]),
        (2, &[0xFF, 0xFF]),
        (2, &[1, 1]),
        // More than fits inline: the note is taken for a pointer, then it points into the middle of the buffer, then to
        // another.
        (2, &[9, 0]),
        (6, &[2, 0]),
        (6, &[0, 0x80]),
        (24, &[8]),
        (28, &[1]),
    ];
    for (number, (place, bytes)) in lies.into_iter().enumerate() {
        let song = song_of(&[(10, &[0x90, 1, 1]), (10, &[0x90, 2, 1])])?;
        let end = song.end();
        let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song)])?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let config = StreamConfig { slots: 2, buffers: 2, buffer_size: 256 };
        let stream = CaptureStream::open(&card, 0, config, true)?;
        stream.set_state(State::Run)?;
        card.grant(end);
        let deadline = Instant::now() + LIMIT;
        while card.get_time() < end {
            anyhow::ensure!(Instant::now() < deadline, "the clock stands");
            stream.wait(Duration::from_millis(5));
        }
        // The pool is the first memory that was allocated.
        card.platform().ram.scribble(place, bytes);
        let got = stream.receive();
        assert!(matches!(got, Err(DriverError::BadCapture { slot: 0, .. })), "lie {number}: {got:?}");
        assert_eq!(stream.receive()?.map(|event| event.to_vec()), Some(vec![0x90, 2, 1]));
        stream.set_state(State::Stop)?;
        while stream.receive()?.is_some() {}
        assert_eq!(stream.free_slots_and_buffers(), (2, 2));
    }
    Ok(())
}

#[test]
fn the_buffer_stays_the_one_that_was_posted_whatever_comes_back() -> anyhow::Result<()> {
    let long = sysex(200);
    let song = song_of(&[(10, &long), (10, &long), (10, &long)])?;
    let end = song.end();
    let hosted = hosted(ClockMode::Virtual, vec![Input::Song(song)])?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = CaptureStream::open(&card, 0, StreamConfig { slots: 3, buffers: 3, buffer_size: 256 }, true)?;
    stream.set_state(State::Run)?;
    card.grant(end);
    let deadline = Instant::now() + LIMIT;
    while card.get_time() < end {
        anyhow::ensure!(Instant::now() < deadline, "the clock stands");
        stream.wait(Duration::from_millis(5));
    }
    // The first says that it is short, the second that it has the third's buffer.
    let mut third = [0; 8];
    let pool = &card.platform().ram;
    pool.scribble(2, &[3, 0]);
    third.copy_from_slice(&(dmus_tests::memory::RAM_IOVA + 3 * 64 + 2 * 256).to_le_bytes());
    pool.scribble(64 + 32, &third);
    assert_eq!(stream.receive()?.map(|event| event.event_bytes()), Some(3));
    assert!(matches!(stream.receive(), Err(DriverError::BadCapture { slot: 1, .. })));
    assert_eq!(stream.receive()?.map(|event| event.to_vec()), Some(long));
    stream.set_state(State::Stop)?;
    assert!(stream.receive()?.is_none());
    assert_eq!(stream.free_slots_and_buffers(), (3, 3));
    Ok(())
}

/// Live bytes into the program that serves, in its sandbox, from one sender after the other.
#[test]
fn a_serving_card_hears_a_socket_and_a_descriptor() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let arguments = ["serve", "--socket", "card.sock", "--clock", "realtime", "--json", "card.json"];
    let inputs = ["--midi-in", "unix:midi.sock", "--midi-in", "fd:0"];
    let (mut pipe, standard_input) = UnixStream::pair()?;
    let mut command = programs::card()?;
    command.args(arguments).args(inputs).current_dir(dir.path());
    let server = Running::start_with(&mut command, std::os::fd::OwnedFd::from(standard_input))?;
    let socket = dir.path().join("card.sock");
    programs::until("the socket", LIMIT, || socket.exists() && dir.path().join("midi.sock").exists())?;
    {
        let card = Card::open(Loopback::new(&socket)?, PointerWidth::Eight)?;
        let stream = CaptureStream::open(&card, 0, StreamConfig::default(), true)?;
        stream.set_state(State::Run)?;
        for (group, key) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
            match group {
                0 if key == 4 => {
                    // One that goes in the middle of a message, and one that goes on with it.
                    UnixStream::connect(dir.path().join("midi.sock"))?.write_all(&[0x90])?;
                    UnixStream::connect(dir.path().join("midi.sock"))?.write_all(&[60, 127, 0x90, key, 1])?;
                }
                0 => UnixStream::connect(dir.path().join("midi.sock"))?.write_all(&[0x90, key, 1])?,
                _ => pipe.write_all(&[0x90, key, 1])?,
            }
            let deadline = Instant::now() + LIMIT;
            loop {
                anyhow::ensure!(Instant::now() < deadline, "note {key} does not come");
                if let Some(event) = stream.receive()? {
                    assert_eq!((event.channel_group(), event.to_vec()), (group, vec![0x90, key, 1]));
                    break;
                }
                stream.wait(Duration::from_millis(10));
            }
        }
    }
    programs::signal(server.id(), "INT");
    let done = server.output()?;
    assert_eq!(done.status.code(), Some(130), "{}", programs::said(&done));
    assert!(!socket.exists() && !dir.path().join("midi.sock").exists());
    let counters: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("card.json"))?)?;
    assert_eq!((&counters["captured"], &counters["capture_overruns"]), (&4.into(), &0.into()));
    Ok(())
}

#[test]
fn the_log_says_once_a_sample_that_virtual_time_waits_for_a_slot_when_it_has_for_a_second() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("song.mid"), songs::file([(10, vec![0x90, 1, 1]), (10, vec![0x90, 2, 2])]))?;
    let mut command = programs::card()?;
    command.args(["serve", "--socket", "card.sock", "--clock", "virtual", "--midi-in", "song.mid", "--json", "made"]);
    let log = dir.path().join("log");
    let card = Running::start_logging(command.current_dir(dir.path()), std::fs::File::create(&log)?)?;
    programs::until("the counters' file", LIMIT, || dir.path().join("made").exists())?;
    let platform = Loopback::new(&dir.path().join("card.sock"))?;
    let s = bare(&platform, COOKED)?;
    s.set_state(State::Run)?;
    let said = || std::fs::read_to_string(&log).map_or(0, |log| log.matches("virtual time stands still").count());
    let mut began = Instant::now();
    s.grant(seconds(1));
    // One event after the other: time has not gone on to the grant in between.
    for stalls in 1..=2 {
        programs::until("the log's word", LIMIT, || said() == stalls)?;
        assert!(began.elapsed() >= Duration::from_secs(1), "stall {stalls} is told of after {:?}", began.elapsed());
        began = Instant::now();
        post(&s, 1);
        filled(&s)?;
    }
    s.reach(seconds(1))?;
    programs::signal(card.id(), "TERM");
    card.output()?;
    assert_eq!(said(), 2);
    Ok(())
}
