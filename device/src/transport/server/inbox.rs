//! The receiving half of a connection: bytes and file descriptors in, whole messages out.
//!
//! Fed by the socket; feeds the session. Holds at most two messages and [`MAX_FDS`] descriptors twice, whatever the
//! client sends.

use super::ServeError;
use super::protocol::{HEADER, Header, MAX_FDS, MAX_MESSAGE};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

/// A message that has arrived whole.
pub(super) struct Message<'a> {
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
    /// Those left here are closed.
    pub(super) fds: &'a mut Fds,
}

/// The file descriptors that came with a message.
#[derive(Default)]
pub(super) struct Fds {
    files: Vec<File>,
    excess: bool,
}

impl Fds {
    /// Whether there were more than a message may have; then all are closed already.
    pub(super) fn excess(&self) -> bool {
        self.excess
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Takes them all.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = File> {
        self.files.drain(..)
    }

    fn push(&mut self, file: File) {
        if self.files.len() == MAX_FDS || self.excess {
            self.overflow();
        } else {
            self.files.push(file);
        }
    }

    fn overflow(&mut self) {
        self.excess = true;
        self.files.clear();
    }

    fn append(&mut self, other: &mut Self) {
        for file in other.files.drain(..) {
            self.push(file);
        }
        if std::mem::take(&mut other.excess) {
            self.overflow();
        }
    }

    fn clear(&mut self) {
        self.files.clear();
        self.excess = false;
    }
}

/// The buffer between the socket and the session.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    /// Where the first byte that nobody has seen is.
    start: usize,
    end: usize,
    /// The descriptors of the message at `start`.
    current: Fds,
    /// The descriptors of the message that the last byte belongs to: a read ends behind a sent piece that carried some.
    last: Fds,
    /// Whether `current` belongs to a message that was given out already.
    given: bool,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; 2 * MAX_MESSAGE].into_boxed_slice(),
            start: 0,
            end: 0,
            current: Fds::default(),
            last: Fds::default(),
            given: false,
        }
    }

    /// Waits for bytes. `false`: the client has gone.
    ///
    /// To be called when [`Inbox::next`] has no more messages, so at most a part of one is left.
    pub(super) fn receive(&mut self, socket: &UnixStream) -> Result<bool, ServeError> {
        self.current.append(&mut self.last);
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;

        // One more than allowed, so that too many are noticed even where the system does not say so.
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut self.buffer[self.end..])];
            match recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(false),
                Err(errno) => return Err(ServeError::Receive(errno)),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fds.for_each(|fd| self.last.push(fd.into()));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            self.last.overflow();
        }
        self.end += received.bytes;
        Ok(received.bytes > 0)
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The header of a message whose size cannot be: where the next one begins is unknown.
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, Header> {
        if std::mem::take(&mut self.given) {
            self.current.clear();
        }
        let waiting = &self.buffer[self.start..self.end];
        let Some(header) = Header::decode(waiting) else { return Ok(None) };
        let size = header.size as usize;
        if !(HEADER..=MAX_MESSAGE).contains(&size) {
            return Err(header);
        }
        let Some(bytes) = waiting.get(..size) else { return Ok(None) };
        self.start += size;
        if self.start == self.end {
            self.current.append(&mut self.last);
        }
        self.given = true;
        Ok(Some(Message { header, payload: &bytes[HEADER..], fds: &mut self.current }))
    }

    /// Bytes of a message that is not whole.
    pub(super) fn left(&self) -> usize {
        self.end - self.start
    }
}
