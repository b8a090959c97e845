//! Scenarios as a user of CI runs them: what passes, what fails, what is the host's fault, and what is told of each.

use anyhow::{Context, ensure};
use dmus_tests::programs::{self, LIMIT, Running, descendants, repository, run, said, signal, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `dmus-run hil` with the guest and the QEMU of the scripts, in a folder.
fn hil(dir: &Path) -> anyhow::Result<Command> {
    hil_with(dir, &repository().join("qemu-scripts/qemu"))
}

/// The same with another QEMU.
fn hil_with(dir: &Path, qemu: &Path) -> anyhow::Result<Command> {
    let mut command = programs::runner()?;
    command.arg("hil").arg("--elf").arg(programs::guest()?).arg("--qemu").arg(qemu).current_dir(dir);
    Ok(command)
}

fn write(dir: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    fs::write(dir.join(name), text).with_context(|| name.to_owned())
}

/// The results of a run, which ended with this code.
fn results(dir: &Path, done: &Output, code: i32) -> anyhow::Result<Value> {
    ensure!(done.status.code() == Some(code), "{}", said(done));
    Ok(serde_json::from_str(&fs::read_to_string(dir.join("hil-results/results.json"))?)?)
}

/// The outcome of each case.
fn outcomes(results: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cases = results["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    cases.iter().map(|case| (text(&case["name"]), text(&case["outcome"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

/// A QEMU that does something before it becomes the real one, which gets `"$@"`.
fn qemu_after(dir: &Path, script: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join("a-qemu");
    let real = repository().join("qemu-scripts/qemu");
    fs::write(&path, format!("#!/bin/bash\n{script}\nexec '{}' \"$@\"\n", real.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

const PLAYS: &str = "[expect]\nexit = 0\n";

/// The project's own scenarios, by the script that builds what they boot.
#[test]
fn all_scenarios_of_this_project_pass() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = programs::script("hil");
    let done = run(command.arg(repository().join("tests/scenarios")).current_dir(dir.path()))?;
    let results = results(dir.path(), &done, 0)?;
    ensure!(outcomes(&results).iter().all(|(_, outcome)| outcome == "passed"), "{}", said(&done));
    ensure!(outcomes(&results).len() >= 10, "{results}");
    Ok(())
}

#[test]
fn what_does_not_hold_fails_with_its_evidence_and_the_rest_passes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "good.toml", "[guest]\nwidth = [4, 8]\n[expect]\nserial = ['^dmus: played .* width=(4|8)$']")?;
    let bad = "[expect]\nserial-in-order = ['played', 'progress']\naudio.silent = [{ from = 0, to = 1 }]\n\
        counters.presented = { max = 3 }\nviolations = ['tail-overrun']";
    write(dir.path(), "bad.toml", bad)?;
    let done = run(hil(dir.path())?.arg("."))?;
    let results = results(dir.path(), &done, 1)?;
    let expected = [("bad", "failed"), ("good,width=4", "passed"), ("good,width=8", "passed")];
    assert_eq!(outcomes(&results), pairs(&expected));
    assert_eq!(results["cases"][0]["nondeterministic"], false);
    let reasons = results["cases"][0]["reasons"].to_string();
    for reason in ["progress", "not silent from 0 to 1 s", "presented is 1922, not 3 or less", "tail-overrun"] {
        assert!(reasons.contains(reason), "{reason}: {reasons}");
    }
    // What passed left nothing, and what failed all that there is of it.
    let kept = dir.path().join("hil-results");
    assert!(!kept.join("good,width=4").exists());
    let named: BTreeSet<String> =
        results["cases"][0]["evidence"].as_array().context("no list")?.iter().map(|file| file.to_string()).collect();
    for file in ["serial.txt", "card.log", "report.json", "run.dmc", "run.html", "run.sh", "counters.json"] {
        assert!(kept.join("bad").join(file).metadata()?.len() > 0 || file == "card.log", "{file} is empty");
        assert!(named.contains(&format!("\"bad/{file}\"")) && named.contains(&format!("\"bad/again/{file}\"")));
    }
    let size = |file: &String| kept.join(file.trim_matches('"')).metadata().map_or(0, |known| known.len());
    assert!(named.iter().map(size).sum::<u64>() < 30 << 20);
    let junit = fs::read_to_string(kept.join("junit.xml"))?;
    assert!(junit.contains("tests=\"3\" skipped=\"0\" failures=\"1\" errors=\"0\""), "{junit}");
    assert!(junit.contains("[[ATTACHMENT|hil-results/bad/run.dmc]]"), "{junit}");
    let index = fs::read_to_string(kept.join("index.html"))?;
    assert!(index.contains("<a href=\"bad/run.html\">"), "{index}");
    // By hand it is the same run: card and QEMU by the script, in whatever folder that is.
    let moved = dir.path().join("moved, and away");
    fs::rename(kept.join("bad"), &moved)?;
    let done = run(Command::new("sh").arg(moved.join("run.sh")).env("TMPDIR", dir.path()))?;
    let said = said(&done);
    ensure!(done.status.code() == Some(99) && said.contains("dmus: played"), "{said}");
    let (_, wrote) = said.split_once("go into ").context("it does not say where")?;
    let wrote = Path::new(wrote.lines().next().unwrap_or_default());
    let rendered = run(programs::card()?.args(["render", "-o", "rendered.wav"]).current_dir(dir.path()))?;
    ensure!(rendered.status.success(), "{}", programs::said(&rendered));
    ensure!(fs::read(wrote.join("audio.wav"))? == fs::read(dir.path().join("rendered.wav"))?, "other audio");
    // The recording is one that a replay takes.
    let replay = run(programs::card()?.arg("replay").arg(moved.join("run.dmc")))?;
    ensure!(replay.status.success(), "{}", programs::said(&replay));
    Ok(())
}

#[test]
fn what_ends_otherwise_the_second_time_is_nondeterministic_and_the_host_is_never_the_guest() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "once.toml", "[expect]\nserial = ['width=8']")?;
    let wide =
        qemu_after(dir.path(), "[[ -e was ]] || { touch was; set -- \"$@\" -fw_cfg name=opt/dmus/width,string=4; }")?;
    let done = run(hil_with(dir.path(), &wide)?.arg("once.toml"))?;
    let found = results(dir.path(), &done, 1)?;
    assert_eq!(
        (&found["cases"][0]["nondeterministic"], &found["cases"][0]["outcome"]),
        (&true.into(), &"failed".into())
    );
    assert!(said(&done).contains("NONDETERMINISTIC: a second run of it passed"), "{}", said(&done));
    // QEMU is missing, cannot start, or is killed in the middle; the image is none.
    for (script, why) in [
        ("exit 127", "QEMU cannot be started"),
        ("echo no memory >&2; exit 1", "QEMU failed: no memory"),
        ("(sleep 0.2; kill -9 $$) &", "QEMU was killed while the guest ran (signal 9)"),
    ] {
        let qemu = qemu_after(dir.path(), script)?;
        let done = run(hil_with(dir.path(), &qemu)?.arg("once.toml"))?;
        let found = results(dir.path(), &done, 125)?;
        assert_eq!(outcomes(&found), pairs(&[("once", "error")]));
        assert!(said(&done).contains(why), "{why}: {}", said(&done));
        assert!(fs::read_to_string(dir.path().join("hil-results/junit.xml"))?.contains("errors=\"1\""));
    }
    let done = run(hil_with(dir.path(), Path::new("no/such/qemu"))?.arg("once.toml"))?;
    assert_eq!(outcomes(&results(dir.path(), &done, 125)?), pairs(&[("once", "error")]));
    write(dir.path(), "broken", "no image")?;
    write(dir.path(), "image.toml", "[guest]\nkernel = 'broken'\n[expect]\nexit = 99\n[limits]\nstill = 3")?;
    let done = run(hil(dir.path())?.arg("image.toml"))?;
    ensure!([Some(1), Some(125)].contains(&done.status.code()), "{}", said(&done));
    Ok(())
}

/// The disk is full from some size of files on.
#[test]
fn a_full_disk_is_the_hosts_fault() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "play.toml", PLAYS)?;
    let plain = hil(dir.path())?;
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 2000; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
    let done = run(limited.arg("play.toml").current_dir(dir.path()))?;
    let found = results(dir.path(), &done, 125)?;
    assert_eq!(outcomes(&found), pairs(&[("play", "error")]));
    Ok(())
}

