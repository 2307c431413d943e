//! Owns a server's promise: to obey no term below the highest that asked for its state (protocol P6).
//! Must not know what is commanded.

use serde::{Deserialize, Serialize};

use super::names::Term;
use super::placement::Refusal;

/// The promise, kept on the server's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Seal {
    pub highest: Option<Term>,
}

impl Seal {
    /// Judges a question's or a command's term. `Ok(true)`: a higher promise, to be saved before anything is said.
    pub fn admit(&mut self, term: &Term) -> Result<bool, Refusal> {
        match &self.highest {
            Some(highest) if term < highest => Err(Refusal::StaleTerm { highest: highest.clone() }),
            Some(highest) if term == highest => Ok(false),
            _ => {
                self.highest = Some(term.clone());
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::NodeName;

    fn term(number: u64, management: &str) -> Term {
        Term { number, management: NodeName::new(management).unwrap() }
    }

    #[test]
    fn a_lower_term_is_refused_with_the_highest_promised() {
        let mut seal = Seal::default();
        assert_eq!(seal.admit(&term(2, "a")), Ok(true));
        assert_eq!(seal.admit(&term(2, "a")), Ok(false));
        assert_eq!(seal.admit(&term(1, "z")), Err(Refusal::StaleTerm { highest: term(2, "a") }));
    }

    #[test]
    fn one_number_of_two_managements_is_two_terms() {
        let mut seal = Seal::default();
        seal.admit(&term(2, "b")).unwrap();
        assert!(seal.admit(&term(2, "a")).is_err());
        assert_eq!(seal.admit(&term(2, "c")), Ok(true));
    }
}
