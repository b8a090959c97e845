//! Streams that are wrong: registers, rings, pools, types and transitions that have a typed refusal.

use crate::fixture::{NOTE, SIZES, message, ms, reach};
use crate::raw::{RawStream, SLOTS, STRIDE};
use anyhow::ensure;
use core::sync::atomic::Ordering;
use dmus_driver::{CaptureStream, Card, DriverError, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::protocol::Page as _;
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Fault};
use dmus_interface::ring::Status;
use dmus_interface::wave::{Sample, WaveFormat};

checks! {
    streams_with_wrong_registers_are_not_created: "NewStream says what is wrong: slots, strides, buffers, rings of \
        wrong size or alignment, memory that is not there.",
    pools_and_rings_that_overlap_are_not_taken: "A stream's pool, buffers and rings share no memory with one another, \
        nor with another stream's.",
    types_that_do_not_exist_are_refused: "StreamType is MIDI_RENDER 0, MIDI_CAPTURE 1 or WAVE_SINK 2; nothing else is \
        a stream.",
    transitions_out_of_place_are_refused: "SetState and NewStream out of place, and registers that change under a \
        stream, are refused.",
    the_driver_refuses_what_no_stream_can_be: "What no stream can be is an error of the driver, before the hardware \
        is asked.",
}

