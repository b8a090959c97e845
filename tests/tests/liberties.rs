//! Every legal card: the driver plays and captures the same with each, and drivers that rely on what the data sheet
//! leaves open do not.

use anyhow::{Context, ensure};
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::check::Checker;
use dmus_card::deviation::{Liberties, Liberty, Occasions, Plan, shrink};
use dmus_card::sink::{NullSink, Sink};
use dmus_driver::{CaptureStream, Card, Platform, RenderStream, StreamConfig, play, record};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::MemorySink;
use dmus_tests::ordering::{self, Mistake};
use dmus_tests::programs::until;
use dmus_tests::raw::RawStream;
use dmus_tests::recording::Recording;
use dmus_tests::songs;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Seeds within which each mistake is found.
const SEEDS: u64 = 64;
/// Seeds that the driver is tried with here; `hil --explore` tries thousands, in booted guests.
const TRIED: u64 = 40;
/// Deviations that it takes for a mistake to show.
const FEW: usize = 3;

fn none() -> Liberties {
    Liberties { seed: 0, only: Some(BTreeMap::new()) }
}

fn of(seed: u64) -> Liberties {
    Liberties { seed, only: None }
}

/// What the driver plays on a card with these liberties: nothing may be wrong.
fn played(song: &Song, bank: &Arc<Bank>, liberties: Liberties) -> anyhow::Result<Vec<i16>> {
    let plan = Plan { liberties: Some(liberties), ..Plan::default() };
    let sink = MemorySink::default();
    let checker = Arc::new(Checker::new(&[], None));
    let heard: (Box<dyn Sink>, _) = (Box::new(sink.clone()), Vec::new());
    let (platform, _) = Direct::deviating(plan, Arc::clone(bank), heard, &checker, std::io::sink())?;
    let card = Card::open(platform, PointerWidth::Eight)?;
    {
        let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
        let counts = play(&stream, song.messages(), song.duration(), |_| {})?.counts;
        ensure!((counts.presented, counts.late, counts.rejected) == (song.len() as u64, 0, 0), "{counts:?}");
        ensure!(stream.allocator().free_slots() == StreamConfig::default().slots as usize);
    }
    ensure!(!has_any(&checker), "{:?}", checker.counts());
    card.platform().end()?;
    Ok(sink.samples())
}

fn has_any(checker: &Checker) -> bool {
    checker.counts().iter().any(|(_, count)| *count > 0)
}

/// What the driver captures of a song.
fn captured(song: &Song, liberties: Liberties) -> anyhow::Result<Vec<(i64, Vec<u8>)>> {
    let plan = Plan { liberties: Some(liberties), ..Plan::default() };
    let checker = Arc::new(Checker::new(&[], None));
    let heard: (Box<dyn Sink>, _) = (Box::new(NullSink), vec![Input::Song(song.clone())]);
    let (platform, _) = Direct::deviating(plan, Bank::default(), heard, &checker, std::io::sink())?;
    let card = Card::open(platform, PointerWidth::Eight)?;
    let mut messages = Vec::new();
    {
        let stream = CaptureStream::open(&card, 0, StreamConfig::default(), true)?;
        let keep = |time: RefTime, bytes: &[u8]| messages.push((time.0, bytes.to_vec()));
        record(&card, &stream, song.end().saturating_add(RefTime(10_000)), keep, |_| {})?;
    }
    ensure!(!has_any(&checker), "{:?}", checker.counts());
    Ok(messages)
}

#[test]
fn the_driver_plays_the_same_on_every_legal_card() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(800))?;
    let bank = Arc::new(Bank::general_midi());
    let usual = played(&song, &bank, none())?;
    ensure!(usual.iter().any(|sample| sample.abs() > 1000), "nothing sounds");
    for seed in 1..=TRIED {
        let audio = played(&song, &bank, of(seed)).with_context(|| format!("seed {seed}"))?;
        assert!(audio == usual, "seed {seed} sounds otherwise");
    }
    Ok(())
}

#[test]
fn the_driver_captures_the_same_from_every_legal_card() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(400))?;
    let usual = captured(&song, none())?;
    ensure!(usual.len() == song.len());
    for seed in 1..=TRIED {
        let messages = captured(&song, of(seed)).with_context(|| format!("seed {seed}"))?;
        assert!(messages == usual, "seed {seed} brings something else");
    }
    Ok(())
}

