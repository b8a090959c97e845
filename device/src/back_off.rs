//! Waiting for descriptors and memory to be free again, once they have run out.
//!
//! Fed by whoever needs some for the next client; feeds the log with why that one waits.

use std::io;
use std::time::Duration;

/// Who connects waits where descriptors or memory have run out, until there are some again.
#[derive(Default)]
pub(crate) struct BackOff {
    said: bool,
}

impl BackOff {
    const STEP: Duration = Duration::from_millis(100);

    /// Waits for a moment before the next try, and says why the first time.
    pub(crate) fn wait(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!("a connection waits: {error}; it is accepted once there is room");
        }
        std::thread::sleep(Self::STEP);
    }
}
