//! What one client does with the descriptors that it shares with the card never reaches the next one.

use anyhow::Context;
use dmus_card::collection::{Samples, Wave};
use dmus_driver::dls::wave_chunk;
use dmus_driver::dma::SharedMemory;
use dmus_driver::{Card, DriverError, Mailbox, Platform};
use dmus_interface::command::Status as CommandStatus;
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::{BAR_SIZE, VECTORS};
use dmus_interface::protocol::Page as _;
use dmus_interface::regs;
use dmus_interface::ring::Status;
use dmus_tests::hostile;
use dmus_tests::loopback::Loopback;
use dmus_tests::memory::{Page, RAM, RAM_IOVA};
use dmus_tests::programs::{self, Running, signal, until};
use dmus_tests::raw::{RawStream, seconds};
use dmus_tests::unshared::{Seen, UnsharedHost};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);
const NOTE: [u8; 3] = [0x90, 60, 100];

fn serve(dir: &Path, transport: &str) -> anyhow::Result<(Running, PathBuf)> {
    let arguments = "serve --check off --clock virtual --socket card.sock --json counters --transport".split(" ");
    let mut command = programs::card()?;
    let card = Running::start(command.args(arguments).arg(transport).env("DMUS_LOG", "off").current_dir(dir))?;
    // The last file that it makes: then it listens.
    until("the counters' file", SHORT, || dir.join("counters").exists())?;
    Ok((card, dir.join("card.sock")))
}

/// What a client does, which waits for the card without a limit of its own: the end of the card ends it then.
fn limited<T: Send + 'static>(act: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    let (done, outcome) = channel();
    std::thread::spawn(move || done.send(act()));
    outcome.recv_timeout(SHORT).context("a client waits for the card")?
}

fn client_plays(socket: &Path) -> anyhow::Result<()> {
    let client = Loopback::new(socket)?;
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    stream.submit(0, stream.inline(0, &NOTE), 1000);
    anyhow::ensure!(stream.completion()?.status == Status::Presented);
    Ok(())
}

/// Whether the card's engine is in a write, as the kernel says.
fn engine_writes(card: u32) -> bool {
    const WRITE: &str = "1 ";
    let tasks = std::fs::read_dir(format!("/proc/{card}/task")).into_iter().flatten().flatten();
    let read = |task: &Path, name| std::fs::read_to_string(task.join(name)).unwrap_or_default();
    let mut engines = tasks.map(|task| task.path()).filter(|task| read(task, "comm") == "engine\n");
    engines.any(|task| read(&task, "syscall").starts_with(WRITE))
}

/// A client that has the engine wait for room in an eventfd, and the eventfd, in which it will never make any.
fn client_that_blocks(card: u32, socket: &Path) -> anyhow::Result<(Loopback, OwnedFd)> {
    let client = Loopback::new(socket)?;
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
    let stream = RawStream::running(&client, PointerWidth::Eight)?;
    for vector in 0..VECTORS {
        client.set_vector(vector.into(), &eventfd)?;
    }
    rustix::io::write(&eventfd, &(u64::MAX - 1).to_ne_bytes())?;
    stream.submit(0, stream.inline(0, &NOTE), 1000);
    until("the engine waits", SHORT, || engine_writes(card))?;
    // The client is served all the same, and what it does wrong would be an interrupt, too.
    client.write32(regs::MAGIC.offset, 0);
    assert_eq!(client.read32(regs::FAULT_COUNT.offset), 1);
    Ok((client, eventfd))
}

#[test]
fn an_interrupt_that_blocks_ends_with_its_client() -> anyhow::Result<()> {
    for transport in ["own", "crate"] {
        let dir = tempfile::tempdir()?;
        let (card, socket) = serve(dir.path(), transport)?;
        for _ in 0..20 {
            let (id, path) = (card.id(), socket.clone());
            let (client, _eventfd) = limited(move || client_that_blocks(id, &path))?;
            drop(client);
            let path = socket.clone();
            limited(move || client_plays(&path))?;
        }
    }
    Ok(())
}

