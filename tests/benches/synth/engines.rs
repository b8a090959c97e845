//! The engines that are called as libraries: the card's own and the Rust peers, behind one trait.
//!
//! Fed with a song, which all of them get in blocks of 64 samples (that is what the peers render by); ours also at the
//! events' own samples.

use super::RATE;
use anyhow::bail;
use dmus_card::bank::Bank;
use dmus_card::collection::Collection;
use dmus_card::synth::{Interpolation, Synth};
use dmus_song::Song;
use std::io::Cursor;
use std::sync::Arc;

const BLOCK: usize = 64;

/// Something that plays.
pub(crate) trait Engine {
    /// Applies a channel message.
    fn message(&mut self, message: &[u8]);
    /// Renders a block.
    fn render(&mut self, left: &mut [f32], right: &mut [f32]);
    /// Voices that sound, where the engine says so.
    fn sounding(&self) -> usize {
        0
    }
}

/// Plays a song to its last event; `watch` is called after each block.
pub(crate) fn play(engine: &mut dyn Engine, song: &Song, watch: &mut dyn FnMut(&dyn Engine)) {
    let (mut left, mut right) = ([0.0; BLOCK], [0.0; BLOCK]);
    let mut messages = song.messages().peekable();
    let blocks = song.end().to_sample(RATE).0 / BLOCK as u64;
    for block in 0..blocks {
        while let Some(message) = messages.next_if(|m| m.time.to_sample(RATE).0 <= block * BLOCK as u64) {
            engine.message(message.bytes);
        }
        left.fill(0.0);
        right.fill(0.0);
        engine.render(&mut left, &mut right);
        std::hint::black_box(&left);
        watch(engine);
    }
}

/// An engine by the name that `count` is given, with reverb and chorus or without.
pub(crate) fn by_name(name: &str, bank: &[u8], effects: bool) -> anyhow::Result<Box<dyn Engine>> {
    Ok(match name {
        "ours-linear" => Box::new(Ours::new(bank, Interpolation::Linear, effects)?),
        "ours-cubic" => Box::new(Ours::new(bank, Interpolation::Cubic, effects)?),
        "rustysynth" => Box::new(Rusty::new(bank)?),
        "rustysynth-ext" => Box::new(RustyExt::new(bank, effects)?),
        "oxisynth" => Box::new(Oxi::new(bank)?),
        "idle-1" => Box::new(Idle(Synth::new(Arc::new(Bank::default()), RATE, 1, 1024))),
        "idle-1000" => Box::new(Idle(Synth::new(Arc::new(Bank::default()), RATE, 1000, 1024))),
        _ => match name.split_once('-') {
            Some(("split", block)) => Box::new(Split::new(bank, block.parse()?, 8)?),
            Some(("whole", block)) => Box::new(Split::new(bank, block.parse()?, 1)?),
            _ => bail!("there is no {name}"),
        },
    })
}

/// The card's engine.
pub(crate) struct Ours(Synth);

impl Ours {
    pub(crate) fn new(bank: &[u8], interpolation: Interpolation, effects: bool) -> anyhow::Result<Self> {
        let bank = Bank::new(&[Collection::read(bank.to_vec(), &mut Default::default())?])?;
        let synth = Synth::new(Arc::new(bank), RATE, 1, 512).with_interpolation(interpolation);
        Ok(Self(if effects { synth } else { synth.without_effects() }))
    }
}

impl Engine for Ours {
    fn message(&mut self, message: &[u8]) {
        self.0.message(0, message);
    }

    fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        self.0.render(left, right);
    }

    fn sounding(&self) -> usize {
        self.0.sounding()
    }
}

/// A card that nobody plays.
struct Idle(Synth);

impl Engine for Idle {
    fn message(&mut self, _: &[u8]) {}

    fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        self.0.render(left, right);
    }
}

/// Ours, with an event at each of so many places in each block.
struct Split {
    synth: Synth,
    block: usize,
    parts: usize,
    left: Vec<f32>,
    right: Vec<f32>,
    /// Samples of the song that no block has covered yet.
    due: usize,
}

impl Split {
    fn new(bank: &[u8], block: usize, parts: usize) -> anyhow::Result<Self> {
        let Ours(synth) = Ours::new(bank, Interpolation::Linear, false)?;
        Ok(Self { synth, block, parts, left: vec![0.0; block], right: vec![0.0; block], due: 0 })
    }
}

