//! Memory that a device sees too: the only place of the driver core with `unsafe`.
//!
//! Fed by a platform, which maps or allocates it; feeds the rings, the pool and the doorbell page. There is never a
//! Rust reference to such memory: each access is volatile or atomic, and checked against the bounds.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_lossless)]

use crate::Platform;
use crate::shadow::SlotState;
use alloc::boxed::Box;
use core::cell::Cell;
use core::fmt::{self, Debug, Formatter};
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::BAR_SIZE;
use dmus_interface::protocol::Page;

/// A range of memory shared with the device. Words are loaded and stored through [`Page`].
///
/// An access beyond the end reads as all ones or is dropped, as on a bus.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the range is owned by this value (see `new`), and every access goes through atomics or volatile copies that
// tolerate other writers, so it may move to another thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Takes over a range of shared memory.
    ///
    /// # Safety
    /// `base` is aligned to 8 bytes, and `len` bytes from it stay mapped, readable and writable, and are accessed by no
    /// Rust reference, for as long as this value lives.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// A range of nothing.
    const fn empty() -> Self {
        Self { base: NonNull::<u64>::dangling().cast(), len: 0 }
    }

    /// Bytes in the range.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Start of the range, for the platform that takes it back.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether `width` bytes at `offset` are inside, and naturally aligned.
    #[inline]
    fn holds(&self, offset: usize, width: usize) -> bool {
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.len);
        inside && offset.is_multiple_of(width)
    }

    #[inline]
    fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        // SAFETY: in bounds and aligned (the base is aligned to 8); mapped for the life of `self`, and all
        // accesses in this process are atomic or volatile.
        self.holds(offset, 4).then(|| unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    #[inline]
    fn word64(&self, offset: usize) -> Option<&AtomicU64> {
        // SAFETY: as in `word32`.
        self.holds(offset, 8).then(|| unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// The place of `len` bytes at `offset`, if they are inside.
    fn span(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: inside the range by the check.
        inside.then(|| unsafe { self.base.as_ptr().add(offset) })
    }

    /// Copies bytes in, from `offset` on; returns whether they fit (else nothing is written).
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(place) = self.span(offset, bytes.len()) else {
            return false;
        };
        // SAFETY: in bounds by `span`, and private memory does not overlap it. In this process nothing else accesses it
        // during the call; a device that does gets old and new bytes mixed.
        unsafe { copy(bytes.as_ptr(), place, bytes.len()) };
        true
    }

    /// Copies bytes out, from `offset` on; returns whether they were there (else nothing is read).
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> bool {
        let Some(place) = self.span(offset, bytes.len()) else {
            return false;
        };
        // SAFETY: as in `write`; any bytes are valid.
        unsafe { copy(place, bytes.as_mut_ptr(), bytes.len()) };
        true
    }
}

impl Page for SharedMemory {
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

/// The doorbell page of a card, which is known to be a whole one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorbellPage<'m> {
    base: NonNull<u8>,
    memory: PhantomData<&'m SharedMemory>,
}

impl<'m> DoorbellPage<'m> {
    /// `None` if it is less than a page.
    pub(crate) fn new(memory: &'m SharedMemory) -> Option<Self> {
        (memory.len >= BAR_SIZE as usize).then_some(Self { base: memory.base, memory: PhantomData })
    }

    /// The place of `width` bytes at `offset`, if they are inside and aligned.
    #[inline]
    fn place(&self, offset: usize, width: usize) -> Option<*mut u8> {
        let inside = offset <= BAR_SIZE as usize - width && offset.is_multiple_of(width);
        // SAFETY: `new` has checked that so many bytes are there.
        inside.then(|| unsafe { self.base.as_ptr().add(offset) })
    }
}

impl Page for DoorbellPage<'_> {
    #[inline]
    fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        // SAFETY: inside and aligned (the base is aligned to 8); mapped for as long as the memory that this borrows,
        // and all accesses in this process are atomic or volatile.
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

/// Copies to or from shared memory. Never inlined: the compiler must not see that a private copy came from memory which
/// it could read again.
///
/// # Safety
/// As [`ptr::copy_nonoverlapping`].
#[inline(never)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
}

/// A part of a stream's memory. Whoever accesses it unchecked owns it: it goes back only when its owner is dropped.
pub(crate) struct Part<'c> {
    dma: DmaMemory,
    /// Where it goes back to. Nowhere, while the card may still write to it.
    platform: Option<&'c dyn Platform>,
}

impl<'c> Part<'c> {
    pub(crate) fn new(dma: DmaMemory) -> Self {
        Self { dma, platform: None }
    }

    /// The card is done with it: it goes back to where it came from with its owner.
    pub(crate) fn return_to(&mut self, platform: &'c dyn Platform) {
        self.platform = Some(platform);
    }
}

