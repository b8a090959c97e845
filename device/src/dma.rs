//! Memory shared with the guest: the only place of the card with `unsafe`.
//!
//! Fed by the transport, which maps guest memory; feeds rings, intake and the doorbell page. There is never a Rust reference
//! to such memory: each access is atomic or volatile and checked against the bounds, and what was read is judged only as a private copy.

use crate::device::DmaMap;
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

    #[inline]
    fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.place(offset, 4)?.cast::<u32>();
        // SAFETY: inside the mapping, which lives as long as `self`; aligned by the check; all accesses on this side are atomic or
        // volatile, and the guest's are outside the abstract machine.
        place.is_aligned().then(|| unsafe { AtomicU32::from_ptr(place) })
    }

    #[inline]
    fn word64(&self, offset: usize) -> Option<&AtomicU64> {
        let place = self.place(offset, 8)?.cast::<u64>();
        // SAFETY: as in `word32`.
        place.is_aligned().then(|| unsafe { AtomicU64::from_ptr(place) })
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

    #[inline]
    pub(crate) fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.memory.word32(offset).map_or(u32::MAX, |word| word.load(order))
    }

    #[inline]
    pub(crate) fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        if let Some(word) = self.memory.word32(offset) {
            word.store(value, order);
        }
    }

    #[inline]
    pub(crate) fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.memory.word64(offset).map_or(u64::MAX, |word| word.load(order))
    }

    #[inline]
    pub(crate) fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        if let Some(word) = self.memory.word64(offset) {
            word.store(value, order);
        }
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

/// Ranges that were translated once, for as long as the maps stay as they are.
#[derive(Debug)]
pub(crate) struct Windows<const N: usize> {
    generation: u64,
    /// `None`: a range is not wholly inside one map, or not aligned there.
    windows: Option<[Window; N]>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    place: *mut u8,
    len: usize,
}

// SAFETY: the place is only a number before `GuestMemory::views` makes it a view, which borrows the memory.
unsafe impl<const N: usize> Send for Windows<N> {}

impl<const N: usize> Windows<N> {
    /// Nothing is translated yet.
    pub(crate) const STALE: Self = Self { generation: u64::MAX, windows: None };
}

/// A range of guest memory, of which each access is checked against its length only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'m> {
    window: Window,
    memory: PhantomData<&'m GuestMemory>,
}

