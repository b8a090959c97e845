//! Memory shared with the guest: the only place of the card with `unsafe`.
//!
//! Fed by the transport, which maps guest memory; feeds rings, intake and the doorbell page. There is never a Rust reference
//! to such memory: each access is atomic or volatile and checked against the bounds, and what was read is judged only as a private copy.

use crate::device::DmaMap;
use dmus_interface::protocol::Page;
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A mapped range.
#[derive(Debug)]
struct SharedMemory {
    map: MmapRaw,
}

impl SharedMemory {
    /// The place of `len` bytes at `offset`, if they are inside.
    #[inline]
    fn place(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.map.len());
        // SAFETY: inside the mapping by the check.
        inside.then(|| unsafe { self.map.as_mut_ptr().add(offset) })
    }

    /// Copies out; the caller has checked the bounds, what is outside stays as it was.
    fn read(&self, offset: usize, out: &mut [u8]) {
        if let Some(place) = self.place(offset, out.len()) {
            // SAFETY: inside by the check, and private memory does not overlap it; any bytes are valid.
            unsafe { copy(place, out.as_mut_ptr(), out.len()) };
        }
    }

    /// Copies in; what is outside is dropped.
    fn write(&self, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.place(offset, bytes.len()) {
            // SAFETY: as in `read`.
            unsafe { copy(bytes.as_ptr(), place, bytes.len()) };
        }
    }
}

/// Copies to or from shared memory. Never inlined: the compiler must not see that a private copy came from memory which it could
/// read again.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`], but other processes may write to either side meanwhile: then bytes old and new are mixed.
#[inline(never)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// The doorbell page: a memfd that the guest maps too.
#[derive(Debug)]
pub(crate) struct DoorbellPage {
    memory: SharedMemory,
    fd: OwnedFd,
}

impl DoorbellPage {
    #[inline]
    fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.memory.place(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: inside the mapping, which lives as long as `self` and begins with a page, so that the offset says how it is aligned; all
        // accesses on this side are atomic or volatile, and the guest's are outside the abstract machine.
        Some(unsafe { AtomicU32::from_ptr(place.cast()) })
    }

    #[inline]
    fn word64(&self, offset: usize) -> Option<&AtomicU64> {
        let place = self.memory.place(offset, 8).filter(|_| offset.is_multiple_of(8))?;
        // SAFETY: as in `word32`.
        Some(unsafe { AtomicU64::from_ptr(place.cast()) })
    }

    pub(crate) fn new() -> io::Result<Self> {
        let size = dmus_interface::pci::BAR_SIZE;
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("dmus-doorbell", flags)?;
        rustix::fs::ftruncate(&fd, u64::from(size))?;
        // A client that shrank it would have the card fault.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        let map = MmapOptions::new().len(size as usize).map_raw(fd.as_raw_fd())?;
        Ok(Self { memory: SharedMemory { map }, fd })
    }

    pub(crate) fn fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    pub(crate) fn zero(&self) {
        for offset in (0..self.memory.map.len()).step_by(8) {
            self.store_u64(offset, 0, Ordering::Relaxed);
        }
    }

    /// Trapped accesses to the page, from a client that does not map it.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0xFF);
        self.memory.read(offset, data);
    }

    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        self.memory.write(offset, data);
    }
}

impl Page for DoorbellPage {
    #[inline]
    fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.word32(offset).map_or(u32::MAX, |word| word.load(order))
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        if let Some(word) = self.word32(offset) {
            word.store(value, order);
        }
    }

    #[inline]
    fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.word64(offset).map_or(u64::MAX, |word| word.load(order))
    }

    #[inline]
    fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word64(offset) {
            word.store(value, order);
        }
    }
}

/// An address that no map covers, or not with that access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no shared guest memory at {iova:#x}")]
pub(crate) struct NotMapped {
    pub(crate) iova: u64,
}

#[derive(Debug)]
struct Map {
    iova: u64,
    size: u64,
    writable: bool,
    /// `None`: the client did not share it.
    memory: Option<SharedMemory>,
}

