//! The rules of the data sheet that close a deadlock, a race or a source of different bytes: a test each.

use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::sink::to_s16;
use dmus_driver::{CaptureStream, Card, Platform, RenderStream, StreamConfig, play};
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, Data, Event, INCOMPLETE, PointerWidth};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::State;
use dmus_interface::regs::{self, control};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;
use dmus_song::{Song, TimedMessage};
use dmus_tests::loopback::{HostedCard, Loopback, MemorySink};
use dmus_tests::raw::{Bus, RawStream, SLOTS, samples, seconds};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const NOTE: [u8; 3] = [0x90, 60, 100];

fn hosted() -> anyhow::Result<HostedCard> {
    HostedCard::start(ClockMode::Virtual)
}

/// Waits until the driver has seen so many messages presented. An interrupt may be an older one.
fn presented<P: Platform>(stream: &RenderStream<'_, P>, messages: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while stream.allocator().counts().presented < messages {
        assert!(Instant::now() < deadline, "{:?}", stream.allocator().counts());
        stream.wait(1, Duration::from_secs(1));
        stream.allocator().reclaim()?;
    }
    Ok(())
}

/// The first sample that is not silent.
fn first_sound(audio: &[i16]) -> Option<usize> {
    audio.iter().position(|sample| *sample != 0).map(|at| at / 2)
}

fn interleaved(left: &[f32], right: &[f32]) -> Vec<i16> {
    left.iter().zip(right).flat_map(|(l, r)| [to_s16(*l), to_s16(*r)]).collect()
}

/// What a note sounds like from its first sample on, and after how many samples it is heard.
fn note_alone(frames: usize) -> Vec<i16> {
    let mut synth = dmus_card::synth::Synth::new(Arc::new(Bank::general_midi()), dmus_card::SAMPLE_RATE, 16, 256);
    synth.message(0, &NOTE);
    let (mut left, mut right) = (vec![0.0; frames], vec![0.0; frames]);
    synth.render(&mut left, &mut right);
    interleaved(&left, &right)
}

/// DDI: ullPresTime100ns is the presentation time in 100 ns of the master clock; an event is passed on when it is due.
#[test]
fn an_event_is_presented_at_its_exact_sample_and_its_slot_is_the_cards_until_then() -> anyhow::Result<()> {
    let alone = first_sound(&note_alone(4800)).expect("a sound");
    // On a sample, just after one, and on the block edges of the engine.
    for (time, sample) in [(samples(1000), 1000), (samples(1000) + 1, 1001), (samples(1024), 1024), (1, 1)] {
        let hosted = hosted()?;
        let platform = hosted.connect()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.submit(5, s.inline(time, &NOTE), time - 1);
        s.reach(time - 1)?;
        assert!(s.is_drained(), "completed before its time");
        s.grant(time);
        let done = s.completion()?;
        assert_eq!((done.slot, done.status, done.time), (5, Status::Presented, time));
        s.grant(seconds(1));
        s.reach(seconds(1))?;
        drop(platform);
        let audio = hosted.finish()?.samples();
        assert_eq!(audio.len(), 96_000);
        // Control-rate updates fall on absolute positions, so that the sound may begin a little later, but never
        // earlier.
        let heard = first_sound(&audio).expect("a sound");
        assert!((sample..=sample + alone + 64).contains(&heard), "{heard} for {sample}");
    }
    Ok(())
}

/// DDI: Identically time-stamped events are all played at their time, in the order in which they were put.
#[test]
fn three_hundred_events_at_one_instant_come_on_time_through_64_slots() -> anyhow::Result<()> {
    let keys: Vec<[u8; 3]> = (0..300u32).map(|i| [0x90 | (i % 9) as u8, 30 + (i % 60) as u8, 90]).collect();
    let time = RefTime(12_345_678);
    let messages: Vec<_> = keys.iter().map(|bytes| TimedMessage { time, group: 0, bytes }).collect();
    let hosted = hosted()?;
    let stats = Arc::clone(&hosted.stats);
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let played = play(&stream, messages.iter().copied(), RefTime::from_secs(2), |_| {})?;
    assert_eq!((played.counts.presented, played.counts.late), (300, 0));
    assert_eq!(stats.peak_in_flight.get(), 64);
    drop(stream);
    drop(card);
    // The same song offline: all of them at the same sample, in the same order.
    let audio = hosted.finish()?.samples();
    let mut synth = dmus_card::synth::Synth::new(Arc::new(Bank::general_midi()), dmus_card::SAMPLE_RATE, 16, 256);
    let at = time.to_sample(48_000).0 as usize;
    let (mut left, mut right) = (vec![0.0; 96_000], vec![0.0; 96_000]);
    synth.render(&mut left[..at], &mut right[..at]);
    for key in &keys {
        synth.message(0, key);
    }
    synth.render(&mut left[at..], &mut right[at..]);
    let expected = interleaved(&left, &right);
    assert!(audio == expected);
    Ok(())
}

