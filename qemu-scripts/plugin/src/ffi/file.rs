//! The owners map as the plugin sees it, mapped.
//!
//! Fed by the card with marks; feeds the card with records. All accesses are atomic or, for the body of a record, as
//! bytes that a reader judges by the record's sequence.

use dmus_interface::owners::{
    ASKED, DOORBELL_PAGE, HEADER_SIZE, HELD, JUDGED, Layout, LayoutError, RECORD_SIZE, Record, Ring, STOPPING, STOPS,
    WATCHING,
};
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use zerocopy::IntoBytes;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Layout(#[from] LayoutError),
}

/// See the module.
pub(crate) struct OwnersFile {
    map: MmapRaw,
    layout: Layout,
}

impl OwnersFile {
    /// Maps it, and says in it that somebody watches.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut header = [0; HEADER_SIZE];
        file.read_exact_at(&mut header, 0)?;
        let layout = Layout::decode(&header, file.metadata()?.len())?;
        let len = usize::try_from(layout.file_size()).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        let file = Self { map, layout };
        if let Some(watching) = file.word(WATCHING) {
            watching.store(1, Ordering::Release);
        }
        Ok(file)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A byte of the map; 0 outside of the file.
    #[inline]
    pub(crate) fn byte(&self, offset: u64) -> u8 {
        // SAFETY: `place` gives a place inside the mapping, which lives as long as `self`; bytes of the map are only
        // accessed atomically.
        self.place(offset, 1).map_or(0, |place| unsafe { AtomicU8::from_ptr(place) }.load(Ordering::Relaxed))
    }

    /// Where the guest sees the doorbell page, or 0.
    #[inline]
    pub(crate) fn doorbell_page(&self) -> u64 {
        // SAFETY: as in `byte`; the offset is a multiple of 8 and the mapping begins with a page.
        self.place(DOORBELL_PAGE, 8)
            .map_or(0, |place| unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Relaxed))
    }

    /// Whether the guest is to be held at a mistake. It does not change.
    pub(crate) fn is_stopping(&self) -> bool {
        self.word(STOPPING).is_some_and(|word| word.load(Ordering::Acquire) == 1)
    }

    /// Asks the card to judge all that the guest has stored; gives the number of the question.
    pub(crate) fn ask(&self) -> u32 {
        self.word(ASKED).map_or(0, |word| word.fetch_add(1, Ordering::AcqRel).wrapping_add(1))
    }

    /// Whether that question is answered.
    pub(crate) fn is_judged(&self, question: u32) -> bool {
        self.word(JUDGED).is_none_or(|word| word.load(Ordering::Acquire).wrapping_sub(question).cast_signed() >= 0)
    }

    /// Mistakes to hold the guest at, so far.
    #[inline]
    pub(crate) fn stops(&self) -> u32 {
        self.word(STOPS).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Says that a vCPU is held for the last of so many.
    pub(crate) fn set_held(&self, stops: u32) {
        if let Some(word) = self.word(HELD) {
            word.store(stops, Ordering::Release);
        }
    }

    /// Writes the next record of a ring. The caller sees to it that one is written at a time.
    pub(crate) fn push(&self, ring: Ring, record: impl FnOnce(u32) -> Record) {
        let Some(next) = self.word(ring.next()) else {
            return;
        };
        let number = next.load(Ordering::Relaxed);
        let place = ring.record(number);
        let (Some(sequence), Some(body)) = (self.word(place), self.place(place, RECORD_SIZE as usize)) else {
            return;
        };
        let record = record(number);
        sequence.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let bytes = &record.as_bytes()[4..];
        // SAFETY: inside the mapping by `place`, behind the sequence; the record is private memory. The card may read
        // meanwhile: it throws away what it copied when the sequence is 0 or changes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), body.add(4), bytes.len()) };
        sequence.store(record.sequence.get(), Ordering::Release);
        next.store(number.wrapping_add(1), Ordering::Release);
    }

    fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let place = self.place(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: as in `byte`, and aligned by the check.
        Some(unsafe { AtomicU32::from_ptr(place.cast()) })
    }

    /// The place of some bytes, if they are inside.
    #[inline]
    fn place(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.map.len());
        // SAFETY: inside the mapping by the check.
        inside.then(|| unsafe { self.map.as_mut_ptr().add(offset) })
    }
}
