//! Properties through the mailbox: what they say, what they do to the sound, and what the card makes of wrong requests.

use dmus_card::ClockMode;
use dmus_driver::{Card, DriverError, Mailbox, Platform, RenderStream, StreamConfig};
use dmus_interface::command::{Answer, Opcode, Status};
use dmus_interface::doorbell;
use dmus_interface::event::PointerWidth;
use dmus_interface::property::{PortParams, effect, port, priority};
use dmus_interface::protocol::{Page as _, driver};
use dmus_interface::regs::stream::State;
use dmus_interface::regs::{self, Fault, control};
use dmus_interface::time::RefTime;
use dmus_tests::direct::Direct;
use dmus_tests::loopback::HostedCard;
use dmus_tests::memory::RAM_IOVA;
use dmus_tests::raw::Bus;
use dmus_tests::unshared::UnsharedHost;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

fn status<T: std::fmt::Debug>(result: Result<T, DriverError>) -> Option<Status> {
    match result {
        Err(DriverError::Command { status, .. }) => Some(status),
        _ => None,
    }
}

/// Submits one message.
fn send<P: Platform>(stream: &RenderStream<'_, P>, time: RefTime, group: u16, bytes: &[u8]) -> anyhow::Result<()> {
    let mut message = stream.allocator().get_message()?;
    message.set_time(time);
    message.set_channel_group(group);
    message.set_data(bytes)?;
    stream.put_message(message)?;
    stream.flush();
    Ok(())
}

/// Grants up to a time and waits until the card is there.
fn reach<P: Platform>(stream: &RenderStream<'_, P>, until: RefTime) -> anyhow::Result<()> {
    stream.card().grant(until);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        stream.allocator().reclaim()?;
        if stream.card().get_time() >= until {
            return Ok(());
        }
        stream.wait(1, Duration::from_millis(10));
    }
    anyhow::bail!("the card stands at {:?}", stream.card().get_time())
}

fn answered<P: Platform>(mailbox: &mut Mailbox<'_, P>) -> anyhow::Result<()> {
    let caps = mailbox.caps()?;
    assert!(caps.max_channel_groups.get() >= 1000 && caps.max_voices.get() >= 1024);
    assert_eq!((caps.flags.get() & 0x201, caps.effects.get(), caps.max_audio_channels.get()), (0x201, 3, 2));
    let name: Vec<u16> = caps.description.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0).collect();
    assert_eq!(String::from_utf16(&name)?, "DirectMusic card");
    let format = mailbox.wave_format()?;
    assert_eq!((format.rate.get(), format.channels.get(), format.byte_rate.get()), (48_000, 2, 192_000));
    assert_eq!(mailbox.append()?, 0);
    assert_eq!(mailbox.compact()?, caps.memory_size.get());
    let ahead = mailbox.latency_clock()?.saturating_sub(mailbox.master_clock()?);
    assert_eq!(ahead, RefTime(200_000));
    Ok(())
}

/// DDI: KSPROPERTY_SYNTH_CAPS gives a SYNTHCAPS: flags, memory size, most channel groups, voices and audio channels,
///     effects, description
/// DDI: the latency clock is the master clock plus a guaranteed latency
#[test]
fn the_card_tells_what_it_can_through_any_memory() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    answered(&mut Mailbox::open(&card)?)?;
    // And after a reset, which counts commands from none.
    card.reset()?;
    answered(&mut Mailbox::open(&card)?)?;
    drop(card);
    hosted.finish()?;

    let host = UnsharedHost::start(Duration::from_secs(10))?;
    let card = Card::open(host.connect()?, PointerWidth::Eight)?;
    answered(&mut Mailbox::open(&card)?)?;
    drop(card);
    host.finish()?;
    Ok(())
}

