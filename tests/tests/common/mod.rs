//! A raw vfio-user client with a time limit on every read, and a device that records what reaches it.
//!
//! Fed by the protocol tests; feeds a server on a thread of its own.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use dmus_card::device::{Device, DmaMap, Eventfd, Region, RemoteMemory};
use dmus_card::transport::server::{ClientMemory, Connection, Limits, Negotiation, ServeError};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const DMA_READ: u16 = 11;
pub const DMA_WRITE: u16 = 12;
pub const RESET: u16 = 13;
pub const DIRTY_PAGES: u16 = 14;
pub const WRITE_MULTI: u16 = 15;

pub const REPLY: u32 = 1;
pub const NO_REPLY: u32 = 0x10;
pub const ERROR: u32 = 0x21;

pub const EIO: u32 = 5;
pub const EEXIST: u32 = 17;
pub const EINVAL: u32 = 22;
pub const ENOSYS: u32 = 38;
pub const ENOTSUP: u32 = 95;

pub const BAR0: u32 = 0;
pub const BAR2: u32 = 2;
pub const BAR4: u32 = 4;
pub const CONFIG: u32 = 7;

/// Longer than anything takes, shorter than a test run that hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What QEMU sends first.
pub const QEMU_VERSION: &str = concat!(
    r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"pgsizes":4096,"max_dma_maps":65535,"#,
    r#""migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true}}"#,
);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Read(Region, u64, usize),
    Write(Region, u64, Vec<u8>),
    /// Address, size, offset, whether there is a file, whether it is writable.
    Map(u64, u64, u64, bool, bool),
    Unmap(u64, u64),
    /// Vector, and whether there is an eventfd.
    Vector(u16, bool),
    Reset,
}

/// Keeps the calls, the files of the last maps and vectors. Reading gives `offset + i` as bytes.
#[derive(Default)]
pub struct Record {
    pub calls: Vec<Call>,
    pub files: Vec<File>,
    pub eventfds: Vec<(u16, Option<Eventfd>)>,
    /// What `map` fails with.
    pub map_error: Option<i32>,
    /// Panic in the next reset.
    pub panic: bool,
    /// Access the client's memory from the serving thread in the next reset.
    pub memory: Option<ClientMemory>,
    pub memory_outcome: Option<Result<(), dmus_card::transport::server::ClientMemoryError>>,
}

#[derive(Clone)]
pub struct Recorder {
    pub record: Arc<Mutex<Record>>,
    doorbell: Arc<OwnedFd>,
}

impl Recorder {
    pub fn new() -> Self {
        let doorbell = memfd_create("doorbell", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&doorbell, 4096).unwrap();
        Self { record: Arc::default(), doorbell: Arc::new(doorbell) }
    }

    fn add(&self, call: Call) {
        self.record.lock().unwrap().calls.push(call);
    }

    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

impl Device for Recorder {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        self.add(Call::Read(region, offset, data.len()));
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (offset as usize + i) as u8;
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        self.add(Call::Write(region, offset, data.to_vec()));
    }

    fn offer_memory(&mut self, _memory: Arc<dyn RemoteMemory>) {}

    fn map(&mut self, map: DmaMap) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        if let Some(errno) = record.map_error {
            return Err(if errno == 0 { io::Error::other("odd") } else { io::Error::from_raw_os_error(errno) });
        }
        record.calls.push(Call::Map(map.iova, map.size, map.offset, map.file.is_some(), map.writable));
        record.files.extend(map.file);
        Ok(())
    }

    fn unmap(&mut self, iova: u64, size: u64) {
        let mut record = self.record.lock().unwrap();
        record.files.clear();
        record.calls.push(Call::Unmap(iova, size));
    }

    fn set_vector(&mut self, vector: u16, eventfd: Option<Eventfd>) {
        let mut record = self.record.lock().unwrap();
        record.calls.push(Call::Vector(vector, eventfd.is_some()));
        record.eventfds.retain(|(old, _)| *old != vector);
        record.eventfds.push((vector, eventfd));
    }

    fn reset(&mut self) {
        let (panic, memory) = {
            let mut record = self.record.lock().unwrap();
            record.calls.push(Call::Reset);
            (record.panic, record.memory.take())
        };
        assert!(!panic, "the device was told to panic");
        if let Some(memory) = memory {
            let outcome = memory.read(0x1000, &mut [0; 4]);
            self.record.lock().unwrap().memory_outcome = Some(outcome);
        }
    }

    fn disconnect(&mut self) {
        let mut record = self.record.lock().unwrap();
        record.files.clear();
        record.eventfds.clear();
    }

    fn doorbell_fd(&self) -> io::Result<OwnedFd> {
        self.doorbell.try_clone()
    }
}

