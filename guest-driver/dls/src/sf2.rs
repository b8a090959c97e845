//! Reads a SoundFont 2 bank as a collection: presets become instruments, pairs of preset and instrument zones become
//! regions.
//!
//! Fed with the root chunk; gives a [`Collection`] of all that can be played, or the fault for which nothing can.
//! Generators and modulators are turned into samplings and connection blocks by [`articulation`]. Waves are stretches
//! of the file, so that overlapping ones cost nothing. What is wrong is mended where that is no guess; else its zone is
//! left out.

mod articulation;

use super::error::{Fault, Mends, Problem};
use super::riff::{Chunk, Fields};
use super::samples::{Coding, Samples, Store};
use super::{Collection, Info, Instrument, Loop, LoopKind, Region, Sampling, Wave, WaveLink};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use articulation::{Generators, Modulator, Modulators};

/// Generators or modulators in one zone; there are 61 generators.
const MAX_IN_ZONE: usize = 128;
/// What the regions of a file may cost, in bytes of memory or steps of work, for each of its own bytes. Presets share
/// instruments, so some factor is right; Debian's General MIDI banks stay below one.
const EXPANSION: usize = 8;
/// Added to that, for small files with few samples.
const ALLOWANCE: usize = 4 << 20;
/// What looking at one pair of zones costs.
const PAIR: usize = 64;

/// Kinds of sample, by their bits.
const IN_ROM: u16 = 0x8000;
const COMPRESSED: u16 = 0x10;

/// Generators by number.
pub(super) mod generator {
    pub(in super::super) const INSTRUMENT: u16 = 41;
    pub(in super::super) const KEY_RANGE: u16 = 43;
    pub(in super::super) const VELOCITY_RANGE: u16 = 44;
    pub(in super::super) const SAMPLE: u16 = 53;
    pub(in super::super) const SAMPLE_MODES: u16 = 54;
    pub(in super::super) const EXCLUSIVE_CLASS: u16 = 57;
    pub(in super::super) const ROOT_KEY: u16 = 58;
    /// Fine (in samples) and coarse (in 32,768) offsets of a sample's start and end, and of its loop's.
    pub(in super::super) const START: (u16, u16) = (0, 4);
    pub(in super::super) const END: (u16, u16) = (1, 12);
    pub(in super::super) const LOOP_START: (u16, u16) = (2, 45);
    pub(in super::super) const LOOP_END: (u16, u16) = (3, 50);
}

pub(super) fn read(root: &Chunk<'_>, file: &Arc<dyn Store>, mends: &mut Mends) -> Result<Collection, Fault> {
    let data = root.need(true, b"pdta", mends)?;
    let hydra = Hydra {
        presets: Table::of(&data, b"phdr", 38, mends)?,
        preset_zones: Zones::of(&data, [b"pbag", b"pgen", b"pmod"], mends)?,
        instruments: Table::of(&data, b"inst", 22, mends)?,
        instrument_zones: Zones::of(&data, [b"ibag", b"igen", b"imod"], mends)?,
        samples: Table::of(&data, b"shdr", 46, mends)?,
    };
    let pool = root.need(true, b"sdta", mends)?.first(false, b"smpl", mends);
    let info = super::dls::info(root, mends);
    let place = pool.map_or(0..0, |pool| pool.at..pool.at + pool.data.len());
    let mut reading = Reading {
        hydra,
        file,
        pool: Samples::in_file(file, place.clone(), Coding::Pcm { bytes: 2 }, 1).unwrap_or(Samples::new([])),
        place,
        decoded: BTreeMap::new(),
        waves: Vec::new(),
        known: BTreeMap::new(),
        budget: file.len().saturating_mul(EXPANSION).saturating_add(ALLOWANCE),
        mends,
    };
    let mut instruments = Vec::new();
    for preset in 0..reading.hydra.presets.last {
        let read = reading.preset(preset);
        match read {
            Err(fault) if fault.is_too_complex() => return Err(fault),
            read => instruments.extend(reading.mends.keep(read, "the preset is left out")),
        }
    }
    Ok(Collection { info, instruments, waves: reading.waves, ..Collection::default() })
}

