//! SetState and NewStream: what is held, discarded or thrown away in which state, and when time stands.

use crate::fixture::{Fixture, SIZES, bytes, capture_until, expect_all_free, mark, message, ms, reach, sysex, timed};
use anyhow::ensure;
use dmus_driver::{CaptureStream, Card, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};

checks! {
    streams_of_any_type_open_and_close_in_any_place: "NewStream gives a stream of type MIDI_RENDER, MIDI_CAPTURE or \
        WAVE_SINK, with SchedulePreFetch, how far ahead the hardware wants events.",
    any_state_may_follow_any_other: "SetState takes STOP, ACQUIRE, PAUSE and RUN in any order, in every type of \
        stream.",
    a_render_stream_holds_outside_run: "Render: in any state but RUN events are held, and not passed to the hardware.",
    a_render_stream_discards_in_stop: "Render: in STOP, what is held and what is given is discarded to the allocator.",
    render_time_stands_outside_run_and_begins_anew_after_stop: "Presentation time does not advance in PAUSE and STOP, \
        and is reset in STOP.",
    a_capture_stream_receives_in_run_and_pause: "Capture: in RUN and PAUSE messages go upstream; in STOP and ACQUIRE, \
        hardware data is thrown away.",
    stop_returns_every_posted_slot: "Capture: STOP returns what was posted and discards what waits, and resets \
        presentation time and byte position.",
    capture_time_stands_in_pause: "Capture: presentation time does not advance in PAUSE.",
    a_change_of_state_harms_nothing_under_way: "State changes in the middle of anything (fragments, chains, what is \
        held) leave the stream whole: everything is returned and the next event plays.",
    a_stream_that_stops_disturbs_no_other: "Each stream has its own pool, rings and state: one that stops, or closes, \
        disturbs no other.",
}

const STATES: [State; 4] = [State::Stop, State::Acquire, State::Pause, State::Run];
const PCM: WaveFormat = WaveFormat { rate: 48_000, channels: 2, sample: Sample::S16 };

fn streams_of_any_type_open_and_close_in_any_place<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    for index in [0, 3, STREAMS - 1] {
        let render = RenderStream::open(card, index, SIZES)?;
        ensure!(render.prefetch() > RefTime::ZERO, "SchedulePreFetch is {}", render.prefetch());
        ensure!(render.state() == Some(State::Stop));
        drop(render);
        for cooked in [true, false] {
            ensure!(CaptureStream::open(card, index, SIZES, cooked)?.state() == Some(State::Stop));
        }
        ensure!(WaveStream::open(card, index, SIZES, PCM)?.state() == Some(State::Stop));
        // In the same place again, and it plays.
        let render = RenderStream::open(card, index, SIZES)?;
        render.set_state(State::Run)?;
        render.put_message(message(&render, RefTime::ZERO, &mark(1))?)?;
        render.flush();
        reach(card, card.get_time().saturating_add(ms(1)))?;
        render.allocator().reclaim()?;
        ensure!(render.allocator().counts().presented == 1, "stream {index}");
    }
    Ok(())
}

fn any_state_may_follow_any_other<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let render = RenderStream::open(card, 0, SIZES)?;
    let capture = CaptureStream::open(card, 1, SIZES, true)?;
    let wave = WaveStream::open(card, 2, SIZES, WaveFormat { rate: 22_050, channels: 1, sample: Sample::F32 })?;
    for from in STATES {
        for to in STATES {
            for state in [from, to] {
                render.set_state(state)?;
                capture.set_state(state)?;
                wave.set_state(state)?;
                let states = [render.state(), capture.state(), wave.state()];
                ensure!(states == [Some(state); 3], "{from:?} to {to:?}: {states:?}");
            }
        }
    }
    Ok(())
}

fn a_render_stream_holds_outside_run<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let mut now = 0;
    for (state, time) in [(State::Acquire, 5), (State::Pause, 15)] {
        fixture.render.set_state(state)?;
        let mut at_once = message(&fixture.render, RefTime::ZERO, &mark(1))?;
        at_once.play_at_once();
        fixture.render.put_message(at_once)?;
        fixture.put(ms(time), &mark(2))?;
        now += 100;
        let captured = fixture.capture_until(ms(now))?;
        ensure!(captured.is_empty(), "in {state:?}: {captured:?}");
        ensure!(fixture.render.allocator().in_flight() == 2, "{state:?}");
        fixture.render.set_state(State::Run)?;
        now += 10;
        let captured = fixture.capture_until(ms(now))?;
        ensure!(bytes(&captured) == [mark(1), mark(2)], "after {state:?}");
    }
    fixture.expect_all_free()
}

