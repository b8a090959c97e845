//! SoundFonts: zones, generators and modulators in the terms of DLS, and what is wrong with them.

use super::hostile::{find, patched};
use super::*;

/// A zone: generators (number, amount) and modulators (source, destination, amount, control, transform).
type Zone = (Vec<(u16, i16)>, Vec<[i16; 5]>);

/// A bank of one preset, one instrument and one sample of 100 in a pool of 150.
pub(super) struct Bank {
    preset: Vec<Zone>,
    instrument: Vec<Zone>,
}

/// With a sample that loops, and nothing else.
pub(super) fn bank() -> Bank {
    Bank { preset: vec![zone(&[(41, 0)])], instrument: vec![zone(&[(54, 1), (53, 0)])] }
}

fn zone(generators: &[(u16, i16)]) -> Zone {
    (generators.to_vec(), vec![])
}

impl Bank {
    /// One instrument zone with these generators besides.
    fn with(generators: &[(u16, i16)]) -> Self {
        let mut bank = bank();
        bank.instrument[0].0.splice(0..0, generators.iter().copied());
        bank
    }

    pub(super) fn file(&self) -> Vec<u8> {
        let name = |text: &str| {
            let mut name = text.as_bytes().to_vec();
            name.resize(20, 0);
            name
        };
        let zones = |zones: &[Zone], names: [&[u8; 4]; 3]| {
            let (mut bags, mut generators, mut modulators) = (vec![], vec![], vec![]);
            let mut count = (0, 0);
            for (own, mods) in zones {
                bags.extend(words(&[count.0, count.1]));
                count = (count.0 + own.len() as u16, count.1 + mods.len() as u16);
                own.iter().for_each(|&(number, amount)| generators.extend(words(&[number, amount as u16])));
                mods.iter().for_each(|fields| modulators.extend(words(&fields.map(|field| field as u16))));
            }
            bags.extend(words(&[count.0, count.1]));
            generators.extend([0; 4]);
            modulators.extend([0; 10]);
            [chunk(names[0], &bags), chunk(names[2], &modulators), chunk(names[1], &generators)]
        };
        let preset = |first| [name("Preset"), words(&[3, 2, first]), vec![0; 12]].concat();
        let presets = [preset(0), preset(self.preset.len() as u16)].concat();
        let instrument = |first| [name("Instrument"), words(&[first])].concat();
        let instruments = [instrument(0), instrument(self.instrument.len() as u16)].concat();
        let sample = [name("Sample"), numbers(&[10, 110, 20, 60, 44_100]), vec![61, 0xfb], words(&[0, 1])].concat();
        let samples = [sample, vec![0; 46]].concat();
        let pool: Vec<u8> = (0..150u16).flat_map(u16::to_le_bytes).collect();
        let preset_zones = zones(&self.preset, [b"pbag", b"pgen", b"pmod"]);
        let instrument_zones = zones(&self.instrument, [b"ibag", b"igen", b"imod"]);
        let mut data = vec![chunk(b"phdr", &presets)];
        data.extend(preset_zones);
        data.push(chunk(b"inst", &instruments));
        data.extend(instrument_zones);
        data.push(chunk(b"shdr", &samples));
        riff(
            b"sfbk",
            &[
                list(b"INFO", &[chunk(b"INAM", b"Bank\0")]),
                list(b"sdta", &[chunk(b"smpl", &pool)]),
                list(b"pdta", &data),
            ],
        )
    }

    fn read(&self) -> Collection {
        super::read(&self.file()).expect("a collection")
    }

    fn region(&self) -> Region {
        self.read().instruments[0].regions[0].clone()
    }

    fn blocks(&self) -> Vec<Connection> {
        self.region().connections.expect("an articulation")
    }

    fn refused(&self) -> Problem {
        super::read(&self.file()).expect_err("a fault").problem
    }
}

