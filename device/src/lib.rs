//! The DirectMusic card: a PCI sound card that QEMU sees over vfio-user. What a driver programs is its data sheet,
//! [`dmus_interface`](../dmus_interface/index.html): registers, rings, and a driver in 60 lines.
//!
//! A [`transport`] drives the card's function ([`pci`]), which meets the [`engine`] thread at one lock.
//! The engine fetches submissions from guest memory, orders and renders them, and hands audio to a [`sink`]:
//!
//! ```text
//! QEMU -> transport -> pci -> shared -> engine: stream (fetch -> validate -> schedule -> render) -> sink
//! MIDI inputs, audio -> engine: capture (streams of posted slots: MIDI capture, wave sink)
//! guest memory and doorbell page <- dma <- shared <- completions, clocks, interrupts
//! what a driver does wrong -> check -> standard error, report, exit status
//! what pci and engine observe <-> replay log <-> capsule: record; replay, diff, trace, report
//! ```
//!
//! The synth plays a [`bank`], which is made of collections; a [`collection`] is any set of instruments
//! as DLS describes them, built in or read from a file.

mod back_off;
pub mod bank;
pub mod capsule;
pub mod capture;
pub mod check;
mod clock;
pub mod control;
pub mod demo;
pub mod deviation;
pub mod device;
mod dma;
mod download;
pub mod engine;
pub mod files;
mod identity;
pub mod log;
pub mod offline;
pub mod pci;
pub mod privileges;
mod replay_log;
mod resampler;
mod room;
pub mod sandbox;
mod shared;
pub mod sink;
pub mod sound;
pub mod stats;
mod stream;
pub mod synth;
pub mod transport;

pub use dma::owners;
pub use dmus_dls as collection;
pub use identity::{ClockMode, SAMPLE_RATE};

use bank::Bank;
use capture::inputs::{Input, Inputs};
use engine::{Engine, EngineHandle};
use pci::Card;
use sink::Sink;
use std::io;
use std::sync::Arc;

/// Makes a card that plays the built-in bank into `sink`, and its engine, which the caller turns.
pub fn assemble(clock: ClockMode, sink: Box<dyn Sink>) -> io::Result<(Card, Engine)> {
    assemble_with(Arc::new(Bank::general_midi()), clock, sink, Vec::new())
}

/// As [`assemble`], with another bank, and with MIDI inputs (16 at most). Live ones are read once the engine has a
/// thread.
pub fn assemble_with(
    bank: Arc<Bank>,
    clock: ClockMode,
    sink: Box<dyn Sink>,
    inputs: Vec<Input>,
) -> io::Result<(Card, Engine)> {
    let shared = Arc::new(shared::Shared::new()?);
    let engine = Engine::new(Arc::clone(&shared), clock, bank, sink, Inputs::new(inputs));
    Ok((Card::new(shared, clock), engine))
}

/// As [`assemble`], with the engine running in a thread of its own.
pub fn start(clock: ClockMode, sink: Box<dyn Sink>) -> io::Result<(Card, EngineHandle)> {
    let (card, engine) = assemble(clock, sink)?;
    Ok((card, engine.spawn()?))
}