/// A chunk of records of one size. The last record only ends the one before it.
#[derive(Clone, Copy)]
struct Table<'a> {
    records: Fields<'a>,
    size: usize,
    /// Index of the record that ends the table.
    last: usize,
}

impl<'a> Table<'a> {
    fn of(list: &Chunk<'a>, name: &'static [u8; 4], size: usize, mends: &mut Mends) -> Result<Self, Fault> {
        let chunk = list.need(false, name, mends)?;
        let length = chunk.data.len();
        let cut = chunk.fault(Problem::Short { needs: (length / size + 1) * size, holds: length });
        let last = match (length / size, length % size) {
            (0, _) => return Err(cut),
            (records, 0) => records - 1,
            // It is the one that says nothing of its own.
            (records, _) => {
                mends.add(cut, "it ends with its last whole record");
                records
            }
        };
        Ok(Self { records: chunk.fields(), size, last })
    }

    /// The fields of a record from `skip` bytes on.
    fn record(&self, index: usize, skip: usize) -> Result<Fields<'a>, Fault> {
        let mut fields = self.records;
        fields.skip(index.saturating_mul(self.size).saturating_add(skip))?;
        Ok(fields)
    }

    /// The records of another table that belong to record `index` of this one: from the index at `skip` to that of the
    /// next record, or to the end of what is there.
    fn range(
        &self,
        index: usize,
        skip: usize,
        other: &Table<'_>,
        what: &'static str,
        mends: &mut Mends,
    ) -> Result<core::ops::Range<usize>, Fault> {
        let mut here = self.record(index, skip)?;
        let start = usize::from(here.u16()?);
        let next = self.record(index + 1, skip).and_then(|mut next| Ok((usize::from(next.u16()?), next)));
        let Ok((end, next)) = next else {
            return Ok(start.min(other.last)..other.last);
        };
        let count = other.last;
        let wrong = |index| Problem::Reference { what, index, count };
        if start > count {
            return Err(here.before(2, wrong(start)));
        }
        if end > count {
            mends.add(next.before(2, wrong(end)), "what is there counts");
        }
        if end < start {
            return Err(next.before(2, wrong(end)));
        }
        Ok(start..end.min(count))
    }
}

/// Zones with their generators and modulators.
struct Zones<'a> {
    bags: Table<'a>,
    generators: Table<'a>,
    modulators: Table<'a>,
}

impl<'a> Zones<'a> {
    fn of(
        list: &Chunk<'a>,
        [bags, generators, modulators]: [&'static [u8; 4]; 3],
        mends: &mut Mends,
    ) -> Result<Self, Fault> {
        Ok(Self {
            bags: Table::of(list, bags, 4, mends)?,
            generators: Table::of(list, generators, 4, mends)?,
            modulators: Table::of(list, modulators, 10, mends)?,
        })
    }

    /// A zone, whose generators end with the one of this number.
    fn zone(&self, index: usize, last: u16, mends: &mut Mends) -> Result<Zone<'a>, Fault> {
        let generators = self.bags.range(index, 0, &self.generators, "generator", mends)?;
        let modulators = self.bags.range(index, 2, &self.modulators, "modulator", mends)?;
        for (what, length) in
            [("the number of generators", generators.len()), ("the number of modulators", modulators.len())]
        {
            if length > MAX_IN_ZONE {
                let problem = Problem::Value { what, value: length as i64, limits: "at most 128 in a zone" };
                return Err(self.bags.record(index, 0)?.before(0, problem));
            }
        }
        let slice = |table: &Table<'a>, range: core::ops::Range<usize>| -> Result<Fields<'a>, Fault> {
            let fields = table.record(range.start, 0)?;
            Ok(Fields { data: &fields.data[..range.len() * table.size], at: fields.at })
        };
        let (mut generators, modulators) = (slice(&self.generators, generators)?, slice(&self.modulators, modulators)?);
        let records = generators.data.len() / 4;
        let ends = generators.data.chunks_exact(4).position(|record| record[..2] == last.to_le_bytes());
        if let Some(end) = ends
            && end + 1 < records
        {
            let mut behind = generators;
            behind.skip(4 * (end + 1))?;
            mends.add(behind.before(0, Problem::Behind(records - end - 1)), "they are ignored");
            generators.data = &generators.data[..4 * (end + 1)];
        }
        Ok(Zone { generators, modulators })
    }
}

