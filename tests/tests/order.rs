//! In which order events are presented, and which of them are late: by their times alone, however they come.

use dmus_card::ClockMode;
use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::{DONT_HOLD, Event, PointerWidth};
use dmus_interface::regs::stream::State;
use dmus_interface::ring::Status;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::raw::{RawStream, samples, seconds};

const NOTE: [u8; 3] = [0x90, 60, 100];

fn hosted() -> anyhow::Result<HostedCard> {
    HostedCard::start(ClockMode::Virtual)
}

/// DDI: The sequencer orders by time stamp only; an event in the past is played at once, and reported late.
#[test]
fn events_out_of_order_play_in_order_and_past_ones_at_once_and_late() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    // Two of one time, the higher slot first.
    for (slot, time) in [(0, 3), (5, 1), (1, 1), (2, 2)] {
        s.fill(slot, s.inline(seconds(time), &NOTE));
        s.put(slot);
    }
    s.fill(3, s.inline(DONT_HOLD, &NOTE));
    s.put(3);
    s.publish();
    s.grant(seconds(4));
    let order: Vec<u32> = (0..5).map(|_| s.completion().map(|done| done.slot)).collect::<Result<_, _>>()?;
    assert_eq!(order, [3, 5, 1, 2, 0]);
    s.reach(seconds(4))?;
    s.submit(4, s.inline(seconds(1), &NOTE), seconds(5));
    let done = s.completion()?;
    assert_eq!((done.status, done.time), (Status::Late, seconds(3)));
    Ok(())
}

#[test]
fn an_event_is_late_from_the_sample_on_that_was_rendered_before_it_came() -> anyhow::Result<()> {
    // By itself and at the head of a chain, and at the time that a stream begins with.
    for chained in [false, true] {
        let hosted = hosted()?;
        let platform = hosted.connect()?;
        let s = RawStream::running(&platform, PointerWidth::Eight)?;
        s.grant(samples(4800));
        s.reach(samples(4800))?;
        let cases = [
            (samples(4799) + 1, Status::Presented),
            (samples(4799), Status::Late),
            (1, Status::Late),
            (0, Status::Late),
        ];
        for (time, status) in cases {
            s.fill(1, s.inline(time, &NOTE));
            let next = if chained { s.slot_iova(1) } else { 0 };
            s.submit(0, Event { next, ..s.inline(time, &NOTE) }, samples(4800));
            assert_eq!(s.completion()?.status, status, "{time}, chained: {chained}");
        }
        // Each message counts, however many a submission has.
        assert_eq!(hosted.stats.late.get(), if chained { 6 } else { 3 });
    }
    Ok(())
}

/// What a grant covers is fetched before anything up to it is rendered, however much another stream submits.
#[test]
fn an_event_before_a_grant_is_on_time_behind_hundreds_of_another_stream() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let config = StreamConfig { slots: 512, ..StreamConfig::default() };
    let [many, one] = [RenderStream::open(&card, 0, config)?, RenderStream::open(&card, 1, config)?];
    many.set_state(State::Run)?;
    one.set_state(State::Run)?;
    // The card, which is turned below, finds all of it at once.
    for (stream, events, time) in [(&many, 500, samples(10)), (&one, 1, samples(5))] {
        for _ in 0..events {
            let mut message = stream.allocator().get_message()?;
            message.set_time(RefTime(time));
            message.set_data(&NOTE)?;
            stream.put_message(message)?;
        }
        stream.flush();
    }
    card.grant(RefTime::from_secs(1));
    card.platform().run_until_idle();
    for (stream, events) in [(&many, 500), (&one, 1)] {
        stream.allocator().reclaim()?;
        let counts = stream.allocator().counts();
        assert_eq!((counts.presented, counts.late), (events, 0));
    }
    Ok(())
}

#[test]
fn an_event_of_the_past_that_comes_in_pause_is_late_once_the_stream_runs() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.grant(samples(4800));
    s.reach(samples(4800))?;
    s.set_state(State::Pause)?;
    // The order is that of their times.
    for (slot, time) in [(0, samples(2400)), (1, 0), (2, 1)] {
        s.submit(slot, s.inline(time, &NOTE), samples(4800));
    }
    s.until("three slots in the card", || hosted.stats.in_flight.get() == 3)?;
    assert!(s.is_drained(), "presented in PAUSE");
    s.set_state(State::Run)?;
    s.grant(samples(9600));
    for slot in [1, 2, 0] {
        let done = s.completion()?;
        assert_eq!((done.slot, done.status), (slot, Status::Late));
    }
    Ok(())
}

#[test]
fn an_event_just_after_what_is_granted_waits_for_the_next_grant() -> anyhow::Result<()> {
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    s.grant(samples(4800));
    s.reach(samples(4800))?;
    s.fill(0, s.inline(samples(4800) + 1, &NOTE));
    s.put(0);
    // Behind the other, so that both are fetched when it is presented.
    s.fill(1, s.inline(samples(4800), &NOTE));
    s.put(1);
    s.publish();
    let done = s.completion()?;
    assert_eq!((done.slot, done.status), (1, Status::Presented));
    assert!(s.is_drained(), "presented before it is granted");
    s.grant(samples(4801));
    let done = s.completion()?;
    assert_eq!((done.slot, done.status), (0, Status::Presented));
    Ok(())
}

/// DDI: Identically time-stamped events are played in the order in which they were put, a chain like an event.
#[test]
fn an_event_that_is_due_does_not_overtake_a_chain_of_the_same_time() -> anyhow::Result<()> {
    const ALL_SOUND_OFF: [u8; 3] = [0xB0, 120, 0];
    let hosted = hosted()?;
    let platform = hosted.connect()?;
    let s = RawStream::running(&platform, PointerWidth::Eight)?;
    let now = samples(4800);
    s.grant(now);
    s.reach(now)?;
    s.fill(1, s.inline(now, &NOTE));
    s.fill(0, Event { next: s.slot_iova(1), ..s.inline(now, &NOTE) });
    s.fill(2, s.inline(now, &ALL_SOUND_OFF));
    s.put(0);
    s.put(2);
    s.publish();
    assert_eq!([s.completion()?.slot, s.completion()?.slot], [0, 2]);
    s.grant(seconds(1));
    s.reach(seconds(1))?;
    drop(platform);
    // A voice that is taken off fades out.
    let audio = hosted.finish()?.samples();
    assert!(audio[2 * 24_000..].iter().all(|sample| *sample == 0), "the notes came after what silences them");
    Ok(())
}
