//! The engine: a thread that fetches submissions, renders, and publishes completions.
//!
//! Fed by `link` (requests, doorbell page, guest memory); feeds the sink with audio and the guest with completions and interrupts. A turn
//! is: sections to look around, fetch, and present what is due already; one block of audio with no lock held; and sections to publish.

mod captures;
mod commands;
mod reach;
mod requests;
mod rest;
mod serve;
mod settled;

use crate::bank::Bank;
use crate::capture::CaptureStream;
use crate::capture::inputs::Inputs;
use crate::clock::Clock;
use crate::download::Downloads;
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, SAMPLE_RATE, VOICES};
use crate::link::{Link, Shared};
use crate::sink::{Sink, SinkError, to_s16};
use crate::stream::{Glance, Now, Span, Stream, Tap};
use crate::synth::Synth;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS};
use dmus_interface::protocol::card::{self, Look};
use dmus_interface::regs::stream::State;
use dmus_interface::time::{RefTime, SampleTime};
use parking_lot::MutexGuard;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most frames of a turn: what a request may have to wait for.
const BLOCK: usize = 1024;
/// Fewest frames of a turn in realtime: 2 ms.
const PERIOD: u64 = 96;
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
    core: Core,
}

/// What is the engine's own.
struct Core {
    bank: Arc<Bank>,
    downloads: Downloads,
    sink: Box<dyn Sink>,
    sink_ready: bool,
    clock: Clock,
    clock_mode: ClockMode,
    epoch: u64,
    /// The open render streams, by their index.
    streams: Vec<Stream>,
    /// The open capture and wave sink streams, and what they hear.
    captures: Vec<CaptureStream>,
    /// How far the crystal of wave sinks is off, in parts per million.
    drift: i32,
    inputs: Inputs,
    tap: Tap,
    /// Synthesizers of closed streams, to be used again.
    spare: Vec<Synth>,
    now: Now,
    /// Master time up to which events are due, and its sample.
    horizon: RefTime,
    horizon_sample: SampleTime,
    /// Whether clocks or position have moved since they were published.
    moved: bool,
    /// Time stands, all is rendered, and nothing listens: until the bell rings or the grant moves, only the rings of render streams bring
    /// anything.
    settled: bool,
    left: Vec<f32>,
    right: Vec<f32>,
    pcm: Vec<i16>,
    /// Number of the present or last armed sleep.
    sleeps: u32,
    quiet_since: Option<Instant>,
    spin: Duration,
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
    pub(crate) fn new(
        link: Arc<Link>,
        clock_mode: ClockMode,
        bank: Arc<Bank>,
        sink: Box<dyn Sink>,
        inputs: Inputs,
    ) -> Self {
        let mut core = Core {
            bank,
            downloads: Downloads::default(),
            sink,
            sink_ready: true,
            clock: Clock::new(clock_mode),
            clock_mode,
            epoch: 0,
            streams: Vec::with_capacity(STREAMS),
            captures: Vec::new(),
            drift: 0,
            inputs,
            tap: Vec::new(),
            spare: Vec::new(),
            now: Now::at(SampleTime(0), RefTime::ZERO, SAMPLE_RATE),
            horizon: RefTime::ZERO,
            horizon_sample: SampleTime(0),
            moved: true,
            settled: false,
            left: vec![0.0; BLOCK],
            right: vec![0.0; BLOCK],
            pcm: vec![0; BLOCK * 2],
            sleeps: 0,
            quiet_since: None,
            spin: rest::spin(),
        };
        // The first stream opens without a pause.
        core.spare.push(core.new_synth());
        Self { link, core }
    }

    /// Lets the crystal of every wave sink that is created from here on be off by so many parts per million (at most 1,000 either way).
    pub fn set_drift(&mut self, parts_per_million: i32) {
        self.core.drift = parts_per_million;
    }

    /// Goes on in a thread of its own.
    pub fn spawn(mut self) -> std::io::Result<EngineHandle> {
        let link = Arc::clone(&self.link);
        self.core.inputs.start(&link)?;
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
                Turn::Worked => self.core.quiet_since = None,
                Turn::Quiet => self.core.rest(&self.link),
                Turn::Shutdown => {
                    let finished = self.core.sink.finish();
                    self.core.count_losses(&self.link);
                    return finished;
                }
            }
        }
    }

    /// Looks around, fetches, renders a block, publishes.
    pub fn turn(&mut self) -> Turn {
        self.core.turn(&self.link)
    }
}

impl Core {
    fn turn(&mut self, link: &Link) -> Turn {
        let shared = link.lock();
        if shared.settled {
            let glance = self.glance(&shared);
            if glance == Glance::Presented {
                return Turn::Worked;
            }
            return self.turn_settled(link, shared, glance);
        }
        self.turn_whole(link, shared)
    }

