//! Quarantine: cases that are known to fail, why, and until when that is no reason to fail.
//!
//! Fed by one file; asked by [`super::pool`] of each case that ended.

use super::cases::Case;
use super::scenario::{line_at, wrong};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The name by which it is found beside scenarios.
pub(crate) const NAME: &str = "quarantine.toml";

/// Whether a file is one, and no scenario.
pub(crate) fn is_named(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == NAME)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quarantine {
    #[serde(default, rename = "quarantine")]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The name of a scenario or of one of its cases.
    scenario: toml::Spanned<String>,
    reason: toml::Spanned<String>,
    /// The last day.
    expires: toml::Spanned<toml::value::Datetime>,
}

/// What the quarantine says of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) reason: String,
    pub(crate) expires: String,
    pub(crate) is_over: bool,
}

impl Quarantine {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| wrong(file, None, &format!("the quarantine cannot be read: {error}")))?;
        let read: Self = toml::from_str(&text)
            .map_err(|error| wrong(file, error.span().map(|span| line_at(&text, span.start)), error.message()))?;
        for entry in &read.entries {
            let empty = |text: &toml::Spanned<String>| text.get_ref().trim().is_empty();
            let wrong_at = if empty(&entry.scenario) {
                Some((entry.scenario.span(), "it names no scenario"))
            } else if empty(&entry.reason) {
                Some((entry.reason.span(), "it has no reason"))
            } else if entry.expires.get_ref().date.is_none() || entry.expires.get_ref().time.is_some() {
                Some((entry.expires.span(), "it expires on a day, as in 2027-01-31"))
            } else {
                None
            };
            if let Some((span, what)) = wrong_at {
                return Err(wrong(file, Some(line_at(&text, span.start)), what).into());
            }
        }
        Ok(read)
    }

    /// Adds those of another file.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
    }

    /// What it says of a case today.
    pub(crate) fn of(&self, case: &Case) -> Option<Held> {
        self.of_on(case, today())
    }

    fn of_on(&self, case: &Case, today: (u16, u8, u8)) -> Option<Held> {
        let entry = self.entries.iter().find(|entry| {
            let (scenario, values) = entry.scenario.get_ref().split_once(',').unwrap_or((entry.scenario.get_ref(), ""));
            case.of.name() == scenario && (values.is_empty() || case.has_values(values))
        })?;
        let expires = entry.expires.get_ref();
        let last = expires.date.map_or((0, 0, 0), |date| (date.year, date.month, date.day));
        Some(Held { reason: entry.reason.get_ref().clone(), expires: expires.to_string(), is_over: today > last })
    }
}

/// Year, month and day, of UTC.
fn today() -> (u16, u8, u8) {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    date_of(days as i64)
}

/// The date of a day since 1970: in years that begin in March, each month begins (153 m + 2) / 5 days after the first.
fn date_of(days: i64) -> (u16, u8, u8) {
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    ((year + era * 400 + i64::from(month <= 2)) as u16, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_its_date() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_786, (2026, 11, 29)),
            (20_819, (2027, 1, 1)),
        ] {
            assert_eq!(date_of(days), date);
        }
    }
}
