//! The vfio-user protocol's numbers: message header, commands, limits, and how a command is refused.
//!
//! Fed by the vfio-user specification 0.1 and `<linux/vfio.h>`; feeds every other module of the server.

use rustix::io::Errno;
use std::io;

/// Bytes of a message header.
pub(super) const HEADER: usize = 16;
/// Bytes of data that one message may carry.
pub(super) const MAX_TRANSFER: usize = 64 << 10;
/// Bytes of the longest message: header, address and count, data.
pub(super) const MAX_MESSAGE: usize = HEADER + 16 + MAX_TRANSFER;
/// File descriptors that one message may carry.
pub(super) const MAX_FDS: usize = 16;
/// Maps of guest memory that may exist at once.
pub(super) const MAX_MAPS: usize = 65535;
/// Alignment of maps of guest memory.
pub(super) const PAGE: u64 = 4096;

/// Commands.
pub(super) mod command {
    pub(in super::super) const VERSION: u16 = 1;
    pub(in super::super) const DMA_MAP: u16 = 2;
    pub(in super::super) const DMA_UNMAP: u16 = 3;
    pub(in super::super) const DEVICE_GET_INFO: u16 = 4;
    pub(in super::super) const DEVICE_GET_REGION_INFO: u16 = 5;
    pub(in super::super) const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub(in super::super) const DEVICE_SET_IRQS: u16 = 8;
    pub(in super::super) const REGION_READ: u16 = 9;
    pub(in super::super) const REGION_WRITE: u16 = 10;
    pub(in super::super) const DMA_READ: u16 = 11;
    pub(in super::super) const DMA_WRITE: u16 = 12;
    pub(in super::super) const DEVICE_RESET: u16 = 13;
    pub(in super::super) const USER_DIRTY_PAGES: u16 = 14;
    pub(in super::super) const REGION_WRITE_MULTI: u16 = 15;
}

const FLAGS_TYPE: u32 = 0xF;
const FLAGS_REPLY: u32 = 1;
const FLAGS_NO_REPLY: u32 = 1 << 4;
const FLAGS_ERROR: u32 = 1 << 5;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Reply,
    Unknown,
}

/// The header that each message begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Chosen by whoever asks, echoed by whoever replies.
    pub(super) id: u16,
    pub(super) command: u16,
    /// Bytes of the whole message.
    pub(super) size: u32,
    flags: u32,
    errno: u32,
}

impl Header {
    /// The header at the front of `bytes`, if it is all there.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            id: u16_at(bytes, 0),
            command: u16_at(bytes, 2),
            size: u32_at(bytes, 4),
            flags: u32_at(bytes, 8),
            errno: u32_at(bytes, 12),
        })
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..2].copy_from_slice(&self.id.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.command.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.errno.to_le_bytes());
        bytes
    }

    pub(super) fn request(id: u16, command: u16, size: usize) -> Self {
        Self { id, command, size: size as u32, flags: 0, errno: 0 }
    }

    /// The header of a reply of `size` bytes to this command.
    pub(super) fn reply(&self, size: usize) -> Self {
        Self { size: size as u32, flags: FLAGS_REPLY, errno: 0, ..*self }
    }

    /// The whole reply that refuses this command.
    pub(super) fn refusal(&self, errno: Errno) -> Self {
        Self {
            size: HEADER as u32,
            flags: FLAGS_REPLY | FLAGS_ERROR,
            errno: errno.raw_os_error().unsigned_abs(),
            ..*self
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.flags & FLAGS_TYPE {
            0 => Kind::Command,
            FLAGS_REPLY => Kind::Reply,
            _ => Kind::Unknown,
        }
    }

    pub(super) fn wants_reply(&self) -> bool {
        self.flags & FLAGS_NO_REPLY == 0
    }

    /// Why a reply says that its command failed.
    pub(super) fn error(&self) -> Option<Errno> {
        let known = i32::try_from(self.errno).ok().filter(|errno| (1..4096).contains(errno));
        (self.flags & FLAGS_ERROR != 0).then(|| known.map_or(Errno::IO, Errno::from_raw_os_error))
    }
}

/// Why a command is not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{why} ({errno})")]
pub(super) struct Refusal {
    /// What the reply says.
    pub(super) errno: Errno,
    /// What the log says.
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) fn new(errno: Errno, why: &'static str) -> Self {
        Self { errno, why }
    }

    /// For what the device could not do.
    pub(super) fn of_device(error: &io::Error, why: &'static str) -> Self {
        tracing::warn!("{why}: {error}");
        let errno = Errno::from_io_error(error).unwrap_or(match error.kind() {
            io::ErrorKind::InvalidInput => Errno::INVAL,
            io::ErrorKind::AlreadyExists => Errno::EXIST,
            io::ErrorKind::OutOfMemory => Errno::NOMEM,
            _ => Errno::IO,
        });
        Self::new(errno, why)
    }

    pub(super) fn invalid(why: &'static str) -> Self {
        Self::new(Errno::INVAL, why)
    }
}

/// `Err` with EINVAL unless `holds`.
pub(super) fn require(holds: bool, why: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::invalid(why)) }
}

/// Little-endian value at a place that is known to be inside `bytes`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Little-endian value at a place that is known to be inside `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// Little-endian value at a place that is known to be inside `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
