//! The charts: slots in flight and occupancy of each stream, lateness, audio, all over the same time.
//!
//! Fed by what was gathered; feeds the page.

use super::chart::{Chart, Path};
use super::html::{count, duration, grouped, millis};
use super::lateness::{Lateness, class_names};
use super::marks::Marks;
use super::series::Axis;
use super::stream::Stream;
use super::{Facts, Report, png};
use dmus_interface::regs::stream::State;
use serde_json::Value;
use std::io;

/// Height of the pictures, in their own units.
const HEIGHT: u32 = 200;

/// Of the occupancy, which is one colour for light and dark pages.
const BLUE: [u8; 3] = [0x2B, 0x8C, 0xC4];

/// The sections of slots, lateness and audio.
pub(super) fn write(report: &mut Report, facts: &Facts, axis: Axis, out: &mut dyn io::Write) -> io::Result<()> {
    report.marks.columns.widen(axis.width);
    writeln!(out, "<section id=\"slots\" aria-labelledby=\"h-slots\">\n<h2 id=\"h-slots\">Slots over time</h2>")?;
    writeln!(
        out,
        "<p>A slot is the card's from its fetch until its completion. A column is {} of the run; all charts have the \
         same time axis.</p>",
        millis(axis.width),
    )?;
    let mut any = false;
    for (number, stream) in report.streams.iter_mut().enumerate() {
        if stream.opened > 0 || stream.submissions > 0 {
            any = true;
            writeln!(out, "<h3>Stream {number}, {}</h3>", stream.kind())?;
            in_flight(number, stream, axis, &report.marks, out)?;
            occupancy(number, stream, axis, &report.marks, out)?;
        }
    }
    if !any {
        writeln!(out, "<p>No stream was opened.</p>")?;
    }
    writeln!(out, "</section>")?;
    lateness(report, facts, axis, out)?;
    waveform(report, axis, out)
}

fn in_flight(number: usize, stream: &mut Stream, axis: Axis, marks: &Marks, out: &mut dyn io::Write) -> io::Result<()> {
    stream.level.widen(axis.width);
    stream.changes.widen(axis.width);
    // A pool that was hardly used would press the curve to the bottom.
    let pool_fits = stream.slots <= stream.peak.saturating_mul(8).max(8);
    let top =
        f64::from(if pool_fits { stream.slots.max(stream.peak) } else { stream.peak.saturating_mul(5) / 4 }.max(1));
    let height = f64::from(HEIGHT);
    let y = |level: u32| height - f64::from(level) / top * (height - 6.0);
    let (mut area, mut last, mut values) = (Path::default(), 0, Vec::new());
    area.go('M', &[0.0, height]);
    for column in 0..axis.columns {
        let seen = stream.level.cells().get(column).and_then(|level| level.seen);
        let most = seen.map_or(last, |(most, _)| most.max(last));
        area.go('V', &[y(most)]);
        area.go('H', &[column as f64 + 1.0]);
        last = seen.map_or(last, |(_, last)| last);
        values.push(Some(most.into()));
    }
    area.go('V', &[height]);
    area.go('Z', &[]);
    let mut labels = vec![(1.0, "0".to_owned()), (y(stream.peak) / height, grouped(stream.peak.into()))];
    let mut picture = area.element("area");
    let pool = if pool_fits {
        let mut line = Path::default();
        line.go('M', &[0.0, y(stream.slots)]);
        line.go('H', &[axis.columns as f64]);
        picture += &line.element("pool");
        // Labels that would cover each other are one.
        if y(stream.peak) - y(stream.slots) > height / 8.0 {
            labels.push((y(stream.slots) / height, grouped(stream.slots.into())));
        }
        format!("pool of {}", count(stream.slots.into(), "slot"))
    } else {
        format!("the pool of {} is far above", count(stream.slots.into(), "slot"))
    };
    let chart = Chart {
        id: &format!("flight-{number}"),
        title: format!("Slots in flight, stream {number}"),
        description: format!("At most {} of a {pool}, over {}.", stream.peak, duration(axis.end())),
        height: HEIGHT,
        pixels: 110,
        labels,
        values: vec![("at most", " in flight", values)],
        legend: vec![
            ("sign-area", "most in flight in a column".into()),
            (if pool_fits { "sign-pool" } else { "sign-none" }, pool),
            ("sign-run", "RUN".into()),
            ("sign-pause", "PAUSE or ACQUIRE".into()),
            ("sign-stop", "STOP".into()),
        ],
        streams: 1 << number,
    };
    chart.write(axis, marks, &picture, &states(stream, axis), out)
}

