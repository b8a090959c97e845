//! A collection: instruments, regions, articulations and waves as DLS Level 1 and 2 define them.
//!
//! Fed by [`Collection::read`] (DLS files and SoundFont 2 banks) and by `bank` (the built-in instruments); feeds
//! [`Collection::to_dls`], the `bank` commands, and a synthesizer that plays it. What a file says is held exactly, in
//! the file's own units; what a synthesizer makes of it is said here.
//!
//! # How it is to be played
//!
//! **Which regions sound.** All regions of the instrument whose key and velocity ranges hold the note, each a voice of
//! its own (layers). An instrument is found by drum flag, bank and program; of two with the same address the first
//! counts.
//!
//! **Which articulation a region has.** [`Instrument::articulation`]: the region's own if it has one, else the
//! instrument's. A region's own *replaces* the instrument's, it is not merged with it. Level 1 says so; of Level 2's
//! readers, FluidSynth does so too (Gervill merges). Every block that joins a source, a control and a destination adds
//! to that destination. [`connection::DEFAULTS`] hold besides, each unless some block joins the same three. Units are
//! those of [`Connection::scale`].
//!
//! **Pitch.** The sum at `PITCH` less 100 x `unity_note`, plus `fine_tune`, in cents from the wave's own rate. By
//! default the sum is the key's 12,800 x key / 128. What arrives at `KEY` (in cents, 100 to a key) replaces the key
//! number as a source if it is a constant, and is added to it otherwise.
//!
//! **Level.** Gain of the wave sample in 1/655,360 dB, plus the sum at `GAIN` in 1/65,536 of 0.1 dB. Oscillators are
//! sines of -1..1 where the transform says bipolar. EG1's attack is linear in amplitude; decay and release are linear
//! in dB, and their times are for all of 96 dB; a sustain of s % lies (100 - s) % of 96 dB below the peak. EG2 is
//! linear, and its times are for 100 %.
//!
//! **Filter.** Two poles, low-pass, at the sum at `CUTOFF` in absolute pitch cents ([`connection::NO_FILTER`]: none),
//! `RESONANCE` dB high. Level 2 promises 200 Hz to 7998 Hz (5535 to 11921 cents) and 22.5 dB; SoundFonts go from 1500
//! to 13500 cents and to 96 dB.
//!
//! **Loops.** `Forward` goes on through the release; `Release` is left at note-off, and the rest of the wave is played.
//!
//! **Phase lock.** Regions with the same non-zero `phase_group` that one note starts run at the rate of their master,
//! sample by sample.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

// The example of the manual is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod chunk;
mod condition;
pub mod connection;
mod dls;
mod error;
mod riff;
mod samples;
mod sf2;
#[cfg(test)]
mod tests;
mod write;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
pub use condition::DlsId;
use connection::Connection;
pub use error::{CollectionError, MOST_WARNINGS, Problem, Warning, Warnings};
use error::{Fault, Mends, limited};
pub use riff::{FourCc, Name};
pub use samples::{Samples, Store};

/// Instruments, and the waves that they play.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    /// Identity of the collection (`dlid`).
    pub id: Option<DlsId>,
    /// Version of the content (`vers`): high and low word as the file has them.
    pub version: Option<(u32, u32)>,
    /// Names and notices.
    pub info: Info,
    /// In the file's order.
    pub instruments: Vec<Instrument>,
    /// In the file's order.
    pub waves: Vec<Wave>,
}

/// Names and notices (an `INFO` list): what it is, and the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(pub Vec<(FourCc, String)>);

impl Info {
    /// A name and nothing else.
    pub fn named(name: &str) -> Self {
        Self(vec![(*b"INAM", name.to_owned())])
    }

    /// The name (`INAM`), or nothing.
    pub fn name(&self) -> &str {
        self.0.iter().find(|(id, _)| id == b"INAM").map_or("", |(_, text)| text)
    }
}

/// What a program number selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instrument {
    /// Identity (`dlid`).
    pub id: Option<DlsId>,
    /// Names and notices.
    pub info: Info,
    /// CC0 x 128 + CC32, 0..=16383.
    pub bank: u16,
    /// MIDI program, 0..=127.
    pub program: u8,
    /// Played by percussion channels.
    pub drum: bool,
    /// All that match a note sound.
    pub regions: Vec<Region>,
    /// For the regions that have none of their own.
    pub connections: Vec<Connection>,
}

