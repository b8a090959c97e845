//! Guest memory that the client shares: which ranges exist, so that a map that cannot be is refused.
//!
//! Fed by DMA_MAP and DMA_UNMAP; feeds the device.

use super::inbox::Fds;
use super::protocol::{MAX_MAPS, PAGE, Refusal, require, u32_at, u64_at};
use crate::device::{Device, DmaMap};
use rustix::io::Errno;
use std::collections::BTreeMap;

const READABLE: u32 = 1 << 0;
const WRITABLE: u32 = 1 << 1;
const MAP: usize = 32;

const UNMAP_DIRTY_BITMAP: u32 = 1 << 0;
const UNMAP_ALL: u32 = 1 << 1;
const UNMAP: usize = 24;

/// The ranges that are mapped: first address to last address. They never overlap.
#[derive(Default)]
pub(super) struct Maps(BTreeMap<u64, u64>);

impl Maps {
    /// Adds a range, and lets the device have it.
    pub(super) fn map(&mut self, device: &mut dyn Device, payload: &[u8], fds: &mut Fds) -> Result<(), Refusal> {
        require(payload.len() == MAP, "the message is not as long as a map")?;
        let (argsz, flags) = (u32_at(payload, 0), u32_at(payload, 4));
        let (offset, iova, size) = (u64_at(payload, 8), u64_at(payload, 16), u64_at(payload, 24));

        require(argsz as usize >= MAP, "argsz is less than the message")?;
        require(flags & !(READABLE | WRITABLE) == 0, "a flag is unknown")?;
        require(flags != 0, "neither readable nor writable")?;
        require((offset | iova | size).is_multiple_of(PAGE), "address, size or offset is not a multiple of 4096")?;
        require(fds.len() <= 1, "more than one descriptor")?;
        require(fds.len() == 1 || offset == 0, "an offset without a descriptor")?;
        require(offset.checked_add(size).is_some(), "the offset and size go beyond any file")?;
        let last = last_of(iova, size)?;
        if self.overlapping(iova, last).next().is_some() {
            return Err(Refusal::new(Errno::EXIST, "it overlaps a range that is mapped"));
        }
        if self.0.len() >= MAX_MAPS {
            return Err(Refusal::new(Errno::NOSPC, "there are 65535 maps already"));
        }

        let file = fds.drain().next();
        let map = DmaMap { iova, size, offset, file, writable: flags & WRITABLE != 0 };
        device.map(map).map_err(|error| Refusal::of_device(&error, "the card cannot map this memory"))?;
        self.0.insert(iova, last);
        Ok(())
    }

    /// Takes ranges back, from the device first.
    pub(super) fn unmap(
        &mut self,
        device: &mut dyn Device,
        payload: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        // Longer when it asks for dirty pages, which is refused below in its own words.
        require(payload.len() >= UNMAP, "the message is too short")?;
        let (argsz, flags) = (u32_at(payload, 0), u32_at(payload, 4));
        let (iova, size) = (u64_at(payload, 8), u64_at(payload, 16));
        if flags & UNMAP_DIRTY_BITMAP != 0 {
            return Err(Refusal::new(Errno::NOTSUP, "there is no record of dirty pages"));
        }
        require(payload.len() == UNMAP, "the message is not as long as an unmap")?;
        require(argsz as usize >= UNMAP, "argsz is less than the message")?;
        require(flags & !UNMAP_ALL == 0, "a flag is unknown")?;

        if flags & UNMAP_ALL != 0 {
            require(iova == 0 && size == 0, "everything has neither address nor size")?;
            device.unmap(0, u64::MAX);
            self.0.clear();
        } else {
            require((iova | size).is_multiple_of(PAGE), "address or size is not a multiple of 4096")?;
            let last = last_of(iova, size)?;
            let inside = |(first, end)| first >= iova && end <= last;
            require(self.overlapping(iova, last).all(inside), "it cuts a range that is mapped")?;
            device.unmap(iova, size);
            loop {
                let Some((first, _)) = self.overlapping(iova, last).next() else { break };
                self.0.remove(&first);
            }
        }
        reply.extend_from_slice(payload);
        Ok(())
    }

    /// The mapped ranges that share an address with this one, from the highest down.
    fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + use<'_> {
        self.0.range(..=last).rev().map(|(&start, &end)| (start, end)).take_while(move |&(_, end)| end >= first)
    }
}

fn last_of(iova: u64, size: u64) -> Result<u64, Refusal> {
    let last = size.checked_sub(1).ok_or(Refusal::invalid("size is 0"))?;
    iova.checked_add(last).ok_or(Refusal::invalid("the range goes beyond the last address"))
}
