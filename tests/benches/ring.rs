//! What an event costs: GetMessage, filling, submission, fetch with all checks, presentation, completion and recycling, driver and card in
//! one thread.
//!
//! Fed by nothing; prints nanoseconds per event for several batches and lengths. With a number of events, a batch and a length it only
//! runs that, for `valgrind --tool=callgrind`: the difference of two runs is free of what comes before the events.

use dmus_driver::{Card, RenderStream, StreamConfig};
use dmus_interface::event::PointerWidth;
use dmus_interface::regs::stream::State;
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use std::time::Instant;

const CONFIG: StreamConfig = StreamConfig { slots: 256, buffers: 256, buffer_size: 256 };

/// Sends SysEx of `length` bytes, that the synthesizer ignores, and gives the nanoseconds an event took.
fn run(events: u64, batch: u64, length: usize) -> anyhow::Result<f64> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, CONFIG)?;
    stream.set_state(State::Run)?;
    let allocator = stream.allocator();
    let mut sysex = vec![0x55; length];
    sysex[0] = 0xF0;
    sysex[length - 1] = 0xF7;
    let started = Instant::now();
    for _ in 0..events / batch {
        for _ in 0..batch {
            let mut message = allocator.get_message()?;
            message.set_time(RefTime::ZERO);
            message.set_data(&sysex)?;
            stream.put_message(message)?;
        }
        stream.flush();
        card.platform().turn();
    }
    allocator.reclaim()?;
    assert_eq!(allocator.counts().presented, events / batch * batch);
    Ok(started.elapsed().as_nanos() as f64 / events as f64)
}

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if let [events, batch, length] = numbers[..] {
        println!("{:.1} ns", run(events, batch, length as usize)?);
        return Ok(());
    }
    println!("{:>8} {:>8} {:>12}", "bytes", "batch", "ns/event");
    for length in [8, 256] {
        for batch in [1, 16, 128] {
            let mut times = (0..5).map(|_| run(400_000, batch, length)).collect::<Result<Vec<_>, _>>()?;
            times.sort_by(f64::total_cmp);
            println!("{length:>8} {batch:>8} {:>12.1}", times[2]);
        }
    }
    Ok(())
}
