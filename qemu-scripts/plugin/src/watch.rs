//! What is done about a store: nothing, or a record.
//!
//! Fed by [`crate::ffi`] with each store of the guest, and with the vCPU that made it; feeds the owners map with
//! records.

use crate::ffi::OwnersFile;
use crate::stack;
use crate::symbols::Symbols;
use dmus_interface::owners::{MAX_CALLERS, MAX_TEXT, Record, Ring, Store};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Numbers of registers.
const STACK_POINTER: usize = 4;
const FRAME_POINTER: usize = 5;
/// Bytes of the doorbell page.
const PAGE: u64 = dmus_interface::pci::BAR_SIZE as u64;

/// How long a vCPU waits until the card has judged its store: as long as a card may render what was granted at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it looks again at once, and how long between two looks then.
const SPIN: Duration = Duration::from_micros(20);
const STEP: Duration = Duration::from_micros(20);

/// The vCPU that has just stored.
pub(crate) trait Cpu {
    /// What it stored.
    fn value(&mut self) -> u128;
    /// The registers, in the order of the data sheet; 0 for those that cannot be read.
    fn registers(&mut self) -> [u64; 16];
    /// One of them.
    fn register(&mut self, number: usize) -> u64;
    /// The two words at a virtual address, if memory is there.
    fn words(&self, address: u64) -> Option<(u64, u64)>;
}

/// A store that may be of interest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) vcpu: u32,
    pub(crate) pc: u64,
    /// Guest-physical address of its first byte.
    pub(crate) address: u64,
    pub(crate) size: u32,
}

/// See the module.
pub(crate) struct Watch {
    file: OwnersFile,
    /// One record is written at a time.
    symbols: Mutex<Symbols>,
    /// The guest is held at mistakes, and of how many it was; and how many vCPUs wait for a judgement.
    stopping: bool,
    known: AtomicU32,
    waiting: AtomicU32,
}

impl Watch {
    pub(crate) fn new(file: OwnersFile, symbols: Symbols) -> Self {
        let (stopping, known) = (file.is_stopping(), AtomicU32::new(file.stops()));
        Self { file, symbols: Mutex::new(symbols), stopping, known, waiting: AtomicU32::new(0) }
    }

    /// Whether the guest is held at mistakes.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the vCPU that has made an access is to be held. One whose store was recorded waits until the card has
    /// judged what the guest has stored up to here.
    #[inline]
    pub(crate) fn is_held(&self, recorded: bool) -> bool {
        self.stopping
            && match recorded {
                true => self.is_wrong(),
                // What is wrong may be a store that its vCPU waits behind.
                false => self.waiting.load(Ordering::Relaxed) == 0 && self.takes_stop(),
            }
    }

    #[cold]
    fn is_wrong(&self) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let (question, began) = (self.file.ask(), Instant::now());
        while !self.file.is_judged(question) && began.elapsed() < PATIENCE {
            if began.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(STEP);
            }
        }
        let wrong = self.takes_stop();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        wrong
    }

    /// Whether there is a mistake that no vCPU was held at yet: the one that asks is to be held. Cheap, for every
    /// access.
    #[inline]
    fn takes_stop(&self) -> bool {
        let stops = self.file.stops();
        stops != self.known.load(Ordering::Relaxed) && self.known.swap(stops, Ordering::Relaxed) != stops
    }

    /// Says that a vCPU is held.
    pub(crate) fn say_held(&self) {
        self.file.set_held(self.known.load(Ordering::Relaxed));
    }

    /// Whether a store is of interest, and where to. For every store of the guest, so that it must be cheap.
    #[inline]
    pub(crate) fn judge(&self, address: u64, size: u32) -> Option<Ring> {
        let size = u64::from(size);
        let door = self.file.doorbell_page();
        if door != 0 && address.wrapping_sub(door) < PAGE {
            return Some(Ring::Doorbell);
        }
        let layout = self.file.layout();
        let owned = layout.touched_units(address, size).any(|(place, bits)| self.file.byte(place) & bits != 0);
        owned.then_some(Ring::Owned)
    }

    /// Whether the guest has memory at a guest-physical address, and no device: reading that may change it.
    pub(crate) fn is_memory(&self, address: u64) -> bool {
        // Where a PC has its video memory and ROMs.
        const LEGACY: std::ops::Range<u64> = 0xA_0000..0x10_0000;
        self.file.layout().granule(address).is_some() && !LEGACY.contains(&address)
    }

    /// Records a store.
    #[cold]
    pub(crate) fn record(&self, ring: Ring, stored: Stored, cpu: &mut dyn Cpu) {
        // A register each costs as much as a look at memory: doorbell stores, of which there are many, go without.
        let registers = match ring {
            Ring::Owned => cpu.registers(),
            Ring::Doorbell => [0; 16],
        };
        let value = cpu.value();
        let (frame, stack_pointer) = (cpu.register(FRAME_POINTER), cpu.register(STACK_POINTER));
        let (mut callers, mut caller_count) = stack::callers(frame, |address| cpu.words(address));
        let mut symbols = self.symbols.lock().unwrap_or_else(PoisonError::into_inner);
        let first = callers[..caller_count].first().copied();
        let word = |address| cpu.words(address).map(|words| words.0);
        let before = |caller: u64| word(caller.wrapping_sub(8));
        let function = symbols.function(stored.pc);
        let target = |caller| call_target(caller, before(caller)?);
        let caller =
            function.and_then(|at| stack::frameless_caller(at, stack_pointer, first, target, word)).or_else(|| {
                // Assembly, such as most memcpy are, makes no frame, and may have been jumped to by what was called.
                let framed = function.and_then(word).is_some_and(makes_frame);
                let caller = word(stack_pointer).filter(|caller| !framed && Some(*caller) != first)?;
                let called =
                    symbols.function(caller.wrapping_sub(1)).is_some() && before(caller).is_some_and(ends_with_call);
                called.then_some(caller)
            });
        if let Some(caller) = caller {
            callers.copy_within(..MAX_CALLERS - 1, 1);
            callers[0] = caller;
            caller_count = (caller_count + 1).min(MAX_CALLERS);
        }
        let text = describe(&mut symbols, stored.pc, &callers[..caller_count]);
        let address = match ring {
            Ring::Owned => stored.address,
            Ring::Doorbell => stored.address.wrapping_sub(self.file.doorbell_page()) % PAGE,
        };
        let Stored { vcpu, pc, size, .. } = stored;
        let store =
            Store { ring, address, size, value, vcpu, pc, registers, caller_count, callers, text: text.trim_end() };
        self.file.push(ring, |number| Record::encode(number, &store));
    }
}

