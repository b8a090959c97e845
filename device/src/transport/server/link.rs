//! The sending half of a connection: whole messages, one at a time, from any thread.
//!
//! Fed by the session (replies) and by [`super::ClientMemory`] (requests); feeds the socket.

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The socket, for sending.
#[derive(Debug)]
pub(super) struct Link {
    /// `None` once the connection is over: handles that are still around must not keep the socket open.
    socket: Mutex<Option<Arc<UnixStream>>>,
}

impl Link {
    pub(super) fn new(socket: Arc<UnixStream>) -> Self {
        Self { socket: Mutex::new(Some(socket)) }
    }

    /// Sends one message, given in two pieces, whole. After an error the connection is over for both sides, since a
    /// part may have gone.
    pub(super) fn send(&self, head: &[u8], body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let guard = self.socket.lock();
        let socket = guard.as_ref().ok_or(Errno::PIPE)?;
        send_whole(socket, head, body, fd).inspect_err(|_| {
            // Wakes the serving thread. If it fails, the connection is over already.
            let _ = socket.shutdown(Shutdown::Both);
        })
    }

    /// Lets go of the socket. A sender that waits in it must have been woken by a shutdown before.
    pub(super) fn close(&self) {
        *self.socket.lock() = None;
    }
}

fn send_whole(
    socket: &UnixStream,
    mut head: &[u8],
    mut body: &[u8],
    mut fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    while !(head.is_empty() && body.is_empty()) {
        let sent = match (fd, body) {
            (None, []) => send(socket, head, SendFlags::NOSIGNAL),
            _ => send_pieces(socket, head, body, fd),
        };
        let sent = match sent {
            Ok(0) => return Err(Errno::IO),
            Ok(sent) => sent,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        // It went along with the first byte.
        fd = None;
        let from_head = sent.min(head.len());
        head = &head[from_head..];
        body = &body[sent - from_head..];
    }
    Ok(())
}

fn send_pieces(socket: &UnixStream, head: &[u8], body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: &[BorrowedFd<'_>] = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::NOBUFS);
    }
    sendmsg(socket, &[IoSlice::new(head), IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL)
}
