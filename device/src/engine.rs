//! The engine: a thread that fetches submissions, renders, and publishes completions.
//!
//! Fed by `shared` (requests, doorbell page, guest memory); feeds the sink with audio, and the guest with completions
//! and interrupts. A turn has four phases, each a function: `poll` takes the grant from the page and `fetch` brings in
//! what the tails publish (both in `fetch.rs`), `render` presents and renders a block with no lock held, and `publish`
//! gives back what is completed and tells the time. In between, requests are carried out and inputs are captured, and
//! an engine with nothing to do sleeps.

mod captures;
mod deviating;
mod fetch;
mod inspect;
mod logged;
mod mailbox;
mod output;
mod sleep;
mod transitions;

use crate::bank::Bank;
use crate::capture::CaptureStream;
use crate::capture::inputs::Inputs;
use crate::clock::Clock;
use crate::download::Downloads;
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, SAMPLE_RATE, VOICES};
use crate::shared::{Clocks, EngineThread, Requests, Section, Shared, accept_kicks, allow_kicks};
use crate::sink::{Sink, SinkError};
use crate::sound::Sound;
use crate::stream::{Monitor, RenderStream, Span};
use crate::synth::Synth;
use dmus_interface::pci::{CONTROL_VECTOR, STREAMS};
use dmus_interface::regs::stream::State;
use dmus_interface::time::SampleTime;
use fetch::Fetched;
use output::Output;
use sleep::Sleeper;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Most frames of a turn: what a request may have to wait for.
const BLOCK: usize = 1024;
/// Fewest frames of a turn in realtime: 2 ms.
const SHORTEST_BLOCK: u64 = 96;

/// The running engine.
#[derive(Debug)]
pub struct EngineHandle(Arc<Shared>);

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
        match self.0.shut_down().map(EngineThread::join) {
            None => Ok(()),
            Some(Ok(result)) => Ok(result?),
            Some(Err(_)) => Err(EngineError::Panicked),
        }
    }
}

/// The engine, before it has a thread. A caller that gives it none turns it itself: one thread then does everything, in
/// a fixed order.
pub struct Engine {
    shared: Arc<Shared>,
    core: Core,
}

/// What is the engine's own.
struct Core {
    epoch: u64,
    clock: Clock,
    requests: Requests,
    streams: Streams,
    output: Output,
    library: Library,
    sleeper: Sleeper,
    /// Some of what is due at the present sample was left to the next turn.
    presenting: bool,
    /// Of the owners map.
    seen: inspect::Seen,
    /// Of a card that has faults: what is wrong with its clocks.
    clock_fault: Option<deviating::ClockFault>,
}

/// The open streams, and what capture streams receive.
struct Streams {
    /// By their index.
    render: Vec<RenderStream>,
    capture: Vec<CaptureStream>,
    inputs: Inputs,
    monitor: Monitor,
    /// How far the crystal of wave sinks is off, in parts per million.
    drift: i32,
    /// Which streams are open, a bit each.
    open: u32,
}

/// The bank, what was downloaded into it, and synthesizers of closed streams, to be used again.
struct Library {
    bank: Arc<Bank>,
    downloads: Downloads,
    spare: Vec<Synth>,
    sound: Sound,
}

