//! Memory of the peer's guest, and the driver half of the peer: `virtio-drivers`' `VirtQueue` on it. The only `unsafe`
//! of the benchmark.
//!
//! Fed by the peer's loop with bytes; feeds the device half, which sees the same memory through `vm-memory`.

use anyhow::Context;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Entries of the queue, and buffers.
pub(crate) const ENTRIES: usize = 256;
/// Bytes in a buffer.
pub(crate) const BUFFER: usize = 256;
/// The device's address of the memory, and its size: enough for all queues that a run makes.
const BASE: u64 = 0x10_0000;
const SIZE: usize = 8 << 20;

/// The one piece of guest memory of this process. Never unmapped.
static MEMORY: OnceLock<GuestMemoryMmap> = OnceLock::new();
/// Where it lies here, and how much of it is given out.
static HOST: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

/// The memory as the device sees it.
pub(crate) fn memory() -> anyhow::Result<&'static GuestMemoryMmap> {
    if let Some(memory) = MEMORY.get() {
        return Ok(memory);
    }
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), SIZE)])?;
    let memory = MEMORY.get_or_init(|| memory);
    HOST.store(memory.get_host_address(GuestAddress(BASE))?.addr(), Ordering::Release);
    Ok(memory)
}

struct Pages;

// SAFETY: pages come out of one mapping that is never unmapped, each once, page aligned, and zero since the kernel made
// them.
unsafe impl Hal for Pages {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let place = USED.fetch_add(pages * PAGE_SIZE, Ordering::Relaxed);
        let address = GuestAddress(BASE + place as u64);
        let held = MEMORY.get().filter(|_| place + pages * PAGE_SIZE <= SIZE);
        let host = held.and_then(|memory| NonNull::new(memory.get_host_address(address).ok()?));
        // An address of 0 is how the crate is told that there is none.
        host.map_or((0, NonNull::dangling()), |host| (address.0, host))
    }

    // SAFETY: this one asks nothing of its caller.
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    // SAFETY: this one asks nothing of its caller.
    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("only transports over MMIO ask for this")
    }

    // SAFETY: as above; buffers lie in the memory already, so that sharing one is arithmetic.
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        (buffer.addr().get() - HOST.load(Ordering::Relaxed)) as u64 + BASE
    }

    // SAFETY: this one asks nothing of its caller.
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The driver half: a queue of [`ENTRIES`], with a buffer of [`BUFFER`] bytes for each.
pub(crate) struct Driver {
    queue: VirtQueue<Pages, ENTRIES>,
    buffers: NonNull<u8>,
    free: Vec<usize>,
    /// The buffer and length that each token stands for.
    carried: [(usize, usize); ENTRIES],
}

impl Driver {
    /// The driver half, and where its queue lies: descriptors, available and used ring.
    pub(crate) fn new() -> anyhow::Result<(Self, [u64; 3])> {
        memory()?;
        let mut wiring = Wiring::default();
        let queue = VirtQueue::new(&mut wiring, 0, false, false)?;
        let (address, buffers) = Pages::dma_alloc(ENTRIES * BUFFER / PAGE_SIZE, BufferDirection::DriverToDevice);
        (address != 0).then_some(()).context("the peer's guest memory is used up")?;
        let driver = Self { queue, buffers, free: (0..ENTRIES).collect(), carried: [(0, 0); ENTRIES] };
        Ok((driver, wiring.queue.context("no queue was set up")?))
    }

    fn buffer(&self, index: usize, len: usize) -> &'static [u8] {
        assert!(index < ENTRIES && len <= BUFFER);
        // SAFETY: inside this driver's pages, which are never unmapped; written only by `send`, while nobody holds the
        // slice.
        unsafe { std::slice::from_raw_parts(self.buffers.as_ptr().add(index * BUFFER), len) }
    }

    /// Fills a free buffer and adds it to the queue.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let index = self.free.pop().context("no buffer is free")?;
        assert!(bytes.len() <= BUFFER);
        // SAFETY: the buffer is free: neither the device nor a slice of it is in use; inside this driver's pages.
        unsafe {
            let place = self.buffers.as_ptr().add(index * BUFFER);
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        let buffer = self.buffer(index, bytes.len());
        // SAFETY: the buffer is neither written nor freed before its token is popped.
        let token = unsafe { self.queue.add(&[buffer], &mut []) }?;
        self.carried[usize::from(token)] = (index, bytes.len());
        Ok(())
    }

    /// Whether the device wants to be told of what was added.
    pub(crate) fn should_notify(&self) -> bool {
        self.queue.should_notify()
    }

    /// Takes all used buffers back; says how many.
    pub(crate) fn reclaim(&mut self) -> anyhow::Result<u64> {
        let mut done = 0;
        while let Some(token) = self.queue.peek_used() {
            let (index, len) = self.carried[usize::from(token) % ENTRIES];
            let buffer = self.buffer(index, len);
            // SAFETY: the very buffer that `add` gave this token for.
            unsafe { self.queue.pop_used(token, &[buffer], &mut []) }?;
            self.free.push(index);
            done += 1;
        }
        Ok(done)
    }
}

/// A transport that only passes on where the queue lies.
#[derive(Default)]
struct Wiring {
    queue: Option<[u64; 3]>,
}

impl Transport for Wiring {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }
    fn read_device_features(&mut self) -> u64 {
        0
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        ENTRIES as u32
    }
    fn notify(&mut self, _: u16) {}
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::DRIVER_OK
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, _: u32, descriptors: PhysAddr, available: PhysAddr, used: PhysAddr) {
        self.queue = Some([descriptors, available, used]);
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T>(&self, _: usize) -> virtio_drivers::Result<T> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
    fn write_config_space<T>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
}
