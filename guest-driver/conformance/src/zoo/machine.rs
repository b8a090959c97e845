//! The machine that mistakes are made on: a platform, and what some of them need besides.
//!
//! Implemented by whatever drives the card: a process that the card shares, the bare-metal guest, Linux over VFIO.

use alloc::format;
use anyhow::{bail, ensure};
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;
use dmus_driver::Platform;
use dmus_driver::dma::DmaMemory;
use dmus_interface::doorbell;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::{self, feature};

/// How long the card may take until it has nothing left to do.
const LIMIT: Duration = Duration::from_secs(5);
/// How much of real time passes until a card that never rests has looked at everything, 100 ns.
const ROUND: u64 = 500_000;

/// See the module.
pub trait Machine: Platform {
    /// Lets the card do all that it has to. The registers are accessed meanwhile, so that memory which is away counts
    /// as gone, and not as being moved. `rung` is the number of the card's sleep that was rung for last.
    ///
    /// # Errors
    /// The card does not come to rest within seconds.
    fn settle(&self, rung: &Cell<u32>) -> anyhow::Result<()> {
        settle_by_page(self, rung)
    }

    /// Lets the card go to sleep, in virtual time.
    ///
    /// # Errors
    /// It does not within seconds.
    fn let_sleep(&self) -> anyhow::Result<()> {
        sleep_by_page(self)
    }

    /// Reads 2 bytes of BAR0.
    fn read16(&self, offset: u32) -> u16;

    /// Turns the card's bus mastering off or on, in configuration space.
    ///
    /// # Errors
    /// That cannot be written.
    fn set_bus_master(&self, on: bool) -> anyhow::Result<()>;

    /// Memory that the card may only read. The driver should not write to it either, and it is not given back.
    ///
    /// # Errors
    /// There is not so much.
    fn dma_alloc_read_only(&self, len: usize) -> anyhow::Result<DmaMemory>;

    /// The same in a mapping of its own, which [`Self::dma_revoke`] takes from the card.
    ///
    /// # Errors
    /// There is not so much, or not here.
    fn dma_alloc_apart(&self, len: usize) -> anyhow::Result<DmaMemory> {
        bail!("this machine cannot map {len} bytes by themselves");
    }

    /// Takes the mapping at this address of [`Self::dma_alloc_apart`] from the card.
    ///
    /// # Errors
    /// There is no such mapping.
    fn dma_revoke(&self, iova: u64) -> anyhow::Result<()> {
        bail!("this machine cannot unmap {iova:#x}");
    }

    /// Refuses the card's process allocations of more bytes than this, until it is called without a number.
    ///
    /// # Errors
    /// The card has another process.
    fn limit_card_memory(&self, largest: Option<usize>) -> anyhow::Result<()> {
        bail!("this machine cannot limit the card's memory to {largest:?} bytes");
    }
}

/// [`Machine::settle`] of a card that has a thread of its own, as its sleeps show on the page.
///
/// # Errors
/// The card does not come to rest within seconds.
pub fn settle_by_page<M: Machine + ?Sized>(machine: &M, rung: &Cell<u32>) -> anyhow::Result<()> {
    // What it looked at before the last store of this side is looked at again in the second round.
    (0..2).try_for_each(|_| rest(machine, rung))
}

/// [`Machine::let_sleep`] of a card that has a thread of its own.
///
/// # Errors
/// The card does not go to sleep within seconds.
pub fn sleep_by_page<M: Machine + ?Sized>(machine: &M) -> anyhow::Result<()> {
    await_sleep(machine, |sleep| sleep != 0)
}

/// Waits until the card has looked at everything anew and found nothing to do: it sleeps once more then. One that never
/// sleeps, since streams run in real time, has once its clock has moved.
fn rest<M: Machine + ?Sized>(machine: &M, rung: &Cell<u32>) -> anyhow::Result<()> {
    let page = machine.doorbell();
    let time = || page.load_u64(doorbell::MASTER_TIME, Ordering::Acquire);
    let is_virtual = machine.read32(regs::FEATURES.offset) & feature::VIRTUAL_CLOCK != 0;
    let (before, began) = (page.load_u32(doorbell::WAKE_ARMED, Ordering::Acquire), time());
    if before != 0 && rung.replace(before) != before {
        // Ends the present sleep.
        machine.write32(regs::WAKE.offset, 1);
    }
    await_sleep(machine, |sleep| sleep != 0 && sleep != before || !is_virtual && time().saturating_sub(began) >= ROUND)
}

/// Waits until the number of the card's sleep is as it should be.
fn await_sleep<M: Machine + ?Sized>(machine: &M, is_right: impl Fn(u32) -> bool) -> anyhow::Result<()> {
    let page = machine.doorbell();
    let deadline = machine.now() + LIMIT;
    while !is_right(page.load_u32(doorbell::WAKE_ARMED, Ordering::Acquire)) {
        ensure!(machine.now() < deadline, "the card did not come to rest within {LIMIT:?}");
        machine.wait(0, Duration::from_millis(1));
    }
    Ok(())
}

/// Where mistakes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the card's own process.
    InProcess,
    /// In the bare-metal guest.
    BareMetal,
    /// In Linux, through VFIO.
    Linux,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::InProcess, Self::BareMetal, Self::Linux];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProcess => "in process",
            Self::BareMetal => "bare-metal",
            Self::Linux => "linux",
        })
    }
}

/// What a mistake needs that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To map memory for the card, and to unmap it: [`Machine::dma_alloc_apart`].
    Mappings,
    /// A card that is short of memory: [`Machine::limit_card_memory`].
    CardMemory,
}

impl Needs {
    /// Whether a place has it.
    pub fn are_met(self, place: Place) -> bool {
        match self {
            Self::Nothing => true,
            Self::Mappings => place != Place::BareMetal,
            Self::CardMemory => place == Place::InProcess,
        }
    }

    /// Why some places do not have it; empty if all do.
    fn why(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Mappings => "bare metal has no IOMMU to unmap memory with",
            Self::CardMemory => "only there can the card be short of memory",
        }
    }
}

impl fmt::Display for Needs {
    /// Where it is met, and why nowhere else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places = Place::ALL.into_iter().filter(|place| self.are_met(*place));
        if let Some(first) = places.next() {
            write!(f, "{first}")?;
        }
        places.try_for_each(|place| write!(f, ", {place}"))?;
        match self.why() {
            "" => Ok(()),
            why => f.write_str(&format!(" only: {why}")),
        }
    }
}
