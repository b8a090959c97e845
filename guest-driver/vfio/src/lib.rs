//! The card's driver in Linux user space: `dmus-driver`'s platform over VFIO, with the `pci-driver` crate.
//!
//! Fed by the kernel (`/sys/bus/pci`, `/dev/vfio`), with whatever card [`find`] finds; feeds `dmus_driver` through
//! [`VfioPlatform`], and the program `dmusd` beside it. It runs on any machine with an IOMMU, virtual or not; what a
//! machine lacks, a [`VfioError`] names, with its mend.

mod device;
mod memory;
mod platform;
mod zoo;

pub use device::{VfioError, find};
pub use platform::VfioPlatform;
