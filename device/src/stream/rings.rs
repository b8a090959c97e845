//! What all streams have in common: the rings with their indices, and the relation of stream time to master time.
//!
//! Fed by the engine with looks at the page, and by the stream with completions; feeds the stream with submissions, and the driver with
//! completions and interrupts.

use super::SECTION;
use crate::dma::Windows;
use crate::link::{Guest, Link, Shared, StreamConfig};
use dmus_interface::protocol::card::{self, Look};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{COMPLETION_SIZE, Completion, SUBMISSION_SIZE, Status};
use dmus_interface::time::RefTime;
use std::collections::VecDeque;
use std::time::Instant;

/// See the module.
pub(crate) struct Rings {
    pub(crate) index: usize,
    pub(crate) config: StreamConfig,
    /// Pool, buffers, submission ring and completion ring.
    pub(crate) windows: Windows,
    /// Submissions fetched, and the tail up to which to fetch, both wrapping.
    pub(crate) fetched: u32,
    pub(crate) tail: u32,
    /// Completions written to the ring, and those of them that are published, both wrapping.
    pub(crate) written: u32,
    pub(crate) published: u32,
    /// Entries that wait to be written.
    pub(crate) completions: VecDeque<[u64; 2]>,
    /// A ring could not be accessed, or was overrun: the stream stands still until it is closed.
    pub(crate) broken: bool,
    /// Since when a part is away, while the client may be moving it.
    away: Option<Instant>,
}

/// The number of the ring entry that could not be accessed.
pub(crate) struct RingFailed(pub(crate) u32);

impl Rings {
    pub(crate) fn new(index: usize, config: StreamConfig) -> Self {
        Self {
            index,
            config,
            windows: Windows::STALE,
            fetched: 0,
            tail: 0,
            written: 0,
            published: 0,
            completions: VecDeque::with_capacity(config.slots as usize),
            broken: false,
            away: None,
        }
    }

    /// Looks at the submission tail.
    #[inline]
    pub(crate) fn look_at_tail(&mut self, look: Look, link: &Link, shared: &mut Shared) {
        if self.broken {
            return;
        }
        let tail = look.tail(&shared.page, self.index);
        if tail.wrapping_sub(self.fetched) > self.config.submission_entries {
            link.fault(shared, Fault::TailOverrun, self.detail(tail));
            self.broken = true;
            return;
        }
        self.tail = tail;
    }

    /// Whether the driver has submitted more since the last look.
    pub(crate) fn tail_moved(&self, look: Look, shared: &Shared) -> bool {
        !self.broken && look.tail(&shared.page, self.index) != self.fetched
    }

