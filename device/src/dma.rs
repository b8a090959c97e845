//! Memory shared with the guest: with the synthesizer's vector code, the only place of the card with `unsafe`.
//!
//! Fed by the transport, which maps guest memory; feeds the streams, and the doorbell page, which is here. There is
//! never a Rust reference to such memory: each access is atomic or volatile and checked against the bounds, and what
//! was read is judged only as a private copy.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

mod access;
mod guest;
pub mod owners;
mod sysex;
mod view;

use dmus_interface::pci::BAR_SIZE;
use dmus_interface::protocol::Page;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use access::{AccessError, DmaAccess, SHARE_HINT};
pub(crate) use guest::GuestMemory;
pub(crate) use view::{Layout, Pieces, Reach, SlotWords, StreamMemory, Translation, View};

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

/// Copies to or from shared memory. Never inlined: the compiler must not see that a private copy came from memory which
/// it could read again.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`], but other processes may write to either side meanwhile: then bytes old and new
/// are mixed.
#[inline(never)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// The doorbell page: a memfd that the guest maps too. A client keeps what it has mapped for as long as it likes, so
/// each one is given a page of its own.
#[derive(Debug)]
pub(crate) struct DoorbellPage {
    memory: SharedMemory,
    fd: OwnedFd,
}

impl DoorbellPage {
    /// The place of `width` bytes at `offset`, if they are inside and aligned.
    #[inline]
    fn place(&self, offset: usize, width: usize) -> Option<*mut u8> {
        let inside = offset <= BAR_SIZE as usize - width && offset.is_multiple_of(width);
        // SAFETY: `new` has mapped so many bytes, beginning with a page, so that the offset says how the place is
        // aligned.
        inside.then(|| unsafe { self.memory.map.as_mut_ptr().add(offset) })
    }

    pub(crate) fn new() -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("dmus-doorbell", flags)?;
        rustix::fs::ftruncate(&fd, u64::from(BAR_SIZE))?;
        // A client that shrank it would have the card fault; one that added seals would have others not map it.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = MmapOptions::new().len(BAR_SIZE as usize).map_raw(fd.as_raw_fd())?;
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

    /// Loads a word of 8 bytes, or of 4.
    pub(crate) fn load(&self, offset: usize, wide: bool) -> u64 {
        match wide {
            true => self.load_u64(offset, Ordering::Relaxed),
            false => self.load_u32(offset, Ordering::Relaxed).into(),
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
        // SAFETY: the place is aligned, inside the mapping, and lives as long as it; all accesses on this side are
        // atomic or volatile, and the guest's are outside the abstract machine.
        self.place(offset, 4).map_or(u32::MAX, |place| unsafe { AtomicU32::from_ptr(place.cast()) }.load(order))
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        if let Some(place) = self.place(offset, 4) {
            // SAFETY: as in `load_u32`.
            unsafe { AtomicU32::from_ptr(place.cast()) }.store(value, order);
        }
    }

    #[inline]
    fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        // SAFETY: as in `load_u32`.
        self.place(offset, 8).map_or(u64::MAX, |place| unsafe { AtomicU64::from_ptr(place.cast()) }.load(order))
    }

    #[inline]
    fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        if let Some(place) = self.place(offset, 8) {
            // SAFETY: as in `load_u32`.
            unsafe { AtomicU64::from_ptr(place.cast()) }.store(value, order);
        }
    }
}
