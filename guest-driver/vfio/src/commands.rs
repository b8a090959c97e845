//! The subcommands, and what they share: the card, signals, words for the host, and exit codes.

pub(crate) mod alsa;
pub(crate) mod conform;
pub(crate) mod info;
pub(crate) mod play;
pub(crate) mod record;
pub(crate) mod selftest;
pub(crate) mod wave;
pub(crate) mod zoo;

use anyhow::Context;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_driver_vfio::{VfioPlatform, find};
use dmus_interface::event::PointerWidth;
use dmus_interface::time::RefTime;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code: a song or a machine that will not do.
pub(crate) const LACKING: u8 = 3;
/// How much of the song passes between two signs of life.
const PROGRESS_STEP: RefTime = RefTime::from_secs(1);

/// A failure that has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A song that cannot be used, or something that this machine lacks.
    #[error("{0}")]
    Unusable(String),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Unusable(_) => LACKING,
            Self::Interrupted => 130,
        }
    }
}

/// Bytes of the pointers in events, as an option has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Width {
    #[value(name = "4")]
    Four,
    #[default]
    #[value(name = "8")]
    Eight,
}

impl From<Width> for PointerWidth {
    fn from(width: Width) -> Self {
        match width {
            Width::Four => Self::Four,
            Width::Eight => Self::Eight,
        }
    }
}

/// Opens the card, and enables it.
pub(crate) fn open(device: Option<&str>, width: PointerWidth) -> anyhow::Result<Card<VfioPlatform>> {
    let address = find(device)?;
    Card::open(VfioPlatform::open(&address)?, width).with_context(|| format!("the card {address}"))
}

/// Set when the user, or the system, wants this program to end. A second signal ends it at once; the kernel resets the
/// card then.
pub(crate) fn interruption() -> anyhow::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&asked)))
            .context("cannot handle signals")?;
    }
    Ok(asked)
}

/// A line on standard output. That nobody reads it is no reason to end.
pub(crate) fn print(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The same for a program that started this one, which knows its lines by how they begin.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    print(format_args!("dmus: {line}"));
}

/// Why this program ends, for whoever started it. A service manager shows it as the unit's status, too, and puts
/// standard error onto the console.
pub(crate) fn complain(error: &anyhow::Error) {
    match tell_manager(&format!("{error:#}"), false) {
        true => eprintln!("dmusd: {error:#}"),
        false => say(format_args!("error: {error:#}")),
    }
}

/// Tells the service manager that started this program, if one did, how it is, and whether it does its work now. False
/// if there is none.
pub(crate) fn tell_manager(status: &str, ready: bool) -> bool {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    let status = NotifyState::Status(status);
    let told = if ready { sd_notify::notify(&[NotifyState::Ready, status]) } else { sd_notify::notify(&[status]) };
    // Without it a manager waits, and then says so itself.
    told.is_ok()
}

/// Tells how far it is, a line a second of stream time, and asks for an early end once somebody has `asked` for it.
pub(crate) fn signs_of_life(asked: &AtomicBool) -> impl FnMut(RefTime) -> ControlFlow<()> {
    say(format_args!("progress 0"));
    let mut next = PROGRESS_STEP;
    move |now| {
        if now >= next {
            say(format_args!("progress {}", now.0 / 10_000));
            next = now.saturating_add(PROGRESS_STEP);
        }
        match asked.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// What became of everything that was put into some streams of one configuration.
pub(crate) fn say_played<'s, 'c: 's>(
    streams: impl Iterator<Item = &'s RenderStream<'c, VfioPlatform>> + Clone,
    config: StreamConfig,
) {
    let sum = |count: &dyn Fn(&RenderStream<'_, VfioPlatform>) -> u64| streams.clone().map(count).sum::<u64>();
    say(format_args!(
        "played submitted={} presented={} late={} rejected={} discarded={} slots={} slots_free={} buffers={} \
            buffers_free={}",
        sum(&|stream| stream.allocator().counts().submitted),
        sum(&|stream| stream.allocator().counts().presented),
        sum(&|stream| stream.allocator().counts().late),
        sum(&|stream| stream.allocator().counts().rejected),
        sum(&|stream| stream.allocator().counts().discarded),
        sum(&|_| config.slots.into()),
        sum(&|stream| stream.allocator().free_slots() as u64),
        sum(&|_| config.buffers.into()),
        sum(&|stream| stream.allocator().free_buffers() as u64),
    ));
}
