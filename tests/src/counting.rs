//! An allocator that counts: for tests of what a boundary may take, which need a process of their own.
//!
//! Fed by every allocation of a test that makes it its global allocator; read by that test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted.
pub struct Counting;

/// Allocations so far.
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are allocated now.
pub static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most that they were, since this was last set.
pub static PEAK: AtomicUsize = AtomicUsize::new(0);

/// What is larger than this is refused, as by a machine without memory.
pub static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// What one thread has allocated.
#[derive(Clone, Copy)]
struct Own {
    /// Less than nothing if it has freed what others allocated.
    live: isize,
    peak: isize,
    times: usize,
}

thread_local! {
    static OWN: Cell<Own> = const { Cell::new(Own { live: 0, peak: 0, times: 0 }) };
}

/// So many bytes more, or less. Nothing is counted of a thread that is ending.
fn count(bytes: isize) {
    let _ = OWN.try_with(|own| {
        let Own { live, peak, times } = own.get();
        let live = live + bytes;
        own.set(Own { live, peak: peak.max(live), times: times + usize::from(bytes > 0) });
    });
}

// SAFETY: hands every call that it does not refuse on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of every caller; nothing is demanded besides.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as `alloc`.
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What something gives, the most bytes that this thread had allocated for it at once, and how often it allocated.
pub fn counted<R>(what: impl FnOnce() -> R) -> (R, usize, usize) {
    let before = OWN.get();
    OWN.set(Own { peak: before.live, ..before });
    let result = what();
    let after = OWN.get();
    (result, (after.peak - before.live) as usize, after.times - before.times)
}
