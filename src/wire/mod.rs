//! Floor 1, the wire: everything that crosses a node's boundary, as serde types.
//! Must not know who sends it, who answers it, or how it travels.

pub mod api;
