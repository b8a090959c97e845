//! What the queues of a stream do otherwise on a card that takes liberties or has faults.
//!
//! Fed by the plan, at each fetch and each publication; feeds the driver with what it may not rely on, or should never
//! see.

use super::queue::Queues;
use crate::deviation::{Deviations, Fault, Liberty};
use crate::shared::Section;
use dmus_interface::event::MAX_EVENT_SIZE;
use dmus_interface::regs::stream::Type;
use dmus_interface::ring::Status;

/// Bits of the first word of a completion: slot, and status.
const SLOT: u64 = 0xFFFF_FFFF;
const STATUS: u32 = 32;

/// Bytes at the start of an event that stay as they are: bReserved and cbStruct.
const KEPT: usize = 2;

/// A slot of the pool other than this.
fn another(slot: u64, slots: u32) -> u64 {
    (slot + 1) % u64::from(slots.max(1))
}

impl Queues {
    /// How many submissions are fetched at once, of so many.
    pub(super) fn fewer(&self, deviations: &Deviations, pending: u32) -> u32 {
        if pending < 2 {
            return pending;
        }
        match deviations.takes(Liberty::FetchFewer) {
            Some(drawn) => 1 + (drawn % u64::from(pending - 1)) as u32,
            None => pending,
        }
    }

    /// Changes what is about to be published; gives what is to come after it, by itself.
    pub(super) fn change_waiting(&mut self, deviations: &Deviations) -> Option<[u64; 2]> {
        let (kind, slots) = (self.config.kind, self.config.slots);
        let waiting = self.completions.waiting_mut();
        // Nothing overtakes a fragment or a refusal.
        let keeps_its_place = |words: &[u64; 2]| {
            [Status::Copied, Status::Rejected].iter().any(|status| words[0] >> STATUS & 0xFFFF == *status as u64)
        };
        if kind == Type::Render
            && waiting.len() > 1
            && !waiting.iter().any(keeps_its_place)
            && let Some(drawn) = deviations.takes(Liberty::CompletionOrder)
        {
            let by = 1 + drawn as usize % (waiting.len() - 1);
            waiting.rotate_left(by);
        }
        let (mut late, mut doubled) = (None, Vec::new());
        for words in waiting.iter_mut() {
            if deviations.has(Fault::CompletionSlot) {
                words[0] = words[0] & !SLOT | another(words[0] & SLOT, slots);
            }
            if deviations.has(Fault::CompletionStatus) {
                let presented = Status::Presented as u64;
                let status = words[0] >> STATUS & 0xFFFF;
                let other = if status == presented { Status::Discarded as u64 } else { presented };
                words[0] = words[0] & SLOT | other << STATUS;
            }
            if deviations.has(Fault::CompletionDoubled) {
                doubled.push(*words);
            }
            if deviations.has(Fault::CompletionLate) {
                late = Some(*words);
            }
        }
        waiting.append(&mut doubled);
        if let Some(late) = late {
            waiting.retain(|words| *words != late);
        }
        late
    }

    /// Overwrites slots that go home, where the card may write to them: all but bReserved and cbStruct.
    pub(super) fn poison(&mut self, deviations: &Deviations, section: &Section<'_>) {
        let config = self.config;
        if config.kind != Type::Render {
            return;
        }
        for words in self.completions.waiting_mut().iter() {
            if let Some(drawn) = deviations.takes(Liberty::SlotPoisoned) {
                let from = config.slot_iova((words[0] & SLOT) as u32) + KEPT as u64;
                let poison = [0x80 | drawn as u8; MAX_EVENT_SIZE];
                let bytes = &poison[..config.width.event_size() - KEPT];
                // A pool that the client has mapped for reading stays as it is.
                let _ = section.memory().map(|memory| memory.write(from, bytes));
            }
        }
    }
}