/// A zone's records.
#[derive(Clone, Copy)]
struct Zone<'a> {
    generators: Fields<'a>,
    modulators: Fields<'a>,
}

impl Zone<'_> {
    /// The amount of a generator, if the zone has it. The last one counts.
    fn get(&self, number: u16) -> Option<u16> {
        let records = self.generators.data.chunks_exact(4);
        records.rev().find(|r| r[..2] == number.to_le_bytes()).map(|r| u16::from_le_bytes([r[2], r[3]]))
    }

    fn modulators(&self) -> impl Iterator<Item = Modulator> {
        self.modulators.data.chunks_exact(10).map(|r| {
            let word = |at: usize| u16::from_le_bytes([r[at], r[at + 1]]);
            Modulator {
                source: word(0),
                destination: word(2),
                amount: i32::from(word(4) as i16),
                control: word(6),
                transform: word(8),
            }
        })
    }

    /// A range of keys or velocities; whole if the zone has none. High bounds above 127 are 127.
    fn range(&self, number: u16) -> Option<(u8, u8)> {
        self.get(number).map(|amount| {
            let [low, high] = amount.to_le_bytes();
            (low, high.min(127))
        })
    }
}

/// A zone and the one that is global to it, if any.
#[derive(Clone, Copy)]
struct Level<'a> {
    zone: Zone<'a>,
    global: Option<Zone<'a>>,
}

impl Level<'_> {
    fn get(&self, number: u16) -> Option<u16> {
        self.zone.get(number).or_else(|| self.global?.get(number))
    }

    fn range(&self, number: u16) -> (u8, u8) {
        self.zone.range(number).or_else(|| self.global?.range(number)).unwrap_or((0, 127))
    }

    /// Bytes of generators, and of modulators.
    fn bytes(&self) -> (usize, usize) {
        let bytes = |zone: &Zone<'_>| (zone.generators.data.len(), zone.modulators.data.len());
        let (own, global) = (bytes(&self.zone), self.global.as_ref().map_or((0, 0), bytes));
        (own.0 + global.0, own.1 + global.1)
    }
}

struct Hydra<'a> {
    presets: Table<'a>,
    preset_zones: Zones<'a>,
    instruments: Table<'a>,
    instrument_zones: Zones<'a>,
    samples: Table<'a>,
}

/// The state of a reading.
struct Reading<'a, 'm> {
    hydra: Hydra<'a>,
    file: &'a Arc<dyn Store>,
    /// Where the pool of samples is in the file.
    place: core::ops::Range<usize>,
    pool: Samples,
    /// Samples of a coding of their own.
    decoded: BTreeMap<usize, Samples>,
    waves: Vec<Wave>,
    /// Waves by sample, first sample and end.
    known: BTreeMap<(usize, usize, usize), usize>,
    /// Bytes that regions may still cost.
    budget: usize,
    mends: &'m mut Mends,
}

