//! Owns the bytes of a request: heads, bodies, connections and their pools, tunnels, repeats (protocol P1, P2).
//! Must not know programs, gates or the Server List: a role decides, through [`Handler`] and [`Attempts`], and this obeys.
//!
//! A worker is one thread with one current-thread runtime; nothing here is shared between workers save what a role
//! shares through its handler, the replay budget in [`Limits`] and [`Shutdown`]. A connection is one task, and a request
//! is part of it; a client's connection that is idle is parked, and no task:
//!
//! ```text
//! serve ─▶ conn (TLS, heads, keep-alive) ─▶ exchange (attempts) ─▶ attempt, converse (one connection) ─┬─ upload   client ─▶ upstream
//!                                                                                                 ├─ download client ◀─ upstream
//!                                                                                                 └─ tunnel   both, after 101
//! ```

mod about;
mod answer;
mod attempt;
mod body;
mod buffer;
mod conn;
mod converse;
mod crowd;
mod cut;
mod download;
mod exchange;
mod fields;
pub mod forwarded;
pub mod handed;
mod handler;
mod head;
mod inbound;
mod limits;
mod listen;
mod lot;
mod path;
mod plain;
mod pool;
mod race;
mod response;
mod seats;
mod serve;
mod splice;
mod stream;
mod tls;
mod tunnel;
mod upload;
mod writer;

#[cfg(test)]
mod tests;

pub use about::{About, cut};
pub use answer::Answer;
pub use body::Framing;
pub use crowd::Crowd;
pub use cut::Cut;
pub use fields::Letters;
pub use handler::{
    AttemptFailure, Attempts, Begin, Failure, Handler, LongLived, Next, Outcome, Peer, Tally, Target, WhenCut,
};
pub use head::{RequestHead, header, is_neap_header};
pub use limits::{Limits, ReplayBudget};
pub use listen::listen;
pub use response::ResponseHead;
pub use serve::{Door, Shutdown, serve};
pub use upload::too_large;
pub use writer::HeadWriter;

/// What all workers share, as one of them holds it for its requests: they count its holders among themselves, and touch no
/// count that other workers touch.
pub type Kept<T> = std::rc::Rc<std::sync::Arc<T>>;
