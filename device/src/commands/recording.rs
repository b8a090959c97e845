//! `serve --record` and `--trace`: what a serving card keeps of a run.
//!
//! Fed by the command line with files, which are open before the card is in its sandbox; feeds one with a capsule, and
//! the other with what a second card shows that replays the capsule while it is recorded.

use super::bank::Banks;
use anyhow::Context;
use dmus_card::bank::Bank;
use dmus_card::capsule::trace::Trace;
use dmus_card::capsule::{self, Capsule, Ended, Options};
use dmus_card::engine::Engine;
use dmus_card::pci::Card;
use dmus_card::sink::NullSink;
use std::fs::File;
use std::io::{self, BufWriter, PipeReader, PipeWriter, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The files that a run is kept in.
#[derive(clap::Args)]
pub(super) struct Files {
    /// Keep all that the card observes in this file, in place of what was there: dmus-card replay, diff, trace and
    /// report make and show the run again.
    #[arg(long, value_name = "FILE.dmc")]
    record: Option<PathBuf>,
    /// Write a trace of the run for ui.perfetto.dev to this file, as it happens: see dmus-card trace --help.
    #[arg(long, value_name = "FILE.pftrace")]
    trace: Option<PathBuf>,
}

/// What is to be kept.
pub(super) struct Recording {
    capsule: Option<(PathBuf, File)>,
    /// With the two ends of what is recorded for it.
    trace: Option<(PathBuf, File, PipeReader, PipeWriter)>,
    options: Options,
}

impl Recording {
    pub(super) fn create(files: &Files, banks: &Banks, max_audio: Option<NonZeroU32>) -> anyhow::Result<Self> {
        let capsule = files.record.as_ref().map(|path| {
            let file = capsule::create(path).with_context(|| format!("cannot record to {}", path.display()));
            file.map(|file| (path.clone(), file))
        });
        let trace = files.trace.as_ref().map(|path| {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()));
            let (reader, writer) = io::pipe().context("cannot make a pipe")?;
            file.map(|file| (path.clone(), file, reader, writer))
        });
        let (capsule, trace) = (capsule.transpose()?, trace.transpose()?);
        // To read banks twice takes time.
        let bank = if capsule.is_some() { banks.describe()? } else { Vec::new() };
        Ok(Self { capsule, trace, options: Options { bank, max_audio } })
    }

    /// Has the card record, and a trace made of what it does.
    pub(super) fn start(&mut self, bank: &Arc<Bank>, card: &Card, engine: &Engine) -> anyhow::Result<Option<Tracer>> {
        let (mut outs, mut tracer): (Vec<Out>, _) = (Vec::new(), None);
        if let Some((path, file)) = self.capsule.take() {
            outs.push((path.display().to_string(), Box::new(file)));
        }
        if let Some((path, file, reader, writer)) = self.trace.take() {
            outs.push((path.display().to_string(), Box::new(writer)));
            tracer = Some(Tracer::start(path, file, reader, Arc::clone(bank))?);
        }
        let name = outs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" and ");
        if !outs.is_empty() {
            let options = std::mem::take(&mut self.options);
            capsule::record(Tee(outs), name, options, card, engine).context("cannot start to record")?;
        }
        Ok(tracer)
    }
}

/// Something to write to, and what it is called.
type Out = (String, Box<dyn Write + Send>);

/// Writes to all of them. One that fails is left out, as long as there is another.
struct Tee(Vec<Out>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < self.0.len() {
            match self.0[at].1.write_all(bytes) {
                Ok(()) => at += 1,
                Err(error) if self.0.len() == 1 => return Err(error),
                Err(error) => {
                    tracing::error!("{} ends here: {error}", self.0[at].0);
                    self.0.remove(at);
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|(_, out)| out.flush())
    }
}

/// Makes a trace of what is being recorded.
pub(super) struct Tracer(JoinHandle<anyhow::Result<()>>);

impl Tracer {
    fn start(path: PathBuf, file: File, capsule: PipeReader, bank: Arc<Bank>) -> anyhow::Result<Self> {
        let trace = move || {
            // What the card says it has said already.
            let _silence = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
            let mut trace = Trace::new(BufWriter::new(file));
            let run = Capsule::open(capsule)
                .and_then(|capsule| capsule.replay(bank, Box::new(NullSink), None, Some(&mut trace), |_| ()));
            trace.finish().with_context(|| format!("cannot write {}", path.display()))?;
            let run = run.with_context(|| format!("cannot trace to {}", path.display()))?;
            let (name, seconds) = (path.display(), run.master.as_secs_f64());
            match run.ended {
                Ended::Diverged(what) => anyhow::bail!("the trace {name} ends at {seconds:.6} s: it lacks {what}"),
                Ended::TooLong => anyhow::bail!("the trace {name} ends after a day of audio"),
                _ => Ok(()),
            }
        };
        let thread = std::thread::Builder::new().name("trace".into()).spawn(trace);
        Ok(Self(thread.context("cannot start the trace")?))
    }

    /// Waits for the end, which comes with that of the recording.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the tracing thread panicked")))
    }
}
