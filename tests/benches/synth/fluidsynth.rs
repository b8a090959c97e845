//! FluidSynth as a program that renders a song to nowhere.
//!
//! Fed with a SoundFont and a song; its times come from the system, its instructions from callgrind around it.

use anyhow::{Context, ensure};
use dmus_card::synth::Interpolation;
use dmus_tests::programs;
use nix::sys::resource::{UsageWho, getrusage};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) struct FluidSynth {
    /// Loader, its options and the program.
    run: Vec<String>,
    arguments: Vec<PathBuf>,
}

impl FluidSynth {
    /// Prepares a run, with files in `dir`; reverb and chorus are on or off.
    pub(crate) fn new(
        dir: &Path,
        bank: &Path,
        (interpolation, effects): (Interpolation, bool),
        song: &[u8],
    ) -> anyhow::Result<Self> {
        let said = programs::run(programs::script("peers").arg("--fluidsynth"))?;
        ensure!(said.status.success(), "there is no FluidSynth: {}", programs::said(&said));
        let run = String::from_utf8(said.stdout)?.lines().map(str::to_owned).collect();
        let (config, midi) = (dir.join("config"), dir.join("song.mid"));
        let order = if interpolation == Interpolation::Linear { 1 } else { 4 };
        std::fs::write(&config, format!("interp {order}\n"))?;
        std::fs::write(&midi, song)?;
        let switch = if effects { "1" } else { "0" };
        let mut arguments: Vec<PathBuf> =
            ["-n", "-i", "-q", "-R", switch, "-C", switch, "-r", "48000", "-T", "raw", "-F", "/dev/null"]
                .into_iter()
                .chain(["-o", "synth.polyphony=1024", "-o", "synth.cpu-cores=1", "-f"])
                .map(PathBuf::from)
                .collect();
        arguments.extend([config, bank.to_owned(), midi]);
        Ok(Self { run, arguments })
    }

    /// A command that is to run it, completed with the program.
    pub(crate) fn onto(&self, mut command: Command) -> Command {
        command.args(&self.run);
        command
    }

    pub(crate) fn arguments(&self) -> &[PathBuf] {
        &self.arguments
    }

    /// CPU time of a run.
    pub(crate) fn run(&self) -> anyhow::Result<Duration> {
        let before = cpu(UsageWho::RUSAGE_CHILDREN)?;
        let (program, options) = self.run.split_first().context("no program")?;
        let done = programs::run(Command::new(program).args(options).args(&self.arguments))?;
        ensure!(done.status.success(), "FluidSynth failed: {}", programs::said(&done));
        Ok(cpu(UsageWho::RUSAGE_CHILDREN)? - before)
    }
}

/// User time of this process, or of the children that have ended.
pub(crate) fn cpu(who: UsageWho) -> anyhow::Result<Duration> {
    let time = getrusage(who)?.user_time();
    Ok(Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64))
}