/// DDI: KSPROPERTY_SYNTH_PORTPARAMETERS applies a SYNTH_PORTPARAMS; unsupported values are replaced, and the status
///     says that not all were assigned
/// DDI: KSPROPERTY_SYNTH_CHANNELGROUPS gets and sets the number of channel groups, for each pin instance by itself
#[test]
fn streams_have_the_groups_and_voices_that_are_asked_for() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    assert_eq!(status(mailbox.channel_groups(0)), Some(Status::NoStream));
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let other = RenderStream::open(&card, 1, StreamConfig::default())?;
    assert_eq!(mailbox.channel_groups(0)?, 16);

    let wanted = PortParams {
        valid: (port::VOICES | port::CHANNEL_GROUPS | port::SAMPLE_RATE).into(),
        voices: 1024.into(),
        channel_groups: 1000.into(),
        sample_rate: 48_000.into(),
        ..PortParams::default()
    };
    let (is, all) = mailbox.set_port_parameters(0, &wanted)?;
    assert!(all, "{is:?}");
    assert_eq!((is.valid.get(), is.voices.get(), is.channel_groups.get()), (port::ALL, 1024, 1000));
    assert_eq!(mailbox.port_parameters(0)?, is);
    // What cannot be is replaced, and only that.
    let wanted = PortParams { sample_rate: 22_050.into(), voices: 1_000_000.into(), ..wanted };
    let (is, all) = mailbox.set_port_parameters(0, &wanted)?;
    assert!(!all);
    assert_eq!((is.sample_rate.get(), is.voices.get(), is.channel_groups.get()), (48_000, 4096, 1000));
    // Each stream has its own.
    assert_eq!((mailbox.channel_groups(0)?, mailbox.channel_groups(1)?), (1000, 16));
    assert_eq!(status(mailbox.set_channel_groups(0, 0)), Some(Status::InvalidParameter));
    assert_eq!(status(mailbox.set_channel_groups(0, 100_000)), Some(Status::InvalidParameter));

    // The last group sounds, and is refused once it is gone.
    stream.set_state(State::Run)?;
    send(&stream, RefTime(1), 999, &[0x90, 60, 100])?;
    send(&stream, RefTime(1), 1000, &[0x90, 60, 100])?;
    reach(&stream, RefTime::from_secs(1))?;
    let counts = stream.allocator().counts();
    assert_eq!((counts.presented, counts.rejected), (1, 1));
    assert!(mailbox.running_stats(0)?.peak_volume.get() > -6000);
    mailbox.set_channel_groups(0, 999)?;
    send(&stream, RefTime::from_secs(1), 999, &[0x90, 60, 100])?;
    reach(&stream, RefTime::from_secs(2))?;
    assert_eq!(stream.allocator().counts().rejected, 2);
    // A stream that is opened anew is as the first one was.
    stream.set_state(State::Stop)?;
    drop((stream, other));
    let _stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    assert_eq!((mailbox.channel_groups(0)?, mailbox.port_parameters(0)?.voices.get()), (16, 256));
    Ok(())
}

/// Plays one message at a time on a card of its own, with these parameters: left and right, interleaved.
fn played(params: &PortParams, messages: &[(RefTime, u16, &[u8])], seconds: i64) -> anyhow::Result<Vec<i16>> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    Mailbox::open(&card)?.set_port_parameters(0, params)?;
    stream.set_state(State::Run)?;
    for (time, group, bytes) in messages {
        send(&stream, *time, *group, bytes)?;
    }
    reach(&stream, RefTime::from_secs(seconds))?;
    drop(stream);
    drop(card);
    Ok(hosted.finish()?.samples())
}

/// DDI: SYNTH_PORTPARAMS.EffectsFlags turns reverb and chorus on and off, each by itself
#[test]
fn effects_are_heard_as_they_are_turned_on() -> anyhow::Result<()> {
    let play = |effects: u32, reverb: u8, chorus: u8| {
        let params = PortParams { valid: port::EFFECTS.into(), effects: effects.into(), ..PortParams::default() };
        let sends: [[u8; 3]; 2] = [[0xB0, 91, reverb], [0xB0, 93, chorus]];
        let [first, second] = &sends;
        let note: [&[u8]; 2] = [&[0x90, 60, 100], &[0x80, 60, 0]];
        let second_half = RefTime(5_000_000);
        let messages = [
            (RefTime(0), 0, &first[..]),
            (RefTime(0), 0, &second[..]),
            (RefTime(1), 0, note[0]),
            (second_half, 0, note[1]),
        ];
        played(&params, &messages, 2)
    };
    let dry = play(3, 0, 0)?;
    let (reverb, chorus, both) = (play(3, 127, 0)?, play(3, 0, 127)?, play(3, 127, 127)?);
    assert!(dry != reverb && dry != chorus && reverb != chorus && both != reverb && both != chorus);
    assert!(play(0, 127, 127)? == dry, "with none");
    assert!(play(effect::REVERB, 127, 127)? == reverb, "with reverb alone");
    assert!(play(effect::CHORUS, 127, 127)? == chorus, "with chorus alone");
    // A delay, which the card has not, is passed over.
    assert!(play(effect::REVERB | 4, 127, 127)? == reverb);
    Ok(())
}