#[test]
fn a_plain_bank() {
    let read = bank().read();
    assert_eq!(read.info.name(), "Bank");
    let instrument = &read.instruments[0];
    assert_eq!(
        (instrument.info.name(), instrument.bank, instrument.program, instrument.drum),
        ("Preset", 2 << 7, 3, false)
    );
    let wave = &read.waves[0];
    assert_eq!(
        (wave.info.name(), wave.rate, wave.samples.to_vec()[0], wave.samples.len()),
        ("Sample", 44_100, 10, 100)
    );
    let sampling = instrument.regions[0].sampling.expect("a sampling");
    assert_eq!((sampling.unity_note, sampling.fine_tune, sampling.gain), (61, -5, 0));
    assert_eq!(sampling.looped, Some(Loop { kind: LoopKind::Forward, start: 10, length: 40 }));
    // The defaults that DLS has otherwise, and the oscillator that they need; nothing else.
    let c = Source::controller;
    let vibrato = |control| {
        Connection::from(Source::VIBRATO, Destination::PITCH, Transform::BIPOLAR, 50 << 16).controlled(control)
    };
    let send = |source, destination| Connection::from(source, destination, Transform::NONE, 200 << 16);
    let expected = [
        vibrato(Source::CHANNEL_PRESSURE),
        vibrato(c(1)),
        send(c(91), Destination::REVERB),
        send(c(93), Destination::CHORUS),
        Connection::constant(Destination::VIBRATO_FREQUENCY, 0),
        Connection::constant(Destination::VIBRATO_DELAY, i32::MIN),
    ];
    assert_eq!(bank().blocks(), expected);
}

#[test]
fn zones_meet_in_their_ranges_and_offsets_make_waves_of_their_own() {
    let range = |low: u8, high: u8| i16::from_le_bytes([low, high]);
    let bank = Bank {
        preset: vec![zone(&[(43, range(40, 80))]), zone(&[(41, 0)]), zone(&[(43, range(0, 9)), (41, 0)])],
        instrument: vec![
            zone(&[(44, range(10, 127)), (58, 50)]),
            zone(&[(43, range(0, 60)), (53, 0)]),
            zone(&[(43, range(61, 127)), (44, range(0, 20)), (0, 5), (1, -10), (54, 3), (57, 7), (53, 0)]),
        ],
    };
    let read = bank.read();
    let regions = &read.instruments[0].regions;
    let ranges: Vec<_> = regions.iter().map(|r| (r.keys, r.velocities, r.link.wave, r.key_group)).collect();
    assert_eq!(ranges, [((40, 60), (10, 127), 0, 0), ((61, 80), (0, 20), 1, 7), ((0, 9), (10, 127), 0, 0)]);
    assert_eq!(
        read.waves.iter().map(|w| (w.samples.to_vec()[0], w.samples.len())).collect::<Vec<_>>(),
        [(10, 100), (15, 85)]
    );
    let sampling = regions[1].sampling.expect("a sampling");
    assert_eq!(sampling.looped, Some(Loop { kind: LoopKind::Release, start: 5, length: 40 }));
    assert_eq!(sampling.unity_note, 50);
}

