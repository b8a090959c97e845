//! A client with unshared memory: the card gets no descriptor of it, and has to ask for every byte.
//!
//! Fed by tests with a driver's accesses, and with how to answer the card; feeds a card's server in this process. A
//! thread of its own receives, so that the card is answered whatever the driver does. Everything has a time limit.

use crate::loopback::{MemorySink, await_vector};
use crate::memory::{Page, RAM, RAM_IOVA, Ram};
use crate::raw::Bus;
use anyhow::{Context, ensure};
use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::device::Device;
use dmus_card::engine::EngineHandle;
use dmus_card::stats::Stats;
use dmus_card::transport::server::{Connection, Limits};
use dmus_driver::dma::{DmaMemory, SharedMemory};
use dmus_driver::{Platform, PlatformError};
use dmus_interface::pci::{BAR_SIZE, DOORBELL_BAR, REGISTER_BAR, VECTORS};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::cell::Cell;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const HEADER: usize = 16;
const CONFIG: u32 = 7;

// The protocol's commands.
mod command {
    pub(super) const VERSION: u16 = 1;
    pub(super) const DMA_MAP: u16 = 2;
    pub(super) const DMA_UNMAP: u16 = 3;
    pub(super) const GET_REGION_INFO: u16 = 5;
    pub(super) const SET_IRQS: u16 = 8;
    pub(super) const REGION_READ: u16 = 9;
    pub(super) const REGION_WRITE: u16 = 10;
    pub(super) const DMA_READ: u16 = 11;
    pub(super) const RESET: u16 = 13;
}

/// A card that serves one client after the other.
pub struct UnsharedHost {
    /// Its audio.
    pub audio: MemorySink,
    /// Its counters.
    pub stats: Arc<Stats>,
    clients: Option<Sender<UnixStream>>,
    server: Option<JoinHandle<()>>,
    engine: Option<EngineHandle>,
}

impl UnsharedHost {
    /// Starts a card of virtual time that waits for so long for its client's memory.
    pub fn start(memory: Duration) -> anyhow::Result<Self> {
        Self::start_with(memory, Vec::new())
    }

    /// As [`Self::start`], with MIDI inputs.
    pub fn start_with(memory: Duration, inputs: Vec<Input>) -> anyhow::Result<Self> {
        let audio = MemorySink::default();
        let bank = Arc::new(Bank::general_midi());
        let (mut card, engine) = dmus_card::assemble_with(bank, ClockMode::Virtual, Box::new(audio.clone()), inputs)?;
        let engine = engine.spawn()?;
        let stats = card.stats();
        let (clients, waiting) = channel::<UnixStream>();
        let server = std::thread::spawn(move || {
            for stream in waiting {
                // Why a client was lost is its own business.
                let _ = Connection::new(stream, Limits { send: PATIENCE, memory })
                    .and_then(|connection| connection.serve(&mut card));
                card.disconnect();
            }
        });
        Ok(Self { audio, stats, clients: Some(clients), server: Some(server), engine: Some(engine) })
    }

    /// Connects a client that has mapped all its memory, without a descriptor.
    pub fn connect(&self) -> anyhow::Result<UnsharedClient> {
        let (ours, theirs) = UnixStream::pair()?;
        self.clients.as_ref().context("finished")?.send(theirs)?;
        let client = UnsharedClient::new(ours)?;
        client.map(RAM_IOVA, RAM as u64, None);
        Ok(client)
    }

    /// Ends the card's engine while a client may be connected.
    pub fn end_engine(&mut self) -> anyhow::Result<()> {
        self.engine.take().context("it has ended")?.finish()?;
        Ok(())
    }

    /// Waits until the last client's leaving is handled and all audio is written. The client must be gone.
    pub fn finish(mut self) -> anyhow::Result<MemorySink> {
        drop(self.clients.take());
        if let Some(server) = self.server.take() {
            server.join().ok().context("the server panicked")?;
        }
        if let Some(engine) = self.engine.take() {
            engine.finish()?;
        }
        Ok(self.audio.clone())
    }
}

