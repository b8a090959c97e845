//! The zoo in this process: each mistake is made on a card of its own, whose counters are here.
//!
//! Fed by the mistakes of [`dmus_conformance::zoo`]; feeds a table, and a test. All of them need the allocator of
//! [`counting`](crate::counting): one rule is about a card that is short of memory.

use crate::counting::{ALLOCATIONS, LARGEST};
use crate::direct::Direct;
use crate::raw::Bus;
use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_conformance::zoo::{Machine, Mistake, Verdict, settle_by_page, sleep_by_page};
use dmus_driver::Platform;
use dmus_driver::dma::DmaMemory;
use dmus_interface::regs;
use dmus_interface::rule::Rule;
use std::cell::Cell;
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
    let clock = if mistake.realtime { ClockMode::Realtime } else { ClockMode::Virtual };
    let platform = Direct::by_clock(clock, Vec::new())?;
    let checker = platform.check();
    let mut marks = Vec::new();
    let said = mistake.run(&platform, &mut || {
        marks.push(([platform.stats.faults.get(), platform.stats.rejected.get()], checker.counts()));
    })?;
    let [(before, had_named), (after, has_named)] = &marks[..] else {
        anyhow::bail!("{} marks were set, not two", marks.len());
    };
    let of = |rule: &Rule| had_named.iter().find(|(known, _)| known.name == rule.name).map_or(0, |(_, count)| *count);
    let named = has_named.iter().filter(|(rule, count)| *count > of(rule)).map(|(rule, _)| rule.code).collect();
    Ok(Verdict::new(mistake, said, named, *before, *after))
}
