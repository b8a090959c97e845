//! PCI configuration space: identity, BARs, the PCI Express capability with function level reset, and MSI-X.
//!
//! Fed by config accesses of the transport; feeds the card with bus-master changes and resets. A byte array
//! with a mask of the bits that a guest can write, as configuration space is defined.

use dmus_interface::pci::{
    BAR_SIZE, CLASS, DEVICE_ID, DOORBELL_BAR, MSIX_BAR, MSIX_PBA_OFFSET, REGISTER_BAR, REVISION_ID, VECTORS, VENDOR_ID,
};

/// Bytes of configuration space, with the extended part of PCI Express.
pub(crate) const SIZE: usize = 4096;

mod offset {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const BAR0: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2C;
    pub(super) const SUBSYSTEM: usize = 0x2E;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3C;
    pub(super) const PCIE: usize = 0x40;
    pub(super) const DEVICE_CONTROL: usize = PCIE + 0x08;
    pub(super) const MSIX: usize = 0x80;
}

/// Memory space, bus master, SERR, interrupt disable.
const COMMAND_WRITABLE: u16 = MEMORY_SPACE | BUS_MASTER | 0x0100 | 0x0400;
const MEMORY_SPACE: u16 = 0x0002;
const BUS_MASTER: u16 = 0x0004;
const STATUS_CAPABILITIES: u16 = 0x0010;
const DEVICE_CAP_FLR: u32 = 1 << 28;
const DEVICE_CONTROL_FLR: u16 = 1 << 15;

/// What a write to configuration space asks of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    FunctionLevelReset,
}

#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
}

impl ConfigSpace {
    pub(crate) fn new() -> Self {
        let mut space = Self { bytes: Box::new([0; SIZE]), writable: Box::new([0; SIZE]) };
        space.set16(offset::VENDOR, VENDOR_ID);
        space.set16(offset::DEVICE, DEVICE_ID);
        space.allow16(offset::COMMAND, COMMAND_WRITABLE);
        space.set16(offset::STATUS, STATUS_CAPABILITIES);
        space.set32(offset::REVISION, CLASS << 8 | u32::from(REVISION_ID));
        for bar in [REGISTER_BAR, DOORBELL_BAR, MSIX_BAR] {
            // 32-bit, non-prefetchable: the low bits read 0, the address bits above the size can be written.
            space.allow32(offset::BAR0 + usize::from(bar) * 4, !(BAR_SIZE - 1));
        }
        space.set16(offset::SUBSYSTEM_VENDOR, VENDOR_ID);
        space.set16(offset::SUBSYSTEM, DEVICE_ID);
        space.set8(offset::CAPABILITIES, offset::PCIE as u8);
        space.allow16(offset::INTERRUPT_LINE, 0x00FF);
        space.add_pcie();
        space.add_msix();
        space
    }

    /// PCI Express capability, version 2, endpoint (PCI Express Base Specification, 7.5.3).
    fn add_pcie(&mut self) {
        self.set8(offset::PCIE, 0x10);
        self.set8(offset::PCIE + 1, offset::MSIX as u8);
        self.set16(offset::PCIE + 0x02, 0x0002);
        // 128-byte payloads, function level reset.
        self.set32(offset::PCIE + 0x04, 1 << 15 | DEVICE_CAP_FLR);
        // Error reporting, relaxed ordering, payload and read sizes.
        self.allow16(offset::DEVICE_CONTROL, 0x78FF);
        self.set16(offset::DEVICE_CONTROL, 0x2810);
        // Link: 2.5 GT/s, one lane; what it runs at is the same.
        self.set32(offset::PCIE + 0x0C, 0x0000_0011);
        self.set16(offset::PCIE + 0x12, 0x0011);
        // Device capabilities 2: completion time-out disable. Link capabilities 2: 2.5 GT/s.
        self.set32(offset::PCIE + 0x24, 1 << 4);
        self.allow16(offset::PCIE + 0x28, 1 << 4);
        self.set32(offset::PCIE + 0x2C, 1 << 1);
        self.set16(offset::PCIE + 0x30, 0x0001);
    }

