//! A wave sink stream: the PCM that the card renders, and the sample clock that goes with it (`ISynthSinkDMus`).
//!
//! Fed by the card with a period for each slot that this posts; feeds the application with [`Rendered`] periods, in their order. A period is copied out once
//! and its slot is posted again at once; with the virtual clock, a card whose periods nobody takes stands still.

use crate::{CaptureStream, Card, DriverError, Platform, StreamConfig};
use core::time::Duration;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::sample_clock::SampleClock;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_interface::wave::WaveFormat;

/// A period of PCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendered<'s> {
    /// Stream time at which its first frame plays.
    pub time: RefTime,
    /// Bytes before it since STOP; a gap means that periods were lost for want of posted slots.
    pub byte_position: u64,
    /// Whole frames in the stream's format.
    pub bytes: &'s [u8],
}

/// An open wave sink stream of a card. Dropping it stops and closes it.
#[derive(Debug)]
pub struct WaveStream<'c, P: Platform> {
    posted: CaptureStream<'c, P>,
    card: &'c Card<P>,
    index: usize,
    format: WaveFormat,
    clock: SampleClock,
    /// The stream is in RUN, and no period of this RUN has come yet: the next synchronisation is the first.
    starting: bool,
    /// Master time less stream time in this RUN.
    base: RefTime,
}

impl<'c, P: Platform> WaveStream<'c, P> {
    /// `NewStream`: creates wave sink stream number `index` of the card. A period is a buffer: about 20 ms of frames is usual.
    pub fn open(
        card: &'c Card<P>,
        index: usize,
        config: StreamConfig,
        format: WaveFormat,
    ) -> Result<Self, DriverError> {
        if WaveFormat::decode(format.rate, format.value()) != Ok(format) {
            return Err(DriverError::BadConfig(
                "a wave sink has 22,050, 44,100, 48,000 or 96,000 Hz, and 1 or 2 channels",
            ));
        }
        if index < dmus_interface::pci::STREAMS {
            write_format(card, index, format);
        }
        let posted = CaptureStream::open_as(card, index, config, Type::WaveSink)?;
        let clock = SampleClock::new(format.rate);
        Ok(Self { posted, card, index, format, clock, starting: false, base: RefTime::ZERO })
    }

    /// The stream's format.
    pub fn format(&self) -> WaveFormat {
        self.format
    }

    /// `SetState`. Returns when the new state is in force. From ACQUIRE on, slots are posted. PAUSE ends the period under way, which is shorter then.
    pub fn set_state(&mut self, state: State) -> Result<(), DriverError> {
        let was = self.posted.state();
        self.posted.set_state(state)?;
        if state == State::Run && was != Some(State::Run) {
            self.base = self.posted.time_base();
            self.starting = true;
        }
        Ok(())
    }

    /// The next period; `None` when there is none yet ([`Self::wait`]). Each synchronises the sample clock with the master clock.
    ///
    /// # Errors
    /// What the card did wrong; the slot is the driver's again and the stream goes on.
    pub fn receive(&mut self) -> Result<Option<Rendered<'_>>, DriverError> {
        let Some(period) = self.posted.receive()? else {
            return Ok(None);
        };
        if period.incomplete || !period.bytes.len().is_multiple_of(self.format.frame_bytes()) {
            return Err(DriverError::BadPeriod);
        }
        // Stream time goes on where PAUSE left it, so a period that was under way then fits the clock of the next RUN, too.
        let master = period.time.saturating_add(self.base);
        let first = self.format.frame_at(period.byte_position);
        self.clock.sync_to_master(master, first, core::mem::take(&mut self.starting));
        Ok(Some(Rendered { time: period.time, byte_position: period.byte_position, bytes: period.bytes }))
    }

    /// `SyncToMaster`: at master time `time`, frame number `sample` since STOP plays. `start` (fStart) is for the first call after entering RUN: that frame is
    /// sample 0 of the sample clock then. [`Self::receive`] calls it with each period.
    pub fn sync_to_master(&mut self, time: RefTime, sample: SampleTime, start: bool) {
        self.clock.sync_to_master(time, sample, start);
    }

    /// `SampleToRefTime`: the master time of a sample, counted from the first that was received in this RUN.
    pub fn sample_to_ref_time(&self, sample: SampleTime) -> RefTime {
        self.clock.sample_to_ref_time(sample)
    }

    /// `RefTimeToSample`: the first sample at or after a master time, counted from the first that was received in this RUN.
    pub fn ref_time_to_sample(&self, time: RefTime) -> SampleTime {
        self.clock.ref_time_to_sample(time)
    }

    /// Sleeps until a period has come, the grant is reached, or the limit has passed. False only if the limit passed.
    pub fn wait(&self, limit: Duration) -> bool {
        self.posted.wait(limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        self.posted.time_base()
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        self.posted.state()
    }

    /// Slots and buffers that are at home.
    pub fn at_home(&self) -> (usize, usize) {
        self.posted.at_home()
    }

    /// After [`Card::reset`]: takes home whatever the card held, and creates the stream anew, in STOP.
    pub fn restore(&mut self) -> Result<(), DriverError> {
        write_format(self.card, self.index, self.format);
        self.clock = SampleClock::new(self.format.rate);
        self.starting = false;
        self.posted.restore()
    }
}

/// Before the stream is created.
fn write_format<P: Platform>(card: &Card<P>, index: usize, format: WaveFormat) {
    card.write(stream::at(index, stream::WAVE_RATE), format.rate);
    card.write(stream::at(index, stream::WAVE_FORMAT), format.value());
}
