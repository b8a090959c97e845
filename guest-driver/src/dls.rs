//! Collections of instruments on their way into the card: what a song needs of one, as download chunks.
//!
//! Fed with a [`Collection`] that `dmus_dls` has read and with a song; feeds the [`Mailbox`] chunk by chunk, each wave
//! once and before the instruments that play it. So memory for DMA is needed for the largest wave, not for the
//! collection.
//!
//! ```
//! use dmus_driver::dls::{download_for, unload};
//! use dmus_driver::{Card, Mailbox};
//! use dmus_interface::event::PointerWidth;
//! use dmus_song::Song;
//!
//! let card = Card::open(dmus_tests::direct::Direct::new()?, PointerWidth::Eight)?;
//! let mut mailbox = Mailbox::open(&card)?;
//! let song = Song::parse(&dmus_tests::songs::busy(100))?;
//! let collection = dmus_card::bank::built_in(); // or Collection::read, from a file
//! let downloaded = download_for(&mut mailbox, &collection, song.messages())?;
//! assert!(!downloaded.instruments.is_empty() && !downloaded.waves.is_empty());
//! unload(&mut mailbox, &downloaded)?; // once it has been played
//! # Ok::<(), anyhow::Error>(())
//! ```

use crate::{DriverError, Mailbox, Platform};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
pub use dmus_dls::chunk::{instrument_chunk, wave_chunk};
use dmus_dls::{Collection, Instrument};
use dmus_interface::command::Status;
use dmus_interface::sysex::{self, Exclusive, Mode, PERCUSSION};
use dmus_song::TimedMessage;

const CHANNELS: usize = 16;

/// What selects an instrument: drums or not, bank (CC0 x 128 + CC32), program.
pub type Address = (bool, u16, u8);

/// What was downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Downloaded {
    /// Handles of the instruments.
    pub instruments: Vec<u32>,
    /// Handles of the waves.
    pub waves: Vec<u32>,
    /// Bytes of all chunks.
    pub bytes: usize,
}

/// The instruments that a song plays, with those that the card takes in their place if they are not there.
pub fn needed<'m>(messages: impl Iterator<Item = TimedMessage<'m>>) -> BTreeSet<Address> {
    let mut groups: BTreeMap<u16, (Mode, [Part; CHANNELS])> = BTreeMap::new();
    let as_after = |reset: Mode| (reset, core::array::from_fn(|channel| Part::new(channel, reset)));
    let mut needed = BTreeSet::new();
    for message in messages {
        let (mode, parts) = groups.entry(message.group).or_insert_with(|| as_after(Mode::default()));
        match *message.bytes {
            [0xF0, ..] => match sysex::parse(message.bytes) {
                Some(Exclusive::Reset(reset)) => (*mode, *parts) = as_after(reset),
                Some(Exclusive::DrumPart { channel, drum }) => parts[usize::from(channel & 15)].plays.0 = drum,
                _ => {}
            },
            [status @ 0xB0..=0xBF, 0, high @ 0..=127] => parts[usize::from(status & 15)].bank.0 = high,
            [status @ 0xB0..=0xBF, 32, low @ 0..=127] => parts[usize::from(status & 15)].bank.1 = low,
            [status @ 0xC0..=0xCF, program @ 0..=127] => {
                let part = &mut parts[usize::from(status & 15)];
                let (high, low) = part.bank;
                let drum = mode.is_drum_part(high, part.plays.0);
                part.plays = (drum, u16::from(high) << 7 | u16::from(low), program);
            }
            [status @ 0x90..=0x9F, _, 1..=127] => {
                let (drum, bank, program) = parts[usize::from(status & 15)].plays;
                needed.extend([(drum, bank, program), (drum, 0, program)]);
                if drum {
                    needed.insert((true, 0, 0));
                }
            }
            _ => {}
        }
    }
    needed
}

/// A channel of a song.
#[derive(Clone, Copy)]
struct Part {
    plays: Address,
    /// CC0 and CC32.
    bank: (u8, u8),
}