impl Deref for Part<'_> {
    type Target = DmaMemory;

    #[inline]
    fn deref(&self) -> &DmaMemory {
        &self.dma
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if let Some(platform) = self.platform {
            platform.dma_free(core::mem::replace(&mut self.dma, DmaMemory::NONE));
        }
    }
}

impl Debug for Part<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.dma.fmt(formatter)
    }
}

/// The event pool: slots of eight words, each with its state in the private shadow.
#[derive(Debug)]
pub(crate) struct Pool<'c> {
    memory: Part<'c>,
    shadow: Box<[Cell<SlotState>]>,
}

impl<'c> Pool<'c> {
    /// Distance of the slots: the smallest that the card takes.
    pub(crate) const STRIDE: usize = 64;

    /// The pool in memory that has room for it, else as many slots as there is room for.
    pub(crate) fn new(memory: DmaMemory, slots: u32) -> Self {
        let room = memory.memory.len() / Self::STRIDE;
        let shadow = (0..room.min(slots as usize)).map(|_| Cell::new(SlotState::FREE)).collect();
        Self { shadow, memory: Part::new(memory) }
    }

    pub(crate) fn return_to(&mut self, platform: &'c dyn Platform) {
        self.memory.return_to(platform);
    }

    /// The states of all slots.
    #[inline]
    pub(crate) fn shadow(&self) -> &[Cell<SlotState>] {
        &self.shadow
    }

    /// A slot of the pool, and its state; `None` for a number that is no slot's.
    #[inline]
    pub(crate) fn slot(&self, slot: u64) -> Option<(SlotPlace<'_>, &Cell<SlotState>)> {
        let slot = usize::try_from(slot).ok()?;
        let state = self.shadow.get(slot)?;
        // SAFETY: `new` has checked that all slots are inside the memory, and there is a shadow for no others.
        let base = unsafe { self.memory.memory.base.add(slot * Self::STRIDE).cast() };
        Some((SlotPlace { base, memory: PhantomData }, state))
    }

    /// Copies bytes of a slot out, from `offset` on; whether they were there.
    pub(crate) fn read(&self, slot: u32, offset: usize, bytes: &mut [u8]) -> bool {
        self.memory.memory.read(slot as usize * Self::STRIDE + offset, bytes)
    }

    /// Copies bytes into a slot, from `offset` on; whether they fit.
    pub(crate) fn write(&self, slot: u32, offset: usize, bytes: &[u8]) -> bool {
        self.memory.memory.write(slot as usize * Self::STRIDE + offset, bytes)
    }

    /// The device's address of a slot.
    pub(crate) fn iova(&self, slot: u32) -> u64 {
        self.memory.iova + u64::from(slot) * Self::STRIDE as u64
    }
}

/// A slot of the pool, which is the driver's alone until it publishes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotPlace<'m> {
    base: NonNull<u64>,
    memory: PhantomData<&'m Pool<'m>>,
}

impl SlotPlace<'_> {
    /// Stores a word, by its number.
    #[inline]
    pub(crate) fn store<const WORD: usize>(&self, value: u64) {
        const { assert!(WORD * 8 < Pool::STRIDE) };
        // SAFETY: the slot is inside the pool that this borrows, and aligned. Nobody else in this process accesses it,
        // and what publishes it, the store of the tail, releases this store too.
        unsafe { self.base.as_ptr().add(WORD).write(value.to_le()) };
    }

    /// Stores a whole event without a next one: its first word, time, byte position, pNextEvt and uData.
    #[inline]
    pub(crate) fn fill(&self, header: u64, time: i64, at: DataPlace, data: u64) {
        self.store::<0>(header);
        self.store::<1>(time.cast_unsigned());
        self.store::<2>(0);
        self.store::<3>(0);
        self.store_data(at, data);
    }

    /// Stores a pointer or inline data, at the place for it in events of this width. What is beyond a narrow event does
    /// not count.
    #[inline]
    pub(crate) fn store_data(&self, at: DataPlace, value: u64) {
        const { assert!(DataPlace::LAST + 8 <= Pool::STRIDE) };
        // SAFETY: as in `store`, with any alignment.
        unsafe { self.base.as_ptr().byte_add(at.0).write_unaligned(value.to_le()) };
    }
}

/// Bytes from the start of an event to its uData.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataPlace(usize);

impl DataPlace {
    const LAST: usize = 32;

    pub(crate) const fn offset(self) -> usize {
        self.0
    }

    pub(crate) const fn of(width: PointerWidth) -> Self {
        Self(match width {
            PointerWidth::Four => 28,
            PointerWidth::Eight => Self::LAST,
        })
    }
}

