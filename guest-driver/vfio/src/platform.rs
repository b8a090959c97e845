//! The driver's platform over VFIO: BARs of the card in this process, memory in the IOMMU, interrupts as eventfds.
//!
//! Fed by `device`, which has found the way clear, and by `memory`; feeds `dmus_driver`. One of the two modules here
//! with `unsafe`.

use crate::device::{Machine, VfioError};
use crate::memory::Memory;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::pci::{BAR_SIZE, DOORBELL_BAR, REGISTER_BAR, VECTORS};
use dmus_interface::regs::{self, control};
use pci_driver::backends::vfio::VfioPciDevice;
use pci_driver::device::PciDevice;
use pci_driver::regions::{AsPciSubregion, MappedOwningPciRegion, PciRegion, Permissions};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// The command register of configuration space, and its bits for memory space and bus-master.
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// One card, this process's alone: enabled, with its interrupts routed. Dropping it resets the card and takes
/// everything back.
pub struct VfioPlatform {
    address: String,
    registers: MappedOwningPciRegion,
    doorbell: SharedMemory,
    /// What `doorbell` is a view of.
    _page: MappedOwningPciRegion,
    vectors: Vec<OwnedFd>,
    /// Becomes readable when the kernel wants the card back. None if this kernel's VFIO cannot tell.
    release: Option<OwnedFd>,
    memory: RefCell<Memory>,
    device: VfioPciDevice,
    started: Instant,
}

/// How long a card may be busy before that counts: the kernel resets it when a program ends, killed ones too, and lets
/// go of it after that.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Tries until the card is not busy, or has been so for too long.
fn when_free<T>(mut attempt: impl FnMut() -> Result<T, VfioError>) -> Result<T, VfioError> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(VfioError::Busy(_)) if since.elapsed() < LETTING_GO => std::thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

impl VfioPlatform {
    fn open_device(directory: &Path, address: &str) -> Result<VfioPciDevice, VfioError> {
        VfioPciDevice::open(directory).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => VfioError::NoInterruptRemapping,
            // The crate's own, for an extension that the kernel does not have.
            io::ErrorKind::InvalidInput => VfioError::NoIommuDriver,
            io::ErrorKind::ResourceBusy => VfioError::Busy(format!("of {address}")),
            _ => VfioError::io(format!("VFIO does not give out the card {address}"))(error),
        })
    }

    /// Opens the card at a PCI address, as [`crate::find`] gives it.
    pub fn open(address: &str) -> Result<Self, VfioError> {
        let directory = when_free(|| Machine::default().check(address))?;
        let device = when_free(|| Self::open_device(&directory, address))?;
        let bar = |number: u8, part| {
            let incomplete = || VfioError::Incomplete { address: address.to_owned(), part };
            let bar = device.bar(number.into()).filter(|bar| bar.is_mappable()).ok_or_else(incomplete)?;
            let bar = bar.map(..u64::from(BAR_SIZE), Permissions::ReadWrite);
            let bar = bar.map_err(VfioError::io(format!("cannot map {part} of {address}")))?;
            if bar.len() == BAR_SIZE as usize { Ok(bar) } else { Err(incomplete()) }
        };
        let registers = bar(REGISTER_BAR, "registers (BAR0)")?;
        let page = bar(DOORBELL_BAR, "doorbell page (BAR2)")?;
        let base = NonNull::new(page.as_mut_ptr())
            .ok_or_else(|| VfioError::Incomplete { address: address.to_owned(), part: "doorbell page" })?;
        // SAFETY: page aligned, mapped for as long as `_page`, which lives as long as this view of it, and reached only
        // through this view.
        let doorbell = unsafe { SharedMemory::new(base, page.len()) };
        let mut platform = Self {
            address: address.to_owned(),
            registers,
            doorbell,
            _page: page,
            vectors: Vec::new(),
            release: release_requests(),
            memory: RefCell::new(Memory::new(&device.iommu())),
            device,
            started: Instant::now(),
        };
        platform.set_command(MEMORY_SPACE | BUS_MASTER)?;
        platform.route_interrupts()?;
        // What would only be an "out of memory" in the driver can be explained here.
        platform.memory.get_mut().grow(&platform.device.iommu(), 1, Permissions::ReadWrite).map_err(|error| {
            // The crate wraps the kernel's error into its own words.
            match error.kind() == io::ErrorKind::OutOfMemory || error.to_string().contains("Cannot allocate memory") {
                true => VfioError::LockedMemory,
                false => VfioError::io("cannot map memory for the card")(error),
            }
        })?;
        Ok(platform)
    }

    /// The card's PCI address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What becomes readable when a vector fires. [`Platform::wait`] empties it.
    pub fn vector(&self, vector: u16) -> Option<BorrowedFd<'_>> {
        self.vectors.get(usize::from(vector)).map(AsFd::as_fd)
    }

    /// What becomes readable when the kernel wants the card back, because somebody unbinds or removes it: both wait
    /// until this platform is dropped.
    pub fn release(&self) -> Option<BorrowedFd<'_>> {
        self.release.as_ref().map(AsFd::as_fd)
    }

    /// Whether the kernel wants the card back.
    pub fn must_release(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.release.as_ref().is_some_and(|fd| matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)), Ok(1)))
    }

    /// Memory that the card may only read, and whose view [`Self::dma_revoke`] can take from it: to try a driver that
    /// has lost its mind.
    pub fn dma_alloc_apart(&self, len: usize) -> Result<DmaMemory, PlatformError> {
        let memory = self.memory.borrow_mut().allocate_apart(&self.device.iommu(), len);
        memory.map_err(|_| PlatformError::NoMemory(len))
    }

    /// Takes the card's view of the memory of [`Self::dma_alloc_apart`] at `iova` away. The driver keeps its own.
    pub fn dma_revoke(&self, iova: u64) -> Result<(), PlatformError> {
        let revoked = self.memory.borrow_mut().revoke(&self.device.iommu(), iova);
        revoked.map_err(|_| PlatformError::Device("the IOMMU does not take a mapping back"))
    }

    /// Reads 2 bytes of BAR0, which has no such registers: all ones.
    pub fn read16(&self, offset: u32) -> u16 {
        self.registers.read_le_u16(offset.into()).unwrap_or(u16::MAX)
    }

    fn route_interrupts(&mut self) -> Result<(), VfioError> {
        for _ in 0..VECTORS {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            self.vectors.push(fd.map_err(|error| VfioError::io("cannot make an eventfd")(error.into()))?);
        }
        let interrupts = self.device.interrupts();
        if interrupts.msi_x().max() < self.vectors.len() {
            return Err(VfioError::Incomplete { address: self.address.clone(), part: "MSI-X vectors" });
        }
        let fds: Vec<_> = self.vectors.iter().map(AsRawFd::as_raw_fd).collect();
        interrupts.msi_x().enable(&fds).map_err(VfioError::io("cannot route the card's interrupts"))
    }

    /// Turns bus mastering off or on.
    pub(crate) fn set_bus_master(&self, on: bool) -> Result<(), VfioError> {
        self.set_command(if on { MEMORY_SPACE | BUS_MASTER } else { MEMORY_SPACE })
    }

    /// Sets bits of the command register, or with 0 clears those of [`MEMORY_SPACE`] and [`BUS_MASTER`].
    fn set_command(&self, bits: u16) -> Result<(), VfioError> {
        let config = self.device.config();
        let config = config.as_subregion();
        let now = config.read_le_u16(COMMAND);
        let set = now.and_then(|now| config.write_le_u16(COMMAND, now & !(MEMORY_SPACE | BUS_MASTER) | bits));
        set.map_err(VfioError::io("cannot write the card's command register"))
    }
}

