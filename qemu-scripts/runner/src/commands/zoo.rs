//! `zoo`: each rule of the data sheet broken in a booted guest, and what the card says of it, as a table.
//!
//! Fed by the command line; feeds the terminal. The guest makes all mistakes that want one clock of the card in one
//! boot, and sets marks in the card's log between them; the processes are run by [`crate::supervisor`], the list is
//! `dmus_conformance`'s.

use crate::exit::{Exit, Failure};
use crate::guest::GuestReport;
use crate::machine::{Image, Item, Job, Machine};
use crate::progress::Progress;
use crate::supervisor;
use anyhow::{Context, ensure};
use dmus_conformance::zoo::{self, Mistake, Place, Said, Table, Verdict};
use dmus_interface::rule::{Code, Rule};
use std::collections::BTreeMap;
use std::io::Write;

/// Break each rule of the data sheet in a booted guest, and see that the card names it.
///
/// What the card named is taken from its completions and registers, as the guest saw them, and from the card's log and
/// counters. The exit code is 1 if a rule was not named by its own code alone.
///
/// The guest boots once for rules that are broken in virtual time, and once for those in real time. If it boots for
/// both, what --record, --trace and --report keep of real time is in files of its own: of FILE.dmc, FILE-realtime.dmc.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The rules, by name or code (tail-overrun, F14) [default: all].
    rules: Vec<String>,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    if args.machine.realtime || args.machine.width != 8 {
        return Err(usage("each mistake has its own clock, and pointers of 8 bytes".into()).into());
    }
    let mistakes = zoo::select(&args.rules).map_err(|error| usage(error.to_string()))?;
    let place = if args.machine.image == Image::Linux { Place::Linux } else { Place::BareMetal };
    let mut verdicts = BTreeMap::new();
    let made = mistakes.iter().copied().filter(|mistake| mistake.needs.are_met(place));
    let (in_real_time, in_virtual_time) = made.partition::<Vec<_>, _>(|mistake| mistake.realtime);
    for (realtime, of_clock) in [(false, &in_virtual_time), (true, &in_real_time)] {
        if !of_clock.is_empty() {
            let mut machine = args.machine.clone();
            machine.realtime = realtime;
            machine.checking.on();
            if realtime && !in_virtual_time.is_empty() {
                machine.checking.set_apart(machine.clock_name());
            }
            verdicts.extend(make(&machine, of_clock)?);
        }
    }
    // A reader that has seen enough may close the pipe: what was tried was tried all the same.
    let mut out = std::io::stdout().lock();
    let mut table = Table::new(&mistakes);
    for mistake in mistakes {
        let row = match verdicts.get(mistake.rule) {
            Some((verdict, _)) => table.row(mistake, verdict),
            None => table.untried(mistake),
        };
        let _ = writeln!(out, "{row}");
        for line in verdicts.get(mistake.rule).iter().flat_map(|(_, culprit)| culprit) {
            let _ = writeln!(out, "{line}");
        }
    }
    let (last, all) = table.end();
    let _ = writeln!(out, "{last}");
    ensure!(all, Failure::new(Exit::Failed, "some rules were not named by their own code alone"));
    Ok(())
}

/// What came of each mistake, by its rule: the verdict, and the culprits that the card's report names, in its lines.
type Verdicts = BTreeMap<&'static str, (anyhow::Result<Verdict>, Vec<String>)>;

