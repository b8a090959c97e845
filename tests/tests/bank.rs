//! Banks of instruments on the command line, and against readers that nobody here wrote: gigtools' `dlsdump`,
//! `rifftree` and `sf2dump`.

use anyhow::{Context, ensure};
use dmus_card::collection::connection::{Destination, Source};
use dmus_card::collection::{Collection, Instrument, Region};
use dmus_tests::programs::{self, run, said, script};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Runs `dmus-card bank`, which must succeed, and gives its output.
fn bank(arguments: &[&str], dir: &Path) -> anyhow::Result<String> {
    let done = run(programs::card()?.arg("bank").args(arguments).current_dir(dir))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(String::from_utf8(done.stdout)?)
}

/// What another program says of a file.
fn peer(program: &str, file: &Path) -> anyhow::Result<String> {
    let done = run(script("peers").arg(program).arg(file))?;
    ensure!(done.status.success(), "{}", said(&done));
    // Names need not be UTF-8.
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A SoundFont of a few hundred samples.
fn soundfont() -> anyhow::Result<PathBuf> {
    let done = run(script("peers").arg("--bank"))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(PathBuf::from(String::from_utf8(done.stdout)?.trim()))
}

/// What stands between two marks.
fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(start)?;
    Some(rest.split_once(end).map_or(rest, |(found, _)| found))
}

#[test]
fn the_exported_bank_is_what_another_reader_of_dls_sees_too() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    bank(&["export", "--dls", "gm.dls"], dir.path())?;
    let list: Value = serde_json::from_str(&bank(&["list", "gm.dls", "--json"], dir.path())?)?;
    let mut expected = vec![];
    for (number, wave) in list["waves"].as_array().context("waves")?.iter().enumerate() {
        expected.push(format!("Sample {}) {}, {}Hz, 1 Channels", number + 1, wave["name"], wave["rate"]));
    }
    for (number, instrument) in list["instruments"].as_array().context("instruments")?.iter().enumerate() {
        let program = &instrument["program"];
        expected.push(format!("Instrument {}) {},  MIDIBank=0, MIDIProgram={program}", number + 1, instrument["name"]));
        for (number, region) in instrument["regions"].as_array().context("regions")?.iter().enumerate() {
            let wave = &list["waves"][region["wave"].as_u64().context("a wave")? as usize];
            let range = |name: &str| format!("{}-{}", region[name][0], region[name][1]);
            let (keys, velocities) = (range("keys"), range("velocities"));
            expected.push(format!(
                "Region {}) Sample: {}, {}Hz, KeyRange={keys}, VelocityRange={velocities}, Layer=0",
                number + 1,
                wave["name"],
                wave["rate"]
            ));
            expected.push(format!("Loops={}", u8::from(!region["sampling"]["loop"].is_null())));
        }
    }
    assert_eq!(expected.len(), 680 + 129 + 2 * 884);
    let dump = peer("dlsdump", &dir.path().join("gm.dls"))?;
    let known = ["Sample ", "Instrument ", "Region ", "Loops="];
    let seen: Vec<&str> = dump.lines().map(str::trim).filter(|l| known.iter().any(|k| l.starts_with(k))).collect();
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.len(), expected.len());

    let tree = peer("rifftree", &dir.path().join("gm.dls"))?;
    for (chunk, count) in
        [("LIST(ins )", 129), ("LIST(rgn2)", 884), ("wlnk", 884), ("LIST(wave)", 680), ("data", 680), ("ptbl", 1)]
    {
        let found = tree.lines().filter(|line| line.trim().starts_with(chunk)).count();
        assert_eq!(found, count, "{chunk}");
    }
    Ok(())
}

#[test]
fn exports_are_the_same_bytes_each_time_and_survive_another_export() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for file in ["one.dls", "two.dls"] {
        bank(&["export", "--dls", file], dir.path())?;
    }
    bank(&["export", "one.dls", "--dls", "three.dls"], dir.path())?;
    let [one, two, three] = ["one.dls", "two.dls", "three.dls"].map(|file| std::fs::read(dir.path().join(file)));
    let one = one?;
    assert!(one == two? && one == three?);
    // A SoundFont too becomes a DLS collection with the same instruments.
    let font = soundfont()?;
    let font = font.to_str().context("a path")?;
    bank(&["export", font, "--dls", "font.dls"], dir.path())?;
    let lists = [font, "font.dls"].map(|file| bank(&["list", file, "--json"], dir.path()));
    let [original, exported] = lists;
    assert!(original? == exported?);
    Ok(())
}

/// A region of a SoundFont's instrument: sample, start and end of the loop, lowest and highest key. Its attack, decay
/// and release are known in seconds.
type Zone = (String, u32, u32, u8, u8);

