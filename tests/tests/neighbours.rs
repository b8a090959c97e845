//! What one client does with the descriptors that it shares with the card never reaches the next one.

use dmus_driver::Platform;
use dmus_driver::dma::SharedMemory;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::BAR_SIZE;
use dmus_interface::protocol::Page as _;
use dmus_tests::loopback::Loopback;
use dmus_tests::memory::Page;
use dmus_tests::programs::{self, Running, until};
use dmus_tests::raw::{RawStream, seconds};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];

fn serve(dir: &Path, transport: &str) -> anyhow::Result<(Running, PathBuf)> {
    let socket = dir.join("card.sock");
    let arguments = ["serve", "--clock", "virtual", "--transport", transport, "--socket"];
    let card = Running::start(programs::card()?.args(arguments).arg(&socket).env("DMUS_LOG", "off"))?;
    until("the socket", SHORT, || socket.exists())?;
    Ok((card, socket))
}

#[test]
fn a_client_that_has_gone_sees_nothing_of_the_next_ones_page_and_changes_nothing_there() -> anyhow::Result<()> {
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let (_card, socket) = serve(dir.path(), transport)?;
        let first = Loopback::new(&socket)?;
        let sealed = fcntl_add_seals(&first.page_file, SealFlags::FUTURE_WRITE);
        assert_eq!(sealed, Err(Errno::PERM), "nobody could map it any more");
        let kept = Page::map(&first.page_file, BAR_SIZE as usize)?;
        drop(first);

        let client = Loopback::new(&socket)?;
        let stream = RawStream::running(&client, PointerWidth::Eight)?;
        stream.submit(0, stream.inline(seconds(5), &NOTE), seconds(1));
        stream.reach(seconds(1))?;
        let position = |page: &SharedMemory| page.load_u64(doorbell::SAMPLE_POSITION, Ordering::Relaxed);
        assert_eq!((position(client.doorbell()), position(&kept.shared)), (48_000, 0));
        kept.shared.store_u64(doorbell::GRANT, u64::try_from(seconds(10))?, Ordering::SeqCst);
        stream.ring();
        stream.grant(seconds(2));
        stream.reach(seconds(2))?;
        assert!(stream.is_drained(), "the card went on to a grant of the client that has gone");
    }
    Ok(())
}
