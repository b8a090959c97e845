//! The guest memory that the card may access: maps by address, and copies to and from them.
//!
//! Fed by the transport with maps; feeds whoever reads or writes by address, and the views of streams with places.

use super::{SHARE_HINT, SharedMemory};
use crate::device::DmaMap;
use memmap2::MmapOptions;
use rustix::fs::{FsWord, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Maps of memory that a replay does not have, at most: a client has no more.
const MOST_ABSENT: usize = 1 << 16;

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
    /// Where it begins in its file.
    offset: u64,
    writable: bool,
    /// Whether the client shares it, in a way that cannot end the card.
    shared: bool,
    /// The memory, if it is shared and this is no replay.
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
    pub(super) generation: u64,
    /// The log says already that this client shares memory which cannot be mapped.
    logged: bool,
}

impl GuestMemory {
    /// Adds a map. Overlapping, empty and overflowing ones are refused. What could end the card counts as not shared.
    pub(crate) fn map(&mut self, map: DmaMap) -> io::Result<()> {
        let at = self.place(map.iova, map.size)?;
        let memory = match &map.file {
            Some(file) => self.open(&map, file)?,
            None => None,
        };
        let DmaMap { iova, size, offset, writable, .. } = map;
        self.insert(at, Map { iova, size, offset, writable, shared: memory.is_some(), memory });
        Ok(())
    }

    /// Adds a map of memory that is not there.
    pub(crate) fn map_absent(&mut self, iova: u64, size: u64, writable: bool, shared: bool) -> io::Result<()> {
        if self.maps.len() >= MOST_ABSENT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are too many maps"));
        }
        let at = self.place(iova, size)?;
        self.insert(at, Map { iova, size, offset: 0, writable, shared, memory: None });
        Ok(())
    }

    fn insert(&mut self, at: usize, map: Map) {
        self.generation += 1;
        self.maps.insert(at, map);
    }

    /// Where among the maps one belongs.
    fn place(&self, iova: u64, size: u64) -> io::Result<usize> {
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let Some(end) = iova.checked_add(size) else {
            return invalid("the range overflows");
        };
        if size == 0 {
            return invalid("the range is empty");
        }
        let at = self.maps.partition_point(|m| m.iova < iova);
        let before = at.checked_sub(1).and_then(|i| self.maps.get(i));
        let after = self.maps.get(at);
        if before.is_some_and(|m| m.end() > iova) || after.is_some_and(|m| m.iova < end) {
            return invalid("the range overlaps another map");
        }
        Ok(at)
    }

    fn open(&mut self, map: &DmaMap, file: &File) -> io::Result<Option<SharedMemory>> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "the range does not fit the file");
        let len = usize::try_from(map.size).map_err(|_| too_large())?;
        let end = map.offset.checked_add(map.size).ok_or_else(too_large)?;
        if let Err(error) = seal(file) {
            if !std::mem::replace(&mut self.logged, true) {
                tracing::warn!("the guest's memory is not mapped: {error}; {SHARE_HINT}");
            }
            return Ok(None);
        }
        // Beyond the end of the file an access would be a bus error.
        let size = fstat(file)?.st_size;
        if u64::try_from(size).unwrap_or(0) < end {
            return Err(too_large());
        }
        let mut options = MmapOptions::new();
        options.offset(map.offset).len(len);
        let map = if map.writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        Ok(Some(SharedMemory { map }))
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
        self.logged = false;
    }

    fn at(&self, iova: u64) -> Option<&Map> {
        let i = self.maps.partition_point(|m| m.iova <= iova).checked_sub(1)?;
        self.maps.get(i).filter(|m| iova < m.end())
    }

    /// Walks a range map by map: neighbours may come from different files. `visit` gets each, the
    /// offset in it, and which bytes of the range these are; it says whether that will do.
    fn walk(
        &self,
        iova: u64,
        len: usize,
        write: bool,
        mut visit: impl FnMut(&Map, usize, std::ops::Range<usize>) -> bool,
    ) -> Result<(), NotMapped> {
        let mut done = 0;
        while done < len {
            let here = iova.checked_add(done as u64).ok_or(NotMapped { iova })?;
            let map = self.at(here).filter(|m| m.writable || !write).ok_or(NotMapped { iova: here })?;
            let piece = (len - done).min(usize::try_from(map.end() - here).unwrap_or(usize::MAX));
            let offset = usize::try_from(here - map.iova).map_err(|_| NotMapped { iova: here })?;
            if !visit(map, offset, done..done + piece) {
                return Err(NotMapped { iova: here });
            }
            done += piece;
        }
        Ok(())
    }

    /// Where in its file a range is, as offsets and bytes, as far as it is shared. Pages that follow one another behind
    /// an IOMMU may be anywhere.
    pub(crate) fn file_pieces(&self, iova: u64, bytes: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = iova.saturating_add(bytes);
        let first = self.maps.partition_point(|map| map.end() <= iova);
        let maps = self.maps[first..].iter().take_while(move |map| map.iova < end);
        maps.filter(|map| map.memory.is_some()).map(move |map| {
            let (start, end) = (iova.max(map.iova), end.min(map.end()));
            (map.offset + (start - map.iova), end - start)
        })
    }

    /// Whether the whole range is shared and may be read (and written, with `write`).
    pub(crate) fn covers(&self, iova: u64, len: u64, write: bool) -> bool {
        usize::try_from(len).is_ok_and(|len| self.walk(iova, len, write, |map, _, _| map.shared).is_ok())
    }

    /// Whether the whole range may be read (and written, with `write`), be it by messages.
    pub(crate) fn allows(&self, iova: u64, len: u64, write: bool) -> bool {
        usize::try_from(len).is_ok_and(|len| self.walk(iova, len, write, |_, _, _| true).is_ok())
    }

    /// The memory of a range that one map covers, and the offset in it: nearly every access.
    pub(super) fn whole(&self, iova: u64, len: usize, write: bool) -> Option<(&SharedMemory, usize)> {
        let map = self.at(iova).filter(|m| m.end() - iova >= len as u64 && (m.writable || !write))?;
        Some((map.memory.as_ref()?, usize::try_from(iova - map.iova).ok()?))
    }

    /// Copies guest memory out, once.
    pub(crate) fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), NotMapped> {
        if let Some((memory, at)) = self.whole(iova, out.len(), false) {
            memory.read(at, out);
            return Ok(());
        }
        self.walk(iova, out.len(), false, |map, at, range| {
            map.memory.as_ref().map(|memory| memory.read(at, &mut out[range])).is_some()
        })
    }

    /// Copies into guest memory. Nothing is written unless all of it can be.
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped> {
        if let Some((memory, at)) = self.whole(iova, bytes.len(), true) {
            memory.write(at, bytes);
            return Ok(());
        }
        self.walk(iova, bytes.len(), true, |map, _, _| map.memory.is_some())?;
        self.walk(iova, bytes.len(), true, |map, at, range| {
            map.memory.as_ref().map(|memory| memory.write(at, &bytes[range])).is_some()
        })
    }
}

