//! A stream's block of registers: what a guest has written to it, and what that asks for.
//!
//! Fed by the card's register accesses; feeds the engine with the configuration of a stream to open, held against the data sheet, the guest's
//! memory and the other streams.

use crate::link::{Shared, StreamConfig};
use crate::remote::SHARE_HINT;
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::{self, Type};
use dmus_interface::regs::{Fault, Register};
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
use dmus_interface::wave::WaveFormat;

/// Bytes of buffers that one stream may have: the card keeps a private copy of them.
const MAX_BUFFER_AREA: u64 = 16 << 20;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Block {
    /// The type that was last created.
    pub(super) kind: u32,
    pool_base: u64,
    slot_count: u32,
    slot_stride: u32,
    buffer_base: u64,
    buffer_size: u32,
    buffer_count: u32,
    submission_base: u64,
    submission_size: u32,
    completion_base: u64,
    completion_size: u32,
    wave_rate: u32,
    wave_format: u32,
}

/// A part of guest memory that a stream uses.
#[derive(Clone, Copy)]
struct Area {
    base: u64,
    bytes: u64,
    /// Whether the card writes there.
    written: bool,
}

impl Area {
    fn overlaps(self, other: Self) -> bool {
        let empty = self.bytes == 0 || other.bytes == 0;
        !empty
            && self.base < other.base.saturating_add(other.bytes)
            && other.base < self.base.saturating_add(self.bytes)
    }
}

