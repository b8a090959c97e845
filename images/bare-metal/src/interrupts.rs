//! Interrupts: the vector table, the local APIC, and a counter for each MSI-X vector.
//!
//! Fed by: MSI-X messages of the card, the APIC timer, faults of this program. Feeds: `platform`'s waits, through the
//! counters.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::exit::{self, Code};
use crate::mmio::Mmio;
use crate::{port, println};

/// How many MSI-X vectors there are; their counters come first.
pub(crate) const VECTORS: usize = 16;
/// The counter after those of the MSI-X vectors: the timer's.
const TIMER: usize = VECTORS;
/// As many entries as `boot.s` has.
const INTERRUPT_ENTRIES: usize = VECTORS + 1;

/// The processor's vector of counter 0. The processor's own faults end below 32.
const FIRST_VECTOR: usize = 0x40;
const SPURIOUS_VECTOR: u8 = 0xff;

/// Incremented by the entries in `boot.s`, which is why it has a name for the linker.
#[unsafe(no_mangle)]
static INTERRUPT_COUNTS: [AtomicU64; INTERRUPT_ENTRIES] = [const { AtomicU64::new(0) }; INTERRUPT_ENTRIES];

/// An interrupt gate of the vector table.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const ABSENT: Self =
        Self { offset_low: 0, selector: 0, stack: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    /// A gate to `entry` on a stack of its own: the host target's code keeps data below its stack pointer.
    fn new(entry: usize, stack: u8) -> Self {
        Self {
            offset_low: entry as u16,
            selector: 0x08,
            stack,
            kind: 0x8e,
            offset_middle: (entry >> 16) as u16,
            offset_high: (entry >> 32) as u32,
            reserved: 0,
        }
    }
}

struct VectorTable(UnsafeCell<[Gate; 256]>);

// SAFETY: there is one processor, and only `init` writes the table, before it is loaded.
unsafe impl Sync for VectorTable {}

static TABLE: VectorTable = VectorTable(UnsafeCell::new([Gate::ABSENT; 256]));

/// The local APIC's registers, in bytes from its base.
mod apic {
    pub(super) const BASE: usize = 0xfee0_0000;
    pub(super) const ID: usize = 0x20;
    pub(super) const TASK_PRIORITY: usize = 0x80;
    pub(super) const SPURIOUS: usize = 0xf0;
    pub(super) const TIMER: usize = 0x320;
    pub(super) const LINT0: usize = 0x350;
    pub(super) const LINT1: usize = 0x360;
    pub(super) const TIMER_START: usize = 0x380;
    pub(super) const TIMER_NOW: usize = 0x390;
    pub(super) const TIMER_DIVIDE: usize = 0x3e0;

    pub(super) const MASKED: u32 = 1 << 16;
}

fn local_apic() -> Mmio {
    // SAFETY: the local APIC's page, identity mapped, is never memory; `init` checks that it is there.
    unsafe { Mmio::new(apic::BASE, 0x1000) }
}

