//! The peer: `virtio-drivers` as the driver, rust-vmm's `virtio-queue` and `vm-memory` as the device.
//!
//! Fed by the benchmark with numbers of events. Neither side notifies: both poll, which is the fastest that the crates
//! do.

use crate::guest_memory::{BUFFER, Driver, ENTRIES, memory};
use crate::{Lane, payload, windowed};
use anyhow::ensure;
use std::cell::RefCell;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

/// The device half.
struct Device {
    queue: Queue,
    memory: &'static GuestMemoryMmap,
    heads: [u16; ENTRIES],
    data: [u8; BUFFER],
}

impl Device {
    fn new([descriptors, available, used]: [u64; 3]) -> anyhow::Result<Self> {
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let mut queue = Queue::new(ENTRIES as u16)?;
        let (low, high) = halves(descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        let memory = memory()?;
        ensure!(queue.is_valid(memory), "the queue is not valid");
        queue.disable_notification(memory)?;
        Ok(Self { queue, memory, heads: [0; ENTRIES], data: [0; BUFFER] })
    }

    /// Takes what is available, reads it, hands it over, and gives it back; says how many there were.
    fn serve(&mut self) -> anyhow::Result<u64> {
        // All that is available is read first, so that the index is loaded once a batch.
        let mut served = 0;
        for (place, chain) in self.heads.iter_mut().zip(self.queue.iter(self.memory)?) {
            *place = chain.head_index();
            served += 1;
            for descriptor in chain {
                let data = self.data.get_mut(..descriptor.len() as usize).filter(|_| !descriptor.is_write_only());
                if let Some(data) = data {
                    self.memory.read_slice(data, descriptor.addr())?;
                    black_box(&*data);
                }
            }
        }
        for head in &self.heads[..served as usize] {
            self.queue.add_used(self.memory, *head, 0)?;
        }
        Ok(served)
    }
}

/// Driver and device take turns in one thread, a batch each.
pub(crate) fn one_thread(bytes: usize, batch: u64) -> anyhow::Result<Lane> {
    let (mut driver, wiring) = Driver::new()?;
    let mut device = Device::new(wiring)?;
    let data = payload(bytes);
    Ok(Box::new(move |events| {
        let started = Instant::now();
        for _ in 0..events / batch {
            for _ in 0..batch {
                driver.send(&data)?;
            }
            black_box(driver.should_notify());
            device.serve()?;
            ensure!(driver.reclaim()? == batch, "the device did not serve the whole batch");
        }
        Ok(started.elapsed())
    }))
}

/// The driver here, the device in a thread of its own, which lasts as long as a call: polling on, it would take a core
/// from the others.
pub(crate) fn two_threads(bytes: usize) -> anyhow::Result<Lane> {
    let (driver, wiring) = Driver::new()?;
    let driver = RefCell::new(driver);
    let mut device = Device::new(wiring)?;
    let data = payload(bytes);
    Ok(Box::new(move |events| {
        let stop = AtomicBool::new(false);
        let device = &mut device;
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if device.serve()? == 0 {
                        spin_loop();
                    }
                }
                anyhow::Ok(())
            });
            let send = |count| (0..count).try_for_each(|_| driver.borrow_mut().send(&data));
            let taken = windowed(events, send, || driver.borrow_mut().reclaim());
            stop.store(true, Ordering::Relaxed);
            serving.join().map_err(|_| anyhow::anyhow!("the device panicked"))??;
            taken
        })
    }))
}
