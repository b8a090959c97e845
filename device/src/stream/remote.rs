//! The path of a stream that has a part in memory which the client does not share: as thorough as the thorough path, in few messages.
//!
//! Fed by the engine, without the link's lock; feeds the sequencer and the completion ring. The batch's entries are read at once, then their
//! slots, then their buffers; what is not read ahead (the slots further down a chain) is read when it is needed.

use super::intake::Outcome;
use super::rings::RingFailed;
use super::{SECTION, Stream};
use crate::link::{Guest, Link};
use crate::remote::Remote;
use dmus_interface::event::{self, Event};
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};

/// Bytes between two slots that are rather read than asked around: a message costs more.
const GAP: u64 = 1024;
/// Bytes of buffers that are read ahead at most.
const MAX_AHEAD: usize = 256 << 10;

impl Stream {
    /// As [`Self::serve`], for [`Self::is_remote`] streams; takes the lock in between, never while it waits for the client.
    #[cold]
    pub(crate) fn serve_remote(&mut self, link: &Link, epoch: u64) {
        self.intake.hold.begin_section();
        let mut remote = Remote::new(link, epoch);
        let fetched = self.fetch_remote(link, &mut remote);
        let done = fetched.and_then(|()| self.write_completions_remote(&remote));
        let Some(mut shared) = remote.section() else {
            return;
        };
        if let Err(RingFailed(entry)) = done {
            self.rings.fail(link, &mut shared, entry);
        }
        if self.rings.written != self.rings.published {
            self.rings.publish(link, &shared);
        }
    }

    fn fetch_remote(&mut self, link: &Link, remote: &mut Remote<'_>) -> Result<(), RingFailed> {
        let count = self.rings.tail.wrapping_sub(self.rings.fetched).min(SECTION as u32);
        if count == 0 {
            return Ok(());
        }
        let entries_mask = self.rings.config.submission_entries - 1;
        let entry = |index: u32| index & entries_mask;
        let mut entries = vec![[0; SUBMISSION_SIZE]; count as usize];
        let ranges = runs(
            self.rings.config.submission_base,
            SUBMISSION_SIZE,
            entry(self.rings.fetched),
            count,
            self.rings.config.submission_entries,
        );
        remote.fetch(&ranges, entries.as_flattened_mut()).map_err(|_| RingFailed(entry(self.rings.fetched)))?;
        let heads: Vec<u32> = entries.into_iter().map(u32::from_le_bytes).collect();
        self.read_ahead(remote, &heads);
        for head in heads {
            let owned = self.intake.hold.owned;
            let taken = self.intake.take(remote, head);
            let Some(mut shared) = remote.section().filter(|_| !remote.is_lost()) else {
                // It is not counted as taken.
                if let Ok(Outcome::Accepted { .. }) = taken {
                    self.intake.hold.release(head);
                }
                return Err(RingFailed(entry(self.rings.fetched)));
            };
            self.rings.fetched = self.rings.fetched.wrapping_add(1);
            self.settle(link, &mut shared, head, taken, owned);
        }
        Ok(())
    }

    /// Reads the slots, and then the buffers that they point to. Nothing of it is judged here: that is up to the intake.
    fn read_ahead(&self, remote: &mut Remote<'_>, heads: &[u32]) {
        let size = self.rings.config.width.event_size();
        let hold = &self.intake.hold;
        let mut slots: Vec<u32> = heads.iter().copied().filter(|head| hold.is_free(*head) == Some(true)).collect();
        slots.sort_unstable();
        slots.dedup();
        let place = |slot: u32| self.rings.config.pool_base + u64::from(slot) * u64::from(self.rings.config.stride);
        let mut ranges: Vec<(u64, usize)> = Vec::new();
        for iova in slots.iter().copied().map(place) {
            match ranges.last_mut().map(|last| (iova - last.0, last)) {
                Some((distance, last)) if distance <= last.1 as u64 + GAP => last.1 = distance as usize + size,
                _ => ranges.push((iova, size)),
            }
        }
        remote.read_ahead(&ranges);
        let mut total = 0;
        let buffer = |slot| {
            let event = Event::decode(remote.ahead(place(slot), size)?, self.rings.config.width).ok()?;
            let event::Data::Buffer(iova) = event.data else {
                return None;
            };
            let len = usize::from(event.event_bytes);
            total += len;
            (total <= MAX_AHEAD && hold.buffers.find(iova, len, hold.section).is_ok()).then_some((iova, len))
        };
        let ranges: Vec<(u64, usize)> = slots.iter().copied().filter_map(buffer).collect();
        remote.read_ahead(&ranges);
    }

    fn write_completions_remote(&mut self, remote: &Remote<'_>) -> Result<(), RingFailed> {
        let count = self.rings.completions.len().min(SECTION);
        let entries = self.rings.config.completion_entries;
        let first = self.rings.written & (entries - 1);
        let words: Vec<u64> = self.rings.completions.drain(..count).flatten().collect();
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut rest = &bytes[..];
        for (iova, len) in runs(self.rings.config.completion_base, COMPLETION_SIZE, first, count as u32, entries) {
            let (here, behind) = rest.split_at(len);
            remote.write(iova, here).map_err(|_| RingFailed(first))?;
            rest = behind;
        }
        self.rings.written = self.rings.written.wrapping_add(count as u32);
        Ok(())
    }
}

/// Where `count` entries of a ring are, from the one numbered `first` on: in front of the ring's end, and from its start.
fn runs(base: u64, entry: usize, first: u32, count: u32, entries: u32) -> [(u64, usize); 2] {
    let in_front = count.min(entries - first);
    [(base + u64::from(first) * entry as u64, in_front as usize * entry), (base, (count - in_front) as usize * entry)]
}
