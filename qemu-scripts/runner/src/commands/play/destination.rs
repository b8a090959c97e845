//! Where the audio of a playing goes: into the file that the card writes, or, once the song has been played, from there
//! into a pipe or into another encoding.
//!
//! Fed by `play` with what its command line says; feeds the card's `--sink` and the user's file, pipe or ears.

use super::Args;
use crate::exit::{Exit, Failure};
use anyhow::{Context, ensure};
use dmus_card::sink::mix::{Encoding, convert};
use dmus_card::sink::{AudioFile, Format};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct Destination {
    /// What the card writes; `None` is this machine's sound.
    card: Option<AudioFile>,
    /// What the user named.
    wanted: PathBuf,
    pipe: Option<Pipe>,
    encoding: Encoding,
}

/// What cannot be gone back in, and so gets its audio at the end.
enum Pipe {
    Stdout,
    Fifo,
}

impl Destination {
    /// Files that are not the user's are made in `dir`.
    pub(super) fn new(args: &Args, dir: &Path) -> anyhow::Result<Self> {
        let wanted = args.output.path.clone();
        let pipe = match std::fs::metadata(&wanted) {
            _ if args.listen => None,
            _ if wanted == Path::new("-") => Some(Pipe::Stdout),
            Ok(found) if found.file_type().is_fifo() => Some(Pipe::Fifo),
            _ => None,
        };
        let (through_guest, usual) = (args.through_guest.is_some(), args.encoding.is_usual());
        let onto_terminal = matches!(pipe, Some(Pipe::Stdout)) && io::stdout().is_terminal();
        for (wrong, why) in [
            (onto_terminal, "standard output is a terminal: pipe it into a program, or redirect it"),
            (pipe.is_some() && through_guest, "--through-guest compares files: name one with -o"),
            (
                !usual && (args.listen || through_guest || args.output.format != Format::Wav),
                "--rate and --format are for a .wav: a .flac, --listen and --through-guest have the card's own samples",
            ),
        ] {
            ensure!(!wrong, Failure::new(Exit::Usage, why));
        }
        let path = if pipe.is_some() || !usual { dir.join("audio") } else { wanted.clone() };
        let card = (!args.listen).then_some(AudioFile { path, format: args.output.format });
        Ok(Self { card, wanted, pipe, encoding: args.encoding })
    }

    /// The file that the card writes.
    pub(super) fn card(&self) -> Option<&AudioFile> {
        self.card.as_ref()
    }

    /// The same, if it is what the user named: it is there however the playing ends.
    pub(super) fn kept(&self) -> Option<&AudioFile> {
        self.card().filter(|file| file.path == self.wanted)
    }

    /// Whether nothing but the audio may go to standard output.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self.pipe, Some(Pipe::Stdout))
    }

    /// The song has been played: gives the user what is not there yet. A reader that has enough may leave.
    pub(super) fn finish(&self, dir: &Path) -> anyhow::Result<()> {
        let Some(card) = &self.card else {
            return Ok(());
        };
        let mut audio = card.path.clone();
        if !self.encoding.is_usual() {
            audio = if self.pipe.is_some() { dir.join("encoded.wav") } else { self.wanted.clone() };
            convert(&card.path, &audio, self.encoding)?;
        }
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        let mut audio = File::open(audio).context("the audio is not there")?;
        let copied = match pipe {
            Pipe::Stdout => io::copy(&mut audio, &mut io::stdout().lock()),
            Pipe::Fifo => {
                let fifo = File::options().write(true).open(&self.wanted);
                fifo.and_then(|mut fifo| io::copy(&mut audio, &mut fifo))
            }
        };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            copied => copied.map(drop).with_context(|| match pipe {
                Pipe::Stdout => "cannot write to standard output".into(),
                Pipe::Fifo => format!("cannot write {}", self.wanted.display()),
            }),
        }
    }
}
