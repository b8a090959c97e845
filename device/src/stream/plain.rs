//! The hot path: fetches events like nearly all of them, by themselves, whole and valid, and presents what is due at once.
//!
//! Fed with the submission ring by the stream's section; feeds the synthesizer and the completion ring with what is due, and the sequencer with
//! the rest. Whatever is out of the ordinary it leaves where it is, to the stream's thorough path: what it takes, it has fully checked.

use super::hold::{Buffers, Data, Hold, OWNED};
use super::rings::Rings;
use super::{Due, SECTION, Stream};
use crate::dma::StreamMemory;
use crate::link::{Link, Shared};
use crate::stats::Stats;
use crate::synth::Synth;
use dmus_interface::event::{PointerWidth, ShortForm, is_short_message};
use dmus_interface::protocol::card;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::{Completion, Status};
use dmus_interface::time::RefTime;

/// Where cbStruct and usFlags are in the first word of an event.
const FIXED: u64 = 0xFFFF_0000_0000_FF00;

/// What is there in plain events of this width: the right size, and COMPLETE.
const fn plain(width: PointerWidth) -> u64 {
    (width.event_size() as u64) << 8
}

/// [`plain`] of events with 8-byte pointers; of others, what is in no event.
pub(super) const fn fixed(width: PointerWidth) -> u64 {
    match width {
        PointerWidth::Eight => plain(PointerWidth::Eight),
        PointerWidth::Four => u64::MAX,
    }
}

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
    fn check(word: u64, fixed: u64, channel_groups: u16) -> Option<Self> {
        let channel_group = (word >> 32) as u16;
        let plain = word & FIXED == fixed && channel_group < channel_groups;
        plain.then_some(Self::of(word))
    }

    /// What a word that was checked says.
    #[inline]
    fn of(word: u64) -> Self {
        Self { word, channel_group: (word >> 32) as u16, len: usize::from((word >> 16) as u16) }
    }
}

/// The indices of a settled stream: what is fetched is completed and published.
struct Indices<'s> {
    stream: usize,
    fetched: &'s mut u32,
    written: &'s mut u32,
    published: &'s mut u32,
}

impl Indices<'_> {
    /// Publishes the completion of the next submission, which is `slot`; whether the vector has to be raised for that.
    #[inline(always)]
    fn complete_one(self, view: &StreamMemory<'_>, shared: &Shared, slot: u32, time: u64) -> bool {
        let old = *self.written;
        view.completion(old).write(slot, Status::Presented, time as i64);
        *self.fetched = self.fetched.wrapping_add(1);
        *self.written = old.wrapping_add(1);
        *self.published = *self.written;
        card::publish_head(&shared.page, self.stream, old, *self.written)
    }
}

impl Stream {
    /// A settled stream's section for the one event that is submitted, if it is plain, short and due; publishes its completion. No call in here
    /// but the last, so that nothing has to be saved for one: what follows is left to [`Stream::follow_up`].
    #[inline(never)]
    pub(crate) fn present_one(&mut self, shared: &Shared) -> Glance {
        let Self { rings, intake, settled, .. } = self;
        let Rings { windows, index, fetched, written, published, .. } = rings;
        let Some(view) = shared.memory.view(windows) else {
            return Glance::Several;
        };
        let slot = view.submission(*fetched);
        // With one event in it, the section needs no number: what was let go in one before is free.
        if intake.hold.marks.get(slot as usize).is_none_or(|mark| *mark == OWNED) {
            return Glance::Several;
        }
        let Some(event) = view.slot(slot) else {
            return Glance::Several;
        };
        let time = event.read::<1>();
        if time.wrapping_sub(settled.due.from) >= settled.due.span || event.read::<3>() != 0 {
            return Glance::Several;
        }
        let Some(header) = Header::check(event.read::<0>(), settled.fixed, intake.channel_groups) else {
            return Glance::Several;
        };
        let word = event.read::<4>();
        if header.len > PointerWidth::Eight.bytes() {
            return Glance::Several;
        }
        if !ShortForm::of_length(header.len).is_sysex(word) || Synth::is_universal(word) {
            return self.present_heard(shared, slot, time, header.word, word);
        }
        let indices = Indices { stream: *index, fetched, written, published };
        if indices.complete_one(&view, shared, slot, time) {
            settled.raise = true;
            return Glance::Following;
        }
        Glance::Presented
    }

