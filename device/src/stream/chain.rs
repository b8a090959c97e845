//! Takes over the submissions that are more than one whole message: chains, packages, and SysEx in fragments.
//!
//! Fed by the stream with the head of a submission and its copied words; feeds the owners' table with all of its slots.
//! A chain or package is taken whole or not at all: each slot is read once, judged by the [`Validator`], and released
//! if a later one is refused.

use super::in_flight::{Header, InFlight, NONE};
use super::validate::{Copied, Validator};
use crate::check::Observer;
use crate::dma::{SlotWords, StreamMemory};
use dmus_interface::event::{Data, Event, INCOMPLETE, MAX_DEPTH, MAX_MESSAGE, PACKAGE, ShortForm, is_message};
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
    /// Refused for what the slot `at` is; `messages` is how many it counts for. That slot may be another submission's:
    /// `stolen`.
    Rejected { reason: Reject, messages: u32, at: u32, stolen: bool },
}

/// Puts SysEx together from its fragments.
#[derive(Debug)]
pub(super) struct Assembler {
    assembly: Assembly,
    /// The slot that the last fragment was in.
    last: u32,
    /// That of a message which was left unfinished since this was last asked.
    abandoned: Option<u32>,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self { assembly: Assembly::Idle, last: NONE, abandoned: None }
    }

    /// Whether no message waits for its other fragments.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.assembly, Assembly::Idle)
    }

    pub(super) fn take_abandoned(&mut self) -> Option<u32> {
        self.abandoned.take()
    }

    /// Gives up a message whose fragments have not all come.
    pub(super) fn abandon(&mut self) {
        if let Assembly::Collecting(_) = std::mem::replace(&mut self.assembly, Assembly::Idle) {
            self.abandoned = Some(self.last);
        }
    }

    /// Adds a fragment to what came before, and judges the whole after the last one.
    fn collect(&mut self, fragment: &[u8], last: bool, waiting: usize) -> Result<Vec<u8>, Reject> {
        let mut bytes = match std::mem::replace(&mut self.assembly, Assembly::Idle) {
            Assembly::Refusing(reason) => return Err(reason),
            Assembly::Idle => Vec::new(),
            Assembly::Collecting(bytes) => bytes,
        };
        if bytes.try_reserve(fragment.len()).is_err() {
            return Err(Reject::MessageTooLong);
        }
        bytes.extend_from_slice(fragment);
        if bytes.len() > MAX_MESSAGE || waiting + bytes.len() > MAX_ASSEMBLED {
            Err(Reject::MessageTooLong)
        } else if bytes.first() != Some(&0xF0) || last && !is_message(&bytes) {
            Err(Reject::BadMessage)
        } else {
            Ok(bytes)
        }
    }
}

/// A submission as it is taken over.
pub(super) struct Taking<'a, M> {
    pub(super) memory: &'a mut M,
    pub(super) validator: &'a Validator,
    pub(super) in_flight: &'a mut InFlight,
    pub(super) assembler: &'a mut Assembler,
    /// Of a card that checks.
    pub(super) observer: Option<&'a Observer>,
}

