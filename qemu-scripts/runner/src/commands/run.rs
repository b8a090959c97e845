//! `run`: a person's own disk image with the card.
//!
//! Fed by the command line; feeds the terminal with the guest's serial line, and this machine's sound or an audio file.
//!
//! - `machine` is QEMU's command line for an image, and what firmware it wants.
//! - `watch` hears what firmware says of an image that does not boot, and of a full disk.

pub(crate) mod machine;
mod watch;

use crate::card::{self, Card, Checking};
use crate::culprit::Culprit;
use crate::exit::{Exit, Failure, Interrupt};
use crate::programs::Programs;
use crate::qemu::Guest;
use crate::summary::say;
use crate::terminal;
use anyhow::Context;
use dmus_card::sink::AudioFile;
use dmus_card::sound::Sound;
use machine::Computer;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use watch::Watch;

/// Boot a disk image of your own with the card: qcow2, raw, or an ISO.
///
/// The machine is a q35 with the image as its SATA disk or CD, which the guest writes to; an IOMMU, through which Linux
/// gives the card to programs; a network behind the host's; and a display, in a window where there is one to be had.
/// The guest's serial line is this terminal: Ctrl-A X ends QEMU, Ctrl-A C opens its monitor. In a Debian guest, the
/// package dmusd makes the card a MIDI port: aplaymidi -l lists it.
///
/// Images of UEFI systems are recognised, and start by UEFI.
///
/// Exit codes: 0 the guest has powered off, or QEMU was quit; 1 failed; 2 wrong usage; 3 the image cannot be used: it
/// is not there, in use, not bootable, of another format; 4 QEMU failed; 7 the card ended early; 9 the driver broke
/// rules of the data sheet (--check warn); 130 interrupted.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Play on this machine: through PipeWire or PulseAudio, or through ALSA by aplay where neither runs.
    #[arg(long, conflicts_with = "output")]
    listen: bool,
    /// Write the audio to this file, a .wav or a .flac, silence included. Without it and --listen, nothing is heard.
    #[arg(short, long, value_name = "FILE")]
    output: Option<AudioFile>,
    /// Print the commands that this would run, and run none. The card goes first.
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    computer: Computer,
    /// Play by this bank, a .dls, .sf2 or .sf3 file; may be given again: later ones are asked for an instrument first,
    /// and the built-in bank last.
    #[arg(long = "bank", value_name = "FILE")]
    banks: Vec<PathBuf>,
    #[command(flatten)]
    sound: Sound,
    #[command(flatten)]
    checking: Checking,
    #[command(flatten)]
    programs: Programs,
    /// Further options of QEMU, as they are: -snapshot, say, to leave the image as it is.
    #[arg(last = true, value_name = "QEMU OPTIONS")]
    more: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.checking.stops() {
        let message = "--check stop is not for run, where nobody could let the guest go on: see debug";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let dir = tempfile::Builder::new().prefix("dmus-run-").tempdir().context("cannot make a temporary directory")?;
    let culprit = Culprit::prepare(&args.programs, Guest::Linux, dir.path(), false)?;
    let mut qemu = args.computer.qemu(&args.programs)?;
    if let Some(culprit) = &culprit {
        culprit.add_to(&mut qemu, None);
    }
    let options = card::Options {
        clock: "realtime",
        checking: args.checking.with(culprit.is_some()),
        more: culprit.iter().flat_map(Culprit::card).chain(sink(args)).collect(),
        log: Some("warn"),
        log_file: None,
    };
    let user = std::io::stdin().is_terminal();
    // Ctrl-C is the guest's.
    let serial: &[&str] = &["-chardev", if user { "stdio,id=serial,mux=on,signal=off" } else { "stdio,id=serial" }];
    if args.print {
        let here = Path::new("");
        qemu.add(serial);
        machine::use_serial(&mut qemu, user);
        qemu.card(&here.join(card::SOCKET));
        let qemu: Vec<OsString> = qemu.into_words().into_iter().chain(args.more.iter().cloned()).collect();
        say(&format!("{} &", shell_line(&Card::command(&args.programs, here, &options)?)));
        say(&shell_line(&qemu));
        return Ok(());
    }
    if !args.listen && args.output.is_none() {
        tracing::info!("the card's audio goes nowhere: --listen plays it here, -o FILE keeps it");
    }
    let interrupt = Interrupt::catch()?;
    let watch = Watch::begin(dir.path(), &args.computer.image)?;
    qemu.add(&[serial[0], &format!("{},{}", serial[1], watch.serial_log())]);
    machine::use_serial(&mut qemu, user);
    watch.add_to(&mut qemu);
    let mut card = Card::start(&args.programs, dir.path(), &options, &interrupt)?;
    qemu.card(card.socket());
    let command: Vec<OsString> = qemu.into_words().into_iter().chain(args.more.iter().cloned()).collect();
    let stdin = if user { Stdio::inherit() } else { Stdio::null() };
    let look = || watch.check().and_then(|()| card.check());
    let attended = terminal::attend(&command, stdin, &interrupt, look, refusal)
        .and_then(|(status, known)| judge(&args.computer.image, status, known));
    if let Some(culprit) = &culprit {
        culprit.report();
    }
    if let Err(error) = attended {
        card.abandon();
        return Err(error);
    }
    let (counters, violated) = card.finish()?;
    if counters["presented"].as_u64() == Some(0) {
        tracing::info!("the guest played nothing on the card; has it a driver? In Debian, the package dmusd is one");
    }
    if let Some(output) = &args.output {
        say(&format!("{} ({:.1} s)", output.path.display(), counters["audio_seconds"].as_f64().unwrap_or(0.0)));
    }
    Checking::judge(violated)
}

