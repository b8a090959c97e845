//! Songs and banks of instruments by the names of their files.
//!
//! Fed by the command lines of `dmus-card` and `dmus-run`; feeds rendering, serving, and guests that play or record.

use crate::bank::BankError;
use crate::collection::{Collection, CollectionError, Store, Warnings};
use crate::demo;
use dmus_song::{Song, SongError};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

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
    /// The collection of instruments that the file brings along, if it is an RMID file that does. Warns of what is
    /// mended in it.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn collection(&self, flaws: Flaws) -> Result<Option<Collection>, FileError> {
        let own = dmus_song::collection_of(&self.bytes);
        let read = |bytes: &[u8]| {
            let mut warnings = Warnings::default();
            let collection = Collection::read(bytes.to_vec(), &mut warnings);
            let collection = collection.map_err(|error| FileError::Collection(self.name.clone(), error))?;
            judge(&self.name, collection, &warnings, flaws)
        };
        own.map(read).transpose()
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
    let (collection, warnings) = inspect_collection(path)?;
    judge(&path.display().to_string(), collection, &warnings, flaws)
}

fn judge(name: &str, collection: Collection, warnings: &Warnings, flaws: Flaws) -> Result<Collection, FileError> {
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
    let unreadable = |error| FileError::Unreadable(path.display().to_string(), error);
    let (head, store) = read_bank(path).map_err(unreadable)?;
    let mut warnings = Warnings::default();
    let read = Collection::read_with(&head, &store, &mut warnings);
    let collection = read.map_err(|error| FileError::Collection(path.display().to_string(), error))?;
    Ok((collection, warnings))
}

/// What there is of a bank in memory, and where the rest is.
type Opened = (Arc<Vec<u8>>, Arc<dyn Store>);

/// A bank's file in memory but for its samples, which most songs need few of, and the file to read those from. Of what
/// is no bank, no more than its beginning.
fn read_bank(path: &Path) -> io::Result<Opened> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    (&mut file).take(12).read_to_end(&mut bytes)?;
    let kind = bytes.get(8..).filter(|_| bytes.starts_with(b"RIFF")).unwrap_or_default();
    let found = file.metadata()?;
    // Of a pipe nothing can be read later.
    if kind == b"sfbk" && found.is_file() {
        let length = found.len().min(LARGEST_RIFF) as usize;
        let pool = sample_pool(&file, length)?;
        // Memory that is never touched costs nothing.
        let mut head = vec![0; length];
        file.read_exact_at(&mut head[..pool.start], 0)?;
        file.read_exact_at(&mut head[pool.end..], pool.end as u64)?;
        return Ok((Arc::new(head), Arc::new(OnDisk { file, length })));
    }
    if matches!(kind, b"DLS " | b"sfbk") {
        file.take(LARGEST_RIFF).read_to_end(&mut bytes)?;
    }
    let bytes = Arc::new(bytes);
    Ok((Arc::clone(&bytes), bytes))
}

/// Where the samples of a SoundFont are, as its chunks say in their usual order; nowhere if they do not.
fn sample_pool(file: &File, length: usize) -> io::Result<Range<usize>> {
    let mut at = 12;
    // A bank has three lists, and the samples' list two chunks.
    for _ in 0..8 {
        let mut header = [0; 12];
        if at + header.len() > length {
            break;
        }
        file.read_exact_at(&mut header, at as u64)?;
        let [name @ .., a, b, c, d, k, i, n, l] = header;
        let size = u32::from_le_bytes([a, b, c, d]) as usize;
        match (&name, &[k, i, n, l]) {
            (b"LIST", b"sdta") => at += header.len(),
            (b"smpl", _) => return Ok((at + 8).min(length)..at.saturating_add(8 + size).min(length)),
            _ => at = at.saturating_add(8 + size + size % 2),
        }
    }
    Ok(length..length)
}

/// A bank whose samples are read as they are loaded.
struct OnDisk {
    file: File,
    length: usize,
}

impl Store for OnDisk {
    fn len(&self) -> usize {
        self.length
    }

    fn read_at(&self, at: usize, bytes: &mut [u8]) {
        if let Err(error) = self.file.read_exact_at(bytes, at as u64) {
            tracing::warn!("a bank's samples at byte {at} cannot be read, and are silent: {error}");
        }
    }
}