/// The states of a stream as a strip.
fn states(stream: &Stream, axis: Axis) -> String {
    let mut paths = [("run", Path::default()), ("pause", Path::default()), ("stop", Path::default())];
    let mut state = None;
    for column in 0..axis.columns {
        state = stream.changes.cells().get(column).and_then(|changes| changes.last).unwrap_or(state);
        let path = match state {
            Some(State::Run) => 0,
            Some(State::Pause | State::Acquire) => 1,
            Some(State::Stop) => 2,
            None => continue,
        };
        paths[path].1.go('M', &[column as f64, 0.0]);
        paths[path].1.go('h', &[1.0]);
        paths[path].1.go('v', &[[10.0, 10.0, 3.0][path]]);
        paths[path].1.go('h', &[-1.0]);
        paths[path].1.go('z', &[]);
    }
    let paths: String = paths.iter().map(|(class, path)| path.element(class)).collect();
    format!(
        "<div class=\"strip\"><svg aria-hidden=\"true\" viewBox=\"0 0 {} 10\" \
         preserveAspectRatio=\"none\">{paths}</svg></div>",
        axis.columns
    )
}

fn occupancy(number: usize, stream: &mut Stream, axis: Axis, marks: &Marks, out: &mut dyn io::Write) -> io::Result<()> {
    let slots = stream.slots.clamp(1, dmus_interface::regs::stream::MAX_SLOTS);
    let rows = stream.occupancy.rows(slots).max(1);
    let merged = stream.occupancy.merged();
    let levels = stream.occupancy.levels(slots, axis.width, axis.columns, png::LEVELS - 1);
    // Enlarged here, where rows stay sharp; browsers smooth what they enlarge.
    let scale = (96 / rows).clamp(1, 12);
    let pixels = rows * scale;
    let enlarged: Vec<u8> =
        levels.chunks_exact(axis.columns).flat_map(|row| std::iter::repeat_n(row, scale)).flatten().copied().collect();
    let file = png::base64(&png::file(axis.columns, &enlarged, BLUE));
    let each = if merged == 1 { "a row is a slot".to_owned() } else { format!("a row is {merged} slots") };
    let picture = format!(
        "<image width=\"{}\" height=\"{pixels}\" preserveAspectRatio=\"none\" \
         href=\"data:image/png;base64,{file}\"/>\n",
        axis.columns,
    );
    let chart = Chart {
        id: &format!("occupancy-{number}"),
        title: format!("Which slots were the card's, stream {number}"),
        description: format!("A picture of {rows} rows by {} columns of time; {each}.", axis.columns),
        height: pixels as u32,
        pixels: pixels.clamp(48, 256) as u32,
        labels: vec![(0.0, "slot 0".into()), (1.0, (rows as u32 * merged - 1).min(slots.max(1) - 1).to_string())],
        values: Vec::new(),
        legend: vec![(
            "sign-taken",
            format!("the card's, the longer the stronger; {each}, a column is {}", millis(axis.width)),
        )],
        streams: 1 << number,
    };
    chart.write(axis, marks, &picture, "", out)
}

fn lateness(report: &mut Report, facts: &Facts, axis: Axis, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "<section id=\"lateness\" aria-labelledby=\"h-lateness\">\n<h2 id=\"h-lateness\">Lateness</h2>")?;
    histogram(&report.lateness, &facts.counters, out)?;
    report.lateness.columns.widen(axis.width);
    over_time(&report.lateness, axis, &report.marks, out)?;
    writeln!(out, "</section>")
}

