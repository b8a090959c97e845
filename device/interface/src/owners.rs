//! The owners map: a file by which the card tells a plugin of QEMU which guest memory it owns, and the plugin tells the
//! card which guest instructions stored there.
//!
//! Written by the card (`serve --owners`) and by the plugin (`dmus-plugin`), which both map it. No guest sees it. Each
//! side checks what it reads of the other.
//!
//! # Layout
//!
//! All values are little endian. The header is written before either side maps the file, and never again but for the
//! words from [`DOORBELL_PAGE`] on.
//!
//! | offset | bytes | what | unit | writer |
//! |---|---|---|---|---|
//! | 0x00 | 8 | [`MAGIC`] | | whoever makes the file |
//! | 0x08 | 4 | [`VERSION`] | | " |
//! | 0x0C | 4 | [`GRANULE`] | bytes | " |
//! | 0x10 | 8 | guest memory that the map covers | bytes, see [`Layout::new`] | " |
//! | 0x18 | 8 | where the map begins | offset in the file | " |
//! | 0x20 | 8 | where the ring of owned stores begins | offset in the file | " |
//! | 0x28 | 8 | where the ring of doorbell stores begins | offset in the file | " |
//! | 0x30 | 4 | records of each ring, [`RECORDS`] | | " |
//! | 0x34 | 4 | size of a record, [`RECORD_SIZE`] | bytes | " |
//! | 0x40 | 8 | [`DOORBELL_PAGE`]: where the guest sees BAR2; 0 while that is unknown | guest-physical address | card |
//! | 0x80 | 4 | [`Ring::next`] of owned stores: number of the next record | counts up, wraps at 2^32 | plugin |
//! | 0x84 | 4 | [`Ring::next`] of doorbell stores | " | plugin |
//! | 0x88 | 4 | [`WATCHING`]: 1 once a plugin watches | | plugin |
//! | 0x8C | 4 | [`STOPPING`]: 1 if the guest is to be held at a mistake | | card, before the plugin is loaded |
//! | 0x90 | 4 | [`ASKED`]: recorded stores | counts up, wraps at 2^32 | plugin |
//! | 0x94 | 4 | [`JUDGED`]: the last value of [`ASKED`] up to which the card has judged | " | card |
//! | 0x98 | 4 | [`STOPS`]: mistakes to hold the guest at | " | card |
//! | 0x9C | 4 | [`HELD`]: the value of [`STOPS`] for which a vCPU was last held | " | plugin |
//! | 0x1000 | | ring of owned stores, [`RECORDS`] x [`Record`] | | plugin |
//! | then | | ring of doorbell stores, the same | | plugin |
//! | then | a byte for each [`GRANULE`] | the map: bit *n* is 1 if unit *n* of it is the card's | [`UNIT`] | card |
//!
//! The map is by guest-physical address, which is the offset in the memfd of the guest's memory as long as all of that
//! lies below the PCI hole: with up to 2 GiB ([`MAX_RAM`]) in QEMU's q35 machine.
//!
//! # Order
//!
//! Record number *n* lies at place *n* modulo [`RECORDS`]. The plugin sets its `sequence` to 0, fills it, stores
//! *n* + 1 to `sequence` and then to the ring's next number, each with release. A reader takes a record that has the
//! expected sequence before (acquire) and after the copy. Record number 2^32 - 1 is never taken.
//!
//! The map is not ordered with the guest's stores: a store that the guest makes while the card takes a slot may be
//! judged by the map before or after. The record of a store comes a moment after the store itself.
//!
//! # Holding the guest
//!
//! With [`STOPPING`], the plugin adds 1 to [`ASKED`] after each record, and the vCPU that stored waits, for a while at
//! most, until [`JUDGED`] has got there: the card has then acted on all that the guest had stored before. If [`STOPS`]
//! has moved, the plugin holds the vCPU where it is, behind the store, and stores the value to [`HELD`]. It lets go of
//! it once the machine has been stopped, by a debugger or a monitor, and goes on.

