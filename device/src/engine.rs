//! The engine: a thread that fetches submissions, renders, and publishes completions.
//!
//! Fed by `link` (requests, doorbell page, guest memory); feeds the sink with audio and the guest with completions and interrupts. A turn
//! is: a section to look around, sections to fetch, one block of audio with no lock held, and sections to publish.

use crate::bank::Bank;
use crate::clock::Clock;
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, SAMPLE_RATE, VOICES};
use crate::link::{Link, Request, Shared, StreamView};
use crate::sink::{Sink, SinkError, to_s16};
use crate::stream::{Span, Stream};
use crate::synth::Synth;
use dmus_interface::doorbell;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS};
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::time::{RefTime, SampleTime};
use std::num::NonZeroU64;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most frames of a turn: what a request may have to wait for.
const BLOCK: usize = 1024;
/// Fewest frames of a turn in realtime: 2 ms.
const PERIOD: u64 = 96;

/// How long a card with nothing to do looks again at once, and how long in timed sleeps, before it arms the trapped wake.
const SPIN: Duration = Duration::from_micros(40);
const WATCH: Duration = Duration::from_millis(20);
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// The running engine.
#[derive(Debug)]
pub struct EngineHandle {
    link: Arc<Link>,
    thread: JoinHandle<Result<(), SinkError>>,
}

/// Why the engine ended badly.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The output is not what it should be.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A defect of the card.
    #[error("the rendering thread panicked")]
    Panicked,
}

impl EngineHandle {
    /// Ends the thread and completes the output.
    pub fn finish(self) -> Result<(), EngineError> {
        {
            let mut shared = self.link.lock();
            shared.shutdown = true;
            self.link.ring(&mut shared);
        }
        match self.thread.join() {
            Ok(result) => Ok(result?),
            Err(_) => Err(EngineError::Panicked),
        }
    }
}

/// The engine, before it has a thread. A caller that gives it none turns it itself: one thread then does everything, in a fixed order.
pub struct Engine {
    link: Arc<Link>,
    bank: Arc<Bank>,
    sink: Box<dyn Sink>,
    clock: Clock,
    clock_mode: ClockMode,
    epoch: u64,
    streams: [Option<Stream>; STREAMS],
    /// Synthesizers of closed streams, to be used again.
    spare: Vec<Synth>,
    position: SampleTime,
    left: Vec<f32>,
    right: Vec<f32>,
    pcm: Vec<i16>,
    /// Number of the present or last armed sleep.
    sleeps: u32,
    quiet_since: Option<Instant>,
}

/// What a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something to do: there may be more.
    Worked,
    /// Nothing to do.
    Quiet,
    /// The end.
    Shutdown,
}

impl Engine {
    pub(crate) fn new(link: Arc<Link>, clock_mode: ClockMode, bank: Arc<Bank>, sink: Box<dyn Sink>) -> Self {
        let mut engine = Self {
            link,
            bank,
            sink,
            clock: Clock::new(clock_mode),
            clock_mode,
            epoch: 0,
            streams: [const { None }; STREAMS],
            spare: Vec::new(),
            position: SampleTime(0),
            left: vec![0.0; BLOCK],
            right: vec![0.0; BLOCK],
            pcm: vec![0; BLOCK * 2],
            sleeps: 0,
            quiet_since: None,
        };
        // The first stream opens without a pause.
        engine.spare.push(engine.new_synth());
        engine
    }

