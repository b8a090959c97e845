//! What is allocated: while a synthesizer renders, nothing; for files and chunks that lie, no more than a small
//! multiple of their size.
//!
//! A process of its own, with an allocator of its own.

use anyhow::ensure;
use dmus_card::bank::Bank;
use dmus_card::collection::connection::{Connection, Destination, Source, Transform};
use dmus_card::collection::{Collection, Info, Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_card::synth::Synth;
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{Card, Mailbox};
use dmus_interface::event::PointerWidth;
use dmus_tests::counting::{Counting, counted};
use dmus_tests::direct::Direct;
use std::collections::BTreeMap;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn wave() -> Wave {
    let looped = Some(Loop { kind: LoopKind::Release, start: 1, length: 5 });
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    Wave { id: None, info: Info::named("wave"), rate: 44_100, samples: Samples::new([1; 16]), sampling }
}

fn instrument() -> Instrument {
    let block =
        Connection::from(Source::LFO, Destination::PITCH, Transform::BIPOLAR, 9).controlled(Source::controller(1));
    let region = Region { connections: Some(vec![block; 2]), ..Region::of(0) };
    Instrument { regions: vec![Region::of(0), region.clone(), region], connections: vec![block], ..Default::default() }
}

/// What counts, sizes, offsets and indices can say.
const LIES: [u32; 6] = [0, 0xFFFF, 0x00FF_FFFF, 0x4000_0000, 0x7FFF_FFFF, u32::MAX];

#[test]
fn files_that_lie_take_a_small_multiple_of_their_size() -> anyhow::Result<()> {
    let collection = Collection { waves: vec![wave()], instruments: vec![instrument()], ..Collection::default() };
    let dls = collection.to_dls()?;
    let chunk = |name: &[u8; 4], content: &[u8]| [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
    let tables = [(b"phdr", 38, 2), (b"pbag", 4, 2), (b"pmod", 10, 1), (b"pgen", 4, 2), (b"inst", 22, 2)];
    let more = [(b"ibag", 4, 2), (b"imod", 10, 1), (b"igen", 4, 2), (b"shdr", 46, 2)];
    let tables = tables.into_iter().chain(more).map(|(name, size, count)| chunk(name, &vec![1; size * count]));
    let data = [b"pdta".to_vec(), tables.collect::<Vec<_>>().concat()].concat();
    let samples = [b"sdta".to_vec(), chunk(b"smpl", &[7; 600])].concat();
    let sf2 = chunk(b"RIFF", &[b"sfbk".to_vec(), chunk(b"LIST", &samples), chunk(b"LIST", &data)].concat());
    for file in [dls, sf2] {
        for at in 0..file.len() - 3 {
            for lie in LIES {
                let mut file = file.clone();
                file[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                let file = Arc::new(file);
                let (_, peak, _) = counted(|| Collection::read(Arc::clone(&file), &mut Default::default()).map(drop));
                ensure!(peak <= 8 * file.len() + 4096, "{peak} bytes for {}, {lie:#x} at {at}", file.len());
            }
        }
    }
    Ok(())
}

#[test]
fn chunks_that_lie_take_a_small_multiple_of_their_size() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let handle = mailbox.download(&wave_chunk(1, &wave()))?;
    let chunk = instrument_chunk(2, &instrument(), &[wave()], &BTreeMap::from([(0, 1)]));
    // Once, for what stays: room in the bank, and the driver's own for requests.
    let whole = mailbox.download(&chunk)?;
    ensure!(mailbox.unload(whole)?);
    for at in 0..chunk.len() - 3 {
        for lie in LIES {
            let mut chunk = chunk.clone();
            chunk[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            let (done, peak, _) = counted(|| mailbox.download(&chunk));
            ensure!(peak <= 16 * chunk.len() + 65_536, "{peak} bytes for {}, {lie:#x} at {at}", chunk.len());
            if let Ok(handle) = done {
                ensure!(mailbox.unload(handle)?);
            }
        }
    }
    ensure!(mailbox.unload(handle)?);
    Ok(())
}

#[test]
fn nothing_is_allocated_while_it_renders() -> anyhow::Result<()> {
    let mut synth = Synth::new(Arc::new(Bank::general_midi()), 48_000, 4, 32);
    let (mut left, mut right) = (vec![0.0; 700], vec![0.0; 700]);
    let octave = [&[0xF0, 0x7E, 0x7F, 8, 8, 3, 127, 127][..], &[70; 12], &[0xF7]].concat();
    // The first message to a group makes its channels.
    (0..4).for_each(|group| synth.message(group, &[0xC0, 0]));
    let ((), _, times) = counted(|| {
        for step in 0..2000u32 {
            let (group, channel, value) = ((step % 4) as u16, (step % 16) as u8, (step * 37 % 128) as u8);
            synth.message(group, &[0x90 | channel, 30 + (step % 60) as u8, 100]);
            synth.message(group, &[0xC0 | channel, value]);
            synth.message(group, &[0xE0 | channel, value, value]);
            synth.message(group, &[0xB0 | channel, value % 120, value]);
            synth.message(group, &[0xA0 | channel, 30 + (step % 60) as u8, value]);
            synth.message(group, &[0x80 | channel, 30 + (step % 50) as u8, 0]);
            synth.message(group, &[0xF0, 0x7F, 0x7F, 4, 1 + (step % 4) as u8, 0, 70, 0xF7]);
            synth.message(group, &octave);
            let length = 1 + step as usize * 13 % 700;
            synth.render(&mut left[..length], &mut right[..length]);
        }
    });
    assert_eq!(times, 0);
    assert!(synth.sounding() > 16);
    Ok(())
}
