//! `shell`: the Linux guest with a card, for a person at the terminal or for a script.
//!
//! Fed by the command line; feeds the terminal with the guest's serial line. The guest's image is made by a program
//! that the command line names, unless kernel and initramfs are given.

use crate::card::{self, Card, Checking};
use crate::culprit::Culprit;
use crate::exit::{Exit, Failure, Interrupt};
use crate::process::{self, Process};
use crate::programs::Programs;
use crate::qemu::{GUEST_FAILURE, GUEST_SUCCESS, Guest, Qemu};
use crate::terminal;
use anyhow::Context;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How often signals and the builder of an image are looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Boot the Linux guest with the card, on this terminal or for a script.
///
/// The guest has the card bound to vfio-pci (its address is $CARD). Leave it with `exit`, or with Ctrl-A X.
///
/// Exit codes: 0 left by `exit`, or the script succeeded; 1 the script, the guest or the card failed; 2 wrong usage;
/// 3 this machine lacks something; 4 QEMU failed; 9 the driver broke a rule of the data sheet; 130 interrupted.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the guest's sh runs instead of a person.
    #[arg(value_parser = file)]
    script: Option<PathBuf>,
    /// A folder of yours, /share in the guest, to read and to write.
    #[arg(long, value_name = "DIR", value_parser = directory)]
    share: Option<PathBuf>,
    /// A kernel of your own (bzImage or vmlinux). Its modules are not in the image.
    #[arg(long, value_name = "PATH", value_parser = file)]
    kernel: Option<PathBuf>,
    /// An initramfs of your own.
    #[arg(long, value_name = "PATH", value_parser = file)]
    initrd: Option<PathBuf>,
    /// Put this program into the guest's /bin, too.
    #[arg(long, value_name = "PROGRAM", value_parser = file)]
    with: Vec<PathBuf>,
    /// Where the card's audio goes, as of dmus-card serve.
    #[arg(long, default_value = "null")]
    sink: String,
    /// The card's clock.
    #[arg(long, value_enum, default_value = "realtime")]
    clock: Clock,
    /// What the card's capture streams hear, as of dmus-card serve; may be given again.
    #[arg(long, value_name = "SOURCE")]
    midi_in: Vec<String>,
    /// What makes kernel and initramfs, where they are not given: BUILDER --dmusd -o DIR --with PROGRAM...
    #[arg(long, value_name = "BUILDER", required_unless_present_all = ["kernel", "initrd"])]
    image_builder: Option<PathBuf>,
    #[command(flatten)]
    checking: Checking,
    #[command(flatten)]
    programs: Programs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Clock {
    Virtual,
    Realtime,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.script.is_none() && !std::io::stdin().is_terminal() {
        let message = "there is no terminal: what is to run goes into a SCRIPT; see --help";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    if args.checking.stops() {
        let message = "--check stop is not for shell, where nobody could let the guest go on: see debug";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let interrupt = Interrupt::catch()?;
    let dir = tempfile::Builder::new().prefix("dmus-shell-").tempdir().context("cannot make a temporary directory")?;
    let (kernel, initrd) = image(args, dir.path(), &interrupt)?;
    let mut more: Vec<OsString> = vec!["--sink".into(), (&args.sink).into()];
    more.extend(args.midi_in.iter().flat_map(|source| ["--midi-in".into(), source.into()]));
    let clock = match args.clock {
        Clock::Virtual => "virtual",
        Clock::Realtime => "realtime",
    };
    let culprit = Culprit::prepare(&args.programs, Guest::Linux, dir.path(), false)?;
    more.extend(culprit.iter().flat_map(Culprit::card));
    let checking = args.checking.with(culprit.is_some());
    let options = card::Options { clock, checking, more, log: None, log_file: None };
    let card = Card::start(&args.programs, dir.path(), &options, &interrupt)?;
    let attended = attend(args, [&kernel, &initrd], card.socket(), culprit.as_ref(), &interrupt);
    if let Some(culprit) = &culprit {
        culprit.report();
    }
    match attended {
        Ok(()) => Checking::judge(card.finish()?.1),
        Err(error) => {
            card.abandon();
            Err(error)
        }
    }
}

/// Kernel and initramfs: the user's, or new ones in `dir`, where the programs that are put in stay out of the image
/// that others boot.
fn image(args: &Args, dir: &Path, interrupt: &Interrupt) -> anyhow::Result<(PathBuf, PathBuf)> {
    let paths = |kernel: &Option<PathBuf>, initrd: &Option<PathBuf>| {
        let or = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
        (or(kernel, "vmlinux"), or(initrd, "initrd"))
    };
    if let (None, Some(builder)) = (args.kernel.as_ref().zip(args.initrd.as_ref()), &args.image_builder) {
        let mut command: Vec<OsString> = vec![builder.into(), "--dmusd".into(), "-o".into(), dir.into()];
        command.extend(args.with.iter().flat_map(|program| ["--with".into(), program.into()]));
        let mut build = Process::start(process::command(&command)?.stdin(Stdio::null()))
            .with_context(|| format!("cannot start {}", builder.display()))?;
        // A first build downloads the guest's packages, which has limits of its own.
        let status = loop {
            interrupt.check()?;
            if let Some(status) = build.wait(GLANCE)? {
                break status;
            }
        };
        if !status.success() {
            let exit = if status.code() == Some(3) { Exit::Unusable } else { Exit::Failed };
            let message = format!("the Linux guest cannot be built: {} failed ({status})", builder.display());
            return Err(Failure::new(exit, message).into());
        }
    }
    Ok(paths(&args.kernel, &args.initrd))
}

/// Boots the guest, and waits for its end, which a person or the script decides.
fn attend(
    args: &Args,
    [kernel, initrd]: [&Path; 2],
    card: &Path,
    culprit: Option<&Culprit>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut qemu = Qemu::new(&args.programs, Guest::Linux);
    if let Some(culprit) = culprit {
        // The kernel of the image has no symbols; one of the user's may.
        culprit.add_to(&mut qemu, args.kernel.as_deref());
    }
    match &args.script {
        Some(script) => {
            qemu.file("run", script);
            qemu.add(&["-serial", "stdio"]);
        }
        // Ctrl-C is the guest's.
        None => qemu.add(&["-serial", "mon:stdio"]),
    }
    qemu.iommu();
    qemu.card(card);
    if let Some(folder) = &args.share {
        qemu.share(folder, false);
    }
    qemu.linux(kernel, initrd);
    let stdin = if args.script.is_some() { Stdio::null() } else { Stdio::inherit() };
    let (status, _) = terminal::attend(&qemu.into_words(), stdin, interrupt, || Ok(()), |_| None::<()>)?;
    let failed = |exit, message: String| Err(Failure::new(exit, message).into());
    match status.code() {
        Some(GUEST_SUCCESS) => Ok(()),
        Some(GUEST_FAILURE) => failed(Exit::Failed, "the guest failed".into()),
        Some(0) if args.script.is_none() => Ok(()),
        Some(0) => failed(Exit::Failed, "the guest ended before the script did".into()),
        _ => failed(Exit::Qemu, format!("QEMU failed ({status})")),
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_file() { Ok(path) } else { Err(format!("there is no file {text}")) }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err(format!("{text} is no directory")) }
}
