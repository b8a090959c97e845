//! Reads a SoundFont 2 bank as a collection: presets become instruments, pairs of preset and instrument zones become
//! regions.
//!
//! Fed with the root chunk; gives a whole [`Collection`] or the first fault. Generators and modulators are turned into
//! samplings and connection blocks by [`articulation`]. Waves are views of the one pool of samples, so that overlapping
//! ones cost nothing.

mod articulation;

use super::error::{Fault, Problem};
use super::riff::{Chunk, Fields};
use super::{Collection, Info, Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave, WaveLink};
use alloc::collections::BTreeMap;
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

pub(super) fn read(root: &Chunk<'_>, file_size: usize) -> Result<Collection, Fault> {
    let data = root.need(true, b"pdta")?;
    let hydra = Hydra {
        presets: Table::of(&data, b"phdr", 38)?,
        preset_zones: Zones::of(&data, [b"pbag", b"pgen", b"pmod"])?,
        instruments: Table::of(&data, b"inst", 22)?,
        instrument_zones: Zones::of(&data, [b"ibag", b"igen", b"imod"])?,
        samples: Table::of(&data, b"shdr", 46)?,
    };
    let pool = root.need(true, b"sdta")?;
    let pool = match pool.only(false, b"smpl")? {
        Some(chunk) => Samples::new(super::dls::pcm(chunk.data)),
        None => Samples::new([]),
    };
    let info = super::dls::info(root)?;
    let mut reading = Reading {
        hydra,
        pool,
        waves: Vec::new(),
        known: BTreeMap::new(),
        budget: file_size.saturating_mul(EXPANSION).saturating_add(ALLOWANCE),
    };
    let mut instruments = Vec::new();
    for preset in 0..reading.hydra.presets.last {
        instruments.push(reading.preset(preset)?);
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
    fn of(list: &Chunk<'a>, name: &'static [u8; 4], size: usize) -> Result<Self, Fault> {
        let chunk = list.need(false, name)?;
        let length = chunk.data.len();
        if length < size || !length.is_multiple_of(size) {
            return Err(chunk.fault(Problem::Short { needs: (length / size + 1) * size, holds: length }));
        }
        Ok(Self { records: chunk.fields(), size, last: length / size - 1 })
    }

    /// The fields of a record from `skip` bytes on.
    fn record(&self, index: usize, skip: usize) -> Result<Fields<'a>, Fault> {
        let mut fields = self.records;
        fields.skip(index.saturating_mul(self.size).saturating_add(skip))?;
        Ok(fields)
    }

    /// The records of another table that belong to record `index` of this one: from the index at `skip` to that of the
    /// next record.
    fn range(
        &self,
        index: usize,
        skip: usize,
        other: &Table<'_>,
        what: &'static str,
    ) -> Result<core::ops::Range<usize>, Fault> {
        let (mut here, mut next) = (self.record(index, skip)?, self.record(index + 1, skip)?);
        let (start, end) = (usize::from(here.u16()?), usize::from(next.u16()?));
        if end < start || end > other.last {
            return Err(next.before(2, Problem::Reference { what, index: end, count: other.last }));
        }
        Ok(start..end)
    }
}

/// Zones with their generators and modulators.
struct Zones<'a> {
    bags: Table<'a>,
    generators: Table<'a>,
    modulators: Table<'a>,
}

impl<'a> Zones<'a> {
    fn of(list: &Chunk<'a>, [bags, generators, modulators]: [&'static [u8; 4]; 3]) -> Result<Self, Fault> {
        Ok(Self {
            bags: Table::of(list, bags, 4)?,
            generators: Table::of(list, generators, 4)?,
            modulators: Table::of(list, modulators, 10)?,
        })
    }

    fn zone(&self, index: usize) -> Result<Zone<'a>, Fault> {
        let generators = self.bags.range(index, 0, &self.generators, "generator")?;
        let modulators = self.bags.range(index, 2, &self.modulators, "modulator")?;
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
        Ok(Zone { generators: slice(&self.generators, generators)?, modulators: slice(&self.modulators, modulators)? })
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
struct Reading<'a> {
    hydra: Hydra<'a>,
    pool: Samples,
    waves: Vec<Wave>,
    /// Waves by sample, first sample and end.
    known: BTreeMap<(usize, usize, usize), usize>,
    /// Bytes that regions may still cost.
    budget: usize,
}

