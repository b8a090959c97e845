//! KSPROPSETID_Synth_Dls, through the mailbox: what is downloaded, shared, unloaded, and refused.

use crate::fixture::{SIZES, ms, reach};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use anyhow::ensure;
use dmus_dls::{Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{Card, DriverError, Mailbox, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::command::Status;
use dmus_interface::regs::stream::State;
use dmus_interface::wave::{Sample, WaveFormat};

checks! {
    a_download_sounds_in_every_stream: "DOWNLOAD takes wave and instrument chunks and returns a handle; downloads are \
        shared by all streams.",
    a_download_is_copied: "The client may free its buffer when DOWNLOAD returns.",
    an_unload_waits_for_the_last_note: "UNLOAD frees a handle as soon as no note uses it, and may complete later; \
        later notes on its patch play what is beneath it.",
    an_instrument_keeps_its_wave: "The last instrument that refers to a wave keeps it alive.",
    compacting_joins_the_free_memory: "COMPACT makes the largest free block of sample memory available.",
    compacting_interrupts_nothing_that_plays: "COMPACT does not interrupt playback.",
    append_and_wave_format_are_told: "APPEND says how many bytes the synthesizer wants after each download, \
        WAVEFORMAT what it gives.",
    what_is_wrong_with_a_download_is_said: "A download that is malformed is refused, and leaves nothing; an unknown \
        handle is, too.",
}

/// Of a program that the card has, too, but otherwise.
const PROGRAM: u8 = 40;

fn wave(samples: usize) -> Wave {
    let samples: Vec<i16> = (0..samples).map(|n| ((n * 37) % 20_000) as i16 - 10_000).collect();
    let looped = Some(Loop { kind: LoopKind::Forward, start: 10, length: samples.len() as u32 - 10 });
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    Wave { id: None, info: Default::default(), rate: 48_000, samples: Samples::new(samples), sampling }
}

fn instrument(id: u32, program: u8, wave: &Wave) -> Vec<u8> {
    let instrument = Instrument { program, regions: vec![Region::of(0)], ..Default::default() };
    // Its wave is number 1.
    instrument_chunk(id, &instrument, core::slice::from_ref(wave), &BTreeMap::from([(0, 1)]))
}

/// How loud a note of the program is in a stream, 0.01 dB. It sounds still when this returns.
fn peak<P: Platform>(mailbox: &mut Mailbox<'_, P>, index: usize, stream: &RenderStream<'_, P>) -> anyhow::Result<i32> {
    stream.set_state(State::Stop)?;
    stream.set_state(State::Run)?;
    stream.send(ms(0), 0, &[0xC0, PROGRAM])?;
    stream.send(ms(0), 0, &[0x90, 60, 127])?;
    pass(stream)?;
    Ok(mailbox.running_stats(index)?.peak_volume.get())
}

fn pass<P: Platform>(stream: &RenderStream<'_, P>) -> anyhow::Result<()> {
    stream.flush();
    reach(stream.card(), stream.card().get_time().saturating_add(ms(100)))?;
    Ok(stream.allocator().reclaim()?)
}

fn a_download_sounds_in_every_stream<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let streams = [RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 1, SIZES)?];
    let own = peak(&mut mailbox, 0, &streams[0])?;
    ensure!(peak(&mut mailbox, 1, &streams[1])? == own);
    let wave = wave(4000);
    let handles = [mailbox.download(&wave_chunk(1, &wave))?, mailbox.download(&instrument(2, PROGRAM, &wave))?];
    ensure!(handles[0] != handles[1]);
    let loaded = peak(&mut mailbox, 0, &streams[0])?;
    ensure!(loaded != own, "nobody hears the difference");
    ensure!(peak(&mut mailbox, 1, &streams[1])? == loaded);
    Ok(())
}

fn a_download_is_copied<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let wave = wave(4000);
    mailbox.download(&wave_chunk(1, &wave))?;
    mailbox.download(&instrument(2, PROGRAM, &wave))?;
    let loaded = peak(&mut mailbox, 0, &stream)?;
    // The mailbox has its memory for the next chunk: it writes over the last one.
    let silence = Wave { samples: Samples::new(vec![0i16; 4000]), ..wave };
    mailbox.download(&wave_chunk(3, &silence))?;
    ensure!(peak(&mut mailbox, 0, &stream)? == loaded, "the download changed with its buffer");
    Ok(())
}

fn an_unload_waits_for_the_last_note<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let own = peak(&mut mailbox, 0, &stream)?;
    let wave = wave(4000);
    mailbox.download(&wave_chunk(1, &wave))?;
    let handle = mailbox.download(&instrument(2, PROGRAM, &wave))?;
    let loaded = peak(&mut mailbox, 0, &stream)?;
    ensure!(!mailbox.unload(handle)?, "gone, while a note plays it");
    ensure!(mailbox.unloads() == 0);
    pass(&stream)?;
    ensure!(mailbox.unloads() == 0, "gone, while a note plays it");
    stream.send(ms(0), 0, &[0xB0, 120, 0])?;
    pass(&stream)?;
    crate::fixture::until(card, "the end of the unload", || Ok(mailbox.unloads() == 1))?;
    ensure!(peak(&mut mailbox, 0, &stream)? == own && own != loaded, "a later note found it");
    Ok(())
}

