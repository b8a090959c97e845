//! How long a client may take to negotiate. Nobody else is served meanwhile.
//!
//! Fed by the listening socket, which tells of others; feeds the connection, which ends once it has to give way.

use super::ServeError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// QEMU negotiates in its first milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module. A client that has negotiated may be silent for ever: its guest may be paused.
pub struct Negotiation<'l> {
    others: BorrowedFd<'l>,
    limit: Duration,
    began: Instant,
    said: bool,
}

impl<'l> Negotiation<'l> {
    /// Begins now, for a client that gives way to whoever connects to this listening socket after ten seconds.
    pub fn new(listener: &'l impl AsFd) -> Self {
        Self::within(LIMIT, listener)
    }

    /// As [`Self::new`], with another limit.
    pub fn within(limit: Duration, listener: &'l impl AsFd) -> Self {
        Self { others: listener.as_fd(), limit, began: Instant::now(), said: false }
    }

    /// Waits until the client has sent something or has gone. Past the limit, another one goes first, however much this
    /// one sends.
    pub(super) fn wait(&mut self, socket: &UnixStream) -> Result<(), ServeError> {
        loop {
            let left = self.limit.saturating_sub(self.began.elapsed());
            let late = left.is_zero();
            if late && !std::mem::replace(&mut self.said, true) {
                tracing::warn!(
                    "the client has not negotiated (VERSION) within {:?}: it is dropped once another one connects",
                    self.limit
                );
            }
            let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::from_borrowed_fd(self.others, PollFlags::IN)];
            let polled = match late {
                true => poll(&mut fds, None),
                false => {
                    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                    poll(&mut fds[..1], Some(&left))
                }
            };
            match polled {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ServeError::Receive(errno)),
            }
            if fds[1].revents().contains(PollFlags::IN) {
                return Err(ServeError::Silent(self.limit));
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
        }
    }
}
