//! The turning part between sequencer and card: one thread, which sleeps until either has something.
//!
//! Fed by `ports` and by the card's capture streams; feeds `playback` and `ports`. When too much waits for room in a
//! pool it reads no more until there is some, and the kernel's queue for this program holds what comes. Nothing here
//! grows without bound.

use super::Args;
use super::playback::{CONFIG, Playback};
use super::ports::{Arrival, INPUT_POOL, Ports};
use crate::commands::{interruption, open, say, say_played, tell_manager};
use alsa::poll;
use anyhow::{Context, ensure};
use dmus_driver::{CaptureSink, CaptureStream, Card, DriverError, StreamConfig};
use dmus_driver_vfio::VfioPlatform;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::Fault;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use rustix::io::Errno;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

const CAPTURE: StreamConfig = StreamConfig { slots: 256, buffers: 256, buffer_size: 256 };
/// How often clocks are compared, and the card is looked at: somebody may have reset it.
const LOOK: Duration = Duration::from_secs(1);
/// Between two readings of the clocks.
const READING_STEP: Duration = Duration::from_millis(1);
/// Events between two looks at the captured ones.
const BATCH: u32 = 512;
/// How long a card may take to play what it has been given, at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the kernel may take to reset a card: the bus gives it a tenth of a second, and a slow card a second.
const RESET_LIMIT: Duration = Duration::from_secs(3);
const RESET_STEP: Duration = Duration::from_millis(50);
/// Between two looks at what is left to play, at the end.
const DRAIN_STEP: Duration = Duration::from_millis(5);

struct Bridge<'c> {
    card: &'c Card<VfioPlatform>,
    ports: Ports,
    playback: Vec<Playback<'c>>,
    captures: Vec<Capture<'c>>,
    latency: RefTime,
    /// Master time at stream time zero, of each playback stream.
    bases: Vec<RefTime>,
    /// Times that the kernel had no room.
    overruns: u64,
}

struct Capture<'c> {
    stream: CaptureStream<'c, VfioPlatform>,
    sink: CaptureSink,
    /// Number of stream and port.
    number: u8,
    /// Messages that some reader had no room for.
    unread: u64,
}

pub(super) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    ensure!((1..=8).contains(&(args.playback + args.capture)), "a card has 8 streams: 1 to 8 ports, together");
    let asked = interruption()?;
    let card = open(device, PointerWidth::Eight)?;
    ensure!(
        !card.is_virtual(),
        "the card's clock is virtual, and an ALSA queue is not: start it with --clock realtime"
    );
    be_woken_at_once();
    let ports = Ports::open(args.playback, args.capture)?;
    let playback =
        (0..args.playback).map(|index| Playback::open(&card, index.into())).collect::<Result<Vec<_>, _>>()?;
    let captures = (args.playback..args.playback + args.capture).map(|number| {
        let stream = CaptureStream::open(&card, number.into(), CAPTURE, true)?;
        stream.set_state(State::Run)?;
        Ok(Capture { stream, sink: CaptureSink::default(), number, unread: 0 })
    });
    let captures = captures.collect::<Result<Vec<_>, DriverError>>()?;
    let bases = playback.iter().map(|port| port.stream.time_base()).collect();
    let latency = RefTime::from_nanos(u64::from(args.latency) * 1_000_000);
    let mut bridge = Bridge { card: &card, ports, playback, captures, latency, bases, overruns: 0 };
    bridge.ports.learn_clocks(&card)?;
    say(format_args!(
        "alsa client={} playback={} capture={}",
        bridge.ports.client()?,
        bridge.playback.len(),
        bridge.captures.len()
    ));
    tell_manager(&format!("plays what comes to {} ports of ALSA's sequencer", bridge.playback.len()), true);
    bridge.turn_until(&asked)?;
    bridge.end()
}

/// What arrives is to be read before the kernel runs out of room for it, also when whoever sends it would not pause:
/// ahead of every program without a realtime priority. That this is not allowed makes nothing wrong but later.
fn be_woken_at_once() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy).is_err() {
        let _ = rustix::process::setpriority_process(None, -20);
    }
}

