//! Which regions of an instrument a note plays, found in a time that grows with those that sound and hardly with those
//! that there are.
//!
//! Fed by the bank as an instrument is made ready; read by note-ons.

use super::{Full, Region};
use core::ops::Range;

/// Regions in a word of bits. An instrument of no more is asked region by region.
const WORD: usize = u64::BITS as usize;
/// Keys, and velocities.
const VALUES: usize = 128;

/// What a channel's program selects.
#[derive(Clone, Debug)]
pub(crate) struct Instrument {
    pub(super) address: u32,
    /// In the bank's list.
    pub(super) regions: Range<usize>,
    /// For each key, and then for each velocity, the regions that hold it, a bit each; empty if they are few.
    sets: Box<[u64]>,
}

impl Instrument {
    /// The instrument of `regions`, which are at `place` in the bank's list.
    pub(super) fn new(address: u32, regions: &[Region], place: Range<usize>) -> Result<Self, Full> {
        let mut sets = Vec::new();
        if regions.len() > WORD {
            let words = regions.len().div_ceil(WORD);
            sets.try_reserve_exact(2 * VALUES * words).map_err(|_| Full)?;
            sets.resize(2 * VALUES * words, 0);
            for (number, region) in regions.iter().enumerate() {
                let mut mark = |first: usize, (low, high): (u8, u8)| {
                    for value in low..=high.min(VALUES as u8 - 1) {
                        sets[(first + usize::from(value)) * words + number / WORD] |= 1 << (number % WORD);
                    }
                };
                mark(0, region.keys);
                mark(VALUES, region.velocities);
            }
        }
        Ok(Self { address, regions: place, sets: sets.into() })
    }

    /// Bytes that it takes besides its regions, if it has so many.
    pub(crate) const fn bytes(regions: usize) -> usize {
        if regions > WORD { 2 * VALUES * regions.div_ceil(WORD) * size_of::<u64>() } else { 0 }
    }

    /// Indices of the regions that a key, struck like this, plays, in their order. `all` is the bank's list.
    pub(super) fn sounding(&self, all: &[Region], key: u8, velocity: u8) -> impl Iterator<Item = usize> {
        let Range { start, end } = self.regions;
        let words = (end - start).div_ceil(WORD);
        let set = move |word: usize| match self.sets.is_empty() {
            true => {
                let regions = all[start..end].iter().enumerate();
                regions.fold(0, |bits, (n, region)| bits | u64::from(region.holds(key, velocity)) << n)
            }
            false => {
                let at = |value: usize| self.sets[value * words + word];
                at(usize::from(key) % VALUES) & at(VALUES + usize::from(velocity) % VALUES)
            }
        };
        (0..words).flat_map(move |word| {
            let mut bits = set(word);
            core::iter::from_fn(move || {
                let next = (bits != 0).then(|| start + word * WORD + bits.trailing_zeros() as usize);
                bits &= bits.wrapping_sub(1);
                next
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::{self, Sampling};

    #[test]
    fn the_regions_that_sound_are_those_that_hold_key_and_velocity() {
        for count in [1, 63, 64, 65, 128, 1000] {
            let region = |n: usize| {
                let (low, high) = ((n * 7 % 128) as u8, (n * 7 % 128 + n % 90).min(127) as u8);
                let velocities = (if n.is_multiple_of(3) { 0 } else { low / 2 }, 127 - (n % 60) as u8);
                let from = collection::Region { keys: (low, high), velocities, ..collection::Region::of(0) };
                Region::new(&from, &Sampling::DEFAULT, 0, None, 0)
            };
            // Behind others in the list.
            let all: Vec<Region> = (0..count + 5).map(region).collect();
            let instrument = Instrument::new(0, &all[5..], 5..count + 5).expect("memory");
            assert_eq!(instrument.sets.len() * 8, Instrument::bytes(count));
            assert_eq!(instrument.sets.is_empty(), count <= WORD, "few are asked one by one, and only few");
            for key in 0..128 {
                for velocity in [0, 1, 30, 64, 100, 127] {
                    let found: Vec<usize> = instrument.sounding(&all, key, velocity).collect();
                    let held = (5..count + 5).filter(|&n| all[n].holds(key, velocity));
                    assert_eq!(found, held.collect::<Vec<_>>(), "key {key}, velocity {velocity} of {count} regions");
                }
            }
        }
    }
}
