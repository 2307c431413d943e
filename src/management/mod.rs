//! Floor 3, the management role: owns the Server List, drives ripples, keeps releases, and answers the public API.
//! Must not know how a server quiesces or a router chooses: it speaks to them in messages only.

mod control;
mod records;
