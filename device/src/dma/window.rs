//! The parts of a stream in guest memory, translated once for as long as the maps stay as they are.
//!
//! Fed by guest memory with places inside its maps; feeds the hot path with reads of entries, slots and buffers, and writes of completions.

use super::guest::GuestMemory;
use super::sysex::copy_sysex;
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE, Status};
use std::marker::PhantomData;
use std::ptr;

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
    /// The generation in which the places may be accessed, or [`NEVER`]: some part is not wholly inside one map, or not aligned.
    valid_in: u64,
    places: Places,
    remote: bool,
}

/// No generation of the maps.
const NEVER: u64 = u64::MAX;

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

impl Places {
    /// Of what is not accessible.
    const NONE: Self = Self {
        pool: ptr::null_mut(),
        slots: 0,
        stride: 0,
        buffers: ptr::null_mut(),
        buffer_bytes: 0,
        submissions: ptr::null_mut(),
        submission_mask: 0,
        completions: ptr::null_mut(),
        completion_mask: 0,
    };
}

// SAFETY: the places are only numbers before `GuestMemory::view` makes them a view, which borrows the memory.
unsafe impl Send for Windows {}

impl Windows {
    /// Nothing is translated yet.
    pub(crate) const STALE: Self = Self { generation: NEVER, valid_in: NEVER, places: Places::NONE, remote: false };

    /// Whether every part is accessible in one piece.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.valid_in != NEVER
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
    places: &'m Places,
    /// Slots in the pool.
    pub(crate) slots: u32,
    memory: PhantomData<&'m GuestMemory>,
}

/// Entries of the submission ring that come one after the other, each with the entry of the completion ring that is its own if all before it
/// are completed.
#[derive(Debug)]
pub(crate) struct Run<'m> {
    submission: *const u32,
    completion: *mut u32,
    left: usize,
    memory: PhantomData<&'m GuestMemory>,
}

/// A place in the completion ring.
#[derive(Debug)]
pub(crate) struct CompletionPlace<'m> {
    place: *mut u32,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> Iterator for Run<'m> {
    type Item = (u32, CompletionPlace<'m>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (submission, place) = (self.submission, self.completion);
        // SAFETY: `StreamMemory::run` has counted the entries that are left; one on is at most the end of the rings.
        (self.submission, self.completion) = unsafe { (submission.add(1), place.add(COMPLETION_SIZE / 4)) };
        self.left -= 1;
        // SAFETY: the same; volatile, because the guest may write at any time.
        let slot = u32::from_le(unsafe { submission.read_volatile() });
        Some((slot, CompletionPlace { place, memory: PhantomData }))
    }
}

impl CompletionPlace<'_> {
    /// Writes the entry.
    #[inline]
    pub(crate) fn write(self, slot: u32, status: Status, time: i64) {
        // SAFETY: an entry of the completion ring, as its run has counted; aligned, and its map is writable.
        unsafe {
            self.place.write_volatile(slot.to_le());
            self.place.add(1).write_volatile(u32::from(status as u16).to_le());
            self.place.add(2).cast::<i64>().write_volatile(time.to_le());
        }
    }
}

/// A slot of the pool.
#[derive(Debug)]
pub(crate) struct SlotPlace<'m> {
    place: *const u64,
    memory: PhantomData<&'m GuestMemory>,
}

impl SlotPlace<'_> {
    /// Reads one of its words: each is to be read once.
    #[inline]
    pub(crate) fn read<const WORD: usize>(&self) -> u64 {
        const { assert!(WORD < 8) };
        // SAFETY: `StreamMemory::slot` has checked that the slot is in the pool, and a slot has at least eight words; aligned, and volatile,
        // because the guest may write at any time.
        u64::from_le(unsafe { self.place.add(WORD).read_volatile() })
    }
}

impl<'m> StreamMemory<'m> {
    /// The slot number in a submission ring entry, by its free-running index.
    #[inline]
    pub(crate) fn submission(&self, index: u32) -> u32 {
        let entry = (index & self.places.submission_mask) as usize;
        // SAFETY: `translate` has checked that the whole ring, whose entries the mask numbers, is inside a mapping which lives as long as the
        // memory that this borrows, and is aligned; volatile, because the guest may write at any time.
        u32::from_le(unsafe { self.places.submissions.add(entry).read_volatile() })
    }

    /// As many entries as come before either ring wraps, `count` at most, by the free-running indices of the first ones.
    #[inline]
    pub(crate) fn run(&self, submission: u32, completion: u32, count: u32) -> Run<'m> {
        let Places { submission_mask, completion_mask, .. } = *self.places;
        let (first, to) = (submission & submission_mask, completion & completion_mask);
        let left = count.min(submission_mask - first + 1).min(completion_mask - to + 1);
        // SAFETY: as in `submission`: `left` entries from these are in the rings.
        unsafe {
            Run {
                submission: self.places.submissions.add(first as usize),
                completion: self.places.completions.add(to as usize * 2).cast(),
                left: left as usize,
                memory: PhantomData,
            }
        }
    }

    /// A slot of the pool.
    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> Option<SlotPlace<'m>> {
        if slot >= self.slots {
            return None;
        }
        // SAFETY: as in `submission`; the slot is inside the pool by the check.
        let place = unsafe { self.places.pool.add(slot as usize * self.places.stride) };
        Some(SlotPlace { place, memory: PhantomData })
    }

    /// The words of a slot, once, but for the byte position, which nothing depends on.
    #[inline]
    pub(crate) fn event(&self, slot: u32) -> Option<[u64; 4]> {
        let slot = self.slot(slot)?;
        Some([slot.read::<0>(), slot.read::<1>(), slot.read::<3>(), slot.read::<4>()])
    }

    /// The place of a completion ring entry, by its free-running index.
    #[inline]
    pub(crate) fn completion(&self, index: u32) -> CompletionPlace<'m> {
        let entry = (index & self.places.completion_mask) as usize;
        // SAFETY: as in `submission`.
        let place = unsafe { self.places.completions.add(entry * 2).cast() };
        CompletionPlace { place, memory: PhantomData }
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

    /// Copies from the buffers, once; says whether the range is inside them and holds a SysEx message.
    #[inline]
    pub(crate) fn sysex(&self, offset: usize, out: &mut [u8]) -> bool {
        let inside = offset.checked_add(out.len()).is_some_and(|end| end <= self.places.buffer_bytes);
        // SAFETY: as in `submission`, by the check; private memory does not overlap it.
        inside && unsafe { copy_sysex(self.places.buffers.add(offset), out) }
    }
}

impl GuestMemory {
    /// A view of what [`Self::translate`] has translated; `None` if that was before the latest change of the maps, or a part is not
    /// accessible in one piece.
    #[inline]
    pub(crate) fn view<'m>(&'m self, windows: &'m Windows) -> Option<StreamMemory<'m>> {
        // Only `translate` has set it, with places of that generation.
        if windows.valid_in != self.generation {
            return None;
        }
        let places = &windows.places;
        Some(StreamMemory { places, slots: places.slots, memory: PhantomData })
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
        let valid_in = if places.is_some() { self.generation } else { NEVER };
        Windows { generation: self.generation, valid_in, places: places.unwrap_or(Places::NONE), remote }
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
}
