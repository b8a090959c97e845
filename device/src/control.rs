//! The control socket: what a card that checks knows of its streams, for whoever debugs the guest.
//!
//! Fed by `dmus-card ask` with a line; asks the engine, which answers between two turns; feeds the one who asked with
//! text. One at a time, each within a second, so that no client holds up more than the others of this socket.

pub use crate::shared::questions::{NoQuestion, Question};

use crate::pci::Card;
use crate::shared::Shared;
use crate::transport;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the engine may take to answer: it renders what was granted first.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of a question.
const MAX_QUESTION: usize = 256;

/// Answers at a socket from now on, for a card that checks.
///
/// # Errors
/// The system has no room for a thread.
pub fn start(listener: UnixListener, card: &Card) -> io::Result<()> {
    let shared = card.shared();
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