#[test]
fn generators_keep_their_meaning() {
    let value =
        |generators: &[(u16, i16)], source, destination| sum(&Bank::with(generators).blocks(), source, destination);
    use Destination as D;
    for (generators, source, destination, expected) in [
        (&[(34, -1200)][..], Source::NONE, D::EG1_ATTACK, -1200.0),
        // 100 dB in a second is 96 dB in 0.96 s, which is -70.67 time cents.
        (&[(36, 0)], Source::NONE, D::EG1_DECAY, -70.672),
        (&[(38, 1200)], Source::NONE, D::EG1_RELEASE, 1129.328),
        (&[(28, 100)], Source::NONE, D::EG2_DECAY, 100.0),
        (&[(37, 480)], Source::NONE, D::EG1_SUSTAIN, 500.0),
        (&[(37, 1440)], Source::NONE, D::EG1_SUSTAIN, 0.0),
        (&[(29, 300)], Source::NONE, D::EG2_SUSTAIN, 700.0),
        (&[(17, -250)], Source::NONE, D::PAN, -250.0),
        (&[(8, 6900)], Source::NONE, D::CUTOFF, 6900.0),
        (&[(8, 6900), (9, 120)], Source::NONE, D::RESONANCE, 120.0),
        // An open filter that resonates is one, since it lowers the whole.
        (&[(9, 70)], Source::NONE, D::RESONANCE, 70.0),
        (&[(9, 70)], Source::NONE, D::CUTOFF, 13_500.0),
        (&[(11, -2400)], Source::EG2, D::CUTOFF, -2400.0),
        (&[(11, -2400)], Source::NONE, D::CUTOFF, 13_500.0),
        (&[(7, 700)], Source::EG2, D::PITCH, 700.0),
        (&[(13, 60)], Source::LFO, D::GAIN, 60.0),
        (&[(13, 60), (22, -900)], Source::NONE, D::LFO_FREQUENCY, -900.0),
        // A key below 60 decays longer: 100 time cents a key.
        (&[(36, 0), (40, 100)], Source::KEY, D::EG1_DECAY, -12_800.0),
        (&[(36, 0), (40, 100)], Source::NONE, D::EG1_DECAY, 6000.0 - 70.672),
        // Half of the scale, about the root key 61.
        (&[(56, 50)], Source::KEY, D::PITCH, 6400.0),
        (&[(56, 50)], Source::NONE, D::PITCH, 3050.0),
        (&[(46, 40)], Source::NONE, D::KEY, 4000.0),
    ] {
        let found = value(generators, source, destination);
        assert!((found - expected).abs() < 0.01, "{generators:?}: {found}, not {expected}");
    }
    let bank = Bank { preset: vec![zone(&[(48, 50), (51, 1), (41, 0)])], ..Bank::with(&[(48, 100), (52, 20)]) };
    let sampling = bank.region().sampling.expect("a sampling");
    // Presets add; of the attenuation 0.4 counts: 15 dB become 6.
    assert_eq!(f64::from(sampling.gain) / 655_360.0, -6.0);
    assert_eq!(sampling.fine_tune, 115);
    // The attack of a modulation envelope is convex there, which is heard of a long one.
    for (attack, transform) in [(-1200, Transform::NONE), (1200, Transform::CONVEX)] {
        let blocks = Bank::with(&[(26, attack), (11, 4000)]).blocks();
        assert!(blocks.contains(&Connection::from(Source::EG2, D::CUTOFF, transform, 4000 << 16)), "{blocks:?}");
    }
    // A scale of nothing differs from the default that says nothing.
    let flat = Bank::with(&[(56, 0)]).blocks();
    assert!(flat.contains(&Connection::from(Source::KEY, D::PITCH, Transform::NONE, 0)));
}

#[test]
fn modulators_become_blocks() {
    let with = |modulators: &[[i16; 5]]| {
        let mut bank = bank();
        bank.instrument[0].1 = modulators.to_vec();
        bank.blocks()
    };
    use Destination as D;
    let joins = |blocks: &[Connection], source, destination| {
        blocks.iter().filter(|b| b.source == source && b.destination == destination).copied().collect::<Vec<_>>()
    };
    // Velocity to level is as in DLS until something else comes; then all of it is said.
    assert!(joins(&with(&[]), Source::VELOCITY, D::GAIN).is_empty());
    let silent = joins(&with(&[[0x0502, 48, 0, 0, 0]]), Source::VELOCITY, D::GAIN);
    assert_eq!(silent.iter().map(|b| b.scale).collect::<Vec<_>>(), [0], "a default that is turned off");
    let both = joins(&with(&[[0x0002, 48, 100, 0, 0]]), Source::VELOCITY, D::GAIN);
    assert_eq!(both.iter().map(|b| b.scale).collect::<Vec<_>>(), [-960 << 16, -100 << 16]);
    // CC74 (bipolar, convex, downwards) by poly pressure to the cutoff; the base that it starts from is said too.
    let cutoff = with(&[[0x0bca_u16 as i16, 8, 1200, 0x000a, 0]]);
    let block = joins(&cutoff, Source::controller(74), D::CUTOFF)[0];
    assert_eq!((block.control, block.scale), (Source::POLY_PRESSURE, 1200 << 16));
    assert_eq!(block.transform.source(), Input { invert: true, bipolar: true, shape: Shape::Convex });
    assert_eq!(sum(&cutoff, Source::NONE, D::CUTOFF), 13_500.0);
    // A controller of an oscillator's depth.
    let depth = joins(&with(&[[0x0082, 5, 30, 0, 0]]), Source::LFO, D::PITCH);
    assert_eq!((depth[0].control, depth[0].transform), (Source::controller(2), Transform::BIPOLAR));
    // What no block can say is left out: links, two controllers of a depth, absolute values, sample addresses.
    let plain = with(&[]).len();
    for lost in [[0x007f, 8, 9, 0, 0], [0x0082, 5, 30, 0x0083, 0], [0x0082, 8, 9, 0, 2], [0x0082, 0, 9, 0, 0]] {
        assert_eq!(with(&[lost]).len(), plain, "{lost:?}");
    }
    // Presets add to what the instrument has.
    let mut bank = bank();
    bank.preset[0].1 = vec![[0x0081, 6, 25, 0, 0]];
    let wheel = joins(&bank.blocks(), Source::VIBRATO, D::PITCH);
    assert!(wheel.iter().any(|b| b.control == Source::controller(1) && b.scale == 75 << 16), "{wheel:?}");
}