impl Map {
    fn end(&self) -> u64 {
        self.iova + self.size
    }
}

/// The guest memory that the card may access, ordered by address.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    maps: Vec<Map>,
    /// Changes with every map: what was translated before is void.
    generation: u64,
}

/// Where the parts of a stream are in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) pool: u64,
    pub(crate) slots: u32,
    /// Bytes from slot to slot.
    pub(crate) stride: u32,
    pub(crate) buffers: u64,
    pub(crate) buffer_bytes: usize,
    /// Rings: address and entries.
    pub(crate) submissions: (u64, u32),
    pub(crate) completions: (u64, u32),
}

/// The parts of a stream, translated once for as long as the maps stay as they are.
#[derive(Debug)]
pub(crate) struct Windows {
    generation: u64,
    /// `None`: some part is not wholly inside one map, or not aligned.
    places: Option<Places>,
    remote: bool,
}

#[derive(Clone, Copy, Debug)]
struct Places {
    pool: *mut u64,
    slots: u32,
    /// Words from slot to slot.
    stride: usize,
    buffers: *mut u8,
    buffer_bytes: usize,
    submissions: *mut u32,
    submission_mask: u32,
    completions: *mut u64,
    completion_mask: u32,
}

// SAFETY: the places are only numbers before `GuestMemory::view` makes them a view, which borrows the memory.
unsafe impl Send for Windows {}

impl Windows {
    /// Nothing is translated yet.
    pub(crate) const STALE: Self = Self { generation: u64::MAX, places: None, remote: false };

    /// Whether every part is accessible in one piece.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.places.is_some()
    }

    /// Whether the client has some of these parts and does not share it.
    #[inline]
    pub(crate) fn is_remote(&self) -> bool {
        self.remote
    }
}

/// The parts of a stream in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamMemory<'m> {
    places: Places,
    memory: PhantomData<&'m GuestMemory>,
}

impl StreamMemory<'_> {
    /// Slots in the pool.
    #[inline]
    pub(crate) fn slots(&self) -> u32 {
        self.places.slots
    }

    /// The slot number in a submission ring entry, by its free-running index.
    #[inline]
    pub(crate) fn submission(&self, index: u32) -> u32 {
        let entry = (index & self.places.submission_mask) as usize;
        // SAFETY: `translate` has checked that the whole ring, whose entries the mask numbers, is inside a mapping which lives as long as the
        // memory that this borrows, and is aligned; volatile, because the guest may write at any time.
        u32::from_le(unsafe { self.places.submissions.add(entry).read_volatile() })
    }

    /// The words of a slot, once, but for the byte position, which nothing depends on.
    #[inline]
    pub(crate) fn event(&self, slot: u32) -> Option<[u64; 4]> {
        if slot >= self.places.slots {
            return None;
        }
        // SAFETY: as in `submission`; a slot has at least eight words.
        let place = unsafe { self.places.pool.add(slot as usize * self.places.stride) };
        // SAFETY: the same.
        Some([0, 1, 3, 4].map(|word| u64::from_le(unsafe { place.add(word).read_volatile() })))
    }

    /// Writes a completion ring entry, by its free-running index.
    #[inline]
    pub(crate) fn complete(&self, index: u32, words: [u64; 2]) {
        let entry = (index & self.places.completion_mask) as usize;
        let place = self.places.completions;
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as in `submission`; the map of this ring is writable.
            unsafe { place.add(entry * 2 + i).write_volatile(word.to_le()) };
        }
    }

    /// Copies from the buffers, once; says whether the range is inside them.
    #[inline]
    pub(crate) fn long_data(&self, offset: usize, out: &mut [u8]) -> bool {
        let inside = offset.checked_add(out.len()).is_some_and(|end| end <= self.places.buffer_bytes);
        if inside {
            // SAFETY: as in `submission`, by the check; private memory does not overlap it, and any bytes are valid.
            unsafe { copy(self.places.buffers.add(offset), out.as_mut_ptr(), out.len()) };
        }
        inside
    }
}

