//! KSPROPSETID_Synth and KSPROPSETID_SynthClock, through the mailbox.

use crate::fixture::{SIZES, message, ms, reach};
use anyhow::ensure;
use dmus_driver::{CaptureStream, Card, DriverError, Mailbox, Platform, RenderStream, StreamConfig, WaveStream};
use dmus_interface::command::Status;
use dmus_interface::property::{PortParams, caps, effect, port, priority, stats};
use dmus_interface::regs;
use dmus_interface::regs::stream::State;
use dmus_interface::ring::Reject;
use dmus_interface::time::RefTime;
use dmus_interface::wave::{Sample, WaveFormat};

checks! {
    caps_tell_what_the_synthesizer_can: "CAPS gives a SYNTHCAPS: flags, memory size, most channel groups, voices and \
        audio channels, effects, description.",
    port_parameters_are_applied_or_replaced: "PORTPARAMETERS applies a SYNTH_PORTPARAMS; unsupported values are \
        replaced, and the status says that not all were assigned.",
    channel_groups_are_set_for_each_stream: "CHANNELGROUPS gets and sets the number of groups, for each pin instance \
        by itself; events for a group that is not there are refused.",
    voice_priorities_begin_as_documented: "A voice priority is that of the channel group OR the channel's offset: \
        channel 10 has 15, channels 1 to 9 have 14 to 6, channels 11 to 16 have 5 to 0; STANDARD at first.",
    voice_priorities_stay_as_they_are_set: "VOICEPRIORITY is got and set for each channel group and channel.",
    the_lowest_priority_is_stolen_first: "Stealing takes the lowest priority first.",
    clocks_are_told_in_reference_time: "LATENCYCLOCK and MASTERCLOCK give 100 ns; the latency clock is the master \
        clock and the guaranteed latency.",
    running_stats_begin_anew_with_run: "RUNNINGSTATS gives a SYNTH_STATS, and is reset on entering RUN.",
    volume_is_in_hundredths_of_a_decibel: "VOLUME and VOLUMEBOOST are in 0.01 dB, and the boost is applied after the \
        mix.",
    volume_is_each_streams_own: "Properties are per pin instance: each stream has a volume and a boost of its own.",
    properties_of_what_does_not_render_are_refused: "A request to a stream of the wrong type, or with a value out of \
        range, is refused with a status of its own.",
}

const NOTE: [u8; 3] = [0x90, 60, 127];

fn status<T>(result: Result<T, DriverError>) -> Option<Status> {
    match result {
        Err(DriverError::Command { status, .. }) => Some(status),
        _ => None,
    }
}

/// Puts a message at the very start, or in the past of it.
fn put<P: Platform>(stream: &RenderStream<'_, P>, group: u16, bytes: &[u8]) -> anyhow::Result<()> {
    let mut event = message(stream, RefTime(1), bytes)?;
    event.set_channel_group(group);
    stream.put_message(event)?;
    stream.flush();
    Ok(())
}

/// Lets time pass, and reclaims what it ends.
fn pass<P: Platform>(stream: &RenderStream<'_, P>, time: RefTime) -> anyhow::Result<()> {
    reach(stream.card(), stream.card().get_time().saturating_add(time))?;
    Ok(stream.allocator().reclaim()?)
}

fn caps_tell_what_the_synthesizer_can<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let is = mailbox.caps()?;
    let flags = caps::DLS | caps::DLS2 | caps::SOFTWARE_SYNTH | caps::GM_IN_HARDWARE | caps::GS_IN_HARDWARE;
    ensure!(is.flags.get() & flags == flags, "{:#x}", is.flags.get());
    // SYSTEMMEMORY is a value of MemorySize, never a flag.
    ensure!(is.flags.get() & !0x3FF == 0 && is.memory_size.get() > 0, "{is:?}");
    ensure!(is.max_channel_groups.get() >= 1000 && is.max_voices.get() >= 1024, "{is:?}");
    ensure!(is.max_audio_channels.get() == 2 && is.effects.get() == effect::REVERB | effect::CHORUS, "{is:?}");
    ensure!(
        is.description.first().is_some_and(|unit| unit.get() != 0) && is.description.iter().any(|unit| unit.get() == 0)
    );
    ensure!(is.guid != [0; 16]);
    Ok(())
}

