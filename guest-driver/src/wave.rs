//! A wave sink stream: the PCM that the card renders, and the sample clock that goes with it (`ISynthSinkDMus`).
//!
//! Fed by the card with a period for each slot that the stream core posts; feeds the application with these
//! [`Message`]s, in their order. Dropping one posts its slot again at the stream's next call; with the virtual clock, a
//! card whose periods nobody takes stands still.

use crate::stream::StreamCore;
use crate::{Card, DriverError, Message, Platform, StreamConfig};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::sample_clock::SampleClock;
use dmus_interface::time::{RefTime, SampleTime};
use dmus_interface::wave::WaveFormat;

/// An open wave sink stream of a card. Dropping it stops and closes it.
///
/// ```
/// use dmus_driver::{Card, StreamConfig, WaveStream};
/// use dmus_interface::event::PointerWidth;
/// use dmus_interface::regs::stream::State;
/// use dmus_interface::time::{RefTime, SampleTime};
/// use dmus_interface::wave::{Sample, WaveFormat};
/// use std::time::Duration;
///
/// let card = Card::open(dmus_tests::direct::Direct::new()?, PointerWidth::Eight)?;
/// let format = WaveFormat { rate: 44_100, channels: 2, sample: Sample::F32 };
/// let config = StreamConfig { buffer_size: 7056, ..StreamConfig::default() }; // 20 ms
/// let wave = WaveStream::open(&card, 1, config, format)?;
/// wave.set_state(State::Run)?;
/// card.grant(RefTime::from_secs(1));
/// let mut audio = vec![];
/// while audio.len() < 10 * 7056 {
///     assert!(wave.wait(Duration::from_secs(5)));
///     while let Some(period) = wave.receive()? {
///         assert_eq!(period.byte_position(), audio.len() as u64); // else some were lost
///         audio.extend(period.to_vec()); // dropping it posts its slot and buffer again
///     }
/// }
/// assert_eq!(wave.ref_time_to_sample(RefTime::from_secs(1)), SampleTime(44_100));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct WaveStream<'c, P: Platform> {
    core: StreamCore<'c, P>,
    format: WaveFormat,
    clock: RefCell<SampleClock>,
    /// The stream is in RUN, and no period of this RUN has come yet: the next synchronisation is the first.
    starting: Cell<bool>,
    /// Master time less stream time in this RUN.
    base: Cell<RefTime>,
}

impl<'c, P: Platform> WaveStream<'c, P> {
    /// `NewStream`: creates wave sink stream number `index` of the card. A period is a buffer: about 20 ms of frames is
    /// usual.
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
        let core = StreamCore::open(card, index, config, Type::WaveSink)?;
        let clock = RefCell::new(SampleClock::new(format.rate));
        Ok(Self { core, format, clock, starting: Cell::default(), base: Cell::default() })
    }

    /// The stream's format.
    pub fn format(&self) -> WaveFormat {
        self.format
    }

    /// `SetState`. Returns when the new state is in force. From ACQUIRE on, slots are posted. PAUSE ends the period
    /// under way, which is shorter then.
    pub fn set_state(&self, state: State) -> Result<(), DriverError> {
        let was = self.core.state();
        self.core.set_state(state)?;
        if state == State::Run && was != Some(State::Run) {
            self.base.set(self.core.time_base());
            self.starting.set(true);
        }
        Ok(())
    }

    /// The next period; `None` when there is none yet ([`Self::wait`]). Its time is the stream time at which its first
    /// frame plays, its data whole frames in the stream's format, its byte position the bytes before it since STOP: a
    /// gap means that periods were lost for want of posted slots. Each period synchronises the sample clock with the
    /// master clock.
    ///
    /// # Errors
    /// What the card did wrong; the slot is the driver's again and the stream goes on.
    pub fn receive(&self) -> Result<Option<Message<'_>>, DriverError> {
        let Some(period) = self.core.receive()? else {
            return Ok(None);
        };
        if period.is_incomplete() || !usize::from(period.event_bytes()).is_multiple_of(self.format.frame_bytes()) {
            return Err(DriverError::BadPeriod);
        }
        // Stream time goes on where PAUSE left it, so a period that was under way then fits the clock of the next RUN,
        // too.
        let master = period.time().saturating_add(self.base.get());
        let first = self.format.frame_at(period.byte_position());
        self.sync_to_master(master, first, self.starting.take());
        Ok(Some(period))
    }

    /// As [`crate::Allocator::settle`]: in STOP, with everything received.
    pub(crate) fn settle(&self) -> Result<(), DriverError> {
        self.core.allocator.settle()
    }

    /// Slots that came back as discarded, of those received.
    pub(crate) fn discarded(&self) -> u64 {
        self.core.allocator.counts().discarded
    }

    /// Slots in the pool: the most periods that are there at one time.
    pub fn slots(&self) -> usize {
        self.core.allocator.slots()
    }

    /// `SyncToMaster`: at master time `time`, frame number `sample` since STOP plays. `start` (fStart) is for the first
    /// call after entering RUN: that frame is sample 0 of the sample clock then. [`Self::receive`] calls it with each
    /// period.
    pub fn sync_to_master(&self, time: RefTime, sample: SampleTime, start: bool) {
        self.clock.borrow_mut().sync_to_master(time, sample, start);
    }

    /// `SampleToRefTime`: the master time of a sample, counted from the first that was received in this RUN.
    pub fn sample_to_ref_time(&self, sample: SampleTime) -> RefTime {
        self.clock.borrow().sample_to_ref_time(sample)
    }

    /// `RefTimeToSample`: the first sample at or after a master time, counted from the first that was received in this
    /// RUN.
    pub fn ref_time_to_sample(&self, time: RefTime) -> SampleTime {
        self.clock.borrow().ref_time_to_sample(time)
    }

    /// Sleeps until a period has come, the grant is reached, or the limit has passed. False only if the limit passed.
    pub fn wait(&self, limit: Duration) -> bool {
        self.core.wait(1, limit)
    }

    /// Master time at this stream's time zero, while it runs.
    pub fn time_base(&self) -> RefTime {
        self.core.time_base()
    }

    /// The state that is in force; `None` if the card has gone.
    pub fn state(&self) -> Option<State> {
        self.core.state()
    }

    /// Slots and buffers that are free.
    pub fn free_slots_and_buffers(&self) -> (usize, usize) {
        (self.core.allocator.free_slots(), self.core.allocator.free_buffers())
    }

    /// After [`Card::reset`]: recycles whatever the card held, and creates the stream anew, in STOP.
    pub fn restore(&self) -> Result<(), DriverError> {
        write_format(self.core.card, self.core.index, self.format);
        self.clock.replace(SampleClock::new(self.format.rate));
        self.starting.set(false);
        self.core.restore()
    }
}

/// Before the stream is created.
fn write_format<P: Platform>(card: &Card<P>, index: usize, format: WaveFormat) {
    card.write(stream::at(index, stream::WAVE_RATE), format.rate);
    card.write(stream::at(index, stream::WAVE_FORMAT), format.value());
}