impl View<'_> {
    #[inline]
    fn place(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.window.len);
        // SAFETY: inside the window, which is inside a mapping that lives as long as the memory that this borrows.
        inside.then(|| unsafe { self.window.place.add(offset) })
    }

    /// Reads a little-endian u32 at a multiple of 4; all ones outside.
    #[inline]
    pub(crate) fn load_u32(&self, offset: usize) -> u32 {
        let place = self.place(offset, 4).filter(|_| offset.is_multiple_of(4));
        // SAFETY: inside by the check, aligned because the window is to 8; volatile, because the guest may write at any time.
        place.map_or(u32::MAX, |place| u32::from_le(unsafe { place.cast::<u32>().read_volatile() }))
    }

    /// Reads little-endian words at a multiple of 8.
    #[inline]
    pub(crate) fn words<const COUNT: usize>(&self, offset: usize) -> Option<[u64; COUNT]> {
        let place = self.place(offset, COUNT * 8).filter(|_| offset.is_multiple_of(8))?.cast::<u64>();
        // SAFETY: as in `load_u32`.
        Some(std::array::from_fn(|i| u64::from_le(unsafe { place.add(i).read_volatile() })))
    }

    /// Writes little-endian words at a multiple of 8; dropped outside.
    #[inline]
    pub(crate) fn store<const COUNT: usize>(&self, offset: usize, words: [u64; COUNT]) {
        if let Some(place) = self.place(offset, COUNT * 8).filter(|_| offset.is_multiple_of(8)) {
            for (i, word) in words.into_iter().enumerate() {
                // SAFETY: as in `load_u32`; only writable maps have windows that are written (see `Windows::translate`).
                unsafe { place.cast::<u64>().add(i).write_volatile(word.to_le()) };
            }
        }
    }

    /// Copies bytes out, once; says whether they are inside.
    #[inline]
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(place) = self.place(offset, out.len()) else {
            return false;
        };
        // SAFETY: inside by the check, and private memory does not overlap it; any bytes are valid.
        unsafe { copy(place, out.as_mut_ptr(), out.len()) };
        true
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
        self.maps
            .insert(at, Map { iova: map.iova, size: map.size, writable: map.writable && memory.is_some(), memory });
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

    /// Views of ranges that [`Self::translate`] has translated; `None` if that was before the latest change of the maps, or one of them is not
    /// accessible in one piece.
    #[inline]
    pub(crate) fn views<const N: usize>(&self, windows: &Windows<N>) -> Option<[View<'_>; N]> {
        let windows = windows.windows.filter(|_| windows.generation == self.generation)?;
        Some(windows.map(|window| View { window, memory: PhantomData }))
    }

    /// Whether the maps have changed since.
    #[inline]
    pub(crate) fn is_stale<const N: usize>(&self, windows: &Windows<N>) -> bool {
        windows.generation != self.generation
    }

    /// Translates ranges, given as address, bytes, and whether they will be written.
    pub(crate) fn translate<const N: usize>(&self, ranges: [(u64, usize, bool); N]) -> Windows<N> {
        let translated = ranges.map(|(iova, len, write)| {
            let (memory, offset) = self.whole(iova, len, write)?;
            let place = memory.place(offset, len)?;
            place.cast::<u64>().is_aligned().then_some(Window { place, len })
        });
        let nowhere = Window { place: std::ptr::null_mut(), len: 0 };
        let windows = translated.iter().all(Option::is_some).then(|| translated.map(|window| window.unwrap_or(nowhere)));
        Windows { generation: self.generation, windows }
    }

    /// Whether the range touches memory that the client has but does not share.
    pub(crate) fn is_unshared(&self, iova: u64) -> bool {
        self.at(iova).is_some_and(|m| m.memory.is_none())
    }

    fn at(&self, iova: u64) -> Option<&Map> {
        let i = self.maps.partition_point(|m| m.iova <= iova).checked_sub(1)?;
        self.maps.get(i).filter(|m| iova < m.end())
    }

    /// Walks a range map by map: neighbours may come from different files. `visit` gets the memory, the offset in it, and
    /// which bytes of the range these are.
    fn walk(
        &self,
        iova: u64,
        len: usize,
        write: bool,
        mut visit: impl FnMut(&SharedMemory, usize, std::ops::Range<usize>),
    ) -> Result<(), NotMapped> {
        let mut done = 0;
        while done < len {
            let here = iova.checked_add(done as u64).ok_or(NotMapped { iova })?;
            let map = self.at(here).filter(|m| m.writable || !write);
            let Some((map, memory)) = map.and_then(|m| Some((m, m.memory.as_ref()?))) else {
                return Err(NotMapped { iova: here });
            };
            let piece = (len - done).min((map.end() - here) as usize);
            visit(memory, (here - map.iova) as usize, done..done + piece);
            done += piece;
        }
        Ok(())
    }

    /// Whether the whole range may be read (and written, with `write`).
    pub(crate) fn covers(&self, iova: u64, len: u64, write: bool) -> bool {
        usize::try_from(len).is_ok_and(|len| self.walk(iova, len, write, |_, _, _| {}).is_ok())
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
        self.walk(iova, out.len(), false, |memory, at, range| memory.read(at, &mut out[range]))
    }

    /// Copies into guest memory. Nothing is written unless all of it can be.
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped> {
        if let Some((memory, at)) = self.whole(iova, bytes.len(), true) {
            memory.write(at, bytes);
            return Ok(());
        }
        self.walk(iova, bytes.len(), true, |_, _, _| {})?;
        self.walk(iova, bytes.len(), true, |memory, at, range| memory.write(at, &bytes[range]))
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
        assert!(memory.views(&Windows::<1>::STALE).is_none());
        let windows = memory.translate([(0x1100, 64, true), (0x1F00, 0x100, false)]);
        let [first, second] = memory.views(&windows).expect("views");
        first.store(8, [1, 2]);
        first.store(56, [3, 4]);
        assert_eq!((first.words(8), first.words::<2>(56), first.words::<1>(4)), (Some([1, 2]), None, None));
        assert_eq!((second.load_u32(0xFC), second.load_u32(0x100)), (0, u32::MAX));
        memory.unmap(0x1000, 4096);
        assert!(memory.views(&windows).is_none() && memory.is_stale(&windows));
        memory.map(map(0x1000, 4096, 0, &new, false)).expect("map");
        assert!(memory.views(&windows).is_none());
        assert!(memory.views(&memory.translate([(0x1100, 64, true)])).is_none(), "not to be written");
        assert!(memory.views(&memory.translate([(0x1104, 8, false)])).is_none(), "not aligned");
        assert!(memory.views(&memory.translate([(0x1FF8, 16, false)])).is_none(), "not in one piece");
        let windows = memory.translate([(0x1108, 8, false)]);
        assert_eq!(memory.views(&windows).expect("views")[0].words(0), Some([0]), "the new memory");
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
        assert!(!memory.covers(0x2000, 8, false) && memory.is_unshared(0x2000));
        memory.unmap(0, 1 << 47);
        assert!(!memory.covers(0x1000, 8, false));
    }
}
