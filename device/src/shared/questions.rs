//! What somebody asks of the engine while it serves.
//!
//! Fed by the control socket; answered by the engine, between two turns.

use parking_lot::Mutex;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Each slot that the card owns.
    Slots,
    /// One slot of each stream, with its history.
    Slot(u32),
    /// The last report of the checker.
    Violation,
}

/// Why a text is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `slots`, `slot NUMBER` or `violation`")]
pub struct NoQuestion;

impl FromStr for Question {
    type Err = NoQuestion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words.as_slice() {
            ["slots"] => Ok(Self::Slots),
            ["slot", number] => number.parse().map(Self::Slot).map_err(|_| NoQuestion),
            ["violation"] => Ok(Self::Violation),
            _ => Err(NoQuestion),
        }
    }
}

/// What the engine is asked.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: Mutex<Option<(Question, SyncSender<String>)>>,
    any: AtomicBool,
}

impl Questions {
    /// Leaves a question, in place of one that is not answered yet; the answer comes where this receives.
    pub(crate) fn ask(&self, question: Question) -> Receiver<String> {
        let (sender, receiver) = sync_channel(1);
        *self.asked.lock() = Some((question, sender));
        self.any.store(true, Ordering::Release);
        receiver
    }

    /// Answers what was asked, if anything was.
    #[inline]
    pub(crate) fn answer(&self, answer: impl FnOnce(Question) -> String) {
        if self.any.load(Ordering::Acquire) {
            self.any.store(false, Ordering::Relaxed);
            if let Some((question, asker)) = self.asked.lock().take() {
                // Whoever asked may have given up.
                let _ = asker.try_send(answer(question));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_words_and_anything_else_is_none() {
        for (text, question) in [
            ("slots", Some(Question::Slots)),
            ("slot 3", Some(Question::Slot(3))),
            (" violation ", Some(Question::Violation)),
            ("slot", None),
            ("slot -1", None),
            ("slots 3", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), question, "{text}");
        }
    }
}
