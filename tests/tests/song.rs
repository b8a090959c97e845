//! Whole songs through the driver, the rings and the card, over the socket.

use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::transport::Transport;
use dmus_driver::{Card, RenderStream, StreamConfig, play};
use dmus_interface::event::PointerWidth;
use dmus_song::Song;
use dmus_tests::loopback::{HostedCard, MemorySink};
use dmus_tests::songs;
use std::sync::Arc;

fn offline(song: &Song) -> Vec<i16> {
    let mut sink = MemorySink::default();
    dmus_card::offline::render(song, Arc::new(Bank::general_midi()), &mut sink, |_| {});
    sink.samples()
}

/// Plays in virtual time and gives the audio; everything must be presented on time and returned.
fn play_all(transport: Transport, song: &Song, width: PointerWidth) -> anyhow::Result<Vec<i16>> {
    let config = StreamConfig::default();
    let hosted = HostedCard::start_behind(transport, ClockMode::Virtual)?;
    let stats = Arc::clone(&hosted.stats);
    let card = Card::open(hosted.connect()?, width)?;
    {
        let stream = RenderStream::open(&card, 0, config)?;
        let played = play(&stream, song.messages(), song.duration(), |_| {})?;
        assert_eq!(played.counts.submitted, song.len() as u64);
        assert_eq!(played.counts.presented, song.len() as u64, "{played:?}");
        let allocator = stream.allocator();
        assert_eq!(allocator.free_slots(), config.slots as usize);
        assert_eq!(allocator.free_buffers(), config.buffers as usize);
    }
    assert_eq!(stats.presented.get(), song.len() as u64);
    assert_eq!(
        (stats.late.get(), stats.rejected.get(), stats.discarded.get(), stats.in_flight.get(), stats.faults.get()),
        (0, 0, 0, 0, 0)
    );
    assert!(stats.register_accesses.get() < 200, "{} register accesses", stats.register_accesses.get());
    assert_eq!(card.platform().ram.outstanding.get(), 0);
    drop(card);
    Ok(hosted.finish()?.samples())
}

#[test]
fn the_bundled_song_sounds_as_it_is_rendered_offline() -> anyhow::Result<()> {
    let song = Song::parse(&dmus_card::demo::song())?;
    let expected = offline(&song);
    assert!(expected.iter().any(|sample| sample.abs() > 1000));
    for transport in [Transport::Own, Transport::Crate] {
        assert!(play_all(transport, &song, PointerWidth::Eight)? == expected, "the audio differs behind {transport:?}");
    }
    Ok(())
}

#[test]
fn fifty_thousand_events_through_64_slots_in_both_widths_give_the_same_samples() -> anyhow::Result<()> {
    let song = Song::parse(&songs::busy(50_000))?;
    assert_eq!(song.len(), 50_000);
    let expected = offline(&song);
    for width in [PointerWidth::Eight, PointerWidth::Four] {
        let heard = play_all(Transport::Own, &song, width)?;
        assert!(heard == expected, "the audio differs with {width:?}");
    }
    Ok(())
}
