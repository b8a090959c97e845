//! Files that QEMU's command line hands to the guest: `-fw_cfg name=opt/dmus/song,file=...`.
//!
//! Fed by: QEMU's fw_cfg device. Feeds: `main` with the song. Whole files are read by DMA, bytes of the
//! directory through the data port.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::port;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

/// Items that are always there.
const SIGNATURE: u16 = 0x0000;
const FEATURES: u16 = 0x0001;
const DIRECTORY: u16 = 0x0019;

const FEATURE_DMA: u8 = 1 << 1;

/// Bits of a DMA request's control word, which the device clears when it is done.
const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SELECT: u32 = 1 << 3;

/// QEMU makes a few dozen files; a count beyond this is no directory.
const MAX_FILES: u32 = 4096;
/// QEMU answers at once; this many looks are about a second.
const DMA_LOOKS: u32 = 10_000_000;

/// A file could not be read.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum FwCfgError {
    #[error("there is no fw_cfg device: the guest gets its files from QEMU's -fw_cfg option")]
    NoDevice,
    #[error("the fw_cfg directory claims {0} files")]
    Directory(u32),
    #[error("the file has {len} bytes, at most {limit} are taken")]
    TooLong { len: u32, limit: u32 },
    #[error("the fw_cfg device failed to deliver {0} bytes by DMA")]
    Dma(u32),
}

/// Reads the file `name`, if it was given and has at most `limit` bytes.
pub(crate) fn read(name: &str, limit: u32) -> Result<Option<Vec<u8>>, FwCfgError> {
    select(SIGNATURE);
    if take::<4>() != *b"QEMU" {
        return Err(FwCfgError::NoDevice);
    }
    let Some((len, item)) = find(name)? else {
        return Ok(None);
    };
    if len > limit {
        return Err(FwCfgError::TooLong { len, limit });
    }
    let mut bytes = vec![0; len as usize];
    select(FEATURES);
    if take::<1>()[0] & FEATURE_DMA != 0 {
        read_dma(item, len, &mut bytes)?;
    } else {
        select(item);
        bytes.fill_with(|| port::read8(DATA));
    }
    Ok(Some(bytes))
}

/// Length and item number of the file `name`.
fn find(name: &str) -> Result<Option<(u32, u16)>, FwCfgError> {
    select(DIRECTORY);
    let count = u32::from_be_bytes(take());
    if count > MAX_FILES {
        return Err(FwCfgError::Directory(count));
    }
    for _ in 0..count {
        let len = u32::from_be_bytes(take());
        let item = u16::from_be_bytes(take());
        let _reserved: [u8; 2] = take();
        let padded: [u8; 56] = take();
        if padded.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
            return Ok(Some((len, item)));
        }
    }
    Ok(None)
}

fn select(item: u16) {
    port::write16(SELECTOR, item);
}

fn take<const N: usize>() -> [u8; N] {
    core::array::from_fn(|_| port::read8(DATA))
}

fn read_dma(item: u16, len: u32, bytes: &mut [u8]) -> Result<(), FwCfgError> {
    // Control, length, address high and low, all big-endian; atomics because the device clears the control word.
    let buffer = bytes.as_mut_ptr() as u64;
    let control = u32::from(item) << 16 | DMA_SELECT | DMA_READ;
    let request = [control, len, (buffer >> 32) as u32, buffer as u32].map(|word| AtomicU32::new(word.to_be()));
    let address = request.as_ptr() as u64;
    port::write32(DMA_HIGH, ((address >> 32) as u32).to_be());
    // The device starts on this half, and is done when it has cleared the control word; `bytes` stays borrowed until
    // then.
    port::write32(DMA_LOW, (address as u32).to_be());
    for _ in 0..DMA_LOOKS {
        match u32::from_be(request[0].load(Ordering::Acquire)) {
            0 => return Ok(()),
            state if state & DMA_ERROR != 0 => return Err(FwCfgError::Dma(len)),
            _ => core::hint::spin_loop(),
        }
    }
    // A device that may still write must never see this memory used for something else.
    panic!("fw_cfg: a DMA request of {len} bytes is not answered");
}
