//! The Linux guest, as `qemu-scripts/shell` boots it: what a kernel and programs that nobody here wrote make of the
//! card.
//!
//! One boot serves most of these tests; its script leaves what it saw in the shared folder.

use anyhow::{Context, ensure};
use dmus_tests::programs::{self, Running, run, said, script, signal, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Of the initramfs, in bytes.
const SIZE_LIMIT: u64 = 15_000_000;

/// `images/linux/build` into this directory, whatever else it is told.
fn build(output: &Path) -> Command {
    let mut build = Command::new(programs::repository().join("images/linux/build"));
    build.arg("-o").arg(output);
    build
}

/// Runs a script in the guest, with `share` as its /share.
fn boot(share: &Path, text: &str, options: &[&str]) -> anyhow::Result<Output> {
    let file = share.join("script.sh");
    std::fs::write(&file, text)?;
    run(script("shell").arg("--share").arg(share).args(options).arg(file))
}

/// What the guest of the one boot saw.
struct Seen {
    lspci: String,
    /// Each line with its level, `<4>`.
    dmesg: String,
    interrupts: String,
    driver: String,
    /// What shares the card's IOMMU group.
    group: String,
}

/// Boots once for all tests.
fn seen() -> anyhow::Result<&'static Seen> {
    static SEEN: OnceLock<Result<Seen, String>> = OnceLock::new();
    SEEN.get_or_init(|| look().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn look() -> anyhow::Result<Seen> {
    programs::card()?;
    let share = tempfile::tempdir()?;
    let text = "set -e
        cd /share
        lspci -vvv -nn -s $CARD >lspci 2>&1
        device=/sys/bus/pci/devices/$CARD
        basename $(readlink $device/driver) >driver
        ls $device/iommu_group/devices >group
        ls -l /dev/vfio/$(basename $(readlink $device/iommu_group))
        dmesg -r >dmesg
        cat /proc/interrupts >interrupts
    ";
    let done = boot(share.path(), text, &[])?;
    ensure!(done.status.success(), "{}", said(&done));
    let read = |name: &str| std::fs::read_to_string(share.path().join(name)).with_context(|| name.to_owned());
    Ok(Seen {
        lspci: read("lspci")?,
        dmesg: read("dmesg")?,
        interrupts: read("interrupts")?,
        driver: read("driver")?,
        group: read("group")?,
    })
}

#[test]
fn lspci_decodes_the_card_and_every_capability() -> anyhow::Result<()> {
    let lspci = &seen()?.lspci;
    for part in [
        "Multimedia audio controller [0401]",
        "[d5ca:0001]",
        "Region 0: Memory at ",
        "Region 2: Memory at ",
        "Region 4: Memory at ",
        "Express (v2) Root Complex Integrated Endpoint",
        "FLReset+",
        "MSI-X: Enable- Count=9 Masked-",
        "Vector table: BAR=4 offset=00000000",
        "Kernel driver in use: vfio-pci",
    ] {
        assert!(lspci.contains(part), "{part} is missing in\n{lspci}");
    }
    for part in
        ["<access denied>", "<chain looped>", "<chain broken>", "<unreadable>", "Unknown", "lspci:", "ignored", "#"]
    {
        assert!(!lspci.contains(part), "{part} is in\n{lspci}");
    }
    Ok(())
}

#[test]
fn the_card_has_an_iommu_group_of_its_own_and_is_given_to_vfio() -> anyhow::Result<()> {
    let seen = seen()?;
    assert_eq!(seen.group.lines().count(), 1, "{}", seen.group);
    assert_eq!(seen.driver.trim(), "vfio-pci");
    Ok(())
}

#[test]
fn the_kernel_has_nothing_to_say_against_the_card() -> anyhow::Result<()> {
    let seen = seen()?;
    let address = seen.group.trim();
    assert!(seen.dmesg.contains("DMAR: Intel(R) Virtualization Technology for Directed I/O"), "{}", seen.dmesg);
    for line in seen.dmesg.lines() {
        let level: u8 = line.split(['<', '>']).nth(1).and_then(|level| level.parse().ok()).unwrap_or(6) & 7;
        assert!(!(level <= 4 && (line.contains(address) || line.contains("vfio"))), "{line}");
        for part in ["DMAR: [", " fault", "Fault", "nobody cared", "WARNING:", "BUG:", "Call Trace"] {
            assert!(!line.contains(part), "{line}");
        }
    }
    let errors = seen.interrupts.lines().find(|line| line.trim_start().starts_with("ERR:")).context("no ERR line")?;
    assert_eq!(errors.split_whitespace().nth(1), Some("0"), "{errors}");
    Ok(())
}

/// As from another checkout: everything but the fetched packages is made anew.
#[test]
fn the_same_packages_give_the_same_small_image() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let here = dir.path().join("here");
    let done = run(&mut build(&here))?;
    ensure!(done.status.success(), "{}", said(&done));
    let anew = dir.path().join("anew");
    std::fs::create_dir(&anew)?;
    for entry in std::fs::read_dir(programs::target())? {
        let path: PathBuf = entry?.path().canonicalize()?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("linux-") && !name.starts_with("linux-base-") && !name.contains("partial") {
            std::os::unix::fs::symlink(&path, anew.join(name))?;
        }
    }
    let done = run(build(&anew.join("linux")).env("CARGO_TARGET_DIR", &anew))?;
    ensure!(done.status.success(), "{}", said(&done));
    for name in ["vmlinux", "initrd"] {
        assert!(std::fs::read(here.join(name))? == std::fs::read(anew.join("linux").join(name))?, "{name} differs");
    }
    let size = std::fs::metadata(here.join("initrd"))?.len();
    assert!(size < SIZE_LIMIT, "{size} bytes");
    Ok(())
}

#[test]
fn a_script_that_fails_and_an_argument_that_will_not_do_are_told() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = boot(dir.path(), "exit 3", &[])?;
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("dmus: error: the script failed with status 3"), "{}", said(&done));
    for (arguments, complaint) in [
        (&["--share", "/no/such"][..], "/no/such is no directory"),
        (&["--kernel", "/no/such"], "there is no file /no/such"),
        (&["--frobnicate"], "--frobnicate"),
        (&[], "no terminal"),
    ] {
        let done = run(script("shell").args(arguments))?;
        assert_eq!(done.status.code(), Some(2), "{}", said(&done));
        assert!(said(&done).contains(complaint), "{}", said(&done));
    }
    Ok(())
}

