//! What a synthesizer plays: collections of instruments, made ready.
//!
//! Fed by collections, the built-in one (which `gm` computes) last; read by the voices of `crate::synth`. Waves are
//! copied into one pool in which an interpolator can never read outside its wave, and articulations are sorted by what
//! can change them.

mod arena;
mod built_in;
pub(crate) mod draft;
mod drums;
mod gm;
mod kit;
pub(crate) mod patch;
mod programs;
mod select;
mod spectrum;
mod tone;
mod tones;
mod wanted;

use crate::collection::{self, Collection, LoopKind, Samples, Sampling, WaveLink};
use arena::Arena;
pub(crate) use arena::{Full, Moved};
use draft::Draft;
use patch::Patch;
pub(crate) use select::Instrument;
use std::collections::{HashMap, HashSet};
pub use wanted::Wanted;

/// Samples that an interpolator may read beyond the one that it stands at, be it for sixteen samples at once.
pub(crate) const GUARD: usize = 20;
/// The most samples that a voice moves on for one of its output: eight octaves above the wave's own pitch.
pub(crate) const MAX_STEP: usize = 255;
/// Silence at the start of the pool. What has come to its end goes there, and is stopped before it gets across.
pub(crate) const SILENCE: usize = GUARD + (MAX_STEP + 1) * (crate::synth::PERIOD + 2);
/// Positions in the pool are 32-bit numbers with a sign, and so is a position that a step has taken past its end.
const MAX_POOL: usize = 1 << 30;
/// Each loop of a wave has a copy of its own. A file may ask for so many times the samples that it has,
const EXPANSION: usize = 4;
/// and for so many besides.
const ALLOWANCE: usize = 4 << 20;

/// Why collections cannot be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BankError {
    /// Waves with all their loops need too much memory.
    #[error("the waves, played with so many different loops, need more than {0} samples: split the bank")]
    TooLarge(usize),
    /// A region names a wave that is not there, or a loop that does not fit.
    #[error("region {region} of instrument {instrument} has no such wave, or its loop lies outside")]
    Wave {
        /// By place in its collection.
        instrument: usize,
        /// By place in its instrument.
        region: usize,
    },
}

/// Instruments of one or more collections, and what guests have downloaded besides.
#[derive(Clone, Debug, Default)]
pub struct Bank {
    pool: Vec<i16>,
    sounds: Vec<Sound>,
    patches: Vec<Patch>,
    regions: Vec<Region>,
    /// Sorted by address; of two with the same one the first counts.
    instruments: Vec<Instrument>,
    largest: (usize, usize),
    /// What is not from collections.
    arena: Arena,
}

/// A wave in the pool, with a way to go on at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sound {
    /// First sample.
    pub(crate) base: u32,
    /// At this sample and past it a voice goes back,
    pub(crate) end: u32,
    /// by so many samples: into the loop, or into the silence that starts the pool.
    pub(crate) turn: u32,
    /// Where the loop begins, counted from `base`, and its length (0: none).
    pub(crate) looped: (u32, u32),
    /// Samples per second.
    pub(crate) rate: u32,
}

/// Where a voice is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Panned,
    Left,
    Right,
    Both,
}

/// A region, ready to be played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    keys: (u8, u8),
    velocities: (u8, u8),
    pub(crate) self_exclusive: bool,
    pub(crate) key_group: u16,
    pub(crate) speaker: Speaker,
    /// Voices of one note in one group run at the rate of their master. 0: alone.
    pub(crate) phase_group: u16,
    pub(crate) phase_master: bool,
    pub(crate) sound: usize,
    /// What is played from the release on, of a loop that is left then: the same wave without it.
    pub(crate) tail: Option<usize>,
    pub(crate) patch: usize,
    /// Added to the sum of pitches, cents: fine tuning less the unity note.
    pub(crate) cents: f32,
    /// As an amplitude.
    pub(crate) gain: f32,
}

