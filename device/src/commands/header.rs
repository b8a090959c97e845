//! `header`: the data sheet as a C header, for drivers that are not written in Rust.
//!
//! Fed by the constants, tables and structures of `dmus-interface`; feeds the terminal. No number stands here: what
//! changes in the data sheet changes in the header.

use super::printed;
use dmus_interface::doorbell::{self, Word, Writer};
use dmus_interface::event::{self, Event32, Event64};
use dmus_interface::regs::stream::{self, State, Type};
use dmus_interface::regs::{self, Access, Register, control, feature};
use dmus_interface::ring::{self, Completion};
use dmus_interface::rule::{Code, Rule};
use dmus_interface::wave::{Sample, WaveFormat};
use dmus_interface::{command, pci, time};
use std::fmt::{self, Debug, Display, Write as _};
use std::io::Write as _;
use std::process::ExitCode;
use zerocopy::FromZeros;
use zerocopy::little_endian::{I64, U16, U32, U64};

/// Print the data sheet as a C header: registers, doorbell page, events, rings and codes.
///
/// It is C99, includes `stdint.h` only, and all its names begin with DMUS_ or dmus_.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    printed(std::io::stdout().write_all(header()?.as_bytes()))?;
    Ok(ExitCode::SUCCESS)
}

/// A type of a structure's field, in C.
trait Field {
    fn declare(&self, name: &str) -> String;
}

macro_rules! fields {
    ($($rust:ty: $c:literal),*) => {$(
        impl Field for $rust {
            fn declare(&self, name: &str) -> String {
                format!("{} {name};", $c)
            }
        }
    )*};
}

fields!(u8: "uint8_t", U16: "uint16_t", U32: "uint32_t", U64: "uint64_t", I64: "int64_t");

impl<const N: usize> Field for [u8; N] {
    fn declare(&self, name: &str) -> String {
        format!("uint8_t {name}[{N}];")
    }
}

/// Writes a structure, each field with its offset and a remark. It names all fields, or it does not compile.
macro_rules! structure {
    ($c:ident, $name:literal, $type:ident { $($field:ident: $remark:literal),* $(,)? }) => {{
        let $type { $($field),* } = $type::new_zeroed();
        $c.line(format_args!("\nstruct {} {{", $name))?;
        $(
            let (declared, offset) = ($field.declare(stringify!($field)), std::mem::offset_of!($type, $field));
            $c.line(format_args!("    {declared:<24} /* {offset:#04x} {} */", $remark))?;
        )*
        $c.line("};")?;
        // A compiler that lays it out otherwise refuses the header.
        let size = size_of::<$type>();
        $c.line(format_args!("typedef char {0}_has_{size}_bytes[sizeof(struct {0}) == {size} ? 1 : -1];", $name))?;
    }};
}

/// The event, which has the same fields in both pointer widths.
macro_rules! event {
    ($c:ident, $name:literal, $type:ident) => {
        structure!(
            $c,
            $name,
            $type {
                reserved: "bReserved: 0",
                struct_size: "cbStruct: the size of this structure",
                event_bytes: "cbEvent",
                channel_group: "usChannelGroup, from 0",
                flags: "usFlags: DMUS_FLAG_*",
                time: "ullPresTime100ns: stream time, or DMUS_DONT_HOLD",
                byte_position: "ullBytePosition",
                next: "pNextEvt: bus address of the chain's next slot, or 0",
                data: "uData: cbEvent bytes if they fit, else the bus address of a buffer, or of a package",
            }
        )
    };
}

/// Defines constants under their own names behind a prefix.
macro_rules! constants {
    ($c:ident, $prefix:literal, $module:ident: $($name:ident),*) => {
        $($c.define($prefix, stringify!($name), u64::from($module::$name), "")?;)*
    };
}

