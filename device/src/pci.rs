//! The card as a PCI function: configuration space and the trapped registers.
//!
//! Fed by a transport through [`Device`]; feeds the engine through `shared` with requests, maps and resets. It runs on
//! the transport's thread and never waits for rendering.

pub(crate) mod config_space;
mod stream_registers;

use crate::back_off::BackOff;
use crate::check::Checker;
use crate::deviation::Deviations;
use crate::device::{Device, DmaMap, Eventfd, Region, RemoteMemory};
use crate::dma::DoorbellPage;
use crate::dma::owners::Owners;
use crate::identity::{CHANNEL_GROUPS, ClockMode, LATENCY, PREFETCH, SAMPLE_RATE};
use crate::replay_log::{Put, Tag};
use crate::shared::{Command, Refusal, Request, Section, Shared, StreamConfig, StreamView};
use crate::stats::Stats;
use config_space::{ConfigSpace, Effect};
use dmus_interface::command::{Answer, Status};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::{DOORBELL_BAR, STREAMS};
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Access, Fault, Found, Register, control, feature};
use dmus_interface::time::RefTime;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use stream_registers::{Part, StreamRegisters};

/// See the module.
#[derive(Debug)]
pub struct Card {
    shared: Arc<Shared>,
    clock: ClockMode,
    config: ConfigSpace,
    /// The address that BAR2 was given last, by this client: what a plugin of QEMU is told. A reset clears the BARs
    /// here and not QEMU's copy of them, which is the one that counts and that the guest reads: it finds them as they
    /// were, and does not write them again.
    doorbell: Option<u32>,
    enabled: bool,
    width: PointerWidth,
    streams: [StreamRegisters; STREAMS],
    /// The mailbox's registers; the opcode is written last, and not kept.
    command: Command,
}

impl Card {
    pub(crate) fn new(shared: Arc<Shared>, clock: ClockMode) -> Self {
        Self {
            shared,
            clock,
            config: ConfigSpace::new(),
            doorbell: None,
            enabled: false,
            width: PointerWidth::default(),
            streams: [StreamRegisters::default(); STREAMS],
            command: Command::default(),
        }
    }

    /// From now on, tells this map where the guest sees the doorbell page, and what the card owns: before the first
    /// client, once.
    pub fn set_owners(&mut self, owners: Arc<Owners>) {
        self.shared.set_owners(owners);
        self.tell_doorbell();
    }

    fn tell_doorbell(&mut self) {
        self.doorbell = self.config.bar(DOORBELL_BAR).or(self.doorbell);
        if let Some(owners) = self.shared.owners() {
            owners.set_doorbell(self.doorbell.filter(|_| self.config.memory_space()).map(u64::from));
        }
    }

    /// The card takes liberties or has faults: before the first client, and before it records.
    pub fn set_deviations(&self, deviations: Arc<Deviations>) {
        self.shared.set_deviations(deviations);
    }

    /// Has what drivers do checked from here on: before the first client, once.
    pub fn set_checker(&self, checker: Arc<Checker>) {
        self.shared.set_checker(checker);
    }

