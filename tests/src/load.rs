//! The most work that downloads and events can ask of the card.
//!
//! Fed by tests and soaks with what is to be asked for; feeds a card, which its client leaves when it is at it.

use crate::loopback::Loopback;
use anyhow::ensure;
use dmus_card::collection::connection::{Connection, Destination, Source, Transform};
use dmus_card::collection::{Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{Card, Mailbox, RenderStream, StreamConfig};
use dmus_interface::property::{PortParams, port};
use dmus_interface::regs::stream::{MAX_SLOTS, State};
use dmus_interface::time::RefTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// Regions of one instrument, the most there can be.
pub const REGIONS: u16 = 4096;
/// Render streams: what the memory of the tests has room for.
const STREAMS: usize = 7;

/// A wave that is looped from its start.
pub fn wave() -> Wave {
    let looped = Some(Loop { kind: LoopKind::Forward, start: 0, length: 64 });
    let samples = Samples::new((0..64).map(|n| (n * 500) as i16).collect::<Vec<_>>());
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    Wave { id: None, info: Default::default(), rate: 48_000, samples, sampling }
}

/// What a guest downloads, sets and plays.
pub struct Load {
    /// Of the instrument.
    pub regions: Vec<Region>,
    /// Of its articulation.
    pub connections: Vec<Connection>,
    /// Voices of each stream.
    pub voices: u32,
    /// The messages of each stream, again and again until the pool is empty.
    pub messages: Vec<Vec<u8>>,
    /// Time between two of them.
    pub step: i64,
    /// How much is granted.
    pub until: RefTime,
}

impl Load {
    /// Every region sounds with every note.
    pub fn layers(voices: u32, region: impl Fn(u16) -> Region) -> Self {
        let notes = (0..128).map(|key| vec![0x90, key, 100]);
        Self {
            regions: (0..REGIONS).map(region).collect(),
            connections: Vec::new(),
            voices,
            messages: notes.collect(),
            step: 0,
            until: RefTime::from_secs(30),
        }
    }

    /// Every region of a note ends all others of its key group, and those of its own key.
    pub fn exclusive(voices: u32) -> Self {
        Self::layers(voices, |n| Region { self_exclusive: true, key_group: 1 + n, ..Region::of(0) })
    }

    /// Regions whose waves play in phase, so many of them in a group.
    pub fn locked(voices: u32, together: u16) -> Self {
        Self::layers(voices, |n| {
            let mut region = Region::of(0);
            region.link.phase_group = 1 + n / together;
            region
        })
    }

    /// Every voice has an articulation of 1,000 blocks.
    pub fn intricate() -> Self {
        let wheel = Source::controller(1);
        let block = Connection::from(Source::LFO, Destination::PAN, Transform(0x400), 1 << 16).controlled(wheel);
        Self { connections: vec![block; 1000], ..Self::layers(4096, |_| Region::of(0)) }
    }

    /// Makes the card do it, and leaves it when it is at it.
    pub fn put_on(&self, card: &Card<Loopback>) -> anyhow::Result<()> {
        card.platform().ram.restart();
        card.reset()?;
        let mut mailbox = Mailbox::open(card)?;
        mailbox.download(&wave_chunk(1, &wave()))?;
        let instrument = Instrument {
            regions: self.regions.clone(),
            connections: self.connections.clone(),
            ..Instrument::default()
        };
        mailbox.download(&instrument_chunk(2, &instrument, &[wave()], &BTreeMap::from([(0, 1)])))?;
        let config = StreamConfig { slots: MAX_SLOTS, buffers: 1, buffer_size: 8 };
        let mut streams = Vec::new();
        for index in 0..STREAMS {
            let stream = RenderStream::open(card, index, config)?;
            let valid = (port::VOICES | port::CHANNEL_GROUPS).into();
            let params =
                PortParams { valid, voices: self.voices.into(), channel_groups: 64.into(), ..PortParams::default() };
            ensure!(mailbox.set_port_parameters(index, &params)?.1, "not so many voices");
            stream.set_state(State::Run)?;
            let mut time = 1;
            for bytes in self.messages.iter().cycle().take(MAX_SLOTS as usize) {
                let mut message = stream.allocator().get_message()?;
                message.set_time(RefTime(time));
                message.set_data(bytes)?;
                stream.put_message(message)?;
                time += self.step;
            }
            stream.flush();
            streams.push(stream);
        }
        card.grant(self.until);
        std::thread::sleep(Duration::from_millis(100));
        // Their Drop would wait for the card.
        streams.into_iter().for_each(std::mem::forget);
        std::mem::forget(mailbox);
        Ok(())
    }
}
