//! Chunks by hand.
