//! A recording in memory, and its replay.
//!
//! Fed by a card that records; feeds tests that compare a run with its replay, or with another run.

use anyhow::ensure;
use dmus_card::bank::Bank;
use dmus_card::capsule::{Capsule, Ended, Listener, Run};
use dmus_card::sink::Sink;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

/// What a card has recorded so far. Clones are of the same one.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    /// One that was kept.
    pub fn of(file: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(file)))
    }

    /// A capsule's file.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().map(|file| file.clone()).unwrap_or_default()
    }

    /// Makes the whole run again.
    ///
    /// # Errors
    /// The recording is no capsule, or does not go on as the card does, or ends early.
    pub fn replay(
        &self,
        bank: &Arc<Bank>,
        sink: Box<dyn Sink>,
        listener: Option<&mut dyn Listener>,
    ) -> anyhow::Result<Run> {
        let capsule = Capsule::open(Cursor::new(self.bytes()))?;
        let mut run = capsule.replay(Arc::clone(bank), sink, None, listener, |_| ())?;
        std::mem::replace(&mut run.output, Ok(()))?;
        ensure!(run.ended == Ended::Whole, "the replay ended otherwise: {:?}", run.ended);
        Ok(run)
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
