//! The guest's serial line: lines of it, and what a scenario says of them.
//!
//! Fed by [`super::run`] with bytes as they come; asked by [`super::judge`] at the end. No line is kept: each is held
//! against the regular expressions as it ends.

use super::scenario::Scenario;
use regex::Regex;
use std::collections::VecDeque;

/// Bytes of a line that are looked at.
const MAX_LINE: usize = 64 << 10;
/// Lines of the end that are kept for the report.
const TAIL: usize = 20;

const PROGRESS: &str = "dmus: progress ";

/// See the module.
pub(crate) struct Serial {
    line: Vec<u8>,
    tail: VecDeque<String>,
    any: bool,
    /// What the guest is still to be sent: each text once its pattern has matched, which is none from then on.
    steps: VecDeque<(Option<Regex>, String)>,
    /// Each with whether some line matched it.
    expected: Vec<(Regex, bool)>,
    in_order: Vec<Regex>,
    /// How many of those matched.
    reached: usize,
    /// Each with the first line that matched it.
    never: Vec<(Regex, Option<String>)>,
}

impl Serial {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        // All of them were compiled once, as the scenario was read.
        let regexes = |patterns: &[String]| patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect();
        let steps = scenario.feed.serial.iter().map(|step| {
            let after = step.after.as_deref().and_then(|pattern| Regex::new(pattern).ok());
            (after, step.text.clone())
        });
        let expect = &scenario.expect;
        let expected: Vec<_> = regexes(&expect.serial);
        let never: Vec<_> = regexes(&expect.serial_never);
        Self {
            line: Vec::new(),
            tail: VecDeque::new(),
            any: false,
            steps: steps.collect(),
            expected: expected.into_iter().map(|pattern| (pattern, false)).collect(),
            in_order: regexes(&expect.serial_in_order),
            reached: 0,
            never: never.into_iter().map(|pattern| (pattern, None)).collect(),
        }
    }

    /// Takes what was printed; each line that ends with it is given to `also`.
    pub(crate) fn take(&mut self, bytes: &[u8], mut also: impl FnMut(&str)) {
        self.any |= !bytes.is_empty();
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(&mut also),
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        // A prompt is no line.
        if !self.line.is_empty() {
            let unfinished = String::from_utf8_lossy(&self.line).into_owned();
            self.is_waited_for(&unfinished);
        }
    }

    /// There comes no more.
    pub(crate) fn finish(&mut self, mut also: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.end_line(&mut also);
        }
    }

    fn end_line(&mut self, also: &mut impl FnMut(&str)) {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        also(line);
        for (pattern, matched) in &mut self.expected {
            *matched |= pattern.is_match(line);
        }
        self.reached += usize::from(self.in_order.get(self.reached).is_some_and(|pattern| pattern.is_match(line)));
        for (pattern, first) in &mut self.never {
            if first.is_none() && pattern.is_match(line) {
                *first = Some(line.to_owned());
            }
        }
        self.is_waited_for(line);
        // How far a guest is, is told by the last of these.
        if line.starts_with(PROGRESS) && self.tail.back().is_some_and(|last| last.starts_with(PROGRESS)) {
            self.tail.pop_back();
        }
        if !line.is_empty() {
            self.tail.push_back(line.chars().take(200).collect());
            if self.tail.len() > TAIL {
                self.tail.pop_front();
            }
        }
    }

    /// The last line that was not empty.
    pub(crate) fn last(&self) -> String {
        let unfinished = String::from_utf8_lossy(&self.line).trim().to_owned();
        match unfinished.is_empty() {
            true => self.tail.back().cloned().unwrap_or_default(),
            false => unfinished.chars().take(200).collect(),
        }
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Whether anything was printed.
    pub(crate) fn has_any(&self) -> bool {
        self.any
    }

    /// Whether the next text goes after this, which the guest has printed.
    fn is_waited_for(&mut self, printed: &str) {
        if let Some((after, _)) = self.steps.front_mut()
            && after.as_ref().is_some_and(|pattern| pattern.is_match(printed))
        {
            *after = None;
        }
    }

    /// What is to be sent to the guest now.
    pub(crate) fn next_input(&mut self) -> Option<String> {
        self.steps.pop_front_if(|(after, _)| after.is_none()).map(|(_, text)| text)
    }

    /// What a scenario says of it that does not hold.
    pub(crate) fn faults(&self) -> Vec<String> {
        let missing = self.expected.iter().filter(|(_, matched)| !matched);
        let missing = missing.map(|(pattern, _)| format!("no line of the serial line matches {:?}", pattern.as_str()));
        let next = self.in_order.get(self.reached).map(|pattern| {
            let after = match self.reached.checked_sub(1).and_then(|before| self.in_order.get(before)) {
                Some(before) => format!(" after one that matches {:?}", before.as_str()),
                None => String::new(),
            };
            format!("no line of the serial line matches {:?}{after}", pattern.as_str())
        });
        let never = self.never.iter().filter_map(|(pattern, first)| {
            let line = first.as_ref()?;
            Some(format!("the serial line has {line:?}, which matches {:?}", pattern.as_str()))
        });
        missing.chain(next).chain(never).collect()
    }
}
