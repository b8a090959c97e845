//! The file of a capsule: blocks, each compressed and with a checksum of its own, so that what was cut off or damaged
//! ends the run at the last block before it.
//!
//! Fed by a recorder with bytes, which a thread of its own compresses and writes; feeds a replay with the same bytes.

use crc32fast::hash;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rustix::fs::{FlockOperation, flock, ftruncate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first bytes of a file.
const MAGIC: [u8; 8] = *b"dmuscaps";
/// Bytes in front of the first block.
const START: usize = MAGIC.len() + 4;
/// The version of the format.
pub(super) const VERSION: u32 = 2;
/// Bytes of a block, before it is compressed, at most, and as a rule.
const MAX_BLOCK: usize = 1 << 20;
pub(super) const BLOCK: usize = 64 << 10;
/// Bytes in front of a block: how many it has compressed and not, and the checksum of the compressed ones.
const HEAD: usize = 12;
/// Blocks that wait to be written at most, and how long a card waits for a place among them: what takes longer than
/// that is no file to record to.
const WAITING: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a capsule cannot be recorded or read.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody else writes to the file.
    #[error("another card records to it")]
    Taken,
    /// It does not begin as a capsule does.
    #[error("it is no capsule, as dmus-card serve --record writes them")]
    Foreign,
    /// By another version of this program.
    #[error("it has format {found}, and this card reads format {VERSION}: replay it with the card that recorded it")]
    Version {
        /// The format that it has.
        found: u32,
    },
    /// What the recording card and its driver agreed on is not what this card knows.
    #[error(
        "its card spoke version {found:#x} of the register interface, and this one speaks {known:#x}: replay it with \
         the card that recorded it"
    )]
    Interface {
        /// The recorded version.
        found: u32,
        /// This card's.
        known: u32,
    },
    /// It ends before the run begins.
    #[error("it ends before its first block does")]
    Empty,
    /// Its first block says what no card writes.
    #[error("its header is damaged: {0}")]
    Header(String),
}

/// Creates the file of a capsule, in place of what was there, for one recorder.
///
/// # Errors
/// The file cannot be written, or another card records to it.
pub fn create(path: &Path) -> Result<File, CapsuleError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(CapsuleError::Taken),
        // There are files that know no locks.
        Err(error) => tracing::debug!("{} is not locked: {error}", path.display()),
    }
    match ftruncate(&file, 0) {
        // A pipe has no length.
        Ok(()) | Err(Errno::INVAL) => Ok(file),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// What is to be written: what happened between turns and in them, by turns. They are put together by the thread that
/// writes, since what a turn has found on the page stands before its other records, and is known after them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) between: Vec<u8>,
    pub(super) turns: Vec<u8>,
    /// How many bytes of the one and then of the other follow.
    cuts: Vec<(usize, usize)>,
    /// How many are in the cuts.
    cut: (usize, usize),
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            between: Vec::with_capacity(BLOCK / 2),
            turns: Vec::with_capacity(BLOCK * 3 / 2),
            cuts: Vec::with_capacity(BLOCK / 16),
            cut: (0, 0),
        }
    }
}

impl Batch {
    pub(super) fn beginning_with(first: Vec<u8>) -> Self {
        let mut batch = Self::default();
        batch.between.extend_from_slice(&first);
        batch
    }

    pub(super) fn len(&self) -> usize {
        self.between.len() + self.turns.len()
    }

    /// Whether the turn under way has anything.
    pub(super) fn has_turn(&self) -> bool {
        self.turns.len() > self.cut.1
    }

    /// The turn under way is none.
    pub(super) fn drop_turn(&mut self) {
        self.turns.truncate(self.cut.1);
    }

    /// All of a turn is there, and what comes next is behind it.
    pub(super) fn end_turn(&mut self) {
        let end = (self.between.len(), self.turns.len());
        self.cuts.push((end.0 - self.cut.0, end.1 - self.cut.1));
        self.cut = end;
    }

    /// The bytes in their order.
    fn put_together(&self, out: &mut Vec<u8>) {
        let (mut between, mut turns) = (&self.between[..], &self.turns[..]);
        for (of_between, of_turns) in &self.cuts {
            for (rest, count) in [(&mut between, *of_between), (&mut turns, *of_turns)] {
                let (here, behind) = rest.split_at(count.min(rest.len()));
                out.extend_from_slice(here);
                *rest = behind;
            }
        }
        out.extend_from_slice(between);
    }

