//! Interrupts: what there is, and which eventfd each vector signals.
//!
//! Fed by DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS; feeds the device. Only MSI-X has vectors.

use super::inbox::Fds;
use super::protocol::{Refusal, require, u32_at};
use crate::device::{Device, Eventfd};
use dmus_interface::pci::VECTORS;
use rustix::io::Errno;

/// Kinds of interrupts of a PCI function: INTx, MSI, MSI-X, error, request.
pub(super) const KINDS: u32 = 5;
const MSIX: u32 = 2;

const INFO_EVENTFD: u32 = 1 << 0;
const INFO: usize = 16;

const DATA_NONE: u32 = 1 << 0;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;
const ACTION: u32 = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;
const SET: usize = 20;

fn count_of(index: u32) -> u32 {
    if index == MSIX { u32::from(VECTORS) } else { 0 }
}

/// Describes one kind.
pub(super) fn info(payload: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
    require(payload.len() >= INFO, "the message is too short")?;
    let index = u32_at(payload, 8);
    require(u32_at(payload, 0) as usize >= INFO, "argsz is less than the description of an interrupt")?;
    require(index < KINDS, "there is no such interrupt")?;
    for field in [INFO as u32, INFO_EVENTFD, index, count_of(index)] {
        reply.extend_from_slice(&field.to_le_bytes());
    }
    Ok(())
}

/// Connects vectors to eventfds, or disconnects them.
pub(super) fn set(device: &mut dyn Device, payload: &[u8], fds: &mut Fds) -> Result<(), Refusal> {
    require(payload.len() >= SET, "the message is too short")?;
    let field = |at| u32_at(payload, at);
    let (argsz, flags, index, start, count) = (field(0), field(4), field(8), field(12), field(16));
    let (data, action) = (flags & DATA, flags & ACTION);
    let carried = payload.len() - SET;

    require(argsz as usize >= SET, "argsz is less than the message")?;
    require(flags & !(DATA | ACTION) == 0, "a flag is unknown")?;
    require(data.is_power_of_two(), "not exactly one kind of data")?;
    require(action.is_power_of_two(), "not exactly one action")?;
    require(index < KINDS, "there is no such interrupt")?;
    require(data == DATA_EVENTFD || fds.len() == 0, "descriptors came with data of another kind")?;
    require(carried == if data == DATA_BOOL { count as usize } else { 0 }, "the data is not as long as count says")?;

    // The one range that may be empty: none from the first on, to disable them all.
    if data == DATA_NONE && count == 0 {
        require(start == 0, "all vectors begin at 0")?;
        require(action == ACTION_TRIGGER, "only triggering can be disabled")?;
        (0..count_of(index)).for_each(|vector| device.set_vector(vector as u16, None));
        return Ok(());
    }
    let end = start.checked_add(count).filter(|&end| end <= count_of(index));
    let end = end.ok_or(Refusal::invalid("there is no such vector"))?;
    require(count > 0, "count is 0")?;
    if (data, action) != (DATA_EVENTFD, ACTION_TRIGGER) {
        // The client emulates the MSI-X table, and with it masking; and it can signal its own eventfds without help.
        return Err(Refusal::new(Errno::NOTSUP, "MSI-X vectors can be connected to eventfds, nothing else"));
    }
    require(fds.len() == 0 || fds.len() == count as usize, "not one descriptor for each vector, and not none")?;
    let eventfds: Option<Vec<_>> = fds.drain().map(Eventfd::new).collect();
    let mut eventfds =
        eventfds.ok_or(Refusal::invalid("a vector can be an eventfd only, with room in it"))?.into_iter();
    (start..end).for_each(|vector| device.set_vector(vector as u16, eventfds.next()));
    Ok(())
}