impl Bridge<'_> {
    fn turn_until(&mut self, asked: &AtomicBool) -> anyhow::Result<()> {
        let mut looked = Instant::now();
        while !asked.load(Ordering::Relaxed) {
            if self.card.platform().must_release() {
                say(format_args!("the kernel wants the card back: somebody unbinds or removes it"));
                break;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                match self.is_enabled()? {
                    true => self.ports.begin_comparison(),
                    false => self.recover()?,
                }
            }
            // A reading at a time: what arrives meanwhile does not wait for a timer.
            let compares = self.ports.compare_clocks(self.card)?;
            match self.turn() {
                // There may be more: what the library has read ahead, no descriptor shows.
                Ok(true) => {}
                Ok(false) if compares => self.sleep(READING_STEP)?,
                Ok(false) => self.sleep(LOOK.saturating_sub(looked.elapsed()))?,
                Err(error) => self.blame(error)?,
            }
        }
        Ok(())
    }

    /// Hands on what there is, some of it if there is much; whether there may be more, and room for it.
    fn turn(&mut self) -> anyhow::Result<bool> {
        for capture in &mut self.captures {
            capture.hand_on(&mut self.ports)?;
        }
        self.playback.iter_mut().try_for_each(Playback::catch_up)?;
        Ok(!self.playback.iter().any(Playback::is_full) && self.read(BATCH)?)
    }

    /// Takes up to `most` events from the sequencer, while there is room for them; false when there were no more of
    /// them.
    fn read(&mut self, most: u32) -> anyhow::Result<bool> {
        let Self { ports, playback, bases, latency, overruns, .. } = self;
        let mut input = ports.input();
        let mut left = true;
        for _ in 0..most {
            let more = ports.receive(&mut input, |arrival| {
                match arrival {
                    Arrival::Nothing => return Ok(false),
                    Arrival::Overrun => *overruns += 1,
                    Arrival::Bytes { port, from, stamp, bytes } => {
                        let index = usize::try_from(port).unwrap_or(usize::MAX);
                        if let Some((port, base)) = playback.get_mut(index).zip(bases.get(index)) {
                            let time = ports.master_time(stamp).saturating_add(*latency).saturating_sub(*base);
                            port.take(from, time.max(RefTime::ZERO), bytes)?;
                        }
                    }
                    Arrival::Left { port, from } => {
                        let index = usize::try_from(port).unwrap_or(usize::MAX);
                        if let Some((port, base)) = playback.get_mut(index).zip(bases.get(index)) {
                            let now = ports.master_time(ports.queue_time()?);
                            port.leave(from, now.saturating_add(*latency).saturating_sub(*base).max(RefTime::ZERO))?;
                        }
                    }
                }
                anyhow::Ok(true)
            })??;
            left = more;
            if !more || playback.iter().any(Playback::is_full) {
                break;
            }
        }
        playback.iter_mut().try_for_each(Playback::catch_up)?;
        Ok(left)
    }

    /// Sleeps until the sequencer or a capture stream has something, there is room for what waits for some, a signal
    /// comes, or the limit has passed. An arrival wakes it whatever else it waits for: the kernel drops what it has no
    /// room for, and a timer of a busy machine is late.
    fn sleep(&mut self, limit: Duration) -> anyhow::Result<()> {
        let is_full = self.playback.iter().any(Playback::is_full);
        let mut fds = if is_full { vec![] } else { self.ports.descriptors()? };
        let mut streams = Vec::new();
        // Asks for each interrupt, and looks once more.
        for (index, port) in self.playback.iter().enumerate().filter(|(_, port)| port.waits()) {
            if port.wait(Duration::ZERO) {
                return Ok(());
            }
            streams.push(index as u16);
        }
        for capture in &self.captures {
            if capture.stream.wait(Duration::ZERO) {
                return Ok(());
            }
            streams.push(capture.number.into());
        }
        let vectors = streams.iter().filter_map(|&stream| self.card.platform().vector(stream));
        fds.extend(vectors.map(|fd| poll::pollfd { fd: fd.as_raw_fd(), events: poll::Flags::IN.bits(), revents: 0 }));
        let release = self.card.platform().release();
        fds.extend(release.map(|fd| poll::pollfd { fd: fd.as_raw_fd(), events: poll::Flags::IN.bits(), revents: 0 }));
        let began = Instant::now();
        match poll::poll(&mut fds, i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)) {
            Ok(_) => {
                self.ports.rested(began.elapsed());
                Ok(())
            }
            // The crate has this one's sign the wrong way.
            Err(error) if error.errno().abs() == Errno::INTR.raw_os_error() => Ok(()),
            Err(error) => Err(error).context("cannot wait for the sequencer"),
        }
    }

    /// A reset under the bridge looks like a card that lies; anything else is one that does.
    fn blame(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if !error.is::<DriverError>() || self.is_enabled()? {
            return Err(error);
        }
        self.recover()
    }

    /// Whether the card is as it was set up. While the kernel resets it, it reads all ones, as a card that has gone.
    fn is_enabled(&self) -> anyhow::Result<bool> {
        let deadline = Instant::now() + RESET_LIMIT;
        loop {
            match self.card.is_enabled() {
                Err(DriverError::CardGone) if Instant::now() < deadline => std::thread::sleep(RESET_STEP),
                answer => return Ok(answer?),
            }
        }
    }

    /// Somebody has reset the card: sets everything up again, as soon as the kernel is through with the reset. Until
    /// then the card may be gone, or may not master the bus.
    fn recover(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RESET_LIMIT;
        let mut lost = 0;
        loop {
            // The kernel restores interrupts last.
            std::thread::sleep(RESET_STEP);
            match self.set_up_again(&mut lost) {
                Err(DriverError::CardGone | DriverError::Refused(Fault::NotEnabled)) if Instant::now() < deadline => {}
                done => break done?,
            }
        }
        self.ports.learn_clocks(self.card)?;
        say(format_args!("the card was reset by somebody else; {lost} messages were lost"));
        Ok(())
    }

    fn set_up_again(&mut self, lost: &mut u64) -> Result<(), DriverError> {
        self.card.reset()?;
        for (port, base) in self.playback.iter_mut().zip(&mut self.bases) {
            port.restore(lost)?;
            *base = port.stream.time_base();
        }
        for capture in &mut self.captures {
            capture.stream.restore()?;
            capture.sink = CaptureSink::default();
            capture.stream.set_state(State::Run)?;
        }
        Ok(())
    }

    /// Plays what has arrived, and says what became of everything.
    fn end(mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        // What the kernel can have held when this was asked for; who still sends then is not waited for.
        let mut batches = INPUT_POOL.div_ceil(BATCH);
        loop {
            if batches > 0 {
                batches = if self.read(BATCH)? { batches - 1 } else { 0 };
            }
            let mut drained = batches == 0;
            for port in &mut self.playback {
                drained &= port.is_drained()?;
            }
            if drained {
                break;
            }
            ensure!(Instant::now() < deadline, "the card did not play what it was given within {DRAIN_LIMIT:?}");
            if let Some(port) = self.playback.iter().find(|port| port.stream.allocator().in_flight() > 0) {
                port.wait(DRAIN_STEP);
            }
        }
        for port in &mut self.playback {
            port.stream.set_state(State::Stop)?;
            port.stream.allocator().reclaim()?;
        }
        let malformed: u64 = self.playback.iter().map(Playback::malformed).sum();
        let unread: u64 = self.captures.iter().map(|capture| capture.unread).sum();
        say(format_args!("alsa overruns={} malformed={malformed} unread={unread}", self.overruns));
        say_played(self.playback.iter().map(|port| &port.stream), CONFIG);
        Ok(())
    }
}

impl Capture<'_> {
    /// Sends what was captured to the port's readers. Bounded by what the card has, which fills posted slots only.
    fn hand_on(&mut self, ports: &mut Ports) -> anyhow::Result<()> {
        let Self { stream, sink, number, unread } = self;
        let is_read = ports.is_read((*number).into())?;
        for _ in 0..CAPTURE.slots {
            let Some(event) = stream.receive()? else {
                break;
            };
            let mut sent = Ok(());
            if !is_read {
                // What is unfinished then belongs to no reader.
                *sink = CaptureSink::default();
                continue;
            }
            sink.put_message(&event, |message| match ports.send((*number).into(), message) {
                Ok(true) => {}
                Ok(false) => *unread += 1,
                Err(error) => sent = Err(error),
            });
            sent?;
        }
        Ok(())
    }
}
