//! The machine that a person's image boots on.
//!
//! Fed by the command line; feeds `run` with QEMU's command line, and `libvirt-xml` with what is on the machine.

use crate::disk::{Disk, Firmware};
use crate::exit::{Exit, Failure};
use crate::programs::Programs;
use crate::qemu::Qemu;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a machine may have at most without anybody asking for more.
const PROCESSORS: usize = 4;
/// A machine of less does not boot what people have; one of more does not fit into a 32-bit count of pages.
const MEMORY: std::ops::RangeInclusive<u64> = 64..=1 << 20;

/// The machine.
#[derive(Clone, clap::Args)]
pub(crate) struct Computer {
    /// The disk image or CD.
    pub(crate) image: PathBuf,
    /// Its memory.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = memory)]
    pub(crate) memory: u64,
    /// Start by UEFI, also if there is BIOS code in the image.
    #[arg(long)]
    uefi: bool,
    /// UEFI firmware [default: what `QEMU --firmware` of qemu-scripts/qemu finds].
    #[arg(long, value_name = "PATH")]
    firmware: Option<PathBuf>,
}

impl Computer {
    /// What the image is, and what starts it.
    pub(crate) fn disk(&self) -> Result<Disk, Failure> {
        let disk = Disk::recognise(&self.image)?;
        let firmware = if self.uefi { Firmware::Uefi } else { disk.firmware };
        Ok(Disk { firmware, ..disk })
    }

    /// How many processors it has.
    pub(crate) fn processors() -> usize {
        std::thread::available_parallelism().map_or(1, |count| count.get().min(PROCESSORS))
    }

    /// QEMU with all but serial line and card.
    pub(super) fn qemu(&self, programs: &Programs) -> Result<Qemu, Failure> {
        let disk = self.disk()?;
        let mut qemu = Qemu::computer(programs, self.memory, Self::processors());
        qemu.boots(&self.image, disk.format);
        if disk.firmware == Firmware::Uefi {
            qemu.firmware(&self.firmware(&programs.qemu)?);
        }
        Ok(qemu)
    }

    fn firmware(&self, qemu: &Path) -> Result<PathBuf, Failure> {
        if let Some(firmware) = &self.firmware {
            return Ok(firmware.clone());
        }
        let found = Command::new(qemu).arg("--firmware").stderr(std::process::Stdio::inherit()).output();
        let path = found.ok().filter(|found| found.status.success()).and_then(|found| {
            let text = String::from_utf8(found.stdout).ok()?;
            Some(PathBuf::from(text.trim_end())).filter(|path| path.is_file())
        });
        path.ok_or_else(|| {
            let message = format!(
                "{} starts by UEFI, and there is no firmware for that: name one with --firmware (package ovmf)",
                self.image.display()
            );
            Failure::new(Exit::Unusable, message)
        })
    }
}

/// The first serial line on `-chardev` serial, with QEMU's monitor for a person.
pub(super) fn use_serial(qemu: &mut Qemu, user: bool) {
    qemu.add(&["-serial", "chardev:serial"]);
    if user {
        qemu.add(&["-mon", "chardev=serial"]);
    }
    // QEMU chooses where there is a display; without one, it must not wait for somebody on the network.
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().all(|name| std::env::var_os(name).is_none()) {
        qemu.add(&["-display", "none"]);
    }
}

fn memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['m', 'M']);
    let (digits, unit) = match text.strip_suffix(['g', 'G']) {
        Some(digits) => (digits, 1024),
        None => (digits, 1),
    };
    let size = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    size.filter(|size| MEMORY.contains(size)).ok_or_else(|| "expected MiB, as in 512, or GiB, as in 4G".into())
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn memory_is_in_mib_or_has_its_unit() {
        for (text, size) in [("512", Ok(512)), ("512M", Ok(512)), ("4G", Ok(4096)), ("4g", Ok(4096))] {
            assert_eq!(memory(text), size);
        }
        for wrong in ["", "G", "63", "-1", "1T", "99999999999999999999", "18446744073709551615G"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
