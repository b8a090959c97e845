//! Memory that a driver in this process shares with the card: the doorbell page, and RAM for DMA.
//!
//! Fed by a descriptor of the card's page, or by the kernel; feeds the platforms. With the counting allocator of
//! `protocol_robustness`, the only `unsafe` of the tests.

use anyhow::Context;
use dmus_driver::PlatformError;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use memmap2::{MmapAsRawDesc, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::Cell;
use std::fs::File;
use std::ptr::NonNull;

/// Bytes of RAM.
pub const RAM: usize = 32 << 20;
/// Where the card sees it.
pub const RAM_IOVA: u64 = 0x10_0000;

/// The doorbell page, mapped.
pub struct Page {
    shared: SharedMemory,
    /// What it lives in.
    _map: MmapRaw,
}

impl Page {
    /// Maps `len` bytes of the card's page.
    pub fn map(file: impl MmapAsRawDesc, len: usize) -> anyhow::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file)?;
        let base = NonNull::new(map.as_mut_ptr()).context("null mapping")?;
        // SAFETY: the mapping lives as long as this value, which holds both, and is page aligned.
        let shared = unsafe { SharedMemory::new(base, map.len()) };
        Ok(Self { shared, _map: map })
    }

    /// The driver's view, which must not outlive the mapping.
    pub fn shared(&self) -> &SharedMemory {
        &self.shared
    }
}

/// RAM in a memfd, given out piece by piece.
pub struct Ram {
    /// What the card maps.
    pub file: File,
    /// Bytes of allocations that were not given back.
    pub outstanding: Cell<usize>,
    map: MmapRaw,
    next: Cell<usize>,
}

impl Ram {
    /// [`RAM`] zeroed bytes.
    pub fn new() -> anyhow::Result<Self> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, RAM as u64)?;
        let map = MmapOptions::new().len(RAM).map_raw(&file)?;
        Ok(Self { file: file.into(), outstanding: Cell::new(0), map, next: Cell::new(0) })
    }

    /// `Platform::dma_alloc`.
    pub fn allocate(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        let start = self.next.get().next_multiple_of(align.max(8));
        let end = start + len;
        if end > RAM {
            return Err(PlatformError::NoMemory(len));
        }
        self.next.set(end);
        self.outstanding.set(self.outstanding.get() + len);
        // SAFETY: a part of the mapping that nothing else is given, which lives as long as the platform; 8-byte
        // aligned.
        let memory = unsafe { SharedMemory::new(NonNull::new_unchecked(self.map.as_mut_ptr().add(start)), len) };
        Ok(DmaMemory { memory, iova: RAM_IOVA + start as u64 })
    }

    /// `Platform::dma_free`. When all is given back, it begins anew.
    pub fn release(&self, memory: &DmaMemory) {
        self.outstanding.set(self.outstanding.get() - memory.memory.len());
        if self.outstanding.get() == 0 {
            self.next.set(0);
        }
    }

    /// Writes over memory as a card may: whatever it was given out for.
    pub fn scribble(&self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            if offset + i < RAM {
                // SAFETY: inside the mapping; all other accesses to it are volatile or atomic.
                unsafe { self.map.as_mut_ptr().add(offset + i).write_volatile(*byte) };
            }
        }
    }

    /// Forgets every allocation: for tests that set up many streams, one after the other, and forget them.
    pub fn restart(&self) {
        self.outstanding.set(0);
        self.next.set(0);
    }
}