/// A request of the card's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// DMA_READ or DMA_WRITE.
    pub command: u16,
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub count: usize,
    id: u16,
    data: Vec<u8>,
}

impl Request {
    /// Whether it is about a byte of this memory.
    pub fn touches(&self, iova: u64, len: usize) -> bool {
        self.iova < iova + len as u64 && iova < self.iova + self.count as u64
    }
}

/// What came from the card, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The reply to a command.
    Reply(u16),
    /// A request.
    Request(Request),
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Serve,
    /// With this errno.
    Error(u32),
    /// With a byte too few.
    Short,
    /// With a byte too many.
    Long,
    /// About another address.
    OtherPlace,
    /// With another count.
    OtherCount,
    /// Not now: [`UnsharedClient::answer_held`] does it.
    Hold,
    /// By leaving.
    Leave,
}

type Manner = Box<dyn FnMut(&Request) -> Answer + Send>;

/// What the receiving thread shares with the driver's.
struct Peer {
    socket: UnixStream,
    /// Held while a message is sent.
    sending: Mutex<()>,
    memory: File,
    state: Mutex<State>,
    came: Condvar,
}

struct State {
    manner: Manner,
    seen: Vec<Seen>,
    held: Vec<Request>,
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, id: u16, command: u16, flags: u32, errno: u32, payload: &[u8], fd: Option<BorrowedFd<'_>>) {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(id.to_le_bytes());
        bytes.extend(command.to_le_bytes());
        bytes.extend(((HEADER + payload.len()) as u32).to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(errno.to_le_bytes());
        bytes.extend(payload);
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        let fits = fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "one descriptor fits");
        // A server that has gone is noticed by who waits for its reply.
        if let Ok(sent) = sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            let _ = (&self.socket).write_all(&bytes[sent..]);
        }
    }

    fn answer(&self, request: &Request, answer: Answer) {
        let Request { command, id, .. } = *request;
        let reading = command == command::DMA_READ;
        let (mut iova, mut count) = (request.iova, request.count as u64);
        let mut data = vec![0; if reading { request.count } else { 0 }];
        let offset = iova.checked_sub(RAM_IOVA).filter(|offset| offset + count <= RAM as u64);
        let done = offset.map(|offset| match reading {
            true => self.memory.read_exact_at(&mut data, offset),
            false => self.memory.write_all_at(&request.data, offset),
        });
        match answer {
            Answer::Error(errno) => return self.send(id, command, 0x21, errno, &[], None),
            _ if !matches!(done, Some(Ok(()))) => return self.send(id, command, 0x21, 19, &[], None),
            Answer::Short => drop(data.pop()),
            Answer::Long => data.push(0),
            Answer::OtherPlace => iova += 8,
            Answer::OtherCount => count += 1,
            Answer::Serve | Answer::Hold | Answer::Leave => {}
        }
        let mut payload = [iova.to_le_bytes(), count.to_le_bytes()].concat();
        payload.extend(data);
        if !reading && answer == Answer::Short {
            payload.pop();
        }
        self.send(id, command, 1, 0, &payload, None);
    }

    /// Receives until the server has gone.
    fn receive(&self, replies: &Sender<Reply>) -> std::io::Result<()> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut header = [0; HEADER];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
            let got = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut header)], &mut control, flags)?;
            if got.bytes != HEADER {
                return Ok(());
            }
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let mut payload = vec![0; (word(4) as usize).saturating_sub(HEADER)];
            (&self.socket).read_exact(&mut payload)?;
            let (id, command) = (word(0) as u16, (word(0) >> 16) as u16);
            if word(8) & 0xF == 1 {
                self.state().seen.push(Seen::Reply(command));
                self.came.notify_all();
                let _ = replies.send(Reply { id, command, error: word(8) & 0x20 != 0, payload, fd });
                continue;
            }
            let long =
                |at: usize| payload.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
            let (iova, count) = (long(0), long(8) as usize);
            let data = payload.get(16..).unwrap_or_default().to_vec();
            let request = Request { command, iova, count, id, data };
            let answer = {
                let mut state = self.state();
                let answer = (state.manner)(&request);
                state.seen.push(Seen::Request(request.clone()));
                if answer == Answer::Hold {
                    state.held.push(request.clone());
                }
                answer
            };
            self.came.notify_all();
            match answer {
                Answer::Hold => {}
                Answer::Leave => self.socket.shutdown(Shutdown::Both)?,
                answer => self.answer(&request, answer),
            }
        }
    }
}

