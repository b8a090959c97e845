//! Guest memory of which the client shares only a part, or nothing: what is shared is accessed directly, the rest by messages to the client.
//!
//! Fed by a stream, section by section; feeds its intake as any guest memory does. A request is sent inside the link's lock while the
//! epoch, the bus mastering and the maps allow it, so none is sent after the reply to a reset, an unmap or bus-master off. Its answer is
//! awaited outside: the transport, which receives it, never waits for the engine.

use crate::device::{RemoteError, RemoteMemory};
use crate::dma::NotMapped;
use crate::link::{Guest, Link, Shared};
use parking_lot::MutexGuard;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// How memory comes to be shared.
pub(crate) const SHARE_HINT: &str = "start QEMU with '-object memory-backend-memfd,id=m,size=512M,share=on -machine \
    memory-backend=m' (and the same size in -m)";

/// See the module. Made for a section, since what it has read ahead is as old as itself.
pub(crate) struct Remote<'l> {
    link: &'l Link,
    epoch: u64,
    client: Option<Arc<dyn RemoteMemory>>,
    /// The client has gone, or does not answer: it is asked no more.
    lost: Cell<bool>,
    /// What was read ahead: first address, and where in `bytes`. By address.
    ahead: Vec<(u64, Range<usize>)>,
    bytes: Vec<u8>,
}

impl<'l> Remote<'l> {
    /// The memory as long as it is that of `epoch`. The first one for a client warns.
    pub(crate) fn new(link: &'l Link, epoch: u64) -> Self {
        let mut shared = link.lock();
        let client = shared.client.clone();
        if client.is_some() && !std::mem::replace(&mut shared.warned, true) {
            tracing::warn!(
                "the guest's memory is not shared with the card, and reading it by messages is slower: {SHARE_HINT}"
            );
        }
        Self { link, epoch, client, lost: Cell::new(false), ahead: Vec::new(), bytes: Vec::new() }
    }

    /// A section, unless a reset or the end has made void what this memory is read for.
    pub(crate) fn section(&self) -> Option<MutexGuard<'l, Shared>> {
        let shared = self.link.lock();
        (shared.epoch == self.epoch && !shared.shutdown).then_some(shared)
    }

    /// A section in which guest memory may be accessed.
    fn open(&self) -> Option<MutexGuard<'l, Shared>> {
        self.section().filter(|shared| shared.bus_master)
    }

    /// Whether nothing more can come from the client.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Reads ranges (address and bytes) all at once, for later. If one of them fails, none is read ahead.
    pub(crate) fn read_ahead(&mut self, ranges: &[(u64, usize)]) {
        let start = self.bytes.len();
        let total: usize = ranges.iter().map(|(_, len)| len).sum();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(start + total, 0);
        let fetched = self.fetch(ranges, &mut bytes[start..]);
        self.bytes = bytes;
        if fetched.is_err() {
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
    pub(crate) fn ahead(&self, iova: u64, len: usize) -> Option<&[u8]> {
        let before = self.ahead.partition_point(|(start, _)| *start <= iova).checked_sub(1)?;
        let (start, range) = self.ahead.get(before)?;
        let at = usize::try_from(iova - start).ok()?;
        self.bytes.get(range.clone())?.get(at..at.checked_add(len)?)
    }

    /// Copies ranges out, one behind the other.
    pub(crate) fn fetch(&self, ranges: &[(u64, usize)], out: &mut [u8]) -> Result<(), NotMapped> {
        let iova = ranges.first().map_or(0, |(iova, _)| *iova);
        let shared = self.open().ok_or(NotMapped { iova })?;
        if ranges.iter().all(|(iova, len)| shared.memory.covers(*iova, *len as u64, false)) {
            let mut rest = out;
            for (iova, len) in ranges {
                let (here, behind) = rest.split_at_mut_checked(*len).ok_or(NotMapped { iova: *iova })?;
                shared.memory.read(*iova, here)?;
                rest = behind;
            }
            return Ok(());
        }
        drop(shared);
        self.ask(iova, |client| client.fetch(ranges, out, &|iova, len, send| self.pass(iova, len, false, send)))
    }

    fn ask(
        &self,
        iova: u64,
        access: impl FnOnce(&dyn RemoteMemory) -> Result<(), RemoteError>,
    ) -> Result<(), NotMapped> {
        let client = self.client.as_deref().filter(|_| !self.lost.get()).ok_or(NotMapped { iova })?;
        access(client).map_err(|error| {
            self.lost.set(error == RemoteError::Lost);
            NotMapped { iova }
        })
    }

    /// The gate that every request has to pass.
    fn pass(&self, iova: u64, len: usize, write: bool, send: &mut dyn FnMut()) -> bool {
        let Some(shared) = self.open().filter(|shared| shared.memory.allows(iova, len as u64, write)) else {
            return false;
        };
        send();
        drop(shared);
        true
    }
}

impl Guest for Remote<'_> {
    fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), NotMapped> {
        if let Some(bytes) = self.ahead(iova, out.len()) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        self.fetch(&[(iova, out.len())], out)
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), NotMapped> {
        let shared = self.open().ok_or(NotMapped { iova })?;
        if shared.memory.covers(iova, bytes.len() as u64, true) {
            return shared.memory.write(iova, bytes);
        }
        drop(shared);
        self.ask(iova, |client| client.store(iova, bytes, &|iova, len, send| self.pass(iova, len, true, send)))
    }
}