impl Block {
    pub(super) fn value(&self, register: Register) -> u64 {
        match register {
            stream::TYPE => self.kind.into(),
            stream::POOL_BASE => self.pool_base,
            stream::SLOT_COUNT => self.slot_count.into(),
            stream::SLOT_STRIDE => self.slot_stride.into(),
            stream::BUFFER_BASE => self.buffer_base,
            stream::BUFFER_SIZE => self.buffer_size.into(),
            stream::BUFFER_COUNT => self.buffer_count.into(),
            stream::SUBMISSION_BASE => self.submission_base,
            stream::SUBMISSION_SIZE => self.submission_size.into(),
            stream::COMPLETION_BASE => self.completion_base,
            stream::COMPLETION_SIZE => self.completion_size.into(),
            stream::WAVE_RATE => self.wave_rate.into(),
            stream::WAVE_FORMAT => self.wave_format.into(),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: Register, part: Part) {
        match register {
            stream::POOL_BASE => part.apply(&mut self.pool_base),
            stream::BUFFER_BASE => part.apply(&mut self.buffer_base),
            stream::SUBMISSION_BASE => part.apply(&mut self.submission_base),
            stream::COMPLETION_BASE => part.apply(&mut self.completion_base),
            stream::SLOT_COUNT => self.slot_count = part.value as u32,
            stream::SLOT_STRIDE => self.slot_stride = part.value as u32,
            stream::BUFFER_SIZE => self.buffer_size = part.value as u32,
            stream::BUFFER_COUNT => self.buffer_count = part.value as u32,
            stream::SUBMISSION_SIZE => self.submission_size = part.value as u32,
            stream::COMPLETION_SIZE => self.completion_size = part.value as u32,
            stream::WAVE_RATE => self.wave_rate = part.value as u32,
            stream::WAVE_FORMAT => self.wave_format = part.value as u32,
            _ => {}
        }
    }

    /// Pool, buffers, submission ring and completion ring. No size overflows, whatever the registers hold.
    fn areas(&self, captures: bool) -> [Area; 4] {
        let area = |base, count: u32, size: u64, written| Area { base, bytes: u64::from(count) * size, written };
        [
            area(self.pool_base, self.slot_count, self.slot_stride.into(), captures),
            area(self.buffer_base, self.buffer_count, self.buffer_size.into(), captures),
            area(self.submission_base, self.submission_size, SUBMISSION_SIZE as u64, false),
            area(self.completion_base, self.completion_size, COMPLETION_SIZE as u64, true),
        ]
    }

    /// What a stream of this type would be; `taken` are the blocks of the streams that are open.
    pub(super) fn config<'a>(
        &self,
        kind: Type,
        width: PointerWidth,
        shared: &Shared,
        mut taken: impl Iterator<Item = &'a Self>,
    ) -> Result<StreamConfig, Fault> {
        let captures = kind != Type::Render;
        let areas = self.areas(captures);
        let [pool, buffers, ..] = areas;
        if !(1..=stream::MAX_SLOTS).contains(&self.slot_count)
            || !self.slot_stride.is_power_of_two()
            || !(64..=4096).contains(&self.slot_stride)
            || !self.pool_base.is_multiple_of(u64::from(self.slot_stride))
        {
            return Err(Fault::BadPool);
        }
        let wave = match kind {
            Type::WaveSink => Some(WaveFormat::decode(self.wave_rate, self.wave_format)?),
            Type::Render | Type::Capture { .. } => None,
        };
        let sized = (8..=stream::MAX_BUFFER_SIZE).contains(&self.buffer_size) && self.buffer_size.is_multiple_of(8);
        if self.buffer_count > stream::MAX_SLOTS
            || self.buffer_count > 0 && !sized
            || self.buffer_count == 0 && captures
            || buffers.bytes > MAX_BUFFER_AREA
            || !self.buffer_base.is_multiple_of(8)
        {
            return Err(Fault::BadBuffers);
        }
        let ring = |entries: u32| entries.is_power_of_two() && (self.slot_count..=stream::MAX_RING).contains(&entries);
        if !ring(self.submission_size)
            || !ring(self.completion_size)
            || !self.submission_base.is_multiple_of(SUBMISSION_SIZE as u64)
            || !self.completion_base.is_multiple_of(COMPLETION_SIZE as u64)
        {
            return Err(Fault::BadRing);
        }
        // With narrow pointers, what an event cannot point to may not be part of the stream.
        let reach = match width {
            PointerWidth::Four => 1 << 32,
            PointerWidth::Eight => u64::MAX,
        };
        let within = |area: Area| area.base.checked_add(area.bytes).is_some_and(|end| end <= reach);
        if !within(pool) {
            return Err(Fault::BadPool);
        }
        if !within(buffers) {
            return Err(Fault::BadBuffers);
        }
        for Area { base, bytes, written } in areas {
            if !shared.memory.allows(base, bytes, written) {
                return Err(Fault::NotMapped);
            }
            if shared.client.is_none() && !shared.memory.covers(base, bytes, written) {
                tracing::error!("the guest's memory is not shared with the card, so no DMA is possible: {SHARE_HINT}");
                return Err(Fault::NotMapped);
            }
        }
        let clash = |others: &[Area]| areas.iter().any(|area| others.iter().any(|other| area.overlaps(*other)));
        let in_itself = (1..areas.len()).any(|at| areas[..at].iter().any(|other| areas[at].overlaps(*other)));
        if in_itself || taken.any(|other| clash(&other.areas(captures))) {
            return Err(Fault::Overlap);
        }
        Ok(StreamConfig {
            kind,
            wave,
            width,
            pool_base: self.pool_base,
            slots: self.slot_count,
            stride: self.slot_stride,
            buffer_base: self.buffer_base,
            buffer_size: self.buffer_size,
            buffers: self.buffer_count,
            submission_base: self.submission_base,
            submission_entries: self.submission_size,
            completion_base: self.completion_base,
            completion_entries: self.completion_size,
        })
    }
}

/// A write to a wide register, or to half of it.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) high: bool,
    pub(super) whole: bool,
    pub(super) value: u64,
}

impl Part {
    pub(super) fn apply(self, register: &mut u64) {
        const LOW: u64 = 0xFFFF_FFFF;
        *register = match (self.whole, self.high) {
            (true, _) => self.value,
            (false, false) => *register & !LOW | self.value & LOW,
            (false, true) => *register & LOW | self.value << 32,
        };
    }
}