#[test]
fn reaching_the_grant_raises_the_vector_whatever_the_event_index_says() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    while platform.wait(0, Duration::from_millis(50)) {}
    let far = doorbell::at(0, doorbell::COMPLETION_EVENT);
    platform.doorbell().store_u32(far, 1 << 30, Ordering::SeqCst);
    s.submit(0, s.inline(seconds(1), &NOTE), seconds(2));
    assert!(platform.wait(0, Duration::from_secs(10)), "a halted guest would not wake");
    assert_eq!(s.completion()?.status, Status::Presented, "published before the vector was raised");
    // In STOP the control vector has the duty.
    s.set_state(State::Stop)?;
    while platform.wait(8, Duration::from_millis(50)) {}
    s.grant(seconds(3));
    assert!(platform.wait(8, Duration::from_secs(10)));
    Ok(())
}

#[test]
fn a_completion_raises_the_vector_only_when_the_driver_asked_for_it() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let stats = Arc::clone(&hosted.stats);
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let event = doorbell::at(0, doorbell::COMPLETION_EVENT);
    platform.doorbell().store_u32(event, 19, Ordering::SeqCst);
    let before = stats.interrupts.get();
    // Rejections complete without any grant.
    for slot in 0..19 {
        s.fill(slot, s.inline(0, &[]));
        s.put(slot);
        s.publish();
        s.completion()?;
    }
    assert_eq!(stats.interrupts.get(), before);
    s.fill(19, s.inline(0, &[]));
    s.put(19);
    s.publish();
    s.completion()?;
    s.until("the interrupt", || stats.interrupts.get() == before + 1)
}

#[test]
fn a_sleeping_card_is_woken_by_one_trapped_write() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let stats = Arc::clone(&hosted.stats);
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let page = card.platform().doorbell();
    for round in 1..=5 {
        let deadline = Instant::now() + Duration::from_secs(10);
        while page.load_u32(doorbell::WAKE_ARMED, Ordering::Acquire) == 0 {
            assert!(Instant::now() < deadline, "the card does not go to sleep");
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = stats.register_accesses.get();
        let mut message = stream.allocator().get_message()?;
        message.set_time(RefTime(round * 1000));
        message.set_data(&NOTE)?;
        stream.put_message(message)?;
        stream.flush();
        card.grant(RefTime(round * 1000));
        presented(&stream, round as u64)?;
        assert_eq!(stats.register_accesses.get() - before, 1);
    }
    Ok(())
}

/// DDI: INCOMPLETE means that the SysEx message goes on in the next event.
#[test]
fn a_message_may_be_longer_than_pool_and_buffers_and_counts_once() -> anyhow::Result<()> {
    let mut sysex = vec![0x11; 65_536];
    sysex[0] = 0xF0;
    sysex[65_535] = 0xF7;
    let bytes: [&[u8]; 3] = [&sysex, &NOTE, &sysex];
    let messages = bytes.map(|bytes| TimedMessage { time: RefTime::from_secs(1), group: 0, bytes });
    let hosted = hosted()?;
    let stats = Arc::clone(&hosted.stats);
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 4, buffers: 2, buffer_size: 64 };
    let stream = RenderStream::open(&card, 0, config)?;
    let played = play(&stream, messages.into_iter(), RefTime::from_secs(2), |_| {})?;
    assert_eq!((played.counts.submitted, played.counts.presented, stats.presented.get()), (3, 3, 3));
    assert_eq!((stream.allocator().free_slots(), stream.allocator().free_buffers()), (4, 2));
    Ok(())
}

#[test]
fn a_message_in_fragments_is_applied_to_its_channel_group() -> anyhow::Result<()> {
    const MASTER_VOLUME_0: [u8; 8] = [0xF0, 0x7F, 0x7F, 4, 1, 0, 0, 0xF7];
    for fragments in [&[&MASTER_VOLUME_0[..]][..], &[&MASTER_VOLUME_0[..5], &MASTER_VOLUME_0[5..]], &[]] {
        let hosted = hosted()?;
        let platform = hosted.connect()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        for (slot, bytes) in (1..).zip(fragments) {
            let flags = if slot < fragments.len() as u32 { INCOMPLETE } else { 0 };
            s.submit(slot, Event { flags, ..s.inline(0, bytes) }, 0);
        }
        s.submit(0, s.inline(samples(4800), &NOTE), seconds(1));
        s.reach(seconds(1))?;
        drop(platform);
        let heard = first_sound(&hosted.finish()?.samples());
        assert_eq!(heard.is_none(), !fragments.is_empty(), "{fragments:02X?}");
    }
    Ok(())
}

