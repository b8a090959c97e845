//! The virtual machine of a playing, recording or trying: what the command line says of it, and what a guest is to do.
//!
//! Fed by the arguments of `play`, `record`, `conform` and `zoo`; feeds [`crate::supervisor`], which runs it.

use crate::card::Checking;
use crate::culprit::Culprit;
use crate::programs::Programs;
use crate::qemu::{Guest, Qemu};
use anyhow::{Context, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The machine that is booted, and the clock of its card.
#[derive(Clone, clap::Args)]
pub(crate) struct Machine {
    /// Run in real time instead of as fast as the card can.
    #[arg(long)]
    pub(crate) realtime: bool,
    /// What to boot: the ELF itself, the ISO through BIOS or UEFI, or Linux (where with --realtime the song is played
    /// by aplaymidi).
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
    #[command(flatten)]
    pub(crate) checking: Checking,
    #[command(flatten)]
    pub(crate) programs: Programs,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Image {
    #[value(alias = "bare-metal")]
    Elf,
    Iso,
    IsoUefi,
    Linux,
}

impl Image {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Iso => "iso",
            Self::IsoUefi => "iso-uefi",
            Self::Linux => "linux",
        }
    }
}

/// What a card and a guest are to do together.
pub(crate) struct Job {
    /// Options of `serve`, beside those that every card has.
    pub(crate) card: Vec<OsString>,
    /// What the card logs at least, if the user does not say ("warn": it is quiet about itself, for this process tells
    /// the story).
    pub(crate) log: &'static str,
    /// Where the log goes, which is then of this level whatever the user says; without it, to standard error.
    pub(crate) log_file: Option<PathBuf>,
    /// What the guest finds in fw_cfg, as [`Qemu::file`] says.
    pub(crate) items: Vec<(String, Item)>,
    /// What the Linux guest has as /share: files that are large, since it reads items in a time that grows with the
    /// square of their size.
    pub(crate) share: Option<PathBuf>,
    /// The command of the Linux guest; others know by their items.
    pub(crate) linux: String,
    /// Where QEMU's own sound device plays to, if the guest has one.
    pub(crate) speaker: Option<PathBuf>,
    /// It breaks rules on purpose.
    pub(crate) misbehaves: bool,
}

/// What a job depends on of its machine.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) linux: bool,
    pub(crate) realtime: bool,
    pub(crate) width: u8,
}

/// Something for the guest to find under its name.
pub(crate) enum Item {
    File(PathBuf),
    Text(String),
}

impl Machine {
    /// A machine that boots an image of this project, with its initramfs or firmware.
    pub(crate) fn of(
        image: Image,
        (guest, initrd, firmware): (PathBuf, Option<PathBuf>, Option<PathBuf>),
        (realtime, width): (bool, u8),
        programs: Programs,
    ) -> Self {
        Self { realtime, image, width, time_limit: 0, guest, initrd, firmware, checking: Checking::default(), programs }
    }

    pub(crate) fn setting(&self) -> Setting {
        Setting { linux: self.image == Image::Linux, realtime: self.realtime, width: self.width }
    }

    /// The image's name on the command line.
    pub(crate) fn image_name(&self) -> &'static str {
        self.image.name()
    }

    /// The clock's name, on the card's command line and in a summary.
    pub(crate) fn clock_name(&self) -> &'static str {
        if self.realtime { "realtime" } else { "virtual" }
    }

    /// Files with symbols of what runs in the guest, as --symbols names them.
    pub(crate) fn symbols(&self) -> Vec<String> {
        match self.programs.culprit.symbols.as_slice() {
            [] => vec![self.guest.display().to_string()],
            named => named.to_vec(),
        }
    }

    /// What kind of guest the image is.
    pub(crate) fn guest(&self) -> Guest {
        if self.image == Image::Linux { Guest::Linux } else { Guest::BareMetal }
    }

    /// QEMU with the card behind this socket, for a job.
    pub(crate) fn qemu_command(
        &self,
        socket: &Path,
        job: &Job,
        culprit: Option<&Culprit>,
    ) -> anyhow::Result<Vec<OsString>> {
        let guest = self.guest.display();
        ensure!(self.guest.exists(), "there is no guest image at {guest}: qemu-scripts/play builds it");
        let linux = self.image == Image::Linux;
        let mut qemu = Qemu::new(&self.programs, self.guest());
        if let Some(culprit) = culprit {
            // An ISO and the kernel of the Linux image have no symbols.
            culprit.add_to(&mut qemu, (self.image == Image::Elf).then_some(&self.guest));
        }
        qemu.serial();
        for (name, item) in &job.items {
            match item {
                Item::File(path) => qemu.file(name, path),
                Item::Text(text) => qemu.text(name, text),
            }
        }
        if self.width == 4 {
            qemu.text("width", "4");
        }
        if linux {
            qemu.iommu();
        }
        qemu.card(socket);
        if let Some(wav) = &job.speaker {
            qemu.speaker(wav);
        }
        match self.image {
            Image::Elf => qemu.kernel(&self.guest),
            Image::Linux => {
                qemu.linux(&self.guest, self.initrd.as_ref().context("no initramfs given")?);
                qemu.text("run", &job.linux);
                if let Some(folder) = &job.share {
                    qemu.share(folder, true);
                }
            }
            Image::Iso | Image::IsoUefi => qemu.cd(&self.guest),
        }
        if let Some(firmware) = &self.firmware {
            qemu.firmware(firmware);
        }
        Ok(qemu.into_words())
    }
}

fn width(text: &str) -> Result<u8, &'static str> {
    match text {
        "4" => Ok(4),
        "8" => Ok(8),
        _ => Err("pointers have 4 or 8 bytes"),
    }
}