    /// Whether there are submissions to fetch or completions to publish.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.broken && (self.fetched != self.tail || !self.completions.is_empty())
    }

    /// Whether a part of the stream is in memory that the client does not share.
    #[inline]
    pub(crate) fn is_remote(&mut self, shared: &Shared) -> bool {
        if shared.memory.is_stale(&self.windows) {
            self.windows = shared.translate(&self.config.layout());
            self.away = None;
        }
        self.windows.is_remote()
    }

    /// Whether a ring, or what is captured into, is away, but may come back: the stream has to wait.
    #[inline]
    pub(crate) fn is_away(&mut self, link: &Link, shared: &Shared) -> bool {
        match self.windows.is_whole() {
            true => false,
            false => self.look_for_parts(link, shared),
        }
    }

    #[cold]
    fn look_for_parts(&mut self, link: &Link, shared: &Shared) -> bool {
        let config = &self.config;
        let bytes = |count: u32, size: u32| u64::from(count) * u64::from(size);
        let rings = [
            (config.submission_base, bytes(config.submission_entries, SUBMISSION_SIZE as u32), false),
            (config.completion_base, bytes(config.completion_entries, COMPLETION_SIZE as u32), true),
        ];
        let captured_into = [
            (config.pool_base, bytes(config.slots, config.stride), true),
            (config.buffer_base, bytes(config.buffers, config.buffer_size), true),
        ];
        let needed = if config.kind == Type::Render { &[][..] } else { &captured_into };
        if rings.iter().chain(needed).all(|(iova, len, write)| shared.memory.covers(*iova, *len, *write)) {
            self.away = None;
            return false;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        link.is_remapping(since)
    }

    /// Reads the next entry of the submission ring, which is below the tail. `Err` means that it is not there.
    pub(crate) fn read_head(&mut self, guest: &dyn Guest) -> Result<u32, RingFailed> {
        let entry = self.fetched & (self.config.submission_entries - 1);
        let mut head = [0; SUBMISSION_SIZE];
        let place = self.config.submission_base + u64::from(entry) * SUBMISSION_SIZE as u64;
        guest.read(place, &mut head).map_err(|_| RingFailed(entry))?;
        self.fetched = self.fetched.wrapping_add(1);
        Ok(u32::from_le_bytes(head))
    }

    /// As [`Self::read_head`]; without it the stream stands still.
    pub(crate) fn fetch_head(&mut self, link: &Link, shared: &mut Shared) -> Option<u32> {
        match self.read_head(shared) {
            Ok(head) => Some(head),
            Err(RingFailed(entry)) => {
                self.fail(link, shared, entry);
                None
            }
        }
    }

    /// A ring is not there: the stream stands still.
    pub(crate) fn fail(&mut self, link: &Link, shared: &mut Shared, entry: u32) {
        link.fault(shared, Fault::RingFault, self.detail(entry));
        self.broken = true;
        self.completions.clear();
    }

    pub(crate) fn complete(&mut self, head: u32, status: Status, flags: u16, time: RefTime) {
        self.completions.push_back(Completion::words(head, status, flags, time.0));
    }

    /// Writes some completions to the ring.
    pub(crate) fn write_completions(&mut self, link: &Link, shared: &mut Shared) {
        if let Err(RingFailed(entry)) = self.write_some(shared) {
            self.fail(link, shared, entry);
        }
    }

    /// As [`Self::write_completions`], into memory however it is reached.
    pub(crate) fn write_some(&mut self, guest: &dyn Guest) -> Result<(), RingFailed> {
        for _ in 0..SECTION {
            let Some(words) = self.completions.pop_front() else {
                break;
            };
            let entry = self.written & (self.config.completion_entries - 1);
            let iova = self.config.completion_base + u64::from(entry) * COMPLETION_SIZE as u64;
            guest.write(iova, words.map(u64::to_le_bytes).as_flattened()).map_err(|_| RingFailed(entry))?;
            self.written = self.written.wrapping_add(1);
        }
        Ok(())
    }

    /// Publishes what is written, and raises the vector when the driver asked for one of these completions.
    #[inline]
    pub(crate) fn publish(&mut self, link: &Link, shared: &Shared) {
        self.publish_from(self.published, link, shared);
    }

    /// As [`Self::publish`], for whoever knows what was published: completions before `old`.
    #[inline]
    pub(crate) fn publish_from(&mut self, old: u32, link: &Link, shared: &Shared) {
        self.published = self.written;
        if card::publish_head(&shared.page, self.index, old, self.published) {
            link.raise(shared, self.index as u16);
        }
    }

    /// What a fault was about: the stream, and a number in it.
    pub(crate) fn detail(&self, number: u32) -> u32 {
        (self.index as u32) << 16 | number & 0xFFFF
    }
}

/// Stream time: master time less what passed outside RUN, and zero at the first RUN after STOP.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeline {
    /// Stream time while not in RUN.
    stopped_at: RefTime,
    /// Master time less stream time while in RUN.
    pub(crate) base: RefTime,
}

impl Timeline {
    /// The state changes at a master time.
    pub(crate) fn change(&mut self, from: State, to: State, master: RefTime) {
        if from == State::Run {
            self.stopped_at = master.saturating_sub(self.base);
        }
        match to {
            State::Run => self.base = master.saturating_sub(self.stopped_at),
            State::Stop => *self = Self::default(),
            State::Acquire | State::Pause => {}
        }
    }

    /// The stream time of a master time.
    pub(crate) fn at(&self, state: State, master: RefTime) -> RefTime {
        match state {
            State::Run => master.saturating_sub(self.base),
            _ => self.stopped_at,
        }
    }
}
