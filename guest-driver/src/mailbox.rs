//! The card's mailbox: properties of streams, and DLS downloads.
//!
//! Fed by an application; feeds the card with requests in DMA memory and sleeps until each is answered, on the control
//! vector. No event waits for it, and it needs no event. Names are those of `KSPROPSETID_Synth` and
//! `KSPROPSETID_Synth_Dls`; a stream is meant by its index.

use crate::dma::DmaMemory;
use crate::{Card, DriverError, Platform};
use core::sync::atomic::Ordering;
use core::time::Duration;
use dmus_interface::command::{Answer, Opcode, Status};
use dmus_interface::doorbell;
use dmus_interface::download::{Problem, WaveFormat};
use dmus_interface::pci::CONTROL_VECTOR;
use dmus_interface::property::{ChannelPlace, ChannelPriority, PortParams, SynthCaps, SynthStats};
use dmus_interface::protocol::{Page, driver};
use dmus_interface::regs;
use dmus_interface::time::RefTime;
use zerocopy::{FromBytes, IntoBytes};

/// How long the card may take to answer: what it copies and translates may be megabytes, on a host that has other
/// things to do.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Bytes in front of the memory that are for results.
const RESULT_ROOM: usize = 512;
/// Bytes for requests at first.
const REQUEST_ROOM: usize = 3584;

/// What DirectMusic has as properties, and downloads. A card has one mailbox: whoever has two takes turns.
///
/// ```
/// use dmus_driver::{Card, Mailbox, RenderStream, StreamConfig};
/// use dmus_interface::event::PointerWidth;
///
/// let card = Card::open(dmus_tests::direct::Direct::new()?, PointerWidth::Eight)?;
/// let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
/// let mut mailbox = Mailbox::open(&card)?;
/// mailbox.set_channel_groups(0, 1000)?; // of stream 0
/// mailbox.set_volume(0, -602)?; // 0.01 dB
/// assert_eq!((mailbox.channel_groups(0)?, mailbox.volume(0)?), (1000, -602));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Mailbox<'c, P: Platform> {
    card: &'c Card<P>,
    memory: DmaMemory,
}

impl<P: Platform> Drop for Mailbox<'_, P> {
    fn drop(&mut self) {
        let memory = core::mem::replace(&mut self.memory, DmaMemory::NONE);
        // A card that has not answered may still write to it.
        if self.card.commands.get().is_some() {
            self.card.platform.dma_free(memory);
        }
    }
}

impl<'c, P: Platform> Mailbox<'c, P> {
    /// Opens the mailbox of a card.
    pub fn open(card: &'c Card<P>) -> Result<Self, DriverError> {
        Ok(Self { card, memory: card.platform.dma_alloc(RESULT_ROOM + REQUEST_ROOM, 8)? })
    }

    /// What the synthesizer can do.
    pub fn caps(&mut self) -> Result<SynthCaps, DriverError> {
        self.get(Opcode::GetCaps, 0, &[])
    }

    /// Sets a stream's synthesizer up as far as it is possible; gives what it is now, and whether that is all that was
    /// asked for.
    pub fn set_port_parameters(
        &mut self,
        stream: usize,
        wanted: &PortParams,
    ) -> Result<(PortParams, bool), DriverError> {
        let answer = self.command(Opcode::PortParameters, stream, wanted.as_bytes())?;
        Ok((self.result()?, answer.status == Status::Done as u32))
    }

    /// How a stream's synthesizer is set up.
    pub fn port_parameters(&mut self, stream: usize) -> Result<PortParams, DriverError> {
        self.get(Opcode::PortParameters, stream, &[])
    }

    /// Groups of 16 channels that a stream has.
    pub fn channel_groups(&mut self, stream: usize) -> Result<u32, DriverError> {
        self.get(Opcode::GetChannelGroups, stream, &[])
    }

    /// Sets them.
    pub fn set_channel_groups(&mut self, stream: usize, groups: u32) -> Result<(), DriverError> {
        self.set(Opcode::SetChannelGroups, stream, &groups.to_le_bytes())
    }

    /// A channel's voice priority.
    pub fn voice_priority(&mut self, stream: usize, group: u32, channel: u32) -> Result<u32, DriverError> {
        let place = ChannelPlace { group: group.into(), channel: channel.into() };
        self.get(Opcode::GetVoicePriority, stream, place.as_bytes())
    }

    /// Sets it, for notes that begin from now on.
    pub fn set_voice_priority(
        &mut self,
        stream: usize,
        group: u32,
        channel: u32,
        priority: u32,
    ) -> Result<(), DriverError> {
        let place = ChannelPlace { group: group.into(), channel: channel.into() };
        let value = ChannelPriority { place, priority: priority.into() };
        self.set(Opcode::SetVoicePriority, stream, value.as_bytes())
    }

    /// Master time plus the latency that the card guarantees.
    pub fn latency_clock(&mut self) -> Result<RefTime, DriverError> {
        self.get(Opcode::GetLatencyClock, 0, &[]).map(RefTime)
    }

    /// Master time.
    pub fn master_clock(&mut self) -> Result<RefTime, DriverError> {
        self.get(Opcode::GetMasterClock, 0, &[]).map(RefTime)
    }

    /// What a stream has done since it was last set to RUN.
    pub fn running_stats(&mut self, stream: usize) -> Result<SynthStats, DriverError> {
        self.get(Opcode::GetRunningStats, stream, &[])
    }

