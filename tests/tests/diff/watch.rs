//! A platform that sees what a driver and a card do on it, from outside, and that can meddle with what the driver has
//! stored before the card looks at it.
//!
//! Fed by the driver; feeds the card, and a run of observations as a recording would hold them. It has one stream, and
//! takes each turn of the card for a poll that fetches all there is.

use dmus_card::capsule::Observation;
use dmus_card::device::Region;
use dmus_card::engine::{Engine, Turn};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::doorbell;
use dmus_interface::event::{Data, Event, PointerWidth};
use dmus_interface::protocol::Page;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Register};
use dmus_interface::ring::{COMPLETION_SIZE, Completion, SUBMISSION_SIZE};
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::memory::RAM_IOVA;
use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zerocopy::FromBytes;

pub(crate) type Run = Vec<(RefTime, Observation)>;

/// For what is there already.
const SHORT: Duration = Duration::from_millis(1);
/// More turns than a batch takes.
const TURNS: usize = 4096;

/// What is done to a submission between the driver's store and the card's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meddling {
    /// Its time is later by so much.
    Time(i64),
    /// cbEvent.
    EventBytes(u16),
    /// usChannelGroup.
    Group(u16),
    /// It and the next one change places in the ring.
    Swap,
}

#[derive(Clone, Copy, Debug, Default)]
struct Areas {
    pool: u64,
    stride: u64,
    submissions: u64,
    completions: u64,
    entries: u32,
}

#[derive(Debug, Default)]
struct Seen {
    run: Run,
    granted: i64,
    tail: u32,
    head: u32,
    kind: Option<u32>,
    state: u32,
    areas: Areas,
}

pub(crate) struct Watch {
    card: Direct,
    engine: RefCell<Engine>,
    seen: RefCell<Seen>,
    /// What to do to a submission.
    pub(crate) meddling: Cell<Option<(u32, Meddling)>>,
    /// The next wait ends at once, as if its interrupt had come.
    pub(crate) drop_wait: Cell<bool>,
    /// Turns that the card takes before a driver that was interrupted is there again.
    pub(crate) latency: Cell<usize>,
}