impl<'a> Reading<'a, '_> {
    fn spend(&mut self, cost: usize, place: &Fields<'_>) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(cost).ok_or(place.before(0, Problem::TooComplex))?;
        Ok(())
    }

    /// What a zone gives, unless it is left out. An error if the whole file is too much.
    fn zone_or_end<T>(&mut self, read: Result<T, Fault>) -> Result<Option<T>, Fault> {
        match read {
            Err(fault) if fault.is_too_complex() => Err(fault),
            read => Ok(self.mends.keep(read, "the zone is left out")),
        }
    }

    fn preset(&mut self, index: usize) -> Result<Instrument, Fault> {
        let mut header = self.hydra.presets.record(index, 0)?;
        let name = super::dls::text(&header.take::<20>()?);
        let (program, bank) = (header.u16()?, header.u16()?);
        let program = super::limited("the program", program, 0..=127, "a number of 0 to 127");
        let program = program.map_err(|problem| header.before(4, problem))?;
        // Bank 128 is the percussion kits; below, the bank is CC0.
        let limits = "a number of 0 to 128, which a song can choose";
        let number = super::limited::<u16>("the bank", bank, 0..=128, limits);
        let number = number.map_err(|problem| header.before(2, problem))?;
        let (drum, bank) = if number == 128 { (true, 0) } else { (false, number << 7) };
        let mut regions = Vec::new();
        let zones = self.hydra.presets.range(index, 24, &self.hydra.preset_zones.bags, "zone", self.mends)?;
        let mut global = None;
        for number in zones.clone() {
            let zone = self.hydra.preset_zones.zone(number, generator::INSTRUMENT, self.mends);
            let Some(zone) = self.mends.keep(zone, "the zone is left out") else {
                continue;
            };
            match zone.get(generator::INSTRUMENT) {
                Some(instrument) => {
                    let preset = Level { zone, global };
                    let read = self.instrument(usize::from(instrument), preset, &mut regions);
                    self.zone_or_end(read)?;
                }
                None if number == zones.start => global = Some(zone),
                None => {}
            }
        }
        Ok(Instrument { info: Info::named(&name), bank, program, drum, regions, ..Instrument::default() })
    }

    /// Adds the regions of an instrument as a preset zone plays it.
    fn instrument(&mut self, index: usize, preset: Level<'a>, regions: &mut Vec<Region>) -> Result<(), Fault> {
        let count = self.hydra.instruments.last;
        if index >= count {
            return Err(preset.zone.generators.before(0, Problem::Reference { what: "instrument", index, count }));
        }
        let zones = self.hydra.instruments.range(index, 20, &self.hydra.instrument_zones.bags, "zone", self.mends)?;
        let mut global = None;
        for number in zones.clone() {
            self.spend(PAIR, &preset.zone.generators)?;
            let zone = self.hydra.instrument_zones.zone(number, generator::SAMPLE, self.mends);
            let Some(zone) = self.mends.keep(zone, "the zone is left out") else {
                continue;
            };
            let Some(sample) = zone.get(generator::SAMPLE) else {
                if number == zones.start {
                    global = Some(zone);
                }
                continue;
            };
            let instrument = Level { zone, global };
            let both = |number| {
                let (a, b) = (preset.range(number), instrument.range(number));
                (a.0.max(b.0), a.1.min(b.1))
            };
            let (keys, velocities) = (both(generator::KEY_RANGE), both(generator::VELOCITY_RANGE));
            if keys.0 > keys.1 || velocities.0 > velocities.1 {
                continue;
            }
            // What a region takes to work out counts too: each generator is looked up, each modulator compared with the
            // others.
            let (a, b) = (preset.bytes(), instrument.bytes());
            let modulators = (a.1 + b.1) / 10;
            self.spend(4 * (a.0 + b.0) + modulators * modulators / 4, &zone.generators)?;
            let read = self.region(usize::from(sample), preset, instrument);
            let Some(region) = self.zone_or_end(read)? else {
                continue;
            };
            let blocks = region.connections.as_ref().map_or(0, |blocks| size_of_val(&blocks[..]));
            self.spend(size_of::<Region>() + blocks, &zone.generators)?;
            regions.push(Region { keys, velocities, ..region });
        }
        Ok(())
    }

    /// A compressed sample: its place in the pool is given in bytes.
    fn decoded(&mut self, sample: usize, (start, end): (i64, i64)) -> Option<Samples> {
        if let Some(known) = self.decoded.get(&sample) {
            return Some(known.clone());
        }
        let place =
            |byte| Some(self.place.start + usize::try_from(byte).ok().filter(|byte| *byte <= self.place.len())?);
        let samples = Samples::in_file(self.file, place(start)?..place(end)?, Coding::Vorbis, 1)?;
        self.decoded.insert(sample, samples.clone());
        Some(samples)
    }

    fn region(&mut self, sample: usize, preset: Level<'a>, instrument: Level<'a>) -> Result<Region, Fault> {
        let place = instrument.zone.generators;
        let count = self.hydra.samples.last;
        if sample >= count {
            return Err(place.before(0, Problem::Reference { what: "sample", index: sample, count }));
        }
        let mut header = self.hydra.samples.record(sample, 0)?;
        let name = super::dls::text(&header.take::<20>()?);
        let (start, end) = (i64::from(header.u32()?), i64::from(header.u32()?));
        let (loop_start, loop_end) = (i64::from(header.u32()?), i64::from(header.u32()?));
        let rate = header.u32()?;
        let [root, correction] = header.take()?;
        let kind = header.skip(2).and_then(|()| header.u16())?;
        if kind & IN_ROM != 0 {
            let limits = "in the file but in a ROM";
            return Err(header.before(2, Problem::Value { what: "the kind of sample", value: kind.into(), limits }));
        }
        // Loops of a compressed one count from its own beginning.
        let (pool, start, end) = match kind & COMPRESSED != 0 {
            false => (self.pool.clone(), start, end),
            true => {
                let limits = "one that can be decoded";
                let problem = Problem::Value { what: "the compressed sample's end", value: end, limits };
                let decoded = self.decoded(sample, (start, end)).ok_or(header.before(2, problem))?;
                let end = decoded.len() as i64;
                (decoded, 0, end)
            }
        };

        let offset = |(fine, coarse): (u16, u16)| {
            let amount = |number| i64::from(instrument.get(number).unwrap_or(0) as i16);
            amount(fine) + 32_768 * amount(coarse)
        };
        let (start, end) = (start + offset(generator::START), end + offset(generator::END));
        let room = pool.len() as i64;
        let limits = "after its start and in the pool";
        let bad = place.before(0, Problem::Value { what: "the sample's end", value: end, limits });
        if (0..room).contains(&start) && end > room {
            self.mends.add(bad.clone(), "the sample ends with the pool");
        }
        let end = end.min(room);
        let range = match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if start < end => start..end,
            _ => return Err(bad),
        };
        let kind = match instrument.get(generator::SAMPLE_MODES).unwrap_or(0) & 3 {
            1 => Some(LoopKind::Forward),
            3 => Some(LoopKind::Release),
            _ => None,
        };
        let looped = kind.and_then(|kind| {
            let from = loop_start + offset(generator::LOOP_START) - start;
            let to = loop_end + offset(generator::LOOP_END) - start;
            let within = from.max(0)..to.min(range.len() as i64);
            let looped = (within.start < within.end).then(|| Loop {
                kind,
                start: within.start as u32,
                length: (within.end - within.start) as u32,
            });
            if looped.is_none() || within != (from..to) {
                let problem = Problem::Loop { start: from, length: to - from, samples: range.len() };
                let remedy = if looped.is_some() { "the loop ends with the wave" } else { "the loop is left out" };
                self.mends.add(place.before(0, problem), remedy);
            }
            looped
        });

        let generators = Generators::new(|number| instrument.get(number), |number| preset.get(number));
        let mut modulators = Modulators::defaults();
        modulators.instrument(instrument.global.iter().flat_map(Zone::modulators), instrument.zone.modulators());
        modulators.preset(preset.global.iter().flat_map(Zone::modulators), preset.zone.modulators());
        let root = match instrument.get(generator::ROOT_KEY) {
            Some(key @ 0..=127) => key as u8,
            _ if root <= 127 => root,
            _ => 60,
        };
        let sampling = Sampling {
            unity_note: root,
            fine_tune: generators.tuning() + i16::from(correction as i8),
            gain: generators.gain(),
            looped,
            ..Sampling::DEFAULT
        };
        let connections = articulation::connections(&generators, &modulators, root);
        let key_group = instrument.get(generator::EXCLUSIVE_CLASS).unwrap_or(0);

        let known = (sample, range.start, range.end);
        let wave = match self.known.get(&known) {
            Some(&wave) => wave,
            None => {
                self.spend(size_of::<Wave>() + 256, &place)?;
                let samples = pool.part(range).ok_or(bad)?;
                let mut wave = Wave { id: None, info: Info::named(&name), rate, samples, sampling: None };
                if let Some(problem) = wave.fit() {
                    self.mends.add(header.before(0, problem), "the nearest rate that can be played is taken");
                }
                wave.check().map_err(|problem| header.before(0, problem))?;
                self.waves.push(wave);
                self.known.insert(known, self.waves.len() - 1);
                self.waves.len() - 1
            }
        };
        let link = WaveLink { wave, ..Region::of(0).link };
        let region =
            Region { link, key_group, sampling: Some(sampling), connections: Some(connections), ..Region::of(wave) };
        region.check(&self.waves).map_err(|problem| place.before(0, problem))?;
        Ok(region)
    }
}
