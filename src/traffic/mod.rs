//! Owns open-loop load that checks every answer: what is sent and when, over which connections, what each answer must
//! be, and the account of it all. Must not know neap's nodes: it sees what any client sees.
//!
//! ```text
//! plan, mix     what to send, where, how fast          (parsed once, valid)
//! schedule      when each request is due, and who asks   (pure)
//! run, lane     sends on time, whatever the answers do
//! client, jar   who holds a session, and its cookies     (pure)
//! raw           the same at high rates, checking less
//! stream, pool, exchange, websocket                    the connections
//! answer        reads one HTTP/1.1 answer              (pure)
//! check         is it the answer that was due?         (pure)
//! tally, report the account                            (pure)
//! ```

mod answer;
mod check;
mod client;
mod exchange;
mod jar;
mod lane;
pub mod mix;
pub mod plan;
mod pool;
mod raw;
pub mod report;
mod run;
mod schedule;
mod stream;
mod tally;
mod websocket;

#[cfg(test)]
mod tests;

pub use client::SessionCounts;
pub use mix::{Kind, Mix, Request};
pub use plan::{Plan, Target, Url};
pub use report::{Counts, Failure, FailureKind, Latency, Post, Report, Second, TargetReport};
pub use run::{Running, run, start};
pub use stream::{Anyone, Trust};
