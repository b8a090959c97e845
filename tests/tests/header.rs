//! The C header against the data sheet: what a C compiler makes of it is what the Rust side has.

use anyhow::ensure;
use dmus_interface::event::{Event32, Event64};
use dmus_interface::regs::{self, Fault, stream};
use dmus_interface::ring::{self, Completion, Reject};
use dmus_interface::{command, doorbell, event, pci, time};
use dmus_tests::programs::{self, run, said};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::Command;

/// The sources of the data sheet that the header is made of, and prefixes under which their constants are in it.
const SOURCES: [(&str, &[&str]); 8] = [
    (include_str!("../../device/interface/src/pci.rs"), &["DMUS_PCI_"]),
    (
        include_str!("../../device/interface/src/regs.rs"),
        &["DMUS_REG_", "DMUS_STREAM_", "DMUS_", "DMUS_FEATURE_", "DMUS_CONTROL_", "DMUS_TYPE_"],
    ),
    (include_str!("../../device/interface/src/doorbell.rs"), &["DMUS_DOORBELL_"]),
    (include_str!("../../device/interface/src/event.rs"), &["DMUS_", "DMUS_FLAG_"]),
    (include_str!("../../device/interface/src/ring.rs"), &["DMUS_"]),
    (include_str!("../../device/interface/src/command.rs"), &["DMUS_"]),
    (include_str!("../../device/interface/src/wave.rs"), &["DMUS_WAVE_"]),
    (include_str!("../../device/interface/src/time.rs"), &["DMUS_"]),
];

/// Constants that the header has in another shape: tables, the flag of a type, the sizes of its structures.
const OTHERWISE: [&str; 13] = [
    "ALL",
    "GLOBAL",
    "STREAM",
    "FIRST",
    "STRIDE",
    "UNCOOKED",
    "MAX_EVENT_SIZE",
    "COMPLETION_SIZE",
    "SUBMISSION_SIZE",
    "COUNT",
    "ZERO",
    "NONE",
    "RATES",
];

/// What the header must say: a C expression, and its value.
fn expected() -> BTreeMap<String, i128> {
    let mut all = BTreeMap::new();
    let mut add = |expression: String, value: i128| {
        assert!(all.insert(expression.clone(), value).is_none(), "{expression} twice");
    };
    for register in regs::GLOBAL {
        add(format!("DMUS_REG_{}", register.name), register.offset.into());
    }
    for register in stream::ALL {
        add(format!("DMUS_REG_STREAM(7) + DMUS_STREAM_{}", register.name), stream::at(7, register).offset.into());
    }
    for word in doorbell::GLOBAL {
        add(format!("DMUS_DOORBELL_{}", word.name), word.offset as i128);
    }
    for word in doorbell::STREAM {
        let offset = doorbell::at(7, word.offset) as i128;
        add(format!("DMUS_DOORBELL_STREAM(7) + DMUS_DOORBELL_{}", word.name), offset);
    }
    for reject in Reject::ALL {
        add(format!("DMUS_REJECT_{}", upper(&format!("{reject:?}"))), reject as i128);
    }
    for fault in Fault::ALL {
        add(format!("DMUS_FAULT_{}", upper(&format!("{fault:?}"))), fault as i128);
    }
    for opcode in command::Opcode::ALL {
        add(format!("DMUS_OPCODE_{}", upper(&format!("{opcode:?}"))), opcode as i128);
    }
    for status in command::Status::ALL {
        add(format!("DMUS_COMMAND_STATUS_{}", upper(&format!("{status:?}"))), status as i128);
    }
    let cooked = |cooked| stream::Type::Capture { cooked }.value().into();
    for (name, value) in [
        ("DMUS_PCI_VENDOR_ID", pci::VENDOR_ID.into()),
        ("DMUS_PCI_DEVICE_ID", pci::DEVICE_ID.into()),
        ("DMUS_PCI_STREAMS", pci::STREAMS as i128),
        ("DMUS_MAGIC_VALUE", regs::MAGIC_VALUE.into()),
        ("DMUS_CONTROL_RESET", regs::control::RESET.into()),
        ("DMUS_FEATURE_VIRTUAL_CLOCK", regs::feature::VIRTUAL_CLOCK.into()),
        ("DMUS_TYPE_RENDER", stream::Type::Render.value().into()),
        ("DMUS_TYPE_CAPTURE", cooked(true)),
        ("DMUS_TYPE_CAPTURE_UNCOOKED", cooked(false)),
        ("DMUS_TYPE_WAVE_SINK", stream::Type::WaveSink.value().into()),
        ("DMUS_TYPE_CLOSED", stream::CLOSED.into()),
        ("DMUS_STATE_STOP", stream::State::Stop as i128),
        ("DMUS_STATE_ACQUIRE", stream::State::Acquire as i128),
        ("DMUS_STATE_PAUSE", stream::State::Pause as i128),
        ("DMUS_STATE_RUN", stream::State::Run as i128),
        ("DMUS_STATUS_PRESENTED", ring::Status::Presented as i128),
        ("DMUS_STATUS_LATE", ring::Status::Late as i128),
        ("DMUS_STATUS_DISCARDED", ring::Status::Discarded as i128),
        ("DMUS_STATUS_REJECTED", ring::Status::Rejected as i128),
        ("DMUS_STATUS_COPIED", ring::Status::Copied as i128),
        ("DMUS_FLAG_PACKAGE", event::PACKAGE.into()),
        ("DMUS_DONT_HOLD", event::DONT_HOLD.into()),
        ("DMUS_WAVE_FORMAT_F32", 1 << 8),
        ("DMUS_UNITS_PER_SECOND", time::UNITS_PER_SECOND.into()),
        ("sizeof(dmus_submission)", ring::SUBMISSION_SIZE as i128),
        ("sizeof(struct dmus_completion)", ring::COMPLETION_SIZE as i128),
        ("sizeof(struct dmus_event64)", size_of::<Event64>() as i128),
        ("sizeof(struct dmus_event32)", size_of::<Event32>() as i128),
    ] {
        add(name.into(), value);
    }
    macro_rules! offsets {
        ($name:literal, $type:ident: $($field:ident),*) => {
            $(add(format!("offsetof(struct {}, {})", $name, stringify!($field)), offset_of!($type, $field) as i128);)*
        };
    }
    offsets!("dmus_event64", Event64: struct_size, event_bytes, channel_group, flags, time, byte_position, next, data);
    offsets!("dmus_event32", Event32: struct_size, event_bytes, channel_group, flags, time, byte_position, next, data);
    offsets!("dmus_completion", Completion: slot, status, flags, time);
    all
}

