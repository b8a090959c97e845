//! Who owns each slot and buffer of a stream, and what the card holds of those that it owns, in private memory.
//!
//! Fed by the stream as it fetches and validates; feeds the renderer with messages in playing order. All storage but
//! that of assembled SysEx is sized when the stream is created.

use crate::shared::StreamConfig;
use dmus_interface::event::PACKAGE;
use dmus_interface::ring::Reject;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;
/// The mark of what the card owns. Any other mark is the number of the last publication before which the card let go of
/// it: it is the driver's again once that publication's completions are visible.
const OWNED: u32 = u32::MAX;

/// usFlags of a held SysEx message that was put together from fragments. No event has it.
const ASSEMBLED: u16 = 0x8000;

/// The private copy of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    mark: u32,
    /// Next slot of the submission, in playing order.
    next: u32,
    /// The event's first word. Its usFlags say what `data` is: a package has none, and an assembled message has it
    /// elsewhere.
    header: u64,
    /// The inline bytes, or the number of the buffer and where it begins in the area.
    data: u64,
}

/// What the card holds of a slot, for who looks at it again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) header: u64,
    pub(crate) data: u64,
    next: u32,
    inline: usize,
}

impl Carried {
    /// Whether it is a message by itself, all of it in its slot and buffer.
    pub(crate) fn is_single(&self) -> bool {
        self.next == NONE && Header(self.header).flags() == 0
    }

    /// Whether it is an event whose data was copied from a buffer.
    pub(crate) fn has_buffer(&self) -> bool {
        Header(self.header).flags() == 0 && Header(self.header).len() > self.inline
    }
}

/// The first word of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) u64);

impl Header {
    /// cbEvent.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        usize::from((self.0 >> 16) as u16)
    }

    #[inline(always)]
    pub(crate) fn channel_group(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn with_flags(self, flags: u16) -> Self {
        Self(self.0 & 0x0000_FFFF_FFFF_FFFF | u64::from(flags) << 48)
    }
}

/// A buffer of the area: its number, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    number: u32,
    start: u32,
}

impl Buffer {
    #[inline(always)]
    fn of(data: u64) -> Self {
        Self { number: (data >> 32) as u32, start: data as u32 }
    }

    #[inline(always)]
    pub(crate) fn data(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.start)
    }

    pub(crate) fn number(self) -> u32 {
        self.number
    }

    #[inline(always)]
    pub(crate) fn start(self) -> usize {
        self.start as usize
    }
}

/// The owners of the buffers, and the private copy of their area.
#[derive(Debug)]
pub(crate) struct Buffers {
    base: u64,
    size: u32,
    marks: Box<[u32]>,
    copy: Box<[u8]>,
}

impl Buffers {
    /// The buffer at an address, which has to be free and to have room for `len` bytes.
    #[inline(always)]
    pub(crate) fn find(&self, iova: u64, len: usize, publication: u32) -> Result<Buffer, Reject> {
        let offset = iova.wrapping_sub(self.base);
        let (number, start) = (offset as u32 / self.size, offset as u32);
        let mark = self.marks.get(number as usize);
        if mark.is_some_and(|mark| *mark < publication)
            && offset <= u64::from(u32::MAX)
            && start.is_multiple_of(self.size)
            && len <= self.size as usize
        {
            Ok(Buffer { number, start })
        } else {
            Err(self.why_not(iova, len))
        }
    }

    /// Why an address with so many bytes is no free buffer's.
    #[cold]
    #[inline(never)]
    fn why_not(&self, iova: u64, len: usize) -> Reject {
        let offset = iova.checked_sub(self.base).and_then(|offset| usize::try_from(offset).ok());
        let size = self.size as usize;
        match offset {
            Some(offset) if offset.is_multiple_of(size) && offset / size < self.marks.len() => match len > size {
                true => Reject::TooLong,
                false => Reject::BufferInFlight,
            },
            _ => Reject::BadBuffer,
        }
    }

    /// The first `len` bytes of a buffer's copy.
    #[inline(always)]
    pub(crate) fn copy_mut(&mut self, buffer: Buffer, len: usize) -> &mut [u8] {
        self.copy.get_mut(buffer.start()..buffer.start() + len).unwrap_or(&mut [])
    }

    #[inline(always)]
    fn bytes(&self, buffer: Buffer, len: usize) -> &[u8] {
        self.copy.get(buffer.start()..buffer.start() + len).unwrap_or(&[])
    }

    #[inline(always)]
    fn mark(&mut self, buffer: Buffer, mark: u32) {
        if let Some(place) = self.marks.get_mut(buffer.number as usize) {
            *place = mark;
        }
    }
}

/// A message of a held submission.
pub(crate) enum Message<'a> {
    /// Up to 8 bytes in a little-endian word, and how many they are.
    Short(u64, usize),
    Long(&'a [u8]),
}

/// The slots of a stream.
pub(super) struct Slots<'a> {
    slots: &'a mut [Held],
    publication: u32,
    owned: &'a mut u32,
}

/// A slot that is the driver's, and may become the card's.
pub(super) struct Free<'a> {
    held: &'a mut Held,
    publication: u32,
    owned: &'a mut u32,
}

