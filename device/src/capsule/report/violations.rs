//! The rules that were broken: what the checker found, each with the first time in full.
//!
//! Fed by the checker's JSON and by the violations that were observed; feeds the page and its summary.

use super::html::{Text, anchor, duration, grouped};
use super::marks::{Broken, Found};
use super::{Facts, Report};
use crate::check::seconds;
use dmus_interface::rule::Rule;
use dmus_interface::time::RefTime;
use serde_json::Value;
use std::io;

/// Rules, steps and functions that are shown at most: a card says less.
const MOST: usize = 128;

/// A rule that was broken.
pub(super) struct Violation {
    pub(super) code: String,
    pub(super) name: String,
    /// error, warning or note.
    pub(super) severity: &'static str,
    meaning: String,
    cause: String,
    mend: String,
    section: String,
    pub(super) count: u64,
    pub(super) allowed: Option<String>,
    /// As in the checker's JSON, or null.
    first: Value,
}

/// What the checker's JSON has, then what only the observations have.
pub(super) fn gather(facts: &Facts, found: &Found) -> Vec<Violation> {
    let listed = facts.checker["violations"].as_array().map_or(&[][..], Vec::as_slice);
    let mut broken: Vec<Violation> = listed.iter().take(MOST).map(from_json).collect();
    let missing: Vec<&Broken> =
        found.rules.iter().filter(|seen| broken.iter().all(|known| known.name != seen.rule)).collect();
    broken.extend(missing.into_iter().map(from_observations));
    let worst = |violation: &Violation| match (violation.allowed.is_some(), violation.severity) {
        (false, "error") => 0,
        (false, "warning") => 1,
        (false, _) => 2,
        (true, _) => 3,
    };
    broken.sort_by_key(worst);
    broken
}

fn severity_of(text: &str) -> &'static str {
    match text {
        "warning" => "warning",
        "note" => "note",
        // What nobody knows is not made little of.
        _ => "error",
    }
}

fn from_json(violation: &Value) -> Violation {
    let text = |key: &str| text(&violation[key]).unwrap_or_default();
    Violation {
        code: text("code"),
        name: text("name"),
        severity: severity_of(&text("severity")),
        meaning: text("meaning"),
        cause: text("cause"),
        mend: text("mend"),
        section: text("section"),
        count: violation["count"].as_u64().unwrap_or(0),
        allowed: violation["allowed"].as_str().map(str::to_owned),
        first: violation["first"].clone(),
    }
}

fn from_observations(seen: &Broken) -> Violation {
    let rule = Rule::find(seen.rule);
    let of = |what: fn(&Rule) -> String| rule.map(what).unwrap_or_default();
    Violation {
        code: of(|rule| rule.code.to_string()),
        name: seen.rule.to_owned(),
        severity: severity_of(&of(|rule| rule.severity.to_string())),
        meaning: of(|rule| rule.code.meaning().to_string()),
        cause: of(|rule| rule.cause.to_owned()),
        mend: of(|rule| rule.mend.to_owned()),
        section: of(|rule| rule.section.to_owned()),
        count: seen.count,
        allowed: None,
        first: Value::Null,
    }
}

/// A value as text; `None` if it is null or no text or number.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(MOST)
}

/// The section.
pub(super) fn write(report: &Report, broken: &[Violation], out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "<section id=\"violations\" aria-labelledby=\"h-violations\">")?;
    writeln!(out, "<h2 id=\"h-violations\">Violations</h2>")?;
    if broken.is_empty() {
        writeln!(out, "<p>No rule of the data sheet was broken.</p>\n</section>")?;
        return Ok(());
    }
    write_filter(broken, out)?;
    for violation in broken {
        write_one(violation, report.found.of(&violation.name), report, out)?;
    }
    writeln!(out, "</section>")
}

fn write_filter(broken: &[Violation], out: &mut dyn io::Write) -> io::Result<()> {
    write!(out, "<p class=\"filter script-only\" role=\"group\" aria-label=\"Which violations are shown\">Show ")?;
    for severity in ["error", "warning", "note"] {
        let rules = broken.iter().filter(|violation| violation.severity == severity).count();
        if rules > 0 {
            let box_of = format!("<input type=\"checkbox\" data-severity=\"{severity}\" checked>");
            write!(out, "<label>{box_of} {severity}s ({rules})</label> ")?;
        }
    }
    writeln!(out, "</p>")
}

