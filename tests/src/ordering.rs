//! Drivers that rely on what the data sheet leaves open: each plays rightly on a card that takes no liberty, and
//! wrongly on one that does.
//!
//! Fed by the test of every legal card with a plan; feeds it with the audio, or with what the driver stumbled over.

use crate::direct::Direct;
use crate::loopback::MemorySink;
use crate::raw::{BUFFER_SIZE, Completed, RawStream, STRIDE};
use anyhow::{Context, bail, ensure};
use dmus_card::bank::Bank;
use dmus_card::check::Checker;
use dmus_card::deviation::{Liberties, Liberty, Plan};
use dmus_card::sink::Sink;
use dmus_driver::Platform;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::protocol::Page;
use dmus_interface::ring::Status;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Messages that are submitted at once, and how often.
const BATCH: u32 = 6;
const BATCHES: u32 = 60;
/// Master time from one batch to the next.
const STEP: i64 = 200_000;
/// Turns of the engine in which a batch has to come home.
const PATIENCE: u32 = 2_000;

/// What a driver takes for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Completions come in the order of submission: the first is of the first.
    StatusByOrder,
    /// One completion of a batch is there, so all are.
    WholeBatch,
    /// A slot that comes home has the event that was in it: only its data is set anew.
    ContentsSurvive,
    /// A slot that comes home says how long its event was, and so whether a buffer comes with it.
    LengthReadBack,
    /// An interrupt of the stream is a completion.
    InterruptIsCompletion,
    /// An interrupt of the control vector is a fault.
    ControlIsFault,
    /// What was submitted is fetched once the card had a moment: its buffer can be filled with something else.
    ReuseAfterATurn,
    /// Completions come with their interrupt: without one, nothing has happened.
    InterruptWithHead,
    /// What is due is completed once the card had a moment.
    CompletedAfterATurn,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::StatusByOrder,
        Self::WholeBatch,
        Self::ContentsSurvive,
        Self::LengthReadBack,
        Self::InterruptIsCompletion,
        Self::ControlIsFault,
        Self::ReuseAfterATurn,
        Self::InterruptWithHead,
        Self::CompletedAfterATurn,
    ];
}

/// What a driver came to.
pub struct Played {
    /// The audio, or what it stumbled over.
    pub audio: anyhow::Result<Vec<i16>>,
    /// How many occasions there were for each liberty.
    pub occasions: BTreeMap<Liberty, u64>,
}

/// Plays with a driver that makes a mistake, or none, on a card with these liberties.
pub fn play(bank: &Arc<Bank>, mistake: Option<Mistake>, liberties: Liberties) -> anyhow::Result<Played> {
    let plan = Plan { liberties: Some(liberties), ..Plan::default() };
    let sink = MemorySink::default();
    let heard: (Box<dyn Sink>, _) = (Box::new(sink.clone()), Vec::new());
    let checker = Arc::new(Checker::new(&[], None));
    let (platform, deviations) = Direct::deviating(plan, Arc::clone(bank), heard, &checker, std::io::sink())?;
    let audio = Driver::start(&platform, mistake).and_then(|mut driver| driver.play());
    platform.end()?;
    let counted = deviations.occasions();
    let count = |liberty: &Liberty| counted["liberties"][liberty.name()].as_u64().unwrap_or(0);
    let occasions = Liberty::ALL.iter().map(|liberty| (*liberty, count(liberty))).collect();
    Ok(Played { audio: audio.map(|()| sink.samples()), occasions })
}

struct Driver<'p> {
    platform: &'p Direct,
    raw: RawStream<'p, Direct>,
    mistake: Option<Mistake>,
    /// Slots and buffers that are the driver's.
    slots: Vec<u32>,
    buffers: Vec<u32>,
    /// The buffer of each slot that is the card's.
    with: BTreeMap<u32, Option<u32>>,
    completed: u32,
}