fn port_parameters_are_applied_or_replaced<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let _stream = RenderStream::open(card, 0, SIZES)?;
    let wanted = PortParams {
        valid: (port::VOICES | port::CHANNEL_GROUPS | port::SAMPLE_RATE).into(),
        voices: 100.into(),
        channel_groups: 20.into(),
        sample_rate: card.sample_rate().into(),
        ..PortParams::default()
    };
    let (is, all) = mailbox.set_port_parameters(0, &wanted)?;
    ensure!(all && (is.voices.get(), is.channel_groups.get()) == (100, 20), "{is:?}");
    ensure!(is.valid.get() == port::ALL && mailbox.port_parameters(0)? == is);
    // What cannot be is replaced, and only that; what is not named is not looked at.
    let wanted = PortParams {
        valid: (port::VOICES | port::SAMPLE_RATE).into(),
        sample_rate: 11_025.into(),
        voices: 64.into(),
        channel_groups: 0.into(),
        ..wanted
    };
    let (is, all) = mailbox.set_port_parameters(0, &wanted)?;
    ensure!(!all && is.sample_rate.get() == card.sample_rate(), "{is:?}");
    ensure!((is.voices.get(), is.channel_groups.get()) == (64, 20), "{is:?}");
    Ok(())
}

fn channel_groups_are_set_for_each_stream<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let (stream, _other) = (RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 1, SIZES)?);
    let usual = mailbox.channel_groups(1)?;
    let register = || card.platform().read32(regs::CHANNEL_GROUPS.offset);
    ensure!(register() == usual, "a stream has {usual} at first, and CHANNEL_GROUPS says {}", register());
    mailbox.set_channel_groups(0, 100)?;
    ensure!((mailbox.channel_groups(0)?, mailbox.channel_groups(1)?) == (100, usual));
    ensure!(register() == usual, "CHANNEL_GROUPS is what every stream begins with");
    stream.set_state(State::Run)?;
    for (group, refused) in [(99, 0), (100, 1), (99, 1)] {
        put(&stream, group, &NOTE)?;
        pass(&stream, ms(1))?;
        let counts = stream.allocator().counts();
        ensure!(counts.rejected == refused, "group {group}: {counts:?}");
    }
    let reason = stream.allocator().last_rejection().and_then(|rejection| rejection.reason);
    ensure!(reason == Some(Reject::BadChannelGroup), "{reason:?}");
    for groups in [0, u32::MAX] {
        ensure!(status(mailbox.set_channel_groups(0, groups)) == Some(Status::InvalidParameter), "{groups}");
    }
    ensure!(mailbox.channel_groups(0)? == 100);
    Ok(())
}

fn voice_priorities_begin_as_documented<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let _stream = RenderStream::open(card, 0, SIZES)?;
    let offsets = [14, 13, 12, 11, 10, 9, 8, 7, 6, 15, 5, 4, 3, 2, 1, 0];
    for group in [0, mailbox.channel_groups(0)? - 1] {
        for (channel, offset) in (0..).zip(offsets) {
            let is = mailbox.voice_priority(0, group, channel)?;
            ensure!(is == 0x8000_0000 | offset, "channel {channel} of group {group} has {is:#x}");
        }
    }
    Ok(())
}

fn voice_priorities_stay_as_they_are_set<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let (stream, _other) = (RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 1, SIZES)?);
    mailbox.set_voice_priority(0, 3, 2, priority::CRITICAL | 7)?;
    stream.set_state(State::Run)?;
    // No message takes it back (this one resets the synthesizer), and no STOP.
    put(&stream, 3, &[0xF0, 0x7E, 0x7F, 9, 1, 0xF7])?;
    pass(&stream, ms(1))?;
    stream.set_state(State::Stop)?;
    ensure!(mailbox.voice_priority(0, 3, 2)? == 0xF000_0007);
    for (stream, group, channel) in [(0, 2, 2), (1, 3, 2)] {
        ensure!(mailbox.voice_priority(stream, group, channel)? == 0x8000_000C, "stream {stream}, group {group}");
    }
    for (group, channel) in [(u32::MAX, 0), (0, 16)] {
        ensure!(status(mailbox.voice_priority(0, group, channel)) == Some(Status::InvalidParameter));
        ensure!(status(mailbox.set_voice_priority(0, group, channel, 1)) == Some(Status::InvalidParameter));
    }
    Ok(())
}

