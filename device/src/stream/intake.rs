//! Takes submissions over: copies each slot once, judges the private copy, and keeps it until the event is presented.
//!
//! Fed with slot numbers from the submission ring; feeds the sequencer with the heads of accepted submissions, and the stream with their
//! messages in playing order. A chain or package is taken whole or not at all. All storage is sized when the stream is created.

use crate::dma::View;
use crate::link::{Guest, StreamConfig};
use dmus_interface::event::{
    Data, Event, INCOMPLETE, MAX_DEPTH, MAX_EVENT_SIZE, MAX_MESSAGE, PACKAGE, PointerWidth, is_message, is_short_message,
};
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;
use std::collections::BTreeMap;

/// Bytes of assembled SysEx that may wait to be presented in a stream. A pool of 256 slots cannot exceed it.
const MAX_ASSEMBLED: usize = 16 << 20;
const NONE: u32 = u32::MAX;
/// [`Held::mark`] of a slot that the card owns.
const OWNED: u32 = u32::MAX;

/// Where the data of an event is, in private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    /// A package: its members carry the data.
    None,
    /// In the word.
    Inline,
    /// In the copy of the buffer that the word numbers.
    Buffer,
    /// In a SysEx message put together from fragments.
    Assembled,
}

/// What an event carries.
#[derive(Clone, Copy, Debug)]
struct Carries {
    payload: Payload,
    /// Bytes of data.
    len: u32,
    /// Inline data, or the number of a buffer.
    word: [u8; 8],
}

impl Carries {
    const NOTHING: Self = Self { payload: Payload::None, len: 0, word: [0; 8] };

    /// The buffer that goes with it.
    #[inline]
    fn buffer(&self) -> Option<usize> {
        (self.payload == Payload::Buffer).then_some(u64::from_le_bytes(self.word) as usize)
    }
}

/// The private copy of a slot.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// [`OWNED`], or the last section that took the slot and let go of it: its completion is not visible before that section ends.
    mark: u32,
    /// Next slot of the submission, in playing order.
    next: u32,
    channel_group: u16,
    carries: Carries,
}

/// An event like nearly all: by itself, whole, and valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) time: i64,
    channel_group: u16,
    carries: Carries,
}

/// SysEx in fragments.
#[derive(Debug)]
enum Assembly {
    Idle,
    Collecting(Vec<u8>),
    /// The message was rejected; its remaining fragments are, too.
    Refusing(Reject),
}

