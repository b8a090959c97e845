//! Removes a card's socket file once the card has ended, however it did: in its sandbox it can remove nothing itself.
//!
//! Fed by `serve`, through a pipe whose closing says that the card has ended; feeds the file system.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::Metadata;
use std::io::{Read, Result, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

/// Removes a card's socket file when standard input ends.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The socket file.
    socket: PathBuf,
}

const READY: &[u8] = b"ready\n";

/// The process that waits for this one's end.
pub(crate) struct Sweeper(Child);

impl Sweeper {
    pub(crate) fn start(socket: &Path) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(this);
        // Not in this process's group: what a terminal sends to that must not reach it.
        command.arg("sweep").arg("--").arg(socket).process_group(0);
        let failed = "cannot start the process that removes the socket in the end";
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(failed)?;
        // It says so when it has seen the file.
        child.stdout.as_mut().context(failed)?.read_exact(&mut [0; READY.len()]).context(failed)?;
        Ok(Self(child))
    }

    /// Has the socket file removed now.
    pub(crate) fn finish(mut self) {
        drop(self.0.stdin.take());
        // The end of its output is its end.
        if let Some(mut output) = self.0.stdout.take() {
            let _ = output.read_to_end(&mut Vec::new());
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // It ends when the card has, not when everybody is told to.
        signal_hook::flag::register(signal, Arc::default()).context("cannot handle signals")?;
    }
    let socket = identity(&args.socket);
    let mut output = std::io::stdout();
    output.write_all(READY).and_then(|()| output.flush()).context("the card has ended")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot wait for the card")?;
    // Another card may have made one of its own there.
    if let (Ok(now), Ok(then)) = (identity(&args.socket), socket)
        && now == then
    {
        std::fs::remove_file(&args.socket).with_context(|| format!("cannot remove {}", args.socket.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells a file from a later one of the same name, even if that got the same inode.
fn identity(path: &Path) -> Result<(u64, u64, i64, i64)> {
    let of = |file: Metadata| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec());
    std::fs::symlink_metadata(path).map(of)
}