/// DDI: SYNTH_PORTPARAMS.Voices and ChannelGroups take effect at once: what is beyond them ends
#[test]
fn voices_and_groups_that_are_taken_away_end() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let mut set = |valid: u32, voices: u32, groups: u32| -> anyhow::Result<()> {
        let params = PortParams {
            valid: (valid | port::EFFECTS).into(),
            voices: voices.into(),
            channel_groups: groups.into(),
            ..PortParams::default()
        };
        let (is, all) = mailbox.set_port_parameters(0, &params)?;
        assert!(all && is.effects.get() == 0);
        Ok(())
    };
    set(port::CHANNEL_GROUPS, 0, 10)?;
    stream.set_state(State::Run)?;
    // Organs, which do not fade.
    for group in [2, 9] {
        send(&stream, RefTime(1), group, &[0xC0, 16])?;
        send(&stream, RefTime(1), group, &[0x90, 60, 100])?;
    }
    reach(&stream, RefTime::from_secs(1))?;
    set(port::CHANNEL_GROUPS, 0, 5)?;
    reach(&stream, RefTime::from_secs(2))?;
    set(port::CHANNEL_GROUPS, 0, 1)?;
    reach(&stream, RefTime::from_secs(3))?;
    // Eight notes for three voices: five are lost, the first ones.
    set(port::VOICES, 3, 0)?;
    for (key, time) in (60..68).zip(30_000_000..) {
        send(&stream, RefTime(time), 0, &[0x90, key, 100])?;
    }
    reach(&stream, RefTime::from_secs(4))?;
    assert_eq!(mailbox.running_stats(0)?.lost_notes.get(), 5);
    drop((stream, mailbox));
    drop(card);
    let samples = hosted.finish()?.samples();
    let power = |from: usize, to: usize| {
        let part = &samples[from * 9600..to * 9600];
        part.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / part.len() as f64
    };
    // Both sound as one, twice as high; then one; then none, from the very sample on.
    assert!((power(5, 9) / power(11, 19) - 4.0).abs() < 0.4, "{} {}", power(5, 9), power(11, 19));
    assert!(samples[2 * 96_000..3 * 96_000].iter().all(|x| *x == 0) && power(31, 39) > 0.0);
    Ok(())
}

/// DDI: SYNTH_PORTPARAMS.Share, AudioChannels and SampleRate are what the card has, whatever is asked for, and the
///     status says so
#[test]
fn parameters_that_the_card_does_not_have_are_replaced() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let _stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let has = mailbox.port_parameters(0)?;
    assert_eq!(
        (has.share.get(), has.audio_channels.get(), has.sample_rate.get(), has.effects.get()),
        (0, 2, 48_000, 3)
    );
    let asked = PortParams {
        valid: 0.into(),
        voices: 7.into(),
        channel_groups: 7.into(),
        audio_channels: 1.into(),
        sample_rate: 44_100.into(),
        effects: 4.into(),
        share: 1.into(),
    };
    assert_eq!(mailbox.set_port_parameters(0, &asked)?, (has, true), "nothing is asked for");
    for bit in [port::SHARE, port::AUDIO_CHANNELS, port::SAMPLE_RATE, 0x10, 0x8000_0000] {
        let asked = PortParams { valid: bit.into(), ..asked };
        assert_eq!(mailbox.set_port_parameters(0, &asked)?, (has, false), "{bit:#x}");
    }
    // Asked for as it is, it is assigned.
    let asked = PortParams { valid: port::ALL.into(), ..has };
    assert_eq!(mailbox.set_port_parameters(0, &asked)?, (has, true));
    Ok(())
}

