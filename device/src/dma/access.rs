//! Guest memory from outside a section, whichever way it is reached: what the client shares is accessed directly, the
//! rest by messages to the client.
//!
//! Fed by streams that are not shared whole, and by the mailbox; feeds them with private copies. A request to the
//! client is sent inside a section while the epoch, the bus mastering and the maps allow it, so none is sent after the
//! reply to a reset, an unmap or bus-master off. Its answer is awaited outside: the transport, which receives it, never
//! waits for the engine.

use super::GuestMemory;
use crate::device::{RemoteError, RemoteMemory};
use crate::shared::{Section, Shared};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// How memory comes to be shared.
pub(crate) const SHARE_HINT: &str = "start QEMU with '-object memory-backend-memfd,id=m,size=512M,share=on -machine \
    memory-backend=m' (and the same size in -m)";

/// Bytes that one section copies at most.
const PIECE: usize = 64 << 10;

/// Why memory cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessError {
    /// A reset or the end of the process: nobody waits for the outcome.
    Void,
    /// It is not mapped so, or the client does not answer.
    NotMapped,
}

/// See the module. What it has read ahead is as old as itself.
pub(crate) struct DmaAccess<'s> {
    shared: &'s Shared,
    epoch: u64,
    client: Option<Arc<dyn RemoteMemory>>,
    since: Instant,
    /// The client has gone, or does not answer: it is asked no more.
    lost: Cell<bool>,
    /// What was read ahead: first address, and where in `bytes`. By address.
    ahead: Vec<(u64, Range<usize>)>,
    bytes: Vec<u8>,
}

impl<'s> DmaAccess<'s> {
    /// The memory for as long as it is that of `epoch`.
    pub(crate) fn new(shared: &'s Shared, epoch: u64) -> Self {
        let client = shared.section().client();
        let (ahead, bytes) = (Vec::new(), Vec::new());
        Self { shared, epoch, client, since: Instant::now(), lost: Cell::new(false), ahead, bytes }
    }

