//! Reaching the card in ways that no driver has, and the driver without manners ([`RawStream`]).
//!
//! Fed by tests of what the card refuses; feeds the card through a [`Bus`].

pub use dmus_conformance::raw::*;
use dmus_driver::Platform;

/// A platform that lets a test reach the card in every width, and its configuration space.
pub trait Bus: Platform {
    /// Reads BAR0 in any width.
    fn read_bar0(&self, offset: u64, bytes: &mut [u8]);
    /// Writes BAR0 in any width.
    fn write_bar0(&self, offset: u64, bytes: &[u8]);
    /// Writes PCI configuration space.
    fn write_config(&self, offset: u64, bytes: &[u8]);
    /// Function reset, as the host side asks for it.
    fn device_reset(&self);
}
