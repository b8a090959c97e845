//! The card as a whole: identity, reset, clocks, waking it, and waiting for its answers.
//!
//! Fed by a [`Platform`] (registers, memory, interrupts, time); feeds the streams, which borrow it.

use crate::dma::{DmaMemory, SharedMemory};
use crate::{DriverError, PlatformError};
use core::cell::Cell;
use core::time::Duration;
use dmus_interface::event::PointerWidth;
use dmus_interface::protocol::{Page, driver};
use dmus_interface::regs::{self, Register, control, feature};
use dmus_interface::time::RefTime;

/// What the driver needs from the machine that it runs on.
pub trait Platform {
    /// Reads 4 bytes of BAR0.
    fn read32(&self, offset: u32) -> u32;
    /// Writes 4 bytes of BAR0.
    fn write32(&self, offset: u32, value: u32);
    /// The doorbell page, BAR2.
    fn doorbell(&self) -> &SharedMemory;
    /// Zeroed memory that the card reaches, aligned to `align` (a power of two) on both sides.
    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError>;
    /// Takes memory of [`Self::dma_alloc`] back; the card does not use it any more.
    fn dma_free(&self, memory: DmaMemory);
    /// Sleeps until the vector has fired since the last return for it, or the limit has passed; says whether it fired.
    fn wait(&self, vector: u16, limit: Duration) -> bool;
    /// Time since some fixed point.
    fn now(&self) -> Duration;
}

/// How long the card may take to answer a transition: it finishes the audio block at hand first.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// An enabled card.
#[derive(Debug)]
pub struct Card<P: Platform> {
    pub(crate) platform: P,
    width: PointerWidth,
    /// The number of the card's sleep that it was last woken from.
    woken: Cell<u32>,
    granted: Cell<RefTime>,
    virtual_clock: Cell<bool>,
    /// Commands of the mailbox so far; none once the card has left one unanswered.
    pub(crate) commands: Cell<Option<u32>>,
    /// Numbers given to download chunks.
    pub(crate) downloads: Cell<u32>,
}

impl<P: Platform> Card<P> {
    /// Identifies, resets and enables the card; events will have pointers of `width`.
    pub fn open(platform: P, width: PointerWidth) -> Result<Self, DriverError> {
        let card = Self {
            platform,
            width,
            woken: Cell::new(0),
            granted: Cell::new(RefTime::ZERO),
            virtual_clock: Cell::new(false),
            commands: Cell::new(Some(0)),
            downloads: Cell::new(0),
        };
        match card.read(regs::MAGIC) {
            regs::MAGIC_VALUE => {}
            u32::MAX => return Err(DriverError::CardGone),
            other => return Err(DriverError::NotACard(other)),
        }
        let version = card.read(regs::VERSION);
        if version == u32::MAX {
            return Err(DriverError::CardGone);
        }
        if version >> 16 != regs::VERSION_VALUE >> 16 {
            return Err(DriverError::WrongVersion(version));
        }
        card.reset()?;
        card.virtual_clock.set(card.is_virtual());
        Ok(card)
    }

    /// Resets and enables the card. It forgets its streams; their slots are the driver's again, and
    /// [`crate::RenderStream::restore`] recycles them and creates the stream anew.
    pub fn reset(&self) -> Result<(), DriverError> {
        self.write(regs::CONTROL, control::RESET);
        self.woken.set(0);
        self.granted.set(RefTime::ZERO);
        self.commands.set(Some(0));
        self.downloads.set(0);
        self.write(regs::POINTER_WIDTH, self.width.bytes() as u32);
        self.write(regs::CONTROL, control::ENABLE);
        match self.read(regs::CONTROL) {
            u32::MAX => Err(DriverError::CardGone),
            value if value & control::ENABLE != 0 => Ok(()),
            _ => Err(DriverError::Refused(regs::Fault::NotEnabled)),
        }
    }