#[test]
fn an_interrupt_that_blocks_does_not_hold_up_the_end() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut card, socket) = serve(dir.path(), "own")?;
    let id = card.id();
    let (_client, _eventfd) = limited(move || client_that_blocks(id, &socket))?;
    signal(card.id(), "TERM");
    until("the end", SHORT, || card.status().is_some())?;
    assert_eq!(card.status().and_then(|status| status.code()), Some(130));
    Ok(())
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
        assert_eq!((position(client.doorbell()), position(kept.shared())), (48_000, 0));
        kept.shared().store_u64(doorbell::GRANT, u64::try_from(seconds(10))?, Ordering::SeqCst);
        stream.ring();
        stream.grant(seconds(2));
        stream.reach(seconds(2))?;
        assert!(stream.is_drained(), "the card went on to a grant of the client that has gone");
    }
    Ok(())
}

/// QEMU shares such memory with `memory-backend-file`. Mapped, it would end the card here, and this process with it.
#[test]
fn memory_in_files_that_shrink_is_reached_by_messages() -> anyhow::Result<()> {
    let huge = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let unsealable = MemfdFlags::empty();
    let files = [tempfile::tempfile()?, memfd_create("huge", huge)?.into(), memfd_create("x", unsealable)?.into()];
    let host = UnsharedHost::start(SHORT)?;
    for file in files {
        file.set_len(RAM as u64)?;
        let client = host.connect()?;
        client.unmap(RAM_IOVA, RAM as u64);
        client.share(RAM_IOVA, RAM as u64, Some((0, file.as_fd())))?;
        file.set_len(0)?;
        let stream = RawStream::running(&client, PointerWidth::Eight)?;
        stream.submit(0, stream.inline(0, &NOTE), 1000);
        assert_eq!(stream.completion()?.status, Status::Presented, "{file:?}");
        assert!(client.seen().iter().any(|seen| matches!(seen, Seen::Request(_))), "{file:?}");
    }
    host.finish()?;
    Ok(())
}

/// Downloads waves until the card has no memory for another; says how many it took.
fn fill(socket: &Path) -> anyhow::Result<usize> {
    let card = Card::open(Loopback::new(socket)?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let samples = Samples::new(vec![1; 4 << 20]);
    let wave = Wave { id: None, info: Default::default(), rate: 48_000, samples, sampling: None };
    for count in 0..16 {
        match mailbox.download(&wave_chunk(u32::try_from(count)?, &wave)) {
            Err(DriverError::Command { status: CommandStatus::NoMemory, .. }) => return Ok(count),
            taken => drop(taken?),
        }
    }
    anyhow::bail!("128 MiB were taken")
}

#[test]
fn a_card_that_is_short_of_memory_refuses_and_goes_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut card, socket) = serve(dir.path(), "own")?;
    // With all that a client brings.
    client_plays(&socket)?;
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", card.id()))?;
    let pages: u64 = statm.split_whitespace().next().context("no size")?.parse()?;
    // The client's memory, and some.
    let room = Rlimit { current: Some(pages * 4096 + (80 << 20)), maximum: None };
    prlimit(Some(Pid::from_raw(i32::try_from(card.id())?).context("no process")?), Resource::As, room)?;
    for _ in 0..2 {
        let path = socket.clone();
        let taken = limited(move || fill(&path))?;
        assert!(taken < 10, "{taken} downloads of 8 MiB");
        let path = socket.clone();
        limited(move || client_plays(&path))?;
    }
    assert!(card.status().is_none());
    Ok(())
}

/// How long they wait is measured by `qemu-scripts/soak --hostile`.
#[test]
fn after_clients_of_every_manner_the_next_one_plays() -> anyhow::Result<()> {
    let report = hostile::run(hostile::Extent::Rounds(240), SHORT, |_, _| {})?;
    assert_eq!(report.rounds, 240);
    Ok(())
}