/// The card's options for its audio.
fn sink(args: &Args) -> Vec<OsString> {
    let sink = match (&args.output, args.listen) {
        (Some(file), _) => file.to_string(),
        (None, true) => "audio".into(),
        (None, false) => "null".into(),
    };
    let mut words = args.sound.words();
    words.extend(["--sink".into(), sink.into()]);
    words.extend(args.banks.iter().flat_map(|file| ["--bank".into(), file.into()]));
    words
}

/// What QEMU has against an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    InUse,
    NotAllowed,
    NoFile,
}

fn refusal(line: &str) -> Option<Refusal> {
    let says = |words| line.contains(words);
    let refusals = [
        (says("\"write\" lock") || says("another process using the image"), Refusal::InUse),
        (says("-drive") && (says("Permission denied") || says("Read-only file system")), Refusal::NotAllowed),
        (says("-drive") && says("No such file or directory"), Refusal::NoFile),
    ];
    refusals.into_iter().find_map(|(said, refusal)| said.then_some(refusal))
}

fn judge(image: &Path, status: ExitStatus, refusal: Option<Refusal>) -> anyhow::Result<()> {
    let image = image.display();
    let (exit, message) = match (status.success(), refusal) {
        (true, _) => return Ok(()),
        (_, Some(Refusal::InUse)) => (
            Exit::Unusable,
            format!("{image} is in use by another program, another QEMU perhaps: end that, or copy the image"),
        ),
        (_, Some(Refusal::NotAllowed)) => (
            Exit::Unusable,
            format!(
                "{image} cannot be written by you: change its permissions, or add `-- -snapshot` to leave it as it is"
            ),
        ),
        (_, Some(Refusal::NoFile)) => {
            (Exit::Unusable, format!("{image} is based on another image, which is not there: qemu-img info names it"))
        }
        (_, None) => (Exit::Qemu, format!("QEMU failed ({status})")),
    };
    Err(Failure::new(exit, message).into())
}

/// Words for a shell.
fn shell_line(words: &[OsString]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=/.,:+@%".contains(&byte);
    let quoted = words.iter().map(|word| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && word.bytes().all(is_plain);
        if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_has_against_an_image_is_known_by_its_words() {
        for (line, meaning) in [
            ("qemu: -device ide-hd,drive=image: Failed to get \"write\" lock", Some(Refusal::InUse)),
            ("Is another process using the image [a.img]?", Some(Refusal::InUse)),
            ("qemu: -drive if=none,file=a: Could not open 'a': Permission denied", Some(Refusal::NotAllowed)),
            ("qemu: -drive if=none,file=a: Could not open 'a': Read-only file system", Some(Refusal::NotAllowed)),
            ("qemu: -drive file=a: Could not open backing file: No such file or directory", Some(Refusal::NoFile)),
            ("qemu: -kernel a: No such file or directory", None),
        ] {
            assert_eq!(refusal(line), meaning, "{line}");
        }
    }

    #[test]
    fn a_printed_command_survives_the_shell() {
        let words = ["a-b", "", "it's", "{\"x\":1}"].map(OsString::from);
        assert_eq!(shell_line(&words), r#"a-b '' 'it'\''s' '{"x":1}'"#);
    }
}
