//! What a song costs as a whole program, and a bank until it is ready: `dmus-card` beside FluidSynth.
//!
//! Fed by `qemu-scripts/bench song` with songs and SoundFonts of Debian's; feeds its table and JSON. Each run is a
//! process of its own under this program, called again as `measure`, which prints what the kernel says that it took.

use anyhow::{Context, ensure};
use dmus_tests::bench::{Arguments, Quantile, Report, Row, Target, progress, this_program};
use dmus_tests::programs::{self, Running, run, said, script, until};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Of the package openttd-openmsx: few voices, many, and a short one.
const SONGS: [&str; 3] = ["5432gone_redfarn", "busy_schedule", "chuggachugga"];
const BANKS: [(&str, &str); 2] = [("TimGM6mb", "tim"), ("FluidR3", "fluid")];
/// Rounds, in each of which both sides have their turn.
const ROUNDS: usize = 7;
const LIMIT: Duration = Duration::from_secs(60);

/// Runs a program, and prints the microseconds of its processor time and the KiB of its largest memory.
fn measure(words: &[OsString]) -> anyhow::Result<()> {
    let (program, arguments) = words.split_first().context("no program")?;
    let done = run(Command::new(program).args(arguments))?;
    ensure!(done.status.success(), "{}: {}", program.display(), said(&done));
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    println!("{micros} {}", usage.max_rss());
    Ok(())
}

/// Seconds of processor time, and MB of memory.
fn taken(command: &Command) -> anyhow::Result<(f64, f64)> {
    let mut measuring = Command::new(this_program()?);
    let done = run(measuring.arg("measure").arg(command.get_program()).args(command.get_args()))?;
    ensure!(done.status.success(), "{}", said(&done));
    let text = String::from_utf8(done.stdout)?;
    let (micros, kib) = text.trim().split_once(' ').context("two numbers")?;
    Ok((micros.parse::<f64>()? / 1e6, kib.parse::<f64>()? / 1024.0))
}

/// The words of a script's answer.
fn answer(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let done = run(script("peers").args(arguments))?;
    ensure!(done.status.success(), "{}", said(&done));
    Ok(String::from_utf8(done.stdout)?.lines().map(str::to_owned).collect())
}

fn one(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    answer(arguments)?.pop().map(PathBuf::from).context("a path")
}

/// Both sides' command that plays a song by a bank into a file of 48,000 Hz, stereo, 16 bits.
fn players(song: &Path, bank: &Path, out: &Path) -> anyhow::Result<[Command; 2]> {
    let mut ours = programs::card()?;
    ours.arg("render").arg(song).arg("--bank").arg(bank).arg("-o").arg(out.join("ours.wav"));
    let words = answer(&["--fluidsynth"])?;
    let (program, arguments) = words.split_first().context("FluidSynth's program")?;
    let mut peer = Command::new(program);
    peer.args(arguments).args(["-n", "-i", "-q", "-r", "48000", "-F"]).arg(out.join("peer.wav")).arg(bank).arg(song);
    Ok([ours, peer])
}

/// How long a card takes until somebody can connect, milliseconds.
fn ready(bank: &Path, dir: &Path) -> anyhow::Result<f64> {
    let socket = dir.join("card.sock");
    let started = Instant::now();
    let mut card = Running::start(programs::card()?.arg("serve").arg("--socket").arg(&socket).arg("--bank").arg(bank))?;
    // It listens before it has read its bank, and answers only then.
    let mut connection = None;
    until("the card's socket", LIMIT, || {
        connection = std::os::unix::net::UnixStream::connect(&socket).ok();
        connection.is_some() || card.status().is_some()
    })?;
    let mut connection = connection.context("the card has ended")?;
    connection.set_read_timeout(Some(LIMIT))?;
    let capabilities = b"{\"capabilities\":{}}\0";
    let mut version = vec![1, 0, 1, 0];
    version.extend((20 + capabilities.len() as u32).to_le_bytes());
    version.extend([0; 8]);
    version.extend([0, 0, 1, 0]);
    version.extend(capabilities);
    std::io::Write::write_all(&mut connection, &version)?;
    std::io::Read::read_exact(&mut connection, &mut [0; 16])?;
    let taken = started.elapsed().as_secs_f64() * 1e3;
    programs::signal(card.id(), "TERM");
    card.output()?;
    Ok(taken)
}

fn rows() -> anyhow::Result<Report> {
    let dir = tempfile::tempdir()?;
    let songs = one(&["--songs"])?;
    let mut rows = Vec::new();
    for (bank_name, bank) in BANKS {
        let bank = one(&["--bank", bank])?;
        for song in SONGS {
            progress(format!("{song}, {bank_name}"));
            let players = players(&songs.join(song).with_extension("mid"), &bank, dir.path())?;
            let (mut seconds, mut memory) = ([vec![], vec![]], [0.0f64; 2]);
            for _ in 0..ROUNDS {
                for (side, player) in players.iter().enumerate() {
                    let (time, peak) = taken(player)?;
                    seconds[side].push(time);
                    memory[side] = memory[side].max(peak);
                }
            }
            let name = format!("{song}, {bank_name}");
            rows.push(Row::timed(&name, "s", Target::RatioAtMost(0.5), Quantile::Median, seconds));
            rows.push(Row::counted(format!("{name}: memory"), "MB", Target::RatioAtMost(1.2), memory));
        }
        progress(format!("ready with {bank_name}"));
        let times: anyhow::Result<Vec<f64>> = (0..ROUNDS).map(|_| ready(&bank, dir.path())).collect();
        let none = vec![f64::NAN; ROUNDS];
        let name = format!("ready to serve with {bank_name}");
        rows.push(Row::timed(name, "ms", Target::OursAtMost(300.0), Quantile::Median, [times?, none]));
    }
    Ok(Report(rows))
}

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, words)) = words.split_first()
        && first == "measure"
    {
        measure(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = Arguments::parse()?;
    arguments.want_all()?;
    rows()?.finish(arguments.json.as_deref())
}
