//! What this card is: rates, sizes and latencies that registers show and the engine keeps.
//!
//! Fed by nothing but the choice of clock; feeds the registers, the engine and the offline renderer.

use dmus_interface::time::RefTime;

/// Samples per second.
pub const SAMPLE_RATE: u32 = 48_000;
/// Channel groups of each render stream.
pub(crate) const CHANNEL_GROUPS: u16 = 16;
/// Voices of each render stream.
pub(crate) const VOICES: usize = 256;
/// What an event must be ahead of the master clock, at least, to be on time on an idle machine.
pub(crate) const LATENCY: RefTime = RefTime(20 * 10_000);
/// How far ahead the card wants events at most.
pub(crate) const PREFETCH: RefTime = RefTime(500 * 10_000);

/// Which clock drives the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// Time moves only as far as the driver grants, as fast as the card can render.
    Virtual,
    /// The host's monotonic clock.
    Realtime,
}
