//! Commands of the mailbox: what they are called, and how they end.
//!
//! Written by a driver to [`crate::regs::COMMAND`]; answered by the card on the doorbell page. Requests and results are
//! the structures of [`crate::property`] and [`crate::download`].
//!
//! | opcode | request | result | stream |
//! |---|---|---|---|
//! | [`Opcode::GetCaps`] | - | [`crate::property::SynthCaps`] | - |
//! | [`Opcode::PortParameters`] | - or [`crate::property::PortParams`] | [`crate::property::PortParams`] | yes |
//! | [`Opcode::GetChannelGroups`], [`Opcode::SetChannelGroups`] | - , u32 | u32, - | yes |
//! | [`Opcode::GetVoicePriority`] | [`crate::property::ChannelPlace`] | u32 | yes |
//! | [`Opcode::SetVoicePriority`] | [`crate::property::ChannelPriority`] | - | yes |
//! | [`Opcode::GetLatencyClock`], [`Opcode::GetMasterClock`] | - | u64, 100 ns | - |
//! | [`Opcode::GetRunningStats`] | - | [`crate::property::SynthStats`] | yes |
//! | [`Opcode::GetVolume`], [`Opcode::GetVolumeBoost`] | - | i32 (0.01 dB) | yes |
//! | [`Opcode::SetVolume`], [`Opcode::SetVolumeBoost`] | i32 (0.01 dB) | - | yes |
//! | [`Opcode::Download`] | a chunk ([`crate::download`]) | u32, the handle | - |
//! | [`Opcode::Unload`] | u32, the handle | - | - |
//! | [`Opcode::Compact`] | - | u32, bytes of the largest free block | - |
//! | [`Opcode::GetAppend`] | - | u32, bytes | - |
//! | [`Opcode::GetWaveFormat`] | - | [`crate::download::WaveFormat`] | - |
//!
//! A request must have just the size of its structure, a result's room at least so many bytes. Streams must be open
//! render streams.

/// Most bytes of a request. A longer one is [`Status::BadSize`].
pub const MAX_REQUEST: u32 = 32 << 20;

/// Flag in an opcode: sets a property.
const SET: u32 = 0x80;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Opcode {
    /// KSPROPERTY_SYNTH_CAPS.
    GetCaps = 0x01,
    /// KSPROPERTY_SYNTH_PORTPARAMETERS: applies what is asked for, and gives what came of it. What the card cannot do
    /// is replaced by what it can, and the status is [`Status::NotAllAssigned`] then.
    PortParameters = 0x02,
    /// KSPROPERTY_SYNTH_CHANNELGROUPS: groups of 16 channels.
    GetChannelGroups = 0x03,
    /// 1 to the capabilities' most, for this stream until it is closed; [`crate::regs::CHANNEL_GROUPS`] stays as it
    /// is. Events of groups that are gone are refused from then on, and the notes of these groups end at once.
    SetChannelGroups = 0x03 | SET,
    /// KSPROPERTY_SYNTH_VOICEPRIORITY of a channel.
    GetVoicePriority = 0x04,
    /// Counts for notes that begin from then on. Stays until the stream is closed.
    SetVoicePriority = 0x04 | SET,
    /// KSPROPERTY_SYNTH_LATENCYCLOCK.
    GetLatencyClock = 0x05,
    /// KSPROPERTY_SYNTH_RUNNINGSTATS: since the last change to RUN.
    GetRunningStats = 0x06,
    /// KSPROPERTY_SYNTH_VOLUME.
    GetVolume = 0x07,
    /// [`crate::property::VOLUME_RANGE`]; 0 after the stream is opened. Reached within 20 ms, without a click.
    SetVolume = 0x07 | SET,
    /// KSPROPERTY_SYNTH_VOLUMEBOOST.
    GetVolumeBoost = 0x08,
    /// As [`Self::SetVolume`], applied after the stream's voices and effects are mixed and its peak is measured.
    SetVolumeBoost = 0x08 | SET,
    /// KSPROPERTY_SYNTH_MASTERCLOCK (of KSPROPSETID_SynthClock).
    GetMasterClock = 0x09,
    /// KSPROPERTY_SYNTH_DLS_DOWNLOAD. The request's memory is the client's again with the answer: it may free it.
    Download = 0x11,
    /// KSPROPERTY_SYNTH_DLS_UNLOAD. An instrument is found by no note from then on; while notes still play it, the
    /// answer is [`Status::Pending`], and [`crate::doorbell::UNLOADS`] counts and the control vector fires when it is
    /// gone.
    Unload = 0x12,
    /// KSPROPERTY_SYNTH_DLS_COMPACT: moves waves together, without a sound missing a sample.
    Compact = 0x13,
    /// KSPROPERTY_SYNTH_DLS_APPEND: bytes that must follow the data of a downloaded wave.
    GetAppend = 0x14,
    /// KSPROPERTY_SYNTH_DLS_WAVEFORMAT: of the card's audio.
    GetWaveFormat = 0x15,
}