/// Loads the vector table, takes the local APIC into use and lets interrupts in. Called once.
pub(crate) fn init() {
    // SAFETY: boot.s defines them as declared.
    unsafe extern "C" {
        static interrupt_entries: u8;
        static exception_entries: u8;
        static spurious_entry: u8;
    }
    let address = |symbol: *const u8| symbol as usize;
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: 256 * 16 - 1, base: TABLE.0.get() as u64 };
    // SAFETY: interrupts are still off and nothing else refers to the table.
    let table = unsafe { &mut *TABLE.0.get() };
    for (vector, gate) in table.iter_mut().enumerate().take(32) {
        *gate = Gate::new(address(&raw const exception_entries) + 16 * vector, 2);
    }
    for (index, gate) in table[FIRST_VECTOR..].iter_mut().enumerate().take(INTERRUPT_ENTRIES) {
        *gate = Gate::new(address(&raw const interrupt_entries) + 32 * index, 1);
    }
    table[usize::from(SPURIOUS_VECTOR)] = Gate::new(address(&raw const spurious_entry), 1);
    // SAFETY: the table is complete and static, and its gates lead to the entries in `boot.s`.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };

    // The legacy controller would interrupt at vectors that mean faults here.
    port::write8(0x21, 0xff);
    port::write8(0xa1, 0xff);

    let apic = local_apic();
    enable_apic();
    apic.write32(apic::LINT0, apic::MASKED);
    apic.write32(apic::LINT1, apic::MASKED);
    apic.write32(apic::TIMER, apic::MASKED | timer_vector());
    apic.write32(apic::TIMER_DIVIDE, 0b1011);
    apic.write32(apic::TASK_PRIORITY, 0);
    apic.write32(apic::SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    // SAFETY: every vector that can arrive has a gate, and the gates' code is sound at any instruction.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

fn enable_apic() {
    const APIC_BASE: u32 = 0x1b;
    const ENABLED: u32 = 1 << 11;
    const X2APIC: u32 = 1 << 10;
    let (mut low, high): (u32, u32);
    // SAFETY: every x86-64 processor has this register.
    unsafe { asm!("rdmsr", in("ecx") APIC_BASE, out("eax") low, out("edx") high, options(nomem, nostack)) };
    assert!(
        low & X2APIC == 0 && low as usize & !0xfff == apic::BASE && high == 0,
        "the local APIC is not at its usual address ({high:#x}{low:08x}): start QEMU with -cpu qemu64 or max,-x2apic"
    );
    low |= ENABLED;
    // SAFETY: only sets the enable bit, at the address that was just checked.
    unsafe { asm!("wrmsr", in("ecx") APIC_BASE, in("eax") low, in("edx") high, options(nostack)) };
}

const fn timer_vector() -> u32 {
    (FIRST_VECTOR + TIMER) as u32
}

/// How often the MSI-X vector `index` has fired.
pub(crate) fn count(index: usize) -> u64 {
    INTERRUPT_COUNTS[index].load(Ordering::Acquire)
}

/// Address and data of the message that fires the vector `index`.
pub(crate) fn message(index: usize) -> (u64, u32) {
    assert!(index < VECTORS, "MSI-X vector {index}: there are {VECTORS}");
    let id = local_apic().read32(apic::ID) >> 24;
    (apic::BASE as u64 | u64::from(id) << 12, (FIRST_VECTOR + index) as u32)
}

/// Starts the timer, which fires once after `ticks` of its own clock and ends a halt.
pub(crate) fn start_timer(ticks: u32) {
    let apic = local_apic();
    apic.write32(apic::TIMER, timer_vector());
    apic.write32(apic::TIMER_START, ticks.max(1));
}

/// Starts the timer at its largest value without an interrupt, to measure its clock.
pub(crate) fn start_silent_timer() {
    let apic = local_apic();
    apic.write32(apic::TIMER, apic::MASKED | timer_vector());
    apic.write32(apic::TIMER_START, u32::MAX);
}

/// How many ticks have passed since `start_silent_timer`.
pub(crate) fn silent_timer() -> u32 {
    u32::MAX - local_apic().read32(apic::TIMER_NOW)
}

/// Calls `wait` with interrupts off; if it says so, halts until the next one. No interrupt between the two is missed.
pub(crate) fn halt_if(wait: impl FnOnce() -> bool) {
    // SAFETY: interrupts are on outside this function, so turning them off and on again restores the state.
    unsafe { asm!("cli", options(nostack)) };
    if wait() {
        // SAFETY: `sti` lets interrupts in only after the next instruction, so one that is pending ends the halt.
        unsafe { asm!("sti", "hlt", options(nostack)) };
    } else {
        // SAFETY: as above.
        unsafe { asm!("sti", options(nostack)) };
    }
}

/// Reports a fault of this program; called by the entries in `boot.s`.
#[unsafe(no_mangle)]
extern "C" fn exception(vector: u64, error: u64, rip: u64, cr2: u64, rsp: u64) -> ! {
    const NAMES: [&str; 20] = [
        "divide error",
        "debug",
        "NMI",
        "breakpoint",
        "overflow",
        "bound",
        "invalid opcode",
        "no FPU",
        "double fault",
        "coprocessor overrun",
        "invalid TSS",
        "segment not present (or an interrupt without a gate)",
        "stack fault",
        "general protection",
        "page fault",
        "reserved",
        "x87",
        "alignment check",
        "machine check",
        "SIMD",
    ];
    let name = NAMES.get(vector as usize).unwrap_or(&"reserved");
    println!("exception {vector} ({name}) at rip {rip:#x}, error code {error:#x}, cr2 {cr2:#x}, rsp {rsp:#x}");
    exit::exit(Code::Failure)
}
