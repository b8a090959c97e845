//! Child processes that do not outlive this one, however it ends.
//!
//! A child is started through the hidden command `die-with-parent`, which asks the kernel to send SIGTERM when its
//! parent ends and then becomes the child's program: this process can be killed at any moment and leaves nothing
//! behind. Used for the card, for QEMU and for whatever builds an image.

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(2);

/// Becomes a command that ends when the process that started it ends.
#[derive(clap::Args)]
pub(crate) struct DieWithParent {
    /// Process id of the parent.
    parent: i32,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// See [`DieWithParent`]. Returns only if that fails.
pub(crate) fn become_command(args: &DieWithParent) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot ask for the parent's death signal")?;
    // The parent may have ended before the request.
    ensure!(
        getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == args.parent),
        "the process that started this one has ended"
    );
    let (program, rest) = args.command.split_first().context("no command given")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// `command` as a child that dies with this process. Start it from a thread that lives as long as the child should: the
/// kernel takes the end of the thread for the end of the parent.
pub(crate) fn command(command: &[OsString]) -> anyhow::Result<Command> {
    let mut child = Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    child.arg("die-with-parent").arg(std::process::id().to_string()).arg("--").args(command);
    Ok(child)
}

/// A running child. It is killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Its process id, until it is waited for.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its standard input, if that is a pipe, once.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Its standard output, if that is a pipe, once.
    pub(crate) fn stdout(&mut self) -> anyhow::Result<ChildStdout> {
        self.0.stdout.take().context("the child's standard output is no pipe")
    }

    /// Its standard error, if that is a pipe, once.
    pub(crate) fn stderr(&mut self) -> anyhow::Result<ChildStderr> {
        self.0.stderr.take().context("the child's standard error is no pipe")
    }

    /// Its status, if it has ended.
    pub(crate) fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits until it ends, for so long at most.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.0.try_wait()? {
                None if Instant::now() < deadline => sleep(POLL),
                status => return Ok(status),
            }
        }
    }

    /// Asks it to end in order (SIGTERM), and waits for that. One that does not is killed when it is dropped.
    pub(crate) fn terminate(&mut self, limit: Duration) {
        if let Ok(None) = self.0.try_wait()
            && let Some(pid) = Pid::from_raw(self.0.id() as i32)
        {
            // It is not waited for yet, so that the id is still its own.
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.wait(limit);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_wait_ends_at_its_limit_and_termination_ends_the_child() -> anyhow::Result<()> {
        let mut child = Process::start(Command::new("sleep").arg("1000"))?;
        assert_eq!(child.wait(Duration::from_millis(20))?, None);
        child.terminate(LIMIT);
        assert_eq!(child.status()?.and_then(|status| status.signal()), Some(15));
        Ok(())
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_when_it_is_dropped() -> anyhow::Result<()> {
        let mut ignoring = Command::new("sh");
        ignoring.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
        let mut child = Process::start(ignoring.stdout(std::process::Stdio::piped()))?;
        io::Read::read_exact(&mut child.stdout()?, &mut [0; 6])?;
        let pid = child.0.id();
        child.terminate(Duration::from_millis(20));
        assert_eq!(child.status()?, None);
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        Ok(())
    }
}
