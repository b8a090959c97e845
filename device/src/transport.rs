//! How a client reaches the card: the listening socket, and the protocol on it, by one of two servers.
//!
//! Fed by the command line with a path or a descriptor; feeds the card through [`crate::device::Device`].

pub mod server;
mod vfio_user;

use crate::back_off::BackOff;
use crate::device::Device;
use crate::log;
use crate::pci::Card;
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};
use server::{Negotiation, ServeError};
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Clients that may wait while another is served.
const BACKLOG: i32 = 128;

/// How long others may take to find out whether a socket is stale, and how often to look.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(5);

/// Which server speaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// This project's own ([`server`]).
    Own,
    /// The `vfio_user` crate's.
    Crate,
}

/// Serves one client after the other on a listening socket; with `once`, only the first.
pub fn serve(transport: Transport, listener: UnixListener, card: &mut Card, once: bool) -> io::Result<()> {
    if transport == Transport::Crate {
        return vfio_user::serve(listener, card, once);
    }
    loop {
        let stream = accept(&listener)?;
        let served = server::serve_connection(stream, Negotiation::new(&listener), card);
        match &served {
            Ok(()) => tracing::info!("the client has gone"),
            Err(error) => tracing::warn!("the client was lost: {error}"),
        }
        card.disconnect();
        log::next_client();
        // One that only held up the next was none.
        if once && !matches!(served, Err(ServeError::Silent(_))) {
            return Ok(());
        }
    }
}

/// Accepts the next connection. Where descriptors or memory have run out, whoever connects waits until there are some
/// again: the one before may be about to free them.
pub(crate) fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let mut back_off = BackOff::default();
    loop {
        let error = match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INTR | Errno::CONNABORTED) => {}
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => back_off.wait(&error),
            _ => return Err(error),
        }
    }
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("the socket {0} is in use by another process: stop that one, or choose another path")]
    InUse(String),
    /// Something that is no socket is there.
    #[error("{0} exists and is not a socket: choose another path")]
    NotASocket(String),
    /// The system refused.
    #[error("cannot listen on the socket {path}: {error}")]
    Io {
        /// The path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// An inherited descriptor will not do.
    #[error("cannot serve on descriptor {fd}: {why}; it must be a Unix stream socket that listens")]
    Inherited {
        /// The descriptor.
        fd: RawFd,
        /// What it is instead, or what the system said.
        why: String,
    },
}

/// Listens on a Unix socket that only its owner may use. What a dead process left there is removed.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let shown = || path.display().to_string();
    let failed = |error| SocketError::Io { path: shown(), error };
    // Two that find the same stale socket would otherwise each remove it, and one of them the other's new one.
    let _turn = lock_directory(path).map_err(failed)?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(shown()));
        }
        Ok(_) if is_stale(path).map_err(failed)? => {
            tracing::info!("removing the stale socket {}", path.display());
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(SocketError::InUse(shown())),
        Err(_) => {}
    }
    bind(path).map_err(failed)
}

/// Locks the directory of a path against others that look for a stale socket there, until the file is closed.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = File::open(directory)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_STEP),
            result => return result.map(|()| file).map_err(io::Error::from),
        }
    }
}

/// Whether nobody has the socket at a path any more. It is asked with a socket of another type, which the kernel
/// refuses before whoever listens there hears of it: a card that serves one client only must not take this for that
/// one.
fn is_stale(path: &Path) -> io::Result<bool> {
    let refusal = UnixDatagram::unbound()?.connect(path).err();
    Ok(refusal.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// The socket has its mode before it has a name, and listens before it has that name: who finds it can connect. A umask
/// instead would be the whole process's for that moment, and its children's.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    // Short, since the whole path must fit an address; the directory is locked, so it is nobody else's.
    let before = path.with_file_name(format!(".{}", std::process::id()));
    rustix::net::bind(&socket, &SocketAddrUnix::new(&before)?)?;
    let named = rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from);
    let named = named.and_then(|()| std::fs::rename(&before, path));
    if named.is_err() {
        // What failed is said; the name is nobody's.
        let _ = std::fs::remove_file(&before);
    }
    named.map(|()| socket.into())
}