use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The first 8 bytes of the file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"DMUSOWNS");
/// The version of this layout.
pub const VERSION: u32 = 2;
/// Guest memory of a byte of the map.
pub const GRANULE: u64 = 64;
/// Guest memory of a bit of the map.
pub const UNIT: u64 = 8;
/// The most guest memory that a map can cover: beyond, guest-physical addresses are not offsets any more.
pub const MAX_RAM: u64 = 2 << 30;
/// Records of each ring.
pub const RECORDS: u32 = 512;
/// Bytes of a record.
pub const RECORD_SIZE: u64 = size_of::<Record>() as u64;
/// Return addresses in a record.
pub const MAX_CALLERS: usize = 16;
/// Bytes of text in a record.
pub const MAX_TEXT: usize = 1736;
/// Bytes of the fixed part of the header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// Offset of the guest-physical address of BAR2, 8 bytes.
pub const DOORBELL_PAGE: u64 = 0x40;
/// Offset of the word that says whether a plugin watches.
pub const WATCHING: u64 = 0x88;
/// Offset of the word that says whether the guest is to be held at a mistake.
pub const STOPPING: u64 = 0x8C;
/// Offset of the number of stores that the plugin has asked the card to judge.
pub const ASKED: u64 = 0x90;
/// Offset of the number of those that the card has judged.
pub const JUDGED: u64 = 0x94;
/// Offset of the number of mistakes to hold the guest at.
pub const STOPS: u64 = 0x98;
/// Offset of the number of those that a vCPU was held at.
pub const HELD: u64 = 0x9C;

const RINGS: u64 = 0x1000;
const RING_SIZE: u64 = RECORDS as u64 * RECORD_SIZE;
const MAP: u64 = RINGS + 2 * RING_SIZE;

/// The general registers of a [`Record`], in their order: as x86-64 numbers them.
pub const REGISTERS: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// The two rings of records: so that doorbell stores, of which there are many, cannot push the others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ring {
    /// Stores into memory that the card owned. The address is guest-physical.
    Owned = 1,
    /// Stores to the doorbell page. The address is the offset in the page.
    Doorbell = 2,
}

impl Ring {
    /// Where the number of the next record lies, 4 bytes.
    pub const fn next(self) -> u64 {
        match self {
            Self::Owned => 0x80,
            Self::Doorbell => 0x84,
        }
    }

    /// Where a record lies.
    pub const fn record(self, number: u32) -> u64 {
        let ring = match self {
            Self::Owned => RINGS,
            Self::Doorbell => RINGS + RING_SIZE,
        };
        ring + (number % RECORDS) as u64 * RECORD_SIZE
    }
}

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: U64,
    version: U32,
    granule: U32,
    ram: U64,
    map: U64,
    owned: U64,
    doorbell: U64,
    records: U32,
    record_size: U32,
}

/// Why a file is no owners map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It does not begin like one.
    #[error("it is no owners map: its first bytes are others")]
    Magic,
    /// It is one of another version.
    #[error("it is an owners map of version {0}, not {VERSION}: let the card make a new one")]
    Version(u32),
    /// Its header contradicts its version.
    #[error("its header is damaged: let the card make a new one")]
    Header,
    /// It covers no memory, part of a page, or too much.
    #[error("an owners map covers whole pages of guest memory, 2 GiB at most, and not {0} bytes")]
    Ram(u64),
    /// It ends too early.
    #[error("it has {0} bytes and must have {1}: let the card make a new one")]
    Short(u64, u64),
}

/// Where everything lies in a map of so much guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    ram: u64,
}

impl Layout {
    /// A map of guest memory of `ram` bytes: whole pages, [`MAX_RAM`] at most.
    ///
    /// # Errors
    /// [`LayoutError::Ram`].
    pub const fn new(ram: u64) -> Result<Self, LayoutError> {
        match ram > 0 && ram <= MAX_RAM && ram.is_multiple_of(4096) {
            true => Ok(Self { ram }),
            false => Err(LayoutError::Ram(ram)),
        }
    }