struct Reply {
    id: u16,
    command: u16,
    error: bool,
    payload: Vec<u8>,
    fd: Option<OwnedFd>,
}

/// The client, as a driver's platform.
pub struct UnsharedClient {
    /// Its memory.
    pub ram: Ram,
    peer: Arc<Peer>,
    replies: Receiver<Reply>,
    receiver: Option<JoinHandle<()>>,
    page: Page,
    vectors: Vec<OwnedFd>,
    next_id: Cell<u16>,
    started: Instant,
}

impl UnsharedClient {
    /// Over a connected socket; nothing is mapped yet.
    pub fn new(socket: UnixStream) -> anyhow::Result<Self> {
        socket.set_write_timeout(Some(PATIENCE))?;
        let ram = Ram::new()?;
        let state = State { manner: Box::new(|_| Answer::Serve), seen: Vec::new(), held: Vec::new() };
        let peer = Arc::new(Peer {
            socket,
            sending: Mutex::new(()),
            memory: ram.file.try_clone()?,
            state: Mutex::new(state),
            came: Condvar::new(),
        });
        let (sender, replies) = channel();
        let receiving = Arc::clone(&peer);
        // The end of the channel says that the server has gone.
        let receiver = std::thread::spawn(move || drop(receiving.receive(&sender)));
        let mut this = Self {
            page: Page::map(&ram.file, BAR_SIZE as usize)?,
            ram,
            peer,
            replies,
            receiver: Some(receiver),
            vectors: Vec::new(),
            next_id: Cell::new(0x100),
            started: Instant::now(),
        };
        this.call(command::VERSION, b"\0\0\x01\0{\"capabilities\":{\"max_data_xfer_size\":1048576}}\0", None)?;
        let info = words(&[64, 0, DOORBELL_BAR.into(), 0, 0, 0, 0, 0]);
        let page = this.call(command::GET_REGION_INFO, &info, None)?;
        this.page = Page::map(&File::from(page.fd.context("the doorbell page cannot be mapped")?), BAR_SIZE as usize)?;
        for vector in 0..u32::from(VECTORS) {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            this.connect_vector(vector, fd.as_fd())?;
            this.vectors.push(fd);
        }
        // Memory space and bus master.
        this.write_config(4, &[0x06, 0x00]);
        Ok(this)
    }

    fn call(&self, command: u16, payload: &[u8], fd: Option<BorrowedFd<'_>>) -> anyhow::Result<Reply> {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        self.peer.send(id, command, 0, 0, payload, fd);
        let reply = self.replies.recv_timeout(PATIENCE).with_context(|| format!("no reply to command {command}"))?;
        ensure!((reply.id, reply.command, reply.error) == (id, command, false), "command {command} is refused");
        Ok(reply)
    }

    fn must(&self, command: u16, payload: &[u8], fd: Option<BorrowedFd<'_>>) -> Vec<u8> {
        let called = self.call(command, payload, fd);
        assert!(called.is_ok(), "{:?}", called.err());
        called.map(|reply| reply.payload).unwrap_or_default()
    }

    /// Lets the card signal a descriptor when it raises a vector.
    pub fn connect_vector(&self, vector: u32, descriptor: BorrowedFd<'_>) -> anyhow::Result<()> {
        // Trigger by eventfd.
        self.call(command::SET_IRQS, &words(&[20, 0x24, 2, vector, 1]), Some(descriptor)).map(drop)
    }