/// Seconds of an envelope's segment at middle C.
fn seconds(instrument: &Instrument, region: &Region, segment: Destination) -> f64 {
    let part = |source| match source {
        Source::NONE => 1.0,
        Source::KEY => 60.0 / 128.0,
        _ => 0.0,
    };
    let blocks = instrument.articulation(region).iter().filter(|block| block.destination == segment);
    let cents: f64 = blocks.map(|block| f64::from(block.scale) / 65_536.0 * part(block.source)).sum();
    (cents / 1200.0).exp2()
}

#[test]
fn a_soundfont_is_read_as_another_reader_reads_it() -> anyhow::Result<()> {
    let font = soundfont()?;
    let read = Collection::read(std::fs::read(&font)?, &mut Default::default())?;
    let dump = peer("sf2dump", &font)?;
    let count = |title: &str| -> anyhow::Result<usize> {
        let line = dump.lines().find(|line| line.starts_with(title)).context("a title")?;
        Ok(between(line, "(", ")").context("a count")?.parse()?)
    };
    assert_eq!((read.instruments.len(), read.waves.len()), (count("Presets")?, count("Samples")?));

    // Samples: name, rate and length. Presets: name, program, bank.
    let (mut samples, mut presets) = (HashSet::new(), HashSet::new());
    let mut regions: HashMap<Zone, Vec<[f64; 3]>> = HashMap::new();
    let mut name = String::new();
    let mut region = None;
    for line in dump.lines().map(str::trim) {
        if let Some(rate) = between(line, "SampleRate: ", ",") {
            name = line.split_once(" (Depth").context("a name")?.0.into();
            samples.insert((name.clone(), rate.parse::<u32>()?, 0));
        } else if let (Some(start), Some(end)) = (between(line, "Start: ", ","), between(line, ", End: ", ",")) {
            let length: usize = end.parse::<usize>()? - start.parse::<usize>()?;
            let rate = samples.iter().find(|s| s.0 == name && s.2 == 0).context("a rate")?.1;
            samples.remove(&(name.clone(), rate, 0));
            samples.insert((name.clone(), rate, length));
        } else if let Some(program) = between(line, " (Preset: ", ",") {
            let bank: u16 = between(line, "Bank: ", ",").context("a bank")?.parse()?;
            name = line.split_once(" (Preset").context("a name")?.0.into();
            presets.insert((name.clone(), program.parse::<u8>()?, bank));
        } else if let (Some(sample), Some(start)) =
            (between(line, "Sample: ", ", Fine"), between(line, "Loop Start: ", ","))
        {
            let end = between(line, "Loop End: ", ",").context("an end")?;
            region = Some((sample.to_owned(), start.parse::<u32>()?, end.parse::<u32>()?, 0, 127));
        } else if let (Some(region), Some(keys)) = (&mut region, between(line, "Key range=", ",")) {
            if let Some((low, high)) = keys.split_once('-') {
                (region.3, region.4) = (low.parse()?, high.parse()?);
            }
        } else if let (Some(attack), Some(region)) =
            (between(line, "EG1Attack=", "s"), region.take_if(|_| line.starts_with("EG1")))
        {
            let (decay, release) = (between(line, "EG1Decay=", "s"), between(line, "EG1Release=", "s"));
            let times = [Some(attack), decay, release].map(|t| t.and_then(|t| t.parse().ok()).unwrap_or(0.0));
            regions.entry(region).or_default().push(times);
        }
    }
    assert!(regions.len() > 500, "{} regions", regions.len());
    for wave in &read.waves {
        let sample = (wave.info.name().to_owned(), wave.rate, wave.samples.len());
        assert!(samples.contains(&sample), "{sample:?}");
    }
    // Of 100 dB, DLS counts 96; the shortest time there is becomes none.
    let near = |is: f64, should: f64| (is - should).abs() < should * 0.002 || should < 0.001;
    for instrument in &read.instruments {
        let bank = if instrument.drum { 128 } else { instrument.bank >> 7 };
        let preset = (instrument.info.name().to_owned(), instrument.program, bank);
        assert!(presets.contains(&preset), "{preset:?}");
        for region in &instrument.regions {
            let Some(looped) = region.sampling.and_then(|sampling| sampling.looped) else {
                continue;
            };
            let sample = read.waves[region.link.wave].info.name().to_owned();
            let (start, end) = (looped.start, looped.start + looped.length);
            let [attack, decay, release] = [Destination::EG1_ATTACK, Destination::EG1_DECAY, Destination::EG1_RELEASE]
                .map(|segment| seconds(instrument, region, segment));
            // A preset may narrow the keys of its instruments.
            let hit = regions.iter().any(|((name, from, to, low, high), times)| {
                (name, *from, *to) == (&sample, start, end)
                    && *low <= region.keys.0
                    && region.keys.1 <= *high
                    && times
                        .iter()
                        .any(|t| near(attack, t[0]) && near(decay, t[1] * 0.96) && near(release, t[2] * 0.96))
            });
            assert!(hit, "{preset:?}: {sample} {start}..{end} {:?}, {attack} {decay} {release} s", region.keys);
        }
    }
    Ok(())
}