/// Takes over a listening socket that this process was started with, as systemd and the like pass it. The socket file,
/// if it has one, is the business of whoever made it.
pub fn inherit(fd: RawFd) -> Result<UnixListener, SocketError> {
    let unfit = |why: &str| SocketError::Inherited { fd, why: why.to_owned() };
    let failed = |error: io::Error| unfit(&error.to_string());
    let socket = own(fd).map_err(failed)?;
    let domain = sockopt::socket_domain(&socket).map_err(|error| failed(error.into()))?;
    let kind = sockopt::socket_type(&socket).map_err(|error| failed(error.into()))?;
    if (domain, kind) != (AddressFamily::UNIX, SocketType::STREAM) {
        return Err(unfit("it is a socket of another kind"));
    }
    if !sockopt::socket_acceptconn(&socket).map_err(|error| failed(error.into()))? {
        return Err(unfit("it does not listen"));
    }
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(false).map_err(failed)?;
    Ok(listener)
}

/// An owned duplicate of a descriptor of which only the number is known: the process sends it to itself, and the kernel
/// checks it.
pub fn own(fd: RawFd) -> io::Result<OwnedFd> {
    let (sender, receiver) = UnixStream::pair()?;
    let as_io = |error: vmm_sys_util::errno::Error| io::Error::from_raw_os_error(error.errno());
    sender.send_with_fd(&[0][..], fd).map_err(as_io)?;
    let (_, file) = receiver.recv_with_fd(&mut [0]).map_err(as_io)?;
    Ok(file.ok_or(io::ErrorKind::UnexpectedEof)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_and_files_are_not() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("card.sock");
        let first = listen(&path).expect("a socket");
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(SocketError::InUse(_))));
        drop(first);
        drop(listen(&path).expect("the stale socket is replaced"));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("file");
        assert!(matches!(listen(&file), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&file).expect("still there"), b"x");
        assert!(matches!(listen(&dir.path().join("no/dir")), Err(SocketError::Io { .. })));
    }

    #[test]
    fn a_listener_hears_nothing_of_a_second_card_and_a_full_one_does_not_hold_it_up() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("card.sock");
        let first = listen(&path).expect("a socket");
        first.set_nonblocking(true).expect("a socket");
        assert!(matches!(listen(&path), Err(SocketError::InUse(_))));
        assert_eq!(first.accept().expect_err("nobody").kind(), io::ErrorKind::WouldBlock);
        let address = SocketAddrUnix::new(&path).expect("an address");
        let waiting: Vec<_> = (0..=BACKLOG + 1)
            .map_while(|_| {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
                rustix::net::connect(&client, &address).ok().map(|()| client)
            })
            .collect();
        assert_eq!(waiting.len(), BACKLOG as usize + 1, "now it is full");
        assert!(matches!(listen(&path), Err(SocketError::InUse(_))));
    }

    #[test]
    fn of_many_that_find_a_stale_socket_one_listens() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("card.sock");
        for _ in 0..300 {
            drop(listen(&path).expect("a socket"));
            let barrier = std::sync::Barrier::new(4);
            let listeners = std::thread::scope(|scope| {
                let one = || {
                    barrier.wait();
                    listen(&path).ok()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
                let found = threads.into_iter().map(|thread| thread.join().expect("a thread"));
                found.collect::<Vec<_>>()
            });
            assert_eq!(listeners.iter().flatten().count(), 1);
            UnixStream::connect(&path).expect("it listens there");
        }
    }

    #[test]
    fn only_a_listening_unix_stream_socket_is_inherited() {
        let refusal = |fd: &dyn AsRawFd| inherit(fd.as_raw_fd()).expect_err("a refusal").to_string();
        let dir = tempfile::tempdir().expect("directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let inherited = inherit(listener.as_raw_fd()).expect("it is taken over");
        let client = UnixStream::connect(dir.path().join("s")).expect("a client");
        inherited.accept().expect("the client");

        assert!(refusal(&client).contains("it does not listen"));
        assert!(refusal(&std::net::TcpListener::bind("127.0.0.1:0").expect("port")).contains("of another kind"));
        assert!(refusal(&UnixDatagram::unbound().expect("socket")).contains("of another kind"));
        assert!(refusal(&tempfile::tempfile().expect("file")).contains("non-socket"));
        for number in [-1, 1 << 20, i32::MAX] {
            let refused = inherit(number).expect_err("no such descriptor").to_string();
            assert!(refused.contains("Bad file descriptor"), "{refused}");
        }
    }
}