/// A bank of a good zone, one with these generators besides the sample, and another good one.
fn between(generators: &[(u16, i16)]) -> Bank {
    let key = |key: i16| (43, key << 8 | key);
    let mut bad = vec![key(50)];
    bad.extend_from_slice(generators);
    Bank { instrument: vec![zone(&[key(40), (53, 0)]), zone(&bad), zone(&[key(60), (53, 0)])], ..bank() }
}

/// Reads a bank in which the zone of key 50 is wrong: what became of it, what was wrong and what was done.
fn zone_of(bank: &Bank) -> (Option<(Region, usize)>, Problem, &'static str) {
    let crowded = bank.instrument[1].0.len() > 128;
    let place = if crowded { "sfbk/pdta/ibag" } else { "sfbk/pdta/igen" };
    let (read, problem, remedy) = mended(&bank.file(), place);
    let mut regions = read.instruments[0].regions.clone();
    assert_eq!(regions.iter().filter(|region| region.keys != (50, 50)).count(), 2, "those around it");
    regions.retain(|region| region.keys == (50, 50));
    let length = |region: Region| (region.clone(), read.waves[region.link.wave].samples.len());
    (regions.pop().map(length), problem, remedy)
}

#[test]
fn a_zone_that_is_wrong_costs_no_other() {
    let (lost, problem, remedy) = zone_of(&between(&[(53, 1)]));
    assert_eq!((lost, problem), (None, Problem::Reference { what: "sample", index: 1, count: 1 }));
    assert_eq!(remedy, "the zone is left out");
    for offsets in [(0, 200), (1, -100), (4, -1), (0, -11)] {
        let (lost, problem, _) = zone_of(&between(&[offsets, (53, 0)]));
        let end = matches!(problem, Problem::Value { what: "the sample's end", .. });
        assert!(end && lost.is_none(), "{offsets:?}: {problem}");
    }
    for offsets in [(1, 41), (12, 32_767)] {
        let (region, ..) = zone_of(&between(&[offsets, (53, 0)]));
        assert_eq!(region.expect("a region").1, 140, "it ends with the pool");
    }
    for (offset, left) in [
        ((2, 40), None),
        ((2, -11), Some((0, 50))),
        ((3, -40), None),
        ((3, 51), Some((10, 90))),
        ((45, -32_768), Some((0, 50))),
        ((50, 32_767), Some((10, 90))),
    ] {
        let (region, problem, _) = zone_of(&between(&[offset, (54, 1), (53, 0)]));
        assert!(matches!(problem, Problem::Loop { samples: 100, .. }), "{problem}");
        let looped = region.expect("a region").0.sampling.expect("a sampling").looped;
        assert_eq!(looped.map(|looped| (looped.start, looped.length)), left, "{offset:?}");
    }
    let (lost, problem, _) = zone_of(&between(&[&[(17, 0); 300][..], &[(53, 0)]].concat()));
    assert!(matches!(problem, Problem::Value { what: "the number of generators", value: 302, .. }), "{problem}");
    assert!(lost.is_none());
    // What follows the sample's number is not the zone's.
    let (region, problem, _) = zone_of(&between(&[(53, 0), (58, 20), (51, 7)]));
    let sampling = region.expect("a region").0.sampling.expect("a sampling");
    assert_eq!((problem, sampling.unity_note, sampling.fine_tune), (Problem::Behind(2), 61, -5));
}

#[test]
fn a_bank_of_which_nothing_is_left_is_refused() {
    let instrument = |index| Bank { preset: vec![zone(&[(41, index)])], ..bank() };
    assert_eq!(instrument(1).refused(), Problem::Reference { what: "instrument", index: 1, count: 1 });
    assert_eq!(instrument(-1).refused(), Problem::Reference { what: "instrument", index: 0xffff, count: 1 });
    let file = bank().file();
    let header = find(&file, b"shdr", 0);
    let kind = super::read(&patched(&file, header + 42, 0x8001_0000)).expect_err("a sample in a ROM");
    assert!(matches!(kind.problem, Problem::Value { what: "the kind of sample", .. }), "{kind}");
    assert_eq!(kind.path, "sfbk/pdta/shdr");
}

