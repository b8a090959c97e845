//! The card as a PCI function: configuration space and the trapped registers.
//!
//! Fed by a transport through [`Device`]; feeds the engine through `link` with requests, maps and resets. It runs on the transport's thread
//! and never waits for rendering.

pub(crate) mod config_space;

use crate::device::{Device, DmaMap, Region, RemoteMemory};
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, PREFETCH, SAMPLE_RATE};
use crate::link::{Command, Link, Request, Shared, StreamConfig};
use crate::remote::SHARE_HINT;
use crate::stats::Stats;
use config_space::{ConfigSpace, Effect};
use dmus_interface::command::{Answer, Status};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Access, Fault, Found, Register, control, feature};
use dmus_interface::ring::{COMPLETION_SIZE, SUBMISSION_SIZE};
use dmus_interface::time::RefTime;
use dmus_interface::wave::WaveFormat;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes of buffers that one stream may have: the card keeps a private copy of them.
const MAX_BUFFER_AREA: u64 = 16 << 20;

/// See the module.
#[derive(Debug)]
pub struct Card {
    link: Arc<Link>,
    clock: ClockMode,
    config: ConfigSpace,
    enabled: bool,
    width: PointerWidth,
    streams: [StreamRegisters; STREAMS],
    /// The mailbox's registers; the opcode is written last, and not kept.
    command: Command,
}

/// What a guest has written to a stream's block.
#[derive(Clone, Copy, Debug, Default)]
struct StreamRegisters {
    /// The type that was last created.
    kind: u32,
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

impl Card {
    pub(crate) fn new(link: Arc<Link>, clock: ClockMode) -> Self {
        Self {
            link,
            clock,
            config: ConfigSpace::new(),
            enabled: false,
            width: PointerWidth::default(),
            streams: [StreamRegisters::default(); STREAMS],
            command: Command::default(),
        }
    }

    /// The card's counters.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.link.stats)
    }

    /// As at power-on, but for maps and vectors.
    fn restart(&mut self) {
        self.config = ConfigSpace::new();
        self.link.lock().set_bus_master(false);
        self.reset_function();
    }

    /// Reset of everything behind configuration space.
    fn reset_function(&mut self) {
        self.enabled = false;
        self.width = PointerWidth::default();
        self.streams = [StreamRegisters::default(); STREAMS];
        self.command = Command::default();
        let mut shared = self.link.lock();
        shared.reset();
        self.link.ring(&mut shared);
    }

    fn fault(&self, fault: Fault, detail: u32) {
        self.link.fault(&mut self.link.lock(), fault, detail);
    }

    /// Finds what an access of `len` bytes means; records what is wrong with it.
    fn find(&self, offset: u64, len: usize, refused: Access) -> Option<Found> {
        self.link.stats.register_accesses.add(1);
        let place = u32::try_from(offset).unwrap_or(u32::MAX);
        let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(len as u64);
        if !aligned {
            self.fault(Fault::BadAccess, place);
            return None;
        }
        let Some(found) = regs::find(place) else {
            self.fault(Fault::Reserved, place);
            return None;
        };
        if len == 8 && (found.register.width != 8 || found.high) {
            self.fault(Fault::BadAccess, place);
            return None;
        }
        if found.register.access == refused {
            self.fault(Fault::AccessRights, place);
            return None;
        }
        Some(found)
    }

    fn register_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        let Some(found) = self.find(offset, data.len(), Access::Write) else {
            return;
        };
        let value = match found.stream {
            None => self.global_value(found.register),
            Some(index) => self.stream_value(index, found.register),
        };
        let value = if found.high { value >> 32 } else { value };
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn global_value(&self, register: Register) -> u64 {
        let shared = self.link.lock();
        let latency = |master: RefTime| master.saturating_add(LATENCY).0 as u64;
        match register {
            regs::MAGIC => regs::MAGIC_VALUE.into(),
            regs::VERSION => regs::VERSION_VALUE.into(),
            regs::FEATURES if self.clock == ClockMode::Virtual => feature::VIRTUAL_CLOCK.into(),
            regs::STREAMS => STREAMS as u64,
            regs::CONTROL if self.enabled => control::ENABLE.into(),
            regs::POINTER_WIDTH => self.width.bytes() as u64,
            regs::SAMPLE_RATE => SAMPLE_RATE.into(),
            regs::CHANNEL_GROUPS => CHANNEL_GROUPS.into(),
            regs::FAULT => shared.fault.into(),
            regs::FAULT_DETAIL => shared.fault_detail.into(),
            regs::FAULT_COUNT => shared.fault_count.into(),
            regs::MASTER_TIME => shared.clocks.master.0 as u64,
            regs::LATENCY_TIME => latency(shared.clocks.master),
            regs::SAMPLE_POSITION => shared.clocks.samples,
            regs::COMMAND_REQUEST => self.command.request,
            regs::COMMAND_REQUEST_SIZE => self.command.request_size.into(),
            regs::COMMAND_RESULT_ROOM => self.command.result_room.into(),
            regs::COMMAND_RESULT => self.command.result,
            regs::COMMAND_STREAM => self.command.stream.into(),
            _ => 0,
        }
    }

