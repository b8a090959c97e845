//! Requests out of place, and a driver that does not keep up.

use super::event::running;
use super::{Mistake, Stream, prepared};
use crate::direct::Direct;
use crate::raw::SLOTS;
use anyhow::ensure;
use dmus_card::ClockMode;
use dmus_driver::Platform;
use dmus_interface::command::Opcode;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault};
use dmus_interface::wave::{Sample, WaveFormat};

/// A stream that stands still after a wrong tail, of which the card has told.
fn halted(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    s.publish_tail(SLOTS + 1);
    s.platform.run_until_idle();
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

/// Writes TYPE or STATE. What the card answers is what is looked at.
fn ask(s: &Stream<'_>, register: regs::Register, value: u32) -> anyhow::Result<()> {
    s.transition(register, value)?;
    Ok(())
}

pub(super) const MISTAKES: [Mistake; 7] = [
    Mistake::new("transition-busy", "writes STATE twice without awaiting the answer", running, |s| {
        s.write(stream::STATE, State::Pause as u32);
        s.write(stream::STATE, State::Run as u32);
        Ok(())
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
    Mistake {
        card: || Direct::by_clock(ClockMode::Realtime, Vec::new()),
        ..Mistake::new("capture-overrun", "posts no slots for what is captured in realtime", recording, |s| {
            s.until("the overrun", || s.platform.read32(regs::FAULT.offset) != 0)
        })
    },
    Mistake::new("command-busy", "writes COMMAND twice without awaiting the answer", prepared, |s| {
        s.write_global(regs::COMMAND_RESULT, s.buffers.iova as u32);
        s.write_global(regs::COMMAND_RESULT_ROOM, 8);
        for _ in 0..2 {
            s.write_global(regs::COMMAND, Opcode::GetMasterClock as u32);
        }
        Ok(())
    }),
    Mistake::new("stream-halted", "sets a stream to RUN that stands still after a fault", halted, |s| {
        ask(s, stream::STATE, State::Run as u32)
    }),
];
