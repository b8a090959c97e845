//! What a capsule begins with: the card's options, and what its inputs play.
//!
//! Fed by a card that begins to record; feeds a replay, which makes a card with the same ones.

use crate::capture::inputs::{MAX_INPUTS, Replayed};
use crate::check::{Allowed, Checker, Stop};
use crate::deviation::Plan;
use crate::identity::ClockMode;
use crate::replay_log::blocks::CapsuleError;
use crate::replay_log::records::{Cursor, Put, Tag};
use crate::sound::{GAINS, Sound, Switch};
use crc32fast::Hasher;
use dmus_interface::regs::VERSION_VALUE;
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;
use dmus_song::{Song, TimedMessage};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

/// Bytes of songs that a capsule may hold, and of the header itself, which parsed takes some ten times as many.
const MAX_SONGS: usize = 64 << 20;
const MAX_HEADER: usize = 1 << 20;

/// A bank's file, by which a replay finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankFile {
    /// Where it was.
    pub path: String,
    /// Its bytes, and their CRC-32.
    pub size: u64,
    /// See there.
    pub crc: u32,
}

impl BankFile {
    /// The file as it is now.
    ///
    /// # Errors
    /// It cannot be read, or is none that has an end: a capsule may name any path.
    pub fn describe(path: &Path) -> io::Result<Self> {
        let known = std::fs::metadata(path)?;
        if !known.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut file = File::open(path)?.take(known.len());
        let (mut crc, mut size) = (Hasher::new(), 0);
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block)? {
                0 => break,
                count => {
                    crc.update(&block[..count]);
                    size += count as u64;
                }
            }
        }
        Ok(Self { path: path.display().to_string(), size, crc: crc.finalize() })
    }

    /// Whether another file has the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.size, self.crc) == (other.size, other.crc)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Header {
    /// The version of the card that recorded.
    pub card: String,
    /// What moved time.
    pub clock: ClockMode,
    /// How far the crystal of wave sinks was off, in parts per million.
    pub drift: i32,
    /// What its user had set.
    pub sound: Sound,
    /// The files that the bank was made of, in the order of the command line.
    pub bank: Vec<BankFile>,
    /// Seconds of audio that the sink was given at most.
    pub max_audio: Option<NonZeroU32>,
    /// What the card did otherwise than it usually would.
    pub plan: Option<Plan>,
    /// How drivers were checked.
    checks: Option<Checks>,
    /// A plugin of QEMU told the card of stores.
    pub(super) culprits: bool,
    pub(super) inputs: Vec<Replayed>,
}

#[derive(Clone, Debug)]
struct Checks {
    allowed: Vec<Allowed>,
    stop: Option<Option<&'static Rule>>,
}

/// What the caller of a card knows of it, for the header.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// See [`Header::bank`].
    pub bank: Vec<BankFile>,
    /// See [`Header::max_audio`].
    pub max_audio: Option<NonZeroU32>,
}

impl Header {
    pub(crate) fn new(
        options: Options,
        (clock, drift, sound, inputs): (ClockMode, i32, Sound, Vec<Replayed>),
        checker: Option<&Checker>,
        plan: Option<Plan>,
        culprits: bool,
    ) -> Self {
        let checks = checker.map(|checker| {
            let (allowed, stop) = checker.options();
            Checks { allowed, stop }
        });
        let Options { bank, max_audio } = options;
        let card = env!("CARGO_PKG_VERSION").into();
        Self { card, clock, drift, sound, bank, max_audio, plan, checks, culprits, inputs }
    }

    /// Whether drivers were checked.
    pub fn is_checked(&self) -> bool {
        self.checks.is_some()
    }

    /// One that judges as that of the recorded card.
    pub(super) fn checker(&self) -> Option<Arc<Checker>> {
        let Checks { allowed, stop } = self.checks.as_ref()?;
        let stop = stop.map(|at| Stop { owners: None, at });
        Some(Arc::new(Checker::new(allowed, stop)))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let input = |input: &Replayed| match input {
            Replayed::Song(_) => "song",
            Replayed::Live => "live",
            Replayed::Loopback => "loopback",
        };
        let check = self.checks.as_ref().map(|checks| {
            json!({
                "allow": checks.allowed.iter().map(|a| (a.rule.name.to_owned(), a.reason.clone().into()))
                    .collect::<serde_json::Map<_, Value>>(),
                "stop": checks.stop.is_some(),
                "at": checks.stop.flatten().map(|rule| rule.name),
            })
        });
        let bank = self.bank.iter().map(|file| json!({ "path": file.path, "size": file.size, "crc": file.crc }));
        let header = json!({
            "interface": VERSION_VALUE,
            "card": self.card,
            "clock": match self.clock { ClockMode::Virtual => "virtual", ClockMode::Realtime => "realtime" },
            "drift": self.drift,
            "gain": self.sound.gain,
            "reverb": self.sound.reverb == Switch::On,
            "chorus": self.sound.chorus == Switch::On,
            "bank": bank.collect::<Vec<_>>(),
            "max_audio": self.max_audio.map(NonZeroU32::get),
            "plan": self.plan,
            "check": check,
            "culprits": self.culprits,
            "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
        });
        out.tag(Tag::Header).bytes(header.to_string().as_bytes());
        for (number, input) in self.inputs.iter().enumerate() {
            let Replayed::Song(song) = input else {
                continue;
            };
            for message in song.messages() {
                out.tag(Tag::SongMessage).byte(number as u8).signed(message.time.0).bytes(message.bytes);
            }
        }
    }

