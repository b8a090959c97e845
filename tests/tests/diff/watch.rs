//! A platform that plays hosts of different speed, and that can meddle with what the driver has stored before the card
//! looks at it.
//!
//! Fed by the driver; feeds a card in this process that records. It has one stream.

use anyhow::Context;
use dmus_card::bank::Bank;
use dmus_card::engine::{Engine, Turn};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::doorbell;
use dmus_interface::protocol::Page;
use dmus_interface::regs::stream;
use dmus_interface::regs::{self, Register};
use dmus_interface::ring::SUBMISSION_SIZE;
use dmus_tests::direct::Direct;
use dmus_tests::memory::RAM_IOVA;
use dmus_tests::recording::Recording;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

pub(crate) struct Watch {
    card: Direct,
    engine: RefCell<Option<Engine>>,
    recording: Recording,
    /// What the driver has written to registers, by their offset: to ask the card for it would be recorded.
    written: RefCell<BTreeMap<u32, u32>>,
    /// The tail as the card has last seen it.
    tail: Cell<u32>,
    /// What to do to a submission.
    pub(crate) meddling: Cell<Option<(u32, Meddling)>>,
    /// The next wait ends at once, as if its interrupt had come.
    pub(crate) drop_wait: Cell<bool>,
    /// Turns that the card takes before a driver that was interrupted is there again.
    pub(crate) latency: Cell<usize>,
}

impl Watch {
    pub(crate) fn new(bank: Arc<Bank>) -> anyhow::Result<Self> {
        let recording = Recording::default();
        let card = Direct::recorded(bank, recording.clone())?;
        let engine = RefCell::new(Some(card.take_engine()?));
        Ok(Self {
            card,
            engine,
            recording,
            written: RefCell::default(),
            tail: Cell::new(0),
            meddling: Cell::new(None),
            drop_wait: Cell::new(false),
            latency: Cell::new(TURNS),
        })
    }

    /// Ends the card, and gives all that it has recorded.
    pub(crate) fn end(&self) -> anyhow::Result<Recording> {
        while self.turn() == Turn::Worked {}
        self.engine.take().context("it has ended already")?.spawn()?.finish()?;
        Ok(self.recording.clone())
    }

    fn register(&self, register: Register) -> u64 {
        let (written, offset) = (self.written.borrow(), stream::at(0, register).offset);
        let half = |offset| written.get(&offset).copied().map_or(0, u64::from);
        if register.width == 8 { half(offset) | half(offset + 4) << 32 } else { half(offset) }
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
        let entries = self.register(stream::SUBMISSION_SIZE) as u32;
        let entry = self.register(stream::SUBMISSION_BASE) + u64::from(index % entries) * SUBMISSION_SIZE as u64;
        (entry, u32::from_le_bytes(self.memory(entry)))
    }

    fn meddle(&self, index: u32, meddling: Meddling) {
        let (entry, slot) = self.slot(index);
        let event = self.register(stream::POOL_BASE) + u64::from(slot) * self.register(stream::SLOT_STRIDE);
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

    /// Has the card take a turn.
    pub(crate) fn turn(&self) -> Turn {
        let tail = self.card.doorbell().load_u32(doorbell::at(0, doorbell::SUBMISSION_TAIL), Ordering::Acquire);
        let old = self.tail.replace(tail);
        let is_new = |(index, _): &(u32, Meddling)| index.wrapping_sub(old) < tail.wrapping_sub(old);
        if let Some((index, meddling)) = self.meddling.get().filter(is_new) {
            self.meddle(index, meddling);
            self.meddling.set(None);
        }
        self.engine.borrow_mut().as_mut().map_or(Turn::Quiet, Engine::turn)
    }
}

impl Platform for Watch {
    fn read32(&self, offset: u32) -> u32 {
        self.card.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.written.borrow_mut().insert(offset, value);
        self.card.write32(offset, value);
        if offset == regs::CONTROL.offset && value & regs::control::RESET != 0 {
            self.tail.set(0);
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
