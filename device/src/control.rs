//! The control socket: what a card that checks knows of its streams, for whoever debugs the guest.
//!
//! Fed by `dmus-card ask` with a line; asks the engine, which answers between two turns; feeds the one who asked with
//! text. One at a time, each within a second, so that no client holds up more than the others of this socket.

use crate::shared::Shared;
use crate::transport;
use parking_lot::Mutex;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the engine may take to answer: it renders what was granted first.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of a question.
const MAX_QUESTION: usize = 256;

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
    fn ask(&self, question: Question) -> Receiver<String> {
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

/// Answers at a socket from now on.
///
/// # Errors
/// The system has no room for a thread.
pub(crate) fn start(listener: UnixListener, shared: Arc<Shared>) -> io::Result<()> {
    let serve = move || {
        while let Ok(client) = transport::accept(&listener) {
            // It is its own fault.
            if let Err(error) = serve(&client, &shared) {
                tracing::debug!("a client of the control socket was lost: {error}");
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(serve).map(drop)
}

/// Reads a line, or what there is of it at the end.
fn read_question(mut client: &UnixStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let (mut text, mut len) = ([0; MAX_QUESTION], 0);
    while len < MAX_QUESTION && !text[..len].contains(&b'\n') {
        // Of all reads together: bytes may come one by one.
        let left = deadline.saturating_duration_since(Instant::now());
        client.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match client.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let line = text[..len].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn serve(mut client: &UnixStream, shared: &Shared) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let answer = match read_question(client)?.parse() {
        Ok(question) => {
            let answer = shared.questions().ask(question);
            shared.section().wake();
            answer.recv_timeout(ANSWER).unwrap_or_else(|_| "the card is busy: ask again\n".into())
        }
        Err(error) => format!("{error}\n"),
    };
    client.write_all(answer.as_bytes())
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
