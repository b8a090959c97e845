//! The `vfio_user` crate's client, which is not ours, against the server.

use crate::common::{Call, Recorder, event, memory};
use dmus_card::device::Region;
use dmus_card::transport::server::{Negotiation, serve_connection};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use vfio_user::Client;

#[test]
fn the_crates_client_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let device = Recorder::new();
    let mut served = device.clone();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve_connection(stream, Negotiation::new(&listener), &mut served)
    });

    let mut client = Client::new(&path).unwrap();
    let page = client.region(2).unwrap();
    assert_eq!((page.size, page.flags, page.sparse_areas.len()), (4096, 0xF, 1));
    assert!(page.file_offset.is_some());
    assert!(client.region(0).unwrap().file_offset.is_none());
    let ram = memory(1 << 20);
    client.dma_map(0, 0x10_0000, 1 << 20, ram.as_raw_fd()).unwrap();
    assert_eq!(client.get_irq_info(2).unwrap().count, 9);
    let mine = event();
    client.set_irqs(2, 0x24, 4, 1, &[mine.as_raw_fd()]).unwrap();
    client.region_write(0, 8, &[1, 2, 3, 4]).unwrap();
    let mut data = [0; 4];
    client.region_read(4, 12, &mut data).unwrap();
    assert_eq!(data, [12, 13, 14, 15]);
    client.reset().unwrap();
    client.dma_unmap(0x10_0000, 1 << 20).unwrap();
    client.shutdown().unwrap();
    server.join().unwrap().unwrap();

    let expected = [
        Call::Map(0x10_0000, 1 << 20, 0, true, true),
        Call::Vector(4, true),
        Call::Write(Region::Registers, 8, vec![1, 2, 3, 4]),
        Call::Read(Region::Msix, 12, 4),
        Call::Reset,
        Call::Unmap(0x10_0000, 1 << 20),
    ];
    assert_eq!(device.record.lock().unwrap().calls, expected);
}
