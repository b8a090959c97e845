//! Where a replay is in its recording.
//!
//! Fed by a capsule's records; feeds the replay log, whose observations they are.

use super::observation::Observation;
use super::records::{Cursor, Tag};
use super::{Place, Repeat};
use crate::dma::owners::StoreRecord;
use dmus_interface::pci::STREAMS;
use dmus_interface::time::RefTime;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Observations, and bytes of the recording, that a listener is shown at once at most: more than a card notes of its
/// client at once, and little enough for the memory of whoever replays.
const MOST_SHOWN: usize = 2 << 20;
const MOST_READ: u64 = 128 << 20;

/// What ends a replay whose next record is of no access to memory, or of another.
pub(super) const OTHER_MEMORY: &str = "another access to guest memory";

/// What is being replayed.
#[derive(Debug)]
pub(crate) struct Replaying {
    pub(super) player: Mutex<Player>,
    /// Who does again what the client did.
    pub(super) client: Mutex<Option<Box<dyn Repeat>>>,
    /// What the next turn is told of a plugin's records, if there was a plugin.
    pub(super) culprits: Option<Mutex<VecDeque<Option<StoreRecord>>>>,
}

/// Where a replay is.
pub(crate) struct Player {
    pub(crate) cursor: Cursor,
    /// What the recording does not say, or says otherwise than this card needs it.
    pub(crate) problem: Option<&'static str>,
    /// For whoever listens; nobody does unless `shows`.
    pub(crate) shown: Vec<(RefTime, Observation)>,
    /// Where the first of them is in the recording.
    shown_from: u64,
    pub(super) shows: bool,
    pub(crate) master: RefTime,
    /// A client has done something.
    has_client: bool,
    pub(super) tails: [u32; STREAMS],
    /// The slot of the event whose entry was taken.
    slot: Option<[u64; 4]>,
}

impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").field("problem", &self.problem).finish_non_exhaustive()
    }
}

impl Player {
    pub(crate) fn new(cursor: Cursor, shows: bool) -> Self {
        Self {
            cursor,
            problem: None,
            shown: Vec::new(),
            shown_from: 0,
            shows,
            master: RefTime::ZERO,
            has_client: false,
            tails: [0; STREAMS],
            slot: None,
        }
    }

    /// The next entry of a submission ring, which the recording has to have.
    pub(super) fn submission(&mut self) -> Option<u32> {
        if self.takes(Tag::Submission) {
            return self.cursor.half();
        }
        let get = |cursor: &mut Cursor| Some((cursor.half()?, cursor.words()?));
        let (entry, slot) = self.expect(Tag::Event, OTHER_MEMORY, get)?;
        self.slot = Some(slot);
        Some(entry)
    }

    /// The next slot, the same.
    pub(super) fn slot(&mut self) -> Option<[u64; 4]> {
        self.slot.take().or_else(|| self.expect(Tag::Slot, OTHER_MEMORY, Cursor::words))
    }

    pub(crate) fn show(&mut self, observation: impl FnOnce() -> Observation) {
        if !self.shows {
            return;
        }
        if self.shown.is_empty() {
            self.shown_from = self.cursor.position();
        }
        if self.shown.len() >= MOST_SHOWN || self.cursor.position() - self.shown_from > MOST_READ {
            self.problem.get_or_insert("an end of what happens at once");
        }
        self.shown.push((self.master, observation()));
    }

    /// A client does something.
    pub(crate) fn show_client(&mut self) {
        if !std::mem::replace(&mut self.has_client, true) {
            self.show(|| Observation::Connected);
        }
    }

    /// The card is ready for the next client.
    pub(crate) fn show_no_client(&mut self) {
        if std::mem::take(&mut self.has_client) {
            self.show(|| Observation::Disconnected);
        }
    }

    /// There is no other record between an entry and its slot.
    fn may_take(&self) -> bool {
        self.slot.is_none() && self.problem.is_none()
    }

    /// Whether the next record is such a one. It is taken by that.
    pub(crate) fn takes(&mut self, tag: Tag) -> bool {
        let is_next = self.may_take() && self.cursor.peek() == Some(tag);
        if is_next {
            self.cursor.byte();
        }
        is_next
    }

    /// Whether the next record is such a one, and of this place. It is taken by that.
    pub(super) fn takes_at(&mut self, tag: Tag, place: Place) -> bool {
        let [first, second] = place.bytes();
        let is_next = self.may_take()
            && self.cursor.peek() == Some(tag)
            && self.cursor.byte_ahead(1) == Some(first)
            && self.cursor.byte_ahead(2) == Some(second);
        is_next && self.takes(tag) && self.cursor.fill(&mut [0; 2]).is_some()
    }

    /// The next record has to be such a one.
    pub(crate) fn expect<T>(
        &mut self,
        tag: Tag,
        problem: &'static str,
        get: impl FnOnce(&mut Cursor) -> Option<T>,
    ) -> Option<T> {
        let got = if self.takes(tag) { get(&mut self.cursor) } else { None };
        if got.is_none() {
            self.problem.get_or_insert(problem);
        }
        got
    }
}