impl<'a> Reading<'a> {
    fn spend(&mut self, cost: usize, place: &Fields<'_>) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(cost).ok_or(place.before(0, Problem::TooComplex))?;
        Ok(())
    }

    fn preset(&mut self, index: usize) -> Result<Instrument, Fault> {
        let mut header = self.hydra.presets.record(index, 0)?;
        let name = super::dls::text(&header.take::<20>()?);
        let (program, bank) = (header.u16()?, header.u16()?);
        let program = super::limited("the program", program, 0..=127, "a number of 0 to 127");
        let program = program.map_err(|problem| header.before(4, problem))?;
        // Bank 128 is the percussion kits; below, the bank is CC0.
        let drum = bank == 128;
        let bank = if drum { 0 } else { (bank & 0x7f) << 7 };
        let mut regions = Vec::new();
        let zones = self.hydra.presets.range(index, 24, &self.hydra.preset_zones.bags, "zone")?;
        let mut global = None;
        for number in zones.clone() {
            let zone = self.hydra.preset_zones.zone(number)?;
            match zone.get(generator::INSTRUMENT) {
                Some(instrument) => {
                    let preset = Level { zone, global };
                    self.instrument(usize::from(instrument), preset, &mut regions)?;
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
        let zones = self.hydra.instruments.range(index, 20, &self.hydra.instrument_zones.bags, "zone")?;
        let mut global = None;
        for number in zones.clone() {
            self.spend(PAIR, &preset.zone.generators)?;
            let zone = self.hydra.instrument_zones.zone(number)?;
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
            let region = self.region(usize::from(sample), preset, instrument)?;
            let blocks = region.connections.as_ref().map_or(0, |blocks| size_of_val(&blocks[..]));
            self.spend(size_of::<Region>() + blocks, &zone.generators)?;
            regions.push(Region { keys, velocities, ..region });
        }
        Ok(())
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
        if kind & 0x8000 != 0 {
            let problem =
                Problem::Value { what: "the kind of sample", value: kind.into(), limits: "in the file but in a ROM" };
            return Err(header.before(2, problem));
        }

        let offset = |(fine, coarse): (u16, u16)| {
            let amount = |number| i64::from(instrument.get(number).unwrap_or(0) as i16);
            amount(fine) + 32_768 * amount(coarse)
        };
        let (start, end) = (start + offset(generator::START), end + offset(generator::END));
        let pool = self.pool.len();
        let bad = place.before(
            0,
            Problem::Value { what: "the sample's end", value: end, limits: "after its start and in the pool" },
        );
        let range = match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if start < end && end <= pool => start..end,
            _ => return Err(bad),
        };
        let mode = instrument.get(generator::SAMPLE_MODES).unwrap_or(0) & 3;
        let kind = match mode {
            1 => Some(LoopKind::Forward),
            3 => Some(LoopKind::Release),
            _ => None,
        };
        let looped = kind.map(|kind| {
            let from = loop_start + offset(generator::LOOP_START) - start;
            let length = loop_end + offset(generator::LOOP_END) - start - from;
            // A length that is none, or a beginning before the sample, is refused with the rest below.
            let number = |value: i64| u32::try_from(value).unwrap_or(if value < 0 { 0 } else { u32::MAX });
            let start = if from < 0 { u32::MAX } else { number(from) };
            Loop { kind, start, length: number(length) }
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
                let samples = self.pool.part(range).ok_or(bad)?;
                let wave = Wave { id: None, info: Info::named(&name), rate, samples, sampling: None };
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
