//! Collections of instruments on their way into the card: what a song needs of one, as download chunks.
//!
//! Fed with a [`Collection`] that `dmus_dls` has read and with a song; feeds the [`Mailbox`] chunk by chunk, each wave
//! once and before the instruments that play it. So memory for DMA is needed for the largest wave, not for the
//! collection.

use crate::{DriverError, Mailbox, Platform};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
pub use dmus_dls::chunk::{instrument_chunk, wave_chunk};
use dmus_dls::{Collection, Instrument};
use dmus_interface::command::Status;
use dmus_song::TimedMessage;

/// The percussion channel, counted from 0.
const PERCUSSION: usize = 9;
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
    let fresh = |channel| (channel == PERCUSSION, 0, 0);
    let mut now: [Address; CHANNELS] = core::array::from_fn(fresh);
    // CC0 and CC32.
    let mut banks = [(0u8, 0u8); CHANNELS];
    let mut needed = BTreeSet::new();
    for message in messages {
        match *message.bytes {
            [0xF0, 0x7E, _, 0x09, 0x01 | 0x03, 0xF7] => {
                now = core::array::from_fn(fresh);
                banks = [(0, 0); CHANNELS];
            }
            [status @ 0xB0..=0xBF, controller @ (0 | 32), value @ 0..=127] => {
                let bank = &mut banks[usize::from(status & 15)];
                *(if controller == 0 { &mut bank.0 } else { &mut bank.1 }) = value;
            }
            [status @ 0xC0..=0xCF, program @ 0..=127] => {
                let channel = usize::from(status & 15);
                let (high, low) = banks[channel];
                let drum = match high {
                    120 => true,
                    121 => false,
                    _ => now[channel].0,
                };
                now[channel] = (drum, u16::from(high) << 7 | u16::from(low), program);
            }
            [status @ 0x90..=0x9F, _, 1..=127] => {
                let (drum, bank, program) = now[usize::from(status & 15)];
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
        let timed = messages.into_iter().map(|bytes| TimedMessage { time: RefTime(0), bytes });
        let found: Vec<Address> = needed(timed.clone()).into_iter().collect();
        assert_eq!(found, vec![(false, 0, 7), (false, 130, 7), (true, 0, 0)]);
        let after = timed.chain([TimedMessage { time: RefTime(0), bytes: &[0x90, 60, 1] }]);
        assert!(needed(after).contains(&(false, 0, 0)), "a reset selects the first program");
    }
}
