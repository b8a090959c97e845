//! Carries out what a guest asks of the mailbox: properties of streams, and DLS downloads.
//!
//! Fed by a turn with the command that the transport left; feeds synthesizers and bank between blocks, and gives the
//! answer. What a request says was copied before it is judged.

use super::Core;
use crate::bank::{Bank, Full};
use crate::dma::{AccessError, DmaAccess};
use crate::download::{Bad, Refused, SAMPLE_MEMORY};
use crate::identity::{LATENCY, SAMPLE_RATE};
use crate::replay_log::{Observation, ReplayLog};
use crate::shared::{Command, Shared};
use crate::stream::RenderStream;
use crate::synth::{GROUP_LIMIT, Statistics, VOICE_LIMIT};
use dmus_interface::command::{Answer, MAX_REQUEST, Opcode, Status};
use dmus_interface::download::{DownloadInfo, WaveFormat};
use dmus_interface::property::{
    ChannelPlace, ChannelPriority, PortParams, SynthCaps, SynthStats, VOLUME_RANGE, caps, effect, port, stats,
};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// The class of the card's synthesizer: a number that is nobody else's.
const CLASS: [u8; 16] = *b"dmus-card synth\x01";
const NAME: &str = "DirectMusic card";
/// Audio channels.
const CHANNELS: u32 = 2;
const EFFECTS: u32 = effect::REVERB | effect::CHORUS;
/// Bytes that have to follow a downloaded wave: none, since each is copied between guards.
const APPEND: u32 = 0;

/// How a command that was not refused ended.
struct Reply {
    status: Status,
    bytes: Vec<u8>,
}

impl Reply {
    fn of(value: &(impl IntoBytes + zerocopy::Immutable)) -> Result<Self, Refusal> {
        Ok(Self { status: Status::Done, bytes: value.as_bytes().to_vec() })
    }

    fn done(status: Status) -> Result<Self, Refusal> {
        Ok(Self { status, bytes: Vec::new() })
    }
}

/// Why a command is not carried out.
enum Refusal {
    /// The answer says it.
    Answer(Answer),
    /// A reset: there is no answer.
    Void,
}

fn refuse<T>(status: Status, size: usize, detail: usize) -> Result<T, Refusal> {
    let [size, detail] = [size, detail].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    Err(Refusal::Answer(Answer { status: status as u32, size, detail }))
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Void => Self::Void,
            AccessError::NotMapped => Self::Answer(Answer { status: Status::NotMapped as u32, ..Answer::default() }),
        }
    }
}

/// Sizes that a request may have, and bytes of the result.
fn sizes(opcode: Opcode) -> (&'static [usize], usize) {
    use Opcode as O;
    match opcode {
        O::GetCaps => (&[0], size_of::<SynthCaps>()),
        O::PortParameters => (&[0, size_of::<PortParams>()], size_of::<PortParams>()),
        O::GetVoicePriority => (&[size_of::<ChannelPlace>()], 4),
        O::SetVoicePriority => (&[size_of::<ChannelPriority>()], 0),
        O::GetLatencyClock | O::GetMasterClock => (&[0], 8),
        O::GetRunningStats => (&[0], size_of::<SynthStats>()),
        O::GetChannelGroups | O::GetVolume | O::GetVolumeBoost | O::Compact | O::GetAppend => (&[0], 4),
        O::SetChannelGroups | O::SetVolume | O::SetVolumeBoost | O::Unload => (&[4], 0),
        O::GetWaveFormat => (&[0], size_of::<WaveFormat>()),
        // Any size from a header on.
        O::Download => (&[], 4),
    }
}

/// The memory of requests and results.
struct Mailbox<'s> {
    memory: DmaAccess<'s>,
    log: Option<&'s ReplayLog>,
}

