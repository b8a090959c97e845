//! Files that are cut off, damaged, or made to harm: what can be played is, what was done is said with its place, and
//! never more than that.

use super::*;

fn refused(file: &[u8], path: &str) -> Problem {
    let error = read(file).expect_err(path);
    assert!(error.path == path && error.offset <= file.len(), "{error}, not in {path}");
    error.problem
}

/// Offset of the content of the `number`-th chunk of this name.
pub(super) fn find(file: &[u8], name: &[u8; 4], number: usize) -> usize {
    let found = file.windows(4).enumerate().filter(|(_, window)| window == name);
    found.map(|(at, _)| at + 8).nth(number).expect("a chunk")
}

pub(super) fn patched(file: &[u8], at: usize, value: u32) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    file
}

fn dls() -> Vec<u8> {
    sample().to_dls().expect("a file")
}

/// What is read of a damaged file can be written and read again, and what was wrong has its place.
fn survives(file: &[u8]) {
    let mut warnings = Warnings::default();
    match Collection::read(file.to_vec(), &mut warnings) {
        Ok(collection) => {
            assert!(warnings.first().iter().all(|w| w.error.offset <= file.len() && !w.error.path.is_empty()));
            let again = collection.to_dls().expect("what is read can be written");
            assert_eq!(Collection::read(again, &mut warnings).expect("and read"), collection);
            assert_eq!(warnings.count(), 0, "{:?}", warnings.first());
        }
        Err(error) => assert!(error.offset <= file.len() && !error.path.is_empty(), "{error}"),
    }
}

#[test]
fn cut_off_at_any_byte() {
    for file in [dls(), super::soundfont::bank().file()] {
        for length in 0..file.len() {
            survives(&file[..length]);
            // The same with a size that fits: now it is for the inner chunks to be missed.
            if length >= 12 {
                survives(&patched(&file[..length], 4, length as u32 - 8));
            }
        }
        let mut warnings = Warnings::default();
        Collection::read(file[..file.len() - 1].to_vec(), &mut warnings).expect("all but a byte");
        assert!(matches!(warnings.first()[0].error.problem, Problem::Overrun { .. }), "{:?}", warnings.first());
    }
}

#[test]
fn any_byte_changed() {
    for file in [dls(), super::soundfont::bank().file()] {
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, file[at] ^ 0x10] {
                let mut damaged = file.clone();
                damaged[at] = value;
                survives(&damaged);
            }
        }
    }
}

#[test]
fn sizes_that_are_a_few_bytes_off() {
    let file = dls();
    let size = file.len() as u32 - 8;
    for more in [1, 8, 1000, u32::MAX - size] {
        let (read, problem, _) = mended(&patched(&file, 4, size + more), "DLS");
        assert_eq!(read, sample());
        assert_eq!(problem, Problem::Overrun { size: (size + more - 4) as usize, room: size as usize - 4 });
    }
    for less in [2, 4, 8] {
        let (read, problem, _) = mended(&patched(&file, 4, size - less), "DLS");
        assert_eq!((read, problem), (sample(), Problem::Longer(less as usize)));
    }
    // What follows the collection is none of it.
    let followed = [&file[..], &[1; 9]].concat();
    let mut warnings = Warnings::default();
    assert_eq!(Collection::read(followed, &mut warnings), Ok(sample()));
    assert_eq!(warnings.count(), 0);
    // A list that is too long by what is no chunk.
    let tail = riff(b"DLS ", &[file[12..].to_vec(), list(b"abcd", &[vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 0]])]);
    let (read, problem, _) = mended(&tail, "DLS/abcd");
    assert_eq!((read, problem), (sample(), Problem::NoChunk(10)));
}

#[test]
fn a_list_that_is_cut_off_is_no_text() {
    let name = chunk(b"INAM", b"name\0");
    let file = riff(b"DLS ", &[list(b"INFO", &[name, chunk(b"LIST", b"abc")]), level_one(&[], &[], 0)[12..].to_vec()]);
    let read = read(&file).expect("a collection");
    assert_eq!(read.info, Info::named("name"));
    survives(&file);
}

