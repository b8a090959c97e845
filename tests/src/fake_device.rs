//! A fake device that lies: registers, page and completions as a script of bytes says.
//!
//! Fed by generated tests and by fuzzing; feeds the driver, which must answer with a typed error or recover by reset,
//! never with a panic, a hang, or a slot or buffer that is given out twice.

use crate::memory::{Page, Ram};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{CaptureSink, CaptureStream, Card, DriverError, Platform, PlatformError, RenderStream, StreamConfig};
use dmus_interface::doorbell;
use dmus_interface::event::{PointerWidth, is_message};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State};
use dmus_interface::regs::{self, control};
use dmus_interface::ring::COMPLETION_SIZE;
use dmus_interface::time::RefTime;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::time::Duration;

const CONFIG: StreamConfig = StreamConfig { slots: 16, buffers: 4, buffer_size: 64 };

/// Where the driver's completion ring lies in the RAM: behind pool, buffers and submission ring.
const COMPLETIONS: usize = 16 * 64 + 4 * 64 + 16 * 4;

/// See the module.
struct FakeDevice {
    script: RefCell<Vec<u8>>,
    page: Page,
    ram: Ram,
    now: Cell<Duration>,
}

impl FakeDevice {
    fn new(script: &[u8]) -> anyhow::Result<Self> {
        let file = memfd_create("page", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, 4096)?;
        let script = RefCell::new(script.iter().rev().copied().collect());
        Ok(Self { script, page: Page::map(&file, 4096)?, ram: Ram::new()?, now: Cell::default() })
    }

    /// The next byte; 0 when the script is over.
    fn next(&self) -> u8 {
        self.script.borrow_mut().pop().unwrap_or(0)
    }

    fn word(&self) -> u32 {
        u32::from_le_bytes([self.next(), self.next(), self.next(), self.next()])
    }

    /// Does something that a card may do, or may not.
    fn act(&self) {
        let at = |word| doorbell::at(0, word);
        let page = self.page.shared();
        let bump =
            |word| page.store_u32(word, page.load_u32(word, Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        match self.next() % 10 {
            0 => bump(at(doorbell::TRANSITIONS)),
            1 => {
                page.store_u32(at(doorbell::REFUSAL), u32::from(self.next()), Ordering::Relaxed);
                bump(at(doorbell::TRANSITIONS));
            }
            2..=5 => {
                // A completion, of whatever slot and status.
                let head = page.load_u32(at(doorbell::COMPLETION_HEAD), Ordering::Relaxed);
                let forged = [self.next() % 18, 0, 0, 0, self.next() % 7];
                self.ram.scribble(COMPLETIONS + (head % CONFIG.slots) as usize * COMPLETION_SIZE, &forged);
                bump(at(doorbell::COMPLETION_HEAD));
            }
            6 => page.store_u32(usize::from(self.next()) * 4, self.word(), Ordering::Relaxed),
            // Anywhere in pool, buffers and rings.
            7 => self.ram.scribble(usize::from(self.next()) * 16, &[self.next(); 16]),
            _ => {}
        }
    }
}

impl Platform for FakeDevice {
    fn read32(&self, offset: u32) -> u32 {
        match self.next() {
            0..=200 if offset == regs::MAGIC.offset => regs::MAGIC_VALUE,
            0..=200 if offset == regs::VERSION.offset => regs::VERSION_VALUE,
            0..=200 if offset == regs::CONTROL.offset => control::ENABLE,
            201..=220 => u32::MAX,
            _ => self.word(),
        }
    }

    fn write32(&self, offset: u32, _: u32) {
        let answered = [stream::TYPE, stream::STATE].map(|register| stream::at(0, register).offset);
        match self.next() {
            // Mostly the honest answer, or there would be no stream to lie to.
            0..=230 if answered.contains(&offset) => {
                let word = doorbell::at(0, doorbell::TRANSITIONS);
                let count = self.page.shared().load_u32(word, Ordering::Relaxed);
                self.page.shared().store_u32(word, count.wrapping_add(1), Ordering::Release);
            }
            0..=240 => {}
            _ => self.act(),
        }
    }

    fn doorbell(&self) -> &SharedMemory {
        self.page.shared()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.ram.allocate(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.ram.release(&memory);
    }

    fn wait(&self, _: u16, _: Duration) -> bool {
        self.act();
        self.next() & 1 == 0
    }

    /// Every look at the clock takes a while, so that every wait ends.
    fn now(&self) -> Duration {
        self.now.set(self.now.get() + Duration::from_millis(400));
        self.now.get()
    }
}

/// Drives a capture stream against the script. Fails only if the driver does not keep its own.
pub fn capture(script: &[u8]) -> anyhow::Result<()> {
    let device = FakeDevice::new(script)?;
    let _ = (|| -> Result<(), DriverError> {
        let card = Card::open(device, PointerWidth::Eight)?;
        let stream = CaptureStream::open(&card, 0, CONFIG, card.platform().next() & 1 == 0)?;
        let mut sink = CaptureSink::default();
        let _ = stream.set_state(State::Run);
        for _ in 0..24u8 {
            stream.wait(Duration::from_millis(1));
            if let Ok(Some(event)) = stream.receive() {
                assert!((1..=CONFIG.buffer_size as usize).contains(&usize::from(event.event_bytes())));
                sink.put_message(&event, |message| assert!(is_message(message)));
            }
        }
        let _ = card.reset();
        let _ = stream.restore();
        assert_eq!(stream.free_slots_and_buffers(), (CONFIG.slots as usize, CONFIG.buffers as usize));
        Ok(())
    })();
    Ok(())
}

/// Drives a stream against the script. Fails only if the driver does not keep its own.
pub fn drive(script: &[u8]) -> anyhow::Result<()> {
    let device = FakeDevice::new(script)?;
    // An error is an answer; what counts is what the driver has afterwards.
    let _ = (|| -> Result<(), DriverError> {
        let card = Card::open(device, PointerWidth::Eight)?;
        let stream = RenderStream::open(&card, 0, CONFIG)?;
        let _ = stream.set_state(State::Run);
        for round in 0..24u8 {
            let _ = send(&stream, card.platform().next());
            stream.flush();
            card.grant(RefTime(i64::from(round) * 1000));
            stream.wait(1, Duration::from_millis(1));
            let _ = stream.allocator().reclaim();
        }
        let _ = card.reset();
        let _ = stream.restore();
        // Nothing is in a handle, and after a reset nothing is the card's.
        assert_eq!(stream.allocator().free_slots(), CONFIG.slots as usize);
        assert_eq!(stream.allocator().free_buffers(), CONFIG.buffers as usize);
        Ok(())
    })();
    Ok(())
}

fn send(stream: &RenderStream<'_, FakeDevice>, shape: u8) -> Result<(), DriverError> {
    let allocator = stream.allocator();
    let mut message = allocator.get_message()?;
    message.set_data(&[0x55; 60][..usize::from(shape % 61)])?;
    if shape & 0x80 != 0 {
        let mut next = allocator.get_message()?;
        next.set_data(&[0x33; 20])?;
        message.chain(next)?;
    }
    stream.put_message(message)
}