/// Where the direct call before a return address goes, by the 8 bytes before that.
fn call_target(caller: u64, before: u64) -> Option<u64> {
    const CALL: u8 = 0xE8;
    let bytes = before.to_le_bytes();
    let distance = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    (bytes[3] == CALL).then(|| caller.wrapping_add_signed(distance.into()))
}

/// Whether code that begins with these 8 bytes makes a frame: `push %rbp`, with `endbr64` before it perhaps.
fn makes_frame(code: u64) -> bool {
    const PUSH: u8 = 0x55;
    match code.to_le_bytes() {
        [0xF3, 0x0F, 0x1E, 0xFA, next, ..] => next == PUSH,
        [next, ..] => next == PUSH,
    }
}

/// Whether the last of 8 bytes of code are a call: a direct one, or one through the GOT or a register.
fn ends_with_call(code: u64) -> bool {
    let bytes = code.to_le_bytes();
    matches!(bytes, [_, _, _, 0xE8, ..] | [_, _, 0xFF, 0x15, ..] | [.., 0xFF, 0xD0..=0xD7])
}

/// The functions of an instruction and of its callers.
fn describe(symbols: &mut Symbols, pc: u64, callers: &[u64]) -> String {
    let mut text = String::with_capacity(MAX_TEXT + 256);
    text.push_str(symbols.describe(pc));
    for caller in callers.iter().take(MAX_CALLERS) {
        if text.len() > MAX_TEXT {
            break;
        }
        // A return address may be of the line, or the function, after the call.
        text.push_str(symbols.describe(caller.wrapping_sub(1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmus_interface::owners::{ASKED, DOORBELL_PAGE, JUDGED, Layout, STOPPING, STOPS};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use zerocopy::FromBytes;

    struct Still;

    impl Cpu for Still {
        fn value(&mut self) -> u128 {
            77
        }
        fn registers(&mut self) -> [u64; 16] {
            std::array::from_fn(|i| if i == 5 { 0x1000 } else { i as u64 })
        }
        fn register(&mut self, number: usize) -> u64 {
            self.registers()[number]
        }
        fn words(&self, address: u64) -> Option<(u64, u64)> {
            (address == 0x1000).then_some((0, 0x42))
        }
    }

    struct Fixture {
        watch: Watch,
        file: File,
        path: std::path::PathBuf,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dmus-plugin-{name}-{}", std::process::id()));
            let layout = Layout::new(1 << 20).expect("a layout");
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
            file.set_len(layout.file_size()).expect("its size");
            file.write_all_at(&layout.header(), 0).expect("its header");
            let watch = Watch::new(OwnersFile::open(&path).expect("a map"), Symbols::default());
            Self { watch, file, path }
        }

        fn mark(&self, address: u64, bits: u8) {
            let place = self.watch.file.layout().granule(address).expect("inside");
            self.file.write_all_at(&[bits], place).expect("a mark");
        }

        fn record(&self, ring: Ring, number: u32) -> Record {
            let mut bytes = vec![0; 2048];
            self.file.read_exact_at(&mut bytes, ring.record(number)).expect("a record");
            Record::read_from_bytes(&bytes).expect("of its size")
        }
    }

    #[test]
    fn a_store_is_judged_by_each_unit_that_it_touches() {
        let fixture = Fixture::new("judged");
        let owned = |address, size| fixture.watch.judge(address, size) == Some(Ring::Owned);
        assert!(!owned(0x100, 8));
        fixture.mark(0x100, 0b10);
        assert!(!owned(0x100, 8) && owned(0x108, 8) && owned(0x10F, 1) && !owned(0x110, 16));
        // From one unit, or granule, into the next.
        assert!(owned(0x104, 8) && owned(0xFC, 16) && !owned(0xF8, 16));
        // Beyond the map.
        assert!(!owned((1 << 20) - 4, 8) && !owned(u64::MAX - 3, 8));
    }

    #[test]
    fn the_vcpu_that_was_wrong_is_held_once_and_no_other() {
        let fixture = Fixture::new("held");
        fixture.file.write_all_at(&1_u32.to_le_bytes(), STOPPING).expect("the mode");
        let watch = Watch::new(OwnersFile::open(&fixture.path).expect("a map"), Symbols::default());
        let store = |offset, value: u32| fixture.file.write_all_at(&value.to_le_bytes(), offset).expect("a word");
        let asked = || {
            let mut word = [0; 4];
            fixture.file.read_exact_at(&mut word, ASKED).expect("a word");
            u32::from_le_bytes(word)
        };
        assert!(!watch.is_held(false));
        std::thread::scope(|scope| {
            let wrong = scope.spawn(|| watch.is_held(true));
            let began = Instant::now();
            while asked() == 0 {
                assert!(began.elapsed() < PATIENCE, "nothing is asked");
                std::thread::yield_now();
            }
            // The card counts a stop, and then says that it has judged: another vCPU runs in between.
            store(STOPS, 1);
            assert!(!watch.is_held(false));
            store(JUDGED, 1);
            assert!(wrong.join().expect("a vCPU"));
        });
        assert!(!watch.is_held(false));
        // At a register, say, the card has counted by the time the access returns.
        store(STOPS, 2);
        assert!(watch.is_held(false) && !watch.is_held(false));
    }

    #[test]
    fn a_direct_call_is_recognised_by_its_bytes() {
        let before = u64::from_le_bytes([0x90, 0x90, 0x90, 0xE8, 0xF0, 0xFF, 0xFF, 0xFF]);
        assert_eq!(call_target(0x1000, before), Some(0xFF0));
        assert_eq!(call_target(0x1000, 0), None);
    }

    #[test]
    fn frames_and_calls_are_recognised_by_their_bytes() {
        let code = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        assert!(makes_frame(code([0x55, 0x48, 0x89, 0xE5, 0, 0, 0, 0])));
        assert!(makes_frame(code([0xF3, 0x0F, 0x1E, 0xFA, 0x55, 0x48, 0x89, 0xE5])));
        assert!(!makes_frame(code([0xF3, 0x0F, 0x1E, 0xFA, 0x48, 0x89, 0xF8, 0x55])) && !makes_frame(0x55 << 8));
        for call in [[0, 0, 0, 0xE8, 1, 2, 3, 4], [0, 0, 0xFF, 0x15, 1, 2, 3, 4], [0, 0, 0, 0, 0, 0x41, 0xFF, 0xD7]] {
            assert!(ends_with_call(code(call)), "{call:x?}");
        }
        assert!(!ends_with_call(0) && !ends_with_call(code([0, 0, 0, 0, 0, 0, 0xFF, 0xE0])));
    }

    #[test]
    fn memory_is_what_the_map_covers_but_for_the_video_memory_of_a_pc() {
        let fixture = Fixture::new("memory");
        let is_memory = |address| fixture.watch.is_memory(address);
        assert!(is_memory(0x9_FFFF) && !is_memory(0xA_0000) && !is_memory(0xF_FFFF) && !is_memory(1 << 20));
    }

    #[test]
    fn a_record_has_the_callers_and_registers_of_an_owned_store_alone() {
        let fixture = Fixture::new("records");
        fixture.file.write_all_at(&0xFEB0_0000_u64.to_le_bytes(), DOORBELL_PAGE).expect("the page");
        assert_eq!(fixture.watch.judge(0xFEB0_0FF8, 8), Some(Ring::Doorbell));
        assert_eq!(fixture.watch.judge(0xFEB0_1000, 8), None);
        let stored = |address| Stored { vcpu: 0, pc: 0x40, address, size: 4 };
        for _ in 0..2 {
            fixture.watch.record(Ring::Owned, stored(0x108), &mut Still);
        }
        fixture.watch.record(Ring::Doorbell, stored(0xFEB0_0040), &mut Still);
        let record = fixture.record(Ring::Owned, 1);
        let store = record.decode(1).expect("a record");
        assert_eq!((store.address, store.value, store.registers[1], store.caller_count), (0x108, 77, 1, 1));
        assert_eq!((store.callers[0], store.text), (0x42, "0x40\n0x41"));
        let record = fixture.record(Ring::Doorbell, 0);
        let store = record.decode(0).expect("a record");
        assert_eq!((store.address, store.value, store.registers[1]), (0x40, 77, 0));
        assert_eq!(store.text, "0x40\n0x41");
    }
}
