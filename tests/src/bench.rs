//! What a benchmark found: rows of ours beside a peer's, as a table and as JSON, and whether the gates hold.
//!
//! Fed by the benchmarks with counts (callgrind, strace) and times; feeds `qemu-scripts/bench`. Counts are the same on
//! each machine and gate; times depend on who else runs, and never gate.

use anyhow::Context;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a row must reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Ours / peer's is no more than this.
    RatioAtMost(f64),
    /// Ours / peer's is no less than this.
    RatioAtLeast(f64),
    /// Ours is no more than this, whatever the peer has.
    OursAtMost(f64),
    /// Nothing: the row is shown, and gates nothing.
    Shown,
}

/// Which of many times stands for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The smallest.
    Minimum,
    /// A tenth is smaller: what the machine does when left alone.
    P10,
    /// Half is smaller.
    Median,
}

/// Times of both sides, sorted.
#[derive(Clone, Debug)]
struct Times {
    ours: Vec<f64>,
    peer: Vec<f64>,
}

impl Times {
    fn at(&self, quantile: Quantile) -> [f64; 2] {
        let pick = |sorted: &[f64]| {
            let index = match quantile {
                Quantile::Minimum => 0,
                Quantile::P10 => sorted.len() / 10,
                Quantile::Median => sorted.len() / 2,
            };
            sorted.get(index).copied().unwrap_or(f64::NAN)
        };
        [pick(&self.ours), pick(&self.peer)]
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    peer: f64,
    target: Target,
    times: Option<Times>,
}

impl Row {
    /// Something that was counted: a gate, if it has a target.
    pub fn counted(name: impl Into<String>, unit: &'static str, target: Target, [ours, peer]: [f64; 2]) -> Self {
        Self { name: name.into(), unit, ours, peer, target, times: None }
    }

    /// Something that was timed, in interleaved rounds; the quantile is what the target is about. Gates nothing.
    pub fn timed(
        name: impl Into<String>,
        unit: &'static str,
        target: Target,
        quantile: Quantile,
        [mut ours, mut peer]: [Vec<f64>; 2],
    ) -> Self {
        ours.sort_by(f64::total_cmp);
        peer.sort_by(f64::total_cmp);
        let times = Times { ours, peer };
        let [ours, peer] = times.at(quantile);
        Self { name: name.into(), unit, ours, peer, target, times: Some(times) }
    }

    fn ratio(&self) -> f64 {
        self.ours / self.peer
    }

    fn gates(&self) -> bool {
        self.times.is_none() && !matches!(self.target, Target::Shown)
    }

    /// Whether the target is reached, if there is one. A figure that is not a number reaches nothing.
    fn passes(&self) -> Option<bool> {
        match self.target {
            Target::RatioAtMost(most) => Some(self.ratio() <= most),
            Target::RatioAtLeast(least) => Some(self.ratio() >= least),
            Target::OursAtMost(most) => Some(self.ours <= most),
            Target::Shown => None,
        }
    }

    fn json(&self) -> Value {
        let target = match self.target {
            Target::RatioAtMost(target) | Target::RatioAtLeast(target) | Target::OursAtMost(target) => Some(target),
            Target::Shown => None,
        };
        let mut row = json!({
            "name": self.name, "ours": self.ours, "peer": self.peer, "unit": self.unit, "ratio": self.ratio(),
            "target": target, "gate": self.gates(), "pass": self.passes(),
        });
        if let Some(times) = &self.times {
            let quantiles = [("minimum", Quantile::Minimum), ("p10", Quantile::P10), ("median", Quantile::Median)];
            for (name, quantile) in quantiles {
                let [ours, peer] = times.at(quantile);
                row[name] = json!({ "ours": ours, "peer": peer });
            }
        }
        row
    }
}

/// All rows of one subject.
#[derive(Clone, Debug, Default)]
pub struct Report(pub Vec<Row>);

impl Report {
    /// The agreed array: name, ours, peer, unit, ratio, target, gate, pass; rows of times also have minimum, p10 and
    /// median of both. Target and pass are null in rows without a target.
    pub fn json(&self) -> Value {
        self.0.iter().map(Row::json).collect()
    }

    /// Whether every gate holds.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|row| row.passes() != Some(false) || !row.gates())
    }

