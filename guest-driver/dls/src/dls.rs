//! Reads a DLS collection, Level 1 or 2.
//!
//! Fed with the root chunk; gives a [`Collection`] of all that can be played, or the fault for which nothing can. Its
//! chunks may come in any order, those of other makers are passed over, and a list whose condition does not hold is
//! left out with all that is in it. What is wrong is mended where that is no guess; else the wave, region or instrument
//! that it belongs to is left out.

use super::condition::{self, DlsId};
use super::connection::{Connection, Destination, Source, Transform};
use super::error::{Fault, Mends, Problem, limited};
use super::riff::Chunk;
use super::samples::{Coding, Samples, Store};
use super::{Collection, Info, Instrument, Loop, LoopKind, Region, Sampling, Wave, WaveLink};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const KEYS: &str = "two numbers of 0 to 127 in order";
/// The subformat of WAVE's extensible format has the tag in its first two bytes.
const EXTENSIBLE: u16 = 0xfffe;

pub(super) fn read(root: &Chunk<'_>, file: &Arc<dyn Store>, mends: &mut Mends) -> Result<Collection, Fault> {
    if !applies(root, mends) {
        return Err(root.fault(Problem::NotForUs));
    }
    let mut collection = Collection { id: id(root, b"dlid", mends), info: info(root, mends), ..Collection::default() };
    if let Some(version) = root.first(false, b"vers", mends) {
        let mut fields = version.fields();
        let read = fields.u32().and_then(|high| Ok((high, fields.u32()?)));
        collection.version = mends.keep(read, "it is ignored");
    }
    let pool = Pool::read(root, file, &mut collection.waves, mends);
    let list = root.need(true, b"lins", mends)?;
    let mut found = 0;
    for chunk in list.children().filter(|chunk| chunk.is_list && chunk.name == *b"ins ") {
        found += 1;
        if applies(&chunk, mends) {
            let read = instrument(&chunk, &pool, &collection.waves, mends);
            collection.instruments.extend(mends.keep(read, "the instrument is left out"));
        }
    }
    match root.need(false, b"colh", mends) {
        Ok(header) => count("instruments", &header, found, mends),
        Err(fault) => mends.add(fault, "it would have told only how many instruments there are"),
    }
    Ok(collection)
}

/// Compares the first number of a chunk with what was found.
fn count(what: &'static str, header: &Chunk<'_>, holds: usize, mends: &mut Mends) {
    if let Some(says) = mends.keep(header.fields().u32(), "what is there counts")
        && says as usize != holds
    {
        mends.add(header.fault(Problem::Count { what, says, holds }), "what is there counts");
    }
}

/// Whether all conditions of a list hold.
fn applies(list: &Chunk<'_>, mends: &mut Mends) -> bool {
    let mut conditions = list.children().filter(|chunk| !chunk.is_list && chunk.name == *b"cdl ");
    conditions.all(|chunk| mends.keep(condition::holds(&chunk), "what it is about is left out").unwrap_or(false))
}

fn id(list: &Chunk<'_>, name: &[u8; 4], mends: &mut Mends) -> Option<DlsId> {
    let chunk = list.first(false, name, mends)?;
    mends.keep(chunk.fields().take(), "it is ignored")
}

/// Texts end at their first NUL. They should be ASCII; what is no UTF-8 is taken as Latin-1.
pub(super) fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

pub(super) fn info(list: &Chunk<'_>, mends: &mut Mends) -> Info {
    let texts = list.first(true, b"INFO", mends).into_iter().flat_map(|list| list.children());
    // A list that is cut off before its type is no text.
    let texts = texts.filter(|chunk| !chunk.is_list && chunk.name != *b"LIST");
    Info(texts.map(|chunk| (chunk.name, text(chunk.data))).collect())
}

/// The pool table: which wave each cue leads to.
struct Pool {
    /// `None`: a wave that its condition leaves out, or that cannot be played.
    cues: Vec<Option<usize>>,
}

