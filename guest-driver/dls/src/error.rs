//! What can be wrong with a file of instruments, where, and what was done about it.

use super::riff::{self, Name};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The most warnings that a file gets in words; the rest are counted.
pub const MOST_WARNINGS: usize = 20;

/// Why a file holds no usable collection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}, byte {offset}: {problem}")]
pub struct CollectionError {
    /// The chunks around the place, outermost first: `DLS/lins/ins[3]/insh`.
    pub path: String,
    /// Offset in the file.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a collection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file is something else.
    #[error("neither a DLS collection (RIFF 'DLS ') nor a SoundFont 2 bank (RIFF 'sfbk')")]
    NotABank,
    /// A chunk reaches past the end of what it lies in: the file is cut off, or the size is wrong.
    #[error("a chunk of {size} bytes where {room} are left: the file is truncated or damaged")]
    Overrun {
        /// What the chunk says.
        size: usize,
        /// What there is.
        room: usize,
    },
    /// A chunk ends too early.
    #[error("{needs} bytes are needed and {holds} are left: the file is truncated or damaged")]
    Short {
        /// For the next field.
        needs: usize,
        /// What is left of the chunk.
        holds: usize,
    },
    /// Bytes in a list that are too few for a chunk, or do not begin with a name.
    #[error("{0} bytes that are no chunk")]
    NoChunk(usize),
    /// A RIFF header that says less than the file holds, by the few bytes of a usual mistake.
    #[error("the file is {0} bytes longer than it says")]
    Longer(usize),
    /// A zone that goes on where the format says that it ends.
    #[error("{0} generators behind the one that ends the zone")]
    Behind(usize),
    /// A chunk that must be there is not.
    #[error("there is no '{0}' chunk here")]
    Missing(Name),
    /// A chunk that may occur once occurs again.
    #[error("this chunk is a second one of its kind")]
    Repeated,
    /// A count disagrees with what is there.
    #[error("says {says} {what}, and there are {holds}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The count in the file.
        says: u32,
        /// What is there, or what there is room for.
        holds: usize,
    },
    /// A number outside its limits.
    #[error("{what} is {value}, not {limits}")]
    Value {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: i64,
        /// What it may be.
        limits: &'static str,
    },
    /// An index that leads nowhere.
    #[error("refers to {what} {index} of {count}")]
    Reference {
        /// What is referred to.
        what: &'static str,
        /// Counted from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A pool table entry that is not the beginning of a wave.
    #[error("cue {cue} points at byte {offset} of the wave pool, where no wave begins")]
    Cue {
        /// Counted from 0.
        cue: usize,
        /// From the start of the pool.
        offset: u32,
    },
    /// A region plays a wave that is left out by its condition.
    #[error("refers to a wave that its own condition leaves out")]
    LeftOut,
    /// A loop outside of its wave, or of no length.
    #[error("a loop of {length} samples at {start} in a wave of {samples}")]
    Loop {
        /// First sample.
        start: i64,
        /// Samples.
        length: i64,
        /// Of the wave.
        samples: usize,
    },
    /// A sampling format that cannot be played.
    #[error(
        "wave format {tag} with {channels} channels of {bits} bits; \
         of one or two, PCM (1), A-law (6), mu-law (7), and the ADPCM of Microsoft (2) and IMA (17) can be played"
    )]
    Format {
        /// `wFormatTag`.
        tag: u16,
        /// Channels.
        channels: u16,
        /// Bits of a sample.
        bits: u16,
    },
    /// A condition (`cdl`) that cannot be evaluated.
    #[error("a condition that {0}")]
    Condition(&'static str),
    /// The collection's condition says that it is not for this card.
    #[error("the collection's own condition says that it is not for a DLS2 synthesizer")]
    NotForUs,
    /// Preset and instrument zones of a SoundFont multiply beyond what a file of its size can mean.
    #[error("the zones multiply to more regions than a file of this size can mean")]
    TooComplex,
    /// A RIFF file holds less than 4 GiB.
    #[error("the collection does not fit the 4 GiB of a RIFF file")]
    TooLarge,
}

/// What was wrong and is mended, or left out, so that the rest can be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}; {remedy}")]
pub struct Warning {
    /// What is wrong.
    pub error: CollectionError,
    /// What was done.
    pub remedy: &'static str,
}

/// What is wrong in a file that can be played: the first [`MOST_WARNINGS`], and how many there are.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    first: Vec<Warning>,
    count: usize,
}

impl Warnings {
    /// The first ones.
    pub fn first(&self) -> &[Warning] {
        &self.first
    }

    /// How many there are in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What to say of them: a line each, and how many more there are.
    pub fn complaints(&self) -> impl Iterator<Item = String> + '_ {
        let more = self.count - self.first.len();
        let rest = (more > 0).then(|| format!("and {more} more of the kind"));
        self.first.iter().map(ToString::to_string).chain(rest)
    }
}

/// What a reading has mended so far. Of what is met again and again, as zones are that many presets play, the first
/// time counts.
#[derive(Debug, Default)]
pub(super) struct Mends {
    first: Vec<(Fault, &'static str)>,
    places: BTreeSet<usize>,
}

impl Mends {
    pub(super) fn add(&mut self, fault: Fault, remedy: &'static str) {
        if self.places.insert(fault.offset) && self.first.len() < MOST_WARNINGS {
            self.first.push((fault, remedy));
        }
    }

    /// What is right; `None`, and a mend, of what is not.
    pub(super) fn keep<T>(&mut self, result: Result<T, Fault>, remedy: &'static str) -> Option<T> {
        result.map_err(|fault| self.add(fault, remedy)).ok()
    }

    /// The first thing that was wrong.
    pub(super) fn first(&self) -> Option<Fault> {
        self.first.first().map(|(fault, _)| fault.clone())
    }

    pub(super) fn locate(self, file: &[u8]) -> Warnings {
        let warning = |(fault, remedy): (Fault, _)| Warning { error: fault.locate(file), remedy };
        Warnings { first: self.first.into_iter().map(warning).collect(), count: self.places.len() }
    }
}

/// A problem at an offset, before anyone has looked up which chunk that is.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    offset: usize,
    problem: Problem,
}

impl Fault {
    pub(super) fn new(offset: usize, problem: Problem) -> Self {
        Self { offset, problem }
    }

    /// Whether it is about the file as a whole: nothing can be left out for it.
    pub(super) fn is_too_complex(&self) -> bool {
        self.problem == Problem::TooComplex
    }

    /// Whether it is about what is not there, perhaps since the file is cut off.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.problem, Problem::Missing(_) | Problem::Short { .. })
    }

    pub(super) fn locate(self, file: &[u8]) -> CollectionError {
        let Self { offset, problem } = self;
        CollectionError { path: riff::path(file, offset), offset, problem }
    }
}

/// A number within its limits, as the type that just holds it.
pub(super) fn limited<T: TryFrom<i64>>(
    what: &'static str,
    value: impl Into<i64>,
    allowed: core::ops::RangeInclusive<i64>,
    limits: &'static str,
) -> Result<T, Problem> {
    let value = value.into();
    let wrong = Problem::Value { what, value, limits };
    if !allowed.contains(&value) {
        return Err(wrong);
    }
    T::try_from(value).map_err(|_| wrong)
}