impl Engine for Split {
    fn message(&mut self, message: &[u8]) {
        self.synth.message(0, message);
    }

    fn render(&mut self, left: &mut [f32], _: &mut [f32]) {
        self.due += left.len();
        while self.due >= self.block {
            self.due -= self.block;
            let part = self.block / self.parts;
            for (left, right) in self.left.chunks_mut(part).zip(self.right.chunks_mut(part)) {
                if self.parts > 1 {
                    // An event that changes nothing still ends a stretch of samples.
                    self.synth.message(0, &[0xBF, 3, 0]);
                }
                self.synth.render(left, right);
            }
            std::hint::black_box(&self.left);
        }
    }
}

struct Rusty(rustysynth::Synthesizer);

impl Rusty {
    fn new(bank: &[u8]) -> anyhow::Result<Self> {
        let font = Arc::new(rustysynth::SoundFont::new(&mut Cursor::new(bank))?);
        let mut settings = rustysynth::SynthesizerSettings::new(RATE as i32);
        settings.enable_reverb_and_chorus = false;
        settings.maximum_polyphony = 256;
        Ok(Self(rustysynth::Synthesizer::new(&font, &settings)?))
    }
}

impl Engine for Rusty {
    fn message(&mut self, message: &[u8]) {
        if let Some((channel, command, a, b)) = parts(message) {
            self.0.process_midi_message(channel, command, a, b);
        }
    }

    fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        self.0.render(left, right);
    }
}

struct RustyExt(rustysynth_ext::Synthesizer);

impl RustyExt {
    fn new(bank: &[u8], effects: bool) -> anyhow::Result<Self> {
        let font = Arc::new(rustysynth_ext::SoundFont::new(&mut Cursor::new(bank))?);
        let mut settings = rustysynth_ext::SynthesizerSettings::new(RATE as i32);
        settings.enable_reverb_and_chorus = effects;
        settings.maximum_polyphony = 256;
        Ok(Self(rustysynth_ext::Synthesizer::new(&font, &settings)?))
    }
}

impl Engine for RustyExt {
    fn message(&mut self, message: &[u8]) {
        if let Some((channel, command, a, b)) = parts(message) {
            self.0.process_midi_message(channel, command, a, b);
        }
    }

    fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        self.0.render(left, right);
    }
}

/// Channel, command and data of a channel message.
fn parts(message: &[u8]) -> Option<(i32, i32, i32, i32)> {
    let (&status, data) = message.split_first()?;
    let byte = |n: usize| data.get(n).copied().map_or(0, i32::from);
    (status < 0xF0).then(|| (i32::from(status & 0x0F), i32::from(status & 0xF0), byte(0), byte(1)))
}

struct Oxi(oxisynth::Synth);

impl Oxi {
    fn new(bank: &[u8]) -> anyhow::Result<Self> {
        let settings = oxisynth::SynthDescriptor {
            reverb_active: false,
            chorus_active: false,
            interpolation: oxisynth::InterpolationMethod::Linear,
            sample_rate: RATE as f32,
            polyphony: 1024,
            ..Default::default()
        };
        let mut synth = oxisynth::Synth::new(settings).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let font = oxisynth::SoundFont::load(&mut Cursor::new(bank)).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        synth.add_font(font, true);
        Ok(Self(synth))
    }
}

impl Engine for Oxi {
    fn message(&mut self, message: &[u8]) {
        use oxisynth::MidiEvent as Event;
        let Some(&[status, a]) = message.first_chunk() else {
            return;
        };
        let (channel, b) = (status & 0x0F, message.get(2).copied().unwrap_or(0));
        let event = match status & 0xF0 {
            0x80 => Event::NoteOff { channel, key: a },
            0x90 => Event::NoteOn { channel, key: a, vel: b },
            0xB0 => Event::ControlChange { channel, ctrl: a, value: b },
            0xC0 => Event::ProgramChange { channel, program_id: a },
            _ => return,
        };
        // What it refuses would be missed in its sound only.
        let _ = self.0.send_event(event);
    }

    fn render(&mut self, left: &mut [f32], right: &mut [f32]) {
        self.0.write_f32(left.len(), left, 0, 1, right, 0, 1);
    }
}
