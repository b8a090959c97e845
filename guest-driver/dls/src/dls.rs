//! Reads a DLS collection, Level 1 or 2.
//!
//! Fed with the root chunk; gives a whole [`Collection`] or the first fault. Chunks may come in any order, those of
//! other makers are passed over, and a list whose condition does not hold is left out with all that is in it.

use super::condition::{self, DlsId};
use super::connection::{Connection, Destination, Source, Transform};
use super::error::{Fault, Problem, limited};
use super::riff::Chunk;
use super::{Collection, Info, Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave, WaveLink};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

const KEYS: &str = "two numbers of 0 to 127 in order";

pub(super) fn read(root: &Chunk<'_>) -> Result<Collection, Fault> {
    if !applies(root)? {
        return Err(root.fault(Problem::NotForUs));
    }
    let mut collection = Collection { id: id(root)?, info: info(root)?, ..Collection::default() };
    if let Some(version) = root.only(false, b"vers")? {
        let mut fields = version.fields();
        collection.version = Some((fields.u32()?, fields.u32()?));
    }
    let pool = Pool::read(root, &mut collection.waves)?;
    let list = root.need(true, b"lins")?;
    let mut instruments = 0;
    for chunk in list.children() {
        let chunk = chunk?;
        if chunk.is_list && chunk.name == *b"ins " {
            instruments += 1;
            if applies(&chunk)? {
                collection.instruments.push(instrument(&chunk, &pool, &collection.waves)?);
            }
        }
    }
    let header = root.need(false, b"colh")?;
    count("instruments", header.fields().u32()?, instruments).map_err(|problem| header.fault(problem))?;
    Ok(collection)
}

fn count(what: &'static str, says: u32, holds: usize) -> Result<(), Problem> {
    if says as usize == holds { Ok(()) } else { Err(Problem::Count { what, says, holds }) }
}

