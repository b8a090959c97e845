//! The parts of a stream in guest memory: translated once for as long as the maps stay as they are, or accessed piece
//! by piece.
//!
//! Fed by guest memory with places inside its maps; feeds the streams with reads of entries, slots and buffers, and
//! writes of completions, the same ones whichever way the memory is reached ([`StreamMemory`]).

use super::access::DmaAccess;
use super::copy;
use super::guest::GuestMemory;
use super::sysex::copy_sysex;
use crate::shared::{Shared, StreamConfig};
use dmus_interface::event::{Data, Event, MAX_EVENT_SIZE, PointerWidth, is_message};
use dmus_interface::ring::{COMPLETION_SIZE, CONSUMED, SUBMISSION_SIZE};
use std::arch::x86_64::{__m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};
use std::marker::PhantomData;
use std::ptr;

/// The words of a slot, each read once: the first, the time, those with pNextEvt and uData. The byte position is not
/// among them: nothing that is rendered depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWords {
    pub(crate) header: u64,
    pub(crate) time: u64,
    pub(crate) pointer: u64,
    pub(crate) data: u64,
}

impl SlotWords {
    /// pNextEvt and uData of an event; those with 8-byte pointers are `WIDE`.
    #[inline(always)]
    pub(crate) fn pointers<const WIDE: bool>(&self) -> (u64, u64) {
        match WIDE {
            true => (self.pointer, self.data),
            false => (self.pointer & 0xFFFF_FFFF, self.pointer >> 32),
        }
    }

    /// uData.
    #[inline(always)]
    pub(crate) fn data(&self, width: PointerWidth) -> u64 {
        match width {
            PointerWidth::Eight => self.pointers::<true>().1,
            PointerWidth::Four => self.pointers::<false>().1,
        }
    }
}

/// The parts of a stream in guest memory. Exclusive, since each access is an observation, of which one that records
/// keeps the order. `None` says that they cannot be accessed there (any more).
pub(crate) trait StreamMemory {
    /// Reads a submission ring entry, by its free-running index.
    fn submission(&mut self, index: u32) -> Option<u32>;
    /// Reads a slot of the pool.
    fn slot(&mut self, slot: u32) -> Option<SlotWords>;
    /// Copies from the buffer area, once; says whether the copy is one SysEx message.
    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool>;
    /// Reads a slot that was read before, for what has become of it.
    #[inline(always)]
    fn slot_again(&mut self, slot: u32) -> Option<SlotWords> {
        self.slot(slot)
    }
    /// Copies from the buffer area what was copied before, or was not to be.
    fn copy_again(&mut self, offset: usize, out: &mut [u8]) -> Option<()> {
        self.copy(offset, out).map(drop)
    }
    /// Writes completion ring entries, from a free-running index on.
    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()>;
    /// Whether the buffer area has these bytes from an offset on.
    fn is_same(&mut self, offset: usize, bytes: &[u8]) -> Option<bool>;
    /// Copies submission ring entries that were fetched, from a free-running index on, and stores [`CONSUMED`] over
    /// them where the card may write to the ring.
    fn consume(&mut self, first: u32, entries: &mut [u32]);
    /// Reads a completion ring entry, by its free-running index.
    fn completion(&mut self, index: u32) -> Option<[u64; 2]>;
    /// Copies into the pool or the buffers, of a stream whose slots the card fills.
    fn write(&mut self, iova: u64, bytes: &[u8]) -> Option<()>;
    /// Copies into the buffers if the client shares them, to be written; says whether it does.
    fn write_shared(&mut self, iova: u64, bytes: &[u8]) -> bool;
    /// A slot is filled with these bytes, which was written.
    fn filled(&mut self, _slot: u32, _bytes: &[u8]) {}
}

/// How the parts of a stream can be reached now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Shared whole: a view.
    Whole,
    /// Outside sections, piece by piece.
    Pieces,
    /// Not at all, while the client rearranges its maps: wait.
    Away,
}

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

/// Where the parts of a stream are in this process, for as long as the maps stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    generation: u64,
    /// The generation in which the places may be accessed, or [`NEVER`]: some part is not wholly inside one map, or not
    /// aligned.
    valid_in: u64,
    places: Places,
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
    /// The card may write to the submission ring, too.
    writes_submissions: bool,
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
        writes_submissions: false,
        completions: ptr::null_mut(),
        completion_mask: 0,
    };
}

// SAFETY: the places are only numbers before `GuestMemory::view` makes them a view, which borrows the memory.
unsafe impl Send for Translation {}

