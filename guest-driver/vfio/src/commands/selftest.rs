//! `dmusd selftest`: whether card, IOMMU, interrupts and driver do together what they should, on the machine at hand.
//!
//! Fed by the card with either clock; feeds a line for each check. It drives the card itself: what it held before is
//! lost.

use super::conform::try_all;
use super::{open, say};
use anyhow::{Context, ensure};
use dmus_conformance::Tally;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{CaptureStream, Card, Platform, PlatformError, Rejection, RenderStream, StreamConfig};
use dmus_driver_vfio::VfioPlatform;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::Reject;
use dmus_interface::time::RefTime;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Try the card and everything between it and this program. It makes no sound.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often the driver is opened and closed.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(10);
/// A note that nobody hears: its velocity is 0.
const SILENT: [u8; 3] = [0x90, 60, 0];
const WIDTHS: [PointerWidth; 2] = [PointerWidth::Four, PointerWidth::Eight];

pub(crate) fn run(device: Option<&str>, args: &Args) -> anyhow::Result<()> {
    check("events play, with either pointer width", || WIDTHS.iter().try_for_each(|width| plays(device, *width)))?;
    check("the card interrupts", || interrupts(device))?;
    check("a capture stream gives back all that is posted", || captures(device))?;
    check("a stray DMA address is refused and named", || WIDTHS.iter().try_for_each(|width| strays(device, *width)))?;
    for width in WIDTHS {
        states(device, width)?;
    }
    check("opening and closing leaves nothing behind", || rounds(device, args.rounds))?;
    say(format_args!("selftest passed"));
    Ok(())
}

fn check(what: &'static str, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let started = Instant::now();
    run().context(what)?;
    say(format_args!("ok: {what} ({:.1} s)", started.elapsed().as_secs_f64()));
    Ok(())
}

/// What the DDI states, if the card is one on which that can be tried.
fn states(device: Option<&str>, width: PointerWidth) -> anyhow::Result<()> {
    let card = open(device, width)?;
    if let Some(why) = dmus_conformance::unsuitable(&card)? {
        say(format_args!("not tried: what the DDI states, with pointers of {} bytes, for {why}", width.bytes()));
        return Ok(());
    }
    let Tally { checks, holding } = try_all(&card)?;
    ensure!(holding == checks, "{} of {checks} statements of the DDI do not hold", checks - holding);
    say(format_args!("ok: all {checks} statements of the DDI hold, with pointers of {} bytes", width.bytes()));
    Ok(())
}

fn plays(device: Option<&str>, width: PointerWidth) -> anyhow::Result<()> {
    plays_on(&open(device, width)?)
}

/// Short and long messages, more than the pool has slots; all are returned.
fn plays_on(card: &Card<impl Platform>) -> anyhow::Result<()> {
    let config = StreamConfig { slots: 16, buffers: 4, buffer_size: 64 };
    let stream = RenderStream::open(card, 0, config)?;
    let sysex: Vec<u8> = std::iter::once(0xF0).chain([0x7D; 100]).chain([0xF7]).collect();
    let messages = (0..40).map(|n| if n % 8 == 7 { &sysex[..] } else { &SILENT[..] });
    let end = RefTime::from_secs(1);
    let timed =
        messages.zip(0..).map(|(bytes, n)| dmus_song::TimedMessage { time: RefTime(n * 100_000), group: 0, bytes });
    let counts = dmus_driver::play(&stream, timed, end, |_| ())?.counts;
    ensure!(counts.presented + counts.late == 40 && counts.submitted == 40, "{counts:?}");
    expect_all_free(&stream, config)
}

fn expect_all_free(stream: &RenderStream<'_, impl Platform>, config: StreamConfig) -> anyhow::Result<()> {
    let allocator = stream.allocator();
    let free = (allocator.free_slots(), allocator.free_buffers());
    ensure!(free == (config.slots as usize, config.buffers as usize), "only {free:?} are free of {config:?}");
    Ok(())
}

