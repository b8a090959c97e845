//! What the tests share: a card in this process, the driver's backend that reaches it over the vfio-user socket, and
//! songs.

pub mod attack;
pub mod bench;
pub mod card_faults;
pub mod conformance;
pub mod counting;
pub mod direct;
pub mod fake_device;
pub mod hostile;
pub mod load;
pub mod loopback;
pub mod machine;
pub mod memory;
pub mod ordering;
pub mod pitch;
pub mod programs;
pub mod raw;
pub mod recording;
pub mod recordings;
pub mod remapping;
pub mod soak;
pub mod songs;
pub mod soundfont;
pub mod unshared;
pub mod wire;
pub mod zoo;