impl<'p> Driver<'p> {
    fn start(platform: &'p Direct, mistake: Option<Mistake>) -> anyhow::Result<Self> {
        // Of four bytes, what is longer is in a buffer.
        let raw = RawStream::running(platform, PointerWidth::Four)?;
        let slots = (0..2 * BATCH).rev().collect();
        Ok(Self { platform, raw, mistake, slots, buffers: vec![1, 0], with: BTreeMap::new(), completed: 0 })
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn play(&mut self) -> anyhow::Result<()> {
        for batch in 0..BATCHES {
            let now = i64::from(batch) * STEP;
            let submitted = self.submit(batch, now)?;
            self.ask_for_interrupt();
            self.take_home(&submitted, batch)?;
            self.raw.grant(now + STEP);
            let page = self.platform.doorbell();
            let mut turns = 0;
            while page.load_u64(doorbell::MASTER_TIME, Ordering::Acquire).cast_signed() < now + STEP {
                turns += 1;
                ensure!(turns < PATIENCE, "the clock stands still");
                self.platform.turn();
            }
        }
        ensure!(self.with.is_empty(), "{} slots did not come home", self.with.len());
        Ok(())
    }

    /// Submits a batch that is due now; the last of it is a SysEx message, in a buffer: the master volume.
    fn submit(&mut self, batch: u32, now: i64) -> anyhow::Result<Vec<u32>> {
        let mut submitted = Vec::new();
        for number in 0..BATCH {
            let slot = self.slots.pop().context("the pool is empty")?;
            let mut buffer = None;
            if number + 1 == BATCH {
                let free = self.buffers.pop().context("there is no buffer")?;
                self.raw.fill(slot, self.raw.long(now, free, &volume(batch)));
                buffer = Some(free);
            } else {
                let key = 40 + ((batch * BATCH + number) % 40) as u8;
                let event = self.raw.inline(now, &[0x90, key, 40 + (number * 10) as u8]);
                let stays = self.makes(Mistake::ContentsSurvive) && batch > 3;
                match stays {
                    false => self.raw.fill(slot, event),
                    true => {
                        // Time, and the data behind the two pointers; the rest is there.
                        let (bytes, _) = event.encode(PointerWidth::Four);
                        let at = (slot * STRIDE) as usize;
                        self.raw.pool.memory.write(at + 8, &bytes[8..16]);
                        self.raw.pool.memory.write(at + 28, &bytes[28..32]);
                        self.raw.pool.memory.write(at + 2, &bytes[2..4]);
                    }
                }
            }
            self.raw.put(slot);
            self.with.insert(slot, buffer);
            submitted.push(slot);
        }
        self.raw.publish();
        Ok(submitted)
    }

    fn ask_for_interrupt(&self) {
        self.platform.fired(0);
        let word = doorbell::at(0, doorbell::COMPLETION_EVENT);
        self.platform.doorbell().store_u32(word, self.completed, Ordering::Release);
    }

    /// Takes the batch home, in the way of the mistake.
    fn take_home(&mut self, submitted: &[u32], batch: u32) -> anyhow::Result<()> {
        self.platform.turn();
        if self.makes(Mistake::ReuseAfterATurn) {
            let buffer = self.with.values().flatten().next().copied().context("no buffer")?;
            self.raw.buffers.memory.write((buffer * BUFFER_SIZE) as usize, &volume(batch + 7));
        }
        if self.makes(Mistake::InterruptWithHead) && !self.platform.fired(0) {
            bail!("the card has lost an interrupt");
        }
        if self.makes(Mistake::ControlIsFault) && self.platform.fired(CONTROL_VECTOR) {
            bail!("the card has a fault: {:?}", self.raw.take_fault());
        }
        let (mut turns, mut order) = (0, submitted.iter());
        while !self.with.is_empty() {
            turns += 1;
            ensure!(turns < PATIENCE, "{} slots did not come home", self.with.len());
            let there = match self.mistake {
                Some(Mistake::CompletedAfterATurn) => true,
                Some(Mistake::InterruptIsCompletion) => self.platform.fired(0) || !self.raw.is_drained(),
                Some(Mistake::WholeBatch) => !self.raw.is_drained() || self.with.len() < submitted.len(),
                _ => !self.raw.is_drained(),
            };
            if !there {
                self.platform.turn();
                continue;
            }
            ensure!(!self.raw.is_drained(), "the completion that had to be there is none");
            let completed = self.raw.completion()?;
            self.completed += 1;
            if self.makes(Mistake::StatusByOrder) {
                let expected = order.next().copied();
                ensure!(expected == Some(completed.slot), "slot {expected:?} was to come, and {} did", completed.slot);
            }
            self.bring_home(completed)?;
        }
        Ok(())
    }

    fn bring_home(&mut self, completed: Completed) -> anyhow::Result<()> {
        ensure!(completed.status == Status::Presented, "{completed:?}");
        let slot = completed.slot;
        let mut buffer = self.with.remove(&slot).with_context(|| format!("slot {slot} is not the card's"))?;
        if self.makes(Mistake::LengthReadBack) {
            let mut event = [0; 32];
            self.raw.pool.memory.read((slot * STRIDE) as usize, &mut event);
            let length = u16::from_le_bytes([event[2], event[3]]);
            let data = u32::from_le_bytes([event[28], event[29], event[30], event[31]]);
            let from = u64::from(data).wrapping_sub(self.raw.buffers.iova);
            buffer = (length > 4).then_some((from / u64::from(BUFFER_SIZE)) as u32);
        }
        if let Some(buffer) = buffer {
            ensure!(buffer < 2 && !self.buffers.contains(&buffer), "buffer {buffer} came home, which was not away");
            self.buffers.push(buffer);
        }
        self.slots.push(slot);
        Ok(())
    }
}

/// The universal SysEx message for the master volume.
fn volume(number: u32) -> [u8; 8] {
    [0xF0, 0x7F, 0x7F, 0x04, 0x01, 0x00, 60 + (number * 11 % 60) as u8, 0xF7]
}