impl Pool {
    /// Reads all waves, and the table.
    fn read(root: &Chunk<'_>, file: &Arc<dyn Store>, waves: &mut Vec<Wave>, mends: &mut Mends) -> Self {
        // Where each wave's list begins in the pool, in order, and its index unless it is left out.
        let mut starts: Vec<(usize, Option<usize>)> = Vec::new();
        if let Some(pool) = root.first(true, b"wvpl", mends) {
            for chunk in pool.children().filter(|chunk| chunk.is_list && chunk.name == *b"wave") {
                let read = if applies(&chunk, mends) { Some(wave(&chunk, file, mends)) } else { None };
                let read = read.and_then(|read| mends.keep(read, "the wave is left out"));
                starts.push((chunk.at - 12 - pool.at, read.is_some().then_some(waves.len())));
                waves.extend(read);
            }
        }
        let mut cues = Vec::new();
        if let Some(table) = root.first(false, b"ptbl", mends) {
            let read = Self::table(&table, &starts, &mut cues, mends);
            mends.keep(read, "the cues before count");
        }
        Self { cues }
    }

    fn table(
        table: &Chunk<'_>,
        starts: &[(usize, Option<usize>)],
        cues: &mut Vec<Option<usize>>,
        mends: &mut Mends,
    ) -> Result<(), Fault> {
        let mut fields = table.fields();
        let (size, says) = (fields.u32()? as usize, fields.u32()?);
        fields.skip(size.saturating_sub(8))?;
        let room = fields.data.len() / 4;
        if says as usize > room {
            mends.add(table.fault(Problem::Count { what: "cues", says, holds: room }), "what is there counts");
        }
        for cue in 0..room.min(says as usize) {
            let offset = fields.u32()?;
            let found = starts.binary_search_by_key(&(offset as usize), |&(start, _)| start).ok();
            if found.is_none() {
                mends.add(fields.before(4, Problem::Cue { cue, offset }), "regions that use it are left out");
            }
            cues.push(found.and_then(|at| starts[at].1));
        }
        Ok(())
    }
}

fn wave(list: &Chunk<'_>, file: &Arc<dyn Store>, mends: &mut Mends) -> Result<Wave, Fault> {
    let format = list.need(false, b"fmt ", mends)?;
    let mut fields = format.fields();
    let (mut tag, channels, rate) = (fields.u16()?, fields.u16()?, fields.u32()?);
    fields.skip(4)?;
    let (block, bits) = (usize::from(fields.u16()?), fields.u16()?);
    if tag == EXTENSIBLE {
        // Its own size, valid bits and speakers are before the subformat.
        fields.skip(8)?;
        tag = fields.u16()?;
    }
    let coding = match (tag, bits) {
        (1, 8 | 16 | 24 | 32) => Coding::Pcm { bytes: usize::from(bits / 8) },
        (2, 4) => Coding::MsAdpcm { block },
        (6, 8) => Coding::ALaw,
        (7, 8) => Coding::MuLaw,
        (17, 4) => Coding::ImaAdpcm { block },
        _ => return Err(format.fault(Problem::Format { tag, channels, bits })),
    };
    if !(1..=2).contains(&channels) {
        return Err(format.fault(Problem::Format { tag, channels, bits }));
    }
    let data = list.need(false, b"data", mends)?;
    let bytes = data.at..data.at + data.data.len();
    if let Coding::Pcm { bytes: sample } = coding
        && let frame = sample * usize::from(channels)
        && let odd @ 1.. = bytes.len() % frame
    {
        let problem = Problem::Short { needs: bytes.len() + frame - odd, holds: bytes.len() };
        mends.add(data.fault(problem), "the last sample is left out");
    }
    let samples = Samples::in_file(file, bytes, coding, channels.into()).unwrap_or(Samples::new([]));
    let id = id(list, b"dlid", mends).or_else(|| id(list, b"guid", mends));
    let mut wave = Wave { id, info: info(list, mends), rate, samples, sampling: None };
    if let Some(problem) = wave.fit() {
        mends.add(format.fault(problem), "the nearest rate that can be played is taken");
    }
    wave.check().map_err(|problem| list.fault(problem))?;
    wave.sampling = sampling(list, wave.samples.len(), mends);
    Ok(wave)
}

