//! The summary: the outcome first, then the figures of the run and of its streams.
//!
//! Fed by all that was gathered; feeds the top of the page and its title.

use super::html::{Text, anchor, count, duration, grouped, millis};
use super::stream::{Stream, state_name};
use super::violations::Violation;
use super::{Facts, Report};
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::{State, Type};
use dmus_interface::ring::Status;
use std::io;

/// How the run ended.
pub(super) struct Outcome {
    pub(super) words: String,
    class: &'static str,
}

/// In words, the worst first.
pub(super) fn outcome(facts: &Facts, broken: &[Violation]) -> Outcome {
    let of = |severity: &str| -> u64 {
        let counts = broken.iter().filter(|known| known.severity == severity && known.allowed.is_none());
        counts.fold(0_u64, |sum, known| sum.saturating_add(known.count))
    };
    let allowed = broken.iter().filter(|known| known.allowed.is_some()).count() as u64;
    let [errors, warnings, notes] = [of("error"), of("warning"), of("note")];
    let counts = [(errors, "error"), (warnings, "warning"), (notes, "note")];
    let parts: Vec<String> =
        counts.iter().filter(|(number, _)| *number > 0).map(|(number, noun)| count(*number, noun)).collect();
    let class = match (errors, warnings + notes) {
        (0, 0) => "good",
        (0, _) => "warning",
        _ => "error",
    };
    let words = match (parts.is_empty(), allowed, facts.checker.is_null()) {
        (false, ..) => parts.join(", "),
        (true, 0, true) => return Outcome { words: "not checked".into(), class: "unknown" },
        (true, 0, false) => "no rule was broken".into(),
        (true, 1, _) => "no rule was broken but one that is allowed".into(),
        (true, allowed, _) => format!("no rule was broken but {} that are allowed", grouped(allowed)),
    };
    Outcome { words, class }
}