impl Watch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let seen = Seen { run: vec![(RefTime::ZERO, Observation::Connected)], kind: None, ..Seen::default() };
        let (meddling, drop_wait, latency) = (Cell::new(None), Cell::new(false), Cell::new(TURNS));
        let card = Direct::new()?;
        let engine = RefCell::new(card.take_engine()?);
        Ok(Self { card, engine, seen: RefCell::new(seen), meddling, drop_wait, latency })
    }

    /// All that was seen.
    pub(crate) fn run(&self) -> Run {
        self.seen.borrow().run.clone()
    }

    fn add(&self, observation: Observation) {
        let master = self.load64(doorbell::MASTER_TIME);
        self.seen.borrow_mut().run.push((RefTime(master), observation));
    }

    fn load64(&self, word: usize) -> i64 {
        self.card.doorbell().load_u64(word, Ordering::Acquire).cast_signed()
    }

    fn load32(&self, word: usize) -> u32 {
        self.card.doorbell().load_u32(doorbell::at(0, word), Ordering::Acquire)
    }

    fn register(&self, register: Register) -> u64 {
        let offset = stream::at(0, register).offset;
        let low = u64::from(self.card.read32(offset));
        if register.width == 8 { low | u64::from(self.card.read32(offset + 4)) << 32 } else { low }
    }

    fn memory<const N: usize>(&self, iova: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.card.ram.file.read_exact_at(&mut bytes, iova - RAM_IOVA);
        assert!(read.is_ok(), "{iova:#x}: {read:?}");
        bytes
    }

    fn store(&self, iova: u64, bytes: &[u8]) {
        let written = self.card.ram.file.write_all_at(bytes, iova - RAM_IOVA);
        assert!(written.is_ok(), "{iova:#x}: {written:?}");
    }

    fn slot(&self, index: u32) -> (u64, u32) {
        let areas = self.seen.borrow().areas;
        let entry = areas.submissions + u64::from(index % areas.entries) * SUBMISSION_SIZE as u64;
        (entry, u32::from_le_bytes(self.memory(entry)))
    }

    fn meddle(&self, index: u32, meddling: Meddling) {
        let areas = self.seen.borrow().areas;
        let (entry, slot) = self.slot(index);
        let event = areas.pool + u64::from(slot) * areas.stride;
        match meddling {
            Meddling::Time(later) => {
                let time = i64::from_le_bytes(self.memory(event + 8));
                self.store(event + 8, &(time + later).to_le_bytes());
            }
            Meddling::EventBytes(bytes) => self.store(event + 2, &bytes.to_le_bytes()),
            Meddling::Group(group) => self.store(event + 4, &group.to_le_bytes()),
            Meddling::Swap => {
                let (next, other) = self.slot(index.wrapping_add(1));
                self.store(entry, &other.to_le_bytes());
                self.store(next, &slot.to_le_bytes());
            }
        }
    }

    fn is_open(&self) -> bool {
        self.register(stream::TYPE) as u32 != stream::CLOSED
    }

    /// What the card finds in this turn.
    fn before(&self) {
        let granted = self.load64(doorbell::GRANT);
        if granted != self.seen.borrow().granted {
            self.seen.borrow_mut().granted = granted;
            self.add(Observation::Granted { until: RefTime(granted) });
        }
        let (tail, old) = (self.load32(doorbell::SUBMISSION_TAIL), self.seen.borrow().tail);
        if tail == old || !self.is_open() {
            return;
        }
        let new = tail.wrapping_sub(old);
        assert!(new <= self.seen.borrow().areas.entries, "tail {tail} behind {old}");
        if let Some((index, meddling)) = self.meddling.get().filter(|(index, _)| index.wrapping_sub(old) < new) {
            self.meddle(index, meddling);
            self.meddling.set(None);
        }
        self.add(Observation::Submitted { stream: 0, tail });
        let areas = self.seen.borrow().areas;
        for index in (0..new).map(|ahead| old.wrapping_add(ahead)) {
            let (_, slot) = self.slot(index);
            self.add(Observation::Fetched { stream: 0, index, slot });
            let bytes: [u8; 40] = self.memory(areas.pool + u64::from(slot) * areas.stride);
            let Ok(event) = Event::decode(&bytes, PointerWidth::Eight) else {
                continue;
            };
            self.add(Observation::Event { stream: 0, slot, event });
            if let Data::Buffer(iova) = event.data {
                let bytes: [u8; 256] = self.memory(iova);
                let bytes = bytes[..usize::from(event.event_bytes).min(256)].into();
                self.add(Observation::Data { stream: 0, offset: 0, bytes });
            }
        }
        self.seen.borrow_mut().tail = tail;
    }

    /// What the card did in it.
    fn after(&self) {
        let kind = self.card.read32(stream::at(0, stream::TYPE).offset);
        if self.seen.borrow_mut().kind.replace(kind) != Some(kind) {
            match Type::decode(kind) {
                Some(kind) => self.opened(kind),
                None => self.add(Observation::Closed { stream: 0 }),
            }
        }
        if !self.is_open() {
            return;
        }
        let (head, old) = (self.load32(doorbell::COMPLETION_HEAD), self.seen.borrow().head);
        let areas = self.seen.borrow().areas;
        assert!(head.wrapping_sub(old) <= areas.entries, "head {head} behind {old}");
        for index in (0..head.wrapping_sub(old)).map(|ahead| old.wrapping_add(ahead)) {
            let at = areas.completions + u64::from(index % areas.entries) * COMPLETION_SIZE as u64;
            let bytes: [u8; COMPLETION_SIZE] = self.memory(at);
            if let Ok(completion) = Completion::read_from_bytes(&bytes) {
                self.add(Observation::Completed { stream: 0, index, completion });
            }
        }
        self.seen.borrow_mut().head = head;
        let state = self.register(stream::STATE) as u32;
        if std::mem::replace(&mut self.seen.borrow_mut().state, state) != state {
            let time_base = RefTime(self.register(stream::TIME_BASE).cast_signed());
            self.add(Observation::Changed { stream: 0, state: State::decode(state).unwrap_or_default(), time_base });
        }
    }

    fn opened(&self, kind: Type) {
        let areas = Areas {
            pool: self.register(stream::POOL_BASE),
            stride: self.register(stream::SLOT_STRIDE),
            submissions: self.register(stream::SUBMISSION_BASE),
            completions: self.register(stream::COMPLETION_BASE),
            entries: self.register(stream::SUBMISSION_SIZE) as u32,
        };
        {
            let mut seen = self.seen.borrow_mut();
            (seen.areas, seen.tail, seen.head, seen.state) = (areas, 0, 0, State::Stop as u32);
        }
        let [slots, buffers, buffer_size] =
            [stream::SLOT_COUNT, stream::BUFFER_COUNT, stream::BUFFER_SIZE].map(|of| self.register(of) as u32);
        self.add(Observation::Opened { stream: 0, kind, slots, buffers, buffer_size });
    }

    /// Has the card take a turn.
    pub(crate) fn turn(&self) -> Turn {
        self.before();
        let turn = self.engine.borrow_mut().turn();
        self.after();
        turn
    }
}

impl Platform for Watch {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.card.read32(offset);
        let (region, offset, bytes) = (Region::Registers, offset.into(), value.to_le_bytes().into());
        self.add(Observation::Access { region, offset, write: false, bytes });
        value
    }

    fn write32(&self, offset: u32, value: u32) {
        let (region, bytes) = (Region::Registers, value.to_le_bytes().into());
        self.add(Observation::Access { region, offset: offset.into(), write: true, bytes });
        self.card.write32(offset, value);
        if offset == regs::CONTROL.offset && value & regs::control::RESET != 0 {
            let run = std::mem::take(&mut self.seen.borrow_mut().run);
            *self.seen.borrow_mut() = Seen { run, kind: Some(stream::CLOSED), ..Seen::default() };
            self.add(Observation::Reset);
        }
    }

    fn doorbell(&self) -> &SharedMemory {
        self.card.doorbell()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.card.dma_alloc(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.card.dma_free(memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        if self.drop_wait.take() {
            self.turn();
            return true;
        }
        for number in 1..=TURNS {
            let worked = self.turn() == Turn::Worked;
            if !worked || number % self.latency.get() == 0 {
                let fired = self.card.wait(vector, if worked { Duration::ZERO } else { limit.min(SHORT) });
                if fired {
                    self.add(Observation::Interrupt { vector });
                }
                if fired || !worked {
                    return fired;
                }
            }
        }
        false
    }

    fn now(&self) -> Duration {
        self.card.now()
    }
}
