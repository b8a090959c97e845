//! `serve --faults` and `--liberties`: what a card is to do otherwise than it usually would.
//!
//! Fed by the command line and by files, which are read before the card is in its sandbox; feeds the card with a plan.

use anyhow::Context;
use clap::error::ErrorKind;
use dmus_card::deviation::{Faults, Liberties, Plan};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What the command line says of it.
#[derive(clap::Args)]
pub(super) struct Deviating {
    /// Have the faults of this file, which no card may have, to see what a driver does about them: a TOML file of kinds
    /// and occasions, from 1, as in interrupt-lost = 3 or completion-late = [1, 5]. The manual lists the kinds.
    #[arg(long, value_name = "PLAN.toml")]
    faults: Option<PathBuf>,
    /// Take the liberties that the data sheet leaves a card, as this seed draws them; or as a TOML file says, with
    /// seed = N, and only some of them if a table [only] has kinds and occasions.
    #[arg(long, value_name = "SEED|FILE.toml")]
    liberties: Option<String>,
}

impl Deviating {
    /// The plan, if there is one. A file that says something else ends the program as other wrong usage does.
    pub(super) fn read(&self) -> anyhow::Result<Option<Plan>> {
        if self.faults.is_none() && self.liberties.is_none() {
            return Ok(None);
        }
        let faults: Faults = self.faults.as_deref().map(read).transpose()?.unwrap_or_default();
        let liberties = match self.liberties.as_deref() {
            None => None,
            Some(text) => match text.parse() {
                Ok(seed) => Some(Liberties { seed, only: None }),
                Err(_) => Some(read(Path::new(text))?),
            },
        };
        Ok(Some(Plan { faults, liberties }))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        clap::Error::raw(ErrorKind::ValueValidation, format!("{name}:{line}: {what}\n")).exit()
    })
}
