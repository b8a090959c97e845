//! Guest memory without a descriptor: the card asks the client for every byte, and plays the same; and what it makes of
//! answers that are wrong, late or never come.

use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::collection::{Samples, Wave};
use dmus_driver::dls::wave_chunk;
use dmus_driver::{
    CaptureStream, Card, DriverError, Mailbox, Platform, RenderStream, StreamConfig, WaveStream, play, play_through,
    record,
};
use dmus_interface::command::{self, Opcode};
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, PointerWidth};
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault, control};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::Song;
use dmus_tests::loopback::MemorySink;
use dmus_tests::memory::{RAM, RAM_IOVA};
use dmus_tests::raw::{BUFFER_SIZE, Bus, Completed, RawStream, STRIDE, seconds};
use dmus_tests::songs;
use dmus_tests::unshared::{Answer, Request, Seen, UnsharedClient, UnsharedHost};
use std::sync::Arc;
use std::time::Duration;

/// Longer than a client that means well takes.
const PATIENT: Duration = Duration::from_secs(10);
const NOTE: [u8; 3] = [0x90, 60, 100];
const SYSEX: [u8; 12] = [0xF0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0xF7];
const PAGE: u64 = 4096;
/// The card's requests: DMA_READ and DMA_WRITE.
const READ: u16 = 11;
const WRITE: u16 = 12;

fn offline(song: &Song) -> Vec<i16> {
    let mut sink = MemorySink::default();
    dmus_card::offline::render(song, Arc::new(Bank::general_midi()), &mut sink, |_| {});
    sink.samples()
}

/// Plays in virtual time and gives the audio; everything must be presented on time and returned.
fn play_all(song: &Song, width: PointerWidth, arrange: impl Fn(&UnsharedClient)) -> anyhow::Result<Vec<i16>> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    arrange(&client);
    let stats = Arc::clone(&host.stats);
    let card = Card::open(client, width)?;
    {
        let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
        let played = play(&stream, song.messages(), song.duration(), |_| {})?;
        assert_eq!(played.counts.presented, song.len() as u64, "{played:?}");
        assert_eq!(stream.allocator().free_slots(), StreamConfig::default().slots as usize);
        assert_eq!(stream.allocator().free_buffers(), StreamConfig::default().buffers as usize);
    }
    assert_eq!(stats.presented.get(), song.len() as u64);
    let trouble =
        (stats.late.get(), stats.rejected.get(), stats.discarded.get(), stats.in_flight.get(), stats.faults.get());
    assert_eq!(trouble, (0, 0, 0, 0, 0));
    let requests = requests(&card.platform().seen(), 0);
    assert!(!requests.is_empty() && requests.iter().all(|request| request.iova >= RAM_IOVA));
    // Whole batches, not events, cost messages.
    assert!(requests.len() < song.len(), "{} requests for {} events", requests.len(), song.len());
    drop(card);
    Ok(host.finish()?.samples())
}

#[test]
fn a_song_in_plain_memory_sounds_as_it_is_rendered_offline() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(5000))?;
    let expected = offline(&song);
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        assert!(play_all(&song, width, |_| {})? == expected, "the audio differs with {width:?}");
    }
    Ok(())
}

#[test]
fn what_a_wave_sink_brings_into_plain_memory_is_what_the_card_renders() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(500))?;
    let host = UnsharedHost::start(PATIENT)?;
    let mut heard = vec![];
    {
        let card = Card::open(host.connect()?, PointerWidth::Four)?;
        let render = RenderStream::open(&card, 0, StreamConfig::default())?;
        let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
        // More than a message to the client carries.
        let config = StreamConfig { slots: 4, buffers: 4, buffer_size: 65_528 };
        let wave = WaveStream::open(&card, 1, config, format)?;
        let listener = |period: &[u8]| {
            heard.extend_from_slice(period);
            Ok::<_, DriverError>(())
        };
        play_through(&render, &wave, song.messages(), song.duration(), listener, |_| {})?;
    }
    let heard: Vec<i16> = heard.as_chunks::<2>().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect();
    assert!(heard == offline(&song) && heard == host.finish()?.samples());
    Ok(())
}