#[test]
fn a_guest_that_stands_still_fails_and_says_what_moved_last() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // The card's time stands for the driver, which gives up later than this.
    let text = "[expect]\nexit = 0\n[faults]\nclock-stands = 400\n[limits]\nstill = 1";
    write(dir.path(), "still.toml", text)?;
    write(dir.path(), "long.toml", "[expect]\nexit = 0\n[limits]\ncard = 2")?;
    let done = run(hil(dir.path())?.args(["still.toml", "long.toml"]))?;
    let found = results(dir.path(), &done, 1)?;
    assert_eq!(outcomes(&found), pairs(&[("still", "failed"), ("long", "failed")]));
    let reasons = |case: usize| found["cases"][case]["reasons"].to_string();
    assert!(reasons(0).contains("it stood still for 1"), "{}", reasons(0));
    assert!(reasons(0).contains("what moved last, "), "{}", reasons(0));
    assert!(reasons(1).contains("past its limit of 2 s") && reasons(1).contains("what moved last, "), "{}", reasons(1));
    Ok(())
}

#[test]
fn quarantine_reports_what_fails_and_ends_on_its_day() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "bad.toml", "[expect]\ncounters.presented = 3")?;
    let until = |day: &str| format!("[[quarantine]]\nscenario = 'bad'\nreason = 'a new song'\nexpires = {day}\n");
    for (day, code, outcome) in [("2999-01-31", 0, "quarantined"), ("2020-01-31", 1, "failed")] {
        write(dir.path(), "quarantine.toml", &until(day))?;
        let done = run(hil(dir.path())?.arg("."))?;
        let found = results(dir.path(), &done, code)?;
        assert_eq!(outcomes(&found), pairs(&[("bad", outcome)]), "{}", said(&done));
        assert!(said(&done).contains(day) && said(&done).contains("a new song"), "{}", said(&done));
    }
    for (text, line) in [
        ("[[quarantine]]\nscenario = 'bad'\nexpires = 2999-01-31", 1),
        ("[[quarantine]]\nscenario = 'bad'\nreason = ' '\nexpires = 2999-01-31", 3),
        ("[[quarantine]]\nscenario = 'bad'\nreason = 'x'\nexpires = 'soon'", 4),
        ("[[quarantine]]\nscenario = 'bad'\nreason = 'x'\nexpires = 2999-01-31\nowner = 'me'", 5),
    ] {
        write(dir.path(), "quarantine.toml", text)?;
        is_wrong(&run(hil(dir.path())?.arg("."))?, &format!("quarantine.toml:{line}: "));
    }
    Ok(())
}

