//! A chart over the time of the run: a picture that stretches to the page's width, and what is around it. Lines and
//! areas are SVG; the words around them are HTML, so that they keep their size.
//!
//! Fed by the charts, each with its own picture.

use super::html::{Text, anchor, count, duration};
use super::marks::Marks;
use super::series::Axis;
use std::fmt::Write as _;
use std::io;

/// Places above a chart at which marks have a sign of their own: what is closer together shares one.
const PLACES: usize = 80;

/// What is around a picture.
pub(super) struct Chart<'a> {
    pub(super) id: &'a str,
    pub(super) title: String,
    /// For who does not see it: what it shows, and its main figures.
    pub(super) description: String,
    /// Of the picture, in its own units, and in pixels of the page.
    pub(super) height: u32,
    pub(super) pixels: u32,
    /// Labels at its side: parts of its height from the top, and words.
    pub(super) labels: Vec<(f64, String)>,
    /// For who points at it: names, units, and values by column.
    pub(super) values: Vec<(&'static str, &'static str, Vec<Option<f64>>)>,
    /// Signs and words; the signs are classes of the style sheet.
    pub(super) legend: Vec<(&'static str, String)>,
    /// Whose violations are marked: a bit for each stream.
    pub(super) streams: u32,
}

impl Chart<'_> {
    /// Writes it. `picture` is SVG, in units of a column to the right and of `height` from the top; `below` is HTML.
    pub(super) fn write(
        &self,
        axis: Axis,
        marks: &Marks,
        picture: &str,
        below: &str,
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        let Self { id, title, description, height, pixels, .. } = self;
        write!(
            out,
            "<figure class=\"chart\" id=\"{id}\" data-width=\"{}\" data-columns=\"{}\" data-values='{}'>\n\
             <figcaption><b>{}</b> <output class=\"script-only\"></output></figcaption>\n",
            axis.width,
            axis.columns,
            self.values(),
            Text(title),
        )?;
        writeln!(out, "<div class=\"lane\">{}</div>", signs(axis, marks, self.streams))?;
        write!(
            out,
            "<div class=\"plot\" style=\"height:{pixels}px\"><svg role=\"img\" aria-labelledby=\"{id}-t {id}-d\" \
             viewBox=\"0 0 {} {height}\" preserveAspectRatio=\"none\"><title id=\"{id}-t\">{}</title>\
             <desc id=\"{id}-d\">{}</desc>\n{picture}{}</svg>",
            axis.columns,
            Text(title),
            Text(description),
            lines(marks, self.streams, *height),
        )?;
        for (top, label) in &self.labels {
            write!(out, "<span class=\"y\" style=\"top:{:.1}%\">{}</span>", top * 100.0, Text(label))?;
        }
        writeln!(out, "<i class=\"cursor\"></i></div>{below}")?;
        writeln!(out, "<div class=\"axis\" aria-hidden=\"true\">{}</div>", ticks(axis))?;
        write!(out, "<p class=\"legend\">")?;
        let always = [("sign-violation", "violation".to_owned()), ("sign-reset", "reset".to_owned())];
        for (sign, words) in self.legend.iter().chain(&always) {
            write!(out, "<span><i class=\"{sign}\"></i>{}</span> ", Text(words))?;
        }
        writeln!(out, "</p>\n</figure>")
    }

    /// As JSON, in which there is nothing that ends an attribute.
    fn values(&self) -> String {
        let one = |(name, unit, values): &(&str, &str, Vec<Option<f64>>)| {
            let mut text = format!("[\"{name}\",\"{unit}\",[");
            for (column, value) in values.iter().enumerate() {
                let comma = if column == 0 { "" } else { "," };
                // A string takes all that is written to it.
                let _ = match value {
                    Some(value) => write!(text, "{comma}{}", (value * 1000.0).round() / 1000.0),
                    None => write!(text, "{comma}null"),
                };
            }
            text + "]]"
        };
        format!("[{}]", self.values.iter().map(one).collect::<Vec<_>>().join(","))
    }
}

/// A path, of pieces that a number formats well.
#[derive(Default)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn go(&mut self, command: char, numbers: &[f64]) {
        self.0.push(command);
        for (place, number) in numbers.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            // A string takes all that is written to it.
            let _ = write!(self.0, "{space}{}", (number * 100.0).round() / 100.0);
        }
    }

    pub(super) fn element(&self, class: &str) -> String {
        if self.0.is_empty() { String::new() } else { format!("<path class=\"{class}\" d=\"{}\"/>\n", self.0) }
    }
}

