//! The hot path: fetches events like nearly all of them, by themselves, whole and valid, and presents what is due at once.
//!
//! Fed with the submission ring by the stream's section; feeds the synthesizer and the completion ring with what is due, and the sequencer with
//! the rest. Whatever is out of the ordinary it leaves where it is, to the stream's thorough path: what it takes, it has fully checked.

use super::hold::{Buffers, Data, OWNED};
use super::{Now, Stream};
use crate::dma::StreamMemory;
use crate::link::{Link, Shared};
use dmus_interface::event::{PointerWidth, is_message, is_short_message};
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{Completion, Status};

/// Where cbStruct and usFlags are in the first word of an event.
const FIXED: u64 = 0xFFFF_0000_0000_FF00;

impl Stream {
    /// Fetches up to `limit` plain events, until one is not.
    #[inline]
    pub(super) fn fetch_plain(&mut self, link: &Link, shared: &Shared, now: &Now, limit: u32) {
        match self.config.width {
            PointerWidth::Eight => self.fetch_plain_as::<true>(link, shared, now, limit),
            PointerWidth::Four => self.fetch_plain_as::<false>(link, shared, now, limit),
        }
    }

    #[inline(always)]
    fn fetch_plain_as<const WIDE: bool>(&mut self, link: &Link, shared: &Shared, now: &Now, limit: u32) {
        let width = if WIDE { PointerWidth::Eight } else { PointerWidth::Four };
        // COMPLETE, and of the right size.
        let fixed = (width.event_size() as u64) << 8;
        if shared.memory.is_stale(&self.windows) {
            self.windows = shared.memory.translate(&self.config.layout());
        }
        let (true, Some(view)) = (self.intake.is_idle(), shared.view(&self.windows)) else {
            return;
        };
        let groups = self.intake.channel_groups;
        let hold = &mut self.intake.hold;
        let section = hold.section;
        let Some(marks) = hold.marks.get_mut(..view.slots() as usize) else {
            return;
        };
        // In stream time. What would overtake a completion that waits to be written has to wait, too.
        let at_once = self.state == State::Run && self.completions.is_empty();
        let reached = if at_once { now.reached.saturating_sub(self.base).0.saturating_add(1).max(0) } else { 0 };
        let passed = now.passed.saturating_sub(self.base).0;
        let start = now.start.saturating_sub(self.base).0;
        // Times below it are due, and before all that is held. Of unsigned numbers, so that DONT_HOLD is not.
        let mut due = self.sequencer.next_time().map_or(reached, |next| reached.min(next).max(0)) as u64;
        let first = self.fetched;
        let waiting = self.tail.wrapping_sub(first).min(limit);
        let (mut index, end) = (first, first.wrapping_add(waiting));
        let (mut written, mut late) = (self.written, 0);
        while index != end {
            let slot = view.submission(index);
            let Some(mark) = marks.get_mut(slot as usize).filter(|mark| **mark < section) else {
                break;
            };
            let Some([header, time, next, word]) = view.event(slot) else {
                break;
            };
            let (next, word) = if WIDE { (next, word) } else { (next & 0xFFFF_FFFF, next >> 32) };
            let group = (header >> 32) as u16;
            if (header ^ fixed) & FIXED | next != 0 || group >= groups {
                break;
            }
            let len = usize::from((header >> 16) as u16);
            let inline = len <= width.bytes();
            let mut buffer = 0;
            if inline {
                if !is_short_message(word, len) {
                    break;
                }
            } else {
                let Some(found) = copy_message(&mut hold.buffers, &view, word, len, section) else {
                    break;
                };
                buffer = found;
            }
            if time < due {
                match inline {
                    true => self.synth.message(group, &word.to_le_bytes()[..len]),
                    false => self.synth.message(group, hold.buffers.bytes(buffer, len)),
                }
                *mark = section;
                let time = time as i64;
                let (status, time) = match time > passed {
                    true => (Status::Presented, time),
                    false => (Status::Late, start.saturating_sub(time)),
                };
                late += u64::from(status == Status::Late);
                view.complete(written, Completion::words(slot, status, 0, time));
                written = written.wrapping_add(1);
            } else if time as i64 >= 0 && self.state != State::Stop {
                *mark = OWNED;
                hold.owned += 1;
                let data = match inline {
                    true => Data::Inline(word.to_le_bytes(), len as u8),
                    false => Data::Buffer(buffer, len as u32),
                };
                hold.slots.carry(slot, group, data);
                hold.buffers.own(&data);
                self.sequencer.push(time as i64, slot);
                due = due.min(time);
            } else {
                break;
            }
            index = index.wrapping_add(1);
        }
        let presented = u64::from(written.wrapping_sub(self.written));
        let taken = u64::from(index.wrapping_sub(first));
        self.fetched = index;
        self.written = written;
        link.stats.take_slots(taken, taken - presented);
        if presented > 0 {
            link.stats.note_presented(presented);
            link.stats.late.add(late);
        }
    }
}

/// Copies what must be one message out of the buffer at `iova`, and gives the buffer's number. The buffer is free again once this section
/// has ended, unless it is owned.
fn copy_message(buffers: &mut Buffers, view: &StreamMemory<'_>, iova: u64, len: usize, section: u32) -> Option<u32> {
    let (buffer, offset) = buffers.find(iova, len, section).ok()?;
    let copy = buffers.copy.get_mut(offset..offset + len)?;
    if !view.long_data(offset, copy) || !is_message(copy) {
        return None;
    }
    *buffers.marks.get_mut(buffer as usize)? = section;
    Some(buffer)
}