    /// A stream's volume, 0.01 dB.
    pub fn volume(&mut self, stream: usize) -> Result<i32, DriverError> {
        self.get(Opcode::GetVolume, stream, &[])
    }

    /// Sets it.
    pub fn set_volume(&mut self, stream: usize, volume: i32) -> Result<(), DriverError> {
        self.set(Opcode::SetVolume, stream, &volume.to_le_bytes())
    }

    /// What is added to the volume after the mix, 0.01 dB.
    pub fn volume_boost(&mut self, stream: usize) -> Result<i32, DriverError> {
        self.get(Opcode::GetVolumeBoost, stream, &[])
    }

    /// Sets it.
    pub fn set_volume_boost(&mut self, stream: usize, boost: i32) -> Result<(), DriverError> {
        self.set(Opcode::SetVolumeBoost, stream, &boost.to_le_bytes())
    }

    /// A number for a chunk that no other has since the last reset.
    pub fn new_id(&mut self) -> u32 {
        let id = self.card.downloads.get().wrapping_add(1);
        self.card.downloads.set(id);
        id
    }

    /// Downloads a chunk ([`dmus_interface::download`]) and gives its handle. The card has copied it on return.
    pub fn download(&mut self, chunk: &[u8]) -> Result<u32, DriverError> {
        self.get(Opcode::Download, 0, chunk)
    }

    /// Unloads a download. False: as soon as no note plays it, and no instrument refers to it ([`Self::unloads`] counts
    /// these).
    pub fn unload(&mut self, handle: u32) -> Result<bool, DriverError> {
        let answer = self.command(Opcode::Unload, 0, &handle.to_le_bytes())?;
        Ok(answer.status == Status::Done as u32)
    }

    /// Unloads that were pending and are done, since the last reset; wrapping. Costs no trap.
    pub fn unloads(&self) -> u32 {
        self.card.platform.doorbell().load_u32(doorbell::UNLOADS, Ordering::Acquire)
    }

    /// Makes the largest block of sample memory available, and gives its bytes.
    pub fn compact(&mut self) -> Result<u32, DriverError> {
        self.get(Opcode::Compact, 0, &[])
    }

    /// Bytes that have to follow the data of a downloaded wave.
    pub fn append(&mut self) -> Result<u32, DriverError> {
        self.get(Opcode::GetAppend, 0, &[])
    }

    /// Of the card's audio.
    pub fn wave_format(&mut self) -> Result<WaveFormat, DriverError> {
        self.get(Opcode::GetWaveFormat, 0, &[])
    }

    fn get<T: FromBytes>(&mut self, opcode: Opcode, stream: usize, request: &[u8]) -> Result<T, DriverError> {
        self.command(opcode, stream, request)?;
        self.result()
    }

    fn set(&mut self, opcode: Opcode, stream: usize, request: &[u8]) -> Result<(), DriverError> {
        self.command(opcode, stream, request).map(drop)
    }

    /// The result of the last command, of the size that its type has.
    fn result<T: FromBytes>(&self) -> Result<T, DriverError> {
        let mut bytes = [0; RESULT_ROOM];
        let there = self.memory.memory.read(0, &mut bytes);
        let read = T::read_from_prefix(&bytes).ok().filter(|_| there);
        read.map(|(value, _)| value).ok_or(DriverError::Misuse("a result that is larger than the room for it"))
    }

    /// Has the card carry out a command, and waits for its answer.
    fn command(&mut self, opcode: Opcode, stream: usize, request: &[u8]) -> Result<Answer, DriverError> {
        let card = self.card;
        let answered = card.commands.get().ok_or(DriverError::TimedOut(ANSWER_LIMIT))?;
        let needed = RESULT_ROOM + request.len();
        if self.memory.memory.len() < needed {
            let larger = card.platform.dma_alloc(needed, 8)?;
            card.platform.dma_free(core::mem::replace(&mut self.memory, larger));
        }
        if !self.memory.memory.write(RESULT_ROOM, request) {
            return Err(DriverError::Misuse("the platform gave less memory than was asked for"));
        }
        card.write64(regs::COMMAND_REQUEST, self.memory.iova + RESULT_ROOM as u64);
        card.write(regs::COMMAND_REQUEST_SIZE, u32::try_from(request.len()).unwrap_or(u32::MAX));
        card.write64(regs::COMMAND_RESULT, self.memory.iova);
        card.write(regs::COMMAND_RESULT_ROOM, RESULT_ROOM as u32);
        card.write(regs::COMMAND_STREAM, stream as u32);
        // What the request holds is out before the card can look for it.
        core::sync::atomic::fence(Ordering::SeqCst);
        card.write(regs::COMMAND, opcode as u32);
        card.commands.set(None);
        let expected = answered.wrapping_add(1);
        let page = card.platform.doorbell();
        let answer = card.await_answer(CONTROL_VECTOR, ANSWER_LIMIT, || driver::command(page, expected))?;
        card.commands.set(Some(expected));
        match Status::decode(answer.status) {
            None => Err(DriverError::UnknownAnswer(answer.status)),
            Some(Status::Done | Status::NotAllAssigned | Status::Pending) => Ok(answer),
            Some(status) => {
                let problem = Problem::decode(answer.size).filter(|_| status == Status::BadDownload);
                Err(match problem {
                    Some(problem) => DriverError::BadDownload { problem, at: answer.detail },
                    None => DriverError::Command { status, size: answer.size, detail: answer.detail },
                })
            }
        }
    }
}
