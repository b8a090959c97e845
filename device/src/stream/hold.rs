//! What the card holds of a stream's events, in private memory, from their fetch until they are presented.
//!
//! Fed by the plain path and by intake, which have judged it; feeds the synthesizer with messages in playing order. All storage but that of
//! assembled SysEx is sized when the stream is created.

use crate::link::StreamConfig;
use std::collections::BTreeMap;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// The mark of a slot or buffer that an event in the card has. Any other mark is the last section that let go of it: what was completed is
/// the driver's again only once that section has ended, and its completions are visible.
pub(super) const OWNED: u32 = u32::MAX;

/// The data of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// A package: its members carry the data.
    None,
    /// Inline: the bytes, and how many of them count.
    Inline([u8; 8], u8),
    /// A buffer by its number, and the bytes in its copy.
    Buffer(u32, u32),
    /// A SysEx message put together from fragments.
    Assembled,
}

/// The private copy of a slot.
#[derive(Clone, Copy, Debug)]
struct Held {
    data: Data,
    channel_group: u16,
    /// Next slot of the submission, in playing order.
    next: u32,
}

/// The private copy of the buffer area.
#[derive(Debug)]
pub(super) struct Buffers {
    base: u64,
    size: usize,
    pub(super) marks: Box<[u32]>,
    pub(super) copy: Box<[u8]>,
}

/// Why a buffer cannot be an event's.
pub(super) enum NoBuffer {
    /// Not the start of a buffer.
    Place,
    /// More bytes than a buffer has.
    Length,
    /// Another event in flight has it.
    InFlight,
}

impl Buffers {
    /// The number of the buffer at `iova`, and where its first `len` bytes are in the area, if it is free.
    #[inline]
    pub(super) fn find(&self, iova: u64, len: usize, section: u32) -> Result<(u32, usize), NoBuffer> {
        let offset = iova.checked_sub(self.base).ok_or(NoBuffer::Place)? as usize;
        let (index, inside) = (offset / self.size, offset % self.size);
        match self.marks.get(index) {
            Some(_) if inside != 0 => Err(NoBuffer::Place),
            None => Err(NoBuffer::Place),
            Some(_) if len > self.size => Err(NoBuffer::Length),
            Some(mark) if *mark >= section => Err(NoBuffer::InFlight),
            Some(_) => Ok((index as u32, offset)),
        }
    }

    /// The first `len` bytes of a buffer's copy.
    #[inline]
    pub(super) fn bytes(&self, buffer: u32, len: usize) -> &[u8] {
        let start = buffer as usize * self.size;
        self.copy.get(start..start + len).unwrap_or(&[])
    }

    /// An event in the card has the buffer that is in `data`, if one is.
    #[inline]
    pub(super) fn own(&mut self, data: &Data) {
        self.mark(data, OWNED);
    }

    #[inline]
    fn mark(&mut self, data: &Data, mark: u32) {
        if let Data::Buffer(buffer, _) = data
            && let Some(place) = self.marks.get_mut(*buffer as usize)
        {
            *place = mark;
        }
    }
}

/// The private copies of the slots.
#[derive(Debug)]
pub(super) struct Slots(Box<[Held]>);

