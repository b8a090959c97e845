//! The driver's platform on this machine: the card's BARs, DMA memory, halted waits, a clock.
//!
//! Fed by `pci`, `heap`, `interrupts` and `time`; feeds `dmus_driver`, and the wrong drivers of `dmus_conformance`.
//! Memory is mapped one to one, so an address of the guest is the card's too.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::time::Duration;

use dmus_driver::PlatformError;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_interface::pci::{DEVICE_ID, DOORBELL_BAR, REGISTER_BAR, VENDOR_ID};

use crate::interrupts::{self, VECTORS};
use crate::mmio::Mmio;
use crate::pci::{Device, PciError};
use crate::{heap, time};

/// Alignment of every DMA allocation, the most that anything asks for.
const ALIGN: usize = 4096;

/// Where the BIOS lies, which has made itself read-only for devices, too.
const BIOS: usize = 0xF_0000;
const BIOS_LEN: usize = 64 << 10;

/// One card, enabled, with its interrupts routed.
pub(crate) struct Platform {
    device: RefCell<Device>,
    registers: Mmio,
    doorbell: SharedMemory,
    /// The counter of each vector when its last wait ended.
    seen: [Cell<u64>; VECTORS],
}

impl Platform {
    /// Finds the card, maps BAR0 and BAR2, enables memory, bus-master and MSI-X.
    pub(crate) fn open() -> Result<Self, PciError> {
        let mut card = Device::find(VENDOR_ID, DEVICE_ID)?;
        let registers = card.bar(REGISTER_BAR)?;
        let page = card.bar(DOORBELL_BAR)?;
        let base = NonNull::new(page.as_ptr()).expect("`Device::bar` refuses address 0");
        // SAFETY: the BAR is memory of the host for as long as the guest runs, page aligned, and reached only through
        // this.
        let doorbell = unsafe { SharedMemory::new(base, page.len()) };
        card.enable();
        card.enable_msix()?;
        let seen = core::array::from_fn(|index| Cell::new(interrupts::count(index)));
        Ok(Self { device: RefCell::new(card), registers, doorbell, seen })
    }
}

impl dmus_conformance::zoo::Machine for Platform {
    fn read16(&self, offset: u32) -> u16 {
        self.registers.read16(offset as usize)
    }

    fn set_bus_master(&self, on: bool) -> anyhow::Result<()> {
        self.device.try_borrow_mut()?.set_bus_master(on);
        Ok(())
    }

    fn dma_alloc_read_only(&self, len: usize) -> anyhow::Result<DmaMemory> {
        let base = NonNull::new(BIOS as *mut u8).filter(|_| len <= BIOS_LEN);
        let base = base.ok_or(PlatformError::NoMemory(len))?;
        // SAFETY: identity mapped for as long as the guest runs, page aligned, and memory of the firmware's, in which
        // no Rust object lies.
        let memory = unsafe { SharedMemory::new(base, len) };
        Ok(DmaMemory { memory, iova: BIOS as u64 })
    }
}

impl dmus_driver::Platform for Platform {
    fn read32(&self, offset: u32) -> u32 {
        self.registers.read32(offset as usize)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.registers.write32(offset as usize, value);
    }

    fn doorbell(&self) -> &SharedMemory {
        &self.doorbell
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        debug_assert!(align <= ALIGN);
        let (base, iova) = heap::dma_alloc(len, ALIGN).ok_or(PlatformError::NoMemory(len))?;
        // SAFETY: fresh from the heap, which gives it to nobody else until `dma_free`; aligned.
        let memory = unsafe { SharedMemory::new(base, len) };
        Ok(DmaMemory { memory, iova })
    }

    fn dma_free(&self, memory: DmaMemory) {
        let (base, len) = (memory.memory.base(), memory.memory.len());
        // SAFETY: it came from `dma_alloc`, and by the trait's contract neither side uses it any more.
        unsafe { heap::dma_free(base, len, ALIGN) };
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        let Some(seen) = self.seen.get(usize::from(vector)) else {
            return false;
        };
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let vector = usize::from(vector);
        let fired = time::halt_until(limit, || interrupts::count(vector) != seen.get());
        if fired {
            seen.set(interrupts::count(vector));
        }
        fired
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(time::now_ns())
    }
}
