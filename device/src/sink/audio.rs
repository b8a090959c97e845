//! The host's sound device, live: through its sound server (PipeWire, PulseAudio), or through ALSA where there is none.
//!
//! Fed by the engine, or by the offline renderer; feeds a `Device`, which is a socket or a pipe that is opened before
//! the sandbox. In virtual time the device paces the card, and plays its very samples. In realtime the host's clock
//! paces the card while the device plays by its own crystal: the samples are played a little faster or slower then, by
//! what its buffer says (`steering`).

mod aplay;
mod pulse;
mod steering;

use super::{CHANNELS, Losses, Sink, SinkError};
use crate::identity::{ClockMode, SAMPLE_RATE};
use aplay::Aplay;
use pulse::Pulse;
use std::time::{Duration, Instant};
use steering::Steering;

/// Bytes of a stereo frame.
const FRAME: usize = CHANNELS * size_of::<i16>();
/// Frames that the device is given at once, at least: 10 ms.
const PACKET: usize = frames_of(10);
/// Frames between two measurements of the device's buffer: 100 ms.
const MEASURE: usize = frames_of(100);
/// Frames that wait here for a device that takes none: 160 ms. What comes then is dropped.
const MOST: usize = frames_of(160);
/// How long the end of the audio waits for its being played.
const PATIENCE: Duration = Duration::from_secs(5);

/// Frames of so many milliseconds.
const fn frames_of(milliseconds: usize) -> usize {
    SAMPLE_RATE as usize * milliseconds / 1000
}

/// What plays. No call waits. An error says that the device is lost, and why.
trait Device: Send {
    /// Takes as many whole frames of these as there is room for, and says how many bytes; and hears how it goes.
    fn play(&mut self, bytes: &[u8]) -> Result<usize, String>;

    /// Asks how full the buffer is, with so many frames still waiting here.
    fn measure(&mut self, waiting: usize) -> Result<(), String>;

    /// The answer, once: frames in the buffer and waiting, more than there should be.
    fn surplus(&mut self) -> Option<i64>;

    /// Whether it has run dry since this was last asked.
    fn ran_dry(&mut self) -> bool;

    /// Has it play what it was given to the end, and says whether it has. Nothing is played after.
    fn drain(&mut self) -> Result<bool, String>;
}

/// See the module.
pub struct AudioSink {
    device: Box<dyn Device>,
    /// In realtime.
    steering: Option<Steering>,
    /// Samples that the device has not taken yet.
    waiting: Vec<u8>,
    unmeasured: usize,
    since_measured: usize,
    /// The device may run dry: nothing has played yet, or nothing plays any more.
    paused: bool,
    dry: bool,
    losses: Losses,
    lost: Option<SinkError>,
    is_lost: bool,
}

impl AudioSink {
    /// Connects to the sound server that the environment names, or to the user's, or plays through ALSA where there is
    /// none. The device is silent until it gets audio.
    ///
    /// # Errors
    /// [`SinkError::Device`] if nothing can play.
    pub fn open(clock: ClockMode) -> Result<Self, SinkError> {
        let failed = |why: String| SinkError::Device { why };
        let device: Box<dyn Device> = match Pulse::open(clock) {
            Ok(pulse) => Box::new(pulse),
            Err(pulse::Refusal::Refused(why)) => return Err(failed(why)),
            Err(pulse::Refusal::Nobody(looked)) => match Aplay::start(clock) {
                Ok(aplay) => Box::new(aplay),
                Err(why) => {
                    return Err(failed(format!(
                        "no PipeWire or PulseAudio listens at {looked}, and without them {why}; start the sound \
                         server, name its socket in PULSE_SERVER, or use another --sink or a file"
                    )));
                }
            },
        };
        Ok(Self::new(device, clock))
    }

    fn new(device: Box<dyn Device>, clock: ClockMode) -> Self {
        Self {
            device,
            steering: (clock == ClockMode::Realtime).then(Steering::new),
            waiting: Vec::with_capacity(MOST * FRAME),
            unmeasured: 0,
            since_measured: 0,
            paused: true,
            dry: false,
            losses: Losses::default(),
            lost: None,
            is_lost: false,
        }
    }

    /// What the device answered; or it is lost.
    fn answer<T: Default>(&mut self, answer: Result<T, String>) -> T {
        answer.unwrap_or_else(|why| {
            let error = SinkError::Device { why };
            tracing::error!("{error}; the rest of the audio is dropped");
            self.lost = Some(error);
            self.is_lost = true;
            self.drop_waiting();
            T::default()
        })
    }

