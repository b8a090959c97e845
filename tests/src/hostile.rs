//! Clients one after the other on a card that serves: each hostile in a way of its own or good, and after each a good
//! one that plays a song in virtual time.
//!
//! Fed by a number of rounds; feeds a `dmus-card serve` in a process of its own over its socket. It ends well only if
//! every song had the right bytes, and the card's memory and descriptors are as they were.

use crate::attack::Attack;
use crate::load::Load;
use crate::loopback::Loopback;
use crate::memory::{Page, RAM, RAM_IOVA};
use crate::programs::{self, Running, until};
use crate::raw::{Bus, RawStream, SLOTS};
use crate::soak::Random;
use crate::unshared::{Answer, UnsharedClient};
use crate::wire;
use anyhow::{Context, ensure};
use dmus_card::collection::Region;
use dmus_driver::{CaptureStream, Card, Mailbox, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::doorbell;
use dmus_interface::event::{DONT_HOLD, PointerWidth};
use dmus_interface::pci::BAR_SIZE;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, ftruncate, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
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
const GROWTH: u64 = 4 << 20;

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
        let left = visit(manner, &socket, &mut random).with_context(|| context("as"))?;
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

    let last = visit(Manner::Glutton, &socket, &mut random)?;
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

/// One client from its connection to its end, however that is.
fn visit(manner: Manner, socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    match manner {
        Manner::Good => play(socket).map(|_| Left::default()),
        Manner::Noise => noise(socket, random),
        Manner::Refused => refused(socket),
        Manner::Silent => silent(socket, random),
        Manner::Scribbler => scribble(socket, random),
        Manner::FullVectors => full_vectors(socket),
        Manner::WrongVectors => wrong_vectors(socket),
        Manner::PageKeeper => keep_page(socket),
        Manner::Truncater => truncate(socket, random),
        Manner::Debtor => owe(socket, random),
        Manner::Glutton => gorge(socket, random),
        Manner::Hoarder => hoard(socket, random),
    }
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    Ok(stream)
}

fn noise(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let stream = connect(socket)?;
    let bytes: Vec<u8> = (0..random.below(2000)).map(|_| random.below(256) as u8).collect();
    // The card may have hung up before all was said.
    let _ = match random.below(2) {
        0 => (&stream).write_all(&bytes).map_err(anyhow::Error::from),
        _ => wire::speak(&stream, &bytes),
    };
    Ok(Left::default())
}

fn refused(socket: &Path) -> anyhow::Result<Left> {
    let stream = connect(socket)?;
    let messages: Vec<u8> = std::iter::repeat_n([17, 0, 0], 3000).flatten().collect();
    let _ = wire::speak(&stream, &messages);
    Ok(Left::default())
}

fn silent(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let streams: Vec<_> = (0..1 + random.below(4)).map(|_| connect(socket)).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(random.below(4)));
    drop(streams);
    Ok(Left::default())
}

fn scribble(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    let bytes: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
    let mut bytes = &bytes[..];
    while let Some(attack) = Attack::decode(&mut bytes) {
        // This client waits for ever for the reply to an access that the server refuses.
        let refused = match attack {
            Attack::Register(at, width, _) | Attack::Read(at, width) => {
                width == 0 || at + width as u64 > u64::from(BAR_SIZE)
            }
            Attack::Config(at, _) => at + 4 > 256,
            _ => false,
        };
        if !refused {
            attack.carry_out(&stream);
        }
    }
    Ok(Left::default())
}

/// Notes on all slots at one time that is granted already, so that each brings a completion and a vector.
fn notes_at_once<B: Bus>(platform: &B, rounds: u64) -> anyhow::Result<()> {
    let stream = RawStream::running(platform, PointerWidth::Eight)?;
    for _ in 0..rounds {
        for slot in 0..SLOTS {
            stream.fill(slot, stream.inline(DONT_HOLD, &[0x90, 30 + slot as u8, 90]));
            stream.put(slot);
        }
        stream.publish();
        stream.grant(i64::MAX);
        for _ in 0..SLOTS {
            stream.completion()?;
        }
    }
    Ok(())
}

fn full_vectors(socket: &Path) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let vectors: Vec<OwnedFd> = (0..9).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>()?;
    let fill = |vector: &OwnedFd| {
        fcntl_setfl(vector, OFlags::NONBLOCK)?;
        let filled = rustix::io::write(vector, &(u64::MAX - 1).to_ne_bytes());
        fcntl_setfl(vector, OFlags::empty())?;
        filled
    };
    for (number, vector) in vectors.iter().enumerate() {
        platform.set_vector(number as u32, vector)?;
        fill(vector)?;
    }
    let ours: Vec<OwnedFd> = vectors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
    let left = Left::files(vectors).busy(move || {
        // It is full again whatever the card does about it.
        ours.iter().for_each(|vector| {
            let _ = fill(vector);
        });
    });
    // What the card is asked for meanwhile need not be answered.
    let raw = RawStream::prepare(&platform, PointerWidth::Eight)?;
    for (register, value) in [(stream::TYPE, Type::Render.value()), (stream::STATE, State::Run as u32)] {
        raw.write(register, value);
        std::thread::sleep(Duration::from_micros(500));
    }
    raw.submit(0, raw.inline(DONT_HOLD, &[0x90, 60, 100]), 1_000_000);
    std::thread::sleep(Duration::from_millis(2));
    Ok(left)
}

