//! Owns which atomics the gate uses, so that a test can include `gate.rs` with loom's in their place.
//! Must not know who counts what.

pub use std::sync::atomic::{AtomicU64, Ordering};
