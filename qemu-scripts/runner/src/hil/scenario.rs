//! A scenario: what boots, what the host feeds it, and what must hold, as a TOML file says it.
//!
//! Fed by files of the user; feeds [`super::cases`], which expands it into cases, and by its types the JSON schema that
//! editors complete by.

mod check;
mod schema;

pub(crate) use check::{Loaded, file_name, line_at, wrong};
pub(crate) use schema::schema;

use crate::machine::Image;
use dmus_card::deviation::{Faults, Liberties};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One value, or a list of them, which makes a case of each.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "this is neither a value that fits here nor a list of them")]
pub(crate) enum Each<T> {
    /// That one.
    One(T),
    /// A case of each.
    Many(Vec<T>),
}

impl<T> Each<T> {
    pub(crate) fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Whether it is a list, whose values are in the names of cases.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Self::Many(_))
    }
}

/// What boots with the card, and what must hold of it. Paths are relative to the scenario's folder.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// What it is for, for people.
    #[allow(dead_code, reason = "for people, who read the file")]
    pub(crate) description: Option<String>,
    /// What boots.
    #[serde(default)]
    pub(crate) guest: Guest,
    /// The card.
    #[serde(default)]
    pub(crate) card: Card,
    /// What the host feeds.
    #[serde(default)]
    pub(crate) feed: Feed,
    /// What must hold.
    #[serde(default)]
    pub(crate) expect: Expect,
    /// How long it may take.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Faults that the card has, by kind: at which occasions, from 1. See dmus-card serve --help.
    #[serde(default)]
    #[schemars(schema_with = "schema::faults")]
    pub(crate) faults: Faults,
    /// Liberties that the card takes: of a seed, and only some of them if "only" names them.
    #[schemars(schema_with = "schema::liberties")]
    pub(crate) liberties: Option<Liberties>,
}

/// What boots: one of image, kernel, iso and disk, or what the arguments of QEMU say.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Guest {
    /// A guest of this project: its ELF, or that on an ISO through BIOS or UEFI, or Linux [default, without the others:
    /// elf].
    pub(crate) image: Option<Each<Image>>,
    /// What a guest of this project does [default: play].
    pub(crate) task: Option<Task>,
    /// The MIDI file that it plays, or that the card plays to it [default: the bundled song].
    pub(crate) song: Option<Each<PathBuf>>,
    /// What it downloads into the card before it plays: a .dls or .sf2 file.
    pub(crate) dls: Option<PathBuf>,
    /// With a realtime clock: how many milliseconds before its time each event is submitted.
    #[schemars(range(min = 1, max = 500))]
    pub(crate) latency: Option<u32>,
    /// Bytes of a pointer in its events, 4 or 8 [default: 8].
    pub(crate) width: Option<Each<u8>>,
    /// The command of the Linux guest, in place of a task.
    pub(crate) run: Option<String>,
    /// A kernel of your own, which QEMU boots.
    pub(crate) kernel: Option<PathBuf>,
    /// Its initramfs.
    pub(crate) initrd: Option<PathBuf>,
    /// Its command line.
    pub(crate) append: Option<String>,
    /// A CD to boot from.
    pub(crate) iso: Option<PathBuf>,
    /// A disk image to boot from, raw or qcow2; what the guest writes to it is dropped.
    pub(crate) disk: Option<PathBuf>,
    /// More arguments of QEMU, after those of the machine and before the card.
    #[serde(default)]
    pub(crate) qemu: Vec<String>,
    /// Its memory in MiB [default: 256, and 512 for kernels, CDs and disks].
    pub(crate) memory: Option<u32>,
}

/// What a guest of this project does; what the command of that name checks must hold, too, if its exit code is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    Play,
    Record,
    Conform,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Clock {
    #[default]
    Virtual,
    Realtime,
}

impl Clock {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Realtime => "realtime",
        }
    }
}

/// The card's options, as of dmus-card serve.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Card {
    /// What moves time: the driver's grants, or the host's clock [default: virtual].
    pub(crate) clock: Option<Each<Clock>>,
    /// Files of instruments, .dls or .sf2.
    #[serde(default)]
    pub(crate) bank: Vec<PathBuf>,
    /// How far the crystal of wave sinks is off, in parts per million.
    pub(crate) drift: Option<Each<i32>>,
    /// Name the driver's mistakes, or not [default: true].
    pub(crate) check: Option<bool>,
    /// Breaches that are no reason to fail: reasons, by the rule's name.
    #[serde(default)]
    pub(crate) allow: BTreeMap<String, String>,
    /// Take liberties, drawn from this seed: the same as liberties.seed.
    pub(crate) seed: Option<Each<u64>>,
}

