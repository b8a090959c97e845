//! DMA memory: pages of this process that the card sees below 4 GiB, mapped a chunk at a time and cut up.
//!
//! Fed by `platform`, with the IOMMU; feeds it with memory for rings, pools and buffers. One of the two modules here
//! with `unsafe`.
//!
//! A mapping goes through the IOMMU a page at a time, and inside a virtual machine each page costs a message to the
//! emulator: so chunks are huge pages where there are any, and whatever fits into a chunk shares its mapping.

use dmus_driver::dma::{DmaMemory, SharedMemory};
use pci_driver::iommu::PciIommu;
use pci_driver::regions::Permissions;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::ops::Range;
use std::ptr::{NonNull, null_mut};

/// Bytes of a huge page, and of its alignment on both sides.
const HUGE: usize = 2 << 20;
/// What chunks of ordinary pages are a multiple of.
const SMALL: usize = 64 << 10;
/// The first address that events with 4-byte pointers cannot name.
const TOP: u64 = 1 << 32;

/// All DMA memory of a card.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Addresses that the IOMMU takes.
    valid: Vec<Range<u64>>,
    chunks: Vec<Chunk>,
}

/// Pages that are mapped, and what of them is free.
#[derive(Debug)]
struct Chunk {
    pages: Pages,
    iova: u64,
    free: Spans,
    /// The card's view was taken away: nothing more is given out.
    revoked: bool,
}

impl Memory {
    /// None yet. The ends of the IOMMU's ranges are inclusive.
    pub(crate) fn new(iommu: &PciIommu<'_>) -> Self {
        let below = |range: &Range<u64>| range.start..range.end.saturating_add(1).min(TOP);
        let valid = iommu.valid_iova_ranges().iter().map(below).filter(|range| range.start < range.end).collect();
        Self { valid, chunks: Vec::new() }
    }

    /// Zeroed memory, aligned to `align` on both sides.
    pub(crate) fn allocate(&mut self, iommu: &PciIommu<'_>, len: usize, align: usize) -> io::Result<DmaMemory> {
        let aligned = len.max(1).next_multiple_of(64);
        let align = align.max(64);
        let taken = self.chunks.iter_mut().enumerate().filter(|(_, chunk)| !chunk.revoked);
        let taken = taken.filter_map(|(index, chunk)| Some((index, chunk.free.take(aligned, align)?))).next();
        let (index, offset) = match taken {
            Some(place) => place,
            None => {
                let index = self.grow(iommu, aligned, Permissions::ReadWrite)?;
                let offset = self.chunks[index].free.take(aligned, align).ok_or(io::ErrorKind::OutOfMemory)?;
                (index, offset)
            }
        };
        let memory = self.chunks[index].part(offset, len).ok_or(io::ErrorKind::OutOfMemory)?;
        // It may have been another's.
        for at in (0..len).step_by(4096) {
            memory.memory.write(at, &[0; 4096][..(len - at).min(4096)]);
        }
        Ok(memory)
    }

    /// Takes memory of [`Self::allocate`] back.
    pub(crate) fn free(&mut self, memory: &DmaMemory) {
        if let Some(chunk) = self.chunk_of(memory.iova) {
            let offset = (memory.iova - chunk.iova) as usize;
            chunk.free.give(offset, memory.memory.len().max(1).next_multiple_of(64));
        }
    }

    /// Maps a new chunk with room for `len` bytes, with which the card may do so much, and gives its number.
    pub(crate) fn grow(&mut self, iommu: &PciIommu<'_>, len: usize, card: Permissions) -> io::Result<usize> {
        let pages = Pages::new(len)?;
        let align = if pages.huge { HUGE } else { iommu.alignment() };
        let taken = self.chunks.iter().map(|chunk| chunk.iova..chunk.iova + chunk.pages.len as u64);
        let iova = gap(&self.valid, taken, pages.len as u64, align as u64)
            .ok_or_else(|| io::Error::other("no addresses below 4 GiB are left for the card"))?;
        // SAFETY: the pages are this value's own until they are unmapped from the IOMMU, in `release`, and nothing but
        // `SharedMemory`, which expects other writers, gives access to them.
        unsafe { iommu.map(iova, pages.len, pages.base.as_ptr(), card) }?;
        self.chunks.push(Chunk { free: Spans::whole(pages.len), pages, iova, revoked: false });
        Ok(self.chunks.len() - 1)
    }