    /// As [`Stream::present_one`], of what the synthesizer listens to, or may.
    #[inline(never)]
    fn present_heard(&mut self, shared: &Shared, slot: u32, time: u64, header: u64, word: u64) -> Glance {
        let header = Header::of(header);
        if !is_short_message(word, header.len) {
            return Glance::Several;
        }
        if Synth::listens_to(word) {
            self.settled.heard = Some((header.channel_group, word, header.len));
        }
        let Rings { windows, index, fetched, written, published, .. } = &mut self.rings;
        let Some(view) = shared.memory.view(windows) else {
            return Glance::Several;
        };
        let indices = Indices { stream: *index, fetched, written, published };
        self.settled.raise = indices.complete_one(&view, shared, slot, time);
        Glance::Following
    }

    /// What [`Stream::present_one`] has left.
    #[inline(never)]
    pub(crate) fn follow_up(&mut self, link: &Link, shared: &Shared) {
        if std::mem::take(&mut self.settled.raise) {
            link.raise(shared, self.rings.index as u16);
        }
        if let Some((group, word, len)) = self.settled.heard.take() {
            self.synth.short_message(group, word, len);
        }
    }

    /// A settled stream's section for nothing but plain events that are due, up to `tail`; publishes their completions. False leaves the
    /// rest, or all of it, to [`Stream::serve`].
    #[inline]
    pub(crate) fn serve_due(&mut self, link: &Link, shared: &Shared, tail: u32) -> bool {
        let first = self.rings.fetched;
        let count = tail.wrapping_sub(first);
        if self.settled.due.span == 0 || count > SECTION as u32 {
            return false;
        }
        self.intake.hold.begin_section();
        self.present(shared, tail, self.settled.due);
        let done = self.rings.fetched.wrapping_sub(first);
        if done > 0 {
            self.settled.most = self.settled.most.max(done);
            self.rings.publish(link, shared);
        }
        done == count
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
            link.stats.present_at_once(presented, presented as u32);
        }
    }

    fn fetch_plain_until(&mut self, link: &Link, shared: &Shared, end: u32) {
        while self.rings.fetched != end {
            self.present(shared, end, self.due());
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
    fn present(&mut self, shared: &Shared, end: u32, due: Due) {
        match self.rings.config.width {
            PointerWidth::Eight => self.present_run::<true>(shared, end, due),
            PointerWidth::Four => self.present_run::<false>(shared, end, due),
        }
    }

    fn present_run<const WIDE: bool>(&mut self, shared: &Shared, end: u32, due: Due) {
        let Due { from, span } = due;
        let Self { rings, intake, synth, .. } = self;
        let Some(view) = shared.memory.view(&rings.windows) else {
            return;
        };
        let Hold { section, marks, buffers, .. } = &mut intake.hold;
        let section = *section;
        let Some(marks) = marks.get_mut(..view.slots as usize) else {
            return;
        };
        // Events of a kind come together: one header is judged for all of them. Again for the next kind, and when a ring has wrapped.
        loop {
            let count = end.wrapping_sub(rings.fetched);
            let run = view.run(rings.fetched, rings.written, count);
            let first = view.event(view.submission(rings.fetched)).map(|[first, ..]| first);
            let Some(header) =
                first.and_then(|word| Header::check(word, plain(width::<WIDE>()), intake.channel_groups))
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
                let form = *ShortForm::of_length(header.len);
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
                    let Some((_, message)) = copy_message(buffers, &view, iova, header.len, section) else {
                        break;
                    };
                    synth.message(header.channel_group, message);
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
            Header::check(first, plain(width::<WIDE>()), self.intake.channel_groups).filter(|_| next == 0)?;
        let time = time as i64;
        if time < 0 || self.state == State::Stop {
            return None;
        }
        let data = match len <= width::<WIDE>().bytes() {
            true if is_short_message(word, len) => Data::Inline(word.to_le_bytes(), len as u8),
            true => return None,
            false => Data::Buffer(copy_message(&mut hold.buffers, &view, word, len, section)?.0, len as u32),
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

/// What a look at a settled card came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// Nothing was submitted.
    Quiet,
    /// One event was, and is presented.
    Presented,
    /// The same, but for [`Stream::follow_up`].
    Following,
    /// Something else was submitted: it is still to be fetched.
    Several,
    /// Time moves.
    Unsettled,
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

/// Copies what must be one message out of the buffer at `iova`, and gives the buffer's number and the copy; so long, only SysEx is one. The
/// buffer is free again once this section has ended, unless it is owned.
#[inline(always)]
fn copy_message<'b>(
    buffers: &'b mut Buffers,
    view: &StreamMemory<'_>,
    iova: u64,
    len: usize,
    section: u32,
) -> Option<(u32, &'b [u8])> {
    let (buffer, offset) = buffers.find(iova, len, section).ok()?;
    let copy = buffers.copy.get_mut(offset..offset + len)?;
    if !view.sysex(offset, copy) {
        return None;
    }
    *buffers.marks.get_mut(buffer as usize)? = section;
    Some((buffer, copy))
}