/// Runs a body against a stream that is prepared, and not created.
pub(super) fn with_prepared<P: Platform>(
    card: &Card<P>,
    width: PointerWidth,
    body: impl Fn(&RawStream<'_, P>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let s = RawStream::prepare(card.platform(), width)?;
    let result = body(&s);
    s.close();
    result
}

fn streams_with_wrong_registers_are_not_created<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    type Spoil<P> = fn(&RawStream<'_, P>);
    let wrong: [(Fault, Spoil<P>); 22] = [
        (Fault::BadPool, |s| s.write(stream::SLOT_COUNT, 0)),
        (Fault::BadPool, |s| s.write(stream::SLOT_COUNT, 4097)),
        (Fault::BadPool, |s| s.write(stream::SLOT_COUNT, u32::MAX)),
        (Fault::BadPool, |s| s.write(stream::SLOT_STRIDE, 96)),
        (Fault::BadPool, |s| s.write(stream::SLOT_STRIDE, 32)),
        (Fault::BadPool, |s| s.write(stream::SLOT_STRIDE, 8192)),
        (Fault::BadPool, |s| s.write64(stream::POOL_BASE, s.pool.iova + 8)),
        (Fault::BadBuffers, |s| s.write(stream::BUFFER_SIZE, 12)),
        (Fault::BadBuffers, |s| s.write(stream::BUFFER_SIZE, 65_536)),
        (Fault::BadBuffers, |s| s.write(stream::BUFFER_COUNT, u32::MAX)),
        (Fault::BadBuffers, |s| s.write64(stream::BUFFER_BASE, 4)),
        (Fault::BadRing, |s| s.write(stream::SUBMISSION_SIZE, 0)),
        (Fault::BadRing, |s| s.write(stream::SUBMISSION_SIZE, 63)),
        (Fault::BadRing, |s| s.write(stream::SUBMISSION_SIZE, 96)),
        (Fault::BadRing, |s| s.write(stream::SUBMISSION_SIZE, 16_384)),
        (Fault::BadRing, |s| s.write(stream::COMPLETION_SIZE, 32)),
        (Fault::BadRing, |s| s.write64(stream::SUBMISSION_BASE, s.submissions.iova + 2)),
        (Fault::BadRing, |s| s.write64(stream::COMPLETION_BASE, s.completions.iova + 8)),
        (Fault::NotMapped, |s| s.write64(stream::COMPLETION_BASE, 0xF000_0000)),
        (Fault::NotMapped, |s| s.write64(stream::SUBMISSION_BASE, u64::MAX - 3)),
        (Fault::NotMapped, |s| s.write64(stream::BUFFER_BASE, 0xF000_0000)),
        (Fault::NotEnabled, |s| s.write_global(regs::CONTROL, 0)),
    ];
    for (number, (fault, spoil)) in wrong.into_iter().enumerate() {
        with_prepared(card, card.pointer_width(), |s| {
            spoil(s);
            let refused = s.transition(stream::TYPE, Type::Render.value())?;
            ensure!(refused == Some(fault), "number {number}: {refused:?} instead of {fault:?}");
            ensure!(s.take_fault() == Some(fault));
            Ok(())
        })?;
    }
    Ok(())
}

fn pools_and_rings_that_overlap_are_not_taken<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    type Spoil<P> = fn(&RawStream<'_, P>);
    let overlaps: [Spoil<P>; 4] = [
        |s| s.write64(stream::POOL_BASE, s.buffers.iova),
        |s| s.write64(stream::SUBMISSION_BASE, s.slot_iova(SLOTS - 1)),
        |s| s.write64(stream::COMPLETION_BASE, s.submissions.iova),
        |s| s.write64(stream::BUFFER_BASE, s.completions.iova + 8),
    ];
    for (number, spoil) in overlaps.into_iter().enumerate() {
        with_prepared(card, card.pointer_width(), |s| {
            spoil(s);
            let refused = s.transition(stream::TYPE, Type::Render.value())?;
            ensure!(refused == Some(Fault::Overlap), "number {number}: {refused:?}");
            Ok(())
        })?;
    }
    // Another stream: with memory of its own it is created, with the first one's it is not.
    let own = card.platform().dma_alloc(4096, 64)?;
    let result = super::bad_events::with_running(card, |s| {
        let create = |pool: u64, submissions: u64, completions: u64| -> anyhow::Result<u32> {
            let write = |register, value| s.platform.write32(stream::at(1, register).offset, value);
            for (register, value) in [
                (stream::SLOT_COUNT, 1),
                (stream::SLOT_STRIDE, STRIDE),
                (stream::SUBMISSION_SIZE, 1),
                (stream::COMPLETION_SIZE, 1),
                (stream::BUFFER_SIZE, 8),
                (stream::BUFFER_COUNT, 0),
            ] {
                write(register, value);
            }
            for (register, base) in [
                (stream::POOL_BASE, pool),
                (stream::SUBMISSION_BASE, submissions),
                (stream::COMPLETION_BASE, completions),
            ] {
                write(register, base as u32);
                s.platform.write32(stream::at(1, register).offset + 4, (base >> 32) as u32);
            }
            let word = |word| s.platform.doorbell().load_u32(doorbell::at(1, word), Ordering::Acquire);
            let before = word(doorbell::TRANSITIONS);
            write(stream::TYPE, Type::Render.value());
            s.until("an answer", || word(doorbell::TRANSITIONS) != before)?;
            Ok(word(doorbell::REFUSAL))
        };
        let mine = own.iova;
        for taken in [s.slot_iova(1), s.buffers.iova, s.submissions.iova, s.completions.iova] {
            for (pool, submissions, completions) in
                [(taken, mine, mine + 64), (mine, taken, mine + 64), (mine, mine + 64, taken)]
            {
                let refused = create(pool, submissions, completions)?;
                ensure!(refused == Fault::Overlap as u32, "{refused} for {pool:#x} {submissions:#x} {completions:#x}");
            }
        }
        ensure!(create(mine, mine + 64, mine + 128)? == 0);
        // The first one's events still play.
        s.submit(0, s.inline(0, &NOTE), ms(1).0);
        ensure!(s.completion()?.status == Status::Presented);
        Ok(())
    });
    // The card was reset: nothing uses it any more.
    card.platform().dma_free(own);
    result
}

fn types_that_do_not_exist_are_refused<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_prepared(card, card.pointer_width(), |s| {
        for kind in [3, 4, stream::UNCOOKED, 2 | stream::UNCOOKED, 1 | 1 << 9, 1 << 31, u32::MAX - 1] {
            let refused = s.transition(stream::TYPE, kind)?;
            ensure!(refused == Some(Fault::BadValue), "{refused:?} for type {kind:#x}");
        }
        // INVALID (-1) is what is there when none is.
        ensure!(s.platform.read32(stream::at(0, stream::TYPE).offset) == stream::CLOSED);
        for (rate, format) in [(0, 2), (44_101, 2), (48_000, 0), (48_000, 3), (48_000, 0x202), (u32::MAX, u32::MAX)] {
            s.write(stream::WAVE_RATE, rate);
            s.write(stream::WAVE_FORMAT, format);
            let refused = s.transition(stream::TYPE, Type::WaveSink.value())?;
            ensure!(refused == Some(Fault::BadValue), "{refused:?} for {rate} Hz, {format:#x}");
        }
        s.write(stream::BUFFER_COUNT, 0);
        for kind in [Type::Capture { cooked: true }, Type::Capture { cooked: false }] {
            let refused = s.transition(stream::TYPE, kind.value())?;
            ensure!(refused == Some(Fault::BadBuffers), "{refused:?} for capture without buffers");
        }
        ensure!(s.transition(stream::TYPE, Type::Render.value())?.is_none(), "render needs no buffers");
        ensure!(s.platform.read32(stream::at(0, stream::TYPE).offset) == 0);
        Ok(())
    })
}

