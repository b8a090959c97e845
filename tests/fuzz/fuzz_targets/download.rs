//! Any bytes as a download chunk, through driver, mailbox and card: refused with a place in it, or played, moved and
//! unloaded until all memory is free.
//!
//! Even inputs are all of a chunk but its size. Odd ones are changes to a valid instrument, four bytes each: an offset
//! and a value of one or four bytes.
#![no_main]

use dmus_card::collection::connection::{Connection, Destination, Source, Transform};
use dmus_card::collection::{Instrument, Loop, LoopKind, Region, Samples, Sampling, Wave};
use dmus_driver::dls::{instrument_chunk, wave_chunk};
use dmus_driver::{Card, DriverError, Mailbox, RenderStream, StreamConfig};
use dmus_interface::event::{DONT_HOLD, PointerWidth};
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use std::cell::OnceCell;
use std::collections::BTreeMap;

thread_local! {
    // Making a card takes a tenth of a second; a reset makes it as good as new.
    static CARD: OnceCell<Card<Direct>> = const { OnceCell::new() };
}

fn wave() -> Wave {
    let looped = Some(Loop { kind: LoopKind::Release, start: 1, length: 5 });
    let samples = Samples::new([100, 2000, -3000, 4000, 5000, -6000, 7000, 800]);
    Wave {
        id: None,
        info: Default::default(),
        rate: 44_100,
        samples,
        sampling: Some(Sampling { looped, ..Sampling::DEFAULT }),
    }
}

fn valid() -> Vec<u8> {
    let block = Connection::from(Source::LFO, Destination::PITCH, Transform::BIPOLAR, 9 << 16)
        .controlled(Source::controller(1));
    let region = Region { connections: Some(vec![block; 2]), ..Region::of(0) };
    let regions = vec![Region::of(0), region.clone(), region];
    let instrument = Instrument { regions, connections: vec![block], ..Instrument::default() };
    instrument_chunk(2, &instrument, &[wave()], &BTreeMap::from([(0, 1)]))
}

fn send(stream: &RenderStream<'_, Direct>, bytes: &[u8]) {
    let mut message = stream.allocator().get_message().expect("a message");
    message.set_time(RefTime(DONT_HOLD));
    message.set_data(bytes).expect("short data");
    stream.put_message(message).expect("a stream that takes it");
    stream.flush();
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else {
        return;
    };
    let mut chunk;
    if mode % 2 == 0 {
        chunk = input.to_vec();
        if let Some(size) = chunk.get_mut(12..16) {
            size.copy_from_slice(&(input.len() as u32).to_le_bytes());
        }
    } else {
        chunk = valid();
        for change in input.chunks_exact(4) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (chunk.len() - 3);
            match change[3] {
                0 => chunk[at] = change[2],
                value => {
                    chunk[at..at + 4].copy_from_slice(&u32::from(change[2]).rotate_right(value.into()).to_le_bytes())
                }
            }
        }
    }
    CARD.with(|card| {
        let card =
            card.get_or_init(|| Card::open(Direct::new().expect("a card"), PointerWidth::Eight).expect("it answers"));
        card.platform().ram.restart();
        card.reset().expect("a reset");
        let mut mailbox = Mailbox::open(card).expect("memory");
        let all = mailbox.compact().expect("a size");
        let mut handles = vec![mailbox.download(&wave_chunk(1, &wave())).expect("a wave")];
        match mailbox.download(&chunk) {
            Ok(handle) => handles.push(handle),
            Err(DriverError::BadDownload { at, .. }) => assert!(at as usize <= chunk.len()),
            Err(DriverError::Command { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let stream = RenderStream::open(card, 0, StreamConfig::default()).expect("a stream");
        stream.set_state(State::Run).expect("it runs");
        for message in [&[0x90, 60, 100][..], &[0x99, 60, 100], &[0x90, 60, 0], &[0xB0, 1, 127]] {
            send(&stream, message);
        }
        card.grant(RefTime(20_000));
        card.platform().run_until_idle();
        let first = handles.remove(0);
        let pending =
            handles.into_iter().chain([first]).filter(|handle| !mailbox.unload(*handle).expect("known")).count();
        mailbox.compact().expect("a size");
        card.grant(RefTime(40_000));
        card.platform().run_until_idle();
        stream.set_state(State::Stop).expect("it stops");
        card.platform().run_until_idle();
        assert_eq!(mailbox.unloads() as usize, pending);
        assert_eq!(mailbox.compact().expect("a size"), all);
    });
});
