//! The culprit: which guest instruction stored into memory that the card owns, as dmus-plugin sees it in QEMU.
//!
//! Fed by the command line; feeds card and QEMU with the owners map, through which plugin and card speak, and the
//! terminal with what the plugin saw.

use crate::exit::{Exit, Failure};
use crate::process::{self, Process};
use crate::programs::Programs;
use crate::qemu::{Guest, Qemu, escaped};
use anyhow::{Context, ensure};
use dmus_card::owners::Owners;
use dmus_interface::owners::Ring;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How long a QEMU may take to say whether it takes the plugin.
const LIMIT: Duration = Duration::from_secs(20);
/// What the plugin says then.
const READY: &str = "dmus-plugin: ready";

/// A run with a plugin.
pub(crate) struct Culprit {
    plugin: PathBuf,
    map: PathBuf,
    owners: Owners,
    symbols: Vec<String>,
}

impl Culprit {
    /// What the command line wants, with the owners map in `dir`. `None`: nothing, or it cannot be had here, which is
    /// said in a sentence; but a guest that `stops` at mistakes must have it.
    pub(crate) fn prepare(programs: &Programs, guest: Guest, dir: &Path, stops: bool) -> anyhow::Result<Option<Self>> {
        let options = &programs.culprit;
        if !options.culprit && !stops {
            return Ok(None);
        }
        if programs.accel.split(',').next() != Some("tcg") {
            let message = format!(
                "--culprit and --check stop need software emulation: under --accel {} no plugin sees what the guest \
                 does; use --accel tcg",
                programs.accel
            );
            return Err(Failure::new(Exit::Usage, message).into());
        }
        let plugin = match &options.plugin {
            Some(plugin) => plugin.clone(),
            None => std::env::current_exe()
                .context("cannot find this program's own file")?
                .with_file_name("libdmus_plugin.so"),
        };
        if !plugin.is_file() {
            let message = format!(
                "there is no plugin at {}: build it with `cargo build --release -p dmus-plugin`, or name another with \
                 --plugin",
                plugin.display()
            );
            return Err(Failure::new(Exit::Usage, message).into());
        }
        if let Err(why) = probe(programs, &plugin) {
            let message = format!("the guest cannot be held at mistakes: this QEMU does not take the plugin ({why})");
            ensure!(!stops, Failure::new(Exit::Qemu, message));
            tracing::warn!("no culprit will be named: this QEMU does not take the plugin ({why})");
            return Ok(None);
        }
        let map = dir.join("owners");
        Owners::create(&map, guest.memory_bytes())?;
        let owners = Owners::open(&map)?;
        Ok(Some(Self { plugin, map, owners, symbols: options.symbols.clone() }))
    }

    /// For how many mistakes a guest was to be held when it was held last.
    pub(crate) fn held(&self) -> u32 {
        self.owners.held()
    }

    /// Options of `serve`.
    pub(crate) fn card(&self) -> [OsString; 2] {
        ["--owners".into(), (&self.map).into()]
    }

    /// Adds the plugin to QEMU; `image` is what the guest boots, if its symbols are of use.
    pub(crate) fn add_to(&self, qemu: &mut Qemu, image: Option<&Path>) {
        let mut option = format!("file={},owners={}", escaped(&self.plugin), escaped(&self.map));
        for file in &self.symbols {
            option += &format!(",symbols={}", file.replace(',', ",,"));
        }
        if let Some(image) = image.filter(|_| self.symbols.is_empty()) {
            option += &format!(",symbols={}", escaped(image));
        }
        qemu.plugin(&option);
    }

    /// What the plugin saw, in a sentence, and the newest stores into the card's memory.
    pub(crate) fn report(&self) {
        const SHOWN: usize = 3;
        let owners = &self.owners;
        let (owned, doorbell) = (owners.count(Ring::Owned), owners.count(Ring::Doorbell));
        eprintln!("culprit: {owned} stores into memory of the card, {doorbell} stores to its doorbell page");
        for store in owners.records(Ring::Owned, |_| true).iter().take(SHOWN) {
            eprintln!("  {} bytes at {:#x}, pc {:#x}:", store.size, store.address, store.pc);
            store.functions.iter().for_each(|function| eprintln!("    {function}"));
        }
    }
}

/// Whether QEMU takes the plugin, or what it says instead.
fn probe(programs: &Programs, plugin: &Path) -> Result<(), String> {
    let mut command: Vec<OsString> = vec![programs.qemu.clone().into()];
    let words = ["-accel", "tcg", "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-plugin"];
    command.extend(words.map(OsString::from));
    command.push(format!("file={},probe=on", escaped(plugin)).into());
    let said = ask(&command).map_err(|error| format!("{error:#}"))?;
    match said.contains(READY) {
        true => Ok(()),
        false => Err(said.lines().next().unwrap_or("it says nothing").to_owned()),
    }
}

fn ask(command: &[OsString]) -> anyhow::Result<String> {
    let mut command = process::command(command)?;
    let mut qemu = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
    let mut stderr = qemu.stderr()?;
    // What it says is less than a pipe holds. A QEMU that goes on is ended when it is dropped.
    qemu.wait(LIMIT)?.context("it did not end")?;
    let mut said = String::new();
    stderr.by_ref().take(1 << 16).read_to_string(&mut said)?;
    Ok(said)
}