#[test]
fn fragments_complete_when_copied_before_their_time() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let far = seconds(9);
    s.submit(0, Event { flags: INCOMPLETE, ..s.inline(far, &[0xF0, 1]) }, 0);
    assert_eq!(s.completion()?.status, Status::Copied);
    s.submit(1, s.inline(far, &[2, 0xF7]), seconds(1));
    s.reach(seconds(1))?;
    assert!(s.is_drained());
    s.grant(far);
    let done = s.completion()?;
    assert_eq!((done.slot, done.status), (1, Status::Presented));
    Ok(())
}

/// DDI: An event whose time has bit 63 set (DONT_HOLD_FOR_SEQUENCING) plays at once.
#[test]
fn an_event_that_must_not_be_held_plays_at_the_first_sample_not_yet_rendered() -> anyhow::Result<()> {
    // Whatever the other bits are, and in a chain, too.
    for (time, chained) in [(DONT_HOLD, false), (DONT_HOLD | 12_345, false), (DONT_HOLD | 12_345, true)] {
        let hosted = hosted()?;
        let platform = hosted.connect()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.grant(samples(4800));
        s.reach(samples(4800))?;
        s.fill(1, s.inline(time, &NOTE));
        let next = if chained { s.slot_iova(1) } else { 0 };
        s.submit(0, Event { next, ..s.inline(time, &NOTE) }, seconds(1));
        assert_eq!(s.completion()?.status, Status::Presented);
        s.reach(seconds(1))?;
        drop(platform);
        let heard = first_sound(&hosted.finish()?.samples()).expect("a sound");
        assert!((4800..4800 + 128).contains(&heard), "{heard}");
    }
    Ok(())
}

/// DDI: In STOP what a render stream holds, and what it is given, is discarded to the allocator.
#[test]
fn stop_discards_what_is_held_before_it_reads_back_and_silences() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let stats = Arc::clone(&hosted.stats);
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.submit(0, s.inline(0, &NOTE), seconds(1));
    s.completion()?;
    s.reach(seconds(1))?;
    // Some the card holds already, some it finds only by the tail.
    for slot in 0..SLOTS - 2 {
        s.fill(slot, s.inline(seconds(9), &NOTE));
        s.put(slot);
        if slot == 30 {
            s.publish();
            s.until("31 slots in the card", || stats.in_flight.get() == 31)?;
        }
    }
    s.publish();
    s.set_state(State::Stop)?;
    assert_eq!(s.word(doorbell::COMPLETION_HEAD), SLOTS - 1);
    for _ in 0..SLOTS - 2 {
        assert_eq!(s.completion()?.status, Status::Discarded);
    }
    assert_eq!(stats.discarded.get(), u64::from(SLOTS) - 2);
    // In STOP, what it is given is discarded too.
    s.submit(0, s.inline(0, &NOTE), seconds(1));
    assert_eq!(s.completion()?.status, Status::Discarded);
    assert_eq!(stats.in_flight.get(), 0);
    s.grant(seconds(2));
    s.reach(seconds(2))?;
    drop(platform);
    let audio = hosted.finish()?.samples();
    assert!(audio[..96_000].iter().any(|sample| *sample != 0));
    assert!(audio[96_000..].iter().all(|sample| *sample == 0), "STOP left sound");
    Ok(())
}