/// Lines through a picture, where something was marked.
fn lines(marks: &Marks, streams: u32, height: u32) -> String {
    let (mut violations, mut resets) = (Path::default(), Path::default());
    for (column, mark) in marks.columns.cells().iter().enumerate() {
        let x = column as f64 + 0.5;
        if mark.violations > 0 && mark.streams & streams != 0 {
            violations.go('M', &[x, 0.0]);
            violations.go('V', &[height.into()]);
        }
        if mark.resets > 0 {
            resets.go('M', &[x, 0.0]);
            resets.go('V', &[height.into()]);
        }
    }
    resets.element("m-reset") + &violations.element("m-violation")
}

/// The signs above a picture.
fn signs(axis: Axis, marks: &Marks, streams: u32) -> String {
    let mut text = String::new();
    let place = |column: usize| column * PLACES / axis.columns;
    let columns: Vec<_> = marks.columns.cells().iter().enumerate().collect();
    for group in columns.chunk_by(|(one, _), (other, _)| place(*one) == place(*other)) {
        let broken = || group.iter().filter(|(_, mark)| mark.violations > 0 && mark.streams & streams != 0);
        let resets: u64 = group.iter().map(|(_, mark)| mark.resets).sum();
        let at = |column: usize| (column as f64 + 0.5) / axis.columns as f64 * 100.0;
        let when = |column: usize| duration((column as i64).saturating_mul(axis.width));
        if let Some((column, _)) = group.iter().find(|(_, mark)| mark.resets > 0) {
            let title = format!("{} at {}", count(resets, "reset"), when(*column));
            // A string takes all that is written to it.
            let _ = write!(text, "<span class=\"r\" style=\"left:{:.3}%\" title=\"{title}\">R</span>", at(*column));
        }
        if let Some((column, mark)) = broken().next() {
            let rule = mark.rule.unwrap_or_default();
            let number: u64 = broken().map(|(_, mark)| mark.violations).sum();
            let title = format!("{}, the first {rule}, at {}", count(number, "violation"), when(*column));
            let title = Text(&title);
            let _ = write!(
                text,
                "<a class=\"v\" style=\"left:{:.3}%\" href=\"#{}\" title=\"{title}\" \
                 aria-label=\"{title}\">\u{25bc}</a>",
                at(*column),
                anchor(rule),
            );
        }
    }
    text
}

/// Labels of the time axis, at round times.
fn ticks(axis: Axis) -> String {
    let end = axis.end() as f64 / 1e7;
    let mut step = 10_f64.powf((end / 8.0).log10().floor());
    for more in [2.0, 2.5, 2.0] {
        if end / step > 8.0 {
            step *= more;
        }
    }
    if step > 30.0 {
        // Minutes and hours have steps of their own.
        let steps = [60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0];
        step = steps.into_iter().find(|step| end / step <= 8.0).unwrap_or(step);
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let mut text = String::new();
    for number in 0..=(end / step).min(10.0) as u32 {
        let time = f64::from(number) * step;
        let label = match (step >= 60.0, time as u64) {
            (false, _) => format!("{time:.decimals$} s"),
            (true, whole) if whole < 360_000 => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
            (true, whole) => format!("{whole} s"),
        };
        let left = axis.percent((time * 1e7) as i64);
        // One at the end would stand out to the right.
        let class = if left > 96.0 { " class=\"end\"" } else { "" };
        // A string takes all that is written to it.
        let _ = write!(text, "<span{class} style=\"left:{left:.3}%\">{label}</span>");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_of_any_length_has_some_round_labels() {
        for length in [0, 1, 10_000, 123_456_789, 3_000_000_000, 36_000_000_000, 5_000_000_000_000, i64::MAX] {
            let text = ticks(Axis::new(length));
            let labels = text.matches("<span").count();
            assert!((2..=11).contains(&labels), "{length}: {text}");
        }
        assert!(ticks(Axis::new(123_456_789)).contains(">2 s</span>"));
        assert!(ticks(Axis::new(36_000_000_000)).contains(">0:10:00</span>"));
    }

    #[test]
    fn signs_are_few_however_many_marks() {
        let (mut marks, axis) = (Marks::default(), Axis::new(1499 * 10_000));
        for column in 0..1500 {
            marks.violation(column * 10_000, "<\"'>", Some(1));
            marks.reset(column * 10_000);
        }
        let text = signs(axis, &marks, 2);
        assert_eq!((text.matches("class=\"v\"").count(), text.matches("class=\"r\"").count()), (PLACES, PLACES));
        assert!(text.contains("&lt;&quot;&#39;&gt;") && !text.contains("<\"'"));
        assert!(!signs(axis, &marks, 1).contains("class=\"v\""), "another stream has no sign of it");
    }
}
