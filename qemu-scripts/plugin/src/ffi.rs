//! The only `unsafe` of this crate: QEMU's plugin interface, and the mapped owners map.

mod file;
// The functions of QEMU are found in the process that loads this library, and in no other.
#[cfg(not(test))]
mod qemu;

pub(crate) use file::OwnersFile;
