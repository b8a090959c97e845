//! Whether a run still moves, and if not, whose fault that is: the guest's, or that of a host which gives its processes
//! no time.
//!
//! Fed by [`super::run`] with what moved, and by `/proc` with how long the threads of card and QEMU waited for a CPU;
//! feeds it with the end of a run that stands still.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many times the limit a run may wait in all for a host that gives it no CPU.
const PATIENCE: u32 = 10;

/// Why a run that does not move is ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// It had the time to.
    Still(Duration),
    /// It moves, and comes to no end.
    Endless(Duration),
    /// The host did not let it.
    Starved(String),
}

/// See the module.
pub(super) struct Liveness {
    limit: Duration,
    /// Of the whole run.
    total: Duration,
    began: Instant,
    processes: Vec<u32>,
    moved: Instant,
    /// What moved last.
    what: String,
    /// How long each thread had waited for a CPU then.
    waited: BTreeMap<u32, Duration>,
}

impl Liveness {
    /// Of processes that begin to move now: how long they may stand still, and how long they may take in all.
    pub(super) fn new(limit: Duration, total: Duration, processes: Vec<u32>) -> Self {
        let (waited, now) = (waited(&processes), Instant::now());
        Self { limit, total, began: now, processes, moved: now, what: "nothing at all".into(), waited }
    }

    pub(super) fn moved(&mut self, what: impl FnOnce() -> String) {
        // Whoever prints a line a microsecond would be kept from it.
        if self.moved.elapsed() > Duration::from_millis(100) {
            self.waited = waited(&self.processes);
        }
        self.moved = Instant::now();
        self.what = what();
    }

    /// What moved last, and how long ago.
    pub(super) fn last(&self) -> String {
        format!("what moved last, {:.1} s ago, was {}", self.moved.elapsed().as_secs_f64(), self.what)
    }

    pub(super) fn stands(&self) -> Option<Stands> {
        let (still, ran) = (self.moved.elapsed(), self.began.elapsed());
        if ran > self.total {
            let waited = waited(&self.processes).into_values().max().unwrap_or_default();
            if ran.saturating_sub(waited) > self.total {
                return Some(Stands::Endless(ran));
            }
        }
        if still <= self.limit {
            return None;
        }
        if let Some(process) = self.processes.iter().find(|process| is_stopped(**process)) {
            return Some(Stands::Starved(format!("process {process} was stopped (SIGSTOP)")));
        }
        let before = |thread: &u32| self.waited.get(thread).copied().unwrap_or_default();
        let waited = waited(&self.processes);
        let waited = waited.iter().map(|(thread, now)| now.saturating_sub(before(thread))).max().unwrap_or_default();
        if still.saturating_sub(waited) > self.limit {
            return Some(Stands::Still(still));
        }
        (still > self.limit * PATIENCE).then(|| {
            let (still, waited) = (still.as_secs(), waited.as_secs());
            Stands::Starved(format!("of {still} s, the host had it wait {waited} s for a CPU"))
        })
    }
}

/// How long each thread of processes has waited for a CPU since it began; nothing of those that are gone.
fn waited(processes: &[u32]) -> BTreeMap<u32, Duration> {
    let threads = processes.iter().flat_map(|process| {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
        tasks.into_iter().flatten().flatten().filter_map(|task| {
            let thread = task.file_name().to_str()?.parse().ok()?;
            Some((thread, thread_waited(&task.path())?))
        })
    });
    threads.collect()
}

/// Its file has the time on a CPU, the time that it waited for one, and how often it got one.
fn thread_waited(task: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

fn is_stopped(process: u32) -> bool {
    // The name, in brackets, may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| matches!(rest.split_whitespace().next(), Some("T" | "t")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use std::process::Command;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    /// What it comes to, within a limit.
    fn end_of(liveness: &Liveness) -> Option<Stands> {
        let deadline = Instant::now() + LONG;
        loop {
            let stands = liveness.stands();
            if stands.is_some() || Instant::now() > deadline {
                return stands;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_process_that_sleeps_stands_still_and_one_that_is_stopped_is_the_hosts_fault() -> anyhow::Result<()> {
        let sleeper = Process::start(Command::new("sleep").arg("1000"))?;
        let mut liveness = Liveness::new(SHORT, LONG * 2, vec![sleeper.id()]);
        liveness.moved(|| "a line".into());
        assert!(matches!(end_of(&liveness), Some(Stands::Still(_))));
        assert!(liveness.last().ends_with("ago, was a line"));
        let pid = rustix::process::Pid::from_raw(sleeper.id() as i32);
        let pid = pid.ok_or_else(|| anyhow::anyhow!("no pid"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        let deadline = Instant::now() + LONG;
        while !is_stopped(sleeper.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(matches!(end_of(&liveness), Some(Stands::Starved(_))));
        Ok(())
    }

    #[test]
    fn what_goes_on_moving_comes_to_the_limit_of_the_whole_run() {
        let mut liveness = Liveness::new(LONG, SHORT, vec![]);
        let deadline = Instant::now() + LONG;
        while liveness.stands().is_none() && Instant::now() < deadline {
            liveness.moved(|| "a line".into());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(matches!(liveness.stands(), Some(Stands::Endless(_))));
    }
}
