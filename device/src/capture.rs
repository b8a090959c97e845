//! A capture or wave sink stream on the card's side: what the inputs receive, or what the card renders, into the slots that the driver has posted.
//!
//! Fed by the engine with the bytes of the [`inputs`] or with audio, and with sections (posted slots in, filled ones out); feeds the guest's pool and buffers, and
//! the completion ring. The data sheet, `dmus_interface`, says under "Capture" and "Wave sink" what a driver sees of it.

pub mod inputs;
mod pending;
mod resampler;
pub(crate) mod wave;

use crate::link::{Guest, Link, Shared, StreamConfig};
use crate::remote::Remote;
use crate::stats::Stats;
use crate::stream::SECTION;
use crate::stream::rings::{RingFailed, Rings, Timeline};
use dmus_interface::event::{self, Event, MAX_EVENT_SIZE};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;
use pending::{Captured, Pending};
use std::collections::VecDeque;
use wave::Wave;

/// Bytes at the start of an event that the card does not write: bReserved and cbStruct.
const KEPT: usize = 2;

/// A slot that waits for something to be captured.
#[derive(Clone, Copy, Debug)]
struct Posted {
    slot: u32,
    buffer: u32,
}

/// What waits for slots.
enum Waiting {
    Midi(Pending),
    Audio(Wave),
}

impl Waiting {
    fn len(&self) -> usize {
        match self {
            Self::Midi(pending) => pending.len(),
            Self::Audio(wave) => wave.periods().len(),
        }
    }

    fn front(&self) -> Option<&Captured> {
        match self {
            Self::Midi(pending) => pending.front(),
            Self::Audio(wave) => wave.periods().front(),
        }
    }

    fn pop(&mut self, stats: &Stats) {
        match self {
            Self::Midi(pending) => {
                pending.pop();
                stats.captured.add(1);
            }
            Self::Audio(wave) => wave.pop(),
        }
    }

    /// Nothing is heard for a while: messages that have begun are given up, and a period ends.
    fn cut(&mut self) {
        match self {
            Self::Midi(pending) => pending.cut(),
            Self::Audio(wave) => wave.end_period(),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Midi(pending) => pending.clear(),
            Self::Audio(wave) => wave.clear(),
        }
    }

    fn drop_excess(&mut self) -> u64 {
        match self {
            Self::Midi(pending) => pending.drop_excess(),
            Self::Audio(wave) => wave.drop_excess(),
        }
    }
}

/// See the module.
pub(crate) struct CaptureStream {
    pub(crate) rings: Rings,
    pub(crate) state: State,
    timeline: Timeline,
    posted: VecDeque<Posted>,
    /// Of each slot and each buffer: whether it is posted.
    slots: Box<[bool]>,
    buffers: Box<[bool]>,
    waiting: Waiting,
    /// The overrun since STOP has been reported.
    reported: bool,
}

impl CaptureStream {
    /// A stream in STOP; the crystal of a wave sink is off by `drift` parts per million.
    pub(crate) fn new(index: usize, config: StreamConfig, drift: i32) -> Self {
        let buffer_size = config.buffer_size as usize;
        let waiting = match (config.kind, config.wave) {
            (Type::WaveSink, Some(format)) => Waiting::Audio(Wave::new(format, buffer_size, drift)),
            (kind, _) => Waiting::Midi(Pending::new(kind != Type::Capture { cooked: false }, buffer_size)),
        };
        Self {
            rings: Rings::new(index, config),
            state: State::Stop,
            timeline: Timeline::default(),
            posted: VecDeque::with_capacity(config.slots as usize),
            slots: vec![false; config.slots as usize].into(),
            buffers: vec![false; config.buffers as usize].into(),
            waiting,
            reported: false,
        }
    }

    /// Changes the state at a master time, before the sample that begins at `next`; what STOP discards is completed by the following publications.
    pub(crate) fn set_state(&mut self, state: State, master: RefTime, next: RefTime, stats: &Stats) {
        self.timeline.change(self.state, state, master);
        if let Waiting::Audio(wave) = &mut self.waiting
            && state == State::Run
            && self.state != State::Run
        {
            wave.run(self.timeline.at(state, next));
        }
        self.state = state;
        if !self.listens() {
            // What goes on later is not what was heard until now.
            self.waiting.cut();
        }
        if state == State::Stop {
            self.waiting.clear();
            self.reported = false;
            while let Some(posted) = self.posted.pop_front() {
                self.discard(posted, stats);
            }
        }
    }