    fn drop_waiting(&mut self) {
        self.losses.dropped += (self.waiting.len() / FRAME) as u64;
        self.waiting.clear();
    }

    /// Gives the device what it takes.
    fn push(&mut self) {
        if self.is_lost {
            return;
        }
        let taken = self.device.play(&self.waiting);
        let taken = self.answer(taken).min(self.waiting.len());
        self.waiting.drain(..taken);
        self.dry |= self.device.ran_dry();
    }

    /// Has the steering know how full the buffer is.
    fn measure(&mut self, frames: usize) {
        self.unmeasured += frames;
        self.since_measured += frames;
        if let (Some(surplus), Some(steering)) = (self.device.surplus(), &mut self.steering) {
            let seconds = |frames: f64| frames / f64::from(SAMPLE_RATE);
            steering.measured(seconds(surplus as f64), seconds(self.since_measured as f64));
            self.since_measured = 0;
        }
        if self.unmeasured >= MEASURE {
            self.unmeasured = 0;
            let measured = self.device.measure(self.waiting.len() / FRAME);
            self.answer(measured);
        }
    }

    /// Audio comes after the device has run dry.
    fn revive(&mut self) {
        self.dry = false;
        self.losses.underruns += u64::from(!self.paused);
        self.since_measured = 0;
        if let Some(steering) = &mut self.steering {
            steering.restart();
        }
    }
}

impl Sink for AudioSink {
    fn ready(&mut self) -> bool {
        if self.steering.is_none() {
            self.push();
        }
        self.steering.is_some() || self.waiting.is_empty()
    }

    fn write(&mut self, frames: &[i16]) {
        let count = frames.len() / CHANNELS;
        if self.paused {
            // What the device has to say of the pause.
            self.push();
        }
        if self.dry {
            self.revive();
        }
        self.paused = false;
        if self.is_lost || self.waiting.len() / FRAME >= MOST {
            self.losses.dropped += count as u64;
            self.push();
            return;
        }
        match &mut self.steering {
            None => self.waiting.extend(frames.iter().flat_map(|sample| sample.to_le_bytes())),
            Some(steering) => {
                steering.play(frames, &mut self.waiting);
                self.measure(count);
            }
        }
        if self.waiting.len() / FRAME >= PACKET {
            self.push();
        }
    }

    fn pause(&mut self) {
        self.push();
        self.paused = true;
    }

