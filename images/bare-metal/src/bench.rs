//! Events per second through the card's ring, beside the transmit queue of QEMU's own virtio console, in one boot
//! (feature `bench`).
//!
//! Fed by `main` instead of a song; feeds the serial port with a line for each round: `dmus: bench ours=NUMBER
//! single=NUMBER batched=NUMBER`, in events of 8 bytes per second. The console is driven as `virtio-drivers`' own
//! driver does, an event at a time, and a batch at a time.

use anyhow::ensure;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use crate::platform::Platform;
use crate::virtio::{self, Memory};
use crate::{println, time};

/// The fw_cfg file that asks for this.
pub(crate) const WANTED: &str = "opt/dmus/bench";

const ROUNDS: usize = 31;
/// How long a side's turn is, in nanoseconds.
const TURN: u64 = 20_000_000;
/// How long the other side may be silent, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// Events of a batch: half of what the console's queue takes.
const BATCH: usize = 64;
/// A SysEx message, which the synthesizer passes over.
const DATA: [u8; 8] = [0xf0, 1, 2, 3, 4, 5, 6, 0xf7];

/// The virtio console, modern and transitional.
const CONSOLE: [u16; 2] = [0x1043, 0x1003];
/// Its transmit queue.
const TRANSMIT: u16 = 1;
/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;

pub(crate) fn run() -> anyhow::Result<()> {
    let card = Card::open(Platform::open()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 2 * BATCH as u32, buffers: 0, buffer_size: 8 };
    let stream = RenderStream::open(&card, 0, config)?;
    stream.set_state(State::Run)?;
    let mut console = Console::open()?;
    // The first round warms up.
    for round in 0..=ROUNDS {
        let ours = per_second(|| ours(&stream))?;
        let single = per_second(|| console.send_singly())?;
        let batched = per_second(|| console.send_batch())?;
        if round > 0 {
            println!("dmus: bench ours={ours} single={single} batched={batched}");
        }
    }
    Ok(())
}

/// Events per second when `batch` is repeated for a turn.
fn per_second(mut batch: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let started = time::now_ns();
    let mut events = 0;
    loop {
        batch()?;
        events += BATCH as u64;
        let passed = time::now_ns() - started;
        if passed >= TURN {
            return Ok(events * 1_000_000_000 / passed);
        }
    }
}

/// Submits a batch, once the one before the last is completed.
fn ours(stream: &RenderStream<'_, Platform>) -> anyhow::Result<()> {
    let allocator = stream.allocator();
    let deadline = time::now_ns() + PATIENCE;
    while allocator.in_flight() > BATCH as u32 {
        allocator.reclaim()?;
        ensure!(time::now_ns() < deadline, "the card completes nothing");
    }
    for _ in 0..BATCH {
        stream.send(RefTime::ZERO, 0, &DATA)?;
    }
    stream.flush();
    Ok(())
}

/// The console and its transmit queue.
struct Console {
    transport: PciTransport,
    queue: VirtQueue<Memory, { 2 * BATCH }>,
    tokens: [u16; BATCH],
}

impl Console {
    fn open() -> anyhow::Result<Self> {
        let mut transport = virtio::open(&CONSOLE, "no virtio console: give QEMU -device virtio-serial-pci")?;
        let offered = transport.read_device_features();
        transport.begin_init(virtio_drivers::device::common::Feature::VERSION_1);
        ensure!(offered & VERSION_1 != 0, "the console is a legacy one");
        let queue = VirtQueue::new(&mut transport, TRANSMIT, false, false)
            .map_err(|error| anyhow::anyhow!("console's queue: {error}"))?;
        transport.finish_init();
        Ok(Self { transport, queue, tokens: [0; BATCH] })
    }

    /// A batch of events as `VirtIOConsole::send_bytes` sends them.
    fn send_singly(&mut self) -> anyhow::Result<()> {
        for _ in 0..BATCH {
            let sent = self.queue.add_notify_wait_pop(&[&DATA], &mut [], &mut self.transport);
            sent.map_err(|error| anyhow::anyhow!("send: {error}"))?;
        }
        Ok(())
    }

    /// A batch of events with one notification: more than the crate's driver does, and the best that its queue can.
    fn send_batch(&mut self) -> anyhow::Result<()> {
        for token in &mut self.tokens {
            // SAFETY: the data are constant, and so outlive the request.
            *token = unsafe { self.queue.add(&[&DATA], &mut []) }.map_err(|error| anyhow::anyhow!("add: {error}"))?;
        }
        if self.queue.should_notify() {
            self.transport.notify(TRANSMIT);
        }
        let deadline = time::now_ns() + PATIENCE;
        for token in self.tokens {
            while !self.queue.can_pop() {
                ensure!(time::now_ns() < deadline, "the console takes nothing");
            }
            // SAFETY: the buffer that `add` gave this token for.
            unsafe { self.queue.pop_used(token, &[&DATA], &mut []) }
                .map_err(|error| anyhow::anyhow!("pop: {error}"))?;
        }
        Ok(())
    }
}