    /// Goes on in a thread of its own.
    pub fn spawn(mut self) -> std::io::Result<EngineHandle> {
        let link = Arc::clone(&self.link);
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || self.run())?;
        Ok(EngineHandle { link, thread })
    }

    fn run(&mut self) -> Result<(), SinkError> {
        // The default slack would double the shortest sleep.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!("timer slack stays: {error}");
        }
        loop {
            match self.turn() {
                Turn::Worked => self.quiet_since = None,
                Turn::Quiet => self.rest(),
                Turn::Shutdown => return self.sink.finish(),
            }
        }
    }

    /// Looks around, fetches, renders a block, publishes.
    pub fn turn(&mut self) -> Turn {
        let link = Arc::clone(&self.link);
        let (requests, fetch) = {
            let mut shared = link.lock();
            if shared.shutdown {
                return Turn::Shutdown;
            }
            if shared.epoch != self.epoch {
                self.reset(shared.epoch);
            }
            shared.rung = false;
            self.look_at_page(&link, &mut shared);
            let fetch = self.streams.iter().flatten().any(|stream| !stream.is_fetched());
            (std::mem::take(&mut shared.requests), fetch)
        };
        let mut worked = fetch;
        for (index, request) in requests.into_iter().enumerate() {
            if let Some(request) = request {
                self.carry_out(index, request);
                worked = true;
            }
        }
        self.fetch();
        worked |= self.render();
        worked |= self.publish();
        if worked { Turn::Worked } else { Turn::Quiet }
    }

    /// Loads the grant, and only then the tails: what a grant covers is among what these tails publish.
    fn look_at_page(&mut self, link: &Link, shared: &mut Shared) {
        let grant = shared.page.load_u64(doorbell::GRANT, Ordering::Acquire);
        self.clock.grant(RefTime(grant as i64));
        for stream in self.streams.iter_mut().flatten() {
            stream.look_at_tail(link, shared);
        }
    }

    /// Forgets everything, as the registers already have.
    fn reset(&mut self, epoch: u64) {
        self.epoch = epoch;
        for stream in self.streams.iter_mut().filter_map(Option::take) {
            let mut synth = stream.abandon(&self.link.stats);
            synth.reset();
            self.spare.push(synth);
        }
        self.clock = Clock::new(self.clock_mode);
        self.position = SampleTime(0);
    }

    /// Begins a section; `None` if a reset has made void what this turn is doing.
    fn section<'a>(&self, link: &'a Link) -> Option<MutexGuard<'a, Shared>> {
        let shared = link.lock();
        (shared.epoch == self.epoch).then_some(shared)
    }

    fn new_synth(&self) -> Synth {
        Synth::new(Arc::clone(&self.bank), SAMPLE_RATE, CHANNEL_GROUPS, VOICES)
    }

    fn carry_out(&mut self, index: usize, request: Request) {
        let link = Arc::clone(&self.link);
        let now = self.master_time();
        let mut view = StreamView::default();
        let mut result = Ok(());
        match request {
            Request::Open(config) => {
                link.stats.pool_slots.raise_to(u64::from(config.slots));
                let synth = self.spare.pop().unwrap_or_else(|| self.new_synth());
                self.streams[index] = Some(Stream::new(index, config, synth));
                view.open = true;
            }
            Request::Close => {
                if let Some(stream) = self.streams[index].take() {
                    self.spare.push(stream.abandon(&link.stats));
                }
            }
            Request::SetState(state) => {
                if state == State::Run && !self.any_runs() && !self.clock.is_virtual() {
                    // Nothing was rendered while nothing ran: the audio goes on here.
                    self.position = self.position.max(now.to_sample(SAMPLE_RATE));
                }
                if let Some(stream) = &mut self.streams[index] {
                    stream.set_state(state, now, self.position, &link.stats);
                    view.open = true;
                    view.state = state;
                    view.time_base = stream.time_base();
                } else {
                    result = Err(Fault::Closed);
                }
                // What STOP discards is complete before the state reads back.
                self.fetch();
                self.publish_completions();
            }
        }
        if let Some(mut shared) = self.section(&link) {
            if matches!(request, Request::Open(_)) {
                // A stream that was here before may have left its words.
                for word in [doorbell::SUBMISSION_TAIL, doorbell::COMPLETION_EVENT, doorbell::COMPLETION_HEAD] {
                    shared.page.store_u32(doorbell::at(index, word), 0, Ordering::Relaxed);
                }
            }
            shared.views[index].open = view.open;
            shared.views[index].state = view.state;
            shared.views[index].time_base = view.time_base;
            link.answer(&mut shared, index, result);
        }
    }

    fn any_runs(&self) -> bool {
        self.streams.iter().flatten().any(|stream| stream.state == State::Run)
    }

    /// Fetches up to the tails that were last looked at.
    fn fetch(&mut self) {
        let link = Arc::clone(&self.link);
        for index in 0..STREAMS {
            while let Some(stream) = self.streams[index].as_mut().filter(|stream| !stream.is_fetched()) {
                let mut shared = link.lock();
                if shared.epoch != self.epoch {
                    return;
                }
                stream.fetch(&link, &mut shared);
                stream.publish(&link, &mut shared);
            }
        }
    }

    /// Master time now: of the horizon once it is rendered, else of the next sample.
    fn master_time(&self) -> RefTime {
        let horizon = self.clock.horizon();
        match self.clock.is_virtual() && self.position < horizon.to_sample(SAMPLE_RATE) {
            true => self.position.to_time(SAMPLE_RATE),
            false => horizon,
        }
    }

    /// Renders one block at most; says whether there was anything to render.
    fn render(&mut self) -> bool {
        let runs = self.any_runs();
        let due = self.clock.horizon();
        let ahead = due.to_sample(SAMPLE_RATE).0.saturating_sub(self.position.0);
        let frames = match self.clock.is_virtual() {
            true => ahead,
            false if runs && ahead >= PERIOD => ahead,
            false => 0,
        };
        let frames = frames.min(BLOCK as u64) as usize;
        if frames > 0 {
            let (left, right) = (&mut self.left[..frames], &mut self.right[..frames]);
            left.fill(0.0);
            right.fill(0.0);
            let span = Span { start: self.position, frames, due, rate: SAMPLE_RATE };
            // Stream order: the sum is the same whatever the streams do.
            for stream in self.streams.iter_mut().flatten() {
                stream.render(span, left, right, &self.link.stats);
            }
            let pcm = &mut self.pcm[..frames * 2];
            for (frame, (l, r)) in pcm.as_chunks_mut::<2>().0.iter_mut().zip(left.iter().zip(right.iter())) {
                *frame = [to_s16(*l), to_s16(*r)];
            }
            self.sink.write(pcm);
            self.link.stats.samples.add(frames as u64);
            self.position.0 += frames as u64;
        }
        if self.position >= due.to_sample(SAMPLE_RATE) || !self.clock.is_virtual() {
            // Events at the horizon itself, before any sample at it.
            let span = Span { start: self.position, frames: 0, due, rate: SAMPLE_RATE };
            for stream in self.streams.iter_mut().flatten() {
                stream.render(span, &mut [], &mut [], &self.link.stats);
            }
        }
        frames > 0
    }

    fn publish_completions(&mut self) -> bool {
        let link = Arc::clone(&self.link);
        let mut published = false;
        for index in 0..STREAMS {
            while let Some(stream) = self.streams[index].as_mut().filter(|stream| stream.has_completions()) {
                let mut shared = link.lock();
                if shared.epoch != self.epoch {
                    return true;
                }
                stream.publish(&link, &mut shared);
                published = true;
            }
        }
        published
    }

    /// Publishes completions, then the clocks, then the reaching of a grant: whoever sees one sees those before it.
    fn publish(&mut self) -> bool {
        let published = self.publish_completions();
        let link = Arc::clone(&self.link);
        let master = self.master_time();
        let Some(mut shared) = self.section(&link) else {
            return true;
        };
        shared.clocks.master = master;
        shared.clocks.samples = self.position.0;
        let page = &shared.page;
        page.store_u64(doorbell::SAMPLE_POSITION, self.position.0, Ordering::Relaxed);
        page.store_u64(doorbell::LATENCY_TIME, master.saturating_add(LATENCY).0 as u64, Ordering::Relaxed);
        page.store_u64(doorbell::MASTER_TIME, master.0 as u64, Ordering::Release);
        if self.clock.awaited().is_some_and(|grant| master >= grant) {
            self.clock.announce();
            let mut raised = false;
            for (index, stream) in self.streams.iter().enumerate() {
                if stream.as_ref().is_some_and(|stream| stream.state != State::Stop) {
                    link.raise(&shared, index as u16);
                    raised = true;
                }
            }
            if !raised {
                link.raise(&shared, CONTROL_VECTOR);
            }
            return true;
        }
        published
    }

    /// Nothing to do: look again soon, then in timed sleeps, then not before the driver rings.
    fn rest(&mut self) {
        let link = Arc::clone(&self.link);
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let quiet = since.elapsed();
        let realtime_runs = !self.clock.is_virtual() && self.any_runs();
        if quiet < SPIN && !realtime_runs {
            std::hint::spin_loop();
            return;
        }
        let step = if realtime_runs { LONGEST_SLEEP } else { quiet / 4 };
        let step = step.clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
        let shared = link.lock();
        if quiet < WATCH || realtime_runs {
            drop(link.sleep(shared, Some(step)));
            return;
        }
        // In realtime a granted time is an alarm.
        let alarm = match self.clock.awaited() {
            Some(grant) if !self.clock.is_virtual() => {
                let left = grant.saturating_sub(self.clock.horizon()).0.max(0) as u64;
                Some(Duration::from_nanos(left.saturating_mul(100)))
            }
            _ => None,
        };
        self.sleeps = self.sleeps.wrapping_add(1).max(1);
        shared.page.store_u32(doorbell::WAKE_ARMED, self.sleeps, Ordering::Relaxed);
        // Store-load: the driver must see the armed wake, or we its tail or grant.
        fence(Ordering::SeqCst);
        let shared = if self.page_moved(&shared) { shared } else { link.sleep(shared, alarm) };
        shared.page.store_u32(doorbell::WAKE_ARMED, 0, Ordering::Relaxed);
        self.quiet_since = None;
    }

    /// Whether the driver has stored anything that a turn would act on.
    fn page_moved(&self, shared: &Shared) -> bool {
        let grant = RefTime(shared.page.load_u64(doorbell::GRANT, Ordering::Acquire) as i64);
        let streams = self.streams.iter().flatten();
        self.clock.would_move(grant) || streams.into_iter().any(|stream| stream.tail_moved(shared))
    }
}
