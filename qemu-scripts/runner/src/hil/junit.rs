//! Results as a JUnit file, which CI systems show.
//!
//! Fed by [`super::outcome`]; feeds `junit.xml`. A host's fault is an `error`, all else that does not pass a `failure`;
//! what is in quarantine is `skipped`. Evidence is named by `[[ATTACHMENT|...]]` lines, as Jenkins and GitLab read
//! them.

use super::outcome::{Finished, Outcome, Results};
use anyhow::Context;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The file in a folder of results.
pub(crate) const JUNIT: &str = "junit.xml";

/// Writes the file into a folder of results.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let mut suites: BTreeMap<&str, Vec<&Finished>> = BTreeMap::new();
    for case in &results.cases {
        suites.entry(case.file.as_str()).or_default().push(case);
    }
    let mut report = Report::new("hil");
    for (file, cases) in suites {
        let mut suite = TestSuite::new(file);
        suite.set_time(Duration::from_secs_f64(cases.iter().map(|case| case.seconds.max(0.0)).sum()));
        suite.add_test_cases(cases.into_iter().map(|case| test_case(case, folder)));
        report.add_test_suite(suite);
    }
    let path = folder.join(JUNIT);
    let text = report.to_string().context("the results make no JUnit file")?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn test_case(case: &Finished, folder: &Path) -> TestCase {
    let message = case.reasons.join("\n");
    let mut status = match case.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Outcome::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
        Outcome::Quarantined | Outcome::NotRun => TestCaseStatus::skipped(),
    };
    if case.outcome != Outcome::Passed {
        status.set_message(case.reasons.first().cloned().unwrap_or_default());
        if !matches!(case.outcome, Outcome::NotRun | Outcome::Quarantined) {
            status.set_type(if case.nondeterministic { "nondeterministic" } else { case.outcome.name() });
            status.set_description(message);
        }
    }
    let mut test = TestCase::new(case.name.as_str(), status);
    test.set_classname(Path::new(&case.file).file_stem().unwrap_or_default().to_string_lossy().into_owned());
    test.set_time(Duration::from_secs_f64(case.seconds.max(0.0)));
    let attached = case.evidence.iter().map(|file| format!("[[ATTACHMENT|{}]]", folder.join(file).display()));
    let lines: Vec<String> = case.serial.iter().cloned().chain(attached).collect();
    if !lines.is_empty() {
        test.set_system_out(lines.join("\n"));
    }
    test
}