/// The calls so far, except reads of the configuration space (which [`Client::expect_alive`] makes).
pub fn calls(record: &Mutex<Record>) -> Vec<Call> {
    let record = record.lock().unwrap();
    record.calls.iter().filter(|call| !matches!(call, Call::Read(Region::Config, ..))).cloned().collect()
}

/// A message as it came.
#[derive(Debug)]
pub struct Reply {
    pub id: u16,
    pub command: u16,
    pub flags: u32,
    pub errno: u32,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Reply {
    #[track_caller]
    pub fn expect_ok(self) -> Vec<u8> {
        assert_eq!((self.flags, self.errno), (REPLY, 0), "{self:?}");
        self.payload
    }

    #[track_caller]
    pub fn expect_error(self, errno: u32) {
        assert_eq!((self.flags, self.errno, self.payload.len()), (ERROR, errno, 0), "{self:?}");
    }
}

/// A server on a thread, and a client of it.
pub struct Client {
    pub stream: UnixStream,
    pub device: Recorder,
    pub memory: ClientMemory,
    pub next_id: u16,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

/// Ids of tests begin here, so that a lost one shows.
const FIRST_ID: u16 = 0x4D00;

impl Client {
    /// Not yet negotiated.
    pub fn raw() -> Self {
        Self::raw_with(Limits { send: PATIENCE, memory: PATIENCE })
    }

    pub fn raw_with(limits: Limits) -> Self {
        Self::served(limits, |connection, device| connection.serve(device))
    }

    /// Not yet negotiated, and to give way to whoever connects there once so long has passed.
    pub fn raw_beside(listener: UnixListener, limit: Duration) -> Self {
        Self::served(Limits::default(), move |connection, device| {
            connection.serve_beside(Negotiation::within(limit, &listener), device)
        })
    }

    fn served(
        limits: Limits,
        serve: impl FnOnce(Connection, &mut Recorder) -> Result<(), ServeError> + Send + 'static,
    ) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let device = Recorder::new();
        let mut served = device.clone();
        let connection = Connection::new(theirs, limits).unwrap();
        let memory = connection.client_memory();
        let server = std::thread::spawn(move || {
            let outcome = serve(connection, &mut served);
            served.disconnect();
            outcome
        });
        Self { stream, device, memory, next_id: FIRST_ID, server: Some(server) }
    }

    /// Negotiated as QEMU does it.
    pub fn new() -> Self {
        Self::with_version(QEMU_VERSION, Limits { send: PATIENCE, memory: PATIENCE })
    }

    pub fn with_version(json: &str, limits: Limits) -> Self {
        let mut client = Self::raw_with(limits);
        client.call(VERSION, &version(0, 1, json)).expect_ok();
        // Behind another round the server has also opened the client's memory to its threads.
        client.expect_alive();
        client
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    pub fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    pub fn receive(&mut self) -> Reply {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut header = [0; 16];
        let got = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
        );
        assert_eq!(got.expect("a message within the time limit").bytes, 16, "the server closed the connection");
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(got) = message {
                fds.extend(got);
            }
        }
        let size = u32_at(&header, 4) as usize;
        let mut payload = vec![0; size - 16];
        self.stream.read_exact(&mut payload).unwrap();
        Reply {
            id: u16_at(&header, 0),
            command: u16_at(&header, 2),
            flags: u32_at(&header, 8),
            errno: u32_at(&header, 12),
            payload,
            fds,
        }
    }

