//! Round trips, units and rules of the collection; files that are wrong are in [`hostile`], SoundFonts in
//! [`soundfont`].

mod hostile;
mod soundfont;

use super::connection::{Connection, DEFAULTS, Destination, Input, Shape, Source, Transform};
use super::*;
extern crate std;
use proptest::prelude::*;
use std::prelude::rust_2024::*;

/// A chunk as it lies in a file.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
    bytes.resize(bytes.len() + content.len() % 2, 0);
    bytes
}

fn list(name: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"LIST", &[&name[..], &chunks.concat()].concat())
}

fn riff(name: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[&name[..], &chunks.concat()].concat())
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Reads a file, whatever is mended in it.
fn read(file: &[u8]) -> Result<Collection, CollectionError> {
    Collection::read(file.to_vec(), &mut Warnings::default())
}

/// Reads a file in which something has to be mended, first of all this: what is left of it, what was wrong, and what
/// was done.
fn mended(file: &[u8], path: &str) -> (Collection, Problem, &'static str) {
    let mut warnings = Warnings::default();
    let read = Collection::read(file.to_vec(), &mut warnings).expect(path);
    let first = warnings.first().first().expect(path).clone();
    assert!(first.error.path == path && first.error.offset <= file.len(), "{first}, not in {path}");
    (read, first.error.problem, first.remedy)
}

/// A collection with something of everything.
fn sample() -> Collection {
    let sampling = Sampling {
        unity_note: 64,
        fine_tune: -7,
        gain: -655_360,
        no_truncation: true,
        no_compression: true,
        looped: Some(Loop { kind: LoopKind::Release, start: 2, length: 5 }),
    };
    let wave = |samples: &[i16], sampling| Wave {
        id: Some([7; 16]),
        info: Info::named("a wave"),
        rate: 22_050,
        samples: Samples::new(samples),
        sampling,
    };
    let block =
        Connection::from(Source::LFO, Destination::PITCH, Transform::BIPOLAR, -3).controlled(Source::controller(1));
    let plain = Region { self_exclusive: true, ..Region::of(0) };
    let special = Region {
        keys: (3, 70),
        velocities: (1, 126),
        self_exclusive: false,
        key_group: 15,
        layer: 9,
        link: WaveLink { wave: 1, channels: WaveLink::RIGHT, phase_group: 4, phase_master: true, multichannel: true },
        sampling: Some(Sampling { looped: Some(Loop { kind: LoopKind::Forward, start: 0, length: 3 }), ..sampling }),
        connections: Some(vec![block, Connection::constant(Destination(0x777), i32::MIN)]),
    };
    let empty = Region { connections: Some(vec![]), ..Region::of(0) };
    let instrument = Instrument {
        id: Some([1; 16]),
        info: Info(vec![(*b"INAM", "Öboe".into()), (*b"ICOP", String::new())]),
        bank: 0x3fff,
        program: 127,
        drum: true,
        regions: vec![plain, special, empty],
        connections: vec![block],
    };
    Collection {
        id: Some([2; 16]),
        version: Some((1, 2)),
        info: Info::named("all"),
        instruments: vec![instrument, Instrument::default()],
        waves: vec![wave(&[1, -2, 3, -4, i16::MAX, i16::MIN, 7], Some(sampling)), wave(&[5, 6, 7], None)],
    }
}

#[test]
fn what_is_written_is_read_back() {
    let collection = sample();
    let file = collection.to_dls().expect("a file");
    assert_eq!(read(&file).expect("a collection"), collection);
    assert_eq!(collection.to_dls().expect("a file"), file);
}

/// What all of an articulation's blocks with these ends add up to.
fn sum(blocks: &[Connection], source: Source, destination: Destination) -> f64 {
    let found = blocks.iter().filter(|b| b.source == source && b.destination == destination);
    found.map(|b| f64::from(b.scale) / 65_536.0).sum()
}

#[test]
fn transforms_and_defaults_are_those_of_level_two() {
    let input = |invert, bipolar, shape| Input { invert, bipolar, shape };
    assert_eq!(Transform::LEVEL.source(), input(true, false, Shape::Concave));
    assert_eq!(Transform(0x4000 | 0x0230 | 2).source(), input(false, true, Shape::Linear));
    assert_eq!(Transform(0x0230).control(), input(true, false, Shape::Switch));
    assert_eq!(Transform(2).output(), Shape::Convex);
    assert_eq!(Source::controller(7), Source(0x87));
    assert_eq!((Source::controller(91), Source::controller(93)), (Source(0xdb), Source(0xdd)));
    for (at, one) in DEFAULTS.iter().enumerate() {
        assert!(!DEFAULTS[..at].iter().any(|other| other.joins_as(one)), "{one:?} twice");
    }
}