/// DDI: SYNTH_STATS has the average of voices, the CPU's percent in all and for each voice, lost notes, free memory and
///     the peak; reset on entering RUN
#[test]
fn running_statistics_say_what_was_played_and_what_it_cost() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let params = PortParams {
        valid: (port::VOICES | port::CHANNEL_GROUPS).into(),
        voices: 1000.into(),
        channel_groups: 100.into(),
        ..PortParams::default()
    };
    mailbox.set_port_parameters(0, &params)?;
    let began = Instant::now();
    stream.set_state(State::Run)?;
    reach(&stream, RefTime(10_000_000))?;
    let silent = mailbox.running_stats(0)?;
    assert_eq!((silent.valid.get(), silent.voices.get(), silent.cpu_per_voice.get()), (0x3F, 0, 0));
    assert_eq!((silent.lost_notes.get(), silent.peak_volume.get()), (0, -20_000));
    assert_eq!(silent.free_memory, mailbox.caps()?.memory_size);
    // For the second of two seconds a thousand notes, and twenty too many.
    for note in 0..1020u16 {
        let (group, channel) = (note / 16, (note % 16) as u8);
        // None of percussion, which would end by itself.
        let channel = if channel == 9 { 8 } else { channel };
        send(&stream, RefTime(10_000_000), group, &[0xC0 | channel, 16])?;
        send(&stream, RefTime(10_000_000), group, &[0x90 | channel, 40 + (note % 40) as u8, 30])?;
        if note % 32 == 31 {
            card.platform().run_until_idle();
            stream.allocator().reclaim()?;
        }
    }
    reach(&stream, RefTime(20_000_000))?;
    // All that it took, as a part of the two seconds that were rendered.
    let most = (began.elapsed().as_secs_f64() * 50.0).ceil() as u32;
    let loud = mailbox.running_stats(0)?;
    let (voices, cpu, each) = (loud.voices.get(), loud.total_cpu.get(), loud.cpu_per_voice.get());
    assert!((480..=520).contains(&voices), "{voices} voices on average");
    assert!(loud.lost_notes.get() >= 20 && loud.peak_volume.get() > -6000, "{loud:?}");
    // Half a thousand voices are some percent of any processor, and one of them is next to nothing.
    assert!(cpu >= 1 && cpu <= most, "{cpu} %, and it took {most} %");
    assert!(each <= cpu / 100 + 1, "{cpu} % for {voices}, {each} % for each");
    // A download takes memory of all streams.
    let samples = dmus_card::collection::Samples::new(vec![1i16; 10_000]);
    let wave =
        dmus_card::collection::Wave { id: None, info: Default::default(), rate: 48_000, samples, sampling: None };
    let handle = mailbox.download(&dmus_driver::dls::wave_chunk(1, &wave))?;
    let taken = silent.free_memory.get() - mailbox.running_stats(0)?.free_memory.get();
    assert!((20_000..21_000).contains(&taken), "{taken} bytes");
    assert!(mailbox.unload(handle)?);
    assert_eq!(mailbox.running_stats(0)?.free_memory, silent.free_memory);
    // From PAUSE to RUN everything begins anew, and so after STOP.
    for between in [State::Pause, State::Stop] {
        stream.set_state(between)?;
        stream.set_state(State::Run)?;
        let anew = mailbox.running_stats(0)?;
        assert_eq!((anew.voices.get(), anew.total_cpu.get(), anew.lost_notes.get()), (0, 0, 0), "after {between:?}");
        assert_eq!(anew.peak_volume.get(), -20_000);
    }
    Ok(())
}

/// DDI: voice priority is the channel group's OR the channel's offset: channel 10 has 15, channels 1 to 9 have 14 to 6,
///     channels 11 to 16 have 5 to 0; standard at first, in all groups alike
#[test]
fn priorities_begin_as_documented_and_stay_what_they_are_set_to() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    for (channel, offset) in [(9, 15), (0, 14), (8, 6), (10, 5), (15, 0)] {
        for group in [0, 15] {
            assert_eq!(mailbox.voice_priority(0, group, channel)?, 0x8000_0000 | offset);
        }
    }
    mailbox.set_voice_priority(0, 3, 2, priority::CRITICAL | 7)?;
    stream.set_state(State::Run)?;
    // No message, and no STOP, takes it back.
    send(&stream, RefTime(1), 3, &[0xF0, 0x7E, 0x7F, 9, 1, 0xF7])?;
    reach(&stream, RefTime(100_000))?;
    stream.set_state(State::Stop)?;
    assert_eq!(mailbox.voice_priority(0, 3, 2)?, 0xF000_0007);
    assert_eq!(mailbox.voice_priority(0, 2, 2)?, 0x8000_000C);
    // With the place in the request of what cannot be.
    for (group, channel, place) in [(16, 0, 0), (0, 16, 4), (1, 255, 4), (0, 256, 4), (1 << 20, 0, 0), (1 << 20, 16, 0)]
    {
        let refusals =
            [mailbox.voice_priority(0, group, channel).map(drop), mailbox.set_voice_priority(0, group, channel, 1)];
        for refusal in refusals {
            let Err(DriverError::Command { status, size, detail }) = refusal else {
                anyhow::bail!("group {group}, channel {channel}: {refusal:?}");
            };
            assert_eq!(
                (status, size, detail),
                (Status::InvalidParameter, 0, place),
                "group {group}, channel {channel}"
            );
        }
    }
    Ok(())
}

