//! The client's memory, reached by messages: for guest RAM that comes without a file descriptor.
//!
//! Fed by the card's threads (accesses) and by the serving thread (replies); feeds the link with DMA_READ and
//! DMA_WRITE.

use super::link::Link;
use super::protocol::{HEADER, Header, MAX_TRANSFER, command, u32_at, u64_at};
use crate::device::{Gate, RemoteError, RemoteMemory};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Requests that may await their replies at once: one bit each in a word.
const SLOTS: usize = 64;
/// Bytes of data that may be under way. A client whose socket fills up with replies may lose its place in the stream.
const WINDOW: usize = 128 << 10;
/// For accesses that nobody can forbid.
const OPEN: Gate<'static> = &|_, _, send| {
    send();
    true
};
/// Bytes of address and count before the data.
const RANGE: usize = 16;

/// Why an access to the client's memory failed. Some of its bytes may have been transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientMemoryError {
    /// The connection is over.
    #[error("the client has gone: drop what was to be transferred, and wait for the next client")]
    Disconnected,
    /// The client has not agreed to anything yet.
    #[error("the client has not sent VERSION yet: access its memory only after it mapped some")]
    NotReady,
    /// The calling thread is the one that would have to receive the reply.
    #[error(
        "the serving thread cannot wait for a reply that it receives itself: access the memory from another thread"
    )]
    ServingThread,
    /// The range ends beyond the last address.
    #[error("{size:#x} bytes at {iova:#x} go beyond the last address: check the range first")]
    Range {
        /// First address.
        iova: u64,
        /// Bytes.
        size: usize,
    },
    /// The gate did not let a request pass.
    #[error("{size:#x} bytes at {iova:#x} may not be accessed any more: drop what was to be transferred")]
    Withdrawn {
        /// First address of the part that was not asked for.
        iova: u64,
        /// Bytes of that part.
        size: usize,
    },
    /// The client replied with an error.
    #[error(
        "the client refuses {size:#x} bytes at {iova:#x}: {errno}; check that they are mapped and bus mastering is on"
    )]
    Refused {
        /// First address of the part that was refused.
        iova: u64,
        /// Bytes of that part.
        size: usize,
        /// Its reason.
        errno: Errno,
    },
    /// The client's reply does not answer the request.
    #[error("the client's reply for {size:#x} bytes at {iova:#x} is not about them: this is the client's fault")]
    BadReply {
        /// First address of that part.
        iova: u64,
        /// Bytes of that part.
        size: usize,
    },
    /// The client did not reply in time.
    #[error("the client did not answer for {limit:?}: is it stopped, or waiting for a reply of the card's?")]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
}

/// Access to the client's memory. Clones reach the same client; they outlive it safely.
#[derive(Clone, Debug)]
pub struct ClientMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    exchange: Mutex<Exchange>,
    /// A reply came, or the connection is over.
    changed: Condvar,
    limit: Duration,
}

/// Who awaits what. A slot is free, or under way (in no set), or done, or abandoned while under way.
#[derive(Debug)]
struct Exchange {
    /// Bytes that a message may carry; 0 before the client said.
    transfer: usize,
    serving: Option<ThreadId>,
    closed: bool,
    free: u64,
    done: u64,
    abandoned: u64,
    /// Bytes of data under way.
    under_way: usize,
    /// Makes ids differ, so that a late reply is not taken for another.
    generation: u16,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    id: u16,
    command: u16,
    iova: u64,
    count: usize,
    /// Where it belongs in the data of the whole access.
    at: usize,
    /// What was read.
    data: Vec<u8>,
    outcome: Result<(), ClientMemoryError>,
}

/// What is transferred.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn command(&self) -> u16 {
        match self {
            Self::Read(_) => command::DMA_READ,
            Self::Write(_) => command::DMA_WRITE,
        }
    }
}

impl ClientMemory {
    pub(super) fn new(link: Arc<Link>, limit: Duration) -> Self {
        let slot = Slot { id: 0, command: 0, iova: 0, count: 0, at: 0, data: Vec::new(), outcome: Ok(()) };
        let exchange = Exchange {
            transfer: 0,
            serving: None,
            closed: false,
            free: u64::MAX,
            done: 0,
            abandoned: 0,
            under_way: 0,
            generation: 0,
            slots: vec![slot; SLOTS],
        };
        Self(Arc::new(Shared { link, exchange: Mutex::new(exchange), changed: Condvar::new(), limit }))
    }