/// DDI: hardware bytes become time-stamped events in memory that the card reaches by messages only, none lost or
///     changed.
#[test]
fn a_song_captured_into_plain_memory_is_the_song() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(3000))?;
    let expected: Vec<_> = song.messages().map(|message| (message.time, message.bytes.to_vec())).collect();
    for (width, cooked, buffer_size) in
        [(PointerWidth::Eight, true, 256), (PointerWidth::Four, true, 64), (PointerWidth::Eight, false, 64)]
    {
        let host = UnsharedHost::start_with(PATIENT, vec![Input::Song(song.clone())])?;
        let stats = Arc::clone(&host.stats);
        let card = Card::open(host.connect()?, width)?;
        {
            let config = StreamConfig { slots: 32, buffers: 32, buffer_size };
            let stream = CaptureStream::open(&card, 2, config, cooked)?;
            let mut got = vec![];
            let until = song.duration();
            let recorded = record(&card, &stream, until, |time, bytes| got.push((time, bytes.to_vec())), |_| {})?;
            assert!(got == expected, "{} of {} messages, {width:?}", got.len(), expected.len());
            assert_eq!((recorded.lost, stream.free_slots_and_buffers()), (0, (32, 32)));
        }
        // Posts are read and events written by messages: all of them to what the client lets the card have.
        let requests = requests(&card.platform().seen(), 0);
        assert!(requests.iter().any(|request| request.command == WRITE), "the memory is shared");
        assert_eq!((stats.faults.get(), stats.rejected.get(), stats.capture_overruns.get()), (0, 0, 0));
        drop(card);
        host.finish()?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_written_into_plain_memory_waits_for_the_next_slot() -> anyhow::Result<()> {
    let song = Song::parse(&songs::file([(10, SYSEX.to_vec()), (10, NOTE.to_vec())]))?;
    let host = UnsharedHost::start_with(PATIENT, vec![Input::Song(song.clone())])?;
    let client = host.connect()?;
    for answer in [Answer::Error(19), Answer::Short, Answer::Long, Answer::OtherPlace, Answer::OtherCount] {
        for part in PARTS {
            client.ram.restart();
            let stream = RawStream::prepare(&client, PointerWidth::Eight)?;
            assert_eq!(stream.transition(stream::TYPE, Type::Capture { cooked: true }.value())?, None);
            stream.set_state(State::Acquire)?;
            let post = |slot: u32| {
                stream.fill(slot, stream.event(0, 0, Data::Inline(stream.buffer_iova(slot).to_le_bytes())));
                stream.put(slot);
                stream.publish();
            };
            // What the card writes; posts are read as they should be, but for the entries of their ring.
            let (iova, len) = place(&stream, part);
            let command = if part == Part::Entry { READ } else { WRITE };
            client.behave(move |request| match request.command == command && request.touches(iova, len) {
                true => answer,
                false => Answer::Serve,
            });
            post(0);
            let refusal = stream.transition(stream::STATE, State::Run as u32)?;
            assert_eq!(refusal, (part == Part::Entry).then_some(Fault::Halted), "{part:?} {answer:?}");
            stream.grant(song.duration().0);
            if matches!(part, Part::Entry | Part::Completion) {
                stream.until("a fault", || client.read32(regs::FAULT.offset) != 0)?;
                assert_eq!(stream.take_fault(), Some(Fault::RingFault), "{part:?} {answer:?}");
                // Nobody waits for such a stream: time goes on.
                stream.reach(song.duration().0)?;
                client.behave(|_| Answer::Serve);
                continue;
            }
            let refused = stream.completion()?;
            assert_eq!((refused.slot, refused.reason), (0, Some(Reject::NotMapped)), "{part:?} {answer:?}");
            client.behave(|_| Answer::Serve);
            for (slot, bytes) in [(1, &SYSEX[..]), (2, &NOTE)] {
                post(slot);
                let completed = stream.completion()?;
                assert_eq!((completed.slot, completed.status), (slot, Status::Presented), "{part:?} {answer:?}");
                let mut event = [0; 40];
                stream.pool.memory.read((slot * STRIDE) as usize, &mut event);
                let event = Event::decode(&event, PointerWidth::Eight)?;
                let mut data = vec![0; bytes.len()];
                match event.data {
                    Data::Inline(word) => data.copy_from_slice(&word[..bytes.len()]),
                    _ => assert!(stream.buffers.memory.read((slot * BUFFER_SIZE) as usize, &mut data)),
                }
                assert_eq!((usize::from(event.event_bytes), &data[..]), (bytes.len(), bytes));
            }
        }
    }
    drop(client);
    next_client_plays(&host)
}

#[test]
fn memory_that_is_shared_in_part_sounds_the_same() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(5000))?;
    let expected = offline(&song);
    // The first pages have pool, buffers and rings.
    for shared in [[true, false], [false, true]] {
        let arrange = |client: &UnsharedClient| {
            client.unmap(RAM_IOVA, RAM as u64);
            for page in 0..8 {
                let at = page * PAGE;
                client.map(RAM_IOVA + at, PAGE, shared[page as usize % 2].then_some(at));
            }
            client.map(RAM_IOVA + 8 * PAGE, RAM as u64 - 8 * PAGE, Some(8 * PAGE));
        };
        assert!(play_all(&song, PointerWidth::Eight, arrange)? == expected, "the audio differs");
    }
    Ok(())
}

