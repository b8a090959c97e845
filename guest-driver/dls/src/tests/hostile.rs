//! Files that are cut off, damaged, or made to harm: an error that says where, and never more than that.

use super::*;

fn refused(file: &[u8], path: &str) -> Problem {
    let error = Collection::read(file).expect_err(path);
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

#[test]
fn cut_off_at_any_byte() {
    for file in [dls(), super::soundfont::bank().file()] {
        for length in 0..file.len() {
            let error = Collection::read(&file[..length]).expect_err("a cut file");
            assert!(error.offset <= length && !error.path.is_empty(), "{error}");
            // The same with a size that fits: now it is for the inner chunks to be missed.
            if length >= 12 {
                let shorter = patched(&file[..length], 4, length as u32 - 8);
                if let Err(error) = Collection::read(&shorter) {
                    assert!(error.offset <= length, "{error}");
                }
            }
        }
    }
}

#[test]
fn any_byte_changed() {
    for file in [dls(), super::soundfont::bank().file()] {
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, file[at] ^ 0x10] {
                let mut damaged = file.clone();
                damaged[at] = value;
                match Collection::read(&damaged) {
                    Ok(read) => {
                        let again = read.to_dls().expect("what is read can be written");
                        assert_eq!(Collection::read(&again).expect("and read"), read);
                    }
                    Err(error) => assert!(error.offset <= file.len() && !error.path.is_empty()),
                }
            }
        }
    }
}

#[test]
fn counts_of_all_sizes() {
    let file = dls();
    let mut found = Vec::new();
    for value in [3, 0x10_000, 0x4000_0000, u32::MAX] {
        for (name, field, path) in [
            (b"colh", 0, "DLS/colh"),
            (b"insh", 0, "DLS/lins/ins[0]/insh"),
            (b"ptbl", 4, "DLS/ptbl"),
            (b"art2", 4, "DLS/lins/ins[0]/lrgn/rgn2[1]/lar2/art2"),
            (b"wsmp", 16, "DLS/wvpl/wave[0]/wsmp"),
        ] {
            // The region's sampling comes before the wave's.
            let number = usize::from(name == b"wsmp");
            if (name, value) != (b"insh", 3) {
                found.push(refused(&patched(&file, find(&file, name, number) + field, value), path));
            }
        }
    }
    let counted = |problem: &Problem| {
        matches!(problem, Problem::Count { .. } | Problem::Value { what: "the number of loops", .. })
    };
    assert!(found.iter().all(counted), "{found:?}");
}

#[test]
fn loops_outside_of_waves() {
    let file = dls();
    let wave = find(&file, b"wsmp", 1) + 20;
    let region = find(&file, b"wsmp", 0) + 20;
    for (at, start, length, samples, path) in [
        (wave, 2, 6, 7, "DLS/wvpl/wave[0]/wsmp"),
        (wave, 7, 1, 7, "DLS/wvpl/wave[0]/wsmp"),
        (wave, 2, 0, 7, "DLS/wvpl/wave[0]/wsmp"),
        (wave, u32::MAX, u32::MAX, 7, "DLS/wvpl/wave[0]/wsmp"),
        (region, 1, 3, 3, "DLS/lins/ins[0]/lrgn/rgn2[1]/wsmp"),
    ] {
        let file = patched(&patched(&file, at + 8, start), at + 12, length);
        assert_eq!(refused(&file, path), Problem::Loop { start, length, samples });
    }
    assert!(matches!(refused(&patched(&file, wave + 4, 3), "DLS/wvpl/wave[0]/wsmp"), Problem::Value { .. }));
}

#[test]
fn cues_and_links_that_lead_nowhere() {
    let file = dls();
    let table = find(&file, b"ptbl", 0) + 8;
    for offset in [1, 0xffff_fffe, u32::MAX] {
        assert_eq!(refused(&patched(&file, table + 4, offset), "DLS/ptbl"), Problem::Cue { cue: 1, offset });
    }
    let link = find(&file, b"wlnk", 0) + 8;
    let path = "DLS/lins/ins[0]/lrgn/rgn2[0]/wlnk";
    for index in [2, u32::MAX] {
        let problem = Problem::Reference { what: "cue", index: index as usize, count: 2 };
        assert_eq!(refused(&patched(&file, link, index), path), problem);
    }
    // A wave for another synthesizer cannot be played by a region for this one.
    let mut level = level_one(&[], &[], 0);
    let wave = find(&level, b"data", 0);
    level[wave - 8..wave - 4].copy_from_slice(b"cdl ");
    level[wave..wave + 3].copy_from_slice(&[0x10, 0, 0]);
    assert!(matches!(Collection::read(&level).expect_err("cut").problem, Problem::Short { .. }));
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
    assert_eq!(Collection::read(&riff(b"DLS ", &all)).expect_err("not for us").problem, Problem::NotForUs);
}

#[test]
fn waves_that_cannot_be_played() {
    let file = dls();
    let format = find(&file, b"fmt ", 0);
    for (field, value) in [(0, 0x0001_0002), (0, 0x0002_0001), (0, 0), (12, 0x0018_0002)] {
        let problem = refused(&patched(&file, format + field, value), "DLS/wvpl/wave[0]/fmt");
        assert!(matches!(problem, Problem::Format { .. }), "{problem}");
    }
    for rate in [0, MAX_RATE + 1, u32::MAX] {
        let problem = refused(&patched(&file, format + 4, rate), "DLS/wvpl/wave[0]");
        assert!(matches!(problem, Problem::Value { what: "the sampling rate", .. }), "{problem}");
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
fn ranges_programs_and_chunks_that_are_wrong() {
    let file = dls();
    let header = find(&file, b"rgnh", 0);
    for range in [0x0080_0000, 0x0001_0002, 0xffff_ffff] {
        let problem = refused(&patched(&file, header, range), "DLS/lins/ins[0]/lrgn/rgn2[0]/rgnh");
        assert!(matches!(problem, Problem::Value { what: "the key range", .. }), "{problem}");
    }
    let problem = refused(&patched(&file, find(&file, b"insh", 0) + 8, 128), "DLS/lins/ins[0]/insh");
    assert!(matches!(problem, Problem::Value { what: "the program", value: 128, .. }), "{problem}");
    for (name, path) in [(b"insh", "DLS/lins/ins[0]"), (b"colh", "DLS"), (b"wlnk", "DLS/lins/ins[0]/lrgn/rgn2[0]")] {
        let mut file = file.clone();
        let at = find(&file, name, 0) - 8;
        file[at] = b'X';
        assert_eq!(refused(&file, path), Problem::Missing(Name(*name)));
    }
    let mut twice = file.clone();
    let at = find(&twice, b"vers", 0) - 8;
    twice[at..at + 4].copy_from_slice(b"colh");
    assert_eq!(refused(&twice, "DLS/colh"), Problem::Repeated);
    assert_eq!(refused(b"RIFF\x04\0\0\0WAVE", "WAVE"), Problem::NotABank);
    assert_eq!(refused(b"", "the file"), Problem::NotABank);
}

#[test]
fn lists_in_lists_for_ever() {
    let mut deep = chunk(b"abcd", &[]);
    for _ in 0..5000 {
        deep = list(b"lins", &[deep]);
    }
    let file = riff(b"DLS ", &[chunk(b"colh", &numbers(&[0])), deep]);
    assert_eq!(Collection::read(&file).expect("an empty collection"), Collection::default());
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