/// One sentence on standard error, and exit code 2.
fn is_wrong(done: &Output, place: &str) {
    let words = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{words}");
    assert!(words.contains(place) && words.trim().lines().count() == 1, "{place}: {words}");
}

#[test]
fn a_scenario_that_cannot_be_is_told_in_a_sentence_with_file_and_line() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    for (text, line) in [
        ("[guest]\nimage = 'elf'\n[expect]\nexit = 0\nfoo = 1", 5),
        ("[guest]\nimage = 'elf'\n[guess]\n", 3),
        ("[guest]\nimage = 'elf'\n[expect]\n", 3),
        ("[expect]\nexit = 0\n[limits]\nstill = 0", 4),
        ("[expect]\nexit = 0\n[limits]\ncard = -1", 4),
        ("[guest]\nkernel = 'missing'\n[expect]\nexit = 0", 2),
        ("[guest]\nkernel = 'x'\nimage = 'elf'\n[expect]\nexit = 0", 1),
        ("[guest]\nsong = ['missing.mid']\n[expect]\nexit = 0", 2),
        ("[expect]\nserial = ['(']", 2),
        ("[expect]\nviolations = ['nonsense']", 2),
        ("[expect]\nexit = 0\n[faults]\nnonsense = 1", 4),
        ("[card]\nclock = []\n[expect]\nexit = 0", 2),
        ("[card]\nseed = [1, 2, 1]\n[expect]\nexit = 0", 2),
        ("[guest]\nwidth = 5\n[expect]\nexit = 0", 2),
        ("[expect]\nexit = 0\naudio = {}", 3),
        ("[expect\nexit = 0", 1),
    ] {
        write(dir.path(), "wrong.toml", text)?;
        is_wrong(&run(hil(dir.path())?.arg("wrong.toml"))?, &format!("wrong.toml:{line}: "));
    }
    is_wrong(&run(hil(dir.path())?.arg("none.toml"))?, "none.toml: ");
    fs::create_dir(dir.path().join("two"))?;
    write(dir.path(), "two/play.toml", PLAYS)?;
    write(dir.path(), "play.toml", PLAYS)?;
    is_wrong(&run(hil(dir.path())?.args(["play.toml", "two/play.toml"]))?, "the case play is there twice");
    let done = run(hil(dir.path())?.args(["play.toml", "--shard", "5/4"]))?;
    assert!(done.status.code() == Some(2) && said(&done).contains("there is no shard 5 of 4"), "{}", said(&done));
    // A folder of somebody else's is left alone.
    is_wrong(&run(hil(dir.path())?.args(["play.toml", "-o", "."]))?, "holds no earlier results");
    assert!(dir.path().join("two/play.toml").exists());
    Ok(())
}