/// A Level 1 file: one wave of 8 bits, one instrument with one region; with more chunks in the instrument and in the
/// region.
fn level_one(in_instrument: &[Vec<u8>], in_region: &[Vec<u8>], loop_kind: u32) -> Vec<u8> {
    let format = [words(&[1, 1]), numbers(&[8000, 8000]), words(&[1, 8])].concat();
    let wsmp = [numbers(&[20]), words(&[60, 0]), numbers(&[0, 0, 1, 16, loop_kind, 1, 2])].concat();
    let wave = list(b"wave", &[chunk(b"fmt ", &format), chunk(b"data", &[0, 128, 255]), chunk(b"wsmp", &wsmp)]);
    let mut region = vec![
        chunk(b"rgnh", &words(&[0, 127, 0, 127, 0, 0])),
        chunk(b"wlnk", &[words(&[0, 0]), numbers(&[1, 0])].concat()),
    ];
    region.extend_from_slice(in_region);
    let mut instrument = vec![chunk(b"insh", &numbers(&[1, 0x8000_0102, 5])), list(b"lrgn", &[list(b"rgn ", &region)])];
    instrument.extend_from_slice(in_instrument);
    riff(
        b"DLS ",
        &[
            chunk(b"colh", &numbers(&[1])),
            list(b"lins", &[list(b"ins ", &instrument)]),
            chunk(b"ptbl", &numbers(&[8, 1, 0])),
            list(b"wvpl", &[wave]),
        ],
    )
}

fn art1(blocks: &[[u16; 4]], scale: u32) -> Vec<u8> {
    let blocks = blocks.iter().flat_map(|block| [words(block), numbers(&[scale])].concat());
    list(b"lart", &[chunk(b"art1", &[numbers(&[8, 1]), blocks.collect()].concat())])
}

#[test]
fn level_one_is_read_in_the_terms_of_level_two() {
    for (kind, name) in [(0, LoopKind::Forward), (1, LoopKind::Release), (2, LoopKind::Release)] {
        let lfo = art1(&[[1, 0x81, 3, 0]], 50 << 16);
        let velocity = art1(&[[2, 0, 1, 1]], 960 << 16);
        let read = read(&level_one(&[lfo], &[velocity], kind)).expect("a collection");
        assert_eq!(read.waves[0].samples.to_vec(), [i16::MIN, 0, 127 << 8]);
        let looped = read.waves[0].sampling.expect("a sampling").looped.expect("a loop");
        assert_eq!(looped, Loop { kind: name, start: 1, length: 2 });
        let instrument = &read.instruments[0];
        assert_eq!((instrument.drum, instrument.bank, instrument.program), (true, 130, 5));
        let lfo = Connection::from(Source::LFO, Destination::PITCH, Transform::BIPOLAR, 50 << 16);
        assert_eq!(instrument.connections, [lfo.controlled(Source::controller(1))]);
        let region = &instrument.regions[0];
        let level = Connection::from(Source::VELOCITY, Destination::GAIN, Transform::LEVEL, -960 << 16);
        assert_eq!(instrument.articulation(region), [level], "a region's articulation replaces the instrument's");
        assert!(DEFAULTS.contains(&level) && region.self_exclusive);
    }
}

/// A condition: constants and operations of words.
fn condition(program: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"cdl ", &program.concat())
}

#[test]
fn conditions_leave_out_what_is_not_for_this_synthesizer() {
    let constant = |value: u32| [words(&[0x10]), numbers(&[value])].concat();
    let op = |operation: u16| words(&[operation]);
    let query = |operation: u16, id: [u8; 16]| [words(&[operation]), id.to_vec()].concat();
    let dls2 = [0xe5, 0x99, 0x45, 0xf1, 0x89, 0x46, 0xd2, 0x11, 0xaf, 0xa6, 0, 0xaa, 0, 0x24, 0xd8, 0xb6];
    let dls1 = [0x27, 0x2f, 0x8f, 0x17, 0x64, 0xc3, 0xd1, 0x11, 0xa7, 0x60, 0, 0, 0xf8, 0x75, 0xac, 0x12];
    let rate = [0x13, 0xf7, 0x91, 0x2a, 0xbf, 0xa4, 0xd2, 0x11, 0xbb, 0xdf, 0, 0x60, 8, 0x33, 0xdb, 0xd8];
    let regions = |program: &[Vec<u8>]| {
        read(&level_one(&[], &[condition(program)], 0)).map(|read| read.instruments[0].regions.len())
    };
    for (program, holds) in [
        (vec![query(0x11, dls2)], true),
        (vec![query(0x11, dls1), op(0x0f)], false),
        (vec![query(0x12, [9; 16])], false),
        (vec![query(0x11, [9; 16]), constant(1), op(2)], true),
        // X is pushed last: 48000 > 44100, 7 - 5 = 2, 7 / 2 = 3.
        (vec![constant(44_100), query(0x11, rate), op(0x0c)], true),
        (vec![constant(5), constant(7), op(5), constant(2), op(0x0e)], true),
        (vec![constant(2), constant(7), op(7), constant(3), op(0x0e)], true),
        (vec![constant(4), constant(8), op(8)], true),
        (vec![constant(4), constant(8), op(1)], false),
        (vec![constant(u32::MAX), constant(1), op(4)], false),
        (vec![constant(3), constant(3), op(0x0a)], false),
        (vec![constant(3), constant(3), op(0x0b), constant(3), constant(3), op(3), op(9)], true),
    ] {
        assert_eq!(regions(&program).expect("a collection"), usize::from(holds), "{program:?}");
    }
    for program in
        [vec![], vec![op(1)], vec![constant(1), op(1)], vec![op(0x13)], vec![constant(0), constant(1), op(7)]]
    {
        let error = regions(&program).expect_err("a broken condition");
        assert!(matches!(error.problem, Problem::Condition(_)), "{error}");
        assert_eq!(error.path, "DLS/lins/ins[0]/lrgn/rgn[0]/cdl");
    }
    assert!(matches!(regions(&[words(&[0x11, 0])]).expect_err("cut").problem, Problem::Short { .. }));
}

