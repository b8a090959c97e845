//! Raw vfio-user sessions, one file per command.
//!
//! Fed by a client of its own; feeds the server with a device that records.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod client_memory;
mod dma;
mod framing;
mod info;
mod irqs;
mod negotiation;
mod peer;
mod region;
mod reset;
mod version;
