//! Pages that are unmapped, moved and mapped again while the card plays: see `dmus_tests::remapping`.

use dmus_card::ClockMode;
use dmus_card::transport::Transport;
use dmus_driver::{Card, Platform, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::{self, stream::State};
use dmus_interface::time::RefTime;
use dmus_tests::attack::next_driver_plays;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::memory::{RAM, RAM_IOVA};
use dmus_tests::remapping::Remapping;
use std::sync::Arc;
use std::time::Duration;

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