    /// Prints the table, writes the JSON, and gives the exit status: 1 if a gate misses.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&self, json: Option<&Path>) -> anyhow::Result<ExitCode> {
        println!("{self}");
        if let Some(path) = json {
            let text = format!("{:#}\n", self.json());
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(if self.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|row| row.name.len()).max().unwrap_or(0);
        write!(f, "{:width$} {:>10} {:>10} {:<13} {:>7} {:>9}", "", "ours", "peer", "unit", "ratio", "target")?;
        for row in &self.0 {
            let target = match row.target {
                Target::RatioAtMost(target) => format!("<= {target}"),
                Target::RatioAtLeast(target) => format!(">= {target}"),
                Target::OursAtMost(target) => format!("ours <= {target}"),
                Target::Shown => "-".to_owned(),
            };
            let verdict = match (row.gates(), row.passes()) {
                (_, None) => "shown",
                (true, Some(true)) => "pass",
                (true, Some(false)) => "MISSED",
                (false, Some(true)) => "reached (time)",
                (false, Some(false)) => "not reached (time)",
            };
            let Row { name, ours, peer, unit, .. } = row;
            write!(
                f,
                "\n{name:width$} {ours:>10.2} {peer:>10.2} {unit:<13} {:>7.3} {target:>9}  {verdict}",
                row.ratio()
            )?;
            if let Some(times) = &row.times {
                let [minimum, p10, median] =
                    [Quantile::Minimum, Quantile::P10, Quantile::Median].map(|at| times.at(at));
                let pair = |[ours, peer]: [f64; 2]| format!("{ours:.2} / {peer:.2}");
                write!(f, "\n{:width$}   minimum {}, p10 {}, median {}", "", pair(minimum), pair(p10), pair(median))?;
            }
        }
        Ok(())
    }
}

/// What a benchmark was called with: where the JSON goes, which rows are wanted, and, when it counts for itself under
/// a tool, what (`count WORD...`).
#[derive(Debug, Default)]
pub struct Arguments {
    /// Where the JSON goes.
    pub json: Option<PathBuf>,
    /// What a row's name has to contain.
    pub filter: Option<String>,
    /// Only rows of instructions.
    pub instructions: bool,
    /// An older program that does the same, for rows beside it.
    pub before: Option<PathBuf>,
    /// What follows `count`.
    pub count: Option<Vec<String>>,
}

impl Arguments {
    /// The process's. Cargo's own `--bench` is passed over.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse() -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--bench" => {}
                "--json" => parsed.json = Some(given.next().context("--json wants a file")?.into()),
                "--filter" => parsed.filter = Some(given.next().context("--filter wants a text")?),
                "--before" => parsed.before = Some(given.next().context("--before wants a program")?.into()),
                "--instructions" => parsed.instructions = true,
                "count" => parsed.count = Some(given.by_ref().collect()),
                _ => anyhow::bail!("unknown argument {argument}"),
            }
        }
        Ok(parsed)
    }

    /// Whether a row of that name is to be measured, as far as the filter goes.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter))
    }

    /// For a benchmark that is measured as a whole.
    ///
    /// # Errors
    /// Only some of its rows are wanted.
    pub fn want_all(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.filter.is_none() && !self.instructions, "this is measured as a whole");
        Ok(())
    }
}

/// `valgrind --tool=callgrind`, with its results in `out`: complete it with a program. Threads are counted one by one.
pub fn callgrind(out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind", "--separate-threads=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind
}

/// What callgrind says of the first thread.
fn first_thread(out: &Path) -> anyhow::Result<String> {
    let mut name = out.as_os_str().to_owned();
    name.push("-01");
    std::fs::read_to_string(&name).with_context(|| format!("callgrind left no {}", Path::new(&name).display()))
}

/// Instructions of the first thread that come from source files in a folder, inlined ones too, once the program that
/// [`callgrind`] ran has ended.
///
/// # Errors
/// There is no such file, or it is not as callgrind documents it.
pub fn instructions_in(out: &Path, folder: &str) -> anyhow::Result<u64> {
    let text = first_thread(out)?;
    // A file is named once, and known by its number from then on.
    let mut inside = std::collections::HashMap::new();
    let (mut counts, mut sum, mut lines) = (false, 0, text.lines());
    while let Some(line) = lines.next() {
        if let Some((word, file)) =
            line.split_once('=').filter(|(word, _)| ["fl", "fi", "fe", "cfi", "cfl"].contains(word))
        {
            let (number, name) = file.split_once(' ').unwrap_or((file, ""));
            if !name.is_empty() {
                inside.insert(number, name.contains(folder));
            }
            // The others name the file of what is called next.
            if !word.starts_with('c') {
                counts = *inside.get(number).with_context(|| format!("callgrind does not name {number}"))?;
            }
        } else if line.starts_with("calls=") {
            // What is called has its own lines.
            lines.next();
        } else if counts && line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1).map_or(Ok(0), str::parse::<u64>);
            sum += cost.with_context(|| format!("no cost in {line}"))?;
        }
    }
    Ok(sum)
}

/// Instructions of the first thread, once the program that [`callgrind`] ran has ended.
///
/// # Errors
/// There is no such file, or it has no total.
pub fn instructions(out: &Path) -> anyhow::Result<u64> {
    let text = first_thread(out)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
    Ok(total.context("callgrind's output has no total")?.trim().parse()?)
}

