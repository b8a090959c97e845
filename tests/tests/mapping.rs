//! Pages that are unmapped, moved and mapped again while the card plays: see `dmus_tests::remapping`.

use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capture::inputs::Input;
use dmus_card::transport::Transport;
use dmus_driver::{Card, Platform, RenderStream, StreamConfig};
use dmus_interface::event::{Data, PointerWidth};
use dmus_interface::regs;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;
use dmus_song::Song;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::memory::{RAM, RAM_IOVA};
use dmus_tests::raw::{BUFFER_SIZE, BUFFERS, RawStream, SLOTS, seconds};
use dmus_tests::remapping::Remapping;
use dmus_tests::songs;
use std::sync::Arc;
use std::time::Duration;

const NOTE: [u8; 3] = [0x90, 60, 100];
const PAGE: u64 = 4096;

fn rounds(transport: Transport, seed: u64, rounds: usize) -> anyhow::Result<()> {
    let hosted = HostedCard::start_behind(transport, ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let tally = Remapping::new(&platform, Arc::clone(&hosted.stats), seed)?.run(rounds)?;
    println!("{transport:?}: {tally:?}");
    // Everything that is to be shown has happened often.
    assert!(tally.presented > rounds * 20 && tally.refused > rounds / 2, "{tally:?}");
    assert!(tally.faults > rounds / 50 && tally.maps > rounds * 5, "{tally:?}");
    platform.unmap_range(0, 1 << 47);
    platform.map_range(RAM_IOVA, RAM as u64, 0);
    platform.ram.restart();
    next_driver_plays(&platform)?;
    drop(platform);
    hosted.finish().map(drop)
}

#[test]
fn a_page_that_is_gone_is_refused_and_one_that_is_back_is_read_where_it_is_now() -> anyhow::Result<()> {
    rounds(Transport::Own, 0x9E37_79B9, 6000)
}

#[test]
fn the_same_holds_behind_the_other_server() -> anyhow::Result<()> {
    rounds(Transport::Crate, 0x7F4A_7C15, 500)
}

/// A client that rearranges its maps takes memory back for a moment; one that goes on without it has taken it away.
#[test]
fn rings_that_come_back_before_anything_else_happens_were_never_away() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let direct = card.platform();
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let send = |time| -> anyhow::Result<()> {
        let mut message = stream.allocator().get_message()?;
        message.set_time(time);
        message.set_data(&[0x90, 60, 100])?;
        stream.put_message(message)?;
        stream.flush();
        Ok(())
    };
    send(RefTime::from_secs(1))?;
    direct.unmap();
    card.grant(RefTime::from_secs(2));
    for _ in 0..100 {
        direct.turn();
    }
    assert_eq!((direct.stats.samples.get(), direct.stats.faults.get()), (0, 0), "nothing is rendered without it");
    direct.map()?;
    direct.run_until_idle();
    stream.allocator().reclaim()?;
    let counts = stream.allocator().counts();
    assert_eq!((counts.presented, counts.late, direct.stats.faults.get()), (1, 0, 0));

    send(RefTime::from_secs(3))?;
    direct.unmap();
    direct.read32(regs::MAGIC.offset);
    direct.run_until_idle();
    assert_eq!(direct.stats.faults.get(), 1);
    direct.map()?;
    card.reset()?;
    Ok(stream.restore()?)
}

/// Allocates so that the next allocation of 64-byte alignment has its first `left` bytes on one page, and the rest on
/// the next one; gives where that begins.
fn before_a_page(platform: &Direct, left: u64) -> anyhow::Result<u64> {
    let at = platform.dma_alloc(64, 64)?.iova + 64;
    let page = (at + left).next_multiple_of(PAGE);
    platform.dma_alloc((page - left - at) as usize, 64)?;
    Ok(page)
}

/// Gives the card its memory in three pieces, the second of which is a page.
fn map_apart(platform: &Direct, page: u64) -> anyhow::Result<()> {
    let (behind, end) = (page + PAGE, RAM_IOVA + RAM as u64);
    platform.unmap();
    platform.map_range(RAM_IOVA, page - RAM_IOVA)?;
    platform.map_range(page, PAGE)?;
    platform.map_range(behind, end - behind)
}

