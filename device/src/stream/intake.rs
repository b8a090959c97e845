//! Takes submissions over: copies each slot once, judges the private copy, and keeps it until the event is presented.
//!
//! Fed with slot numbers from the submission ring; feeds the sequencer with the heads of accepted submissions, and the stream with their
//! messages in playing order. A chain or package is taken whole or not at all. All storage is sized when the stream is created.

use crate::link::{Shared, StreamConfig};
use dmus_interface::event::{Data, Event, INCOMPLETE, MAX_DEPTH, MAX_EVENT_SIZE, MAX_MESSAGE, PACKAGE, is_message};
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;

/// Bytes of assembled SysEx that may wait to be presented in a stream. A pool of 256 slots cannot exceed it.
const MAX_ASSEMBLED: usize = 16 << 20;
const NONE: u32 = u32::MAX;

/// The data of an event, in private memory.
#[derive(Debug)]
enum Payload {
    /// A package: its members carry the data.
    None,
    Inline([u8; 8], u8),
    /// Number of the buffer, and bytes in its private copy.
    Buffer(u32, u32),
    /// A SysEx message put together from fragments.
    Assembled(Box<[u8]>),
}

/// The private copy of a slot.
#[derive(Debug)]
struct Taken {
    owned: bool,
    channel_group: u16,
    payload: Payload,
    /// Next slot of the submission, in playing order.
    next: u32,
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
    slots: Box<[Taken]>,
    /// Whether an event in flight carries the buffer.
    buffers: Box<[bool]>,
    /// Private copy of the buffer area.
    long_data: Box<[u8]>,
    assembly: Assembly,
    assembled_bytes: usize,
    abandoned: u32,
    /// Slots owned.
    pub(crate) owned: u32,
}

impl Intake {
    pub(crate) fn new(config: StreamConfig, channel_groups: u16) -> Self {
        let taken = || Taken { owned: false, channel_group: 0, payload: Payload::None, next: NONE };
        Self {
            config,
            channel_groups,
            slots: (0..config.slots).map(|_| taken()).collect(),
            buffers: vec![false; config.buffers as usize].into(),
            long_data: vec![0; config.buffers as usize * config.buffer_size as usize].into(),
            assembly: Assembly::Idle,
            assembled_bytes: 0,
            abandoned: 0,
            owned: 0,
        }
    }

