use super::*;
use crate::dma::heap::{device_view, leak};
use crate::dma::{DmaMemory, SharedMemory};
use crate::{PlatformError, StreamConfig};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, Type};
use dmus_interface::regs::{self, Register, control};
use dmus_interface::ring::{COMPLETION_SIZE, Completion, Status};
use dmus_interface::wave::{Sample, WaveFormat};
use zerocopy::IntoBytes;

const CONFIG: StreamConfig = StreamConfig { slots: 4, buffers: 4, buffer_size: 64 };
/// Time from one completion to the next.
const STEP: i64 = 1000;
/// Completions after which the card has no more: no test that passes comes so far.
const FLOOD: u32 = 10_000;

/// What a fake card does about what is submitted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// It completes it the moment that it is published; captured events come without end.
    Flood,
    /// It completes one whenever the driver waits.
    Slow,
    /// It completes nothing, and only its time goes on; from so many waits on it is one that was reset.
    Reset(u32),
}

struct FakeCard {
    pace: Pace,
    waits: Cell<u32>,
    registers: RefCell<BTreeMap<u32, u32>>,
    page: SharedMemory,
    areas: RefCell<Vec<(u64, SharedMemory)>>,
    now: Cell<Duration>,
    sleeps: Cell<u32>,
    completed: Cell<u32>,
    /// Submissions fetched, by stream.
    fetched: [Cell<u32>; 2],
    /// The states that were asked for, with the submissions published before.
    states: RefCell<Vec<(u32, u32)>>,
}

impl FakeCard {
    fn new(pace: Pace) -> Self {
        let page = leak(4096, 0).memory;
        page.store_u32(doorbell::WAKE_ARMED, 1, Ordering::Relaxed);
        let closed = [0, 1].map(|number| (stream::at(number, stream::TYPE).offset, stream::CLOSED));
        Self {
            pace,
            waits: Cell::default(),
            registers: RefCell::new(closed.into()),
            page,
            areas: RefCell::default(),
            now: Cell::default(),
            sleeps: Cell::new(1),
            completed: Cell::default(),
            fetched: Default::default(),
            states: RefCell::default(),
        }
    }

    fn is_reset(&self) -> bool {
        matches!(self.pace, Pace::Reset(waits) if self.waits.get() >= waits)
    }

    fn register(&self, register: Register) -> u32 {
        self.registers.borrow().get(&register.offset).copied().unwrap_or(0)
    }

    /// Does something with the memory at an address.
    fn access<R>(&self, iova: u64, access: impl FnOnce(&SharedMemory, usize) -> R) -> R {
        let areas = self.areas.borrow();
        let (start, memory) = areas.iter().rfind(|(start, _)| *start <= iova).expect("mapped memory");
        access(memory, (iova - start) as usize)
    }

    /// Completes up to `most` submissions of a stream.
    fn complete(&self, number: usize, most: usize) {
        let at = |register| self.register(stream::at(number, register));
        let base = |register| u64::from(at(register));
        let head = doorbell::at(number, doorbell::COMPLETION_HEAD);
        let tail = self.page.load_u32(doorbell::at(number, doorbell::SUBMISSION_TAIL), Ordering::Acquire);
        for _ in 0..most {
            if self.fetched[number].get() == tail || self.completed.get() == FLOOD {
                break;
            }
            let index = self.fetched[number].replace(self.fetched[number].get().wrapping_add(1));
            let entry = u64::from(index % at(stream::SUBMISSION_SIZE));
            let slot =
                self.access(base(stream::SUBMISSION_BASE) + 4 * entry, |m, at| m.load_u32(at, Ordering::Relaxed));
            let event = base(stream::POOL_BASE) + 64 * u64::from(slot);
            let completed = self.completed.replace(self.completed.get() + 1);
            let time = self.page.load_u64(doorbell::MASTER_TIME, Ordering::Relaxed) + STEP as u64;
            let bytes: &[u8] = match Type::decode(at(stream::TYPE)) {
                Some(Type::Capture { .. }) => &[0x90, 60, 1],
                Some(Type::WaveSink) => &[0; 4],
                _ => &[],
            };
            if !bytes.is_empty() {
                self.access(event, |memory, at| {
                    memory.write(at + 2, &(bytes.len() as u16).to_le_bytes());
                    memory.write(at + 8, &time.to_le_bytes());
                    memory.write(at + 16, &(u64::from(completed) * bytes.len() as u64).to_le_bytes());
                    memory.write(at + 32, bytes);
                });
            }
            let status = (Status::Presented as u16).into();
            let done = Completion { slot: slot.into(), status, flags: 0.into(), time: 0.into() };
            let place = base(stream::COMPLETION_BASE) + COMPLETION_SIZE as u64 * entry;
            self.access(place, |memory, at| memory.write(at, done.as_bytes()));
            self.page.store_u32(head, self.page.load_u32(head, Ordering::Relaxed) + 1, Ordering::Release);
            self.page.store_u64(doorbell::MASTER_TIME, time, Ordering::Release);
        }
    }
}

