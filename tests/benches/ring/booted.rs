//! The ring between a booted guest and the card's process, beside the transmit queue of QEMU's own virtio console: one
//! boot for both.
//!
//! Fed by the bare-metal image with its feature `bench`, which measures; feeds the benchmark with events per second,
//! round by round.

use anyhow::{Context, ensure};
use dmus_tests::programs::{self, Running, repository, run, said, script, until};
use std::process::Command;
use std::time::Duration;

/// What the guest measured, round by round: ours, the console an event at a time, and a batch at a time.
pub(crate) fn events_per_second() -> anyhow::Result<[Vec<f64>; 3]> {
    let dir = tempfile::tempdir()?;
    // Apart from the image that plays, whose name it has.
    let target = programs::target().join("guest-bench");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--quiet", "--locked", "--features", "bench", "--target-dir"]).arg(&target);
    let built = run(cargo.arg("--manifest-path").arg(repository().join("images/bare-metal/Cargo.toml")))?;
    ensure!(built.status.success(), "{}", said(&built));

    let socket = dir.path().join("card.sock");
    let card =
        Running::start(programs::card()?.args(["serve", "--once", "--clock", "virtual", "--socket"]).arg(&socket))?;
    until("the card's socket", Duration::from_secs(20), || socket.exists())?;
    let device = serde_json::json!({
        "driver": "vfio-user-pci", "rombar": 0, "x-msg-timeout": 60_000, "socket": { "type": "unix", "path": socket },
    });
    let mut qemu = script("qemu");
    qemu.args(["-accel", "tcg", "-m", "256M", "-object", "memory-backend-memfd,id=ram,size=256M,share=on"]);
    qemu.args([
        "-machine",
        "q35,memory-backend=ram",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.args(["-vga", "none", "-net", "none", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4"]);
    qemu.args([
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "null,id=console",
        "-device",
        "virtconsole,chardev=console",
    ]);
    qemu.args(["-fw_cfg", "name=opt/dmus/bench,string=1", "-device", &device.to_string()]);
    let booted = run(qemu.arg("-kernel").arg(target.join("release/dmus-player")))?;
    let text = said(&booted);
    // isa-debug-exit's code for a guest that is content.
    ensure!(booted.status.code() == Some(99), "the guest failed: {text}");
    let served = card.output()?;
    ensure!(served.status.success(), "the card failed: {}", said(&served));

    let mut rates = [const { vec![] }; 3];
    for line in text.lines().filter_map(|line| line.split_once("dmus: bench ")) {
        let mut figures = line.1.split_whitespace();
        for (name, rates) in ["ours=", "single=", "batched="].into_iter().zip(&mut rates) {
            let figure = figures.next().and_then(|figure| figure.strip_prefix(name));
            rates.push(figure.with_context(|| format!("no {name} in {line:?}"))?.parse()?);
        }
    }
    ensure!(!rates[0].is_empty(), "the guest measured nothing: {text}");
    Ok(rates)
}
