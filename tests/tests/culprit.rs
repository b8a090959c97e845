//! The plugin that names culprits, in QEMU with the C driver on it, and with the wrong drivers of the zoo, bare metal
//! and in Linux: which instruction stored into memory that is the card's, and which rang.

use anyhow::{Context, ensure};
use dmus_card::owners::{Owners, StoreRecord};
use dmus_interface::doorbell;
use dmus_interface::owners::{REGISTERS, Ring};
use dmus_tests::programs::{repository, run, said, script, target};
use object::{Object, ObjectSection, ObjectSymbol};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Memory of the machine of `images/c-driver/boot`.
const RAM: u64 = 64 << 20;

/// Its wrong drivers, and those of the zoo that store into memory of the card.
const WRONG: &str = "images/c-driver/wrong.c";
const ZOO: &str = "guest-driver/conformance/src/zoo/ownership.rs";

fn c_driver(name: &str) -> Command {
    Command::new(repository().join("images/c-driver").join(name))
}

fn build() -> anyhow::Result<()> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let output = run(&mut c_driver("build")).map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    });
    built.clone().map_err(anyhow::Error::msg)
}

/// Plays the tune with a plugin.
fn play(dir: &Path) -> anyhow::Result<Owners> {
    build()?;
    let map = dir.join("owners");
    Owners::create(&map, RAM)?;
    let owners = Owners::open(&map)?;
    let mut boot = c_driver("boot");
    let done = run(boot.args(["-o", "out.wav", "--culprit"]).arg(&map).current_dir(dir))?;
    let said = said(&done);
    ensure!(done.status.success() && said.contains("dmus: presented 43\n"), "{}: {said}", done.status);
    ensure!(owners.is_watched(), "the plugin did not open the map: {said}");
    Ok(owners)
}

/// The line of a source that has this text.
fn line_of(file: &str, text: &str) -> anyhow::Result<usize> {
    let source = std::fs::read_to_string(repository().join(file))?;
    let found: Vec<_> = (1..).zip(source.lines()).filter(|(_, line)| line.contains(text)).collect();
    ensure!(found.len() == 1, "{} lines of {file} have {text}", found.len());
    Ok(found[0].0)
}

/// Whether a record has its callers from `play` to the guest's start.
fn has_callers(store: &StoreRecord) -> bool {
    let place = |name: &str| store.functions.iter().position(|function| function.starts_with(&format!("{name} at ")));
    let (play, main, start) = (place("play"), place("guest_main"), place("start64"));
    store.callers.len() >= 2 && play > Some(0) && main > play && start > main
}

#[test]
fn the_instruction_that_stored_into_memory_of_the_card_is_named_by_function_line_and_callers() -> anyhow::Result<()> {
    for (name, function, text) in
        [("slot-changed", "slot_changed", "->data[1] = 61;"), ("buffer-changed", "buffer_changed", "[7] = 0x7e;")]
    {
        let dir = tempfile::tempdir()?;
        build()?;
        let mut boot = c_driver("boot");
        boot.args(["-o", "out.wav", "--culprit", "owners"]).arg(format!("wrong={name}"));
        let done = run(boot.current_dir(dir.path()))?;
        let said = said(&done);
        ensure!(done.status.code() == Some(9), "{}: {said}", done.status);
        let mut lines = said.lines().skip_while(|line| !line.starts_with("  culprit   a store of 1 bytes, "));
        ensure!(lines.next().is_some(), "{name}: {said}");
        let place = format!("{function} at ");
        let line = format!("{WRONG}:{}", line_of(WRONG, text)?);
        let first = lines.next().unwrap_or_default().trim_start();
        ensure!(first.starts_with(&place) && first.ends_with(&line), "{name}: {first} is not {line}: {said}");
        let callers: Vec<&str> = lines.take_while(|line| line.starts_with("            ")).collect();
        for caller in ["wrong at ", "guest_main at "] {
            ensure!(callers.iter().any(|line| line.trim_start().starts_with(caller)), "{name}: {callers:?}");
        }
        // Exactly that one store: what the driver does otherwise is right.
        let owners = Owners::open(&dir.path().join("owners"))?;
        let stores = owners.records(Ring::Owned, |_| true);
        ensure!(stores.len() == 1, "{name}: {stores:x?}");
        let stack = REGISTERS.iter().position(|name| *name == "rsp").map_or(0, |at| stores[0].registers[at]);
        ensure!(stack > 0 && stack < RAM, "{stores:x?}");
    }
    Ok(())
}