fn requests(seen: &[Seen], from: usize) -> Vec<Request> {
    let requests = seen[from..].iter().filter_map(|seen| match seen {
        Seen::Request(request) => Some(request.clone()),
        Seen::Reply(_) => None,
    });
    requests.collect()
}

fn presented(completed: Completed) {
    assert_eq!(completed.status, Status::Presented, "{completed:?}");
}

/// A new client can play, and a stream of the old one's leaves nothing behind.
fn next_client_plays(host: &UnsharedHost) -> anyhow::Result<()> {
    let client = host.connect()?;
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    stream.submit(3, stream.long(0, 2, &SYSEX), seconds(1));
    presented(stream.completion()?);
    assert_eq!(host.stats.in_flight.get(), 0);
    Ok(())
}

#[test]
fn memory_may_be_shared_and_unshared_while_it_plays() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    for round in 0..200u32 {
        let before = client.seen().len();
        for i in 0..8 {
            let slot = (round * 8 + i) % 64;
            let time = seconds(i64::from(round));
            stream.fill(slot, if i % 2 == 0 { stream.inline(time, &NOTE) } else { stream.long(time, i, &SYSEX) });
            stream.put(slot);
        }
        stream.publish();
        stream.grant(seconds(i64::from(round)));
        for _ in 0..8 {
            presented(stream.completion()?);
        }
        let asked = requests(&client.seen(), before).len();
        assert_eq!(asked == 0, round % 2 == 1, "{asked} requests in round {round}");
        client.unmap(RAM_IOVA, RAM as u64);
        client.map(RAM_IOVA, RAM as u64, (round % 2 == 0).then_some(0));
    }
    Ok(())
}

#[test]
fn memory_outside_every_map_is_never_asked_for() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    // So that a page has slots 0 to 31, and the next one the others.
    client.ram.allocate(PAGE as usize - 32 * STRIDE as usize, 64)?;
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    let hole = stream.slot_iova(32);
    assert!(hole.is_multiple_of(PAGE), "{hole:#x}");
    client.unmap(RAM_IOVA, RAM as u64);
    client.map(RAM_IOVA, hole - RAM_IOVA, None);
    let end = RAM_IOVA + RAM as u64;
    // The rings are behind the hole, in the page after it or later.
    let behind = (stream.buffers.iova + PAGE) & !(PAGE - 1);
    assert!(stream.submissions.iova >= behind, "the rings are in the hole");
    client.map(behind, end - behind, None);
    let before = client.seen().len();
    for slot in [31, 32, 63, 30] {
        stream.fill(slot, stream.inline(0, &NOTE));
        stream.put(slot);
    }
    stream.publish();
    stream.grant(seconds(1));
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let Completed { slot, status, reason, .. } = stream.completion()?;
        outcomes.push((slot, status, reason));
    }
    outcomes.sort_unstable_by_key(|(slot, ..)| *slot);
    let fine = |slot| (slot, Status::Presented, None);
    let refused = |slot| (slot, Status::Rejected, Some(Reject::NotMapped));
    assert_eq!(outcomes, [fine(30), fine(31), refused(32), refused(63)]);
    let asked = requests(&client.seen(), before);
    assert!(!asked.iter().any(|request| request.touches(hole, (behind - hole) as usize)), "{asked:?}");
    Ok(())
}