#[test]
fn a_thousand_cases_are_shared_out_and_what_two_shards_ran_is_joined() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let seeds = (0..1000).map(|seed| seed.to_string()).collect::<Vec<_>>().join(", ");
    write(dir.path(), "many.toml", &format!("[card]\nseed = [{seeds}]\n{PLAYS}"))?;
    let mut all = BTreeSet::new();
    for shard in 1..=8 {
        let mut command = hil(dir.path())?;
        // As a job of an array has it.
        command.args(["many.toml", "--list", "--shard", "env"]);
        command.env("SLURM_ARRAY_TASK_ID", (shard + 3).to_string());
        let done = run(command.env("SLURM_ARRAY_TASK_MIN", "4").env("SLURM_ARRAY_TASK_COUNT", "8"))?;
        ensure!(done.status.success(), "{}", said(&done));
        for name in String::from_utf8(done.stdout)?.lines() {
            assert!(all.insert(name.to_owned()), "{name} is in two shards");
        }
    }
    assert_eq!(all.len(), 1000);
    write(dir.path(), "few.toml", &format!("[card]\nseed = [1, 2, 3, 4]\n{PLAYS}"))?;
    for shard in 1..=2 {
        let output = format!("shard-{shard}");
        let done = run(hil(dir.path())?.args(["few.toml", "--shard", &format!("{shard}/2"), "-o", &output]))?;
        ensure!(done.status.success(), "{}", said(&done));
    }
    let merge = |arguments: &[&str]| anyhow::Ok(run(hil(dir.path())?.arg("--merge").args(arguments))?);
    let done = merge(&["shard-1", "shard-2"])?;
    assert_eq!(outcomes(&results(dir.path(), &done, 0)?).len(), 4);
    let lost = merge(&["shard-1"])?;
    assert!(lost.status.code() == Some(1) && said(&lost).contains("is missing"), "{}", said(&lost));
    let doubled = merge(&["shard-1", "shard-2", "shard-2"])?;
    assert!(doubled.status.code() == Some(1) && said(&doubled).contains("is there 2 times"), "{}", said(&doubled));
    Ok(())
}

