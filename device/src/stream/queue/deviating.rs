//! What the queues of a stream do otherwise on a card that takes liberties or has faults.
//!
//! Fed by the plan, at each fetch and each publication; feeds the driver with what it may not rely on, or should never
//! see.

use super::Queues;
use crate::deviation::{Deviations, Fault, Liberty};
use crate::dma::StreamMemory;
use crate::replay_log::Place;
use crate::shared::Section;
use crate::stream::in_flight::InFlight;
use crate::stream::reach::{StreamWork, Work, access};
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
    /// Publishes what is completed, or keeps it for the next turn.
    #[cold]
    #[inline(never)]
    pub(super) fn publish_otherwise(
        &mut self,
        section: &mut Section<'_>,
        in_flight: &mut InFlight,
        deviations: &Deviations,
    ) -> bool {
        if std::mem::take(&mut self.may_keep) && deviations.takes(Liberty::PublishLater).is_some() {
            return true;
        }
        let (mut written, mut late) = (None, None);
        if !self.completions.lost {
            let place = Place::publishing(self.stream, self.completions.published);
            let work = CompleteOtherwise { queues: self, in_flight, deviations, late: &mut late };
            let Some(done) = access(section, place, work) else {
                return false;
            };
            written = done;
        }
        // A completion that is told wrongly does not say what goes home.
        if written.is_some() && !deviations.has_faults() {
            self.poison(deviations, section);
        }
        let count = self.completions.waiting();
        self.completions.waiting.clear();
        self.completions.waiting.extend(late);
        self.looked_at = self.completions.waiting.len();
        self.announce_elsewhere(section, count, written);
        self.conclude(section, in_flight);
        true
    }

    /// Fetches no further than so many submissions for now; gives the tail.
    pub(in crate::stream) fn fetch_only(&mut self, count: u32) -> u32 {
        std::mem::replace(&mut self.submissions.tail, self.submissions.fetched.wrapping_add(count))
    }

    /// Goes on to this tail, unless the stream stands still.
    pub(in crate::stream) fn fetch_up_to(&mut self, tail: u32) {
        if !self.is_halted() {
            self.submissions.tail = tail;
        }
    }

    /// How many submissions are fetched at once, of so many.
    pub(in crate::stream) fn fewer(&self, deviations: &Deviations, pending: u32) -> u32 {
        if pending < 2 {
            return pending;
        }
        match deviations.takes(Liberty::FetchFewer) {
            Some(drawn) => 1 + (drawn % u64::from(pending - 1)) as u32,
            None => pending,
        }
    }

    /// Changes what is about to be published; gives what is to come after it, by itself.
    fn change_waiting(&mut self, deviations: &Deviations) -> Option<[u64; 2]> {
        let (kind, slots) = (self.config.kind, self.config.slots);
        let waiting = &mut self.completions.waiting;
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
    fn poison(&mut self, deviations: &Deviations, section: &Section<'_>) {
        let config = self.config;
        if config.kind != Type::Render {
            return;
        }
        for words in &self.completions.waiting {
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

/// Writes what waits into the completion ring, or something else.
struct CompleteOtherwise<'a> {
    queues: &'a mut Queues,
    in_flight: &'a InFlight,
    deviations: &'a Deviations,
    /// What is published later.
    late: &'a mut Option<[u64; 2]>,
}

impl Work for CompleteOtherwise<'_> {
    type Output = Option<()>;

    fn run(self, memory: &mut impl StreamMemory) -> Option<()> {
        let looked_at = self.queues.looked_at.min(self.queues.completions.waiting.len());
        self.queues.look_at_waiting(looked_at, memory, self.in_flight);
        *self.late = self.queues.change_waiting(self.deviations);
        self.queues.completions.write(memory)
    }
}

impl StreamWork for CompleteOtherwise<'_> {
    fn queues(&mut self) -> &mut Queues {
        self.queues
    }
}
