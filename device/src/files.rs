//! Songs and banks of instruments by the names of their files.
//!
//! Fed by the command lines of `dmus-card` and `dmus-run`; feeds rendering, serving, and guests that play or record.

use crate::bank::BankError;
use crate::collection::{Collection, CollectionError, Warnings};
use crate::demo;
use dmus_song::{Song, SongError};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A RIFF file says its size in 32 bits.
const LARGEST_RIFF: u64 = u32::MAX as u64;

/// A file that cannot be used, with its name.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    /// It is no standard MIDI file that can be played.
    #[error("cannot play {0}: {1}")]
    Song(String, SongError),
    /// It can be played, but is not quite as the standard has it, and only such files are wanted.
    #[error("cannot play {0}: {1} (--strict)")]
    Strict(String, dmus_song::Warning),
    /// It is no collection of instruments.
    #[error("cannot use {0}: {1}")]
    Collection(String, CollectionError),
    /// It can be used, but for what was mended or left out, and only such files are wanted that need none of that.
    #[error("cannot use {0}: {1} (--strict)")]
    StrictBank(String, CollectionError),
    /// Its instruments are more than a bank can hold.
    #[error("cannot play {0}: {1}")]
    Bank(String, BankError),
}

/// What becomes of a file that is not quite as its format has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaws {
    /// What can be played is, with a warning for each place.
    Mend,
    /// The first of them is an error.
    Refuse,
}

impl Flaws {
    /// As `--strict` says it.
    pub fn by(strict: bool) -> Self {
        if strict { Self::Refuse } else { Self::Mend }
    }
}

/// A song with its file's bytes, and the name to call it by.
pub struct NamedSong {
    /// The file's path, or "bundled song".
    pub name: String,
    /// The standard MIDI file.
    pub bytes: Vec<u8>,
    /// What it says.
    pub song: Song,
}

impl NamedSong {
    /// The collection of instruments that the file brings along, if it is an RMID file that does.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn collection(&self, flaws: Flaws) -> Result<Option<Collection>, FileError> {
        let own = dmus_song::collection_of(&self.bytes);
        own.map(|bytes| read_collection(&self.name, bytes.to_vec(), flaws)).transpose()
    }
}

/// Reads a song, or takes the bundled one. Warns of what is mended in it, a line each.
///
/// # Errors
/// See [`FileError`].
pub fn load_song(path: Option<&Path>, flaws: Flaws) -> Result<NamedSong, FileError> {
    let (name, bytes) = match path {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path).map_err(|error| FileError::Unreadable(name.clone(), error))?;
            (name, bytes)
        }
        None => ("bundled song".into(), demo::song()),
    };
    let song = Song::parse(&bytes).map_err(|error| FileError::Song(name.clone(), error))?;
    if let (Flaws::Refuse, Some(warning)) = (flaws, song.warnings().first()) {
        return Err(FileError::Strict(name, *warning));
    }
    song.complaints().for_each(|complaint| tracing::warn!("{name}: {complaint}"));
    Ok(NamedSong { name, bytes, song })
}

/// Reads a .dls, .sf2 or .sf3 file. Warns of what is mended in it, a line each.
///
/// # Errors
/// See [`FileError`].
pub fn load_collection(path: &Path, flaws: Flaws) -> Result<Collection, FileError> {
    read_collection(&path.display().to_string(), read_bank(path)?, flaws)
}

fn read_collection(name: &str, bytes: Vec<u8>, flaws: Flaws) -> Result<Collection, FileError> {
    let mut warnings = Warnings::default();
    let read = Collection::read(bytes, &mut warnings);
    let collection = read.map_err(|error| FileError::Collection(name.into(), error))?;
    if let (Flaws::Refuse, Some(warning)) = (flaws, warnings.first().first()) {
        return Err(FileError::StrictBank(name.into(), warning.error.clone()));
    }
    warnings.complaints().for_each(|complaint| tracing::warn!("{name}: {complaint}"));
    Ok(collection)
}

/// As [`load_collection`], with what is mended for the caller to tell.
///
/// # Errors
/// See [`FileError`].
pub fn inspect_collection(path: &Path) -> Result<(Collection, Warnings), FileError> {
    let mut warnings = Warnings::default();
    let read = Collection::read(read_bank(path)?, &mut warnings);
    let collection = read.map_err(|error| FileError::Collection(path.display().to_string(), error))?;
    Ok((collection, warnings))
}

/// The bytes of a bank; of a file that is none, no more than its beginning.
fn read_bank(path: &Path) -> Result<Vec<u8>, FileError> {
    let read = || {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(12).read_to_end(&mut bytes)?;
        if let [b'R', b'I', b'F', b'F', .., b'D', b'L', b'S', b' ']
        | [b'R', b'I', b'F', b'F', .., b's', b'f', b'b', b'k'] = bytes[..]
        {
            let length = file.metadata()?.len().min(LARGEST_RIFF);
            bytes.reserve_exact(length.try_into().unwrap_or(0));
            file.take(LARGEST_RIFF).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    read().map_err(|error| FileError::Unreadable(path.display().to_string(), error))
}