impl Mailbox<'_> {
    fn access(
        &self,
        read: &mut [u8],
        real: impl FnOnce(&DmaAccess<'_>, &mut [u8]) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        match self.log {
            None => real(&self.memory, read),
            Some(log) => log.access(read, |read| real(&self.memory, read)),
        }
    }

    fn check(&self, iova: u64, len: usize, write: bool) -> Result<(), AccessError> {
        self.access(&mut [], |memory, _| memory.check(iova, len, write))
    }

    fn read(&self, iova: u64, out: &mut [u8]) -> Result<(), AccessError> {
        self.access(out, |memory, out| memory.read(iova, out))
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.access(&mut [], |memory, _| memory.write(iova, bytes))
    }
}

impl Core {
    /// Carries a command out, outside sections; gives its answer, unless a reset has come between.
    pub(super) fn command(&mut self, shared: &Shared, command: Command) -> Option<Answer> {
        match self.try_command(shared, command) {
            Ok(answer) | Err(Refusal::Answer(answer)) => Some(answer),
            Err(Refusal::Void) => None,
        }
    }

    fn try_command(&mut self, shared: &Shared, command: Command) -> Result<Answer, Refusal> {
        let Some(opcode) = Opcode::decode(command.opcode) else {
            return refuse(Status::InvalidRequest, 0, 0);
        };
        let (allowed, result) = sizes(opcode);
        let size = command.request_size as usize;
        let fits = match allowed {
            [] => (size_of::<DownloadInfo>()..=MAX_REQUEST as usize).contains(&size),
            allowed => allowed.contains(&size),
        };
        if !fits {
            let needed = allowed.last().copied().unwrap_or(size_of::<DownloadInfo>());
            return refuse(Status::BadSize, needed, 0);
        }
        if (command.result_room as usize) < result {
            return refuse(Status::BufferTooSmall, result, 0);
        }
        let memory = Mailbox { memory: DmaAccess::new(shared, self.epoch), log: shared.replay_log() };
        // What was done could not be told otherwise.
        memory.check(command.result, result, true)?;
        memory.check(command.request, size, false)?;
        let mut request = Vec::new();
        if request.try_reserve_exact(size).is_err() {
            return refuse(Status::NoMemory, 0, 0);
        }
        request.resize(size, 0);
        memory.read(command.request, &mut request)?;
        if let (Some(checker), Some(mut section)) = (shared.checker(), shared.engine_section_of(self.epoch)) {
            let then = section.take_request();
            drop(section);
            checker.check_request(opcode, &then, &request, self.clock.master_time());
        }
        let reply = self.execute(opcode, command.stream as usize, &request);
        if let Some(log) = shared.replay_log() {
            let status = match &reply {
                Ok(reply) => reply.status as u32,
                Err(Refusal::Answer(answer)) => answer.status,
                Err(Refusal::Void) => 0,
            };
            let Command { opcode, stream, .. } = command;
            log.show(|| Observation::Command { opcode, stream, request: request.into(), status });
        }
        let reply = reply?;
        if let Err(error) = memory.write(command.result, &reply.bytes) {
            if opcode == Opcode::Download {
                self.take_back(&reply.bytes);
            }
            return Err(error.into());
        }
        Ok(Answer { status: reply.status as u32, size: reply.bytes.len() as u32, detail: 0 })
    }

    fn execute(&mut self, opcode: Opcode, stream: usize, request: &[u8]) -> Result<Reply, Refusal> {
        let master = self.clock.master_time();
        match opcode {
            Opcode::GetCaps => Reply::of(&capabilities()),
            Opcode::GetMasterClock => Reply::of(&master.0.to_le_bytes()),
            Opcode::GetLatencyClock => Reply::of(&master.saturating_add(LATENCY).0.to_le_bytes()),
            Opcode::GetAppend => Reply::of(&APPEND.to_le_bytes()),
            Opcode::GetWaveFormat => Reply::of(&WaveFormat::pcm(CHANNELS as u16, SAMPLE_RATE, 16)),
            Opcode::Download => self.download(request),
            Opcode::Unload => self.unload(word(request)),
            Opcode::Compact => self.compact(),
            _ => {
                let free = self.library.downloads.free(&self.library.bank);
                match self.stream(stream) {
                    Some(stream) => property(opcode, stream, request, free),
                    None => refuse(Status::NoStream, 0, 0),
                }
            }
        }
    }