impl<M: StreamMemory> Taking<'_, M> {
    /// Takes the submission of `head` over, which is free. Its words were read, or could not be.
    pub(super) fn take(&mut self, head: u32, words: Option<SlotWords>) -> Outcome {
        let mut walk = Walk::new(head);
        let result = self.walk(words, &mut walk);
        let stolen =
            result == Err(Reject::SlotInFlight) && !self.in_flight.chain(head).any(|(slot, _)| slot == walk.slot);
        if !matches!(result, Ok(Outcome::Accepted { .. })) {
            self.in_flight.release(head);
        }
        result.unwrap_or_else(|reason| Outcome::Rejected { reason, messages: walk.messages, at: walk.slot, stolen })
    }

    fn walk(&mut self, words: Option<SlotWords>, walk: &mut Walk) -> Result<Outcome, Reject> {
        let mut time = 0;
        let mut words = words.ok_or(Reject::NotMapped)?;
        loop {
            let slot = walk.slot;
            let event = self.validator.decode(&words);
            self.in_flight.own(slot, walk.last);
            if let Some(observer) = self.observer {
                observer.note(slot, &words);
            }
            walk.last = slot;
            let package = event.flags & PACKAGE != 0;
            walk.messages += u32::from(!package);
            self.validator.judge(&event)?;
            if slot == walk.head {
                time = event.time;
                if event.next == 0 && !package {
                    return self.single(slot, words, &event, walk);
                }
                self.assembler.abandon();
            } else if walk.depth == 0 && event.time != time {
                return Err(Reject::TimeMismatch);
            }
            if event.flags & INCOMPLETE != 0 {
                return Err(Reject::FragmentInChain);
            }
            let next = match event.next {
                0 => None,
                iova => Some(self.validator.slot_at(iova)?),
            };
            if let Data::Package(inner) = event.data {
                if inner == 0 {
                    return Err(Reject::EmptyPackage);
                }
                let inner = self.validator.slot_at(inner)?;
                walk.enter(next, inner)?;
            } else {
                let copied = self.copy(&event)?.whole()?;
                self.hold(slot, words, copied);
                match next.or_else(|| walk.leave()) {
                    Some(next) => walk.slot = next,
                    None => return Ok(Outcome::Accepted { time }),
                }
            }
            if self.in_flight.is_free(walk.slot) != Some(true) {
                return Err(Reject::SlotInFlight);
            }
            words = self.memory.slot(walk.slot).ok_or(Reject::NotMapped)?;
        }
    }

    /// An event by itself: a message, or a fragment of one.
    fn single(&mut self, slot: u32, words: SlotWords, event: &Event, walk: &mut Walk) -> Result<Outcome, Reject> {
        let last = event.flags & INCOMPLETE == 0;
        walk.messages = u32::from(last);
        let copied = self.copy(event)?;
        let fragment = match copied.buffer {
            None => copied.data.to_le_bytes()[..usize::from(event.event_bytes)].to_vec(),
            Some(buffer) => self.in_flight.buffers.copy_mut(buffer, event.event_bytes.into()).to_vec(),
        };
        let first = fragment.first().copied().unwrap_or(0);
        // Real-time messages may stand between fragments; any other status byte begins a new message.
        let realtime = first >= 0xF8 && last;
        if (0x80..0xF7).contains(&first) {
            self.assembler.abandon();
        }
        let accepted = Outcome::Accepted { time: event.time };
        if realtime || last && self.assembler.is_idle() {
            self.hold(slot, words, copied.whole()?);
            return Ok(accepted);
        }
        // The bytes are copied: a fragment's buffer is free, whatever becomes of the message.
        self.in_flight.pass(copied.buffer);
        match self.assembler.collect(&fragment, last, self.in_flight.assembled_bytes()) {
            Ok(bytes) if last => {
                self.in_flight.carry_assembled(slot, Header(words.header), bytes.into());
                Ok(accepted)
            }
            Ok(bytes) => {
                self.assembler.assembly = Assembly::Collecting(bytes);
                self.assembler.last = slot;
                Ok(Outcome::Copied)
            }
            Err(reason) => {
                if !last {
                    self.assembler.assembly = Assembly::Refusing(reason);
                }
                Err(reason)
            }
        }
    }

    fn copy(&mut self, event: &Event) -> Result<Copied, Reject> {
        let form = ShortForm::of_length(event.event_bytes.into());
        let (inline, data) = match event.data {
            Data::Inline(bytes) => (Some(form), u64::from_le_bytes(bytes)),
            Data::Buffer(iova) | Data::Package(iova) => (None, iova),
        };
        let publication = self.in_flight.publication();
        Validator::copy(self.memory, (&mut self.in_flight.buffers, publication), inline, data, event.event_bytes.into())
    }

    fn hold(&mut self, slot: u32, words: SlotWords, copied: Copied) {
        self.in_flight.carry(slot, Header(words.header), copied.data, copied.buffer);
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
