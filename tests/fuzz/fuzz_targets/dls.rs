//! Any bytes as a DLS collection: a valid collection that survives being written, and warnings and errors that say
//! where.
//!
//! Even inputs are the file behind its header. Odd ones are changes to a valid file, four bytes each: an offset and a
//! value of one or four bytes.
#![no_main]

use dmus_card::collection::connection::{Connection, Destination, Source, Transform};
use dmus_card::collection::{Collection, Info, Instrument, Loop, LoopKind, Region, Samples, Sampling, Warnings, Wave};
use std::sync::LazyLock;

static VALID: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let looped = Some(Loop { kind: LoopKind::Release, start: 1, length: 5 });
    let sampling = Some(Sampling { looped, ..Sampling::DEFAULT });
    let wave = |samples: &[i16]| Wave {
        id: Some([3; 16]),
        info: Info::named("wave"),
        rate: 44_100,
        samples: Samples::new(samples),
        sampling,
    };
    let block =
        Connection::from(Source::LFO, Destination::PITCH, Transform::BIPOLAR, 9).controlled(Source::controller(1));
    let region = Region { sampling, connections: Some(vec![block; 2]), ..Region::of(1) };
    let regions = vec![Region::of(0), region];
    let instrument = Instrument { regions, connections: vec![block], info: Info::named("i"), ..Instrument::default() };
    let instruments = vec![instrument.clone(), Instrument { drum: true, ..instrument }];
    let waves = vec![wave(&[1, 2, 3, 4, 5, 6]), wave(&[7; 9])];
    let collection =
        Collection { version: Some((1, 2)), id: Some([4; 16]), instruments, waves, info: Info::named("c") };
    collection.to_dls().expect("a valid collection")
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else {
        return;
    };
    let mut file;
    if mode % 2 == 0 {
        file = b"RIFF\0\0\0\0DLS ".to_vec();
        file.extend_from_slice(input);
        let size = (file.len() as u32 - 8).to_le_bytes();
        file[4..8].copy_from_slice(&size);
    } else {
        file = VALID.clone();
        for change in input.chunks_exact(4) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (file.len() - 3);
            match change[3] {
                0 => file[at] = change[2],
                value => {
                    file[at..at + 4].copy_from_slice(&u32::from(change[2]).rotate_right(value.into()).to_le_bytes())
                }
            }
        }
    }
    let length = file.len();
    let mut warnings = Warnings::default();
    match Collection::read(file, &mut warnings) {
        Ok(read) => {
            assert!(warnings.first().iter().all(|w| w.error.offset <= length && !w.error.path.is_empty()));
            let again = read.to_dls().expect("what is read can be written");
            assert!(Collection::read(again, &mut warnings).expect("and read again") == read);
            assert!(warnings.count() == 0, "{:?}", warnings.first());
        }
        Err(error) => assert!(error.offset <= length && !error.path.is_empty()),
    }
});
