//! What one client makes the card do is never waited for by the next, nor by the end of the card: in process, with the
//! worst that downloads and events can ask of it. The limits are those of a busy machine; what it really took is said.

use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::collection::{Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_card::engine::Turn;
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{CaptureStream, Card, DriverError, Mailbox, RenderStream, StreamConfig};
use dmus_interface::download::Problem;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::{MAX_SLOTS, State};
use dmus_interface::ring::Reject;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::direct::Direct;
use dmus_tests::load::{Load, REGIONS, wave};
use dmus_tests::loopback::{HostedCard, MemorySink};
use dmus_tests::songs;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the next client, and the end, may take on any machine.
const LIMIT: Duration = Duration::from_secs(2);

/// From the reset to the next driver's note, and from the going of a client that does it again to the card's end.
fn held_up(load: &Load, what: &str) -> anyhow::Result<()> {
    let mut hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    load.put_on(&card)?;
    let began = Instant::now();
    card.platform().ram.restart();
    next_driver_plays(card.platform())?;
    let next = began.elapsed();
    load.put_on(&card)?;
    let began = Instant::now();
    drop(card);
    hosted.end()?;
    let end = began.elapsed();
    hosted.finish()?;
    eprintln!("{what}: the next driver plays after {next:.0?}, the card has ended after {end:.0?}");
    ensure!(next < LIMIT && end < LIMIT, "{what}: {next:?} to the next driver's note, {end:?} to the end");
    Ok(())
}

#[test]
fn notes_of_many_regions_hold_nobody_up() -> anyhow::Result<()> {
    for voices in [256, 4096] {
        held_up(&Load::layers(voices, |_| Region::of(0)), &format!("layers, {voices} voices"))?;
    }
    // None of them sounds.
    let silent = |_| Region { velocities: (1, 1), ..Region::of(0) };
    held_up(&Load::layers(4096, silent), "regions that do not sound")
}

#[test]
fn exclusive_classes_and_locked_phases_hold_nobody_up() -> anyhow::Result<()> {
    for voices in [256, 4096] {
        held_up(&Load::exclusive(voices), &format!("exclusive classes, {voices} voices"))?;
        held_up(&Load::locked(voices, u16::MAX), &format!("one phase group, {voices} voices"))?;
        held_up(&Load::locked(voices, 2), &format!("many phase groups, {voices} voices"))?;
    }
    Ok(())
}

#[test]
fn intricate_articulations_hold_nobody_up() -> anyhow::Result<()> {
    let mut load = Load::intricate();
    held_up(&load, "intricate articulations")?;
    // One note, and then controllers of all kinds for all that sounds.
    load.messages = vec![vec![0xB0, 1, 3], vec![0xF0, 0x7F, 0x7F, 4, 1, 0, 70, 0xF7]];
    load.messages.insert(0, vec![0x90, 60, 100]);
    load.step = 7000;
    held_up(&load, "controllers of intricate articulations")
}

#[test]
fn messages_to_all_voices_hold_nobody_up() -> anyhow::Result<()> {
    let mut load = Load::layers(4096, |_| Region::of(0));
    load.messages = vec![vec![0x90, 60, 100]];
    for channel in 0..16 {
        load.messages.extend([vec![0xB0 | channel, 123, 0], vec![0xE0 | channel, 1, 1], vec![0xB0 | channel, 64, 0]]);
    }
    load.messages.push(vec![0xF0, 0x7E, 0x7F, 9, 1, 0xF7]);
    held_up(&load, "messages to all voices")
}

/// Submits messages for one time: the first half one by one, the rest as one chain.
fn submit_at_once(stream: &RenderStream<'_, Direct>, time: RefTime, messages: &[Vec<u8>]) -> anyhow::Result<()> {
    let allocator = stream.allocator();
    let message = |bytes: &Vec<u8>| -> anyhow::Result<_> {
        let mut message = allocator.get_message()?;
        message.set_time(time);
        message.set_data(bytes)?;
        Ok(message)
    };
    let (singles, members) = messages.split_at(messages.len() / 2);
    for bytes in singles {
        stream.put_message(message(bytes)?)?;
    }
    let mut chain = message(&members[0])?;
    for bytes in &members[1..] {
        chain.chain(message(bytes)?)?;
    }
    stream.put_message(chain)?;
    stream.flush();
    Ok(())
}

/// Many notes, and programs, so that their order is heard.
fn many_messages() -> Vec<Vec<u8>> {
    let at = |n: usize| match n % 8 {
        0 => vec![0xC0 | (n / 8 % 16) as u8, (n % 127) as u8],
        _ => vec![0x90 | (n % 16) as u8, (30 + n * 7 % 60) as u8, (1 + n % 127) as u8],
    };
    (0..4000).map(at).collect()
}

#[test]
fn what_takes_many_turns_sounds_as_if_it_took_one() -> anyhow::Result<()> {
    let messages = many_messages();
    let later = (0..).map(|number| u32::from(number == 0));
    let song = Song::parse(&songs::file(later.zip(messages.iter().cloned())))?;
    let time = song.get(0).map(|first| first.time).unwrap_or_default();
    let mut expected = MemorySink::default();
    dmus_card::offline::render(&song, Arc::new(Bank::general_midi()), &mut expected, |_| {});

    let audio = MemorySink::default();
    let card = Card::open(Direct::with_sink(Box::new(audio.clone()))?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: MAX_SLOTS, buffers: 1, buffer_size: 8 };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    submit_at_once(&stream, time, &messages)?;
    let stats = &card.platform().stats;
    let mut turns = 0;
    card.grant(song.duration());
    while stats.presented.get() < messages.len() as u64 {
        ensure!(card.get_time() < time, "the clock is ahead of what is presented");
        ensure!(turns < 1000, "it never ends: {stats:?}");
        card.platform().turn();
        turns += 1;
    }
    ensure!(turns > 1, "all in one turn");
    card.platform().run_until_idle();
    stream.allocator().reclaim()?;
    let counts = stream.allocator().counts();
    ensure!(counts.presented == messages.len() as u64, "{counts:?}");
    ensure!(audio.samples() == expected.samples(), "it sounds different");
    Ok(())
}

#[test]
fn a_loopback_that_no_stream_captures_holds_nothing_up() -> anyhow::Result<()> {
    let messages = many_messages();
    let card = Card::open(Direct::with_inputs(vec![Input::Loopback])?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: MAX_SLOTS, buffers: 1, buffer_size: 8 };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    submit_at_once(&stream, RefTime(1), &messages)?;
    card.grant(RefTime::from_secs(1));
    for _ in 0..1000 {
        card.platform().turn();
    }
    stream.allocator().reclaim()?;
    let presented = stream.allocator().counts().presented;
    ensure!(presented == messages.len() as u64 && card.get_time() == RefTime::from_secs(1), "only {presented}");
    Ok(())
}

#[test]
fn a_turn_passes_on_64_kib_and_one_message_at_most_to_what_is_captured() -> anyhow::Result<()> {
    const LEN: usize = 4096;
    let messages = vec![[&[0xF0, 0x7D][..], &[1; LEN - 3], &[0xF7]].concat(); 100];
    let card = Card::open(Direct::with_inputs(vec![Input::Loopback])?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 128, buffers: 128, buffer_size: LEN as u32 };
    let render = RenderStream::open(&card, 0, config)?;
    let capture = CaptureStream::open(&card, 1, config, true)?;
    capture.set_state(State::Run)?;
    render.set_state(State::Run)?;
    submit_at_once(&render, RefTime(1), &messages)?;
    let stats = &card.platform().stats;
    card.grant(RefTime::from_secs(1));
    for _ in 0..1000 {
        let before = stats.presented.get();
        card.platform().turn();
        let presented = stats.presented.get() - before;
        ensure!(presented <= (64 << 10) / LEN as u64 + 1, "{presented} messages of 4 KiB in one turn");
    }
    ensure!(stats.presented.get() == messages.len() as u64, "only {}", stats.presented.get());
    Ok(())
}

#[test]
fn stop_discards_what_is_left_of_a_chain() -> anyhow::Result<()> {
    let messages = many_messages();
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: MAX_SLOTS, buffers: 1, buffer_size: 8 };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    submit_at_once(&stream, RefTime(1), &messages)?;
    let stats = &card.platform().stats;
    card.grant(RefTime::from_secs(100));
    while stats.presented.get() <= messages.len() as u64 / 2 {
        ensure!(card.platform().turn() == Turn::Worked, "the engine rests");
    }
    let presented = stats.presented.get();
    ensure!(presented < messages.len() as u64, "the whole chain in one turn");
    stream.set_state(State::Stop)?;
    stream.allocator().reclaim()?;
    ensure!(stats.presented.get() == presented, "presented by STOP");
    ensure!(stats.discarded.get() == messages.len() as u64 - presented, "{stats:?}");
    ensure!(stream.allocator().free_slots() == MAX_SLOTS as usize && stats.in_flight.get() == 0, "{stats:?}");
    Ok(())
}

