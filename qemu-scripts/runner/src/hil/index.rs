//! Results as one page: a row a case, with links to its evidence.
//!
//! Fed by [`super::outcome`]; feeds `index.html`, which needs no network and no script.

use super::evidence::PAGE;
use super::outcome::{Finished, Outcome, Results};
use anyhow::Context;
use std::fmt::Write;
use std::path::Path;

/// The file in a folder of results.
pub(crate) const INDEX: &str = "index.html";

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222;background:#fff}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.4em .8em;\
    border-bottom:1px solid #ddd}.FAILED,.ERROR{color:#b00020;font-weight:600}.passed{color:#1b7a3d}\
    pre{margin:.3em 0;white-space:pre-wrap;background:#f4f4f4;padding:.5em}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222}\
    td,th{border-color:#333}.passed{color:#6fcf97}.FAILED,.ERROR{color:#ff8a80}a{color:#8ab4f8}}";

/// Writes the page into a folder of results.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let mut page = String::new();
    // A string takes all that is written to it.
    let _ = build(&mut page, results);
    let path = folder.join(INDEX);
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn build(page: &mut String, results: &Results) -> std::fmt::Result {
    write!(page, "<!doctype html><html lang=en><meta charset=utf-8><title>Scenarios</title><style>{STYLE}</style>")?;
    let counts = [Outcome::Passed, Outcome::Failed, Outcome::Error, Outcome::Quarantined, Outcome::NotRun];
    let counts = counts.map(|outcome| (results.count(outcome), outcome.name()));
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
    let shard = results.shard.as_ref().map(|shard| format!(", shard {shard}")).unwrap_or_default();
    write!(page, "<h1>Scenarios</h1><p>{}{shard}</p><table>", counts.join(", "))?;
    page.push_str("<tr><th>case<th>outcome<th>host<th>card<th>why, and what is kept</tr>");
    // What did not pass is what people come for.
    let (passed, others): (Vec<_>, Vec<_>) = results.cases.iter().partition(|case| case.outcome == Outcome::Passed);
    others.into_iter().chain(passed).try_for_each(|case| row(page, case))?;
    page.push_str("</table></html>\n");
    Ok(())
}

fn row(page: &mut String, case: &Finished) -> std::fmt::Result {
    let (name, outcome) = (escaped(&case.name), case.outcome.name());
    write!(page, "<tr><td>{name}<td class=\"{outcome}\">{outcome}")?;
    write!(page, "<td>{:.1} s<td>{:.1} s<td>", case.seconds, case.card_seconds)?;
    for reason in &case.reasons {
        write!(page, "<div>{}</div>", escaped(reason))?;
    }
    if !case.serial.is_empty() {
        write!(page, "<pre>{}</pre>", escaped(&case.serial.join("\n")))?;
    }
    let (pages, files): (Vec<_>, Vec<_>) = case.evidence.iter().partition(|file| file.ends_with(PAGE));
    for file in pages.into_iter().chain(files) {
        let label = file.strip_prefix(case.name.as_str()).unwrap_or(file).trim_start_matches('/');
        let label = label.replace(PAGE, "the run as a page");
        write!(page, "<a href=\"{}\">{}</a> ", link(file), escaped(&label))?;
    }
    page.push_str("</tr>\n");
    Ok(())
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A path as the address of a link.
fn link(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,=/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}
