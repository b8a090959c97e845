//! The end of a run: an exit code for QEMU, and what happens on a panic.
//!
//! Fed by: `main`, the panic and exception handlers. Feeds: QEMU's `isa-debug-exit` at port 0xf4.

use core::arch::asm;
use core::panic::PanicInfo;

use crate::{port, println, time};

/// Where the command line puts `-device isa-debug-exit,iobase=0xf4`.
const DEBUG_EXIT: u16 = 0xf4;

/// How a run ended. QEMU exits with `(code << 1) | 1`, which no power-off, triple fault or crash of its own gives.
#[derive(Clone, Copy)]
pub(crate) enum Code {
    /// All went well: QEMU exits with 99.
    Success = 0x31,
    /// Something was reported on the console: QEMU exits with 33.
    Failure = 0x10,
}

/// Ends QEMU with `code`; without the exit device the processor halts for ever.
pub(crate) fn exit(code: Code) -> ! {
    port::write32(DEBUG_EXIT, code as u32);
    // QEMU stops the processor a moment after the write.
    let written = time::now_ns();
    while time::now_ns() - written < 1_000_000_000 {
        core::hint::spin_loop();
    }
    println!("finished: no isa-debug-exit device at {DEBUG_EXIT:#x}, so the machine stays on");
    loop {
        // SAFETY: with interrupts off a halt only stops this processor, which is the intent.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("{info}");
    exit(Code::Failure)
}