fn write_one(violation: &Violation, seen: Option<&Broken>, report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let Violation { code, name, severity, meaning, cause, mend, section, count, allowed, first } = violation;
    let (id, times) = (anchor(name), if *count == 1 { "once".into() } else { format!("{} times", grouped(*count)) });
    write!(
        out,
        "<article class=\"violation {severity}\" id=\"{id}\" data-severity=\"{severity}\">\n\
         <h3><span class=\"badge {severity}\">{severity}</span> <span class=\"code\">{}</span> {} \
         <a class=\"anchor\" href=\"#{id}\" aria-label=\"Link to {}\">#</a></h3>\n\
         <p class=\"meaning\">{}, <strong>{times}</strong>.",
        Text(code),
        Text(name),
        Text(name),
        Text(capital(meaning)),
    )?;
    if let Some(Broken { first, last, count, .. }) = seen {
        write!(out, " Observed at {} of the run", duration(*first))?;
        if *count > 1 {
            write!(out, ", and last at {}", duration(*last))?;
        }
        write!(out, ".")?;
    }
    writeln!(out, "</p>")?;
    if let Some(reason) = allowed {
        writeln!(out, "<p class=\"allowed\"><strong>Allowed:</strong> {}</p>", Text(reason))?;
    }
    writeln!(out, "<dl class=\"advice\">")?;
    for (label, value) in [("Likely cause", cause), ("Mend", mend)] {
        if !value.is_empty() {
            writeln!(out, "<div><dt>{label}</dt><dd>{}</dd></div>", Text(value))?;
        }
    }
    if !section.is_empty() {
        writeln!(
            out,
            "<div><dt>Data sheet</dt><dd><code>dmus_interface::{}</code>; <code>dmus-card explain {}</code></dd></div>",
            Text(section),
            Text(name),
        )?;
    }
    writeln!(out, "</dl>")?;
    match first.is_object() {
        true => write_first(first, report, out)?,
        false => {
            if let Some(seen) = seen {
                write_seen(seen, out)?;
            }
        }
    }
    if let Some(words) = seen.and_then(|seen| seen.report.as_deref()) {
        let summary = "The report as the card logged it";
        writeln!(out, "<details><summary>{summary}</summary><pre tabindex=\"0\">{}</pre></details>", Text(words))?;
    }
    writeln!(out, "</article>")
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

/// The first time, as far as the observation alone shows it.
fn write_seen(seen: &Broken, out: &mut dyn io::Write) -> io::Result<()> {
    let stream = seen.stream.map_or(String::new(), |stream| format!(", stream {stream}"));
    let slot = seen.slot.map_or(String::new(), |slot| format!(", slot {slot}"));
    writeln!(out, "<h4>The first time</h4>\n<p>At {} of the run{stream}{slot}.</p>", duration(seen.first))
}

/// The first time in full.
fn write_first(first: &Value, report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "<h4>The first time</h4>\n<div class=\"wide\"><table class=\"facts\"><tbody>")?;
    let row = |out: &mut dyn io::Write, label: &str, value: String| {
        writeln!(out, "<tr><th scope=\"row\">{label}</th><td>{value}</td></tr>")
    };
    row(out, "Where", Text(place(first)).to_string())?;
    if let Some(master) = first["master_time_100ns"].as_i64() {
        let run = if report.reset_count > 0 { " on the card's clock" } else { "" };
        row(out, "When", format!("{}{run}", seconds(RefTime(master))))?;
    }
    if first["event"].is_object() {
        row(out, "Event", event(&first["event"]))?;
    }
    for (label, key, other) in [("Expected", "expected", "found"), ("Found", "found", "expected")] {
        if let Some(value) = first[key].as_str() {
            row(out, label, format!("<code>{}</code>", differing(value, first[other].as_str())))?;
        }
    }
    if first["culprit"].is_object() {
        row(out, "Culprit", culprit(&first["culprit"]))?;
    }
    writeln!(out, "</tbody></table></div>")?;
    write_history(&first["history"], out)
}

/// Text, with what differs from another one marked.
fn differing(value: &str, other: Option<&str>) -> String {
    let Some(other) = other.filter(|other| other.chars().count() == value.chars().count()) else {
        return Text(value).to_string();
    };
    let mut shown = String::new();
    let mut marked = false;
    for (character, also) in value.chars().zip(other.chars()).take(2000) {
        if (character != also) != marked {
            marked = !marked;
            shown.push_str(if marked { "<mark>" } else { "</mark>" });
        }
        shown.push_str(&Text(character).to_string());
    }
    if marked {
        shown.push_str("</mark>");
    }
    shown
}

