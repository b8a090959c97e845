//! Collections of instruments on their way into the card: what a song needs of one, as download chunks.
//!
//! Fed with a [`Collection`] that `dmus_dls` has read and with a song; feeds the [`Mailbox`] chunk by chunk, each wave once and before the
//! instruments that play it. So memory for DMA is needed for the largest wave, not for the collection.

use crate::{DriverError, Mailbox, Platform};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use dmus_dls::connection::Connection;
use dmus_dls::{Collection, Instrument, LoopKind, Region, Sampling, Wave};
use dmus_interface::command::Status;
use dmus_interface::download::{self as layout};
use dmus_song::TimedMessage;
use zerocopy::{Immutable, IntoBytes};

/// The percussion channel, counted from 0.
const PERCUSSION: usize = 9;
const CHANNELS: usize = 16;

/// What selects an instrument: drums or not, bank (CC0 x 128 + CC32), program.
pub type Address = (bool, u16, u8);

/// What was downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Downloaded {
    /// Handles of the instruments.
    pub instruments: Vec<u32>,
    /// Handles of the waves.
    pub waves: Vec<u32>,
    /// Bytes of all chunks.
    pub bytes: usize,
}

/// The instruments that a song plays, with those that the card takes in their place if they are not there.
pub fn needed<'m>(messages: impl Iterator<Item = TimedMessage<'m>>) -> BTreeSet<Address> {
    let fresh = |channel| (channel == PERCUSSION, 0, 0);
    let mut now: [Address; CHANNELS] = core::array::from_fn(fresh);
    // CC0 and CC32.
    let mut banks = [(0u8, 0u8); CHANNELS];
    let mut needed = BTreeSet::new();
    for message in messages {
        match *message.bytes {
            [0xF0, 0x7E, _, 0x09, 0x01 | 0x03, 0xF7] => {
                now = core::array::from_fn(fresh);
                banks = [(0, 0); CHANNELS];
            }
            [status @ 0xB0..=0xBF, controller @ (0 | 32), value @ 0..=127] => {
                let bank = &mut banks[usize::from(status & 15)];
                *(if controller == 0 { &mut bank.0 } else { &mut bank.1 }) = value;
            }
            [status @ 0xC0..=0xCF, program @ 0..=127] => {
                let channel = usize::from(status & 15);
                let (high, low) = banks[channel];
                let drum = match high {
                    120 => true,
                    121 => false,
                    _ => now[channel].0,
                };
                now[channel] = (drum, u16::from(high) << 7 | u16::from(low), program);
            }
            [status @ 0x90..=0x9F, _, 1..=127] => {
                let (drum, bank, program) = now[usize::from(status & 15)];
                needed.extend([(drum, bank, program), (drum, 0, program)]);
                if drum {
                    needed.insert((true, 0, 0));
                }
            }
            _ => {}
        }
    }
    needed
}

/// Downloads what a song needs of a collection. If the card refuses anything, nothing stays.
pub fn download_for<'m, P: Platform>(
    mailbox: &mut Mailbox<'_, P>,
    collection: &Collection,
    messages: impl Iterator<Item = TimedMessage<'m>>,
) -> Result<Downloaded, DriverError> {
    let needed = needed(messages);
    let mut chosen = BTreeMap::new();
    for instrument in &collection.instruments {
        let address = (instrument.drum, instrument.bank, instrument.program);
        if needed.contains(&address) && !instrument.regions.is_empty() {
            // Of two with the same address the first counts.
            chosen.entry(address).or_insert(instrument);
        }
    }
    let mut done = Downloaded::default();
    let loaded = load(mailbox, collection, chosen.into_values(), &mut done);
    if loaded.is_err() {
        unload(mailbox, &done)?;
    }
    loaded.map(|()| done)
}

/// Takes a download back: the instruments, and then the waves. What still sounds goes later.
pub fn unload<P: Platform>(mailbox: &mut Mailbox<'_, P>, downloaded: &Downloaded) -> Result<(), DriverError> {
    for handle in downloaded.instruments.iter().chain(&downloaded.waves) {
        mailbox.unload(*handle)?;
    }
    Ok(())
}

fn load<'c, P: Platform>(
    mailbox: &mut Mailbox<'_, P>,
    collection: &'c Collection,
    chosen: impl Iterator<Item = &'c Instrument>,
    done: &mut Downloaded,
) -> Result<(), DriverError> {
    let mut ids = BTreeMap::new();
    for instrument in chosen {
        for region in &instrument.regions {
            let index = region.link.wave;
            if ids.contains_key(&index) {
                continue;
            }
            let wave = collection.waves.get(index).ok_or(DriverError::Misuse("a region without its wave"))?;
            let id = mailbox.new_id();
            let chunk = wave_chunk(id, wave);
            done.waves.push(send(mailbox, &chunk)?);
            done.bytes += chunk.len();
            ids.insert(index, id);
        }
        let chunk = instrument_chunk(mailbox.new_id(), instrument, &collection.waves, &ids);
        done.instruments.push(send(mailbox, &chunk)?);
        done.bytes += chunk.len();
    }
    Ok(())
}

/// Downloads a chunk, and makes room once if there is none in one piece.
fn send<P: Platform>(mailbox: &mut Mailbox<'_, P>, chunk: &[u8]) -> Result<u32, DriverError> {
    match mailbox.download(chunk) {
        Err(DriverError::Command { status: Status::NoMemory, .. }) => {
            mailbox.compact()?;
            mailbox.download(chunk)
        }
        result => result,
    }
}

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
    wave.samples.iter().for_each(|sample| chunk.content.extend_from_slice(&sample.to_le_bytes()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use dmus_interface::time::RefTime;

    #[test]
    fn a_song_needs_what_its_notes_play_and_what_stands_in_for_it() {
        let messages: [&[u8]; 9] = [
            &[0xC0, 5],
            &[0xC1, 99],
            &[0xB0, 0, 1],
            &[0xB0, 32, 2],
            &[0xC0, 7],
            &[0x90, 60, 100],
            &[0x99, 36, 100],
            &[0x92, 60, 0],
            &[0xF0, 0x7E, 0x7F, 9, 1, 0xF7],
        ];
        let timed = messages.into_iter().map(|bytes| TimedMessage { time: RefTime(0), bytes });
        let found: Vec<Address> = needed(timed.clone()).into_iter().collect();
        assert_eq!(found, vec![(false, 0, 7), (false, 130, 7), (true, 0, 0)]);
        let after = timed.chain([TimedMessage { time: RefTime(0), bytes: &[0x90, 60, 1] }]);
        assert!(needed(after).contains(&(false, 0, 0)), "a reset selects the first program");
    }
}