/// By the classes of the counters, and with their numbers if they are there.
fn histogram(lateness: &Lateness, counters: &Value, out: &mut dyn io::Write) -> io::Result<()> {
    let counted: Option<Vec<u64>> = counters["late_by"]
        .as_object()
        .map(|classes| classes.values().map(|value| value.as_u64().unwrap_or(0)).collect());
    let counted = counted.filter(|counted| counted.len() == lateness.classes.len());
    let (classes, unit) = counted.map_or((lateness.classes.to_vec(), "submissions"), |counted| (counted, "messages"));
    let late = classes.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let on_time = match (counters["presented"].as_u64(), unit) {
        (Some(presented), "messages") => presented.saturating_sub(late),
        _ => lateness.on_time,
    };
    match lateness.worst {
        _ if late == 0 => writeln!(out, "<p>All {} {unit} that were presented were on time.</p>", grouped(on_time))?,
        Some((by, time)) => writeln!(
            out,
            "<p>{} {unit} were on time, {} were late; the worst by {}, at {} of the run.</p>",
            grouped(on_time),
            grouped(late),
            millis(by),
            duration(time),
        )?,
        None => writeln!(out, "<p>{} {unit} were on time, {} were late.</p>", grouped(on_time), grouped(late))?,
    }
    writeln!(
        out,
        "<table class=\"histogram\"><caption>Late {unit}, by how late</caption><thead><tr>\
         <th scope=\"col\">Late by</th><th scope=\"col\" class=\"n\">{}</th>\
         <th scope=\"col\"><span class=\"unseen\">Share</span></th></tr></thead><tbody>",
        if unit == "messages" { "Messages" } else { "Submissions" },
    )?;
    let most = classes.iter().max().copied().unwrap_or(0).max(1) as f64;
    for (name, number) in class_names().zip(&classes) {
        let share = *number as f64 / most * 100.0;
        writeln!(
            out,
            "<tr><th scope=\"row\">{name}</th><td class=\"n\">{}</td>\
             <td class=\"bar\"><i style=\"width:{share:.1}%\"></i></td></tr>",
            grouped(*number),
        )?;
    }
    writeln!(out, "</tbody></table>")
}

/// What was played against when it was due: above the middle how far ahead the card had events, below how late they
/// were presented.
fn over_time(lateness: &Lateness, axis: Axis, marks: &Marks, out: &mut dyn io::Write) -> io::Result<()> {
    let columns = lateness.columns.cells();
    let far = |range: Option<(i64, i64)>| range.map_or(0, |(least, most)| least.saturating_abs().max(most));
    let furthest = columns.iter().map(|column| far(column.ahead).max(far(column.late_by))).max().unwrap_or(0);
    let highest = (furthest as f64 / 1e4).max(50.0);
    let middle = f64::from(HEIGHT) / 2.0;
    // Even steps for 1, 10, 100 ms: what matters is small.
    let part = |millis: f64| (1.0 + millis.abs()).log10() / (1.0 + highest).log10() * millis.signum();
    let y = |ahead: i64| middle - part(ahead as f64 / 1e4) * (middle - 4.0);
    let [mut on_time, mut late, mut ahead] = [Path::default(), Path::default(), Path::default()];
    for (column, cell) in columns.iter().enumerate() {
        let x = column as f64 + 0.5;
        if let Some((least, most)) = cell.ahead {
            ahead.go('M', &[x, y(most)]);
            ahead.go('V', &[y(least)]);
        }
        if cell.on_time > 0 {
            on_time.go('M', &[x - 0.5, middle]);
            on_time.go('h', &[1.0]);
        }
        if let Some((least, most)) = cell.late_by {
            late.go('M', &[x, y(least.saturating_neg())]);
            late.go('V', &[y(most.saturating_neg())]);
        }
    }
    let mut grid = Path::default();
    let mut labels = vec![(0.5, "due".to_owned())];
    for millis in [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6].into_iter().filter(|millis| *millis <= highest) {
        for side in [millis, -millis] {
            let at = middle - part(side) * (middle - 4.0);
            grid.go('M', &[0.0, at]);
            grid.go('H', &[axis.columns as f64]);
            // Others would cover those that are there.
            if labels.iter().all(|(other, _)| (other - at / f64::from(HEIGHT)).abs() > 0.075) {
                let label = if millis < 1e3 { format!("{millis} ms") } else { format!("{} s", millis / 1e3) };
                labels.push((at / f64::from(HEIGHT), label));
            }
        }
    }
    let picture = grid.element("grid") + &ahead.element("ahead") + &on_time.element("on-time") + &late.element("late");
    let numbers = |pick: fn(&super::lateness::Column) -> Option<f64>| columns.iter().map(pick).collect();
    let worst =
        lateness.worst.map_or("nothing was late".into(), |(by, _)| format!("the worst was {} late", millis(by)));
    let chart = Chart {
        id: "late",
        title: "Played against due".into(),
        description: format!(
            "How far ahead of their time events were fetched, and how late they were presented; {worst}."
        ),
        height: HEIGHT,
        pixels: 190,
        labels,
        values: vec![
            ("ahead at least", " ms", numbers(|column| column.ahead.map(|(least, _)| least as f64 / 1e4))),
            ("on time", "", numbers(|column| (column.on_time > 0).then_some(column.on_time as f64))),
            ("late", "", numbers(|column| (column.late > 0).then_some(column.late as f64))),
            ("late at most", " ms", numbers(|column| column.late_by.map(|(_, most)| most as f64 / 1e4))),
        ],
        legend: vec![
            ("sign-ahead", "fetched so far ahead of its time (up)".into()),
            ("sign-on-time", "presented on time".into()),
            ("sign-late", "presented so late (down)".into()),
        ],
        streams: u32::MAX,
    };
    chart.write(axis, marks, &picture, "", out)
}

