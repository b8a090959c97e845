//! Reads a download chunk: a wave or an instrument in the terms of collections, or what is wrong with it and where.
//!
//! Fed with the card's private copy of the request; feeds the [`Downloads`](super::Downloads), which know the waves.
//! Nothing is allocated beyond a small multiple of the chunk, whatever it says.

use super::Refused;
use crate::collection::connection::{Connection, Destination, Source, Transform};
use crate::collection::{self, Loop, LoopKind, MAX_RATE, Region, Sampling, WaveLink};
use dmus_interface::download::{self as layout, Problem};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32};

/// What is wrong, and the byte of the chunk where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) problem: Problem,
    pub(crate) at: usize,
}

/// What a chunk holds.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) id: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Wave { rate: u32, samples: Vec<i16> },
    Instrument(Instrument),
}

/// An instrument whose regions name waves by their ids.
#[derive(Debug)]
pub(super) struct Instrument {
    /// Drums or not, bank, program.
    pub(super) address: (bool, u16, u8),
    /// Each with its place in the chunk.
    pub(super) regions: Vec<Placed>,
    pub(super) articulations: Vec<Vec<Connection>>,
}

#[derive(Debug)]
pub(super) struct Placed {
    pub(super) region: Region,
    pub(super) sampling: Sampling,
    pub(super) wave: u32,
    /// Index of its articulation, or of its instrument's.
    pub(super) articulation: Option<usize>,
    pub(super) at: usize,
}

/// A connection takes so many bytes of a chunk at least. In a list it is 12; parameters of Level 1 are 20 of them in
/// 80, and some regions may share them.
const BYTES_A_CONNECTION: usize = 3;

struct Reader<'c> {
    bytes: &'c [u8],
    offsets: &'c [U32],
    /// What an articulation's index has become.
    known: Vec<(u32, usize)>,
    articulations: Vec<Vec<Connection>>,
    /// Connections, and lists of them, that a chunk of this size may still have.
    budget: usize,
}

fn bad<T>(problem: Problem, at: usize) -> Result<T, Refused> {
    Err(Bad { problem, at }.into())
}

/// Makes room in a list, if there is memory.
fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), Refused> {
    list.try_reserve(more).map_err(|_| Refused::Full)
}

pub(super) fn read(bytes: &[u8]) -> Result<Chunk, Refused> {
    let short = Bad { problem: Problem::TooShort, at: 0 };
    let (header, rest) = layout::DownloadInfo::read_from_prefix(bytes).map_err(|_| short)?;
    if header.size.get() as usize != bytes.len() {
        return bad(Problem::Size, 12);
    }
    let entries = header.entries.get() as usize;
    let table = entries.checked_mul(4).and_then(|len| rest.get(..len)).filter(|table| !table.is_empty());
    let offsets = table.and_then(|table| <[U32]>::ref_from_bytes(table).ok());
    let offsets = offsets.ok_or(Bad { problem: Problem::OffsetTable, at: 8 })?;
    let budget = bytes.len() / BYTES_A_CONNECTION;
    let reader = Reader { bytes, offsets, known: Vec::new(), articulations: Vec::new(), budget };
    let content = match header.kind.get() {
        layout::WAVE | layout::ONE_SHOT_WAVE => reader.wave()?,
        layout::INSTRUMENT => Content::Instrument(reader.instrument(1)?),
        layout::INSTRUMENT2 => Content::Instrument(reader.instrument(2)?),
        _ => return bad(Problem::Kind, 0),
    };
    Ok(Chunk { id: header.id.get(), content })
}

impl<'c> Reader<'c> {
    /// A structure at a place.
    fn at<T: FromBytes>(&self, place: usize) -> Result<T, Refused> {
        let bytes = self.bytes.get(place..).unwrap_or(&[]);
        let read = T::read_from_prefix(bytes).map_err(|_| Bad { problem: Problem::TooShort, at: place });
        Ok(read.map(|(value, _)| value)?)
    }

    /// The place that an index, which stands at `from`, leads to.
    fn place(&self, index: u32, from: usize) -> Result<usize, Refused> {
        let Some(offset) = self.offsets.get(index as usize) else {
            return bad(Problem::Index, from);
        };
        let place = offset.get() as usize;
        let table = size_of::<layout::DownloadInfo>() + self.offsets.len() * 4;
        if place < table || place >= self.bytes.len() || !place.is_multiple_of(4) {
            return bad(Problem::Offset, size_of::<layout::DownloadInfo>() + index as usize * 4);
        }
        Ok(place)
    }

