//! The samples of a wave, as the file holds them until somebody plays or writes them.
//!
//! Fed by the readers with a place in a file and its coding, or with samples that a program made; feeds banks, writers
//! and downloads with 16 bits and one channel. A bank has far more waves than a song plays, so that none is copied or
//! decoded before it is needed.

mod adpcm;
mod companded;
#[cfg_attr(feature = "vorbis", path = "samples/vorbis.rs")]
#[cfg_attr(not(feature = "vorbis"), path = "samples/no_vorbis.rs")]
mod vorbis;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use zerocopy::IntoBytes;

/// A file that is read where somebody wants it.
pub trait Store: Send + Sync {
    /// Its bytes.
    fn len(&self) -> usize;

    /// Reads the bytes from `at` on. What cannot be read, since the file has become shorter, say, stays as it is.
    fn read_at(&self, at: usize, bytes: &mut [u8]);

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file in memory.
impl Store for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn read_at(&self, at: usize, bytes: &mut [u8]) {
        let there = self.get(at..).unwrap_or(&[]);
        let count = there.len().min(bytes.len());
        bytes[..count].copy_from_slice(&there[..count]);
    }
}

/// A stretch of a file.
fn read(file: &dyn Store, stretch: Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; stretch.len()];
    file.read_at(stretch.start, &mut bytes);
    bytes
}

/// How a file holds samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Numbers of 1 (without sign), 2, 3 or 4 bytes (with).
    Pcm { bytes: usize },
    /// Bytes of G.711's A-law.
    ALaw,
    /// Bytes of G.711's mu-law.
    MuLaw,
    /// Microsoft's ADPCM, in blocks of so many bytes.
    MsAdpcm { block: usize },
    /// IMA's ADPCM as WAVE files have it, in blocks of so many bytes.
    ImaAdpcm { block: usize },
    /// An Ogg Vorbis file of its own.
    Vorbis,
}

/// Samples of 16 bits and one channel; of two, which a file may have, the middle is taken.
#[derive(Clone)]
pub struct Samples {
    source: Source,
    /// The first of the source's that is one of these.
    start: usize,
    count: usize,
}

#[derive(Clone)]
enum Source {
    /// What a program made.
    Made(Arc<[i16]>),
    /// Bytes of a file.
    File { file: Arc<dyn Store>, bytes: Range<usize>, coding: Coding, channels: usize },
}

impl Samples {
    /// All of a pool.
    pub fn new(pool: impl Into<Arc<[i16]>>) -> Self {
        let pool = pool.into();
        Self { count: pool.len(), start: 0, source: Source::Made(pool) }
    }

    /// What a stretch of a file holds, of one or two channels. None if it is not in the file.
    pub(super) fn in_file(file: &Arc<dyn Store>, bytes: Range<usize>, coding: Coding, channels: usize) -> Option<Self> {
        let length = bytes.end.checked_sub(bytes.start).filter(|_| bytes.end <= file.len())?;
        let count = match coding {
            Coding::Pcm { bytes } => length / (bytes * channels),
            Coding::ALaw | Coding::MuLaw => length / channels,
            Coding::MsAdpcm { block } => adpcm::microsoft_samples(length, block, channels),
            Coding::ImaAdpcm { block } => adpcm::ima_samples(length, block, channels),
            Coding::Vorbis => vorbis::samples(&read(&**file, bytes.clone())),
        };
        Some(Self { source: Source::File { file: Arc::clone(file), bytes, coding, channels }, start: 0, count })
    }