    fn add_msix(&mut self) {
        self.set8(offset::MSIX, 0x11);
        self.set8(offset::MSIX + 1, 0);
        self.set16(offset::MSIX + 0x02, VECTORS - 1);
        // Function mask and enable.
        self.allow16(offset::MSIX + 0x02, 0xC000);
        self.set32(offset::MSIX + 0x04, u32::from(MSIX_BAR));
        self.set32(offset::MSIX + 0x08, MSIX_PBA_OFFSET | u32::from(MSIX_BAR));
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[offset::COMMAND], self.bytes[offset::COMMAND + 1]])
    }

    /// Whether the function may access memory.
    pub(crate) fn bus_master(&self) -> bool {
        self.command() & BUS_MASTER != 0
    }

    /// Whether the function answers accesses to its memory.
    pub(crate) fn memory_space(&self) -> bool {
        self.command() & MEMORY_SPACE != 0
    }

    /// The address that a BAR was given, if it is one.
    pub(crate) fn bar(&self, bar: u8) -> Option<u32> {
        let at = offset::BAR0 + usize::from(bar) * 4;
        let bytes = self.bytes.get(at..at + 4)?.try_into().ok()?;
        let address = u32::from_le_bytes(bytes);
        // All ones ask for the size.
        (address != 0 && address != !(BAR_SIZE - 1)).then_some(address)
    }

    /// Reads; all ones beyond the end.
    pub(crate) fn read(&self, at: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let place = usize::try_from(at).ok().and_then(|at| at.checked_add(i));
            *byte = place.and_then(|p| self.bytes.get(p)).copied().unwrap_or(0xFF);
        }
    }

    /// Writes the bits that can be written.
    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (i, byte) in data.iter().enumerate() {
            let Some(place) = usize::try_from(at).ok().and_then(|at| at.checked_add(i)) else {
                break;
            };
            let (Some(old), Some(mask)) = (self.bytes.get_mut(place), self.writable.get(place)) else {
                break;
            };
            *old = *old & !mask | byte & mask;
            if place == offset::DEVICE_CONTROL + 1 && u16::from(*byte) << 8 & DEVICE_CONTROL_FLR != 0 {
                effect = Effect::FunctionLevelReset;
            }
        }
        effect
    }

    fn set8(&mut self, at: usize, value: u8) {
        self.bytes[at] = value;
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, bits: u16) {
        self.writable[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }

    fn allow32(&mut self, at: usize, bits: u32) {
        self.writable[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, at: u64) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn capabilities_form_a_list_that_ends() {
        let space = ConfigSpace::new();
        let mut at = read32(&space, 0x34) & 0xFF;
        let mut ids = vec![];
        while at != 0 {
            let header = read32(&space, u64::from(at));
            ids.push(header & 0xFF);
            at = header >> 8 & 0xFF;
        }
        assert_eq!(ids, [0x10, 0x11]);
        assert_eq!(read32(&space, 0x80) >> 16 & 0x7FF, u32::from(VECTORS) - 1);
    }

    #[test]
    fn bars_size_to_a_page_and_absent_ones_to_nothing() {
        let mut space = ConfigSpace::new();
        for bar in 0..6u64 {
            space.write(0x10 + bar * 4, &[0xFF; 4]);
            let expected = if bar % 2 == 0 { 0xFFFF_F000 } else { 0 };
            assert_eq!(read32(&space, 0x10 + bar * 4), expected);
        }
    }

    #[test]
    fn a_bar_has_an_address_once_it_was_given_one() {
        let mut space = ConfigSpace::new();
        assert_eq!(space.bar(DOORBELL_BAR), None);
        space.write(0x18, &0xFEB0_0000_u32.to_le_bytes());
        assert_eq!(space.bar(DOORBELL_BAR), Some(0xFEB0_0000));
        space.write(0x18, &[0xFF; 4]);
        assert_eq!(space.bar(DOORBELL_BAR), None);
        assert!(!space.memory_space());
        space.write(4, &[0x02]);
        assert!(space.memory_space());
    }

    #[test]
    fn identity_cannot_be_written_and_bus_master_can() {
        let mut space = ConfigSpace::new();
        space.write(0, &[0; 64]);
        assert_eq!(read32(&space, 0), u32::from(DEVICE_ID) << 16 | u32::from(VENDOR_ID));
        assert!(!space.bus_master());
        space.write(4, &[0x06]);
        assert!(space.bus_master());
    }

    #[test]
    fn function_level_reset_is_seen_in_any_width_and_reads_zero() {
        let mut space = ConfigSpace::new();
        assert_eq!(space.write(0x48, &[0x10, 0x28]), Effect::None);
        assert_eq!(space.write(0x48, &[0x10, 0xA8]), Effect::FunctionLevelReset);
        assert_eq!(space.write(0x49, &[0x80]), Effect::FunctionLevelReset);
        assert_eq!(read32(&space, 0x48) & 0x8000, 0);
    }

    #[test]
    fn accesses_beyond_the_end_read_all_ones() {
        let mut space = ConfigSpace::new();
        space.write(4094, &[1, 2, 3, 4]);
        space.write(u64::MAX, &[1, 2]);
        let mut bytes = [0; 4];
        space.read(4094, &mut bytes);
        assert_eq!(bytes, [0, 0, 0xFF, 0xFF]);
        space.read(u64::MAX, &mut bytes);
        assert_eq!(bytes[1..], [0xFF; 3]);
    }
}
