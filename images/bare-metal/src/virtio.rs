//! What virtio-drivers needs of this machine: memory, and the transport of a device.
//!
//! Fed by `pci` and `heap`; feeds `sound`, and `bench` with QEMU's console.

use core::ptr::NonNull;

use anyhow::Context;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::heap;
use crate::pci::Device;

const VENDOR: u16 = 0x1af4;

/// The first device with one of these device ids of virtio's vendor, enabled.
pub(crate) fn open(devices: &[u16], missing: &'static str) -> anyhow::Result<PciTransport> {
    let mut device = devices.iter().find_map(|device| Device::find(VENDOR, *device).ok()).context(missing)?;
    device.enable();
    let (function, mut root) = device.into_parts();
    PciTransport::new::<Memory, _>(&mut root, function).map_err(|error| anyhow::anyhow!("virtio device: {error}"))
}

/// Memory is mapped one to one.
pub(crate) struct Memory;

// SAFETY: memory comes zeroed and page aligned from the heap, which gives it to nobody else; physical and virtual
// addresses are the same.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // An address of 0 is how the crate is told that there is none.
        heap::dma_alloc(pages * PAGE_SIZE, PAGE_SIZE).map_or((0, NonNull::dangling()), |(base, iova)| (iova, base))
    }

    // SAFETY: the caller gives back, once, what `dma_alloc` gave, with its size.
    unsafe fn dma_dealloc(_: PhysAddr, base: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: that is what `dma_free` asks for.
        unsafe { heap::dma_free(base, pages * PAGE_SIZE, PAGE_SIZE) };
        0
    }

    // SAFETY: this one asks nothing of its caller; using the pointer does, and BARs are mapped one to one.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    // SAFETY: this one asks nothing of its caller.
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.addr().get() as u64
    }

    // SAFETY: this one asks nothing of its caller.
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
