//! Which card, and what stands between this program and it.
//!
//! Fed by `/sys` and `/dev`, as the kernel shows them; feeds `platform` with a device that VFIO gives out, or the user
//! with what is missing.

use dmus_interface::pci::{DEVICE_ID, VENDOR_ID};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Why a card cannot be opened, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// No card at all.
    #[error(
        "there is no DirectMusic card (PCI device {VENDOR_ID:04x}:{DEVICE_ID:04x}) on this machine: give QEMU one \
            with -device vfio-user-pci"
    )]
    NoCard,
    /// More than one.
    #[error("there are several cards ({0}): choose one with --device ADDRESS")]
    SeveralCards(String),
    /// Nothing at the address.
    #[error("there is no PCI device {0}; `lspci -d {VENDOR_ID:04x}:{DEVICE_ID:04x}` lists the cards")]
    NoDevice(String),
    /// Something else at the address.
    #[error("{address} is no DirectMusic card but {found}")]
    NotACard {
        /// PCI address.
        address: String,
        /// Vendor and device id.
        found: String,
    },
    /// No IOMMU stands before the card.
    #[error(
        "the card {0} is in no IOMMU group, and VFIO gives out no device without an IOMMU: in QEMU, add -device \
            intel-iommu,caching-mode=on before the \
         card, with -machine q35,kernel-irqchip=split; on a real machine, turn on VT-d or AMD-Vi in the firmware and \
         boot Linux with intel_iommu=on"
    )]
    NoIommu(String),
    /// The card has no driver, or one of the kernel's.
    #[error(
        "the card {address} is bound to {driver}, not to vfio-pci. As root: modprobe vfio-pci; \
         echo vfio-pci >/sys/bus/pci/devices/{address}/driver_override; \
         {unbind}echo {address} >/sys/bus/pci/drivers_probe"
    )]
    OtherDriver {
        /// PCI address.
        address: String,
        /// Its driver, or "no driver".
        driver: String,
        /// What takes it from that driver, in the shell.
        unbind: String,
    },
    /// Other devices in the card's IOMMU group are in the kernel's hands.
    #[error(
        "IOMMU group {group} of the card {address} is not viable: {others} in it belong to other drivers. Give them \
            to vfio-pci too, or unbind them, or put \
         the card into another slot"
    )]
    GroupNotViable {
        /// PCI address.
        address: String,
        /// Number of the group.
        group: String,
        /// The devices, with their drivers.
        others: String,
    },
    /// The kernel has no driver that gives out PCI devices.
    #[error(
        "this kernel has no vfio-pci, which gives the card {0} to programs: load it (modprobe vfio-pci), or boot a \
         kernel that has it (CONFIG_VFIO_PCI; Debian's linux-image-amd64 does)"
    )]
    NoVfioPci(String),
    /// The kernel's VFIO is not there.
    #[error("{path} does not exist: load the kernel's VFIO (modprobe vfio-pci vfio_iommu_type1)", path = .0.display())]
    NoVfio(PathBuf),
    /// VFIO is there without what drives IOMMUs.
    #[error("the kernel's VFIO has no driver for this machine's IOMMU: modprobe vfio_iommu_type1")]
    NoIommuDriver,
    /// The user may not.
    #[error(
        "no permission to open {path}: run as root, or give it to yourself (chown $USER {path}; for good: a udev rule \
            with SUBSYSTEM==\"vfio\", GROUP=...)",
        path = .0.display()
    )]
    NoPermission(PathBuf),
    /// Somebody has it.
    #[error("IOMMU group {0} is in use: another program (another dmusd, or QEMU) drives the card")]
    Busy(String),
    /// The platform cannot remap interrupts.
    #[error(
        "the kernel refuses to let a program drive devices here, because interrupts are not remapped: in QEMU, use \
            -device intel-iommu without intremap=off, and \
         -machine kernel-irqchip=split; elsewhere, turn on interrupt remapping in the firmware"
    )]
    NoInterruptRemapping,
    /// Pinned memory is limited.
    #[error(
        "the kernel pins no more memory for this user: raise the limit (ulimit -l, or LimitMEMLOCK= of a systemd \
            unit), or run as root"
    )]
    LockedMemory,
    /// What VFIO shows is not what the data sheet says.
    #[error("the card {address} has no {part} as the data sheet has it")]
    Incomplete {
        /// PCI address.
        address: String,
        /// BAR or vectors.
        part: &'static str,
    },
    /// Anything else that the kernel says.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl VfioError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}

