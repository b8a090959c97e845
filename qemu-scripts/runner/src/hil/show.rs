//! What a run of cases shows: bars on a terminal, elsewhere a line for each case that ended, or at each tenth of many.
//!
//! Fed by the pool, campaigns and explorations; feeds standard error, and with results standard output.

use super::outcome::{Finished, Outcome};
use crate::summary::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

pub(crate) struct Show {
    bar: ProgressBar,
    running: Vec<String>,
    quiet: bool,
}

impl Show {
    /// Of so many pieces of work.
    pub(crate) fn new(count: usize, quiet: bool) -> Self {
        let bar = match quiet || !std::io::stderr().is_terminal() {
            true => ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::hidden()),
            false => ProgressBar::new(count as u64),
        };
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len}  {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, running: Vec::new(), quiet }
    }

    pub(crate) fn began(&mut self, name: &str) {
        self.running.push(name.into());
        self.bar.set_message(self.running.join("  "));
    }

    /// Something ended, of which this is told.
    pub(crate) fn ended(&mut self, name: &str, line: Option<&str>) {
        self.running.retain(|running| running != name);
        self.bar.set_message(self.running.join("  "));
        self.bar.inc(1);
        let (ended, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let tenth = |ended: u64| ended * 10 / all.max(1);
        if let Some(line) = line {
            self.say(line);
        } else if self.bar.is_hidden() && !self.quiet && tenth(ended) > tenth(ended - 1) {
            self.say(&format!("{ended} of {all}"));
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// A case ended.
    pub(crate) fn case(&mut self, done: &Finished) {
        let line = (!self.quiet || done.outcome != Outcome::Passed).then(|| {
            let mut line = format!("{:<11} {}  {:.1} s", done.outcome.name(), done.name, done.seconds);
            for reason in &done.reasons {
                line.push_str("\n    ");
                line.push_str(reason);
            }
            line
        });
        self.ended(&done.name, line.as_deref());
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
