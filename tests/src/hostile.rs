//! Clients one after the other on a card that serves: each hostile in a way of its own or good, and after each a good
//! one that plays a song in virtual time.
//!
//! Fed by a number of rounds; feeds a `dmus-card serve` in a process of its own over its socket. It ends well only if
//! every song had the right bytes, and the card's memory and descriptors are as they were.

mod visits;

use crate::loopback::Loopback;
use crate::programs::{self, Running, until};
use crate::soak::Random;
use anyhow::{Context, ensure};
use dmus_driver::{Card, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take before the soak gives up.
const LIMIT: Duration = Duration::from_secs(30);
/// The song of a good client.
const SONG: RefTime = RefTime(2_500_000);
/// Memory that the card may have more at the end than after the first tenth.
const GROWTH: u64 = 32 << 20;

/// A way to be a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Plays, and leaves without a word.
    Good,
    /// Bytes that are no protocol, or messages that make no sense.
    Noise,
    /// Commands that are refused, thousands of them.
    Refused,
    /// Says nothing; several at once.
    Silent,
    /// Writes anything into registers, rings, slots and the doorbell page.
    Scribbler,
    /// Vectors whose counters are full and block.
    FullVectors,
    /// Vectors that are pipes, and the client's own socket.
    WrongVectors,
    /// Goes on writing to its doorbell page after it has gone, and seals it.
    PageKeeper,
    /// Takes its memory's file away while the card uses it.
    Truncater,
    /// Owes the card the answers about its memory.
    Debtor,
    /// As many notes as there are slots at one time, of instruments that take as much work as any can, and all time
    /// granted.
    Glutton,
    /// A download in the card's memory, and a stream of system exclusive messages to all capture streams.
    Hoarder,
}

impl Manner {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Good,
        Self::Noise,
        Self::Refused,
        Self::Silent,
        Self::Scribbler,
        Self::FullVectors,
        Self::WrongVectors,
        Self::PageKeeper,
        Self::Truncater,
        Self::Debtor,
        Self::Glutton,
        Self::Hoarder,
    ];
}

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// So many clients, each followed by a good one.
    Rounds(u64),
    /// So long.
    Time(Duration),
}

impl Extent {
    /// How much of it is done, as a part of 1.
    fn done(self, rounds: u64, passed: Duration) -> f64 {
        match self {
            Self::Rounds(all) => rounds as f64 / all as f64,
            Self::Time(all) => passed.as_secs_f64() / all.as_secs_f64(),
        }
    }
}

/// How a soak went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Clients, each followed by a good one.
    pub rounds: u64,
    /// The longest time from the end of a client to the end of the next one's song, by manner.
    pub worst: Vec<(Manner, Duration)>,
    /// The time that half of the songs took at most, likewise counted.
    pub median: Duration,
    /// Bytes of the card's memory at the end more than after the first tenth.
    pub growth: u64,
    /// How long the card took to end after SIGTERM, with a client connected.
    pub end: Duration,
}

/// What a client leaves behind when it goes: descriptors and threads that go on until this is dropped.
#[derive(Default)]
struct Left {
    _files: Vec<OwnedFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Left {
    fn files(files: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self { _files: files.into_iter().collect(), stop: Arc::default(), thread: None }
    }

    /// Goes on with `work` until this is dropped.
    fn busy(mut self, mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::clone(&self.stop);
        self.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                work();
                std::thread::sleep(Duration::from_micros(50));
            }
        }));
        self
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client's thread panicked");
        }
    }
}

