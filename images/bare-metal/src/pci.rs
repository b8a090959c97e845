//! PCI: finding the card, its BARs, and its MSI-X table.
//!
//! Fed by: configuration space through ports 0xcf8 and 0xcfc, walked by virtio-drivers' `PciRoot`. Feeds: `platform`.
//! The firmware has assigned all addresses; nothing is assigned here.

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType, PciRoot,
};

use crate::mmio::Mmio;
use crate::{interrupts, port};

const MSIX_CAPABILITY: u8 = 0x11;
/// Bits of the MSI-X control word, in the upper half of the capability's first word.
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;
/// An entry of the table: address low, address high, data, control (bit 0 masks).
const MSIX_ENTRY: usize = 16;

/// Configuration space holds 192 bytes of capabilities of 4 bytes or more; a longer chain goes in a circle.
const MAX_CAPABILITIES: usize = 48;

/// The card can't be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum PciError {
    #[error("no PCI device {vendor:04x}:{device:04x}: is it on QEMU's command line (-device vfio-user-pci)?")]
    NotFound { vendor: u16, device: u16 },
    #[error("{function}: BAR {index} is no memory BAR")]
    NoMemoryBar { function: DeviceFunction, index: u8 },
    #[error("{function}: the firmware gave BAR {index} no address; boot with SeaBIOS or OVMF on the machine q35 or pc")]
    Unassigned { function: DeviceFunction, index: u8 },
    #[error("{function}: BAR {index} is at {address:#x}, beyond the 4 GiB that are mapped: make it a 32-bit BAR")]
    TooHigh { function: DeviceFunction, index: u8, address: u64 },
    #[error("{0}: no MSI-X capability")]
    NoMsix(DeviceFunction),
    #[error("{function}: MSI-X table of {entries} entries at offset {offset:#x} is outside its BAR")]
    MsixTable { function: DeviceFunction, entries: usize, offset: usize },
}

/// Configuration space through the legacy ports: on every machine that QEMU has a BIOS for.
#[derive(Clone, Copy)]
pub(crate) struct PortAccess;

impl PortAccess {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;

    fn select(function: DeviceFunction, offset: u8) {
        let address =
            u32::from(function.bus) << 16 | u32::from(function.device) << 11 | u32::from(function.function) << 8;
        port::write32(Self::ADDRESS, 1 << 31 | address | u32::from(offset & !3));
    }
}

impl ConfigurationAccess for PortAccess {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        Self::select(function, offset);
        port::read32(Self::DATA)
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        Self::select(function, offset);
        port::write32(Self::DATA, data);
    }

    // SAFETY: there is one processor, and each access selects its address anew: clones cannot disturb each other.
    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// All devices, also those behind bridges.
pub(crate) fn devices() -> Vec<(DeviceFunction, DeviceFunctionInfo)> {
    const SECONDARY_BUS: u8 = 0x18;
    let root = PciRoot::new(PortAccess);
    let mut found = Vec::new();
    let mut buses = alloc::vec![0_u8];
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for (function, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let behind = (PortAccess.read_word(function, SECONDARY_BUS) >> 8) as u8;
                // A bus is visited once, so that a bridge with a wrong number can't make this endless.
                if behind != 0 && !buses.contains(&behind) {
                    buses.push(behind);
                }
            }
            found.push((function, info));
        }
    }
    found
}

/// A device that was found.
pub(crate) struct Device {
    function: DeviceFunction,
    root: PciRoot<PortAccess>,
}

impl Device {
    /// The first device with these ids.
    pub(crate) fn find(vendor: u16, device: u16) -> Result<Self, PciError> {
        let (function, _) = devices()
            .into_iter()
            .find(|(_, info)| info.vendor_id == vendor && info.device_id == device)
            .ok_or(PciError::NotFound { vendor, device })?;
        Ok(Self { function, root: PciRoot::new(PortAccess) })
    }

    /// The registers or memory behind a BAR.
    pub(crate) fn bar(&mut self, index: u8) -> Result<Mmio, PciError> {
        let function = self.function;
        let Ok(Some(BarInfo::Memory { address, size, .. })) = self.root.bar_info(function, index) else {
            return Err(PciError::NoMemoryBar { function, index });
        };
        if address == 0 {
            return Err(PciError::Unassigned { function, index });
        }
        if address.saturating_add(size) > 1 << 32 {
            return Err(PciError::TooHigh { function, index, address });
        }
        // SAFETY: the range is identity mapped, and the firmware keeps device windows apart from memory, which is all
        // that Rust objects lie in.
        Ok(unsafe { Mmio::new(address as usize, size as usize) })
    }

    /// Lets the device answer at its BARs and read and write memory.
    pub(crate) fn enable(&mut self) {
        let (_, command) = self.root.get_status_command(self.function);
        let command = command | Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE;
        self.root.set_command(self.function, command);
    }

    /// Turns bus mastering off or on.
    pub(crate) fn set_bus_master(&mut self, on: bool) {
        let (_, mut command) = self.root.get_status_command(self.function);
        command.set(Command::BUS_MASTER, on);
        self.root.set_command(self.function, command);
    }

    /// The device's function, and the configuration space that it is reached through.
    pub(crate) fn into_parts(self) -> (DeviceFunction, PciRoot<PortAccess>) {
        (self.function, self.root)
    }

    /// Where the capability `id` lies in configuration space.
    pub(crate) fn capability(&self, id: u8) -> Option<u8> {
        let mut capabilities = self.root.capabilities(self.function).take(MAX_CAPABILITIES);
        capabilities.find(|capability| capability.id == id).map(|capability| capability.offset)
    }

    /// Enables MSI-X: entry n of the device's table fires vector n. Returns how many there are, at most as many as
    /// vectors.
    pub(crate) fn enable_msix(&mut self) -> Result<usize, PciError> {
        let function = self.function;
        let capability = self.capability(MSIX_CAPABILITY).ok_or(PciError::NoMsix(function))?;
        let control = PortAccess.read_word(function, capability);
        let entries = (control >> 16 & 0x7ff) as usize + 1;
        let place = PortAccess.read_word(function, capability + 4);
        let table = self.bar((place & 7) as u8)?;
        let offset = (place & !7) as usize;
        if offset.saturating_add(entries * MSIX_ENTRY) > table.len() {
            return Err(PciError::MsixTable { function, entries, offset });
        }
        // No entry may fire before all are written.
        PortAccess.write_word(function, capability, control | MSIX_ENABLE | MSIX_MASK_ALL);
        let used = entries.min(interrupts::VECTORS);
        for index in 0..used {
            let entry = offset + index * MSIX_ENTRY;
            let (address, data) = interrupts::message(index);
            table.write32(entry, address as u32);
            table.write32(entry + 4, (address >> 32) as u32);
            table.write32(entry + 8, data);
            table.write32(entry + 12, 0);
        }
        PortAccess.write_word(function, capability, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        Ok(used)
    }
}