    fn losses(&self) -> Losses {
        self.losses
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_lost && Instant::now() < deadline {
            // A device that drains takes no more, and may have ended before it is looked at again.
            if !self.waiting.is_empty() {
                self.push();
            } else {
                let played = self.device.drain();
                if self.answer(played) {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.drop_waiting();
        let Losses { dropped, underruns } = self.losses;
        if underruns > 0 || dropped > 0 {
            tracing::warn!("the sound device ran dry {underruns} times, and {dropped} frames of audio were dropped");
        }
        self.lost.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A device that takes as much as it is let, and shows what it took.
    #[derive(Default)]
    struct Bench {
        room: usize,
        taken: Vec<u8>,
        surplus: Option<i64>,
        dry: bool,
        gone: bool,
        /// Times that it was asked to drain: it does by the second.
        drained: u32,
    }

    struct Fake(Arc<Mutex<Bench>>);

    impl Device for Fake {
        fn play(&mut self, bytes: &[u8]) -> Result<usize, String> {
            let mut bench = self.0.lock().expect("lock");
            if bench.gone || bench.drained > 0 {
                return Err("it has gone".into());
            }
            let count = bytes.len().min(bench.room);
            bench.room -= count;
            bench.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn measure(&mut self, waiting: usize) -> Result<(), String> {
            let mut bench = self.0.lock().expect("lock");
            bench.surplus = Some(waiting as i64);
            Ok(())
        }

        fn surplus(&mut self) -> Option<i64> {
            self.0.lock().expect("lock").surplus.take()
        }

        fn ran_dry(&mut self) -> bool {
            std::mem::take(&mut self.0.lock().expect("lock").dry)
        }

        fn drain(&mut self) -> Result<bool, String> {
            let mut bench = self.0.lock().expect("lock");
            bench.drained += 1;
            Ok(bench.drained == 2)
        }
    }

    fn sink(clock: ClockMode, room: usize) -> (AudioSink, Arc<Mutex<Bench>>) {
        let bench = Arc::new(Mutex::new(Bench { room, ..Bench::default() }));
        (AudioSink::new(Box::new(Fake(Arc::clone(&bench))), clock), bench)
    }

    #[test]
    fn in_virtual_time_the_device_paces_the_card_and_gets_its_very_samples() {
        let (mut sink, bench) = sink(ClockMode::Virtual, 1000 * FRAME);
        let samples = crate::sink::tests::music(3000);
        let mut written = 0;
        for block in samples.chunks(960 * CHANNELS) {
            while !sink.ready() {
                bench.lock().expect("lock").room += 100 * FRAME;
            }
            sink.write(block);
            written += block.len() / CHANNELS;
            assert!(bench.lock().expect("lock").taken.len() <= written * FRAME);
        }
        bench.lock().expect("lock").room = usize::MAX;
        assert!(sink.finish().is_ok());
        let bench = bench.lock().expect("lock");
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert!(bench.drained == 2 && bench.taken == bytes);
        assert_eq!(sink.losses(), Losses::default());
    }

    #[test]
    fn in_realtime_nothing_waits_and_what_has_no_room_is_dropped_in_whole_blocks() {
        let (mut sink, _) = sink(ClockMode::Realtime, 0);
        for _ in 0..100 {
            assert!(sink.ready());
            sink.write(&[1; 96 * CHANNELS]);
        }
        let kept = sink.waiting.len() / FRAME;
        assert!((MOST..MOST + 96).contains(&kept), "{kept}");
        assert_eq!(sink.losses().dropped % 96, 0);
        // The filter keeps some frames.
        assert!((kept as u64 + sink.losses().dropped).abs_diff(9600) < 100);
    }

    #[test]
    fn running_dry_counts_when_more_comes_and_the_end_is_none() {
        for clock in [ClockMode::Virtual, ClockMode::Realtime] {
            let (mut sink, bench) = sink(clock, usize::MAX);
            let run_dry = || bench.lock().expect("lock").dry = true;
            let block = [1; PACKET * CHANNELS * 2];
            // Before its first audio it has none.
            run_dry();
            sink.write(&block);
            assert_eq!(sink.losses().underruns, 0);
            run_dry();
            sink.write(&block);
            sink.write(&block);
            sink.write(&block);
            assert_eq!(sink.losses().underruns, 1);
            run_dry();
            assert!(sink.finish().is_ok());
            assert_eq!(sink.losses().underruns, 1);
        }
    }

    #[test]
    fn a_pause_in_which_the_device_ran_dry_is_no_loss() {
        let (mut sink, bench) = sink(ClockMode::Realtime, usize::MAX);
        let block = [1; PACKET * CHANNELS * 2];
        sink.write(&block);
        sink.pause();
        assert!(sink.waiting.is_empty());
        bench.lock().expect("lock").dry = true;
        sink.write(&block);
        sink.write(&block);
        assert_eq!(sink.losses().underruns, 0);
    }

    #[test]
    fn a_device_that_goes_away_is_reported_once_and_holds_nothing_up() {
        for clock in [ClockMode::Virtual, ClockMode::Realtime] {
            let (mut sink, bench) = sink(clock, 0);
            sink.write(&[1; 960 * CHANNELS]);
            bench.lock().expect("lock").gone = true;
            sink.write(&[1; 960 * CHANNELS]);
            assert!(sink.ready());
            sink.write(&[1; 960 * CHANNELS]);
            assert!(sink.losses().dropped > 2 * 960 + 900, "{:?}", sink.losses());
            let error = sink.finish().expect_err("it has gone").to_string();
            assert!(error.contains("it has gone"), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_off_is_matched_by_what_it_is_given() {
        for off in [-200e-6, 200e-6] {
            let (mut sink, bench) = sink(ClockMode::Realtime, usize::MAX);
            let mut level = 0.0;
            let (mut lowest, mut highest) = (f64::MAX, 0.0f64);
            let silence = [0; 240 * CHANNELS];
            let target = frames_of(80) as f64;
            for block in 0..200 * 60 {
                sink.write(&silence);
                let mut bench = bench.lock().expect("lock");
                level += (bench.taken.len() / FRAME) as f64;
                bench.taken.clear();
                // It begins to play when it has what it should have.
                if block >= 16 {
                    level -= 240.0 * (1.0 + off);
                    let all = level + (sink.waiting.len() / FRAME) as f64;
                    (lowest, highest) = (lowest.min(all), highest.max(all));
                }
                if let Some(waiting) = bench.surplus {
                    bench.surplus = Some(waiting + (level - target) as i64);
                }
            }
            // Unmatched, 576 frames would be too many or too few after a minute.
            assert!(lowest > target - 450.0 && highest < target + 450.0, "{off}: {lowest} to {highest}");
            assert_eq!(sink.losses(), Losses::default());
        }
    }
}