/// Which of the card's accesses a manner is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Entry,
    Slot,
    Buffer,
    Completion,
}

const PARTS: [Part; 4] = [Part::Entry, Part::Slot, Part::Buffer, Part::Completion];

fn place(stream: &RawStream<'_, UnsharedClient>, part: Part) -> (u64, usize) {
    let memory = match part {
        Part::Entry => &stream.submissions,
        Part::Slot => &stream.pool,
        Part::Buffer => &stream.buffers,
        Part::Completion => &stream.completions,
    };
    (memory.iova, memory.memory.len())
}

/// Accesses to one part are answered so, all others as they should be.
fn behave(client: &UnsharedClient, stream: &RawStream<'_, UnsharedClient>, part: Part, answer: Answer) {
    let (iova, len) = place(stream, part);
    client.behave(move |request| if request.touches(iova, len) { answer } else { Answer::Serve });
}

/// Submits an event, and waits until the card has asked for that part of the stream.
fn submit_and_await(client: &UnsharedClient, stream: &RawStream<'_, UnsharedClient>, part: Part) -> anyhow::Result<()> {
    let before = client.seen().len();
    stream.submit(0, stream.long(0, 0, &SYSEX), seconds(1));
    let (iova, len) = place(stream, part);
    client.await_seen(before, |seen| matches!(seen, Seen::Request(request) if request.touches(iova, len)))
}

#[test]
fn wrong_answers_cost_the_event_or_the_stream_and_nothing_else() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    for answer in [Answer::Error(19), Answer::Short, Answer::Long, Answer::OtherPlace, Answer::OtherCount] {
        for part in PARTS {
            client.ram.restart();
            let stream = RawStream::running(&client, PointerWidth::Eight)?;
            behave(&client, &stream, part, answer);
            stream.submit(0, stream.long(0, 0, &SYSEX), seconds(1));
            if matches!(part, Part::Entry | Part::Completion) {
                stream.until("a fault", || client.read32(regs::FAULT.offset) != 0)?;
                assert_eq!(stream.take_fault(), Some(Fault::RingFault), "{part:?} {answer:?}");
                assert!(stream.is_drained());
            } else {
                let completed = stream.completion()?;
                let expected = (Status::Rejected, Some(Reject::NotMapped));
                assert_eq!((completed.status, completed.reason), expected, "{part:?} {answer:?}");
                // The next event is a new chance.
                client.behave(|_| Answer::Serve);
                stream.submit(1, stream.long(seconds(1), 0, &SYSEX), seconds(2));
                presented(stream.completion()?);
            }
            client.behave(|_| Answer::Serve);
        }
    }
    drop(client);
    next_client_plays(&host)?;
    host.finish()?;
    Ok(())
}

#[test]
fn an_answer_that_never_comes_is_a_ring_fault_and_holds_nobody_up() -> anyhow::Result<()> {
    let host = UnsharedHost::start(Duration::from_millis(300))?;
    let client = host.connect()?;
    for part in PARTS {
        client.ram.restart();
        let stream = RawStream::running(&client, PointerWidth::Eight)?;
        behave(&client, &stream, part, Answer::Hold);
        submit_and_await(&client, &stream, part)?;
        // The transport goes on meanwhile.
        assert_eq!(client.read32(regs::MAGIC.offset), regs::MAGIC_VALUE);
        stream.until("a fault", || client.read32(regs::FAULT.offset) != 0)?;
        assert_eq!(stream.take_fault(), Some(Fault::RingFault), "{part:?}");
        client.behave(|_| Answer::Serve);
        // Late answers are to nothing.
        assert_eq!(client.answer_held(), 1, "{part:?}");
    }
    drop(client);
    next_client_plays(&host)
}

#[test]
fn a_client_may_leave_in_the_middle_of_anything() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    for part in PARTS {
        for held in [true, false] {
            let client = host.connect()?;
            let stream = RawStream::running(&client, PointerWidth::Eight)?;
            behave(&client, &stream, part, if held { Answer::Hold } else { Answer::Leave });
            submit_and_await(&client, &stream, part)?;
            drop(client);
            next_client_plays(&host)?;
        }
    }
    host.finish()?;
    Ok(())
}

