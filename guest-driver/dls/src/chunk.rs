//! Download chunks: waves and instruments in the layout in which a card takes them ([`dmus_interface::download`]).
//!
//! Fed with the waves and instruments of a [`crate::Collection`]; feeds a driver, which downloads the bytes.

use crate::connection::Connection;
use crate::{Instrument, LoopKind, Region, Sampling, Wave};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use dmus_interface::download as layout;
use zerocopy::{Immutable, IntoBytes};

/// Structures behind a table of where they are.
struct Chunk {
    kind: u32,
    id: u32,
    offsets: Vec<u32>,
    content: Vec<u8>,
}

impl Chunk {
    fn new(kind: u32, id: u32) -> Self {
        Self { kind, id, offsets: Vec::new(), content: Vec::new() }
    }

    /// The index of what is pushed next.
    fn begin(&mut self) -> u32 {
        self.content.resize(self.content.len().next_multiple_of(4), 0);
        self.offsets.push(self.content.len() as u32);
        self.offsets.len() as u32 - 1
    }

    fn push(&mut self, value: &(impl IntoBytes + Immutable + ?Sized)) {
        self.content.extend_from_slice(value.as_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let table = (size_of::<layout::DownloadInfo>() + self.offsets.len() * 4) as u32;
        let header = layout::DownloadInfo {
            kind: self.kind.into(),
            id: self.id.into(),
            entries: (self.offsets.len() as u32).into(),
            size: (table + self.content.len() as u32).into(),
        };
        let mut bytes = Vec::with_capacity(table as usize + self.content.len());
        bytes.extend_from_slice(header.as_bytes());
        self.offsets.iter().for_each(|offset| bytes.extend_from_slice(&(table + offset).to_le_bytes()));
        bytes.append(&mut self.content);
        bytes
    }
}

/// The articulations of an instrument, and the indices that they will have.
struct Articulations<'c> {
    known: Vec<(&'c [Connection], u32)>,
    next: u32,
}

impl<'c> Articulations<'c> {
    fn index(&mut self, connections: &'c [Connection]) -> u32 {
        // Neighbours are alike, if any are.
        if let Some((_, index)) = self.known.iter().rev().take(8).find(|(same, _)| *same == connections) {
            return *index;
        }
        let index = self.next;
        self.known.push((connections, index));
        // An articulation, and its list.
        self.next += 2;
        index
    }
}

/// A wave as a download chunk.
pub fn wave_chunk(id: u32, wave: &Wave) -> Vec<u8> {
    let mut chunk = Chunk::new(layout::WAVE, id);
    chunk.begin();
    chunk.push(&layout::Wave {
        first_extension: 0.into(),
        copyright: 0.into(),
        data: 1.into(),
        format: layout::WaveFormat::pcm(1, wave.rate, 16),
    });
    chunk.begin();
    chunk.push(&(wave.samples.len() as u32 * 2).to_le_bytes());
    chunk.content.extend(wave.samples.to_vec().iter().flat_map(|sample| sample.to_le_bytes()));
    chunk.finish()
}

/// An instrument as a download chunk; `ids` has the ids of its waves, by index.
pub fn instrument_chunk(id: u32, instrument: &Instrument, waves: &[Wave], ids: &BTreeMap<usize, u32>) -> Vec<u8> {
    let mut chunk = Chunk::new(layout::INSTRUMENT2, id);
    chunk.begin();
    let bank = u32::from(instrument.bank);
    let drums = if instrument.drum { layout::DRUMS } else { 0 };
    let patch = drums | (bank >> 7 & 0x7f) << 16 | (bank & 0x7f) << 8 | u32::from(instrument.program);
    // Index 0 is the instrument; its regions follow, and then what they refer to.
    let regions = instrument.regions.len() as u32;
    let mut articulations = Articulations { known: Vec::new(), next: 1 + regions };
    let shared = match &instrument.connections[..] {
        [] => 0,
        connections => articulations.index(connections),
    };
    chunk.push(&layout::Instrument {
        patch: patch.into(),
        first_region: u32::from(regions > 0).into(),
        articulation: shared.into(),
        first_extension: 0.into(),
        copyright: 0.into(),
        flags: 0.into(),
    });
    for (number, region) in (1..).zip(&instrument.regions) {
        let own = region.connections.as_deref().map_or(0, |connections| articulations.index(connections));
        let sampling = region.sampling.or_else(|| waves.get(region.link.wave)?.sampling).unwrap_or(Sampling::DEFAULT);
        chunk.begin();
        chunk.push(&region_layout(region, &sampling, own, if number == regions { 0 } else { number + 1 }, ids));
        if let Some(looped) = sampling.looped {
            chunk.push(&layout::WaveLoop {
                size: 16.into(),
                kind: u32::from(looped.kind == LoopKind::Release).into(),
                start: looped.start.into(),
                length: looped.length.into(),
            });
        }
    }
    for (connections, index) in articulations.known {
        chunk.begin();
        chunk.push(&layout::Articulation { content: (index + 1).into(), first_extension: 0.into() });
        chunk.push(&0u32.to_le_bytes());
        chunk.begin();
        chunk.push(&layout::ConnectionList { size: 8.into(), count: (connections.len() as u32).into() });
        for block in connections {
            chunk.push(&layout::Connection {
                source: block.source.0.into(),
                control: block.control.0.into(),
                destination: block.destination.0.into(),
                transform: block.transform.0.into(),
                scale: block.scale.into(),
            });
        }
    }
    chunk.finish()
}

fn region_layout(
    region: &Region,
    sampling: &Sampling,
    articulation: u32,
    next: u32,
    ids: &BTreeMap<usize, u32>,
) -> layout::Region {
    let pair = |(low, high): (u8, u8)| [u16::from(low).into(), u16::from(high).into()];
    let link = region.link;
    layout::Region {
        keys: pair(region.keys),
        velocities: pair(region.velocities),
        options: u16::from(!region.self_exclusive).into(),
        key_group: region.key_group.into(),
        articulation: articulation.into(),
        next: next.into(),
        first_extension: 0.into(),
        link: layout::WaveLink {
            options: (u16::from(link.phase_master) | u16::from(link.multichannel) << 1).into(),
            phase_group: link.phase_group.into(),
            channels: link.channels.into(),
            wave: ids.get(&link.wave).copied().unwrap_or(0).into(),
        },
        sample: layout::WaveSample {
            size: 20.into(),
            unity_note: u16::from(sampling.unity_note).into(),
            fine_tune: sampling.fine_tune.into(),
            gain: sampling.gain.into(),
            options: (u32::from(sampling.no_truncation) | u32::from(sampling.no_compression) << 1).into(),
            loops: u32::from(sampling.looped.is_some()).into(),
        },
    }
}
