//! Machines that are reset, killed and rearranged in the middle of a song: the card goes on, and the next song is
//! whole.

use dmus_tests::machine::{Machine, Served, audio, is_broken_off};
use dmus_tests::programs::{self, run, said};
use dmus_tests::songs;
use std::path::{Path, PathBuf};

/// Writes a song into `dir`; gives its path, and the samples that the offline renderer makes of it.
fn song(dir: &Path, notes: usize) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let song = dir.join("song.mid");
    std::fs::write(&song, songs::dense(notes))?;
    let wav = dir.join("rendered.wav");
    let done = run(programs::card()?.arg("render").arg(&song).arg("-o").arg(&wav))?;
    anyhow::ensure!(done.status.success(), "{}", said(&done));
    Ok((song, audio(&wav)?))
}

#[test]
fn a_machine_that_is_reset_in_the_middle_boots_and_plays_the_whole_song() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rendered) = song(dir.path(), 4000)?;
    let card = Served::start(dir.path())?;
    let mut machine = card.boot(&song, &[])?;
    // From outside, by the chipset's reset register, and by the keyboard controller.
    for (boots, reset) in (1..).zip(["system_reset", "o /b 0xcf9 6", "o /b 0x64 0xfe"]) {
        machine.plays(boots)?;
        machine.monitor(reset)?;
    }
    machine.plays(4)?;
    machine.played()?;
    let (counters, played) = card.finish()?;
    assert!(is_broken_off(&played, &rendered, 3), "{} bytes of audio, {counters}", played.len());
    // One by QEMU at its start and at each reset, one by the driver at each boot.
    assert!(counters["resets"].as_u64() >= Some(4 + 4), "{counters}");
    assert_eq!((&counters["in_flight"], &counters["rejected"], &counters["late"]), (&0.into(), &0.into(), &0.into()));
    // QEMU turns bus mastering off before it resets the card: the driver is not to blame for that.
    assert_eq!(counters["faults"], 0, "{counters}");
    Ok(())
}

#[test]
fn after_a_killed_qemu_the_next_one_plays_the_whole_song_on_the_same_card() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rendered) = song(dir.path(), 4000)?;
    let card = Served::start(dir.path())?;
    for _ in 0..2 {
        let mut machine = card.boot(&song, &[])?;
        machine.plays(1)?;
        machine.kill()?;
    }
    let mut machine = card.boot(&song, &[])?;
    machine.plays(1)?;
    machine.played()?;
    let (counters, played) = card.finish()?;
    assert!(is_broken_off(&played, &rendered, 2), "{} bytes of audio, {counters}", played.len());
    assert_eq!((&counters["in_flight"], &counters["faults"]), (&0.into(), &0.into()), "{counters}");
    Ok(())
}

/// Moves low memory about as firmware does, by the host bridge's registers: PAM (what is behind 0xC0000 to 0xFFFFF) and
/// SMRAM.
fn rearrange(machine: &mut Machine, random: &mut u32) -> anyhow::Result<()> {
    let mut below = |limit: u32| {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*random >> 16) % limit
    };
    let (register, value) = match below(8) {
        // The system's own segment, next to the memory of the driver: not as writable RAM, which QEMU would make one
        // range with it.
        0 => (0x90, below(2) << 4),
        // SMRAM, open or closed.
        7 => (0x9D, 0x0A | below(2) << 6),
        segment => (0x90 + segment, below(4) | below(4) << 4),
    };
    machine.monitor(&format!("o /w 0xcf8 {:#x}", 0x8000_0000 | register & !3))?;
    machine.monitor(&format!("o /b {:#x} {value:#x}", 0xCFC + (register & 3)))?;
    Ok(())
}

#[test]
fn low_memory_that_comes_and_goes_while_the_guest_plays_changes_no_sample() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rendered) = song(dir.path(), 9000)?;
    // What booting alone maps.
    let card = Served::start(dir.path())?;
    let mut machine = card.boot(&song, &[])?;
    machine.plays(1)?;
    machine.kill()?;
    let (booted, _) = card.finish()?;

    let card = Served::start(dir.path())?;
    let mut machine = card.boot(&song, &[])?;
    machine.plays(1)?;
    let mut random = 1;
    for _ in 0..60 {
        rearrange(&mut machine, &mut random)?;
    }
    assert!(!machine.said().contains("dmus: played"), "the song was over before all was rearranged");
    machine.played()?;
    let (counters, played) = card.finish()?;
    assert!(played == rendered, "{} bytes of audio, {counters}", played.len());
    assert_eq!((&counters["faults"], &counters["rejected"]), (&0.into(), &0.into()), "{counters}");
    for count in ["maps", "unmaps"] {
        // Without this the song would have been played over memory that nobody touched.
        assert!(counters[count].as_u64() > booted[count].as_u64().map(|n| n + 60), "{count}: {booted}, {counters}");
    }
    Ok(())
}

#[test]
fn a_driver_whose_whole_memory_comes_and_goes_plays_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rendered) = song(dir.path(), 9000)?;
    let card = Served::start(dir.path())?;
    let mut machine = card.boot(&song, &[])?;
    machine.plays(1)?;
    // As writable RAM the system's segment is one range with all above it: QEMU takes that away, rings and all, and
    // maps it anew.
    machine.monitor("o /w 0xcf8 0x80000090")?;
    for value in [0x30, 0x10].iter().cycle().take(50) {
        machine.monitor(&format!("o /b 0xcfc {value:#x}"))?;
    }
    assert!(!machine.said().contains("dmus: played"), "the song was over before all was rearranged");
    machine.played()?;
    let (counters, played) = card.finish()?;
    assert_eq!((&counters["faults"], &counters["rejected"]), (&0.into(), &0.into()), "{counters}");
    assert!(counters["unmaps"].as_u64() > Some(50), "{counters}");
    assert!(played == rendered, "{} bytes of audio, {counters}", played.len());
    Ok(())
}

#[test]
fn behind_a_viommu_that_passes_through_the_song_is_the_same() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (song, rendered) = song(dir.path(), 4000)?;
    let card = Served::start(dir.path())?;
    let mut machine = card.boot(&song, &["-device", "intel-iommu,caching-mode=on"])?;
    machine.plays(1)?;
    let tree = machine.monitor("info mtree")?.replace('\r', "");
    let behind =
        |space: &str| space.contains("address-space: vfio-user-pci") && space.contains("alias bus master @vtd-");
    assert!(tree.split("\n\n").any(behind), "the card is not behind it:\n{tree}");
    machine.played()?;
    let (counters, played) = card.finish()?;
    assert!(played == rendered, "{} bytes of audio, {counters}", played.len());
    Ok(())
}
