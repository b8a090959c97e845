//! Any session on the vfio-user socket, with the real card behind the card's own server. Both must be there for the
//! next client.
#![no_main]

use dmus_card::pci::Card;
use dmus_card::engine::Engine;
use dmus_card::sink::NullSink;
use dmus_card::{ClockMode, assemble};
use dmus_tests::wire::session;
use std::cell::RefCell;

thread_local! {
    // Making a card takes a tenth of a second; a client that goes leaves it as good as new, which is part of what is
    // tried here.
    static CARD: RefCell<Option<(Card, Engine)>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    CARD.with_borrow_mut(|made| {
        let (card, engine) =
            made.get_or_insert_with(|| assemble(ClockMode::Virtual, Box::new(NullSink)).expect("a card"));
        session(bytes, card).expect("a socket");
        for _ in 0..4 {
            engine.turn();
        }
    });
});