/// The section.
pub(super) fn write(
    report: &Report,
    facts: &Facts,
    broken: &[Violation],
    end: i64,
    left: &[u32],
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let Outcome { words, class } = outcome(facts, broken);
    let mark = match class {
        "good" => "\u{2713}",
        "error" => "\u{2715}",
        "warning" => "!",
        _ => "?",
    };
    write!(
        out,
        "<section id=\"summary\" aria-labelledby=\"h-summary\">\n<h2 id=\"h-summary\" class=\"unseen\">Summary</h2>\n\
         <div class=\"outcome {class}\"><span class=\"sign\" aria-hidden=\"true\">{mark}</span><div>\
         <p class=\"words\">{}</p>\n",
        Text(capital(&words)),
    )?;
    write_rules(broken, out)?;
    writeln!(out, "</div></div>")?;
    if let Some(why) = &facts.incomplete {
        writeln!(out, "<p class=\"notice\"><strong>The recording is not complete:</strong> {}</p>", Text(why))?;
    }
    write_figures(report, facts, end, out)?;
    write_facts(report, facts, left, out)?;
    write_streams(report, left, out)?;
    writeln!(out, "</section>")
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

fn write_rules(broken: &[Violation], out: &mut dyn io::Write) -> io::Result<()> {
    if broken.is_empty() {
        return Ok(());
    }
    write!(out, "<ul class=\"rules\">")?;
    for violation in broken {
        let Violation { code, name, severity, count, allowed, .. } = violation;
        let allowed = if allowed.is_some() { ", allowed" } else { "" };
        write!(
            out,
            "<li><a href=\"#{}\"><span class=\"badge {severity}\">{severity}</span> \
             <span class=\"code\">{}</span> {}</a> \
             <span class=\"times\">\u{d7}\u{a0}{}{allowed}</span></li>",
            anchor(name),
            Text(code),
            Text(name),
            grouped(*count),
        )?;
    }
    writeln!(out, "</ul>")
}

/// A figure: of the counters if they are there, else of what was observed.
fn figure(facts: &Facts, key: &str, observed: u64) -> u64 {
    facts.counters[key].as_u64().unwrap_or(observed)
}

fn write_figures(report: &Report, facts: &Facts, end: i64, out: &mut dyn io::Write) -> io::Result<()> {
    let renders = || report.streams.iter().filter(|stream| stream.kind == Some(Type::Render));
    let observed = |status: Status| -> u64 { renders().map(|stream| stream.count(status)).sum() };
    let late = observed(Status::Late);
    let fullest = report.streams.iter().max_by_key(|stream| stream.peak);
    let peak = figure(facts, "peak_in_flight", fullest.map_or(0, |stream| stream.peak.into()));
    let pool = fullest.map_or(0, |stream| stream.slots);
    let worst = report.lateness.worst.map_or(String::new(), |(by, _)| format!("by {} at most", millis(by)));
    let resets = report.reset_count;
    let figures = [
        ("Length", duration(end), "of master time".to_owned()),
        ("Presented", grouped(figure(facts, "presented", observed(Status::Presented) + late)), "events".into()),
        ("Late", grouped(figure(facts, "late", late)), worst),
        ("Rejected", grouped(figure(facts, "rejected", observed(Status::Rejected))), String::new()),
        ("Discarded", grouped(figure(facts, "discarded", observed(Status::Discarded))), "by STOP".into()),
        ("Peak in flight", grouped(peak), format!("of {}", count(pool.into(), "slot"))),
        ("Resets", grouped(resets), String::new()),
        ("Clients", grouped(report.clients), String::new()),
    ];
    writeln!(out, "<dl class=\"figures\">")?;
    for (label, value, of) in figures {
        writeln!(out, "<div><dt>{label}</dt><dd><b>{value}</b> <small>{of}</small></dd></div>")?;
    }
    writeln!(out, "</dl>")
}

/// What stands in no figure.
fn write_facts(report: &Report, facts: &Facts, left: &[u32], out: &mut dyn io::Write) -> io::Result<()> {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for (label, value) in [("Clock", &facts.clock), ("Bank", &facts.bank)] {
        if !value.is_empty() {
            lines.push((label, Text(value).to_string()));
        }
    }
    let audio = &report.audio;
    if audio.blocks > 0 {
        let seconds = duration((audio.total as f64 / f64::from(crate::SAMPLE_RATE) * 1e7) as i64);
        let clipped =
            if audio.clipped == 0 { String::new() } else { format!(", {} clipped", count(audio.clipped, "sample")) };
        let voices = count(audio.most_voices as u64, "voice");
        lines.push(("Audio", format!("{seconds}, peak {}{clipped}, {voices} at most", audio.peak_level())));
    }
    if !report.resets.is_empty() {
        let times: Vec<String> = report.resets.iter().map(|time| duration(*time)).collect();
        let more = if report.reset_count > times.len() as u64 { ", ..." } else { "" };
        lines.push(("Resets at", times.join(", ") + more));
    }
    let counts = [
        (report.maps, "map"),
        (report.unmaps, "unmap"),
        (report.commands, "command"),
        (report.interrupts, "interrupt"),
        (report.received, "reception of MIDI input"),
    ];
    let parts: Vec<String> =
        counts.iter().filter(|(number, _)| *number > 0).map(|(number, noun)| count(*number, noun)).collect();
    if !parts.is_empty() {
        lines.push(("Observed", parts.join(", ").replace("reception of MIDI inputs", "receptions of MIDI input")));
    }
    let left: u32 = left.iter().sum();
    if left > 0 {
        lines.push(("At the end", format!("{} still in flight", count(left.into(), "slot"))));
    }
    let strange = report.streams.iter().map(|stream| stream.strange).sum::<u64>();
    if strange + report.foreign > 0 {
        let text = format!(
            "{} of slots that cannot be, {} of streams that a card does not have",
            count(strange, "observation"),
            grouped(report.foreign),
        );
        lines.push(("Left out", text));
    }
    writeln!(out, "<dl class=\"more\">")?;
    for (label, value) in lines {
        writeln!(out, "<div><dt>{label}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(out, "</dl>")
}

fn write_streams(report: &Report, left: &[u32], out: &mut dyn io::Write) -> io::Result<()> {
    let seen = |stream: &Stream| stream.kind.is_some() || stream.submissions > 0 || stream.changed > 0;
    let streams: Vec<(usize, &Stream)> = report.streams.iter().enumerate().filter(|(_, stream)| seen(stream)).collect();
    writeln!(out, "<h3>Streams</h3>")?;
    if streams.is_empty() {
        return writeln!(out, "<p>No stream of the {STREAMS} was opened.</p>");
    }
    writeln!(
        out,
        "<p class=\"aside\">Here submissions are counted, as their completions say: a chain is one. The figures above \
         count messages, if the card's counters are known.</p>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Streams\"><table class=\"streams\"><thead><tr>\
         <th scope=\"col\" class=\"n\">Stream</th><th scope=\"col\">Kind</th><th scope=\"col\" class=\"n\">Slots</th>\
         <th scope=\"col\" class=\"n\">Peak</th><th scope=\"col\" class=\"n\">Fetched</th>\
         <th scope=\"col\" class=\"n\">Presented</th><th scope=\"col\" class=\"n\">Late</th>\
         <th scope=\"col\" class=\"n\">Rejected</th><th scope=\"col\" class=\"n\">Discarded</th>\
         <th scope=\"col\" class=\"n\">At the end</th></tr></thead><tbody>"
    )?;
    for (number, stream) in &streams {
        let captures = matches!(stream.kind, Some(Type::Capture { .. } | Type::WaveSink));
        let presented = stream.count(Status::Presented) + stream.count(Status::Late);
        let filled = if captures { " <small>filled</small>" } else { "" };
        write!(
            out,
            "<tr><th scope=\"row\" class=\"n\">{number}</th><td>{}</td><td class=\"n\">{}</td>",
            stream.kind(),
            grouped(stream.slots.into()),
        )?;
        write!(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td>", stream.peak, grouped(stream.submissions))?;
        write!(out, "<td class=\"n\">{}{filled}</td>", grouped(presented))?;
        for status in [Status::Late, Status::Rejected, Status::Discarded] {
            write!(out, "<td class=\"n\">{}</td>", grouped(stream.count(status)))?;
        }
        let left = left.get(*number).copied().unwrap_or(0);
        writeln!(out, "<td class=\"n\">{left}</td></tr>")?;
    }
    writeln!(out, "</tbody></table></div>\n<dl class=\"more\">")?;
    for (number, stream) in streams {
        writeln!(out, "<div><dt>Stream {number}</dt><dd>{}</dd></div>", states(stream))?;
    }
    writeln!(out, "</dl>")
}

/// The states that a stream went through, with their times.
fn states(stream: &Stream) -> String {
    let one = |(time, state): &(i64, Option<State>)| {
        format!("<span class=\"state\">{} <small>{}</small></span>", state_name(*state), duration(*time))
    };
    let mut text = stream.told.iter().map(one).collect::<Vec<_>>().join(" \u{2192} ");
    let more = stream.changed - stream.told.len() as u64;
    if more > 0 {
        text += &format!(" \u{2192} {} more", grouped(more));
    }
    if stream.refused > 0 {
        text += &format!("; {} refused", count(stream.refused, "transition"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(checker: serde_json::Value) -> (String, &'static str) {
        let facts = Facts { checker, ..Facts::default() };
        let Outcome { words, class } = outcome(&facts, &super::super::violations::gather(&facts, &Default::default()));
        (words, class)
    }

    fn broken(severity: &str, count: u64, allowed: Option<&str>) -> serde_json::Value {
        json!({ "name": severity, "severity": severity, "count": count, "allowed": allowed })
    }

    #[test]
    fn the_outcome_says_the_worst_first() {
        assert_eq!(said(json!(null)), ("not checked".into(), "unknown"));
        assert_eq!(said(json!({ "violations": [] })), ("no rule was broken".into(), "good"));
        let some = json!({ "violations": [broken("note", 3, None), broken("error", 1, None)] });
        assert_eq!(said(some), ("1 error, 3 notes".into(), "error"));
        let allowed = json!({ "violations": [broken("error", 9, Some("so be it"))] });
        assert_eq!(said(allowed), ("no rule was broken but one that is allowed".into(), "good"));
        let many = json!({ "violations": [broken("warning", u64::MAX, None), broken("warning", 5, None)] });
        assert_eq!(said(many).1, "warning");
    }
}
