//! Guest memory as the mailbox reaches it: outside rendering, in bounded sections, shared with the card or not.
//!
//! Fed by commands with addresses; feeds them with private copies. A reset in between makes all of it void.

use crate::link::{Guest, Link, Shared};
use crate::remote::Remote;
use parking_lot::MutexGuard;
use std::time::Instant;

/// Bytes that one section copies at most.
const PIECE: usize = 64 << 10;

/// Why memory cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// A reset or the end: nobody waits for an answer.
    Void,
    /// It is not mapped so.
    NotMapped,
}

/// See the module.
pub(super) struct Reach<'l> {
    link: &'l Link,
    epoch: u64,
    since: Instant,
}

impl<'l> Reach<'l> {
    pub(super) fn new(link: &'l Link, epoch: u64) -> Self {
        Self { link, epoch, since: Instant::now() }
    }

    fn section(&self) -> Result<MutexGuard<'l, Shared>, Unreachable> {
        let shared = self.link.lock();
        if shared.epoch == self.epoch && !shared.shutdown { Ok(shared) } else { Err(Unreachable::Void) }
    }

    /// Whether all of a range can be accessed. Waits for a client that is just moving its memory.
    pub(super) fn check(&self, iova: u64, len: usize, write: bool) -> Result<(), Unreachable> {
        loop {
            let shared = self.section()?;
            let (len, client) = (len as u64, shared.client.is_some());
            let there = shared.bus_master && shared.memory.allows(iova, len, write);
            if len == 0 || there && (client || shared.memory.covers(iova, len, write)) {
                return Ok(());
            }
            drop(shared);
            if !self.link.is_remapping(self.since) {
                return Err(Unreachable::NotMapped);
            }
            std::thread::yield_now();
        }
    }

    /// Copies a range out, once.
    pub(super) fn read(&self, iova: u64, len: usize) -> Result<Vec<u8>, Unreachable> {
        self.check(iova, len, false)?;
        let mut bytes = vec![0; len];
        for (number, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let at = iova + (number * PIECE) as u64;
            self.access(at, piece.len(), false, |guest| guest.read(at, piece).is_ok())?;
        }
        Ok(bytes)
    }

    /// Copies into a range, of a piece at most.
    pub(super) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        self.access(iova, bytes.len(), true, |guest| guest.write(iova, bytes).is_ok())
    }

    fn access(
        &self,
        iova: u64,
        len: usize,
        write: bool,
        mut access: impl FnMut(&dyn Guest) -> bool,
    ) -> Result<(), Unreachable> {
        if len == 0 {
            return Ok(());
        }
        self.check(iova, len, write)?;
        let shared = self.section()?;
        let done = if shared.memory.covers(iova, len as u64, write) {
            access(&*shared)
        } else {
            // Whoever receives the client's answers must not wait for one that waits for them.
            drop(shared);
            access(&Remote::new(self.link, self.epoch))
        };
        if done {
            return Ok(());
        }
        drop(self.section()?);
        Err(Unreachable::NotMapped)
    }
}
