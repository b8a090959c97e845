//! Memory shared with the guest: the only place of the card with `unsafe`.
//!
//! Fed by the transport, which maps guest memory; feeds rings, intake and the doorbell page. There is never a Rust reference
//! to such memory: each access is atomic or volatile and checked against the bounds, and what was read is judged only as a private copy.

use crate::device::DmaMap;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A mapped range.
#[derive(Debug)]
struct SharedMemory {
    map: MmapRaw,
}

impl SharedMemory {
    /// The place of `len` bytes at `offset`, if they are inside.
    fn place(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.map.len());
        // SAFETY: inside the mapping by the check.
        inside.then(|| unsafe { self.map.as_mut_ptr().add(offset) })
    }

    fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.place(offset, 4)?.cast::<u32>();
        // SAFETY: inside the mapping, which lives as long as `self`; aligned by the check; all accesses on this side are atomic or
        // volatile, and the guest's are outside the abstract machine.
        place.is_aligned().then(|| unsafe { AtomicU32::from_ptr(place) })
    }

    fn word64(&self, offset: usize) -> Option<&AtomicU64> {
        let place = self.place(offset, 8)?.cast::<u64>();
        // SAFETY: as in `word32`.
        place.is_aligned().then(|| unsafe { AtomicU64::from_ptr(place) })
    }

    /// Copies out; the caller has checked the bounds, what is outside stays as it was.
    fn read(&self, offset: usize, out: &mut [u8]) {
        let Some(place) = self.place(offset, out.len()) else {
            return;
        };
        let words = if place.cast::<u64>().is_aligned() { out.len() / 8 } else { 0 };
        for (i, word) in out.as_chunks_mut::<8>().0.iter_mut().take(words).enumerate() {
            // SAFETY: inside by the check above, and aligned.
            *word = unsafe { place.cast::<u64>().add(i).read_volatile() }.to_ne_bytes();
        }
        for (i, byte) in out.iter_mut().enumerate().skip(words * 8) {
            // SAFETY: inside by the check above.
            *byte = unsafe { place.add(i).read_volatile() };
        }
    }

    /// Copies in; what is outside is dropped.
    fn write(&self, offset: usize, bytes: &[u8]) {
        let Some(place) = self.place(offset, bytes.len()) else {
            return;
        };
        let words = if place.cast::<u64>().is_aligned() { bytes.len() / 8 } else { 0 };
        for (i, chunk) in bytes.as_chunks::<8>().0.iter().take(words).enumerate() {
            // SAFETY: inside by the check above, and aligned.
            unsafe { place.cast::<u64>().add(i).write_volatile(u64::from_ne_bytes(*chunk)) };
        }
        for (i, byte) in bytes.iter().enumerate().skip(words * 8) {
            // SAFETY: inside by the check above.
            unsafe { place.add(i).write_volatile(*byte) };
        }
    }
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

    pub(crate) fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.memory.word32(offset).map_or(u32::MAX, |word| word.load(order))
    }

    pub(crate) fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        if let Some(word) = self.memory.word32(offset) {
            word.store(value, order);
        }
    }

    pub(crate) fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.memory.word64(offset).map_or(u64::MAX, |word| word.load(order))
    }

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
        self.maps.retain(|m| m.end() <= iova || m.iova >= end);
    }

    pub(crate) fn clear(&mut self) {
        self.maps.clear();
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