impl Slots<'_> {
    /// A slot that is there, and the driver's.
    #[inline(always)]
    pub(super) fn free(&mut self, slot: u32) -> Option<Free<'_>> {
        let held = self.slots.get_mut(slot as usize).filter(|held| held.mark < self.publication)?;
        Some(Free { held, publication: self.publication, owned: self.owned })
    }

    /// The message of a submission that is one slot by itself and nothing unusual, with its channel group; the card
    /// lets go of it.
    #[inline(always)]
    pub(super) fn release_single<'b>(
        &mut self,
        head: u32,
        buffers: &'b mut Buffers,
        inline: usize,
    ) -> Option<(u16, Message<'b>)> {
        let held = self.slots.get_mut(head as usize)?;
        let header = Header(held.header);
        if header.flags() != 0 || held.next != NONE {
            return None;
        }
        held.mark = self.publication;
        *self.owned -= 1;
        let message = match header.len() {
            len if len <= inline => Message::Short(held.data, len),
            len => {
                let buffer = Buffer::of(held.data);
                buffers.mark(buffer, self.publication);
                Message::Long(buffers.bytes(buffer, len))
            }
        };
        Some((header.channel_group(), message))
    }
}

impl Free<'_> {
    /// Slot and buffer, if there is one, are let go of with the next publication: they were never held.
    #[inline(always)]
    pub(super) fn pass(self, buffers: &mut Buffers, buffer: Option<Buffer>) {
        self.held.mark = self.publication;
        if let Some(buffer) = buffer {
            buffers.mark(buffer, self.publication);
        }
    }

    /// Holds it as a submission of its own, which is one message.
    #[inline(always)]
    pub(super) fn hold(self, buffers: &mut Buffers, header: Header, data: u64, buffer: Option<Buffer>) {
        *self.held = Held { mark: OWNED, next: NONE, header: header.0, data };
        *self.owned += 1;
        if let Some(buffer) = buffer {
            buffers.mark(buffer, OWNED);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Number of the next publication: marks below it are of what is free.
    publication: u32,
    slots: Box<[Held]>,
    pub(crate) buffers: Buffers,
    /// Bytes that are inline at most.
    inline: usize,
    /// Messages that came in fragments, by their last slot.
    assembled: BTreeMap<u32, Box<[u8]>>,
    assembled_bytes: usize,
    /// Slots owned.
    owned: u32,
}

impl InFlight {
    /// Nothing is owned; with `copies`, there is room for the data of every buffer.
    pub(crate) fn new(config: &StreamConfig, copies: bool) -> Self {
        let held = Held { mark: 0, next: NONE, header: 0, data: 0 };
        let area = config.buffers as usize * config.buffer_size as usize;
        Self {
            publication: 1,
            slots: vec![held; config.slots as usize].into(),
            buffers: Buffers {
                base: config.buffer_base,
                size: config.buffer_size.max(1),
                marks: vec![0; config.buffers as usize].into(),
                copy: vec![0; if copies { area } else { 0 }].into(),
            },
            inline: config.width.bytes(),
            assembled: BTreeMap::new(),
            assembled_bytes: 0,
            owned: 0,
        }
    }

    /// Slots that the card owns.
    #[inline]
    pub(crate) fn owned(&self) -> u32 {
        self.owned
    }

    /// Bytes that are inline at most.
    #[inline(always)]
    pub(super) fn inline(&self) -> usize {
        self.inline
    }

    /// Whether a slot is the card's.
    pub(crate) fn is_owned(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|held| held.mark == OWNED)
    }

    /// What the card holds of a slot, or held until just now.
    #[inline(always)]
    pub(crate) fn carried(&self, slot: u32) -> Option<Carried> {
        let held = self.slots.get(slot as usize)?;
        Some(Carried { header: held.header, data: held.data, next: held.next, inline: self.inline })
    }

    /// The slots of a submission that is held, or was until just now, with what the card holds of them.
    pub(crate) fn chain(&self, head: u32) -> impl Iterator<Item = (u32, Carried)> {
        let with = |slot: u32| Some((slot, self.carried(slot)?));
        std::iter::successors(with(head), move |(_, carried)| with(carried.next)).take(self.slots.len())
    }

    /// Where in the area the data of an event is, and what was copied of it.
    #[inline(always)]
    pub(crate) fn copied(&self, carried: &Carried) -> (usize, &[u8]) {
        let buffer = Buffer::of(carried.data);
        (buffer.start(), self.buffers.bytes(buffer, Header(carried.header).len()))
    }

    /// The message that an owned slot carries, if it is one.
    pub(crate) fn bytes(&self, slot: u32) -> Option<&[u8]> {
        let held = self.slots.get(slot as usize).filter(|held| held.mark == OWNED)?;
        let header = Header(held.header);
        match header.flags() {
            ASSEMBLED => self.assembled.get(&slot).map(|bytes| &bytes[..]),
            0 if header.len() <= self.inline => held.data.as_bytes().get(..header.len()),
            0 => self.buffers.copy.get(Buffer::of(held.data).start()..)?.get(..header.len()),
            _ => None,
        }
    }

    /// Bytes of assembled messages that wait.
    pub(crate) fn assembled_bytes(&self) -> usize {
        self.assembled_bytes
    }

    /// Number of the next publication.
    #[inline(always)]
    pub(crate) fn publication(&self) -> u32 {
        self.publication
    }

    /// All completions so far are visible: what they were for is the driver's.
    #[inline]
    pub(crate) fn published(&mut self) {
        self.publication += 1;
        if self.publication == OWNED {
            self.count_anew();
        }
    }

    #[cold]
    fn count_anew(&mut self) {
        self.publication = 1;
        let marks = self.slots.iter_mut().map(|held| &mut held.mark).chain(self.buffers.marks.iter_mut());
        marks.filter(|mark| **mark != OWNED).for_each(|mark| *mark = 0);
    }

    /// Whether there is such a slot, and it is the driver's.
    #[inline(always)]
    pub(crate) fn is_free(&self, slot: u32) -> Option<bool> {
        self.slots.get(slot as usize).map(|held| held.mark < self.publication)
    }

    /// The slots and the buffers apart, for fetching many in a row.
    #[inline(always)]
    pub(super) fn split(&mut self) -> (Slots<'_>, &mut Buffers) {
        let slots = Slots { slots: &mut self.slots, publication: self.publication, owned: &mut self.owned };
        (slots, &mut self.buffers)
    }

    /// A buffer is let go of with the next publication: it was never held.
    pub(super) fn pass(&mut self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            self.buffers.mark(buffer, self.publication);
        }
    }

    /// Holds a free slot as a submission of its own, which is one message.
    fn hold(&mut self, slot: u32, header: Header, data: u64, buffer: Option<Buffer>) {
        let (mut slots, buffers) = self.split();
        if let Some(free) = slots.free(slot) {
            free.hold(buffers, header, data, buffer);
        }
    }

    /// Owns a free slot as the next of its submission: `before` is the one before it, or [`NONE`].
    pub(crate) fn own(&mut self, slot: u32, before: u32) {
        if let Some(before) = self.slots.get_mut(before as usize) {
            before.next = slot;
        }
        self.hold(slot, Header(0).with_flags(PACKAGE), 0, None);
    }

    /// Owns a free slot that is posted with a buffer, which is owned with it whatever is captured.
    pub(crate) fn post(&mut self, slot: u32, buffer: Buffer) {
        let longest = Header(u64::from(u16::MAX) << 16);
        self.hold(slot, longest, buffer.data(), Some(buffer));
    }

    /// What an owned slot carries: the inline bytes, or a buffer.
    pub(crate) fn carry(&mut self, slot: u32, header: Header, data: u64, buffer: Option<Buffer>) {
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.header = header.0;
            held.data = data;
        }
        if let Some(buffer) = buffer {
            self.buffers.mark(buffer, OWNED);
        }
    }

    /// An owned slot carries a message that came in fragments.
    pub(crate) fn carry_assembled(&mut self, slot: u32, header: Header, bytes: Box<[u8]>) {
        self.assembled_bytes += bytes.len();
        self.assembled.insert(slot, bytes);
        self.carry(slot, header.with_flags(ASSEMBLED), 0, None);
    }

    fn plain(&self, header: Header, data: u64) -> Message<'_> {
        match header.len() {
            len if len <= self.inline => Message::Short(data, len),
            len => Message::Long(self.buffers.bytes(Buffer::of(data), len)),
        }
    }

    /// Visits the messages of a submission in playing order, from one of its slots on, until `visit` says that it is
    /// enough. Says how many were visited, and the slot to go on with: [`NONE`] after the last.
    pub(crate) fn messages(&self, from: u32, mut visit: impl FnMut(u16, Message<'_>) -> bool) -> (u32, u32) {
        let mut messages = 0;
        let mut slot = from;
        while let Some(held) = self.slots.get(slot as usize) {
            let header = Header(held.header);
            let message = match header.flags() {
                PACKAGE => None,
                ASSEMBLED => Some(Message::Long(self.assembled.get(&slot).map_or(&[], |bytes| &bytes[..]))),
                _ => Some(self.plain(header, held.data)),
            };
            slot = held.next;
            if let Some(message) = message {
                messages += 1;
                if !visit(header.channel_group(), message) {
                    break;
                }
            }
        }
        (messages, slot)
    }

    /// Lets go of a submission's slots and buffers: they are the driver's again with the next publication.
    pub(crate) fn release(&mut self, head: u32) {
        let mut slot = head;
        while let Some(held) = self.slots.get_mut(slot as usize).filter(|held| held.mark == OWNED) {
            held.mark = self.publication;
            self.owned -= 1;
            let Held { header, data, next, .. } = *held;
            match Header(header).flags() {
                0 if Header(header).len() > self.inline => self.buffers.mark(Buffer::of(data), self.publication),
                ASSEMBLED => {
                    let bytes = self.assembled.remove(&slot);
                    self.assembled_bytes -= bytes.map_or(0, |bytes| bytes.len());
                }
                _ => {}
            }
            slot = next;
        }
    }
}

#[cfg(test)]
mod tests;
