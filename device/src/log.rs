//! The log: what the card says, on standard error.
//!
//! Fed by the whole card through `tracing`, a driver's mistakes among it, each in words. Whatever a guest or a client
//! does, it neither fills the disk with lines (`limit` bounds how many there are) nor holds the card up where they
//! cannot be written (`writer` has a thread for that).

mod limit;
mod writer;

pub use writer::{finish, say, start};

use crate::stats::Stats;
use dmus_interface::command::{Answer, Status};
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;
use dmus_interface::rule::{Code, Rule};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Makes this the log of the process, and of its panics. `DMUS_LOG` chooses what it shows; the syntax is that of
/// `RUST_LOG`. Lines are kept until [`start`].
pub fn init() {
    let filter =
        EnvFilter::try_from_env("DMUS_LOG").unwrap_or_else(|_| EnvFilter::new("warn,dmus_card=info,vfio_user=off"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| writer::Line)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    tracing_subscriber::registry().with(filter).with(limit::Limit).with(lines).init();
    // The standard hook writes by itself, and waits as long as nobody reads.
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
}

/// The client has gone: whatever it did, the next one finds the limits as if nothing had been said.
pub(crate) fn next_client() {
    limit::renew();
}

/// How `explain` knows a code: `F14 tail-overrun`.
fn rule(code: Code) -> String {
    let name = Rule::of(code).map_or("", |rule| rule.name);
    format!("{code} {name}")
}

pub(crate) fn fault(fault: Fault, detail: u32) {
    let rule = rule(Code::Fault(fault));
    tracing::warn!(detail = format_args!("{detail:#x}"), "driver fault {rule}: {fault}");
}

pub(crate) fn rejected(stream: usize, slot: u32, reason: Reject) {
    let rule = rule(Code::Reject(reason));
    tracing::warn!(stream, slot, "submission rejected {rule}: {reason}");
}

/// FAULT was written. The value is the driver's: a test marks places of the log by it.
pub(crate) fn fault_cleared(value: u32, stats: &Stats) {
    let (faults, rejected) = (stats.faults.get(), stats.rejected.get());
    tracing::debug!(value, faults, rejected, "FAULT is cleared");
}

pub(crate) fn command_failed(opcode: u32, answer: Answer) {
    let Answer { status, size, detail } = answer;
    match Status::decode(status) {
        Some(reason) => {
            tracing::warn!(code = status, opcode, size, detail, "mailbox command failed: {reason}");
        }
        None => tracing::warn!(code = status, opcode, size, detail, "mailbox command failed"),
    }
}
