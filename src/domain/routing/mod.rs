//! Owns where a request goes: which program it is for (`table`), and which of its servers to ask next (`dispatch`).
//! Must not know how a request came, how it is sent on, or how a Server List is heard of.

pub mod dispatch;
pub mod pattern;
pub mod table;

pub use dispatch::{Candidate, Dispatch, Fit, GiveUp, Next, Standing};
pub use table::{Ask, Matched, RouteTable, Rule};