/// DDI: KSPROPERTY_SYNTH_VOLUME and VOLUMEBOOST are in 0.01 dB, the boost is applied after the mix
/// DDI: running statistics are reset on entering RUN
#[test]
fn volume_and_boost_are_heard_in_hundredths_of_a_decibel_and_counted_apart() -> anyhow::Result<()> {
    let peaks = |volume: i32, boost: i32| -> anyhow::Result<(f64, i32)> {
        let hosted = HostedCard::start(ClockMode::Virtual)?;
        let card = Card::open(hosted.connect()?, PointerWidth::Eight)?;
        let mut mailbox = Mailbox::open(&card)?;
        let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
        mailbox.set_volume(0, volume)?;
        mailbox.set_volume_boost(0, boost)?;
        assert_eq!((mailbox.volume(0)?, mailbox.volume_boost(0)?), (volume, boost));
        stream.set_state(State::Run)?;
        // On its way to the new level while nothing sounds.
        send(&stream, RefTime::from_secs(1), 0, &[0x90, 60, 127])?;
        reach(&stream, RefTime::from_secs(2))?;
        let measured = mailbox.running_stats(0)?.peak_volume.get();
        stream.set_state(State::Stop)?;
        // Counted anew from RUN on.
        assert_eq!(mailbox.running_stats(0)?.peak_volume.get(), measured);
        stream.set_state(State::Run)?;
        assert_eq!(mailbox.running_stats(0)?.peak_volume.get(), -20_000);
        drop(stream);
        drop(mailbox);
        drop(card);
        let peak = hosted.finish()?.samples().iter().map(|sample| f64::from(sample.unsigned_abs())).fold(0.0, f64::max);
        Ok((peak, measured))
    };
    let (plain, measured) = peaks(0, 0)?;
    // The card's mix has 6 dB of headroom.
    let decibels = 2000.0 * (plain / 32_768.0).log10() + 602.0;
    assert!((f64::from(measured) - decibels).abs() < 10.0, "{measured} for {decibels}");
    for (volume, boost) in [(-602, 0), (0, -602), (-1204, 602), (300, -902)] {
        let (peak, counted) = peaks(volume, boost)?;
        let change = 2000.0 * (peak / plain).log10();
        assert!((change + 602.0).abs() < 3.0, "{volume} and {boost} change it by {change}");
        // Measured before the boost.
        assert!((counted - measured - volume).abs() <= 1, "{counted}, not {measured} + {volume}");
    }
    assert_eq!(peaks(-20_000, 0)?.0, 0.0);
    Ok(())
}

/// A command with registers as a test says; the number of answers before it is counted up.
fn raw(platform: &Direct, opcode: u32, registers: [u64; 5], commands: &mut u32) -> anyhow::Result<Answer> {
    start(platform, opcode, registers);
    *commands += 1;
    for _ in 0..100 {
        platform.run_until_idle();
        if let Some(answer) = driver::command(platform.doorbell(), *commands) {
            return Ok(answer);
        }
    }
    anyhow::bail!("no answer")
}

fn start(platform: &Direct, opcode: u32, [request, size, result, room, stream]: [u64; 5]) {
    platform.write_bar0(regs::COMMAND_REQUEST.offset.into(), &request.to_le_bytes());
    platform.write_bar0(regs::COMMAND_RESULT.offset.into(), &result.to_le_bytes());
    for (register, value) in
        [(regs::COMMAND_REQUEST_SIZE, size), (regs::COMMAND_RESULT_ROOM, room), (regs::COMMAND_STREAM, stream)]
    {
        platform.write32(register.offset, value as u32);
    }
    platform.write32(regs::COMMAND.offset, opcode);
}

