//! Reading a scenario's file, and seeing that it can be run and can fail: what is wrong is told with its line.
//!
//! Fed by a path; feeds [`super::super::cases`] with what is there.

use super::{Audio, Bound, Clock, Each, Expect, Hash, Scenario};
use crate::exit::{Exit, Failure};
use crate::machine::Image;
use dmus_interface::rule::Rule;
use regex::Regex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A scenario and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) file: PathBuf,
    pub(crate) scenario: Scenario,
}

/// What is wrong at a key.
struct Mistake {
    keys: Vec<String>,
    what: String,
}

fn mistake(keys: &[&str], what: impl Into<String>) -> Mistake {
    Mistake { keys: keys.iter().map(|key| (*key).to_owned()).collect(), what: what.into() }
}

/// One sentence with the file, and the line if it is known.
pub(crate) fn wrong(file: &Path, line: Option<usize>, what: &str) -> Failure {
    // TOML's own messages may have lines.
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    let file = file.display();
    match line {
        Some(line) => Failure::new(Exit::Usage, format!("{file}:{line}: {what}")),
        None => Failure::new(Exit::Usage, format!("{file}: {what}")),
    }
}

/// The line of a byte of a text.
pub(crate) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// The line of a key, or of the table that would have it.
fn line_of(text: &str, keys: &[String]) -> Option<usize> {
    let document = toml_edit::Document::parse(text).ok()?;
    let (mut item, mut line) = (document.as_item(), None);
    for key in keys {
        let Some((key, value)) = item.as_table_like().and_then(|table| table.get_key_value(key)) else {
            break;
        };
        line = key.span().or_else(|| value.span()).map(|span| line_at(text, span.start)).or(line);
        item = value;
    }
    line
}

impl Loaded {
    /// What the cases are called by: the name of the file.
    pub(crate) fn name(&self) -> String {
        self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A path of the scenario's.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Reads a scenario, and sees that it can be run and can fail.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| wrong(file, None, &format!("the scenario cannot be read: {error}")))?;
        let scenario: Scenario = toml::from_str(&text)
            .map_err(|error| wrong(file, error.span().map(|span| line_at(&text, span.start)), error.message()))?;
        let loaded = Self { file: file.into(), scenario };
        if let Err(Mistake { keys, what }) = loaded.check() {
            let named = keys.join(".");
            let what = if named.is_empty() { what } else { format!("{named}: {what}") };
            return Err(wrong(file, line_of(&text, &keys), &what).into());
        }
        Ok(loaded)
    }

    fn check(&self) -> Result<(), Mistake> {
        let Scenario { card, feed, limits, expect, .. } = &self.scenario;
        self.check_guest()?;
        self.check_lists()?;
        if card.seed.is_some() && self.scenario.liberties.is_some() {
            return Err(mistake(&["card", "seed"], "the liberties have a seed of their own"));
        }
        for name in card.allow.keys() {
            known(&["card", "allow", name], name)?;
        }
        for (keys, path) in self.paths() {
            if !path.exists() {
                return Err(mistake(&keys, format!("there is no file {}", path.display())));
            }
        }
        for pattern in feed.serial.iter().filter_map(|step| step.after.as_deref()) {
            regex(&["feed", "serial"], pattern)?;
        }
        for (key, limit) in [("card", limits.card), ("still", limits.still), ("total", limits.total)] {
            if !(limit > 0.0 && limit <= 1e6) {
                return Err(mistake(&["limits", key], format!("a limit of {limit} s: it has to be more than 0")));
            }
        }
        expect.check(card.clock.as_ref().map_or(&[Clock::Virtual][..], Each::all))
    }