    /// The layout of a file of `file_size` bytes that begins with `header`.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn decode(header: &[u8; HEADER_SIZE], file_size: u64) -> Result<Self, LayoutError> {
        let header = Header::read_from_bytes(header).map_err(|_| LayoutError::Header)?;
        if header.magic != MAGIC {
            return Err(LayoutError::Magic);
        }
        if header.version != VERSION {
            return Err(LayoutError::Version(header.version.get()));
        }
        let layout = Self::new(header.ram.get())?;
        if header != layout.fields() {
            return Err(LayoutError::Header);
        }
        match file_size < layout.file_size() {
            true => Err(LayoutError::Short(file_size, layout.file_size())),
            false => Ok(layout),
        }
    }

    /// The fixed part of the header, for a new file; all else in it is 0.
    pub fn header(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes.copy_from_slice(self.fields().as_bytes());
        bytes
    }

    fn fields(&self) -> Header {
        Header {
            magic: MAGIC.into(),
            version: VERSION.into(),
            granule: (GRANULE as u32).into(),
            ram: self.ram.into(),
            map: MAP.into(),
            owned: Ring::Owned.record(0).into(),
            doorbell: Ring::Doorbell.record(0).into(),
            records: RECORDS.into(),
            record_size: (RECORD_SIZE as u32).into(),
        }
    }

    /// Bytes of the file.
    pub const fn file_size(&self) -> u64 {
        MAP + self.ram / GRANULE
    }

    /// Bytes of guest memory that the map covers.
    pub const fn ram(&self) -> u64 {
        self.ram
    }

    /// Where the byte of the granule with this address lies, if the map covers it.
    #[inline]
    pub const fn granule(&self, address: u64) -> Option<u64> {
        if address < self.ram { Some(MAP + address / GRANULE) } else { None }
    }

    /// The bytes of the map, and the bits in each, of the units that lie wholly in a range of guest memory. What is
    /// beyond the map is left out.
    pub fn whole_units(&self, address: u64, bytes: u64) -> impl Iterator<Item = (u64, u8)> + use<> {
        let end = address.saturating_add(bytes).min(self.ram) / UNIT;
        self.bits(address.div_ceil(UNIT), end)
    }

    /// The bytes of the map, and the bits in each, of the units that a range of guest memory touches.
    #[inline]
    pub fn touched_units(&self, address: u64, bytes: u64) -> impl Iterator<Item = (u64, u8)> + use<> {
        let end = address.saturating_add(bytes).min(self.ram).div_ceil(UNIT);
        self.bits(address / UNIT, end)
    }

    /// Units from `first` up to `end`, by the bytes of the map.
    #[inline]
    fn bits(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, u8)> + use<> {
        const BITS: u64 = GRANULE / UNIT;
        let granules = if first < end { first / BITS..end.div_ceil(BITS) } else { 0..0 };
        granules.map(move |granule| {
            let low = first.saturating_sub(granule * BITS);
            let high = (end - granule * BITS).min(BITS);
            (MAP + granule, (0xFF_u16 << low) as u8 & (0xFF_u16 >> (BITS - high)) as u8)
        })
    }
}

/// A store, as it lies in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// 0x00: the record's number + 1, or 0 while it is written.
    pub sequence: U32,
    /// 0x04: [`Ring`].
    kind: U32,
    /// 0x08: guest-physical address, or offset in the doorbell page.
    address: U64,
    /// 0x10: bytes stored: 1, 2, 4, 8 or 16.
    size: U32,
    /// 0x14: the vCPU, from 0.
    vcpu: U32,
    /// 0x18: what was stored.
    value: U128,
    /// 0x28: virtual address of the instruction.
    pc: U64,
    /// 0x30: [`REGISTERS`] when it stored.
    registers: [U64; 16],
    /// 0xB0: return addresses that follow, [`MAX_CALLERS`] at most.
    caller_count: U32,
    /// 0xB4: bytes of text that follow, [`MAX_TEXT`] at most.
    text_size: U32,
    /// 0xB8: return addresses, by frame pointers; the innermost first.
    callers: [U64; MAX_CALLERS],
    /// 0x138: the functions, in UTF-8; see [`Store::text`].
    text: [u8; MAX_TEXT],
}