    pub(super) fn read(cursor: &mut Cursor) -> Result<Self, CapsuleError> {
        let damaged = |what: &str| CapsuleError::Header(what.into());
        match cursor.peek() {
            None if cursor.is_at_end() => return Err(CapsuleError::Empty),
            Some(Tag::Header) => _ = cursor.byte(),
            _ => return Err(damaged("another record stands there")),
        }
        let bytes = cursor.bytes().ok_or(CapsuleError::Empty)?;
        if bytes.len() > MAX_HEADER {
            return Err(damaged("it is too long"));
        }
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| CapsuleError::Header(error.to_string()))?;
        let known = VERSION_VALUE;
        match json["interface"].as_u64() {
            Some(found) if found == u64::from(known) => {}
            found => {
                let found = found.and_then(|found| u32::try_from(found).ok()).unwrap_or(0);
                return Err(CapsuleError::Interface { found, known });
            }
        }
        let clock = match json["clock"].as_str() {
            Some("virtual") => ClockMode::Virtual,
            Some("realtime") => ClockMode::Realtime,
            _ => return Err(damaged("it names no clock")),
        };
        let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
        let file = |file: &Value| {
            Some(BankFile {
                path: file["path"].as_str()?.into(),
                size: file["size"].as_u64()?,
                crc: u32::try_from(file["crc"].as_u64()?).ok()?,
            })
        };
        let bank = list("bank").iter().map(file).collect::<Option<_>>().ok_or_else(|| damaged("a bank's file"))?;
        let input = |input: &Value| {
            Some(match input.as_str()? {
                "song" => Replayed::Song(Song::default()),
                "live" => Replayed::Live,
                "loopback" => Replayed::Loopback,
                _ => return None,
            })
        };
        let inputs: Vec<_> =
            list("inputs").iter().map(input).collect::<Option<_>>().ok_or_else(|| damaged("an input"))?;
        if inputs.len() > MAX_INPUTS {
            return Err(damaged("it has too many inputs"));
        }
        let drift = json["drift"].as_i64().and_then(|drift| i32::try_from(drift).ok()).unwrap_or(0);
        // What recordings of older cards do not name was as usual.
        let switch = |name: &str| Switch::of(json[name].as_bool() != Some(false));
        let gain = json["gain"].as_f64().map(|gain| gain as f32).filter(|gain| GAINS.contains(gain));
        let sound = Sound { gain: gain.unwrap_or(0.0), reverb: switch("reverb"), chorus: switch("chorus") };
        let max_audio = json["max_audio"].as_u64().and_then(|seconds| u32::try_from(seconds).ok());
        let checks = json["check"].is_object().then(|| Checks::read(&json["check"]));
        let checks = checks.map(|checks| checks.ok_or_else(|| damaged("a rule that this card does not know")));
        let plan = match &json["plan"] {
            Value::Null => None,
            plan => Some(Plan::deserialize(plan).map_err(|error| damaged(&format!("its plan: {error}")))?),
        };
        let mut header = Self {
            card: json["card"].as_str().unwrap_or("?").chars().take(40).collect(),
            clock,
            drift,
            sound,
            bank,
            max_audio: max_audio.and_then(NonZeroU32::new),
            plan,
            checks: checks.transpose()?,
            culprits: json["culprits"].as_bool() == Some(true),
            inputs,
        };
        header.read_songs(cursor).ok_or_else(|| damaged("a song"))?;
        Ok(header)
    }

    fn read_songs(&mut self, cursor: &mut Cursor) -> Option<()> {
        let mut total = 0;
        let mut messages: Vec<Vec<(RefTime, Vec<u8>)>> = vec![Vec::new(); self.inputs.len()];
        while cursor.peek() == Some(Tag::SongMessage) {
            cursor.byte();
            let (input, time, bytes) = (cursor.byte()?, RefTime(cursor.signed()?), cursor.bytes()?);
            total += bytes.len() + size_of::<(RefTime, Vec<u8>)>();
            if total > MAX_SONGS {
                return None;
            }
            messages.get_mut(usize::from(input))?.push((time, bytes));
        }
        for (input, messages) in self.inputs.iter_mut().zip(&messages) {
            if let Replayed::Song(song) = input {
                *song = messages.iter().map(|(time, bytes)| TimedMessage { time: *time, group: 0, bytes }).collect();
            }
        }
        Some(())
    }
}

impl Checks {
    fn read(json: &Value) -> Option<Self> {
        let allowed = json["allow"]
            .as_object()?
            .iter()
            .map(|(name, reason)| Some(Allowed { rule: Rule::find(name)?, reason: reason.as_str()?.into() }));
        let at = match json["at"].as_str() {
            Some(name) => Some(Rule::find(name)?),
            None => None,
        };
        let stop = (json["stop"].as_bool() == Some(true)).then_some(at);
        Some(Self { allowed: allowed.collect::<Option<_>>()?, stop })
    }
}
