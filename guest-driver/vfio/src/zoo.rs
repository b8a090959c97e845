//! What the mistakes of the zoo need of Linux, besides the driver's platform.
//!
//! Fed by `dmusd zoo`; feeds the card through [`VfioPlatform`].

use crate::VfioPlatform;
use dmus_conformance::zoo::Machine;
use dmus_driver::dma::DmaMemory;

impl Machine for VfioPlatform {
    fn read16(&self, offset: u32) -> u16 {
        self.read16(offset)
    }

    fn set_bus_master(&self, on: bool) -> anyhow::Result<()> {
        Ok(self.set_bus_master(on)?)
    }

    fn dma_alloc_read_only(&self, len: usize) -> anyhow::Result<DmaMemory> {
        Machine::dma_alloc_apart(self, len)
    }

    fn dma_alloc_apart(&self, len: usize) -> anyhow::Result<DmaMemory> {
        Ok(self.dma_alloc_apart(len)?)
    }

    fn dma_revoke(&self, iova: u64) -> anyhow::Result<()> {
        Ok(self.dma_revoke(iova)?)
    }
}