fn a_render_stream_discards_in_stop<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let held = |fixture: &Fixture<'_, P>| -> anyhow::Result<()> {
        fixture.put(ms(50), &sysex(30))?;
        let mut chain = message(&fixture.render, ms(50), &mark(1))?;
        chain.chain(message(&fixture.render, ms(50), &sysex(30))?)?;
        fixture.render.put_message(chain)?;
        fixture.render.flush();
        Ok(())
    };
    held(&fixture)?;
    let mut captured = fixture.capture_until(ms(10))?;
    fixture.render.set_state(State::Stop)?;
    // Everything is returned when STOP is in force.
    fixture.expect_all_free()?;
    ensure!(fixture.render.allocator().counts().discarded == 3);
    held(&fixture)?;
    captured.extend(fixture.capture_until(ms(100))?);
    fixture.expect_all_free()?;
    ensure!(fixture.render.allocator().counts().discarded == 6);
    // Nothing of it plays later.
    fixture.render.set_state(State::Run)?;
    captured.extend(fixture.capture_until(ms(200))?);
    ensure!(captured.is_empty(), "{captured:?}");
    Ok(())
}

fn render_time_stands_outside_run_and_begins_anew_after_stop<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    fixture.put(ms(20), &mark(1))?;
    ensure!(fixture.capture_until(ms(10))?.is_empty());
    // Stream time 10 ms, while master time goes to 60 ms.
    fixture.render.set_state(State::Pause)?;
    ensure!(fixture.capture_until(ms(40))?.is_empty(), "presented in PAUSE");
    fixture.render.set_state(State::Acquire)?;
    ensure!(fixture.capture_until(ms(60))?.is_empty(), "presented in ACQUIRE");
    fixture.render.set_state(State::Run)?;
    ensure!(fixture.render.time_base() == ms(50), "stream time goes on at {}", fixture.render.time_base());
    let captured = fixture.capture_until(ms(75))?;
    // The capture stream never stood.
    ensure!(timed(&captured) == [(ms(70), &mark(1)[..])]);
    fixture.render.set_state(State::Stop)?;
    ensure!(fixture.capture_until(ms(90))?.is_empty());
    fixture.render.set_state(State::Run)?;
    ensure!(fixture.render.time_base() == ms(90), "stream time begins at {}", fixture.render.time_base());
    fixture.put(ms(5), &mark(2))?;
    let captured = fixture.capture_until(ms(100))?;
    ensure!(timed(&captured) == [(ms(95), &mark(2)[..])]);
    let counts = fixture.render.allocator().counts();
    ensure!((counts.presented, counts.late) == (2, 0), "{counts:?}");
    Ok(())
}

fn a_capture_stream_receives_in_run_and_pause<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    for (number, state, receives) in [
        (1, State::Run, true),
        (2, State::Pause, true),
        (3, State::Acquire, false),
        (4, State::Run, true),
        (5, State::Stop, false),
    ] {
        fixture.capture.set_state(state)?;
        let at = ms(i64::from(number) * 10);
        fixture.put(at, &mark(number))?;
        let captured = fixture.capture_until(at)?;
        let expected = [&mark(number)[..]];
        ensure!(bytes(&captured) == expected[..usize::from(receives)], "in {state:?}: {captured:?}");
    }
    // What was thrown away never comes.
    fixture.capture.set_state(State::Run)?;
    ensure!(fixture.capture_until(ms(60))?.is_empty());
    Ok(())
}

