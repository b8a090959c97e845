//! What is being recorded.
//!
//! Fed by the replay log with records; feeds the writer with batches of whole turns.

use super::blocks::{BLOCK, Batch, Writer};
use super::records::{Put, Tag};
use crate::dma::owners::StoreRecord;
use dmus_interface::pci::STREAMS;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// See the module. Only the engine records; the transport's thread leaves what it does to it.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(super) recording: Mutex<Recording>,
    /// A turn is under way.
    in_turn: AtomicBool,
    /// The client did more than the engine took note of.
    pub(super) overrun: AtomicBool,
    /// What the turn under way was told by a plugin.
    pub(super) culprits: Mutex<Vec<Option<StoreRecord>>>,
}

/// See [`Recorder`].
#[derive(Debug)]
pub(crate) struct Recording {
    pub(super) writer: Writer,
    /// What is to be written next.
    pub(super) batch: Batch,
    /// When something was passed on last.
    pub(super) passed: Instant,
    /// What the replay finds on its page without being told.
    pub(super) grant: i64,
    pub(super) tails: [u32; STREAMS],
    /// The last grant and time that were recorded: the next ones are told by how far they are from these.
    last_grant: i64,
    last_time: i64,
    /// The turn under way has found another tail than the last one.
    pub(super) found: bool,
    pub(super) ready: bool,
    pub(super) losses: (u64, u64),
}

impl Recorder {
    pub(super) fn new(writer: Writer, first: Vec<u8>) -> Self {
        let recording = Mutex::new(Recording {
            writer,
            batch: Batch::beginning_with(first),
            passed: Instant::now(),
            grant: 0,
            tails: [0; STREAMS],
            last_grant: 0,
            last_time: 0,
            found: false,
            ready: true,
            losses: (0, 0),
        });
        Self { recording, in_turn: AtomicBool::new(false), overrun: AtomicBool::new(false), culprits: Mutex::default() }
    }

    #[inline]
    pub(super) fn is_in_turn(&self) -> bool {
        self.in_turn.load(Ordering::Relaxed)
    }

    pub(super) fn set_in_turn(&self, in_turn: bool) {
        self.in_turn.store(in_turn, Ordering::Relaxed);
    }

    /// Where the next record goes.
    #[inline]
    pub(super) fn out(&self) -> MappedMutexGuard<'_, Vec<u8>> {
        MutexGuard::map(self.recording.lock(), |recording| recording.out(self.is_in_turn()))
    }
}

impl Recording {
    #[inline]
    pub(super) fn out(&mut self, in_turn: bool) -> &mut Vec<u8> {
        if in_turn { &mut self.batch.turns } else { &mut self.batch.between }
    }

    /// For whoever reads a stream's memory.
    #[inline]
    pub(crate) fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.batch.turns
    }

    /// In front of the turn under way: what it finds on the page and on the host's clock. Says whether that is new.
    pub(super) fn put_found(&mut self, grant: i64, time: Option<i64>) -> bool {
        let out = &mut self.batch.between;
        let mut found = std::mem::take(&mut self.found);
        if grant != self.grant {
            out.tag(Tag::Grant).signed(grant.wrapping_sub(self.last_grant));
            (self.grant, self.last_grant) = (grant, grant);
            found = true;
        }
        if let Some(time) = time.filter(|time| *time != self.last_time) {
            out.tag(Tag::Time).signed(time.wrapping_sub(self.last_time));
            self.last_time = time;
            found = true;
        }
        found
    }

    /// The turn is over.
    pub(super) fn end_turn(&mut self) {
        self.batch.between.tag(Tag::Turn);
        self.batch.turns.tag(Tag::TurnEnd);
        self.batch.end_turn();
        if self.batch.len() >= BLOCK {
            self.pass();
        }
    }

    /// What was recorded so far may be written.
    pub(super) fn pass(&mut self) {
        if self.batch.len() > 0 {
            self.batch = self.writer.pass(std::mem::take(&mut self.batch));
            self.passed = Instant::now();
        }
    }
}