#[test]
fn a_machine_without_an_iommu_is_told_what_it_lacks() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let done = run(&mut build(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    let arguments = "serve --once --clock virtual --socket card.sock --sink null";
    let card = Running::start(programs::card()?.args(arguments.split(' ')).current_dir(dir.path()))?;
    until("the socket", Duration::from_secs(20), || dir.path().join("card.sock").exists())?;
    let device = serde_json::json!({
        "driver": "vfio-user-pci", "rombar": 0, "x-msg-timeout": 60_000,
        "socket": { "type": "unix", "path": dir.path().join("card.sock") },
    });
    let mut qemu = script("qemu");
    qemu.args(["-M", "q35,memory-backend=ram", "-accel", "tcg", "-m", "512M", "-nodefaults", "-display", "none"]);
    qemu.args(["-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-vga", "none", "-net", "none"]);
    qemu.args(["-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    qemu.args(["-kernel", "vmlinux", "-initrd", "initrd", "-append", "console=ttyS0 quiet panic=-1 no_timer_check"]);
    let done = run(qemu.args(["-device", &device.to_string()]).current_dir(dir.path()))?;
    assert_eq!(done.status.code(), Some(33), "{}", said(&done));
    assert!(said(&done).contains("has no IOMMU: start QEMU with -device intel-iommu"), "{}", said(&done));
    let card = card.output()?;
    assert!(card.status.success(), "{}", said(&card));
    Ok(())
}

#[test]
fn a_signal_ends_the_guest_and_the_card_and_leaves_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("long.sh");
    std::fs::write(&file, ": >/share/begun; sleep 1000")?;
    for name in ["TERM", "KILL"] {
        let begun = dir.path().join("begun");
        // What it cannot remove when it is killed goes with the test's directory.
        let mut shell = script("shell");
        let shell = Running::start(shell.arg("--share").arg(dir.path()).arg(&file).env("TMPDIR", dir.path()))?;
        until("the guest", programs::LIMIT, || begun.exists())?;
        let family = programs::descendants(shell.id());
        ensure!(family.iter().any(|(_, line)| line.contains("qemu-system")), "no QEMU in {family:?}");
        let asked = Instant::now();
        signal(shell.id(), name);
        let done = shell.output()?;
        assert_ne!(done.status.code(), Some(0), "{}", said(&done));
        until("the end of every process", Duration::from_secs(10), || {
            family.iter().all(|(pid, _)| !programs::runs(*pid))
        })?;
        ensure!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        std::fs::remove_file(begun)?;
    }
    Ok(())
}
