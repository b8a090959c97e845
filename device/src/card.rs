//! The card as a PCI function: configuration space and the trapped registers.
//!
//! Fed by a transport through [`Device`]; feeds the engine through `link` with requests, maps and resets. It runs on the transport's thread
//! and never waits for rendering.

mod block;
pub(crate) mod config_space;

use crate::device::{Device, DmaMap, Region, RemoteMemory};
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, PREFETCH, SAMPLE_RATE};
use crate::link::{Command, Link, Request, Shared, StreamConfig, StreamView};
use crate::stats::Stats;
use block::{Block, Part};
use config_space::{ConfigSpace, Effect};
use dmus_interface::command::{Answer, Status};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Access, Fault, Found, Register, control, feature};
use dmus_interface::time::RefTime;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Card {
    link: Arc<Link>,
    clock: ClockMode,
    config: ConfigSpace,
    enabled: bool,
    width: PointerWidth,
    blocks: [Block; STREAMS],
    /// The mailbox's registers; the opcode is written last, and not kept.
    command: Command,
}

impl Card {
    pub(crate) fn new(link: Arc<Link>, clock: ClockMode) -> Self {
        Self {
            link,
            clock,
            config: ConfigSpace::new(),
            enabled: false,
            width: PointerWidth::default(),
            blocks: [Block::default(); STREAMS],
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
        self.blocks = [Block::default(); STREAMS];
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
        let view = self.link.lock().views.get(index).copied().unwrap_or_default();
        match register {
            stream::TYPE if !view.open => stream::CLOSED.into(),
            stream::STATE => view.state as u64,
            stream::PREFETCH => PREFETCH.0 as u64,
            stream::TIME_BASE => view.time_base.0 as u64,
            register => self.blocks.get(index).map_or(0, |block| block.value(register)),
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

    fn any(&self, what: impl Fn(&StreamView) -> bool) -> bool {
        self.link.lock().views.iter().any(what)
    }

    fn write_stream(&mut self, index: usize, register: Register, part: Part) {
        let locked = self.link.lock().views.get(index).is_none_or(|view| view.open || view.busy);
        if locked {
            self.fault(Fault::Locked, stream::at(index, register).offset);
            return;
        }
        if let Some(block) = self.blocks.get_mut(index) {
            block.write(register, part);
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
                if let (Request::Open(config), Some(block)) = (request, self.blocks.get_mut(index)) {
                    block.kind = config.kind.value();
                }
                shared.views[index].busy = true;
                shared.requests[index] = Some(request);
                link.ring(&mut shared);
            }
            Err(fault) => link.answer(&mut shared, index, Err(fault)),
        }
    }

    /// What the stream's registers ask for.
    fn check_stream(&self, index: usize, kind: Type, shared: &Shared) -> Result<StreamConfig, Fault> {
        if !self.enabled || !shared.bus_master {
            return Err(Fault::NotEnabled);
        }
        let block = self.blocks.get(index).ok_or(Fault::BadValue)?;
        // Of an open stream, the registers are as they were when it was created.
        let open = |view: &StreamView| view.open || view.busy;
        let taken = self.blocks.iter().zip(&shared.views).filter(|(_, view)| open(view));
        block.config(kind, self.width, shared, taken.map(|(block, _)| block))
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