#[test]
fn streams_of_the_least_and_of_the_most_that_the_data_sheet_has_play() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    // The most are 16 MiB of buffers.
    for (slots, buffers, buffer_size) in [(1, 0, 8), (1, 1, 8), (1, 1, 65_528), (MAX_SLOTS, MAX_SLOTS, 4096)] {
        let stream = RenderStream::open(&card, 0, StreamConfig { slots, buffers, buffer_size })?;
        let handles: Vec<_> = (0..buffers).map(|_| stream.allocator().get_buffer()).collect::<Result<_, _>>()?;
        ensure!(stream.allocator().get_buffer().is_err(), "more than {buffers} buffers");
        drop(handles);
        stream.set_state(State::Run)?;
        let sysex = [&[0xF0][..], &vec![1; buffer_size as usize - 2], &[0xF7]].concat();
        let message = if buffers == 0 { &[0x90, 60, 100] } else { &sysex[..] };
        for number in 1..=u64::from(slots) {
            stream.send(RefTime::ZERO, 0, message)?;
            ensure!(stream.allocator().in_flight() == number as u32);
        }
        stream.flush();
        card.grant(card.get_time().saturating_add(RefTime(1)));
        card.platform().run_until_idle();
        stream.allocator().reclaim()?;
        let counts = stream.allocator().counts();
        ensure!(counts.presented + counts.late == u64::from(slots), "{slots} slots, {buffers} buffers: {counts:?}");
    }
    Ok(())
}

