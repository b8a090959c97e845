//! Renders a song without a guest: the same scheduler, synthesizer and arithmetic, and so the same samples.
//!
//! Fed with a [`Song`]; feeds a [`Sink`]. It is the oracle that a booted guest's audio is held against.

use crate::bank::Bank;
use crate::identity::{CHANNEL_GROUPS, SAMPLE_RATE, VOICES};
use crate::sink::{Sink, to_s16};
use crate::stream::scheduler::Scheduler;
use crate::synth::Synth;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_song::Song;
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// Renders the whole song with its tail. `progress` is told the time that is rendered.
pub fn render(song: &Song, bank: Arc<Bank>, sink: &mut dyn Sink, mut progress: impl FnMut(RefTime)) {
    let mut synth = Synth::new(bank, SAMPLE_RATE, CHANNEL_GROUPS, VOICES);
    let mut scheduler = Scheduler::with_capacity(song.len());
    for message in song.messages() {
        scheduler.push(message.time.0, (message.group, message.bytes));
    }
    let end = song.duration().to_sample(SAMPLE_RATE).0;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut pcm = Vec::new();
    let mut position = 0;
    while position < end {
        while let Some((time, (group, bytes))) = scheduler.next()
            && RefTime(time).to_sample(SAMPLE_RATE).0 <= position
        {
            scheduler.pop();
            synth.message(group, bytes);
        }
        let next = scheduler.next().map(|(time, _)| RefTime(time).to_sample(SAMPLE_RATE).0);
        let stop = end.min(position + BLOCK).min(next.unwrap_or(u64::MAX));
        let frames = (stop - position) as usize;
        for plane in [&mut left, &mut right] {
            plane.clear();
            plane.resize(frames, 0.0);
        }
        synth.render(&mut left, &mut right);
        pcm.clear();
        pcm.extend(left.iter().zip(&right).flat_map(|(l, r)| [to_s16(*l), to_s16(*r)]));
        sink.write(&pcm);
        position = stop;
        progress(SampleTime(position).to_time(SAMPLE_RATE));
    }
}
