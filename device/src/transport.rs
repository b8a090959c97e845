//! How a client reaches the card: the listening socket, and the protocol on it, by one of two servers.
//!
//! Fed by the command line with a path; feeds the card through [`crate::device::Device`].

pub mod server;
mod vfio_user;

use crate::card::Card;
use crate::device::Device;
use rustix::fs::Mode;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

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
        let (stream, _) = listener.accept()?;
        match server::serve_connection(stream, card) {
            Ok(()) => tracing::info!("the client has gone"),
            Err(error) => tracing::warn!("the client was lost: {error}"),
        }
        card.disconnect();
        if once {
            return Ok(());
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
}

/// Listens on a Unix socket that only its owner may use. What a dead process left there is removed.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let shown = || path.display().to_string();
    let failed = |error| SocketError::Io { path: shown(), error };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(shown()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!("removing the stale socket {}", path.display());
                std::fs::remove_file(path).map_err(failed)?;
            }
            _ => return Err(SocketError::InUse(shown())),
        },
        Err(_) => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
