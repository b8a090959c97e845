//! Enters the card's sandbox and tries one thing that it takes away: what a card that was taken over would try.
//!
//! Fed by the tests of the sandbox with the name of the thing and a directory with a `file` and a `socket`; ends with 0
//! if it worked, with the error's number (13: EACCES) if it was refused, and by SIGSYS if the sandbox does not even
//! answer. With OUTSIDE in the environment it stays out of the sandbox, which shows that the thing could be done.

use anyhow::{Context, bail, ensure};
use memmap2::MmapMut;
use nix::sys::ptrace;
use rustix::fs::AtFlags;
use rustix::process::{Pid, getppid, test_kill_process};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc::channel;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().context("what is to be tried?")?;
    let dir = arguments.next().context("in which directory?")?;
    let mut open = File::create(Path::new(&dir).join("open"))?;
    let directory = File::open(&dir)?;
    let (sender, receiver) = channel::<()>();
    let path = Path::new(&dir).join("file");
    let before = std::thread::spawn(move || receiver.recv().map(|()| File::open(path).map(drop)));
    let parent = getppid().context("a parent")?;
    let outside = std::env::var_os("OUTSIDE").is_some();
    if !outside {
        dmus_card::sandbox::enter()?;
    }
    // What the card needs still works.
    open.write_all(b"open")?;
    ensure!(rustix::fs::fstat(&open)?.st_size == 4, "the size of an open file");
    std::thread::spawn(|| vec![1; 1 << 24].len()).join().ok().context("a thread")?;

    let outcome = match what.as_str() {
        "open in a thread from before" => {
            sender.send(())?;
            before.join().ok().context("a thread")??
        }
        // Relative to a descriptor, with the flag that an empty path needs.
        "ask for a file's size by a flag" => {
            rustix::fs::statat(&directory, "file", AtFlags::EMPTY_PATH).map(drop).map_err(io::Error::from)
        }
        _ => attempt(&what, Path::new(&dir), parent)?,
    };
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let number = error.raw_os_error().context("an error of the system")?;
            Ok(ExitCode::from(number as u8))
        }
    }
}

fn attempt(what: &str, dir: &Path, parent: Pid) -> anyhow::Result<io::Result<()>> {
    let file = dir.join("file");
    Ok(match what {
        "open a file" => File::open(&file).map(drop),
        "create a file" => File::create(dir.join("new")).map(drop),
        "ask for a file's size" => fs::metadata(&file).map(drop),
        "read a link" => fs::read_link("/proc/self/exe").map(drop),
        "remove a file" => fs::remove_file(&file),
        "rename a file" => fs::rename(&file, dir.join("new")),
        "make a directory" => fs::create_dir(dir.join("new")),
        "change a file's mode" => fs::set_permissions(&file, fs::Permissions::from_mode(0o777)),
        "make a socket" => UnixDatagram::unbound().map(drop),
        "connect by TCP" => TcpStream::connect("127.0.0.1:9").map(drop),
        "listen by TCP" => TcpListener::bind("127.0.0.1:0").map(drop),
        "make a UDP socket" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "connect to a Unix socket" => UnixStream::connect(dir.join("socket")).map(drop),
        "listen on a Unix socket" => UnixListener::bind(dir.join("new")).map(drop),
        "signal another process" => Ok(test_kill_process(parent)?),
        // The parent traces; what counts is the call.
        "trace a process" => Ok(ptrace::traceme()?),
        "make memory executable" => MmapMut::map_anon(4096)?.make_exec().map(drop),
        "execute a program" => Err(Command::new("true").exec()),
        "start a program" => Command::new("true").status().map(drop),
        _ => bail!("what is {what}?"),
    })
}