impl Translation {
    /// Nothing is translated yet.
    pub(crate) const STALE: Self = Self { generation: NEVER, valid_in: NEVER, places: Places::NONE };
}

/// The parts of a stream that is shared whole, in one piece each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'m> {
    places: &'m Places,
    memory: PhantomData<&'m GuestMemory>,
}

impl StreamMemory for View<'_> {
    #[inline(always)]
    fn submission(&mut self, index: u32) -> Option<u32> {
        let entry = (index & self.places.submission_mask) as usize;
        // SAFETY: `translate` has checked that the whole ring, whose entries the mask numbers, is inside a mapping
        // which lives as long as the memory that this borrows, and is aligned; volatile, because the guest may write at
        // any time.
        Some(u32::from_le(unsafe { self.places.submissions.add(entry).read_volatile() }))
    }

    #[inline(always)]
    fn slot(&mut self, slot: u32) -> Option<SlotWords> {
        if slot >= self.places.slots {
            return None;
        }
        // SAFETY: as in `submission`; the slot is inside the pool by the check.
        let place = unsafe { self.places.pool.add(slot as usize * self.places.stride) };
        // SAFETY: a slot has at least eight words; aligned, and volatile, because the guest may write at any time.
        let word = |number: usize| u64::from_le(unsafe { place.add(number).read_volatile() });
        Some(SlotWords { header: word(0), time: word(1), pointer: word(3), data: word(4) })
    }

    #[inline(always)]
    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool> {
        let inside = offset.checked_add(out.len()).is_some_and(|end| end <= self.places.buffer_bytes);
        // SAFETY: as in `submission`, by the check; private memory does not overlap it.
        inside.then(|| unsafe { copy_sysex(self.places.buffers.add(offset), out) })
    }

    #[inline(always)]
    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        let Places { completions, completion_mask, .. } = *self.places;
        for (number, [first, second]) in entries.iter().enumerate() {
            let entry = (index as usize + number) & completion_mask as usize;
            // SAFETY: as in `submission`; the map of this ring is writable, and an entry has two words.
            let place = unsafe { completions.add(entry * 2) };
            // SAFETY: as above.
            unsafe { place.write_volatile(first.to_le()) };
            // SAFETY: as above.
            unsafe { place.add(1).write_volatile(second.to_le()) };
        }
        Some(())
    }

    #[inline(always)]
    fn is_same(&mut self, offset: usize, bytes: &[u8]) -> Option<bool> {
        let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.places.buffer_bytes);
        // SAFETY: as in `submission`, by the check.
        inside.then(|| unsafe { is_same(self.places.buffers.add(offset), bytes) })
    }

    #[inline]
    fn consume(&mut self, first: u32, entries: &mut [u32]) {
        const SIZE: usize = SUBMISSION_SIZE;
        let Places { submissions, submission_mask, writes_submissions, .. } = *self.places;
        let start = (first & submission_mask) as usize;
        let in_front = submission_mask as usize + 1 - start;
        let count = entries.len();
        if count > in_front {
            let (front, back) = entries.split_at_mut(in_front);
            self.consume(first, front);
            // There are no more than the ring has.
            let back_len = back.len().min(start);
            let front_len = submission_mask + 1 - (first & submission_mask);
            return self.consume(first.wrapping_add(front_len), &mut back[..back_len]);
        }
        // SAFETY: as in `submission`; so many entries from there on are in front of the ring's end.
        let place = unsafe { submissions.add(start) };
        // SAFETY: as above; private memory does not overlap it.
        unsafe { copy(place.cast(), entries.as_mut_ptr().cast(), count * SIZE) };
        if writes_submissions {
            // SAFETY: as above; the map of this ring is writable, and all bytes of the word are the same.
            unsafe { place.cast::<u8>().write_bytes(CONSUMED.to_le_bytes()[0], count * SIZE) };
        }
    }

    fn completion(&mut self, index: u32) -> Option<[u64; 2]> {
        let entry = (index & self.places.completion_mask) as usize;
        // SAFETY: as in `submission`; an entry has two words.
        Some([0, 1].map(|word| u64::from_le(unsafe { self.places.completions.add(entry * 2 + word).read_volatile() })))
    }

    /// What the card fills is reached by [`Pieces`].
    fn write(&mut self, _: u64, _: &[u8]) -> Option<()> {
        None
    }

    fn write_shared(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }
}

