//! Any bytes as a recording: as the file, as its records, and as changes of a real one. A replay ends, and takes
//! bounded memory.
#![no_main]

use dmus_card::ClockMode;
use dmus_card::bank::Bank;
use dmus_card::capsule::trace::Trace;
use dmus_card::capsule::{self, Capsule, Listener, Until};
use dmus_card::sink::NullSink;
use dmus_interface::time::RefTime;
use dmus_tests::recordings;
use std::io::{self, Cursor};
use std::sync::{Arc, OnceLock};

/// Files of real cards.
fn recorded() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let made =
            [recordings::mistakes(), recordings::streams(ClockMode::Virtual), recordings::streams(ClockMode::Realtime)];
        made.into_iter().collect::<Result<_, _>>().expect("recordings")
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&mode, input)) = input.split_first() else {
        return;
    };
    let real = &recorded()[usize::from(mode >> 4) % recorded().len()];
    let file = match mode % 4 {
        0 => recordings::edit(real, input),
        1 => capsule::pack(input),
        _ => capsule::pack(&recordings::edit(&capsule::unpack(real).expect("records"), input)),
    };
    let Ok(capsule) = Capsule::open(Cursor::new(file)) else {
        return;
    };
    let (listens, ends) = (mode & 4 != 0, mode & 8 != 0);
    let mut trace = Trace::new(io::sink());
    let listener = listens.then_some(&mut trace as &mut dyn Listener);
    let until = ends.then_some(Until::Time(RefTime::from_secs(2)));
    let bank = Arc::new(Bank::default());
    capsule.replay(bank, Box::new(NullSink), until.as_ref(), listener, |_| ()).expect("a card");
    trace.finish().expect("the trace");
});
