//! Floor 1, the wire: the shape of all that crosses a node's boundary, and the stable codes in it.
//! Must not know how it travels (`link`) or what anyone does about it.

pub mod api;
pub mod binary;
pub mod components;
pub mod envelope;
pub mod messages;
pub mod page;
pub mod problem;
pub mod role;
pub mod sessions;