/// What the host feeds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Feed {
    /// Text for the guest's serial line, step by step.
    #[serde(default)]
    pub(crate) serial: Vec<Step>,
    /// Files that the guest finds in fw_cfg, by name: as opt/dmus/NAME, or as a name with a / says.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// The same, of texts.
    #[serde(default)]
    pub(crate) texts: BTreeMap<String, String>,
    /// A folder that the guest mounts by virtio-9p, with the tag "share", read-only.
    pub(crate) share: Option<PathBuf>,
    /// MIDI inputs of the card: .mid files, or "loopback".
    #[serde(default)]
    pub(crate) midi: Vec<String>,
}

/// Text that is sent to the guest once it waits for it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Step {
    /// Once this regular expression matches what the guest has printed since the step before, a line or a prompt;
    /// without it, at once.
    pub(crate) after: Option<String>,
    pub(crate) text: String,
}

/// What must hold. One at least must be said.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Expect {
    /// The guest's exit code: of this project's guests 0 for success and 1 for an error, of others QEMU's own [default
    /// for this project's: 0].
    pub(crate) exit: Option<i32>,
    /// Regular expressions, each of which matches a line of the serial line.
    #[serde(default)]
    pub(crate) serial: Vec<String>,
    /// Regular expressions that match lines in this order; others may come in between.
    #[serde(default)]
    pub(crate) serial_in_order: Vec<String>,
    /// Regular expressions that match no line.
    #[serde(default)]
    pub(crate) serial_never: Vec<String>,
    /// What the card rendered.
    pub(crate) audio: Option<Audio>,
    /// The MIDI file whose messages the guest says it captured, each at its time.
    pub(crate) midi: Option<PathBuf>,
    /// The rules that the driver breaks, by name: exactly these. Without it, it breaks none that is an error.
    pub(crate) violations: Option<Vec<String>>,
    /// Bounds of the card's counters, by their names in the file of dmus-card serve --json.
    #[serde(default)]
    pub(crate) counters: BTreeMap<String, Bound>,
}

/// A number exactly, or bounds of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "this is neither a number nor a table of min and max")]
pub(crate) enum Bound {
    /// That number.
    Exactly(f64),
    /// At least and at most, each if it is there.
    Within(Within),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Within {
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// What must hold of the audio.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Audio {
    /// The SHA-256 of the WAV file, in virtual time; --bless writes it. As a table, by what the names of cases have of
    /// lists ("width=4"); cases that it does not name have none.
    pub(crate) sha256: Option<Hash>,
    /// A WAV file that it sounds like, from the first sound of each on: in each window within the distances below.
    pub(crate) reference: Option<PathBuf>,
    /// How far the level may be off, in dB [default: 1].
    pub(crate) level: Option<f64>,
    /// How far the strongest pitch may be off, in cents [default: 30].
    pub(crate) pitch: Option<f64>,
    /// How far third-octave bands may be off, in dB, on average [default: 6].
    pub(crate) spectrum: Option<f64>,
    /// The length of a window, in seconds [default: 0.1].
    pub(crate) window: Option<f64>,
    /// Where all is silent, in seconds.
    #[serde(default)]
    pub(crate) silent: Vec<Span>,
    /// Where something sounds, in seconds.
    #[serde(default)]
    pub(crate) not_silent: Vec<Span>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "this is neither a hash nor a table of them by case")]
pub(crate) enum Hash {
    /// Of each case.
    Same(String),
    /// By case.
    ByCase(BTreeMap<String, String>),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// How long a case may take.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Seconds of the card's time [default: 600].
    pub(crate) card: f64,
    /// Seconds in which neither the serial line nor the card's time moves, although the host gave both processes time
    /// on its CPU [default: 30].
    pub(crate) still: f64,
    /// Seconds of the host's time in all, less those for which it gave a process no time on its CPU [default: 1800].
    pub(crate) total: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { card: 600.0, still: 30.0, total: 1800.0 }
    }
}