#[test]
fn what_cannot_be_told_is_not_done() -> anyhow::Result<()> {
    let card = Card::open(Direct::new()?, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let _stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let has = mailbox.port_parameters(0)?;
    let platform = card.platform();
    let asked = PortParams { valid: port::VOICES.into(), voices: 5.into(), ..PortParams::default() };
    let request = platform.dma_alloc(size_of::<PortParams>(), 8)?;
    request.memory.write(0, asked.as_bytes());
    let size = size_of::<PortParams>() as u64;
    let mut commands = platform.doorbell().load_u32(doorbell::COMMANDS, Ordering::Acquire);
    let registers = [request.iova, size, 1 << 40, size, 0];
    let answer = raw(platform, Opcode::PortParameters as u32, registers, &mut commands)?;
    assert_eq!(answer.status, Status::NotMapped as u32);
    let registers = [request.iova, 0, request.iova, size, 0];
    let answer = raw(platform, Opcode::PortParameters as u32, registers, &mut commands)?;
    let mut is = [0; size_of::<PortParams>()];
    request.memory.read(0, &mut is);
    assert_eq!((answer.status, &is[..]), (Status::Done as u32, has.as_bytes()));
    Ok(())
}

/// DDI: a buffer that is too small, and a request that is invalid, have a status of their own each
#[test]
fn wrong_commands_are_answered_with_what_is_wrong_and_do_nothing() -> anyhow::Result<()> {
    let platform = Direct::new()?;
    let mut n = 0;
    let here = RAM_IOVA;
    let caps = Opcode::GetCaps as u32;
    let answer = raw(&platform, caps, [here, 0, here, 512, 0], &mut n)?;
    assert_eq!(answer.status, Status::NotEnabled as u32);
    platform.write32(regs::CONTROL.offset, control::RESET);
    platform.write32(regs::CONTROL.offset, control::ENABLE);
    n = 0;
    let far = 1 << 40;
    for (opcode, registers, status, size) in [
        (0, [here, 0, here, 512, 0], Status::InvalidRequest, 0),
        // Capabilities cannot be set.
        (0x81, [here, 296, here, 512, 0], Status::InvalidRequest, 0),
        (u32::MAX, [here, 0, here, 512, 0], Status::InvalidRequest, 0),
        (caps, [here, 4, here, 512, 0], Status::BadSize, 0),
        (caps, [here, 0, here, 295, 0], Status::BufferTooSmall, 296),
        (caps, [here, 0, here, 0, 0], Status::BufferTooSmall, 296),
        (caps, [here, 0, far, 296, 0], Status::NotMapped, 0),
        (caps, [here, 0, u64::MAX - 8, 296, 0], Status::NotMapped, 0),
        (Opcode::SetVolume as u32, [far, 4, here, 0, 0], Status::NotMapped, 0),
        (Opcode::SetVolume as u32, [here, 3, here, 0, 0], Status::BadSize, 4),
        (Opcode::SetVolume as u32, [here, 4, here, 0, 7], Status::NoStream, 0),
        (Opcode::GetVolume as u32, [here, 0, here, 4, u32::MAX.into()], Status::NoStream, 0),
        (Opcode::Download as u32, [here, 15, here, 4, 0], Status::BadSize, 16),
        (Opcode::Download as u32, [here, u32::MAX.into(), here, 4, 0], Status::BadSize, 16),
        (Opcode::Download as u32, [here, 32 << 20, here, 4, 0], Status::BadDownload, 3),
        (Opcode::Unload as u32, [here, 4, here, 0, 0], Status::UnknownHandle, 0),
    ] {
        let answer = raw(&platform, opcode, registers, &mut n)?;
        assert_eq!((answer.status, answer.size), (status as u32, size), "{opcode:#x} {registers:x?}");
    }
    assert_eq!(platform.read32(regs::FAULT_COUNT.offset), 0, "an answer is no fault");

    // The second of two is a fault, and the first one answered all the same.
    start(&platform, caps, [here, 0, here, 512, 0]);
    start(&platform, caps, [here, 0, here, 512, 0]);
    assert_eq!(platform.read32(regs::FAULT.offset), Fault::CommandBusy as u32);
    platform.run_until_idle();
    assert!(driver::command(platform.doorbell(), n + 1).is_some_and(|answer| answer.status == 0));
    platform.run_until_idle();
    assert!(driver::command(platform.doorbell(), n + 2).is_none());

    // A reset makes void what was asked before it.
    start(&platform, caps, [here, 0, here, 512, 0]);
    platform.write32(regs::CONTROL.offset, control::RESET);
    platform.run_until_idle();
    assert!(driver::command(platform.doorbell(), 0).is_some_and(|answer| answer == Answer::default()));
    Ok(())
}