/// What became of a submission.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Held by the card from now on.
    Accepted { time: i64 },
    /// A fragment whose bytes are copied: complete.
    Copied,
    /// Refused; `messages` is how many it counts for.
    Rejected { reason: Reject, messages: u32 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Intake {
    config: StreamConfig,
    channel_groups: u16,
    slots: Box<[Held]>,
    /// The same of each buffer as [`Held::mark`].
    buffers: Box<[u32]>,
    /// Private copy of the buffer area.
    long_data: Box<[u8]>,
    /// Messages that came in fragments, by their last slot.
    assembled: BTreeMap<u32, Box<[u8]>>,
    assembly: Assembly,
    assembled_bytes: usize,
    abandoned: u32,
    /// Slots owned.
    pub(crate) owned: u32,
    /// Number of the present section.
    section: u32,
}

impl Intake {
    pub(crate) fn new(config: StreamConfig, channel_groups: u16) -> Self {
        let held = Held { mark: 0, next: NONE, channel_group: 0, carries: Carries::NOTHING };
        Self {
            config,
            channel_groups,
            slots: vec![held; config.slots as usize].into(),
            buffers: vec![0; config.buffers as usize].into(),
            long_data: vec![0; config.buffers as usize * config.buffer_size as usize].into(),
            assembled: BTreeMap::new(),
            assembly: Assembly::Idle,
            assembled_bytes: 0,
            abandoned: 0,
            owned: 0,
            section: 0,
        }
    }

    /// A new section: the completions of the one before are visible by now.
    #[inline]
    pub(crate) fn begin_section(&mut self) {
        self.section += 1;
        if self.section == OWNED {
            self.restart_sections();
        }
    }

    #[cold]
    fn restart_sections(&mut self) {
        self.section = 1;
        let marks = self.slots.iter_mut().map(|held| &mut held.mark).chain(self.buffers.iter_mut());
        for mark in marks.filter(|mark| **mark != OWNED) {
            *mark = 0;
        }
    }

    /// Reads the submission of `head` if it is a plain event, as nearly all are; its bytes are then looked at this once. `None`
    /// leaves it as it is, to [`Self::take`]. The event is not taken yet.
    #[inline]
    pub(crate) fn read_plain(&mut self, pool: View<'_>, buffers: View<'_>, head: u32) -> Option<Plain> {
        let held = self.slots.get(head as usize)?;
        let idle = matches!(self.assembly, Assembly::Idle);
        if held.mark >= self.section || !idle {
            return None;
        }
        let [header, time, _, next, word] = pool.words(head as usize * self.config.stride as usize)?;
        let (next, word) = match self.config.width {
            PointerWidth::Eight => (next, word),
            PointerWidth::Four => (next & 0xFFFF_FFFF, next >> 32),
        };
        // cbStruct is right, and usFlags is COMPLETE.
        let is_plain = header & 0xFFFF_0000_0000_FF00 == (self.config.width.event_size() as u64) << 8 && next == 0;
        let channel_group = (header >> 32) as u16;
        if !is_plain || channel_group >= self.channel_groups {
            return None;
        }
        let len = (header >> 16) as u16;
        let carries = Carries { payload: Payload::Inline, len: len.into(), word: word.to_le_bytes() };
        let plain = Plain { time: time as i64, channel_group, carries };
        if usize::from(len) > self.config.width.bytes() {
            return self.read_long(buffers, plain, word);
        }
        is_short_message(word, len.into()).then_some(plain)
    }

    /// Copies the data of a plain event out of its buffer.
    fn read_long(&mut self, buffers: View<'_>, mut plain: Plain, iova: u64) -> Option<Plain> {
        let offset = usize::try_from(iova.checked_sub(self.config.buffer_base)?).ok()?;
        let size = self.config.buffer_size.max(1) as usize;
        let len = plain.carries.len as usize;
        let (index, inside) = (offset / size, offset % size);
        if *self.buffers.get(index)? >= self.section || inside != 0 || len > size {
            return None;
        }
        let copy = self.long_data.get_mut(offset..offset + len)?;
        if !buffers.read(offset, copy) || !is_message(copy) {
            return None;
        }
        plain.carries.payload = Payload::Buffer;
        plain.carries.word = (index as u64).to_le_bytes();
        Some(plain)
    }

    /// Takes a plain event over, and lets go of it in the same section: it is presented at once.
    #[inline]
    pub(crate) fn pass(&mut self, head: u32, plain: &Plain, present: impl FnOnce(u16, &[u8])) {
        self.mark(head, plain, self.section);
        present(plain.channel_group, self.data(head, &plain.carries));
    }

    /// Takes a plain event over until its time has come.
    #[inline]
    pub(crate) fn hold_plain(&mut self, head: u32, plain: &Plain) {
        self.mark(head, plain, OWNED);
        self.owned += 1;
        if let Some(held) = self.slots.get_mut(head as usize) {
            held.next = NONE;
            held.channel_group = plain.channel_group;
            held.carries = plain.carries;
        }
    }

    #[inline]
    fn mark(&mut self, head: u32, plain: &Plain, mark: u32) {
        if let Some(held) = self.slots.get_mut(head as usize) {
            held.mark = mark;
        }
        if let Some(buffer) = plain.carries.buffer()
            && let Some(place) = self.buffers.get_mut(buffer)
        {
            *place = mark;
        }
    }

    /// Takes the submission of `head` over. `Err` means that the ring entry itself is wrong: nothing can be completed.
    pub(crate) fn take(&mut self, guest: &dyn Guest, head: u32) -> Result<Outcome, Fault> {
        match self.slots.get(head as usize) {
            None => return Err(Fault::BadSlot),
            Some(held) if held.mark >= self.section => return Err(Fault::SlotInFlight),
            Some(_) => {}
        }
        let mut walk = Walk::new(head);
        let result = self.walk(guest, &mut walk);
        if !matches!(result, Ok(Outcome::Accepted { .. })) {
            self.release(head);
        }
        Ok(result.unwrap_or_else(|reason| Outcome::Rejected { reason, messages: walk.messages }))
    }

    /// Messages in fragments that were left unfinished since this was last asked.
    pub(crate) fn take_abandoned(&mut self) -> u32 {
        std::mem::take(&mut self.abandoned)
    }

    /// Gives up a message whose fragments have not all come.
    pub(crate) fn abandon_assembly(&mut self) {
        if let Assembly::Collecting(_) = std::mem::replace(&mut self.assembly, Assembly::Idle) {
            self.abandoned += 1;
        }
    }

    fn walk(&mut self, guest: &dyn Guest, walk: &mut Walk) -> Result<Outcome, Reject> {
        let mut time = 0;
        loop {
            let slot = walk.slot;
            let event = self.copy(guest, slot)?;
            self.own(slot, walk);
            let package = event.flags & PACKAGE != 0;
            walk.messages += u32::from(!package);
            self.judge(&event)?;
            if slot == walk.head {
                time = event.time;
                if event.next == 0 && !package {
                    return self.single(guest, slot, &event, walk);
                }
                self.abandon_assembly();
            } else if walk.depth == 0 && event.time != time {
                return Err(Reject::TimeMismatch);
            }
            if event.flags & INCOMPLETE != 0 {
                return Err(Reject::FragmentInChain);
            }
            let next = match event.next {
                0 => None,
                iova => Some(self.slot_at(iova)?),
            };
            if let Data::Package(inner) = event.data {
                if inner == 0 {
                    return Err(Reject::EmptyPackage);
                }
                let inner = self.slot_at(inner)?;
                walk.enter(next, inner)?;
                continue;
            }
            let carries = self.bytes(guest, &event)?;
            self.hold_message(slot, &event, carries)?;
            match next.or_else(|| walk.leave()) {
                Some(next) => walk.slot = next,
                None => {
                    return Ok(Outcome::Accepted { time });
                }
            }
        }
    }

    /// An event by itself: a message, or a fragment of one.
    fn single(&mut self, guest: &dyn Guest, slot: u32, event: &Event, walk: &mut Walk) -> Result<Outcome, Reject> {
        let last = event.flags & INCOMPLETE == 0;
        walk.messages = u32::from(last);
        let carries = self.bytes(guest, event)?;
        let first = self.data(slot, &carries).first().copied().unwrap_or(0);
        // Real-time messages may stand between fragments; any other status byte begins a new message.
        let realtime = first >= 0xF8 && last;
        if (0x80..0xF7).contains(&first) {
            self.abandon_assembly();
        }
        let accepted = Outcome::Accepted { time: event.time };
        if realtime || last && matches!(self.assembly, Assembly::Idle) {
            return self.hold_message(slot, event, carries).map(|()| accepted);
        }
        let collected = self.collect(slot, carries, last);
        // The bytes are copied: a fragment's buffer is free, whatever becomes of the message.
        self.free_buffer(&carries);
        match collected {
            Ok(bytes) if last => {
                self.assembled_bytes += bytes.len();
                let (len, bytes) = (bytes.len() as u32, bytes.into());
                self.assembled.insert(slot, bytes);
                self.hold(slot, event.channel_group, Carries { payload: Payload::Assembled, len, ..Carries::NOTHING });
                Ok(accepted)
            }
            Ok(bytes) => {
                self.assembly = Assembly::Collecting(bytes);
                Ok(Outcome::Copied)
            }
            Err(reason) => {
                if !last {
                    self.assembly = Assembly::Refusing(reason);
                }
                Err(reason)
            }
        }
    }

    /// Adds a fragment to what came before, and judges the whole after the last one.
    fn collect(&mut self, slot: u32, carries: Carries, last: bool) -> Result<Vec<u8>, Reject> {
        let mut bytes = match std::mem::replace(&mut self.assembly, Assembly::Idle) {
            Assembly::Refusing(reason) => return Err(reason),
            Assembly::Idle => Vec::new(),
            Assembly::Collecting(bytes) => bytes,
        };
        bytes.extend_from_slice(self.data(slot, &carries));
        if bytes.len() > MAX_MESSAGE || self.assembled_bytes + bytes.len() > MAX_ASSEMBLED {
            Err(Reject::MessageTooLong)
        } else if bytes.first() != Some(&0xF0) || last && !is_message(&bytes) {
            Err(Reject::BadMessage)
        } else {
            Ok(bytes)
        }
    }

    /// Reads a slot: the only time that its bytes are looked at.
    fn copy(&self, guest: &dyn Guest, slot: u32) -> Result<Event, Reject> {
        if self.slots.get(slot as usize).is_none_or(|held| held.mark >= self.section) {
            return Err(Reject::SlotInFlight);
        }
        let mut bytes = [0; MAX_EVENT_SIZE];
        let bytes = &mut bytes[..self.config.width.event_size()];
        let iova = self.config.pool_base + u64::from(slot) * u64::from(self.config.stride);
        guest.read(iova, bytes).map_err(|_| Reject::NotMapped)?;
        Event::decode(bytes, self.config.width).map_err(|_| Reject::NotMapped)
    }

    fn own(&mut self, slot: u32, walk: &mut Walk) {
        if let Some(last) = self.slots.get_mut(walk.last as usize) {
            last.next = slot;
        }
        walk.last = slot;
        if let Some(held) = self.slots.get_mut(slot as usize) {
            *held = Held { mark: OWNED, next: NONE, channel_group: 0, carries: Carries::NOTHING };
            self.owned += 1;
        }
    }

    fn judge(&self, event: &Event) -> Result<(), Reject> {
        if usize::from(event.struct_size) != self.config.width.event_size() {
            Err(Reject::BadStructSize)
        } else if event.flags & !(INCOMPLETE | PACKAGE) != 0 {
            Err(Reject::BadFlags)
        } else if event.flags == INCOMPLETE | PACKAGE {
            Err(Reject::FragmentInChain)
        } else if event.flags & PACKAGE == 0 && event.event_bytes == 0 {
            Err(Reject::Empty)
        } else if event.channel_group >= self.channel_groups {
            Err(Reject::BadChannelGroup)
        } else {
            Ok(())
        }
    }

    fn slot_at(&self, iova: u64) -> Result<u32, Reject> {
        let offset = iova.checked_sub(self.config.pool_base).ok_or(Reject::BadChain)?;
        let stride = u64::from(self.config.stride);
        let slot = offset / stride;
        match offset.is_multiple_of(stride) && slot < u64::from(self.config.slots) {
            true => Ok(slot as u32),
            false => Err(Reject::BadChain),
        }
    }

    /// Copies the data of an event: nothing for a package.
    fn bytes(&mut self, guest: &dyn Guest, event: &Event) -> Result<Carries, Reject> {
        let len = u32::from(event.event_bytes);
        match event.data {
            Data::Inline(bytes) => Ok(Carries { payload: Payload::Inline, len, word: bytes }),
            Data::Package(_) => Ok(Carries::NOTHING),
            Data::Buffer(iova) => {
                let size = u64::from(self.config.buffer_size);
                let offset = iova.checked_sub(self.config.buffer_base).ok_or(Reject::BadBuffer)?;
                let index = (offset / size.max(1)) as usize;
                if !offset.is_multiple_of(size.max(1)) || index >= self.buffers.len() {
                    return Err(Reject::BadBuffer);
                }
                if u64::from(len) > size {
                    return Err(Reject::TooLong);
                }
                if self.buffers[index] >= self.section {
                    return Err(Reject::BufferInFlight);
                }
                let start = offset as usize;
                let copy = &mut self.long_data[start..start + len as usize];
                guest.read(iova, copy).map_err(|_| Reject::NotMapped)?;
                self.buffers[index] = OWNED;
                Ok(Carries { payload: Payload::Buffer, len, word: (index as u64).to_le_bytes() })
            }
        }
    }

    /// Holds an event whose data must be exactly one message.
    fn hold_message(&mut self, slot: u32, event: &Event, carries: Carries) -> Result<(), Reject> {
        if !is_message(self.data(slot, &carries)) {
            self.free_buffer(&carries);
            return Err(Reject::BadMessage);
        }
        self.hold(slot, event.channel_group, carries);
        Ok(())
    }

    fn hold(&mut self, slot: u32, channel_group: u16, carries: Carries) {
        if let Some(held) = self.slots.get_mut(slot as usize) {
            held.channel_group = channel_group;
            held.carries = carries;
        }
    }

    /// Visits the messages of an accepted submission in playing order, and says how many they are.
    #[inline]
    pub(crate) fn messages(&self, head: u32, mut visit: impl FnMut(u16, &[u8])) -> u32 {
        let mut messages = 0;
        let mut slot = head;
        while let Some(held) = self.slots.get(slot as usize) {
            if held.carries.payload != Payload::None {
                messages += 1;
                visit(held.channel_group, self.data(slot, &held.carries));
            }
            slot = held.next;
        }
        messages
    }

    #[inline]
    fn data<'a>(&'a self, slot: u32, carries: &'a Carries) -> &'a [u8] {
        let len = carries.len as usize;
        let bytes = match carries.payload {
            Payload::None => None,
            Payload::Inline => carries.word.get(..len),
            Payload::Buffer => {
                let start = carries.buffer().unwrap_or(0) * self.config.buffer_size as usize;
                self.long_data.get(start..start + len)
            }
            Payload::Assembled => self.assembled.get(&slot).map(|bytes| &bytes[..]),
        };
        bytes.unwrap_or(&[])
    }

    /// Lets go of a submission's slots and buffers: they are the driver's again once its completion is visible.
    #[inline]
    pub(crate) fn release(&mut self, head: u32) {
        let mut slot = head;
        while let Some(held) = self.slots.get_mut(slot as usize).filter(|held| held.mark == OWNED) {
            held.mark = self.section;
            self.owned -= 1;
            let Held { carries, next, .. } = *held;
            self.free_buffer(&carries);
            if carries.payload == Payload::Assembled {
                self.assembled.remove(&slot);
                self.assembled_bytes -= carries.len as usize;
            }
            slot = next;
        }
    }

    #[inline]
    fn free_buffer(&mut self, carries: &Carries) {
        if let Some(mark) = carries.buffer().and_then(|buffer| self.buffers.get_mut(buffer)) {
            *mark = self.section;
        }
    }
}

/// Where a walk through a chain with its packages is.
struct Walk {
    head: u32,
    slot: u32,
    /// Slot before, in playing order.
    last: u32,
    messages: u32,
    depth: usize,
    /// What follows each package that was entered.
    after: [u32; MAX_DEPTH],
}

impl Walk {
    fn new(head: u32) -> Self {
        Self { head, slot: head, last: NONE, messages: 0, depth: 0, after: [NONE; MAX_DEPTH] }
    }

    fn enter(&mut self, after: Option<u32>, inner: u32) -> Result<(), Reject> {
        *self.after.get_mut(self.depth).ok_or(Reject::TooDeep)? = after.unwrap_or(NONE);
        self.depth += 1;
        self.slot = inner;
        Ok(())
    }

    fn leave(&mut self) -> Option<u32> {
        while self.depth > 0 {
            self.depth -= 1;
            let next = self.after[self.depth];
            if next != NONE {
                return Some(next);
            }
        }
        None
    }
}