/// Where the kernel shows devices.
pub(crate) struct Machine {
    pub(crate) sys: PathBuf,
    pub(crate) dev: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// The card at a PCI address (`0000:00:03.0`, or `00:03.0`), or the only one that there is.
pub fn find(address: Option<&str>) -> Result<String, VfioError> {
    Machine::default().find(address)
}

impl Machine {
    pub(crate) fn find(&self, address: Option<&str>) -> Result<String, VfioError> {
        if let Some(address) = address {
            let address =
                if address.matches(':').count() == 1 { format!("0000:{address}") } else { address.to_owned() };
            // What is no address must not lead out of the directory.
            if address.contains('/') || !address.contains(':') || !self.device(&address).exists() {
                return Err(VfioError::NoDevice(address));
            }
            return Ok(address);
        }
        let directory = self.sys.join("bus/pci/devices");
        // Without PCI there is no such directory.
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut cards: Vec<_> = names.filter(|name| self.ids(name) == card_ids()).collect();
        cards.sort();
        match (cards.pop(), cards.is_empty()) {
            (None, _) => Err(VfioError::NoCard),
            (Some(card), true) => Ok(card),
            (Some(last), false) => Err(VfioError::SeveralCards(format!("{}, {last}", cards.join(", ")))),
        }
    }

    /// Checks everything between this program and the card; gives the device's directory.
    pub(crate) fn check(&self, address: &str) -> Result<PathBuf, VfioError> {
        let address = address.to_owned();
        let device = self.device(&address);
        let ids = self.ids(&address);
        if ids != card_ids() {
            return Err(VfioError::NotACard { address, found: ids });
        }
        let group = device.join("iommu_group");
        let Some(number) = link_name(&group) else {
            return Err(VfioError::NoIommu(address));
        };
        if !self.sys.join("bus/pci/drivers/vfio-pci").exists() {
            return Err(VfioError::NoVfioPci(address));
        }
        match link_name(&device.join("driver")) {
            Some(driver) if driver == "vfio-pci" => {}
            Some(driver) => {
                let unbind = format!("echo {address} >/sys/bus/pci/drivers/{driver}/unbind; ");
                return Err(VfioError::OtherDriver { address, driver, unbind });
            }
            None => return Err(VfioError::OtherDriver { address, driver: "no driver".into(), unbind: String::new() }),
        }
        let others = self.others(&group, &address);
        if !others.is_empty() {
            return Err(VfioError::GroupNotViable { address, group: number, others: others.join(", ") });
        }
        // Whoever opens a group has it alone: this only asks, and the crate opens it again.
        drop(self.open(&self.dev.join("vfio").join(&number), &number)?);
        drop(self.open(&self.dev.join("vfio/vfio"), &number)?);
        Ok(device)
    }

    fn open(&self, path: &Path, group: &str) -> Result<File, VfioError> {
        OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => VfioError::NoVfio(path.to_owned()),
            io::ErrorKind::PermissionDenied => VfioError::NoPermission(path.to_owned()),
            io::ErrorKind::ResourceBusy => VfioError::Busy(group.to_owned()),
            _ => VfioError::io(format!("cannot open {}", path.display()))(error),
        })
    }

    /// What in a group keeps VFIO from giving it out. Bridges do not, nor what nobody drives.
    fn others(&self, group: &Path, card: &str) -> Vec<String> {
        let entries = std::fs::read_dir(group.join("devices")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != card);
        let mut others: Vec<_> = names
            .filter_map(|name| {
                let driver = link_name(&self.device(&name).join("driver"))?;
                let harmless = driver.starts_with("vfio") || ["pci-stub", "pcieport"].contains(&driver.as_str());
                (!harmless).then(|| format!("{name} ({driver})"))
            })
            .collect();
        others.sort();
        others
    }

    fn device(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    /// Vendor and device id, as `lspci -n` has them.
    fn ids(&self, address: &str) -> String {
        let id = |name| {
            let text = std::fs::read_to_string(self.device(address).join(name)).unwrap_or_default();
            text.trim().trim_start_matches("0x").to_owned()
        };
        format!("{}:{}", id("vendor"), id("device"))
    }
}

fn card_ids() -> String {
    format!("{VENDOR_ID:04x}:{DEVICE_ID:04x}")
}

