//! The debugger that is opened on a guest which is held at a mistake.
//!
//! Fed by the command line, and by [`crate::supervisor`] when the guest is held; feeds QEMU's monitor with the word to
//! stop, and gdb with commands that ask the card's control socket.

use crate::culprit::Culprit;
use crate::exit::{Failure, Interrupt};
use crate::process::{self, Process};
use crate::qemu::escaped;
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long QEMU's monitor may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// How often gdb and the guest are looked at.
const POLL: Duration = Duration::from_millis(5);

/// What gdb is told first: the guest's architecture decides how wide an address of symbols is.
const START: &str = "set confirm off\nset pagination off\nset auto-load off\nset architecture i386:x86-64\n\
                     define-prefix dmus\n";

/// What is opened.
pub(crate) enum Opened {
    /// gdb, with these files of symbols (`ELF[@0xADDRESS]`); with commands, it runs them and ends.
    Gdb { gdb: PathBuf, symbols: Vec<String>, commands: Vec<String> },
    /// Nothing: somebody attaches to this socket.
    ByHand { socket: PathBuf },
}

/// See the module.
pub(crate) struct Debugger {
    opened: Opened,
    /// The card's program, which asks for gdb.
    card: PathBuf,
    dir: PathBuf,
    /// More words of QEMU.
    more: Vec<OsString>,
    /// The rule at whose breaches the guest is held.
    at: Option<String>,
    monitor: Option<Monitor>,
    /// It was opened.
    pub(crate) was_opened: bool,
}

impl Debugger {
    pub(crate) fn new(opened: Opened, card: PathBuf, dir: &Path, at: Option<String>, more: Vec<OsString>) -> Self {
        Self { opened, card, dir: dir.into(), more, at, monitor: None, was_opened: false }
    }

    pub(crate) fn is_attached_by_hand(&self) -> bool {
        matches!(self.opened, Opened::ByHand { .. })
    }

    /// Options of `serve`.
    pub(crate) fn card(&self) -> Vec<OsString> {
        let mut options = vec!["--control".into(), self.control().into()];
        options.extend(self.at.iter().flat_map(|rule| ["--stop-at".into(), rule.into()]));
        options
    }

    /// Options of QEMU.
    pub(crate) fn qemu(&self) -> Vec<OsString> {
        let socket = |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", escaped(path)).into();
        let mut words: Vec<OsString> = vec!["-chardev".into(), socket("monitor", &self.monitor_path())];
        words.extend(["-mon", "chardev=monitor,mode=control", "-chardev"].map(OsString::from));
        words.push(socket("gdb", &self.gdb_path()));
        words.extend(["-gdb", "chardev:gdb"].map(OsString::from));
        words.extend(self.more.iter().cloned());
        words
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn monitor_path(&self) -> PathBuf {
        self.dir.join("monitor.sock")
    }

    fn gdb_path(&self) -> PathBuf {
        match &self.opened {
            Opened::Gdb { .. } => self.dir.join("gdb.sock"),
            Opened::ByHand { socket } => socket.clone(),
        }
    }

    /// The guest is held: it is stopped there, and gdb opened. Returns when gdb has ended; while it runs, the guest is
    /// stopped wherever it is held next, and afterwards it plays on.
    pub(crate) fn open(&mut self, interrupt: &Interrupt, culprit: &Culprit) -> anyhow::Result<()> {
        self.ask("stop")?;
        let is_done = std::mem::replace(&mut self.was_opened, true) && !self.is_attached_by_hand();
        if is_done {
            return self.ask("cont");
        }
        let (gdb, symbols, commands) = match &self.opened {
            Opened::Gdb { gdb, symbols, commands } => (gdb, symbols, commands),
            Opened::ByHand { socket } => {
                let (socket, control) = (socket.display(), self.control());
                eprintln!("the guest stands behind its mistake; gdb: target remote {socket}");
                eprintln!("what the card knows: {} ask {} slots", self.card.display(), control.display());
                return Ok(());
            }
        };
        let script = self.dir.join("commands.gdb");
        std::fs::write(&script, self.script(symbols)?).context("cannot write gdb's commands")?;
        let mut words: Vec<OsString> = vec![gdb.into(), "-q".into(), "-nx".into()];
        words.extend((!commands.is_empty()).then(|| "--batch".into()));
        words.extend(["-x".into(), script.into()]);
        words.extend(commands.iter().flat_map(|command| ["-ex".into(), command.into()]));
        let mut gdb = Process::start(&mut process::command(&words)?)
            .map_err(|error| Failure::new(crate::exit::Exit::Failed, format!("cannot start gdb: {error}")))?;
        let mut held = culprit.held();
        while gdb.wait(POLL)?.is_none() {
            let now_held = culprit.held();
            if std::mem::replace(&mut held, now_held) != now_held {
                self.ask("stop")?;
            }
            // The terminal interrupts gdb, whose user wants the guest to stop.
            interrupt.forget_interrupts();
            interrupt.check()?;
        }
        // It may have let go of the guest just before that was held again. A QEMU that has ended needs nothing more.
        let _ = self.ask("cont");
        Ok(())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<()> {
        let monitor = match &mut self.monitor {
            Some(monitor) => monitor,
            None => self.monitor.insert(Monitor::connect(&self.monitor_path())?),
        };
        monitor.ask(command)
    }

    /// What gdb runs first.
    fn script(&self, symbols: &[String]) -> anyhow::Result<String> {
        let ask = format!("shell {} ask {}", quoted(&self.card), quoted(&self.control()));
        let mut text = String::from(START);
        for (name, question, help) in [
            ("slots", "slots", "Each open stream, and each slot that the card owns."),
            ("slot", "slot $arg0", "dmus slot NUMBER: whose it is, its event as it is in memory, its last steps."),
            ("violation", "violation", "The last report of the card's checker."),
        ] {
            writeln!(text, "define dmus {name}\n{ask} {question}\nend\ndocument dmus {name}\n{help}\nend")?;
        }
        for file in symbols {
            match file.rsplit_once("@0x") {
                Some((file, address)) => writeln!(text, "add-symbol-file {file} -o 0x{address}")?,
                None => writeln!(text, "file {file}")?,
            }
        }
        // The card has told of the mistake on standard error.
        writeln!(text, "target remote {}", self.gdb_path().display())?;
        Ok(text)
    }
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// QEMU's monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).context("cannot reach QEMU's monitor")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self(BufReader::new(stream));
        // It speaks first.
        monitor.line()?;
        monitor.ask("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Has a command carried out.
    fn ask(&mut self, command: &str) -> anyhow::Result<()> {
        let text = json!({ "execute": command }).to_string();
        self.0.get_mut().write_all(text.as_bytes()).context("cannot speak to QEMU's monitor")?;
        loop {
            let answer = self.line()?;
            if answer.get("error").is_some() {
                bail!("QEMU's monitor refuses {command}: {answer}");
            }
            // All else are events.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).context("QEMU's monitor does not answer")?;
        ensure!(read > 0, "QEMU has ended");
        serde_json::from_str(&line).context("QEMU's monitor says what is no JSON")
    }
}