    /// What it shares with its engine.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The card's counters.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(self.shared.stats())
    }

    /// As at power-on, but for maps and vectors. In one section: in between, what the engine still has to do would be a
    /// fault.
    fn restart(&mut self, section: &mut Section<'_>) {
        self.config = ConfigSpace::new();
        self.tell_doorbell();
        section.set_bus_master(false);
        section.reset();
        self.reset_registers();
    }

    /// The first part of [`Device::disconnect`]: the client has gone.
    pub(crate) fn leave(&mut self) {
        self.doorbell = None;
        let shared = Arc::clone(&self.shared);
        let mut section = shared.section();
        section.note(|out| _ = out.tag(Tag::Left));
        self.restart(&mut section);
        section.disconnect();
    }

    /// The second part: the next client has another page.
    pub(crate) fn change_page(&self) {
        let page = next_page();
        let mut section = self.shared.section();
        section.note(|out| _ = out.tag(Tag::NextPage));
        let old = section.change_page(page);
        drop(section);
        drop(old);
    }

    /// Maps memory that a replay does not have.
    pub(crate) fn map_absent(&self, iova: u64, size: u64, writable: bool, shared: bool) {
        let mut section = self.shared.section();
        if section.maps_mut().map_absent(iova, size, writable, shared).is_ok() {
            section.shared().stats().maps.add(1);
        }
    }

    fn reset_function(&mut self, section: &mut Section<'_>) {
        section.shared().stats().resets.add(1);
        self.restart(section);
    }

    /// As after a reset of the function; what is shared with the engine is the caller's.
    fn reset_registers(&mut self) {
        self.enabled = false;
        self.width = PointerWidth::default();
        self.streams = [StreamRegisters::default(); STREAMS];
        self.command = Command::default();
    }

    /// Finds what an access of `len` bytes means; records what is wrong with it.
    fn find(section: &mut Section<'_>, offset: u64, len: usize, refused: Access) -> Option<Found> {
        section.shared().stats().register_accesses.add(1);
        let place = u32::try_from(offset).unwrap_or(u32::MAX);
        let aligned = matches!(len, 4 | 8) && offset.is_multiple_of(len as u64);
        if !aligned {
            section.fault(Fault::BadAccess, place);
            return None;
        }
        let Some(found) = regs::find(place) else {
            section.fault(Fault::Reserved, place);
            return None;
        };
        if len == 8 && (found.register.width != 8 || found.high) {
            section.fault(Fault::BadAccess, place);
            return None;
        }
        if found.register.access == refused {
            section.fault(Fault::AccessRights, place);
            return None;
        }
        Some(found)
    }

    /// An access, before it is carried out: whether the card is gone. One that has reset itself has other registers.
    fn meets_fault(&mut self, section: &mut Section<'_>, region: Region) -> bool {
        if section.shared().deviations().is_none() {
            return false;
        }
        if section.take_own_reset() {
            self.reset_registers();
        }
        match region {
            Region::Registers => section.is_removed_by_access(),
            Region::Config => section.is_removed(),
            Region::Doorbell | Region::Msix => false,
        }
    }

    fn register_read(&self, section: &mut Section<'_>, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        section.show_read();
        let Some(found) = Self::find(section, offset, data.len(), Access::Write) else {
            return;
        };
        let value = match found.stream {
            None => self.global_value(section, found.register),
            Some(index) => self.stream_value(section, index, found.register),
        };
        let value = if found.high { value >> 32 } else { value };
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn global_value(&self, section: &Section<'_>, register: Register) -> u64 {
        let (clocks, fault) = (section.clocks(), section.fault_record());
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
            regs::FAULT => fault.code.into(),
            regs::FAULT_DETAIL => fault.detail.into(),
            regs::FAULT_COUNT => fault.count.into(),
            regs::MASTER_TIME => clocks.master.0 as u64,
            regs::LATENCY_TIME => latency(clocks.master),
            regs::SAMPLE_POSITION => clocks.samples,
            regs::COMMAND_REQUEST => self.command.request,
            regs::COMMAND_REQUEST_SIZE => self.command.request_size.into(),
            regs::COMMAND_RESULT_ROOM => self.command.result_room.into(),
            regs::COMMAND_RESULT => self.command.result,
            regs::COMMAND_STREAM => self.command.stream.into(),
            _ => 0,
        }
    }

    fn stream_value(&self, section: &Section<'_>, index: usize, register: Register) -> u64 {
        let view = section.views().get(index).copied().unwrap_or_default();
        match register {
            stream::TYPE if !view.open => stream::CLOSED.into(),
            stream::STATE => view.state as u64,
            stream::PREFETCH => PREFETCH.0 as u64,
            stream::TIME_BASE => view.time_base.0 as u64,
            register => self.streams.get(index).map_or(0, |registers| registers.value(register)),
        }
    }

    fn register_write(&mut self, section: &mut Section<'_>, offset: u64, data: &[u8]) {
        let Some(found) = Self::find(section, offset, data.len(), Access::Read) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        let part = Part { high: found.high, whole: data.len() == 8, value };
        match found.stream {
            None => self.write_global(section, found.register, part),
            Some(index) => match found.register {
                stream::TYPE | stream::STATE => self.write_transition(section, index, found.register, value as u32),
                register => self.write_stream(section, index, register, part),
            },
        }
    }

    fn write_global(&mut self, section: &mut Section<'_>, register: Register, part: Part) {
        let value = part.value as u32;
        match register {
            regs::CONTROL => self.write_control(section, value),
            regs::POINTER_WIDTH => match PointerWidth::decode(value) {
                None => section.fault(Fault::BadValue, register.offset),
                // An open stream keeps the layout that it was created with.
                Some(_) if Self::any_taken(section) => section.fault(Fault::Locked, register.offset),
                Some(width) => self.width = width,
            },
            regs::FAULT => section.clear_fault(value),
            regs::WAKE => section.ring(),
            regs::COMMAND_REQUEST => part.apply(&mut self.command.request),
            regs::COMMAND_RESULT => part.apply(&mut self.command.result),
            regs::COMMAND_REQUEST_SIZE => self.command.request_size = value,
            regs::COMMAND_RESULT_ROOM => self.command.result_room = value,
            regs::COMMAND_STREAM => self.command.stream = value,
            regs::COMMAND => self.start_command(section, value),
            _ => {}
        }
    }

    /// A command: carried out by the engine, and answered once.
    fn start_command(&self, section: &mut Section<'_>, opcode: u32) {
        if section.has_command() {
            // The answer under way is the only one; this write has none.
            section.fault(Fault::CommandBusy, regs::COMMAND.offset);
        } else if self.enabled {
            section.command(Command { opcode, ..self.command });
        } else {
            section.answer_command(opcode, Answer { status: Status::NotEnabled as u32, ..Answer::default() });
        }
    }

    fn write_control(&mut self, section: &mut Section<'_>, value: u32) {
        if value & control::RESET != 0 {
            section.shared().stats().resets.add(1);
            section.reset_by_driver();
            self.reset_registers();
        } else if value & !control::ENABLE != 0 {
            section.fault(Fault::BadValue, regs::CONTROL.offset);
        } else if value == 0 && Self::any_taken(section) {
            section.fault(Fault::Locked, regs::CONTROL.offset);
        } else {
            self.enabled = value & control::ENABLE != 0;
        }
    }

    fn any_taken(section: &Section<'_>) -> bool {
        section.views().iter().any(StreamView::is_taken)
    }

    fn write_stream(&mut self, section: &mut Section<'_>, index: usize, register: Register, part: Part) {
        if section.views().get(index).is_some_and(StreamView::is_taken) {
            section.fault(Fault::Locked, stream::at(index, register).offset);
            return;
        }
        if let Some(registers) = self.streams.get_mut(index) {
            registers.write(register, part);
        }
    }

    /// TYPE and STATE: checked here, carried out by the engine, answered once each.
    fn write_transition(&mut self, section: &mut Section<'_>, index: usize, register: Register, value: u32) {
        let Some(view) = section.views().get(index).copied() else {
            return;
        };
        if view.busy {
            // The answer under way is the only one; this write has none.
            section.fault(Fault::TransitionBusy, stream::at(index, register).offset);
            return;
        }
        let refuse = |fault| Err(Refusal::of(fault, register));
        let request = if register == stream::STATE {
            match State::decode(value) {
                _ if !view.open => refuse(Fault::Closed),
                None => refuse(Fault::BadValue),
                Some(state) => Ok(Request::SetState(state)),
            }
        } else if value == stream::CLOSED {
            match view.open && view.state == State::Stop {
                true => Ok(Request::Close),
                false => refuse(Fault::NotStopped),
            }
        } else {
            match Type::decode(value) {
                None => refuse(Fault::BadValue),
                Some(_) if view.open => refuse(Fault::NotStopped),
                Some(_) if !self.enabled || !section.is_bus_master() => refuse(Fault::NotEnabled),
                Some(kind) => self.check_stream(index, kind, section).map(Request::Open),
            }
        };
        if let (Ok(Request::Open(config)), Some(registers)) = (request, self.streams.get_mut(index)) {
            registers.kind = config.kind.value();
        }
        section.request(index, request);
    }

    /// What the stream's registers ask for.
    fn check_stream(&self, index: usize, kind: Type, section: &Section<'_>) -> Result<StreamConfig, Refusal> {
        let registers = self.streams.get(index).ok_or(Refusal::of(Fault::BadValue, stream::TYPE))?;
        // Of an open stream, the registers are as they were when it was created.
        let taken = self.streams.iter().zip(section.views()).filter(|(_, view)| view.is_taken());
        registers.config(kind, self.width, section, taken.map(|(registers, _)| registers))
    }
}

