//! The memory allocator, and the memory that the card reads and writes.
//!
//! Fed by: `boot` (which memory is free). Feeds: `alloc`, and `platform` with DMA memory. Physical and virtual
//! addresses are the same.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ops::Range;
use core::ptr::NonNull;

use linked_list_allocator::LockedHeap;

use crate::boot::MemoryMap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Less than this is no machine for a guest: 8 MiB.
const SMALLEST: u64 = 8 << 20;

/// There is not enough free memory in one piece.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the largest free piece of memory has {0} bytes, {SMALLEST} are needed: give QEMU more (-m 128M)")]
pub(crate) struct TooLittleMemory(u64);

/// Gives the largest free piece of memory to the allocator, and returns which it is. Called once.
pub(crate) fn init(map: &MemoryMap) -> Result<Range<u64>, TooLittleMemory> {
    let largest = map.regions().iter().max_by_key(|region| region.end - region.start).cloned().unwrap_or(0..0);
    let len = largest.end - largest.start;
    if len < SMALLEST {
        return Err(TooLittleMemory(len));
    }
    // SAFETY: the loader says that the piece is free memory, it is identity mapped (below 4 GiB), it is apart from the
    // image, and it is handed out only here, once.
    unsafe { HEAP.lock().init(largest.start as *mut u8, len as usize) };
    Ok(largest)
}

/// Memory for the card: `len` zeroed bytes in one physical piece, with their address as the card sees it.
///
/// `align` is a power of two. `None` if there is not enough memory.
pub(crate) fn dma_alloc(len: usize, align: usize) -> Option<(NonNull<u8>, u64)> {
    // SAFETY: `dma_layout` never gives a size of zero.
    let pointer = NonNull::new(unsafe { alloc_zeroed(dma_layout(len, align)?) })?;
    Some((pointer, pointer.as_ptr() as u64))
}

/// Takes memory of `dma_alloc` back.
///
/// # Safety
/// `memory` came from `dma_alloc` with the same `len` and `align`, and nothing uses it any more.
pub(crate) unsafe fn dma_free(memory: NonNull<u8>, len: usize, align: usize) {
    if let Some(layout) = dma_layout(len, align) {
        // SAFETY: the caller's promise; the layout is the one of the allocation.
        unsafe { dealloc(memory.as_ptr(), layout) };
    }
}

/// Whole cache lines, so that the card's data never share one with the guest's own.
fn dma_layout(len: usize, align: usize) -> Option<Layout> {
    let len = len.max(1).checked_next_multiple_of(64)?;
    Layout::from_size_align(len, align.max(64)).ok()
}
