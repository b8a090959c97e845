//! Volatile access to device registers and to memory that a loader or a device wrote.
//!
//! Fed by: `interrupts`, `pci`, `platform`, `boot`. Feeds: the memory bus. The only place with raw loads and stores of
//! this kind.

use core::ptr;

/// A range of addresses that is read and written one register at a time.
///
/// Every access is checked: outside the range or misaligned it panics, since an offset is this program's own doing.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
    len: usize,
}

impl Mmio {
    /// Names the range of `len` bytes at `base`.
    ///
    /// # Safety
    /// For as long as the value or a copy of it lives, the range is mapped and no Rust object lies in it, so that loads
    /// and stores there can't break an invariant of the language.
    pub const unsafe fn new(base: usize, len: usize) -> Self {
        Self { base, len }
    }

    /// The first address.
    pub fn as_ptr(self) -> *mut u8 {
        self.base as *mut u8
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a range of registers is never empty")]
    pub fn len(self) -> usize {
        self.len
    }

    /// Loads 16 bits.
    pub fn read16(self, offset: usize) -> u16 {
        let address = self.check(offset, 2) as *const u16;
        // SAFETY: as for `read32`.
        unsafe { ptr::read_volatile(address) }
    }

    /// Loads 32 bits.
    pub fn read32(self, offset: usize) -> u32 {
        let address = self.check(offset, 4) as *const u32;
        // SAFETY: `check` keeps the aligned access inside the range that `new` was promised to be mapped.
        unsafe { ptr::read_volatile(address) }
    }

    /// Stores 32 bits.
    pub fn write32(self, offset: usize, value: u32) {
        let address = self.check(offset, 4) as *mut u32;
        // SAFETY: as for `read32`, and no Rust object lies there.
        unsafe { ptr::write_volatile(address, value) }
    }

    /// Loads 64 bits.
    pub fn read64(self, offset: usize) -> u64 {
        let address = self.check(offset, 8) as *const u64;
        // SAFETY: as for `read32`.
        unsafe { ptr::read_volatile(address) }
    }

    fn check(self, offset: usize, size: usize) -> usize {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        let address = self.base.wrapping_add(offset);
        assert!(
            inside && address.is_multiple_of(size),
            "access of {size} bytes at offset {offset:#x} of the {:#x} bytes at {:#x}",
            self.len,
            self.base
        );
        address
    }
}
