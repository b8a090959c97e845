//! The floor: `rtrb`, a ring between two threads that moves records of an event's size and does nothing else.
//!
//! Fed by the benchmark with numbers of records. Nothing is allocated, checked, completed or recycled.

use crate::Lane;
use anyhow::Context;
use std::hint::black_box;
use std::time::Instant;

/// An event's 40 bytes.
type Record = [u64; 5];

/// Records in the ring.
const RECORDS: usize = 256;

/// Pushes and pops take turns in one thread, a batch each.
pub(crate) fn one_thread(batch: u64) -> anyhow::Result<Lane> {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Record>::new(RECORDS);
    Ok(Box::new(move |events| {
        let started = Instant::now();
        for _ in 0..events / batch {
            for number in 0..batch {
                producer.push(black_box([number; 5])).ok().context("the ring is full")?;
            }
            for _ in 0..batch {
                black_box(consumer.pop().context("the ring is empty")?);
            }
        }
        Ok(started.elapsed())
    }))
}
