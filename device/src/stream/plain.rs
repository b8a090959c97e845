//! The hot path: fetches events like nearly all of them, by themselves, whole and valid, and presents what is due at once.
//!
//! Fed with the submission ring by the stream's section; feeds the synthesizer and the completion ring with what is due, and the sequencer with
//! the rest. Whatever is out of the ordinary it leaves where it is, to the stream's thorough path: what it takes, it has fully checked.

use super::hold::{Buffers, Data, Hold, OWNED};
use super::{SECTION, Stream};
use crate::dma::StreamMemory;
use crate::link::{Link, Shared};
use crate::stats::Stats;
use dmus_interface::event::{PointerWidth, ShortForm, is_message, is_short_message};
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::RefTime;

/// What the first word of an event says, checked.
#[derive(Clone, Copy)]
struct Header {
    word: u64,
    channel_group: u16,
    /// Bytes of data.
    len: usize,
}

impl Header {
    /// The header of a plain event, else `None`.
    #[inline]
    fn check(word: u64, width: PointerWidth, channel_groups: u16) -> Option<Self> {
        // Where cbStruct and usFlags are: the right size, and COMPLETE.
        const FIXED: u64 = 0xFFFF_0000_0000_FF00;
        let channel_group = (word >> 32) as u16;
        let plain = word & FIXED == (width.event_size() as u64) << 8 && channel_group < channel_groups;
        plain.then_some(Self { word, channel_group, len: usize::from((word >> 16) as u16) })
    }
}

impl Stream {
    /// A section for nothing but plain events that are due, up to `tail`; publishes their completions. False leaves the rest, or all of it,
    /// to [`Stream::serve`].
    #[inline]
    pub(crate) fn serve_due(&mut self, link: &Link, shared: &Shared, tail: u32) -> bool {
        let first = self.rings.fetched;
        let count = tail.wrapping_sub(first);
        if self.rings.broken || count > SECTION as u32 || !self.rings.completions.is_empty() || !self.intake.is_idle() {
            return false;
        }
        self.rings.tail = tail;
        self.intake.hold.begin_section();
        self.present(shared, tail);
        let presented = self.rings.fetched.wrapping_sub(first);
        if presented > 0 {
            link.stats.present_at_once(presented.into());
            self.rings.publish(link, shared);
        }
        presented == count
    }

    /// Fetches up to `limit` plain events, until one is not.
    #[inline]
    pub(super) fn fetch_plain(&mut self, link: &Link, shared: &Shared, limit: u32) {
        if !self.intake.is_idle() {
            return;
        }
        let (first, written) = (self.rings.fetched, self.rings.written);
        self.fetch_plain_until(link, shared, first.wrapping_add(limit.min(self.rings.tail.wrapping_sub(first))));
        let presented = u64::from(self.rings.written.wrapping_sub(written));
        let taken = u64::from(self.rings.fetched.wrapping_sub(first));
        link.stats.take_slots(taken - presented);
        if presented > 0 {
            link.stats.present_at_once(presented);
        }
    }

    fn fetch_plain_until(&mut self, link: &Link, shared: &Shared, end: u32) {
        while self.rings.fetched != end {
            self.present(shared, end);
            // Events of a kind come together.
            while self.rings.fetched != end {
                let fetched = match self.rings.config.width {
                    PointerWidth::Eight => self.fetch_other::<true>(&link.stats, shared),
                    PointerWidth::Four => self.fetch_other::<false>(&link.stats, shared),
                };
                match fetched {
                    None => return,
                    Some(Fetched::Held) => {}
                    Some(Fetched::Presented) => break,
                }
            }
        }
    }

    /// Presents events that come at their very sample, until one does not.
    #[inline]
    fn present(&mut self, shared: &Shared, end: u32) {
        match self.rings.config.width {
            PointerWidth::Eight => self.present_run::<true>(shared, end),
            PointerWidth::Four => self.present_run::<false>(shared, end),
        }
    }