fn the_lowest_priority_is_stolen_first<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    // So few voices that one note takes all of them.
    let few = PortParams { valid: port::VOICES.into(), voices: 1.into(), ..PortParams::default() };
    let (is, _) = mailbox.set_port_parameters(0, &few)?;
    let voices = is.voices.get() as u8;
    ensure!(voices <= 8, "no fewer than {voices} voices");
    // Whether a note of this priority sounds after the voices were taken by notes at STANDARD, whose channel is silent.
    let mut sounds = |priority| -> anyhow::Result<bool> {
        mailbox.set_voice_priority(0, 0, 5, priority)?;
        stream.set_state(State::Run)?;
        put(&stream, 0, &[0xB0, 7, 0])?;
        for voice in 0..voices {
            put(&stream, 0, &[0x90, 40 + voice, 127])?;
        }
        put(&stream, 0, &[0x95, 60, 127])?;
        pass(&stream, ms(100))?;
        let is = mailbox.running_stats(0)?;
        ensure!(is.lost_notes.get() > 0, "nothing was stolen, or refused: {is:?}");
        stream.set_state(State::Stop)?;
        Ok(is.peak_volume.get() > -20_000)
    };
    ensure!(sounds(priority::HIGH)?, "a high priority did not get the voice");
    ensure!(!sounds(priority::LOW)?, "a low priority stole from a higher one");
    Ok(())
}

fn clocks_are_told_in_reference_time<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    stream.set_state(State::Run)?;
    for time in [ms(1), ms(50)] {
        reach(card, time)?;
        ensure!(mailbox.master_clock()? == time && card.get_time() == time);
        let latency = mailbox.latency_clock()?;
        ensure!(latency == card.get_latency_time() && latency > time, "{latency} at {time}");
    }
    Ok(())
}

fn running_stats_begin_anew_with_run<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    stream.set_state(State::Run)?;
    put(&stream, 0, &NOTE)?;
    pass(&stream, ms(100))?;
    let is = mailbox.running_stats(0)?;
    ensure!(is.valid.get() == stats::ALL && is.voices.get() > 0 && is.peak_volume.get() > -10_000, "{is:?}");
    ensure!(is.lost_notes.get() == 0 && is.free_memory.get() > 0, "{is:?}");
    stream.set_state(State::Stop)?;
    ensure!(mailbox.running_stats(0)?.peak_volume == is.peak_volume, "STOP reset it");
    stream.set_state(State::Run)?;
    let anew = mailbox.running_stats(0)?;
    ensure!((anew.peak_volume.get(), anew.voices.get()) == (-20_000, 0), "{anew:?}");
    Ok(())
}

/// The largest sample of a note with this volume and boost, as a guest hears it, and the peak that the card measures.
fn peaks<P: Platform>(card: &Card<P>, volume: i32, boost: i32) -> anyhow::Result<(u16, i32)> {
    card.reset()?;
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let format = WaveFormat { rate: card.sample_rate(), channels: 2, sample: Sample::S16 };
    let wave = WaveStream::open(card, 1, StreamConfig { buffer_size: 3840, ..SIZES }, format)?;
    mailbox.set_volume(0, volume)?;
    mailbox.set_volume_boost(0, boost)?;
    ensure!((mailbox.volume(0)?, mailbox.volume_boost(0)?) == (volume, boost));
    wave.set_state(State::Run)?;
    stream.set_state(State::Run)?;
    // It is on its way to the new level while nothing sounds.
    stream.send(ms(100), 0, &NOTE)?;
    stream.flush();
    let (mut largest, end) = (0, ms(300));
    card.grant(end);
    crate::fixture::until(card, "the granted time", || {
        let there = card.get_time() >= end;
        while let Some(period) = wave.receive()? {
            let bytes = period.to_vec();
            let (samples, _) = bytes.as_chunks::<2>();
            largest = samples.iter().map(|bytes| i16::from_le_bytes(*bytes).unsigned_abs()).fold(largest, u16::max);
        }
        Ok(there)
    })?;
    Ok((largest, mailbox.running_stats(0)?.peak_volume.get()))
}