    /// Takes the submission of `head` over. `Err` means that the ring entry itself is wrong: nothing can be completed.
    pub(crate) fn take(&mut self, shared: &Shared, head: u32) -> Result<Outcome, Fault> {
        match self.slots.get(head as usize) {
            None => return Err(Fault::BadSlot),
            Some(taken) if taken.owned => return Err(Fault::SlotInFlight),
            Some(_) => {}
        }
        let mut walk = Walk::new(head);
        let result = self.walk(shared, &mut walk);
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

    fn walk(&mut self, shared: &Shared, walk: &mut Walk) -> Result<Outcome, Reject> {
        let mut time = 0;
        loop {
            let slot = walk.slot;
            let event = self.copy(shared, slot)?;
            self.own(slot, walk);
            let package = event.flags & PACKAGE != 0;
            walk.messages += u32::from(!package);
            self.judge(&event)?;
            if slot == walk.head {
                time = event.time;
                if event.next == 0 && !package {
                    return self.single(shared, slot, &event, walk);
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
            let payload = self.bytes(shared, &event)?;
            self.hold_message(slot, &event, payload)?;
            match next.or_else(|| walk.leave()) {
                Some(next) => walk.slot = next,
                None => {
                    return Ok(Outcome::Accepted { time });
                }
            }
        }
    }

    /// An event by itself: a message, or a fragment of one.
    fn single(&mut self, shared: &Shared, slot: u32, event: &Event, walk: &mut Walk) -> Result<Outcome, Reject> {
        let last = event.flags & INCOMPLETE == 0;
        walk.messages = u32::from(last);
        let payload = self.bytes(shared, event)?;
        let first = self.data(&payload).first().copied().unwrap_or(0);
        // Real-time messages may stand between fragments; any other status byte begins a new message.
        let realtime = first >= 0xF8 && last;
        if (0x80..0xF7).contains(&first) {
            self.abandon_assembly();
        }
        let accepted = Outcome::Accepted { time: event.time };
        if realtime || last && matches!(self.assembly, Assembly::Idle) {
            return self.hold_message(slot, event, payload).map(|()| accepted);
        }
        let collected = self.collect(&payload, last);
        // The bytes are copied: a fragment's buffer is free, whatever becomes of the message.
        self.free_buffer(&payload);
        match collected {
            Ok(bytes) if last => {
                self.assembled_bytes += bytes.len();
                self.hold(slot, event.channel_group, Payload::Assembled(bytes.into()));
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
    fn collect(&mut self, payload: &Payload, last: bool) -> Result<Vec<u8>, Reject> {
        let mut bytes = match std::mem::replace(&mut self.assembly, Assembly::Idle) {
            Assembly::Refusing(reason) => return Err(reason),
            Assembly::Idle => Vec::new(),
            Assembly::Collecting(bytes) => bytes,
        };
        bytes.extend_from_slice(self.data(payload));
        if bytes.len() > MAX_MESSAGE || self.assembled_bytes + bytes.len() > MAX_ASSEMBLED {
            Err(Reject::MessageTooLong)
        } else if bytes.first() != Some(&0xF0) || last && !is_message(&bytes) {
            Err(Reject::BadMessage)
        } else {
            Ok(bytes)
        }
    }

    /// Reads a slot: the only time that its bytes are looked at.
    fn copy(&self, shared: &Shared, slot: u32) -> Result<Event, Reject> {
        if self.slots.get(slot as usize).is_none_or(|taken| taken.owned) {
            return Err(Reject::SlotInFlight);
        }
        let mut bytes = [0; MAX_EVENT_SIZE];
        let bytes = &mut bytes[..self.config.width.event_size()];
        let iova = self.config.pool_base + u64::from(slot) * u64::from(self.config.stride);
        shared.read_guest(iova, bytes).map_err(|_| Reject::NotMapped)?;
        Event::decode(bytes, self.config.width).map_err(|_| Reject::NotMapped)
    }

    fn own(&mut self, slot: u32, walk: &mut Walk) {
        if let Some(last) = self.slots.get_mut(walk.last as usize) {
            last.next = slot;
        }
        walk.last = slot;
        if let Some(taken) = self.slots.get_mut(slot as usize) {
            *taken = Taken { owned: true, channel_group: 0, payload: Payload::None, next: NONE };
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

    /// Copies the data of an event: `None` for a package.
    fn bytes(&mut self, shared: &Shared, event: &Event) -> Result<Payload, Reject> {
        match event.data {
            Data::Inline(bytes) => Ok(Payload::Inline(bytes, event.event_bytes as u8)),
            Data::Package(_) => Ok(Payload::None),
            Data::Buffer(iova) => {
                let size = u64::from(self.config.buffer_size);
                let len = u32::from(event.event_bytes);
                let offset = iova.checked_sub(self.config.buffer_base).ok_or(Reject::BadBuffer)?;
                let index = (offset / size.max(1)) as usize;
                if !offset.is_multiple_of(size.max(1)) || index >= self.buffers.len() {
                    return Err(Reject::BadBuffer);
                }
                if u64::from(len) > size {
                    return Err(Reject::TooLong);
                }
                if self.buffers[index] {
                    return Err(Reject::BufferInFlight);
                }
                let start = offset as usize;
                let copy = &mut self.long_data[start..start + len as usize];
                shared.read_guest(iova, copy).map_err(|_| Reject::NotMapped)?;
                self.buffers[index] = true;
                Ok(Payload::Buffer(index as u32, len))
            }
        }
    }

    /// Holds an event whose data must be exactly one message.
    fn hold_message(&mut self, slot: u32, event: &Event, payload: Payload) -> Result<(), Reject> {
        if !is_message(self.data(&payload)) {
            self.free_buffer(&payload);
            return Err(Reject::BadMessage);
        }
        self.hold(slot, event.channel_group, payload);
        Ok(())
    }

    fn hold(&mut self, slot: u32, channel_group: u16, payload: Payload) {
        if let Some(taken) = self.slots.get_mut(slot as usize) {
            taken.channel_group = channel_group;
            taken.payload = payload;
        }
    }

    fn data<'a>(&'a self, payload: &'a Payload) -> &'a [u8] {
        match payload {
            Payload::None => &[],
            Payload::Inline(bytes, len) => &bytes[..usize::from(*len)],
            Payload::Buffer(index, len) => {
                let start = *index as usize * self.config.buffer_size as usize;
                &self.long_data[start..start + *len as usize]
            }
            Payload::Assembled(bytes) => bytes,
        }
    }

    /// Visits the messages of an accepted submission in playing order.
    pub(crate) fn messages(&self, head: u32, mut visit: impl FnMut(u16, &[u8])) -> u32 {
        let mut messages = 0;
        let mut slot = head;
        while let Some(taken) = self.slots.get(slot as usize) {
            if !matches!(taken.payload, Payload::None) {
                messages += 1;
                visit(taken.channel_group, self.data(&taken.payload));
            }
            slot = taken.next;
        }
        messages
    }

    /// Lets go of a submission's slots and buffers: they are the driver's again once its completion is visible.
    pub(crate) fn release(&mut self, head: u32) {
        let mut slot = head;
        while let Some(taken) = self.slots.get_mut(slot as usize).filter(|taken| taken.owned) {
            taken.owned = false;
            self.owned -= 1;
            slot = taken.next;
            let payload = std::mem::replace(&mut taken.payload, Payload::None);
            self.free_buffer(&payload);
            if let Payload::Assembled(bytes) = payload {
                self.assembled_bytes -= bytes.len();
            }
        }
    }

    fn free_buffer(&mut self, payload: &Payload) {
        if let Payload::Buffer(index, _) = payload
            && let Some(in_flight) = self.buffers.get_mut(*index as usize)
        {
            *in_flight = false;
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