    /// Whether the card is enabled still: a reset by somebody else (the kernel, or an administrator) is no error that
    /// it reports.
    pub fn is_enabled(&self) -> Result<bool, DriverError> {
        match self.read(regs::CONTROL) {
            u32::MAX => Err(DriverError::CardGone),
            value => Ok(value & control::ENABLE != 0),
        }
    }

    /// Whether a silent card is still there, and still what it was set up to be.
    pub(crate) fn check_alive(&self) -> Result<(), DriverError> {
        if self.is_enabled()? { Ok(()) } else { Err(DriverError::CardReset) }
    }

    /// Whether time is as the card said at the start, virtual: without a look at it.
    pub(crate) fn has_virtual_clock(&self) -> bool {
        self.virtual_clock.get()
    }

    /// Virtual time is never where it was not granted: what else the card shows is a lie, and what is waited for by it
    /// would be missed.
    pub(crate) fn check_clock(&self, now: RefTime) -> Result<(), DriverError> {
        let granted = self.granted.get();
        if self.virtual_clock.get() && now > granted {
            return Err(DriverError::ClockBeyondGrant { now: now.0, granted: granted.0 });
        }
        Ok(())
    }

    /// Pointer width of events.
    pub fn pointer_width(&self) -> PointerWidth {
        self.width
    }

    /// Whether time moves only as far as it is granted.
    pub fn is_virtual(&self) -> bool {
        self.read(regs::FEATURES) & feature::VIRTUAL_CLOCK != 0
    }

    /// Sample rate, Hz.
    pub fn sample_rate(&self) -> u32 {
        self.read(regs::SAMPLE_RATE)
    }

    /// The master clock as the card last published it (`IMasterClock::GetTime`), without a trap.
    pub fn get_time(&self) -> RefTime {
        driver::master_time(self.platform.doorbell())
    }

    /// The latency clock as the card last published it, without a trap: an event earlier than this may play late.
    pub fn get_latency_time(&self) -> RefTime {
        driver::latency_time(self.platform.doorbell())
    }

    /// Says that everything before master time `until` is submitted (a grant never moves back), and wakes the card if
    /// it sleeps.
    pub fn grant(&self, until: RefTime) {
        if until > self.granted.get() {
            self.granted.set(until);
            driver::publish_grant(self.platform.doorbell(), until);
        }
        self.wake_if_asleep(self.platform.doorbell());
    }

    /// Wakes a card that sleeps through the tail or grant just stored, once a sleep.
    #[inline]
    pub(crate) fn wake_if_asleep(&self, page: &impl Page) {
        let sleep = driver::armed_sleep(page);
        if sleep != 0 {
            self.wake(sleep);
        }
    }

    #[cold]
    fn wake(&self, sleep: u32) {
        if self.woken.replace(sleep) != sleep {
            self.write(regs::WAKE, 1);
        }
    }

    /// Sleeps on `vector` until there is an `answer`.
    pub(crate) fn await_answer<T>(
        &self,
        vector: u16,
        limit: Duration,
        mut answer: impl FnMut() -> Option<T>,
    ) -> Result<T, DriverError> {
        let deadline = self.platform.now() + limit;
        loop {
            if let Some(answer) = answer() {
                return Ok(answer);
            }
            let left = deadline.saturating_sub(self.platform.now());
            if left.is_zero() {
                self.check_alive()?;
                return Err(DriverError::TimedOut(limit));
            }
            // The vector has other causes, too, and may have fired for one of them before.
            if !self.platform.wait(vector, left.min(Duration::from_millis(500))) {
                self.check_alive()?;
            }
        }
    }

    /// The platform beneath.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        self.platform.read32(register.offset)
    }

    pub(crate) fn read64(&self, register: Register) -> u64 {
        let low = self.platform.read32(register.offset);
        let high = self.platform.read32(register.offset + 4);
        u64::from(high) << 32 | u64::from(low)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.platform.write32(register.offset, value);
    }

    pub(crate) fn write64(&self, register: Register, value: u64) {
        self.platform.write32(register.offset, value as u32);
        self.platform.write32(register.offset + 4, (value >> 32) as u32);
    }
}
