//! What the checker says: a text for people, and JSON for programs.
//!
//! Fed by the checker; feeds standard error and the report file.

use super::Tally;
use super::describe::{Details, Happened, Place, Seen, Step, hex, message};
use crate::dma::owners::StoreRecord;
use dmus_interface::rule::{Code, Rule, Severity};
use dmus_interface::time::RefTime;
use serde_json::{Value, json};
use std::fmt::{self, Write};

/// Steps of a slot that are shown.
const SHOWN_STEPS: usize = 8;

/// Of the JSON: grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// A mistake in full.
pub(super) fn text(rule: &Rule, allowed: Option<&str>, details: &Details) -> String {
    let mut text = String::new();
    // A string takes all that is written to it.
    let _ = write(&mut text, rule, allowed, details);
    text
}

fn write(text: &mut String, rule: &Rule, allowed: Option<&str>, details: &Details) -> fmt::Result {
    let what = match rule.code {
        Code::Reject(_) => "submission rejected",
        Code::Fault(_) => "driver fault",
        Code::Check(_) => "driver mistake",
    };
    let severity = rule.severity.to_string().to_uppercase();
    writeln!(text, "{severity}: {what} {} {}: {}", rule.code, rule.name, rule.code.meaning())?;
    let Details { place, time, event, culprit, expected, found, history } = details;
    writeln!(text, "  where     {} at {}", where_it_was(place), seconds(*time))?;
    if let Some(seen) = event {
        write_event(text, "event", seen)?;
    }
    for (label, value) in [("expected", expected), ("found", found)] {
        if let Some(value) = value {
            writeln!(text, "  {label:<9} {value}")?;
        }
    }
    if let Some(store) = culprit {
        let (label, what) = ("culprit", format!("{} bytes, {:#x}, at pc {:#x}", store.size, store.value, store.pc));
        writeln!(text, "  {label:<9} a store of {what}:")?;
        for function in &store.functions {
            writeln!(text, "            {function}")?;
        }
    }
    write_history(text, history)?;
    writeln!(text, "  cause     {}", rule.cause)?;
    writeln!(text, "  mend      {}", rule.mend)?;
    if let Some(reason) = allowed {
        writeln!(text, "  allowed   {reason}")?;
    }
    write!(text, "  rule      dmus_interface::{}; dmus-card explain {}", rule.section, rule.name)
}

/// An event, in two lines behind a label.
pub(crate) fn write_event(text: &mut String, label: &str, seen: &Seen) -> fmt::Result {
    let event = &seen.event;
    let flags = if event.flags == 0 { String::new() } else { format!(", usFlags {:#x}", event.flags) };
    let due = if event.time < 0 { "at once".into() } else { seconds(RefTime(event.time)) };
    let (bytes, group) = (event.event_bytes, event.channel_group);
    writeln!(text, "  {label:<9} cbEvent {bytes}, group {group}, due {due} of stream time{flags}")?;
    writeln!(text, "            {} ({})", hex(&seen.bytes), message(&seen.bytes))
}

/// The last steps of a slot, a line each.
pub(crate) fn write_history(text: &mut String, history: &[Step]) -> fmt::Result {
    let from = history.len().saturating_sub(SHOWN_STEPS);
    for (number, step) in history[from..].iter().enumerate() {
        let label = if number == 0 { "history" } else { "" };
        let when = step.when.map_or("long ago".into(), |(time, tail)| format!("at {}, tail {tail}", seconds(time)));
        writeln!(text, "  {label:<9} {:<26} {when}", name(step.happened))?;
    }
    Ok(())
}

fn where_it_was(place: &Place) -> String {
    let mut parts = Vec::new();
    if let Some(stream) = place.stream {
        parts.push(format!("stream {stream}"));
    }
    if let Some(slot) = place.slot {
        parts.push(format!("slot {slot}"));
    }
    if let Some(buffer) = place.buffer {
        parts.push(format!("buffer area + {buffer:#x}"));
    }
    if let Some(word) = place.word {
        parts.push(format!("doorbell page + {word:#x}"));
    }
    if let Some(detail) = place.detail {
        parts.push(format!("detail {detail:#x}"));
    }
    if parts.is_empty() { "the card".into() } else { parts.join(", ") }
}

