//! Renders a song without a guest: the same scheduler, synthesizer and arithmetic, and so the same samples.
//!
//! Fed with a [`Song`]; feeds a [`Sink`], or whoever wants the mix itself. It is the oracle that a booted guest's audio
//! is held against.

use crate::bank::Bank;
use crate::identity::{CHANNEL_GROUPS, SAMPLE_RATE, VOICES};
use crate::sink::{Sink, to_s16};
use crate::sound::Sound;
use crate::stream::scheduler::Scheduler;
use crate::synth::Synth;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_song::Song;
use std::convert::Infallible;
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// What of the rendering is not as a card has it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Hz.
    pub rate: u32,
    /// What its user has set.
    pub sound: Sound,
}

/// As a card has it when its power comes on.
impl Default for Settings {
    fn default() -> Self {
        Self { rate: SAMPLE_RATE, sound: Sound::default() }
    }
}

/// Samples of both sides, and the time at their end.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// 1 is 6 dB below full scale.
    pub left: &'a [f32],
    /// As many as of the other side.
    pub right: &'a [f32],
    /// From the beginning of the song.
    pub until: RefTime,
}

/// Renders the whole song with its tail. `progress` is told the time that is rendered.
pub fn render(song: &Song, bank: Arc<Bank>, sink: &mut dyn Sink, mut progress: impl FnMut(RefTime)) {
    let mut pcm = Vec::new();
    let rendered = mix(song, bank, Settings::default(), |block| {
        pcm.clear();
        pcm.extend(block.left.iter().zip(block.right).flat_map(|(l, r)| [to_s16(*l), to_s16(*r)]));
        sink.write(&pcm);
        progress(block.until);
        Ok::<(), Infallible>(())
    });
    match rendered {
        Ok(()) => {}
    }
}

/// Renders the whole song with its tail, and hands it over in blocks.
///
/// # Errors
/// The first that `take` has; the rest is not rendered then.
pub fn mix<E>(
    song: &Song,
    bank: Arc<Bank>,
    Settings { rate, sound }: Settings,
    mut take: impl FnMut(Block<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut synth = Synth::new(bank, rate, CHANNEL_GROUPS, VOICES);
    synth.allow_effects(sound.effects());
    let mut scheduler = Scheduler::with_capacity(song.len());
    for message in song.messages() {
        scheduler.push(message.time.0, (message.group, message.bytes));
    }
    let end = song.duration().to_sample(rate).0;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut position = 0;
    while position < end {
        while let Some((time, (group, bytes))) = scheduler.next()
            && RefTime(time).to_sample(rate).0 <= position
        {
            scheduler.pop();
            synth.message(group, bytes);
        }
        let next = scheduler.next().map(|(time, _)| RefTime(time).to_sample(rate).0);
        let stop = end.min(position + BLOCK).min(next.unwrap_or(u64::MAX));
        let frames = (stop - position) as usize;
        for plane in [&mut left, &mut right] {
            plane.clear();
            plane.resize(frames, 0.0);
        }
        synth.render(&mut left, &mut right);
        position = stop;
        take(Block { left: &left, right: &right, until: SampleTime(position).to_time(rate) })?;
    }
    Ok(())
}