impl Platform for FakeCard {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            _ if offset == regs::MAGIC.offset => regs::MAGIC_VALUE,
            _ if offset == regs::VERSION.offset => regs::VERSION_VALUE,
            _ if offset == regs::CONTROL.offset && self.is_reset() => 0,
            _ if offset == regs::CONTROL.offset => control::ENABLE,
            _ => self.registers.borrow().get(&offset).copied().unwrap_or(0),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        self.registers.borrow_mut().insert(offset, value);
        for number in 0..self.fetched.len() {
            if [stream::TYPE, stream::STATE].iter().any(|register| stream::at(number, *register).offset == offset) {
                let word = doorbell::at(number, doorbell::TRANSITIONS);
                self.page.store_u32(word, self.page.load_u32(word, Ordering::Relaxed) + 1, Ordering::Release);
            }
            if offset == stream::at(number, stream::STATE).offset {
                let tail = self.page.load_u32(doorbell::at(number, doorbell::SUBMISSION_TAIL), Ordering::Acquire);
                self.states.borrow_mut().push((value, tail));
            }
        }
        if offset == regs::WAKE.offset && self.pace == Pace::Flood {
            (0..self.fetched.len()).for_each(|number| self.complete(number, usize::MAX));
            // It sleeps again at once, so that it is woken for everything that is published.
            self.sleeps.set(self.sleeps.get() + 1);
            self.page.store_u32(doorbell::WAKE_ARMED, self.sleeps.get(), Ordering::Relaxed);
        }
    }

    fn doorbell(&self) -> &SharedMemory {
        &self.page
    }

    fn dma_alloc(&self, len: usize, _: usize) -> Result<DmaMemory, PlatformError> {
        let mut areas = self.areas.borrow_mut();
        let memory = leak(len, (areas.len() as u64 + 1) << 16);
        areas.push((memory.iova, device_view(&memory)));
        Ok(memory)
    }

    fn dma_free(&self, _: DmaMemory) {}

    fn wait(&self, _: u16, limit: Duration) -> bool {
        self.waits.set(self.waits.get() + 1);
        assert!(self.waits.get() < FLOOD, "it waits for ever");
        match self.pace {
            Pace::Slow => self.complete(0, 1),
            Pace::Reset(_) => {
                let time = self.page.load_u64(doorbell::MASTER_TIME, Ordering::Relaxed) + STEP as u64;
                self.page.store_u64(doorbell::MASTER_TIME, time, Ordering::Release);
            }
            Pace::Flood => {}
        }
        self.now.set(self.now.get() + limit);
        false
    }

    fn now(&self) -> Duration {
        self.now.get()
    }
}

fn flooding_card() -> Card<FakeCard> {
    Card::open(FakeCard::new(Pace::Flood), PointerWidth::Eight).expect("a card")
}

/// So many notes at time zero.
fn notes(count: usize) -> impl Iterator<Item = TimedMessage<'static>> {
    (0..count).map(|_| TimedMessage { time: RefTime::ZERO, group: 0, bytes: &[0x90, 60, 1] })
}