#[test]
fn counts_of_all_sizes() {
    let file = dls();
    for value in [0, 3, 0x10_000, 0x4000_0000, u32::MAX] {
        for (name, field, path) in [(b"colh", 0, "DLS/colh"), (b"insh", 0, "DLS/lins/ins[0]/insh")] {
            if (name, value) != (b"insh", 3) {
                let (read, problem, _) = mended(&patched(&file, find(&file, name, 0) + field, value), path);
                assert!(matches!(problem, Problem::Count { .. }) && read == sample(), "{problem}");
            }
        }
        if value > 2 {
            for (name, number, field, path) in [
                (b"ptbl", 0, 4, "DLS/ptbl"),
                (b"art2", 0, 4, "DLS/lins/ins[0]/lrgn/rgn2[1]/lar2/art2"),
                // The region's sampling comes before the wave's.
                (b"wsmp", 1, 16, "DLS/wvpl/wave[0]/wsmp"),
            ] {
                let (read, problem, _) = mended(&patched(&file, find(&file, name, number) + field, value), path);
                let loops = matches!(problem, Problem::Value { what: "the number of loops", .. });
                assert!((loops || matches!(problem, Problem::Count { .. })) && read == sample(), "{problem}");
            }
        }
    }
}

#[test]
fn loops_outside_of_waves_are_cut_or_left_out() {
    let file = dls();
    let wave = find(&file, b"wsmp", 1) + 20;
    let region = find(&file, b"wsmp", 0) + 20;
    for (at, start, length, samples, left, path) in [
        (wave, 2, 6, 7, Some((2, 5)), "DLS/wvpl/wave[0]/wsmp"),
        (wave, 6, u32::MAX, 7, Some((6, 1)), "DLS/wvpl/wave[0]/wsmp"),
        (wave, 7, 1, 7, None, "DLS/wvpl/wave[0]/wsmp"),
        (wave, 2, 0, 7, None, "DLS/wvpl/wave[0]/wsmp"),
        (wave, u32::MAX, u32::MAX, 7, None, "DLS/wvpl/wave[0]/wsmp"),
        (region, 1, 3, 3, Some((1, 2)), "DLS/lins/ins[0]/lrgn/rgn2[1]/wsmp"),
    ] {
        let file = patched(&patched(&file, at + 8, start), at + 12, length);
        let (read, problem, remedy) = mended(&file, path);
        assert_eq!(problem, Problem::Loop { start: start.into(), length: length.into(), samples });
        let sampling = if at == wave { read.waves[0].sampling } else { read.instruments[0].regions[1].sampling };
        let looped = sampling.expect("a sampling").looped;
        assert_eq!(looped.map(|looped| (looped.start, looped.length)), left);
        assert_eq!(remedy, if left.is_some() { "the loop ends with the wave" } else { "the loop is left out" });
    }
    let (read, problem, _) = mended(&patched(&file, wave + 4, 3), "DLS/wvpl/wave[0]/wsmp");
    assert!(matches!(problem, Problem::Value { what: "the kind of loop", .. }), "{problem}");
    let looped = read.waves[0].sampling.expect("a sampling").looped.expect("a loop");
    assert_eq!(looped.kind, LoopKind::Forward);
    let (read, ..) = mended(&patched(&file, wave - 16, 128), "DLS/wvpl/wave[0]/wsmp");
    assert_eq!(read.waves[0].sampling.expect("a sampling").unity_note, 60);
}

/// The regions of the sample's instrument without one of them.
fn without(region: usize) -> Vec<Region> {
    let mut regions = sample().instruments[0].regions.clone();
    if region < regions.len() {
        regions.remove(region);
    }
    regions
}

#[test]
fn cues_and_links_that_lead_nowhere_cost_their_regions() {
    let file = dls();
    let table = find(&file, b"ptbl", 0) + 8;
    for offset in [1, 0xffff_fffe, u32::MAX] {
        let (read, problem, _) = mended(&patched(&file, table + 4, offset), "DLS/ptbl");
        assert_eq!(problem, Problem::Cue { cue: 1, offset });
        assert_eq!(read.instruments[0].regions, without(1), "the one that uses it");
    }
    let link = find(&file, b"wlnk", 0) + 8;
    let path = "DLS/lins/ins[0]/lrgn/rgn2[0]/wlnk";
    for index in [2, u32::MAX] {
        let (read, problem, remedy) = mended(&patched(&file, link, index), path);
        assert_eq!(problem, Problem::Reference { what: "cue", index: index as usize, count: 2 });
        assert_eq!((&read.instruments[0].regions, remedy), (&without(0), "the region is left out"));
    }
    // Of a wave for another synthesizer nothing is left to play.
    let mut level = level_one(&[], &[], 0);
    let wave = find(&level, b"data", 0);
    level[wave - 8..wave - 4].copy_from_slice(b"cdl ");
    level[wave..wave + 3].copy_from_slice(&[0x10, 0, 0]);
    assert!(matches!(read(&level).expect_err("cut").problem, Problem::Short { .. }));
}