/// What a client owes does not hold up the card's end either.
#[test]
fn the_card_ends_while_an_answer_is_due() -> anyhow::Result<()> {
    for part in PARTS {
        // Longer than any test may take.
        let mut host = UnsharedHost::start(Duration::from_secs(3600))?;
        let client = host.connect()?;
        let stream = RawStream::running(&client, PointerWidth::Eight)?;
        behave(&client, &stream, part, Answer::Hold);
        submit_and_await(&client, &stream, part)?;
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(host.end_engine()));
        end.recv_timeout(PATIENT)??;
    }
    Ok(())
}

/// What takes the card's right to access memory away.
#[derive(Clone, Copy, Debug)]
enum End {
    Reset,
    GuestReset,
    FunctionReset,
    Unmap,
    BusMasterOff,
}

impl End {
    fn come(self, client: &UnsharedClient, stream: &RawStream<'_, UnsharedClient>) {
        match self {
            Self::Reset => client.device_reset(),
            Self::GuestReset => stream.write_global(regs::CONTROL, control::RESET),
            // Of the PCI Express capability's device control.
            Self::FunctionReset => client.write_config(0x48, &0x8000u16.to_le_bytes()),
            Self::Unmap => client.unmap(RAM_IOVA, RAM as u64),
            Self::BusMasterOff => client.write_config(4, &[0x02, 0x00]),
        }
    }
}

#[test]
fn nothing_is_asked_for_after_the_reply_to_a_reset_an_unmap_or_bus_master_off() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    for end in [End::Reset, End::GuestReset, End::FunctionReset, End::Unmap, End::BusMasterOff] {
        for part in PARTS {
            client.ram.restart();
            let stream = RawStream::running(&client, PointerWidth::Eight)?;
            let epoch_resets = host.stats.resets.get();
            behave(&client, &stream, part, Answer::Hold);
            let before = client.seen().len();
            // Now and later, so that there is always more to ask for.
            for slot in 0..32 {
                let time = i64::from(slot % 2) * seconds(1);
                stream.fill(slot, stream.long(time, slot % 8, &SYSEX));
                stream.put(slot);
            }
            stream.publish();
            stream.grant(seconds(1));
            let (iova, len) = place(&stream, part);
            client.await_seen(before, |seen| matches!(seen, Seen::Request(request) if request.touches(iova, len)))?;
            end.come(&client, &stream);
            // Nothing else was asked of the card since.
            let seen = client.seen();
            let after = seen.iter().rposition(|seen| matches!(seen, Seen::Reply(_))).map_or(0, |reply| reply + 1);
            // Whatever comes next is answered, and the card goes on from here.
            client.behave(|_| Answer::Serve);
            assert!(client.answer_held() >= 1);
            match end {
                End::Unmap | End::BusMasterOff => {
                    stream.until("a fault", || client.read32(regs::FAULT.offset) != 0)?;
                    assert_eq!(stream.take_fault(), Some(Fault::RingFault), "{end:?} {part:?}");
                }
                _ => assert!(host.stats.resets.get() > epoch_resets),
            }
            // Of what was there before, nothing is left that could ask.
            let probe = RawStream::prepare(&client, PointerWidth::Eight)?;
            if matches!(end, End::Unmap) {
                client.map(RAM_IOVA, RAM as u64, None);
            }
            client.write_config(4, &[0x06, 0x00]);
            // The engine answers these: behind them, all that was under way is over.
            probe.create()?;
            probe.set_state(State::Run)?;
            assert_eq!(requests(&client.seen(), after), [], "{end:?} {part:?}");
        }
    }
    drop(client);
    next_client_plays(&host)
}

