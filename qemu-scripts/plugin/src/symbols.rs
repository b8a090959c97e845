//! Functions and lines of guest addresses, from the symbols and debug information of ELF files.
//!
//! Fed by the arguments with files; feeds records with text. Addresses are looked up once each.

use crate::arguments::SymbolFile;
use addr2line::{Loader, Location};
use object::{Object, ObjectSegment};
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// Addresses that are remembered. A guest that stores from more places than that has them looked up again.
const MAX_KNOWN: usize = 4096;
/// Functions that may be inlined into one another at one address.
const MAX_INLINED: usize = 16;
/// The last parts of a path that are shown.
const PATH_PARTS: usize = 4;

/// See the module.
#[derive(Default)]
pub(crate) struct Symbols {
    files: Vec<File>,
    known: HashMap<u64, String>,
}

struct File {
    loader: Loader,
    /// The addresses that it is loaded at.
    span: Range<u64>,
    load_address: u64,
}

impl Symbols {
    /// Reads a file; says in a sentence what is wrong with it.
    pub(crate) fn add(&mut self, file: &SymbolFile) -> Result<(), String> {
        let path = file.path.display();
        let unreadable = |error: String| format!("no symbols from {path}: {error}");
        let bytes = std::fs::read(&file.path).map_err(|error| unreadable(error.to_string()))?;
        let elf = object::File::parse(bytes.as_slice()).map_err(|error| unreadable(error.to_string()))?;
        if !elf.has_debug_symbols() && elf.symbols().next().is_none() {
            return Err(format!("no symbols in {path}, it is stripped: its instructions are given by address alone"));
        }
        let ends =
            |segment: &object::Segment<'_, '_>| (segment.address(), segment.address().saturating_add(segment.size()));
        let start = elf.segments().map(|segment| ends(&segment).0).min().unwrap_or(0);
        // A module of a kernel has no segments; it is loaded somewhere as a whole.
        let end = elf.segments().map(|segment| ends(&segment).1).max().unwrap_or(bytes.len() as u64);
        let at = |address: u64| address.wrapping_add(file.load_address);
        let loader = Loader::new(&file.path).map_err(|error| unreadable(error.to_string()))?;
        self.files.push(File { loader, span: at(start)..at(end), load_address: file.load_address });
        Ok(())
    }

    /// Where the function at an address begins.
    pub(crate) fn function(&self, pc: u64) -> Option<u64> {
        let file = self.files.iter().find(|file| file.span.contains(&pc))?;
        let symbol = file.loader.find_symbol_info(pc.wrapping_sub(file.load_address))?;
        Some(symbol.address().wrapping_add(file.load_address))
    }

    /// The functions at an address, the innermost first, a line each, with a line's end behind each.
    pub(crate) fn describe(&mut self, pc: u64) -> &str {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&pc) {
            self.known.clear();
        }
        let files = &self.files;
        self.known.entry(pc).or_insert_with(|| {
            let file = files.iter().find(|file| file.span.contains(&pc));
            file.and_then(|file| file.describe(pc)).unwrap_or_else(|| format!("{pc:#x}\n"))
        })
    }
}

impl File {
    fn describe(&self, pc: u64) -> Option<String> {
        let address = pc.wrapping_sub(self.load_address);
        let symbol = self.loader.find_symbol(address).map(demangled);
        let mut text = String::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            for _ in 0..MAX_INLINED {
                let Ok(Some(frame)) = frames.next() else {
                    break;
                };
                let function = frame.function.as_ref().and_then(|name| name.demangle().ok().map(String::from));
                // Only the outermost function can be the symbol's.
                line(&mut text, function.or_else(|| symbol.clone()), frame.location.as_ref(), pc);
            }
        }
        if text.is_empty() {
            let location = self.loader.find_location(address).ok().flatten();
            if symbol.is_none() && location.is_none() {
                return None;
            }
            line(&mut text, symbol, location.as_ref(), pc);
        }
        Some(text)
    }
}

fn demangled(name: &str) -> String {
    addr2line::demangle_auto(name.into(), None).into_owned()
}

/// Adds `FUNCTION at FILE:LINE`, as far as known.
fn line(text: &mut String, function: Option<String>, location: Option<&Location<'_>>, pc: u64) {
    let function = function.unwrap_or_else(|| format!("{pc:#x}"));
    // Writing to a string does not fail.
    let _ = match location.and_then(|location| Some((location.file?, location.line.unwrap_or(0)))) {
        Some((file, line)) => writeln!(text, "{function} at {}:{line}", shown(file)),
        None => writeln!(text, "{function}"),
    };
}

/// The end of a path: where a tree of sources lies on the machine that built it is of no interest.
fn shown(path: &str) -> &str {
    path.rmatch_indices('/').nth(PATH_PARTS - 1).map_or(path, |(at, _)| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_to_be_found() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_is_named_with_its_file_wherever_it_is_loaded() {
        let path = std::env::current_exe().expect("this program");
        // This program runs somewhere else than its file says.
        let maps = std::fs::read_to_string("/proc/self/maps").expect("its maps");
        let own = maps.lines().find(|line| line.ends_with(&path.display().to_string())).expect("its map");
        let load_address = own.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
        let load_address = load_address.expect("an address");
        let mut symbols = Symbols::default();
        symbols.add(&SymbolFile { path, load_address }).expect("symbols");
        let function: fn() -> u64 = a_function_to_be_found;
        assert_eq!(function(), 7);
        let text = symbols.describe(function as usize as u64).to_owned();
        assert!(text.contains("a_function_to_be_found at ") && text.contains("plugin/src/symbols.rs:"), "{text}");
        assert_eq!(symbols.describe(8), "0x8\n");
    }

    #[test]
    fn files_without_symbols_are_told_in_a_sentence() {
        let mut symbols = Symbols::default();
        let mut add =
            |path: &str| symbols.add(&SymbolFile { path: path.into(), load_address: 0 }).expect_err("an error");
        assert!(add("/nowhere").starts_with("no symbols from /nowhere: "));
        assert!(add(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).contains("Cargo.toml: "));
    }

    #[test]
    fn paths_are_shown_by_their_ends() {
        assert_eq!(shown("/a/b/c/driver/src/ring.rs"), "c/driver/src/ring.rs");
        assert_eq!(shown("src/ring.rs"), "src/ring.rs");
    }
}
