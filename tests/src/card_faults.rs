//! The driver against a card that has a fault by a plan: what comes of it in each of five scenarios.
//!
//! Fed by tests, and by `bin/card_faults.rs` for a table; feeds them with an [`Outcome`] for each fault. The card turns
//! in the driver's thread, and a wait in which nothing comes takes no time but on the driver's own clock: a driver that
//! waits for what never comes reaches its limit at once, and one without a limit is found by how often it waits.

use crate::direct::Direct;
use crate::loopback::MemorySink;
use crate::recording::Recording;
use anyhow::Context;
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::check::Checker;
use dmus_card::deviation::{Deviations, Fault, Occasions, Plan};
use dmus_card::sink::Sink;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{
    CaptureStream, Card, DriverError, Mailbox, Platform, PlatformError, RenderStream, StreamConfig, WaveStream, play,
    play_through, record,
};
use dmus_interface::event::PointerWidth;
use dmus_interface::rule::Severity;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_song::{Song, TimedMessage};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Waits after which a driver counts as hung: one that waits half a second each time has waited for a quarter of an
/// hour.
const WAITS: u32 = 2000;
/// Stream time at the end of each scenario.
const END: RefTime = RefTime(3_000_000);
const SIZES: StreamConfig = StreamConfig { slots: 16, buffers: 8, buffer_size: 64 };
const WAVES: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };

/// What a driver does when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// It plays short messages.
    Short,
    /// It plays SysEx messages of several buffers.
    SysEx,
    /// It records from a MIDI input.
    Capture,
    /// It plays, and takes the audio back.
    Wave,
    /// It plays by two streams, after commands of the mailbox.
    Two,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Short, Self::SysEx, Self::Capture, Self::Wave, Self::Two];
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The same audio and the same messages, and everything is the driver's again.
    Recovered,
    /// What was lost is in the driver's counts: messages late, discarded, rejected, or bytes that an overrun lost.
    Told,
    /// A call has said what is wrong.
    Error(DriverError),
    /// Something else is heard, or was captured, and nobody said so.
    Silent,
    /// A slot or a buffer is nobody's, and nobody said so.
    Leaked,
    /// The driver waits without a limit.
    Hang,
    /// The card's checker puts the fault on the driver, by the code of a rule.
    Blamed(String),
}

impl Outcome {
    /// Whether it must not be.
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Silent | Self::Leaked | Self::Hang | Self::Blamed(_))
    }

    /// The word for a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Told => "told",
            Self::Error(_) => "error",
            Self::Silent => "SILENT",
            Self::Leaked => "LEAKED",
            Self::Hang => "HANG",
            Self::Blamed(_) => "BLAMED",
        }
    }
}

/// The platform of a driver whose patience costs nothing.
struct Patient {
    inner: Direct,
    passed: Cell<Duration>,
    waits: Cell<u32>,
}

impl Platform for Patient {
    fn read32(&self, offset: u32) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.inner.write32(offset, value);
    }

    fn doorbell(&self) -> &SharedMemory {
        self.inner.doorbell()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.inner.dma_alloc(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.inner.dma_free(memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        self.waits.set(self.waits.get() + 1);
        // Whoever waits so often waits for ever: it unwinds out of the driver, and is caught as a hang.
        if self.waits.get() > WAITS {
            std::panic::resume_unwind(Box::new(Hung));
        }
        self.inner.run_until_idle();
        let fired = self.inner.wait(vector, Duration::ZERO);
        // A loop that is always woken has to come to its limit, too.
        self.passed.set(self.passed.get() + if fired { Duration::from_millis(1) } else { limit });
        fired
    }

    fn now(&self) -> Duration {
        self.passed.get()
    }
}

struct Hung;

/// All that came of a run.
pub struct Ran {
    /// How it ended, by itself.
    pub outcome: Outcome,
    /// What was heard, and captured.
    pub heard: (Vec<i16>, Vec<u8>),
    /// Interrupts and resets by the card's counters.
    pub counted: [u64; 2],
    /// What was recorded.
    pub recording: Recording,
    /// The occasions that there were.
    pub deviations: Arc<Deviations>,
}

/// The instruments that all runs play by: made once.
pub fn bank() -> Arc<Bank> {
    static BANK: OnceLock<Arc<Bank>> = OnceLock::new();
    Arc::clone(BANK.get_or_init(|| Arc::new(Bank::general_midi())))
}

/// A plan of one fault.
pub fn plan(fault: Fault, occasion: u64) -> Plan {
    Plan { faults: BTreeMap::from([(fault, Occasions::One(occasion))]), liberties: None }
}

/// Runs a scenario, and says what came of it next to what a card without faults does.
pub fn judge(scenario: Scenario, fault: Fault, occasion: u64, usual: &Ran) -> anyhow::Result<Ran> {
    let mut ran = run(scenario, plan(fault, occasion))?;
    if ran.outcome == Outcome::Recovered && ran.heard != usual.heard {
        ran.outcome = Outcome::Silent;
    }
    Ok(ran)
}

/// Runs a scenario. What is heard is not judged.
pub fn run(scenario: Scenario, plan: Plan) -> anyhow::Result<Ran> {
    let (audio, recording) = (MemorySink::default(), Recording::default());
    let song: Song =
        (0..24).map(|n| TimedMessage { time: RefTime(n * 100_000), group: 0, bytes: &[0x90, 60, 100] }).collect();
    let inputs = if scenario == Scenario::Capture { vec![Input::Song(song)] } else { Vec::new() };
    let heard: (Box<dyn Sink>, _) = (Box::new(audio.clone()), inputs);
    let checker = Arc::new(Checker::new(&[], None));
    let (inner, deviations) = Direct::deviating(plan, bank(), heard, &checker, recording.clone())?;
    let platform = Patient { inner, passed: Cell::default(), waits: Cell::default() };
    let mut captured = Vec::new();
    // Of a driver that hangs, nothing is looked at any more.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let result = drive(scenario, &platform, &mut captured);
        platform.inner.end().map(|()| result)
    }));
    let outcome = match ended {
        Err(payload) if payload.is::<Hung>() => Outcome::Hang,
        Err(payload) => std::panic::resume_unwind(payload),
        Ok(result) => match result.context("the card's end")? {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Error(error),
        },
    };
    let outcome = match checker.counts().iter().find(|(rule, _)| rule.severity == Severity::Error) {
        Some((rule, _)) => Outcome::Blamed(rule.name.into()),
        None => outcome,
    };
    let stats = &platform.inner.stats;
    let counted = [stats.interrupts.get(), stats.resets.get()];
    Ok(Ran { outcome, heard: (audio.samples(), captured), counted, recording, deviations })
}

