//! Removes a card's socket file once the card has ended, however it did: in its sandbox it can remove nothing itself.
//!
//! Fed by `serve`, through a socket whose closing says that the card has ended; feeds the file system.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::Metadata;
use std::io::{Read, Result, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Removes a card's socket file when standard input ends.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The socket file.
    socket: PathBuf,
}

const READY: &[u8] = b"ready\n";
/// How long it may take to start.
const START: Duration = Duration::from_secs(10);
/// How long the card's end waits for all of them. One that has been stopped goes on by itself later.
const END: Duration = Duration::from_secs(1);

/// The process that waits for this one's end.
pub(crate) struct Sweeper(UnixStream);

impl Sweeper {
    pub(crate) fn start(socket: &Path) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let failed = "cannot start the process that removes the socket in the end";
        let (mut ours, theirs) = UnixStream::pair().context(failed)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(this);
        // Not in this process's group: what a terminal sends to that must not reach it.
        command.arg("sweep").arg("--").arg(socket).process_group(0);
        command.stdin(theirs.try_clone().context(failed)?).stdout(theirs).spawn().context(failed)?;
        // This process keeps no end of it.
        drop(command);
        // It says so when it has seen the file.
        ours.set_read_timeout(Some(START)).context(failed)?;
        ours.read_exact(&mut [0; READY.len()]).context(failed)?;
        Ok(Self(ours))
    }

    /// Has the socket files removed now.
    pub(crate) fn finish(sweepers: Vec<Self>) {
        for Self(sweeper) in &sweepers {
            // It fails only for one that has ended.
            let _ = sweeper.shutdown(Shutdown::Write);
        }
        let deadline = Instant::now() + END;
        for Self(mut sweeper) in sweepers {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            // The end of its output is its end.
            if sweeper.set_read_timeout(Some(left)).is_ok() {
                let _ = sweeper.read(&mut [0]);
            }
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
