//! Chunks that [`crate::command::Opcode::Download`] takes: a wave, or an instrument that refers to waves downloaded
//! before.
//!
//! Laid out as `dmdls.h` has them, little endian. A chunk is a [`DownloadInfo`], a table of u32 offsets from the
//! chunk's start, and structures (at multiples of 4) that name each other by their index in that table; index 0 is the
//! first one, and else means none:
//!
//! ```text
//! DownloadInfo | offsets[entries] | 0: Instrument | 1: Region | 2: Articulation | 3: ConnectionList, Connections...
//! DownloadInfo | offsets[2]       | 0: Wave       | 1: data size u32, samples
//! ```
//!
//! [`DownloadInfo::id`] is the driver's; a region names its wave by that of the wave's chunk ([`WaveLink::wave`]). An
//! articulation is a chain of connection lists in [`INSTRUMENT2`] chunks, and an [`ArticParams`] in [`INSTRUMENT`]
//! ones. A region has its own articulation or the instrument's, never both. Extension chunks and copyrights are passed
//! over. Waves are mono PCM, 8 or 16 bits; both kinds of wave chunk are played alike.

use zerocopy::little_endian::{I16, I32, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An instrument with articulations of Level 1.
pub const INSTRUMENT: u32 = 1;
/// A wave.
pub const WAVE: u32 = 2;
/// An instrument with articulations of Level 2.
pub const INSTRUMENT2: u32 = 3;
/// How a wave is played on its own; not taken.
pub const WAVE_ARTICULATION: u32 = 4;
/// A part of a wave; not taken.
pub const STREAMING_WAVE: u32 = 5;
/// A wave that plays once.
pub const ONE_SHOT_WAVE: u32 = 6;

/// Bit of [`Instrument::patch`]: percussion. Bits 16..22 are CC0, 8..14 CC32, 0..6 the program.
pub const DRUMS: u32 = 1 << 31;
/// Most regions of an instrument, and most connections of an articulation.
pub const MAX_REGIONS: usize = 4096;
/// Most connections of an articulation.
pub const MAX_CONNECTIONS: usize = 1024;
/// Downloads that the card holds at most.
pub const MAX_DOWNLOADS: usize = 4096;

/// In front of every chunk (DMUS_DOWNLOADINFO).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct DownloadInfo {
    /// What the chunk is.
    pub kind: U32,
    /// The driver's number for it, unique among what is downloaded.
    pub id: U32,
    /// Entries of the offset table, at least 1.
    pub entries: U32,
    /// Bytes of the whole chunk.
    pub size: U32,
}

/// DMUS_INSTRUMENT.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Instrument {
    /// Bank and program, and [`DRUMS`].
    pub patch: U32,
    /// Index of the first region, or 0.
    pub first_region: U32,
    /// Index of the articulation of regions that have none, or 0.
    pub articulation: U32,
    /// Passed over.
    pub first_extension: U32,
    /// Passed over.
    pub copyright: U32,
    /// Passed over.
    pub flags: U32,
}

/// DMUS_REGION up to its loop, of which `loops` (0 or 1) follow as [`WaveLoop`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// Lowest and highest key.
    pub keys: [U16; 2],
    /// Lowest and highest velocity.
    pub velocities: [U16; 2],
    /// Bit 0: notes of the same key do not end each other.
    pub options: U16,
    /// Exclusive class, or 0.
    pub key_group: U16,
    /// Index of its own articulation, or 0.
    pub articulation: U32,
    /// Index of the next region, or 0.
    pub next: U32,
    /// Passed over.
    pub first_extension: U32,
    /// Its wave.
    pub link: WaveLink,
    /// How it plays the wave.
    pub sample: WaveSample,
}

/// WAVELINK.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct WaveLink {
    /// Bit 0: phase master. Bit 1: `channels` says where it is heard.
    pub options: U16,
    /// Regions of one group run in step.
    pub phase_group: U16,
    /// Speakers: bit 0 left, bit 1 right.
    pub channels: U32,
    /// [`DownloadInfo::id`] of the wave.
    pub wave: U32,
}

/// WSMPL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct WaveSample {
    /// 20.
    pub size: U32,
    /// The key of the wave's own rate.
    pub unity_note: U16,
    /// Cents.
    pub fine_tune: I16,
    /// 1/655,360 dB.
    pub gain: I32,
    /// Passed over.
    pub options: U32,
    /// 0 or 1.
    pub loops: U32,
}

/// WLOOP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct WaveLoop {
    /// 16.
    pub size: U32,
    /// 0: forward. 1 or 2: left at note-off.
    pub kind: U32,
    /// First sample.
    pub start: U32,
    /// Samples, at least 1.
    pub length: U32,
}

/// DMUS_ARTICULATION; in [`INSTRUMENT2`] chunks DMUS_ARTICULATION2, which is followed by the index of the next one
/// (u32), or 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Articulation {
    /// Index of the [`ArticParams`]; in [`INSTRUMENT2`] chunks of the [`ConnectionList`].
    pub content: U32,
    /// Passed over.
    pub first_extension: U32,
}

/// CONNECTIONLIST; the [`Connection`]s follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectionList {
    /// 8.
    pub size: U32,
    /// How many follow.
    pub count: U32,
}

/// CONNECTION.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Connection {
    /// First factor.
    pub source: U16,
    /// Second factor.
    pub control: U16,
    /// What they move.
    pub destination: U16,
    /// How the factors are read.
    pub transform: U16,
    /// In 1/65536 of the destination's unit.
    pub scale: I32,
}

