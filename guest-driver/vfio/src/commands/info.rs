//! `dmusd info`: what a card says of itself.
//!
//! Fed by the card's registers, which only reading leaves as they are; feeds people.

use dmus_driver::Platform;
use dmus_driver_vfio::{VfioPlatform, find};
use dmus_interface::pci::STREAMS;
use dmus_interface::regs::stream::{self, State};
use dmus_interface::regs::{self, Fault, Register, feature};
use dmus_interface::time::RefTime;

/// Show the card's capabilities, clocks and streams.
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
        println!("{name:<16} {value}");
    }
    for index in 0..STREAMS {
        let block = |register| stream::at(index, register);
        let kind = match stream::Type::decode(read(block(stream::TYPE))) {
            None => "closed".into(),
            Some(kind) => format!("{kind:?}, {:?}", State::decode(read(block(stream::STATE)))),
        };
        println!(
            "{:<16} {kind}; wants events up to {} ahead",
            format!("stream {index}"),
            wide(block(stream::PREFETCH))
        );
    }
    Ok(())
}