/// Has mistakes made in one boot.
fn make(machine: &Machine, mistakes: &[&'static Mistake]) -> anyhow::Result<Verdicts> {
    let dir = tempfile::Builder::new().prefix("dmus-zoo-").tempdir().context("cannot make a temporary directory")?;
    let log = dir.path().join("card.log");
    let rules: Vec<&str> = mistakes.iter().map(|mistake| mistake.rule).collect();
    let rules = rules.join(" ");
    let job = Job {
        card: Vec::new(),
        log: "warn,dmus_card::log=debug",
        log_file: Some(log.clone()),
        // What could not be broken is told by the lines.
        linux: format!("dmusd zoo {rules} || :"),
        items: vec![("zoo".into(), Item::Text(rules))],
        share: None,
        speaker: None,
        misbehaves: true,
    };
    let done = supervisor::run(machine, &job, dir.path(), &mut Progress::hidden("misbehaving"));
    let log = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let (guest, _) = match log.is_empty() {
        true => done?,
        false => done.with_context(|| format!("the card's log ends with\n{}", tail(&log)))?,
    };
    judge(mistakes, &guest, &log)
}

/// The last lines.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// What came of each mistake, by what the guest saw and by the card's log.
fn judge(mistakes: &[&'static Mistake], guest: &GuestReport, log: &str) -> anyhow::Result<Verdicts> {
    let told = guest.mistakes.iter().map(|(rule, _)| rule.as_str());
    ensure!(
        told.eq(mistakes.iter().map(|mistake| mistake.rule)),
        "the guest was to break {} rules, and tells of others: {:?}",
        mistakes.len(),
        guest.mistakes
    );
    let log = Log::read(log)?;
    let verdicts = (0..).zip(mistakes).zip(&guest.mistakes).map(|((index, mistake), (_, told))| {
        let verdict = match told {
            Ok(said) => log.verdict(mistake, index, said),
            Err(why) => Err(anyhow::anyhow!("{why}")),
        };
        let culprit = log.0.get(&(index * 2 + 1)).map(|mark| mark.culprit.clone()).unwrap_or_default();
        (mistake.rule, (verdict, culprit))
    });
    Ok(verdicts.collect())
}

/// How the lines of a report begin that name a culprit: the first one, and those after it.
const CULPRIT: &str = "  culprit  ";
const CONTINUED: &str = "            ";

/// A place in the card's log.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    /// The faults and the refused messages that the card had counted there.
    counted: [u64; 2],
    /// The codes that the log names from there to the next mark.
    named: Vec<Code>,
    /// The lines there that tell of a culprit.
    culprit: Vec<String>,
}

/// The card's log, by the marks in it.
#[derive(Debug)]
struct Log(BTreeMap<u32, Mark>);

impl Log {
    fn read(text: &str) -> anyhow::Result<Self> {
        let mut marks = BTreeMap::new();
        let mut last = None;
        let mut in_culprit = false;
        for line in text.lines() {
            let whole = !line.contains("lines were left out") && !line.contains("lines of the log were lost");
            ensure!(whole, "the card's log is not whole: {line}");
            if line.contains("FAULT is cleared") {
                let value = field(line, "value")? as u32;
                let counted = [field(line, "faults")?, field(line, "rejected")?];
                // 0 is what drivers write.
                if value != 0 {
                    let before = marks.insert(value, Mark { counted, named: Vec::new(), culprit: Vec::new() });
                    ensure!(before.is_none(), "mark {value} is twice in the card's log");
                    last = Some(value);
                }
            } else if let Some(mark) = last.and_then(|last| marks.get_mut(&last)) {
                mark.named.extend(code_in(line));
                in_culprit = line.starts_with(CULPRIT) || in_culprit && line.starts_with(CONTINUED);
                if in_culprit {
                    mark.culprit.push(line.to_owned());
                }
            }
        }
        Ok(Self(marks))
    }

    /// What came of the mistake with this number.
    fn verdict(&self, mistake: &Mistake, index: u32, said: &str) -> anyhow::Result<Verdict> {
        let said = Said::parse_all(said).with_context(|| format!("the guest says \"{said}\""))?;
        let mark = |number| self.0.get(&number).with_context(|| format!("mark {number} is not in the card's log"));
        let (before, after) = (mark(index * 2 + 1)?, mark(index * 2 + 2)?);
        Ok(Verdict::new(mistake, said, before.named.clone(), before.counted, after.counted))
    }
}

/// A number of a line of the log.
fn field(line: &str, name: &str) -> anyhow::Result<u64> {
    let value = line.split_whitespace().filter_map(|word| word.split_once('=')).find(|(found, _)| *found == name);
    value.and_then(|(_, value)| value.parse().ok()).with_context(|| format!("no {name} in the card's log: {line}"))
}

/// The code that a line of the log names, with the name of its rule behind it.
fn code_in(line: &str) -> Option<Code> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_named = |pair: &&[&str]| {
        let rule = Rule::find(pair[0]);
        rule.is_some_and(|rule| pair[1].strip_suffix(':') == Some(rule.name) && rule.name != pair[0])
    };
    let pair = words.windows(2).find(is_named)?;
    Some(Rule::find(pair[0])?.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = " INFO listening on card.sock
DEBUG FAULT is cleared value=0 faults=0 rejected=0
 WARN driver fault F14 tail-overrun: a tail overran detail=0x1
DEBUG FAULT is cleared value=0 faults=1 rejected=0
DEBUG FAULT is cleared value=1 faults=1 rejected=0
 WARN driver fault F23 stream-halted: it stands still detail=0x104
DEBUG FAULT is cleared value=0 faults=2 rejected=0
DEBUG FAULT is cleared value=2 faults=2 rejected=0
DEBUG FAULT is cleared value=3 faults=2 rejected=0
 WARN submission rejected R2 struct-size: cbStruct stream=0 slot=0
DEBUG FAULT is cleared value=4 faults=2 rejected=1
";

    fn judged(lines: &[&str], log: &str) -> anyhow::Result<Vec<String>> {
        let mistakes = [zoo::select(&["stream-halted"])?, zoo::select(&["R2"])?].concat();
        let mut guest = GuestReport::new();
        lines.iter().for_each(|line| assert_eq!(guest.take(&format!("dmus: {line}")), None));
        let verdicts = judge(&mistakes, &guest, log)?;
        let mut table = Table::new(&mistakes);
        Ok(mistakes.iter().map(|mistake| table.row(mistake, &verdicts[mistake.rule].0)).collect())
    }

    #[test]
    fn each_mistake_is_judged_by_what_the_log_says_between_its_marks() -> anyhow::Result<()> {
        let good = ["broke stream-halted: FAULT F23, REFUSAL F23", "broke struct-size: completion R2"];
        let rows = |lines: &[&str], log: &str| judged(lines, log).map(|rows| rows.join("\n"));
        let all = rows(&good, LOG)?;
        assert!(all.matches("  ok").count() == 2 && all.contains("FAULT F23, REFUSAL F23"), "{all}");
        for (log, complaint) in [
            (LOG.replace("F23 stream-halted", "F22 memory-not-writable"), "report F22"),
            (LOG.replace(" WARN driver fault F23", " WARN another thing"), "FAULT F23, REFUSAL F23  "),
            (LOG.replace("value=4 faults=2 rejected=1", "value=4 faults=2 rejected=2"), "2 messages refused, not 1"),
            (LOG.replace("value=4 faults=2", "value=4 faults=3"), "completion R2"),
            (LOG.replace("value=4", "value=5"), "mark 4 is not in the card's log"),
        ] {
            let all = rows(&good, &log)?;
            assert!(all.contains(complaint) && all.contains("  NOT") && all.contains("  ok"), "{log}\n{all}");
        }
        let kept = rows(&["kept stream-halted: no answer", good[1]], LOG)?;
        assert!(kept.contains("no answer") && kept.contains("  NOT"), "{kept}");
        let other = rows(&["broke stream-halted: nothing", good[1]], LOG)?;
        assert!(other.contains("report F23") && other.contains("  NOT"), "{other}");
        Ok(())
    }

    #[test]
    fn the_culprit_of_a_mistake_is_what_the_report_says_of_it_and_no_more() -> anyhow::Result<()> {
        const REPORT: &str = "ERROR: submission rejected R2 struct-size: cbStruct
  where     stream 0, slot 0 at 0.0 s
            another line
  culprit   a store of 4 bytes, 0x1, at pc 0x10:
            publish_tail at src/raw.rs:1
            submit at src/raw.rs:2
  history   submitted by the driver    long ago
            fetched by the card        long ago";
        let log = LOG.replace(" WARN submission rejected R2 struct-size: cbStruct stream=0 slot=0", REPORT);
        let culprit = Log::read(&log)?.0.remove(&3).map(|mark| mark.culprit).unwrap_or_default();
        assert_eq!(culprit, REPORT.lines().skip(3).take(3).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn a_log_or_a_guest_that_is_not_whole_is_no_result() {
        let good = ["broke stream-halted: FAULT F23, REFUSAL F23", "broke struct-size: completion R2"];
        let left_out = LOG.replace(" INFO", " WARN 3 more lines were left out like this one: x\n INFO");
        for (lines, log) in [(&good[..], &left_out[..]), (&good[1..], LOG), (&good, &LOG.replace("value=2", "value=1"))]
        {
            assert!(judged(lines, log).is_err(), "{lines:?}\n{log}");
        }
    }
}