fn wrong_vectors(socket: &Path) -> anyhow::Result<Left> {
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, Some(0));
    let (reader, writer) = std::io::pipe()?;
    let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty())?;
    let (one, other) = UnixStream::pair()?;
    let wrong: [OwnedFd; 4] = [writer, one.into(), other.into(), memfd_create("vector", MemfdFlags::CLOEXEC)?];
    for (number, descriptor) in wrong.iter().enumerate() {
        ensure!(client.connect_vector(number as u32, descriptor.as_fd()).is_err(), "descriptor {number} is a vector");
    }
    notes_at_once(&client, 1)?;
    Ok(Left::files(wrong.into_iter().chain([reader])))
}

fn keep_page(socket: &Path) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    notes_at_once(&platform, 1)?;
    let page = platform.page_file.try_clone()?;
    let kept = Page::map(&page, 4096)?;
    // Refused where the page is sealed against it.
    let _ = fcntl_add_seals(&page, SealFlags::FUTURE_WRITE);
    let mut at = 0;
    Ok(Left::files([page.into()]).busy(move || {
        kept.shared().store_u64(doorbell::GRANT, i64::MAX as u64, Ordering::Relaxed);
        at = (at + 4) % 4096;
        kept.shared().store_u32(at, 0xFFFF_FF00, Ordering::Relaxed);
    }))
}

fn truncate(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    const PLACE: u64 = RAM_IOVA + (64 << 20);
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, Some(0));
    let file = match random.below(3) {
        0 => OwnedFd::from(tempfile::tempfile()?),
        1 => memfd_create("truncated", MemfdFlags::CLOEXEC)?,
        _ => memfd_create("truncated", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?,
    };
    ftruncate(&file, 1 << 20)?;
    // Refused, or sealed, or the card survives it.
    let _ = client.share(PLACE, 1 << 20, Some((0, file.as_fd())));
    let _ = ftruncate(&file, 0);
    let raw = RawStream::prepare(&client, PointerWidth::Eight)?;
    for register in [stream::POOL_BASE, stream::SUBMISSION_BASE] {
        raw.write64(register, PLACE);
    }
    // Whether there is such a stream is the card's to say.
    let _ = raw.transition(stream::TYPE, Type::Render.value());
    raw.publish_tail(SLOTS);
    raw.grant(1_000_000);
    Ok(Left::files([file]))
}

fn owe(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let client = UnsharedClient::new(UnixStream::connect(socket)?)?;
    client.map(RAM_IOVA, RAM as u64, None);
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    let leaves = random.below(2) == 0;
    client.behave(move |_| if leaves { Answer::Leave } else { Answer::Hold });
    stream.submit(0, stream.inline(0, &[0x90, 60, 100]), 1_000_000);
    std::thread::sleep(Duration::from_millis(random.below(4)));
    Ok(Left::default())
}

fn gorge(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    let platform = Loopback::new(socket)?;
    let load = match random.below(8) {
        0 => Some(Load::layers(4096, |_| Region::of(0))),
        1 => Some(Load::exclusive(4096)),
        2 => Some(Load::locked(4096, 2)),
        3 => Some(Load::intricate()),
        _ => None,
    };
    if let Some(load) = load {
        load.put_on(&Card::open(platform, PointerWidth::Eight)?)?;
        return Ok(Left::default());
    }
    let stream = RawStream::running(&platform, PointerWidth::Eight)?;
    for round in 0..1 + random.below(40) {
        for slot in 0..SLOTS {
            let (channel, note) = (round as u8 % 16, (slot + round as u32 * 7) as u8 % 128);
            let time = 100_000 + (round % 2) as i64;
            stream.fill(slot, stream.inline(time, &[0x90 | channel, note, 100]));
            stream.put(slot);
        }
        stream.publish();
        stream.grant(100_001);
        for _ in 0..SLOTS {
            stream.completion()?;
        }
    }
    stream.grant(i64::MAX);
    Ok(Left::default())
}

fn hoard(socket: &Path, random: &mut Random) -> anyhow::Result<Left> {
    const SIZES: StreamConfig = StreamConfig { slots: 16, buffers: 16, buffer_size: 4096 };
    let card = Card::open(Loopback::new(socket)?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    // Whether such a chunk is taken is the card's to say; the memory that it needs to find out is not.
    let chunk: Vec<u8> = (0..random.below(1 << 20)).map(|at| (at >> 3) as u8).collect();
    let _ = mailbox.download(&chunk);
    let render = RenderStream::open(&card, 0, StreamConfig { slots: 256, buffers: 256, buffer_size: 4096 })?;
    let captures: Vec<_> =
        (1..8).map(|index| CaptureStream::open(&card, index, SIZES, true)).collect::<Result<_, _>>()?;
    for capture in &captures {
        capture.set_state(State::Run)?;
    }
    render.set_state(State::Run)?;
    let mut message = [0x33; 4096];
    (message[0], message[4095]) = (0xF0, 0xF7);
    for number in 0..256 {
        render.send(RefTime(number * 10), 0, &message)?;
    }
    render.flush();
    card.grant(RefTime(i64::MAX));
    std::thread::sleep(Duration::from_millis(random.below(5)));
    Ok(Left::default())
}