    /// A part of these. None if it reaches past them.
    pub fn part(&self, range: Range<usize>) -> Option<Self> {
        let within = range.start <= range.end && range.end <= self.count;
        within.then(|| Self { source: self.source.clone(), start: self.start + range.start, count: range.len() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the first `count` of them, or all if there are fewer. What a file that is damaged does not give is
    /// silence.
    pub fn append_to(&self, out: &mut Vec<i16>, count: usize) {
        let count = count.min(self.count);
        let (before, end) = (out.len(), out.len() + count);
        match &self.source {
            Source::Made(pool) => out.extend_from_slice(pool.get(self.start..self.start + count).unwrap_or(&[])),
            // The numbers of a bank, most often: read in place.
            Source::File { file, bytes, coding: Coding::Pcm { bytes: 2 }, channels: 1 } => {
                out.resize(end, 0);
                file.read_at(bytes.start + 2 * self.start, out[before..].as_mut_bytes());
                out[before..].iter_mut().for_each(|sample| *sample = i16::from_le(*sample));
            }
            Source::File { file, bytes, coding, channels } => {
                let data = read(&**file, bytes.clone());
                out.reserve(count);
                // What codes each sample by itself is entered anywhere.
                let from = |bytes: usize| data.get(self.start * bytes * channels..).unwrap_or(&[]);
                match *coding {
                    Coding::Pcm { bytes } => mix(out, from(bytes).chunks_exact(bytes).map(pcm), *channels, count),
                    Coding::ALaw => mix(out, from(1).iter().map(|byte| companded::a_law(*byte)), *channels, count),
                    Coding::MuLaw => mix(out, from(1).iter().map(|byte| companded::mu_law(*byte)), *channels, count),
                    // The others are decoded from their beginning.
                    Coding::MsAdpcm { block } => adpcm::microsoft(&data, block, *channels, end + self.start, out),
                    Coding::ImaAdpcm { block } => adpcm::ima(&data, block, *channels, end + self.start, out),
                    Coding::Vorbis => vorbis::decode(&data, end + self.start, out),
                }
                if !matches!(coding, Coding::Pcm { .. } | Coding::ALaw | Coding::MuLaw) {
                    out.drain(before..out.len().min(before + self.start));
                }
            }
        }
        out.resize(end, 0);
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<i16> {
        let mut samples = Vec::new();
        self.append_to(&mut samples, self.count);
        samples
    }
}

/// A number of a sample's size, as 16 bits: bytes count from 128 upwards, longer numbers lose their low bits.
fn pcm(sample: &[u8]) -> i16 {
    match *sample {
        [byte] => (i16::from(byte) - 128) << 8,
        [.., low, high] => i16::from_le_bytes([low, high]),
        [] => 0,
    }
}

/// Appends `count` frames of samples that take turns.
fn mix(out: &mut Vec<i16>, mut samples: impl Iterator<Item = i16>, channels: usize, count: usize) {
    if channels == 1 {
        out.extend(samples.take(count));
    } else {
        out.extend(core::iter::from_fn(|| Some(middle(samples.next()?, samples.next()?))).take(count));
    }
}

/// The middle of left and right.
fn middle(left: i16, right: i16) -> i16 {
    ((i32::from(left) + i32::from(right)) >> 1) as i16
}

impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.to_vec() == other.to_vec()
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::prelude::rust_2024::*;

    fn decoded(data: &[u8], coding: Coding, channels: usize) -> Vec<i16> {
        let file: Arc<dyn Store> = Arc::new(data.to_vec());
        Samples::in_file(&file, 0..data.len(), coding, channels).expect("in the file").to_vec()
    }

    #[test]
    fn numbers_of_every_size_become_sixteen_bits() {
        assert_eq!(decoded(&[0, 128, 255], Coding::Pcm { bytes: 1 }, 1), [i16::MIN, 0, 127 << 8]);
        assert_eq!(decoded(&[0, 0x80, 1, 0], Coding::Pcm { bytes: 2 }, 1), [i16::MIN, 1]);
        assert_eq!(decoded(&[9, 0, 0x80, 255, 1, 0], Coding::Pcm { bytes: 3 }, 1), [i16::MIN, 1]);
        assert_eq!(decoded(&[1, 2, 0, 0x80, 1, 2, 1, 0, 7], Coding::Pcm { bytes: 4 }, 1), [i16::MIN, 1]);
        let stereo: Vec<u8> = [100i16, 200, -3, -4, i16::MIN, i16::MIN].iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(decoded(&stereo, Coding::Pcm { bytes: 2 }, 2), [150, -4, i16::MIN]);
        assert_eq!(decoded(&[0, 255, 128], Coding::Pcm { bytes: 1 }, 2), [-128]);
    }

    #[test]
    fn the_first_samples_are_the_first_of_all() {
        let made = Samples::new([1, 2, 3, 4]);
        let part = made.part(1..4).expect("a part");
        assert_eq!((part.len(), part.to_vec()), (3, vec![2, 3, 4]));
        assert!(made.part(2..5).is_none() && Samples::new([]).is_empty());
        let bytes: Vec<u8> = (0..=255).collect();
        for (coding, channels) in [
            (Coding::Pcm { bytes: 2 }, 1),
            (Coding::Pcm { bytes: 3 }, 2),
            (Coding::MuLaw, 1),
            (Coding::MsAdpcm { block: 40 }, 1),
            (Coding::MsAdpcm { block: 64 }, 2),
            (Coding::ImaAdpcm { block: 36 }, 1),
            (Coding::ImaAdpcm { block: 72 }, 2),
        ] {
            let file: Arc<dyn Store> = Arc::new(bytes.clone());
            let samples = Samples::in_file(&file, 0..256, coding, channels).expect("in the file");
            let all = samples.to_vec();
            assert_eq!(all.len(), samples.len(), "{coding:?}");
            for count in [0, 1, 2, 3, 9, 40, 1000] {
                let mut first = vec![77];
                samples.append_to(&mut first, count);
                assert_eq!(first[1..], all[..count.min(all.len())], "{count} of {coding:?}");
            }
        }
    }
}
