//! The zoo in this process: each mistake is made on a card of its own, whose counters are here.
//!
//! Fed by the mistakes of [`dmus_conformance::zoo`]; feeds a table, tests, and recordings that are kept. All of them
//! need the allocator of [`counting`](crate::counting): one rule is about a card that is short of memory.

use crate::counting::{ALLOCATIONS, LARGEST};
use crate::direct::Direct;
use crate::loopback::MemorySink;
use crate::programs::repository;
use crate::raw::Bus;
use crate::recording::Recording;
use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::Options;
use dmus_card::check::Checker;
use dmus_conformance::zoo::{Machine, Mistake, Verdict, settle_by_page, sleep_by_page};
use dmus_driver::Platform;
use dmus_driver::dma::DmaMemory;
use dmus_interface::regs;
use dmus_interface::rule::Rule;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where this process's memory is seen once more, for reading only.
const ABOVE: u64 = 0x8000_0000;

impl Machine for Direct {
    fn settle(&self, rung: &Cell<u32>) -> anyhow::Result<()> {
        if !self.has_engine() {
            return settle_by_page(self, rung);
        }
        self.run_until_idle();
        self.read32(regs::MAGIC.offset);
        self.run_until_idle();
        Ok(())
    }

    /// Only a card with a thread of its own sleeps.
    fn let_sleep(&self) -> anyhow::Result<()> {
        self.keep_engine()?;
        sleep_by_page(self)
    }

    fn read16(&self, offset: u32) -> u16 {
        let mut bytes = [0; 2];
        self.read_bar0(offset.into(), &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn set_bus_master(&self, on: bool) -> anyhow::Result<()> {
        self.write_config(4, &[if on { 6 } else { 2 }, 0]);
        Ok(())
    }

    fn dma_alloc_read_only(&self, len: usize) -> anyhow::Result<DmaMemory> {
        self.dma_alloc_apart(len)
    }

    /// Once on each card.
    fn dma_alloc_apart(&self, len: usize) -> anyhow::Result<DmaMemory> {
        self.map_read_only(ABOVE)?;
        let DmaMemory { memory, iova } = self.dma_alloc(len, 64)?;
        Ok(DmaMemory { memory, iova: iova + ABOVE })
    }

    fn dma_revoke(&self, _: u64) -> anyhow::Result<()> {
        self.unmap_above(ABOVE);
        Ok(())
    }

    fn limit_card_memory(&self, largest: Option<usize>) -> anyhow::Result<()> {
        ensure!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "this process has not the allocator of dmus_tests::counting");
        LARGEST.store(largest.unwrap_or(usize::MAX), Ordering::Relaxed);
        Ok(())
    }
}

/// Makes a mistake on a card of its own, and gives what the card said of it and counted.
///
/// # Errors
/// One of the trial, not of the card.
pub fn run(mistake: &Mistake) -> anyhow::Result<Verdict> {
    let platform = Direct::by_clock(clock(mistake), Vec::new())?;
    let checker = platform.check();
    run_on(mistake, &platform, &checker)
}

fn clock(mistake: &Mistake) -> ClockMode {
    if mistake.realtime { ClockMode::Realtime } else { ClockMode::Virtual }
}

fn run_on(mistake: &Mistake, platform: &Direct, checker: &Checker) -> anyhow::Result<Verdict> {
    let mut marks = Vec::new();
    let said = mistake.run(platform, &mut || {
        marks.push(([platform.stats.faults.get(), platform.stats.rejected.get()], checker.counts()));
    })?;
    let [(before, had_named), (after, has_named)] = &marks[..] else {
        anyhow::bail!("{} marks were set, not two", marks.len());
    };
    let of = |rule: &Rule| had_named.iter().find(|(known, _)| known.name == rule.name).map_or(0, |(_, count)| *count);
    let named = has_named.iter().filter(|(rule, count)| *count > of(rule)).map(|(rule, _)| rule.code).collect();
    Ok(Verdict::new(mistake, said, named, *before, *after))
}

/// Makes a mistake on a card with this bank, which has to name it, and gives the recording.
///
/// # Errors
/// One of the trial, or the card has not named the mistake by its own code alone.
pub fn record(mistake: &Mistake, bank: &Arc<Bank>) -> anyhow::Result<Recording> {
    let recording = Recording::default();
    let checker = Arc::new(Checker::new(&[], None));
    let (clock, bank) = (clock(mistake), Arc::clone(bank));
    let platform = Direct::recorded_as(clock, bank, Some(&checker), Options::default(), recording.clone())?;
    if mistake.realtime {
        // One that is turned as often as the driver looks would record each time.
        platform.keep_engine()?;
    }
    let verdict = run_on(mistake, &platform, &checker)?;
    ensure!(verdict.names_alone(mistake.code()?), "{}: the card said {verdict}", mistake.rule);
    platform.end()?;
    Ok(recording)
}

/// Where a recording of each mistake is kept, NAME.dmc by the name of its rule, with what their replays come to.
pub fn kept() -> PathBuf {
    repository().join("tests/zoo")
}

/// The file of that directory that has what the replays come to: an object with [`outcome`] by the rule's name.
pub const OUTCOMES: &str = "outcomes.json";

/// What a recording's replay comes to: the rules that the driver broke, with the first report of each; the card's
/// counters; frames of audio and a 64-bit FNV-1a hash of their bytes.
///
/// # Errors
/// Those of [`Recording::replay`].
pub fn outcome(recording: &Recording, bank: &Arc<Bank>) -> anyhow::Result<Value> {
    let audio = MemorySink::default();
    let run = recording.replay(bank, Box::new(audio.clone()), None)?;
    let samples = audio.samples();
    let hash = samples
        .iter()
        .flat_map(|sample| sample.to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let found = run.checker.as_ref().map(|checker| checker.json()).unwrap_or_default();
    let violations = found["violations"].as_array().into_iter().flatten();
    let violations = violations.map(|one| json!({ "name": one["name"], "count": one["count"], "first": one["first"] }));
    let mut counters = run.stats.json();
    if let Some(counters) = counters.as_object_mut() {
        // The host's clock, and frames in another unit; neither survives its way through a file to the last bit.
        counters.retain(|name, _| !["first_presented_unix_seconds", "audio_seconds"].contains(&&name[..]));
    }
    Ok(json!({
        "violations": violations.collect::<Vec<_>>(),
        "counters": counters,
        "audio": { "frames": samples.len() / 2, "fnv1a": format!("{hash:016x}") },
    }))
}