/// Whether a driver with a mistake fails on a card with these liberties.
fn fails(bank: &Arc<Bank>, mistake: Mistake, liberties: &Liberties, usual: &[i16]) -> anyhow::Result<bool> {
    let played = ordering::play(bank, Some(mistake), liberties.clone())?;
    Ok(played.audio.map_or(true, |audio| audio != usual))
}

#[test]
fn what_relies_on_more_than_the_data_sheet_says_is_found_and_shrinks_to_few_deviations() -> anyhow::Result<()> {
    let bank = Arc::new(Bank::general_midi());
    let usual = ordering::play(&bank, None, none())?.audio?;
    ensure!(usual.iter().any(|sample| sample.abs() > 1000), "nothing sounds");
    for seed in 1..=8 {
        ensure!(ordering::play(&bank, None, of(seed))?.audio? == usual, "the right driver fails with seed {seed}");
    }
    for mistake in Mistake::ALL {
        let alone = ordering::play(&bank, Some(mistake), none())?.audio;
        let alone = alone.with_context(|| format!("{mistake:?} fails without liberties"))?;
        assert!(alone == usual, "{mistake:?} sounds otherwise without liberties");
        let mut found = None;
        for seed in 1..=SEEDS {
            if fails(&bank, mistake, &of(seed), &usual)? {
                found = Some(seed);
                break;
            }
        }
        let seed = found.with_context(|| format!("{mistake:?} is not found by {SEEDS} seeds"))?;
        let occasions = ordering::play(&bank, Some(mistake), of(seed))?.occasions;
        let count = |liberty| occasions.get(&liberty).copied().unwrap_or(0);
        let few = shrink(&of(seed), count, |liberties| fails(&bank, mistake, liberties, &usual))?;
        let taken = few.taken();
        assert!((1..=FEW).contains(&taken.len()), "{mistake:?}, seed {seed}: {taken:?}");
        println!("{mistake:?}: seed {seed}, {taken:?}");
    }
    Ok(())
}

/// How long a driver waits for anything.
const PATIENCE: Duration = Duration::from_secs(2);

fn send<P: Platform>(stream: &RenderStream<'_, P>, time: RefTime, bytes: &[u8]) -> anyhow::Result<()> {
    let mut message = stream.allocator().get_message()?;
    message.set_time(time);
    message.set_data(bytes)?;
    stream.put_message(message)?;
    Ok(())
}

/// Waits, as the data sheet says, until all that was submitted is complete.
fn complete<P: Platform>(stream: &RenderStream<'_, P>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while stream.allocator().in_flight() > 0 {
        ensure!(Instant::now() < deadline, "{} do not come back", stream.allocator().in_flight());
        stream.wait(1, Duration::from_millis(100));
        stream.allocator().reclaim()?;
    }
    Ok(())
}

fn reach<P: Platform>(stream: &RenderStream<'_, P>, until: RefTime) -> anyhow::Result<()> {
    stream.card().grant(until);
    let deadline = Instant::now() + PATIENCE;
    while stream.card().get_time() < until {
        ensure!(Instant::now() < deadline, "the card stands at {:?}", stream.card().get_time());
        stream.wait(1, Duration::from_millis(100));
        stream.allocator().reclaim()?;
    }
    complete(stream)
}

