//! QEMU's command line for a machine with the card.
//!
//! Fed by [`crate::machine`] and `shell` with what is on the machine; feeds [`crate::process`].

use crate::disk::Format;
use crate::programs::Programs;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;

/// Guest memory, of the player and of Linux, in MiB.
const MEMORY: u64 = 256;
const LINUX_MEMORY: u64 = 512;
/// For the kernel of Linux: little on the serial line, QEMU ends when it panics, and it does not panic because its
/// timer is late on a busy host.
const LINUX_OPTIONS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
/// What isa-debug-exit makes of the guests' success code, and of the Linux guest's failure. Every other end gives
/// another.
pub(crate) const GUEST_SUCCESS: i32 = 0x31 << 1 | 1;
pub(crate) const GUEST_FAILURE: i32 = 0x10 << 1 | 1;

/// What the machine is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    BareMetal,
    Linux,
}

impl Guest {
    fn memory(self) -> u64 {
        match self {
            Self::BareMetal => MEMORY,
            Self::Linux => LINUX_MEMORY,
        }
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory_bytes(self) -> u64 {
        self.memory() << 20
    }
}

/// A command line in the making. The order of devices is that of the calls.
pub(crate) struct Qemu {
    words: Vec<OsString>,
    /// More for the kernel of Linux.
    linux_options: &'static str,
}

impl Qemu {
    /// A machine with shared memory and isa-debug-exit; all else is added.
    pub(crate) fn new(programs: &Programs, guest: Guest) -> Self {
        Self::with_memory(programs, guest, guest.memory())
    }

    /// The same, with so many MiB of memory.
    pub(crate) fn with_memory(programs: &Programs, guest: Guest, memory: u64) -> Self {
        let mut qemu = Self::sharing(programs, memory, guest == Guest::Linux);
        qemu.add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none", "-net", "none"]);
        qemu.add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        qemu
    }

    /// Memory that the card shares, and what VFIO in the guest wants of the machine, if there is to be any.
    fn sharing(programs: &Programs, memory: u64, vfio: bool) -> Self {
        let mut qemu = Self { words: vec![programs.qemu.clone().into()], linux_options: "" };
        // VFIO in the guest wants interrupts remapped, which KVM leaves to QEMU only with a split controller. Other
        // accelerators ignore it.
        let split = if vfio { ",kernel-irqchip=split" } else { "" };
        let memory = format!("{memory}M");
        qemu.add(&["-accel", &programs.accel, "-m", &memory]);
        qemu.add(&["-object", &format!("memory-backend-memfd,id=ram,size={memory},share=on")]);
        qemu.add(&["-machine", &format!("q35,memory-backend=ram{split}")]);
        qemu
    }

    /// A machine for the system that a person brings along: a display, a mouse, a network behind the host's. It boots
    /// from [`Qemu::boots`] alone.
    pub(crate) fn computer(programs: &Programs, memory: u64, processors: usize) -> Self {
        let mut qemu = Self::sharing(programs, memory, true);
        qemu.add(&["-cpu", "max", "-smp", &processors.to_string(), "-boot", "strict=on"]);
        qemu.iommu();
        qemu.add(&["-nodefaults", "-vga", "std", "-nic", "user,model=virtio-net-pci", "-device", "virtio-rng-pci"]);
        qemu.add(&["-device", "qemu-xhci", "-device", "usb-tablet"]);
        qemu
    }

    /// What a machine of [`Qemu::computer`] boots from, and writes to.
    pub(crate) fn boots(&mut self, image: &Path, format: Format) {
        let file = escaped(image);
        let (drive, device) = match format {
            Format::Cd => (",media=cdrom,readonly=on", "ide-cd"),
            Format::Qcow2 | Format::Raw => ("", "ide-hd"),
        };
        self.add(&["-drive", &format!("if=none,id=image,file={file},format={}{drive}", format.name())]);
        self.add(&["-device", &format!("{device},drive=image,bootindex=0")]);
    }

    /// More options.
    pub(crate) fn add(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(OsString::from));
    }

    /// A file for the guest to find under `opt/dmus/NAME`, or as a name with a `/` says.
    pub(crate) fn file(&mut self, name: &str, path: &Path) {
        self.add(&["-fw_cfg", &format!("name={},file={}", full_name(name), escaped(path))]);
    }