/// Whether all conditions of a list hold.
fn applies(list: &Chunk<'_>) -> Result<bool, Fault> {
    for chunk in list.children() {
        let chunk = chunk?;
        if !chunk.is_list && chunk.name == *b"cdl " && !condition::holds(&chunk)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn id(list: &Chunk<'_>) -> Result<Option<DlsId>, Fault> {
    list.only(false, b"dlid")?.map(|chunk| chunk.fields().take()).transpose()
}

/// Texts end at their first NUL. They should be ASCII; what is no UTF-8 is taken as Latin-1.
pub(super) fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

pub(super) fn info(list: &Chunk<'_>) -> Result<Info, Fault> {
    let mut info = Info::default();
    if let Some(list) = list.only(true, b"INFO")? {
        for chunk in list.children() {
            let chunk = chunk?;
            if !chunk.is_list {
                info.0.push((chunk.name, text(chunk.data)));
            }
        }
    }
    Ok(info)
}

/// The pool table: which wave each cue leads to.
struct Pool {
    /// `None`: a wave that its condition leaves out.
    cues: Vec<Option<usize>>,
}

impl Pool {
    /// Reads all waves, and the table.
    fn read(root: &Chunk<'_>, waves: &mut Vec<Wave>) -> Result<Self, Fault> {
        // Where each wave's list begins in the pool, in order, and its index unless it is left out.
        let mut starts: Vec<(usize, Option<usize>)> = Vec::new();
        if let Some(pool) = root.only(true, b"wvpl")? {
            for chunk in pool.children() {
                let chunk = chunk?;
                if !chunk.is_list || chunk.name != *b"wave" {
                    continue;
                }
                let start = chunk.at - 12 - pool.at;
                if applies(&chunk)? {
                    starts.push((start, Some(waves.len())));
                    waves.push(wave(&chunk)?);
                } else {
                    starts.push((start, None));
                }
            }
        }
        let Some(table) = root.only(false, b"ptbl")? else {
            return Ok(Self { cues: Vec::new() });
        };
        let mut fields = table.fields();
        let (size, says) = (fields.u32()? as usize, fields.u32()?);
        fields.skip(size.saturating_sub(8))?;
        let room = fields.data.len() / 4;
        if says as usize > room {
            return Err(table.fault(Problem::Count { what: "cues", says, holds: room }));
        }
        let mut cues = Vec::with_capacity(says as usize);
        for cue in 0..says as usize {
            let offset = fields.u32()?;
            let found = starts.binary_search_by_key(&(offset as usize), |&(start, _)| start);
            let at = found.map_err(|_| fields.before(4, Problem::Cue { cue, offset }))?;
            cues.push(starts[at].1);
        }
        Ok(Self { cues })
    }
}

fn wave(list: &Chunk<'_>) -> Result<Wave, Fault> {
    let format = list.need(false, b"fmt ")?;
    let mut fields = format.fields();
    let (tag, channels, rate) = (fields.u16()?, fields.u16()?, fields.u32()?);
    fields.skip(6)?;
    let bits = fields.u16()?;
    let data = list.need(false, b"data")?;
    let samples = match (tag, channels, bits) {
        (1, 1, 8) => Samples::new(data.data.iter().map(|&byte| (i16::from(byte) - 128) << 8).collect::<Vec<i16>>()),
        (1, 1, 16) if data.data.len() % 2 == 0 => Samples::new(pcm(data.data)),
        (1, 1, 16) => return Err(data.fault(Problem::Short { needs: data.data.len() + 1, holds: data.data.len() })),
        _ => return Err(format.fault(Problem::Format { tag, channels, bits })),
    };
    let id = match id(list)? {
        Some(id) => Some(id),
        None => list.only(false, b"guid")?.map(|chunk| chunk.fields().take()).transpose()?,
    };
    let wave = Wave { id, info: info(list)?, rate, samples, sampling: None };
    wave.check().map_err(|problem| list.fault(problem))?;
    let sampling = sampling(list, wave.samples.len())?;
    Ok(Wave { sampling, ..wave })
}

/// Little-endian samples.
pub(super) fn pcm(bytes: &[u8]) -> alloc::sync::Arc<[i16]> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The `wsmp` chunk of a wave or region, for a wave of `samples`.
fn sampling(list: &Chunk<'_>, samples: usize) -> Result<Option<Sampling>, Fault> {
    let Some(chunk) = list.only(false, b"wsmp")? else {
        return Ok(None);
    };
    let mut fields = chunk.fields();
    let size = fields.u32()? as usize;
    let unity = fields.u16()?;
    let unity_note = limited("the unity note", unity, 0..=127, "a key of 0 to 127");
    let unity_note = unity_note.map_err(|problem| fields.before(2, problem))?;
    let (fine_tune, gain, options) = (fields.i16()?, fields.i32()?, fields.u32()?);
    let loops = fields.u32()?;
    limited::<u32>("the number of loops", loops, 0..=1, "0 or 1").map_err(|problem| fields.before(4, problem))?;
    let mut looped = None;
    if loops == 1 {
        // Later editions may lengthen the header; the size says where loops begin.
        fields.skip(size.saturating_sub(20))?;
        fields.skip(4)?;
        let kind = fields.u32()?;
        // Release is 1 in Microsoft's newer header, and 2 in its older one and elsewhere.
        let release: u8 = limited("the kind of loop", kind, 0..=2, "0, 1 or 2").map_err(|p| fields.before(4, p))?;
        let kind = if release == 0 { LoopKind::Forward } else { LoopKind::Release };
        looped = Some(Loop { kind, start: fields.u32()?, length: fields.u32()? });
    }
    let (no_truncation, no_compression) = (options & 1 != 0, options & 2 != 0);
    let sampling = Sampling { unity_note, fine_tune, gain, no_truncation, no_compression, looped };
    sampling.check(samples).map_err(|problem| chunk.fault(problem))?;
    Ok(Some(sampling))
}

fn instrument(list: &Chunk<'_>, pool: &Pool, waves: &[Wave]) -> Result<Instrument, Fault> {
    let header = list.need(false, b"insh")?;
    let mut fields = header.fields();
    let (says, bank) = (fields.u32()?, fields.u32()?);
    let program = fields.u32()?;
    let program = limited("the program", program, 0..=127, "a number of 0 to 127").map_err(|p| fields.before(4, p))?;
    let mut regions = Vec::new();
    let mut found = 0;
    if let Some(list) = list.only(true, b"lrgn")? {
        for chunk in list.children() {
            let chunk = chunk?;
            if chunk.is_list && matches!(&chunk.name, b"rgn " | b"rgn2") {
                found += 1;
                if applies(&chunk)? {
                    regions.push(region(&chunk, pool, waves)?);
                }
            }
        }
    }
    count("regions", says, found).map_err(|problem| header.fault(problem))?;
    Ok(Instrument {
        id: id(list)?,
        info: info(list)?,
        bank: ((bank >> 8 & 0x7f) << 7 | bank & 0x7f) as u16,
        program,
        drum: bank >> 31 != 0,
        regions,
        connections: articulation(list)?.unwrap_or_default(),
    })
}

fn region(list: &Chunk<'_>, pool: &Pool, waves: &[Wave]) -> Result<Region, Fault> {
    let header = list.need(false, b"rgnh")?;
    let mut fields = header.fields();
    let mut range = |what| {
        let (low, high) = (fields.u16()?, fields.u16()?);
        let high: u8 = limited(what, high, i64::from(low)..=127, KEYS).map_err(|p| fields.before(4, p))?;
        Ok((low as u8, high))
    };
    let (keys, velocities) = (range("the key range")?, range("the velocity range")?);
    let (options, key_group) = (fields.u16()?, fields.u16()?);
    let layer = if fields.data.is_empty() { 0 } else { fields.u16()? };

    let link = list.need(false, b"wlnk")?;
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
        sampling: sampling(list, waves[wave].samples.len())?,
        connections: articulation(list)?,
    })
}

/// The connection blocks of all articulation lists of a region or instrument. `None` if it has none that applies.
fn articulation(list: &Chunk<'_>) -> Result<Option<Vec<Connection>>, Fault> {
    let mut connections = None;
    for lists in list.children() {
        let lists = lists?;
        if !lists.is_list || !matches!(&lists.name, b"lart" | b"lar2") || !applies(&lists)? {
            continue;
        }
        for chunk in lists.children() {
            let chunk = chunk?;
            if !chunk.is_list && matches!(&chunk.name, b"art1" | b"art2") {
                blocks(&chunk, connections.get_or_insert_default())?;
            }
        }
    }
    Ok(connections)
}

fn blocks(chunk: &Chunk<'_>, connections: &mut Vec<Connection>) -> Result<(), Fault> {
    let mut fields = chunk.fields();
    let (size, says) = (fields.u32()? as usize, fields.u32()?);
    fields.skip(size.saturating_sub(8))?;
    let room = fields.data.len() / 12;
    if says as usize > room {
        return Err(chunk.fault(Problem::Count { what: "connection blocks", says, holds: room }));
    }
    connections.reserve(says as usize);
    for _ in 0..says {
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
