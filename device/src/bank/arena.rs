//! The part of a bank that comes and goes: sounds and instruments that guests download, behind those of the
//! collections.
//!
//! Fed by `download`, which has judged them; feeds the same lists that the rest of the bank is in, so that voices see
//! no difference. Indices stay what they are until they are freed. Samples may move ([`Bank::compact`]); who plays them
//! has to [move along](Moved).

use super::patch::Patch;
use super::{Bank, GUARD, Instrument, MAX_POOL, MAX_STEP, Region, Sound, address, lay_out};
use crate::collection::connection::Connection;
use crate::collection::{self, Sampling};
use core::ops::Range;
use std::collections::BTreeMap;

/// There is not so much sample memory, or no memory at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A sound, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: Sound,
    pub(crate) to: Sound,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena {
    /// What the lists had before the first download: pool, sounds, patches, regions.
    base: Option<[usize; 4]>,
    /// Most samples of all blocks, and how many they are now.
    room: usize,
    used: usize,
    /// Stretches of the pool that sounds have, by where they start: where they end, and the sound's index.
    blocks: BTreeMap<usize, (usize, usize)>,
    free_sounds: Vec<usize>,
    free_patches: Vec<usize>,
    free_regions: Vec<Range<usize>>,
}

impl Bank {
    /// Prepares for downloads of so many samples in all.
    pub(crate) fn open_arena(&mut self, room: usize) {
        if self.arena.base.is_none() {
            self.arena.base = Some([self.pool.len(), self.sounds.len(), self.patches.len(), self.regions.len()]);
        }
        self.arena.room = room.min(MAX_POOL.saturating_sub(self.base()));
    }

    /// Forgets all downloads.
    pub(crate) fn clear_arena(&mut self) {
        let Some([pool, sounds, patches, regions]) = self.arena.base else {
            return;
        };
        self.pool.truncate(pool);
        self.pool.shrink_to_fit();
        self.sounds.truncate(sounds);
        self.patches.truncate(patches);
        self.regions.truncate(regions);
        self.sounds.shrink_to_fit();
        self.patches.shrink_to_fit();
        self.regions.shrink_to_fit();
        self.instruments.retain(|instrument| instrument.regions.start < regions || instrument.regions.is_empty());
        self.arena = Arena { base: self.arena.base, room: self.arena.room, ..Arena::default() };
        self.measure();
    }

    fn base(&self) -> usize {
        self.arena.base.map_or(self.pool.len(), |[pool, ..]| pool)
    }

    /// Samples that are free, in one block or many.
    pub(crate) fn free_samples(&self) -> usize {
        self.arena.room.saturating_sub(self.arena.used)
    }

    /// Stretches between the blocks, and behind them.
    fn gaps(&self) -> impl Iterator<Item = Range<usize>> {
        let base = self.base();
        let starts = core::iter::once(base).chain(self.arena.blocks.values().map(|(end, _)| *end));
        let ends = self.arena.blocks.keys().copied().chain([base + self.arena.room]);
        starts.zip(ends).map(|(start, end)| start..end.max(start))
    }

    /// Samples of the largest block that is free.
    pub(crate) fn largest_gap(&self) -> usize {
        self.gaps().map(|gap| gap.len()).max().unwrap_or(0)
    }

    /// Adds a sound; the loop lies inside. Gives its index.
    pub(crate) fn add_sound(&mut self, samples: &[i16], looped: Option<(u32, u32)>, rate: u32) -> Result<usize, Full> {
        let played = looped.map_or(samples.len(), |(start, length)| start as usize + length as usize);
        let mut block = Vec::new();
        block.try_reserve_exact(played + MAX_STEP + 5 * GUARD).map_err(|_| Full)?;
        let sound = lay_out(&mut block, |block| block.extend_from_slice(&samples[..played]), looped, rate);
        block.extend_from_slice(&[0; GUARD]);
        let start = self.gaps().find(|gap| gap.len() >= block.len()).ok_or(Full)?.start;
        let end = start + block.len();
        self.sounds.try_reserve(1).map_err(|_| Full)?;
        if let Some(more @ 1..) = end.checked_sub(self.pool.len()) {
            // Ahead of what is needed, if there is as much.
            self.pool.try_reserve(more).or_else(|_| self.pool.try_reserve_exact(more)).map_err(|_| Full)?;
            self.pool.resize(end, 0);
        }
        self.pool[start..end].copy_from_slice(&block);
        let index = self.arena.free_sounds.pop().unwrap_or_else(|| {
            self.sounds.push(sound);
            self.sounds.len() - 1
        });
        self.sounds[index] = moved(sound, 0, start);
        self.arena.blocks.insert(start, (end, index));
        self.arena.used += block.len();
        Ok(index)
    }

    /// The first samples of a sound as it was added, of those without a loop.
    pub(crate) fn samples_of(&self, sound: usize, count: usize) -> Result<Vec<i16>, Full> {
        let base = self.sounds[sound].base as usize;
        let mut samples = Vec::new();
        samples.try_reserve_exact(count).map_err(|_| Full)?;
        samples.extend_from_slice(self.pool.get(base..base + count).unwrap_or(&[]));
        Ok(samples)
    }