fn an_instrument_keeps_its_wave<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let all = mailbox.compact()?;
    let wave = wave(4000);
    let wave_handle = mailbox.download(&wave_chunk(1, &wave))?;
    let instruments =
        [mailbox.download(&instrument(2, PROGRAM, &wave))?, mailbox.download(&instrument(3, PROGRAM + 1, &wave))?];
    let loaded = peak(&mut mailbox, 0, &stream)?;
    stream.set_state(State::Stop)?;
    ensure!(!mailbox.unload(wave_handle)?, "gone, while instruments refer to it");
    ensure!(peak(&mut mailbox, 0, &stream)? == loaded, "the wave is gone");
    stream.set_state(State::Stop)?;
    for handle in instruments {
        ensure!(mailbox.compact()? < all);
        ensure!(mailbox.unload(handle)?, "nothing plays it");
    }
    crate::fixture::until(card, "the end of the wave", || Ok(mailbox.unloads() >= 1))?;
    ensure!(mailbox.compact()? == all, "{} of {all} bytes are free", mailbox.compact()?);
    Ok(())
}

fn compacting_joins_the_free_memory<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let all = mailbox.compact()?;
    let mut handles = Vec::new();
    for id in 1..=4 {
        handles.push(mailbox.download(&wave_chunk(id, &wave(4000)))?);
    }
    let left = mailbox.compact()?;
    // Every other one: holes.
    for handle in [handles[0], handles[2]] {
        ensure!(mailbox.unload(handle)?);
    }
    let joined = mailbox.compact()?;
    ensure!(joined == left + (all - left) / 2, "{joined} of {all} bytes in one piece, {left} before");
    for handle in [handles[1], handles[3]] {
        ensure!(mailbox.unload(handle)?);
    }
    ensure!(mailbox.compact()? == all);
    Ok(())
}

fn compacting_interrupts_nothing_that_plays<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let play = |compact: bool| -> anyhow::Result<Vec<u8>> {
        card.reset()?;
        let mut mailbox = Mailbox::open(card)?;
        let stream = RenderStream::open(card, 0, SIZES)?;
        let format = WaveFormat { rate: card.sample_rate(), channels: 2, sample: Sample::S16 };
        let sink = WaveStream::open(card, 1, StreamConfig { buffer_size: 3840, ..SIZES }, format)?;
        // A hole in front of the wave that plays.
        let first = mailbox.download(&wave_chunk(9, &wave(30_000)))?;
        let wave = wave(4000);
        mailbox.download(&wave_chunk(1, &wave))?;
        mailbox.download(&instrument(2, PROGRAM, &wave))?;
        sink.set_state(State::Run)?;
        stream.set_state(State::Run)?;
        stream.send(ms(0), 0, &[0xC0, PROGRAM])?;
        stream.send(ms(0), 0, &[0x90, 60, 120])?;
        stream.flush();
        let mut sound = Vec::new();
        for step in 1..=5 {
            let end = ms(step * 40 + 1);
            card.grant(end);
            crate::fixture::until(card, "the granted time", || {
                let there = card.get_time() >= end;
                while let Some(period) = sink.receive()? {
                    sound.extend_from_slice(&period.to_vec());
                }
                Ok(there)
            })?;
            if compact && step == 2 {
                let before = mailbox.compact()?;
                ensure!(mailbox.unload(first)?);
                ensure!(mailbox.compact()? >= before + 60_000, "there was a gap");
            }
        }
        Ok(sound)
    };
    let (still, moved) = (play(false)?, play(true)?);
    ensure!(still.len() == 38_400 && still.iter().any(|byte| *byte != 0));
    ensure!(still == moved, "the move is captured");
    Ok(())
}

fn append_and_wave_format_are_told<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let format = mailbox.wave_format()?;
    let is = (format.rate.get(), format.channels.get(), format.byte_rate.get());
    ensure!(is == (card.sample_rate(), 2, card.sample_rate() * 4), "{is:?}");
    // It wants no guard of its own: what is downloaded without one is taken.
    ensure!(mailbox.append()? == 0);
    mailbox.download(&wave_chunk(1, &wave(100)))?;
    Ok(())
}

fn what_is_wrong_with_a_download_is_said<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let wave = wave(400);
    let handle = mailbox.download(&wave_chunk(1, &wave))?;
    let free = mailbox.compact()?;
    let good = instrument(2, PROGRAM, &wave);
    // Kind, id, offset table, size, an offset, and the wave that it links.
    for (at, value) in [(0, 99), (4, 1), (8, u32::MAX), (12, 20), (16, 26), (20, u32::MAX)] {
        let mut chunk = good.clone();
        chunk[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let refused = mailbox.download(&chunk);
        ensure!(matches!(refused, Err(DriverError::BadDownload { .. })), "{value:#x} at {at}: {refused:?}");
        ensure!(mailbox.compact()? == free);
    }
    let unknown = mailbox.unload(handle + 1000);
    ensure!(matches!(unknown, Err(DriverError::Command { status: Status::UnknownHandle, .. })), "{unknown:?}");
    mailbox.download(&good)?;
    Ok(())
}