impl Instrument {
    /// The articulation that a region of this instrument has, defaults not included.
    pub fn articulation<'a>(&'a self, region: &'a Region) -> &'a [Connection] {
        region.connections.as_deref().unwrap_or(&self.connections)
    }
}

/// The keys and velocities that play a wave, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Lowest and highest key, 0..=127.
    pub keys: (u8, u8),
    /// Lowest and highest velocity, 0..=127.
    pub velocities: (u8, u8),
    /// A note ends an earlier one of the same key and channel (the "self non-exclusive" option is not set).
    pub self_exclusive: bool,
    /// Exclusive class: a note silences all others of its class on its channel. 0: none.
    pub key_group: u16,
    /// A mark for editors; no meaning for playing.
    pub layer: u16,
    /// The wave that is played.
    pub link: WaveLink,
    /// Replaces the wave's own.
    pub sampling: Option<Sampling>,
    /// Replaces the instrument's articulation.
    pub connections: Option<Vec<Connection>>,
}

impl Region {
    /// A region of all keys and velocities.
    pub fn of(wave: usize) -> Self {
        Self {
            keys: (0, 127),
            velocities: (0, 127),
            self_exclusive: false,
            key_group: 0,
            layer: 0,
            link: WaveLink { wave, channels: WaveLink::LEFT, phase_group: 0, phase_master: false, multichannel: false },
            sampling: None,
            connections: None,
        }
    }

    fn check(&self, waves: &[Wave]) -> Result<(), Problem> {
        for (what, (low, high)) in [("the key range", self.keys), ("the velocity range", self.velocities)] {
            limited::<u8>(what, high, i64::from(low)..=127, "two numbers of 0 to 127 in order")?;
        }
        let missing = Problem::Reference { what: "wave", index: self.link.wave, count: waves.len() };
        let wave = waves.get(self.link.wave).ok_or(missing)?;
        self.sampling.map_or(Ok(()), |sampling| sampling.check(wave.samples.len()))
    }
}

/// How a region is joined to its wave (`wlnk`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveLink {
    /// Index into [`Collection::waves`].
    pub wave: usize,
    /// Speakers, one a bit: 1 left, which is also what mono waves have, 2 right.
    pub channels: u32,
    /// Regions of one group run in step. 0: alone.
    pub phase_group: u16,
    /// The one of its group that the others follow.
    pub phase_master: bool,
    /// `channels` says where the wave is heard; otherwise it is panned.
    pub multichannel: bool,
}

impl WaveLink {
    /// The left speaker, and mono.
    pub const LEFT: u32 = 1;
    /// The right speaker.
    pub const RIGHT: u32 = 2;
}

/// How a wave relates to keys and levels (`wsmp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The key at which the wave plays at its own rate, 0..=127.
    pub unity_note: u8,
    /// Added to the pitch, cents.
    pub fine_tune: i16,
    /// Added to the level, 1/655,360 dB.
    pub gain: i32,
    /// The wave must keep all its bits.
    pub no_truncation: bool,
    /// The wave must not be compressed.
    pub no_compression: bool,
    /// What repeats; `None` plays once.
    pub looped: Option<Loop>,
}

impl Sampling {
    /// What a wave has that says nothing: middle C, as it is, once.
    pub const DEFAULT: Self =
        Self { unity_note: 60, fine_tune: 0, gain: 0, no_truncation: false, no_compression: false, looped: None };

    fn check(&self, samples: usize) -> Result<(), Problem> {
        limited::<u8>("the unity note", self.unity_note, 0..=127, "a key of 0 to 127")?;
        match self.looped {
            Some(Loop { start, length, .. })
                if length == 0 || u64::from(start) + u64::from(length) > samples as u64 =>
            {
                Err(Problem::Loop { start: start.into(), length: length.into(), samples })
            }
            _ => Ok(()),
        }
    }

    /// Cuts a loop that reaches past its wave, or leaves it out: what was wrong, and which.
    fn fit(&mut self, samples: usize) -> Option<(Problem, &'static str)> {
        let problem = self.check(samples).err()?;
        let looped = self.looped.take()?;
        let room = samples.saturating_sub(looped.start as usize);
        let length = looped.length.min(room.try_into().unwrap_or(u32::MAX));
        self.looped = (length > 0).then_some(Loop { length, ..looped });
        Some((problem, if length > 0 { "the loop ends with the wave" } else { "the loop is left out" }))
    }
}

