//! A capture or wave sink stream on the card's side: what the inputs receive, or what the card renders, into the slots
//! that the driver has posted.
//!
//! Fed by the engine with the bytes of the [`inputs`] or with audio, and with sections (posted slots in, filled ones
//! out); feeds the guest's pool and buffers, and the completion ring. The data sheet, `dmus_interface`, says under
//! "Capture" and "Wave sink" what a driver sees of it.

pub mod inputs;
mod pending;
pub(crate) mod wave;

use crate::check::Observer;
use crate::dma::{Reach, StreamMemory};
use crate::shared::{Section, StreamConfig};
use crate::stats::Stats;
use crate::stream::in_flight::{Buffer, InFlight};
use crate::stream::queue::{Queues, SECTION, Timeline};
use crate::stream::reach::{StreamWork, Work, by_pieces};
use crate::stream::validate::Validator;
use dmus_interface::event::{self, Event};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::{Reject, Status};
use dmus_interface::time::RefTime;
use inputs::Received;
use pending::{Captured, Pending};
use std::collections::VecDeque;
use wave::Wave;

/// Bytes at the start of an event that the card does not write: bReserved and cbStruct.
const KEPT: usize = 2;

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

    /// Nothing is received for a while: messages that have begun are given up, and a period ends.
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
    pub(crate) queues: Queues,
    pub(crate) state: State,
    timeline: Timeline,
    validator: Validator,
    in_flight: InFlight,
    /// The slots that wait for something to be captured, each with its buffer.
    posted: VecDeque<(u32, Buffer)>,
    waiting: Waiting,
    /// The overrun since STOP has been reported.
    reported: bool,
}

impl CaptureStream {
    /// A stream in STOP; the crystal of a wave sink is off by `drift` parts per million.
    pub(crate) fn new(
        index: usize,
        config: StreamConfig,
        drift: i32,
        observer: Option<Box<Observer>>,
        elsewhere: bool,
    ) -> Self {
        let buffer_size = config.buffer_size as usize;
        let waiting = match (config.kind, config.wave) {
            (Type::WaveSink, Some(format)) => Waiting::Audio(Wave::new(format, buffer_size, drift)),
            (kind, _) => Waiting::Midi(Pending::new(kind != Type::Capture { cooked: false }, buffer_size)),
        };
        Self {
            queues: Queues::new(index, config, observer, elsewhere),
            state: State::Stop,
            timeline: Timeline::default(),
            validator: Validator::new(&config, 0),
            in_flight: InFlight::new(&config, false),
            posted: VecDeque::with_capacity(config.slots as usize),
            waiting,
            reported: false,
        }
    }