impl Part {
    fn new(channel: usize, mode: Mode) -> Self {
        let channel = channel as u8;
        Self { plays: (channel == PERCUSSION, 0, 0), bank: (mode.first_bank(channel), 0) }
    }
}

/// Downloads what a song needs of a collection. If the card refuses anything, nothing stays.
pub fn download_for<'m, P: Platform>(
    mailbox: &mut Mailbox<'_, P>,
    collection: &Collection,
    messages: impl Iterator<Item = TimedMessage<'m>>,
) -> Result<Downloaded, DriverError> {
    let needed = needed(messages);
    let mut chosen = BTreeMap::new();
    for instrument in &collection.instruments {
        let address = (instrument.drum, instrument.bank, instrument.program);
        if needed.contains(&address) && !instrument.regions.is_empty() {
            // Of two with the same address the first counts.
            chosen.entry(address).or_insert(instrument);
        }
    }
    let mut done = Downloaded::default();
    let loaded = load(mailbox, collection, chosen.into_values(), &mut done);
    if loaded.is_err() {
        unload(mailbox, &done)?;
    }
    loaded.map(|()| done)
}

/// Takes a download back: the instruments, and then the waves. What still sounds goes later.
pub fn unload<P: Platform>(mailbox: &mut Mailbox<'_, P>, downloaded: &Downloaded) -> Result<(), DriverError> {
    for handle in downloaded.instruments.iter().chain(&downloaded.waves) {
        mailbox.unload(*handle)?;
    }
    Ok(())
}

fn load<'c, P: Platform>(
    mailbox: &mut Mailbox<'_, P>,
    collection: &'c Collection,
    chosen: impl Iterator<Item = &'c Instrument>,
    done: &mut Downloaded,
) -> Result<(), DriverError> {
    let mut ids = BTreeMap::new();
    for instrument in chosen {
        for region in &instrument.regions {
            let index = region.link.wave;
            if ids.contains_key(&index) {
                continue;
            }
            let wave = collection.waves.get(index).ok_or(DriverError::Misuse("a region without its wave"))?;
            let id = mailbox.new_id();
            let chunk = wave_chunk(id, wave);
            done.waves.push(send(mailbox, &chunk)?);
            done.bytes += chunk.len();
            ids.insert(index, id);
        }
        let chunk = instrument_chunk(mailbox.new_id(), instrument, &collection.waves, &ids);
        done.instruments.push(send(mailbox, &chunk)?);
        done.bytes += chunk.len();
    }
    Ok(())
}

/// Downloads a chunk, and makes room once if there is none in one piece.
fn send<P: Platform>(mailbox: &mut Mailbox<'_, P>, chunk: &[u8]) -> Result<u32, DriverError> {
    match mailbox.download(chunk) {
        Err(DriverError::Command { status: Status::NoMemory, .. }) => {
            mailbox.compact()?;
            mailbox.download(chunk)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use dmus_interface::time::RefTime;

    #[test]
    fn a_song_needs_what_its_notes_play_and_what_stands_in_for_it() {
        let messages: [&[u8]; 9] = [
            &[0xC0, 5],
            &[0xC1, 99],
            &[0xB0, 0, 1],
            &[0xB0, 32, 2],
            &[0xC0, 7],
            &[0x90, 60, 100],
            &[0x99, 36, 100],
            &[0x92, 60, 0],
            &[0xF0, 0x7E, 0x7F, 9, 1, 0xF7],
        ];
        let timed = messages.into_iter().map(|bytes| TimedMessage { time: RefTime(0), group: 0, bytes });
        let found: Vec<Address> = needed(timed.clone()).into_iter().collect();
        assert_eq!(found, vec![(false, 0, 7), (false, 130, 7), (true, 0, 0)]);
        let after = timed.chain([TimedMessage { time: RefTime(0), group: 0, bytes: &[0x90, 60, 1] }]);
        assert!(needed(after).contains(&(false, 0, 0)), "a reset selects the first program");
    }
}