impl GuestMemory {
    /// Adds a map. Overlapping, empty and overflowing ones are refused.
    pub(crate) fn map(&mut self, map: DmaMap) -> io::Result<()> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let Some(end) = map.iova.checked_add(map.size) else {
            return invalid("the range overflows");
        };
        if map.size == 0 {
            return invalid("the range is empty");
        }
        let at = self.maps.partition_point(|m| m.iova < map.iova);
        let before = at.checked_sub(1).and_then(|i| self.maps.get(i));
        let after = self.maps.get(at);
        if before.is_some_and(|m| m.end() > map.iova) || after.is_some_and(|m| m.iova < end) {
            return invalid("the range overlaps another map");
        }
        let memory = match &map.file {
            Some(file) => Some(Self::open(&map, file)?),
            None => None,
        };
        self.generation += 1;
        self.maps.insert(at, Map { iova: map.iova, size: map.size, writable: map.writable, memory });
        Ok(())
    }

    fn open(map: &DmaMap, file: &std::fs::File) -> io::Result<SharedMemory> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "the range does not fit the file");
        let len = usize::try_from(map.size).map_err(|_| too_large())?;
        let end = map.offset.checked_add(map.size).ok_or_else(too_large)?;
        pin_size(file)?;
        // Beyond the end of the file an access would be a bus error.
        if file.metadata()?.len() < end {
            return Err(too_large());
        }
        let mut options = MmapOptions::new();
        options.offset(map.offset).len(len);
        let map = if map.writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        Ok(SharedMemory { map })
    }

    /// Removes every map that overlaps the range.
    pub(crate) fn unmap(&mut self, iova: u64, size: u64) {
        let end = iova.saturating_add(size);
        self.generation += 1;
        self.maps.retain(|m| m.end() <= iova || m.iova >= end);
    }

    pub(crate) fn clear(&mut self) {
        self.generation += 1;
        self.maps.clear();
    }

    /// A view of what [`Self::translate`] has translated; `None` if that was before the latest change of the maps, or a part is not
    /// accessible in one piece.
    #[inline]
    pub(crate) fn view(&self, windows: &Windows) -> Option<StreamMemory<'_>> {
        let places = windows.places.filter(|_| windows.generation == self.generation)?;
        Some(StreamMemory { places, memory: PhantomData })
    }

    /// Whether the maps, or the right to use them, have changed since.
    #[inline]
    pub(crate) fn is_stale(&self, windows: &Windows) -> bool {
        windows.generation != self.generation
    }

    /// Translates the parts of a stream; to nothing if they may not be accessed.
    pub(crate) fn translate(&self, layout: &Layout, allowed: bool) -> Windows {
        let places = self.places(layout).filter(|_| allowed);
        let parts = [
            (layout.pool, u64::from(layout.slots) * u64::from(layout.stride)),
            (layout.buffers, layout.buffer_bytes as u64),
            (layout.submissions.0, u64::from(layout.submissions.1) * SUBMISSION_SIZE as u64),
            (layout.completions.0, u64::from(layout.completions.1) * COMPLETION_SIZE as u64),
        ];
        let remote = places.is_none() && parts.into_iter().any(|(iova, len)| self.has_unshared(iova, len));
        Windows { generation: self.generation, places, remote }
    }

    /// Makes void what was translated so far.
    pub(crate) fn renew(&mut self) {
        self.generation += 1;
    }

    fn places(&self, layout: &Layout) -> Option<Places> {
        let range = |iova, len: usize, write| {
            let (memory, offset) = self.whole(iova, len, write)?;
            memory.place(offset, len).filter(|place| place.cast::<u64>().is_aligned())
        };
        let Layout { slots, stride, .. } = *layout;
        let ring = |(iova, entries): (u64, u32), entry: usize, write| {
            let place = range(iova, entries as usize * entry, write)?;
            entries.is_power_of_two().then_some((place, entries - 1))
        };
        let pool = range(layout.pool, slots as usize * stride as usize, false)?;
        let buffers = match layout.buffer_bytes {
            0 => pool,
            bytes => range(layout.buffers, bytes, false)?,
        };
        let (submissions, submission_mask) = ring(layout.submissions, 4, false)?;
        let (completions, completion_mask) = ring(layout.completions, 16, true)?;
        (stride.is_multiple_of(8) && stride >= 64).then_some(Places {
            pool: pool.cast(),
            slots,
            stride: stride as usize / 8,
            buffers,
            buffer_bytes: layout.buffer_bytes,
            submissions: submissions.cast(),
            submission_mask,
            completions: completions.cast(),
            completion_mask,
        })
    }

    /// Whether the range touches memory that the client has but does not share.
    fn has_unshared(&self, iova: u64, len: u64) -> bool {
        let first = self.maps.partition_point(|m| m.end() <= iova);
        let end = iova.saturating_add(len);
        self.maps[first..].iter().take_while(|m| m.iova < end).any(|m| m.memory.is_none())
    }

    fn at(&self, iova: u64) -> Option<&Map> {
        let i = self.maps.partition_point(|m| m.iova <= iova).checked_sub(1)?;
        self.maps.get(i).filter(|m| iova < m.end())
    }

    /// Walks a range map by map: neighbours may come from different files. `visit` gets the memory if it is shared, the offset in it,
    /// and which bytes of the range these are; it says whether that will do.
    fn walk(
        &self,
        iova: u64,
        len: usize,
        write: bool,
        mut visit: impl FnMut(Option<&SharedMemory>, usize, std::ops::Range<usize>) -> bool,
    ) -> Result<(), NotMapped> {
        let mut done = 0;
        while done < len {
            let here = iova.checked_add(done as u64).ok_or(NotMapped { iova })?;
            let map = self.at(here).filter(|m| m.writable || !write).ok_or(NotMapped { iova: here })?;
            let piece = (len - done).min(usize::try_from(map.end() - here).unwrap_or(usize::MAX));
            if !visit(map.memory.as_ref(), (here - map.iova) as usize, done..done + piece) {
                return Err(NotMapped { iova: here });
            }
            done += piece;
        }
        Ok(())
    }

    /// Whether the whole range is shared and may be read (and written, with `write`).
    pub(crate) fn covers(&self, iova: u64, len: u64, write: bool) -> bool {
        usize::try_from(len).is_ok_and(|len| self.walk(iova, len, write, |memory, _, _| memory.is_some()).is_ok())
    }

    /// Whether the whole range may be read (and written, with `write`), be it by messages.
    pub(crate) fn allows(&self, iova: u64, len: u64, write: bool) -> bool {
        usize::try_from(len).is_ok_and(|len| self.walk(iova, len, write, |_, _, _| true).is_ok())
    }

    /// The memory of a range that one map covers, and the offset in it: nearly every access.
    fn whole(&self, iova: u64, len: usize, write: bool) -> Option<(&SharedMemory, usize)> {
        let map = self.at(iova).filter(|m| m.end() - iova >= len as u64 && (m.writable || !write))?;
        Some((map.memory.as_ref()?, (iova - map.iova) as usize))
    }

    /// Copies guest memory out, once.
    pub(crate) fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), NotMapped> {
        if let Some((memory, at)) = self.whole(iova, out.len(), false) {
            memory.read(at, out);
            return Ok(());
        }
        self.walk(iova, out.len(), false, |memory, at, range| {
            memory.map(|memory| memory.read(at, &mut out[range])).is_some()
        })
    }

    /// Copies into guest memory. Nothing is written unless all of it can be.
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped> {
        if let Some((memory, at)) = self.whole(iova, bytes.len(), true) {
            memory.write(at, bytes);
            return Ok(());
        }
        self.walk(iova, bytes.len(), true, |memory, _, _| memory.is_some())?;
        self.walk(iova, bytes.len(), true, |memory, at, range| {
            memory.map(|memory| memory.write(at, &bytes[range])).is_some()
        })
    }
}

