//! `debug`: a guest that is stopped right behind a mistake of its driver, with gdb on it.
//!
//! Fed by the command line; feeds the terminal. The processes are run by [`crate::supervisor`], gdb by
//! [`crate::debugger`].

use crate::debugger::{Debugger, Opened};
use crate::exit::{Exit, Failure};
use crate::machine::{Item, Job, Machine};
use crate::progress::Progress;
use crate::summary::say;
use crate::supervisor;
use anyhow::Context;
use dmus_card::files::{Flaws, load_song};
use dmus_conformance::zoo;
use dmus_interface::rule::Rule;
use std::path::PathBuf;

/// Boot a guest on a card that stops it right behind the first mistake of its driver, and open gdb there.
///
/// gdb has symbols, and commands of the card's: dmus violation, dmus slots, dmus slot NUMBER. `bt` shows where the
/// guest is, `continue` goes on to the next mistake, `quit` lets the guest play on without gdb, `kill` ends it.
///
/// Software emulation only. The exit code is 9 if the guest was stopped.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Standard MIDI file to play, format 0 or 1 [default: the bundled song].
    #[arg(conflicts_with = "zoo")]
    song: Option<PathBuf>,
    /// Have the guest break this rule, to try all of this; may be given again.
    #[arg(long, value_name = "NAME")]
    zoo: Vec<String>,
    /// Stop at each breach of this rule, instead of at the first of each that is an error.
    #[arg(long, value_name = "NAME")]
    at: Option<String>,
    /// A command for gdb; may be given again. gdb runs them and quits, for scripts.
    #[arg(long, value_name = "COMMAND", conflicts_with = "socket")]
    ex: Vec<String>,
    /// Open no gdb: let one attach to this Unix socket, an editor's say, whenever it wants.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The debugger.
    #[arg(long, value_name = "PATH", default_value = "gdb")]
    gdb: PathBuf,
    /// The guest's command line, for one of your own (--guest).
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let find = |name: &String| {
        let rule = Rule::find(name).map(|rule| rule.name.to_owned());
        rule.ok_or_else(|| usage(format!("there is no rule {name}; `dmus-card explain` lists them all")))
    };
    let at = args.at.as_ref().map(find).transpose()?;
    let dir = tempfile::Builder::new().prefix("dmus-debug-").tempdir().context("cannot make a temporary directory")?;
    let mut machine = args.machine.clone();
    machine.checking.stop();
    let mut items = Vec::new();
    let linux = match args.zoo.as_slice() {
        [_, ..] => {
            let mistakes = zoo::select(&args.zoo).map_err(|error| usage(error.to_string()))?;
            machine.realtime = mistakes.iter().all(|mistake| mistake.realtime);
            if mistakes.iter().any(|mistake| mistake.realtime != machine.realtime) {
                return Err(usage("some of these rules are of real time and some of virtual time".into()).into());
            }
            let rules: Vec<&str> = mistakes.iter().map(|mistake| mistake.rule).collect();
            items.push(("zoo".into(), Item::Text(rules.join(" "))));
            format!("dmusd zoo {} || :", rules.join(" "))
        }
        [] => {
            let song = dir.path().join("song.mid");
            std::fs::write(&song, load_song(args.song.as_deref(), Flaws::Mend)?.bytes)
                .context("cannot write a temporary file")?;
            items.push(("song".into(), Item::File(song)));
            "play".into()
        }
    };
    let more = args.append.iter().flat_map(|text| ["-append".into(), text.into()]).collect();
    let symbols = machine.symbols();
    let opened = match &args.socket {
        Some(socket) => {
            eprintln!("symbols: {}", symbols.join(", "));
            Opened::ByHand { socket: std::path::absolute(socket).context("cannot use --socket")? }
        }
        None => Opened::Gdb { gdb: args.gdb.clone(), symbols, commands: args.ex.clone() },
    };
    let mut debugger = Debugger::new(opened, machine.programs.card()?, dir.path(), at, more);
    let job = Job {
        card: Vec::new(),
        log: "warn",
        log_file: None,
        items,
        share: None,
        linux,
        speaker: None,
        misbehaves: true,
    };
    let ended =
        supervisor::run_under(&machine, &job, dir.path(), &mut Progress::hidden("running"), Some(&mut debugger));
    if debugger.was_opened {
        let message = "the driver broke rules of the data sheet, as the card's report says";
        return Err(Failure::new(Exit::Violation, message).into());
    }
    ended?;
    say("the driver broke no rule that it would have been stopped at");
    Ok(())
}
