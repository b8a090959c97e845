//! Songs and banks of instruments by the names of their files.
//!
//! Fed by the command lines of `dmus-card` and `dmus-run`; feeds rendering, serving, and guests that play or record.

use crate::bank::BankError;
use crate::collection::{Collection, CollectionError};
use crate::demo;
use dmus_song::{Song, SongError};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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
    /// Its instruments are more than a bank can hold.
    #[error("cannot play {0}: {1}")]
    Bank(String, BankError),
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

/// Reads a song, or takes the bundled one. Warns of what in it is not as the standard has it and was mended, a line
/// each; with `strict`, refuses it for the first of these.
///
/// # Errors
/// See [`FileError`].
pub fn load_song(path: Option<&Path>, strict: bool) -> Result<NamedSong, FileError> {
    let (name, bytes) = match path {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path).map_err(|error| FileError::Unreadable(name.clone(), error))?;
            (name, bytes)
        }
        None => ("bundled song".into(), demo::song()),
    };
    let song = Song::parse(&bytes).map_err(|error| FileError::Song(name.clone(), error))?;
    if let (true, Some(warning)) = (strict, song.warnings().first()) {
        return Err(FileError::Strict(name, *warning));
    }
    song.complaints().for_each(|complaint| tracing::warn!("{name}: {complaint}"));
    Ok(NamedSong { name, bytes, song })
}

/// Reads a .dls or .sf2 file. Of a file that is none, no more than its beginning is read.
///
/// # Errors
/// See [`FileError`].
pub fn load_collection(path: &Path) -> Result<Collection, FileError> {
    let name = || path.display().to_string();
    let read = || {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        (&file).take(8).read_to_end(&mut bytes)?;
        if let [b'R', b'I', b'F', b'F', size @ ..] = &bytes[..]
            && let Ok(size) = <[u8; 4]>::try_from(size)
        {
            (&file).take(u32::from_le_bytes(size).into()).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|error| FileError::Unreadable(name(), error))?;
    Collection::read(&bytes).map_err(|error| FileError::Collection(name(), error))
}
