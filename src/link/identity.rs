//! Owns who a node is to the others: its name, and this run of it. Must not know its roles.

use std::sync::Arc;

use crate::domain::names::{NodeName, RunId, Term};
use crate::wire::envelope::Envelope;

/// A node in one run. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub name: NodeName,
    pub run: RunId,
}

impl Identity {
    /// A run that no other had. A ULID is made of digits and capitals only, so it is always a valid run id.
    pub fn begin(name: NodeName) -> Self {
        let run = RunId::new(new_id()).expect("a ULID is a run id");
        Self { name, run }
    }

    /// Puts a message into an envelope of its own id.
    pub fn envelope<B>(&self, term: Option<Term>, body: B) -> Envelope<B> {
        let (from, run) = (self.name.clone(), self.run.clone());
        Envelope { id: new_id(), from, run, term, sent_at: jiff::Timestamp::now(), body }
    }

    /// What others see in `Neap-Refused` and in logs.
    pub fn shown(&self) -> Arc<str> {
        Arc::from(format!("{}/{}", self.name, self.run))
    }
}

/// An id that no other message, operation or run has; later ones sort later.
pub fn new_id() -> String {
    ulid::Ulid::new().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_and_no_two_messages_are_alike() {
        let name = NodeName::new("s1").unwrap();
        let (one, two) = (Identity::begin(name.clone()), Identity::begin(name));
        assert_ne!(one.run, two.run);
        assert_ne!(one.envelope(None, ()).id, one.envelope(None, ()).id);
    }
}