fn header() -> Result<String, fmt::Error> {
    let mut c = Text::default();
    c.line(INTRODUCTION)?;

    c.section("PCI: ids, BARs and interrupt vectors (vector n is stream n's)")?;
    constants!(c, "DMUS_PCI_", pci: VENDOR_ID, DEVICE_ID, REVISION_ID, CLASS, REGISTER_BAR, DOORBELL_BAR, MSIX_BAR);
    constants!(c, "DMUS_PCI_", pci: BAR_SIZE, MSIX_PBA_OFFSET, CONTROL_VECTOR, VECTORS);
    c.define("DMUS_PCI_", "STREAMS", pci::STREAMS as u64, "")?;

    c.section("Registers: offsets in the register BAR; aligned accesses of 4 bytes, or of 8 where it says so")?;
    c.registers("DMUS_REG_", &regs::GLOBAL)?;
    constants!(c, "DMUS_", regs: MAGIC_VALUE, VERSION_VALUE);
    constants!(c, "DMUS_FEATURE_", feature: VIRTUAL_CLOCK);
    constants!(c, "DMUS_CONTROL_", control: ENABLE, RESET);

    c.section("The register block of stream n, and offsets in it")?;
    c.place("DMUS_REG_STREAM", stream::FIRST as usize, stream::STRIDE as usize)?;
    c.registers("DMUS_STREAM_", &stream::ALL)?;
    constants!(c, "DMUS_", stream: MAX_SLOTS, MAX_RING, MAX_BUFFER_SIZE);

    c.section("Types of streams (TYPE) and their states (STATE)")?;
    let (cooked, uncooked) = (Type::Capture { cooked: true }, Type::Capture { cooked: false });
    let types = [("RENDER", Type::Render), ("CAPTURE", cooked), ("CAPTURE_UNCOOKED", uncooked)];
    for (name, value) in types.into_iter().chain([("WAVE_SINK", Type::WaveSink)]) {
        c.define("DMUS_TYPE_", name, value.value().into(), "")?;
    }
    constants!(c, "DMUS_TYPE_", stream: CLOSED);
    for state in (0..).map_while(State::decode) {
        c.define("DMUS_STATE_", &upper(state), state as u64, "")?;
    }

    c.section("PCM of wave sink streams (WAVE_FORMAT): the number of channels, and this for floating point")?;
    let mono = |sample| u64::from(WaveFormat { rate: WaveFormat::RATES[0], channels: 1, sample }.value());
    c.define("DMUS_WAVE_FORMAT_", "F32", mono(Sample::F32) ^ mono(Sample::S16), "")?;

    c.section("The doorbell page: offsets in the doorbell BAR, the width of each word, and who writes it")?;
    c.words("DMUS_DOORBELL_", &doorbell::GLOBAL)?;
    let first = doorbell::at(0, 0);
    c.section("The words of stream n, and offsets from there")?;
    c.place("DMUS_DOORBELL_STREAM", first, doorbell::at(1, 0) - first)?;
    c.words("DMUS_DOORBELL_", &doorbell::STREAM)?;

    c.section("Events (DMUS_KERNEL_EVENT): one at the start of each slot; which of the two, POINTER_WIDTH says")?;
    event!(c, "dmus_event64", Event64);
    event!(c, "dmus_event32", Event32);
    c.line("")?;
    constants!(c, "DMUS_FLAG_", event: COMPLETE, INCOMPLETE, PACKAGE);
    c.constant("DMUS_DONT_HOLD", &signed(event::DONT_HOLD), "")?;
    c.define("DMUS_", "MAX_MESSAGE", event::MAX_MESSAGE as u64, "bytes")?;
    c.define("DMUS_", "MAX_DEPTH", event::MAX_DEPTH as u64, "packages in packages")?;

    c.section("Rings: entry i of a ring is at i modulo its size; a submission is a slot number")?;
    c.line("typedef uint32_t dmus_submission;")?;
    let consumed = "what a card that checks stores over submissions that it has fetched";
    c.define("DMUS_", "CONSUMED", ring::CONSUMED.into(), consumed)?;
    structure!(
        c,
        "dmus_completion",
        Completion {
            slot: "the slot that was submitted",
            status: "DMUS_STATUS_*",
            flags: "DMUS_REJECT_* if rejected, else 0",
            time: "presented: the event's time; late: how late; else 0",
        }
    );
    c.line("")?;
    for status in (1..=ring::Status::COUNT as u16).filter_map(ring::Status::decode) {
        c.define("DMUS_STATUS_", &upper(status), status as u64, "")?;
    }

    c.section(
        "What a driver did wrong: `dmus-card explain F14` says more. R: in a completion; F: in FAULT, or REFUSAL",
    )?;
    for rule in &Rule::ALL {
        match rule.code {
            Code::Reject(reject) => c.code(&format!("DMUS_REJECT_{}", upper(reject)), reject as u32, rule)?,
            Code::Fault(fault) => c.code(&format!("DMUS_FAULT_{}", upper(fault)), fault as u32, rule)?,
            // No driver meets it.
            Code::Check(_) => {}
        }
    }

    c.section("Commands of the mailbox (COMMAND), and how they end (COMMAND_STATUS of the doorbell page)")?;
    for opcode in command::Opcode::ALL {
        c.define("DMUS_OPCODE_", &upper(opcode), opcode as u64, "")?;
    }
    for status in command::Status::ALL {
        c.define("DMUS_COMMAND_STATUS_", &upper(status), status as u64, &status.to_string())?;
    }
    constants!(c, "DMUS_", command: MAX_REQUEST);

    c.section("Time: stream time, master time and grants are counted in units of 100 ns")?;
    c.constant("DMUS_UNITS_PER_SECOND", &signed(time::UNITS_PER_SECOND), "")?;
    c.line("\n#endif")?;
    Ok(c.0)
}