impl Region {
    fn new(from: &collection::Region, sampling: &Sampling, sound: usize, tail: Option<usize>, patch: usize) -> Self {
        let link = from.link;
        let speaker = match (link.multichannel, link.channels & WaveLink::LEFT, link.channels & WaveLink::RIGHT) {
            (false, _, _) | (true, 0, 0) => Speaker::Panned,
            (true, _, 0) => Speaker::Left,
            (true, 0, _) => Speaker::Right,
            (true, _, _) => Speaker::Both,
        };
        // 96 dB below is silence, and what a file can add has some limit.
        let decibels = (f64::from(sampling.gain) / 655_360.0).clamp(-96.0, 48.0);
        Self {
            keys: from.keys,
            velocities: from.velocities,
            self_exclusive: from.self_exclusive,
            key_group: from.key_group,
            speaker,
            phase_group: link.phase_group,
            phase_master: link.phase_master,
            sound,
            tail,
            patch,
            cents: f32::from(sampling.fine_tune) - 100.0 * f32::from(sampling.unity_note),
            gain: libm::exp10(decibels / 20.0) as f32,
        }
    }

    /// Whether a key, struck like this, plays it.
    fn holds(&self, key: u8, velocity: u8) -> bool {
        let within = |(low, high): (u8, u8), value| (low..=high).contains(&value);
        within(self.keys, key) && within(self.velocities, velocity)
    }
}

fn address(drum: bool, bank: u16, program: u8) -> u32 {
    u32::from(drum) << 24 | u32::from(bank) << 8 | u32::from(program)
}

/// The built-in General MIDI instruments and drum kit, computed: no two calls differ by a bit.
pub fn built_in() -> Collection {
    Collection::from(&Draft::general_midi(&Wanted::ALL))
}

impl Bank {
    /// The built-in instruments alone.
    #[expect(clippy::expect_used, reason = "what the program made itself fits; the tests play all of it")]
    pub fn general_midi() -> Self {
        Self::new(&[built_in()]).expect("a bank that can be played")
    }

    /// Collections, the first one first: it is asked before the others for each instrument.
    ///
    /// # Errors
    /// They do not fit, or one refers to what it has not.
    pub fn new(collections: &[Collection]) -> Result<Self, BankError> {
        Self::of(collections, &Wanted::ALL)
    }

    /// As [`Self::new`], and the built-in instruments behind the collections; of all of them only what is wanted, so
    /// that the rest costs nothing.
    ///
    /// # Errors
    /// As there.
    pub fn with_built_in(mut collections: Vec<Collection>, wanted: &Wanted) -> Result<Self, BankError> {
        let left = wanted.without(&collections);
        collections.push(Collection::from(&Draft::general_midi(&left)));
        Self::of(&collections, wanted)
    }

    fn of(collections: &[Collection], wanted: &Wanted) -> Result<Self, BankError> {
        let mut bank = Self { pool: vec![0; SILENCE], ..Self::default() };
        let mut known = HashSet::new();
        for collection in collections {
            Loading::new(&mut bank, collection).load(wanted, &mut known)?;
        }
        // Stable: what came first stays first.
        bank.instruments.sort_by_key(|instrument| instrument.address);
        bank.pool.extend_from_slice(&[0; GUARD]);
        bank.pool.shrink_to_fit();
        bank.measure();
        Ok(bank)
    }

    /// What a channel plays, if it has regions: the very instrument, else the same program of bank 0, else (drums)
    /// program 0.
    pub(crate) fn instrument(&self, drum: bool, bank: u16, program: u8) -> Option<&Instrument> {
        let at = |bank, program| {
            let address = address(drum, bank, program);
            let index = self.instruments.partition_point(|i| i.address < address);
            self.instruments.get(index).filter(|i| i.address == address)
        };
        let found = at(bank, program).or_else(|| at(0, program));
        let found = found.or_else(|| if drum { at(0, 0) } else { None });
        found.filter(|instrument| !instrument.regions.is_empty())
    }

    /// Indices of the regions of an instrument that a key, struck like this, plays, in their order.
    pub(crate) fn sounding(&self, instrument: &Instrument, key: u8, velocity: u8) -> impl Iterator<Item = usize> {
        instrument.sounding(&self.regions, key, velocity)
    }

    /// Regions of the largest instrument, and blocks of the largest articulation, that there have been since downloads
    /// were last forgotten.
    pub(crate) fn largest(&self) -> (usize, usize) {
        self.largest
    }

    fn measure(&mut self) {
        let regions = self.instruments.iter().map(|instrument| instrument.regions.len()).max();
        let blocks = self.patches.iter().map(Patch::blocks).max();
        self.largest = (regions.unwrap_or(0), blocks.unwrap_or(0));
    }

    pub(crate) fn region(&self, index: usize) -> &Region {
        &self.regions[index]
    }

    pub(crate) fn sound(&self, index: usize) -> &Sound {
        &self.sounds[index]
    }

