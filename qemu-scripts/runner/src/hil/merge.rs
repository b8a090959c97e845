//! Results of shards joined into one: each case has to be there, once.
//!
//! Fed by folders that `hil --output` wrote on one machine or several; feeds the same files as a run that was not
//! shared out.

use super::outcome::{Finished, Results};
use crate::exit::{Exit, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Joins the results of folders, for a folder of their own; and what is wrong with them: cases that are missing or
/// there twice.
pub(crate) fn merge(folders: &[PathBuf], output: &Path) -> anyhow::Result<(Results, Vec<String>)> {
    let mut read = Vec::new();
    for folder in folders {
        let results = Results::read(folder).map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
        read.push((folder.as_path(), results));
    }
    Ok(join(&read, output))
}

fn join(read: &[(&Path, Results)], output: &Path) -> (Results, Vec<String>) {
    let mut wrong = Vec::new();
    let all: BTreeSet<&String> = read.iter().flat_map(|(_, results)| &results.all).collect();
    for (folder, results) in read {
        let own: BTreeSet<&String> = results.all.iter().collect();
        if let Some(name) = all.iter().find(|name| !own.contains(*name)) {
            wrong.push(format!("{} was run on other scenarios: it does not know the case {name}", folder.display()));
        }
    }
    let mut places: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (folder, results) in read {
        for case in &results.cases {
            places.entry(&case.name).or_default().push(folder);
        }
    }
    for name in &all {
        match places.get(name.as_str()).map(Vec::as_slice) {
            None => wrong.push(format!("the case {name} is missing: no shard has run it")),
            Some([_]) => {}
            Some(folders) => {
                let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                wrong.push(format!("the case {name} is there {} times: in {}", folders.len(), folders.join(", ")));
            }
        }
    }
    let cases = read.iter().flat_map(|(folder, results)| {
        let to = path_from(output, folder);
        results.cases.iter().map(move |case| {
            let evidence = case.evidence.iter().map(|file| to.join(file).display().to_string()).collect();
            Finished { evidence, ..case.clone() }
        })
    });
    let mut cases: Vec<Finished> = cases.collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    (Results::new(None, all.into_iter().cloned().collect(), cases), wrong)
}

/// The way from one folder to another, which the links of a page go.
fn path_from(from: &Path, to: &Path) -> PathBuf {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let (from, to) = (whole(from), whole(to));
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Outcome;
    use super::super::shard::Shard;
    use super::*;

    fn finished(name: &str) -> Finished {
        Finished {
            name: name.into(),
            file: "made.toml".into(),
            outcome: Outcome::Passed,
            nondeterministic: false,
            quarantine: None,
            reasons: vec![],
            seconds: 0.0,
            card_seconds: 0.0,
            sha256: None,
            serial: vec![],
            evidence: vec![],
            only_hash: false,
        }
    }

    #[test]
    fn a_thousand_cases_of_eight_shards_are_joined_and_one_lost_and_one_doubled_are_noticed() {
        let all: Vec<String> = (0..1000).map(|number| format!("made,seed={number}")).collect();
        let names: Vec<String> = (1..=8).map(|index| format!("shard-{index}")).collect();
        let of = |index: u32| {
            let shard = Shard { index, count: 8 };
            let cases = all.iter().filter(|name| shard.has(name)).map(|name| finished(name)).collect();
            Results::new(Some(format!("{index}/8")), all.clone(), cases)
        };
        let mut read: Vec<(&Path, Results)> =
            names.iter().zip(1..).map(|(name, index)| (Path::new(name), of(index))).collect();
        let (joined, wrong) = join(&read, Path::new("."));
        assert_eq!((joined.cases.len(), wrong), (1000, vec![]));
        let lost = read[2].1.cases.pop().map(|case| case.name).unwrap_or_default();
        let doubled = read[5].1.cases[0].clone();
        read[6].1.cases.push(doubled.clone());
        let (_, wrong) = join(&read, Path::new("."));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().any(|what| what.contains(&format!("{lost} is missing"))), "{wrong:?}");
        let twice = format!("{} is there 2 times: in shard-6, shard-7", doubled.name);
        assert!(wrong.iter().any(|what| what.contains(&twice)), "{wrong:?}");
        // A whole shard that did not come.
        read.truncate(7);
        assert!(join(&read, Path::new(".")).1.len() > 50);
    }
}
