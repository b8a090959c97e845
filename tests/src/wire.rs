//! Sessions on a vfio-user socket made of arbitrary bytes, for fuzzing the server with the real card behind it.
//!
//! Fed by a fuzzer; feeds the card's own server, and throws away what it answers.

use anyhow::Context;
use dmus_card::device::Device;
use dmus_card::transport::server::{Connection, Limits};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the server waits for a client that stands still; here nobody does.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes before a message's payload.
const HEADER: usize = 16;
const VERSION: &[u8] = b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":65536}}\0";

/// Serves one session. An odd first byte: the rest are raw bytes. An even one: the rest are messages, as
/// [`speak`] sends them; so that what lies behind the framing is reached.
pub fn session(bytes: &[u8], device: &mut dyn Device) -> anyhow::Result<()> {
    let (server, client) = UnixStream::pair()?;
    let mut answers = client.try_clone()?;
    let drain = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while answers.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    let bytes = bytes.to_vec();
    let talk = std::thread::spawn(move || {
        let sent = match bytes.split_first() {
            Some((kind, rest)) if kind % 2 == 0 => speak(&client, rest),
            _ => (&client).write_all(&bytes).map_err(anyhow::Error::from),
        };
        // The server may have hung up before all was said.
        let _ = client.shutdown(Shutdown::Write);
        drop(sent);
    });
    let limits = Limits { send: LIMIT, memory: LIMIT };
    let served = Connection::new(server, limits)?.serve(device);
    device.disconnect();
    talk.join().ok().context("the client panicked")?;
    drain.join().ok().context("the client panicked")?;
    // That the server refuses is what it is for.
    drop(served);
    Ok(())
}

/// Sends bytes as messages, each a command, flags, a length and its payload, after a good VERSION.
pub fn speak(client: &UnixStream, mut rest: &[u8]) -> anyhow::Result<()> {
    let memory = memfd_create("wire", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, 1 << 16)?;
    send(client, 1, 0, VERSION, None)?;
    while let [command, flags, len, ..] = *rest {
        let len = usize::from(len).min(rest.len() - 3);
        let (payload, behind) = rest[3..].split_at(len);
        rest = behind;
        // The upper half of the flags is not on the wire: one bit of it sends a descriptor along.
        let fd = (flags & 0x80 != 0).then(|| memory.as_fd());
        send(client, command % 18, flags & 0x3F, payload, fd)?;
    }
    Ok(())
}

fn send(
    client: &UnixStream,
    command: u8,
    flags: u8,
    payload: &[u8],
    fd: Option<rustix::fd::BorrowedFd<'_>>,
) -> anyhow::Result<()> {
    let mut header = [0; HEADER];
    header[2] = command;
    header[4..8].copy_from_slice(&((HEADER + payload.len()) as u32).to_le_bytes());
    header[8] = flags;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let message = [header.as_slice(), payload].concat();
    sendmsg(client, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