    /// Memory in a chunk of its own, which the card may only read, and whose mapping [`Self::revoke`] may take away.
    pub(crate) fn allocate_apart(&mut self, iommu: &PciIommu<'_>, len: usize) -> io::Result<DmaMemory> {
        let index = self.grow(iommu, len, Permissions::Read)?;
        let chunk = &mut self.chunks[index];
        chunk.free = Spans::default();
        chunk.part(0, len).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Takes the card's view of the chunk at `iova` away; the driver's stays.
    pub(crate) fn revoke(&mut self, iommu: &PciIommu<'_>, iova: u64) -> io::Result<()> {
        let chunk = self.chunk_of(iova).ok_or(io::ErrorKind::NotFound)?;
        iommu.unmap(chunk.iova, chunk.pages.len)?;
        chunk.revoked = true;
        Ok(())
    }

    /// Unmaps everything: the card must be quiet.
    pub(crate) fn release(&mut self, iommu: &PciIommu<'_>) {
        for chunk in self.chunks.drain(..) {
            if !chunk.revoked && iommu.unmap(chunk.iova, chunk.pages.len).is_err() {
                // The card may still reach them: they are better lost than used for something else.
                std::mem::forget(chunk.pages);
            }
        }
    }

    fn chunk_of(&mut self, iova: u64) -> Option<&mut Chunk> {
        self.chunks.iter_mut().find(|chunk| (chunk.iova..chunk.iova + chunk.pages.len as u64).contains(&iova))
    }
}

impl Chunk {
    /// A part, if it is inside.
    fn part(&self, offset: usize, len: usize) -> Option<DmaMemory> {
        offset.checked_add(len).filter(|end| *end <= self.pages.len)?;
        // SAFETY: inside the pages, and aligned, as all spans are. `Spans` gives a part out once; the platform keeps
        // the pages mapped for as long as there is a card, which every stream borrows. Nothing makes a reference to
        // them.
        let memory = unsafe { SharedMemory::new(self.pages.base.add(offset), len) };
        Some(DmaMemory { memory, iova: self.iova + offset as u64 })
    }
}

/// Pages of this process, zeroed, unmapped when dropped.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: usize,
    huge: bool,
}

impl Pages {
    /// Room for `len` bytes: in huge pages if the machine has some free.
    fn new(len: usize) -> io::Result<Self> {
        let huge = len.next_multiple_of(HUGE);
        Self::map(huge, MapFlags::HUGETLB | MapFlags::HUGE_2MB, true)
            .or_else(|_| Self::map(len.next_multiple_of(SMALL), MapFlags::empty(), false))
    }

    fn map(len: usize, flags: MapFlags, huge: bool) -> io::Result<Self> {
        let flags = flags | MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, huge })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and used by nobody any more: what was given out lives no longer than the platform.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

// SAFETY: plain memory that this value owns.
unsafe impl Send for Pages {}

/// The lowest `len` addresses, aligned, inside one of the `valid` ranges and apart from the `taken` ones.
fn gap(valid: &[Range<u64>], taken: impl Iterator<Item = Range<u64>> + Clone, len: u64, align: u64) -> Option<u64> {
    valid.iter().find_map(|range| {
        let mut at = range.start.next_multiple_of(align);
        while at + len <= range.end {
            // Each hit lies behind the one before: no more turns than there are taken ranges.
            match taken.clone().find(|taken| taken.start < at + len && at < taken.end) {
                Some(hit) => at = hit.end.next_multiple_of(align),
                None => return Some(at),
            }
        }
        None
    })
}