/// Whether memory has these bytes.
///
/// # Safety
/// So many bytes from `from` on can be read; other processes may write to them meanwhile.
#[inline]
unsafe fn is_same(from: *const u8, bytes: &[u8]) -> bool {
    const STEP: usize = 16;
    if bytes.len() < STEP {
        // SAFETY: the caller's; volatile, because the guest may write at any time.
        return bytes.iter().enumerate().all(|(at, byte)| unsafe { from.add(at).read_volatile() } == *byte);
    }
    // SAFETY: the caller's. The last step overlaps the one before it.
    unsafe {
        let step = |at: usize| pair(from.add(at).cast(), bytes.as_ptr().add(at).cast());
        let mut same = step(bytes.len() - STEP);
        for at in (0..bytes.len() - STEP).step_by(STEP) {
            same = _mm_and_si128(same, step(at));
        }
        _mm_movemask_epi8(same) == ALL
    }
}

/// All bytes of a vector are the same.
const ALL: i32 = 0xFFFF;

/// Which bytes of two words of shared memory are those of private ones.
///
/// # Safety
/// Both can be read, aligned or not; other processes may write to the first meanwhile.
#[inline(always)]
unsafe fn pair(shared: *const u64, private: *const u64) -> __m128i {
    // SAFETY: the caller's. Volatile, in one load that takes any address; what is torn is not the same, and was stored
    // to.
    unsafe {
        let now = shared.cast::<Unaligned>().read_volatile();
        _mm_cmpeq_epi8(now.0, _mm_loadu_si128(private.cast()))
    }
}

/// A vector at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(__m128i);

/// Bytes between two slots that are rather read than asked around: a message to the client costs more.
const GAP: usize = 1024;
/// Bytes of buffers that are read ahead at most.
const MAX_AHEAD: usize = 256 << 10;

/// The parts of a stream that is not shared whole: in several maps, or in memory that only the client can access. To be
/// used outside sections.
pub(crate) struct Pieces<'a> {
    access: DmaAccess<'a>,
    config: &'a StreamConfig,
}

impl<'a> Pieces<'a> {
    /// The parts for as long as they are those of `epoch`.
    pub(crate) fn new(shared: &'a Shared, epoch: u64, config: &'a StreamConfig) -> Self {
        Self { access: DmaAccess::new(shared, epoch), config }
    }

    /// Reads what the next `count` submissions need in few messages: their entries, then their slots, then the buffers
    /// that these point to. Nothing of it is judged here.
    pub(crate) fn read_ahead(&mut self, first: u32, count: u32) {
        let config = self.config;
        let entries = config.submission_entries;
        let ranges = ring_ranges(config.submission_base, SUBMISSION_SIZE, first & (entries - 1), count, entries);
        self.access.read_ahead(&ranges);
        let numbers = (0..count).filter_map(|number| self.submission(first.wrapping_add(number)));
        let mut slots: Vec<u32> = numbers.filter(|slot| *slot < config.slots).collect();
        slots.sort_unstable();
        slots.dedup();
        let size = config.width.event_size();
        let mut ranges: Vec<(u64, usize)> = Vec::new();
        for iova in slots.iter().map(|slot| config.slot_iova(*slot)) {
            match ranges.last_mut().map(|last| (usize::try_from(iova - last.0), last)) {
                Some((Ok(distance), last)) if distance <= last.1 + GAP => last.1 = distance + size,
                _ => ranges.push((iova, size)),
            }
        }
        self.access.read_ahead(&ranges);
        let mut total = 0;
        let area = config.buffer_base..config.buffer_iova(config.buffers);
        let buffer = |slot: u32| {
            let event = Event::decode(self.access.ahead(config.slot_iova(slot), size)?, config.width).ok()?;
            let Data::Buffer(iova) = event.data else {
                return None;
            };
            let len = usize::from(event.event_bytes);
            total += len;
            let inside = area.contains(&iova) && len <= config.buffer_size as usize;
            (inside && total <= MAX_AHEAD).then_some((iova, len))
        };
        let ranges: Vec<(u64, usize)> = slots.into_iter().filter_map(buffer).collect();
        self.access.read_ahead(&ranges);
    }
}

