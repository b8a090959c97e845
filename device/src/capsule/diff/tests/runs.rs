//! Runs of a driver that waits for its grants, as a replay would show them, on a host that takes any liberty it has.

use crate::capsule::{Listener, Observation};
use crate::device::Region;
use dmus_interface::event::{Data, Event};
use dmus_interface::regs::{self, stream};
use dmus_interface::ring::{Completion, Reject, Status};
use dmus_interface::time::RefTime;
use std::convert::Infallible;
use zerocopy::FromBytes;

pub(super) const STREAMS: usize = 2;
/// Between two grants.
pub(super) const STEP: i64 = 1_000_000;
const POOL: u64 = 0x10_0000;
const BUFFERS: u64 = 0x20_0000;

pub(super) type Run = Vec<(RefTime, Observation)>;

/// What a host may do as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liberty {
    /// How many submissions a poll finds.
    Tails,
    /// How often a register is read.
    Reads,
    /// Interrupts for completions.
    Interrupts,
    Wake,
    /// Fetching what was submitted early, while the card renders.
    FetchTime,
    Slots,
    Buffers,
    /// Where the card cuts its audio.
    Audio,
    /// Which stream's entries come first.
    Streams,
    /// When refusals go home.
    Refusals,
}

impl Liberty {
    pub(super) const ALL: [Self; 10] = [
        Self::Tails,
        Self::Reads,
        Self::Interrupts,
        Self::Wake,
        Self::FetchTime,
        Self::Slots,
        Self::Buffers,
        Self::Audio,
        Self::Streams,
        Self::Refusals,
    ];
}

/// A host that draws from a seed.
pub(super) struct Host {
    state: u64,
    taken: Vec<Liberty>,
    /// Where the driver's memory is.
    pub(super) memory: u64,
}

impl Host {
    pub(super) fn new(seed: u64, taken: &[Liberty]) -> Self {
        Self { state: seed | 1, taken: taken.to_vec(), memory: 0 }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) as usize % below.max(1)
    }

    /// A choice, the first of them without the liberty.
    fn choose(&mut self, liberty: Liberty, below: usize) -> usize {
        if self.taken.contains(&liberty) { self.draw(below) } else { 0 }
    }
}

/// An event as the driver makes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    pub(super) stream: usize,
    pub(super) time: i64,
    pub(super) group: u16,
    /// cbEvent, if it is not the number of bytes.
    pub(super) len: Option<u16>,
    pub(super) bytes: Vec<u8>,
    pub(super) reject: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) notes: Vec<Note>,
    pub(super) grant: i64,
    /// The grant is not stored.
    pub(super) no_grant: bool,
    /// The tail is stored when the card is on its way to the grant.
    pub(super) late_tail: bool,
    /// The grant comes while the card is on its way to the one before.
    pub(super) unwaited: bool,
}

/// What a driver does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) slots: u32,
    pub(super) batches: Vec<Batch>,
}

impl Plan {
    /// So many batches of four events, two a stream.
    pub(super) fn new(batches: usize) -> Self {
        let batch = |number: usize| {
            let start = number as i64 * STEP;
            let note = |at: usize| {
                let (stream, key) = (at % STREAMS, (20 + (4 * number + at) % 100) as u8);
                let bytes = match (at, number % 3) {
                    (3, 1) => [&[0xF0][..], &[key; 30], &[0xF7]].concat(),
                    _ => vec![0x92, key, 100],
                };
                let reject = at == 2 && number % 5 == 4;
                Note { stream, time: start + at as i64 * STEP / 5 + 1000, group: 0, len: None, bytes, reject }
            };
            Batch { notes: (0..4).map(note).collect(), grant: start + STEP, ..Batch::default() }
        };
        Self { slots: 64, batches: (0..batches).map(batch).collect() }
    }
}

/// A submission that waits for its time.
struct Held {
    time: i64,
    stream: usize,
    slot: u32,
}

struct Playing<'h> {
    host: &'h mut Host,
    run: Run,
    master: i64,
    free: [Vec<u32>; STREAMS],
    buffers: [u64; STREAMS],
    fetched: [u32; STREAMS],
    completed: [u32; STREAMS],
    held: Vec<Held>,
    refused: Vec<(usize, u32)>,
}