fn transitions_out_of_place_are_refused<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    with_prepared(card, card.pointer_width(), |s| {
        let refused = |register, value, fault| -> anyhow::Result<()> {
            let refused = s.transition(register, value)?;
            ensure!(refused == Some(fault), "{refused:?} instead of {fault:?}");
            Ok(())
        };
        refused(stream::STATE, 3, Fault::Closed)?;
        refused(stream::TYPE, stream::CLOSED, Fault::NotStopped)?;
        s.create()?;
        // Created twice; no state.
        refused(stream::TYPE, 0, Fault::NotStopped)?;
        refused(stream::STATE, 4, Fault::BadValue)?;
        s.set_state(State::Run)?;
        refused(stream::TYPE, stream::CLOSED, Fault::NotStopped)?;
        s.take_fault();
        for (register, value) in [(stream::SLOT_COUNT, 1), (stream::SUBMISSION_SIZE, 128)] {
            s.write(register, value);
            ensure!(s.take_fault() == Some(Fault::Locked), "{} is not locked", register.name);
        }
        for (register, value) in [(regs::POINTER_WIDTH, 12 - s.width.bytes() as u32), (regs::CONTROL, 0)] {
            s.write_global(register, value);
            ensure!(s.take_fault() == Some(Fault::Locked), "{} is not locked", register.name);
        }
        // It is in RUN still.
        s.submit(0, s.inline(0, &NOTE), ms(1).0);
        ensure!(s.completion()?.status == Status::Presented);
        Ok(())
    })
}

fn the_driver_refuses_what_no_stream_can_be<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let wrong = [
        StreamConfig { slots: 0, ..SIZES },
        StreamConfig { slots: 4097, ..SIZES },
        StreamConfig { buffers: 4097, ..SIZES },
        StreamConfig { buffer_size: 0, ..SIZES },
        StreamConfig { buffer_size: 12, ..SIZES },
        StreamConfig { buffer_size: 65_536, ..SIZES },
    ];
    for config in wrong {
        let refused = RenderStream::open(card, 0, config).err();
        ensure!(matches!(refused, Some(DriverError::BadConfig(_))), "{config:?}: {refused:?}");
    }
    let none = StreamConfig { buffers: 0, ..SIZES };
    ensure!(matches!(CaptureStream::open(card, 0, none, true).err(), Some(DriverError::BadConfig(_))));
    ensure!(matches!(RenderStream::open(card, STREAMS, SIZES).err(), Some(DriverError::BadConfig(_))));
    for (rate, channels) in [(48_001, 2), (48_000, 0), (48_000, 3)] {
        let format = WaveFormat { rate, channels, sample: Sample::S16 };
        ensure!(matches!(WaveStream::open(card, 0, SIZES, format).err(), Some(DriverError::BadConfig(_))));
    }
    // What the card refuses leaves nothing behind, either.
    card.platform().write32(regs::CONTROL.offset, 0);
    let refused = RenderStream::open(card, 0, SIZES).err();
    ensure!(refused == Some(DriverError::Refused(Fault::NotEnabled)), "{refused:?}");
    card.reset()?;
    // One stream a place.
    let first = RenderStream::open(card, 0, SIZES)?;
    first.set_state(State::Run)?;
    let second = RenderStream::open(card, 0, SIZES).err();
    ensure!(second == Some(DriverError::Refused(Fault::NotStopped)), "{second:?}");
    first.put_message(message(&first, ms(0), &NOTE)?)?;
    first.flush();
    reach(card, ms(1))?;
    first.allocator().reclaim()?;
    ensure!(first.allocator().counts().presented == 1, "the first stream was harmed");
    Ok(())
}