impl Slots {
    /// What a slot carries, as a submission of its own.
    #[inline]
    pub(super) fn carry(&mut self, slot: u32, channel_group: u16, data: Data) {
        if let Some(held) = self.0.get_mut(slot as usize) {
            *held = Held { data, channel_group, next: NONE };
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hold {
    /// Number of the present section: marks below it are of what is free.
    pub(super) section: u32,
    /// Of each slot: [`OWNED`], or the last section that let go of it.
    pub(super) marks: Box<[u32]>,
    pub(super) slots: Slots,
    pub(super) buffers: Buffers,
    /// Messages that came in fragments, by their last slot.
    assembled: BTreeMap<u32, Box<[u8]>>,
    pub(super) assembled_bytes: usize,
    /// Slots owned.
    pub(super) owned: u32,
}

impl Hold {
    pub(super) fn new(config: &StreamConfig) -> Self {
        let held = Held { data: Data::None, channel_group: 0, next: NONE };
        let (slots, buffers) = (config.slots as usize, config.buffers as usize);
        Self {
            section: 0,
            marks: vec![0; slots].into(),
            slots: Slots(vec![held; slots].into()),
            buffers: Buffers {
                base: config.buffer_base,
                size: config.buffer_size.max(1) as usize,
                marks: vec![0; buffers].into(),
                copy: vec![0; buffers * config.buffer_size as usize].into(),
            },
            assembled: BTreeMap::new(),
            assembled_bytes: 0,
            owned: 0,
        }
    }

    /// A new section: the completions of the one before are visible by now.
    #[inline]
    pub(super) fn begin_section(&mut self) {
        self.section += 1;
        if self.section == OWNED {
            self.count_sections_anew();
        }
    }

    #[cold]
    fn count_sections_anew(&mut self) {
        self.section = 1;
        for mark in self.marks.iter_mut().chain(self.buffers.marks.iter_mut()).filter(|mark| **mark != OWNED) {
            *mark = 0;
        }
    }

    /// Whether there is such a slot, and nothing in the card has it.
    #[inline]
    pub(super) fn is_free(&self, slot: u32) -> Option<bool> {
        self.marks.get(slot as usize).map(|mark| *mark < self.section)
    }

    /// Owns a slot that is free, as the last of its submission: `before` is the one before it, or [`NONE`].
    #[inline]
    pub(super) fn own(&mut self, slot: u32, before: u32) {
        if let Some(before) = self.slots.0.get_mut(before as usize) {
            before.next = slot;
        }
        if let (Some(mark), Some(held)) = (self.marks.get_mut(slot as usize), self.slots.0.get_mut(slot as usize)) {
            *mark = OWNED;
            *held = Held { data: Data::None, channel_group: 0, next: NONE };
            self.owned += 1;
        }
    }

    /// What an owned slot carries.
    #[inline]
    pub(super) fn carry(&mut self, slot: u32, channel_group: u16, data: Data) {
        if let Some(held) = self.slots.0.get_mut(slot as usize) {
            held.channel_group = channel_group;
            held.data = data;
        }
    }

    /// An owned slot carries a message that came in fragments.
    pub(super) fn carry_assembled(&mut self, slot: u32, channel_group: u16, bytes: Box<[u8]>) {
        self.assembled_bytes += bytes.len();
        self.assembled.insert(slot, bytes);
        self.carry(slot, channel_group, Data::Assembled);
    }

    /// The bytes of a slot's data.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, slot: u32, data: &'a Data) -> &'a [u8] {
        let bytes = match data {
            Data::None => None,
            Data::Inline(bytes, len) => bytes.get(..usize::from(*len)),
            Data::Buffer(buffer, len) => Some(self.buffers.bytes(*buffer, *len as usize)),
            Data::Assembled => self.assembled.get(&slot).map(|bytes| &bytes[..]),
        };
        bytes.unwrap_or(&[])
    }

    /// Visits the messages of a submission in playing order, and says how many they are.
    #[inline]
    pub(super) fn messages(&self, head: u32, mut visit: impl FnMut(u16, &[u8])) -> u32 {
        let mut messages = 0;
        let mut slot = head;
        while let Some(held) = self.slots.0.get(slot as usize) {
            if held.data != Data::None {
                messages += 1;
                visit(held.channel_group, self.bytes(slot, &held.data));
            }
            slot = held.next;
        }
        messages
    }

    /// Lets go of a submission's slots and buffers: they are the driver's again once its completion is visible.
    #[inline]
    pub(super) fn release(&mut self, head: u32) {
        let mut slot = head;
        while let Some(mark) = self.marks.get_mut(slot as usize).filter(|mark| **mark == OWNED) {
            *mark = self.section;
            self.owned -= 1;
            let Some(Held { data, next, .. }) = self.slots.0.get(slot as usize).copied() else {
                return;
            };
            self.release_buffer(&data);
            if data == Data::Assembled
                && let Some(bytes) = self.assembled.remove(&slot)
            {
                self.assembled_bytes -= bytes.len();
            }
            slot = next;
        }
    }

    #[inline]
    pub(super) fn release_buffer(&mut self, data: &Data) {
        self.buffers.mark(data, self.section);
    }
}