fn stop_returns_every_posted_slot<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    ensure!(
        fixture.capture.free_slots_and_buffers() == (0, 0),
        "{:?} are not posted",
        fixture.capture.free_slots_and_buffers()
    );
    fixture.put(ms(1), &mark(1))?;
    let captured = fixture.capture_until(ms(10))?;
    ensure!((captured[0].time, captured[0].position) == (ms(1), 0));
    fixture.capture.set_state(State::Stop)?;
    ensure!(fixture.capture.receive()?.is_none());
    ensure!(
        fixture.capture.free_slots_and_buffers() == (32, 32),
        "only {:?} are free",
        fixture.capture.free_slots_and_buffers()
    );
    fixture.capture_until(ms(20))?;
    fixture.capture.set_state(State::Run)?;
    fixture.put(ms(25), &mark(2))?;
    let captured = fixture.capture_until(ms(30))?;
    ensure!(timed(&captured) == [(ms(5), &mark(2)[..])], "time begins anew");
    ensure!(captured[0].position == 0, "the position begins anew");
    Ok(())
}

fn capture_time_stands_in_pause<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    fixture.capture_until(ms(10))?;
    fixture.capture.set_state(State::Pause)?;
    fixture.put(ms(15), &mark(1))?;
    let captured = fixture.capture_until(ms(30))?;
    ensure!(timed(&captured) == [(ms(10), &mark(1)[..])]);
    fixture.capture.set_state(State::Run)?;
    fixture.put(ms(35), &mark(2))?;
    let captured = fixture.capture_until(ms(40))?;
    ensure!(timed(&captured) == [(ms(15), &mark(2)[..])]);
    ensure!(captured[0].position == 3, "the position goes on");
    Ok(())
}

fn a_change_of_state_harms_nothing_under_way<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut fixture = Fixture::open(card)?;
    let mut now = ms(0);
    for (number, state) in (0..).zip([State::Pause, State::Acquire, State::Stop, State::Stop, State::Run]) {
        let base = fixture.render.time_base();
        let at = |time: i64| RefTime(now.0 - base.0 + time);
        // A message that has begun, a chain that waits, one that is due, all on their way.
        let mut chain = message(&fixture.render, at(50_000), &mark(1))?;
        chain.chain(message(&fixture.render, at(50_000), &sysex(30))?)?;
        fixture.render.put_message(chain)?;
        fixture.put(at(1), &mark(2))?;
        let mut begun = message(&fixture.render, at(1), &[0xF0, 0x7D])?;
        begun.set_incomplete();
        fixture.render.put_message(begun)?;
        fixture.render.flush();
        card.grant(RefTime(now.0 + 10_000));
        fixture.render.set_state(state)?;
        fixture.capture.set_state(state)?;
        fixture.render.set_state(State::Stop)?;
        fixture.capture.set_state(State::Stop)?;
        now = RefTime(now.0 + 100_000);
        fixture.capture_until(now)?;
        fixture.expect_all_free()?;
        fixture.capture.set_state(State::Run)?;
        fixture.render.set_state(State::Run)?;
        fixture.put(RefTime(1), &mark(number))?;
        now = RefTime(now.0 + 100_000);
        let captured = fixture.capture_until(now)?;
        ensure!(timed(&captured) == [(RefTime(1), &mark(number)[..])], "after {state:?}");
    }
    fixture.expect_all_free()
}

fn a_stream_that_stops_disturbs_no_other<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let streams = [RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 2, SIZES)?];
    let capture = CaptureStream::open(card, 1, StreamConfig { buffers: 32, ..SIZES }, true)?;
    capture.set_state(State::Run)?;
    for stream in &streams {
        stream.set_state(State::Run)?;
        for number in 1..=10 {
            stream.put_message(message(stream, ms(number.into()), &mark(number))?)?;
        }
        stream.flush();
    }
    let [stopped, other] = streams;
    let captured = capture_until(card, &capture, ms(3))?;
    ensure!(captured.len() == 6, "{captured:?}");
    stopped.set_state(State::Stop)?;
    let captured = capture_until(card, &capture, ms(5))?;
    ensure!(timed(&captured) == [(ms(4), &mark(4)[..]), (ms(5), &mark(5)[..])]);
    expect_all_free(&stopped, SIZES)?;
    drop(stopped);
    let captured = capture_until(card, &capture, ms(20))?;
    ensure!(bytes(&captured) == [mark(6), mark(7), mark(8), mark(9), mark(10)]);
    expect_all_free(&other, SIZES)
}
