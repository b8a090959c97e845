//! The owners map: what a plugin of QEMU is told of the card's memory, and which stores it saw.
//!
//! Fed by the streams with the memory that they take and give back, by configuration space with the place of the
//! doorbell page, and by the plugin with records; feeds whoever reports a store that should not have been.
//! The layout is the data sheet's, [`dmus_interface::owners`].
//!
//! The file is its owner's: a process that shortens it while the card serves ends the card. What it holds is checked,
//! whoever wrote it.

use super::SharedMemory;
use dmus_interface::owners::{
    ASKED, DOORBELL_PAGE, HEADER_SIZE, HELD, JUDGED, Layout, LayoutError, MAX_RAM, RECORD_SIZE, RECORDS, Record, Ring,
    STOPPING, STOPS, Store, WATCHING,
};
use memmap2::MmapOptions;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use zerocopy::{FromZeros, IntoBytes};

/// Why a file cannot be used as an owners map.
#[derive(Debug, thiserror::Error)]
pub enum OwnersError {
    /// The system refused.
    #[error("cannot use the owners map {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds something else.
    #[error("cannot use the owners map {path}: {error}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: LayoutError,
    },
}

/// A store that the plugin saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// Which of the ring's records this is, from 0; wraps at 2^32.
    pub number: u32,
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
    /// [`dmus_interface::owners::REGISTERS`] when it stored; all 0 for a doorbell store.
    pub registers: [u64; 16],
    /// Return addresses by frame pointers, the innermost first.
    pub callers: Vec<u64>,
    /// The functions that were under way, the innermost first, those that are inlined too: `FUNCTION at FILE:LINE`, as
    /// far as known. Never empty.
    pub functions: Vec<String>,
}

impl StoreRecord {
    fn new(number: u32, store: &Store<'_>) -> Self {
        let mut functions: Vec<_> = store.text.lines().map(str::to_owned).collect();
        if functions.is_empty() {
            functions.push(format!("{:#x}", store.pc));
        }
        Self {
            number,
            address: store.address,
            size: store.size,
            value: store.value,
            vcpu: store.vcpu,
            pc: store.pc,
            registers: store.registers,
            callers: store.callers.iter().take(store.caller_count).copied().collect(),
            functions,
        }
    }

    /// Whether it touched one of these bytes.
    pub fn touches(&self, address: u64, bytes: u64) -> bool {
        self.address < address.saturating_add(bytes) && address < self.address.saturating_add(u64::from(self.size))
    }
}

/// An owners map in use. All methods are for any thread.
#[derive(Debug)]
pub struct Owners {
    memory: SharedMemory,
    layout: Layout,
}