/// The run of a plan.
pub(super) fn play(plan: &Plan, host: &mut Host) -> Run {
    let free = std::array::from_fn(|_| (0..plan.slots).collect());
    let (run, held, refused) = (Vec::new(), Vec::new(), Vec::new());
    let counts = [0; STREAMS];
    let (fetched, completed) = (counts, counts);
    let mut playing = Playing { host, run, master: 0, free, buffers: [0; STREAMS], fetched, completed, held, refused };
    playing.open(plan);
    playing.batches(plan);
    playing.close();
    playing.run
}

impl Playing<'_> {
    fn add(&mut self, observation: Observation) {
        self.run.push((RefTime(self.master), observation));
    }

    fn write(&mut self, register: regs::Register, value: u64) {
        let bytes = value.to_le_bytes()[..register.width as usize].into();
        self.access(register, true, bytes);
    }

    fn access(&mut self, register: regs::Register, write: bool, bytes: Box<[u8]>) {
        let (region, offset) = (Region::Registers, register.offset.into());
        self.add(Observation::Access { region, offset, write, bytes });
    }

    /// What nobody can foresee.
    fn noise(&mut self) {
        for _ in 0..self.host.choose(Liberty::Reads, 3) {
            self.access(regs::MASTER_TIME, false, self.master.to_le_bytes().into());
        }
        for _ in 0..self.host.choose(Liberty::Wake, 3) {
            self.write(regs::WAKE, 1);
        }
    }

    fn open(&mut self, plan: &Plan) {
        self.add(Observation::Connected);
        let iova = self.host.memory;
        self.add(Observation::Mapped { iova, size: 1 << 24, writable: true, shared: true });
        self.add(Observation::Reset);
        self.write(regs::CONTROL, 1);
        for stream in 0..STREAMS {
            let at = |register| stream::at(stream, register);
            self.write(at(stream::SLOT_COUNT), plan.slots.into());
            self.write(at(stream::POOL_BASE), self.host.memory + POOL);
            self.write(at(stream::BUFFER_BASE), self.host.memory + BUFFERS);
            self.noise();
            self.write(at(stream::TYPE), 0);
            let kind = stream::Type::Render;
            self.add(Observation::Opened { stream, kind, slots: plan.slots, buffers: 16, buffer_size: 256 });
            self.write(at(stream::STATE), 3);
            self.add(Observation::Changed { stream, state: stream::State::Run, time_base: RefTime::ZERO });
        }
    }

    fn close(&mut self) {
        for stream in 0..STREAMS {
            self.write(stream::at(stream, stream::STATE), 0);
            self.add(Observation::Changed { stream, state: stream::State::Stop, time_base: RefTime::ZERO });
            self.add(Observation::Closed { stream });
        }
    }

    fn batches(&mut self, plan: &Plan) {
        let mut done = 0;
        for (number, batch) in plan.batches.iter().enumerate() {
            if !batch.late_tail {
                self.fetch(&batch.notes[done..]);
            }
            done = 0;
            let next = plan.batches.get(number + 1);
            if !batch.no_grant && !batch.unwaited {
                self.add(Observation::Granted { until: RefTime(batch.grant) });
            }
            let until = if batch.no_grant { self.master } else { batch.grant };
            let from = self.master;
            if batch.late_tail {
                self.render(from + (until - from) / 2);
                self.fetch(&batch.notes);
            }
            // What the driver submits next may be fetched on the way.
            if let Some(next) = next.filter(|next| !next.late_tail && until > from) {
                self.render(until - STEP / 10);
                done = self.host.choose(Liberty::FetchTime, next.notes.len() + 1);
                self.fetch(&next.notes[..done]);
                if next.unwaited {
                    self.fetch(&next.notes[done..]);
                    done = next.notes.len();
                    self.add(Observation::Granted { until: RefTime(next.grant) });
                }
            }
            self.render(until);
            self.go_home();
            self.add(Observation::Interrupt { vector: 0 });
        }
    }

    fn fetch(&mut self, notes: &[Note]) {
        let mut notes: Vec<&Note> = notes.iter().collect();
        if self.host.choose(Liberty::Streams, 2) == 1 {
            notes.sort_by_key(|note| std::cmp::Reverse(note.stream));
        } else {
            notes.sort_by_key(|note| note.stream);
        }
        for note in notes {
            self.noise();
            let stream = note.stream;
            let ahead = 1 + self.host.choose(Liberty::Tails, 3) as u32;
            self.add(Observation::Submitted { stream, tail: self.fetched[stream] + ahead });
            let taken = self.host.choose(Liberty::Slots, self.free[stream].len());
            let slot = self.free[stream].remove(taken);
            self.add(Observation::Fetched { stream, index: self.fetched[stream], slot });
            self.fetched[stream] += 1;
            self.read(note, slot);
            match note.reject {
                true => self.refused.push((stream, slot)),
                false => self.held.push(Held { time: note.time, stream, slot }),
            }
            if self.host.choose(Liberty::Refusals, 2) == 1 {
                self.go_home();
            }
            let late = self.held.last().is_some_and(|held| !note.reject && held.time < self.master);
            if let Some(held) = self.held.pop_if(|_| late) {
                self.complete(held.stream, held.slot, Status::Late, 0, self.master - held.time);
            }
        }
    }

    fn read(&mut self, note: &Note, slot: u32) {
        let stream = note.stream;
        let len = note.len.unwrap_or(note.bytes.len() as u16);
        let offset = (self.buffers[stream] + self.host.choose(Liberty::Buffers, 16) as u64) % 16 * 256;
        let data = match len {
            ..=8 => {
                let mut word = [0xEE; 8];
                word[..note.bytes.len()].copy_from_slice(&note.bytes);
                Data::Inline(word)
            }
            _ => Data::Buffer(self.host.memory + BUFFERS + offset),
        };
        let (channel_group, time) = (note.group, note.time);
        let (struct_size, flags, byte_position, next) = (40, 0, 0, 0);
        let event = Event { struct_size, event_bytes: len, channel_group, flags, time, byte_position, next, data };
        self.add(Observation::Event { stream, slot, event });
        if matches!(data, Data::Buffer(_)) {
            self.buffers[stream] += 1;
            let bytes = (0..usize::from(len)).map(|at| note.bytes.get(at).copied().unwrap_or(0)).collect();
            self.add(Observation::Data { stream, offset: offset as usize, bytes });
        }
    }

    fn complete(&mut self, stream: usize, slot: u32, status: Status, flags: u16, time: i64) {
        let words = Completion::words(slot, status, flags, time).map(u64::to_le_bytes);
        let completion = Completion::read_from_bytes(words.as_flattened()).expect("16 bytes");
        self.add(Observation::Completed { stream, index: self.completed[stream], completion });
        self.completed[stream] += 1;
        self.free[stream].insert(0, slot);
        if self.host.choose(Liberty::Interrupts, 2) == 1 {
            self.add(Observation::Interrupt { vector: stream as u16 });
        }
    }

    fn go_home(&mut self) {
        for (stream, slot) in std::mem::take(&mut self.refused) {
            self.complete(stream, slot, Status::Rejected, Reject::BadMessage as u16, 0);
        }
    }

    fn render(&mut self, until: i64) {
        self.held.sort_by_key(|held| held.time);
        while self.held.first().is_some_and(|held| held.time <= until) {
            let Held { time, stream, slot } = self.held.remove(0);
            self.audio(time);
            self.complete(stream, slot, Status::Presented, 0, time);
        }
        self.audio(until);
    }

    /// A frame each 100 us, and what it is follows from its time.
    fn audio(&mut self, until: i64) {
        const FRAME: i64 = 1000;
        while self.master < until {
            let left = ((until - self.master) / FRAME).max(1);
            let frames = left - self.host.choose(Liberty::Audio, left as usize) as i64;
            let frame = |at: i64| [((self.master + at * FRAME) / FRAME) as i16; 2];
            let samples = (0..frames).flat_map(frame).collect();
            self.add(Observation::Audio { samples, voices: 1 });
            self.master = until.min(self.master + frames * FRAME);
        }
    }
}

/// A replay of it.
pub(super) fn replay(run: &Run) -> impl FnMut(&mut dyn Listener) -> Result<(), Infallible> {
    move |listener| {
        for (master, observation) in run {
            listener.observe(*master, observation);
        }
        Ok(())
    }
}
