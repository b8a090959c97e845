//! Regions: what they are, and reading and writing them.
//!
//! Fed by DEVICE_GET_REGION_INFO, REGION_READ, REGION_WRITE and REGION_WRITE_MULTI; feeds the device. An access that
//! does not fit never reaches the device.

use super::protocol::{HEADER, Refusal, require, u32_at, u64_at};
use crate::device::{Device, Region};
use crate::pci::config_space;
use dmus_interface::pci::BAR_SIZE;

/// Regions of a PCI function: six BARs, ROM, configuration space, VGA.
pub(super) const REGIONS: u32 = 9;
const CONFIG_INDEX: u32 = 7;
const LAST_BAR: u32 = 5;

const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const MMAP: u32 = 1 << 2;
const CAPS: u32 = 1 << 3;
const CAP_SPARSE_MMAP: u16 = 1;

/// Bytes of a region's description without and with the capability that says what can be mapped.
const INFO: usize = 32;
const INFO_WITH_AREA: usize = INFO + 32;

/// Bytes of an access's offset, region and count.
const ACCESS: usize = 16;
/// Bytes of one write of several, and of the data at its end.
const SMALL_WRITE: usize = 24;
const SMALL_DATA: u64 = 8;

fn lookup(index: u32) -> Option<(Region, u32)> {
    match index {
        0..=LAST_BAR => Some((Region::of_bar(index)?, BAR_SIZE)),
        CONFIG_INDEX => Some((Region::Config, config_space::SIZE as u32)),
        _ => None,
    }
}

/// Describes a region. `true`: the doorbell page's file descriptor goes along.
pub(super) fn info(payload: &[u8], client_takes_fds: bool, reply: &mut Vec<u8>) -> Result<bool, Refusal> {
    require(payload.len() >= INFO, "the message is too short")?;
    let room = u32_at(payload, 0) as usize;
    let index = u32_at(payload, 8);
    require(room >= INFO, "argsz is less than the description of a region")?;
    require(index < REGIONS, "there is no such region")?;

    let region = lookup(index);
    let size = region.map_or(0, |(_, size)| size);
    let mapped = client_takes_fds && matches!(region, Some((Region::Doorbell, _)));
    let access = if region.is_some() { READ | WRITE } else { 0 };
    // QEMU wants a capability's offset to be valid even in the answer that only says how much room it needs.
    let (flags, needed, cap_offset) =
        if mapped { (access | MMAP | CAPS, INFO_WITH_AREA, INFO) } else { (access, INFO, 0) };
    for field in [needed as u32, flags, index, cap_offset as u32] {
        reply.extend_from_slice(&field.to_le_bytes());
    }
    reply.extend_from_slice(&u64::from(size).to_le_bytes());
    reply.extend_from_slice(&0u64.to_le_bytes());

    let whole = mapped && room >= INFO_WITH_AREA;
    if whole {
        reply.extend_from_slice(&CAP_SPARSE_MMAP.to_le_bytes());
        reply.extend_from_slice(&1u16.to_le_bytes());
        // No next capability; one area, which is the whole page.
        for field in [0u32, 1, 0] {
            reply.extend_from_slice(&field.to_le_bytes());
        }
        reply.extend_from_slice(&0u64.to_le_bytes());
        reply.extend_from_slice(&u64::from(size).to_le_bytes());
    }
    Ok(whole)
}

/// An access whose place is inside its region.
struct Access {
    region: Region,
    offset: u64,
    count: usize,
}

impl Access {
    fn parse(fields: &[u8]) -> Result<Self, Refusal> {
        let (offset, index, count) = (u64_at(fields, 0), u32_at(fields, 8), u32_at(fields, 12));
        let (region, size) = lookup(index).ok_or(Refusal::invalid("there is no such region"))?;
        require(count > 0, "count is 0")?;
        let end = offset.checked_add(u64::from(count));
        require(end.is_some_and(|end| end <= u64::from(size)), "the access leaves its region")?;
        Ok(Self { region, offset, count: count as usize })
    }
}

/// Reads a region.
pub(super) fn read(device: &mut dyn Device, payload: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
    require(payload.len() == ACCESS, "the message is not as long as a read")?;
    let access = Access::parse(payload)?;
    reply.extend_from_slice(payload);
    reply.resize(HEADER + ACCESS + access.count, 0);
    device.read(access.region, access.offset, &mut reply[HEADER + ACCESS..]);
    Ok(())
}

/// Writes a region.
pub(super) fn write(device: &mut dyn Device, payload: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
    require(payload.len() >= ACCESS, "the message is too short")?;
    let (fields, data) = payload.split_at(ACCESS);
    let access = Access::parse(fields)?;
    require(data.len() == access.count, "count is not the number of bytes that came")?;
    device.write(access.region, access.offset, data);
    reply.extend_from_slice(fields);
    Ok(())
}

/// Carries out several small writes; none if one of them does not fit.
pub(super) fn write_multi(device: &mut dyn Device, payload: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
    require(payload.len() >= 8, "the message is too short")?;
    let (count, writes) = payload.split_at(8);
    let whole = u64_at(count, 0).checked_mul(SMALL_WRITE as u64);
    require(whole == Some(writes.len() as u64), "wr_cnt is not the number of writes that came")?;
    for write in writes.chunks_exact(SMALL_WRITE) {
        require(Access::parse(write)?.count as u64 <= SMALL_DATA, "a write has more than 8 bytes")?;
    }
    for write in writes.chunks_exact(SMALL_WRITE) {
        let access = Access::parse(write)?;
        device.write(access.region, access.offset, &write[ACCESS..ACCESS + access.count]);
    }
    reply.extend_from_slice(count);
    Ok(())
}