    fn section(&self) -> Result<Section<'s>, AccessError> {
        self.shared.section_of(self.epoch).ok_or(AccessError::Void)
    }

    /// Waits until all of a range can be accessed, as long as the client is moving its memory.
    pub(crate) fn check(&self, iova: u64, len: usize, write: bool) -> Result<(), AccessError> {
        self.section_with(&[(iova, len)], write).map(drop)
    }

    /// A section in which all of the ranges can be accessed. Waits for it as [`Self::check`] does: what was there in an
    /// earlier section may be away in this one.
    fn section_with(&self, ranges: &[(u64, usize)], write: bool) -> Result<Section<'s>, AccessError> {
        loop {
            let section = self.section()?;
            let there = |memory: &GuestMemory| {
                ranges.iter().filter(|(_, len)| *len > 0).all(|&(iova, len)| match self.client {
                    Some(_) => memory.allows(iova, len as u64, write),
                    None => memory.covers(iova, len as u64, write),
                })
            };
            if ranges.iter().all(|(_, len)| *len == 0) || section.memory().is_some_and(there) {
                return Ok(section);
            }
            drop(section);
            if !self.shared.is_remapping(self.since) {
                return Err(AccessError::NotMapped);
            }
            std::thread::yield_now();
        }
    }

    /// Copies into a range if the client shares it, to be written: what is not worth a message. Says whether it does.
    pub(super) fn write_shared(&self, iova: u64, bytes: &[u8]) -> bool {
        let Ok(section) = self.section() else {
            return false;
        };
        let memory = section.memory().filter(|memory| memory.covers(iova, bytes.len() as u64, true));
        memory.is_some_and(|memory| memory.write(iova, bytes).is_ok())
    }

    /// Copies a range out, once.
    pub(crate) fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), AccessError> {
        if let Some(bytes) = self.ahead(iova, out.len()) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        for (number, piece) in out.chunks_mut(PIECE).enumerate() {
            self.read_ranges(&[(iova + (number * PIECE) as u64, piece.len())], piece)?;
        }
        Ok(())
    }

    /// Copies into a range, of a piece at most.
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), AccessError> {
        if bytes.is_empty() {
            return Ok(());
        }
        loop {
            let section = self.section_with(&[(iova, bytes.len())], true)?;
            let memory = section.memory().ok_or(AccessError::NotMapped)?;
            if memory.covers(iova, bytes.len() as u64, true) {
                return memory.write(iova, bytes).map_err(|_| AccessError::NotMapped);
            }
            drop(section);
            let store = |client: &dyn RemoteMemory| {
                client.store(iova, bytes, &|iova, len, send| self.pass(iova, len, true, send))
            };
            if let Some(outcome) = self.ask(store) {
                return outcome;
            }
        }
    }

    /// Copies ranges out, one behind the other, in one section or one exchange with the client.
    fn read_ranges(&self, ranges: &[(u64, usize)], out: &mut [u8]) -> Result<(), AccessError> {
        loop {
            let section = self.section_with(ranges, false)?;
            let memory = section.memory().ok_or(AccessError::NotMapped)?;
            if ranges.iter().all(|(iova, len)| memory.covers(*iova, *len as u64, false)) {
                let mut rest = out;
                for (iova, len) in ranges {
                    let (here, behind) = rest.split_at_mut_checked(*len).ok_or(AccessError::NotMapped)?;
                    memory.read(*iova, here).map_err(|_| AccessError::NotMapped)?;
                    rest = behind;
                }
                return Ok(());
            }
            drop(section);
            let fetch = |client: &dyn RemoteMemory| {
                client.fetch(ranges, out, &|iova, len, send| self.pass(iova, len, false, send))
            };
            if let Some(outcome) = self.ask(fetch) {
                return outcome;
            }
        }
    }

    /// Reads ranges (address and bytes) all at once, for later. If one of them fails, none is read ahead.
    pub(super) fn read_ahead(&mut self, ranges: &[(u64, usize)]) {
        let start = self.bytes.len();
        let total: usize = ranges.iter().map(|(_, len)| len).sum();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(start + total, 0);
        let fetched = total > 0 && self.read_ranges(ranges, &mut bytes[start..]).is_ok();
        self.bytes = bytes;
        if !fetched {
            self.bytes.truncate(start);
            return;
        }
        let mut at = start;
        for &(iova, len) in ranges {
            self.ahead.push((iova, at..at + len));
            at += len;
        }
        self.ahead.sort_unstable_by_key(|(iova, _)| *iova);
    }

    /// What was read ahead at an address.
    pub(super) fn ahead(&self, iova: u64, len: usize) -> Option<&[u8]> {
        let before = self.ahead.partition_point(|(start, _)| *start <= iova).checked_sub(1)?;
        let (start, range) = self.ahead.get(before)?;
        let at = usize::try_from(iova - start).ok()?;
        self.bytes.get(range.clone())?.get(at..at.checked_add(len)?)
    }

    /// Asks the client; `None` if it refused, and may do otherwise once it has moved its memory.
    fn ask(
        &self,
        access: impl FnOnce(&dyn RemoteMemory) -> Result<(), RemoteError>,
    ) -> Option<Result<(), AccessError>> {
        let Some(client) = self.client.as_deref().filter(|_| !self.lost.get()) else {
            return Some(Err(AccessError::NotMapped));
        };
        match self.section() {
            Err(error) => return Some(Err(error)),
            Ok(mut section) => {
                if section.logs_slow_way() {
                    tracing::warn!(
                        "the guest's memory is not shared with the card, and reading it by messages is slower: \
                         {SHARE_HINT}"
                    );
                }
            }
        }
        let answer = access(client);
        self.lost.set(answer == Err(RemoteError::Lost));
        if let Err(error) = self.section() {
            // What a reset has made void has no outcome.
            return Some(Err(error));
        }
        let waits = answer == Err(RemoteError::Refused) && self.shared.is_remapping(self.since);
        (!waits).then(|| answer.map_err(|_| AccessError::NotMapped))
    }

    /// The gate that every request to the client has to pass.
    fn pass(&self, iova: u64, len: usize, write: bool, send: &mut dyn FnMut()) -> bool {
        let Ok(section) = self.section() else {
            return false;
        };
        let allowed = section.memory().is_some_and(|memory| memory.allows(iova, len as u64, write));
        if allowed {
            send();
        }
        allowed
    }
}