fn waveform(report: &mut Report, axis: Axis, out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, "<section id=\"audio\" aria-labelledby=\"h-audio\">\n<h2 id=\"h-audio\">Audio</h2>")?;
    let audio = &mut report.audio;
    if audio.blocks == 0 {
        return writeln!(out, "<p>The card rendered no audio.</p>\n</section>");
    }
    audio.waves.widen(axis.width);
    let quiet = audio.peak > 0 && audio.peak < 8192;
    let full = if quiet { f64::from(audio.peak) } else { 32_768.0 };
    let quarter = f64::from(HEIGHT) / 4.0;
    let mut picture = String::new();
    let mut grid = Path::default();
    for channel in 0..2 {
        let middle = quarter * (1.0 + 2.0 * channel as f64);
        let y = |sample: i16| middle - f64::from(sample) / full * (quarter - 3.0);
        grid.go('M', &[0.0, middle]);
        grid.go('H', &[axis.columns as f64]);
        let range = |wave: &super::audio::Wave| wave.ranges.map(|ranges| ranges[channel]);
        let columns: Vec<(usize, Option<(i16, i16)>)> = audio.waves.cells().iter().map(range).enumerate().collect();
        let mut path = Path::default();
        for piece in columns.chunk_by(|(_, one), (_, other)| one.is_some() == other.is_some()) {
            outline(&mut path, piece, y);
        }
        picture += &path.element("wave");
    }
    let [mut late, mut changes] = [Path::default(), Path::default()];
    for (column, mark) in report.marks.columns.cells().iter().enumerate() {
        let x = column as f64 + 0.5;
        if mark.late > 0 {
            late.go('M', &[x, f64::from(HEIGHT)]);
            late.go('v', &[-14.0]);
        }
        if mark.changes > 0 {
            changes.go('M', &[x, 0.0]);
            changes.go('v', &[14.0]);
        }
    }
    picture += &(grid.element("grid") + &late.element("late-tick") + &changes.element("change-tick"));
    let scaled = if quiet { format!(", enlarged {:.0} times", 32_768.0 / full) } else { String::new() };
    let peaks = |channel: usize| {
        let peak = |wave: &super::audio::Wave| {
            let peak = |(low, high): (i16, i16)| low.unsigned_abs().max(high.unsigned_abs());
            wave.ranges.map(|ranges| f64::from(peak(ranges[channel])) / 327.68)
        };
        audio.waves.cells().iter().map(peak).collect()
    };
    let chart = Chart {
        id: "wave",
        title: format!("Waveform, both channels{scaled}"),
        description: format!(
            "Lowest and highest samples of {} of audio, left above right; the peak is {}.",
            duration((audio.total as f64 / f64::from(crate::SAMPLE_RATE) * 1e7) as i64),
            audio.peak_level(),
        ),
        height: HEIGHT,
        pixels: 200,
        labels: vec![(0.25, "left".into()), (0.75, "right".into())],
        values: vec![("left", " %", peaks(0)), ("right", " % of full scale", peaks(1))],
        legend: vec![
            ("sign-wave", "lowest to highest sample".into()),
            ("sign-change", "change of state".into()),
            ("sign-late-tick", "late events".into()),
        ],
        streams: u32::MAX,
    };
    chart.write(axis, &report.marks, &picture, "", out)?;
    writeln!(out, "</section>")
}

/// Columns that follow each other, along their highest samples, and back along their lowest ones.
fn outline(path: &mut Path, piece: &[(usize, Option<(i16, i16)>)], y: impl Fn(i16) -> f64) {
    let mut columns = piece.iter().filter_map(|(column, range)| range.map(|(low, high)| (*column as f64, low, high)));
    let Some((first, _, high)) = columns.clone().next() else {
        return;
    };
    path.go('M', &[first, y(high) - 0.3]);
    for (column, _, high) in columns.clone() {
        path.go('V', &[y(high) - 0.3]);
        path.go('H', &[column + 1.0]);
    }
    while let Some((column, low, _)) = columns.next_back() {
        path.go('V', &[y(low) + 0.3]);
        path.go('H', &[column]);
    }
    path.go('Z', &[]);
}