    #[inline(never)]
    fn turn_whole<'a>(&mut self, link: &'a Link, mut shared: MutexGuard<'a, Shared>) -> Turn {
        shared.settled = false;
        if std::mem::take(&mut self.settled) {
            self.streams.iter_mut().for_each(|stream| stream.report(&link.stats));
        }
        let mut worked = false;
        if shared.rung {
            if shared.shutdown {
                return Turn::Shutdown;
            }
            let Some(again) = self.answer_bell(link, shared, &mut worked) else {
                return Turn::Worked;
            };
            shared = again;
        }
        if self.look_at_page(link, &mut shared) {
            worked = true;
            let Some(again) = self.serve(link, shared) else {
                return Turn::Worked;
            };
            shared = again;
        }
        self.look_at_clock();
        if !self.sink_ready {
            self.sink_ready = self.sink.ready();
        }
        if self.has_to_render() {
            drop(shared);
            worked |= self.render(link);
            shared = link.lock();
            if shared.epoch != self.epoch {
                return Turn::Worked;
            }
            if self.has_work() {
                worked = true;
                let Some(again) = self.serve(link, shared) else {
                    return Turn::Worked;
                };
                shared = again;
            }
        } else {
            if self.moved {
                self.move_to(self.now.position);
            }
            self.settled = self.clock.is_virtual() && self.sink_ready && self.captures.is_empty();
            // A bell since this turn has looked is for the next one.
            shared.settled = self.settled && !shared.rung;
            if self.settled {
                self.streams.iter_mut().for_each(Stream::settle_down);
            }
        }
        if self.captures.is_empty() {
            self.tap.clear();
        } else {
            let Some(again) = self.capture(link, shared, &mut worked) else {
                return Turn::Worked;
            };
            shared = again;
        }
        if std::mem::take(&mut self.moved) {
            worked |= self.publish_clocks(link, &mut shared);
        }
        if self.downloads.is_unloading() {
            drop(shared);
            worked |= self.collect_downloads(link);
        }
        if worked { Turn::Worked } else { Turn::Quiet }
    }

    /// The transport has left something: a reset, or requests. `None` if it has left another reset meanwhile.
    #[cold]
    fn answer_bell<'a>(
        &mut self,
        link: &'a Link,
        mut shared: MutexGuard<'a, Shared>,
        worked: &mut bool,
    ) -> Option<MutexGuard<'a, Shared>> {
        shared.rung = false;
        if shared.epoch != self.epoch {
            self.reset(link, shared.epoch);
        }
        // What was submitted before a request is there before it is carried out.
        self.look_at_page(link, &mut shared);
        let requests = std::mem::take(&mut shared.requests);
        let command = shared.command.take();
        drop(shared);
        *worked = self.carry_out_all(link, requests);
        if let Some(command) = command {
            self.carry_out_command(link, command);
            *worked = true;
        }
        let shared = link.lock();
        (shared.epoch == self.epoch).then_some(shared)
    }

    /// Loads the grant, and only then the tails: what a grant covers is among what these tails publish. Says whether there is work in
    /// the rings.
    #[inline]
    fn look_at_page(&mut self, link: &Link, shared: &mut Shared) -> bool {
        let look = Look::at(&shared.page);
        self.clock.grant(look.grant());
        let mut work = false;
        for stream in &mut self.streams {
            stream.rings.look_at_tail(look, link, shared);
            work |= stream.rings.has_work();
        }
        for stream in &mut self.captures {
            stream.rings.look_at_tail(look, link, shared);
            work |= stream.has_work();
        }
        work
    }

    fn has_work(&self) -> bool {
        self.streams.iter().any(|stream| stream.rings.has_work()) || self.captures.iter().any(CaptureStream::has_work)
    }

    /// Forgets everything, as the registers already have.
    fn reset(&mut self, link: &Link, epoch: u64) {
        self.epoch = epoch;
        for stream in self.streams.drain(..) {
            let mut synth = stream.abandon(&link.stats);
            synth.reset();
            self.spare.push(synth);
        }
        self.forget_downloads();
        self.captures.clear();
        self.inputs.reset();
        self.tap.clear();
        self.clock = Clock::new(self.clock_mode);
        self.horizon = RefTime::ZERO;
        self.horizon_sample = SampleTime(0);
        self.move_to(SampleTime(0));
    }

    /// The next sample is `position`, and everything up to there and the horizon has been presented.
    fn move_to(&mut self, position: SampleTime) {
        self.now = Now::at(position, self.horizon, SAMPLE_RATE);
        for stream in &mut self.streams {
            stream.look_at_clock(&self.now);
        }
        self.moved = true;
    }

    /// How far events are due by now.
    #[inline]
    fn look_at_clock(&mut self) {
        let horizon = self.limit_horizon(self.clock.horizon());
        if horizon != self.horizon {
            self.horizon = horizon;
            self.horizon_sample = horizon.to_sample(SAMPLE_RATE);
            self.moved = true;
        }
    }

    fn new_synth(&self) -> Synth {
        Synth::new(Arc::clone(&self.bank), SAMPLE_RATE, CHANNEL_GROUPS, VOICES)
    }

    fn any_runs(&self) -> bool {
        self.streams.iter().any(|stream| stream.state == State::Run) || self.captures.iter().any(CaptureStream::listens)
    }

    /// Master time now: of the horizon once it is rendered, else of the next sample.
    #[inline]
    fn master_time(&self) -> RefTime {
        match self.clock.is_virtual() && self.now.position < self.horizon_sample {
            true => self.now.position.to_time(SAMPLE_RATE),
            false => self.horizon,
        }
    }

    /// Frames of the next block; 0 if there is none to render yet.
    #[inline]
    fn frames(&self) -> usize {
        let ahead = self.horizon_sample.0.saturating_sub(self.now.position.0);
        let frames = match self.clock.is_virtual() {
            _ if !self.sink_ready => 0,
            true => ahead,
            false if ahead >= PERIOD && self.any_runs() => ahead,
            false => 0,
        };
        frames.min(self.until_heard()).min(BLOCK as u64) as usize
    }

    /// Whether there are samples to render, or events to present before the next one.
    #[inline]
    fn has_to_render(&self) -> bool {
        if self.is_stalled() {
            return false;
        }
        let due = self.horizon.min(self.now.position_time());
        self.frames() > 0 || self.streams.iter().any(|stream| stream.is_due(due))
    }

    /// Renders one block at most, and presents what is due at its end; says whether there was anything to render.
    fn render(&mut self, link: &Link) -> bool {
        let frames = self.frames();
        if frames > 0 {
            let (left, right) = (&mut self.left[..frames], &mut self.right[..frames]);
            left.fill(0.0);
            right.fill(0.0);
            let span = Span { now: self.now, frames, due: self.horizon, rate: SAMPLE_RATE };
            // Stream order: the sum is the same whatever the streams do.
            for stream in &mut self.streams {
                stream.render(span, left, right, &link.stats, &mut self.tap);
            }
            let pcm = &mut self.pcm[..frames * 2];
            for (frame, (l, r)) in pcm.as_chunks_mut::<2>().0.iter_mut().zip(left.iter().zip(right.iter())) {
                *frame = [to_s16(*l), to_s16(*r)];
            }
            for stream in &mut self.captures {
                stream.hear_audio(left, right);
            }
            self.sink.write(pcm);
            self.sink_ready = self.sink.ready();
            self.count_losses(link);
            link.stats.samples.add(frames as u64);
            self.move_to(SampleTime(self.now.position.0 + frames as u64));
        }
        // Events at the horizon itself, before any sample at it.
        let span = Span { now: self.now, frames: 0, due: self.horizon, rate: SAMPLE_RATE };
        for stream in &mut self.streams {
            stream.render(span, &mut [], &mut [], &link.stats, &mut self.tap);
        }
        self.move_to(self.now.position);
        frames > 0
    }

    fn count_losses(&self, link: &Link) {
        let losses = self.sink.losses();
        link.stats.dropped_samples.set(losses.dropped);
        link.stats.underruns.set(losses.underruns);
    }

    /// Publishes the clocks, then the reaching of a grant: whoever sees one sees the completions before it. Says whether a grant was reached.
    fn publish_clocks(&mut self, link: &Link, shared: &mut Shared) -> bool {
        let master = self.master_time();
        let samples = self.now.position.0;
        shared.clocks.master = master;
        shared.clocks.samples = samples;
        card::publish_clocks(&shared.page, samples, master.saturating_add(LATENCY), master);
        if self.clock.awaited().is_none_or(|grant| master < grant) {
            return false;
        }
        self.clock.announce();
        let mut raised = false;
        let streams = self.streams.iter().map(|stream| (stream.rings.index, stream.state));
        let captures = self.captures.iter().map(|stream| (stream.rings.index, stream.state));
        for (index, _) in streams.chain(captures).filter(|(_, state)| *state != State::Stop) {
            link.raise(shared, index as u16);
            raised = true;
        }
        if !raised {
            link.raise(shared, CONTROL_VECTOR);
        }
        true
    }
}
