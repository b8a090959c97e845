//! `libvirt-xml`: the machine of `run` as libvirt describes it.
//!
//! Fed by the command line; feeds standard output, for `virsh define`.

use super::run::machine::Computer;
use crate::disk::{Firmware, Format};
use crate::exit::{Exit, Failure};
use crate::qemu::card_device;
use crate::summary::say;
use anyhow::Context;
use quick_xml::escape::escape;
use std::path::{Path, PathBuf};

/// Print the machine of `run` as a domain of libvirt: dmus-run libvirt-xml IMAGE | virsh define /dev/stdin
///
/// libvirt starts QEMU, and the card must listen then: systemctl --user enable --now dmus-card.socket has systemd start
/// it (the package does all but this), or dmus-card serve --socket PATH. QEMU must be 10.1 or newer, with
/// vfio-user-pci.
///
/// Exit codes: 0 printed; 2 wrong usage; 3 the image cannot be used.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the domain is called [default: the image's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the card listens [default: dmus-card.sock in the folder of the user's sockets, XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    computer: Computer,
    /// A QEMU with vfio-user-pci (10.1 or newer), which libvirt starts.
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// What runs the guest: this machine's processor, or QEMU's software emulation.
    #[arg(long, default_value = "tcg", value_parser = ["kvm", "tcg"])]
    accel: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let disk = args.computer.disk()?;
    let image = std::path::absolute(&args.computer.image).context("there is no current directory")?;
    let socket = match (&args.socket, std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(socket), _) => std::path::absolute(socket).context("there is no current directory")?,
        (None, Some(folder)) => Path::new(&folder).join("dmus-card.sock"),
        (None, None) => return Err(Failure::new(Exit::Usage, "XDG_RUNTIME_DIR is not set: name --socket PATH").into()),
    };
    let name = match &args.name {
        Some(name) => name.clone(),
        None => image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let emulator = found(&args.qemu)?;
    let machine = Domain {
        name: &name,
        kind: if args.accel == "kvm" { "kvm" } else { "qemu" },
        memory: args.computer.memory,
        processors: Computer::processors(),
        firmware: disk.firmware,
        format: disk.format,
        image: &image,
        emulator: &emulator,
        socket: &socket,
    };
    say(machine.xml().trim_end());
    Ok(())
}

/// Where a program is, which libvirt wants to know in full.
fn found(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).context("there is no current directory");
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let message = format!("there is no {} on the PATH: name QEMU with --qemu", program.display());
        Failure::new(Exit::Qemu, message).into()
    })
}

/// What is written.
struct Domain<'a> {
    name: &'a str,
    kind: &'a str,
    memory: u64,
    processors: usize,
    firmware: Firmware,
    format: Format,
    image: &'a Path,
    emulator: &'a Path,
    socket: &'a Path,
}

impl Domain<'_> {
    fn xml(&self) -> String {
        let Self { kind, memory, processors, .. } = self;
        let path = |path: &Path| escape(path.to_string_lossy().into_owned());
        let (name, image, emulator) = (escape(self.name), path(self.image), path(self.emulator));
        let device = card_device(self.socket).to_string();
        let device = escape(&device);
        let format = self.format.name();
        let firmware = if self.firmware == Firmware::Uefi { " firmware=\"efi\"" } else { "" };
        let (medium, boot, read_only) = match self.format {
            Format::Cd => ("cdrom", "cdrom", "\n      <readonly/>"),
            Format::Qcow2 | Format::Raw => ("disk", "hd", ""),
        };
        format!(
            r#"<domain type="{kind}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{name}</name>
  <memory unit="MiB">{memory}</memory>
  <!-- The card reaches the guest's memory, which must be shared with it. -->
  <memoryBacking>
    <source type="memfd"/>
    <access mode="shared"/>
  </memoryBacking>
  <vcpu>{processors}</vcpu>
  <os{firmware}>
    <type arch="x86_64" machine="q35">hvm</type>
    <boot dev="{boot}"/>
  </os>
  <features>
    <acpi/>
    <apic/>
    <!-- The IOMMU remaps interrupts, which takes an interrupt controller in QEMU. -->
    <ioapic driver="qemu"/>
  </features>
  <cpu mode="maximum"/>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type="file" device="{medium}">
      <driver name="qemu" type="{format}"/>
      <source file="{image}"/>
      <target dev="sda" bus="sata"/>{read_only}
    </disk>
    <interface type="user">
      <model type="virtio"/>
    </interface>
    <serial type="pty"/>
    <console type="pty"/>
    <input type="tablet" bus="usb"/>
    <graphics type="vnc"/>
    <video>
      <model type="vga"/>
    </video>
    <memballoon model="none"/>
    <rng model="virtio">
      <backend model="random">/dev/urandom</backend>
    </rng>
    <!-- Through it Linux gives the card to programs. -->
    <iommu model="intel">
      <driver intremap="on" caching_mode="on"/>
    </iommu>
  </devices>
  <!-- The card, which listens at this socket. -->
  <qemu:commandline>
    <qemu:arg value="-device"/>
    <qemu:arg value="{device}"/>
  </qemu:commandline>
</domain>
"#
        )
    }
}
