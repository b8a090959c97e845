//! How a card sounds as its user has set it, whatever guests ask for.
//!
//! Fed by the command lines of `dmus-card` and `dmus-run`; read by the engine and the offline renderer, and kept in
//! recordings.

use std::ffi::OsString;
use std::ops::RangeInclusive;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args)]
pub struct Sound {
    /// Louder, or softer, by so many decibels (-60 to 24). What is too loud is clamped, but in f32.
    #[arg(long, value_name = "DB", default_value_t = 0.0, allow_negative_numbers = true, value_parser = gain)]
    pub gain: f32,
    /// Whether there is reverb.
    #[arg(long, value_enum, default_value = "on")]
    pub reverb: Switch,
    /// Whether there is chorus.
    #[arg(long, value_enum, default_value = "on")]
    pub chorus: Switch,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// As guests set it.
    On,
    /// Not at all.
    Off,
}

impl Switch {
    /// From a bit.
    pub fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// As a card is if nobody says otherwise.
impl Default for Sound {
    fn default() -> Self {
        Self { gain: 0.0, reverb: Switch::On, chorus: Switch::On }
    }
}

impl Sound {
    /// What samples are multiplied with.
    pub fn factor(&self) -> f32 {
        if self.gain == 0.0 { 1.0 } else { libm::exp10f(self.gain / 20.0) }
    }

    /// Whether there may be reverb, and chorus.
    pub(crate) fn effects(&self) -> (bool, bool) {
        (self.reverb == Switch::On, self.chorus == Switch::On)
    }

    /// The words by which a command line says so.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if self.gain != 0.0 {
            words.push(format!("--gain={}", self.gain).into());
        }
        for (name, switch) in [("--reverb", self.reverb), ("--chorus", self.chorus)] {
            if switch == Switch::Off {
                words.push(format!("{name}=off").into());
            }
        }
        words
    }
}

/// Gains that can be set, dB.
pub(crate) const GAINS: RangeInclusive<f32> = -60.0..=24.0;

fn gain(text: &str) -> Result<f32, &'static str> {
    text.parse().ok().filter(|gain| GAINS.contains(gain)).ok_or("expected decibels, from -60 to 24")
}