    fn check_guest(&self) -> Result<(), Mistake> {
        let Scenario { guest, card, .. } = &self.scenario;
        let booted = [guest.image.is_some(), guest.kernel.is_some(), guest.iso.is_some(), guest.disk.is_some()];
        if booted.iter().filter(|named| **named).count() > 1 {
            return Err(mistake(&["guest"], "it boots one of image, kernel, iso and disk, and no more"));
        }
        for (there, key) in [
            (guest.task.is_some(), "task"),
            (guest.song.is_some(), "song"),
            (guest.dls.is_some(), "dls"),
            (guest.latency.is_some(), "latency"),
            (guest.width.is_some(), "width"),
            (guest.run.is_some(), "run"),
        ] {
            if there && !guest.is_ours() {
                return Err(mistake(&["guest", key], "it is for a guest of this project, which image names"));
            }
        }
        let is_linux = |image: &Each<Image>| image.all().iter().all(|one| *one == Image::Linux);
        if guest.run.is_some() && (!guest.image.as_ref().is_some_and(is_linux) || guest.task.is_some()) {
            return Err(mistake(&["guest", "run"], "it is the Linux guest's, in place of a task"));
        }
        if guest.width.as_ref().is_some_and(|width| width.all().iter().any(|width| ![4, 8].contains(width))) {
            return Err(mistake(&["guest", "width"], "pointers have 4 or 8 bytes"));
        }
        if guest.memory.is_some() && guest.is_ours() {
            return Err(mistake(&["guest", "memory"], "a guest of this project has what it needs"));
        }
        if guest.latency.is_some_and(|latency| !(1..=500).contains(&latency)) {
            return Err(mistake(&["guest", "latency"], "it is 1 to 500 ms"));
        }
        let clocks = card.clock.as_ref().map_or(&[Clock::Virtual][..], Each::all);
        if guest.latency.is_some() && clocks.contains(&Clock::Virtual) {
            return Err(mistake(&["guest", "latency"], "it is for a realtime clock alone"));
        }
        Ok(())
    }

    /// Each list makes cases, and each of another name.
    fn check_lists(&self) -> Result<(), Mistake> {
        let Scenario { guest, card, .. } = &self.scenario;
        check_list(&["guest", "image"], guest.image.as_ref(), |image| image.name().into())?;
        check_list(&["guest", "song"], guest.song.as_ref(), |song| file_name(song))?;
        check_list(&["guest", "width"], guest.width.as_ref(), u8::to_string)?;
        check_list(&["card", "clock"], card.clock.as_ref(), |clock| clock.name().into())?;
        check_list(&["card", "drift"], card.drift.as_ref(), i32::to_string)?;
        check_list(&["card", "seed"], card.seed.as_ref(), u64::to_string)
    }

    /// The files that it names, and by which keys.
    fn paths(&self) -> impl Iterator<Item = (Vec<&str>, PathBuf)> {
        let Scenario { guest, card, feed, expect, .. } = &self.scenario;
        let one = [
            (["guest", "dls"], guest.dls.as_ref()),
            (["guest", "kernel"], guest.kernel.as_ref()),
            (["guest", "initrd"], guest.initrd.as_ref()),
            (["guest", "iso"], guest.iso.as_ref()),
            (["guest", "disk"], guest.disk.as_ref()),
            (["feed", "share"], feed.share.as_ref()),
            (["expect", "midi"], expect.midi.as_ref()),
        ];
        let one = one.into_iter().filter_map(|(keys, path)| Some((keys.to_vec(), path?.as_path())));
        let songs = guest.song.iter().flat_map(Each::all).map(|song| (vec!["guest", "song"], song.as_path()));
        let banks = card.bank.iter().map(|bank| (vec!["card", "bank"], bank.as_path()));
        let files = feed.files.iter().map(|(name, file)| (vec!["feed", "files", name], file.as_path()));
        let midi = feed.midi.iter().filter(|source| *source != "loopback");
        let midi = midi.map(|source| (vec!["feed", "midi"], Path::new(source)));
        let reference = expect.audio.iter().filter_map(|audio| audio.reference.as_deref());
        let reference = reference.map(|path| (vec!["expect", "audio", "reference"], path));
        let all = one.chain(songs).chain(banks).chain(files).chain(midi).chain(reference);
        all.map(|(keys, path)| (keys, self.path(path)))
    }
}

impl super::Guest {
    /// Whether it is one of this project's.
    pub(crate) fn is_ours(&self) -> bool {
        self.kernel.is_none()
            && self.iso.is_none()
            && self.disk.is_none()
            && (self.image.is_some() || self.qemu.is_empty())
    }
}

