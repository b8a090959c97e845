//! The PCI function: ids, base address registers and interrupt vectors.
//!
//! Feeds the card's configuration space and every driver's enumeration.

/// Vendor id. Assigned to nobody in the public PCI id list.
pub const VENDOR_ID: u16 = 0xD5CA;
/// Device id of the card.
pub const DEVICE_ID: u16 = 0x0001;
/// Revision id.
pub const REVISION_ID: u8 = 1;
/// Class code, sub-class and programming interface: multimedia audio device.
pub const CLASS: u32 = 0x04_01_00;

/// BAR of the trapped registers ([`crate::regs`]).
pub const REGISTER_BAR: u8 = 0;
/// BAR of the shared doorbell page ([`crate::doorbell`]).
pub const DOORBELL_BAR: u8 = 2;
/// BAR of the MSI-X table and pending bits.
pub const MSIX_BAR: u8 = 4;

/// Bytes in each BAR (all three are 32-bit, non-prefetchable memory).
pub const BAR_SIZE: u32 = 4096;
/// Offset of the MSI-X pending bit array in its BAR; the table is at 0.
pub const MSIX_PBA_OFFSET: u32 = 0x800;

/// Streams that the card can hold at once.
pub const STREAMS: usize = 8;
/// MSI-X vector for faults, and for a reached grant while every stream is in STOP.
pub const CONTROL_VECTOR: u16 = STREAMS as u16;
/// MSI-X vectors: one a stream, then [`CONTROL_VECTOR`].
pub const VECTORS: u16 = CONTROL_VECTOR + 1;