#[test]
fn a_wave_that_is_left_out_cannot_be_played() {
    let never = chunk(b"cdl ", &[words(&[0x10]), numbers(&[0])].concat());
    let wave = list(b"wave", std::slice::from_ref(&never));
    let region = list(
        b"rgn ",
        &[
            chunk(b"rgnh", &words(&[0, 127, 0, 127, 0, 0])),
            chunk(b"wlnk", &[words(&[0, 0]), numbers(&[1, 0])].concat()),
        ],
    );
    let instrument = list(b"ins ", &[chunk(b"insh", &numbers(&[1, 0, 0])), list(b"lrgn", &[region])]);
    let chunks = [
        chunk(b"colh", &numbers(&[1])),
        list(b"lins", &[instrument]),
        chunk(b"ptbl", &numbers(&[8, 1, 0])),
        list(b"wvpl", &[wave]),
    ];
    assert_eq!(refused(&riff(b"DLS ", &chunks), "DLS/lins/ins[0]/lrgn/rgn[0]/wlnk"), Problem::LeftOut);
    let all = [&[never], &chunks[..]].concat();
    assert_eq!(read(&riff(b"DLS ", &all)).expect_err("not for us").problem, Problem::NotForUs);
}

#[test]
fn waves_that_cannot_be_played_cost_their_regions() {
    let file = dls();
    let format = find(&file, b"fmt ", 0);
    for (field, value) in [(0, 0x0001_0055), (0, 0x0003_0001), (0, 0), (0, 1), (12, 0x000c_0002)] {
        let (read, problem, remedy) = mended(&patched(&file, format + field, value), "DLS/wvpl/wave[0]/fmt");
        assert!(matches!(problem, Problem::Format { .. }), "{problem}");
        assert_eq!((remedy, read.waves.len(), read.instruments[0].regions.len()), ("the wave is left out", 1, 1));
    }
    for (rate, taken) in [(0, 44_100), (MAX_RATE + 1, MAX_RATE), (u32::MAX, MAX_RATE)] {
        let (read, problem, _) = mended(&patched(&file, format + 4, rate), "DLS/wvpl/wave[0]/fmt");
        assert!(matches!(problem, Problem::Value { what: "the sampling rate", .. }), "{problem}");
        assert_eq!(read.waves[0].rate, taken);
    }
    // An empty wave, in a file that is otherwise whole.
    let mut level = level_one(&[], &[], 0);
    let data = find(&level, b"data", 0);
    level.drain(data..data + 4);
    for (name, number) in [(b"wave", 0), (b"wvpl", 0)] {
        let size = find(&level, name, number) - 12;
        let old = u32::from_le_bytes(level[size..size + 4].try_into().expect("four"));
        level = patched(&level, size, old - 4);
    }
    let size = level.len() as u32 - 8;
    let level = patched(&patched(&level, 4, size), data - 4, 0);
    let problem = refused(&level, "DLS/wvpl/wave[0]");
    assert!(matches!(problem, Problem::Value { what: "the length of a wave", value: 0, .. }), "{problem}");
}

#[test]
fn waves_of_other_codings_are_decoded() {
    let with = |format: &[u8], data: &[u8]| {
        let wave = list(b"wave", &[chunk(b"fmt ", format), chunk(b"data", data)]);
        let file = level_one(&[], &[], 0);
        let pool = find(&file, b"wvpl", 0) - 16;
        let file = riff(b"DLS ", &[file[12..pool].to_vec(), list(b"wvpl", &[wave])]);
        let mut warnings = Warnings::default();
        let read = Collection::read(file, &mut warnings).expect("a collection");
        assert_eq!(warnings.count(), 0, "{:?}", warnings.first());
        read.waves[0].samples.to_vec()
    };
    let format = |tag: u16, channels: u16, block: u16, bits: u16| {
        [words(&[tag, channels]), numbers(&[8000, 8000]), words(&[block, bits])].concat()
    };
    assert_eq!(with(&format(1, 1, 3, 24), &[9, 1, 0, 9, 0, 0x80]), [1, i16::MIN]);
    assert_eq!(with(&format(1, 2, 4, 16), &[1, 0, 3, 0, 5, 0, 5, 0]), [2, 5]);
    assert_eq!(with(&format(6, 1, 1, 8), &[0xd5, 0x2a]), [8, -32_256]);
    assert_eq!(with(&format(7, 1, 1, 8), &[0x80, 0x00]), [32_124, -32_124]);
    // A level of 100 and a step of 16 that is never used; then one up, and one down by a larger one.
    let microsoft = [&[2u8][..], &words(&[16, 100, 100]), &[0x1f]].concat();
    assert_eq!(with(&format(2, 1, 8, 4), &microsoft), [100, 100, 16, -16]);
    // The smallest step of seven: a quarter, a half and a whole of it, and an eighth.
    assert_eq!(with(&format(17, 1, 5, 4), &[100, 0, 0, 0, 0x8f]), [100, 89, 89 - 2]);
    let extensible = [format(0xfffe, 1, 2, 16), words(&[22, 16]), numbers(&[4]), words(&[1, 0])].concat();
    assert_eq!(with(&extensible, &[7, 0]), [7]);
}

