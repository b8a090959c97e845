//! Values of the synthesizer's properties (KSPROPSETID_Synth), as requests and results of [`crate::command`] hold them.
//!
//! Laid out as the DDI's structures of the same names; everything is little endian and packed to 4 bytes.

use core::ops::RangeInclusive;
use zerocopy::little_endian::{I32, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// VOLUME and VOLUMEBOOST, in 0.01 dB: -200 dB (silence) to +20 dB.
pub const VOLUME_RANGE: RangeInclusive<i32> = -20_000..=2000;

/// Bits of [`SynthCaps::flags`].
pub mod caps {
    /// Plays downloaded DLS instruments.
    pub const DLS: u32 = 1;
    /// It is software.
    pub const SOFTWARE_SYNTH: u32 = 4;
    /// [`super::SynthCaps::memory_size`] does not change.
    pub const MEMORY_SIZE_FIXED: u32 = 8;
    /// Has General MIDI instruments of its own.
    pub const GM_IN_HARDWARE: u32 = 0x10;
    /// Follows GS: its reset, drum parts, volume and tuning. Variations that it has not are played by the capital tone.
    pub const GS_IN_HARDWARE: u32 = 0x20;
    /// Has reverb.
    pub const REVERB: u32 = 0x40;
    /// Plays DLS Level 2.
    pub const DLS2: u32 = 0x200;
}

/// Bits of effect flags.
pub mod effect {
    /// Reverb.
    pub const REVERB: u32 = 1;
    /// Chorus.
    pub const CHORUS: u32 = 2;
}

/// Bits of [`PortParams::valid`].
pub mod port {
    /// [`super::PortParams::voices`].
    pub const VOICES: u32 = 0x01;
    /// [`super::PortParams::channel_groups`].
    pub const CHANNEL_GROUPS: u32 = 0x02;
    /// [`super::PortParams::audio_channels`].
    pub const AUDIO_CHANNELS: u32 = 0x04;
    /// [`super::PortParams::sample_rate`].
    pub const SAMPLE_RATE: u32 = 0x08;
    /// [`super::PortParams::effects`].
    pub const EFFECTS: u32 = 0x20;
    /// [`super::PortParams::share`].
    pub const SHARE: u32 = 0x40;
    /// All of them.
    pub const ALL: u32 = VOICES | CHANNEL_GROUPS | AUDIO_CHANNELS | SAMPLE_RATE | EFFECTS | SHARE;
}

/// Bits of [`SynthStats::valid`].
pub mod stats {
    /// All six.
    pub const ALL: u32 = 0x3F;
}

/// Voice priorities (DMUS_*_VOICE_PRIORITY): the upper bits of a channel's, to which its offset is added.
pub mod priority {
    /// Critical.
    pub const CRITICAL: u32 = 0xF000_0000;
    /// High.
    pub const HIGH: u32 = 0xC000_0000;
    /// What channels have at first.
    pub const STANDARD: u32 = 0x8000_0000;
    /// Low.
    pub const LOW: u32 = 0x4000_0000;
    /// The lowest.
    pub const PERSIST: u32 = 0x1000_0000;

    /// The offset of a channel (0..=15) within its group: percussion first, then from the first channel to the last.
    pub const fn offset(channel: u32) -> u32 {
        match channel {
            9 => 15,
            0..9 => 14 - channel,
            10..16 => 15 - channel,
            _ => 0,
        }
    }
}

/// What the synthesizer can do (SYNTHCAPS).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SynthCaps {
    /// Its class.
    pub guid: [u8; 16],
    /// [`caps`] bits.
    pub flags: U32,
    /// Bytes of sample memory for downloads.
    pub memory_size: U32,
    /// Most channel groups of a stream.
    pub max_channel_groups: U32,
    /// Most voices of a stream.
    pub max_voices: U32,
    /// Audio channels.
    pub max_audio_channels: U32,
    /// [`effect`] bits.
    pub effects: U32,
    /// Name, UTF-16, ended by 0.
    pub description: [U16; 128],
}

/// How a stream's synthesizer is set up (SYNTH_PORTPARAMS). Members that `valid` does not name are not looked at.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PortParams {
    /// [`port`] bits.
    pub valid: U32,
    /// Notes that sound at once, most.
    pub voices: U32,
    /// Groups of 16 channels.
    pub channel_groups: U32,
    /// Audio channels.
    pub audio_channels: U32,
    /// Hz.
    pub sample_rate: U32,
    /// [`effect`] bits.
    pub effects: U32,
    /// Not 0: shared with others. This card's streams are not.
    pub share: U32,
}

/// Which channel (SYNTHVOICEPRIORITY_INSTANCE).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ChannelPlace {
    /// Channel group, from 0.
    pub group: U32,
    /// Channel in it, 0..=15.
    pub channel: U32,
}

/// A channel and its priority.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ChannelPriority {
    /// Which channel.
    pub place: ChannelPlace,
    /// [`priority`].
    pub priority: U32,
}

/// What a stream has done since it was last set to RUN (SYNTH_STATS).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct SynthStats {
    /// [`stats`] bits.
    pub valid: U32,
    /// Voices, on average.
    pub voices: U32,
    /// Processor time, percent of the audio's.
    pub total_cpu: U32,
    /// Of it, for one voice.
    pub cpu_per_voice: U32,
    /// Notes stolen, or not played for want of a voice.
    pub lost_notes: U32,
    /// Bytes of sample memory that are free, for all streams.
    pub free_memory: U32,
    /// The loudest sample, 0.01 dB: 0 is full scale. After VOLUME, before VOLUMEBOOST.
    pub peak_volume: I32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_ddis_sizes() {
        assert_eq!(size_of::<SynthCaps>(), 16 + 6 * 4 + 256);
        assert_eq!((size_of::<PortParams>(), size_of::<SynthStats>()), (28, 28));
        assert_eq!((size_of::<ChannelPlace>(), size_of::<ChannelPriority>()), (8, 12));
    }

    #[test]
    fn offsets_are_the_documented_ones() {
        let offsets: [u32; 16] = core::array::from_fn(|channel| priority::offset(channel as u32));
        assert_eq!(offsets, [14, 13, 12, 11, 10, 9, 8, 7, 6, 15, 5, 4, 3, 2, 1, 0]);
    }
}