    fn stream_value(&self, index: usize, register: Register) -> u64 {
        let block = self.streams.get(index).copied().unwrap_or_default();
        let shared = self.link.lock();
        let view = shared.views.get(index).copied().unwrap_or_default();
        match register {
            stream::TYPE if view.open => block.kind.into(),
            stream::TYPE => stream::CLOSED.into(),
            stream::STATE => view.state as u64,
            stream::POOL_BASE => block.pool_base,
            stream::SLOT_COUNT => block.slot_count.into(),
            stream::SLOT_STRIDE => block.slot_stride.into(),
            stream::BUFFER_BASE => block.buffer_base,
            stream::BUFFER_SIZE => block.buffer_size.into(),
            stream::BUFFER_COUNT => block.buffer_count.into(),
            stream::SUBMISSION_BASE => block.submission_base,
            stream::SUBMISSION_SIZE => block.submission_size.into(),
            stream::COMPLETION_BASE => block.completion_base,
            stream::COMPLETION_SIZE => block.completion_size.into(),
            stream::PREFETCH => PREFETCH.0 as u64,
            stream::TIME_BASE => view.time_base.0 as u64,
            stream::WAVE_RATE => block.wave_rate.into(),
            stream::WAVE_FORMAT => block.wave_format.into(),
            _ => 0,
        }
    }

    fn register_write(&mut self, offset: u64, data: &[u8]) {
        let Some(found) = self.find(offset, data.len(), Access::Read) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        let part = Part { high: found.high, whole: data.len() == 8, value };
        match found.stream {
            None => self.write_global(found.register, part),
            Some(index) => match found.register {
                stream::TYPE | stream::STATE => self.write_transition(index, found.register, value as u32),
                register => self.write_stream(index, register, part),
            },
        }
    }

    fn write_global(&mut self, register: Register, part: Part) {
        let value = part.value as u32;
        match register {
            regs::CONTROL => self.write_control(value),
            regs::POINTER_WIDTH => match PointerWidth::decode(value) {
                None => self.fault(Fault::BadValue, register.offset),
                // An open stream keeps the layout that it was created with.
                Some(_) if self.any(|view| view.open || view.busy) => self.fault(Fault::Locked, register.offset),
                Some(width) => self.width = width,
            },
            regs::FAULT => {
                let mut shared = self.link.lock();
                shared.fault = 0;
                shared.fault_detail = 0;
            }
            regs::WAKE => {
                let mut shared = self.link.lock();
                self.link.ring(&mut shared);
            }
            regs::COMMAND_REQUEST => part.apply(&mut self.command.request),
            regs::COMMAND_RESULT => part.apply(&mut self.command.result),
            regs::COMMAND_REQUEST_SIZE => self.command.request_size = value,
            regs::COMMAND_RESULT_ROOM => self.command.result_room = value,
            regs::COMMAND_STREAM => self.command.stream = value,
            regs::COMMAND => self.start_command(value),
            _ => {}
        }
    }

    /// A command: carried out by the engine, and answered once.
    fn start_command(&self, opcode: u32) {
        let mut shared = self.link.lock();
        if shared.command_busy {
            // The answer under way is the only one; this write has none.
            self.link.fault(&mut shared, Fault::CommandBusy, regs::COMMAND.offset);
        } else if !self.enabled {
            let answer = Answer { status: Status::NotEnabled as u32, ..Answer::default() };
            self.link.answer_command(&mut shared, answer);
        } else {
            shared.command_busy = true;
            shared.command = Some(Command { opcode, ..self.command });
            self.link.ring(&mut shared);
        }
    }

    fn write_control(&mut self, value: u32) {
        if value & control::RESET != 0 {
            self.link.stats.resets.add(1);
            self.reset_function();
        } else if value & !control::ENABLE != 0 {
            self.fault(Fault::BadValue, regs::CONTROL.offset);
        } else if value == 0 && self.any(|view| view.open || view.busy) {
            self.fault(Fault::Locked, regs::CONTROL.offset);
        } else {
            self.enabled = value & control::ENABLE != 0;
        }
    }

    fn any(&self, what: impl Fn(&crate::link::StreamView) -> bool) -> bool {
        self.link.lock().views.iter().any(what)
    }