/// A page for the next client, made before that one is accepted.
fn next_page() -> DoorbellPage {
    let mut back_off = BackOff::default();
    loop {
        match DoorbellPage::new() {
            Ok(page) => return page,
            Err(error) => back_off.wait(&error),
        }
    }
}

/// Each call is one section: what the engine does comes before all of it or after.
impl Device for Card {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        let shared = Arc::clone(&self.shared);
        let mut section = shared.section();
        let len = data.len() as u64;
        section.note(|out| _ = out.tag(Tag::Read).byte(region as u8).number(offset).number(len));
        section.shared().set_remapping(false);
        match region {
            _ if self.meets_fault(&mut section, region) => data.fill(0xFF),
            Region::Config => self.config.read(offset, data),
            Region::Registers => self.register_read(&mut section, offset, data),
            Region::Doorbell => section.page().read(usize::try_from(offset).unwrap_or(usize::MAX), data),
            // The client emulates the table; no vector is ever pending here.
            Region::Msix => data.fill(0),
        }
        section.note(|out| _ = out.tag(Tag::Answer).bytes(data));
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        let shared = Arc::clone(&self.shared);
        let mut section = shared.section();
        section.note(|out| _ = out.tag(Tag::Write).byte(region as u8).number(offset).bytes(data));
        section.shared().set_remapping(false);
        match region {
            _ if self.meets_fault(&mut section, region) => {}
            Region::Config => {
                let effect = self.config.write(offset, data);
                self.tell_doorbell();
                let bus_master = self.config.bus_master();
                if section.is_bus_master() && !bus_master {
                    // Whoever resets the function does this first, and nothing else before the reset.
                    section.shared().set_remapping(true);
                }
                section.set_bus_master(bus_master);
                if effect == Effect::FunctionLevelReset {
                    self.reset_function(&mut section);
                }
            }
            Region::Registers => self.register_write(&mut section, offset, data),
            Region::Doorbell => {
                section.page().write(usize::try_from(offset).unwrap_or(usize::MAX), data);
                // Whoever does not map the page need not write WAKE besides.
                section.ring_by_page();
            }
            Region::Msix => {}
        }
    }

    fn offer_memory(&mut self, memory: Arc<dyn RemoteMemory>) {
        let mut section = self.shared.section();
        section.note(|out| _ = out.tag(Tag::OfferMemory));
        section.offer_memory(memory);
    }

    fn map(&mut self, map: DmaMap) -> io::Result<()> {
        let (iova, size, writable) = (map.iova, map.size, map.writable);
        let mut section = self.shared.section();
        let mapped = section.maps_mut().map(map);
        match &mapped {
            Ok(()) => {
                section.shared().stats().maps.add(1);
                let kind = u8::from(writable) | u8::from(section.maps().covers(iova, size, false)) << 1;
                section.note(|out| _ = out.tag(Tag::Map).number(iova).number(size).byte(kind));
            }
            Err(error) => tracing::warn!("guest memory at {iova:#x}, {size:#x} bytes, is left out: {error}"),
        }
        mapped
    }

    fn unmap(&mut self, iova: u64, size: u64) {
        self.shared.set_remapping(true);
        let mut section = self.shared.section();
        section.note(|out| _ = out.tag(Tag::Unmap).number(iova).number(size));
        section.maps_mut().unmap(iova, size);
        section.shared().stats().unmaps.add(1);
    }

    fn set_vector(&mut self, vector: u16, eventfd: Option<Eventfd>) {
        self.shared.set_vector(vector, eventfd);
    }

    fn reset(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut section = shared.section();
        section.note(|out| _ = out.tag(Tag::ResetFunction));
        self.reset_function(&mut section);
    }

    fn disconnect(&mut self) {
        // First, since it may have made the engine wait.
        self.shared.clear_vectors();
        self.leave();
        // Last, when all that the client held is given back.
        self.change_page();
    }

    fn doorbell_fd(&self) -> io::Result<OwnedFd> {
        self.shared.section().page().fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::owners::DOORBELL_PAGE;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_plugin_is_told_the_doorbell_page_over_a_reset_until_the_client_goes() -> anyhow::Result<()> {
        const COMMAND: u64 = 4;
        const DEVICE_CONTROL: u64 = 0x48;
        const BAR2: u64 = 0x18;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("owners");
        let (mut card, _engine) = crate::assemble(ClockMode::Virtual, Box::new(crate::sink::NullSink))?;
        card.set_owners(Arc::new(Owners::open(&path)?));
        let file = std::fs::File::open(&path)?;
        let mut after = |at, value: u32| {
            card.write(Region::Config, at, &value.to_le_bytes());
            let mut word = [0; 8];
            file.read_exact_at(&mut word, DOORBELL_PAGE).map(|()| u64::from_le_bytes(word))
        };
        assert_eq!(after(BAR2, 0xFEB0_0000)?, 0);
        assert_eq!(after(COMMAND, 2)?, 0xFEB0_0000);
        // As vfio-pci resets a function: memory space is disabled before, enabled after, and the BARs are left alone.
        assert_eq!(after(COMMAND, 0)?, 0);
        assert_eq!(after(DEVICE_CONTROL, 1 << 15)?, 0);
        assert_eq!(after(COMMAND, 2)?, 0xFEB0_0000);
        assert_eq!(after(BAR2, 0xFEA0_0000)?, 0xFEA0_0000);
        card.disconnect();
        card.write(Region::Config, COMMAND, &[2]);
        let mut word = [0; 8];
        file.read_exact_at(&mut word, DOORBELL_PAGE)?;
        assert_eq!(word, [0; 8]);
        Ok(())
    }
}
