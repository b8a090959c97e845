//! Tails, entries of the submission ring, and grants.

use super::event::{FAR, NOTE, running};
use super::{Mistake, Stream, prepared};
use crate::raw::{SLOTS, seconds};

/// A stream in RUN that has taken as many events as the ring has entries.
pub(super) fn once_around(s: &Stream<'_>) -> anyhow::Result<()> {
    running(s)?;
    for slot in 0..SLOTS {
        s.submit(slot, s.inline(0, &NOTE), 0);
        s.completion()?;
    }
    Ok(())
}

pub(super) const MISTAKES: [Mistake; 6] = [
    Mistake::new("tail-overrun", "stores the tail in bytes", running, |s| {
        let entries = SLOTS / 4 + 1;
        for slot in 0..entries {
            s.fill(slot, s.inline(0, &NOTE));
            s.put(slot);
        }
        s.publish_tail(entries * 4);
        Ok(())
    }),
    Mistake::new("tail-backward", "stores the tail as an index into the ring", once_around, |s| {
        s.fill(0, s.inline(0, &NOTE));
        s.put(0);
        s.publish_tail((SLOTS + 1) % SLOTS);
        Ok(())
    }),
    Mistake::new("entry-no-slot", "puts the address of a slot into the ring", running, |s| {
        s.fill(0, s.inline(0, &NOTE));
        s.put(s.slot_iova(0) as u32);
        s.publish();
        Ok(())
    }),
    Mistake::new("slot-resubmitted", "submits a slot again before it came home", running, |s| {
        for _ in 0..2 {
            s.submit(7, s.inline(FAR, &NOTE), 0);
        }
        Ok(())
    }),
    Mistake::new(
        "grant-backward",
        "grants a stream's time instead of the master clock's",
        |s| {
            running(s)?;
            s.grant(seconds(2));
            s.reach(seconds(2))
        },
        |s| {
            s.grant(seconds(1));
            Ok(())
        },
    ),
    Mistake::new("tail-closed-stream", "submits to a stream before it creates it", prepared, |s| {
        s.fill(0, s.inline(0, &NOTE));
        s.put(0);
        s.publish();
        // Otherwise the card says so when it has nothing else to do and goes to sleep, which it does not do here.
        s.create()
    }),
];