fn place(first: &Value) -> String {
    let hex = |key: &str, label: &str| first[key].as_u64().map(|value| format!("{label} {value:#x}"));
    let number = |key: &str, label: &str| first[key].as_u64().map(|value| format!("{label} {value}"));
    let parts = [
        number("stream", "stream"),
        number("slot", "slot"),
        hex("buffer_offset", "buffer area +"),
        hex("doorbell_offset", "doorbell page +"),
        hex("detail", "detail"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "the card".into() } else { parts.join(", ") }
}

fn event(event: &Value) -> String {
    let of = |key: &str| text(&event[key]).unwrap_or_default();
    let due = match event["time_100ns"].as_i64() {
        Some(time) if time >= 0 => format!("due {} of stream time", duration(time)),
        _ => "due at once".into(),
    };
    let (size, group, flags) = (of("cb_event"), of("channel_group"), of("flags"));
    format!(
        "{}, {due}<br><code class=\"bytes\">{}</code><br><small>cbEvent {}, usChannelGroup {}, usFlags {}</small>",
        Text(capital(&of("message"))),
        Text(of("bytes")),
        Text(size),
        Text(group),
        Text(flags),
    )
}

fn culprit(store: &Value) -> String {
    let of = |key: &str| text(&store[key]).unwrap_or_default();
    let mut shown = format!(
        "a store of {} bytes, <code>{}</code>, at pc <code>{}</code>, vCPU {}",
        Text(of("bytes")),
        Text(of("value")),
        Text(of("pc")),
        Text(of("vcpu")),
    );
    let functions: Vec<String> =
        items(&store["functions"]).filter_map(Value::as_str).map(|name| format!("<li>{}</li>", Text(name))).collect();
    if !functions.is_empty() {
        shown += &format!("<ol class=\"calls\">{}</ol>", functions.concat());
    }
    for (key, label) in [("callers", "Return addresses"), ("registers", "Registers")] {
        let values: Vec<&str> = items(&store[key]).filter_map(Value::as_str).collect();
        if !values.is_empty() {
            let values = Text(values.join(" ")).to_string();
            shown += &format!("<details><summary>{label}</summary><code class=\"bytes\">{values}</code></details>");
        }
    }
    shown
}

fn write_history(history: &Value, out: &mut dyn io::Write) -> io::Result<()> {
    if items(history).next().is_none() {
        return Ok(());
    }
    writeln!(
        out,
        "<div class=\"wide\"><table class=\"history\"><caption>The slot's history</caption><thead><tr>\
         <th scope=\"col\">Step</th><th scope=\"col\" class=\"n\">Master time</th>\
         <th scope=\"col\" class=\"n\">Tail</th></tr></thead><tbody>",
    )?;
    for step in items(history) {
        let time = step["master_time_100ns"].as_i64().map_or("long ago".into(), |time| seconds(RefTime(time)));
        let tail = step["tail"].as_u64().map_or("-".into(), grouped);
        let name = Text(capital(step["step"].as_str().unwrap_or_default())).to_string();
        writeln!(out, "<tr><td>{name}</td><td class=\"n\">{time}</td><td class=\"n\">{tail}</td></tr>")?;
    }
    writeln!(out, "</tbody></table></div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_marked_and_escaped() {
        assert_eq!(differing("uData 0x3c90", Some("uData 0x3d90")), "uData 0x3<mark>c</mark>90");
        assert_eq!(differing("<a", Some("<b")), "&lt;<mark>a</mark>");
        assert_eq!(differing("ab", Some("abc")), "ab");
        assert_eq!(differing("<", None), "&lt;");
    }

    #[test]
    fn what_the_checker_did_not_list_is_told_from_the_observations() {
        let mut found = Found::default();
        found.add(5, "late", Some(0), Some(3), None);
        found.add(6, "slot-changed", Some(0), Some(3), None);
        found.add(6, "no-rule", None, None, None);
        let checker = serde_json::json!({ "violations": [{ "name": "late", "severity": "warning", "count": 7 }] });
        let broken = gather(&Facts { checker, ..Facts::default() }, &found);
        let told: Vec<_> = broken.iter().map(|known| (&known.name[..], known.severity, known.count)).collect();
        assert_eq!(told, [("slot-changed", "error", 1), ("no-rule", "error", 1), ("late", "warning", 7)]);
        assert!(broken[0].code == "C6" && !broken[0].cause.is_empty() && !broken[0].mend.is_empty());
    }

    #[test]
    fn json_of_any_shape_is_taken() {
        let shapes = serde_json::json!([null, 5, "x", [], { "violations": 3 }, { "violations": [null, 5, [], {}] }]);
        for checker in shapes.as_array().expect("it is one") {
            let facts = Facts { checker: checker.clone(), ..Facts::default() };
            for violation in gather(&facts, &Found::default()) {
                let mut page = Vec::new();
                write_one(&violation, None, &Report::new(), &mut page).expect("memory takes all");
                assert!(String::from_utf8_lossy(&page).contains("</article>"));
            }
        }
    }
}