    /// Changes the state at a master time, before the sample that begins at `next`; what STOP discards is completed
    /// with the next publication.
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
            // What goes on later is not what was received until now.
            self.waiting.cut();
        }
        if state == State::Stop {
            self.waiting.clear();
            self.reported = false;
            while let Some((slot, _)) = self.posted.pop_front() {
                self.discard(slot, stats);
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
        !self.queues.is_halted() && self.waiting.len() > self.posted.len()
    }

    /// Whether there are slots to take over, or to fill.
    pub(crate) fn has_work(&self) -> bool {
        let fills = self.waiting.len() > 0 && !self.posted.is_empty() && !self.queues.is_halted();
        self.queues.submissions.pending() > 0 || fills
    }

    /// Whether what it brings is from the inputs.
    pub(crate) fn receives_inputs(&self) -> bool {
        matches!(self.waiting, Waiting::Midi(_))
    }

    /// Takes what an input received at a master time.
    pub(crate) fn receive(&mut self, input: u16, master: RefTime, received: Received<'_>) {
        let time = self.timeline.at(self.state, master);
        if let Waiting::Midi(pending) = &mut self.waiting
            && matches!(self.state, State::Run | State::Pause)
            && !self.queues.is_halted()
        {
            match received {
                Received::Bytes(bytes) => pending.receive(input, time, bytes),
                Received::End => pending.end(input),
            }
        }
    }

    /// Takes a block of what is rendered.
    pub(crate) fn receive_audio(&mut self, left: &[f32], right: &[f32]) {
        if let Waiting::Audio(wave) = &mut self.waiting
            && self.state == State::Run
            && !self.queues.is_halted()
        {
            wave.push(left, right);
        }
    }

    /// Frames to render until a period is complete, if one is under way.
    pub(crate) fn until_full(&self) -> Option<u64> {
        match &self.waiting {
            Waiting::Audio(wave) if self.state == State::Run && !self.queues.is_halted() => Some(wave.until_full()),
            _ => None,
        }
    }

    /// In realtime: drops the oldest of what has waited too long for slots.
    pub(crate) fn drop_excess(&mut self, stats: &Stats) {
        let dropped = self.waiting.drop_excess();
        stats.capture_overruns.add(dropped);
        if dropped > 0 && !std::mem::replace(&mut self.reported, true) {
            self.queues.fault(Fault::CaptureOverrun, 0);
        }
    }

    /// Takes posted slots over and fills some, outside the section, and publishes them. False if there is more, or it
    /// has to wait until the stream's memory is back.
    pub(crate) fn exchange(&mut self, section: &mut Section<'_>) -> bool {
        if let Some(log) = section.shared().replay_log() {
            self.queues.note_tail(log);
        }
        if !self.has_work() {
            return self.publish(section);
        }
        if self.queues.reach(self.queues.fetching(), section) == Reach::Away {
            return false;
        }
        self.queues.tell_time(section);
        let exchange = Exchange { stats: section.shared().stats(), stream: self };
        by_pieces(section, exchange).is_some() && self.publish(section) && !self.has_work()
    }

    fn fetch(&mut self, memory: &mut dyn StreamMemory, stats: &Stats) {
        let (first, waited) = (self.queues.submissions.fetched(), self.queues.completions.waiting());
        self.fetch_posted(memory, stats);
        self.queues.show_fetched(memory, first, waited, &self.in_flight);
    }

    fn fetch_posted(&mut self, memory: &mut dyn StreamMemory, stats: &Stats) {
        for _ in 0..SECTION {
            let Some(index) = self.queues.submissions.take() else {
                return;
            };
            let Some(slot) = memory.submission(index) else {
                return self.queues.unreadable(index);
            };
            match self.in_flight.is_free(slot) {
                None => self.queues.no_slot(slot),
                Some(false) => self.queues.fault(Fault::SlotInFlight, slot),
                Some(true) => self.post(memory, slot, stats),
            }
        }
    }

    fn post(&mut self, memory: &mut dyn StreamMemory, slot: u32, stats: &Stats) {
        let (buffers, publication) = (&self.in_flight.buffers, self.in_flight.publication());
        let words = memory.slot(slot).ok_or(Reject::NotMapped);
        let judged = words.and_then(|words| {
            let buffer = self.validator.judge_posted(&words, buffers, publication)?;
            Ok((buffer, words))
        });
        match judged {
            Ok((buffer, words)) => {
                self.in_flight.post(slot, buffer);
                if self.state == State::Stop {
                    return self.discard(slot, stats);
                }
                self.posted.push_back((slot, buffer));
                if let Some(observer) = &self.queues.observer {
                    observer.guard(memory, slot, &words, buffer.start());
                }
            }
            Err(reason) => {
                stats.rejected.add(1);
                self.queues.reject(slot, reason, slot, false);
            }
        }
    }

    fn fill_posted(&mut self, memory: &mut dyn StreamMemory, stats: &Stats) {
        for _ in 0..SECTION {
            let (Some((slot, buffer)), Some(captured)) = (self.posted.front().copied(), self.waiting.front()) else {
                return;
            };
            if let Some(observer) = &self.queues.observer {
                observer.check_posted(memory, slot, buffer.start());
            }
            let filled = fill(memory, &self.queues.config, slot, buffer, captured);
            let time = captured.time;
            self.posted.pop_front();
            self.in_flight.release(slot);
            if filled.is_some() {
                memory.filled(slot, &captured.bytes);
                self.waiting.pop(stats);
                self.queues.completions.complete(slot, Status::Presented, 0, time);
            } else {
                // The memory has gone since it was posted; what was captured waits for the next slot.
                stats.rejected.add(1);
                self.queues.reject(slot, Reject::NotMapped, slot, false);
            }
        }
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The guest has stored into memory of the card: the checker looks at all that is posted.
    pub(crate) fn look_at_posted(&self, section: &mut Section<'_>) {
        let Some(observer) = &self.queues.observer else {
            return;
        };
        self.queues.look_by_pieces(section, |memory| {
            for (slot, buffer) in &self.posted {
                observer.check_posted(memory, *slot, buffer.start());
            }
        });
    }

    fn discard(&mut self, slot: u32, stats: &Stats) {
        self.in_flight.release(slot);
        if let Waiting::Midi(_) = self.waiting {
            stats.discarded.add(1);
        }
        self.queues.completions.complete(slot, Status::Discarded, 0, RefTime::ZERO);
    }

    /// Publishes what is completed. False if that has to wait until the completion ring is back.
    pub(crate) fn publish(&mut self, section: &mut Section<'_>) -> bool {
        self.queues.publish(section, &mut self.in_flight)
    }
}

/// Takes posted slots over, and fills some.
struct Exchange<'a> {
    stream: &'a mut CaptureStream,
    stats: &'a Stats,
}

impl Work for Exchange<'_> {
    type Output = ();

    fn run(self, memory: &mut impl StreamMemory) {
        self.stream.fetch(memory, self.stats);
        self.stream.fill_posted(memory, self.stats);
    }
}

impl StreamWork for Exchange<'_> {
    fn queues(&mut self) -> &mut Queues {
        &mut self.stream.queues
    }
}

/// Writes an event into a slot, the data first.
fn fill(
    memory: &mut dyn StreamMemory,
    config: &StreamConfig,
    slot: u32,
    buffer: Buffer,
    captured: &Captured,
) -> Option<()> {
    let width = config.width;
    let data = if captured.bytes.len() <= width.bytes() {
        let mut word = [0; 8];
        word[..captured.bytes.len()].copy_from_slice(&captured.bytes);
        event::Data::Inline(word)
    } else {
        let iova = config.buffer_iova(buffer.number());
        memory.write(iova, &captured.bytes)?;
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
    memory.write(config.slot_iova(slot) + KEPT as u64, &bytes[KEPT..len])
}
