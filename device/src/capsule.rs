//! The capsule: all that a card observed in a run, in one file, from which the same card code makes the run again.
//!
//! Fed by a card that records; feeds a replay, which needs neither QEMU, nor the image, nor the driver, and shows what
//! happened as a sequence of [`Observation`]s to whoever listens.

mod observation;

pub use observation::{Listener, Observation};