/// A ring whose entries are of `ENTRY` bytes, 4 or more, and a power of two in number.
#[derive(Debug)]
pub(crate) struct Ring<'c, const ENTRY: usize> {
    memory: Part<'c>,
    mask: u32,
}

impl<'c, const ENTRY: usize> Ring<'c, ENTRY> {
    /// The ring in memory that has room for it; `None` if it has not.
    pub(crate) fn new(memory: DmaMemory, entries: u32) -> Option<Self> {
        const { assert!(ENTRY.is_multiple_of(4)) };
        let fits = entries.is_power_of_two() && memory.memory.len() / ENTRY >= entries as usize;
        fits.then(|| Self { mask: entries.wrapping_sub(1), memory: Part::new(memory) })
    }

    pub(crate) fn return_to(&mut self, platform: &'c dyn Platform) {
        self.memory.return_to(platform);
    }

    /// The device's address of its first entry.
    pub(crate) fn iova(&self) -> u64 {
        self.memory.iova
    }

    /// Its memory, as tests and the card see it.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory.memory
    }

    fn place(&self, index: u32) -> *mut u8 {
        // SAFETY: `new` has checked that all entries that the mask leaves are inside the memory.
        unsafe { self.memory.memory.base.as_ptr().add((index & self.mask) as usize * ENTRY) }
    }

    /// Reads the first eight bytes of an entry, by its free-running index.
    #[inline]
    pub(crate) fn load(&self, index: u32) -> u64 {
        const { assert!(ENTRY.is_multiple_of(8)) };
        // SAFETY: inside by `place`, and aligned; volatile, because the device may write at any time.
        u64::from_le(unsafe { self.place(index).cast::<u64>().read_volatile() })
    }

    /// Writes the first four bytes of an entry, by its free-running index.
    #[inline]
    pub(crate) fn store(&self, index: u32, value: u32) {
        // SAFETY: inside by `place`, and aligned; volatile, because the device may look at any time.
        unsafe { self.place(index).cast::<u32>().write_volatile(value.to_le()) };
    }
}

/// Memory that the device reaches by DMA, at `iova` on its side.
#[derive(Debug)]
pub struct DmaMemory {
    /// The driver's view.
    pub memory: SharedMemory,
    /// The device's address of its first byte.
    pub iova: u64,
}

impl DmaMemory {
    /// What is left when memory is given back.
    pub(crate) const NONE: Self = Self { memory: SharedMemory::empty(), iova: 0 };
}

#[cfg(test)]
pub(crate) mod heap {
    //! DMA memory for unit tests: plain heap, that nobody else looks at.

    use super::{DmaMemory, SharedMemory};
    use alloc::boxed::Box;
    use alloc::vec;
    use core::ptr::NonNull;

    /// Leaks `len` zeroed bytes: tests are short.
    pub(crate) fn leak(len: usize, iova: u64) -> DmaMemory {
        let words: &'static mut [u64] = Box::leak(vec![0; len.div_ceil(8)].into_boxed_slice());
        let base = NonNull::from(words).cast();
        DmaMemory {
            // SAFETY: leaked, so mapped for ever; the only reference to it ended above.
            memory: unsafe { SharedMemory::new(base, len) },
            iova,
        }
    }

    /// The same memory again, as a device sees it.
    pub(crate) fn device_view(memory: &DmaMemory) -> SharedMemory {
        // SAFETY: as in `leak`; all accesses through either are atomic or volatile.
        unsafe { SharedMemory::new(memory.memory.base(), memory.memory.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::heap::leak;
    use super::*;

    #[test]
    fn accesses_beyond_the_end_read_all_ones_and_are_dropped() {
        let memory = leak(16, 0).memory;
        memory.store_u32(12, 7, Ordering::Relaxed);
        memory.store_u32(16, 8, Ordering::Relaxed);
        memory.store_u64(12, 9, Ordering::Relaxed);
        assert_eq!(memory.load_u32(12, Ordering::Relaxed), 7);
        assert_eq!(memory.load_u32(16, Ordering::Relaxed), u32::MAX);
        assert_eq!(memory.load_u32(usize::MAX - 1, Ordering::Relaxed), u32::MAX);
        assert!(!memory.write(10, &[0; 7]));
        assert!(!memory.read(usize::MAX, &mut [0; 2]));
    }

    #[test]
    fn copies_arrive_whole_at_any_alignment() {
        let memory = leak(64, 0).memory;
        let mut data = [0; 21];
        data.iter_mut().zip(1..).for_each(|(byte, value)| *byte = value);
        for offset in 0..32 {
            assert!(memory.write(offset, &data));
            let mut back = [0; 21];
            assert!(memory.read(offset, &mut back));
            assert_eq!(back, data);
        }
    }
}
