//! What a run came to: lines for people on standard output, one JSON object for programs.
//!
//! Fed by the commands.

use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// A line, or several.
pub(crate) fn say(text: &str) {
    // A reader that has seen enough may close the pipe: what was done is done all the same.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The fields of a summary, a line each.
pub(crate) fn print(summary: &Value) {
    print_to(&mut std::io::stdout().lock(), summary);
}

/// As [`print()`], elsewhere.
pub(crate) fn print_to(out: &mut dyn Write, summary: &Value) {
    for (name, value) in lines(summary) {
        // As above.
        let _ = writeln!(out, "{name:<18} {value}");
    }
}

/// The names and values of a summary, as people read them. How late messages were is told only if some were.
fn lines(summary: &Value) -> Vec<(String, String)> {
    let words = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::Object(classes) if name == "late_by" => late_by(classes)?,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((name.replace('_', " "), value))
    };
    summary.as_object().into_iter().flatten().filter_map(words).collect()
}

/// The card's classes of lateness in words, those that have messages: "1 to 2 ms: 3, 50 ms or more: 1".
fn late_by(classes: &serde_json::Map<String, Value>) -> Option<String> {
    let mut above = None;
    let mut words = Vec::new();
    for (class, count) in classes {
        let below = class.strip_prefix("below_").and_then(|class| class.strip_suffix("_ms"));
        let name = match (above, below) {
            (None, Some(below)) => format!("less than {below} ms"),
            (Some(above), Some(below)) => format!("{above} to {below} ms"),
            (Some(above), None) => format!("{above} ms or more"),
            (None, None) => class.replace('_', " "),
        };
        above = below.or(above);
        if count.as_u64() != Some(0) {
            words.push(format!("{name}: {count}"));
        }
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// The summary as a file, if one is wanted.
pub(crate) fn write(path: Option<&Path>, summary: &Value) -> anyhow::Result<()> {
    match path {
        Some(path) => {
            std::fs::write(path, format!("{summary:#}\n")).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn late_messages_are_told_in_words() {
        let classes = json!({
            "below_1_ms": 2, "below_2_ms": 0, "below_5_ms": 3, "below_10_ms": 0, "below_20_ms": 0, "below_50_ms": 0,
            "50_ms_and_more": 1,
        });
        let summary = json!({ "song": "a.mid", "late": 6, "late_by": classes, "rejected": 0 });
        let expected = [
            ("song", "a.mid"),
            ("late", "6"),
            ("late by", "less than 1 ms: 2, 2 to 5 ms: 3, 50 ms or more: 1"),
            ("rejected", "0"),
        ];
        assert_eq!(lines(&summary), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn how_late_is_left_out_if_nothing_was() {
        let summary = json!({ "late": 0, "late_by": { "below_1_ms": 0, "50_ms_and_more": 0 }, "image": "elf" });
        assert_eq!(lines(&summary).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["late", "image"]);
    }
}
