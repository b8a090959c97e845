//! What audio waits for, in process: a stream that runs, and a sink that has room.

use dmus_card::ClockMode;
use dmus_card::sink::{Losses, Sink, SinkError};
use dmus_driver::{Card, Platform, RenderStream, StreamConfig};
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::MemorySink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A sink that has room when it is told so.
struct Gate {
    open: Arc<AtomicBool>,
    audio: MemorySink,
}

impl Sink for Gate {
    fn ready(&mut self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn write(&mut self, frames: &[i16]) {
        self.audio.write(frames);
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.audio.finish()
    }
}

#[test]
fn virtual_time_stands_while_the_sink_has_no_room_and_no_request_waits_for_it() -> anyhow::Result<()> {
    let (open, audio) = (Arc::new(AtomicBool::new(false)), MemorySink::default());
    let sink = Gate { open: Arc::clone(&open), audio: audio.clone() };
    let card = Card::open(Direct::with_sink(Box::new(sink))?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let end = RefTime::from_secs(1);
    card.grant(end);
    card.platform().run_until_idle();
    // One block is written before the sink is asked.
    let (written, stands) = (audio.samples().len(), card.get_time());
    assert!(written < 96_000 && stands < end, "{written} samples, {stands:?}");
    for _ in 0..100 {
        card.platform().turn();
    }
    assert_eq!((audio.samples().len(), card.get_time()), (written, stands));
    // Carried out where time stands.
    stream.set_state(State::Pause)?;
    assert_eq!((audio.samples().len(), card.get_time()), (written, stands));
    open.store(true, Ordering::SeqCst);
    card.platform().run_until_idle();
    assert_eq!((audio.samples().len(), card.get_time()), (96_000, end));
    Ok(())
}

/// A card whose sink has no room has something to do, and no guest rings for it.
#[test]
fn a_card_that_waits_for_its_sink_does_not_wait_for_the_guest() -> anyhow::Result<()> {
    let (open, audio) = (Arc::new(AtomicBool::new(false)), MemorySink::default());
    let sink = Gate { open: Arc::clone(&open), audio: audio.clone() };
    let card = Card::open(Direct::with_sink(Box::new(sink))?, PointerWidth::Eight)?;
    let end = RefTime::from_secs(1);
    card.grant(end);
    let engine = card.platform().spawn_engine()?;
    // Far longer than a card without anything to do is awake.
    std::thread::sleep(Duration::from_millis(200));
    open.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while card.get_time() < end {
        std::thread::sleep(Duration::from_millis(1));
        assert!(Instant::now() < deadline, "it sleeps");
    }
    assert_eq!(audio.samples().len(), 96_000);
    Ok(engine.finish()?)
}

/// A sink that has been full for longer than a card without anything to do is awake, and has room at one ask of two:
/// each turn asks, and so does each rest after it.
struct Slow {
    since: Option<Instant>,
    asks: usize,
    at: usize,
    audio: MemorySink,
}

impl Sink for Slow {
    fn ready(&mut self) -> bool {
        self.asks += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let ready = since.elapsed() > Duration::from_millis(50) && self.asks % 2 == self.at;
        if ready {
            self.since = None;
        }
        ready
    }

    fn write(&mut self, frames: &[i16]) {
        self.audio.write(frames);
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.audio.finish()
    }
}

#[test]
fn a_sink_that_has_room_as_the_card_goes_to_sleep_is_fed() -> anyhow::Result<()> {
    for at in 0..2 {
        let audio = MemorySink::default();
        let sink = Slow { since: None, asks: 0, at, audio: audio.clone() };
        let card = Card::open(Direct::with_sink(Box::new(sink))?, PointerWidth::Eight)?;
        let end = RefTime(2_500_000);
        card.grant(end);
        let engine = card.platform().spawn_engine()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while card.get_time() < end {
            std::thread::sleep(Duration::from_millis(1));
            assert!(Instant::now() < deadline, "it sleeps, with room at ask {at} of two");
        }
        engine.finish()?;
        assert_eq!(audio.samples().len(), 24_000);
    }
    Ok(())
}

/// However long a turn takes: one that moves the time renders, too, if anything runs.
#[test]
fn with_the_realtime_clock_audio_is_written_only_while_a_stream_runs() -> anyhow::Result<()> {
    let card = Card::open(Direct::by_clock(ClockMode::Realtime, vec![])?, PointerWidth::Eight)?;
    let platform = card.platform();
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    // Far more than the shortest block, however fast the turns follow on each other.
    let turn_for = |time: RefTime| {
        let (end, deadline) = (card.get_time().saturating_add(time), Instant::now() + Duration::from_secs(60));
        while card.get_time() < end {
            platform.turn();
            assert!(Instant::now() < deadline, "time stands");
        }
        platform.stats.samples.get()
    };
    let time = RefTime::from_nanos(20_000_000);
    assert_eq!(turn_for(time), 0, "nothing runs yet");
    stream.set_state(State::Run)?;
    let ran = turn_for(time);
    assert!(ran > 0, "nothing is heard of what runs");
    stream.set_state(State::Pause)?;
    let paused = platform.stats.samples.get();
    assert_eq!(turn_for(time), paused, "it goes on in PAUSE");
    Ok(())
}

#[test]
fn realtime_audio_begins_where_the_clock_is_and_a_second_stream_skips_none_of_it() -> anyhow::Result<()> {
    let card = Card::open(Direct::by_clock(ClockMode::Realtime, vec![])?, PointerWidth::Eight)?;
    let platform = card.platform();
    let streams = [0, 1].map(|index| RenderStream::open(&card, index, StreamConfig::default()));
    let [first, second] = streams;
    let (first, second) = (first?, second?);
    let position = || platform.doorbell().load_u64(doorbell::SAMPLE_POSITION, Ordering::Acquire);
    let skipped = || position() - platform.stats.samples.get();
    let pass = |time: RefTime| {
        let end = card.get_time().saturating_add(time);
        while card.get_time() < end {
            platform.turn();
        }
    };
    let time = RefTime::from_nanos(50_000_000);
    pass(time);
    let before = card.get_time();
    first.set_state(State::Run)?;
    let began = skipped();
    assert!(began >= before.to_sample(48_000).0, "{began} samples before {before:?}");
    pass(time);
    // Between two blocks, mostly.
    for _ in 0..20 {
        second.set_state(State::Run)?;
        pass(RefTime::from_nanos(1_000_000));
        assert_eq!(skipped(), began);
        second.set_state(State::Pause)?;
    }
    Ok(())
}

/// A sink whose listener misses some, and which cannot be completed.
struct Lossy;

impl Sink for Lossy {
    fn write(&mut self, _: &[i16]) {}

    fn losses(&self) -> Losses {
        Losses { dropped: 7, underruns: 3 }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Err(SinkError::Full { path: "the sink".into(), limit: "nothing" })
    }
}

#[test]
fn what_a_sink_loses_is_counted_as_it_is_lost_and_its_error_is_the_end_of_the_card() -> anyhow::Result<()> {
    let card = Card::open(Direct::with_sink(Box::new(Lossy))?, PointerWidth::Eight)?;
    let stats = &card.platform().stats;
    let losses = || (stats.dropped_samples.get(), stats.underruns.get());
    assert_eq!(losses(), (0, 0));
    card.grant(RefTime::from_secs(1));
    card.platform().run_until_idle();
    assert_eq!(losses(), (7, 3));
    let ended = card.platform().end().map_err(|error| error.to_string());
    assert_eq!(ended, Err("the sink is full: nothing; the rest was dropped".into()));
    Ok(())
}