    /// Changes the bank between two blocks: for so long all synthesizers hold another.
    fn with_bank<R>(&mut self, change: impl FnOnce(&mut Bank, &mut crate::download::Downloads) -> R) -> R {
        let nothing = Arc::new(Bank::default());
        for synth in self.streams.render.iter_mut().map(|stream| &mut stream.synth).chain(&mut self.library.spare) {
            synth.exchange_bank(Arc::clone(&nothing));
        }
        // Copied once at most, if whoever made the card keeps the bank as well.
        let result = change(Arc::make_mut(&mut self.library.bank), &mut self.library.downloads);
        for synth in self.streams.render.iter_mut().map(|stream| &mut stream.synth).chain(&mut self.library.spare) {
            synth.exchange_bank(Arc::clone(&self.library.bank));
        }
        result
    }

    fn download(&mut self, request: &[u8]) -> Result<Reply, Refusal> {
        match self.with_bank(|bank, downloads| downloads.load(bank, request)) {
            Ok(handle) => Reply::of(&handle.to_le_bytes()),
            Err(Refused::Full) => refuse(Status::NoMemory, 0, 0),
            Err(Refused::Bad(Bad { problem, at })) => refuse(Status::BadDownload, problem as usize, at),
        }
    }

    fn unload(&mut self, handle: u32) -> Result<Reply, Refusal> {
        if self.with_bank(|bank, downloads| downloads.unload(bank, handle)).is_err() {
            return refuse(Status::UnknownHandle, 0, 0);
        }
        self.collect();
        Reply::done(if self.library.downloads.take_gone(handle) { Status::Done } else { Status::Pending })
    }

    /// Frees some of what is being unloaded, as far as nothing plays it; says whether there was any.
    fn collect(&mut self) -> bool {
        let mut waiting: Vec<Range<usize>> = self.library.downloads.unloading_regions().cloned().collect();
        waiting.sort_unstable_by_key(|regions| regions.start);
        let mut playing = BTreeSet::new();
        for stream in &self.streams.render {
            stream.synth.find_played(&waiting, &mut playing);
        }
        let can_collect = self.library.downloads.can_collect(&playing);
        if can_collect {
            self.with_bank(|bank, downloads| downloads.collect(bank, &playing));
        }
        can_collect
    }

    /// Goes on with unloads that are pending, and tells of those that are done; says whether there may be more.
    pub(super) fn collect_downloads(&mut self, shared: &Shared) -> bool {
        let collected = self.collect();
        let finished = self.library.downloads.take_finished();
        if finished > 0
            && let Some(mut section) = shared.engine_section_of(self.epoch)
        {
            section.announce_unloads(finished);
        }
        collected
    }

    /// A reset: nothing is downloaded, and nothing sounds.
    pub(super) fn forget_downloads(&mut self) {
        if !self.library.downloads.is_empty() {
            self.with_bank(|bank, downloads| downloads.clear(bank));
        }
    }

    /// Nobody learns its handle.
    fn take_back(&mut self, handle: &[u8]) {
        // Just loaded, it is known.
        let _ = self.unload(word(handle));
    }

    fn compact(&mut self) -> Result<Reply, Refusal> {
        let compacted = self.with_bank(|bank, _| {
            bank.open_arena(SAMPLE_MEMORY / 2);
            let mut moved = bank.compact()?;
            moved.sort_unstable_by_key(|moved| moved.from.end);
            Ok((moved, bank.largest_gap()))
        });
        let Ok((moved, largest)) = compacted.map_err(|Full| ()) else {
            return refuse(Status::NoMemory, 0, 0);
        };
        for stream in &mut self.streams.render {
            stream.synth.move_along(&moved);
        }
        let free = (largest * 2).min(self.library.downloads.free(&self.library.bank));
        Reply::of(&u32::try_from(free).unwrap_or(u32::MAX).to_le_bytes())
    }
}

