//! How long a trapped access takes: this server and the `vfio_user` crate's, with one device, both ends on one core; and what of it
//! is the system's alone: a server that receives and sends without looking.
//!
//! Fed by nothing; prints medians. With `own`, `crate` or `blind`, an operation and a count it only runs that, for `strace -f -c`: all calls
//! but `read` and `write` are the server's.

#![allow(missing_docs, clippy::unwrap_used)]

use dmus_card::device::{Device, DmaMap, Region};
use dmus_card::transport::server::serve_connection;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Instant;
use vfio_bindings::bindings::vfio::vfio_region_info;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, Server, ServerBackend, ServerRegion};

/// A register that can be read and written.
struct Register {
    value: u32,
    doorbell: OwnedFd,
}

impl Register {
    fn new() -> Self {
        let doorbell = memfd_create("doorbell", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&doorbell, 4096).unwrap();
        Self { value: 0, doorbell }
    }
}

impl Device for Register {
    fn read(&mut self, _: Region, _: u64, data: &mut [u8]) {
        let value = self.value.to_le_bytes();
        data.iter_mut().zip(value).for_each(|(to, from)| *to = from);
    }
    fn write(&mut self, _: Region, _: u64, data: &[u8]) {
        self.value = data.iter().fold(self.value, |value, byte| value.rotate_left(8) ^ u32::from(*byte));
    }
    fn map(&mut self, _: DmaMap) -> io::Result<()> {
        Ok(())
    }
    fn unmap(&mut self, _: u64, _: u64) {}
    fn set_vector(&mut self, _: u16, _: Option<File>) {}
    fn reset(&mut self) {}
    fn disconnect(&mut self) {}
    fn doorbell_fd(&self) -> io::Result<OwnedFd> {
        self.doorbell.try_clone()
    }
}

struct Adapter(Register);

impl ServerBackend for Adapter {
    fn region_read(&mut self, _: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read(Region::Registers, offset, data);
        Ok(())
    }
    fn region_write(&mut self, _: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(Region::Registers, offset, data);
        Ok(())
    }
    fn dma_map(&mut self, _: DmaMapFlags, _: u64, _: u64, _: u64, _: Option<File>) -> io::Result<()> {
        Ok(())
    }
    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

fn message(command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend(command.to_le_bytes());
    bytes.extend((16 + payload.len() as u32).to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn access(data: &[u8]) -> Vec<u8> {
    // Offset 16 of region 0, 4 bytes.
    let mut bytes = vec![16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
    bytes.extend(data);
    bytes
}

struct Bench {
    stream: UnixStream,
    server: JoinHandle<()>,
    read: Vec<u8>,
    write: Vec<u8>,
    posted: Vec<u8>,
}

/// Posted writes between two reads.
const BURST: usize = 100;

impl Bench {
    fn start(which: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let stream = UnixStream::connect(dir.path().join("s")).unwrap();
        let server = if which == "own" {
            std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                serve_connection(stream, &mut Register::new()).unwrap();
            })
        } else if which == "blind" {
            std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 8192];
                while let Ok(got @ 1..) = rustix::io::read(&stream, &mut buffer) {
                    let reply = if got == 32 { 36 } else { 32 };
                    rustix::net::send(&stream, &buffer[..reply], rustix::net::SendFlags::NOSIGNAL).unwrap();
                }
            })
        } else {
            let region = ServerRegion {
                region_info: vfio_region_info { argsz: 32, size: 4096, flags: 3, ..Default::default() },
                sparse_areas: vec![],
                mmap_fd: None,
            };
            let server = Server::from_owned_fd(listener.into(), true, vec![], vec![region]);
            std::thread::spawn(move || drop(server.run(&mut Adapter(Register::new()))))
        };
        let bench = Self {
            stream,
            server,
            read: message(9, 0, &access(&[])),
            write: message(10, 0, &access(&[1, 2, 3, 4])),
            posted: message(10, 0x10, &access(&[1, 2, 3, 4])),
        };
        let version = [&[0, 0, 1, 0][..], br#"{"capabilities":{"max_msg_fds":16}}"#, &[0]].concat();
        bench.send(&message(1, 0, &version));
        let answered = rustix::io::read(&bench.stream, &mut [0; 1024]).unwrap();
        assert!(answered > 20);
        bench
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.stream, bytes).unwrap(), bytes.len());
    }

    fn receive(&self, size: usize) {
        let mut buffer = [0; 64];
        let mut got = 0;
        while got < size {
            got += rustix::io::read(&self.stream, &mut buffer[got..size]).unwrap();
        }
    }

    /// Microseconds an operation took.
    fn run(&self, operation: &str, count: usize) -> f64 {
        let started = Instant::now();
        match operation {
            "read" => (0..count).for_each(|_| {
                self.send(&self.read);
                self.receive(36);
            }),
            "write" => (0..count).for_each(|_| {
                self.send(&self.write);
                self.receive(32);
            }),
            _ => (0..count / BURST).for_each(|_| {
                (1..BURST).for_each(|_| self.send(&self.posted));
                self.send(&self.read);
                self.receive(36);
            }),
        }
        started.elapsed().as_secs_f64() * 1e6 / count as f64
    }

    fn stop(self) {
        drop(self.stream);
        self.server.join().unwrap();
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let mut core = CpuSet::new();
    core.set(0);
    sched_setaffinity(None, &core).unwrap();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [which, operation, count] = &arguments[..] {
        let bench = Bench::start(which);
        bench.run(operation, count.parse().unwrap());
        bench.stop();
        return;
    }
    println!("{:<8} {:>8} {:>8} {:>8} {:>8}", "us", "blind", "crate", "own", "ratio");
    for operation in ["read", "write", "posted"] {
        // The blind one cannot tell which to answer.
        let names: &[&str] = if operation == "posted" { &["crate", "own"] } else { &["crate", "own", "blind"] };
        let benches: Vec<Bench> = names.iter().map(|which| Bench::start(which)).collect();
        let mut times = vec![vec![]; benches.len()];
        for _ in 0..61 {
            for (bench, times) in benches.iter().zip(&mut times) {
                times.push(bench.run(operation, 1000));
            }
        }
        benches.into_iter().for_each(Bench::stop);
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let (theirs, ours) = (medians[0], medians[1]);
        let blind = medians.get(2).map_or("-".to_owned(), |blind| format!("{blind:.2}"));
        println!("{operation:<8} {blind:>8} {theirs:>8.2} {ours:>8.2} {:>8.2}", ours / theirs);
    }
}
