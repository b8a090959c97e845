//! What `-plugin file=...,KEY=VALUE,...` says.
//!
//! Fed by QEMU with a text a pair; feeds the installation.

use std::path::PathBuf;

/// The arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The owners map.
    pub(crate) owners: Option<PathBuf>,
    /// Files with symbols.
    pub(crate) symbols: Vec<SymbolFile>,
    /// Say that QEMU takes this plugin, and do nothing else.
    pub(crate) probe: bool,
}

/// A file with symbols.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SymbolFile {
    pub(crate) path: PathBuf,
    /// What is added to the addresses in the file.
    pub(crate) load_address: u64,
}

impl Arguments {
    /// Reads them; says what is wrong.
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut arguments = Self::default();
        for word in words {
            match word.split_once('=') {
                Some(("owners", path)) if !path.is_empty() => arguments.owners = Some(path.into()),
                Some(("symbols", text)) if !text.is_empty() => arguments.symbols.push(symbol_file(text)?),
                Some(("probe", "on")) => arguments.probe = true,
                _ => return Err(format!("{word}: expected owners=FILE, symbols=ELF[@ADDRESS] or probe=on")),
            }
        }
        match arguments.owners.is_none() && !arguments.probe {
            true => Err("owners=FILE is missing: the file of dmus-card serve --owners FILE".into()),
            false => Ok(arguments),
        }
    }
}

fn symbol_file(text: &str) -> Result<SymbolFile, String> {
    // A path may have an @, too.
    let Some((path, address)) = text.rsplit_once("@0x") else {
        return Ok(SymbolFile { path: text.into(), load_address: 0 });
    };
    let load_address = u64::from_str_radix(address, 16)
        .map_err(|_| format!("symbols={text}: a load address is hexadecimal, as in @0xffffffffc0000000"))?;
    Ok(SymbolFile { path: path.into(), load_address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_load_addresses_are_read_and_other_words_refused() {
        let parsed = Arguments::parse(["owners=/proc/self/fd/5", "symbols=a@b", "symbols=c@0xffffffffc0000000"]);
        let symbols = vec![
            SymbolFile { path: "a@b".into(), load_address: 0 },
            SymbolFile { path: "c".into(), load_address: 0xFFFF_FFFF_C000_0000 },
        ];
        assert_eq!(parsed, Ok(Arguments { owners: Some("/proc/self/fd/5".into()), symbols, probe: false }));
        assert!(Arguments::parse(["probe=on"]).is_ok_and(|arguments| arguments.probe));
        for (words, complaint) in [
            (&[][..], "owners=FILE is missing"),
            (&["owners=a", "symbols=b@0xzz"], "symbols=b@0xzz: a load address"),
            (&["owner=a"], "owner=a: expected"),
            (&["owners="], "owners=: expected"),
        ] {
            let error = Arguments::parse(words.iter().copied()).expect_err("an error");
            assert!(error.contains(complaint), "{error}");
        }
    }
}
