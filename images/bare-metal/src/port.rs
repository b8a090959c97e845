//! x86 I/O ports: the few instructions behind the legacy devices.
//!
//! Fed by: `serial`, `exit`, `time`, `fw_cfg`, `pci`, `interrupts`. Feeds: QEMU's chipset.

use core::arch::asm;

/// Writes one byte to a port.
pub(crate) fn write8(port: u16, value: u8) {
    // SAFETY: an `out` touches no memory of its own. The only port that makes a device write memory is fw_cfg's DMA
    // register, and `fw_cfg` hands it buffers that it owns and waits until the device is done.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads one byte from a port; an absent device gives 0xff.
pub(crate) fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: as for `write8`; reading changes at most the device's own state.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a 16-bit port.
pub(crate) fn write16(port: u16, value: u16) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// Writes a 32-bit port.
pub(crate) fn write32(port: u16, value: u32) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// Reads a 32-bit port; an absent device gives all ones.
pub(crate) fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `read8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}
