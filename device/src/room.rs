//! Whether there is memory for what a guest asks for: found out before anything is taken, since a part that finds none
//! ends the process.
//!
//! Asked by the engine before it makes what consists of many parts; what is one list reserves its memory itself.

/// Whether there is memory for so many bytes more.
pub(crate) fn has_room(bytes: usize) -> bool {
    let mut probe = Vec::<u8>::new();
    let reserved = probe.try_reserve_exact(bytes).is_ok();
    // An allocation that nobody looks at is left out.
    std::hint::black_box(&probe);
    reserved
}