    fn write_stream(&mut self, index: usize, register: Register, part: Part) {
        let locked = self.link.lock().views.get(index).is_none_or(|view| view.open || view.busy);
        if locked {
            self.fault(Fault::Locked, stream::at(index, register).offset);
            return;
        }
        let Some(block) = self.streams.get_mut(index) else {
            return;
        };
        match register {
            stream::POOL_BASE => part.apply(&mut block.pool_base),
            stream::BUFFER_BASE => part.apply(&mut block.buffer_base),
            stream::SUBMISSION_BASE => part.apply(&mut block.submission_base),
            stream::COMPLETION_BASE => part.apply(&mut block.completion_base),
            stream::SLOT_COUNT => block.slot_count = part.value as u32,
            stream::SLOT_STRIDE => block.slot_stride = part.value as u32,
            stream::BUFFER_SIZE => block.buffer_size = part.value as u32,
            stream::BUFFER_COUNT => block.buffer_count = part.value as u32,
            stream::SUBMISSION_SIZE => block.submission_size = part.value as u32,
            stream::COMPLETION_SIZE => block.completion_size = part.value as u32,
            stream::WAVE_RATE => block.wave_rate = part.value as u32,
            stream::WAVE_FORMAT => block.wave_format = part.value as u32,
            _ => {}
        }
    }

    /// TYPE and STATE: checked here, carried out by the engine, answered once each.
    fn write_transition(&mut self, index: usize, register: Register, value: u32) {
        let link = Arc::clone(&self.link);
        let mut shared = link.lock();
        let Some(view) = shared.views.get(index).copied() else {
            return;
        };
        if view.busy {
            // The answer under way is the only one; this write has none.
            link.fault(&mut shared, Fault::TransitionBusy, stream::at(index, register).offset);
            return;
        }
        let request = if register == stream::STATE {
            match State::decode(value) {
                _ if !view.open => Err(Fault::Closed),
                None => Err(Fault::BadValue),
                Some(state) => Ok(Request::SetState(state)),
            }
        } else if value == stream::CLOSED {
            match view.open && view.state == State::Stop {
                true => Ok(Request::Close),
                false => Err(Fault::NotStopped),
            }
        } else {
            match Type::decode(value) {
                None => Err(Fault::BadValue),
                Some(_) if view.open => Err(Fault::NotStopped),
                Some(kind) => self.check_stream(index, kind, &shared).map(Request::Open),
            }
        };
        match request {
            Ok(request) => {
                if let (Request::Open(config), Some(block)) = (request, self.streams.get_mut(index)) {
                    block.kind = config.kind.value();
                }
                shared.views[index].busy = true;
                shared.requests[index] = Some(request);
                link.ring(&mut shared);
            }
            Err(fault) => link.answer(&mut shared, index, Err(fault)),
        }
    }