    /// Reads from the client's memory. Waits for it, up to the connection's time limit.
    ///
    /// # Errors
    /// See [`ClientMemoryError`]. `data` may be filled in part.
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), ClientMemoryError> {
        self.access(&[(iova, data.len())], Data::Read(data), OPEN)
    }

    /// Writes to the client's memory. On return the client has written it.
    ///
    /// # Errors
    /// See [`ClientMemoryError`]. A part may have been written.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), ClientMemoryError> {
        self.access(&[(iova, data.len())], Data::Write(data), OPEN)
    }

    /// Transfers ranges of addresses to or from `data`, where they are one behind the other.
    fn access(&self, ranges: &[(u64, usize)], mut data: Data<'_>, gate: Gate<'_>) -> Result<(), ClientMemoryError> {
        for &(iova, size) in ranges {
            let end = iova.checked_add((size as u64).saturating_sub(1));
            end.ok_or(ClientMemoryError::Range { iova, size })?;
        }
        let size = ranges.iter().map(|(_, size)| size).sum::<usize>().min(data.len());
        let deadline = Instant::now() + self.0.limit;
        let mut held = Held { memory: self, slots: 0 };
        let mut ranges = ranges.iter().copied().filter(|(_, size)| *size > 0);
        let (mut iova, mut left) = (0, 0);
        let (mut asked, mut answered) = (0, 0);
        while answered < size {
            while asked < size {
                if left == 0 {
                    (iova, left) = ranges.next().unwrap_or_default();
                }
                let part = (iova, left.min(size - asked));
                let Some((id, count)) = self.claim(&mut held, data.command(), part, asked, deadline)? else {
                    break;
                };
                let mut sent = Ok(());
                if !gate(iova, count, &mut || sent = self.request(id, iova, count, asked, &data)) {
                    self.cancel(&mut held, id);
                    return Err(ClientMemoryError::Withdrawn { iova, size: count });
                }
                sent?;
                // The last byte may be at the last address.
                iova = iova.wrapping_add(count as u64);
                left -= count;
                asked += count;
            }
            answered += self.collect(&mut held, &mut data, deadline)?;
        }
        Ok(())
    }

    /// Takes a slot for the first bytes of a part of a range, which belong to the data at `at`. `None`: there is no
    /// room before one of those held is answered.
    fn claim(
        &self,
        held: &mut Held<'_>,
        command: u16,
        (iova, size): (u64, usize),
        at: usize,
        deadline: Instant,
    ) -> Result<Option<(u16, usize)>, ClientMemoryError> {
        let mut exchange = self.exchange();
        loop {
            exchange.usable()?;
            let count = size.min(exchange.transfer);
            if exchange.free != 0 && exchange.under_way + count <= WINDOW {
                let (id, bit) = exchange.take(command, iova, count, at);
                held.slots |= bit;
                return Ok(Some((id, count)));
            }
            if held.slots != 0 {
                return Ok(None);
            }
            self.wait(&mut exchange, deadline)?;
        }
    }

    /// Gives a slot back for which nothing was sent.
    fn cancel(&self, held: &mut Held<'_>, id: u16) {
        let index = usize::from(id) % SLOTS;
        let mut exchange = self.exchange();
        held.slots &= !(1 << index);
        exchange.under_way -= exchange.slots[index].count;
        exchange.release(1 << index);
        drop(exchange);
        self.0.changed.notify_all();
    }

    fn request(&self, id: u16, iova: u64, count: usize, at: usize, data: &Data<'_>) -> Result<(), ClientMemoryError> {
        let body = match data {
            Data::Read(_) => &[],
            Data::Write(data) => &data[at..at + count],
        };
        let header = Header::request(id, data.command(), HEADER + RANGE + body.len());
        let mut head = [0; HEADER + RANGE];
        head[..HEADER].copy_from_slice(&header.encode());
        head[HEADER..HEADER + 8].copy_from_slice(&iova.to_le_bytes());
        head[HEADER + 8..].copy_from_slice(&(count as u64).to_le_bytes());
        self.0.link.send(&head, body, None).map_err(|errno| {
            tracing::warn!("the connection is given up, since a request to the client was lost: {errno}");
            ClientMemoryError::Disconnected
        })
    }

    /// Waits until one of the slots held is answered. Returns the bytes that it was about.
    fn collect(&self, held: &mut Held<'_>, data: &mut Data<'_>, deadline: Instant) -> Result<usize, ClientMemoryError> {
        let mut exchange = self.exchange();
        loop {
            let ready = exchange.done & held.slots;
            if ready != 0 {
                let index = ready.trailing_zeros() as usize;
                held.slots &= !(1 << index);
                exchange.release(1 << index);
                let slot = &exchange.slots[index];
                slot.outcome?;
                if let Data::Read(data) = data {
                    data[slot.at..slot.at + slot.count].copy_from_slice(&slot.data);
                }
                return Ok(slot.count);
            }
            exchange.usable()?;
            self.wait(&mut exchange, deadline)?;
        }
    }

    fn wait(&self, exchange: &mut MutexGuard<'_, Exchange>, deadline: Instant) -> Result<(), ClientMemoryError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientMemoryError::TimedOut { limit: self.0.limit });
        }
        self.0.changed.wait_for(exchange, left);
        Ok(())
    }

    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.0.exchange.lock()
    }

    /// The calling thread serves from now on.
    pub(super) fn served_here(&self) {
        self.exchange().serving = Some(std::thread::current().id());
    }

    /// The client has said how many bytes it takes in a message.
    pub(super) fn open(&self, client_transfer: u64) {
        let ours = MAX_TRANSFER as u64;
        self.exchange().transfer = client_transfer.min(ours) as usize;
    }

    /// A reply has come. `false`: it answers nothing.
    pub(super) fn complete(&self, header: &Header, payload: &[u8]) -> bool {
        let mut exchange = self.exchange();
        let known = exchange.complete(header, payload);
        drop(exchange);
        self.0.changed.notify_all();
        known
    }
}

