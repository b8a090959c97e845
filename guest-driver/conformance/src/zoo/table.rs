//! The zoo as a table.
//!
//! Fed by whoever has mistakes made, with what the card said; gives lines of text.

use super::{Mistake, Verdict};
use alloc::format;
use alloc::string::{String, ToString};

/// Widths of the columns, and how many rows were good.
#[derive(Debug)]
pub struct Table {
    name: usize,
    what: usize,
    tried: u32,
    named: u32,
}

impl Table {
    /// A table of these.
    pub fn new(mistakes: &[&Mistake]) -> Self {
        let width = |text: fn(&Mistake) -> &str| mistakes.iter().map(|mistake| text(mistake).len()).max().unwrap_or(0);
        Self { name: width(|mistake| mistake.rule), what: width(|mistake| mistake.what), tried: 0, named: 0 }
    }

    /// Code, name, what it does, and more.
    fn line(&self, mistake: &Mistake, more: &str) -> String {
        let code = mistake.code().map_or(String::new(), |code| code.to_string());
        let (name, what) = (self.name, self.what);
        format!("{code:<4} {:<name$}  {:<what$}  {more}", mistake.rule, mistake.what)
    }

    /// A row of one that was tried: what the card said, or why that is not known.
    pub fn row(&mut self, mistake: &Mistake, verdict: &anyhow::Result<Verdict>) -> String {
        let code = mistake.code().ok();
        let (said, named) = match verdict {
            Ok(verdict) => (verdict.to_string(), code.is_some_and(|code| verdict.names_alone(code))),
            Err(error) => (format!("{error:#}"), false),
        };
        self.tried += 1;
        self.named += u32::from(named);
        self.line(mistake, &format!("{said:<24}  {}", if named { "ok" } else { "NOT" }))
    }

    /// A row of one that cannot be made here, or is only listed: where it can.
    pub fn untried(&self, mistake: &Mistake) -> String {
        self.line(mistake, &mistake.needs.to_string())
    }

    /// The last line, and whether all that were tried were named by their own code alone.
    pub fn end(&self) -> (String, bool) {
        let Self { tried, named, .. } = self;
        (format!("{named} of {tried} are named by their own code alone"), tried == named)
    }
}
