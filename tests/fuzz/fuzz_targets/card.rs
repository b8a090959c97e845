//! Any steps of a guest: registers, configuration space, page, rings, events. The card must play for the next driver.
#![no_main]

use dmus_interface::event::PointerWidth;
use dmus_tests::attack::{Attack, next_driver_plays};
use dmus_tests::direct::Direct;
use dmus_tests::raw::{Bus, RawStream};
use std::cell::OnceCell;

thread_local! {
    // Making a card takes a tenth of a second; a reset makes it as good as new, which is part of what is tried here.
    static CARD: OnceCell<Direct> = const { OnceCell::new() };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    CARD.with(|card| {
        let platform = card.get_or_init(|| {
            let direct = Direct::new().expect("a card");
            // Whatever a guest does, the checker survives it, too.
            direct.check();
            direct
        });
        platform.ram.restart();
        platform.device_reset();
        platform.write_config(4, &[6, 0]);
        let stream = RawStream::running(platform, PointerWidth::Eight).expect("a stream");
        let mut rest = bytes;
        while let Some(attack) = Attack::decode(&mut rest) {
            attack.carry_out(&stream);
            platform.turn();
        }
        next_driver_plays(platform).expect("a card that plays");
    });
});