    /// The same, of a text.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.add(&["-fw_cfg", &format!("name={},string={}", full_name(name), text.replace(',', ",,"))]);
    }

    /// The first serial line on standard input and output.
    pub(crate) fn serial(&mut self) {
        self.add(&["-serial", "stdio"]);
    }

    /// An IOMMU, through which programs of Linux reach devices. It must come before them.
    pub(crate) fn iommu(&mut self) {
        self.add(&["-device", "intel-iommu,caching-mode=on"]);
    }

    /// The card behind this socket.
    pub(crate) fn card(&mut self, socket: &Path) {
        self.add(&["-device", &card_device(socket).to_string()]);
    }

    /// QEMU's own sound device, which writes this WAV file.
    pub(crate) fn speaker(&mut self, wav: &Path) {
        // At another rate QEMU would change the samples.
        self.add(&["-audiodev", &format!("wav,id=speaker,out.frequency=48000,path={}", escaped(wav))]);
        self.add(&["-device", "virtio-sound-pci,audiodev=speaker"]);
    }

    /// A folder of the host, which the Linux guest mounts on /share.
    pub(crate) fn share(&mut self, folder: &Path, read_only: bool) {
        let read_only = if read_only { "on" } else { "off" };
        let folder = escaped(folder);
        self.add(&["-fsdev", &format!("local,id=share,security_model=none,readonly={read_only},path={folder}")]);
        self.add(&["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
    }

    /// A kernel that QEMU boots by itself.
    pub(crate) fn kernel(&mut self, kernel: &Path) {
        self.add(&["-kernel"]);
        self.words.push(kernel.into());
    }

    /// A kernel's initramfs and command line.
    pub(crate) fn initrd(&mut self, initrd: Option<&Path>, append: Option<&str>) {
        if let Some(initrd) = initrd {
            self.add(&["-initrd"]);
            self.words.push(initrd.into());
        }
        if let Some(append) = append {
            self.add(&["-append", append]);
        }
    }

    /// Linux.
    pub(crate) fn linux(&mut self, kernel: &Path, initrd: &Path) {
        self.kernel(kernel);
        let append = format!("{LINUX_OPTIONS}{}", self.linux_options);
        self.initrd(Some(initrd), Some(&append));
    }

    /// A plugin. In Linux, programs are then where their symbols say; call it before [`Qemu::linux`].
    pub(crate) fn plugin(&mut self, option: &str) {
        self.add(&["-plugin", option]);
        self.linux_options = " nokaslr norandmaps";
    }

    /// A CD to boot from.
    pub(crate) fn cd(&mut self, iso: &Path) {
        self.add(&[
            "-drive",
            &format!("file={},format=raw,media=cdrom,readonly=on,if=ide", escaped(iso)),
            "-boot",
            "d",
        ]);
    }

    /// A disk to boot from, which stays as it is.
    pub(crate) fn disk(&mut self, disk: &Path, format: &str) {
        self.add(&["-drive", &format!("file={},format={format},if=ide,snapshot=on", escaped(disk))]);
    }

    /// Firmware in place of QEMU's own.
    pub(crate) fn firmware(&mut self, firmware: &Path) {
        self.add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", escaped(firmware))]);
    }

    /// The command line.
    pub(crate) fn into_words(self) -> Vec<OsString> {
        self.words
    }
}

/// QEMU's device for the card behind this socket.
pub(crate) fn card_device(socket: &Path) -> Value {
    json!({
        "driver": "vfio-user-pci",
        "rombar": 0,
        "x-msg-timeout": 60_000,
        "socket": { "type": "unix", "path": socket },
    })
}

/// Whether a line of QEMU's standard error is of no interest: the card's PCI function has no AER, and needs none; what
/// QEMU 11 has in place of -mon, QEMU 10 does not know; and who ends QEMU by a signal knows that.
pub(crate) fn is_harmless(line: &str) -> bool {
    ["enable error recovery", "'-mon' is deprecated", "terminating on signal"].iter().any(|words| line.contains(words))
}

fn full_name(name: &str) -> String {
    let name = name.replace(',', ",,");
    if name.contains('/') { name } else { format!("opt/dmus/{name}") }
}

/// A path as part of an option of QEMU, where a comma ends the part.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_and_texts_do_not_end_an_option() {
        let mut qemu = Qemu { words: vec![], linux_options: "" };
        qemu.file("song", Path::new("/a,b.mid"));
        qemu.text("run", "echo a, b");
        assert_eq!(
            qemu.into_words(),
            ["-fw_cfg", "name=opt/dmus/song,file=/a,,b.mid", "-fw_cfg", "name=opt/dmus/run,string=echo a,, b"]
        );
    }
}