#[test]
fn ranges_programs_and_chunks_that_are_wrong() {
    let file = dls();
    let header = find(&file, b"rgnh", 0);
    for range in [0x0001_0002, 0xffff_ffff] {
        let (read, problem, _) = mended(&patched(&file, header, range), "DLS/lins/ins[0]/lrgn/rgn2[0]/rgnh");
        assert!(matches!(problem, Problem::Value { what: "the key range", .. }), "{problem}");
        assert_eq!(read.instruments[0].regions, without(0));
    }
    let (read, ..) = mended(&patched(&file, header, 0x0080_0005), "DLS/lins/ins[0]/lrgn/rgn2[0]/rgnh");
    assert_eq!(read.instruments[0].regions[0].keys, (5, 127));
    // An instrument that no song can choose is not one of those that it can.
    let instrument = find(&file, b"insh", 1);
    for (field, value, name) in [(8, 128, "the program"), (4, 0x80, "the bank"), (4, 0x0100_0000, "the bank")] {
        let (read, problem, _) = mended(&patched(&file, instrument + field, value), "DLS/lins/ins[1]/insh");
        assert!(matches!(problem, Problem::Value { what, .. } if what == name), "{problem}");
        assert_eq!(read.instruments[..], sample().instruments[..1]);
    }
    for (name, path, regions) in [(b"colh", "DLS", without(9)), (b"wlnk", "DLS/lins/ins[0]/lrgn/rgn2[0]", without(0))] {
        let mut file = file.clone();
        let at = find(&file, name, 0) - 8;
        file[at] = b'X';
        let (read, problem, _) = mended(&file, path);
        assert_eq!((problem, &read.instruments[0].regions), (Problem::Missing(Name(*name)), &regions));
    }
    let mut lost = file.clone();
    let at = find(&lost, b"insh", 0) - 8;
    lost[at] = b'X';
    assert_eq!(refused(&lost, "DLS/lins/ins[0]"), Problem::Missing(Name(*b"insh")), "the only one with regions");
    let mut twice = file.clone();
    let at = find(&twice, b"vers", 0) - 8;
    twice[at..at + 4].copy_from_slice(b"colh");
    assert_eq!(mended(&twice, "DLS/colh").1, Problem::Repeated);
    assert_eq!(refused(b"RIFF\x04\0\0\0WAVE", "WAVE"), Problem::NotABank);
    assert_eq!(refused(b"", "the file"), Problem::NotABank);
    assert_eq!(refused(b"RIFF\x04\0\0\0    ", "the file"), Problem::NotABank);
}

#[test]
fn warnings_are_twenty_and_a_count() {
    let mut many = sample();
    many.instruments[0].regions = vec![Region::of(0); 30];
    let mut file = many.to_dls().expect("a file");
    for number in 0..25 {
        let at = find(&file, b"wlnk", number) + 8;
        file = patched(&file, at, 77);
    }
    let mut warnings = Warnings::default();
    let read = Collection::read(file, &mut warnings).expect("what is left");
    assert_eq!((read.instruments[0].regions.len(), warnings.first().len(), warnings.count()), (5, MOST_WARNINGS, 25));
    let complaints: Vec<String> = warnings.complaints().collect();
    assert_eq!((complaints.len(), complaints[20].as_str()), (21, "and 5 more of the kind"));
    assert!(complaints[0].starts_with("DLS/lins/ins[0]/lrgn/rgn2[0]/wlnk, byte "), "{}", complaints[0]);
    assert!(complaints[0].ends_with(": refers to cue 77 of 2; the region is left out"), "{}", complaints[0]);
}

#[test]
fn lists_in_lists_for_ever() {
    let mut deep = chunk(b"abcd", &[]);
    for _ in 0..5000 {
        deep = list(b"lins", &[deep]);
    }
    let file = riff(b"DLS ", &[chunk(b"colh", &numbers(&[0])), deep]);
    assert_eq!(read(&file).expect("an empty collection"), Collection::default());
}

#[test]
fn what_a_program_made_wrong_is_not_written() {
    let mut wrong = sample();
    wrong.instruments[0].regions[1].link.wave = 2;
    let error = wrong.to_dls().expect_err("a missing wave");
    assert_eq!(error.to_string(), "instrument 0, region 1, byte 0: refers to wave 2 of 2");
    let mut wrong = sample();
    wrong.waves[0].samples = Samples::new([]);
    assert!(wrong.to_dls().is_err());
}
