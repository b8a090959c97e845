//! What cases came to, in memory and in the file `results.json`, from which other shards' results are joined.
//!
//! Fed by [`super::pool`] and [`super::merge`]; feeds the terminal, JUnit and the index.

use super::quarantine::Held;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file in a folder of results.
pub(crate) const RESULTS: &str = "results.json";
/// Of that file: grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// All holds.
    Passed,
    /// Something does not, which is the guest's fault or the card's.
    Failed,
    /// The host was at fault: nothing is known of the guest.
    Error,
    /// It fails, and is in quarantine.
    Quarantined,
    /// It was left out, after another failed.
    NotRun,
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Error => "ERROR",
            Self::Quarantined => "quarantined",
            Self::NotRun => "not run",
        }
    }
}

/// What a case came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) name: String,
    /// The scenario's file.
    pub(crate) file: String,
    pub(crate) outcome: Outcome,
    /// A second run of a failing case ended otherwise.
    pub(crate) nondeterministic: bool,
    pub(crate) quarantine: Option<Held>,
    /// Sentences of what did not hold.
    pub(crate) reasons: Vec<String>,
    /// Seconds on the host, and of the card's time.
    pub(crate) seconds: f64,
    pub(crate) card_seconds: f64,
    /// Of the audio, in virtual time.
    pub(crate) sha256: Option<String>,
    /// The last lines of the serial line, of one that did not pass.
    pub(crate) serial: Vec<String>,
    /// The folder of its evidence and the files in it, relative to the results'.
    pub(crate) evidence: Vec<String>,
    /// It fails each time, by the hash of its audio alone.
    #[serde(skip)]
    pub(crate) only_hash: bool,
}

/// All of a run of `hil`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    version: u32,
    /// The shard, as in `1/4`.
    pub(crate) shard: Option<String>,
    /// The names of all cases, those of other shards, too.
    pub(crate) all: Vec<String>,
    pub(crate) cases: Vec<Finished>,
}

impl Results {
    pub(crate) fn new(shard: Option<String>, all: Vec<String>, cases: Vec<Finished>) -> Self {
        Self { version: VERSION, shard, all, cases }
    }

    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.cases.iter().filter(|case| case.outcome == outcome).count()
    }

    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(RESULTS);
        let text = serde_json::to_string_pretty(self).context("the results make no JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(RESULTS);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read: is it what hil --output wrote?", path.display()))?;
        let results: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no results file", path.display()))?;
        let (found, path) = (results.version, path.display());
        anyhow::ensure!(found == VERSION, "{path} has version {found}; this program reads {VERSION}");
        Ok(results)
    }
}
