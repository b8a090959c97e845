//! The boundary between a transport and the card: a PCI function as vfio-user sees it.
//!
//! A transport drives a [`Device`]; the card is one. Nothing beyond this file knows which protocol carries the
//! accesses.

use dmus_interface::pci::{DOORBELL_BAR, MSIX_BAR, REGISTER_BAR};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A region of the function that can be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// PCI configuration space.
    Config,
    /// BAR0.
    Registers,
    /// BAR2.
    Doorbell,
    /// BAR4.
    Msix,
}

impl Region {
    /// The region of a BAR, if the card has that one.
    pub fn of_bar(bar: u32) -> Option<Self> {
        match u8::try_from(bar) {
            Ok(REGISTER_BAR) => Some(Self::Registers),
            Ok(DOORBELL_BAR) => Some(Self::Doorbell),
            Ok(MSIX_BAR) => Some(Self::Msix),
            _ => None,
        }
    }
}

/// Guest memory that the client lets the card access.
#[derive(Debug)]
pub struct DmaMap {
    /// Address on the bus.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
    /// Where in `file` it begins.
    pub offset: u64,
    /// The memory, or `None` if the client does not share it.
    pub file: Option<File>,
    /// Whether the card may write.
    pub writable: bool,
}

/// Sends a request for a range of so many bytes, by the call that it is given, while the device may access that range.
/// `false` says that it may not any more, and that nothing was sent.
pub type Gate<'a> = &'a dyn Fn(u64, usize, &mut dyn FnMut()) -> bool;

/// The client's memory, reached by messages to the client: for what it maps without a file. It is slow, and nobody may
/// hold up the transport while waiting for it.
pub trait RemoteMemory: Debug + Send + Sync {
    /// Copies ranges (address and bytes) out, one behind the other, into `out`, which is as long as all of them. Waits
    /// for the client, for a limited time.
    fn fetch(&self, ranges: &[(u64, usize)], out: &mut [u8], gate: Gate<'_>) -> Result<(), RemoteError>;
    /// Copies in. Waits until the client has done it, for a limited time.
    fn store(&self, iova: u64, bytes: &[u8], gate: Gate<'_>) -> Result<(), RemoteError>;
    /// Nothing is asked for any more, and who waits for an answer does not go on waiting.
    fn close(&self);
}

/// Why an access to the client's memory failed. Some of it may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteError {
    /// This access was refused, by the client or by the gate. Others may succeed.
    Refused,
    /// The client has gone, or does not answer.
    Lost,
}

/// An eventfd of the client's, to signal an interrupt with. The client has it too, and may do with its counter and its
/// flags what it likes.
#[derive(Debug)]
pub struct Eventfd(File);

impl Eventfd {
    /// Takes a descriptor that is an eventfd with room in its counter, and no other.
    pub fn new(file: File) -> Option<Self> {
        // The kernel does not say what an anonymous inode is of. Of those that have one, an eventfd can be written to
        // now; a timerfd, signalfd, epoll, inotify or pidfd never can.
        let anonymous = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Unknown);
        let writable = || poll(&mut [PollFd::new(&file, PollFlags::OUT)], Some(&Timespec::default())) == Ok(1);
        (anonymous && writable()).then_some(Self(file))
    }

    /// Adds 1 to the counter. While that is full, it blocks, until the client makes room or a signal comes.
    pub fn signal(&self) -> io::Result<()> {
        rustix::io::write(&self.0, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// A PCI function. What needs the system can fail; else a device answers nonsense as hardware does, and records it.
pub trait Device {
    /// Reads `data.len()` bytes.
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]);
    /// Writes bytes.
    fn write(&mut self, region: Region, offset: u64, data: &[u8]);
    /// The client's memory can be accessed by messages until it disconnects, from any thread but the transport's.
    fn offer_memory(&mut self, memory: Arc<dyn RemoteMemory>);
    /// Lets the card access guest memory. An error leaves that memory out; its errno is reported to the client.
    fn map(&mut self, map: DmaMap) -> io::Result<()>;
    /// Takes all maps that overlap the range back. On return the card does not touch them any more.
    fn unmap(&mut self, iova: u64, size: u64);
    /// Connects an interrupt vector to an eventfd, or disconnects it.
    fn set_vector(&mut self, vector: u16, eventfd: Option<Eventfd>);
    /// Function reset.
    fn reset(&mut self);
    /// The client has gone: reset, and forget its memory and interrupts.
    fn disconnect(&mut self);
    /// A descriptor of the memory behind BAR2, for the client to map.
    fn doorbell_fd(&self) -> io::Result<OwnedFd>;
}