    pub(crate) fn patch(&self, index: usize) -> &Patch {
        &self.patches[index]
    }

    /// All samples, beginning with [`SILENCE`] zeros.
    pub(crate) fn pool(&self) -> &[i16] {
        &self.pool
    }
}

/// A wave and the part of it that repeats.
type Key = (usize, Option<(u32, u32)>);

/// A collection on its way into a bank.
struct Loading<'a> {
    bank: &'a mut Bank,
    collection: &'a Collection,
    /// The longest pool there may be.
    limit: usize,
    sounds: HashMap<Key, usize>,
    patches: HashMap<&'a [collection::connection::Connection], usize>,
}

impl<'a> Loading<'a> {
    fn new(bank: &'a mut Bank, collection: &'a Collection) -> Self {
        let samples: usize = collection.waves.iter().map(|wave| wave.samples.len()).sum();
        let more = samples.saturating_mul(EXPANSION).saturating_add(ALLOWANCE);
        let limit = bank.pool.len().saturating_add(more).min(MAX_POOL);
        Self { bank, collection, limit, sounds: HashMap::new(), patches: HashMap::new() }
    }

    /// Loads what is wanted and `known` does not have: of two with the same address the first counts.
    fn load(&mut self, wanted: &Wanted, known: &mut HashSet<u32>) -> Result<(), BankError> {
        for (number, instrument) in self.collection.instruments.iter().enumerate() {
            let address = address(instrument.drum, instrument.bank, instrument.program);
            if !wanted.has_program(instrument.program) || !known.insert(address) {
                continue;
            }
            let first = self.bank.regions.len();
            for (r, region) in instrument.regions.iter().enumerate().filter(|(_, region)| wanted.has_keys(region.keys))
            {
                let missing = BankError::Wave { instrument: number, region: r };
                let loaded = self.region(instrument, region, missing)?;
                self.bank.regions.push(loaded);
            }
            let place = first..self.bank.regions.len();
            let made = Instrument::new(address, &self.bank.regions[place.clone()], place);
            self.bank.instruments.push(made.map_err(|Full| BankError::TooLarge(self.limit))?);
        }
        Ok(())
    }

    fn region(
        &mut self,
        instrument: &'a collection::Instrument,
        region: &'a collection::Region,
        missing: BankError,
    ) -> Result<Region, BankError> {
        let link = region.link;
        let wave = self.collection.waves.get(link.wave).ok_or(missing)?;
        let sampling = region.sampling.or(wave.sampling).unwrap_or(Sampling::DEFAULT);
        let looped = sampling.looped.map(|l| (l.start, l.length));
        let sound = self.sound((link.wave, looped), missing)?;
        let tail = match sampling.looped.map(|l| l.kind) {
            Some(LoopKind::Release) => Some(self.sound((link.wave, None), missing)?),
            _ => None,
        };
        let blocks = instrument.articulation(region);
        let patch = *self.patches.entry(blocks).or_insert_with(|| {
            self.bank.patches.push(Patch::new(blocks));
            self.bank.patches.len() - 1
        });
        Ok(Region::new(region, &sampling, sound, tail, patch))
    }

    /// The sound of a wave with a loop, put into the pool if it is not there yet.
    fn sound(&mut self, key: Key, missing: BankError) -> Result<usize, BankError> {
        if let Some(&known) = self.sounds.get(&key) {
            return Ok(known);
        }
        let (wave, looped) = key;
        let wave = self.collection.waves.get(wave).ok_or(missing)?;
        let samples: &Samples = &wave.samples;
        let played = played(samples.len(), looped).ok_or(missing)?;
        let pool = &mut self.bank.pool;
        if pool.len().saturating_add(played + 2 * (GUARD + MAX_STEP)) > self.limit {
            return Err(BankError::TooLarge(self.limit));
        }
        let sound = lay_out(pool, |pool| samples.append_to(pool, played), looped, wave.rate);
        self.bank.sounds.push(sound);
        self.sounds.insert(key, self.bank.sounds.len() - 1);
        Ok(self.bank.sounds.len() - 1)
    }
}

/// How much of a wave is played before it repeats, or ends; none if the loop lies outside.
fn played(samples: usize, looped: Option<(u32, u32)>) -> Option<usize> {
    match looped {
        None => Some(samples),
        Some((start, length)) => {
            let end = start as usize + length as usize;
            (length > 0 && end <= samples).then_some(end)
        }
    }
}

