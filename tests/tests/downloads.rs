//! DLS downloads: what is downloaded sounds as the same collection built in, lives as long as it is needed, and is
//! refused whole if it is wrong.

use dmus_card::ClockMode;
use dmus_card::bank::{Bank, built_in};
use dmus_card::collection::{Collection, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_driver::dls::{download_for, instrument_chunk, unload, wave_chunk};
use dmus_driver::{Card, DriverError, Mailbox, Platform, RenderStream, StreamConfig, play};
use dmus_interface::command::Status;
use dmus_interface::download::Problem;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::{HostedCard, MemorySink};
use dmus_tests::songs;
use dmus_tests::unshared::UnsharedHost;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The built-in collection, other than it is: nothing of it sounds as the card's own.
fn other() -> Collection {
    let mut collection = built_in();
    for (number, wave) in collection.waves.iter_mut().enumerate() {
        let samples: Vec<i16> = wave.samples.to_vec().iter().map(|sample| sample / 2).collect();
        wave.samples = Samples::new(samples);
        wave.rate += number as u32;
    }
    for instrument in &mut collection.instruments {
        instrument.regions.truncate(5);
    }
    collection
}

/// Through a file, as a guest would get it.
fn read(collection: &Collection) -> anyhow::Result<Collection> {
    Ok(Collection::read(collection.to_dls()?, &mut Default::default())?)
}

fn offline(song: &Song, bank: Bank) -> Vec<i16> {
    let mut sink = MemorySink::default();
    dmus_card::offline::render(song, Arc::new(bank), &mut sink, |_| {});
    sink.samples()
}

/// Downloads what the song needs, plays, and takes it back.
fn play_with<P: Platform>(platform: P, collection: &Collection, song: &Song) -> anyhow::Result<()> {
    let card = Card::open(platform, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let all = mailbox.compact()?;
    let done = download_for(&mut mailbox, collection, song.messages())?;
    assert!(!done.instruments.is_empty() && mailbox.compact()? < all);
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let played = play(&stream, song.messages(), song.duration(), |_| {})?;
    assert_eq!(played.counts.presented, song.len() as u64);
    unload(&mut mailbox, &done)?;
    assert_eq!(mailbox.compact()?, all, "everything is free again");
    Ok(())
}

/// DDI: KSPROPERTY_SYNTH_DLS_DOWNLOAD takes wave and instrument chunks (DMUS_DOWNLOADINFO, offset table, structures),
///     which streams share
#[test]
fn a_downloaded_collection_sounds_as_the_same_one_built_in() -> anyhow::Result<()> {
    let collection = read(&other())?;
    let song = Song::parse(&songs::busy(4000))?;
    let expected = offline(&song, Bank::new(&[collection.clone(), built_in()])?);
    assert!(expected != offline(&song, Bank::general_midi()), "the test hears no difference");
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    play_with(hosted.connect()?, &collection, &song)?;
    assert!(hosted.finish()?.samples() == expected, "the audio differs");
    // And the same through memory that the card has to ask for.
    let host = UnsharedHost::start(Duration::from_secs(10))?;
    play_with(host.connect()?, &collection, &song)?;
    assert!(host.finish()?.samples() == expected, "the audio differs over unshared memory");
    Ok(())
}

fn wave(samples: usize) -> Wave {
    let samples: Vec<i16> = (0..samples).map(|n| ((n * 37) % 20_000) as i16 - 10_000).collect();
    let looped = Some(Loop { kind: LoopKind::Forward, start: 10, length: samples.len() as u32 - 10 });
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    Wave { id: None, info: Default::default(), rate: 48_000, samples: Samples::new(samples), sampling }
}

fn instrument(program: u8) -> dmus_card::collection::Instrument {
    dmus_card::collection::Instrument { program, regions: vec![Region::of(0)], ..Default::default() }
}

struct Fixture<'c> {
    mailbox: Mailbox<'c, Direct>,
    stream: RenderStream<'c, Direct>,
    now: RefTime,
}

impl<'c> Fixture<'c> {
    fn new(card: &'c Card<Direct>) -> anyhow::Result<Self> {
        let stream = RenderStream::open(card, 0, StreamConfig::default())?;
        stream.set_state(State::Run)?;
        Ok(Self { mailbox: Mailbox::open(card)?, stream, now: RefTime::ZERO })
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut message = self.stream.allocator().get_message()?;
        message.set_time(self.now);
        message.set_data(bytes)?;
        self.stream.put_message(message)?;
        self.stream.flush();
        Ok(())
    }

    /// Plays for a tenth of a second.
    fn pass(&mut self) -> anyhow::Result<()> {
        self.now = self.now.saturating_add(RefTime(1_000_000));
        let until = self.stream.time_base().saturating_add(self.now);
        self.stream.card().grant(until);
        self.stream.card().platform().run_until_idle();
        assert!(self.stream.card().get_time() >= until);
        self.stream.allocator().reclaim()?;
        Ok(())
    }

    /// How loud a note of this program is, 0.01 dB, and silence after it.
    fn peak(&mut self, program: u8) -> anyhow::Result<i32> {
        self.stream.set_state(State::Stop)?;
        self.stream.set_state(State::Run)?;
        self.now = RefTime::ZERO;
        self.send(&[0xC0, program])?;
        self.send(&[0x90, 60, 127])?;
        self.pass()?;
        Ok(self.mailbox.running_stats(0)?.peak_volume.get())
    }
}

/// DDI: KSPROPERTY_SYNTH_DLS_UNLOAD frees a handle as soon as no note uses it, and may complete later; later notes on
///     it are ignored
/// DDI: the last instrument that refers to a wave keeps it alive
#[test]
fn what_is_unloaded_goes_when_the_last_note_and_the_last_reference_are_gone() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut fixture = Fixture::new(&card)?;
    let all = fixture.mailbox.compact()?;
    let own = fixture.peak(40)?;
    let wave_handle = fixture.mailbox.download(&wave_chunk(1, &wave(4000)))?;
    let ids = BTreeMap::from([(0, 1)]);
    let waves = [wave(4000)];
    let handle = fixture.mailbox.download(&instrument_chunk(2, &instrument(40), &waves, &ids))?;
    let second = fixture.mailbox.download(&instrument_chunk(3, &instrument(41), &waves, &ids))?;
    assert_ne!(fixture.peak(40)?, own, "a download comes before the card's own");
    // The second instrument shares the first one's samples.
    let used = all - fixture.mailbox.compact()?;
    assert!((16_000..30_000).contains(&used), "{used} bytes");
    // The note that still sounds keeps the instrument, and both keep the wave.
    assert!(!fixture.mailbox.unload(handle)?);
    assert!(!fixture.mailbox.unload(wave_handle)?);
    for gone in [handle, wave_handle, 77] {
        let again = fixture.mailbox.unload(gone);
        assert!(matches!(again, Err(DriverError::Command { status: Status::UnknownHandle, .. })), "{again:?}");
    }
    assert_eq!(fixture.mailbox.unloads(), 0);
    // A new note is played by the card's own; the old one goes on.
    fixture.send(&[0x90, 64, 100])?;
    card.platform().fired(CONTROL_VECTOR);
    fixture.pass()?;
    assert_eq!((fixture.mailbox.unloads(), card.platform().fired(CONTROL_VECTOR)), (0, false));
    fixture.send(&[0xB0, 120, 0])?;
    fixture.pass()?;
    let seen = (fixture.mailbox.unloads(), card.platform().fired(CONTROL_VECTOR));
    assert_eq!(seen, (1, true), "the instrument is gone");
    assert_eq!(fixture.peak(40)?, own);
    // No new instrument can have a wave that is on its way out; an old one still sounds.
    let late = fixture.mailbox.download(&instrument_chunk(4, &instrument(42), &waves, &ids));
    assert!(matches!(late, Err(DriverError::BadDownload { problem: Problem::NoWave, .. })), "{late:?}");
    assert!(fixture.peak(41)? > -10_000);
    fixture.send(&[0xB0, 120, 0])?;
    fixture.pass()?;
    assert!(fixture.mailbox.unload(second)?, "nothing plays it");
    fixture.pass()?;
    assert_eq!((fixture.mailbox.unloads(), fixture.mailbox.compact()?), (2, all), "its wave went with it");
    // A reset forgets what is left.
    fixture.mailbox.download(&wave_chunk(1, &wave(4000)))?;
    drop(fixture);
    card.reset()?;
    assert_eq!(Mailbox::open(&card)?.compact()?, all);
    Ok(())
}

