//! Writes a collection as a DLS Level 2 file.
//!
//! Fed with a [`Collection`], which is checked first; gives bytes in which [`Collection::read`] finds the same again.
//! Regions are `rgn2` and articulations `lar2`, as Level 2 demands of what Level 1 does not know.

use super::connection::Connection;
use super::error::{CollectionError, Problem};
use super::riff::FourCc;
use super::{Collection, DlsId, Info, LoopKind, Region, Sampling, Wave, limited};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) fn dls(collection: &Collection) -> Result<Vec<u8>, CollectionError> {
    check(collection)?;
    let samples: usize = collection.waves.iter().map(|wave| wave.samples.len()).sum();
    let mut file = File { bytes: Vec::with_capacity(samples * 2 + 4096) };
    file.group(b"RIFF", b"DLS ", |file| {
        file.id(&collection.id);
        file.chunk(b"colh", |file| file.u32(collection.instruments.len()));
        if let Some((high, low)) = collection.version {
            file.chunk(b"vers", |file| file.numbers(&[high, low]));
        }
        file.group(b"LIST", b"lins", |file| collection.instruments.iter().for_each(|i| instrument(file, i)));
        let table = file.bytes.len() + 16;
        file.chunk(b"ptbl", |file| {
            file.numbers(&[8, collection.waves.len() as u32]);
            file.bytes.resize(file.bytes.len() + 4 * collection.waves.len(), 0);
        });
        file.group(b"LIST", b"wvpl", |file| {
            let pool = file.bytes.len();
            for (cue, one) in collection.waves.iter().enumerate() {
                let offset = (file.bytes.len() - pool) as u32;
                file.bytes[table + 4 * cue..][..4].copy_from_slice(&offset.to_le_bytes());
                wave(file, one);
            }
        });
        file.info(&collection.info);
    });
    // All offsets and sizes within were right if the whole is.
    match u32::try_from(file.bytes.len()) {
        Ok(_) => Ok(file.bytes),
        Err(_) => Err(error("the file".into(), Problem::TooLarge)),
    }
}

fn error(path: String, problem: Problem) -> CollectionError {
    CollectionError { path, offset: 0, problem }
}

/// Everything that a reader would refuse.
fn check(collection: &Collection) -> Result<(), CollectionError> {
    for (w, wave) in collection.waves.iter().enumerate() {
        wave.check().map_err(|problem| error(format!("wave {w}"), problem))?;
    }
    for (i, instrument) in collection.instruments.iter().enumerate() {
        let at = |problem| error(format!("instrument {i}"), problem);
        limited::<u8>("the program", instrument.program, 0..=127, "a number of 0 to 127").map_err(at)?;
        limited::<u16>("the bank", instrument.bank, 0..=0x3fff, "a number of 14 bits").map_err(at)?;
        for (r, region) in instrument.regions.iter().enumerate() {
            region.check(&collection.waves).map_err(|problem| error(format!("instrument {i}, region {r}"), problem))?;
        }
    }
    Ok(())
}

fn instrument(file: &mut File, instrument: &super::Instrument) {
    file.group(b"LIST", b"ins ", |file| {
        file.id(&instrument.id);
        let bank = u32::from(instrument.bank);
        let bank = u32::from(instrument.drum) << 31 | bank >> 7 << 8 | bank & 0x7f;
        let header = [instrument.regions.len() as u32, bank, u32::from(instrument.program)];
        file.chunk(b"insh", |file| file.numbers(&header));
        file.group(b"LIST", b"lrgn", |file| instrument.regions.iter().for_each(|r| region(file, r)));
        if !instrument.connections.is_empty() {
            file.articulation(&instrument.connections);
        }
        file.info(&instrument.info);
    });
}

