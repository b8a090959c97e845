//! The programs that a run needs: the card's and QEMU.
//!
//! Fed by the command line; feeds [`crate::card`] and [`crate::qemu`].

use anyhow::{Context, ensure};
use std::path::PathBuf;

#[derive(Clone, clap::Args)]
pub(crate) struct Programs {
    /// The card's program [default: dmus-card beside this program].
    #[arg(long, value_name = "PATH")]
    card: Option<PathBuf>,
    /// A QEMU with vfio-user-pci (10.1 or newer).
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64")]
    pub(crate) qemu: PathBuf,
    /// QEMU's accelerator.
    #[arg(long, default_value = "tcg")]
    pub(crate) accel: String,
    /// Keep the card out of its sandbox (see dmus-card serve --help), to debug it.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    #[command(flatten)]
    pub(crate) culprit: Plugin,
}

impl Programs {
    /// Where the card's program is.
    pub(crate) fn card(&self) -> anyhow::Result<PathBuf> {
        let card = match &self.card {
            Some(card) => card.clone(),
            None => std::env::current_exe().context("cannot find this program's own file")?.with_file_name("dmus-card"),
        };
        ensure!(
            card.is_file(),
            "there is no card at {}: build it with `cargo build --release -p dmus-card`, or name another with --card",
            card.display()
        );
        Ok(card)
    }
}

/// What a plugin of QEMU is wanted for.
#[derive(Clone, clap::Args)]
pub(crate) struct Plugin {
    /// Find the culprit: a plugin of QEMU sees each store of the guest into memory that the card owns, and each to the
    /// doorbell page, and names instruction, function and callers to the card, which checks then (--check warn).
    /// Software emulation only (--accel tcg).
    #[arg(long)]
    pub(crate) culprit: bool,
    /// With --culprit or --check stop: the plugin [default: libdmus_plugin.so beside this program].
    #[arg(long, value_name = "PATH")]
    pub(crate) plugin: Option<PathBuf>,
    /// With --culprit or --check stop: an ELF file with symbols of what runs in the guest, and the address (as 0x...)
    /// that it is loaded at if that is not its own; may be given again.
    #[arg(long, value_name = "ELF[@ADDRESS]")]
    pub(crate) symbols: Vec<String>,
}