    /// Lets the card have memory at `iova`: a part of the client's from an offset on, with its descriptor, or what is
    /// there without one.
    pub fn map(&self, iova: u64, size: u64, shared: Option<u64>) {
        let mapped = self.share(iova, size, shared.map(|offset| (offset, self.ram.file.as_fd())));
        assert!(mapped.is_ok(), "{:?}", mapped.err());
    }

    /// The same of any file, from an offset on.
    pub fn share(&self, iova: u64, size: u64, file: Option<(u64, BorrowedFd<'_>)>) -> anyhow::Result<()> {
        let mut payload = words(&[32, 3]);
        payload.extend([file.map_or(0, |(offset, _)| offset), iova, size].map(u64::to_le_bytes).as_flattened());
        self.call(command::DMA_MAP, &payload, file.map(|(_, file)| file)).map(drop)
    }

    /// Takes memory back.
    pub fn unmap(&self, iova: u64, size: u64) {
        let mut payload = words(&[24, 0]);
        payload.extend([iova, size].map(u64::to_le_bytes).as_flattened());
        self.must(command::DMA_UNMAP, &payload, None);
    }

    /// From now on the card's requests are answered so.
    pub fn behave(&self, manner: impl FnMut(&Request) -> Answer + Send + 'static) {
        self.peer.state().manner = Box::new(manner);
    }

    /// Answers the requests that were held, as they should be; says how many.
    pub fn answer_held(&self) -> usize {
        let held = std::mem::take(&mut self.peer.state().held);
        for request in &held {
            self.peer.answer(request, Answer::Serve);
        }
        held.len()
    }

    /// Waits until something was seen since `from`; gives all that was, and the number to go on from.
    pub fn await_seen(&self, from: usize, what: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.peer.state();
        while !state.seen[from..].iter().any(&what) {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "it did not come within {PATIENCE:?}: {:?}", &state.seen[from..]);
            state = self.peer.came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// What came from the card so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.peer.state().seen.clone()
    }
}

impl Drop for UnsharedClient {
    fn drop(&mut self) {
        // Fails if the server has gone already.
        let _ = self.peer.socket.shutdown(Shutdown::Both);
        if let Some(receiver) = self.receiver.take() {
            let joined = receiver.join();
            assert!(joined.is_ok() || std::thread::panicking(), "the receiver panicked");
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn access(offset: u64, region: u32, count: usize) -> Vec<u8> {
    let mut bytes = offset.to_le_bytes().to_vec();
    bytes.extend(words(&[region, count as u32]));
    bytes
}

impl Platform for UnsharedClient {
    fn read32(&self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read_bar0(offset.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write_bar0(offset.into(), &value.to_le_bytes());
    }

    fn doorbell(&self) -> &SharedMemory {
        self.page.shared()
    }

    fn dma_alloc(&self, len: usize, align: usize) -> Result<DmaMemory, PlatformError> {
        self.ram.allocate(len, align)
    }

    fn dma_free(&self, memory: DmaMemory) {
        self.ram.release(&memory);
    }

    fn wait(&self, vector: u16, limit: Duration) -> bool {
        self.vectors.get(usize::from(vector)).is_some_and(|fd| await_vector(fd, limit))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Bus for UnsharedClient {
    fn read_bar0(&self, offset: u64, bytes: &mut [u8]) {
        let payload = self.must(command::REGION_READ, &access(offset, REGISTER_BAR.into(), bytes.len()), None);
        assert_eq!(payload.len(), 16 + bytes.len(), "bytes of a register");
        bytes.copy_from_slice(&payload[16..]);
    }

    fn write_bar0(&self, offset: u64, bytes: &[u8]) {
        let payload = [&access(offset, REGISTER_BAR.into(), bytes.len()), bytes].concat();
        self.must(command::REGION_WRITE, &payload, None);
    }

    fn write_config(&self, offset: u64, bytes: &[u8]) {
        let payload = [&access(offset, CONFIG, bytes.len()), bytes].concat();
        self.must(command::REGION_WRITE, &payload, None);
    }

    fn device_reset(&self) {
        self.must(command::RESET, &[], None);
    }
}