/// The last part of what a link leads to.
fn link_name(link: &Path) -> Option<String> {
    Some(std::fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const CARD: &str = "0000:00:03.0";

    /// A machine with one card that is ready for VFIO.
    fn machine() -> io::Result<(tempfile::TempDir, Machine)> {
        let dir = tempfile::tempdir()?;
        let machine = Machine { sys: dir.path().join("sys"), dev: dir.path().join("dev") };
        add(&machine, CARD, "0xd5ca", Some("vfio-pci"))?;
        let group = machine.sys.join("kernel/iommu_groups/7");
        std::fs::create_dir_all(group.join("devices"))?;
        symlink(&group, machine.device(CARD).join("iommu_group"))?;
        symlink(machine.device(CARD), group.join("devices").join(CARD))?;
        std::fs::create_dir_all(machine.sys.join("bus/pci/drivers/vfio-pci"))?;
        std::fs::create_dir_all(machine.dev.join("vfio"))?;
        std::fs::write(machine.dev.join("vfio/vfio"), "")?;
        std::fs::write(machine.dev.join("vfio/7"), "")?;
        Ok((dir, machine))
    }

    fn add(machine: &Machine, address: &str, vendor: &str, driver: Option<&str>) -> io::Result<()> {
        let device = machine.device(address);
        std::fs::create_dir_all(&device)?;
        std::fs::write(device.join("vendor"), format!("{vendor}\n"))?;
        std::fs::write(device.join("device"), "0x0001\n")?;
        let link = device.join("driver");
        let _ = std::fs::remove_file(&link);
        driver.map_or(Ok(()), |driver| symlink(machine.sys.join("bus/pci/drivers").join(driver), link))
    }

    fn complaint(machine: &Machine) -> String {
        machine.check(CARD).map_or_else(|error| error.to_string(), |_| "none".into())
    }

    #[test]
    fn the_only_card_is_found_and_of_several_one_must_be_chosen() -> io::Result<()> {
        let (_dir, machine) = machine()?;
        add(&machine, "0000:00:01.0", "0x8086", None)?;
        assert_eq!(machine.find(None).ok().as_deref(), Some(CARD));
        assert_eq!(machine.find(Some("00:03.0")).ok().as_deref(), Some(CARD));
        for wrong in ["00:04.0", "../../..", "/etc", ""] {
            assert!(matches!(machine.find(Some(wrong)), Err(VfioError::NoDevice(_))), "{wrong}");
        }
        add(&machine, "0000:00:05.0", "0xd5ca", None)?;
        let several = machine.find(None).expect_err("there are two").to_string();
        assert!(several.contains("0000:00:03.0, 0000:00:05.0") && several.contains("--device"), "{several}");
        std::fs::remove_dir_all(machine.sys.join("bus"))?;
        assert!(matches!(machine.find(None), Err(VfioError::NoCard)));
        Ok(())
    }

    #[test]
    fn each_thing_that_a_machine_lacks_is_named_with_its_mend() -> io::Result<()> {
        let (_dir, machine) = machine()?;
        assert_eq!(complaint(&machine), "none");

        let node = machine.dev.join("vfio/7");
        std::fs::remove_file(&node)?;
        assert!(complaint(&machine).contains("modprobe vfio-pci"), "{}", complaint(&machine));
        std::fs::create_dir(&node)?;
        std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o500))?;
        assert!(complaint(&machine).contains("vfio/7"), "{}", complaint(&machine));

        add(&machine, "0000:00:1f.3", "0x8086", Some("snd_hda_intel"))?;
        add(&machine, "0000:00:1f.0", "0x8086", Some("pcieport"))?;
        for neighbour in ["0000:00:1f.3", "0000:00:1f.0"] {
            symlink(machine.device(neighbour), machine.sys.join("kernel/iommu_groups/7/devices").join(neighbour))?;
        }
        let said = complaint(&machine);
        assert!(said.contains("group 7") && said.contains("0000:00:1f.3 (snd_hda_intel) in it"), "{said}");

        add(&machine, CARD, "0xd5ca", Some("snd_intel8x0"))?;
        let said = complaint(&machine);
        assert!(said.contains("drivers/snd_intel8x0/unbind; echo 0000:00:03.0 >/sys/bus/pci/drivers_probe"), "{said}");
        add(&machine, CARD, "0xd5ca", None)?;
        assert!(complaint(&machine).contains("bound to no driver"), "{}", complaint(&machine));
        std::fs::remove_dir(machine.sys.join("bus/pci/drivers/vfio-pci"))?;
        let said = complaint(&machine);
        assert!(said.contains("this kernel has no vfio-pci") && said.contains("modprobe vfio-pci"), "{said}");

        std::fs::remove_file(machine.device(CARD).join("iommu_group"))?;
        assert!(complaint(&machine).contains("intel-iommu,caching-mode=on"), "{}", complaint(&machine));
        add(&machine, CARD, "0x8086", None)?;
        assert!(complaint(&machine).contains("no DirectMusic card but 8086:0001"), "{}", complaint(&machine));
        Ok(())
    }
}
