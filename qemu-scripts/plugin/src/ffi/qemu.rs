//! QEMU's plugin interface, version 7, as far as it is used: its declarations, and the functions that QEMU calls.
//!
//! Fed by QEMU; feeds [`crate::watch`]. A panic in a function that QEMU calls ends the process: it cannot unwind out of
//! an `extern "C"` function.

use super::OwnersFile;
use crate::arguments::Arguments;
use crate::symbols::Symbols;
use crate::watch::{Cpu, Stored, Watch};
use dmus_interface::owners::REGISTERS;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::time::Duration;

/// The version of the interface that is declared here. QEMU looks for this symbol, and refuses the library if it has
/// another one.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU's name")]
pub(crate) static qemu_plugin_version: c_int = 7;

/// `enum qemu_plugin_cb_flags`: the callback reads registers.
const READS_REGISTERS: c_int = 1;
/// The same: it changes the program counter, too.
const WRITES_PC: c_int = 3;
/// `enum qemu_plugin_mem_rw`: stores, and loads and stores.
const STORES: c_int = 2;
const ACCESSES: c_int = 3;
/// `enum qemu_plugin_cond`: not equal.
const NOT_EQUAL: c_int = 3;
/// How long a held vCPU sleeps between two looks whether the machine is to be stopped.
const HOLD_STEP: Duration = Duration::from_micros(200);
/// Bytes of a page of the guest.
const PAGE: u64 = 4096;

/// `GByteArray` of GLib, its public part.
#[repr(C)]
struct ByteArray {
    data: *mut u8,
    len: c_uint,
}

/// `GArray` of GLib, its public part.
#[repr(C)]
struct Array {
    data: *mut c_char,
    len: c_uint,
}

/// The beginning of `qemu_plugin_reg_descriptor`; how long one is, the array says.
#[repr(C)]
struct RegisterDescriptor {
    handle: *mut c_void,
    name: *const c_char,
}

/// `qemu_plugin_mem_value`. Of the union, `high` belongs to 128 bits only.
#[repr(C)]
struct Value {
    kind: c_int,
    low: u64,
    high: u64,
}

/// `qemu_plugin_u64`: a number for each vCPU.
#[derive(Clone, Copy)]
#[repr(C)]
struct PerCpu {
    scoreboard: *mut c_void,
    offset: usize,
}

// SAFETY: the scoreboard is QEMU's, lives as long as it, and is only given back to it.
unsafe impl Send for PerCpu {}
// SAFETY: as above; each vCPU has a number of its own, which only its thread changes.
unsafe impl Sync for PerCpu {}

type OnTranslate = extern "C" fn(*mut c_void, *mut c_void);
type OnStore = extern "C" fn(c_uint, u32, u64, *mut c_void);
type OnVcpu = extern "C" fn(c_uint, *mut c_void);

// SAFETY: as QEMU declares them for version 7 of its interface, which is the only one that loads this library.
unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: OnTranslate, data: *mut c_void);
    fn qemu_plugin_register_vcpu_init_cb(id: u64, callback: OnVcpu, data: *mut c_void);
    fn qemu_plugin_register_vcpu_resume_cb(id: u64, callback: OnVcpu, data: *mut c_void);
    fn qemu_plugin_register_vcpu_insn_exec_cond_cb(
        instruction: *mut c_void,
        callback: OnVcpu,
        flags: c_int,
        condition: c_int,
        number: PerCpu,
        operand: u64,
        data: *mut c_void,
    );
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut c_void;
    fn qemu_plugin_u64_set(number: PerCpu, vcpu: c_uint, value: u64);
    fn qemu_plugin_set_pc(address: u64) -> !;
    fn qemu_plugin_mem_is_store(info: u32) -> bool;
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_vaddr(instruction: *const c_void) -> u64;
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut c_void,
        callback: OnStore,
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    fn qemu_plugin_mem_get_value(info: u32) -> Value;
    fn qemu_plugin_get_hwaddr(info: u32, address: u64) -> *const c_void;
    fn qemu_plugin_hwaddr_phys_addr(place: *const c_void) -> u64;
    fn qemu_plugin_get_registers() -> *mut Array;
    fn qemu_plugin_read_register(handle: *mut c_void, bytes: *mut ByteArray) -> bool;
    fn qemu_plugin_translate_vaddr(address: u64, physical: *mut u64) -> bool;
    fn qemu_plugin_read_memory_vaddr(address: u64, bytes: *mut ByteArray, len: usize) -> bool;
    // GLib, which QEMU is linked with.
    fn g_byte_array_new() -> *mut ByteArray;
    fn g_byte_array_set_size(bytes: *mut ByteArray, len: c_uint) -> *mut ByteArray;
    fn g_array_get_element_size(array: *mut Array) -> c_uint;
    fn g_array_free(array: *mut Array, elements: c_int) -> *mut c_char;
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Which vCPUs are held: 1. None, unless the guest is held at mistakes.
static HOLD: OnceLock<PerCpu> = OnceLock::new();

/// Handles of the general registers, in the order of the data sheet: numbers to QEMU, the same for each vCPU.
static HANDLES: OnceLock<[usize; 16]> = OnceLock::new();