#[test]
fn new_hashes_are_written_into_the_scenario_and_nothing_else() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let text = "# The song.\n[guest]\nwidth = [4, 8] # both\n\n[expect]\naudio.sha256 = \"\" # of all\nexit = 0\n";
    write(dir.path(), "song.toml", text)?;
    let done = run(hil(dir.path())?.args(["song.toml", "--bless"]))?;
    results(dir.path(), &done, 0)?;
    let blessed = fs::read_to_string(dir.path().join("song.toml"))?;
    let hash = blessed.split('"').nth(1).context("no hash")?;
    assert_eq!(hash.len(), 64);
    assert_eq!(blessed, text.replace("\"\" # of all", &format!("\"{hash}\" # of all")));
    results(dir.path(), &run(hil(dir.path())?.arg("song.toml"))?, 0)?;
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_no_process_behind() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "real.toml", "[card]\nclock = 'realtime'\ndrift = [1, 2]\n[expect]\nexit = 0")?;
    let running = Running::start(hil(dir.path())?.arg("real.toml"))?;
    // Two cards and two QEMUs.
    until("the guests", LIMIT, || descendants(running.id()).len() >= 4)?;
    let children = descendants(running.id());
    signal(running.id(), "TERM");
    let done = running.output()?;
    assert_eq!(done.status.code(), Some(130), "{}", said(&done));
    until("the end of all", LIMIT, || children.iter().all(|(pid, _)| !programs::runs(*pid)))?;
    Ok(())
}

#[test]
fn a_campaign_says_what_the_driver_does_about_each_fault() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("short.mid"), dmus_tests::songs::busy(20))?;
    write(dir.path(), "short.toml", "[guest]\nsong = 'short.mid'\n[expect]\nexit = 0")?;
    let done = run(hil(dir.path())?.args(["short.toml", "--campaign", "--up-to", "1"]))?;
    ensure!(done.status.code() == Some(0), "{}", said(&done));
    let campaign: Value = serde_json::from_str(&fs::read_to_string(dir.path().join("hil-results/campaign.json"))?)?;
    let runs = campaign["cases"][0]["runs"].as_array().context("no runs")?;
    let kinds: BTreeSet<String> = runs.iter().map(|run| run["fault"].to_string()).collect();
    assert_eq!(kinds.len(), dmus_card::deviation::Fault::ALL.len());
    let reaction = |fault: &str| runs.iter().find(|run| run["fault"] == fault).map(|run| run["reaction"].clone());
    for (fault, expected) in [
        ("interrupt-lost", "recovered"),
        ("completion-doubled", "typed error"),
        ("completion-slot", "typed error"),
        ("removed", "typed error"),
        ("reset", "typed error"),
        ("dma-error", "typed error"),
    ] {
        assert_eq!(reaction(fault), Some(expected.into()), "{fault}");
    }
    Ok(())
}

#[test]
fn seeds_are_explored_and_the_schema_is_one() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("short.mid"), dmus_tests::songs::busy(50))?;
    write(dir.path(), "short.toml", "[guest]\nsong = 'short.mid'\n[expect]\nexit = 0")?;
    let done = run(hil(dir.path())?.args(["short.toml", "--explore", "6"]))?;
    assert!(done.status.success() && said(&done).contains("6 seeds, and all holds with each"), "{}", said(&done));
    let schema = run(hil(dir.path())?.arg("--schema"))?;
    let schema: Value = serde_json::from_slice(&schema.stdout)?;
    for key in ["guest", "card", "feed", "expect", "limits", "faults", "liberties"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
    Ok(())
}