    /// Removes a sound that nothing plays.
    pub(crate) fn remove_sound(&mut self, sound: usize) {
        let start = self.sounds[sound].base as usize - GUARD;
        if let Some((end, _)) = self.arena.blocks.remove(&start) {
            self.arena.used -= end - start;
            self.arena.free_sounds.push(sound);
        }
    }

    /// Moves all sounds together. What has moved, sorted by where it ended.
    pub(crate) fn compact(&mut self) -> Result<Vec<Moved>, Full> {
        let mut at = self.base();
        let mut all = Vec::new();
        all.try_reserve_exact(self.arena.blocks.len()).map_err(|_| Full)?;
        for (from, (end, index)) in std::mem::take(&mut self.arena.blocks) {
            let to = at;
            at += end - from;
            self.arena.blocks.insert(to, (at, index));
            if from == to {
                continue;
            }
            self.pool.copy_within(from..end, to);
            let sound = &mut self.sounds[index];
            let now = moved(*sound, from, to);
            all.push(Moved { from: *sound, to: now });
            *sound = now;
        }
        self.pool.truncate(at);
        Ok(all)
    }

    /// Adds an articulation; gives its index.
    pub(crate) fn add_patch(&mut self, connections: &[Connection]) -> usize {
        let patch = Patch::new(connections);
        self.largest.1 = self.largest.1.max(patch.blocks());
        match self.arena.free_patches.pop() {
            Some(index) => {
                self.patches[index] = patch;
                index
            }
            None => {
                self.patches.push(patch);
                self.patches.len() - 1
            }
        }
    }

    /// Removes an articulation that nothing plays.
    pub(crate) fn remove_patch(&mut self, patch: usize) {
        self.patches[patch] = Patch::new(&[]);
        self.arena.free_patches.push(patch);
    }

    /// Adds regions, each with its sampling, sound, tail and patch; gives where they are.
    pub(crate) fn add_regions<'r>(
        &mut self,
        regions: impl ExactSizeIterator<Item = (&'r collection::Region, Sampling, usize, Option<usize>, usize)>,
    ) -> Range<usize> {
        let count = regions.len();
        let mut made =
            regions.map(|(region, sampling, sound, tail, patch)| Region::new(region, &sampling, sound, tail, patch));
        let free = &mut self.arena.free_regions;
        if let Some(place) = free.iter().position(|range| range.len() >= count) {
            let start = free[place].start;
            free[place].start += count;
            if free[place].is_empty() {
                free.swap_remove(place);
            }
            self.regions[start..start + count].fill_with(|| made.next().unwrap_or(Region::NONE));
            return start..start + count;
        }
        let start = self.regions.len();
        self.regions.extend(made);
        start..self.regions.len()
    }

    /// Removes regions that nothing plays.
    pub(crate) fn remove_regions(&mut self, regions: Range<usize>) {
        let free = &mut self.arena.free_regions;
        free.push(regions);
        // Neighbours become one.
        free.sort_by_key(|range| range.start);
        free.dedup_by(|next, before| {
            let joined = before.end == next.start;
            before.end = if joined { next.end } else { before.end };
            joined
        });
        if let Some(last) = free.pop_if(|last| last.end == self.regions.len()) {
            self.regions.truncate(last.start);
        }
    }

    /// Lets a program select regions, before everything that has the same address.
    pub(crate) fn show(&mut self, (drum, bank, program): (bool, u16, u8), regions: Range<usize>) -> Result<(), Full> {
        let address = address(drum, bank, program);
        let place = self.instruments.partition_point(|instrument| instrument.address < address);
        self.largest.0 = self.largest.0.max(regions.len());
        let instrument = Instrument::new(address, &self.regions[regions.clone()], regions)?;
        self.instruments.insert(place, instrument);
        Ok(())
    }

    /// No program selects these regions any more.
    pub(crate) fn hide(&mut self, regions: &Range<usize>) {
        self.instruments.retain(|instrument| instrument.regions != *regions);
    }
}

impl Region {
    /// Of no key.
    const NONE: Self = Self {
        keys: (1, 0),
        velocities: (1, 0),
        self_exclusive: false,
        key_group: 0,
        speaker: super::Speaker::Panned,
        phase_group: 0,
        phase_master: false,
        sound: 0,
        tail: None,
        patch: 0,
        cents: 0.0,
        gain: 0.0,
    };
}

/// A sound whose block was at `from` and is at `to`.
fn moved(sound: Sound, from: usize, to: usize) -> Sound {
    let shift = |at: u32| (at as usize - from + to) as u32;
    // Without a loop it turns into the silence at the pool's start, however far that is.
    let turn = if sound.looped.1 == 0 { shift(sound.turn) } else { sound.turn };
    Sound { base: shift(sound.base), end: shift(sound.end), turn, ..sound }
}