/// DMUS_ARTICPARAMS: an articulation of Level 1. Times in time cents, pitches in cents, levels in 0.1 dB, percentages
/// in 0.1 %, all x 65536.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ArticParams {
    /// The oscillator: frequency, start delay, what it does to volume and to pitch, and to both by the modulation
    /// wheel.
    pub lfo: [I32; 6],
    /// The volume envelope: attack, decay, sustain, release, velocity to attack, key to decay.
    pub volume: [I32; 6],
    /// The pitch envelope: the same.
    pub pitch: [I32; 6],
    /// How far the pitch envelope goes.
    pub pitch_range: I32,
    /// Where it is heard.
    pub pan: I32,
}

/// DMUS_WAVE.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Wave {
    /// Passed over.
    pub first_extension: U32,
    /// Passed over.
    pub copyright: U32,
    /// Index of its data: their size in bytes (u32), and the samples.
    pub data: U32,
    /// What they are.
    pub format: WaveFormat,
}

/// WAVEFORMATEX.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct WaveFormat {
    /// 1: PCM.
    pub tag: U16,
    /// Audio channels.
    pub channels: U16,
    /// Hz.
    pub rate: U32,
    /// Bytes a second.
    pub byte_rate: U32,
    /// Bytes of a frame.
    pub block_align: U16,
    /// 8 (unsigned) or 16 (signed).
    pub bits: U16,
    /// Bytes that follow: 0.
    pub extra: U16,
}

impl WaveFormat {
    /// PCM.
    pub const fn pcm(channels: u16, rate: u32, bits: u16) -> Self {
        let block = channels * (bits / 8);
        Self {
            tag: U16::new(1),
            channels: U16::new(channels),
            rate: U32::new(rate),
            byte_rate: U32::new(rate.wrapping_mul(block as u32)),
            block_align: U16::new(block),
            bits: U16::new(bits),
            extra: U16::new(0),
        }
    }
}

/// What is wrong with a chunk: SIZE of the answer when its status is [`crate::command::Status::BadDownload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Problem {
    /// A structure goes on beyond the chunk's end.
    #[error("a structure goes on beyond the end of the chunk")]
    TooShort = 1,
    /// A kind of chunk that the card does not take.
    #[error("not a kind of chunk that the card takes")]
    Kind = 2,
    /// The chunk's size is not the request's.
    #[error("the chunk says another size than the request has")]
    Size = 3,
    /// The offset table has no entry, or does not fit.
    #[error("the offset table is empty, or does not fit into the chunk")]
    OffsetTable = 4,
    /// An index beyond the offset table.
    #[error("an index beyond the offset table")]
    Index = 5,
    /// An offset into the table or header, beyond the chunk, or not a multiple of 4.
    #[error("an offset into the header, beyond the chunk, or not a multiple of 4")]
    Offset = 6,
    /// Regions or articulations that lead back to themselves.
    #[error("a list that leads back to itself")]
    Cycle = 7,
    /// More regions or connections than the card takes, or more than one loop. All connections together (an
    /// [`ArticParams`] is 20) may be a third of the chunk's bytes in number.
    #[error("more regions, connections or loops than the card takes")]
    Count = 8,
    /// Keys or velocities that are not 0 to 127 in order.
    #[error("keys or velocities that are not 0 to 127 in order")]
    Range = 9,
    /// A patch with bits that mean nothing.
    #[error("a patch with bits that mean nothing")]
    Patch = 10,
    /// A region's wave is not downloaded.
    #[error("a region's wave is not downloaded")]
    NoWave = 11,
    /// A loop of nothing, of an unknown kind, or outside its wave.
    #[error("a loop of nothing, of an unknown kind, or outside its wave")]
    Loop = 12,
    /// A unity note above 127.
    #[error("a unity note above 127")]
    UnityNote = 13,
    /// Not mono PCM of 8 or 16 bits, or a rate out of range.
    #[error("not mono PCM of 8 or 16 bits, at 1 Hz to 1 MHz")]
    Format = 14,
    /// A wave of no samples, or of half of one.
    #[error("a wave of no samples, or of half of one")]
    Length = 15,
    /// A download with this id is there already.
    #[error("a download with this id is there already")]
    Id = 16,
    /// An instrument without regions.
    #[error("an instrument without regions")]
    NoRegions = 17,
}

impl Problem {
    /// Every problem.
    pub const ALL: [Self; 17] = [
        Self::TooShort,
        Self::Kind,
        Self::Size,
        Self::OffsetTable,
        Self::Index,
        Self::Offset,
        Self::Cycle,
        Self::Count,
        Self::Range,
        Self::Patch,
        Self::NoWave,
        Self::Loop,
        Self::UnityNote,
        Self::Format,
        Self::Length,
        Self::Id,
        Self::NoRegions,
    ];

    /// Decodes SIZE of an answer.
    pub fn decode(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|problem| *problem as u32 == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_headers_sizes() {
        assert_eq!((size_of::<DownloadInfo>(), size_of::<Instrument>()), (16, 24));
        assert_eq!((size_of::<Region>(), size_of::<WaveLoop>()), (24 + 12 + 20, 16));
        assert_eq!((size_of::<ArticParams>(), size_of::<Connection>()), (80, 12));
        assert_eq!((size_of::<Wave>(), size_of::<WaveFormat>()), (30, 18));
        assert!(Problem::ALL.into_iter().all(|problem| Problem::decode(problem as u32) == Some(problem)));
    }
}