#[test]
fn resets_write_nothing_to_guest_memory_and_zero_the_page() -> anyhow::Result<()> {
    type Reset<'a> = &'a dyn Fn(&RawStream<'_, Loopback>);
    let resets: [Reset<'_>; 3] =
        [&|s| s.write_global(regs::CONTROL, control::RESET), &|s| s.platform.write_config(0x48, &[0x10, 0xA8]), &|s| {
            s.platform.device_reset()
        }];
    for reset in resets {
        let hosted = hosted()?;
        let platform = hosted.connect()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        for slot in 0..SLOTS {
            s.fill(slot, s.inline(seconds(i64::from(slot)), &NOTE));
            s.put(slot);
        }
        s.publish();
        s.grant(seconds(10_000));
        reset(&s);
        // The reply to the reset is here: from now on the card writes nothing.
        let everything = |fill: bool| {
            let mut bytes = vec![0xA5; s.completions.memory.len()];
            match fill {
                true => s.completions.memory.write(0, &bytes),
                false => s.completions.memory.read(0, &mut bytes),
            };
            bytes
        };
        let before = everything(true);
        let mut page = vec![1; 4096];
        platform.doorbell().read(0, &mut page);
        // The card's clocks and its sleep go on; the grant and every index are zero.
        page[doorbell::WAKE_ARMED..doorbell::at(0, 0)].fill(0);
        assert!(page.iter().all(|byte| *byte == 0));
        std::thread::sleep(Duration::from_millis(50));
        assert!(everything(false) == before);
        assert_eq!(platform.read32(regs::FAULT_COUNT.offset), 0);
    }
    Ok(())
}

#[test]
fn after_a_reset_the_driver_reclaims_everything_and_plays_on() -> anyhow::Result<()> {
    let song = Song::parse(&dmus_card::demo::song())?;
    let hosted = hosted()?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    for message in song.messages().take(40) {
        let mut event = stream.allocator().get_message()?;
        event.set_time(message.time);
        event.set_data(message.bytes)?;
        stream.put_message(event)?;
    }
    stream.flush();
    card.reset()?;
    stream.restore()?;
    let allocator = stream.allocator();
    assert_eq!((allocator.free_slots(), allocator.in_flight()), (64, 0));
    assert_eq!(allocator.counts().discarded, 40);
    let played = play(&stream, song.messages(), song.duration(), |_| {})?;
    assert_eq!(played.counts.presented, song.len() as u64);
    drop(stream);
    drop(card);
    let mut expected = MemorySink::default();
    dmus_card::offline::render(&song, Arc::new(Bank::general_midi()), &mut expected, |_| {});
    assert!(hosted.finish()?.samples() == expected.samples());
    Ok(())
}

#[test]
fn streams_that_a_reset_has_closed_give_their_memory_back_when_they_are_dropped() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let render = RenderStream::open(&card, 0, StreamConfig::default())?;
    let capture = CaptureStream::open(&card, 1, StreamConfig::default(), true)?;
    render.set_state(State::Run)?;
    capture.set_state(State::Run)?;
    render.send(RefTime(1), 0, &NOTE)?;
    render.flush();
    card.reset()?;
    drop((render, capture));
    assert_eq!(card.platform().ram.outstanding.get(), 0);
    Ok(())
}

#[test]
fn a_reset_and_a_new_song_go_on_in_the_same_audio_with_the_same_bytes() -> anyhow::Result<()> {
    // Its length is no multiple of the control period: what the first song leaves behind would be heard in the second.
    let song = Song::parse(&dmus_tests::songs::busy(701))?;
    let hosted = hosted()?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    for _ in 0..2 {
        play(&stream, song.messages(), song.duration(), |_| {})?;
        card.reset()?;
        stream.restore()?;
    }
    drop(stream);
    drop(card);
    let audio = hosted.finish()?.samples();
    let (first, second) = audio.split_at(audio.len() / 2);
    assert_eq!(first.len() as u64, 2 * song.duration().to_sample(48_000).0);
    assert!(first == second);
    Ok(())
}

#[test]
fn a_transition_does_not_wait_for_what_is_granted_to_be_rendered() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // A day of audio: it would take minutes.
    s.submit(0, s.inline(seconds(86_400), &NOTE), seconds(86_400));
    for state in [State::Pause, State::Run, State::Acquire, State::Stop] {
        s.set_state(state)?;
    }
    assert_eq!(s.completion()?.status, Status::Discarded);
    Ok(())
}

/// DDI: Each render stream is a synthesizer of its own, and their outputs are summed.
#[test]
fn ties_between_streams_cannot_change_bytes() -> anyhow::Result<()> {
    let mut renders = vec![];
    for order in [[0, 1, 2], [2, 0, 1]] {
        let hosted = hosted()?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let open = |index| RenderStream::open(&card, index, StreamConfig::default());
        let streams = [open(0)?, open(1)?, open(2)?];
        for stream in &streams {
            stream.set_state(State::Run)?;
        }
        for index in order {
            let stream = &streams[index];
            for key in 0..5 {
                let mut message = stream.allocator().get_message()?;
                message.set_time(RefTime(1_000_000));
                message.set_data(&[0x90, 50 + index as u8 * 7 + key, 100])?;
                stream.put_message(message)?;
            }
            stream.flush();
        }
        card.grant(RefTime::from_secs(2));
        let deadline = Instant::now() + Duration::from_secs(10);
        while card.get_time() < RefTime::from_secs(2) {
            assert!(Instant::now() < deadline);
            card.platform().wait(0, Duration::from_millis(10));
        }
        drop(streams);
        drop(card);
        renders.push(hosted.finish()?.samples());
    }
    assert!(renders[0].iter().any(|sample| *sample != 0));
    assert!(renders[0] == renders[1]);
    Ok(())
}

#[test]
fn a_grant_that_moves_back_or_makes_no_sense_is_ignored() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.grant(seconds(2));
    s.reach(seconds(2))?;
    for wrong in [seconds(1), 0, -1, i64::MIN] {
        s.grant(wrong);
    }
    s.submit(0, s.event(0, 3, Data::Inline([0x90, 60, 100, 0, 0, 0, 0, 0])), seconds(3));
    assert_eq!(s.completion()?.status, Status::Late);
    s.reach(seconds(3))?;
    drop(platform);
    assert_eq!(hosted.finish()?.samples().len(), 3 * 96_000);
    Ok(())
}
