//! What a trapped access costs the card: its own vfio-user server beside the `vfio_user` crate's, both in front of the
//! real card.
//!
//! Fed by `qemu-scripts/bench transport`; feeds its table and JSON. Each figure is about `dmus-card serve` in a
//! process of its own, under strace or callgrind or alone; the client here sends raw messages, the same to both.

use anyhow::{Context, ensure};
use dmus_interface::regs::{self, Register, control, stream};
use dmus_tests::bench::{
    Arguments, Quantile, Report, Row, Target, callgrind, instructions, per_operation, progress, system_calls,
};
use dmus_tests::programs::{self, Running, until};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The two servers: ours, and the peer.
const SERVERS: [&str; 2] = ["own", "crate"];
/// Accesses of a short and a long run under strace or callgrind.
const COUNTED: [u64; 2] = [1000, 6000];
/// Rounds of times, and accesses in each.
const ROUNDS: usize = 61;
const TIMED: u64 = 500;
/// How long the server may take for anything; under callgrind it is slow to start.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

impl Access {
    const ALL: [Self; 2] = [Self::Read, Self::Write];

    fn name(self) -> &'static str {
        match self {
            Self::Read => "register read",
            Self::Write => "register write with reply",
        }
    }
}

/// A vfio-user message.
fn message(command: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend(command.to_le_bytes());
    bytes.extend((16 + payload.len() as u32).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

/// A 4-byte access to BAR0: REGION_READ, or REGION_WRITE if there are data.
fn access(register: Register, value: Option<u32>) -> Vec<u8> {
    let mut payload = u64::from(register.offset).to_le_bytes().to_vec();
    payload.extend([0, 0, 0, 0, 4, 0, 0, 0]);
    payload.extend(value.into_iter().flat_map(u32::to_le_bytes));
    message(if value.is_some() { 10 } else { 9 }, &payload)
}

/// A server with a card, and a client of it.
struct Session {
    socket: UnixStream,
    server: Running,
    read: Vec<u8>,
    write: Vec<u8>,
    _dir: TempDir,
}

impl Session {
    /// Starts `dmus-card serve` behind a tool, if one is given, and enables the card.
    fn start(transport: &str, tool: Option<Command>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("card.sock");
        let card = programs::card()?;
        let mut command = match tool {
            None => card,
            Some(mut tool) => {
                tool.arg(card.get_program());
                tool
            }
        };
        // The tools that measure it make system calls which the sandbox refuses.
        command.args(["serve", "--no-sandbox", "--once", "--transport", transport, "--socket"]).arg(&path);
        let server = Running::start(command.env("DMUS_LOG", "off"))?;
        let mut socket = None;
        until("the card's socket", LIMIT, || {
            socket = UnixStream::connect(&path).ok();
            socket.is_some()
        })?;
        let socket = socket.context("no socket")?;
        socket.set_read_timeout(Some(LIMIT))?;
        let mut session = Self {
            socket,
            server,
            read: access(regs::SAMPLE_RATE, None),
            // Kept until a stream is created, and so without any effect outside this register.
            write: access(stream::at(0, stream::SLOT_COUNT), Some(64)),
            _dir: dir,
        };
        let version = [&[0, 0, 1, 0][..], br#"{"capabilities":{"max_msg_fds":16}}"#, &[0]].concat();
        session.socket.write_all(&message(1, &version))?;
        let mut header = [0; 16];
        session.socket.read_exact(&mut header)?;
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        session.socket.read_exact(&mut vec![0; (size as usize).saturating_sub(16).min(4096)])?;
        session.exchange(&access(regs::CONTROL, Some(control::ENABLE)), &mut [0; 32])?;
        Ok(session)
    }

    /// Sends a message and receives a reply of just that size.
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> anyhow::Result<()> {
        self.socket.write_all(request)?;
        self.socket.read_exact(reply).context("no reply")?;
        ensure!(reply[8] == 1 && reply[4..8] == (reply.len() as u32).to_le_bytes(), "no good reply: {reply:?}");
        Ok(())
    }

    /// Accesses a register so many times.
    fn run(&mut self, access: Access, count: u64) -> anyhow::Result<Duration> {
        let (request, mut reply) = match access {
            Access::Read => (self.read.clone(), vec![0; 36]),
            Access::Write => (self.write.clone(), vec![0; 32]),
        };
        let started = Instant::now();
        (0..count).try_for_each(|_| self.exchange(&request, &mut reply))?;
        Ok(started.elapsed())
    }

    /// Leaves, and waits for the server's end; the card must have taken every access without a fault.
    fn stop(mut self) -> anyhow::Result<()> {
        let mut reply = [0; 36];
        self.exchange(&access(regs::FAULT_COUNT, None), &mut reply)?;
        ensure!(reply[32..] == [0; 4], "the card found fault with the accesses");
        drop(self.socket);
        let output = self.server.output()?;
        ensure!(output.status.success(), "the server failed: {}", programs::said(&output));
        Ok(())
    }
}

/// What one more access costs a server, as a tool counts.
fn counted(
    transport: &str,
    access: Access,
    tool: impl Fn(&std::path::Path) -> Command,
    result: impl Fn(&std::path::Path) -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("counts");
    per_operation(COUNTED, |count| {
        let mut session = Session::start(transport, Some(tool(&out)))?;
        session.run(access, count)?;
        session.stop()?;
        result(&out)
    })
}

/// Every thread's calls.
fn strace(out: &std::path::Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(out);
    strace
}

fn measure() -> anyhow::Result<Report> {
    let mut rows = vec![];
    for access in Access::ALL {
        let name = format!("system calls, {}", access.name());
        progress(&name);
        let [ours, peer] = SERVERS.map(|server| counted(server, access, strace, system_calls));
        rows.push(Row::counted(name, "calls/access", Target::OursAtMost(2.0), [ours?, peer?]));
    }
    for access in Access::ALL {
        let name = format!("server's instructions, {}", access.name());
        progress(&name);
        let [ours, peer] = SERVERS.map(|server| counted(server, access, callgrind, instructions));
        rows.push(Row::counted(name, "Ir/access", Target::RatioAtMost(0.6), [ours?, peer?]));
    }

    // Children inherit it: client and server then take turns on one core.
    let mut core = CpuSet::new();
    core.set(0);
    sched_setaffinity(None, &core)?;
    for (access, target) in [(Access::Read, 0.70), (Access::Write, 0.88)] {
        let name = format!("time, {}, both ends on one core", access.name());
        progress(&name);
        let mut sessions = [Session::start(SERVERS[0], None)?, Session::start(SERVERS[1], None)?];
        let mut times = [vec![], vec![]];
        // The first round warms up.
        for round in 0..=ROUNDS {
            for (session, times) in sessions.iter_mut().zip(&mut times) {
                let taken = session.run(access, TIMED)?;
                if round > 0 {
                    times.push(taken.as_secs_f64() * 1e6 / TIMED as f64);
                }
            }
        }
        sessions.into_iter().try_for_each(Session::stop)?;
        rows.push(Row::timed(name, "us/access", Target::RatioAtMost(target), Quantile::Median, times));
    }
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse()?;
    arguments.want_all()?;
    measure()?.finish(arguments.json.as_deref())
}