/// Ends at the third question.
fn impatience() -> impl FnMut(RefTime) -> ControlFlow<()> {
    let mut asked = 0;
    move |_| {
        asked += 1;
        if asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[test]
fn a_recording_ends_on_time_however_fast_events_come() {
    let card = flooding_card();
    let stream = CaptureStream::open(&card, 0, CONFIG, true).expect("a stream");
    let mut last = RefTime::ZERO;
    let recorded = record(&card, &stream, RefTime(100 * STEP), |time, _| last = time, |_| {}).expect("a recording");
    assert!((100..120).contains(&recorded.messages), "{recorded:?}");
    assert_eq!((recorded.lost, recorded.bytes), (0, 3 * recorded.messages));
    assert!((RefTime(100 * STEP)..RefTime(120 * STEP)).contains(&last), "{last:?}");
    assert_eq!(stream.free_slots_and_buffers(), (4, 4));
}

#[test]
fn a_recording_asks_whether_to_go_on_while_events_keep_coming() {
    let card = flooding_card();
    let stream = CaptureStream::open(&card, 0, CONFIG, true).expect("a stream");
    let recorded = record(&card, &stream, RefTime(i64::MAX), |_, _| {}, impatience()).expect("a recording");
    assert_eq!(recorded.messages, 3 * u64::from(CONFIG.slots));
}

#[test]
fn a_player_with_a_listener_asks_whether_to_go_on_while_periods_keep_coming() {
    let card = flooding_card();
    let stream = RenderStream::open(&card, 0, CONFIG).expect("a stream");
    let format = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
    let wave = WaveStream::open(&card, 1, CONFIG, format).expect("a wave sink");
    let mut periods = 0;
    let listener = |_: &[u8]| {
        periods += 1;
        Ok::<_, DriverError>(())
    };
    play_through(&stream, &wave, notes(10), RefTime(i64::MAX), listener, impatience()).expect("played");
    // A pool in each turn, and what is there at PAUSE and STOP.
    assert!(periods <= 5 * CONFIG.slots, "{periods} periods");
    assert_eq!(wave.free_slots_and_buffers(), (4, 4));
}

#[test]
fn a_live_player_waits_for_slots_when_the_pool_is_full() {
    let card = Card::open(FakeCard::new(Pace::Slow), PointerWidth::Eight).expect("a card");
    let stream = RenderStream::open(&card, 0, CONFIG).expect("a stream");
    let end = RefTime(20 * STEP);
    let played = play_live(&stream, notes(21), end, RefTime::ZERO, |_| {}).expect("played");
    assert_eq!((played.counts.submitted, played.counts.presented), (21, 21));
}

#[test]
fn a_player_asks_whether_to_go_on_while_a_long_song_passes_through_a_small_pool() {
    let card = flooding_card();
    let stream = RenderStream::open(&card, 0, CONFIG).expect("a stream");
    let played = play(&stream, notes(1000), RefTime(i64::MAX), impatience()).expect("played");
    assert_eq!(played.counts.submitted, 3 * u64::from(CONFIG.slots));
}

/// Its clock goes on, as that of a card with a clock of its own does.
#[test]
fn a_card_that_was_reset_or_completes_nothing_any_more_is_noticed_although_its_time_moves() {
    for (resets_at, expected) in [(3, DriverError::CardReset), (FLOOD, DriverError::TimedOut(STALL_LIMIT))] {
        let card = Card::open(FakeCard::new(Pace::Reset(resets_at)), PointerWidth::Eight).expect("a card");
        let stream = RenderStream::open(&card, 0, CONFIG).expect("a stream");
        assert_eq!(play(&stream, notes(3), RefTime(10 * STEP), |_| {}), Err(expected));
    }
}

/// Else events that come with RUN would find no slot.
#[test]
fn slots_are_posted_for_capture_before_the_stream_runs_and_need_no_second_acquire_after_pause() {
    use dmus_interface::regs::stream::State::{Acquire, Pause, Run, Stop};
    let slots = CONFIG.slots;
    let cases = [
        (&[Run, Pause, Run][..], &[(Acquire, 0), (Run, slots), (Pause, slots), (Run, slots)][..]),
        (&[Pause, Run], &[(Pause, 0), (Run, slots)]),
        (&[Run, Stop, Run], &[(Acquire, 0), (Run, slots), (Stop, slots), (Acquire, slots), (Run, slots)]),
    ];
    for (states, expected) in cases {
        let card = Card::open(FakeCard::new(Pace::Slow), PointerWidth::Eight).expect("a card");
        let stream = CaptureStream::open(&card, 0, CONFIG, true).expect("a stream");
        states.iter().for_each(|state| stream.set_state(*state).expect("the state"));
        let expected: Vec<_> = expected.iter().map(|(state, tail)| (*state as u32, *tail)).collect();
        assert_eq!(*card.platform().states.borrow(), expected, "{states:?}");
    }
}