/// `TailOverrun` is `TAIL_OVERRUN`.
fn upper(name: &str) -> String {
    let words = name.split_inclusive(|_| true).map(|letter| match letter.to_lowercase() == letter {
        true => letter.to_uppercase(),
        false => format!("_{letter}"),
    });
    words.collect::<String>().trim_start_matches('_').to_owned()
}

#[test]
fn a_c_compiler_reads_the_data_sheet_from_the_header() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let made = run(programs::card()?.arg("header"))?;
    ensure!(made.status.success(), "{}", said(&made));
    std::fs::write(dir.path().join("dmus.h"), &made.stdout)?;
    let expected = expected();

    // Twice: it may be included by several headers of a driver.
    let mut program = "#include \"dmus.h\"\n#include \"dmus.h\"\n#include <stddef.h>\n#include <stdio.h>\n".to_owned();
    program += "int main(void) {\n";
    for expression in expected.keys() {
        writeln!(program, "    printf(\"%lld\\n\", (long long)({expression}));")?;
    }
    program += "    return 0;\n}\n";
    std::fs::write(dir.path().join("values.c"), program)?;
    let strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    let built = run(Command::new("cc").args(strict).args(["values.c", "-o", "values"]).current_dir(dir.path()))?;
    ensure!(built.status.success(), "{}", said(&built));
    let printed = run(&mut Command::new(dir.path().join("values")))?;
    let printed = String::from_utf8(printed.stdout)?;
    assert_eq!(printed.lines().count(), expected.len());
    for ((expression, value), line) in expected.iter().zip(printed.lines()) {
        assert_eq!(line, value.to_string(), "{expression}");
    }
    Ok(())
}

/// So that a constant that is new in the data sheet is not forgotten in the header.
#[test]
fn every_constant_of_the_data_sheet_is_in_the_header() -> anyhow::Result<()> {
    let made = run(programs::card()?.arg("header"))?;
    let header = String::from_utf8(made.stdout)?;
    let defined = |name: &str| header.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
    for (source, prefixes) in SOURCES {
        let constants = source.lines().filter_map(|line| line.trim_start().strip_prefix("pub const "));
        let names = constants.filter_map(|constant| constant.split_once(':')).map(|(name, _)| name);
        for name in names.filter(|name| !name.contains("fn ") && !OTHERWISE.contains(name)) {
            let found = prefixes.iter().any(|prefix| defined(&format!("{prefix}{name}")));
            ensure!(found, "{name} of the data sheet is not in the header");
        }
    }
    Ok(())
}

#[test]
fn the_header_takes_no_names_but_its_own() -> anyhow::Result<()> {
    let made = run(programs::card()?.arg("header"))?;
    let header = String::from_utf8(made.stdout)?;
    let includes: Vec<_> = header.lines().filter(|line| line.starts_with("#include")).collect();
    ensure!(includes == ["#include <stdint.h>"], "{includes:?}");
    for line in header.lines() {
        let mut words = line.split_whitespace();
        let name = match words.next() {
            Some("#define" | "struct") => words.next(),
            Some("typedef") => words.nth(1),
            _ => continue,
        };
        ensure!(name.is_some_and(|name| name.starts_with("DMUS_") || name.starts_with("dmus_")), "{line}");
    }
    Ok(())
}
