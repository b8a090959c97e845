//! The one judgement of a copied event: what the data sheet asks of a submission, and the reason for which it is
//! refused.
//!
//! Fed by a stream with the words of a slot, which were read once; feeds it with what the event is. An event by itself
//! that is one whole message, which nearly every one is, is of some [`Kind`]; what does not is judged rule by rule, the
//! same copy, by [`Validator::judge`]. [`Validator::copy`] copies and judges the data of both. Chains, packages and
//! fragments go on in `chain`.

use super::in_flight::{Buffer, Buffers, Header};
use crate::dma::{SlotWords, StreamMemory};
use crate::shared::StreamConfig;
use dmus_interface::event::{Data, Event, INCOMPLETE, PACKAGE, PointerWidth, ShortForm};
use dmus_interface::ring::Reject;

/// Where cbStruct and usFlags are in the first word of an event.
const FIXED: u64 = 0xFFFF_0000_0000_FF00;

/// The data of an event, copied: the inline bytes, or the buffer that it is in ([`Buffer::data`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) data: u64,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) is_message: bool,
}

impl Copied {
    /// A submission carries whole messages.
    #[inline(always)]
    pub(crate) fn whole(self) -> Result<Self, Reject> {
        if self.is_message { Ok(self) } else { Err(Reject::BadMessage) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Validator {
    width: PointerWidth,
    pool_base: u64,
    stride: u64,
    slots: u32,
    channel_groups: u16,
    /// Of the last event by itself.
    kind: Kind,
}

impl SlotWords {
    /// The event in these words.
    pub(crate) fn event(&self, width: PointerWidth) -> Event {
        let (next, data) = match width {
            PointerWidth::Eight => self.pointers::<true>(),
            PointerWidth::Four => self.pointers::<false>(),
        };
        let event_bytes = (self.header >> 16) as u16;
        let flags = (self.header >> 48) as u16;
        Event {
            struct_size: (self.header >> 8) as u8,
            event_bytes,
            channel_group: (self.header >> 32) as u16,
            flags,
            time: self.time as i64,
            byte_position: 0,
            next,
            data: match flags & PACKAGE != 0 {
                true => Data::Package(data),
                false if usize::from(event_bytes) <= width.bytes() => Data::Inline(data.to_le_bytes()),
                false => Data::Buffer(data),
            },
        }
    }
}

const fn width<const WIDE: bool>() -> PointerWidth {
    if WIDE { PointerWidth::Eight } else { PointerWidth::Four }
}

/// Events by themselves with the same first word that are complete and have bytes of their own: all that
/// [`Validator::judge`] asks for, and neither chain, package nor fragment. The rules about the word are judged once for
/// all that come in a row, which spares each 14 instructions (`bench ring`, "due at once").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) header: Header,
    pub(crate) channel_group: u16,
    pub(crate) len: usize,
    /// What their data has to look like, if it is inline.
    pub(crate) inline: Option<&'static ShortForm>,
}

impl Kind {
    /// No message is of this kind, and no event has its first word that would pass.
    const NONE: Self = Self { header: Header(u64::MAX), channel_group: 0, len: 0, inline: Some(&ShortForm::NONE) };
}

impl Validator {
    pub(crate) fn new(config: &StreamConfig, channel_groups: u16) -> Self {
        Self {
            width: config.width,
            pool_base: config.pool_base,
            stride: config.stride.into(),
            slots: config.slots,
            channel_groups,
            kind: Kind::NONE,
        }
    }

    /// Judges the first word of an event; what is not complete and by itself is of no kind. Events with 8-byte pointers
    /// are `WIDE`.
    #[inline(always)]
    pub(crate) fn kind<const WIDE: bool>(&mut self, header: u64) -> Option<&Kind> {
        let header = Header(header);
        if header != self.kind.header {
            let complete = (width::<WIDE>().event_size() as u64) << 8;
            let (len, channel_group) = (header.len(), header.channel_group());
            if header.0 & FIXED != complete || len == 0 || channel_group >= self.channel_groups {
                return None;
            }
            let inline = (len <= width::<WIDE>().bytes()).then(|| ShortForm::of_length(len));
            self.kind = Kind { header, channel_group, len, inline };
        }
        Some(&self.kind)
    }

    /// Has so many channel groups.
    pub(crate) fn set_groups(&mut self, channel_groups: u16) {
        self.channel_groups = channel_groups;
        self.kind = Kind::NONE;
    }

    /// Copies what uData leads to, the only time that it is looked at, and judges whether it is one whole message.
    #[inline(always)]
    pub(crate) fn copy(
        memory: &mut impl StreamMemory,
        (buffers, publication): (&mut Buffers, u32),
        inline: Option<&ShortForm>,
        data: u64,
        len: usize,
    ) -> Result<Copied, Reject> {
        if let Some(form) = inline {
            return Ok(Copied { data, buffer: None, is_message: form.is_message(data) });
        }
        let buffer = buffers.find(data, len, publication)?;
        // Longer than any message of a fixed length: only SysEx is one.
        let is_message = memory.copy(buffer.start(), buffers.copy_mut(buffer, len)).ok_or(Reject::NotMapped)?;
        Ok(Copied { data: buffer.data(), buffer: Some(buffer), is_message })
    }

    /// The event in these words.
    pub(crate) fn decode(&self, words: &SlotWords) -> Event {
        words.event(self.width)
    }

    /// Holds an event of a render stream against every rule about its fields.
    #[cold]
    pub(crate) fn judge(&self, event: &Event) -> Result<(), Reject> {
        if usize::from(event.struct_size) != self.width.event_size() {
            Err(Reject::BadStructSize)
        } else if event.flags & !(INCOMPLETE | PACKAGE) != 0 {
            Err(Reject::BadFlags)
        } else if event.flags == INCOMPLETE | PACKAGE {
            Err(Reject::FragmentInChain)
        } else if event.flags & PACKAGE == 0 && event.event_bytes == 0 {
            Err(Reject::Empty)
        } else if event.channel_group >= self.channel_groups {
            Err(Reject::BadChannelGroup)
        } else {
            Ok(())
        }
    }

    /// Holds a slot that is posted to a capture or wave sink stream against every rule; gives its buffer.
    pub(crate) fn judge_posted(
        &self,
        words: &SlotWords,
        buffers: &Buffers,
        publication: u32,
    ) -> Result<Buffer, Reject> {
        let event = self.decode(words);
        if usize::from(event.struct_size) != self.width.event_size() {
            return Err(Reject::BadStructSize);
        }
        let Data::Inline(pointer) = event.data else {
            return Err(Reject::NotEmpty);
        };
        if event.event_bytes != 0 || event.flags != 0 || event.next != 0 {
            return Err(Reject::NotEmpty);
        }
        buffers.find(u64::from_le_bytes(pointer), 0, publication)
    }

    /// The slot that a pointer leads to.
    pub(crate) fn slot_at(&self, iova: u64) -> Result<u32, Reject> {
        let offset = iova.checked_sub(self.pool_base).ok_or(Reject::BadChain)?;
        let slot = offset / self.stride;
        match offset.is_multiple_of(self.stride) && slot < u64::from(self.slots) {
            true => Ok(slot as u32),
            false => Err(Reject::BadChain),
        }
    }
}
