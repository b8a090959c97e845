//! `hil`: scenarios, run side by side.
//!
//! Fed by the command line; feeds the terminal and a folder of results. What it does is in [`crate::hil`].

use crate::exit::{Exit, Failure, Interrupt};
use crate::hil::bless::bless;
use crate::hil::campaign::campaign;
use crate::hil::cases::{self, Case};
use crate::hil::explore::explore;
use crate::hil::merge::merge;
use crate::hil::outcome::{Outcome, RESULTS, Results};
use crate::hil::pool::{Pool, Tale};
use crate::hil::quarantine::{self, Quarantine};
use crate::hil::run::{Guests, Setup};
use crate::hil::scenario::schema;
use crate::hil::shard::Sharding;
use crate::hil::show::Show;
use crate::hil::{index, junit};
use crate::programs::Programs;
use crate::summary::say;
use anyhow::Context;
use regex::Regex;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Run scenarios: TOML files that say what boots with the card, and what must hold.
///
/// A scenario, complete:
///
///     [guest]
///     image = "elf"                   # a guest of this project; or kernel, iso, disk, qemu of your own
///     [card]
///     clock = ["virtual", "realtime"] # a list makes a case of each value
///     [expect]
///     serial = ["^dmus: played"]      # regular expressions
///     violations = []                 # the driver breaks no rule of the data sheet
///
/// --schema prints the JSON schema of all keys. A case is called by its file and the values of its lists, as in
/// song,clock=virtual. Each runs in its own QEMU with its own card. One that fails is run once more: if that ends
/// otherwise, it fails as NONDETERMINISTIC. There are no retries.
///
/// The results are in a folder: junit.xml, index.html, results.json, and for each case that did not pass what there is
/// of it: serial line, card's log, report, recording with its page, audio, and run.sh, which does the run again by
/// hand.
///
/// Exit codes: 0 all passed; 1 some failed; 2 wrong usage, or a scenario cannot be read; 125 none failed, and the host
/// was at fault for some (QEMU missing or killed, disk full, no time on a CPU); 130 interrupted. So `git bisect run
/// qemu-scripts/hil --quiet SCENARIO` finds the commit that breaks a scenario, and skips those that cannot be built.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Scenarios, and folders of them; with --merge, folders of results.
    #[arg(value_name = "SCENARIO.toml|DIR", required_unless_present = "schema")]
    paths: Vec<PathBuf>,
    /// Where the results go; a folder of earlier results is replaced.
    #[arg(short, long, value_name = "DIR", default_value = "hil-results")]
    output: PathBuf,
    /// Only the cases whose names match this regular expression; may be given again.
    #[arg(long, value_name = "REGEX")]
    filter: Vec<Regex>,
    /// Print the names of the cases, and run none.
    #[arg(long)]
    list: bool,
    /// Print the JSON schema of scenarios.
    #[arg(long)]
    schema: bool,
    /// How many cases run at once [default: one a CPU].
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Begin no further case once one has not passed.
    #[arg(long)]
    fail_fast: bool,
    /// Run the cases of one shard only: INDEX/COUNT, from 1; or env, which takes them from SLURM_ARRAY_TASK_ID and
    /// _COUNT, CI_NODE_INDEX and _TOTAL, or JOB_COMPLETION_INDEX and JOB_COMPLETIONS.
    #[arg(long, value_name = "I/N|env")]
    shard: Option<Sharding>,
    /// Join the results of all shards, and fail if a case is missing or there twice.
    #[arg(long, conflicts_with_all = ["filter", "list", "shard"])]
    merge: bool,
    /// Cases that may fail for a while, each with a reason and a last day: [[quarantine]] tables of scenario, reason,
    /// expires [default: quarantine.toml in the folders given].
    #[arg(long, value_name = "FILE")]
    quarantine: Option<PathBuf>,
    /// Write the new hashes of audio into the scenarios that fail by them alone.
    #[arg(long)]
    bless: bool,
    /// Keep the files of cases that pass, too.
    #[arg(long)]
    keep: bool,
    /// Say nothing of cases that pass.
    #[arg(short, long)]
    quiet: bool,
    /// Run each case with each fault that a card can have, at each of its occasions, and say what the driver does.
    #[arg(long, conflicts_with_all = ["bless", "explore", "merge"])]
    campaign: bool,
    /// With --campaign: the last occasion of each kind that is tried.
    #[arg(long, value_name = "N", default_value_t = 50, requires = "campaign")]
    up_to: u64,
    /// Run each case with the cards of the seeds 1 to N, which take every liberty that the data sheet leaves them. The
    /// first that fails is kept as a scenario, with the few liberties that it takes to fail.
    #[arg(long, value_name = "N", conflicts_with_all = ["bless", "merge"])]
    explore: Option<u64>,
    /// Print the images of this project that the cases boot, for the script that builds them.
    #[arg(long, hide = true)]
    list_images: bool,
    #[command(flatten)]
    guests: Guests,
    #[command(flatten)]
    programs: Programs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.schema {
        say(&serde_json::to_string_pretty(&schema()).context("the schema makes no JSON")?);
        return Ok(());
    }
    if args.merge {
        return join(args).map_err(hosts);
    }
    let scenarios = cases::load(&args.paths)?;
    let quarantine = quarantine_of(args)?;
    let mut cases = cases::expand(&scenarios)?;
    cases::filter(&mut cases, &args.filter)?;
    let all: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let shard = args.shard.map(Sharding::shard).transpose()?;
    if let Some(shard) = shard {
        cases.retain(|case| shard.has(&case.name));
    }
    if args.list_images {
        let ours = cases.iter().filter(|case| case.of.scenario.guest.is_ours());
        let images: BTreeSet<&str> = ours.map(|case| case.image.name()).collect();
        images.iter().for_each(|image| say(image));
        return Ok(());
    }
    if args.list {
        cases.iter().for_each(|case| say(&case.name));
        return Ok(());
    }
    fresh(&args.output)?;
    let shard = shard.map(|shard| format!("{}/{}", shard.index, shard.count));
    run_cases(args, &cases, &quarantine, Results::new(shard, all, Vec::new())).map_err(hosts)
}

