//! The programs as a user runs them: built, started, watched with a time limit, and ended.
//!
//! Fed by the tests of the command line and of booted guests.

use anyhow::{Context, bail, ensure};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take: a first run downloads QEMU and builds.
pub const LIMIT: Duration = Duration::from_secs(600);

/// The checkout.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A script of `qemu-scripts`.
pub fn script(name: &str) -> Command {
    Command::new(repository().join("qemu-scripts").join(name))
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The release build of `dmus-card`, built now if need be.
pub fn card() -> anyhow::Result<Command> {
    release("dmus-card")
}

/// The release build of `dmus-run`, with the card's beside it, built now if need be.
pub fn runner() -> anyhow::Result<Command> {
    release("dmus-run")
}

/// A release build. Card and runner are built in one go, as the scripts do: apart, they could have other features.
fn release(program: &str) -> anyhow::Result<Command> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--quiet", "--locked", "-p", "dmus-card", "-p", "dmus-runner"]);
        let build = cargo.arg("--target-dir").arg(target()).current_dir(repository());
        let output = run(build).map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
    match built {
        Ok(()) => Ok(Command::new(target().join("release").join(program))),
        Err(error) => bail!("{error}"),
    }
}

/// The player guest's ELF, built by a playing before.
pub fn guest() -> anyhow::Result<PathBuf> {
    static PLAYED: OnceLock<Result<(), String>> = OnceLock::new();
    let played = PLAYED.get_or_init(|| {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let output =
            run(script("play").arg("-o").arg(dir.path().join("out.wav"))).map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(said(&output)),
        }
    });
    match played {
        Ok(()) => Ok(target().join("guest/release/dmus-player")),
        Err(error) => bail!("{error}"),
    }
}

/// Everything that a program printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command to its end, or to the limit.
pub fn run(command: &mut Command) -> anyhow::Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = Running(Some(child.with_context(|| format!("{command:?}"))?));
    child.output()
}

/// A child that is killed when the test forgets it.
pub struct Running(Option<Child>);

impl Running {
    /// Starts a command in a process group of its own, its output collected.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Self::start_with(command, Stdio::null())
    }

    /// As [`Running::start`], with this for its standard input.
    pub fn start_with(command: &mut Command, input: impl Into<Stdio>) -> anyhow::Result<Self> {
        Self::spawn(command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// As [`Running::start`], with this for its standard error, which is not collected.
    pub fn start_logging(command: &mut Command, stderr: impl Into<Stdio>) -> anyhow::Result<Self> {
        Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr))
    }

    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn().with_context(|| format!("{command:?}"))?;
        // This process keeps no end of a pipe that the child writes to.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(Some(child)))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Waits for its end, and gives what it printed.
    pub fn output(mut self) -> anyhow::Result<Output> {
        let child = self.0.take().context("no child")?;
        let id = child.id();
        let (sender, receiver) = std::sync::mpsc::channel();
        // Reads both pipes to their ends, so that a full one cannot hold the child.
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(LIMIT) {
            Ok(output) => Ok(output?),
            Err(_) => {
                signal(id, "KILL");
                bail!("process {id} did not end within {LIMIT:?}")
            }
        }
    }

    /// Its status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    kill(&[&format!("-{name}"), &pid.to_string()]);
}

/// Sends a signal to every process of a group, as a terminal does.
pub fn signal_group(leader: u32, name: &str) {
    kill(&[&format!("-{name}"), "--", &format!("-{leader}")]);
}

fn kill(arguments: &[&str]) {
    // The shell's own: a minimal Debian has no program of that name.
    let sent = Command::new("bash").args(["-c", "kill \"$@\"", "kill"]).args(arguments).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {arguments:?}");
}

/// All processes below one, with their command lines.
pub fn descendants(pid: u32) -> Vec<(u32, String)> {
    // A child is its thread's.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children = children.collect::<Vec<_>>().join(" ");
    let mut found = vec![];
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        found.push((child, String::from_utf8_lossy(&line).replace('\0', " ")));
        found.extend(descendants(child));
    }
    found
}

/// Whether a process still runs (a zombie does not).
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits for a condition, with a limit.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
