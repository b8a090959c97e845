//! Requests out of place, and a driver that does not keep up.

use super::event::running;
use super::{Mistake, Stream, prepared};
use crate::raw::SLOTS;
use anyhow::{bail, ensure};
use core::sync::atomic::Ordering;
use dmus_interface::command::Opcode;
use dmus_interface::doorbell;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault};
use dmus_interface::wave::{Sample, WaveFormat};

/// A stream that stands still after a wrong tail, of which the card has told.
fn halted(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    s.publish_tail(SLOTS + 1);
    s.platform.settle(&s.rung)?;
    let told = s.take_fault();
    ensure!(told == Some(Fault::TailOverrun), "{told:?} for a wrong tail");
    Ok(())
}

/// A stream that captures 768,000 bytes a second, of which the card keeps 1 MiB for slots to come.
fn recording(s: &Stream<'_>) -> anyhow::Result<()> {
    let format = WaveFormat { rate: 96_000, channels: 2, sample: Sample::F32 };
    s.write(stream::WAVE_RATE, format.rate);
    s.write(stream::WAVE_FORMAT, format.value());
    ensure!(s.transition(stream::TYPE, Type::WaveSink.value())?.is_none(), "the wave sink is refused");
    s.set_state(State::Run)
}

/// Asks twice, the second time before the first is answered; `answers` counts. A card with a thread of its own may be
/// quicker, and is asked again then.
fn hurry(s: &Stream<'_>, answers: impl Fn() -> u32, asks: [&dyn Fn(); 2]) -> anyhow::Result<()> {
    for _ in 0..1000 {
        let before = answers();
        asks.iter().for_each(|ask| ask());
        if s.platform.read32(regs::FAULT.offset) != 0 {
            return Ok(());
        }
        s.until("both answers", || answers().wrapping_sub(before) == 2)?;
    }
    bail!("the card is too quick to be hurried");
}

/// Writes TYPE or STATE. What the card answers is what is looked at.
fn ask(s: &Stream<'_>, register: regs::Register, value: u32) -> anyhow::Result<()> {
    s.transition(register, value)?;
    Ok(())
}

pub(super) const MISTAKES: [Mistake; 7] = [
    Mistake::new("transition-busy", "writes STATE twice without awaiting the answer", running, |s| {
        let set = |state| s.write(stream::STATE, state as u32);
        hurry(s, || s.word(doorbell::TRANSITIONS), [&|| set(State::Pause), &|| set(State::Run)])
    }),
    Mistake::new("card-not-enabled", "creates a stream before it enables the card", prepared, |s| {
        s.write_global(regs::CONTROL, 0);
        ask(s, stream::TYPE, Type::Render.value())
    }),
    Mistake::new("stream-closed", "sets the state of a stream that was not created", prepared, |s| {
        ask(s, stream::STATE, State::Run as u32)
    }),
    Mistake::new("stream-not-stopped", "closes a stream while it runs", running, |s| {
        ask(s, stream::TYPE, stream::CLOSED)
    }),
    Mistake::new("capture-overrun", "posts no slots for what is captured in realtime", recording, |s| {
        s.until("the overrun", || s.platform.read32(regs::FAULT.offset) != 0)
    })
    .in_realtime(),
    Mistake::new("command-busy", "writes COMMAND twice without awaiting the answer", prepared, |s| {
        s.write_global(regs::COMMAND_RESULT, s.buffers.iova as u32);
        s.write_global(regs::COMMAND_RESULT_ROOM, 8);
        let answers = || s.platform.doorbell().load_u32(doorbell::COMMANDS, Ordering::Acquire);
        let ask = || s.write_global(regs::COMMAND, Opcode::GetMasterClock as u32);
        hurry(s, answers, [&ask, &ask])
    }),
    Mistake::new("stream-halted", "sets a stream to RUN that stands still after a fault", halted, |s| {
        ask(s, stream::STATE, State::Run as u32)
    }),
];
