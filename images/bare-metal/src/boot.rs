//! The entry code and what the boot loader says about memory.
//!
//! Fed by: QEMU's PVH loader or GRUB's multiboot2. Feeds: `main` (the entry calls `kmain`) and `heap`
//! (free memory).

use core::arch::global_asm;
use core::ops::Range;

use crate::mmio::Mmio;

global_asm!(include_str!("boot.s"), options(att_syntax));
global_asm!(include_str!("memory.s"), options(att_syntax));

/// What a multiboot2 loader leaves in EAX.
const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;
/// The first word of PVH's start information.
const PVH_MAGIC: u32 = 0x336e_c578;

/// Usable memory has type 1 in the maps of both protocols.
const USABLE: u32 = 1;

/// More entries than any firmware of QEMU makes (OVMF: about 60), and two for what `remove` splits; the rest is not
/// used.
const MAX_REGIONS: usize = 128;

/// Which protocol started the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `-kernel`.
    Pvh,
    /// GRUB.
    Multiboot2,
}

/// The free memory below 4 GiB, as the loader reported it.
pub(crate) struct MemoryMap {
    /// Who reported it.
    pub(crate) protocol: Protocol,
    regions: [Range<u64>; MAX_REGIONS],
    count: usize,
}

/// The loader's information can't be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(
        "started with EAX {0:#x} and EBX {1:#x}: neither PVH nor multiboot2; boot with -kernel or GRUB's multiboot2"
    )]
    UnknownLoader(u32, u32),
    #[error("the loader passed no memory map: boot with -kernel on QEMU 4.0 or later, or GRUB's multiboot2")]
    NoMemoryMap,
}

impl MemoryMap {
    /// Reads the loader's map; `eax` and `ebx` are what the entry was called with.
    pub(crate) fn read(eax: u32, ebx: u32) -> Result<Self, BootError> {
        // The loader's information lies below 4 GiB, which is identity mapped and holds no Rust object there.
        let at = |address: u64, len: usize| {
            let base = usize::try_from(address).ok().filter(|base| base.saturating_add(len) <= 1 << 32);
            // SAFETY: the range is inside the identity map; the loader put its data outside this program's image, and
            // the heap, which may reuse that memory, is not set up before this function is done.
            base.map(|base| unsafe { Mmio::new(base, len) }).ok_or(BootError::NoMemoryMap)
        };
        let mut map = Self { protocol: Protocol::Pvh, regions: [const { 0..0 }; MAX_REGIONS], count: 0 };
        if eax == MULTIBOOT2_MAGIC {
            map.protocol = Protocol::Multiboot2;
            map.read_multiboot2(ebx, at)?;
        } else if ebx != 0 && ebx.is_multiple_of(4) && at(ebx.into(), 4)?.read32(0) == PVH_MAGIC {
            map.read_pvh(ebx, at)?;
        } else {
            return Err(BootError::UnknownLoader(eax, ebx));
        }
        if map.count == 0 {
            return Err(BootError::NoMemoryMap);
        }
        map.merge();
        map.remove(&image());
        Ok(map)
    }

    /// The free regions: apart from each other and from the guest's image.
    pub(crate) fn regions(&self) -> &[Range<u64>] {
        &self.regions[..self.count]
    }

    /// Xen's `hvm_start_info`, version 1 or later.
    fn read_pvh(&mut self, info: u32, at: impl Fn(u64, usize) -> Result<Mmio, BootError>) -> Result<(), BootError> {
        const ENTRY: usize = 24;
        let start = at(info.into(), 56)?;
        if start.read32(4) == 0 {
            return Err(BootError::NoMemoryMap);
        }
        let entries = (start.read32(48) as usize).min(MAX_REGIONS);
        let table = at(start.read64(40), entries * ENTRY)?;
        for offset in (0..entries).map(|entry| entry * ENTRY) {
            self.add(table.read64(offset), table.read64(offset + 8), table.read32(offset + 16));
        }
        Ok(())
    }

    /// Multiboot2's tags, of which type 6 is the memory map.
    fn read_multiboot2(
        &mut self,
        info: u32,
        at: impl Fn(u64, usize) -> Result<Mmio, BootError>,
    ) -> Result<(), BootError> {
        const END: u32 = 0;
        const MEMORY_MAP: u32 = 6;
        let total = at(info.into(), 8)?.read32(0) as usize;
        let tags = at(info.into(), total)?;
        let mut offset = 8;
        while offset + 8 <= total && tags.read32(offset) != END {
            let size = (tags.read32(offset + 4) as usize).max(8);
            let end = (offset + size).min(total);
            if tags.read32(offset) == MEMORY_MAP && offset + 16 <= end {
                let entry_size = (tags.read32(offset + 8) as usize).max(24);
                let mut entry = offset + 16;
                while entry + entry_size <= end {
                    self.add(tags.read64(entry), tags.read64(entry + 8), tags.read32(entry + 16));
                    entry += entry_size;
                }
            }
            offset += size.next_multiple_of(8);
        }
        Ok(())
    }

    fn add(&mut self, start: u64, len: u64, kind: u32) {
        // Only what is identity mapped, and not the first MiB, where firmware keeps its tables.
        let range = start.max(1 << 20)..start.saturating_add(len).min(1 << 32);
        if kind == USABLE && range.start < range.end && self.count < MAX_REGIONS {
            self.regions[self.count] = range;
            self.count += 1;
        }
    }

    /// Takes `used` out of the free regions.
    fn remove(&mut self, used: &Range<u64>) {
        for index in 0..self.count {
            let region = self.regions[index].clone();
            if used.end <= region.start || region.end <= used.start {
                continue;
            }
            // What lies above goes to the end of the list, if there is room; the heap wants the largest only, and that
            // has it.
            let above = used.end.min(region.end)..region.end;
            if !above.is_empty() && self.count < MAX_REGIONS {
                self.regions[self.count] = above;
                self.count += 1;
            }
            self.regions[index].end = used.start.max(region.start);
        }
    }

    /// UEFI's map names each use of memory apart, also where neighbours are both free by now.
    fn merge(&mut self) {
        self.regions[..self.count].sort_unstable_by_key(|region| region.start);
        let mut last = 0;
        for index in 1..self.count {
            let region = self.regions[index].clone();
            if region.start <= self.regions[last].end {
                self.regions[last].end = self.regions[last].end.max(region.end);
            } else {
                last += 1;
                self.regions[last] = region;
            }
        }
        self.count = last + 1;
    }
}

/// The memory that this program itself takes, with stacks and page tables.
fn image() -> Range<u64> {
    // SAFETY: link.ld defines both; only their addresses are taken.
    unsafe extern "C" {
        static __image_start: u8;
        static __image_end: u8;
    }
    (&raw const __image_start) as u64..(&raw const __image_end) as u64
}