/// The `wsmp` chunk of a wave or region, for a wave of `samples`.
fn sampling(list: &Chunk<'_>, samples: usize, mends: &mut Mends) -> Option<Sampling> {
    let chunk = list.first(false, b"wsmp", mends)?;
    let mut fields = chunk.fields();
    let mut read = || {
        let size = fields.u32()? as usize;
        let unity = fields.u16()?;
        let unity_note = limited("the unity note", unity, 0..=127, "a key of 0 to 127");
        let unity_note = mends.keep(unity_note.map_err(|problem| fields.before(2, problem)), "it is taken for key 60");
        let (fine_tune, gain, options) = (fields.i16()?, fields.i32()?, fields.u32()?);
        let loops = fields.u32()?;
        let few = limited::<u32>("the number of loops", loops, 0..=1, "0 or 1");
        mends.keep(few.map_err(|problem| fields.before(4, problem)), "the first one counts");
        let mut sampling = Sampling {
            unity_note: unity_note.unwrap_or(Sampling::DEFAULT.unity_note),
            fine_tune,
            gain,
            no_truncation: options & 1 != 0,
            no_compression: options & 2 != 0,
            looped: None,
        };
        // Later editions may lengthen the header; the size says where loops begin.
        if loops > 0 && mends.keep(fields.skip(size.saturating_sub(20)), "the loop is left out").is_some() {
            let mut first = || {
                fields.skip(4)?;
                let kind = fields.u32()?;
                // Release is 1 in Microsoft's newer header, and 2 in its older one and elsewhere.
                let release = limited::<u8>("the kind of loop", kind, 0..=2, "0, 1 or 2");
                let release = mends.keep(release.map_err(|problem| fields.before(4, problem)), "it goes on for ever");
                let kind = if release.unwrap_or(0) == 0 { LoopKind::Forward } else { LoopKind::Release };
                Ok(Loop { kind, start: fields.u32()?, length: fields.u32()? })
            };
            let first = first();
            sampling.looped = mends.keep(first, "the loop is left out");
        }
        Ok(sampling)
    };
    let read = read();
    let mut sampling = mends.keep(read, "it is ignored")?;
    if let Some((problem, remedy)) = sampling.fit(samples) {
        mends.add(chunk.fault(problem), remedy);
    }
    Some(sampling)
}

fn instrument(list: &Chunk<'_>, pool: &Pool, waves: &[Wave], mends: &mut Mends) -> Result<Instrument, Fault> {
    let header = list.need(false, b"insh", mends)?;
    let mut fields = header.fields();
    fields.skip(4)?;
    let bank = fields.u32()?;
    if bank & 0x7fff_8080 != 0 {
        let limits = "two numbers of seven bits";
        return Err(fields.before(4, Problem::Value { what: "the bank", value: bank.into(), limits }));
    }
    let program = fields.u32()?;
    let program = limited("the program", program, 0..=127, "a number of 0 to 127").map_err(|p| fields.before(4, p))?;
    let mut regions = Vec::new();
    let mut found = 0;
    if let Some(list) = list.first(true, b"lrgn", mends) {
        for chunk in list.children().filter(|chunk| chunk.is_list && matches!(&chunk.name, b"rgn " | b"rgn2")) {
            found += 1;
            if applies(&chunk, mends) {
                let read = region(&chunk, pool, waves, mends);
                regions.extend(mends.keep(read, "the region is left out"));
            }
        }
    }
    count("regions", &header, found, mends);
    Ok(Instrument {
        id: id(list, b"dlid", mends),
        info: info(list, mends),
        bank: ((bank >> 8 & 0x7f) << 7 | bank & 0x7f) as u16,
        program,
        drum: bank >> 31 != 0,
        regions,
        connections: articulation(list, mends).unwrap_or_default(),
    })
}

