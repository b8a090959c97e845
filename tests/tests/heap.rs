//! What may be called from the deferred half of an interrupt touches no heap: counted by an allocator that looks at the
//! driver's thread alone.

use dmus_card::capture::inputs::Input;
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::port::{Mxf, PortBuffer, RenderPort, Sequencer, ServiceGroup, ServiceGroups, ServiceSink, Unpacker};
use dmus_driver::{CaptureSink, CaptureStream, Card, DriverError, Platform, PlatformError, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of every caller; nothing is demanded besides.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as `alloc`.
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if COUNTED.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls, and how often they went to the heap.
fn counted<T>(call: impl FnOnce() -> T) -> (T, usize) {
    ALLOCATIONS.set(0);
    COUNTED.set(true);
    let result = call();
    COUNTED.set(false);
    (result, ALLOCATIONS.get())
}

/// A platform whose own doings do not count: here they are the whole card.
struct Beneath(Direct);

impl Beneath {
    fn uncounted<T>(&self, call: impl FnOnce(&Direct) -> T) -> T {
        let counted = COUNTED.replace(false);
        let result = call(&self.0);
        COUNTED.set(counted);
        result
    }
}

impl Platform for Beneath {
    fn read32(&self, offset: u32) -> u32 {
        self.uncounted(|direct| direct.read32(offset))
    }

    fn write32(&self, offset: u32, value: u32) {
        self.uncounted(|direct| direct.write32(offset, value));
    }

    fn doorbell(&self) -> &SharedMemory {
        self.0.doorbell()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.uncounted(|direct| direct.dma_alloc(len, align))
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.uncounted(|direct| direct.dma_free(memory));
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        self.uncounted(|direct| direct.wait(vector, limit))
    }

    fn now(&self) -> Duration {
        self.0.now()
    }
}

/// DDI: GetMessage, PutMessage, GetBuffer, GetBufferSize and PutBuffer may be called at DISPATCH_LEVEL: no heap; nor do
///     the filters, the sequencer, Notify and the service that it schedules.
#[test]
fn what_may_be_called_at_dispatch_level_touches_no_heap() -> anyhow::Result<()> {
    let card = Card::open(Beneath(Direct::with_inputs(vec![Input::Loopback])?), PointerWidth::Eight)?;
    let config = StreamConfig { slots: 64, buffers: 16, buffer_size: 64 };
    let stream = RenderStream::open(&card, 0, config)?;
    let capture = CaptureStream::open(&card, 1, config, true)?;
    let allocator = stream.allocator();
    let sequencer = Sequencer::new(allocator, stream.prefetch());
    let port = RenderPort::new(&stream);
    sequencer.connect_output(&stream)?;
    port.connect_output(&sequencer)?;
    port.set_state(State::Run)?;
    capture.set_state(State::Run)?;
    let group = ServiceGroup::of_vector(0).expect("a stream's vector");
    let groups = ServiceGroups::new();
    let sysex = [&[0xF0, 0x7D][..], &[1; 40], &[0xF7]].concat();
    let (mut memory, mut captured) = ([0; 1024], 0);
    let mut buffer = PortBuffer::new(&mut memory);

    // What the sink allocates for an input's first SysEx byte is no event's.
    let mut first = allocator.get_message()?;
    first.set_data(&sysex)?;
    let mut sink = CaptureSink::default();
    sink.put_message(&first, |_| {});
    drop(first);

    let (result, allocations) = counted(|| -> Result<(), DriverError> {
        for round in 0..50 {
            // All of the pool, in every form, until it says that it is empty.
            let now = port.now();
            allocator.put_buffer(allocator.get_buffer()?)?;
            let mut chain = allocator.get_message()?;
            chain.set_time(now);
            chain.set_data(&sysex[..allocator.get_buffer_size().min(sysex.len())])?;
            let mut member = allocator.get_message()?;
            member.set_time(now);
            member.set_data(&[0x90, 60, 0])?;
            chain.chain(member)?;
            port.put_message(chain)?;
            let mut package = allocator.get_message()?;
            package.set_time(now);
            let mut inner = allocator.get_message()?;
            inner.set_data(&[0xB0, 20, 1])?;
            package.package(inner)?;
            port.put_message(package)?;
            buffer.flush();
            for (late, bytes) in [(0, &[0xC0, 5][..]), (900_000_000, &[0xB0, 20, 2]), (100, &sysex), (50, &[0xF8])] {
                buffer.pack_unstructured(RefTime(now.0 + late), 0, bytes)?;
            }
            let mut events = Unpacker::new(buffer.bytes(), buffer.get_start_time())?;
            port.play_buffer(&mut events)?;
            while let Ok(message) = allocator.get_message() {
                port.put_message(message)?;
            }
            groups.notify(Some(group));
            groups.notify(None);
            groups.service(&[(group, &port)])?;
            let until = card.get_time().saturating_add(RefTime(100_000));
            card.grant(until);
            // The card's turns, which do not count, until it has come so far and everything that is due is completed.
            for _ in 0..1000 {
                let there = card.get_time() >= until;
                card.platform().wait(0, Duration::ZERO);
                while let Some(event) = capture.receive()? {
                    sink.put_message(&event, |_| captured += 1);
                }
                if there {
                    break;
                }
            }
            port.request_service()?;
            if round % 10 == 9 {
                port.set_state(State::Stop)?;
                port.set_state(State::Run)?;
            }
        }
        Ok(())
    });
    result?;
    assert_eq!(allocations, 0, "the driver went to the heap");
    assert!(allocator.counts().presented > 100 && captured > 100, "{:?}, {captured} captured", allocator.counts());
    // That the heap is watched at all.
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1)))).1, 2);
    Ok(())
}
