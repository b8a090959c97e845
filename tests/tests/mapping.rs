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
    hosted.finish()?;
    Ok(())
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
