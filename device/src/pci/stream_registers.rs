//! A stream's registers: what a guest has written to them, and what that asks for.
//!
//! Fed by the card's register accesses; feeds the engine with the configuration of a stream to open, held against the
//! data sheet, the guest's memory and the other streams.

use crate::dma::SHARE_HINT;
use crate::shared::{Refusal, Section, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::{self, Type};
use dmus_interface::regs::{Fault, Register};
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
use dmus_interface::wave::WaveFormat;

/// Bytes of buffers that one stream may have: the card keeps a private copy of them.
const MAX_BUFFER_AREA: u64 = 16 << 20;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamRegisters {
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

impl StreamRegisters {
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

    /// What a stream of this type would be; `taken` are the registers of the streams that are open. A refusal names the
    /// register.
    pub(super) fn config<'a>(
        &self,
        kind: Type,
        width: PointerWidth,
        section: &Section<'_>,
        mut taken: impl Iterator<Item = &'a Self>,
    ) -> Result<StreamConfig, Refusal> {
        let captures = kind != Type::Render;
        let areas = self.areas(captures);
        let [pool, buffers, ..] = areas;
        let sized = (8..=stream::MAX_BUFFER_SIZE).contains(&self.buffer_size) && self.buffer_size.is_multiple_of(8);
        // With narrow pointers, what an event cannot point to may not be part of the stream.
        let reach = match width {
            PointerWidth::Four => 1 << 32,
            PointerWidth::Eight => u64::MAX,
        };
        let within = |area: Area| area.base.checked_add(area.bytes).is_some_and(|end| end <= reach);
        let ring = |entries: u32| entries.is_power_of_two() && (self.slot_count..=stream::MAX_RING).contains(&entries);
        let stride = self.slot_stride;
        let count = self.buffer_count;
        let rules = [
            ((1..=stream::MAX_SLOTS).contains(&self.slot_count), Fault::BadPool, stream::SLOT_COUNT),
            (stride.is_power_of_two() && (64..=4096).contains(&stride), Fault::BadPool, stream::SLOT_STRIDE),
            (self.pool_base.is_multiple_of(stride.max(1).into()) && within(pool), Fault::BadPool, stream::POOL_BASE),
            (count == 0 || sized, Fault::BadBuffers, stream::BUFFER_SIZE),
            (count <= stream::MAX_SLOTS && (count > 0 || !captures), Fault::BadBuffers, stream::BUFFER_COUNT),
            (buffers.bytes <= MAX_BUFFER_AREA, Fault::BadBuffers, stream::BUFFER_COUNT),
            (self.buffer_base.is_multiple_of(8) && within(buffers), Fault::BadBuffers, stream::BUFFER_BASE),
            (ring(self.submission_size), Fault::BadRing, stream::SUBMISSION_SIZE),
            (ring(self.completion_size), Fault::BadRing, stream::COMPLETION_SIZE),
            (self.submission_base.is_multiple_of(SUBMISSION_SIZE as u64), Fault::BadRing, stream::SUBMISSION_BASE),
            (self.completion_base.is_multiple_of(COMPLETION_SIZE as u64), Fault::BadRing, stream::COMPLETION_BASE),
        ];
        if let Some((_, fault, register)) = rules.into_iter().find(|(kept, ..)| !kept) {
            return Err(Refusal::of(fault, register));
        }
        let wave = match kind {
            Type::WaveSink => Some(self.wave_format()?),
            Type::Render | Type::Capture { .. } => None,
        };
        for (area, register) in areas.iter().zip(BASES) {
            Self::check_access(*area, section).map_err(|fault| Refusal::of(fault, register))?;
        }
        let taken: Vec<Area> = taken.by_ref().flat_map(|other| other.areas(captures)).collect();
        for (at, (area, register)) in areas.iter().zip(BASES).enumerate() {
            if areas[..at].iter().chain(&taken).any(|other| area.overlaps(*other)) {
                return Err(Refusal::of(Fault::Overlap, register));
            }
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

    fn wave_format(&self) -> Result<WaveFormat, Refusal> {
        WaveFormat::decode(self.wave_rate, self.wave_format).map_err(|fault| {
            let known_rate = WaveFormat::RATES.contains(&self.wave_rate);
            Refusal::of(fault, if known_rate { stream::WAVE_FORMAT } else { stream::WAVE_RATE })
        })
    }

    fn check_access(area: Area, section: &Section<'_>) -> Result<(), Fault> {
        let Area { base, bytes, written } = area;
        let maps = section.maps();
        if !maps.allows(base, bytes, false) {
            return Err(Fault::NotMapped);
        }
        if written && !maps.allows(base, bytes, true) {
            return Err(Fault::NotWritable);
        }
        if section.client().is_none() && !maps.covers(base, bytes, written) {
            tracing::error!("the guest's memory is not shared with the card, so no DMA is possible: {SHARE_HINT}");
            return Err(Fault::NotMapped);
        }
        Ok(())
    }
}

/// The registers that say where each of [`StreamRegisters::areas`] is.
const BASES: [Register; 4] = [stream::POOL_BASE, stream::BUFFER_BASE, stream::SUBMISSION_BASE, stream::COMPLETION_BASE];

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