/// What says that an access to memory can be a bus error, which would be the end of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum BusError {
    #[error("it is a file of a kind that can shrink while it is mapped")]
    Shrinks,
    #[error("it is in huge pages, and of one that is given back there may be no other")]
    HugePages,
    #[error("it can shrink while it is mapped, and the seal against that is refused ({0})")]
    Unsealed(Errno),
}

/// Sees to it that no access to mapped memory is a bus error: it is a memfd that is sealed against shrinking. A hole
/// that is punched into one reads as zeros.
fn seal(file: &File) -> Result<(), BusError> {
    let file_system = fstatfs(file).map_err(BusError::Unsealed)?.f_type;
    check_kind(file_system)?;
    // Files of tmpfs that are no memfds have a seal against seals.
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    if sealed { Ok(()) } else { fcntl_add_seals(file, SealFlags::SHRINK).map_err(BusError::Unsealed) }
}

/// Memfds are files of tmpfs, or of hugetlbfs.
fn check_kind(file_system: FsWord) -> Result<(), BusError> {
    match file_system {
        libc::TMPFS_MAGIC => Ok(()),
        libc::HUGETLBFS_MAGIC => Err(BusError::HugePages),
        _ => Err(BusError::Shrinks),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, SlotWords, StreamMemory, Translation};
    use super::*;

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
    fn neighbours_by_address_may_be_far_apart_in_their_file() {
        let file = memfd(16384);
        let mut memory = GuestMemory::default();
        memory.map(map(0x1000, 4096, 8192, &file, true)).expect("map");
        memory.map(map(0x2000, 4096, 0, &file, true)).expect("map");
        memory.map(DmaMap { iova: 0x3000, size: 4096, offset: 0, file: None, writable: true }).expect("map");
        memory.map(map(0x5000, 4096, 4096, &file, true)).expect("map");
        let pieces = |iova, bytes| memory.file_pieces(iova, bytes).collect::<Vec<_>>();
        assert_eq!(pieces(0x1010, 16), [(8208, 16)]);
        assert_eq!(pieces(0x1FF0, 32), [(12272, 16), (0, 16)]);
        assert_eq!(pieces(0x2FFF, 0x2002), [(4095, 1), (4096, 1)]);
        assert_eq!([pieces(0x3000, 4096), pieces(0x6000, u64::MAX), pieces(0x1000, 0)], [const { vec![] }; 3]);
    }

    #[test]
    fn translations_end_with_the_maps_that_they_are_of() {
        let (old, new) = (memfd(4096), memfd(4096));
        let mut memory = GuestMemory::default();
        memory.map(map(0x1000, 4096, 0, &old, true)).expect("map");
        assert!(memory.view(&Translation::STALE).is_none());
        let layout = Layout {
            pool: 0x1000,
            slots: 4,
            stride: 64,
            buffers: 0x1200,
            buffer_bytes: 64,
            submissions: (0x1100, 4),
            completions: (0x1140, 4),
        };
        let translation = memory.translate(&layout, true);
        let mut view = memory.view(&translation).expect("a view");
        let words = [1u64, 2, 3, 4, 5].map(u64::to_le_bytes);
        memory.write(0x10C0, words.as_flattened()).expect("an event");
        let words = |header, time, pointer, data| Some(SlotWords { header, time, pointer, data });
        assert_eq!((view.slot(3), view.slot(4)), (words(1, 2, 4, 5), None));
        memory.write(0x110C, &7u32.to_le_bytes()).expect("an entry");
        assert_eq!([3, 7, 4].map(|index| view.submission(index)), [Some(7), Some(7), Some(0)]);
        view.complete(5, &[[8, 9], [10, 11]]).expect("entries");
        let mut entries = [0; 32];
        memory.read(0x1150, &mut entries).expect("entries");
        assert_eq!(entries, *[8u64, 9, 10, 11].map(u64::to_le_bytes).as_flattened());
        memory.write(0x123C, &[0xF0, 1, 2, 0xF7]).expect("a message");
        let mut copied = [0; 4];
        assert_eq!((view.copy(60, &mut copied), copied), (Some(true), [0xF0, 1, 2, 0xF7]));
        assert_eq!(view.copy(60, &mut [0; 3]), Some(false), "not all of it");
        let beyond = [60, usize::MAX].map(|offset| view.copy(offset, &mut [0; 5]));
        assert_eq!(beyond, [None, None], "beyond the buffers");
        memory.unmap(0x1000, 4096);
        assert!(memory.view(&translation).is_none() && memory.is_stale(&translation));
        memory.map(map(0x1000, 4096, 0, &new, true)).expect("map");
        assert!(memory.view(&translation).is_none());
        let translation = memory.translate(&layout, true);
        assert_eq!(memory.view(&translation).expect("a view").slot(3), words(0, 0, 0, 0), "the new memory");
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
        // What is punched out of it reads as zeros.
        memory.write(0x1000, &[1; 8192]).expect("write");
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, hole, 0, 8192).expect("a hole");
        let mut back = [1; 8192];
        memory.read(0x1000, &mut back).expect("read");
        assert_eq!(back, [0; 8192]);
    }

    #[test]
    fn memory_that_may_end_in_a_bus_error_is_not_mapped() {
        use rustix::fs::MemfdFlags;
        let unsealable = sealable(8192, MemfdFlags::empty());
        let in_tmpfs = tempfile::tempfile_in("/dev/shm").expect("file");
        let huge = sealable(2 << 20, MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
        let ordinary = File::open(std::env::current_exe().expect("this program")).expect("file");
        for (file, error) in [
            (&unsealable, BusError::Unsealed(Errno::PERM)),
            (&in_tmpfs, BusError::Unsealed(Errno::PERM)),
            (&huge, BusError::HugePages),
            (&ordinary, BusError::Shrinks),
        ] {
            assert_eq!(seal(file), Err(error));
            let mut memory = GuestMemory::default();
            memory.map(map(0x1000, 4096, 0, file, false)).expect("map");
            assert!(memory.allows(0x1000, 4096, false) && !memory.covers(0x1000, 1, false));
        }
        // Where the kernel makes no memfd in huge pages, a file of hugetlbfs would look so.
        assert_eq!(check_kind(libc::HUGETLBFS_MAGIC), Err(BusError::HugePages));
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
        memory.unmap(0, 1 << 47);
        assert!(!memory.covers(0x1000, 8, false));
    }
}