fn region(list: &Chunk<'_>, pool: &Pool, waves: &[Wave], mends: &mut Mends) -> Result<Region, Fault> {
    let header = list.need(false, b"rgnh", mends)?;
    let mut fields = header.fields();
    let mut range = |what| {
        let (low, high) = (fields.u16()?, fields.u16()?);
        let clamped = limited(what, high, i64::from(low)..=127, KEYS).map_err(|p| fields.before(4, p));
        match (low, high) {
            (0..=127, 128..) => Ok((low as u8, mends.keep(clamped, "it ends at 127").unwrap_or(127))),
            _ => Ok((low as u8, clamped?)),
        }
    };
    let (keys, velocities) = (range("the key range")?, range("the velocity range")?);
    let (options, key_group) = (fields.u16()?, fields.u16()?);
    let layer = if fields.data.is_empty() { 0 } else { fields.u16()? };

    let link = list.need(false, b"wlnk", mends)?;
    let mut fields = link.fields();
    let (flags, phase_group, channels) = (fields.u16()?, fields.u16()?, fields.u32()?);
    let index = fields.u32()? as usize;
    let missing = fields.before(4, Problem::Reference { what: "cue", index, count: pool.cues.len() });
    let wave = pool.cues.get(index).ok_or(missing)?.ok_or(fields.before(4, Problem::LeftOut))?;
    Ok(Region {
        keys,
        velocities,
        self_exclusive: options & 1 == 0,
        key_group,
        layer,
        link: WaveLink { wave, channels, phase_group, phase_master: flags & 1 != 0, multichannel: flags & 2 != 0 },
        sampling: sampling(list, waves[wave].samples.len(), mends),
        connections: articulation(list, mends),
    })
}

/// The connection blocks of all articulation lists of a region or instrument. `None` if it has none that applies.
fn articulation(list: &Chunk<'_>, mends: &mut Mends) -> Option<Vec<Connection>> {
    let mut connections = None;
    for lists in list.children() {
        if !lists.is_list || !matches!(&lists.name, b"lart" | b"lar2") || !applies(&lists, mends) {
            continue;
        }
        for chunk in lists.children().filter(|chunk| !chunk.is_list && matches!(&chunk.name, b"art1" | b"art2")) {
            let read = blocks(&chunk, connections.get_or_insert_default(), mends);
            mends.keep(read, "the connections before count");
        }
    }
    connections
}

fn blocks(chunk: &Chunk<'_>, connections: &mut Vec<Connection>, mends: &mut Mends) -> Result<(), Fault> {
    let mut fields = chunk.fields();
    let (size, says) = (fields.u32()? as usize, fields.u32()?);
    fields.skip(size.saturating_sub(8))?;
    let room = fields.data.len() / 12;
    if says as usize > room {
        let problem = Problem::Count { what: "connection blocks", says, holds: room };
        mends.add(chunk.fault(problem), "what is there counts");
    }
    let count = room.min(says as usize);
    connections.reserve(count);
    for _ in 0..count {
        let connection = Connection {
            source: Source(fields.u16()?),
            control: Source(fields.u16()?),
            destination: Destination(fields.u16()?),
            transform: Transform(fields.u16()?),
            scale: fields.i32()?,
        };
        connections.push(if chunk.name == *b"art1" { level_two(connection) } else { connection });
    }
    Ok(())
}

/// A Level 1 block in the terms of Level 2. Level 1 has one transform of four bits, for the source; oscillators, wheel
/// and pan swing both ways without saying so; and its concave level curve counts attenuation from full value downwards.
fn level_two(block: Connection) -> Connection {
    let swings = |source| {
        [Source::LFO, Source::VIBRATO, Source::PITCH_WHEEL, Source::FINE_TUNE, Source::COARSE_TUNE].contains(&source)
            || source == Source::controller(10)
    };
    let level = block.destination == Destination::GAIN
        && [Source::VELOCITY, Source::controller(7), Source::controller(11)].contains(&block.source)
        && block.transform.0 & 0x0f == 1;
    if level {
        return Connection { transform: Transform::LEVEL, scale: -block.scale.saturating_abs(), ..block };
    }
    let mut transform = (block.transform.0 & 0x0f) << 10;
    if swings(block.source) {
        transform |= Transform::BIPOLAR.0;
    }
    if swings(block.control) {
        transform |= Transform::BIPOLAR.0 >> 6;
    }
    Connection { transform: Transform(transform), ..block }
}