/// A ring of which only the half that is needed next is away, and of which only the other one is.
#[test]
fn a_ring_of_which_a_part_comes_back_was_never_away() -> anyhow::Result<()> {
    for ring in [stream::SUBMISSION_BASE, stream::COMPLETION_BASE] {
        for fetched in [0, SLOTS / 2] {
            let platform = Direct::with_bank(Bank::default())?;
            let mut s = RawStream::prepare(&platform, PointerWidth::Eight)?;
            let part = if ring == stream::SUBMISSION_BASE { &mut s.submissions } else { &mut s.completions };
            let page = before_a_page(&platform, part.memory.len() as u64 / 2)?;
            *part = platform.dma_alloc(part.memory.len(), 64)?;
            let iova = part.iova;
            s.write64(ring, iova);
            map_apart(&platform, page)?;
            s.create()?;
            s.set_state(State::Run)?;
            for _ in 0..fetched {
                s.submit(0, s.inline(0, &NOTE), 0);
                assert_eq!(s.completion()?.status, Status::Presented);
            }
            platform.unmap_range(page, PAGE);
            s.submit(0, s.inline(0, &NOTE), seconds(1));
            for _ in 0..10 {
                platform.turn();
            }
            let seen = (platform.stats.presented.get(), platform.stats.faults.get());
            assert_eq!(seen, (fetched.into(), 0), "{}, {fetched} were fetched", ring.name);
            platform.map_range(page, PAGE)?;
            platform.run_until_idle();
            assert_eq!(s.completion()?.status, Status::Presented);
            assert_eq!((platform.stats.late.get(), platform.stats.faults.get()), (0, 0));
        }
    }
    Ok(())
}

/// Buffers of a stream that renders are read one by one, and only those that are named; one that captures has to be
/// able to write to all of them.
#[test]
fn buffers_that_are_away_in_part_hold_up_who_captures_and_not_who_renders() -> anyhow::Result<()> {
    let message: Vec<u8> = [vec![0xF0], vec![1; 30], vec![0xF7]].concat();
    let song = Song::parse(&songs::file([(10, message.clone())]))?;
    for kind in [Type::Render, Type::Capture { cooked: true }] {
        let platform = Direct::with_inputs(vec![Input::Song(song.clone())])?;
        let mut s = RawStream::prepare(&platform, PointerWidth::Eight)?;
        let page = before_a_page(&platform, s.buffers.memory.len() as u64 / 2)?;
        s.buffers = platform.dma_alloc(s.buffers.memory.len(), 64)?;
        s.write64(stream::BUFFER_BASE, s.buffers.iova);
        map_apart(&platform, page)?;
        assert_eq!(s.transition(stream::TYPE, kind.value())?, None);
        let captures = kind != Type::Render;
        s.set_state(State::Run)?;
        if captures {
            s.fill(0, s.event(0, 0, Data::Inline(s.buffer_iova(BUFFERS - 1).to_le_bytes())));
            s.put(0);
            s.publish();
            platform.run_until_idle();
        }
        platform.unmap_range(page, PAGE);
        if captures {
            s.grant(seconds(1));
        } else {
            s.submit(0, s.long(0, 0, &message), 0);
        }
        for _ in 0..10 {
            platform.turn();
        }
        assert_eq!(s.is_drained(), captures, "{kind:?}");
        platform.map_range(page, PAGE)?;
        let done = s.completion()?;
        assert_eq!((done.slot, done.reason, platform.stats.faults.get()), (0, None, 0), "{kind:?}");
        let mut bytes = vec![0; message.len()];
        s.buffers.memory.read(if captures { ((BUFFERS - 1) * BUFFER_SIZE) as usize } else { 0 }, &mut bytes);
        assert_eq!(bytes, message, "{kind:?}");
    }
    Ok(())
}

/// As when a guest's firmware moves low memory about: QEMU takes the whole range away and maps it anew, at any point of
/// the card's work.
#[test]
fn memory_that_comes_and_goes_while_the_card_fetches_and_completes_was_never_away() -> anyhow::Result<()> {
    let hosted = HostedCard::start_behind(Transport::Own, ClockMode::Virtual)?;
    const PIECE: u64 = 8192;
    let pieces: Vec<u64> = (0..RAM as u64 / 64).step_by(PIECE as usize).collect();
    let platform = hosted.connect()?;
    platform.unmap_range(RAM_IOVA, RAM as u64);
    pieces.iter().for_each(|at| platform.map_range(RAM_IOVA + at, PIECE, *at));
    let card = Card::open(platform, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    stream.set_state(State::Run)?;
    let rounds = 400;
    for round in 1..=rounds {
        while stream.allocator().in_flight() < 16 {
            let mut message = stream.allocator().get_message()?;
            message.set_time(RefTime(round * 10_000));
            message.set_data(&[0xFE])?;
            stream.put_message(message)?;
        }
        stream.flush();
        card.grant(RefTime((round + 1) * 10_000));
        // In pieces, so that a stream's parts do not go and come at once.
        for _ in 0..4 {
            pieces.iter().for_each(|at| card.platform().unmap_range(RAM_IOVA + at, PIECE));
            pieces.iter().for_each(|at| card.platform().map_range(RAM_IOVA + at, PIECE, *at));
        }
        while stream.allocator().in_flight() > 0 {
            anyhow::ensure!(hosted.stats.faults.get() == 0, "in round {round}");
            stream.wait(16, Duration::from_millis(100));
            stream.allocator().reclaim()?;
        }
    }
    assert_eq!(stream.allocator().counts().presented, 16 * rounds as u64);
    drop(stream);
    drop(card);
    hosted.finish()?;
    Ok(())
}