/// Sees to it that a memfd cannot shrink: an access beyond its new end would be a bus error, and the end of the card. Ordinary files
/// have no seals, and are trusted with their size.
fn pin_size(file: &std::fs::File) -> io::Result<()> {
    let cannot = |_| {
        let why = "it could shrink, and cannot be sealed: leave QEMU's memory-backend-memfd at seal=on";
        io::Error::new(io::ErrorKind::PermissionDenied, why)
    };
    match rustix::fs::fcntl_get_seals(file) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(()),
        Ok(_) => rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK).map_err(cannot),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn memfd(size: u64) -> File {
        sealable(size, rustix::fs::MemfdFlags::ALLOW_SEALING)
    }

    fn sealable(size: u64, flags: rustix::fs::MemfdFlags) -> File {
        let fd = rustix::fs::memfd_create("test", flags | rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&fd, size).expect("size");
        File::from(fd)
    }

    fn map(iova: u64, size: u64, offset: u64, file: &File, writable: bool) -> DmaMap {
        let file = Some(file.try_clone().expect("clone"));
        DmaMap { iova, size, offset, file, writable }
    }

    #[test]
    fn copies_cross_neighbouring_maps_and_stop_at_holes() {
        let (a, b) = (memfd(8192), memfd(4096));
        let mut memory = GuestMemory::default();
        memory.map(map(0x2000, 4096, 0, &b, true)).expect("map");
        memory.map(map(0x1000, 4096, 4096, &a, true)).expect("map");
        let data: Vec<u8> = (0..100).collect();
        for offset in [0x1FF1, 0x1FE0] {
            memory.write(offset, &data).expect("write");
            let mut back = vec![0; 100];
            memory.read(offset, &mut back).expect("read");
            assert_eq!(back, data);
        }
        let missing = memory.write(0x2FF0, &data);
        assert_eq!(missing, Err(NotMapped { iova: 0x3000 }));
        let mut tail = [1; 16];
        memory.read(0x2FF0, &mut tail).expect("read");
        assert_eq!(tail, [0; 16], "a write that does not fit changes nothing");
    }

    #[test]
    fn translations_end_with_the_maps_that_they_are_of() {
        let (old, new) = (memfd(4096), memfd(4096));
        let mut memory = GuestMemory::default();
        memory.map(map(0x1000, 4096, 0, &old, true)).expect("map");
        assert!(memory.view(&Windows::STALE).is_none());
        let layout = Layout {
            pool: 0x1000,
            slots: 4,
            stride: 64,
            buffers: 0x1200,
            buffer_bytes: 64,
            submissions: (0x1100, 4),
            completions: (0x1140, 4),
        };
        let windows = memory.translate(&layout, true);
        let view = memory.view(&windows).expect("a view");
        let words = [1u64, 2, 3, 4, 5].map(u64::to_le_bytes);
        memory.write(0x10C0, words.as_flattened()).expect("an event");
        assert_eq!((view.event(3), view.event(4), view.slots()), (Some([1, 2, 4, 5]), None, 4));
        memory.write(0x110C, &7u32.to_le_bytes()).expect("an entry");
        assert_eq!((view.submission(3), view.submission(7), view.submission(4)), (7, 7, 0));
        view.complete(5, [8, 9]);
        let mut entry = [0; 16];
        memory.read(0x1150, &mut entry).expect("an entry");
        assert_eq!(entry, *[8u64, 9].map(u64::to_le_bytes).as_flattened());
        assert!(view.long_data(60, &mut [0; 4]) && !view.long_data(60, &mut [0; 5]));
        assert!(!view.long_data(usize::MAX, &mut [0; 5]));
        memory.unmap(0x1000, 4096);
        assert!(memory.view(&windows).is_none() && memory.is_stale(&windows));
        memory.map(map(0x1000, 4096, 0, &new, true)).expect("map");
        assert!(memory.view(&windows).is_none());
        let windows = memory.translate(&layout, true);
        assert_eq!(memory.view(&windows).expect("a view").event(3), Some([0; 4]), "the new memory");
        for wrong in [
            Layout { pool: 0x1F40, ..layout },
            Layout { pool: 0x1004, ..layout },
            Layout { stride: 32, ..layout },
            Layout { buffers: 0x2000, ..layout },
            Layout { submissions: (0x1104, 4), ..layout },
            Layout { submissions: (0x1FF8, 4), ..layout },
            Layout { completions: (0x1140, 3), ..layout },
        ] {
            assert!(memory.view(&memory.translate(&wrong, true)).is_none(), "{wrong:x?}");
        }
        memory.unmap(0x1000, 4096);
        memory.map(map(0x1000, 4096, 0, &new, false)).expect("map");
        assert!(memory.view(&memory.translate(&layout, true)).is_none(), "not to be written");
        assert!(memory.view(&memory.translate(&Layout { completions: layout.submissions, ..layout }, false)).is_none());
    }

    #[test]
    fn bad_maps_are_refused() {
        let file = memfd(8192);
        let mut memory = GuestMemory::default();
        memory.map(map(0x1000, 4096, 0, &file, true)).expect("map");
        for bad in [
            map(0x1800, 4096, 0, &file, true),
            map(0x0, 0x1001, 0, &file, true),
            map(0x9000, 0, 0, &file, true),
            map(u64::MAX - 100, 4096, 0, &file, true),
            map(0x9000, 4096, 8192, &file, true),
            map(0x9000, 16384, 0, &file, true),
        ] {
            assert!(memory.map(bad).is_err());
        }
        assert!(memory.covers(0x1000, 4096, true) && !memory.covers(0x1000, 4097, false));
    }

    #[test]
    fn memory_can_not_shrink_once_it_is_mapped() {
        let mut memory = GuestMemory::default();
        let file = memfd(8192);
        memory.map(map(0x1000, 8192, 0, &file, true)).expect("map");
        assert!(rustix::fs::ftruncate(&file, 0).is_err());
        let unsealable = sealable(8192, rustix::fs::MemfdFlags::empty());
        let refused = memory.map(map(0x9000, 8192, 0, &unsealable, true));
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::PermissionDenied));
        let ordinary = tempfile::tempfile().expect("file");
        ordinary.set_len(8192).expect("size");
        memory.map(map(0x9000, 8192, 0, &ordinary, true)).expect("an ordinary file");
    }

    #[test]
    fn read_only_and_unshared_memory_is_respected() {
        let file = memfd(4096);
        let mut memory = GuestMemory::default();
        memory.map(map(0x1000, 4096, 0, &file, false)).expect("map");
        memory.map(DmaMap { file: None, ..map(0x2000, 4096, 0, &file, true) }).expect("map");
        assert!(memory.covers(0x1000, 8, false) && !memory.covers(0x1000, 8, true));
        assert!(!memory.covers(0x2000, 8, false) && memory.allows(0x2000, 8, true));
        assert!(memory.allows(0x1FFC, 8, false) && !memory.allows(0x1FFC, 8, true) && !memory.allows(0x2FFC, 8, false));
        assert_eq!(memory.read(0x1FFC, &mut [0; 8]), Err(NotMapped { iova: 0x2000 }));
        let layout = |pool| Layout {
            pool,
            slots: 4,
            stride: 64,
            buffers: 0,
            buffer_bytes: 0,
            submissions: (0x1100, 4),
            completions: (0x1140, 4),
        };
        let remote = |memory: &GuestMemory, pool| memory.translate(&layout(pool), true).is_remote();
        assert!(
            !remote(&memory, 0x1000) && remote(&memory, 0x1F80) && remote(&memory, 0x2F80) && !remote(&memory, 0x3000)
        );
        memory.unmap(0, 1 << 47);
        assert!(!memory.covers(0x1000, 8, false));
    }
}