/// Submits a SysEx message in two fragments.
fn submit_in_two(stream: &RenderStream<'_, Direct>, time: RefTime, fragments: [&[u8]; 2]) -> anyhow::Result<()> {
    for (bytes, last) in fragments.into_iter().zip([false, true]) {
        let mut message = stream.allocator().get_message()?;
        message.set_time(time);
        message.set_data(bytes)?;
        if !last {
            message.set_incomplete();
        }
        stream.put_message(message)?;
        stream.flush();
        stream.card().platform().run_until_idle();
        stream.allocator().reclaim()?;
    }
    Ok(())
}

#[test]
fn sysex_that_waits_in_fragments_fills_16_mib_and_what_is_more_is_refused() -> anyhow::Result<()> {
    const LONGEST: u64 = 64 << 10;
    const MOST: u64 = (16 << 20) / LONGEST;
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 1024, buffers: 4, buffer_size: 65_528 };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    let first = [&[0xF0][..], &[1; 65_527]].concat();
    let last = [1, 1, 1, 1, 1, 1, 1, 0xF7];
    for round in 1..3 {
        let due = RefTime::from_secs(round);
        for _ in 0..MOST {
            submit_in_two(&stream, due, [&first, &last])?;
        }
        let rejected = stream.allocator().counts().rejected;
        ensure!(rejected == round as u64 - 1, "{rejected} are refused in round {round}");
        submit_in_two(&stream, due, [&[0xF0], &[0xF7]])?;
        let reason = stream.allocator().last_rejection().and_then(|rejection| rejection.reason);
        ensure!(reason == Some(Reject::MessageTooLong), "{reason:?}");
        // Those that are presented leave room for as many more.
        card.grant(due);
        card.platform().run_until_idle();
        stream.allocator().reclaim()?;
        let counts = stream.allocator().counts();
        ensure!((counts.presented, counts.rejected) == (round as u64 * MOST, round as u64), "{counts:?}");
    }
    Ok(())
}

