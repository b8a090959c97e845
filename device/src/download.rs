//! DLS downloads: what guests have put into the card's bank, by handle.
//!
//! Fed by the engine with chunks and with the bank, which all streams share; feeds the bank's arena. A chunk is loaded
//! whole or not at all. Waves live as long as an instrument refers to them, instruments as long as a note plays them.

mod chunk;

use crate::bank::{Bank, Full};
use crate::collection::LoopKind;
use crate::collection::connection::Connection;
use crate::room::has_room;
pub(crate) use chunk::Bad;
use chunk::{Chunk, Content};
use dmus_interface::download::{MAX_DOWNLOADS, Problem};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Regions whose instruments [`Downloads::collect`] frees at once, but for the first of these.
const COLLECTED: usize = 4096;

/// Bytes that an instrument takes at most besides samples: for itself, for each region, and for each connection. More
/// than it keeps, since lists grow.
const PARTS: usize = 16 << 10;
const A_REGION: usize = 1024;
const A_CONNECTION: usize = 128;

/// Bytes of sample memory for downloads.
pub(crate) const SAMPLE_MEMORY: usize = 128 << 20;

/// Why a chunk was not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Bad(Bad),
    Full,
}

impl From<Bad> for Refused {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

impl From<Full> for Refused {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

/// No such handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

type LoopPart = Option<(u32, u32)>;

#[derive(Debug)]
enum Entry {
    Wave(Wave),
    Instrument(Instrument),
}

#[derive(Debug)]
struct Wave {
    id: u32,
    rate: u32,
    samples: usize,
    /// The bank's sound without a loop, and those with one, by the loop: the sound, and how many use it.
    plain: usize,
    looped: BTreeMap<(u32, u32), (usize, usize)>,
    /// Regions that use it, tails included.
    users: usize,
}

/// What an instrument has in the bank.
#[derive(Debug, Default)]
struct Instrument {
    id: u32,
    regions: Range<usize>,
    patches: Vec<usize>,
    /// Waves, by handle.
    sounds: Vec<(u32, LoopPart)>,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    entries: BTreeMap<u32, Entry>,
    /// Handles by the ids of chunks; not of those that are being unloaded.
    ids: HashMap<u32, u32>,
    unloading: Vec<u32>,
    /// Unloads whose end nobody was told of: those that are pending, and those that have been carried out since.
    untold: u32,
    last: u32,
    /// What instruments take besides samples.
    bytes: usize,
    /// Nobody waits any more for what is loaded.
    void: Arc<AtomicBool>,
}

impl Downloads {
    /// None, and loading breaks off once the flag is set.
    pub(crate) fn new(void: Arc<AtomicBool>) -> Self {
        Self { void, ..Self::default() }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of sample memory that are free.
    pub(crate) fn free(&self, bank: &Bank) -> usize {
        match self.is_empty() {
            true => SAMPLE_MEMORY,
            false => (bank.free_samples() * 2).saturating_sub(self.bytes),
        }
    }

    /// Loads a chunk; gives its handle.
    pub(crate) fn load(&mut self, bank: &mut Bank, bytes: &[u8]) -> Result<u32, Refused> {
        bank.open_arena(SAMPLE_MEMORY / 2);
        let Chunk { id, content } = chunk::read(bytes)?;
        if self.ids.contains_key(&id) {
            return Err(Bad { problem: Problem::Id, at: 4 }.into());
        }
        if self.entries.len() >= MAX_DOWNLOADS {
            return Err(Refused::Full);
        }
        let entry = match content {
            Content::Wave { rate, samples } => Entry::Wave(self.add_wave(bank, id, rate, &samples)?),
            Content::Instrument(instrument) => Entry::Instrument(self.add_instrument(bank, id, &instrument)?),
        };
        loop {
            // As good as never used again before all others have been.
            self.last = self.last.wrapping_add(1).max(1);
            if !self.entries.contains_key(&self.last) {
                break;
            }
        }
        self.entries.insert(self.last, entry);
        self.ids.insert(id, self.last);
        Ok(self.last)
    }

    fn add_wave(&self, bank: &mut Bank, id: u32, rate: u32, samples: &[i16]) -> Result<Wave, Full> {
        let plain = bank.add_sound(samples, None, rate)?;
        if bank.free_samples() * 2 < self.bytes {
            bank.remove_sound(plain);
            return Err(Full);
        }
        Ok(Wave { id, rate, samples: samples.len(), plain, looped: BTreeMap::new(), users: 0 })
    }

    fn add_instrument(&mut self, bank: &mut Bank, id: u32, from: &chunk::Instrument) -> Result<Instrument, Refused> {
        for placed in &from.regions {
            self.check(placed)?;
        }
        let connections: usize = from.articulations.iter().map(Vec::len).sum();
        if !has_room(PARTS + A_REGION * from.regions.len() + A_CONNECTION * connections) {
            return Err(Refused::Full);
        }
        let mut made = Instrument { id, ..Instrument::default() };
        let added = self.fill(bank, &mut made, from);
        if let Err(full) = added.and_then(|()| bank.show(from.address, made.regions.clone())) {
            self.free_instrument(bank, &made);
            return Err(full.into());
        }
        Ok(made)
    }

    /// Whether a region's wave is here, and its loop in it.
    fn check(&self, placed: &chunk::Placed) -> Result<(), Bad> {
        let wave = self.ids.get(&placed.wave).and_then(|handle| self.entries.get(handle));
        let Some(Entry::Wave(wave)) = wave else {
            return Err(Bad { problem: Problem::NoWave, at: placed.at + 32 });
        };
        match placed.sampling.looped {
            Some(l) if l.length == 0 || u64::from(l.start) + u64::from(l.length) > wave.samples as u64 => {
                Err(Bad { problem: Problem::Loop, at: placed.at + 64 })
            }
            _ => Ok(()),
        }
    }

    /// Puts what is checked into the bank. What is there when it is full, `made` knows.
    fn fill(&mut self, bank: &mut Bank, made: &mut Instrument, from: &chunk::Instrument) -> Result<(), Full> {
        let nothing: &[Connection] = &[];
        let index = crate::bank::Instrument::bytes(from.regions.len());
        made.bytes += index;
        self.bytes += index;
        let mut known: HashMap<&[Connection], usize> = HashMap::new();
        let mut parts = Vec::with_capacity(from.regions.len());
        for placed in &from.regions {
            if self.void.load(Ordering::Relaxed) {
                return Err(Full);
            }
            let wave = self.ids.get(&placed.wave).copied().unwrap_or_default();
            let looped = placed.sampling.looped;
            let sound = self.sound(bank, made, (wave, looped.map(|l| (l.start, l.length))))?;
            let tail = match looped.map(|l| l.kind) {
                Some(LoopKind::Release) => Some(self.sound(bank, made, (wave, None))?),
                _ => None,
            };
            let before = made.bytes;
            let connections = placed.articulation.map_or(nothing, |index| &from.articulations[index]);
            let patch = *known.entry(connections).or_insert_with(|| {
                let patch = bank.add_patch(connections);
                made.patches.push(patch);
                made.bytes += bank.patch(patch).bytes();
                patch
            });
            parts.push((&placed.region, placed.sampling, sound, tail, patch));
            made.bytes += size_of::<crate::bank::Region>();
            self.bytes += made.bytes - before;
            if bank.free_samples() * 2 < self.bytes {
                return Err(Full);
            }
        }
        made.regions = bank.add_regions(parts.into_iter());
        Ok(())
    }

    /// The bank's sound of a wave with a loop, which `made` uses from now on.
    fn sound(
        &mut self,
        bank: &mut Bank,
        made: &mut Instrument,
        (handle, looped): (u32, LoopPart),
    ) -> Result<usize, Full> {
        let Some(Entry::Wave(wave)) = self.entries.get_mut(&handle) else {
            return Err(Full);
        };
        let sound = match looped {
            None => wave.plain,
            Some(part @ (start, length)) => match wave.looped.get_mut(&part) {
                Some((sound, users)) => {
                    *users += 1;
                    *sound
                }
                None => {
                    // No more of the wave is copied than is played.
                    let samples = bank.samples_of(wave.plain, start as usize + length as usize)?;
                    let sound = bank.add_sound(&samples, looped, wave.rate)?;
                    wave.looped.insert(part, (sound, 1));
                    sound
                }
            },
        };
        wave.users += 1;
        made.sounds.push((handle, looped));
        Ok(sound)
    }

    fn free_instrument(&mut self, bank: &mut Bank, made: &Instrument) {
        self.bytes = self.bytes.saturating_sub(made.bytes);
        if !made.regions.is_empty() {
            bank.remove_regions(made.regions.clone());
        }
        made.patches.iter().for_each(|&patch| bank.remove_patch(patch));
        for (handle, looped) in &made.sounds {
            let Some(Entry::Wave(wave)) = self.entries.get_mut(handle) else {
                continue;
            };
            wave.users -= 1;
            if let Some(part) = looped
                && let Some((sound, users)) = wave.looped.get_mut(part)
            {
                *users -= 1;
                if *users == 0 {
                    bank.remove_sound(*sound);
                    wave.looped.remove(part);
                }
            }
        }
    }

    /// Begins to unload: no note finds an instrument any more, no instrument a wave. [`Self::collect`] goes on.
    pub(crate) fn unload(&mut self, bank: &mut Bank, handle: u32) -> Result<(), Unknown> {
        let entry = self.entries.get(&handle).ok_or(Unknown)?;
        let id = match entry {
            Entry::Wave(wave) => wave.id,
            Entry::Instrument(instrument) => instrument.id,
        };
        if self.ids.get(&id) != Some(&handle) {
            return Err(Unknown);
        }
        if let Entry::Instrument(instrument) = entry {
            bank.hide(&instrument.regions);
        }
        self.ids.remove(&id);
        self.unloading.push(handle);
        self.untold += 1;
        Ok(())
    }

    /// Whether [`Self::collect`] may have something to do, or has something to tell.
    pub(crate) fn is_unloading(&self) -> bool {
        self.untold > 0
    }

    /// Regions of instruments that are being unloaded.
    pub(crate) fn unloading_regions(&self) -> impl Iterator<Item = &Range<usize>> {
        self.unloading.iter().filter_map(|handle| match self.entries.get(handle) {
            Some(Entry::Instrument(instrument)) => Some(&instrument.regions),
            _ => None,
        })
    }

    /// Whether [`Self::collect`] has something to do.
    pub(crate) fn can_collect(&self, playing: &BTreeSet<usize>) -> bool {
        self.unloading.iter().any(|handle| match self.entries.get(handle) {
            Some(Entry::Instrument(instrument)) => !playing.contains(&instrument.regions.start),
            Some(Entry::Wave(wave)) => wave.users == 0,
            None => true,
        })
    }

    /// Frees some of what is being unloaded and not needed any more, given where the regions begin of which that cannot
    /// be said.
    pub(crate) fn collect(&mut self, bank: &mut Bank, playing: &BTreeSet<usize>) {
        let mut collected = 0;
        let mut waves = Vec::new();
        for handle in std::mem::take(&mut self.unloading) {
            match self.entries.get(&handle) {
                Some(Entry::Instrument(instrument))
                    if collected >= COLLECTED || playing.contains(&instrument.regions.start) =>
                {
                    self.unloading.push(handle);
                }
                Some(Entry::Instrument(instrument)) => {
                    collected += instrument.regions.len();
                    if let Some(Entry::Instrument(instrument)) = self.entries.remove(&handle) {
                        self.free_instrument(bank, &instrument);
                    }
                }
                _ => waves.push(handle),
            }
        }
        // Their last instrument may just have gone.
        for handle in waves {
            match self.entries.get(&handle) {
                Some(Entry::Wave(wave)) if wave.users == 0 => {
                    bank.remove_sound(wave.plain);
                    self.entries.remove(&handle);
                }
                _ => self.unloading.push(handle),
            }
        }
    }

    /// Whether a handle is gone, which is told by this.
    pub(crate) fn take_gone(&mut self, handle: u32) -> bool {
        let gone = !self.entries.contains_key(&handle);
        self.untold -= u32::from(gone && self.finished() > 0);
        gone
    }

    /// How many downloads are gone that nobody was told of, and are by this.
    pub(crate) fn take_finished(&mut self) -> u32 {
        let finished = self.finished();
        self.untold -= finished;
        finished
    }

    fn finished(&self) -> u32 {
        self.untold - self.unloading.len() as u32
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, bank: &mut Bank) {
        *self = Self { last: self.last, ..Self::new(Arc::clone(&self.void)) };
        bank.clear_arena();
    }
}