#[test]
fn tables_that_disagree_are_read_as_far_as_they_go() {
    let file = bank().file();
    // An index behind the end of the next table: what is there counts.
    for (name, at) in [(b"phdr", 38 + 24), (b"inst", 22 + 20), (b"ibag", 4), (b"pbag", 4)] {
        let at = find(&file, name, 0) + at;
        let file = patched(&file, at - 2, 0xffff_0000 | u32::from(file[at - 2]));
        let mut warnings = Warnings::default();
        let read = Collection::read(file, &mut warnings).expect("a collection");
        let first = &warnings.first()[0];
        assert!(matches!(first.error.problem, Problem::Reference { .. }), "{first}");
        assert_eq!(read.instruments[0].regions.len(), 1);
    }
    // The last record is cut: it only ended the one before.
    for (name, path) in [(b"shdr", "sfbk/pdta/shdr"), (b"inst", "sfbk/pdta/inst"), (b"phdr", "sfbk/pdta/phdr")] {
        let at = find(&file, name, 0) - 4;
        let size = u32::from_le_bytes(file[at..at + 4].try_into().expect("four"));
        let mut cut = patched(&file, at, size - 2);
        cut.drain(at + 4 + size as usize - 2..at + 4 + size as usize);
        let list = find(&cut, b"pdta", 0) - 12;
        let old = u32::from_le_bytes(cut[list..list + 4].try_into().expect("four"));
        cut = patched(&cut, list, old - 2);
        let length = cut.len() as u32 - 8;
        let (read, problem, _) = mended(&patched(&cut, 4, length), path);
        assert!(matches!(problem, Problem::Short { .. }), "{problem}");
        assert_eq!(read.instruments[0].regions.len(), 1);
    }
}

#[test]
fn banks_that_no_song_can_choose_are_not_those_that_it_can() {
    let file = bank().file();
    let header = find(&file, b"phdr", 0) + 20;
    for (number, bank) in [(127, Some((127 << 7, false))), (128, Some((0, true))), (129, None), (256, None)] {
        let file = patched(&file, header, 3 | number << 16);
        let found = super::read(&file).ok().map(|read| (read.instruments[0].bank, read.instruments[0].drum));
        assert_eq!(found, bank, "{number}");
    }
    // Programs above 127 likewise.
    let error = super::read(&patched(&file, header, 128)).expect_err("a program");
    assert!(matches!(error.problem, Problem::Value { what: "the program", value: 128, .. }), "{error}");
}

#[test]
fn samples_that_link_in_circles_are_no_chain() {
    let file = bank().file();
    let header = find(&file, b"shdr", 0);
    let read = bank().read();
    // The partner of a stereo sample: itself, the one behind the last, or none; and a mono one that has a partner.
    for (link, kind) in [(0, 4), (1, 2), (0xffff, 4), (0xffff, 8), (0, 1)] {
        let linked = patched(&file, header + 42, link | kind << 16);
        assert_eq!(super::read(&linked).expect("a collection"), read, "link {link:#x} of a sample of kind {kind}");
    }
}

#[test]
fn zones_that_multiply_are_refused_before_they_fill_the_memory() {
    let many = Bank { preset: vec![zone(&[(41, 0)]); 5000], instrument: vec![zone(&[(53, 0)]); 5000] };
    assert_eq!(many.refused(), Problem::TooComplex);
    // So are those whose ranges never meet: they cost time alone.
    let apart =
        Bank { preset: vec![zone(&[(43, 0), (41, 0)]); 5000], instrument: vec![zone(&[(43, 0x0101), (53, 0)]); 5000] };
    assert_eq!(apart.refused(), Problem::TooComplex);
    // And few that are slow to put together.
    let modulators: Vec<[i16; 5]> = (0..100).map(|n| [2, 8, n, n, 0]).collect();
    let slow = Bank { preset: vec![zone(&[(41, 0)]); 20], instrument: vec![(vec![(53, 0)], modulators); 300] };
    assert_eq!(slow.refused(), Problem::TooComplex);
}