/// Appends what is [`played`] of a wave to a pool, by `append`, and how it goes on; the loop lies inside.
fn lay_out(pool: &mut Vec<i16>, append: impl FnOnce(&mut Vec<i16>), looped: Option<(u32, u32)>, rate: u32) -> Sound {
    // So that whoever reads before the wave finds silence, and not the end of another.
    pool.resize(pool.len() + GUARD, 0);
    let base = pool.len();
    append(pool);
    let (end, turn) = match looped {
        None => (pool.len(), pool.len() - GUARD),
        Some((start, length)) => {
            let (first, length) = (base + start as usize, length as usize);
            // Repeated until one step cannot jump over it. A turn happens one sample late, so that what lies before the
            // place where it lands is the loop's end, too.
            let turn = length * (MAX_STEP + 1).div_ceil(length);
            let mut more = turn - length + 1 + GUARD;
            while more > 0 {
                let part = more.min(length);
                pool.extend_from_within(first..first + part);
                more -= part;
            }
            (base + start as usize + turn + 1, turn)
        }
    };
    Sound { base: base as u32, end: end as u32, turn: turn as u32, looped: looped.unwrap_or((0, 0)), rate }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::{Info, Loop, Wave};

    fn collection(samples: Vec<i16>, loops: &[(u32, u32)]) -> Collection {
        let wave =
            Wave { id: None, info: Info::default(), rate: 48_000, samples: Samples::new(samples), sampling: None };
        let region = |&(start, length): &(u32, u32)| collection::Region {
            sampling: Some(Sampling {
                looped: Some(Loop { kind: LoopKind::Forward, start, length }),
                ..Sampling::DEFAULT
            }),
            ..collection::Region::of(0)
        };
        let regions = loops.iter().map(region).collect();
        let instrument = collection::Instrument { regions, ..collection::Instrument::default() };
        Collection { waves: vec![wave], instruments: vec![instrument], ..Collection::default() }
    }

    #[test]
    fn positions_never_leave_their_wave_and_loops_repeat_to_the_sample() {
        let samples: Vec<i16> = (1..=300).collect();
        let loops = [(0, 300), (0, 1), (299, 1), (100, 7), (44, 256)];
        let bank = Bank::new(&[collection(samples.clone(), &loops)]).expect("a bank");
        for (sound, (start, length)) in bank.sounds.iter().zip(loops) {
            let (base, end, turn) = (sound.base as usize, sound.end as usize, sound.turn as usize);
            assert!(turn > MAX_STEP && end + GUARD <= bank.pool.len() && end - turn > base);
            let at = |index: usize| {
                let (start, length) = (start as usize, length as usize);
                samples[if index < start { index } else { start + (index - start) % length }]
            };
            // Wherever a voice stands, its neighbours are the loop's.
            for position in 0..end - base {
                for near in 0..=2 {
                    assert_eq!(bank.pool[base + position + near], at(position + near));
                }
            }
            assert_eq!(bank.pool[end - turn - 1], at(end - base - 1));
            assert_eq!(bank.pool[base - 1], 0);
        }
    }

    #[test]
    fn a_wave_with_too_many_loops_or_one_outside_is_refused() {
        let many: Vec<(u32, u32)> = (0..2000).map(|start| (start, 60_000 - start)).collect();
        let error = Bank::new(&[collection(vec![0; 60_000], &many)]).expect_err("too large");
        assert!(matches!(error, BankError::TooLarge(_)));
        for bad in [(0, 0), (0, 11), (10, 1), (u32::MAX, 1), (1, u32::MAX)] {
            let error = Bank::new(&[collection(vec![0; 10], &[bad])]).expect_err("outside");
            assert_eq!(error, BankError::Wave { instrument: 0, region: 0 });
        }
    }

    #[test]
    fn the_first_collection_is_asked_first() {
        let (a, b) = (collection(vec![1; 10], &[(0, 10)]), collection(vec![2; 10], &[(0, 10)]));
        let bank = Bank::new(&[a, b]).expect("a bank");
        let at = |drum, number, program| {
            let instrument = bank.instrument(drum, number, program)?;
            bank.sounding(instrument, 60, 100).next()
        };
        let region = bank.region(at(false, 0, 0).expect("a region"));
        assert_eq!(bank.pool[bank.sound(region.sound).base as usize], 1);
        assert_eq!(at(false, 5, 0), at(false, 0, 0));
        assert_eq!((at(false, 0, 1), at(true, 0, 0)), (None, None));
    }
}
