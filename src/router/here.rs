//! Owns what this role asks of a server that is in the same process, so that a request for it takes no second hop: it is
//! admitted by a call, and goes straight to the instance. All else is as over the wire: what is refused here is refused
//! with run and generation (protocol P1), and counted there as it would be. Must not know that server: `node.rs` joins
//! the two.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::watch;

use crate::domain::names::{Generation, ProgramName, RunId, ServerName, Version};
use crate::domain::session::HeldTag;
use crate::proxy::{About, HeadWriter, LongLived, Outcome, ResponseHead, Target};

/// A server in this process.
pub trait Here: Send + Sync {
    fn name(&self) -> &ServerName;
    /// Its run, which its refusals carry.
    fn run(&self) -> &RunId;
    /// Where it takes requests that come over the wire; by it the Server List means this very server.
    fn data(&self) -> SocketAddr;
    /// What one worker's requests go through; made on that worker's thread.
    fn desk(&self) -> Box<dyn Desk>;
    /// Changes when requests are cut: whoever has some looks at them then.
    fn nudges(&self) -> watch::Receiver<()>;
}

/// One worker's way to the server.
pub trait Desk {
    /// A request for a program. Nothing is admitted yet.
    fn visit(&self, program: &ProgramName) -> Box<dyn Visit>;
    /// After a nudge.
    fn nudged(&self);
}

/// One request at the server. Dropped without an end, it failed.
pub trait Visit {
    /// What its client sent of a session: an authentic tag, and whether through TLS.
    fn carry(&mut self, tag: Option<Rc<HeldTag>>, secure: bool);
    /// Adds fields for the program.
    fn write_headers(&self, out: &mut HeadWriter<'_>);
    /// Admits and counts it in one step, or refuses it at this generation.
    fn admit(&mut self, about: &About, now: Instant) -> Result<Target, Generation>;
    /// The instance took no connection: nothing reached the program. It is refused at this generation; `None`: the
    /// instance has been replaced meanwhile, so it is to be admitted again.
    fn not_connected(&mut self) -> Option<Generation>;
    /// It was admitted, and will not be sent after all.
    fn withdraw(&mut self);
    /// Its answer begins; may add fields to it.
    fn answered(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>);
    /// The version of the instance that it was admitted to.
    fn version(&self) -> Option<&Version>;
    fn long_lived(&mut self, kind: LongLived);
    /// Whether it is to end now.
    fn is_cut(&self) -> bool;
    fn ended(&mut self, outcome: Outcome, about: &About);
}