/// A store: what a [`Record`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'t> {
    /// What was stored to.
    pub ring: Ring,
    /// Guest-physical address, or offset in the doorbell page.
    pub address: u64,
    /// Bytes stored: 1, 2, 4, 8 or 16.
    pub size: u32,
    /// What was stored.
    pub value: u128,
    /// The vCPU, from 0.
    pub vcpu: u32,
    /// Virtual address of the instruction.
    pub pc: u64,
    /// [`REGISTERS`] when it stored; all 0 if they were not read.
    pub registers: [u64; 16],
    /// How many of `callers` there are.
    pub caller_count: usize,
    /// Return addresses, by frame pointers; the innermost first.
    pub callers: [u64; MAX_CALLERS],
    /// A line for each function that was under way, the innermost first, those that are inlined too:
    /// `FUNCTION at FILE:LINE`, or as much of it as is known, else the address. Whole lines: what has no room in
    /// [`MAX_TEXT`] bytes is left out.
    pub text: &'t str,
}

impl Record {
    /// A record of a store. Text that is too long is cut behind a line; more callers than the array has are none.
    pub fn encode(number: u32, store: &Store<'_>) -> Self {
        let mut record = Self::new_zeroed();
        record.sequence = number.wrapping_add(1).into();
        record.kind = (store.ring as u32).into();
        record.address = store.address.into();
        record.size = store.size.into();
        record.vcpu = store.vcpu.into();
        record.value = store.value.into();
        record.pc = store.pc.into();
        record.registers = store.registers.map(U64::new);
        record.caller_count = (store.caller_count.min(MAX_CALLERS) as u32).into();
        record.callers = store.callers.map(U64::new);
        let text = cut(store.text);
        record.text_size = (text.len() as u32).into();
        record.text[..text.len()].copy_from_slice(text.as_bytes());
        record
    }

    /// What it says, if it is record number `number` and makes sense.
    pub fn decode(&self, number: u32) -> Option<Store<'_>> {
        let ring = match self.kind.get() {
            1 => Ring::Owned,
            2 => Ring::Doorbell,
            _ => return None,
        };
        let caller_count = usize::try_from(self.caller_count.get()).ok().filter(|count| *count <= MAX_CALLERS)?;
        let text = self.text.get(..usize::try_from(self.text_size.get()).ok()?)?;
        let sequence = self.sequence.get();
        (sequence != 0 && sequence == number.wrapping_add(1) && matches!(self.size.get(), 1 | 2 | 4 | 8 | 16))
            .then_some(Store {
                ring,
                address: self.address.get(),
                size: self.size.get(),
                value: self.value.get(),
                vcpu: self.vcpu.get(),
                pc: self.pc.get(),
                registers: self.registers.map(U64::get),
                caller_count,
                callers: self.callers.map(U64::get),
                text: core::str::from_utf8(text).ok()?,
            })
    }
}