    /// Holds a stream's registers against the data sheet and the guest's memory.
    fn check_stream(&self, index: usize, kind: Type, shared: &Shared) -> Result<StreamConfig, Fault> {
        if !self.enabled || !shared.bus_master {
            return Err(Fault::NotEnabled);
        }
        let block = self.streams.get(index).ok_or(Fault::BadValue)?;
        let pool_bytes = u64::from(block.slot_count) * u64::from(block.slot_stride);
        if !(1..=stream::MAX_SLOTS).contains(&block.slot_count)
            || !block.slot_stride.is_power_of_two()
            || !(64..=4096).contains(&block.slot_stride)
            || !block.pool_base.is_multiple_of(u64::from(block.slot_stride))
        {
            return Err(Fault::BadPool);
        }
        let wave = match kind {
            Type::WaveSink => Some(WaveFormat::decode(block.wave_rate, block.wave_format)?),
            Type::Render | Type::Capture { .. } => None,
        };
        let captures = kind != Type::Render;
        let buffer_bytes = u64::from(block.buffer_count) * u64::from(block.buffer_size);
        let sized = (8..=stream::MAX_BUFFER_SIZE).contains(&block.buffer_size) && block.buffer_size.is_multiple_of(8);
        if block.buffer_count > stream::MAX_SLOTS
            || block.buffer_count > 0 && !sized
            || block.buffer_count == 0 && captures
            || buffer_bytes > MAX_BUFFER_AREA
            || !block.buffer_base.is_multiple_of(8)
        {
            return Err(Fault::BadBuffers);
        }
        let ring = |entries: u32| entries.is_power_of_two() && (block.slot_count..=stream::MAX_RING).contains(&entries);
        if !ring(block.submission_size)
            || !ring(block.completion_size)
            || !block.submission_base.is_multiple_of(SUBMISSION_SIZE as u64)
            || !block.completion_base.is_multiple_of(COMPLETION_SIZE as u64)
        {
            return Err(Fault::BadRing);
        }
        // With narrow pointers, what an event cannot point to may not be part of the stream.
        let reach = match self.width {
            PointerWidth::Four => 1 << 32,
            PointerWidth::Eight => u64::MAX,
        };
        let within = |base: u64, bytes: u64| base.checked_add(bytes).is_some_and(|end| end <= reach);
        if !within(block.pool_base, pool_bytes) {
            return Err(Fault::BadPool);
        }
        if !within(block.buffer_base, buffer_bytes) {
            return Err(Fault::BadBuffers);
        }
        let submission_bytes = u64::from(block.submission_size) * SUBMISSION_SIZE as u64;
        let completion_bytes = u64::from(block.completion_size) * COMPLETION_SIZE as u64;
        for (base, bytes, write) in [
            (block.pool_base, pool_bytes, captures),
            (block.buffer_base, buffer_bytes, captures),
            (block.submission_base, submission_bytes, false),
            (block.completion_base, completion_bytes, true),
        ] {
            if !shared.memory.allows(base, bytes, write) {
                return Err(Fault::NotMapped);
            }
            if shared.client.is_none() && !shared.memory.covers(base, bytes, write) {
                tracing::error!("the guest's memory is not shared with the card, so no DMA is possible: {SHARE_HINT}");
                return Err(Fault::NotMapped);
            }
        }
        Ok(StreamConfig {
            kind,
            wave,
            width: self.width,
            pool_base: block.pool_base,
            slots: block.slot_count,
            stride: block.slot_stride,
            buffer_base: block.buffer_base,
            buffer_size: block.buffer_size,
            buffers: block.buffer_count,
            submission_base: block.submission_base,
            submission_entries: block.submission_size,
            completion_base: block.completion_base,
            completion_entries: block.completion_size,
        })
    }
}

/// A write to a wide register, or to half of it.
#[derive(Clone, Copy)]
struct Part {
    high: bool,
    whole: bool,
    value: u64,
}

impl Part {
    fn apply(self, register: &mut u64) {
        const LOW: u64 = 0xFFFF_FFFF;
        *register = match (self.whole, self.high) {
            (true, _) => self.value,
            (false, false) => *register & !LOW | self.value & LOW,
            (false, true) => *register & LOW | self.value << 32,
        };
    }
}

impl Device for Card {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        self.link.set_remapping(false);
        match region {
            Region::Config => self.config.read(offset, data),
            Region::Registers => self.register_read(offset, data),
            Region::Doorbell => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                self.link.lock().page.read(offset, data);
            }
            // The client emulates the table; no vector is ever pending here.
            Region::Msix => data.fill(0),
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        self.link.set_remapping(false);
        match region {
            Region::Config => {
                let effect = self.config.write(offset, data);
                let bus_master = self.config.bus_master();
                self.link.lock().set_bus_master(bus_master);
                if effect == Effect::FunctionLevelReset {
                    self.reset();
                }
            }
            Region::Registers => self.register_write(offset, data),
            Region::Doorbell => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let mut shared = self.link.lock();
                shared.page.write(offset, data);
                // Whoever does not map the page needs no bell besides.
                self.link.ring(&mut shared);
            }
            Region::Msix => {}
        }
    }

    fn offer_memory(&mut self, memory: Arc<dyn RemoteMemory>) {
        self.link.lock().client = Some(memory);
    }

    fn map(&mut self, map: DmaMap) -> io::Result<()> {
        let (iova, size) = (map.iova, map.size);
        let mapped = self.link.lock().memory.map(map);
        match &mapped {
            Ok(()) => self.link.stats.maps.add(1),
            Err(error) => tracing::warn!("guest memory at {iova:#x}, {size:#x} bytes, is left out: {error}"),
        }
        mapped
    }

    fn unmap(&mut self, iova: u64, size: u64) {
        self.link.lock().memory.unmap(iova, size);
        self.link.set_remapping(true);
        self.link.stats.unmaps.add(1);
    }

    fn set_vector(&mut self, vector: u16, eventfd: Option<File>) {
        self.link.lock().set_vector(vector, eventfd);
    }

    fn reset(&mut self) {
        self.link.stats.resets.add(1);
        self.restart();
    }

    fn disconnect(&mut self) {
        self.restart();
        let mut shared = self.link.lock();
        shared.memory.clear();
        shared.client = None;
        shared.warned = false;
        shared.clear_vectors();
    }

    fn doorbell_fd(&self) -> io::Result<OwnedFd> {
        self.link.lock().page.fd()
    }
}