impl RemoteMemory for ClientMemory {
    fn fetch(&self, ranges: &[(u64, usize)], out: &mut [u8], gate: Gate<'_>) -> Result<(), RemoteError> {
        self.access(ranges, Data::Read(out), gate).map_err(RemoteError::from)
    }

    fn store(&self, iova: u64, bytes: &[u8], gate: Gate<'_>) -> Result<(), RemoteError> {
        self.access(&[(iova, bytes.len())], Data::Write(bytes), gate).map_err(RemoteError::from)
    }

    fn close(&self) {
        self.exchange().closed = true;
        self.0.changed.notify_all();
    }
}

impl From<ClientMemoryError> for RemoteError {
    fn from(error: ClientMemoryError) -> Self {
        match error {
            ClientMemoryError::TimedOut { .. } => {
                tracing::warn!("{error}");
                Self::Lost
            }
            ClientMemoryError::Disconnected => Self::Lost,
            // What the client refuses it can be made to refuse without end.
            _ => {
                tracing::debug!("{error}");
                Self::Refused
            }
        }
    }
}

impl Exchange {
    fn usable(&self) -> Result<(), ClientMemoryError> {
        if self.closed {
            Err(ClientMemoryError::Disconnected)
        } else if self.transfer == 0 {
            Err(ClientMemoryError::NotReady)
        } else if self.serving == Some(std::thread::current().id()) {
            Err(ClientMemoryError::ServingThread)
        } else {
            Ok(())
        }
    }

    /// Takes the lowest free slot, so that few buffers grow. Returns its id and its bit.
    fn take(&mut self, command: u16, iova: u64, count: usize, at: usize) -> (u16, u64) {
        let index = self.free.trailing_zeros() as usize;
        let bit = 1 << index;
        self.free &= !bit;
        self.under_way += count;
        self.generation = self.generation.wrapping_add(1);
        let slot = &mut self.slots[index];
        let id = self.generation.wrapping_mul(SLOTS as u16) + index as u16;
        (slot.id, slot.command, slot.iova, slot.count, slot.at) = (id, command, iova, count, at);
        slot.data.clear();
        if command == command::DMA_READ {
            // Here, so that the serving thread does not allocate.
            slot.data.reserve(count);
        }
        (id, bit)
    }

    fn release(&mut self, bit: u64) {
        self.done &= !bit;
        self.free |= bit;
    }

    fn complete(&mut self, header: &Header, payload: &[u8]) -> bool {
        let index = usize::from(header.id) % SLOTS;
        let bit = 1 << index;
        let slot = &mut self.slots[index];
        if (self.free | self.done) & bit != 0 || slot.id != header.id || slot.command != header.command {
            return false;
        }
        self.under_way -= slot.count;
        if self.abandoned & bit != 0 {
            self.abandoned &= !bit;
            self.free |= bit;
        } else {
            slot.outcome = slot.judge(header, payload);
            if let (Ok(()), command::DMA_READ) = (slot.outcome, slot.command) {
                slot.data.extend_from_slice(&payload[RANGE..]);
            }
            self.done |= bit;
        }
        true
    }
}

impl Slot {
    fn judge(&self, header: &Header, payload: &[u8]) -> Result<(), ClientMemoryError> {
        let (iova, size) = (self.iova, self.count);
        if let Some(errno) = header.error() {
            return Err(ClientMemoryError::Refused { iova, size, errno });
        }
        let fits = match self.command {
            command::DMA_READ => payload.len() == RANGE + size && u64_at(payload, 8) == size as u64,
            // The specification draws the count of this reply with 4 bytes; everyone sends 8.
            _ => matches!(payload.len(), 12 | RANGE) && u32_at(payload, 8) as usize == size,
        };
        if fits && u64_at(payload, 0) == iova { Ok(()) } else { Err(ClientMemoryError::BadReply { iova, size }) }
    }
}

/// The slots of one access. Those that it leaves unanswered stay taken until their replies come.
struct Held<'a> {
    memory: &'a ClientMemory,
    slots: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.slots != 0 {
            let mut exchange = self.memory.exchange();
            let done = exchange.done & self.slots;
            exchange.release(done);
            exchange.abandoned |= self.slots & !done;
            drop(exchange);
            self.memory.0.changed.notify_all();
        }
    }
}
