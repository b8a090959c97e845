//! What the log says of a driver's mistakes: each in words, and only so many a second, since a guest can make them
//! without end.
//!
//! Fed by the PCI function and the engine; feeds the log.

use dmus_interface::command::{Answer, Status};
use dmus_interface::regs::Fault;
use dmus_interface::ring::Reject;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lines of one kind in each second.
const LINES: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// Bounds the lines of one kind.
#[derive(Debug, Default)]
struct Limit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Window {
    /// Whether there may be a line now; if so, how many were left out since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Limit {
    fn line(&self, write: impl FnOnce()) {
        let Some(left_out) = self.0.lock().admit(Instant::now()) else {
            return;
        };
        if left_out > 0 {
            tracing::warn!("{left_out} more like the next were left out");
        }
        write();
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Log {
    faults: Limit,
    rejections: Limit,
    commands: Limit,
}

impl Log {
    pub(crate) fn fault(&self, fault: Fault, detail: u32) {
        self.faults.line(|| {
            tracing::warn!(code = fault as u32, detail = format_args!("{detail:#x}"), "driver fault: {fault}");
        });
    }

    pub(crate) fn rejected(&self, stream: usize, slot: u32, reason: Reject) {
        self.rejections.line(|| {
            tracing::warn!(code = reason as u16, stream, slot, "submission rejected: {reason}");
        });
    }

    pub(crate) fn command_failed(&self, opcode: u32, answer: Answer) {
        self.commands.line(|| {
            let Answer { status, size, detail } = answer;
            match Status::decode(status) {
                Some(reason) => {
                    tracing::warn!(code = status, opcode, size, detail, "mailbox command failed: {reason}");
                }
                None => tracing::warn!(code = status, opcode, size, detail, "mailbox command failed"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted_and_reported_with_the_next_one() {
        let mut window = Window::default();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(window.admit(start), Some(0));
        }
        assert_eq!(window.admit(start), None);
        assert_eq!(window.admit(start + SECOND / 2), None);
        assert_eq!(window.admit(start + SECOND), Some(2));
        assert_eq!(window.admit(start + SECOND), Some(0));
    }
}
