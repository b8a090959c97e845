//! What the tests share: a card in this process, the driver's backend that reaches it over the vfio-user socket, and songs.

pub mod loopback;
pub mod programs;
pub mod raw;
pub mod songs;