pub(crate) fn seconds(time: RefTime) -> String {
    format!("{:.6} s", time.0 as f64 / 1e7)
}

fn name(happened: Happened) -> String {
    match happened {
        Happened::Submitted => "submitted by the driver".into(),
        Happened::Fetched => "fetched by the card".into(),
        Happened::Held => "held by the card".into(),
        Happened::Completed(status) => format!("completed: {}", format!("{status:?}").to_lowercase()),
        Happened::TakenHome => "taken home by the driver".into(),
    }
}

/// See [`super::Checker::summary`].
pub(super) fn summary(tallies: &[Tally]) -> Option<String> {
    let found: Vec<&Tally> = tallies.iter().filter(|tally| tally.count > 0).collect();
    if found.is_empty() {
        return None;
    }
    let each = |tally: &&Tally| {
        let allowed = if tally.allowed.is_some() { ", allowed" } else { "" };
        let times = if tally.count == 1 { "once".into() } else { format!("{} times", tally.count) };
        format!("{} {} ({times}{allowed})", tally.rule.code, tally.rule.name)
    };
    let list: Vec<String> = found.iter().map(each).collect();
    let rules = if found.len() == 1 { "a rule".into() } else { format!("{} of the rules", found.len()) };
    Some(format!("the driver broke {rules} of the data sheet: {}", list.join(", ")))
}

/// See [`super::Checker::json`].
pub(super) fn json(tallies: &[Tally]) -> Value {
    let of = |severity: Severity| -> u64 {
        let counts = tallies.iter().filter(|tally| tally.rule.severity == severity && tally.allowed.is_none());
        counts.map(|tally| tally.count).sum()
    };
    let violations: Vec<Value> = tallies.iter().filter(|tally| tally.count > 0).map(violation).collect();
    json!({
        "version": VERSION,
        "errors": of(Severity::Error),
        "warnings": of(Severity::Warning),
        "notes": of(Severity::Note),
        "violations": violations,
    })
}

fn violation(tally: &Tally) -> Value {
    let rule = tally.rule;
    json!({
        "code": rule.code.to_string(),
        "name": rule.name,
        "severity": rule.severity.to_string(),
        "meaning": rule.code.meaning().to_string(),
        "cause": rule.cause,
        "mend": rule.mend,
        "section": rule.section,
        "count": tally.count,
        "allowed": tally.allowed,
        "first": tally.first.as_deref().map(first),
    })
}

fn first(details: &Details) -> Value {
    let Details { place, time, event, culprit, expected, found, history } = details;
    let event = event.as_ref().map(|seen| {
        json!({
            "cb_event": seen.event.event_bytes,
            "channel_group": seen.event.channel_group,
            "flags": seen.event.flags,
            "time_100ns": seen.event.time,
            "bytes": hex(&seen.bytes),
            "message": message(&seen.bytes),
        })
    });
    let history: Vec<Value> = history.iter().map(step).collect();
    json!({
        "stream": place.stream,
        "slot": place.slot,
        "buffer_offset": place.buffer,
        "doorbell_offset": place.word,
        "detail": place.detail,
        "master_time_100ns": time.0,
        "event": event,
        "culprit": culprit.as_ref().map(store),
        "expected": expected,
        "found": found,
        "history": history,
    })
}

fn store(store: &StoreRecord) -> Value {
    let hex = |value: &u64| format!("{value:#x}");
    json!({
        "pc": hex(&store.pc),
        "bytes": store.size,
        "value": format!("{:#x}", store.value),
        "vcpu": store.vcpu,
        "functions": store.functions,
        "callers": store.callers.iter().map(hex).collect::<Vec<_>>(),
        "registers": store.registers.iter().map(hex).collect::<Vec<_>>(),
    })
}

fn step(step: &Step) -> Value {
    let (time, tail) = step.when.map(|(time, tail)| (time.0, tail)).unzip();
    json!({ "step": name(step.happened), "master_time_100ns": time, "tail": tail })
}
