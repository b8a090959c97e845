//! A plugin of QEMU's software emulation that sees each store of the guest into memory that the DirectMusic card owns,
//! and each store to the card's doorbell page, and records which instruction made it.
//!
//! ```text
//! card -> owners map -> watch (is it of interest?) -> stack (callers) -> symbols (functions) -> owners map -> card
//! QEMU -> ffi ------------^
//! ```
//!
//! Only `ffi` has `unsafe`: QEMU's functions, and the mapped file. The file is `dmus_interface::owners`'.
//! QEMU calls this library on the thread of the vCPU that stores, after the store.

// Unit tests are programs of their own: there is no QEMU in them that would call.
#![cfg_attr(test, allow(dead_code))]

mod arguments;
mod ffi;
mod stack;
mod symbols;
mod watch;
