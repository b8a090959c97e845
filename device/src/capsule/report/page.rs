//! The page as a whole: its head, its sections in their order, its end.
//!
//! Fed by the report with all that it has gathered.

use super::html::{Text, count, grouped};
use super::recent::Kept;
use super::series::Axis;
use super::violations::Violation;
use super::words::{topic, words};
use super::{Facts, Report, charts, summary, violations};
use crate::check::seconds;
use dmus_interface::time::RefTime;
use std::io;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Of [`SCRIPT`], so that a page runs no other script, whatever a recording has in it. A browser's console tells the
/// new one when the script was changed.
const SCRIPT_HASH: &str = "sha256-eYRG3wHJcFipepsjyNb+EBMLCk8dTPk3YkeE9eSO5tw=";

/// See [`Report::write`].
pub(super) fn write(mut report: Report, facts: &Facts, out: &mut dyn io::Write) -> io::Result<()> {
    let end = report.time.now().max(if report.audio.blocks == 0 { 0 } else { report.audio.end() });
    let now = report.time.now();
    let left: Vec<u32> = report.streams.iter_mut().map(|stream| stream.end(now)).collect();
    let axis = Axis::new(end);
    let broken = violations::gather(facts, &report.found);
    head(facts, &broken, out)?;
    summary::write(&report, facts, &broken, end, &left, out)?;
    violations::write(&report, &broken, out)?;
    charts::write(&mut report, facts, axis, out)?;
    last(&report, out)?;
    foot(&report, out)
}

fn head(facts: &Facts, broken: &[Violation], out: &mut dyn io::Write) -> io::Result<()> {
    let title = if facts.title.is_empty() { "A run" } else { &facts.title };
    let outcome = summary::outcome(facts, broken);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src '{SCRIPT_HASH}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <p class=\"kind\">DirectMusic card, a run</p>\n<h1>{title}</h1>\n\
         <nav aria-label=\"Sections\"><a href=\"#summary\">Summary</a> <a href=\"#violations\">Violations</a> \
         <a href=\"#slots\">Slots</a> <a href=\"#lateness\">Lateness</a> <a href=\"#audio\">Audio</a> \
         <a href=\"#last\">Last observations</a></nav>\n</header>\n<main>\n",
        Text(&outcome.words),
        title = Text(title),
    )
}

/// The last observations.
fn last(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let kept = report.recent.iter();
    write!(
        out,
        "<section id=\"last\" aria-labelledby=\"h-last\">\n<h2 id=\"h-last\">Last observations</h2>\n\
         <p>The last {} before the end of the recording, the newest at the bottom. What repeats itself takes one \
         line.</p>\n<p class=\"filter script-only\"><label>Show lines with <input type=\"search\" id=\"find\" \
         autocomplete=\"off\" placeholder=\"slot 5, audio, ...\"></label> <output id=\"found\"></output></p>\n\
         <div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Last observations\"><table class=\"last\">\n\
         <thead><tr><th scope=\"col\" class=\"n\">Time</th><th scope=\"col\">About</th>\
         <th scope=\"col\">What the card observed</th></tr></thead>\n<tbody>\n",
        count(kept.len() as u64, "observation"),
    )?;
    if kept.len() == 0 {
        writeln!(out, "<tr><td class=\"n\">-</td><td></td><td>Nothing was observed.</td></tr>")?;
    }
    for kept in kept {
        let Kept { first, last, count, .. } = kept;
        write!(
            out,
            "<tr class=\"t-{topic}\"><td class=\"n\">{}</td><td>{topic}</td><td>{}",
            seconds(RefTime(*first)),
            Text(words(kept)),
            topic = topic(&kept.what),
        )?;
        if *count > 1 {
            let times =
                if topic(&kept.what) == "audio" { String::new() } else { format!("{} times, ", grouped(*count)) };
            write!(out, " <span class=\"again\">{times}until {}</span>", seconds(RefTime(*last)))?;
        }
        writeln!(out, "</td></tr>")?;
    }
    writeln!(out, "</tbody></table></div>\n</section>")
}

fn foot(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    write!(
        out,
        "</main>\n<footer><p>Made from {} by dmus-card {}. Times are the card's master clock, from the beginning of \
         the run: where a reset began it anew, they go on.</p></footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        count(report.observations, "observation"),
        env!("CARGO_PKG_VERSION"),
    )
}