impl Owners {
    /// Maps a file. One that is missing or empty becomes a map of the most memory; it has holes, and takes room only
    /// for memory that is marked.
    ///
    /// # Errors
    /// See [`OwnersError`].
    pub fn open(path: &Path) -> Result<Self, OwnersError> {
        let io = |error| OwnersError::Io { path: path.into(), error };
        let refused = |error| OwnersError::Layout { path: path.into(), error };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            write_new(&file, &Layout::new(MAX_RAM).map_err(refused)?).map_err(io)?;
        }
        let size = file.metadata().map_err(io)?.len();
        let mut header = [0; HEADER_SIZE];
        let read = file.read_at(&mut header, 0).map_err(io)?;
        // A file of less than a header has the rest of it 0, which is no header.
        let layout = Layout::decode(&header, size.min(if read == HEADER_SIZE { size } else { 0 })).map_err(refused)?;
        let len = usize::try_from(layout.file_size()).map_err(|_| refused(LayoutError::Header))?;
        let map = MmapOptions::new().len(len).map_raw(&file).map_err(io)?;
        Ok(Self { memory: SharedMemory { map }, layout })
    }

    /// Makes a file for guest memory of `ram` bytes (whole pages, 2 GiB at most), replacing what is there.
    ///
    /// # Errors
    /// See [`OwnersError`].
    pub fn create(path: &Path, ram: u64) -> Result<(), OwnersError> {
        let layout = Layout::new(ram).map_err(|error| OwnersError::Layout { path: path.into(), error })?;
        let made = File::create(path).and_then(|file| write_new(&file, &layout));
        made.map_err(|error| OwnersError::Io { path: path.into(), error })
    }

    /// Bytes of guest memory that the map covers.
    pub fn ram(&self) -> u64 {
        self.layout.ram()
    }

    /// Says that this guest memory is the card's, by its offset in the memfd. Only units of 8 bytes that lie wholly
    /// inside are marked, so that a neighbour's store is never taken for one into this range; what is beyond the map
    /// is left out.
    pub fn mark(&self, offset: u64, bytes: u64) {
        for (place, bits) in self.layout.whole_units(offset, bytes) {
            if let Some(byte) = self.byte(place) {
                match bits {
                    0xFF => byte.store(bits, Ordering::Relaxed),
                    _ => _ = byte.fetch_or(bits, Ordering::Relaxed),
                }
            }
        }
    }

    /// Says that this guest memory is the driver's again. Call it before the driver is told: what it stores then is
    /// judged by this.
    pub fn clear(&self, offset: u64, bytes: u64) {
        for (place, bits) in self.layout.whole_units(offset, bytes) {
            if let Some(byte) = self.byte(place) {
                match bits {
                    0xFF => byte.store(0, Ordering::Relaxed),
                    _ => _ = byte.fetch_and(!bits, Ordering::Relaxed),
                }
            }
        }
    }

    /// Says that all guest memory is the driver's: for a reset. Takes time only for memory that the map covers.
    pub fn clear_all(&self) {
        let granules = self.layout.whole_units(0, self.layout.ram());
        for byte in granules.filter_map(|(place, _)| self.byte(place)) {
            // The pages of a hole stay holes.
            if byte.load(Ordering::Relaxed) != 0 {
                byte.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Says where the guest sees the doorbell page, by guest-physical address; `None`: nowhere.
    pub fn set_doorbell(&self, address: Option<u64>) {
        if let Some(place) = self.word(DOORBELL_PAGE, 8) {
            // SAFETY: `word` gives the place of 8 aligned bytes inside the mapping, which lives as long as `self`; both
            // sides access them atomically only.
            unsafe { AtomicU64::from_ptr(place.cast()) }.store(address.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Whether a plugin has said that it watches.
    pub fn is_watched(&self) -> bool {
        self.load(WATCHING) == 1
    }

    /// Has the plugin, which is not loaded yet, hold the guest at mistakes.
    pub fn set_stopping(&self) {
        self.store(STOPPING, 1);
    }

    /// How many stores the plugin has asked the card to judge, wrapping at 2^32.
    pub(crate) fn asked(&self) -> u32 {
        self.load(ASKED)
    }

    /// Whether all of them are judged.
    pub(crate) fn is_judged(&self, asked: u32) -> bool {
        self.load(JUDGED) == asked
    }

    /// The first so many are judged: the vCPU goes on, or is held.
    pub(crate) fn set_judged(&self, asked: u32) {
        self.store(JUDGED, asked);
    }

    /// Has the guest held. One thread at a time says so.
    pub(crate) fn stop(&self) {
        self.store(STOPS, self.load(STOPS).wrapping_add(1));
    }

    /// For how many mistakes it was to be held when a vCPU was held last, wrapping at 2^32; 0: none was.
    pub fn held(&self) -> u32 {
        self.load(HELD)
    }

    /// How many stores a ring has had, wrapping at 2^32. The last 512 can be read.
    pub fn count(&self, ring: Ring) -> u32 {
        self.load(ring.next())
    }

    /// The stores into these bytes of guest memory while the card owned them, the newest first. The record of a store
    /// comes a moment after the store: whoever has just seen the memory change looks again a millisecond later.
    pub fn stores_into(&self, offset: u64, bytes: u64) -> Vec<StoreRecord> {
        self.records(Ring::Owned, |store| store.touches(offset, bytes))
    }

    /// The stores to the doorbell page that touched this offset, the newest first.
    pub fn doorbell_stores(&self, offset: u64) -> Vec<StoreRecord> {
        self.records(Ring::Doorbell, |store| store.touches(offset, 1))
    }

    /// The records of a ring that `wanted` takes, the newest first.
    pub fn records(&self, ring: Ring, wanted: impl Fn(&StoreRecord) -> bool) -> Vec<StoreRecord> {
        let next = self.count(ring);
        let numbers = (1..=RECORDS).map(|back| next.wrapping_sub(back));
        numbers.filter_map(|number| self.record(ring, number)).filter(wanted).collect()
    }

    /// A copy of a record, unless the plugin was writing there.
    fn record(&self, ring: Ring, number: u32) -> Option<StoreRecord> {
        let place = ring.record(number);
        // The first word of a record is its sequence.
        let before = self.load(place);
        let mut record = Record::new_zeroed();
        debug_assert_eq!(record.as_bytes().len() as u64, RECORD_SIZE);
        self.memory.read(usize::try_from(place).ok()?, record.as_mut_bytes());
        fence(Ordering::Acquire);
        let whole = record.sequence == before && before == self.load(place);
        let store = whole.then(|| record.decode(number)).flatten().filter(|store| store.ring == ring)?;
        Some(StoreRecord::new(number, &store))
    }

    fn load(&self, offset: u64) -> u32 {
        // SAFETY: as in `set_doorbell`, with 4 bytes.
        self.word(offset, 4).map_or(0, |place| unsafe { AtomicU32::from_ptr(place.cast()) }.load(Ordering::Acquire))
    }

    fn store(&self, offset: u64, value: u32) {
        if let Some(place) = self.word(offset, 4) {
            // SAFETY: as in `set_doorbell`, with 4 bytes.
            unsafe { AtomicU32::from_ptr(place.cast()) }.store(value, Ordering::Release);
        }
    }

    /// The place of an aligned word.
    fn word(&self, offset: u64, bytes: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(bytes))?;
        self.memory.place(offset, bytes)
    }

    fn byte(&self, offset: u64) -> Option<&AtomicU8> {
        let place = self.memory.place(usize::try_from(offset).ok()?, 1)?;
        // SAFETY: inside the mapping, which lives as long as `self`; both sides access the byte atomically only.
        Some(unsafe { AtomicU8::from_ptr(place) })
    }
}

/// Makes an empty file a map without marks.
fn write_new(file: &File, layout: &Layout) -> io::Result<()> {
    file.set_len(layout.file_size())?;
    file.write_all_at(&layout.header(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        owners: Owners,
        file: File,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().join("owners");
            Owners::create(&path, 1 << 20).expect("a file");
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("the file");
            Self { owners: Owners::open(&path).expect("a map"), file, _dir: dir }
        }

        /// What the plugin does.
        fn store(&self, ring: Ring, number: u32, address: u64) {
            let store = Store {
                ring,
                address,
                size: 8,
                value: 7,
                vcpu: 0,
                pc: 0x1234,
                registers: [3; 16],
                caller_count: 1,
                callers: [9; 16],
                text: "f at a.c:1\nmain at a.c:9",
            };
            let record = Record::encode(number, &store);
            self.file.write_all_at(record.as_bytes(), ring.record(number)).expect("a record");
            self.file.write_all_at(&number.wrapping_add(1).to_le_bytes(), ring.next()).expect("the next number");
        }

        /// The byte of the map for an address, as the plugin reads it.
        fn byte(&self, address: u64) -> u8 {
            let mut byte = [0];
            let place = self.owners.layout.granule(address).expect("inside");
            self.file.read_exact_at(&mut byte, place).expect("a byte");
            byte[0]
        }
    }

    fn numbers(found: &[StoreRecord]) -> Vec<u32> {
        found.iter().map(|record| record.number).collect()
    }

    #[test]
    fn only_whole_units_are_marked_and_neighbours_stay() {
        let fixture = Fixture::new();
        fixture.owners.mark(64 + 4, 200);
        // 68..268: the units from 72 to 264.
        assert_eq!([0, 64, 128, 192, 256].map(|address| fixture.byte(address)), [0, 0xFE, 0xFF, 0xFF, 0x01]);
        fixture.owners.mark(256 + 16, 8);
        fixture.owners.clear(64 + 4, 200);
        assert_eq!([64, 128, 192, 256].map(|address| fixture.byte(address)), [0, 0, 0, 0x04]);
        // Beyond the end there is nothing to mark.
        fixture.owners.mark((1 << 20) - 8, 4096);
        fixture.owners.mark(u64::MAX - 4, 100);
        assert_eq!(fixture.byte((1 << 20) - 64), 0x80);
        fixture.owners.clear_all();
        assert_eq!([256, (1 << 20) - 64].map(|address| fixture.byte(address)), [0, 0]);
    }

    #[test]
    fn stores_are_found_by_what_they_touched_newest_first() {
        let fixture = Fixture::new();
        for (number, address) in (0..).zip([100, 200, 96, 4096]) {
            fixture.store(Ring::Owned, number, address);
        }
        fixture.store(Ring::Doorbell, 0, 0x40);
        let found = fixture.owners.stores_into(103, 1);
        assert_eq!(numbers(&found), [2, 0]);
        assert_eq!((found[0].callers.as_slice(), found[0].value), ([9].as_slice(), 7));
        assert_eq!(found[0].functions, ["f at a.c:1", "main at a.c:9"]);
        assert_eq!(numbers(&fixture.owners.stores_into(0, u64::MAX)), [3, 2, 1, 0]);
        assert!(fixture.owners.stores_into(108, 92).is_empty());
        assert_eq!(numbers(&fixture.owners.doorbell_stores(0x47)), [0]);
        assert!(fixture.owners.doorbell_stores(0x48).is_empty());
        assert_eq!((fixture.owners.count(Ring::Owned), fixture.owners.count(Ring::Doorbell)), (4, 1));
    }

    #[test]
    fn records_that_are_overwritten_half_written_or_nonsense_are_left_out() {
        let fixture = Fixture::new();
        for number in 0..RECORDS + 3 {
            fixture.store(Ring::Owned, number, 64);
        }
        let found = numbers(&fixture.owners.stores_into(64, 1));
        assert_eq!((found.first(), found.last(), found.len()), (Some(&(RECORDS + 2)), Some(&3), RECORDS as usize));
        // The plugin is at its newest one; another has a kind that there is not.
        fixture.file.write_all_at(&[0; 4], Ring::Owned.record(RECORDS + 2)).expect("a word");
        fixture.file.write_all_at(&[9], Ring::Owned.record(RECORDS + 1) + 4).expect("a byte");
        assert_eq!(fixture.owners.stores_into(64, 1).first().map(|record| record.number), Some(RECORDS));
    }

    #[test]
    fn the_doorbell_page_is_told_in_the_header() {
        let fixture = Fixture::new();
        let told = || {
            let mut word = [0; 8];
            fixture.file.read_exact_at(&mut word, DOORBELL_PAGE).expect("a word");
            u64::from_le_bytes(word)
        };
        fixture.owners.set_doorbell(Some(0xFEB0_0000));
        assert_eq!(told(), 0xFEB0_0000);
        fixture.owners.set_doorbell(None);
        assert_eq!(told(), 0);
        assert!(!fixture.owners.is_watched());
    }

    #[test]
    fn a_new_file_becomes_a_map_and_another_file_is_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("owners");
        let made = Owners::open(&path).expect("a map");
        assert_eq!(made.ram(), MAX_RAM);
        made.mark(0, 64);
        // Opened again, it keeps its marks.
        let again = Owners::open(&path).expect("the map");
        assert_eq!(
            again.layout.granule(0).and_then(|place| again.byte(place)).map(|b| b.load(Ordering::Relaxed)),
            Some(0xFF)
        );
        std::fs::write(&path, "something else").expect("a file");
        let error = Owners::open(&path).expect_err("no map").to_string();
        assert!(error.contains("owners: it is no owners map"), "{error}");
        std::fs::write(&path, &Layout::new(4096).expect("a layout").header()[..8]).expect("a file");
        assert!(Owners::open(&path).is_err());
    }
}