impl Library {
    fn new_synth(&self, shared: &Shared) -> Synth {
        let mut synth = Synth::new(Arc::clone(&self.bank), SAMPLE_RATE, CHANNEL_GROUPS, VOICES);
        synth.allow_effects(self.sound.effects());
        synth.give_up_at(shared.void());
        synth
    }
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
        shared: Arc<Shared>,
        mode: ClockMode,
        bank: Arc<Bank>,
        sink: Box<dyn Sink>,
        inputs: Inputs,
    ) -> Self {
        let mut library =
            Library { bank, downloads: Downloads::new(shared.void()), spare: Vec::new(), sound: Sound::default() };
        // The first stream opens without a pause.
        library.spare.push(library.new_synth(&shared));
        let core = Core {
            epoch: 0,
            clock: Clock::new(mode),
            requests: Requests::default(),
            streams: Streams {
                render: Vec::with_capacity(STREAMS),
                capture: Vec::new(),
                inputs,
                monitor: Monitor::default(),
                drift: 0,
                open: 0,
            },
            output: Output::new(sink),
            library,
            sleeper: Sleeper::new(),
            presenting: false,
            seen: inspect::Seen::default(),
            clock_fault: None,
        };
        Self { shared, core }
    }

    /// Lets the crystal of every wave sink that is created from here on be off by so many parts per million (at most
    /// 1,000 either way).
    pub fn set_drift(&mut self, parts_per_million: i32) {
        self.core.streams.drift = parts_per_million;
    }

    /// How it sounds from here on.
    pub fn set_sound(&mut self, sound: Sound) {
        self.core.library.sound = sound;
        self.core.output.set_gain(sound.factor());
        self.core.library.spare.iter_mut().for_each(|synth| synth.allow_effects(sound.effects()));
    }

    /// Goes on in a thread of its own.
    pub fn spawn(mut self) -> std::io::Result<EngineHandle> {
        let shared = Arc::clone(&self.shared);
        self.core.streams.inputs.start(&shared)?;
        allow_kicks()?;
        shared.set_engine(std::thread::Builder::new().name("engine".into()).spawn(move || self.run())?);
        Ok(EngineHandle(shared))
    }

    fn run(&mut self) -> Result<(), SinkError> {
        accept_kicks();
        // The default slack would double the shortest sleep.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!("timer slack stays: {error}");
        }
        loop {
            match self.turn() {
                Turn::Worked => self.core.sleeper.worked(),
                Turn::Quiet => self.core.rest(&self.shared),
                Turn::Shutdown => return self.finish(),
            }
        }
    }

    /// Completes the output.
    fn finish(&mut self) -> Result<(), SinkError> {
        let log = self.shared.replay_log();
        let finished = self.core.output.finish(self.shared.stats(), log);
        if let Some(log) = log {
            log.finish(self.shared.stats());
        }
        finished
    }

    /// Polls, fetches, renders a block, publishes.
    pub fn turn(&mut self) -> Turn {
        self.core.turn(&self.shared)
    }
}

impl Core {
    #[inline]
    fn turn(&mut self, shared: &Shared) -> Turn {
        let mut section = shared.engine_section();
        match section.has_notice() {
            false => self.take_turn::<false>(&mut section),
            true => self.turn_with_notice(section),
        }
    }

    /// A turn of an engine that was woken, or that records or replays.
    #[cold]
    #[inline(never)]
    fn turn_with_notice(&mut self, mut section: Section<'_>) -> Turn {
        match section.shared().replay_log() {
            None => self.wake_up(&mut section),
            Some(log) => self.turn_logged(section, log),
        }
    }

    fn wake_up(&mut self, section: &mut Section<'_>) -> Turn {
        if section.take_wake() {
            if section.is_ending() {
                return Turn::Shutdown;
            }
            if section.epoch() != self.epoch {
                self.reset(section);
            }
            // Before the page is polled: what was submitted before a request is there before it is carried out.
            section.take_requests(&mut self.requests);
        }
        match section.shared().deviations() {
            None => self.take_turn::<false>(section),
            Some(deviations) => self.turn_deviating(section, deviations),
        }
    }

    #[inline(always)]
    fn take_turn<const DEVIATES: bool>(&mut self, section: &mut Section<'_>) -> Turn {
        let shared = section.shared();
        let poll = self.poll(section);
        let Some(Fetched { mut worked, mut held }) = self.fetch(section, poll) else {
            return Turn::Worked;
        };
        if self.requests.any && self.may_answer(shared) {
            if !self.answer_requests(section) {
                return Turn::Worked;
            }
            (worked, held) = (true, self.held());
        }
        if (held > 0 || self.clock.ahead() > 0) && self.has_to_render(shared) {
            let frames = section.unlocked(|| self.render(shared));
            worked |= frames > 0 || self.presenting;
            if !section.is_of(self.epoch) {
                return Turn::Worked;
            }
        }
        if !self.streams.capture.is_empty() {
            match self.capture(section) {
                Some(captured) => worked |= captured,
                None => return Turn::Worked,
            }
        }
        if self.clock.has_moved() {
            worked |= self.publish::<DEVIATES>(section);
        }
        if self.library.downloads.is_unloading() {
            worked |= section.unlocked(|| self.collect_downloads(shared));
        }
        if worked {
            return Turn::Worked;
        }
        self.check_page(section);
        self.inspect(section)
    }

    /// Frames of the next block; 0 if there is none to render yet.
    fn frames(&self) -> usize {
        let ahead = self.clock.ahead();
        let frames = match self.clock.is_virtual() {
            _ if !self.output.is_ready() => 0,
            true => ahead.min(self.until_captured()),
            false if ahead >= SHORTEST_BLOCK && self.any_runs() => ahead,
            false => 0,
        };
        let position = self.clock.now().position;
        let stretch = self.streams.render.iter().map(|stream| stream.stretch(position)).min();
        frames.min(BLOCK as u64).min(stretch.unwrap_or(u64::MAX)) as usize
    }