impl StreamMemory for Pieces<'_> {
    fn submission(&mut self, index: u32) -> Option<u32> {
        let entry = index & (self.config.submission_entries - 1);
        let mut bytes = [0; SUBMISSION_SIZE];
        let iova = self.config.submission_base + u64::from(entry) * SUBMISSION_SIZE as u64;
        self.access.read(iova, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn slot(&mut self, slot: u32) -> Option<SlotWords> {
        let mut bytes = [0; MAX_EVENT_SIZE];
        let size = self.config.width.event_size();
        self.access.read(self.config.slot_iova(slot), &mut bytes[..size]).ok()?;
        let [header, time, _, pointer, data] = *bytes.as_chunks::<8>().0 else {
            return None;
        };
        let [header, time, pointer, data] = [header, time, pointer, data].map(u64::from_le_bytes);
        Some(SlotWords { header, time, pointer, data })
    }

    fn copy(&mut self, offset: usize, out: &mut [u8]) -> Option<bool> {
        self.access.read(self.config.buffer_base + offset as u64, out).ok()?;
        Some(out.first() == Some(&0xF0) && is_message(out))
    }

    fn complete(&mut self, index: u32, entries: &[[u64; 2]]) -> Option<()> {
        let size = self.config.completion_entries;
        let bytes: Vec<u8> = entries.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut rest = &bytes[..];
        let first = index & (size - 1);
        let count = u32::try_from(entries.len()).ok()?;
        for (iova, len) in ring_ranges(self.config.completion_base, COMPLETION_SIZE, first, count, size) {
            let (here, behind) = rest.split_at(len);
            self.access.write(iova, here).ok()?;
            rest = behind;
        }
        Some(())
    }

    fn is_same(&mut self, offset: usize, bytes: &[u8]) -> Option<bool> {
        let mut now = vec![0; bytes.len()];
        self.access.read(self.config.buffer_base + offset as u64, &mut now).ok()?;
        Some(now == bytes)
    }

    fn consume(&mut self, first: u32, entries: &mut [u32]) {
        let size = self.config.submission_entries;
        let count = u32::try_from(entries.len()).unwrap_or(size).min(size);
        for (entry, number) in entries.iter_mut().zip(0..) {
            *entry = self.submission(first.wrapping_add(number)).unwrap_or(CONSUMED);
        }
        for (iova, len) in ring_ranges(self.config.submission_base, SUBMISSION_SIZE, first & (size - 1), count, size) {
            self.access.write_shared(iova, &CONSUMED.to_le_bytes().repeat(len / SUBMISSION_SIZE));
        }
    }

    fn completion(&mut self, index: u32) -> Option<[u64; 2]> {
        let entry = index & (self.config.completion_entries - 1);
        let mut bytes = [0; COMPLETION_SIZE];
        self.access.read(self.config.completion_base + u64::from(entry) * COMPLETION_SIZE as u64, &mut bytes).ok()?;
        let [first, second] = *bytes.as_chunks::<8>().0 else {
            return None;
        };
        Some([first, second].map(u64::from_le_bytes))
    }

    fn write(&mut self, iova: u64, bytes: &[u8]) -> Option<()> {
        self.access.write(iova, bytes).ok()
    }

    fn write_shared(&mut self, iova: u64, bytes: &[u8]) -> bool {
        self.access.write_shared(iova, bytes)
    }
}

/// Where `count` entries of a ring are, from the one numbered `first` on: in front of the ring's end, and from its
/// start.
fn ring_ranges(base: u64, entry: usize, first: u32, count: u32, entries: u32) -> [(u64, usize); 2] {
    let in_front = count.min(entries - first);
    [(base + u64::from(first) * entry as u64, in_front as usize * entry), (base, (count - in_front) as usize * entry)]
}

impl GuestMemory {
    /// A view of what [`Self::translate`] has translated; `None` if that was before the latest change of the maps, or a
    /// part is not accessible in one piece.
    #[inline]
    pub(crate) fn view<'m>(&'m self, translation: &'m Translation) -> Option<View<'m>> {
        // Only `translate` has set it, with places of that generation.
        if translation.valid_in != self.generation {
            return None;
        }
        Some(View { places: &translation.places, memory: PhantomData })
    }

    /// Whether the maps, or the right to use them, have changed since.
    #[inline]
    pub(crate) fn is_stale(&self, translation: &Translation) -> bool {
        translation.generation != self.generation
    }

    /// Translates the parts of a stream; to nothing if they may not be accessed.
    pub(crate) fn translate(&self, layout: &Layout, allowed: bool) -> Translation {
        let places = self.places(layout).filter(|_| allowed);
        let valid_in = if places.is_some() { self.generation } else { NEVER };
        Translation { generation: self.generation, valid_in, places: places.unwrap_or(Places::NONE) }
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
            writes_submissions: ring(layout.submissions, 4, true).is_some(),
            completions: completions.cast(),
            completion_mask,
        })
    }
}