fn volume_is_in_hundredths_of_a_decibel<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let (plain, measured) = peaks(card, 0, 0)?;
    ensure!(plain > 500, "{plain} is too little to measure");
    // -6.02 dB is half.
    for (volume, boost) in [(-602, 0), (0, -602), (-1204, 602)] {
        let (largest, counted) = peaks(card, volume, boost)?;
        let half = plain / 2;
        ensure!(largest.abs_diff(half) <= 3 + half / 200, "{volume} and {boost} make {largest} of {plain}");
        // Measured before the boost.
        ensure!((counted - measured - volume).abs() <= 1, "{counted}, not {measured} and {volume}");
    }
    ensure!(peaks(card, -20_000, 0)?.0 == 0);
    Ok(())
}

fn volume_is_each_streams_own<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let streams = [RenderStream::open(card, 0, SIZES)?, RenderStream::open(card, 1, SIZES)?];
    mailbox.set_volume(0, -20_000)?;
    mailbox.set_volume_boost(0, 100)?;
    ensure!((mailbox.volume(1)?, mailbox.volume_boost(1)?) == (0, 0));
    pass_all(card, &streams)?;
    for (index, sounds) in [(0, false), (1, true)] {
        let peak = mailbox.running_stats(index)?.peak_volume.get();
        ensure!((peak > -10_000) == sounds, "stream {index} has {peak}");
    }
    // Closed and opened anew, it is as it was at first.
    let [first, _second] = streams;
    drop(first);
    let _anew = RenderStream::open(card, 0, SIZES)?;
    ensure!((mailbox.volume(0)?, mailbox.volume_boost(0)?) == (0, 0));
    Ok(())
}

/// A note in each, once the volume is where it is to be.
fn pass_all<P: Platform>(card: &Card<P>, streams: &[RenderStream<'_, P>]) -> anyhow::Result<()> {
    for stream in streams {
        stream.set_state(State::Run)?;
        stream.send(ms(100), 0, &NOTE)?;
        stream.flush();
    }
    reach(card, ms(200))?;
    Ok(streams.iter().try_for_each(|stream| stream.allocator().reclaim())?)
}

fn properties_of_what_does_not_render_are_refused<P: Platform>(card: &Card<P>) -> anyhow::Result<()> {
    let mut mailbox = Mailbox::open(card)?;
    let stream = RenderStream::open(card, 0, SIZES)?;
    let _capture = CaptureStream::open(card, 1, SIZES, true)?;
    let format = WaveFormat { rate: card.sample_rate(), channels: 2, sample: Sample::S16 };
    let _wave = WaveStream::open(card, 2, SIZES, format)?;
    // A capture stream, a wave sink, a closed stream, none.
    for index in [1, 2, 3, 1000] {
        ensure!(status(mailbox.set_volume(index, -100)) == Some(Status::NoStream), "stream {index}");
        ensure!(status(mailbox.channel_groups(index)) == Some(Status::NoStream), "stream {index}");
        ensure!(status(mailbox.running_stats(index)) == Some(Status::NoStream), "stream {index}");
    }
    for volume in [i32::MIN, -20_001, 2001, i32::MAX] {
        ensure!(status(mailbox.set_volume(0, volume)) == Some(Status::InvalidParameter), "{volume}");
        ensure!(status(mailbox.set_volume_boost(0, volume)) == Some(Status::InvalidParameter), "{volume}");
    }
    ensure!(mailbox.volume(0)? == 0);
    stream.set_state(State::Run)?;
    put(&stream, 0, &NOTE)?;
    pass(&stream, ms(50))?;
    ensure!(mailbox.running_stats(0)?.peak_volume.get() > -10_000, "the stream is silent");
    Ok(())
}
