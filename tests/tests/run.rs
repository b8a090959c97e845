//! `qemu-scripts/run` and `dmus-run libvirt-xml`: a disk image that a person brings along, booted with the card.

use anyhow::ensure;
use dmus_tests::programs::{self, LIMIT, Running, said, script};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The bare-metal guest as a CD, which plays the song of fw_cfg.
fn iso() -> anyhow::Result<PathBuf> {
    let path = programs::target().join("dmus-player.iso");
    let done = programs::run(script("iso").arg("-o").arg(&path))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(path)
}

/// A disk whose boot record has this code.
fn disk(dir: &Path, code: &[u8]) -> anyhow::Result<PathBuf> {
    let mut bytes = vec![0; 1 << 20];
    bytes[..code.len()].copy_from_slice(code);
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    let path = dir.join("disk.img");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

fn run(image: &Path) -> Command {
    let mut command = script("run");
    command.arg(image).args(["--memory", "256"]);
    command
}

#[test]
fn a_cd_boots_with_the_card_and_what_it_plays_is_written() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let song = programs::repository().join("tests/scenarios/short.mid");
    let mut command = run(&iso()?);
    command.args(["-o", "out.wav", "--", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-fw_cfg"]);
    command.arg(format!("name=opt/dmus/song,file={}", song.display()));
    let done = programs::run(command.current_dir(dir.path()))?;
    let words = said(&done);
    // QEMU's own exit code for the guest's success.
    assert!(words.contains("dmus: played") && words.contains("exit status: 99"), "{words}");
    assert_eq!(done.status.code(), Some(4), "{words}");
    let audio = std::fs::read(dir.path().join("out.wav"))?;
    assert!(audio.len() > 4 * 48_000 * 4 && audio.iter().skip(44).any(|byte| *byte != 0), "{}", audio.len());
    Ok(())
}

#[test]
fn a_disk_without_a_system_is_told_by_the_firmware_and_ends() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // int 0x18: nothing to boot here.
    let image = disk(dir.path(), &[0xCD, 0x18])?;
    for more in [&[][..], &["--uefi"]] {
        let done = programs::run(run(&image).args(more))?;
        let words = said(&done);
        assert_eq!(done.status.code(), Some(3), "{words}");
        assert!(words.contains("disk.img does not boot: the firmware found nothing to start"), "{words}");
    }
    Ok(())
}

#[test]
fn an_image_that_another_machine_has_is_in_use() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // A loop without an end.
    let image = disk(dir.path(), &[0xEB, 0xFE])?;
    let control = dir.path().join("control");
    let mut first = run(&image);
    first.args(["--", "-qmp"]).arg(format!("unix:{},server=on,wait=off", control.display()));
    let first = Running::start(&mut first)?;
    // It greets once the machine is complete.
    let deadline = Instant::now() + LIMIT;
    let greeting = loop {
        match UnixStream::connect(&control) {
            Ok(stream) => break stream,
            Err(error) => ensure!(Instant::now() < deadline, "the first machine does not start: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    greeting.set_read_timeout(Some(LIMIT))?;
    let mut line = String::new();
    BufReader::new(greeting).read_line(&mut line)?;
    ensure!(line.contains("QMP"), "{line}");
    let done = programs::run(&mut run(&image))?;
    let words = said(&done);
    assert_eq!(done.status.code(), Some(3), "{words}");
    assert!(words.contains("is in use by another program"), "{words}");
    assert!(!words.contains("lock"), "QEMU's own words are not shown: {words}");
    drop(first);
    Ok(())
}

#[test]
fn what_is_printed_is_what_would_run_and_libvirt_takes_the_same_machine() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let image = disk(dir.path(), &[0xEB, 0xFE])?;
    let done = programs::run(run(&image).args(["--print", "--listen", "--", "-snapshot"]))?;
    let printed = String::from_utf8(done.stdout)?;
    let [card, qemu] = printed.lines().collect::<Vec<_>>()[..] else {
        anyhow::bail!("two commands are printed: {printed}");
    };
    assert!(
        card.contains("dmus-card serve --once --clock realtime --socket card.sock") && card.ends_with('&'),
        "{card}"
    );
    assert!(card.contains("--sink audio"), "{card}");
    let parts = ["share=on", "intel-iommu,caching-mode=on", "disk.img,format=raw", "\"path\":\"card.sock\""];
    assert!(parts.iter().all(|part| qemu.contains(part)) && qemu.ends_with(" -snapshot"), "{qemu}");

    for (name, image, more) in
        [("bios", image.clone(), &[][..]), ("uefi", image.clone(), &["--uefi"]), ("cd", iso()?, &["--name", "a&b"])]
    {
        let mut command = programs::runner()?;
        command.arg("libvirt-xml").arg(image).args(["--socket", "/run/card.sock"]).args(more);
        command.arg("--qemu").arg(programs::repository().join("qemu-scripts/qemu"));
        let done = programs::run(&mut command)?;
        ensure!(done.status.success(), "{}", said(&done));
        let file = dir.path().join(format!("{name}.xml"));
        std::fs::write(&file, &done.stdout)?;
        let checked = programs::run(script("peers").arg("virt-xml-validate").arg(&file))?;
        assert!(checked.status.success(), "{name}: {}", said(&checked));
    }
    Ok(())
}