    /// Whether there are samples to render, or events to present before the next one, and both may be.
    #[inline(never)]
    fn has_to_render(&mut self, shared: &Shared) -> bool {
        let any_due = self.is_any_due();
        if !any_due && self.clock.ahead() == 0 {
            return false;
        }
        self.output.look(shared.replay_log());
        !self.is_stalled() && (any_due || self.frames() > 0)
    }

    /// Renders one block at most, and presents what is due in it and at its end; says how many frames.
    fn render(&mut self, shared: &Shared) -> usize {
        let frames = self.frames();
        let span = Span { now: *self.clock.now(), frames };
        let stats = shared.stats();
        let Streams { render, capture, monitor, .. } = &mut self.streams;
        if capture.is_empty() {
            monitor.clear();
        }
        let mut all = true;
        let log = shared.replay_log();
        let is_void = || match log {
            None => shared.is_void(),
            Some(log) => log.is_void(shared.is_void(), stats),
        };
        self.output.block(frames, stats, log, |left, right| {
            // Stream order: the sum is the same whatever the streams do.
            for stream in render.iter_mut() {
                all &= stream.render(span, left, right, stats, monitor);
            }
            // What was broken off is nobody's audio.
            let whole = !is_void();
            if whole {
                capture.iter_mut().for_each(|stream| stream.receive_audio(left, right));
            }
            whole
        });
        self.clock.move_to(SampleTime(span.now.position.0 + frames as u64));
        if let Some(log) = log {
            log.follow(self.clock.master_time());
        }
        self.follow();
        self.presenting = !all && self.is_any_due();
        frames
    }

    /// Whether some event is to be presented before the next sample.
    fn is_any_due(&self) -> bool {
        let due = self.clock.due_here();
        self.streams.render.iter().any(|stream| stream.is_due(due))
    }

    /// The next sample is `position`.
    fn move_to(&mut self, position: SampleTime) {
        self.clock.move_to(position);
        self.follow();
    }

    #[inline]
    fn follow(&mut self) {
        for stream in &mut self.streams.render {
            stream.follow(self.clock.now());
        }
    }

    /// Publishes what rendering has completed, then the clocks, then the reaching of a grant: whoever sees one sees
    /// what is before it. Says whether a grant was reached.
    fn publish<const DEVIATES: bool>(&mut self, section: &mut Section<'_>) -> bool {
        let mut there = true;
        for stream in &mut self.streams.render {
            there &= stream.publish(section);
        }
        for stream in &mut self.streams.capture {
            there &= stream.publish(section);
        }
        if !there {
            self.give_way(section);
            return true;
        }
        if self.presenting {
            // The clock is not there before all is presented that is due there.
            return false;
        }
        // With nothing to render, the horizon itself has been reached.
        self.move_to(self.clock.now().position);
        if !self.clock.take_moved() || !section.is_of(self.epoch) {
            return false;
        }
        let master = self.clock.master_time();
        let mut clocks = Clocks { master, samples: self.clock.now().position.0 };
        if DEVIATES {
            clocks = self.show_otherwise(section, clocks);
        }
        let master = clocks.master;
        section.publish_clocks(clocks, master.saturating_add(LATENCY));
        if !self.clock.take_reached() {
            return false;
        }
        let render = self.streams.render.iter().map(|stream| (stream.queues.stream, stream.state));
        let capture = self.streams.capture.iter().map(|stream| (stream.queues.stream, stream.state));
        let mut raised = false;
        for (index, _) in render.chain(capture).filter(|(_, state)| *state != State::Stop) {
            section.raise(index as u16);
            raised = true;
        }
        if !raised {
            section.raise(CONTROL_VECTOR);
        }
        true
    }

    fn any_runs(&self) -> bool {
        let Streams { render, capture, .. } = &self.streams;
        render.iter().any(|stream| stream.state == State::Run) || capture.iter().any(CaptureStream::listens)
    }

    /// Forgets everything, as the registers already have.
    #[cold]
    fn reset(&mut self, section: &Section<'_>) {
        self.epoch = section.epoch();
        section.take_up();
        self.presenting = false;
        let stats = section.shared().stats();
        for stream in self.streams.render.drain(..) {
            let mut synth = stream.abandon(stats);
            synth.restore(CHANNEL_GROUPS, VOICES);
            self.library.spare.push(synth);
        }
        self.forget_downloads();
        self.streams.capture.clear();
        self.streams.open = 0;
        self.streams.inputs.reset();
        self.streams.monitor = Monitor::default();
        self.requests = Requests::default();
        self.sleeper.forget_tails();
        if let Some(log) = section.shared().replay_log() {
            log.forget_page();
        }
        if let Some(deviations) = section.shared().deviations() {
            deviations.forget();
            self.clock_fault = None;
        }
        self.clock.restart();
    }
}
