//! Whatever a guest writes, and wherever: the card stays alive, answers, and plays for the next driver.

use dmus_card::ClockMode;
use dmus_interface::event::{DONT_HOLD, Data, Event, PointerWidth};
use dmus_tests::attack::{Attack, next_driver_plays};
use dmus_tests::loopback::HostedCard;
use dmus_tests::raw::{Bus, RawStream, SLOTS};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        1u64..5,
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(64),
        0x10_0000u64..0x11_0000,
        any::<u64>(),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let pointer = prop_oneof![
        (0u64..70).prop_map(|slot| 0x10_0000 + slot * 64),
        (0u64..10).prop_map(|buffer| 0x10_1000 + buffer * 256),
        interesting(),
    ];
    let size = prop_oneof![8 => Just(40u8), 1 => any::<u8>()];
    let time = prop_oneof![0i64..2_000_000, Just(DONT_HOLD), any::<i64>()];
    let fields = (size, 0u16..300, 0u16..18, 0u16..5, time, any::<u64>());
    (fields, pointer.clone(), pointer, any::<[u8; 8]>(), 0..4).prop_map(|(fields, next, to, bytes, chained)| {
        let (struct_size, event_bytes, channel_group, flags, time, byte_position) = fields;
        let data = if flags & 2 != 0 || event_bytes > 8 { Data::Buffer(to) } else { Data::Inline(bytes) };
        let next = if chained == 0 { next } else { 0 };
        Event { struct_size, event_bytes, channel_group, flags, time, byte_position, next, data }
    })
}

fn attack() -> impl Strategy<Value = Attack> {
    let width = prop_oneof![Just(4usize), Just(8), 1usize..20];
    let block = (0u64..0x90).prop_map(|at| 0x100 + at / 4 * 4);
    // Inside the BAR, as a guest can reach it; what is outside never passes a transport.
    let offset = prop_oneof![4 => block, 2 => (0u64..0x60).prop_map(|at| at / 4 * 4), 1 => 0u64..4070];
    prop_oneof![
        6 => (offset.clone(), width.clone(), interesting())
            .prop_map(|(at, width, value)| Attack::Register(at, width, value)),
        1 => (offset, width).prop_map(|(at, width)| Attack::Read(at, width)),
        1 => (0u64..0x100, any::<u32>()).prop_map(|(at, value)| Attack::Config(at, value)),
        3 => (0usize..4096, any::<u32>()).prop_map(|(at, value)| Attack::Page(at / 4 * 4, value)),
        4 => (0..SLOTS, prop_oneof![0..SLOTS + 1, any::<u32>()]).prop_map(|(at, value)| Attack::Ring(at, value)),
        8 => (0..SLOTS, event()).prop_map(|(slot, event)| Attack::Event(slot, event)),
        2 => (0usize..8192, any::<u64>()).prop_map(|(at, value)| Attack::Scribble(at, value)),
        5 => prop_oneof![0..SLOTS * 2, any::<u32>()].prop_map(Attack::Tail),
        4 => prop_oneof![0i64..5_000_000, any::<i64>()].prop_map(Attack::Grant),
        1 => Just(Attack::Reset),
    ]
}

#[test]
fn nothing_that_a_guest_writes_keeps_the_card_from_the_next_driver() -> anyhow::Result<()> {
    let hosted = HostedCard::start(ClockMode::Virtual)?;
    let platform = hosted.connect()?;
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let attacks = proptest::collection::vec(attack(), 1..120);
    let result = runner.run(&attacks, |attacks| {
        let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
        platform.ram.restart();
        platform.write_config(4, &[6, 0]);
        let stream = RawStream::running(&platform, PointerWidth::Eight).map_err(fail)?;
        for attack in attacks {
            attack.carry_out(&stream);
        }
        next_driver_plays(&platform).map_err(fail)?;
        Ok(())
    });
    result.map_err(|error| anyhow::anyhow!("{error}"))?;
    drop(platform);
    hosted.finish()?;
    Ok(())
}

#[test]
fn a_card_that_lies_gets_no_slot_twice_and_no_panic_out_of_the_driver() -> anyhow::Result<()> {
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    let script = proptest::collection::vec(any::<u8>(), 0..400);
    let result = runner.run(&script, |script| {
        dmus_tests::fake_device::capture(&script).map_err(|error| TestCaseError::fail(error.to_string()))?;
        dmus_tests::fake_device::drive(&script).map_err(|error| TestCaseError::fail(error.to_string()))
    });
    result.map_err(|error| anyhow::anyhow!("{error}"))
}
