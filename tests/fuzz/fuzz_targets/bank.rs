//! A valid collection with any numbers in it: whatever can be made ready to be played plays, and gives finite samples.
//!
//! Twelve bytes each are a connection block; the first ones are a region's sampling and loop, and what is played.
#![no_main]

use dmus_card::bank::Bank;
use dmus_card::collection::connection::{Connection, Destination, Source, Transform};
use dmus_card::collection::{Collection, Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_card::synth::Synth;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((header, blocks)) = input.split_at_checked(20) else {
        return;
    };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let samples: Vec<i16> = (0..200).map(|n: i16| n.wrapping_mul(12_345)).collect();
    let (start, length) = (u32::from(header[0]) % 200, u32::from(header[1]));
    let kind = if header[2] % 2 == 0 { LoopKind::Forward } else { LoopKind::Release };
    let looped = (length > 0).then_some(Loop { kind, start, length });
    let sampling = Sampling {
        unity_note: header[3] % 128,
        fine_tune: word(4) as i16,
        gain: word(8) as i32,
        looped,
        ..Sampling::DEFAULT
    };
    let rate = word(12) % 1_000_000 + 1;
    let wave =
        Wave { id: None, info: Default::default(), rate, samples: Samples::new(samples), sampling: Some(sampling) };
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let connections = blocks.chunks_exact(12).map(|bytes| Connection {
        source: Source(half(bytes, 0)),
        control: Source(half(bytes, 2)),
        destination: Destination(half(bytes, 4)),
        transform: Transform(half(bytes, 6)),
        scale: i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
    });
    let instrument =
        Instrument { regions: vec![Region::of(0)], connections: connections.collect(), ..Default::default() };
    let collection = Collection { waves: vec![wave], instruments: vec![instrument], ..Collection::default() };
    let Ok(bank) = Bank::new(&[collection]) else {
        // Only a loop that lies outside.
        assert!(start + length > 200);
        return;
    };
    let mut synth = Synth::new(Arc::new(bank), 48_000, 1, 8);
    let (key, velocity) = (header[16] % 128, header[17] % 127 + 1);
    let (mut left, mut right) = ([0.0; 700], [0.0; 700]);
    for message in [[0x90, key, velocity], [0xB0, header[18] % 120, header[19] % 128], [0xE0, 127, 127], [0x80, key, 0]]
    {
        synth.message(0, &message);
        synth.render(&mut left, &mut right);
    }
    assert!(left.iter().chain(&right).all(|sample| sample.is_finite()));
});