/// System calls that `strace -c` counted, in all.
///
/// # Errors
/// There is no such file, or it has no total.
pub fn system_calls(out: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(out).with_context(|| format!("strace left no {}", out.display()))?;
    let total = text.lines().find(|line| line.ends_with(" total")).context("strace's output has no total")?;
    // % time, seconds, usecs/call, calls, perhaps errors, "total".
    Ok(total.split_whitespace().nth(3).context("strace's total has no calls")?.parse()?)
}

/// What one more costs: the difference between a short and a long run, so that what both begin and end with cancels.
///
/// # Errors
/// Those of `measure`.
pub fn per_operation(
    [short, long]: [u64; 2],
    mut measure: impl FnMut(u64) -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let (less, more) = (measure(short)?, measure(long)?);
    let each = (more as f64 - less as f64) / (long - short) as f64;
    // A timer that fires in one run and not in the other is a ten-thousandth of a call.
    Ok((each * 100.0).round() / 100.0)
}

/// This program, to be run anew under a tool.
///
/// # Errors
/// The system does not tell.
pub fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("where is this program?")
}

/// Says on stderr what is being measured.
pub fn progress(what: impl AsRef<OsStr>) {
    eprintln!("bench: {}", what.as_ref().display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(instructions: f64, time: f64) -> Report {
        let times = [vec![time, 3.0 * time, 2.0 * time], vec![10.0, 30.0, 20.0]];
        Report(vec![
            Row::counted("counted", "Ir/event", Target::RatioAtMost(0.15), [instructions, 100.0]),
            Row::timed("timed", "ns/event", Target::RatioAtMost(0.5), Quantile::Median, times),
        ])
    }

    #[test]
    fn the_json_has_the_agreed_shape() {
        assert_eq!(
            report(12.0, 4.0).json(),
            json!([
                { "name": "counted", "ours": 12.0, "peer": 100.0, "unit": "Ir/event", "ratio": 0.12, "target": 0.15,
                  "gate": true, "pass": true },
                { "name": "timed", "ours": 8.0, "peer": 20.0, "unit": "ns/event", "ratio": 0.4, "target": 0.5,
                  "gate": false, "pass": true,
                  "minimum": { "ours": 4.0, "peer": 10.0 }, "p10": { "ours": 4.0, "peer": 10.0 },
                  "median": { "ours": 8.0, "peer": 20.0 } },
            ])
        );
    }

    #[test]
    fn a_missed_gate_fails_and_a_missed_time_does_not() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let json = dir.path().join("rows.json");
        let ends = |instructions, time| -> anyhow::Result<String> {
            Ok(format!("{:?}", report(instructions, time).finish(Some(&json))?))
        };
        assert_eq!(ends(15.0, 100.0)?, format!("{:?}", ExitCode::SUCCESS));
        let missed = std::fs::read_to_string(&json)?;
        assert_eq!(serde_json::from_str::<Value>(&missed)?[1]["pass"], false);
        assert_eq!(ends(15.1, 1.0)?, format!("{:?}", ExitCode::from(1)));
        assert_eq!(ends(f64::NAN, 1.0)?, format!("{:?}", ExitCode::from(1)));
        Ok(())
    }

    #[test]
    fn a_row_without_a_target_is_shown_and_gates_nothing() {
        let shown = Report(vec![Row::counted("shown", "Ir/event", Target::Shown, [9.0, 1.0])]);
        assert!(shown.holds() && shown.to_string().ends_with("shown"));
        let row = &shown.json()[0];
        assert_eq!([&row["target"], &row["pass"], &row["gate"]], [&Value::Null, &Value::Null, &Value::Bool(false)]);
    }

    #[test]
    fn a_filter_picks_rows_by_name() {
        let arguments = Arguments { filter: Some("batch 16".into()), ..Arguments::default() };
        assert!(
            arguments.wants("8 B, batch 16, to") && !arguments.wants("8 B, batch 256") && arguments.want_all().is_err()
        );
        assert!(Arguments::default().wants("anything") && Arguments::default().want_all().is_ok());
    }

    #[test]
    fn targets_bound_what_they_say() {
        let passes = |target, figures| Row::counted("", "", target, figures).passes() == Some(true);
        assert!(passes(Target::OursAtMost(2.0), [2.0, 1.0]) && !passes(Target::OursAtMost(2.0), [2.01, 9.0]));
        assert!(passes(Target::RatioAtLeast(10.0), [10.0, 1.0]) && !passes(Target::RatioAtLeast(10.0), [9.9, 1.0]));
    }

    #[test]
    fn totals_of_the_tools_are_read() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("out");
        let strace = " 60.00    0.001200           1      1200           recvmsg\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.002000           1      2400         3 total\n";
        std::fs::write(&out, strace)?;
        assert_eq!(system_calls(&out)?, 2400);
        std::fs::write(dir.path().join("out-01"), "events: Ir\nfn=(1) main\n1 5\ntotals: 123456\n")?;
        assert_eq!(instructions(&out)?, 123_456);
        assert!(instructions(&dir.path().join("none")).is_err());
        Ok(())
    }
}
