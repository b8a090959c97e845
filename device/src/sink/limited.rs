//! A sink that takes so much audio and no more: a guest can grant years at once, and a file would take all of them.
//!
//! Fed by the engine; feeds another sink.

use super::{CHANNELS, Losses, Sink, SinkError};
use crate::identity::SAMPLE_RATE;
use std::num::NonZeroU32;

/// See the module.
pub struct LimitedSink {
    sink: Box<dyn Sink>,
    seconds: NonZeroU32,
    /// Samples of both channels that may still come.
    left: u64,
    dropped: u64,
}

impl LimitedSink {
    /// Passes on so many seconds of audio. What comes then is dropped, and counted.
    pub fn new(sink: Box<dyn Sink>, seconds: NonZeroU32) -> Self {
        let left = u64::from(seconds.get()) * u64::from(SAMPLE_RATE) * CHANNELS as u64;
        Self { sink, seconds, left, dropped: 0 }
    }
}

impl Sink for LimitedSink {
    fn ready(&mut self) -> bool {
        self.left == 0 || self.sink.ready()
    }

    fn write(&mut self, frames: &[i16]) {
        let (taken, over) = frames.split_at(usize::try_from(self.left).unwrap_or(usize::MAX).min(frames.len()));
        self.left -= taken.len() as u64;
        if !taken.is_empty() {
            self.sink.write(taken);
        }
        if self.dropped == 0 && !over.is_empty() {
            tracing::warn!("{} s of audio (--max-audio) are full: the card goes on without any", self.seconds);
        }
        self.dropped += (over.len() / CHANNELS) as u64;
    }

    fn pause(&mut self) {
        self.sink.pause();
    }

    fn losses(&self) -> Losses {
        let Losses { dropped, underruns } = self.sink.losses();
        Losses { dropped: dropped + self.dropped, underruns }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.sink.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A sink that never has room.
    struct Full(Arc<Mutex<Vec<i16>>>);

    impl Sink for Full {
        fn ready(&mut self) -> bool {
            false
        }

        fn write(&mut self, frames: &[i16]) {
            self.0.lock().expect("lock").extend_from_slice(frames);
        }

        fn losses(&self) -> Losses {
            Losses { dropped: 3, underruns: 4 }
        }

        fn finish(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
    }

    #[test]
    fn the_sample_at_the_limit_is_the_last_and_time_waits_for_nobody_then() {
        let taken = Arc::default();
        let mut sink = LimitedSink::new(Box::new(Full(Arc::clone(&taken))), NonZeroU32::MIN);
        let audio: Vec<i16> = (0..SAMPLE_RATE * 2 - 2).map(|sample| sample as i16).collect();
        sink.write(&audio);
        assert!(!sink.ready());
        for _ in 0..2 {
            sink.write(&[1, 2, 3, 4]);
            assert!(sink.ready());
        }
        assert_eq!(*taken.lock().expect("lock"), [&audio[..], &[1, 2]].concat());
        assert_eq!(sink.losses(), Losses { dropped: 3 + 3, underruns: 4 });
    }
}
