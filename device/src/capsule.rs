//! The capsule: all that a card observed in a run, in one file, from which the same card code makes the run again.
//!
//! Fed by a card that records; feeds a replay, which needs neither QEMU, nor the image, nor the driver, and shows what
//! happened as a sequence of [`Observation`]s to whoever listens.
//!
//! ```text
//! transport, engine -> ReplayLog -> records -> blocks -> file
//! file -> blocks -> records -> ReplayLog -> the same card and engine -> audio, report, counters, observations
//! ```
//!
//! The replay log is a module of its own below the card, which asks it; this one is above the card.

pub mod diff;
mod header;
mod replay;
pub mod report;
pub mod trace;

pub use header::{BankFile, Header, Options};
pub use replay::{Capsule, Ended, Replayed as Run, Until};

pub use crate::replay_log::blocks::{CapsuleError, create, pack, unpack};
pub use crate::replay_log::observation::{Listener, Observation};

use crate::engine::Engine;
use crate::pci::Card;
use crate::replay_log::{ReplayLog, blocks};
use std::io::{self, Write};
use std::sync::Arc;

/// Has a card record from its first client and its first turn on; what it checks has to be set before. `name` is what
/// the log calls the file.
///
/// # Errors
/// There is no thread for the writing.
pub fn record(
    out: impl Write + Send + 'static,
    name: String,
    options: Options,
    card: &Card,
    engine: &Engine,
) -> io::Result<()> {
    let shared = card.shared();
    let (checker, culprits) = (shared.checker().map(|checker| &**checker), shared.owners().is_some());
    let plan = shared.deviations().map(|deviations| deviations.plan().clone());
    let header = Header::new(options, engine.to_replay(), checker, plan, culprits);
    let mut first = Vec::new();
    header.write(&mut first);
    let log = Arc::new(ReplayLog::record(blocks::Writer::start(Box::new(out), name)?, first));
    shared.set_replay_log(log);
    Ok(())
}
