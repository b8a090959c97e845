//! Takes submissions over: copies each slot once, judges the private copy, and keeps it until the event is presented.
//!
//! Fed with slot numbers from the submission ring; feeds the sequencer with the heads of accepted submissions, and the stream with their
//! messages in playing order. A chain or package is taken whole or not at all. All storage is sized when the stream is created.

use super::hold::{Data, Hold, NONE, NoBuffer, OWNED};
use crate::link::{Guest, StreamConfig};
use dmus_interface::event::{self, Event, INCOMPLETE, MAX_DEPTH, MAX_EVENT_SIZE, MAX_MESSAGE, PACKAGE, is_message};
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;

/// Bytes of assembled SysEx that may wait to be presented in a stream. A pool of 256 slots cannot exceed it.
const MAX_ASSEMBLED: usize = 16 << 20;

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
pub(super) enum Outcome {
    /// Held by the card from now on.
    Accepted { time: i64 },
    /// A fragment whose bytes are copied: complete.
    Copied,
    /// Refused; `messages` is how many it counts for.
    Rejected { reason: Reject, messages: u32 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Intake {
    config: StreamConfig,
    pub(super) channel_groups: u16,
    pub(super) hold: Hold,
    assembly: Assembly,
    abandoned: u32,
}

impl Intake {
    pub(super) fn new(config: StreamConfig, channel_groups: u16) -> Self {
        Self { config, channel_groups, hold: Hold::new(&config), assembly: Assembly::Idle, abandoned: 0 }
    }

    /// Whether no message waits for its other fragments.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.assembly, Assembly::Idle)
    }

    /// Takes the submission of `head` over. `Err` means that the ring entry itself is wrong: nothing can be completed.
    pub(super) fn take(&mut self, guest: &dyn Guest, head: u32) -> Result<Outcome, Fault> {
        match self.hold.is_free(head) {
            None => return Err(Fault::BadSlot),
            Some(false) => return Err(Fault::SlotInFlight),
            Some(true) => {}
        }
        let mut walk = Walk::new(head);
        let result = self.walk(guest, &mut walk);
        if !matches!(result, Ok(Outcome::Accepted { .. })) {
            self.hold.release(head);
        }
        Ok(result.unwrap_or_else(|reason| Outcome::Rejected { reason, messages: walk.messages }))
    }

    /// Messages in fragments that were left unfinished since this was last asked.
    pub(super) fn take_abandoned(&mut self) -> u32 {
        std::mem::take(&mut self.abandoned)
    }

    /// Gives up a message whose fragments have not all come.
    pub(super) fn abandon_assembly(&mut self) {
        if let Assembly::Collecting(_) = std::mem::replace(&mut self.assembly, Assembly::Idle) {
            self.abandoned += 1;
        }
    }

    fn walk(&mut self, guest: &dyn Guest, walk: &mut Walk) -> Result<Outcome, Reject> {
        let mut time = 0;
        loop {
            let slot = walk.slot;
            let event = self.copy(guest, slot)?;
            self.hold.own(slot, walk.last);
            walk.last = slot;
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
            if let event::Data::Package(inner) = event.data {
                if inner == 0 {
                    return Err(Reject::EmptyPackage);
                }
                let inner = self.slot_at(inner)?;
                walk.enter(next, inner)?;
                continue;
            }
            let data = self.data(guest, &event)?;
            self.hold_message(slot, &event, data)?;
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
        let data = self.data(guest, event)?;
        let first = self.hold.bytes(slot, &data).first().copied().unwrap_or(0);
        // Real-time messages may stand between fragments; any other status byte begins a new message.
        let realtime = first >= 0xF8 && last;
        if (0x80..0xF7).contains(&first) {
            self.abandon_assembly();
        }
        let accepted = Outcome::Accepted { time: event.time };
        if realtime || last && matches!(self.assembly, Assembly::Idle) {
            return self.hold_message(slot, event, data).map(|()| accepted);
        }
        let collected = self.collect(slot, &data, last);
        // The bytes are copied: a fragment's buffer is free, whatever becomes of the message.
        self.hold.release_buffer(&data);
        match collected {
            Ok(bytes) if last => {
                self.hold.carry_assembled(slot, event.channel_group, bytes.into());
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
    fn collect(&mut self, slot: u32, data: &Data, last: bool) -> Result<Vec<u8>, Reject> {
        let mut bytes = match std::mem::replace(&mut self.assembly, Assembly::Idle) {
            Assembly::Refusing(reason) => return Err(reason),
            Assembly::Idle => Vec::new(),
            Assembly::Collecting(bytes) => bytes,
        };
        bytes.extend_from_slice(self.hold.bytes(slot, data));
        if bytes.len() > MAX_MESSAGE || self.hold.assembled_bytes + bytes.len() > MAX_ASSEMBLED {
            Err(Reject::MessageTooLong)
        } else if bytes.first() != Some(&0xF0) || last && !is_message(&bytes) {
            Err(Reject::BadMessage)
        } else {
            Ok(bytes)
        }
    }

    /// Reads a slot: the only time that its bytes are looked at.
    fn copy(&self, guest: &dyn Guest, slot: u32) -> Result<Event, Reject> {
        if self.hold.is_free(slot) != Some(true) {
            return Err(Reject::SlotInFlight);
        }
        let mut bytes = [0; MAX_EVENT_SIZE];
        let bytes = &mut bytes[..self.config.width.event_size()];
        let iova = self.config.pool_base + u64::from(slot) * u64::from(self.config.stride);
        guest.read(iova, bytes).map_err(|_| Reject::NotMapped)?;
        Event::decode(bytes, self.config.width).map_err(|_| Reject::NotMapped)
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

    /// Copies the data of an event.
    fn data(&mut self, guest: &dyn Guest, event: &Event) -> Result<Data, Reject> {
        let len = event.event_bytes;
        match event.data {
            event::Data::Inline(bytes) => Ok(Data::Inline(bytes, len as u8)),
            event::Data::Package(_) => Ok(Data::None),
            event::Data::Buffer(iova) => {
                let buffers = &mut self.hold.buffers;
                let (index, offset) = match buffers.find(iova, len.into(), self.hold.section) {
                    Ok(found) => found,
                    Err(NoBuffer::Place) => return Err(Reject::BadBuffer),
                    Err(NoBuffer::Length) => return Err(Reject::TooLong),
                    Err(NoBuffer::InFlight) => return Err(Reject::BufferInFlight),
                };
                let copy = &mut buffers.copy[offset..offset + usize::from(len)];
                guest.read(iova, copy).map_err(|_| Reject::NotMapped)?;
                buffers.marks[index as usize] = OWNED;
                Ok(Data::Buffer(index, len.into()))
            }
        }
    }

    /// Holds an event whose data must be exactly one message.
    fn hold_message(&mut self, slot: u32, event: &Event, data: Data) -> Result<(), Reject> {
        if !is_message(self.hold.bytes(slot, &data)) {
            self.hold.release_buffer(&data);
            return Err(Reject::BadMessage);
        }
        self.hold.carry(slot, event.channel_group, data);
        Ok(())
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
