//! Every legal card: the driver plays and captures the same with each, and drivers that rely on what the data sheet
//! leaves open do not.

use anyhow::{Context, ensure};
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::check::Checker;
use dmus_card::deviation::{Deviations, Liberties, Plan, shrink};
use dmus_driver::{CaptureStream, Card, RenderStream, StreamConfig, play, record};
use dmus_interface::event::PointerWidth;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::MemorySink;
use dmus_tests::ordering::{self, Mistake};
use dmus_tests::songs;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    let deviations = Arc::new(Deviations::new(Plan { liberties: Some(liberties), ..Plan::default() }));
    let sink = MemorySink::default();
    let platform = Direct::deviating(Box::new(sink.clone()), Vec::new(), Arc::clone(bank), &deviations)?;
    let checker = platform.check();
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
    let deviations = Arc::new(Deviations::new(Plan { liberties: Some(liberties), ..Plan::default() }));
    let inputs = vec![Input::Song(song.clone())];
    let platform = Direct::deviating(Box::new(MemorySink::default()), inputs, Bank::default(), &deviations)?;
    let checker = platform.check();
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