const INTRODUCTION: &str = "\
/* The DirectMusic card, for drivers in C: what `dmus-card header` makes of the data sheet, dmus-interface, whose
   documentation says what each thing means and how the card is programmed. All values on the card and in its memory
   are little-endian. */
#ifndef DMUS_H
#define DMUS_H

#include <stdint.h>";

/// The header as far as it is written.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl Display) -> fmt::Result {
        writeln!(self.0, "{line}")
    }

    fn section(&mut self, about: &str) -> fmt::Result {
        self.line(format_args!("\n/* {about}. */"))
    }

    fn define(&mut self, prefix: &str, name: &str, value: u64, remark: &str) -> fmt::Result {
        self.constant(&format!("{prefix}{name}"), &format!("{value:#x}u"), remark)
    }

    /// A code, in decimal as rules are numbered.
    fn code(&mut self, name: &str, code: u32, rule: &Rule) -> fmt::Result {
        self.constant(name, &format!("{code}u"), &format!("{} {}", rule.code, rule.name))
    }

    fn constant(&mut self, name: &str, value: &str, remark: &str) -> fmt::Result {
        match remark {
            "" => self.line(format_args!("#define {name:<40} {value}")),
            remark => self.line(format_args!("#define {name:<40} {value:<8} /* {remark} */")),
        }
    }

    /// Where the part of stream n begins.
    fn place(&mut self, name: &str, first: usize, stride: usize) -> fmt::Result {
        self.line(format_args!("#define {name}(n) ({first:#x}u + (n) * {stride:#x}u)"))
    }

    fn registers(&mut self, prefix: &str, table: &[Register]) -> fmt::Result {
        table.iter().try_for_each(|register| {
            let access = match register.access {
                Access::Read => "read",
                Access::Write => "write",
                Access::ReadWrite => "read/write",
            };
            let remark = format!("{} bytes, {access}", register.width);
            self.define(prefix, register.name, register.offset.into(), &remark)
        })
    }

    fn words(&mut self, prefix: &str, table: &[Word]) -> fmt::Result {
        table.iter().try_for_each(|word| {
            let writer = match word.writer {
                Writer::Driver => "the driver",
                Writer::Card => "the card",
            };
            self.define(prefix, word.name, word.offset as u64, &format!("{} bytes, {writer}", word.width))
        })
    }
}

/// The name of a variant as constants are written: TailOverrun is TAIL_OVERRUN.
fn upper(variant: impl Debug) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{variant:?}").char_indices() {
        if index > 0 && letter.is_uppercase() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

/// A signed constant. C has no literal for the least one.
fn signed(value: i64) -> String {
    match value {
        0.. => format!("INT64_C({value})"),
        _ => format!("(-INT64_C({}) - 1)", -(value + 1)),
    }
}
