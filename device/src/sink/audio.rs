//! The host's sound device, live.
//!
//! Fed by the engine; feeds the device's callback through a ring without locks. The device takes audio by its own
//! clock: where it runs ahead of the master clock, or the engine is held up, it runs dry now and then, and where it
//! runs behind, blocks are dropped. Both are counted.

use super::{CHANNELS, Losses, Sink, SinkError};
use crate::identity::SAMPLE_RATE;
use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Samples of the ring: 160 ms.
const RING: usize = SAMPLE_RATE as usize * CHANNELS * 160 / 1000;
/// Samples that a device which ran dry waits for before it plays on: 40 ms, so that it does not run dry at once again.
const HEAD_START: usize = SAMPLE_RATE as usize * CHANNELS * 40 / 1000;

/// See the module.
pub struct AudioSink {
    producer: Producer<i16>,
    health: Arc<Health>,
    dropped: u64,
    _stream: cpal::Stream,
}

/// What the device's threads tell.
#[derive(Default)]
struct Health {
    underruns: AtomicU64,
    lost: AtomicBool,
}

impl AudioSink {
    /// Starts the default device, with silence.
    pub fn open() -> Result<Self, SinkError> {
        let failed = |why: String| SinkError::Device { why };
        let none = "there is none; attach one, start the sound server, or use another --sink";
        let device = cpal::default_host().default_output_device().ok_or_else(|| failed(none.into()))?;
        let config = cpal::StreamConfig {
            channels: CHANNELS as u16,
            sample_rate: SAMPLE_RATE,
            buffer_size: cpal::BufferSize::Default,
        };
        let (producer, consumer) = RingBuffer::new(RING);
        let health = Arc::new(Health::default());
        let (player_health, device_health) = (Arc::clone(&health), Arc::clone(&health));
        let mut player = Player { consumer, playing: false, played: false, health: player_health };
        let told = move |error: cpal::Error| match error.kind() {
            cpal::ErrorKind::Xrun => _ = device_health.underruns.fetch_add(1, Ordering::Relaxed),
            cpal::ErrorKind::DeviceNotAvailable | cpal::ErrorKind::StreamInvalidated => {
                tracing::error!("the sound device is lost: {error}; its audio is dropped");
                device_health.lost.store(true, Ordering::Relaxed);
            }
            _ => tracing::warn!("sound device: {error}"),
        };
        let fill = move |out: &mut [i16], _: &cpal::OutputCallbackInfo| player.fill(out);
        let stream = device.build_output_stream(config, fill, told, None).and_then(|stream| {
            stream.play()?;
            Ok(stream)
        });
        let advice = "it must take 48 kHz, stereo, 16 bits; attach one, start the sound server, or use another --sink";
        let stream = stream.map_err(|error| failed(format!("{error}; {advice}")))?;
        Ok(Self { producer, health, dropped: 0, _stream: stream })
    }
}

impl Sink for AudioSink {
    fn ready(&mut self) -> bool {
        self.producer.slots() >= RING / 2 || self.health.lost.load(Ordering::Relaxed)
    }

    fn write(&mut self, frames: &[i16]) {
        match self.producer.write_chunk_uninit(frames.len()) {
            Ok(chunk) => _ = chunk.fill_from_iter(frames.iter().copied()),
            Err(_) => self.dropped += (frames.len() / CHANNELS) as u64,
        }
    }

    fn losses(&self) -> Losses {
        Losses { dropped: self.dropped, underruns: self.health.underruns.load(Ordering::Relaxed) }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The device's side of the ring.
struct Player {
    consumer: Consumer<i16>,
    playing: bool,
    played: bool,
    health: Arc<Health>,
}

impl Player {
    /// What the device plays next: no waiting, no memory, no locks. Running dry counts when there is more: the end of a
    /// song is none.
    fn fill(&mut self, out: &mut [i16]) {
        let there = self.consumer.slots();
        if !self.playing && there >= HEAD_START {
            self.health.underruns.fetch_add(u64::from(self.played), Ordering::Relaxed);
            self.playing = true;
            self.played = true;
        }
        let count = if self.playing { there.min(out.len()) } else { 0 };
        let (sound, silence) = out.split_at_mut(count);
        if let Ok(chunk) = self.consumer.read_chunk(count) {
            let (first, second) = chunk.as_slices();
            sound[..first.len()].copy_from_slice(first);
            sound[first.len()..].copy_from_slice(second);
            chunk.commit_all();
        }
        self.playing &= silence.is_empty();
        silence.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_ran_dry_waits_for_a_head_start_and_is_counted_when_it_goes_on() {
        let (mut producer, consumer) = RingBuffer::new(RING);
        let health = Arc::new(Health::default());
        let mut player = Player { consumer, playing: false, played: false, health: Arc::clone(&health) };
        let underruns = || health.underruns.load(Ordering::Relaxed);
        let mut put = |count| producer.write_chunk_uninit(count).expect("room").fill_from_iter(1i16..);
        let mut out = [9; 1000];

        put(HEAD_START - 2);
        player.fill(&mut out);
        assert_eq!(out, [0; 1000]);
        put(2);
        player.fill(&mut out);
        assert!(out.iter().zip(1..).all(|(sample, expected)| *sample == expected));
        assert_eq!(underruns(), 0);

        // It plays what is left to the last sample, and silence after.
        for _ in 0..HEAD_START / 1000 {
            out.fill(9);
            player.fill(&mut out);
        }
        assert_eq!(out[HEAD_START % 1000..], [0; 1000][HEAD_START % 1000..]);
        assert!(out[..HEAD_START % 1000].iter().all(|sample| *sample > 0));
        player.fill(&mut out);
        assert_eq!((out, underruns()), ([0; 1000], 0));

        put(HEAD_START);
        player.fill(&mut out);
        assert_eq!((out[0], underruns()), (1, 1));
    }

    #[test]
    fn without_a_device_there_is_an_error_that_says_what_to_do() {
        // A machine that has one plays a moment of silence.
        if let Err(error) = AudioSink::open() {
            assert!(error.to_string().contains("use another --sink"), "{error}");
        }
    }
}