    fn present_run<const WIDE: bool>(&mut self, shared: &Shared, end: u32) {
        let Self { rings, intake, synth, clock, sequencer, .. } = self;
        let Some(view) = shared.memory.view(&rings.windows) else {
            return;
        };
        let Hold { section, marks, buffers, .. } = &mut intake.hold;
        let section = *section;
        let Some(marks) = marks.get_mut(..view.slots as usize) else {
            return;
        };
        // What would overtake a completion that waits to be written, or an event that is held, has to wait, too.
        let reached = if rings.completions.is_empty() { clock.reached } else { 0 };
        let due = sequencer.next_time().map_or(reached, |next| reached.min(next.max(0) as u64));
        // Both bounds at once; of unsigned numbers, so that DONT_HOLD is outside.
        let from = clock.in_time;
        let span = due.saturating_sub(from);
        // Events of a kind come together: one header is judged for all of them. Again for the next kind, and when a ring has wrapped.
        loop {
            let count = end.wrapping_sub(rings.fetched);
            let run = view.run(rings.fetched, rings.written, count);
            let first = view.event(view.submission(rings.fetched)).map(|[first, ..]| first);
            let Some(header) = first.and_then(|word| Header::check(word, width::<WIDE>(), intake.channel_groups))
            else {
                return;
            };
            let mut done = 0;
            let next = |slot: u32| {
                let words = read::<WIDE>(&view, slot)?;
                let plain = words.first == header.word && words.next == 0 && words.time.wrapping_sub(from) < span;
                plain.then_some((words.time as i64, words.word))
            };
            if header.len <= width::<WIDE>().bytes() {
                let form = ShortForm::of_length(header.len);
                for (slot, completion) in run {
                    let Some(mark) = marks.get_mut(slot as usize).filter(|mark| **mark < section) else {
                        break;
                    };
                    let Some((time, word)) = next(slot).filter(|(_, word)| form.is_message(*word)) else {
                        break;
                    };
                    synth.short_message(header.channel_group, word, header.len);
                    *mark = section;
                    completion.write(slot, Status::Presented, time);
                    done += 1;
                }
            } else {
                for (slot, completion) in run {
                    let Some(mark) = marks.get_mut(slot as usize).filter(|mark| **mark < section) else {
                        break;
                    };
                    let Some((time, iova)) = next(slot) else {
                        break;
                    };
                    let Some(buffer) = copy_message(buffers, &view, iova, header.len, section) else {
                        break;
                    };
                    synth.message(header.channel_group, buffers.bytes(buffer, header.len));
                    *mark = section;
                    completion.write(slot, Status::Presented, time);
                    done += 1;
                }
            }
            rings.fetched = rings.fetched.wrapping_add(done);
            rings.written = rings.written.wrapping_add(done);
            if done == 0 || done == count {
                return;
            }
        }
    }

    /// Fetches one event that is plain, but is late, or has to wait for its time. `None` leaves it to the thorough path.
    #[inline(never)]
    fn fetch_other<const WIDE: bool>(&mut self, stats: &Stats, shared: &Shared) -> Option<Fetched> {
        let view = shared.memory.view(&self.rings.windows)?;
        let hold = &mut self.intake.hold;
        let section = hold.section;
        let slot = view.submission(self.rings.fetched);
        let mark = hold.marks.get_mut(slot as usize).filter(|mark| **mark < section)?;
        let Words { first, time, next, word } = read::<WIDE>(&view, slot)?;
        let Header { channel_group, len, .. } =
            Header::check(first, width::<WIDE>(), self.intake.channel_groups).filter(|_| next == 0)?;
        let time = time as i64;
        if time < 0 || self.state == State::Stop {
            return None;
        }
        let data = match len <= width::<WIDE>().bytes() {
            true if is_short_message(word, len) => Data::Inline(word.to_le_bytes(), len as u8),
            true => return None,
            false => Data::Buffer(copy_message(&mut hold.buffers, &view, word, len, section)?, len as u32),
        };
        let is_next = self.sequencer.next_time().is_none_or(|next| time < next);
        let fetched = if is_next && (time as u64) < self.clock.reached && self.rings.completions.is_empty() {
            *mark = section;
            self.synth.message(channel_group, hold.bytes(slot, &data));
            let completion = match time > self.clock.passed {
                true => Completion::words(slot, Status::Presented, 0, time),
                false => {
                    let late = self.clock.start.saturating_sub(time);
                    stats.note_late(1, RefTime(late));
                    Completion::words(slot, Status::Late, 0, late)
                }
            };
            view.complete(self.rings.written, completion);
            self.rings.written = self.rings.written.wrapping_add(1);
            Fetched::Presented
        } else {
            *mark = OWNED;
            hold.owned += 1;
            hold.slots.carry(slot, channel_group, data);
            hold.buffers.own(&data);
            self.sequencer.push(time, slot);
            Fetched::Held
        };
        self.rings.fetched = self.rings.fetched.wrapping_add(1);
        Some(fetched)
    }
}

/// What became of an event.
enum Fetched {
    Presented,
    Held,
}

const fn width<const WIDE: bool>() -> PointerWidth {
    if WIDE { PointerWidth::Eight } else { PointerWidth::Four }
}

/// An event's words, read once: the first, the time, pNextEvt and uData.
struct Words {
    first: u64,
    time: u64,
    next: u64,
    word: u64,
}

#[inline]
fn read<const WIDE: bool>(view: &StreamMemory<'_>, slot: u32) -> Option<Words> {
    let [first, time, next, word] = view.event(slot)?;
    Some(match WIDE {
        true => Words { first, time, next, word },
        false => Words { first, time, next: next & 0xFFFF_FFFF, word: next >> 32 },
    })
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