/// Plays notes, some of which come late, on a card that has a thread of its own, and so sleeps; gives the audio. The
/// recording has to sound the same.
fn played_by_a_thread(liberties: Option<Liberties>) -> anyhow::Result<Vec<i16>> {
    let audio = MemorySink::default();
    let recording = Recording::default();
    let bank = Arc::new(Bank::general_midi());
    let plan = Plan { liberties, ..Plan::default() };
    let checker = Arc::new(Checker::new(&[], None));
    let heard: (Box<dyn Sink>, _) = (Box::new(audio.clone()), Vec::new());
    let (direct, _) = Direct::deviating(plan, Arc::clone(&bank), heard, &checker, recording.clone())?;
    direct.keep_engine()?;
    let card = Card::open(direct, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    for step in 0..20 {
        let at = RefTime(step * 100_000);
        for key in 0..6 {
            send(&stream, RefTime(at.0 + i64::from(key) * 9_000), &[0x90, 40 + key * 5 + step as u8, 100])?;
        }
        stream.flush();
        reach(&stream, RefTime(at.0 + 100_000))?;
        // Both are late, and complete as they are fetched.
        send(&stream, RefTime(1), &[0xB0, 7, 90 + step as u8])?;
        send(&stream, RefTime(1), &[0xB0, 10, 30 + step as u8])?;
        stream.flush();
        complete(&stream)?;
    }
    let allocator = stream.allocator();
    ensure!(allocator.free_slots() == allocator.slots(), "slots are missing");
    stream.set_state(State::Stop)?;
    drop(stream);
    card.platform().end()?;
    let replayed = MemorySink::default();
    let stats = format!("{:?}", card.platform().stats);
    let run = recording.replay(&bank, Box::new(replayed.clone()), None)?;
    ensure!(replayed.samples() == audio.samples(), "replay: other audio");
    ensure!(format!("{:?}", run.stats) == stats, "replay: other counters");
    ensure!(run.checker.is_some_and(|found| !found.has_errors()), "replay: violations");
    Ok(audio.samples())
}

#[test]
fn what_is_kept_comes_before_the_card_sleeps() -> anyhow::Result<()> {
    let all = |from: u64, step: usize| Occasions::Some((from..20_000).step_by(step).collect());
    let only = BTreeMap::from([
        (Liberty::PublishLater, all(1, 1)),
        (Liberty::FetchLater, all(1, 2)),
        (Liberty::Sleep, all(1, 1)),
    ]);
    assert!(played_by_a_thread(Some(Liberties { seed: 1, only: Some(only) }))? == played_by_a_thread(None)?);
    Ok(())
}

#[test]
fn what_completes_as_it_is_fetched_may_come_a_turn_later_and_what_completes_by_time_does_not() -> anyhow::Result<()> {
    let only = Some(BTreeMap::from([(Liberty::PublishLater, Occasions::One(2))]));
    let liberties = Some(Liberties { seed: 1, only });
    let (platform, _) = Direct::deviating_alone(Plan { liberties, ..Plan::default() })?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let on_time = |slot, time| {
        s.submit(slot, s.inline(time, &[0x90, 60, 100]), time);
        platform.run_until_idle();
        s.completion().map(|done| (done.slot, done.status))
    };
    let late = |slot| {
        s.fill(slot, s.inline(1, &[0x90, 60, 100]));
        s.put(slot);
        s.publish();
        platform.turn();
    };
    assert_eq!(on_time(0, 10_000)?, (0, Status::Presented));
    late(1);
    ensure!(!s.is_drained(), "the first is kept");
    assert_eq!(s.completion()?.slot, 1);
    assert_eq!(on_time(2, 20_000)?, (2, Status::Presented));
    late(3);
    ensure!(s.is_drained(), "the second is not kept");
    platform.turn();
    ensure!(!s.is_drained(), "it is kept for more than a turn");
    assert_eq!(s.completion()?.slot, 3);
    Ok(())
}

#[test]
fn a_card_that_wakes_without_a_reason_goes_to_sleep_again() -> anyhow::Result<()> {
    let only = Some(BTreeMap::from([(Liberty::Wake, Occasions::One(1))]));
    let liberties = Some(Liberties { seed: 1, only });
    let (platform, deviations) = Direct::deviating_alone(Plan { liberties, ..Plan::default() })?;
    // No driver does anything.
    platform.keep_engine()?;
    let count = |liberty: Liberty| deviations.occasions()["liberties"][liberty.name()].as_u64();
    until("the second sleep", Duration::from_secs(10), || count(Liberty::Wake) >= Some(2))?;
    // It looked around before each.
    ensure!(count(Liberty::Sleep) >= Some(2), "{}", deviations.occasions());
    Ok(())
}

#[test]
fn no_seed_is_heard_of_a_card_that_sleeps() -> anyhow::Result<()> {
    let usual = played_by_a_thread(None)?;
    assert!(usual.iter().any(|sample| *sample != 0));
    let mut failed = Vec::new();
    for seed in 1..=48 {
        match played_by_a_thread(Some(Liberties { seed, only: None })) {
            Ok(audio) if audio == usual => {}
            Ok(_) => failed.push(format!("seed {seed}: other audio")),
            Err(error) => failed.push(format!("seed {seed}: {error:#}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
