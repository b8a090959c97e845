//! How far a guest is, for people: a bar on a terminal, elsewhere a line each quarter.
//!
//! Fed by [`crate::supervisor`]; feeds standard error.

use anyhow::Context;
use dmus_interface::time::RefTime;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

pub(crate) struct Progress {
    bar: ProgressBar,
    doing: &'static str,
    /// The quarter that is told next; past 4, none.
    next_quarter: u64,
}

impl Progress {
    /// Of something as long as this, which the guest is `doing`.
    pub(crate) fn new(doing: &'static str, length: RefTime) -> anyhow::Result<Self> {
        let bar = ProgressBar::new(length.0.max(0) as u64 / 10_000);
        let style = ProgressStyle::with_template("{msg:>10} [{bar:40}] {percent:>3} %")
            .context("the progress bar's template")?
            .progress_chars("=> ");
        bar.set_style(style);
        Ok(Self { bar, doing, next_quarter: 1 })
    }

    /// Of something of unknown length: only that the guest is booted is told.
    pub(crate) fn hidden(doing: &'static str) -> Self {
        Self { bar: ProgressBar::hidden(), doing, next_quarter: 5 }
    }

    /// The guest is being booted.
    pub(crate) fn boot(&mut self) {
        if std::io::stderr().is_terminal() {
            self.next_quarter = 5;
        } else {
            eprintln!("booting the guest ...");
        }
        self.bar.set_message("booting");
        self.bar.tick();
    }

    /// The guest is at this millisecond.
    pub(crate) fn show(&mut self, position: u64) {
        self.bar.set_message(self.doing);
        self.bar.set_position(position);
        let length = self.bar.length().unwrap_or(0).max(1);
        while self.next_quarter <= 4 && position * 4 >= self.next_quarter * length {
            eprintln!("{} ... {} %", self.doing, self.next_quarter * 25);
            self.next_quarter += 1;
        }
    }

    /// Leaves the terminal to others.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