    fn clear(&mut self) {
        self.between.clear();
        self.turns.clear();
        self.cuts.clear();
        self.cut = (0, 0);
    }
}

/// Takes bytes and has them written.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: Option<SyncSender<Batch>>,
    spare: Receiver<Batch>,
    /// Nothing can be written any more, which was said.
    failed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread that writes; `name` is what the log calls the file.
    pub(crate) fn start(mut out: Box<dyn Write + Send>, name: String) -> io::Result<Self> {
        let (sender, batches) = sync_channel::<Batch>(WAITING);
        let (give_back, spare) = sync_channel(WAITING + 1);
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        let write = move || {
            let mut packer = Packer::default();
            let mut written = begin(&mut out);
            let mut bytes = Vec::new();
            for mut batch in batches {
                bytes.clear();
                batch.put_together(&mut bytes);
                if written.is_ok() {
                    written = bytes.chunks(MAX_BLOCK).try_for_each(|piece| out.write_all(packer.pack(piece)));
                }
                if let Err(error) = &written
                    && !has_failed.swap(true, Ordering::Relaxed)
                {
                    tracing::error!("the recording ends here, {name} cannot be written: {error}");
                }
                batch.clear();
                // There is always room, but when its card has gone.
                let _ = give_back.try_send(batch);
            }
            if written.is_ok()
                && let Err(error) = out.flush()
            {
                tracing::error!("the end of {name} may be missing: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("record".into()).spawn(write)?;
        Ok(Self { sender: Some(sender), spare, failed, thread: Some(thread) })
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Nothing is recorded any more, for this reason.
    pub(super) fn give_up(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!("the recording ends here: {why}");
        }
    }

    /// Passes a batch on, and gives an empty one. Waits for a slow disk, and gives a stuck one up.
    pub(super) fn pass(&self, batch: Batch) -> Batch {
        let since = Instant::now();
        let mut waiting = Some(batch);
        while let (Some(sender), Some(batch)) = (&self.sender, waiting.take()) {
            if self.has_failed() {
                break;
            }
            match sender.try_send(batch) {
                Ok(()) => break,
                Err(TrySendError::Full(batch)) if since.elapsed() < PATIENCE => {
                    waiting = Some(batch);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => self.give_up("its file takes nothing for ten seconds"),
            }
        }
        self.spare.try_recv().unwrap_or_default()
    }

    /// Waits until all is written.
    pub(super) fn finish(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the recording panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

fn begin(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())
}

/// Makes blocks.
#[derive(Debug)]
struct Packer {
    deflate: Compress,
    packed: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { deflate: Compress::new(Compression::fast(), false), packed: Vec::new() }
    }
}

impl Packer {
    /// The bytes of a block's file.
    fn pack(&mut self, bytes: &[u8]) -> &[u8] {
        self.deflate.reset();
        self.packed.clear();
        self.packed.resize(HEAD, 0);
        // Deflate stores what it cannot compress, in pieces of 32 KiB and more with five bytes each.
        self.packed.reserve(bytes.len() + bytes.len() / 1024 + 64);
        let packed = self.deflate.compress_vec(bytes, &mut self.packed, FlushCompress::Finish);
        debug_assert!(matches!(packed, Ok(Status::StreamEnd)));
        let (head, body) = self.packed.split_at_mut(HEAD);
        let words = [body.len() as u32, bytes.len() as u32, hash(body)];
        for (place, word) in head.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        &self.packed
    }
}

/// A file of these records, in blocks as a card writes them: for files that no card would write.
pub fn pack(records: &[u8]) -> Vec<u8> {
    let mut file = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    let mut packer = Packer::default();
    records.chunks(BLOCK).for_each(|block| file.extend_from_slice(packer.pack(block)));
    file
}

/// The records of a file, up to its last whole block.
///
/// # Errors
/// It is no capsule, or of another format.
pub fn unpack(file: &[u8]) -> Result<Vec<u8>, CapsuleError> {
    let (mut reader, mut records) = (Reader::new(file)?, Vec::new());
    while reader.read(&mut records)? {}
    Ok(records)
}

/// Where a capsule is read from.
pub(crate) trait Source {
    /// Appends the next bytes; false at the end.
    fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool>;
}

/// A capsule's file.
pub(crate) struct Reader<R> {
    file: R,
    packed: Vec<u8>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(mut file: R) -> Result<Self, CapsuleError> {
        let mut start = [0; START];
        if fill(&mut file, &mut start)? < start.len() || start[..MAGIC.len()] != MAGIC {
            return Err(CapsuleError::Foreign);
        }
        match start.last_chunk().map(|version| u32::from_le_bytes(*version)) {
            Some(VERSION) => Ok(Self { file, packed: Vec::new() }),
            found => Err(CapsuleError::Version { found: found.unwrap_or(0) }),
        }
    }
}

impl<R: Read> Source for Reader<R> {
    fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let mut head = [0; HEAD];
        let got = fill(&mut self.file, &mut head)?;
        let [packed, plain, checksum] =
            [0, 4, 8].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let (packed, plain) = (packed as usize, plain as usize);
        if got < HEAD || plain > MAX_BLOCK || packed > MAX_BLOCK + MAX_BLOCK / 64 {
            return Ok(false);
        }
        self.packed.resize(packed, 0);
        if fill(&mut self.file, &mut self.packed)? < packed || hash(&self.packed) != checksum {
            return Ok(false);
        }
        let before = out.len();
        out.reserve(plain);
        let inflated = Decompress::new(false).decompress_vec(&self.packed, out, FlushDecompress::Finish);
        if !matches!(inflated, Ok(Status::StreamEnd)) || out.len() - before != plain {
            out.truncate(before);
            return Ok(false);
        }
        Ok(true)
    }
}

/// Reads until the place is full or there is no more; says how many bytes came.
fn fill(file: &mut impl Read, place: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < place.len() {
        match file.read(&mut place[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that compress, and that do not.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let (any, few) = (prop::collection::vec(any::<u8>(), 0..3000), prop::collection::vec(0..3_u8, 0..3000));
        (any, few, 0..200_000_usize).prop_map(|(any, few, zeros)| [any, few, vec![0; zeros]].concat())
    }

    /// A file of these blocks, and where each ends.
    fn file(blocks: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut file, mut ends, mut packer) = (pack(&[]), Vec::new(), Packer::default());
        for block in blocks {
            file.extend_from_slice(packer.pack(block));
            ends.push(file.len());
        }
        (file, ends)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_come_back(bytes in bytes()) {
            prop_assert!(unpack(&pack(&bytes)).is_ok_and(|back| back == bytes));
        }

        #[test]
        fn a_file_that_is_cut_off_or_changed_gives_the_blocks_before_that(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..5),
            place in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let (mut file, ends) = file(&blocks);
            let at = place.index(file.len());
            let whole = blocks[..ends.iter().filter(|end| **end <= at).count()].concat();
            match unpack(&file[..at]) {
                Ok(back) => prop_assert!(at >= START && back == whole),
                Err(error) => prop_assert!(at < START && matches!(error, CapsuleError::Foreign)),
            }
            file[at] ^= change;
            match unpack(&file) {
                Ok(back) => prop_assert!(at >= START && back == whole),
                Err(error) => prop_assert!(at < START, "{error}"),
            }
        }
    }

    #[test]
    fn a_block_that_is_not_as_long_as_it_says_is_none() {
        let (good, _) = file(&[vec![7; 1000]]);
        for says in [0, 1, 999, 1001, MAX_BLOCK as u32, MAX_BLOCK as u32 + 1, u32::MAX] {
            let mut wrong = good.clone();
            wrong[START + 4..START + 8].copy_from_slice(&says.to_le_bytes());
            assert!(unpack(&wrong).is_ok_and(|records| records.is_empty()), "{says}");
        }
        for packed in [MAX_BLOCK as u32 * 2, u32::MAX] {
            let mut wrong = good.clone();
            wrong[START..START + 4].copy_from_slice(&packed.to_le_bytes());
            assert!(unpack(&wrong).is_ok_and(|records| records.is_empty()), "{packed}");
        }
    }
}