/// Called by QEMU when it loads the library. 0: it stays; else QEMU ends.
///
/// # Safety
/// `argv` has `argc` strings that end with 0.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's.
    let words = (0..count).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy());
    let words: Vec<_> = words.collect();
    match install(&words) {
        Ok(true) => {}
        // A probe: what it wanted to know is told, and QEMU shall end.
        Ok(false) => return 1,
        Err(error) => {
            eprintln!("dmus-plugin: {error}");
            return 1;
        }
    }
    // SAFETY: `id` is this plugin's, and the callbacks have the types that version 7 wants.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, on_vcpu, std::ptr::null_mut());
        qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate, std::ptr::null_mut());
        if WATCH.get().is_some_and(Watch::is_stopping) {
            let scoreboard = qemu_plugin_scoreboard_new(size_of::<u64>());
            HOLD.get_or_init(|| PerCpu { scoreboard, offset: 0 });
            qemu_plugin_register_vcpu_resume_cb(id, on_resume, std::ptr::null_mut());
        }
    }
    0
}

/// Whether there is something to watch.
fn install(words: &[std::borrow::Cow<'_, str>]) -> Result<bool, String> {
    let arguments = Arguments::parse(words.iter().map(AsRef::as_ref))?;
    if arguments.probe {
        eprintln!("dmus-plugin: ready");
    }
    let Some(path) = arguments.owners else {
        return Ok(false);
    };
    let file =
        OwnersFile::open(&path).map_err(|error| format!("cannot use the owners map {}: {error}", path.display()))?;
    let mut symbols = Symbols::default();
    for file in &arguments.symbols {
        // Addresses alone are worth something.
        if let Err(error) = symbols.add(file) {
            eprintln!("dmus-plugin: {error}");
        }
    }
    match WATCH.set(Watch::new(file, symbols)) {
        Ok(()) => Ok(true),
        Err(_) => Err("it is loaded already".into()),
    }
}

extern "C" fn on_vcpu(_vcpu: c_uint, _data: *mut c_void) {
    HANDLES.get_or_init(handles);
}

fn handles() -> [usize; 16] {
    let mut found = [0; 16];
    // SAFETY: called in a vCPU's initialisation, as QEMU wants it; the array is this function's, its elements begin
    // with a descriptor, and names are strings that live as long as QEMU.
    unsafe {
        let array = qemu_plugin_get_registers();
        if array.is_null() {
            return found;
        }
        let size = g_array_get_element_size(array) as usize;
        for i in 0..(*array).len as usize {
            let descriptor = (*array).data.add(i * size).cast::<RegisterDescriptor>().read_unaligned();
            let name = CStr::from_ptr(descriptor.name).to_bytes();
            if let Some(place) = REGISTERS.iter().position(|register| register.as_bytes() == name) {
                found[place] = descriptor.handle as usize;
            }
        }
        g_array_free(array, 1);
    }
    found
}

extern "C" fn on_translate(block: *mut c_void, _data: *mut c_void) {
    // SAFETY: `block` is QEMU's until this returns, and its instructions with it. What the callback is given is no
    // pointer but the instruction's address.
    unsafe {
        for i in 0..qemu_plugin_tb_n_insns(block) {
            let instruction = qemu_plugin_tb_get_insn(block, i);
            let pc = std::ptr::without_provenance_mut(qemu_plugin_insn_vaddr(instruction) as usize);
            let accesses = match HOLD.get() {
                None => STORES,
                // A register may be one that must not be read.
                Some(hold) => {
                    qemu_plugin_register_vcpu_insn_exec_cond_cb(
                        instruction,
                        on_held,
                        WRITES_PC,
                        NOT_EQUAL,
                        *hold,
                        0,
                        pc,
                    );
                    ACCESSES
                }
            };
            qemu_plugin_register_vcpu_mem_cb(instruction, on_access, READS_REGISTERS, accesses, pc);
        }
    }
}

/// A vCPU that is held is about to go on, with the instruction behind the mistake or the first of an interrupt: it goes
/// back to QEMU, which stops it there once somebody has the machine stopped.
extern "C" fn on_held(_vcpu: c_uint, pc: *mut c_void) {
    if let Some(watch) = WATCH.get() {
        watch.say_held();
    }
    std::thread::sleep(HOLD_STEP);
    // SAFETY: the callback was registered as one that changes the program counter, and nothing here has to be dropped.
    unsafe { qemu_plugin_set_pc(pc.addr() as u64) }
}

/// The machine was stopped, and goes on; or the vCPU was halted, and was not held then.
extern "C" fn on_resume(vcpu: c_uint, _data: *mut c_void) {
    set_hold(vcpu, false);
}

fn set_hold(vcpu: c_uint, held: bool) {
    if let Some(hold) = HOLD.get() {
        // SAFETY: the scoreboard is of numbers of 64 bits, and has one for each vCPU.
        unsafe { qemu_plugin_u64_set(*hold, vcpu, held.into()) };
    }
}

extern "C" fn on_access(vcpu: c_uint, info: u32, address: u64, pc: *mut c_void) {
    let Some(watch) = WATCH.get() else {
        return;
    };
    // SAFETY: `info` is that of the access that this is called for.
    let recorded = unsafe { qemu_plugin_mem_is_store(info) } && on_store(watch, vcpu, info, address, pc);
    if watch.is_held(recorded) {
        set_hold(vcpu, true);
    }
}

/// Whether the store was recorded.
fn on_store(watch: &Watch, vcpu: c_uint, info: u32, address: u64, pc: *mut c_void) -> bool {
    // SAFETY: `info` is that of the store that this is called for.
    let size = 1 << (unsafe { qemu_plugin_mem_size_shift(info) }.min(4));
    let in_page = PAGE - address % PAGE;
    let (first, rest) = match u64::from(size) > in_page {
        false => (size, 0),
        // Its second page may be anywhere.
        true => (in_page as u32, size - in_page as u32),
    };
    for (address, part) in [(address, first), (address.wrapping_add(in_page), rest)] {
        if part == 0 {
            continue;
        }
        let Some(place) = physical(info, address) else {
            continue;
        };
        if let Some(ring) = watch.judge(place, part) {
            let stored = Stored { vcpu, pc: pc.addr() as u64, address: place, size };
            watch.record(ring, stored, &mut Vcpu { info });
            return true;
        }
    }
    false
}

/// Guest-physical address of a byte that was stored to.
fn physical(info: u32, address: u64) -> Option<u64> {
    // SAFETY: called for the store that `info` is of; the answer is valid until the callback returns, and used at once.
    unsafe {
        let place = qemu_plugin_get_hwaddr(info, address);
        (!place.is_null()).then(|| qemu_plugin_hwaddr_phys_addr(place))
    }
}

/// Whether a virtual address is one of the guest's memory, and of no device.
fn is_memory(address: u64) -> bool {
    let mut physical = 0;
    // SAFETY: any address may be asked for, and the answer is this function's; this is a vCPU's callback.
    let is_mapped = unsafe { qemu_plugin_translate_vaddr(address, &mut physical) };
    is_mapped && WATCH.get().is_some_and(|watch| watch.is_memory(physical))
}

/// The vCPU on whose thread a callback runs.
struct Vcpu {
    info: u32,
}

/// What QEMU writes registers and memory to, one for each thread: freed by nobody, since vCPUs live as long as QEMU.
struct Bytes(*mut ByteArray);

thread_local! {
    // SAFETY: no more is asked of the caller.
    static BYTES: RefCell<Bytes> = RefCell::new(Bytes(unsafe { g_byte_array_new() }));
}

impl Bytes {
    /// Has QEMU fill the array, which is empty then; gives the `N` bytes, if it did.
    fn fill<const N: usize>(&mut self, fill: impl FnOnce(*mut ByteArray) -> bool) -> Option<[u8; N]> {
        // SAFETY: the array is this thread's, and lives for ever; QEMU has set its length to what it wrote.
        unsafe {
            g_byte_array_set_size(self.0, 0);
            if !fill(self.0) || ((*self.0).len as usize) < N {
                return None;
            }
            Some((*self.0).data.cast::<[u8; N]>().read_unaligned())
        }
    }
}

/// A general register, by its number in the data sheet; 0 if it cannot be read.
fn read_register(number: usize) -> u64 {
    let handle = HANDLES.get().and_then(|handles| handles.get(number)).copied().unwrap_or(0);
    if handle == 0 {
        return 0;
    }
    // SAFETY: the handle is QEMU's, and the callback was registered as one that reads registers.
    let read = |bytes| unsafe { qemu_plugin_read_register(std::ptr::without_provenance_mut(handle), bytes) };
    BYTES.with_borrow_mut(|bytes| bytes.fill(read)).map_or(0, u64::from_le_bytes)
}

impl Cpu for Vcpu {
    fn value(&mut self) -> u128 {
        // SAFETY: `info` is that of the store that the callback is for.
        let value = unsafe { qemu_plugin_mem_get_value(self.info) };
        match value.kind {
            0 => u128::from(value.low as u8),
            1 => u128::from(value.low as u16),
            2 => u128::from(value.low as u32),
            4 => u128::from(value.high) << 64 | u128::from(value.low),
            _ => u128::from(value.low),
        }
    }

    fn registers(&mut self) -> [u64; 16] {
        std::array::from_fn(read_register)
    }

    fn register(&mut self, number: usize) -> u64 {
        read_register(number)
    }

    fn words(&self, address: u64) -> Option<(u64, u64)> {
        let ends = [address, address.checked_add(15)?];
        // What is no frame pointer may be the address of a register, and reading that would be the guest's doing.
        if !ends.into_iter().all(is_memory) {
            return None;
        }
        // SAFETY: any address may be asked for; this is a vCPU's callback.
        let read = |bytes| unsafe { qemu_plugin_read_memory_vaddr(address, bytes, 16) };
        let words: [u8; 16] = BYTES.with_borrow_mut(|bytes| bytes.fill(read))?;
        let both = u128::from_le_bytes(words);
        Some((both as u64, (both >> 64) as u64))
    }
}
