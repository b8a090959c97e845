//! Scenarios: what boots with the card, what must hold, and whether it does. For CI, and for those who look for a bug.
//!
//! Fed by `dmus-run hil`. Files become scenarios, scenarios cases; a pool runs these side by side; each is run, judged
//! and told of:
//!
//! ```text
//! scenario -> cases -> shard -> pool -> run (card, QEMU; serial, liveness) -> judge (audio) -> outcome
//!                                 '-> quarantine, evidence               outcome -> junit, index, merge, bless
//! ```
//!
//! `campaign` and `explore` run one case again and again, with a card that has faults or takes liberties.

pub(crate) mod bless;
pub(crate) mod campaign;
pub(crate) mod cases;
pub(crate) mod explore;
pub(crate) mod index;
pub(crate) mod junit;
pub(crate) mod merge;
pub(crate) mod outcome;
pub(crate) mod parallel;
pub(crate) mod pool;
pub(crate) mod quarantine;
pub(crate) mod run;
pub(crate) mod scenario;
pub(crate) mod shard;
pub(crate) mod show;

mod audio;
mod by_hand;
mod evidence;
mod judge;
mod liveness;
mod serial;