#[test]
fn nothing_is_asked_for_after_the_reply_to_a_reset_while_an_event_is_captured() -> anyhow::Result<()> {
    let song = Song::parse(&songs::file([(10, NOTE.to_vec()), (10, NOTE.to_vec())]))?;
    for end in [End::Reset, End::GuestReset, End::FunctionReset] {
        let host = UnsharedHost::start_with(PATIENT, vec![Input::Song(song.clone())])?;
        let client = host.connect()?;
        let stream = RawStream::prepare(&client, PointerWidth::Eight)?;
        assert_eq!(stream.transition(stream::TYPE, Type::Capture { cooked: true }.value())?, None);
        stream.set_state(State::Acquire)?;
        for slot in 0..2 {
            stream.fill(slot, stream.event(0, 0, Data::Inline(stream.buffer_iova(slot).to_le_bytes())));
            stream.put(slot);
        }
        stream.publish();
        stream.set_state(State::Run)?;
        // The first event is in its slot by then.
        let second = stream.slot_iova(1);
        let writes = move |request: &Request| request.command == WRITE && request.touches(second, STRIDE as usize);
        client.behave(move |request| if writes(request) { Answer::Hold } else { Answer::Serve });
        let before = client.seen().len();
        stream.grant(song.duration().0);
        client.await_seen(before, |seen| matches!(seen, Seen::Request(request) if writes(request)))?;
        end.come(&client, &stream);
        let seen = client.seen();
        let after = seen.iter().rposition(|seen| matches!(seen, Seen::Reply(_))).map_or(0, |reply| reply + 1);
        client.behave(|_| Answer::Serve);
        assert_eq!(client.answer_held(), 1);
        let probe = RawStream::prepare(&client, PointerWidth::Eight)?;
        client.write_config(4, &[0x06, 0x00]);
        // The engine answers this: behind it, all that was under way is over.
        probe.create()?;
        assert_eq!(requests(&client.seen(), after), [], "{end:?}");
        drop(client);
        host.finish()?;
    }
    Ok(())
}

#[test]
fn what_is_asked_for_in_the_middle_of_a_command_is_not_passed_over() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let client = host.connect()?;
    let stream = RawStream::prepare(&client, PointerWidth::Eight)?;
    stream.create()?;
    let mailbox = client.ram.allocate(64, 64)?;
    let (iova, size) = (mailbox.iova, 4u32);
    client.behave(move |request| if request.touches(iova, 64) { Answer::Hold } else { Answer::Serve });
    let before = client.seen().len();
    client.write_bar0(regs::COMMAND_REQUEST.offset.into(), &iova.to_le_bytes());
    client.write32(regs::COMMAND_REQUEST_SIZE.offset, size);
    client.write32(regs::COMMAND.offset, Opcode::SetVolume as u32);
    client.await_seen(before, |seen| matches!(seen, Seen::Request(request) if request.touches(iova, 64)))?;
    // The turn that carries the command out has nothing else to do, and is over with it: the card may not settle on
    // that.
    stream.write(regs::stream::STATE, State::Run as u32);
    client.behave(|_| Answer::Serve);
    assert_eq!(client.answer_held(), 1);
    stream.until("a transition", || stream.word(doorbell::TRANSITIONS) == 2)?;
    stream.submit(0, stream.long(0, 0, &SYSEX), seconds(1));
    presented(stream.completion()?);
    Ok(())
}

#[test]
fn a_download_whose_handle_cannot_be_told_is_taken_back() -> anyhow::Result<()> {
    let host = UnsharedHost::start(PATIENT)?;
    let card = Card::open(host.connect()?, PointerWidth::Eight)?;
    let client = card.platform();
    let wave = Wave {
        id: None,
        info: Default::default(),
        rate: 48_000,
        samples: Samples::new(vec![1; 10_000]),
        sampling: None,
    };
    let mut mailbox = Mailbox::open(&card)?;
    let free = mailbox.compact()?;
    client.behave(|request| match request.command == WRITE && request.count == size_of::<u32>() {
        true => Answer::Error(14),
        false => Answer::Serve,
    });
    let refused = mailbox.download(&wave_chunk(1, &wave));
    assert!(matches!(refused, Err(DriverError::Command { status: command::Status::NotMapped, .. })), "{refused:?}");
    client.behave(|_| Answer::Serve);
    assert_eq!(mailbox.compact()?, free);
    mailbox.download(&wave_chunk(1, &wave))?;
    // With what guards it.
    assert!((20_000..21_000).contains(&(free - mailbox.compact()?)));
    Ok(())
}
