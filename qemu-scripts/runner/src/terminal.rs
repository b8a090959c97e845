//! A QEMU whose serial line is this program's own terminal.
//!
//! Fed by `shell` and `run` with its command line; feeds them with how it ended.

use crate::exit::{Exit, Failure, Interrupt};
use crate::process::{self, Process};
use crate::qemu;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How often signals and processes are looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// How long QEMU may take to leave the terminal as it was.
const QEMU_LIMIT: Duration = Duration::from_secs(5);

/// Runs QEMU to its end, as long as `look` finds nothing that ends it early. What it says goes to standard error, less
/// what is harmless and what `known` knows: the first of that is the second part of the answer.
pub(crate) fn attend<T: Send + 'static>(
    command: &[OsString],
    stdin: Stdio,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> anyhow::Result<()>,
    known: fn(&str) -> Option<T>,
) -> anyhow::Result<(ExitStatus, Option<T>)> {
    tracing::debug!("{command:?}");
    let mut command = process::command(command)?;
    let mut qemu = Process::start(command.stdin(stdin).stderr(Stdio::piped()))
        .map_err(|error| Failure::new(Exit::Qemu, format!("cannot start QEMU: {error}")))?;
    let said = pass_on(qemu.stderr()?, known);
    let status = loop {
        if let Err(early) = interrupt.check().map_err(anyhow::Error::from).and_then(|()| look()) {
            qemu.terminate(QEMU_LIMIT);
            return Err(early);
        }
        if let Some(status) = qemu.wait(GLANCE)? {
            break status;
        }
    };
    // The end of QEMU's standard error is the end of the channel.
    let known = said.recv_timeout(Duration::from_secs(1)).ok();
    interrupt.check()?;
    Ok((status, known))
}

fn pass_on<T: Send + 'static>(stderr: ChildStderr, known: fn(&str) -> Option<T>) -> Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok).filter(|line| !qemu::is_harmless(line)) {
            match known(&line) {
                // Nobody waits for it when QEMU is ended early.
                Some(meaning) => _ = sender.send(meaning),
                None => eprintln!("{line}"),
            }
        }
    });
    receiver
}
