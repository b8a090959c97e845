//! `dmusd info`: what a card says of itself.
//!
//! Fed by the card's registers, and then, when those are read, by the properties that its mailbox answers; feeds
//! people.

use super::print;
use dmus_driver::{Card, Mailbox, Platform, RenderStream, StreamConfig};
use dmus_driver_vfio::{VfioPlatform, find};
use dmus_interface::event::PointerWidth;
use dmus_interface::pci::STREAMS;
use dmus_interface::property::{caps, effect};
use dmus_interface::regs::stream::{self, State};
use dmus_interface::regs::{self, Fault, Register, feature};
use dmus_interface::time::RefTime;

/// Show the card's capabilities, clocks, streams and properties.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(device: Option<&str>, _: &Args) -> anyhow::Result<()> {
    let address = find(device)?;
    let card = VfioPlatform::open(&address)?;
    let read = |register: Register| card.read32(register.offset);
    let wide = |register: Register| {
        let (low, high) = (card.read32(register.offset), card.read32(register.offset + 4));
        RefTime((u64::from(high) << 32 | u64::from(low)) as i64)
    };
    anyhow::ensure!(read(regs::MAGIC) == regs::MAGIC_VALUE, "{address} does not answer as a DirectMusic card");
    let version = read(regs::VERSION);
    let clock = if read(regs::FEATURES) & feature::VIRTUAL_CLOCK == 0 { "realtime" } else { "virtual" };
    let fault = read(regs::FAULT);
    let fault = match fault {
        0 => "none".into(),
        code => Fault::decode(code).map_or_else(|| format!("unknown ({code})"), |fault| fault.to_string()),
    };
    let rows = [
        ("address", address.clone()),
        ("interface", format!("{}.{}", version >> 16, version & 0xFFFF)),
        ("clock", clock.into()),
        ("sample rate", format!("{} Hz", read(regs::SAMPLE_RATE))),
        ("streams", read(regs::STREAMS).to_string()),
        ("channel groups", read(regs::CHANNEL_GROUPS).to_string()),
        ("pointer width", format!("{} bytes", read(regs::POINTER_WIDTH))),
        ("latency", wide(regs::LATENCY_TIME).saturating_sub(wide(regs::MASTER_TIME)).to_string()),
        ("fault", fault),
    ];
    for (name, value) in rows {
        print(format_args!("{name:<16} {value}"));
    }
    for index in 0..STREAMS {
        let block = |register| stream::at(index, register);
        let kind = match stream::Type::decode(read(block(stream::TYPE))) {
            None => "closed".into(),
            Some(kind) => format!("{kind:?}, {:?}", State::decode(read(block(stream::STATE)))),
        };
        let (name, ahead) = (format!("stream {index}"), wide(block(stream::PREFETCH)));
        print(format_args!("{name:<16} {kind}; wants events up to {ahead} ahead"));
    }
    show_properties(card)
}

/// What the synthesizer answers through the mailbox: of the card, and of a stream as it is when it is created.
fn show_properties(platform: VfioPlatform) -> anyhow::Result<()> {
    let card = Card::open(platform, PointerWidth::Eight)?;
    let mut mailbox = Mailbox::open(&card)?;
    let caps = mailbox.caps()?;
    let name = caps.description.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
    let wave = mailbox.wave_format()?;
    let stream = RenderStream::open(&card, 0, StreamConfig::default())?;
    let port = mailbox.port_parameters(0)?;
    let decibels = |hundredths: i32| format!("{:.2} dB", f64::from(hundredths) / 100.0);
    let rows = [
        ("synthesizer", String::from_utf16_lossy(&name.collect::<Vec<_>>())),
        ("capabilities", names(caps.flags.get(), &CAPABILITIES)),
        ("sample memory", format!("{} MiB for downloads", caps.memory_size.get() >> 20)),
        ("renders", format!("{} Hz, {} channels, {} bits", wave.rate, wave.channels, wave.bits)),
        ("groups", format!("{}, {} at most", port.channel_groups.get(), caps.max_channel_groups.get())),
        ("voices", format!("{}, {} at most", port.voices.get(), caps.max_voices.get())),
        ("effects", names(port.effects.get(), &EFFECTS)),
        ("volume", decibels(mailbox.volume(0)?)),
        ("volume boost", decibels(mailbox.volume_boost(0)?)),
        ("priority", format!("{:#x} of the first channel", mailbox.voice_priority(0, 0, 0)?)),
    ];
    for (name, value) in rows {
        print(format_args!("{name:<16} {value}"));
    }
    drop(stream);
    Ok(())
}

const CAPABILITIES: [(u32, &str); 7] = [
    (caps::DLS, "DLS"),
    (caps::DLS2, "DLS2"),
    (caps::SOFTWARE_SYNTH, "software"),
    (caps::MEMORY_SIZE_FIXED, "fixed memory"),
    (caps::GM_IN_HARDWARE, "General MIDI"),
    (caps::GS_IN_HARDWARE, "GS"),
    (caps::REVERB, "reverb"),
];
const EFFECTS: [(u32, &str); 2] = [(effect::REVERB, "reverb"), (effect::CHORUS, "chorus")];

/// The names of the bits that are set, and what is left of them.
fn names(bits: u32, of: &[(u32, &str)]) -> String {
    let mut names: Vec<String> =
        of.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let left = of.iter().fold(bits, |left, (bit, _)| left & !bit);
    if left != 0 {
        names.push(format!("{left:#x}"));
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
