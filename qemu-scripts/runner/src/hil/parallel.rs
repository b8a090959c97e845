//! Work side by side, told of in one place.
//!
//! Fed by the pool, campaigns and explorations with numbered work; feeds them with what each came to, as it ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

/// What is told of a piece of work.
pub(crate) enum Told<T> {
    Began(usize),
    Ended(usize, anyhow::Result<T>),
}

/// Does work of the numbers below `count`, so many at once, until `told` says that no more is to be begun or one
/// fails. A thread waits for the processes that it started, which the kernel would end with it.
pub(crate) fn parallel<T: Send>(
    jobs: usize,
    count: usize,
    work: impl Fn(usize) -> anyhow::Result<T> + Sync,
    mut told: impl FnMut(Told<T>) -> bool,
) {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(count) {
            let (sender, next, stopped, work) = (sender.clone(), &next, &stopped, &work);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let _ = sender.send(Told::Began(number));
                    let done = work(number);
                    if done.is_err() {
                        stopped.store(true, Ordering::Relaxed);
                    }
                    let _ = sender.send(Told::Ended(number, done));
                }
            });
        }
        drop(sender);
        for tale in receiver {
            if !told(tale) {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    });
}
