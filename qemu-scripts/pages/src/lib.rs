//! Manual pages and completions of a program, made from its command line.
//!
//! Fed by the hidden command `pages` of each program with its options; feeds `qemu-scripts/package` with files.

#![forbid(unsafe_code)]

use clap::Command;
use clap_complete::Shell;
use std::io;
use std::path::{Path, PathBuf};

/// Write the program's manual pages and completions into folders below this one, as they lie below /usr/share.
#[derive(clap::Args)]
pub struct Args {
    /// The folder.
    folder: PathBuf,
}

/// Where each shell looks for completions.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/vendor-completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

impl Args {
    /// Writes them: a page for the program and one for each of its commands, and a completion for each shell.
    pub fn write(&self, program: Command) -> io::Result<()> {
        let folder = |name: &str| -> io::Result<PathBuf> {
            let folder = self.folder.join(name);
            std::fs::create_dir_all(&folder)?;
            Ok(folder)
        };
        clap_mangen::generate_to(program.clone(), folder("man/man1")?)?;
        let name = program.get_name().to_owned();
        for (shell, place) in SHELLS {
            let written = clap_complete::generate_to(shell, &mut program.clone(), &name, folder(place)?)?;
            if shell == Shell::Bash {
                // Its loader wants the program's name, with nothing behind it.
                std::fs::rename(&written, Path::new(&written).with_extension(""))?;
            }
        }
        Ok(())
    }
}