/// Has the stores of wrong drivers of the zoo named in a booted guest; each driver has a line with a text of its own.
fn zoo_is_named(image: &str, drivers: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut zoo = script("zoo");
    zoo.args(["--image", image, "--culprit"]).args(drivers.iter().map(|(name, _)| name));
    let done = run(&mut zoo)?;
    // Nothing else is wrong: what the plugin reads of the guest, the card does not see.
    ensure!(done.status.success(), "{image}: {}", said(&done));
    let table = String::from_utf8_lossy(&done.stdout);
    for (name, text) in drivers {
        let mut lines = table.lines().skip_while(|line| line.split_whitespace().nth(1) != Some(name)).skip(1);
        let first = lines.next().unwrap_or_default();
        ensure!(first.starts_with("  culprit   a store of "), "{image}, {name}: {table}");
        let functions: Vec<&str> = lines.take_while(|line| line.starts_with("            ")).map(str::trim).collect();
        // Between the store and the driver are the functions that copy.
        let place = format!("zoo/ownership.rs:{}", line_of(ZOO, text)?);
        let driver = functions.iter().find(|function| function.contains("zoo/ownership.rs:"));
        let named = driver.is_some_and(|driver| driver.contains("::MISTAKES::") && driver.ends_with(&place));
        ensure!(named, "{image}, {name}: not {place} but {functions:#?}");
        ensure!(functions.iter().any(|function| function.contains("zoo::Mistake::run at ")), "{functions:#?}");
    }
    // In Linux, too, the plugin knows where the doorbell page is.
    let seen = said(&done);
    let counts = seen.lines().find_map(|line| line.strip_prefix("culprit: ")).context("nothing is counted")?;
    ensure!(!counts.starts_with("0 ") && !counts.contains(" 0 stores to its doorbell page"), "{image}: {counts}");
    Ok(())
}

#[test]
fn stores_into_slots_and_buffers_of_a_linux_guest_are_named_by_the_line_of_the_driver() -> anyhow::Result<()> {
    let drivers = [
        ("slot-changed", "s.fill(5, s.inline(LATER, &[0x90, 61, 100]));"),
        ("buffer-changed", "s.long(LATER, 2, &[0xF0, 0x43, 9, 2, 3,"),
        ("posted-buffer-touched", "s.buffers.memory.write(16, &[0; 16]);"),
    ];
    zoo_is_named("linux", &drivers)
}

#[test]
fn stores_into_a_posted_buffer_and_to_a_word_of_the_card_are_named_by_the_line_of_the_driver() -> anyhow::Result<()> {
    let drivers = [
        ("foreign-word", "doorbell::COMPLETION_HEAD), 0, Ordering"),
        ("posted-buffer-touched", "s.buffers.memory.write(16, &[0; 16]);"),
    ];
    zoo_is_named("bare-metal", &drivers)
}

#[test]
fn tails_are_recorded_as_they_rise_and_nothing_else_is_where_the_card_owns_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let owners = play(dir.path())?;
    ensure!(owners.count(Ring::Owned) == 0, "{:x?}", owners.records(Ring::Owned, |_| true));
    let offset = doorbell::at(0, doorbell::SUBMISSION_TAIL);
    let mut stores = owners.doorbell_stores(offset as u64);
    stores.reverse();
    let tails: Vec<_> = stores.iter().map(|store| store.value).collect();
    ensure!(tails.len() > 1 && tails.is_sorted_by(|a, b| a < b) && tails.last() == Some(&43), "{tails:?}");
    for store in &stores {
        ensure!(store.functions.iter().any(|function| function.starts_with("stream_flush at ")), "{store:x?}");
        ensure!(has_callers(store), "{store:x?}");
    }
    Ok(())
}

#[test]
fn a_culprit_is_refused_where_no_plugin_sees_the_guest() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = script("play");
    let done = run(command.arg("--culprit").env("DMUS_ACCEL", "kvm").current_dir(dir.path()))?;
    let said = said(&done);
    ensure!(done.status.code() == Some(2) && said.contains("under --accel kvm no plugin sees"), "{said}");
    Ok(())
}

/// A copy of the plugin that says it is of another version.
fn of_another_version(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let mut bytes = std::fs::read(target().join("release/libdmus_plugin.so"))?;
    let elf = object::File::parse(bytes.as_slice())?;
    let version = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok("qemu_plugin_version"));
    let address = version.context("no version")?.address();
    let inside =
        |section: &object::Section<'_, '_>| (section.address()..section.address() + section.size()).contains(&address);
    let section = elf.sections().find(inside).context("no section")?;
    let (start, _) = section.file_range().context("no bytes")?;
    let at = (start + address - section.address()) as usize;
    ensure!(bytes[at..at + 4] == 7_u32.to_le_bytes(), "the version is not there");
    bytes[at] = 1;
    let path = dir.join("old.so");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

#[test]
fn a_qemu_that_does_not_take_the_plugin_plays_without_it_and_says_so_once() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut build = script("play");
    let done = run(build.args(["-o", "out.wav", "--culprit"]).current_dir(dir.path()))?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(said(&done).contains("culprit: 0 stores into memory of the card, "), "{}", said(&done));
    let plugin = of_another_version(dir.path())?;
    let mut command = script("play");
    let done = run(command.args(["-o", "out.wav", "--culprit", "--plugin"]).arg(&plugin).current_dir(dir.path()))?;
    let said = said(&done);
    ensure!(done.status.success() && said.matches("no culprit will be named").count() == 1, "{said}");
    ensure!(!said.contains("culprit: 0 stores"), "{said}");
    Ok(())
}