impl Expect {
    fn check(&self, clocks: &[Clock]) -> Result<(), Mistake> {
        let Self { exit, serial, serial_in_order, serial_never, audio, midi, violations, counters } = self;
        let patterns = [("serial", serial), ("serial-in-order", serial_in_order), ("serial-never", serial_never)];
        for (key, patterns) in patterns {
            for pattern in patterns {
                regex(&["expect", key], pattern)?;
            }
        }
        for name in violations.iter().flatten() {
            known(&["expect", "violations"], name)?;
        }
        let says_nothing =
            |bound: &Bound| matches!(bound, Bound::Within(within) if within.min.or(within.max).is_none());
        if let Some((name, _)) = counters.iter().find(|(_, bound)| says_nothing(bound)) {
            return Err(mistake(&["expect", "counters", name], "it has neither min nor max"));
        }
        if let Some(audio) = audio {
            audio.check(clocks)?;
        }
        let nothing = exit.is_none() && midi.is_none() && violations.is_none() && counters.is_empty();
        if nothing && audio.is_none() && patterns.iter().all(|(_, patterns)| patterns.is_empty()) {
            return Err(mistake(&["expect"], "nothing is said that must hold: it could not fail"));
        }
        Ok(())
    }
}

impl Audio {
    fn check(&self, clocks: &[Clock]) -> Result<(), Mistake> {
        let key = |key: &'static str| ["expect", "audio", key];
        let hashes = match &self.sha256 {
            None => vec![],
            Some(Hash::Same(_)) if clocks.contains(&Clock::Realtime) => {
                let what =
                    "in real time no two runs have the same bytes; say of which cases it is, or give a reference";
                return Err(mistake(&key("sha256"), what));
            }
            Some(Hash::Same(hash)) => vec![hash],
            Some(Hash::ByCase(hashes)) => hashes.values().collect(),
        };
        let is_hash = |hash: &&String| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        // An empty one is to be written by --bless.
        if hashes.iter().any(|hash| !hash.is_empty() && !is_hash(hash)) {
            return Err(mistake(&key("sha256"), "it is no SHA-256: 64 hexadecimal digits"));
        }
        for (name, distance) in
            [("level", self.level), ("pitch", self.pitch), ("spectrum", self.spectrum), ("window", self.window)]
        {
            let Some(distance) = distance else {
                continue;
            };
            if self.reference.is_none() {
                return Err(mistake(&key(name), "there is no reference that it could be held against"));
            }
            if !(distance > 0.0 && distance <= 1e4) || name == "window" && !(0.01..=10.0).contains(&distance) {
                return Err(mistake(&key(name), format!("{distance} is out of range")));
            }
        }
        for (name, spans) in [("silent", &self.silent), ("not-silent", &self.not_silent)] {
            if spans.iter().any(|span| !(span.from >= 0.0 && span.from < span.to)) {
                return Err(mistake(&key(name), "it goes from an earlier second to a later one"));
            }
        }
        if self.sha256.is_none() && self.reference.is_none() && self.silent.is_empty() && self.not_silent.is_empty() {
            return Err(mistake(&["expect", "audio"], "nothing is said of the audio that must hold"));
        }
        Ok(())
    }
}

/// What a song is called in the names of cases.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn check_list<T>(keys: &[&str], list: Option<&Each<T>>, name: impl Fn(&T) -> String) -> Result<(), Mistake> {
    let values = list.map_or(&[][..], Each::all);
    if list.is_some() && values.is_empty() {
        return Err(mistake(keys, "the list is empty: there would be no case"));
    }
    let mut names = BTreeSet::new();
    match values.iter().map(name).find(|name| !names.insert(name.clone())) {
        Some(name) => Err(mistake(keys, format!("{name} is in the list twice: two cases would have one name"))),
        None => Ok(()),
    }
}

fn regex(keys: &[&str], pattern: &str) -> Result<Regex, Mistake> {
    Regex::new(pattern).map_err(|error| {
        let error = error.to_string();
        mistake(keys, format!("{pattern:?} is no regular expression: {}", error.lines().last().unwrap_or_default()))
    })
}

fn known(keys: &[&str], name: &str) -> Result<&'static Rule, Mistake> {
    let unknown = || mistake(keys, format!("there is no rule {name:?}; `dmus-card explain` lists them all"));
    Rule::find(name).ok_or_else(unknown)
}
