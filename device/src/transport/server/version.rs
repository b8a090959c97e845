//! VERSION: what the client offers, and what the server answers.
//!
//! Fed by the first message of a connection; feeds the session with the client's limits.

use super::protocol::{MAX_FDS, MAX_MAPS, MAX_TRANSFER, PAGE, Refusal, require, u16_at};
use serde_json::{Map, Value};

/// The protocol that is spoken here.
const MAJOR: u16 = 0;
const MINOR: u16 = 1;

/// What the specification assumes of a client that does not say.
const DEFAULT_FDS: u64 = 1;
const DEFAULT_TRANSFER: u64 = 1 << 20;

/// What a client proposes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    minor: u16,
    /// File descriptors that it takes in one message.
    pub(super) max_fds: u64,
    /// Bytes of data that it takes or gives in one message.
    pub(super) max_transfer: u64,
    write_multiple: bool,
}

/// The major version that a VERSION message proposes, if it is not the one spoken here.
pub(super) fn foreign_major(payload: &[u8]) -> Option<u16> {
    (payload.len() >= 4).then(|| u16_at(payload, 0)).filter(|&major| major != MAJOR)
}

impl Offer {
    /// Reads a VERSION message's payload. Unknown keys are the client's business; known ones of the wrong kind are
    /// refused.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        require(payload.len() >= 4, "VERSION has no version numbers")?;
        require(foreign_major(payload).is_none(), "the major version is not 0")?;
        let mut offer = Self {
            minor: u16_at(payload, 2).min(MINOR),
            max_fds: DEFAULT_FDS,
            max_transfer: DEFAULT_TRANSFER,
            write_multiple: false,
        };
        if payload.len() == 4 {
            return Ok(offer);
        }
        let text = match payload[4..].split_last() {
            Some((0, text)) if !text.contains(&0) => text,
            Some((0, _)) => return Err(Refusal::invalid("the version data has a NUL inside")),
            _ => return Err(Refusal::invalid("the version data does not end in a NUL")),
        };
        let data: Value = serde_json::from_slice(text).map_err(|_| Refusal::invalid("the version data is not JSON"))?;
        let data = data.as_object().ok_or(Refusal::invalid("the version data is not a JSON object"))?;
        let Some(capabilities) = data.get("capabilities") else { return Ok(offer) };
        let capabilities = capabilities.as_object().ok_or(Refusal::invalid("capabilities is not a JSON object"))?;
        if let Some(fds) = number(capabilities, "max_msg_fds", "max_msg_fds is not a number of descriptors")? {
            offer.max_fds = fds;
        }
        if let Some(transfer) =
            number(capabilities, "max_data_xfer_size", "max_data_xfer_size is not a number of bytes")?
        {
            require(transfer > 0, "max_data_xfer_size is 0")?;
            offer.max_transfer = transfer;
        }
        if let Some(sizes) = number(capabilities, "pgsizes", "pgsizes is not a set of page sizes")? {
            require(sizes & PAGE != 0, "pgsizes lacks 4096")?;
        }
        if let Some(multiple) = capabilities.get("write_multiple") {
            offer.write_multiple = multiple.as_bool().ok_or(Refusal::invalid("write_multiple is not a boolean"))?;
        }
        Ok(offer)
    }

    /// Appends the payload of the answer. What only a newer client knows of is answered only to a client that proposed
    /// it.
    pub(super) fn answer(&self, reply: &mut Vec<u8>) {
        let mut capabilities = serde_json::json!({
            "max_msg_fds": MAX_FDS,
            "max_data_xfer_size": MAX_TRANSFER,
            "max_dma_maps": MAX_MAPS,
            "pgsizes": PAGE,
        });
        if self.write_multiple {
            capabilities["write_multiple"] = true.into();
        }
        reply.extend_from_slice(&MAJOR.to_le_bytes());
        reply.extend_from_slice(&self.minor.to_le_bytes());
        reply.extend_from_slice(serde_json::json!({ "capabilities": capabilities }).to_string().as_bytes());
        reply.push(0);
    }
}

fn number(from: &Map<String, Value>, key: &str, why: &'static str) -> Result<Option<u64>, Refusal> {
    from.get(key).map(|value| value.as_u64().ok_or(Refusal::invalid(why))).transpose()
}
