//! The console: COM1, polled, written by `print!` and `println!`.
//!
//! Fed by: everything that reports. Feeds: QEMU's `-serial`. Without a serial port the text is dropped: the exit code
//! still tells.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::port;

const COM1: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const FIFO_CONTROL: u16 = COM1 + 2;
const LINE_CONTROL: u16 = COM1 + 3;
const MODEM_CONTROL: u16 = COM1 + 4;
const LINE_STATUS: u16 = COM1 + 5;
const SCRATCH: u16 = COM1 + 7;

const TRANSMITTER_EMPTY: u8 = 0x20;

/// A stuck reader on the host stalls the port; after this many looks (about a second) the console gives up.
const LOOKS: u32 = 1_000_000;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Sets up COM1 if it is there: 115200 baud, 8 bits, no parity.
pub(crate) fn init() {
    port::write8(SCRATCH, 0x5a);
    if port::read8(SCRATCH) != 0x5a {
        return;
    }
    port::write8(INTERRUPT_ENABLE, 0);
    port::write8(LINE_CONTROL, 0x80);
    port::write8(COM1, 1);
    port::write8(INTERRUPT_ENABLE, 0);
    port::write8(LINE_CONTROL, 0x03);
    port::write8(FIFO_CONTROL, 0x07);
    port::write8(MODEM_CONTROL, 0x03);
    PRESENT.store(true, Ordering::Relaxed);
}

/// The console as a sink for `core::fmt`.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            write_byte(byte);
        }
        Ok(())
    }
}

fn write_byte(byte: u8) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for _ in 0..LOOKS {
        if port::read8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            port::write8(COM1, byte);
            return;
        }
    }
    PRESENT.store(false, Ordering::Relaxed);
}

/// Prints to the serial console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // The console never fails: what it can't send it drops.
        let _ = write!($crate::serial::Console, $($argument)*);
    }};
}

/// Prints a line to the serial console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", format_args!($($argument)*)) };
}