    fn wave(&self) -> Result<Content, Refused> {
        let place = self.place(0, 0)?;
        let wave: layout::Wave = self.at(place)?;
        let format = wave.format;
        let bits = format.bits.get();
        let rate = format.rate.get();
        let mono = format.tag.get() == 1 && format.channels.get() == 1 && matches!(bits, 8 | 16);
        if !mono || !(1..=MAX_RATE).contains(&rate) {
            return bad(Problem::Format, place + 12);
        }
        let data = self.place(wave.data.get(), place + 8)?;
        let size: U32 = self.at(data)?;
        let size = size.get() as usize;
        let samples = self.bytes[data + 4..].get(..size).ok_or(Bad { problem: Problem::TooShort, at: data })?;
        if samples.is_empty() || !samples.len().is_multiple_of(usize::from(bits / 8)) {
            return bad(Problem::Length, data);
        }
        let mut wave = Vec::new();
        reserve(&mut wave, samples.len() / usize::from(bits / 8))?;
        match bits {
            8 => wave.extend(samples.iter().map(|&byte| (i16::from(byte) - 128) << 8)),
            _ => wave.extend(samples.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair))),
        }
        Ok(Content::Wave { rate, samples: wave })
    }

    fn instrument(mut self, level: u32) -> Result<Instrument, Refused> {
        let place = self.place(0, 0)?;
        let instrument: layout::Instrument = self.at(place)?;
        let patch = instrument.patch.get();
        if patch & !(layout::DRUMS | 0x7f_7f7f) != 0 {
            return bad(Problem::Patch, place);
        }
        let bank = ((patch >> 16 & 0x7f) << 7 | patch >> 8 & 0x7f) as u16;
        let address = (patch & layout::DRUMS != 0, bank, (patch & 0x7f) as u8);
        let shared = self.articulation(instrument.articulation.get(), place + 8, level)?;
        let mut regions = Vec::new();
        let mut seen = Vec::new();
        reserve(&mut seen, self.offsets.len())?;
        seen.resize(self.offsets.len(), false);
        let (mut index, mut from) = (instrument.first_region.get(), place + 4);
        while index != 0 {
            let at = self.place(index, from)?;
            if regions.len() == layout::MAX_REGIONS {
                return bad(Problem::Count, at);
            }
            if std::mem::replace(&mut seen[index as usize], true) {
                return bad(Problem::Cycle, from);
            }
            let next;
            (next, from) = self.region(at, shared, level, &mut regions)?;
            index = next;
        }
        if regions.is_empty() {
            return bad(Problem::NoRegions, place);
        }
        Ok(Instrument { address, regions, articulations: self.articulations })
    }

    /// Reads the region at a place; gives the index of the next one, and where that stands.
    fn region(
        &mut self,
        at: usize,
        shared: Option<usize>,
        level: u32,
        regions: &mut Vec<Placed>,
    ) -> Result<(u32, usize), Refused> {
        let region: layout::Region = self.at(at)?;
        let range = |[low, high]: [U16; 2], at| match (low.get(), high.get()) {
            (low, high @ 0..=127) if low <= high => Ok((low as u8, high as u8)),
            _ => bad(Problem::Range, at),
        };
        let (keys, velocities) = (range(region.keys, at)?, range(region.velocities, at + 4)?);
        let sample = region.sample;
        if sample.unity_note.get() > 127 {
            return bad(Problem::UnityNote, at + 40);
        }
        let behind = at + size_of::<layout::Region>();
        let looped = match sample.loops.get() {
            0 => None,
            1 => {
                let looped: layout::WaveLoop = self.at(behind)?;
                let kind = match looped.kind.get() {
                    0 => LoopKind::Forward,
                    1 | 2 => LoopKind::Release,
                    _ => return bad(Problem::Loop, behind),
                };
                Some(Loop { kind, start: looped.start.get(), length: looped.length.get() })
            }
            _ => return bad(Problem::Count, at + 52),
        };
        let own = self.articulation(region.articulation.get(), at + 12, level)?;
        let options = region.link.options.get();
        reserve(regions, 1)?;
        regions.push(Placed {
            region: Region {
                keys,
                velocities,
                self_exclusive: region.options.get() & 1 == 0,
                key_group: region.key_group.get(),
                link: WaveLink {
                    wave: 0,
                    channels: region.link.channels.get(),
                    phase_group: region.link.phase_group.get(),
                    phase_master: options & 1 != 0,
                    multichannel: options & 2 != 0,
                },
                ..Region::of(0)
            },
            sampling: Sampling {
                unity_note: sample.unity_note.get() as u8,
                fine_tune: sample.fine_tune.get(),
                gain: sample.gain.get(),
                looped,
                ..Sampling::DEFAULT
            },
            wave: region.link.wave.get(),
            articulation: own.or(shared),
            at,
        });
        Ok((region.next.get(), at + 16))
    }

    /// The articulation that an index at `from` leads to.
    fn articulation(&mut self, index: u32, from: usize, level: u32) -> Result<Option<usize>, Refused> {
        if index == 0 {
            return Ok(None);
        }
        if let Ok(known) = self.known.binary_search_by_key(&index, |(index, _)| *index) {
            return Ok(Some(self.known[known].1));
        }
        let place = self.place(index, from)?;
        let connections = if level == 1 { self.parameters(place)? } else { self.lists(place)? };
        self.articulations.push(connections);
        let number = self.articulations.len() - 1;
        let sorted = self.known.partition_point(|(known, _)| *known < index);
        self.known.insert(sorted, (index, number));
        Ok(Some(number))
    }

    /// A chain of connection lists.
    fn lists(&mut self, mut place: usize) -> Result<Vec<Connection>, Refused> {
        let mut connections = Vec::new();
        for _ in 0..self.offsets.len() {
            // Many articulations may lead to the same lists.
            self.budget = self.budget.checked_sub(1).ok_or(Bad { problem: Problem::Count, at: place })?;
            let articulation: layout::Articulation = self.at(place)?;
            let next: U32 = self.at(place + size_of::<layout::Articulation>())?;
            let list = self.place(articulation.content.get(), place)?;
            self.connections(list, &mut connections)?;
            if next.get() == 0 {
                return Ok(connections);
            }
            place = self.place(next.get(), place + 8)?;
        }
        bad(Problem::Cycle, place)
    }

    fn connections(&mut self, at: usize, connections: &mut Vec<Connection>) -> Result<(), Refused> {
        let header: layout::ConnectionList = self.at(at)?;
        let count = header.count.get() as usize;
        if count > self.budget || connections.len() + count > layout::MAX_CONNECTIONS {
            return bad(Problem::Count, at + 4);
        }
        self.budget -= count;
        reserve(connections, count)?;
        for number in 0..count {
            let place = at + size_of::<layout::ConnectionList>() + number * size_of::<layout::Connection>();
            let block: layout::Connection = self.at(place)?;
            connections.push(Connection {
                source: Source(block.source.get()),
                control: Source(block.control.get()),
                destination: Destination(block.destination.get()),
                transform: Transform(block.transform.get()),
                scale: block.scale.get(),
            });
        }
        Ok(())
    }

    /// An articulation of Level 1, which says everything, as connections.
    fn parameters(&mut self, place: usize) -> Result<Vec<Connection>, Refused> {
        use collection::connection::Destination as D;
        let articulation: layout::Articulation = self.at(place)?;
        let content = self.place(articulation.content.get(), place)?;
        let params: layout::ArticParams = self.at(content)?;
        let [frequency, delay, volume, pitch, wheel_volume, wheel_pitch] = params.lfo.map(|value| value.get());
        let constant = Connection::constant;
        let swing = |destination, scale| Connection::from(Source::LFO, destination, Transform::BIPOLAR, scale);
        let wheel = Source::controller(1);
        let mut connections = vec![
            constant(D::LFO_FREQUENCY, frequency),
            constant(D::LFO_DELAY, delay),
            swing(D::GAIN, volume),
            swing(D::PITCH, pitch),
            swing(D::GAIN, wheel_volume).controlled(wheel),
            swing(D::PITCH, wheel_pitch).controlled(wheel),
            Connection::from(Source::EG2, D::PITCH, Transform::NONE, params.pitch_range.get()),
            constant(D::PAN, params.pan.get()),
        ];
        let envelopes = [
            (params.volume, [D::EG1_ATTACK, D::EG1_DECAY, D::EG1_SUSTAIN, D::EG1_RELEASE]),
            (params.pitch, [D::EG2_ATTACK, D::EG2_DECAY, D::EG2_SUSTAIN, D::EG2_RELEASE]),
        ];
        for (values, [attack, decay, sustain, release]) in envelopes {
            let [attack_time, decay_time, level, release_time, by_velocity, by_key] = values.map(|value| value.get());
            connections.extend([
                constant(attack, attack_time),
                constant(decay, decay_time),
                constant(sustain, level),
                constant(release, release_time),
                Connection::from(Source::VELOCITY, attack, Transform::NONE, by_velocity),
                Connection::from(Source::KEY, decay, Transform::NONE, by_key),
            ]);
        }
        if connections.len() > self.budget {
            // Many indices that lead to one place.
            return bad(Problem::Count, content);
        }
        self.budget -= connections.len();
        Ok(connections)
    }
}