/// How long the card takes to answer a download, and what.
fn download(mailbox: &mut Mailbox<'_, Direct>, what: &str, chunk: &[u8]) -> anyhow::Result<Result<u32, DriverError>> {
    let began = Instant::now();
    let answer = mailbox.download(chunk);
    let took = began.elapsed();
    eprintln!("{what}: answered after {took:.0?}");
    ensure!(took < LIMIT, "{what}: {took:?}");
    Ok(answer)
}

#[test]
fn many_loops_of_a_long_wave_cost_what_is_played_of_them() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let long = Wave { samples: Samples::new(vec![1; 6 << 20]), sampling: None, ..wave() };
    download(&mut mailbox, "a long wave", &wave_chunk(1, &long))??;
    let region = |n: u32| {
        let looped = Some(Loop { kind: LoopKind::Forward, start: 0, length: 1 + n });
        Region { sampling: Some(Sampling { looped, ..Sampling::DEFAULT }), ..Region::of(0) }
    };
    let regions = (0..REGIONS).map(|n| region(n.into())).collect();
    let instrument = Instrument { regions, ..Instrument::default() };
    let chunk = instrument_chunk(2, &instrument, &[long], &BTreeMap::from([(0, 1)]));
    let handle = download(&mut mailbox, "loops", &chunk)??;
    let began = Instant::now();
    ensure!(mailbox.unload(handle)?, "nothing plays it");
    ensure!(began.elapsed() < LIMIT, "unloaded after {:?}", began.elapsed());
    Ok(())
}

/// An instrument each of whose regions leads into one long chain of empty lists.
fn long_chains(lists: u32) -> Vec<u8> {
    let mut content = Vec::new();
    let mut offsets = Vec::new();
    let mut put = |words: &[u32]| {
        offsets.push(content.len() as u32);
        content.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    let (first_list, first_region) = (2, 2 + lists);
    put(&[0, first_region, 0, 0, 0, 0]);
    // The list of all of them: of 8 bytes, and nothing.
    put(&[8, 0]);
    for list in 0..lists {
        put(&[1, 0, if list + 1 < lists { first_list + list + 1 } else { 0 }]);
    }
    for region in 0..u32::from(REGIONS) {
        let next = if region + 1 < u32::from(REGIONS) { first_region + region + 1 } else { 0 };
        // Keys, velocities, options and class, articulation, next, extension; link; sample.
        put(&[127 << 16, 127 << 16, 0, first_list + region, next, 0, 0, 1, 1, 20, 60, 0, 0, 0]);
    }
    let table = 16 + 4 * offsets.len() as u32;
    let header = [3, 2, offsets.len() as u32, table + content.len() as u32];
    let words = header.into_iter().chain(offsets.into_iter().map(|offset| table + offset));
    words.flat_map(u32::to_le_bytes).chain(content).collect()
}

#[test]
fn regions_that_lead_into_one_chain_of_lists_are_refused_in_time() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    mailbox.download(&wave_chunk(1, &wave()))?;
    let answer = download(&mut mailbox, "chains of lists", &long_chains(500_000))?;
    ensure!(matches!(answer, Err(DriverError::BadDownload { problem: Problem::Count, .. })), "{answer:?}");
    Ok(())
}