/// The lines of a text that have room in a record; of a first line that has none, its beginning.
fn cut(text: &str) -> &str {
    if text.len() <= MAX_TEXT {
        return text;
    }
    // The byte behind the room may end the last line that fits.
    let end = text.as_bytes()[..=MAX_TEXT].iter().rposition(|byte| *byte == b'\n');
    &text[..end.unwrap_or_else(|| text.floor_char_boundary(MAX_TEXT))]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    fn store(text: &str) -> Store<'_> {
        Store {
            ring: Ring::Owned,
            address: 0x12_3456,
            size: 16,
            value: 1 << 127 | 5,
            vcpu: 3,
            pc: 0xFFFF_8000_0010_0000,
            registers: core::array::from_fn(|i| i as u64 * 3),
            caller_count: 2,
            callers: core::array::from_fn(|i| i as u64 * 7),
            text,
        }
    }

    #[test]
    fn a_record_says_what_it_was_made_of_under_its_number_only() {
        let record = Record::encode(41, &store("f at a.c:1\ng at a.c:2"));
        assert_eq!(record.decode(41), Some(store("f at a.c:1\ng at a.c:2")));
        assert_eq!(record.decode(42), None);
        assert_eq!(record.sequence, 42);
        // The offsets of the data sheet.
        let bytes = record.as_bytes();
        assert_eq!(bytes.len(), 2048);
        assert_eq!(bytes[0x28..0x30], 0xFFFF_8000_0010_0000_u64.to_le_bytes());
        assert_eq!(bytes[0xB0..0xB4], 2_u32.to_le_bytes());
        assert_eq!(&bytes[0x138..0x142], b"f at a.c:1");
        // The last number before the wrap would have the sequence of a record that is being written.
        assert_eq!(Record::encode(u32::MAX, &store("")).decode(u32::MAX), None);
    }

    #[test]
    fn text_without_room_is_cut_behind_a_line_or_a_character() {
        let lines = "0123456789abcde\n".repeat(200);
        let record = Record::encode(0, &store(&lines));
        let text = record.decode(0).map(|store| store.text).unwrap_or_default();
        assert_eq!(text, &lines[..MAX_TEXT / 16 * 16 - 1]);
        let wide = "ü".repeat(MAX_TEXT);
        let record = Record::encode(0, &store(&wide));
        assert_eq!(record.decode(0).map(|store| store.text.len()), Some(MAX_TEXT));
    }

    #[test]
    fn headers_are_refused_for_what_is_wrong_with_them() {
        let layout = Layout::new(256 << 20).expect("a layout");
        let (header, size) = (layout.header(), layout.file_size());
        assert_eq!(size, 0x1000 + 2 * 512 * 2048 + (4 << 20));
        assert_eq!(Layout::decode(&header, size), Ok(layout));
        assert_eq!(Layout::decode(&header, size - 1), Err(LayoutError::Short(size - 1, size)));
        for (at, error) in [
            (0, LayoutError::Magic),
            (8, LayoutError::Version(VERSION ^ 0xFF)),
            (0x10, LayoutError::Ram((256 << 20) + 0xFF)),
            (0x20, LayoutError::Header),
            (0x30, LayoutError::Header),
        ] {
            let mut header = header;
            header[at] ^= 0xFF;
            assert_eq!(Layout::decode(&header, size), Err(error), "{at:#x}");
        }
        assert_eq!(Layout::new(MAX_RAM + 4096), Err(LayoutError::Ram(MAX_RAM + 4096)));
        assert_eq!(Layout::new(0), Err(LayoutError::Ram(0)));
    }

    proptest! {
        /// The bits of a range are those that a look at each unit finds.
        #[test]
        fn bits_are_those_of_the_units(address in 0..16384_u64, bytes in 0..1000_u64) {
            let layout = Layout::new(8192).expect("a layout");
            let units = |found: Vec<(u64, u8)>| -> Vec<u64> {
                let each = found.into_iter().flat_map(|(byte, bits)| {
                    (0..8).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| (byte - MAP) * 8 + bit)
                });
                each.collect()
            };
            let end = address + bytes;
            let whole: Vec<_> = (0..1024).filter(|unit| unit * 8 >= address && unit * 8 + 8 <= end).collect();
            let touched: Vec<_> = (0..1024).filter(|unit| unit * 8 + 8 > address && unit * 8 < end).collect();
            prop_assert_eq!(units(layout.whole_units(address, bytes).collect()), whole);
            // A range of no bytes touches nothing, whatever it lies in.
            if bytes > 0 {
                prop_assert_eq!(units(layout.touched_units(address, bytes).collect()), touched);
            }
        }

        /// Whatever bytes a file holds, decoding stays within them.
        #[test]
        fn any_bytes_decode_to_nothing_or_within_bounds(all in prop::collection::vec(any::<u8>(), 2048), small: bool) {
            let mut bytes = all;
            if small {
                // So that the checks beyond the first few are reached.
                bytes[..8].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
                bytes[0x10..0x14].copy_from_slice(&[8, 0, 0, 0]);
                bytes[0xB1..0xB4].fill(0);
                bytes[0xB6..0xB8].fill(0);
            }
            let record = Record::read_from_bytes(&bytes).expect("of its size");
            if let Some(store) = record.decode(0) {
                prop_assert!(store.caller_count <= MAX_CALLERS && store.text.len() <= MAX_TEXT);
            }
        }

        #[test]
        fn any_text_fits(text in "[a-zü\n]{0,3000}") {
            let text: String = text;
            let record = Record::encode(7, &store(&text));
            let kept = record.decode(7).map(|store| store.text).unwrap_or("?");
            prop_assert!(text.starts_with(kept) && (text.len() > MAX_TEXT || kept == text));
        }
    }
}