/// A loop within a wave, in samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// What becomes of it at note-off.
    pub kind: LoopKind,
    /// First sample.
    pub start: u32,
    /// Samples, at least one.
    pub length: u32,
}

/// What becomes of a loop at note-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// It goes on.
    Forward,
    /// The rest of the wave is played.
    Release,
}

/// One recording, of one channel once it is decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Wave {
    /// Identity (`dlid`, or `guid`).
    pub id: Option<DlsId>,
    /// Names and notices.
    pub info: Info,
    /// Samples per second, 1..=[`MAX_RATE`].
    pub rate: u32,
    /// At least one.
    pub samples: Samples,
    /// How it plays where a region says nothing else; `None`: [`Sampling::DEFAULT`].
    pub sampling: Option<Sampling>,
}

/// The highest sampling rate of a wave, Hz.
pub const MAX_RATE: u32 = 1_000_000;
/// What a wave without a rate has.
const USUAL_RATE: u32 = 44_100;

impl Wave {
    fn check(&self) -> Result<(), Problem> {
        self.check_rate()?;
        limited::<u32>(
            "the length of a wave",
            self.samples.len() as i64,
            1..=i64::from(u32::MAX),
            "at least a sample",
        )?;
        self.sampling.map_or(Ok(()), |sampling| sampling.check(self.samples.len()))
    }

    /// Takes a rate that can be played in place of one that cannot: what was wrong.
    fn fit(&mut self) -> Option<Problem> {
        let problem = self.check_rate().err()?;
        self.rate = if self.rate == 0 { USUAL_RATE } else { MAX_RATE };
        Some(problem)
    }

    fn check_rate(&self) -> Result<u32, Problem> {
        limited("the sampling rate", self.rate, 1..=i64::from(MAX_RATE), "1 to 1,000,000 Hz")
    }
}

impl Collection {
    /// Reads a DLS collection or a SoundFont 2 bank. What is wrong in it is mended or left out, and is among the
    /// `warnings`; errors say why nothing of it can be played. The file is kept as long as any of its samples is.
    /// Besides, it needs memory of a few times the file's size at most, whatever the file says (of a SoundFont, whose
    /// zones multiply: of sixteen times and a few megabytes).
    ///
    /// Lost of a SoundFont: the low bytes of 24-bit samples, the phase lock of stereo pairs, modulators that no
    /// connection block can express (linked, of absolute value, onto sample addresses, or with two controllers and an
    /// oscillator or envelope), and samples that no region plays. Its default velocity-to-filter modulator is left out,
    /// as most players do.
    pub fn read(file: impl Into<Arc<Vec<u8>>>, warnings: &mut Warnings) -> Result<Self, CollectionError> {
        let file = file.into();
        let store: Arc<dyn Store> = Arc::<Vec<u8>>::clone(&file);
        Self::read_with(&file, &store, warnings)
    }

    /// As [`Self::read`], of a file that need not be in memory: `head` is as long as it is, and has all of it but the
    /// content of a SoundFont's `smpl` chunk. Samples are read from the `store` as they are asked for.
    pub fn read_with(head: &[u8], store: &Arc<dyn Store>, warnings: &mut Warnings) -> Result<Self, CollectionError> {
        let mut mends = Mends::default();
        let mut read = || {
            let root = riff::Chunk::root(head)?;
            riff::judge(head, &root, &mut mends);
            let read = match &root.name {
                b"DLS " => dls::read(&root, store, &mut mends),
                b"sfbk" => sf2::read(&root, store, &mut mends),
                _ => return Err(Fault::new(8, Problem::NotABank)),
            };
            let nothing = match &read {
                Ok(collection) => collection.instruments.iter().all(|i| i.regions.is_empty()),
                Err(fault) => fault.is_missing(),
            };
            // The first thing that was wrong is why nothing is left.
            mends.first().filter(|_| nothing).map_or(read, Err)
        };
        let read = read().map_err(|fault: Fault| fault.locate(head))?;
        *warnings = mends.locate(head);
        Ok(read)
    }

    /// The collection as a DLS Level 2 file. The same collection always gives the same bytes.
    pub fn to_dls(&self) -> Result<Vec<u8>, CollectionError> {
        write::dls(self)
    }
}