/// VFIO_DEVICE_SET_IRQS, and the index of the interrupt by which vfio-pci asks for its device (linux/vfio.h).
const SET_IRQS: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(b';', 110);
const REQUEST_IRQ: u32 = 4;
/// An eventfd, which the kernel is to signal.
const EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

/// The kernel's `struct vfio_irq_set` with one eventfd.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    fd: i32,
}

/// An eventfd that the kernel signals when it wants the device of this process back.
fn release_requests() -> Option<OwnedFd> {
    let release = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    // The crate keeps the device's descriptor to itself, and knows none but the interrupts of the bus.
    let table = std::fs::read_dir("/proc/self/fd").ok()?;
    let is_device = |path: &Path| std::fs::read_link(path).is_ok_and(|to| to == Path::new("anon_inode:[vfio-device]"));
    let device = table.flatten().map(|entry| entry.path()).find(|path| is_device(path))?;
    let device: RawFd = device.file_name()?.to_str()?.parse().ok()?;
    let set = IrqSet {
        argsz: size_of::<IrqSet>() as u32,
        flags: EVENTFD_TRIGGER,
        index: REQUEST_IRQ,
        start: 0,
        count: 1,
        fd: release.as_raw_fd(),
    };
    // SAFETY: the descriptor is that of the device which this process has opened a moment ago and closes after the
    // last use of what is borrowed here; the request reads one `IrqSet` and keeps nothing of it.
    let asked = unsafe {
        let device = BorrowedFd::borrow_raw(device);
        rustix::ioctl::ioctl(device, rustix::ioctl::Setter::<SET_IRQS, IrqSet>::new(set))
    };
    asked.ok().map(|()| release)
}

impl Drop for VfioPlatform {
    fn drop(&mut self) {
        // After a reset the card is quiet: no memory that it still knows is unmapped under it. A card that is gone does
        // not mind.
        self.write32(regs::CONTROL.offset, control::RESET);
        let _ = self.set_command(MEMORY_SPACE);
        let _ = self.device.interrupts().msi_x().disable();
        self.memory.get_mut().release(&self.device.iommu());
    }
}

impl Platform for VfioPlatform {
    fn read32(&self, offset: u32) -> u32 {
        // What is no register reads all ones, as on the bus.
        self.registers.read_le_u32(offset.into()).unwrap_or(u32::MAX)
    }

    fn write32(&self, offset: u32, value: u32) {
        let _ = self.registers.write_le_u32(offset.into(), value);
    }

    fn doorbell(&self) -> &SharedMemory {
        &self.doorbell
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        let memory = self.memory.borrow_mut().allocate(&self.device.iommu(), len, align);
        memory.map_err(|_| PlatformError::NoMemory(len))
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.memory.borrow_mut().free(&memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        let Some(fd) = self.vector(vector) else {
            return false;
        };
        let limit = Timespec::try_from(limit).ok();
        // A signal ends the wait early, so that whoever waits can look for it.
        let fired = matches!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], limit.as_ref()), Ok(1));
        // Empties the counter; an empty one is not an error here.
        let _ = rustix::io::read(fd, &mut [0; 8]);
        fired
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