/// DDI: KSPROPERTY_SYNTH_DLS_COMPACT makes the largest free block available without interrupting playback
#[test]
fn compacting_moves_what_sounds_without_a_trace() -> anyhow::Result<()> {
    let run = |compact: bool| -> anyhow::Result<Vec<i16>> {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let mut mailbox = Mailbox::open(&card)?;
        let first = mailbox.download(&wave_chunk(9, &wave(30_000)))?;
        let once = Wave { sampling: None, ..wave(20_000) };
        let waves = [wave(4000), once];
        let ids = BTreeMap::from([(0, 1), (1, 2)]);
        mailbox.download(&wave_chunk(1, &waves[0]))?;
        mailbox.download(&wave_chunk(2, &waves[1]))?;
        let both = dmus_card::collection::Instrument { regions: vec![Region::of(0), Region::of(1)], ..instrument(0) };
        mailbox.download(&instrument_chunk(3, &both, &waves, &ids))?;
        let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
        stream.set_state(State::Run)?;
        let mut message = stream.allocator().get_message()?;
        message.set_data(&[0x90, 60, 120])?;
        stream.put_message(message)?;
        for step in 1..8i64 {
            let until = RefTime(step * 1_000_000);
            stream.flush();
            card.grant(until);
            while card.get_time() < until {
                stream.wait(1, Duration::from_millis(5));
                stream.allocator().reclaim()?;
            }
            if compact && step == 2 {
                let before = mailbox.compact()?;
                assert!(mailbox.unload(first)?);
                assert!(mailbox.compact()? >= before + 60_000, "there was a gap");
            }
        }
        drop((stream, mailbox));
        drop(card);
        Ok(hosted.finish()?.samples())
    };
    let (still, moved) = (run(false)?, run(true)?);
    assert!(still.iter().any(|sample| *sample != 0));
    assert!(still == moved);
    Ok(())
}