/// Free parts of a chunk, by offset; neighbours are one.
#[derive(Debug, Default)]
struct Spans(Vec<Range<usize>>);

impl Spans {
    fn whole(len: usize) -> Self {
        Self(vec![Range { start: 0, end: len }])
    }

    /// Takes `len` bytes at an aligned offset.
    fn take(&mut self, len: usize, align: usize) -> Option<usize> {
        let fits =
            |span: &Range<usize>| span.start.next_multiple_of(align).checked_add(len).is_some_and(|e| e <= span.end);
        let index = self.0.iter().position(fits)?;
        let span = self.0[index].clone();
        let start = span.start.next_multiple_of(align);
        let left = [span.start..start, start + len..span.end];
        self.0.splice(index..=index, left.into_iter().filter(|span| !span.is_empty()));
        Some(start)
    }

    /// Gives a taken part back.
    fn give(&mut self, start: usize, len: usize) {
        let index = self.0.partition_point(|span| span.start < start);
        self.0.insert(index, start..start + len);
        if self.0.get(index + 1).is_some_and(|next| next.start == start + len) {
            self.0[index].end = self.0.remove(index + 1).end;
        }
        if index > 0 && self.0[index - 1].end == start {
            self.0[index - 1].end = self.0.remove(index).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_clear_of_each_other_and_of_what_the_iommu_refuses() {
        let valid = [0x1000..0x40_0000, 0x50_0000..0x90_0000];
        let none = || std::iter::empty();
        assert_eq!(gap(&valid, none(), 0x20_0000, 0x20_0000), Some(0x20_0000));
        let taken = || std::iter::once(0x20_0000..0x40_0000);
        assert_eq!(gap(&valid, taken(), 0x20_0000, 0x20_0000), Some(0x60_0000));
        assert_eq!(gap(&valid, taken(), 0x1_0000, 0x1000), Some(0x1000));
        let taken = [0x1000..0x1_0000, 0x1_2000..0x40_0000];
        assert_eq!(gap(&valid, taken.iter().cloned(), 0x2000, 0x1000), Some(0x1_0000));
        assert_eq!(gap(&valid, taken.iter().cloned(), 0x3000, 0x1000), Some(0x50_0000));
        assert_eq!(gap(&valid, none(), 0x50_0000, 0x1000), None);
    }

    #[test]
    fn what_is_taken_is_apart_and_all_that_is_given_back_is_one_again() {
        let mut spans = Spans::whole(4096);
        let mut taken: Vec<Range<usize>> = vec![];
        for (len, align) in [(64, 64), (1024, 1024), (192, 64), (256, 256), (64, 64)] {
            let start = spans.take(len, align).expect("there is room");
            assert!(start.is_multiple_of(align));
            assert!(taken.iter().all(|other| other.end <= start || start + len <= other.start), "{start} {taken:?}");
            taken.push(start..start + len);
        }
        assert_eq!(spans.take(4096, 64), None);
        for index in [3, 0, 4, 1, 2] {
            spans.give(taken[index].start, taken[index].len());
        }
        assert_eq!(spans.0, [Range { start: 0, end: 4096 }]);
    }

    #[test]
    fn pages_are_zeroed_and_go() -> io::Result<()> {
        let pages = Pages::new(100)?;
        assert!(pages.len >= 100 && pages.len.is_multiple_of(4096));
        let shared = Chunk { free: Spans::default(), iova: 7, revoked: false, pages };
        let memory = shared.part(64, 36).expect("it is inside");
        let mut bytes = [1; 36];
        assert!(memory.memory.read(0, &mut bytes) && bytes == [0; 36] && memory.iova == 71);
        assert!(shared.part(usize::MAX, 2).is_none());
        Ok(())
    }
}