fn drive(scenario: Scenario, platform: &Patient, captured: &mut Vec<u8>) -> Result<Outcome, DriverError> {
    let card = Card::open(platform, PointerWidth::Eight)?;
    let short =
        |n: i64| (RefTime(n * 50_000), vec![if n % 2 == 0 { 0x90 } else { 0x80 }, 50 + (n / 2 % 30) as u8, 100]);
    let long = |n: i64| (RefTime(n * 100_000), [&[0xF0, 0x7D][..], &[n as u8; 150], &[0xF7]].concat());
    let contents: Vec<_> = match scenario {
        Scenario::SysEx => (0..24).map(long).chain((0..2).map(|n| short(n + 48))).collect(),
        _ => (0..56).map(short).collect(),
    };
    let messages = || contents.iter().map(|(time, bytes)| TimedMessage { time: *time, group: 0, bytes });
    if scenario == Scenario::Capture {
        let stream = CaptureStream::open(&card, 4, SIZES, true)?;
        let recorded = record(
            &card,
            &stream,
            END,
            |time, bytes| {
                captured.extend_from_slice(&time.0.to_le_bytes());
                captured.extend_from_slice(bytes);
            },
            |_| (),
        )?;
        return Ok(match stream.free_slots_and_buffers() {
            _ if recorded.lost > 0 => Outcome::Told,
            (slots, buffers) if slots < SIZES.slots as usize || buffers < SIZES.buffers as usize => Outcome::Leaked,
            _ => Outcome::Recovered,
        });
    }
    let stream = RenderStream::open(&card, 0, SIZES)?;
    let played = match scenario {
        Scenario::Wave => {
            let wave = WaveStream::open(&card, 6, StreamConfig { buffer_size: 3840, ..SIZES }, WAVES)?;
            let listener = |bytes: &[u8]| {
                captured.extend_from_slice(bytes);
                Ok::<_, DriverError>(())
            };
            play_through(&stream, &wave, messages(), END, listener, |_| ())?
        }
        Scenario::Two => {
            let mut mailbox = Mailbox::open(&card)?;
            mailbox.set_volume(0, -300)?;
            captured.extend_from_slice(&mailbox.volume(0)?.to_le_bytes());
            let other = RenderStream::open(&card, 1, SIZES)?;
            let first = play(&stream, messages().take(28), END, |_| ())?;
            let second = play(&other, messages().skip(28), END, |_| ())?;
            captured.extend_from_slice(&mailbox.master_clock()?.0.to_le_bytes());
            let free = (other.allocator().free_slots(), other.allocator().free_buffers());
            if free != (SIZES.slots as usize, SIZES.buffers as usize) {
                return Ok(Outcome::Leaked);
            }
            if first.counts.presented == first.counts.submitted { second } else { first }
        }
        _ => play(&stream, messages(), END, |_| ())?,
    };
    let allocator = stream.allocator();
    let free = (allocator.free_slots(), allocator.free_buffers());
    Ok(if played.counts.presented != played.counts.submitted {
        Outcome::Told
    } else if free != (SIZES.slots as usize, SIZES.buffers as usize) {
        Outcome::Leaked
    } else {
        Outcome::Recovered
    })
}

impl Platform for &Patient {
    fn read32(&self, offset: u32) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        (**self).write32(offset, value);
    }

    fn doorbell(&self) -> &SharedMemory {
        (**self).doorbell()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        (**self).dma_alloc(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        (**self).dma_free(memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        (**self).wait(vector, limit)
    }

    fn now(&self) -> Duration {
        (**self).now()
    }
}