#[test]
fn what_is_wrong_with_a_chunk_is_said_with_its_place_and_nothing_of_it_stays() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    mailbox.download(&wave_chunk(1, &wave(400)))?;
    let free = mailbox.compact()?;
    let waves = [wave(400)];
    let ids = BTreeMap::from([(0, 1)]);
    let two = dmus_card::collection::Instrument { regions: vec![Region::of(0); 2], ..instrument(3) };
    let good = instrument_chunk(7, &two, &waves, &ids);
    // Header 16, table of 3, instrument at 28, regions at 52 and 124.
    let mut refused = |chunk: &[u8], at: usize, value: u32, problem: Problem, place: u32| -> anyhow::Result<()> {
        let mut chunk = chunk.to_vec();
        chunk[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let result = mailbox.download(&chunk);
        assert_eq!(result, Err(DriverError::BadDownload { problem, at: place }), "{value:#x} at {at}");
        assert_eq!(mailbox.compact()?, free);
        Ok(())
    };
    for (at, value, problem, place) in [
        (0, 0, Problem::Kind, 0),
        (0, 4, Problem::Kind, 0),
        (0, 99, Problem::Kind, 0),
        (4, 1, Problem::Id, 4),
        (8, 0, Problem::OffsetTable, 8),
        (8, u32::MAX, Problem::OffsetTable, 8),
        (8, 0x4000_0000, Problem::OffsetTable, 8),
        (12, 20, Problem::Size, 12),
        (12, u32::MAX, Problem::Size, 12),
        (16, 0, Problem::Offset, 16),
        (16, 26, Problem::Offset, 16),
        (16, 29, Problem::Offset, 16),
        (20, u32::MAX, Problem::Offset, 20),
        (20, 192, Problem::TooShort, 192),
        (28, 0x80, Problem::Patch, 28),
        (32, 0, Problem::NoRegions, 28),
        (32, 3, Problem::Index, 32),
        (36, u32::MAX, Problem::Index, 36),
        // The second region, which is the last one, leads back to the first or to itself.
        (140, 1, Problem::Cycle, 140),
        (140, 2, Problem::Cycle, 140),
        (52, 0x0040_0041, Problem::Range, 52),
        (56, 0x0080_0000, Problem::Range, 56),
        (84, 2, Problem::NoWave, 84),
        (92, 128, Problem::UnityNote, 92),
        (104, 2, Problem::Count, 104),
        (104, u32::MAX, Problem::Count, 104),
        (112, 9, Problem::Loop, 108),
        (116, 11, Problem::Loop, 116),
        (116, u32::MAX, Problem::Loop, 116),
        (120, 0, Problem::Loop, 116),
        (120, u32::MAX, Problem::Loop, 116),
    ] {
        refused(&good, at, value, problem, place)?;
    }
    // Header 16, table of 2, wave at 24, data at 56.
    let good_wave = wave_chunk(8, &wave(100));
    for (at, value, problem, place) in [
        (32, 2, Problem::Index, 32),
        (36, 0x0001_0003, Problem::Format, 36),
        (36, 0x0002_0001, Problem::Format, 36),
        (40, 0, Problem::Format, 36),
        (40, 1_000_001, Problem::Format, 36),
        (50, 24, Problem::Format, 36),
        (56, 0, Problem::Length, 56),
        (56, 199, Problem::Length, 56),
        (56, 201, Problem::TooShort, 56),
        (56, u32::MAX, Problem::TooShort, 56),
    ] {
        refused(&good_wave, at, value, problem, place)?;
    }
    for len in 16..good.len() {
        let mut cut = good[..len].to_vec();
        cut[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        let result = mailbox.download(&cut);
        assert!(matches!(result, Err(DriverError::BadDownload { .. })), "{len}: {result:?}");
    }
    assert_eq!(mailbox.compact()?, free);
    // Unchanged, both are taken; and a second time they are there already.
    for chunk in [good, good_wave] {
        mailbox.download(&chunk)?;
        assert_eq!(mailbox.download(&chunk), Err(DriverError::BadDownload { problem: Problem::Id, at: 4 }));
    }
    Ok(())
}

#[test]
fn sample_memory_has_an_end_and_what_does_not_fit_leaves_nothing() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let all = mailbox.compact()?;
    let large = Wave { sampling: None, ..wave(5 << 20) };
    let mut handles = Vec::new();
    let full = loop {
        match mailbox.download(&wave_chunk(handles.len() as u32, &large)) {
            Ok(handle) => handles.push(handle),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, DriverError::Command { status: Status::NoMemory, .. }), "{full:?}");
    assert_eq!(handles.len(), 12, "128 MiB hold twelve of 10 MiB");
    // An instrument whose loop needs a copy of the wave does not fit either.
    let free = mailbox.compact()?;
    let looped = wave(5 << 20);
    let chunk = instrument_chunk(100, &instrument(1), &[looped], &BTreeMap::from([(0, 3)]));
    assert!(matches!(mailbox.download(&chunk), Err(DriverError::Command { status: Status::NoMemory, .. })));
    assert_eq!(mailbox.compact()?, free);
    for handle in handles {
        assert!(mailbox.unload(handle)?);
    }
    assert_eq!(mailbox.compact()?, all);
    Ok(())
}