impl Opcode {
    /// Every opcode.
    pub const ALL: [Self; 18] = [
        Self::GetCaps,
        Self::PortParameters,
        Self::GetChannelGroups,
        Self::SetChannelGroups,
        Self::GetVoicePriority,
        Self::SetVoicePriority,
        Self::GetLatencyClock,
        Self::GetRunningStats,
        Self::GetVolume,
        Self::SetVolume,
        Self::GetVolumeBoost,
        Self::SetVolumeBoost,
        Self::GetMasterClock,
        Self::Download,
        Self::Unload,
        Self::Compact,
        Self::GetAppend,
        Self::GetWaveFormat,
    ];

    /// Decodes a register value.
    pub fn decode(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| *opcode as u32 == value)
    }
}

/// How a command ended: the value of [`crate::doorbell::COMMAND_STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Status {
    /// Done; the result, if there is one, has SIZE bytes.
    #[error("done")]
    Done = 0,
    /// Done, but with other values than those that were asked for (STATUS_NOT_ALL_ASSIGNED).
    #[error("done, but not all values could be assigned")]
    NotAllAssigned = 1,
    /// Accepted; it is carried out when no note needs the download any more (STATUS_PENDING).
    #[error("pending until no note needs the download")]
    Pending = 2,
    /// No such command: an unknown property, or one that cannot be set or read (STATUS_INVALID_DEVICE_REQUEST).
    #[error("no such command, or a property that cannot be set or read")]
    InvalidRequest = 0x10,
    /// The request has another size than its structure, which has SIZE bytes (the least, of a download), or it is
    /// longer than [`MAX_REQUEST`].
    #[error("the request has the wrong size")]
    BadSize = 0x11,
    /// The result's room is too small: SIZE bytes are needed (STATUS_BUFFER_TOO_SMALL). Nothing was done.
    #[error("the room for the result is too small")]
    BufferTooSmall = 0x12,
    /// A value out of range; DETAIL is its byte offset in the request (STATUS_INVALID_PARAMETER).
    #[error("a value is out of range")]
    InvalidParameter = 0x13,
    /// Request or result are not in memory that the card may read or write, or bus-master is off. Nothing was done.
    #[error("request or result outside the memory that the guest shares with the card")]
    NotMapped = 0x14,
    /// The stream is closed, or none that renders.
    #[error("the stream is closed, or none that renders")]
    NoStream = 0x15,
    /// Not so much sample memory is free, or too many downloads are there (STATUS_INSUFFICIENT_RESOURCES).
    #[error("not enough memory for the download")]
    NoMemory = 0x16,
    /// The chunk is not what it should be: SIZE is the [`crate::download::Problem`], DETAIL the byte offset in the
    /// chunk.
    #[error("the download is malformed")]
    BadDownload = 0x17,
    /// No download has this handle, or it is being unloaded.
    #[error("no download has this handle")]
    UnknownHandle = 0x18,
    /// The card is not enabled.
    #[error("the card is not enabled")]
    NotEnabled = 0x19,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::NotAllAssigned,
        Self::Pending,
        Self::InvalidRequest,
        Self::BadSize,
        Self::BufferTooSmall,
        Self::InvalidParameter,
        Self::NotMapped,
        Self::NoStream,
        Self::NoMemory,
        Self::BadDownload,
        Self::UnknownHandle,
        Self::NotEnabled,
    ];

    /// Decodes the word of the doorbell page.
    pub fn decode(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u32 == value)
    }
}

/// The words of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// A [`Status`].
    pub status: u32,
    /// Bytes of the result, or as the status says.
    pub size: u32,
    /// As the status says.
    pub detail: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_and_statuses_decode_to_themselves() {
        assert!(Opcode::ALL.into_iter().all(|opcode| Opcode::decode(opcode as u32) == Some(opcode)));
        assert!(Status::ALL.into_iter().all(|status| Status::decode(status as u32) == Some(status)));
        assert_eq!(Opcode::decode(0), None);
        assert_eq!(Opcode::decode(0x81), None, "capabilities cannot be set");
    }
}