    /// Master time less stream time, as the register shows it.
    pub(crate) fn time_base(&self) -> RefTime {
        self.timeline.base
    }

    /// Whether what the inputs receive, or what is rendered, goes upstream.
    pub(crate) fn listens(&self) -> bool {
        match self.waiting {
            Waiting::Midi(_) => matches!(self.state, State::Run | State::Pause),
            Waiting::Audio(_) => self.state == State::Run,
        }
    }

    /// Whether something captured has no slot.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.rings.broken && self.waiting.len() > self.posted.len()
    }

    /// Whether a section has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.rings.has_work() || !self.rings.broken && self.waiting.len() > 0 && !self.posted.is_empty()
    }

    /// Whether what it brings is from the inputs.
    pub(crate) fn hears_inputs(&self) -> bool {
        matches!(self.waiting, Waiting::Midi(_))
    }

    /// Takes what an input received at a master time.
    pub(crate) fn hear(&mut self, input: u16, master: RefTime, bytes: &[u8]) {
        let time = self.timeline.at(self.state, master);
        if let Waiting::Midi(pending) = &mut self.waiting
            && matches!(self.state, State::Run | State::Pause)
            && !self.rings.broken
        {
            pending.hear(input, time, bytes);
        }
    }

    /// Takes a block of what is rendered.
    pub(crate) fn hear_audio(&mut self, left: &[f32], right: &[f32]) {
        if let Waiting::Audio(wave) = &mut self.waiting
            && self.state == State::Run
            && !self.rings.broken
        {
            wave.hear(left, right);
        }
    }

    /// Frames to render until a period is complete, if one is under way.
    pub(crate) fn until_full(&self) -> Option<u64> {
        match &self.waiting {
            Waiting::Audio(wave) if self.state == State::Run && !self.rings.broken => Some(wave.until_full()),
            _ => None,
        }
    }

    /// In realtime: drops the oldest of what has waited too long for slots.
    pub(crate) fn drop_excess(&mut self, link: &Link, shared: &mut Shared) {
        let dropped = self.waiting.drop_excess();
        link.stats.capture_overruns.add(dropped);
        if dropped > 0 && !std::mem::replace(&mut self.reported, true) {
            link.fault(shared, Fault::CaptureOverrun, self.rings.detail(0));
        }
    }

    /// A section: takes posted slots over, fills some, publishes.
    pub(crate) fn serve(&mut self, link: &Link, shared: &mut Shared) {
        let mut faults = Vec::new();
        let done = self.exchange(shared, &link.stats, &mut faults);
        self.conclude(link, shared, done, &faults);
    }

    /// As [`Self::serve`], for streams in memory that the client does not share; takes the lock in between, never while it waits for the client.
    #[cold]
    pub(crate) fn serve_remote(&mut self, link: &Link, epoch: u64) {
        let remote = Remote::new(link, epoch);
        let mut faults = Vec::new();
        let done = self.exchange(&remote, &link.stats, &mut faults);
        if let Some(mut shared) = remote.section() {
            self.conclude(link, &mut shared, done, &faults);
        }
    }

    fn conclude(&mut self, link: &Link, shared: &mut Shared, done: Result<(), RingFailed>, faults: &[(Fault, u32)]) {
        for (fault, number) in faults {
            link.fault(shared, *fault, self.rings.detail(*number));
        }
        if let Err(RingFailed(entry)) = done {
            self.rings.fail(link, shared, entry);
        }
        if self.rings.written != self.rings.published {
            self.rings.publish(link, shared);
        }
    }

    fn exchange(&mut self, guest: &dyn Guest, stats: &Stats, faults: &mut Vec<(Fault, u32)>) -> Result<(), RingFailed> {
        for _ in 0..SECTION {
            if self.rings.fetched == self.rings.tail {
                break;
            }
            let slot = self.rings.read_head(guest)?;
            match self.slots.get(slot as usize) {
                None => faults.push((Fault::BadSlot, slot)),
                Some(true) => faults.push((Fault::SlotInFlight, slot)),
                Some(false) => match self.judge(guest, slot) {
                    Ok(posted) => self.post(posted, stats),
                    Err(reason) => {
                        tracing::debug!(stream = self.rings.index, slot, "rejected: {reason}");
                        stats.rejected.add(1);
                        self.rings.complete(slot, Status::Rejected, reason as u16, RefTime::ZERO);
                    }
                },
            }
        }
        for _ in 0..SECTION {
            let (Some(posted), Some(captured)) = (self.posted.front().copied(), self.waiting.front()) else {
                break;
            };
            let filled = self.fill(guest, posted, captured);
            let time = captured.time;
            self.posted.pop_front();
            self.release(posted);
            if filled.is_ok() {
                self.waiting.pop(stats);
                self.rings.complete(posted.slot, Status::Presented, 0, time);
            } else {
                // The memory has gone since it was posted; what was captured waits for the next slot.
                stats.rejected.add(1);
                self.rings.complete(posted.slot, Status::Rejected, Reject::NotMapped as u16, RefTime::ZERO);
            }
        }
        self.rings.write_some(guest)
    }

    fn slot_iova(&self, slot: u32) -> u64 {
        let config = &self.rings.config;
        config.pool_base + u64::from(slot) * u64::from(config.stride)
    }

    fn buffer_iova(&self, buffer: u32) -> u64 {
        let config = &self.rings.config;
        config.buffer_base + u64::from(buffer) * u64::from(config.buffer_size)
    }

    /// Holds a posted slot against the data sheet.
    fn judge(&self, guest: &dyn Guest, slot: u32) -> Result<Posted, Reject> {
        let config = &self.rings.config;
        let mut bytes = [0; MAX_EVENT_SIZE];
        let bytes = &mut bytes[..config.width.event_size()];
        guest.read(self.slot_iova(slot), bytes).map_err(|_| Reject::NotMapped)?;
        let event = Event::decode(bytes, config.width).map_err(|_| Reject::NotMapped)?;
        if usize::from(event.struct_size) != config.width.event_size() {
            return Err(Reject::BadStructSize);
        }
        let event::Data::Inline(pointer) = event.data else {
            return Err(Reject::NotEmpty);
        };
        if event.event_bytes != 0 || event.flags != 0 || event.next != 0 {
            return Err(Reject::NotEmpty);
        }
        let offset = u64::from_le_bytes(pointer).checked_sub(config.buffer_base).ok_or(Reject::BadBuffer)?;
        let size = u64::from(config.buffer_size);
        let buffer = u32::try_from(offset / size).map_err(|_| Reject::BadBuffer)?;
        match self.buffers.get(buffer as usize) {
            Some(false) if offset.is_multiple_of(size) => Ok(Posted { slot, buffer }),
            Some(true) if offset.is_multiple_of(size) => Err(Reject::BufferInFlight),
            _ => Err(Reject::BadBuffer),
        }
    }

    fn post(&mut self, posted: Posted, stats: &Stats) {
        if self.state == State::Stop {
            self.discard(posted, stats);
            return;
        }
        self.own(posted, true);
        self.posted.push_back(posted);
    }

    fn release(&mut self, posted: Posted) {
        self.own(posted, false);
    }

    fn own(&mut self, posted: Posted, owned: bool) {
        if let (Some(slot), Some(buffer)) =
            (self.slots.get_mut(posted.slot as usize), self.buffers.get_mut(posted.buffer as usize))
        {
            *slot = owned;
            *buffer = owned;
        }
    }

    fn discard(&mut self, posted: Posted, stats: &Stats) {
        self.release(posted);
        if let Waiting::Midi(_) = self.waiting {
            stats.discarded.add(1);
        }
        self.rings.complete(posted.slot, Status::Discarded, 0, RefTime::ZERO);
    }

    /// Writes an event into a slot, the data first.
    fn fill(&self, guest: &dyn Guest, posted: Posted, captured: &Captured) -> Result<(), crate::dma::NotMapped> {
        let width = self.rings.config.width;
        let data = if captured.bytes.len() <= width.bytes() {
            let mut word = [0; 8];
            word[..captured.bytes.len()].copy_from_slice(&captured.bytes);
            event::Data::Inline(word)
        } else {
            let iova = self.buffer_iova(posted.buffer);
            guest.write(iova, &captured.bytes)?;
            event::Data::Buffer(iova)
        };
        let event = Event {
            struct_size: width.event_size() as u8,
            event_bytes: captured.bytes.len() as u16,
            channel_group: captured.input,
            flags: captured.flags,
            time: captured.time.0,
            byte_position: captured.position,
            next: 0,
            data,
        };
        let (bytes, len) = event.encode(width);
        guest.write(self.slot_iova(posted.slot) + KEPT as u64, &bytes[KEPT..len])
    }
}