fn word(request: &[u8]) -> u32 {
    request.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

fn capabilities() -> SynthCaps {
    let mut description = [0.into(); 128];
    for (unit, character) in description.iter_mut().zip(NAME.encode_utf16()) {
        *unit = character.into();
    }
    SynthCaps {
        guid: CLASS,
        flags: (caps::DLS
            | caps::DLS2
            | caps::SOFTWARE_SYNTH
            | caps::MEMORY_SIZE_FIXED
            | caps::GM_IN_HARDWARE
            | caps::GS_IN_HARDWARE
            | caps::REVERB)
            .into(),
        memory_size: (SAMPLE_MEMORY as u32).into(),
        max_channel_groups: u32::from(GROUP_LIMIT).into(),
        max_voices: (VOICE_LIMIT as u32).into(),
        max_audio_channels: CHANNELS.into(),
        effects: EFFECTS.into(),
        description,
    }
}

/// Properties of one stream.
fn property(opcode: Opcode, stream: &mut RenderStream, request: &[u8], free: usize) -> Result<Reply, Refusal> {
    let synth = &mut stream.synth;
    match opcode {
        Opcode::PortParameters => port_parameters(stream, request),
        Opcode::GetChannelGroups => Reply::of(&u32::from(synth.groups()).to_le_bytes()),
        Opcode::SetChannelGroups => match u16::try_from(word(request)) {
            Ok(groups @ 1..=GROUP_LIMIT) => {
                stream.set_groups(groups);
                Reply::done(Status::Done)
            }
            _ => refuse(Status::InvalidParameter, 0, 0),
        },
        Opcode::GetVoicePriority => {
            let (group, channel) = place(request)?;
            match synth.priority(group, channel) {
                Some(priority) => Reply::of(&priority.to_le_bytes()),
                None => refuse(Status::InvalidParameter, 0, 0),
            }
        }
        Opcode::SetVoicePriority => {
            let (group, channel) = place(request)?;
            match synth.set_priority(group, channel, word(&request[8..])) {
                true => Reply::done(Status::Done),
                false => refuse(Status::InvalidParameter, 0, 0),
            }
        }
        Opcode::GetRunningStats => Reply::of(&running_stats(&synth.statistics(), stream.busy, free)),
        Opcode::GetVolume => Reply::of(&synth.levels().0.to_le_bytes()),
        Opcode::GetVolumeBoost => Reply::of(&synth.levels().1.to_le_bytes()),
        Opcode::SetVolume | Opcode::SetVolumeBoost => {
            let level = word(request) as i32;
            if !VOLUME_RANGE.contains(&level) {
                return refuse(Status::InvalidParameter, 0, 0);
            }
            let (volume, boost) = synth.levels();
            synth.set_levels(if opcode == Opcode::SetVolume { (level, boost) } else { (volume, level) });
            Reply::done(Status::Done)
        }
        _ => refuse(Status::InvalidRequest, 0, 0),
    }
}

/// A channel group and a channel.
fn place(request: &[u8]) -> Result<(u16, u8), Refusal> {
    let Ok((place, _)) = ChannelPlace::read_from_prefix(request) else {
        return refuse(Status::BadSize, size_of::<ChannelPlace>(), 0);
    };
    match (u16::try_from(place.group.get()), u8::try_from(place.channel.get())) {
        (Ok(group), Ok(channel)) if channel < 16 => Ok((group, channel)),
        (Err(_), _) => refuse(Status::InvalidParameter, 0, 0),
        _ => refuse(Status::InvalidParameter, 0, 4),
    }
}

/// Applies what is asked for and possible; gives what is.
fn port_parameters(stream: &mut RenderStream, request: &[u8]) -> Result<Reply, Refusal> {
    let asked = PortParams::read_from_bytes(request).unwrap_or_default();
    let valid = asked.valid.get();
    if valid & port::VOICES != 0 {
        stream.synth.set_voice_limit((asked.voices.get() as usize).clamp(1, VOICE_LIMIT));
    }
    if valid & port::CHANNEL_GROUPS != 0 {
        stream.set_groups(asked.channel_groups.get().clamp(1, GROUP_LIMIT.into()) as u16);
    }
    if valid & port::EFFECTS != 0 {
        let effects = asked.effects.get();
        stream.synth.set_effects((effects & effect::REVERB != 0, effects & effect::CHORUS != 0));
    }
    let synth = &stream.synth;
    let (reverb, chorus) = synth.effects();
    let flag = |on, flag| if on { flag } else { 0 };
    let is = PortParams {
        valid: port::ALL.into(),
        voices: (synth.voice_limit() as u32).into(),
        channel_groups: u32::from(synth.groups()).into(),
        audio_channels: CHANNELS.into(),
        sample_rate: SAMPLE_RATE.into(),
        effects: (flag(reverb, effect::REVERB) | flag(chorus, effect::CHORUS)).into(),
        share: 0.into(),
    };
    let pairs = [
        (port::VOICES, asked.voices, is.voices),
        (port::CHANNEL_GROUPS, asked.channel_groups, is.channel_groups),
        (port::AUDIO_CHANNELS, asked.audio_channels, is.audio_channels),
        (port::SAMPLE_RATE, asked.sample_rate, is.sample_rate),
        (port::EFFECTS, asked.effects, is.effects),
        (port::SHARE, asked.share, is.share),
    ];
    let replaced = pairs.into_iter().any(|(bit, asked, is)| valid & bit != 0 && asked != is);
    let status = if replaced || valid & !port::ALL != 0 { Status::NotAllAssigned } else { Status::Done };
    Ok(Reply { status, bytes: is.as_bytes().to_vec() })
}

fn running_stats(seen: &Statistics, busy: Duration, free: usize) -> SynthStats {
    let seconds = seen.samples as f64 / f64::from(SAMPLE_RATE);
    let cpu = if seconds > 0.0 { 100.0 * busy.as_secs_f64() / seconds } else { 0.0 };
    let per_voice = if seen.voices > 0.0 { cpu / seen.voices } else { 0.0 };
    let peak = if seen.peak > 0.0 { 2000.0 * libm::log10f(seen.peak) } else { -20_000.0 };
    // Conversions saturate.
    SynthStats {
        valid: stats::ALL.into(),
        voices: (libm::round(seen.voices) as u32).into(),
        total_cpu: (libm::round(cpu) as u32).into(),
        cpu_per_voice: (libm::round(per_voice) as u32).into(),
        lost_notes: seen.lost.into(),
        free_memory: (free as u32).into(),
        peak_volume: (libm::roundf(peak.max(-20_000.0)) as i32).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_told_in_percent_of_what_was_rendered_and_of_a_voice() {
        let told = |samples, voices, peak| {
            let seen = Statistics { samples, voices, lost: 3, peak };
            let told = running_stats(&seen, Duration::from_millis(300), 77);
            assert_eq!((told.lost_notes.get(), told.free_memory.get()), (3, 77));
            (told.voices.get(), told.total_cpu.get(), told.cpu_per_voice.get(), told.peak_volume.get())
        };
        assert_eq!(told(96_000, 5.0, 0.1), (5, 15, 3, -2000));
        // A voice for a part of the time costs more while it sounds.
        assert_eq!(told(48_000, 0.75, 1.0), (1, 30, 40, 0));
        assert_eq!(told(48_000, 0.0, 0.0), (0, 30, 0, -20_000));
        assert_eq!(told(0, 0.0, 0.0), (0, 0, 0, -20_000));
    }
}
