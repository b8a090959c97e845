//! A vfio-user server, protocol 0.1: one client, one PCI function.
//!
//! Fed by a connected socket; feeds a [`Device`]. A message acts only when it is there whole and checked; one that is
//! wrong is refused with its errno and changes nothing. A trapped access costs one receive and one send.

#![forbid(unsafe_code)]

mod client_memory;
mod inbox;
mod irqs;
mod link;
mod maps;
mod negotiation;
mod protocol;
mod regions;
mod version;

pub use client_memory::{ClientMemory, ClientMemoryError};
pub use negotiation::Negotiation;

use crate::device::{Device, RemoteMemory};
use inbox::{Inbox, Message};
use link::Link;
use maps::Maps;
use protocol::{HEADER, Header, Kind, Refusal, command, require, u32_at};
use rustix::io::Errno;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Why serving a client ended, other than by its leaving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be set up.
    #[error("cannot prepare the client's socket: {0}; connect again")]
    Setup(io::Error),
    /// The socket failed.
    #[error("cannot receive from the client: {0}; connect again")]
    Receive(Errno),
    /// The socket failed.
    #[error("cannot send to the client: {0}; connect again")]
    Send(Errno),
    /// The client does not take its replies.
    #[error("the client read nothing for {0:?} while its replies filled the socket: it must read them while it sends")]
    Stalled(Duration),
    /// Where the next message begins is unknown.
    #[error("the client sent a message of {0} bytes: one has at least 16 and at most 65568")]
    Framing(u32),
    /// The client speaks another protocol.
    #[error("the client speaks vfio-user {0}.x, the card 0.1: use a client of version 0")]
    Version(u16),
    /// The client has not negotiated, and holds up another one.
    #[error("the client did not negotiate (VERSION) within {0:?}, and another one waits; connect again")]
    Silent(Duration),
    /// The client left while sending.
    #[error("the client left in the middle of a message, after {0} bytes of it")]
    Cut(usize),
}

/// How long to wait for a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For it to make room in a full socket. Then it is dropped.
    pub send: Duration,
    /// For its replies to accesses to its memory.
    pub memory: Duration,
}

impl Default for Limits {
    /// Long enough for a client that is stopped for a moment, short enough to see that something hangs.
    fn default() -> Self {
        Self { send: Duration::from_secs(30), memory: Duration::from_secs(10) }
    }
}

/// Serves one client until it goes, or gives way to another. The caller disconnects the device afterwards.
///
/// # Errors
/// See [`ServeError`]. The connection is over in any case.
pub fn serve_connection(
    stream: UnixStream,
    negotiation: Negotiation<'_>,
    device: &mut dyn Device,
) -> Result<(), ServeError> {
    Connection::new(stream, Limits::default())?.serve_beside(negotiation, device)
}

/// A client. Dropping it ends the connection, and every access to the client's memory.
pub struct Connection {
    socket: Arc<UnixStream>,
    inbox: Inbox,
    session: Session,
    limits: Limits,
}

impl Connection {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// [`ServeError::Setup`].
    pub fn new(stream: UnixStream, limits: Limits) -> Result<Self, ServeError> {
        stream.set_nonblocking(false).map_err(ServeError::Setup)?;
        stream.set_read_timeout(None).map_err(ServeError::Setup)?;
        stream.set_write_timeout(Some(limits.send)).map_err(ServeError::Setup)?;
        let socket = Arc::new(stream);
        let link = Arc::new(Link::new(socket.clone()));
        let memory = ClientMemory::new(link.clone(), limits.memory);
        let session = Session {
            link,
            memory,
            negotiated: false,
            client_takes_fds: true,
            maps: Maps::default(),
            reply: Vec::with_capacity(HEADER + 16 + 4096),
        };
        Ok(Self { socket, inbox: Inbox::new(), session, limits })
    }

    /// The client's memory, for the card's other threads.
    pub fn client_memory(&self) -> ClientMemory {
        self.session.memory.clone()
    }