    /// Receives the reply to a command, and checks that it is one.
    #[track_caller]
    pub fn reply_to(&mut self, id: u16, command: u16) -> Reply {
        let reply = self.receive();
        assert_eq!((reply.id, reply.command), (id, command), "{reply:?}");
        reply
    }

    #[track_caller]
    pub fn call(&mut self, command: u16, payload: &[u8]) -> Reply {
        let id = self.id();
        self.send_bytes(&message(id, command, 0, payload));
        self.reply_to(id, command)
    }

    #[track_caller]
    pub fn call_fds(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Reply {
        let id = self.id();
        self.send_fds(&message(id, command, 0, payload), fds);
        self.reply_to(id, command)
    }

    pub fn post(&mut self, command: u16, payload: &[u8]) {
        let id = self.id();
        self.send_bytes(&message(id, command, NO_REPLY, payload));
    }

    /// The connection still works, and nothing unexpected was in front of the reply.
    #[track_caller]
    pub fn expect_alive(&mut self) {
        let payload = self.call(REGION_READ, &access(0x40, CONFIG, 4)).expect_ok();
        assert_eq!(&payload[16..], &[0x40, 0x41, 0x42, 0x43]);
    }

    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("the connection is not closed: {other:?}"),
        }
    }

    /// See [`calls`].
    pub fn calls(&self) -> Vec<Call> {
        calls(&self.device.record)
    }

    /// Leaves, and returns what the server says of it.
    pub fn finish(mut self) -> Result<(), ServeError> {
        self.stream.shutdown(std::net::Shutdown::Write).ok();
        self.join()
    }

    pub fn join(&mut self) -> Result<(), ServeError> {
        let server = self.server.take().unwrap();
        for _ in 0..10_000 {
            if server.is_finished() {
                return server.join().expect("the server panicked");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the server hangs");
    }

    pub fn join_panicked(&mut self) -> bool {
        self.server.take().unwrap().join().is_err()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).ok();
        if let Some(server) = self.server.take() {
            let outcome = server.join();
            assert!(std::thread::panicking() || outcome.is_ok(), "the server panicked");
        }
    }
}

pub fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    sized(id, command, (16 + payload.len()) as u32, flags, payload)
}

/// A message whose header says any size.
pub fn sized(id: u16, command: u16, size: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(id.to_le_bytes());
    bytes.extend(command.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(payload);
    bytes
}

pub fn version(major: u16, minor: u16, json: &str) -> Vec<u8> {
    let mut bytes = version_raw(major, minor, json.as_bytes());
    bytes.push(0);
    bytes
}

pub fn version_raw(major: u16, minor: u16, data: &[u8]) -> Vec<u8> {
    [&major.to_le_bytes()[..], &minor.to_le_bytes(), data].concat()
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    [&offset.to_le_bytes()[..], &words(&[region, count])].concat()
}

pub fn write_to(offset: u64, region: u32, data: &[u8]) -> Vec<u8> {
    [&access(offset, region, data.len() as u32), data].concat()
}

pub fn map(flags: u32, offset: u64, iova: u64, size: u64) -> Vec<u8> {
    [&words(&[32, flags])[..], &offset.to_le_bytes(), &iova.to_le_bytes(), &size.to_le_bytes()].concat()
}

pub fn unmap(flags: u32, iova: u64, size: u64) -> Vec<u8> {
    [&words(&[24, flags])[..], &iova.to_le_bytes(), &size.to_le_bytes()].concat()
}

pub fn irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    words(&[20, flags, index, start, count])
}

pub fn multi(writes: &[(u64, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = (writes.len() as u64).to_le_bytes().to_vec();
    for (offset, region, data) in writes {
        bytes.extend(access(*offset, *region, data.len() as u32));
        bytes.extend([*data, &[0; 8][data.len()..]].concat());
    }
    bytes
}

/// Memory of so many bytes.
pub fn memory(size: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

pub fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