/// Runs. The next client, and the end of the card, may take as long as `promise`. `progress` is told how many rounds
/// are done, and the longest wait so far.
pub fn run(extent: Extent, promise: Duration, mut progress: impl FnMut(u64, Duration)) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("card.sock");
    let log = File::create(directory.path().join("card.log"))?;
    let mut command = programs::card()?;
    let arguments = ["serve", "--clock", "virtual", "--midi-in", "loopback", "--socket", "card.sock"];
    let mut card = Running::start_logging(command.args(arguments).current_dir(directory.path()), log)?;
    until("the socket", LIMIT, || UnixStream::connect(&socket).is_ok())?;

    let expected = play(&socket)?;
    ensure!(expected.iter().any(|byte| *byte != 0), "the song is silent");
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut report = Report { worst: Manner::ALL.map(|manner| (manner, Duration::ZERO)).into(), ..Report::default() };
    let (started, mut waits, mut before) = (Instant::now(), Vec::new(), None);
    while extent.done(report.rounds, started.elapsed()) < 1.0 {
        let number = random.below(Manner::ALL.len() as u64) as usize;
        let manner = Manner::ALL[number];
        let context = |what: &str| {
            format!("{what} {manner:?}, round {}; the card's log:\n{}", report.rounds, tail(directory.path()))
        };
        let left = visits::visit(manner, &socket, &mut random).with_context(|| context("as"))?;
        let gone = Instant::now();
        let heard = play(&socket).with_context(|| context("after"))?;
        let wait = gone.elapsed();
        ensure!(card.status().is_none(), "{}", context("the card ended after"));
        ensure!(heard == expected, "{}", context("another song after"));
        ensure!(wait <= promise, "{}", context(&format!("the next client waited {wait:?} after")));
        drop(left);
        report.rounds += 1;
        report.worst[number].1 = report.worst[number].1.max(wait);
        waits.push(wait);
        if before.is_none() && extent.done(report.rounds, started.elapsed()) > 0.1 {
            before = Some(resources(card.id())?);
        }
        progress(report.rounds, waits.iter().copied().max().unwrap_or_default());
    }
    // The card hears of the last one's leaving.
    let before = before.context("no rounds")?;
    until("the descriptors of the clients to be closed", LIMIT, || {
        resources(card.id()).is_ok_and(|now| now.1 <= before.1)
    })?;
    report.growth = resources(card.id())?.0.saturating_sub(before.0);
    ensure!(report.growth <= GROWTH, "the card has {} bytes more than after the first tenth", report.growth);
    waits.sort_unstable();
    report.median = waits.get(waits.len() / 2).copied().unwrap_or_default();

    let last = visits::visit(Manner::Glutton, &socket, &mut random)?;
    let ended = Instant::now();
    programs::signal(card.id(), "TERM");
    until("the end of the card", LIMIT, || card.status().is_some())?;
    report.end = ended.elapsed();
    ensure!(report.end <= promise, "the card took {:?} to end", report.end);
    drop(last);
    Ok(report)
}

/// The end of the card's log.
fn tail(directory: &Path) -> String {
    let log = std::fs::read(directory.join("card.log")).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned()
}

/// A process's resident bytes and open descriptors.
fn resources(pid: u32) -> anyhow::Result<(u64, usize)> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).context("no resident pages")?.parse()?;
    Ok((pages * 4096, std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()))
}

/// A good client: it connects, plays a song, and takes what the card renders through a wave sink.
fn play(socket: &Path) -> anyhow::Result<Vec<u8>> {
    const FORMAT: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };
    const PERIODS: StreamConfig = StreamConfig { slots: 8, buffers: 8, buffer_size: 3840 };
    let card = Card::open(Loopback::new(socket)?, PointerWidth::Eight)?;
    ensure!(card.get_time() == RefTime::ZERO, "the clock is that of another client");
    let render = RenderStream::open(&card, 0, StreamConfig { slots: 64, ..StreamConfig::default() })?;
    let wave = WaveStream::open(&card, 1, PERIODS, FORMAT)?;
    render.set_state(State::Acquire)?;
    for note in 0..12 {
        for bytes in [[0xB0, 10, note * 10], [0x90, 50 + note, 100]] {
            render.send(RefTime(i64::from(note) * 200_000), 0, &bytes)?;
        }
    }
    render.flush();
    wave.set_state(State::Run)?;
    render.set_state(State::Run)?;
    let deadline = Instant::now() + LIMIT;
    let mut heard = Vec::new();
    card.grant(SONG);
    loop {
        let reached = card.get_time() >= SONG;
        while let Some(period) = wave.receive()? {
            heard.extend(period.to_vec());
        }
        if reached {
            break;
        }
        ensure!(Instant::now() < deadline, "the card stands still");
        wave.wait(Duration::from_millis(20));
    }
    render.allocator().reclaim()?;
    let counts = render.allocator().counts();
    ensure!(counts.presented == 24 && counts.late == 0, "{counts:?}");
    ensure!(card.platform().read32(regs::FAULT.offset) == 0, "a fault that is another client's");
    Ok(heard)
}