#[test]
fn lists_are_for_people_and_end_with_the_reader() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    bank(&["export", "--dls", "gm.dls"], dir.path())?;
    let list = bank(&["list", "gm.dls"], dir.path())?;
    assert!(list.starts_with("General MIDI: 129 instruments, 884 regions, 680 waves\n"), "{list}");
    assert!(list.contains("\nprogram 40, bank 0.0: Violin\n") && list.contains("bank 0.0, drums: Standard Kit\n"));
    let program = programs::card()?.get_program().to_owned();
    let mut cut = std::process::Command::new("bash");
    let piped = "set -o pipefail; \"$0\" bank list gm.dls | head -n 1";
    let done = run(cut.args(["-c", piped]).arg(program).current_dir(dir.path()))?;
    assert!(done.status.success() && said(&done).lines().count() == 1, "{}", said(&done));
    Ok(())
}

#[test]
fn what_is_wrong_in_a_bank_is_mended_and_said_and_refused_with_strict() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    bank(&["export", "--dls", "count.dls"], dir.path())?;
    let mut count = std::fs::read(dir.path().join("count.dls"))?;
    count[20] = 128;
    std::fs::write(dir.path().join("count.dls"), count)?;
    let wrong = "DLS/colh, byte 12: says 128 instruments, and there are 129";
    let mended = format!("{wrong}; what is there counts");

    let list = bank(&["list", "count.dls"], dir.path())?;
    assert!(list.contains(&format!("\nmended: {mended}\n")), "{list}");
    let list: Value = serde_json::from_str(&bank(&["list", "count.dls", "--json"], dir.path())?)?;
    assert_eq!((&list["mended"][0], &list["mended_count"]), (&mended.as_str().into(), &1.into()));
    for arguments in [
        &["bank", "list", "count.dls"][..],
        &["bank", "export", "count.dls", "--dls", "out.dls"],
        &["render", "--bank", "count.dls", "-o", "out.wav"],
    ] {
        let done = run(programs::card()?.args(arguments).current_dir(dir.path()))?;
        let words = said(&done);
        assert_eq!((done.status.code(), words.matches(&mended).count()), (Some(0), 1), "{words}");
        let done = run(programs::card()?.args(arguments).arg("--strict").current_dir(dir.path()))?;
        let words = said(&done);
        assert_eq!(done.status.code(), Some(3), "{words}");
        assert!(words.contains(&format!("cannot use count.dls: {wrong} (--strict)")), "{words}");
    }
    Ok(())
}

#[test]
fn banks_that_cannot_be_used_are_refused_in_one_sentence() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    bank(&["export", "--dls", "good.dls"], dir.path())?;
    let good = std::fs::read(dir.path().join("good.dls"))?;
    let mut font = std::fs::read(soundfont()?)?;
    font.truncate(5000);
    for (name, bytes) in [
        ("empty.dls", &b""[..]),
        ("text.sf2", b"no instruments at all"),
        ("wave.dls", b"RIFF\x04\0\0\0WAVE"),
        ("cut.dls", &good[..90_000]),
        ("cut.sf2", &font),
    ] {
        std::fs::write(dir.path().join(name), bytes)?;
    }
    let content = good.len() - 12;
    let cut = format!("byte 0: a chunk of {content} bytes where 89988 are left: the file is truncated or damaged");
    for (file, complaint) in [
        ("missing.dls", "No such file"),
        (".", "Is a directory"),
        ("empty.dls", "neither a DLS collection"),
        ("text.sf2", "neither a DLS collection"),
        ("wave.dls", "neither a DLS collection"),
        ("cut.dls", &cut),
        ("cut.sf2", "truncated or damaged"),
        ("/dev/zero", "neither a DLS collection"),
    ] {
        for arguments in [
            &["bank", "list", file][..],
            &["bank", "list", file, "--json"],
            &["bank", "export", file, "--dls", "out.dls"],
        ] {
            let done = run(programs::card()?.args(arguments).current_dir(dir.path()))?;
            let words = said(&done);
            assert_eq!(done.status.code(), Some(3), "{file}: {words}");
            assert!(words.contains(file) && words.contains(complaint), "{words}");
            assert_eq!(words.trim().lines().count(), 1, "{words}");
        }
    }
    assert!(!dir.path().join("out.dls").exists());
    let done = run(programs::card()?.args(["bank", "export", "--dls", "no/such/dir.dls"]).current_dir(dir.path()))?;
    assert!(done.status.code() == Some(1) && said(&done).contains("no/such/dir.dls"), "{}", said(&done));
    for arguments in [&["bank"][..], &["bank", "list"], &["bank", "export"], &["bank", "dance"]] {
        assert_eq!(run(programs::card()?.args(arguments))?.status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [["bank", "list", "--help"], ["bank", "export", "--help"]] {
        let done = run(programs::card()?.args(arguments))?;
        assert!(done.status.success() && said(&done).contains("Usage"), "{arguments:?}");
    }
    Ok(())
}
