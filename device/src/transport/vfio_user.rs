//! The vfio-user transport on the `vfio_user` crate.
//!
//! Fed by a client (QEMU) through a listening socket; feeds the [`Card`] through [`Device`]. No call of the backend
//! fails: that crate would answer an error with errno 0, or out of turn.

use crate::device::{Device, DmaMap, Eventfd, Region};
use crate::log;
use crate::pci::Card;
use dmus_interface::pci::{BAR_SIZE, VECTORS};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR5_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
    vfio_region_sparse_mmap_area,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea};

/// Serves one client after the other on a listening socket; with `once`, only the first.
pub(super) fn serve(listener: UnixListener, card: &mut Card, once: bool) -> io::Result<()> {
    loop {
        // The server sends it by number: it must stay open as long. Each client has another.
        let page = card.doorbell_fd()?;
        let listener = listener.try_clone()?;
        let server = Server::from_owned_fd(listener.into(), true, irqs(), regions(page.as_raw_fd()));
        let mut backend = Backend { card };
        // The crate panics on some malformed messages: that client is lost, the card is not.
        match catch_unwind(AssertUnwindSafe(|| server.run(&mut backend))) {
            Ok(Ok(())) => tracing::info!("the client has gone"),
            Ok(Err(vfio_user::Error::SocketAccept(error))) => return Err(error),
            Ok(Err(error)) => tracing::warn!("the client was lost: {error}"),
            Err(_) => {
                tracing::error!("the client was dropped: it sent what the protocol does not allow")
            }
        }
        card.disconnect();
        log::next_client();
        if once {
            return Ok(());
        }
    }
}

fn region_of(index: u32) -> Option<Region> {
    match index {
        VFIO_PCI_CONFIG_REGION_INDEX => Some(Region::Config),
        VFIO_PCI_BAR0_REGION_INDEX..=VFIO_PCI_BAR5_REGION_INDEX => Region::of_bar(index - VFIO_PCI_BAR0_REGION_INDEX),
        _ => None,
    }
}

fn regions(page: RawFd) -> Vec<ServerRegion> {
    let region = |index| {
        let which = region_of(index);
        let size = match which {
            Some(Region::Config) => crate::pci::config_space::SIZE as u64,
            Some(_) => u64::from(BAR_SIZE),
            None => 0,
        };
        let mut info =
            vfio_region_info { argsz: size_of::<vfio_region_info>() as u32, index, size, ..Default::default() };
        if which.is_some() {
            info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        }
        let mapped = which == Some(Region::Doorbell);
        if mapped {
            info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
        }
        ServerRegion {
            region_info: info,
            // A sparse area even for the whole page: only with one is the descriptor sent.
            sparse_areas: mapped
                .then_some(SparseArea { area: vfio_region_sparse_mmap_area { offset: 0, size } })
                .into_iter()
                .collect(),
            mmap_fd: mapped.then_some(page),
        }
    };
    (0..VFIO_PCI_NUM_REGIONS).map(region).collect()
}

fn irqs() -> Vec<IrqInfo> {
    let irq = |index| IrqInfo {
        index,
        flags: VFIO_IRQ_INFO_EVENTFD,
        count: if index == VFIO_PCI_MSIX_IRQ_INDEX { u32::from(VECTORS) } else { 0 },
    };
    (0..VFIO_PCI_NUM_IRQS).map(irq).collect()
}

/// The protocol's flag; the crate's constant of this name has another value.
const UNMAP_ALL: u32 = 1 << 1;

struct Backend<'a> {
    card: &'a mut Card,
}

impl ServerBackend for Backend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region_of(region) {
            Some(region) => self.card.read(region, offset, data),
            None => data.fill(0xFF),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(region) = region_of(region) {
            self.card.write(region, offset, data);
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let writable = flags.contains(DmaMapFlags::WRITE);
        // Recorded by the card; an error from here would be answered with errno 0.
        let _ = self.card.map(DmaMap { iova: address, size, offset, file: fd, writable });
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        match flags.bits() & UNMAP_ALL != 0 {
            true => self.card.unmap(0, u64::MAX),
            false => self.card.unmap(address, size),
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.card.reset();
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, flags: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        if index != VFIO_PCI_MSIX_IRQ_INDEX {
            return Ok(());
        }
        let all = flags & VFIO_IRQ_SET_DATA_NONE != 0 && count == 0;
        let vectors =
            if all { 0..u32::from(VECTORS) } else { start..start.saturating_add(count).min(u32::from(VECTORS)) };
        // Vectors beyond the descriptors that came are disconnected.
        let mut fds = fds.into_iter();
        for vector in vectors {
            let file = fds.next();
            let came = file.is_some();
            let eventfd = file.and_then(Eventfd::new);
            if came && eventfd.is_none() {
                tracing::warn!("interrupt vector {vector} is left out: it can be an eventfd only, with room in it");
            }
            self.card.set_vector(vector as u16, eventfd);
        }
        Ok(())
    }
}