    /// Serves the client until it goes.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn serve(self, device: &mut dyn Device) -> Result<(), ServeError> {
        self.run(None, device)
    }

    /// Serves the client until it goes, or gives way to another.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn serve_beside(self, negotiation: Negotiation<'_>, device: &mut dyn Device) -> Result<(), ServeError> {
        self.run(Some(negotiation), device)
    }

    fn run(mut self, mut negotiation: Option<Negotiation<'_>>, device: &mut dyn Device) -> Result<(), ServeError> {
        self.session.memory.served_here();
        device.offer_memory(Arc::new(self.session.memory.clone()));
        loop {
            if let Some(negotiation) = negotiation.as_mut().filter(|_| !self.session.negotiated) {
                negotiation.wait(&self.socket)?;
            }
            if !self.inbox.receive(&self.socket)? {
                break;
            }
            loop {
                let outcome = match self.inbox.next() {
                    Ok(None) => break,
                    Ok(Some(message)) => self.session.handle(device, message),
                    Err(header) => self.session.lost(header),
                };
                match outcome {
                    Err(ServeError::Send(Errno::PIPE | Errno::CONNRESET)) => return Ok(()),
                    Err(ServeError::Send(Errno::AGAIN)) => return Err(ServeError::Stalled(self.limits.send)),
                    outcome => outcome?,
                }
            }
        }
        match self.inbox.left() {
            0 => Ok(()),
            left => Err(ServeError::Cut(left)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // First the shutdown, which wakes whoever is sending. It fails only if the connection is over already.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.session.memory.close();
        self.session.link.close();
    }
}

/// What a command that was carried out asks of its reply.
enum Done {
    Plain,
    /// This descriptor goes along.
    WithFd(OwnedFd),
    /// Behind it the client's memory can be accessed, in so many bytes a message.
    Agreed(u64),
}

/// What is known of the client, and the commands.
struct Session {
    link: Arc<Link>,
    memory: ClientMemory,
    /// Whether VERSION succeeded.
    negotiated: bool,
    client_takes_fds: bool,
    maps: Maps,
    /// The reply being made, header first. Kept, so that no message allocates.
    reply: Vec<u8>,
}

impl Session {
    fn handle(&mut self, device: &mut dyn Device, mut message: Message<'_>) -> Result<(), ServeError> {
        let header = message.header;
        if header.kind() == Kind::Reply {
            if !self.memory.complete(&header, message.payload) {
                tracing::debug!("a reply to nothing is ignored: command {}, id {}", header.command, header.id);
            }
            return Ok(());
        }
        self.reply.clear();
        self.reply.resize(HEADER, 0);
        match self.execute(device, &mut message) {
            Ok(done) if header.wants_reply() => {
                let size = self.reply.len();
                self.reply[..HEADER].copy_from_slice(&header.reply(size).encode());
                match done {
                    Done::Plain => self.send(None),
                    Done::WithFd(fd) => self.send(Some(fd.as_fd())),
                    Done::Agreed(transfer) => self.send(None).map(|()| self.memory.open(transfer)),
                }
            }
            Ok(_) => Ok(()),
            Err(refusal) => {
                tracing::warn!("command {} of the client is refused: {refusal}", header.command);
                self.refuse(&header, refusal.errno)?;
                match version::foreign_major(message.payload) {
                    Some(major) if header.command == command::VERSION && !self.negotiated => {
                        Err(ServeError::Version(major))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Carries out a command. Its reply's payload is appended to `reply`.
    fn execute(&mut self, device: &mut dyn Device, message: &mut Message<'_>) -> Result<Done, Refusal> {
        let Message { header, payload, fds } = message;
        let reply = &mut self.reply;
        require(header.kind() == Kind::Command, "the message is neither command nor reply")?;
        require(!fds.excess(), "more file descriptors than a message may carry")?;
        require((header.command == command::VERSION) != self.negotiated, "VERSION comes first, and once")?;
        let takes_fds = matches!(header.command, command::DMA_MAP | command::DEVICE_SET_IRQS);
        require(takes_fds || fds.len() == 0, "this command takes no file descriptors")?;
        match header.command {
            command::REGION_READ => regions::read(device, payload, reply)?,
            command::REGION_WRITE => regions::write(device, payload, reply)?,
            command::REGION_WRITE_MULTI => regions::write_multi(device, payload, reply)?,
            command::DMA_MAP => self.maps.map(device, payload, fds)?,
            command::DMA_UNMAP => self.maps.unmap(device, payload, reply)?,
            command::DEVICE_SET_IRQS => irqs::set(device, payload, fds)?,
            command::DEVICE_GET_IRQ_INFO => irqs::info(payload, reply)?,
            command::DEVICE_GET_REGION_INFO => {
                if regions::info(payload, self.client_takes_fds, reply)? {
                    let failed = |error| Refusal::of_device(&error, "the doorbell page has no descriptor");
                    return Ok(Done::WithFd(device.doorbell_fd().map_err(failed)?));
                }
            }
            command::DEVICE_GET_INFO => device_info(payload, reply)?,
            command::DEVICE_RESET => {
                require(payload.is_empty(), "a reset has no payload")?;
                device.reset();
            }
            command::VERSION => {
                require(header.wants_reply(), "VERSION needs its reply")?;
                let offer = version::Offer::parse(payload)?;
                tracing::debug!("the client offers {offer:?}");
                offer.answer(reply);
                self.client_takes_fds = offer.max_fds > 0;
                self.negotiated = true;
                return Ok(Done::Agreed(offer.max_transfer));
            }
            command::USER_DIRTY_PAGES => return Err(Refusal::new(Errno::NOTSUP, "there is no record of dirty pages")),
            _ => return Err(Refusal::new(Errno::NOSYS, "the command is unknown here")),
        }
        Ok(Done::Plain)
    }

    /// Ends the connection after a header that cannot be.
    fn lost(&mut self, header: Header) -> Result<(), ServeError> {
        if header.kind() != Kind::Reply {
            self.refuse(&header, Errno::INVAL)?;
        }
        Err(ServeError::Framing(header.size))
    }

    fn refuse(&mut self, header: &Header, errno: Errno) -> Result<(), ServeError> {
        if !header.wants_reply() {
            return Ok(());
        }
        self.reply.clear();
        self.reply.extend_from_slice(&header.refusal(errno).encode());
        self.send(None)
    }

    fn send(&self, fd: Option<BorrowedFd<'_>>) -> Result<(), ServeError> {
        self.link.send(&self.reply, &[], fd).map_err(ServeError::Send)
    }
}

fn device_info(payload: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
    const INFO: usize = 16;
    const RESET: u32 = 1 << 0;
    const PCI: u32 = 1 << 1;
    require(payload.len() >= INFO, "the message is too short")?;
    require(u32_at(payload, 0) as usize >= INFO, "argsz is less than the description of a device")?;
    for field in [INFO as u32, RESET | PCI, regions::REGIONS, irqs::KINDS] {
        reply.extend_from_slice(&field.to_le_bytes());
    }
    Ok(())
}
