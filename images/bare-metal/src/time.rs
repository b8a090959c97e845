//! Time: the processor's time-stamp counter, scaled to nanoseconds, and the timer that ends a halt.
//!
//! Fed by: CPUID or the PIT (how fast the counter runs). Feeds: `platform`'s clock and waits.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{interrupts, port};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The PIT's clock, in Hz.
const PIT_HZ: u64 = 1_193_182;
/// About 5 ms: the error of one tick at each end is then 0.03 %.
const PIT_TICKS: u16 = 5_966;
/// Each look takes a microsecond or more; a PIT that stands still is given up after this many.
const PIT_LOOKS: u32 = 100_000;

/// Taken when nothing tells: right for QEMU's `-icount`, and of the right order anywhere.
const FALLBACK_HZ: u64 = NS_PER_SECOND;

/// A halt is never longer, so that a lost interrupt costs no more than this.
const LONGEST_HALT_NS: u64 = 10_000_000;

static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds in a tick of the counter, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Timer ticks in a nanosecond, times 2^32.
static TIMER_SCALE: AtomicU64 = AtomicU64::new(1 << 32);

/// Finds how fast the counter and the timer run. Takes up to 6 ms.
pub(crate) fn init() {
    interrupts::start_silent_timer();
    let start = ticks();
    // The fallback is a guess, on a machine that has neither: limits are longer or shorter there.
    let hz = cpuid_hz().or_else(pit_hz).unwrap_or(FALLBACK_HZ);
    SCALE.store(((NS_PER_SECOND as u128) << 32).div_euclid(u128::from(hz)) as u64, Ordering::Relaxed);
    START.store(start, Ordering::Relaxed);
    while now_ns() < 1_000_000 {
        core::hint::spin_loop();
    }
    let timer = u128::from(interrupts::silent_timer()) << 32;
    TIMER_SCALE.store((timer / u128::from(now_ns())) as u64, Ordering::Relaxed);
}

/// Nanoseconds since `init`. Never goes back.
pub fn now_ns() -> u64 {
    let passed = ticks().wrapping_sub(START.load(Ordering::Relaxed));
    ((u128::from(passed) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Halts until `done` says so, asked after each interrupt, for at most `limit_ns`; says whether it is done.
pub(crate) fn halt_until(limit_ns: u64, done: impl Fn() -> bool) -> bool {
    let deadline = now_ns().saturating_add(limit_ns);
    loop {
        let mut over = false;
        interrupts::halt_if(|| {
            let left = deadline.saturating_sub(now_ns());
            over = done() || left == 0;
            if !over {
                let halt = u128::from(left.min(LONGEST_HALT_NS));
                let ticks = (halt * u128::from(TIMER_SCALE.load(Ordering::Relaxed))) >> 32;
                interrupts::start_timer(u32::try_from(ticks).unwrap_or(u32::MAX));
            }
            !over
        });
        if over {
            return done();
        }
    }
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and nothing here forbids reading it.
    unsafe { _rdtsc() }
}

/// The frequency in the processor's own words (Intel) or in a hypervisor's (KVM, VMware).
fn cpuid_hz() -> Option<u64> {
    const HYPERVISOR: u32 = 0x4000_0000;
    const TIMING: u32 = HYPERVISOR + 0x10;
    let in_hypervisor = __cpuid(1).ecx >> 31 != 0;
    // A processor's answers beyond its last leaf mean nothing; TCG's last hypervisor leaf is below the one for timing.
    if in_hypervisor && (TIMING..TIMING + 0x100).contains(&__cpuid(HYPERVISOR).eax) {
        let khz = u64::from(__cpuid(TIMING).eax);
        if khz != 0 {
            return Some(khz * 1000);
        }
    }
    let last = __cpuid(0).eax;
    if last >= 0x15 {
        let ratio = __cpuid(0x15);
        if ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0 {
            return Some(u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax));
        }
    }
    if last >= 0x16 {
        let mhz = u64::from(__cpuid(0x16).eax & 0xffff);
        if mhz != 0 {
            return Some(mhz * 1_000_000);
        }
    }
    None
}

/// Measures the counter against channel 2 of the PIT, the one whose gate software holds.
fn pit_hz() -> Option<u64> {
    const CONTROL: u16 = 0x43;
    const CHANNEL_2: u16 = 0x42;
    const GATE: u16 = 0x61;
    let gate = port::read8(GATE) & !0x03;
    port::write8(GATE, gate);
    // Channel 2, low then high byte, mode 0 (counts down once), binary.
    port::write8(CONTROL, 0xb0);
    port::write8(CHANNEL_2, 0xff);
    port::write8(CHANNEL_2, 0xff);
    port::write8(GATE, gate | 0x01);

    let sample = || {
        // The tightest of a few tries: on a busy host this processor may stop between two instructions.
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..8 {
            let before = ticks();
            port::write8(CONTROL, 0x80);
            let middle = ticks();
            let count = u16::from_le_bytes([port::read8(CHANNEL_2), port::read8(CHANNEL_2)]);
            if middle - before < best.0 {
                best = (middle - before, middle, count);
            }
        }
        (best.1, best.2)
    };
    let (first_ticks, first_count) = sample();
    for _ in 0..PIT_LOOKS {
        port::write8(CONTROL, 0x80);
        let count = u16::from_le_bytes([port::read8(CHANNEL_2), port::read8(CHANNEL_2)]);
        if first_count.wrapping_sub(count) >= PIT_TICKS {
            let (last_ticks, last_count) = sample();
            port::write8(GATE, gate);
            let passed = u64::from(first_count.wrapping_sub(last_count));
            return Some((last_ticks - first_ticks) * PIT_HZ / passed);
        }
    }
    None
}
