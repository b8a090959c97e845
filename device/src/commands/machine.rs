//! The virtual machine of a playing, recording or trying: what the command line says of it, and QEMU's command line for it.
//!
//! Fed by the arguments of `play`, `record` and `conform`; feeds [`super::scene`], which runs it.

use super::scene::Job;
use anyhow::Context;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Guest memory, of the player and of Linux.
const MEMORY: &str = "256M";
const LINUX_MEMORY: &str = "512M";
/// For the kernel of Linux: little on the serial line, QEMU ends when it panics, and it does not panic because its timer is late on a busy host.
const LINUX_OPTIONS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// The machine that is booted, and the clock of its card.
#[derive(clap::Args)]
pub(crate) struct Machine {
    /// Run in real time instead of as fast as the card can.
    #[arg(long)]
    pub(crate) realtime: bool,
    /// What to boot: the ELF itself, the ISO through BIOS or UEFI, or Linux (where with --realtime the song is played by aplaymidi).
    #[arg(long, value_enum, default_value = "elf")]
    pub(crate) image: Image,
    /// Bytes of a pointer in the guest's events: those of a 64-bit or of a 32-bit system.
    #[arg(long, value_name = "4|8", default_value = "8", value_parser = width)]
    pub(crate) width: u8,
    /// Give up when the guest shows no progress for this long.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) time_limit: u64,
    /// The guest image: ELF or ISO, or the kernel of Linux.
    #[arg(long, value_name = "PATH")]
    guest: PathBuf,
    /// The initramfs, for linux.
    #[arg(long, value_name = "PATH", required_if_eq("image", "linux"))]
    initrd: Option<PathBuf>,
    /// UEFI firmware, for iso-uefi.
    #[arg(long, value_name = "PATH", required_if_eq("image", "iso-uefi"))]
    firmware: Option<PathBuf>,
    /// A QEMU with vfio-user-pci (10.1 or newer).
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// QEMU's accelerator.
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// Keep the card out of its sandbox (see serve --help), to debug it.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Image {
    Elf,
    Iso,
    IsoUefi,
    Linux,
}

/// Something for the guest to find under its name.
pub(crate) enum Item {
    File(PathBuf),
    Text(String),
}

impl Machine {
    /// The image's name on the command line.
    pub(crate) fn image_name(&self) -> &'static str {
        match self.image {
            Image::Elf => "elf",
            Image::Iso => "iso",
            Image::IsoUefi => "iso-uefi",
            Image::Linux => "linux",
        }
    }

    /// The clock's name in a summary.
    pub(crate) fn clock_name(&self) -> &'static str {
        if self.realtime { "realtime" } else { "virtual" }
    }

    /// QEMU with the card behind this socket, for a job.
    pub(crate) fn qemu_command(&self, socket: &Path, job: &Job) -> anyhow::Result<Vec<String>> {
        let guest = self.guest.display();
        anyhow::ensure!(self.guest.exists(), "there is no guest image at {guest}: qemu-scripts/play builds it");
        let device = json!({
            "driver": "vfio-user-pci",
            "rombar": 0,
            "x-msg-timeout": 60_000,
            "socket": { "type": "unix", "path": socket },
        });
        let mut command = vec![self.qemu.clone()];
        let mut add = |words: &[&str]| command.extend(words.iter().map(|word| (*word).to_owned()));
        let memory = if self.image == Image::Linux { LINUX_MEMORY } else { MEMORY };
        add(&["-accel", &self.accel, "-m", memory]);
        add(&["-object", &format!("memory-backend-memfd,id=ram,size={memory},share=on")]);
        // VFIO in the guest wants interrupts remapped, which KVM leaves to QEMU only with a split controller.
        let split = if self.image == Image::Linux { ",kernel-irqchip=split" } else { "" };
        add(&["-machine", &format!("q35,memory-backend=ram{split}"), "-nodefaults", "-no-user-config", "-no-reboot"]);
        add(&["-display", "none", "-vga", "none", "-net", "none"]);
        add(&["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        for (name, item) in &job.items {
            let item = match item {
                Item::File(path) => format!("file={}", option(path)),
                Item::Text(text) => format!("string={}", text.replace(',', ",,")),
            };
            add(&["-fw_cfg", &format!("name=opt/dmus/{name},{item}")]);
        }
        if self.width == 4 {
            add(&["-fw_cfg", "name=opt/dmus/width,string=4"]);
        }
        if self.image == Image::Linux {
            // Programs reach devices through an IOMMU only; it must come before them.
            add(&["-device", "intel-iommu,caching-mode=on"]);
        }
        add(&["-device", &device.to_string()]);
        if let Some(path) = &job.speaker {
            // At another rate QEMU would change the samples.
            add(&["-audiodev", &format!("wav,id=speaker,out.frequency=48000,path={}", option(path))]);
            add(&["-device", "virtio-sound-pci,audiodev=speaker"]);
        }
        let guest = guest.to_string();
        match self.image {
            Image::Elf => add(&["-kernel", &guest]),
            Image::Linux => {
                let initrd = self.initrd.as_ref().context("no initramfs given")?.display().to_string();
                add(&["-kernel", &guest, "-initrd", &initrd, "-append", LINUX_OPTIONS]);
                add(&["-fw_cfg", &format!("name=opt/dmus/run,string={}", job.linux.replace(',', ",,"))]);
                if let Some(share) = &job.share {
                    let folder = format!("local,id=share,security_model=none,readonly=on,path={}", option(share));
                    add(&["-fsdev", &folder, "-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
                }
            }
            Image::Iso | Image::IsoUefi => {
                add(&["-drive", &format!("file={},format=raw,media=cdrom,readonly=on,if=ide", option(&self.guest))]);
                add(&["-boot", "d"]);
            }
        }
        if let Some(firmware) = &self.firmware {
            add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", option(firmware))]);
        }
        Ok(command)
    }
}

fn width(text: &str) -> Result<u8, &'static str> {
    match text {
        "4" => Ok(4),
        "8" => Ok(8),
        _ => Err("pointers have 4 or 8 bytes"),
    }
}

/// A path as part of an option of QEMU, where a comma ends the part.
fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