fn interrupts(device: Option<&str>) -> anyhow::Result<()> {
    let card = open(device, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 3, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let mut message = stream.allocator().get_message()?;
    message.set_time(RefTime(500_000));
    message.set_data(&SILENT)?;
    stream.put_message(message)?;
    stream.flush();
    card.grant(stream.time_base().saturating_add(RefTime(500_000)));
    // The last one of opening the stream may still come; this event's is not due before.
    while stream.allocator().in_flight() > 0 {
        ensure!(stream.wait(1, LIMIT), "no interrupt came within {LIMIT:?}");
        stream.allocator().reclaim()?;
    }
    stream.set_state(State::Stop)?;
    Ok(())
}

fn captures(device: Option<&str>) -> anyhow::Result<()> {
    let card = open(device, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 16, buffers: 16, buffer_size: 64 };
    let stream = CaptureStream::open(&card, 1, config, true)?;
    stream.set_state(State::Acquire)?;
    ensure!(stream.free_slots_and_buffers() == (0, 0), "{:?} were not posted", stream.free_slots_and_buffers());
    stream.set_state(State::Stop)?;
    while stream.receive()?.is_some() {}
    ensure!(
        stream.free_slots_and_buffers() == (16, 16),
        "only {:?} are free of 16 slots and buffers",
        stream.free_slots_and_buffers()
    );
    Ok(())
}

/// The buffers of a stream lose their mapping under it: the message that uses one is refused, others go on.
fn strays(device: Option<&str>, width: PointerWidth) -> anyhow::Result<()> {
    let vfio = VfioPlatform::open(&dmus_driver_vfio::find(device)?)?;
    let card = Card::open(Stray { vfio, allocations: Cell::new(0), buffers: Cell::new(0) }, width)?;
    let config = StreamConfig::default();
    let stream = RenderStream::open(&card, 0, config)?;
    let platform = card.platform();
    platform.vfio.dma_revoke(platform.buffers.get())?;
    stream.set_state(State::Run)?;

    let mut stray = stream.allocator().get_message()?;
    stray.set_data(&[0xF0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xF7])?;
    let slot = stray.slot();
    stream.put_message(stray)?;
    let mut sound = stream.allocator().get_message()?;
    sound.set_data(&SILENT)?;
    stream.put_message(sound)?;
    stream.flush();
    card.grant(stream.time_base().saturating_add(RefTime::from_secs(1)));
    let deadline = Instant::now() + LIMIT;
    while stream.allocator().in_flight() > 0 {
        ensure!(Instant::now() < deadline, "the card kept what it should refuse for {LIMIT:?}");
        stream.wait(stream.allocator().in_flight(), LIMIT);
        stream.allocator().reclaim()?;
    }
    let (counts, refused) = (stream.allocator().counts(), stream.allocator().last_rejection());
    let expected = Some(Rejection { slot, reason: Some(Reject::NotMapped) });
    ensure!(counts.rejected == 1 && counts.presented + counts.late == 1, "{counts:?}");
    ensure!(refused == expected, "the card refused {refused:?} instead of {expected:?}");
    stream.set_state(State::Stop)?;
    expect_all_free(&stream, config)
}

/// A platform whose streams have their buffers in a mapping of their own.
struct Stray {
    vfio: VfioPlatform,
    allocations: Cell<u32>,
    /// The card's address of the buffers.
    buffers: Cell<u64>,
}

impl Platform for Stray {
    fn read32(&self, offset: u32) -> u32 {
        self.vfio.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.vfio.write32(offset, value);
    }

    fn doorbell(&self) -> &SharedMemory {
        self.vfio.doorbell()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.allocations.set(self.allocations.get() + 1);
        // A stream allocates its pool first, its buffers second.
        if self.allocations.get() != 2 {
            return self.vfio.dma_alloc(len, align);
        }
        let memory = self.vfio.dma_alloc_apart(len)?;
        self.buffers.set(memory.iova);
        Ok(memory)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.vfio.dma_free(memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        self.vfio.wait(vector, limit)
    }

    fn now(&self) -> Duration {
        self.vfio.now()
    }
}

/// Opens, plays and closes again and again; then as many descriptors, mappings and pinned pages are this process's as
/// after the first time.
fn rounds(device: Option<&str>, rounds: u32) -> anyhow::Result<()> {
    let mut first = None;
    for round in 0..rounds {
        {
            let card = open(device, WIDTHS[round as usize % 2])?;
            // The whole of it now and then, for it takes a second in real time.
            if round % 50 == 0 || card.is_virtual() {
                plays_on(&card)?;
            } else {
                RenderStream::open(&card, 0, StreamConfig::default())?.set_state(State::Run)?;
            }
        }
        let holds = Holds::now()?;
        let first = first.get_or_insert(holds);
        ensure!(*first == holds, "after round {round} this process holds {holds:?}, after the first {first:?}");
        if round % 10 == 9 {
            say(format_args!("progress {}", round + 1));
        }
    }
    Ok(())
}

/// What this process holds of the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    /// Of devices, and of huge pages.
    mappings: usize,
    /// In kilobytes.
    pinned: u64,
}

impl Holds {
    fn now() -> anyhow::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let pinned = status.lines().filter_map(|line| line.strip_prefix("VmLck:").or(line.strip_prefix("VmPin:")));
        Ok(Self {
            descriptors: std::fs::read_dir("/proc/self/fd")?.count(),
            mappings: maps.lines().filter(|line| line.contains("vfio") || line.contains("hugepage")).count(),
            pinned: pinned.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum(),
        })
    }
}