/// What has no code of its own is the host's fault: the scenarios were read.
fn hosts(error: anyhow::Error) -> anyhow::Error {
    match error.is::<Failure>() {
        true => error,
        false => Failure::new(Exit::Host, format!("{error:#}")).into(),
    }
}

fn quarantine_of(args: &Args) -> anyhow::Result<Quarantine> {
    let files: Vec<PathBuf> = match &args.quarantine {
        Some(file) => vec![file.clone()],
        None => args.paths.iter().map(|path| path.join(quarantine::NAME)).filter(|file| file.is_file()).collect(),
    };
    let mut quarantine = Quarantine::default();
    for file in files {
        quarantine.append(Quarantine::read(&file)?);
    }
    Ok(quarantine)
}

/// Makes the folder of results anew.
fn fresh(output: &Path) -> anyhow::Result<()> {
    let is_empty = |output: &Path| std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    let name = output.display();
    if output.exists() && !output.join(RESULTS).is_file() && !is_empty(output) {
        let message = format!("{name} is there, and holds no earlier results: name another folder with --output");
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let made = match output.exists() {
        true => std::fs::remove_dir_all(output),
        false => Ok(()),
    };
    made.and_then(|()| std::fs::create_dir_all(output))
        .map_err(|error| Failure::new(Exit::Host, format!("cannot make the folder {name}: {error}")).into())
}

fn run_cases(args: &Args, cases: &[Case], quarantine: &Quarantine, mut results: Results) -> anyhow::Result<()> {
    let started = Instant::now();
    let output = args.output.as_path();
    // A run that is killed leaves a folder that is known for what it is.
    results.write(output)?;
    let setup = Setup { programs: args.programs.clone(), guests: args.guests.clone(), interrupt: Interrupt::catch()? };
    let jobs = match args.jobs {
        Some(jobs) => jobs.get(),
        None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    if args.campaign {
        return campaign(cases, (&setup, output), (jobs, args.up_to, args.quiet));
    }
    if let Some(seeds) = args.explore {
        return explore(cases, (&setup, output), (jobs, seeds, args.quiet));
    }
    let pool = Pool { setup: &setup, quarantine, output, jobs, fail_fast: args.fail_fast, keep: args.keep };
    let mut show = Show::new(cases.len(), args.quiet);
    let finished = pool.run(cases, |tale| match tale {
        Tale::Began(name) => show.began(name),
        Tale::Ended(done) => show.case(done),
    });
    show.finish();
    results.cases = finished?;
    if args.bless {
        for file in bless(cases, &results.cases)? {
            say(&format!("blessed     {file}"));
        }
        for case in results.cases.iter_mut().filter(|case| case.only_hash) {
            case.outcome = Outcome::Passed;
        }
    }
    tell(&results, output, args.quiet, Some(started))
}

/// Writes the files of results, says where they are, and ends with what they come to.
fn tell(results: &Results, output: &Path, quiet: bool, started: Option<Instant>) -> anyhow::Result<()> {
    results.write(output)?;
    junit::write(results, output)?;
    index::write(results, output)?;
    let count = |outcome: Outcome| results.count(outcome);
    let (failed, errors) = (count(Outcome::Failed), count(Outcome::Error));
    if !quiet || failed + errors > 0 {
        let time = started.map(|started| format!(" in {:.1} s", started.elapsed().as_secs_f64())).unwrap_or_default();
        let (all, passed, page) = (results.cases.len(), count(Outcome::Passed), output.join(index::INDEX));
        let more = [(Outcome::Quarantined, "in quarantine"), (Outcome::NotRun, "not run")];
        let more = more.map(|(outcome, name)| (count(outcome), name));
        let more: String = more.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!(", {n} {name}")).collect();
        let page = page.display();
        let all = number(all, "case");
        say(&format!("{all}{time}: {passed} passed, {failed} failed, {errors} errors{more}; {page} has each"));
    }
    match (failed, errors) {
        (0, 0) => Ok(()),
        (0, errors) => {
            Err(Failure::new(Exit::Host, format!("the host was at fault for {}", number(errors, "case"))).into())
        }
        (failed, _) => Err(Failure::new(Exit::Failed, format!("{} failed", number(failed, "case"))).into()),
    }
}

/// A number with what it counts: `1 case`, `2 cases`.
fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn join(args: &Args) -> anyhow::Result<()> {
    let is_input = |path: &PathBuf| path.canonicalize().ok() == args.output.canonicalize().ok();
    if args.output.exists() && args.paths.iter().any(is_input) {
        let message = "the folder of joined results is one of the shards': name another with --output";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    fresh(&args.output)?;
    let (results, wrong) = merge(&args.paths, &args.output)?;
    let told = tell(&results, &args.output, args.quiet, None);
    if wrong.is_empty() {
        return told;
    }
    wrong.iter().for_each(|what| eprintln!("{what}"));
    let message = format!("the results are not those of all shards, once each: {} are wrong", wrong.len());
    Err(Failure::new(Exit::Failed, message).into())
}