fn sampling_of(samples: usize) -> impl Strategy<Value = Option<Sampling>> {
    let looped =
        (0..samples as u32).prop_flat_map(move |start| (Just(start), 1..=samples as u32 - start, any::<bool>()));
    let fields = (0u8..128, any::<i16>(), any::<i32>(), any::<(bool, bool)>(), prop::option::of(looped));
    prop::option::of(fields).prop_map(|fields| {
        fields.map(|(unity_note, fine_tune, gain, (no_truncation, no_compression), looped)| {
            let kind = |release| if release { LoopKind::Release } else { LoopKind::Forward };
            let looped = looped.map(|(start, length, release)| Loop { kind: kind(release), start, length });
            Sampling { unity_note, fine_tune, gain, no_truncation, no_compression, looped }
        })
    })
}

fn blocks() -> impl Strategy<Value = Vec<Connection>> {
    let block = any::<([u16; 4], i32)>().prop_map(|([source, control, destination, transform], scale)| Connection {
        source: Source(source),
        control: Source(control),
        destination: Destination(destination),
        transform: Transform(transform),
        scale,
    });
    prop::collection::vec(block, 0..4)
}

fn range() -> impl Strategy<Value = (u8, u8)> {
    (0u8..128).prop_flat_map(|low| (Just(low), low..128))
}

fn collection() -> impl Strategy<Value = Collection> {
    let wave = prop::collection::vec(any::<i16>(), 1..40).prop_flat_map(|samples| {
        let rate = 1..=MAX_RATE;
        (sampling_of(samples.len()), rate, any::<Option<DlsId>>(), Just(samples)).prop_map(
            |(sampling, rate, id, samples)| Wave {
                id,
                info: Info::default(),
                rate,
                samples: Samples::new(samples),
                sampling,
            },
        )
    });
    prop::collection::vec(wave, 1..5).prop_flat_map(|waves| {
        let count = waves.len();
        let shortest = waves.iter().map(|wave| wave.samples.len()).min().unwrap_or(1);
        let link = (0..count, any::<u32>(), any::<u16>(), any::<(bool, bool)>());
        let region =
            (range(), range(), any::<(bool, u16, u16)>(), link, sampling_of(shortest), prop::option::of(blocks()));
        let region =
            region.prop_map(|(keys, velocities, (self_exclusive, key_group, layer), link, sampling, connections)| {
                let (wave, channels, phase_group, (phase_master, multichannel)) = link;
                let link = WaveLink { wave, channels, phase_group, phase_master, multichannel };
                Region { keys, velocities, self_exclusive, key_group, layer, link, sampling, connections }
            });
        let name = "[^\0]{0,9}";
        let instrument = (name, 0u16..0x4000, 0u8..128, any::<bool>(), prop::collection::vec(region, 0..4), blocks());
        let instrument = instrument.prop_map(|(name, bank, program, drum, regions, connections)| Instrument {
            id: None,
            info: Info::named(&name),
            bank,
            program,
            drum,
            regions,
            connections,
        });
        (prop::collection::vec(instrument, 0..4), any::<Option<(u32, u32)>>(), Just(waves)).prop_map(
            |(instruments, version, waves)| Collection { id: None, version, info: Info::default(), instruments, waves },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_collection_survives_a_file(collection in collection()) {
        let file = collection.to_dls().expect("a file");
        prop_assert_eq!(read(&file).expect("a collection"), collection);
    }
}
