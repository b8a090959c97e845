//! QEMU's own sound device, virtio-sound: where the guest's audio goes on to.
//!
//! Fed by `main` with the PCM of a wave sink stream; feeds whatever QEMU's `-audiodev` names. It plays by its own
//! clock, in real time: the caller waits.

use alloc::collections::VecDeque;
use core::time::Duration;

use anyhow::{anyhow, ensure};
use virtio_drivers::device::sound::{PcmFeatures, PcmFormat, PcmRate, VirtIOSound};
use virtio_drivers::transport::pci::PciTransport;

use crate::time;
use crate::virtio::{self, Memory};

/// 10 ms of 48 kHz, 16-bit, stereo.
pub(crate) const PERIOD: usize = 1920;
/// Periods that the device holds.
const HELD: usize = 4;
/// Silence after the end: a period that the device has taken is not yet written.
const SILENCE: usize = 10;
/// How long a period may take, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// virtio-sound.
const DEVICES: [u16; 1] = [0x1059];

/// A sound device that plays.
pub(crate) struct Speaker {
    device: VirtIOSound<Memory, PciTransport>,
    stream: u32,
    /// What the device holds, the oldest first.
    held: VecDeque<u16>,
    /// Bytes of a period that is not complete.
    begun: [u8; PERIOD],
    len: usize,
    started: bool,
}

impl Speaker {
    /// Finds the device and prepares its first output stream.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let transport = virtio::open(&DEVICES, "no sound device: give QEMU -device virtio-sound-pci,audiodev=ID")?;
        let fault = |error| anyhow!("sound device: {error}");
        let mut device = VirtIOSound::new(transport).map_err(fault)?;
        let outputs = device.output_streams().map_err(fault)?;
        let stream = *outputs.first().ok_or_else(|| anyhow!("the sound device plays nothing"))?;
        let (buffer, period) = ((HELD * PERIOD) as u32, PERIOD as u32);
        device
            .pcm_set_params(stream, buffer, period, PcmFeatures::empty(), 2, PcmFormat::S16, PcmRate::Rate48000)
            .map_err(fault)?;
        device.pcm_prepare(stream).map_err(fault)?;
        Ok(Self { device, stream, held: VecDeque::new(), begun: [0; PERIOD], len: 0, started: false })
    }

    /// Plays PCM of any length; waits while the device holds as much as it should.
    pub(crate) fn play(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PERIOD - self.len));
            self.begun[self.len..self.len + now.len()].copy_from_slice(now);
            self.len += now.len();
            bytes = later;
            if self.len == PERIOD {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Plays what is left, and silence until all of it is heard.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        for _ in 0..=SILENCE {
            self.begun[self.len..].fill(0);
            self.send()?;
        }
        self.start()?;
        while !self.held.is_empty() {
            self.take_back()?;
        }
        self.device.pcm_stop(self.stream).map_err(|error| anyhow!("sound device: {error}"))
    }

    fn send(&mut self) -> anyhow::Result<()> {
        if self.held.len() == HELD {
            self.start()?;
            self.take_back()?;
        }
        let sent = self.device.pcm_xfer_nb(self.stream, &self.begun);
        self.held.push_back(sent.map_err(|error| anyhow!("sound device: {error}"))?);
        self.len = 0;
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        if !core::mem::replace(&mut self.started, true) {
            self.device.pcm_start(self.stream).map_err(|error| anyhow!("sound device: {error}"))?;
        }
        Ok(())
    }

    /// Waits until the oldest period is played.
    fn take_back(&mut self) -> anyhow::Result<()> {
        let Some(token) = self.held.pop_front() else {
            return Ok(());
        };
        let deadline = time::now_ns() + PATIENCE;
        // The device's interrupts are not used: a look each half millisecond is far more often than a period ends.
        while let Err(error) = self.device.pcm_xfer_ok(token) {
            ensure!(error == virtio_drivers::Error::NotReady, "sound device: {error}");
            ensure!(time::now_ns() < deadline, "the sound device plays nothing for {} s", PATIENCE / 1_000_000_000);
            time::halt_until(Duration::from_micros(500).as_nanos() as u64, || false);
        }
        Ok(())
    }
}