fn region(file: &mut File, region: &Region) {
    file.group(b"LIST", b"rgn2", |file| {
        file.chunk(b"rgnh", |file| {
            for (low, high) in [region.keys, region.velocities] {
                file.words(&[low.into(), high.into()]);
            }
            file.words(&[u16::from(!region.self_exclusive), region.key_group, region.layer]);
        });
        if let Some(sampling) = &region.sampling {
            file.sampling(sampling);
        }
        let link = region.link;
        file.chunk(b"wlnk", |file| {
            file.words(&[u16::from(link.phase_master) | u16::from(link.multichannel) << 1, link.phase_group]);
            file.numbers(&[link.channels, link.wave as u32]);
        });
        if let Some(connections) = &region.connections {
            file.articulation(connections);
        }
    });
}

fn wave(file: &mut File, wave: &Wave) {
    file.group(b"LIST", b"wave", |file| {
        file.id(&wave.id);
        file.chunk(b"fmt ", |file| {
            // PCM, one channel; bytes a second and a sample, bits.
            file.words(&[1, 1]);
            file.numbers(&[wave.rate, wave.rate * 2]);
            file.words(&[2, 16]);
        });
        if let Some(sampling) = &wave.sampling {
            file.sampling(sampling);
        }
        file.chunk(b"data", |file| {
            file.bytes.extend(wave.samples.to_vec().iter().flat_map(|sample| sample.to_le_bytes()))
        });
        file.info(&wave.info);
    });
}

/// A file in the making.
struct File {
    bytes: Vec<u8>,
}

impl File {
    /// A chunk, its size known when `content` has been written.
    fn chunk(&mut self, name: &FourCc, content: impl FnOnce(&mut Self)) {
        self.bytes.extend_from_slice(name);
        let start = self.bytes.len() + 4;
        self.numbers(&[0]);
        content(self);
        // Too much for 32 bits is refused in the end.
        let size = (self.bytes.len() - start) as u32;
        self.bytes[start - 4..start].copy_from_slice(&size.to_le_bytes());
        if size % 2 == 1 {
            self.bytes.push(0);
        }
    }

    fn group(&mut self, kind: &FourCc, name: &FourCc, content: impl FnOnce(&mut Self)) {
        self.chunk(kind, |file| {
            file.bytes.extend_from_slice(name);
            content(file);
        });
    }

    fn words(&mut self, words: &[u16]) {
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn numbers(&mut self, numbers: &[u32]) {
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    /// A count or index; the file would be too large long before it is.
    fn u32(&mut self, number: usize) {
        self.numbers(&[number as u32]);
    }

    fn id(&mut self, id: &Option<DlsId>) {
        if let Some(id) = id {
            self.chunk(b"dlid", |file| file.bytes.extend_from_slice(id));
        }
    }

    fn info(&mut self, info: &Info) {
        if info.0.is_empty() {
            return;
        }
        self.group(b"LIST", b"INFO", |file| {
            for (name, text) in &info.0 {
                file.chunk(name, |file| {
                    file.bytes.extend_from_slice(text.as_bytes());
                    file.bytes.push(0);
                });
            }
        });
    }

    fn sampling(&mut self, sampling: &Sampling) {
        self.chunk(b"wsmp", |file| {
            file.numbers(&[20]);
            file.words(&[sampling.unity_note.into(), sampling.fine_tune as u16]);
            let options = u32::from(sampling.no_truncation) | u32::from(sampling.no_compression) << 1;
            file.numbers(&[sampling.gain as u32, options, u32::from(sampling.looped.is_some())]);
            if let Some(looped) = sampling.looped {
                let kind = match looped.kind {
                    LoopKind::Forward => 0,
                    LoopKind::Release => 1,
                };
                file.numbers(&[16, kind, looped.start, looped.length]);
            }
        });
    }

    fn articulation(&mut self, connections: &[Connection]) {
        self.group(b"LIST", b"lar2", |file| {
            file.chunk(b"art2", |file| {
                file.numbers(&[8, connections.len() as u32]);
                for c in connections {
                    file.words(&[c.source.0, c.control.0, c.destination.0, c.transform.0]);
                    file.numbers(&[c.scale as u32]);
                }
            });
        });
    }
}
