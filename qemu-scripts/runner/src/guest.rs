//! What a guest says on its serial line.
//!
//! Fed by [`crate::supervisor`], line by line; feeds `play`, `record`, `conform` and `zoo`, which judge whether it adds
//! up. The lines are described in the bare-metal guest's own `main.rs`; every guest says the same.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the guest said of itself.
#[derive(Default)]
pub(crate) struct GuestReport {
    /// The numbers of its last word, by their names.
    pub(crate) summary: Option<BTreeMap<String, u64>>,
    /// What it captured: stream time in 100 ns, and a message.
    pub(crate) captured: Vec<(i64, Vec<u8>)>,
    /// Whether a statement of the DDI holds, and its name with the rest of the line.
    pub(crate) statements: Vec<(bool, String)>,
    /// Rules that it was to break, each with what the card said of it, or why it could not.
    pub(crate) mistakes: Vec<(String, Result<String, String>)>,
    pub(crate) error: Option<String>,
    last: String,
    /// The player itself printed something: it was booted.
    pub(crate) spoke: bool,
    /// When QEMU was started, as Unix time.
    pub(crate) qemu_start: Duration,
}

impl GuestReport {
    /// A guest whose QEMU starts now.
    pub(crate) fn new() -> Self {
        let qemu_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { qemu_start, ..Self::default() }
    }

    /// One line of the serial port; those of the player have "dmus: ". Gives the millisecond that the guest is at, if
    /// the line says so.
    pub(crate) fn take(&mut self, line: &str) -> Option<u64> {
        if !line.trim().is_empty() {
            self.last = line.trim().to_owned();
        }
        let (_, said) = line.split_once("dmus: ")?;
        self.spoke = true;
        let (word, rest) = said.split_once(' ')?;
        match word {
            "progress" => return rest.trim().parse().ok(),
            "captured" => match captured(rest) {
                Some(message) => self.captured.push(message),
                None => self.error = Some(format!("what it captured is unreadable: {rest}")),
            },
            "holds" | "fails" => self.statements.push((word == "holds", rest.trim().to_owned())),
            "broke" | "kept" => match rest.trim().split_once(": ") {
                Some((rule, told)) => {
                    let told = if word == "broke" { Ok(told.to_owned()) } else { Err(told.to_owned()) };
                    self.mistakes.push((rule.to_owned(), told));
                }
                None => self.error = Some(format!("what it says of a rule is unreadable: {rest}")),
            },
            "played" | "recorded" | "conformed" | "misbehaved" => {
                let field = |field: &str| {
                    let (name, value) = field.split_once('=')?;
                    Some((name.to_owned(), value.parse().ok()?))
                };
                self.summary = Some(rest.split_whitespace().filter_map(field).collect());
            }
            // The first: what comes after it is that something failed.
            "error:" => _ = self.error.get_or_insert_with(|| rest.trim().to_owned()),
            _ => {}
        }
        None
    }

    /// A number of its last word.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.summary.as_ref()?.get(name).copied()
    }

    /// Whether everything that it lent to the card is returned, by both sides' counts.
    pub(crate) fn all_returned(&self, card: &serde_json::Value) -> bool {
        self.number("slots_free") == self.number("slots")
            && self.number("buffers_free") == self.number("buffers")
            && card["in_flight"].as_u64() == Some(0)
    }

    pub(crate) fn last_words(&self) -> String {
        match &self.error {
            Some(error) => format!(": {error}"),
            None if self.last.is_empty() => String::new(),
            None => format!("; its last line was: {}", self.last),
        }
    }
}

/// A time and the hexadecimal digits of a message.
fn captured(text: &str) -> Option<(i64, Vec<u8>)> {
    let (time, digits) = text.trim().split_once(' ')?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    Some((time.parse().ok()?, bytes?))
}
