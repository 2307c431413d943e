//! Owns the tests of `gate.rs`, which loom includes by itself. Must not know its bits.

use super::gate::{Gate, MOST_ACTIVE, NotDrained, Word};
use super::names::Generation;

const G: Generation = Generation(7);

#[test]
fn a_closed_gate_refuses_and_names_its_generation() {
    let gate = Gate::closed(G);
    let refused = gate.try_claim(|| false).unwrap_err();
    assert_eq!((refused.is_open(), refused.generation()), (false, G));
}

#[test]
fn an_open_gate_counts_what_it_admits() {
    let gate = Gate::closed(G);
    gate.open(G.next());
    assert!(gate.try_claim(|| false).is_ok() && gate.try_claim(|| false).is_ok());
    assert_eq!(gate.word().active(), 2);
    assert_eq!(gate.release().active(), 1);
    assert_eq!(gate.word().generation(), Generation(8));
}

#[test]
fn a_gate_freezes_only_when_closed_and_empty() {
    let gate = Gate::closed(G);
    gate.open(G);
    assert_eq!(gate.freeze(G), Err(NotDrained { open: true, active: 0 }));
    gate.try_claim(|| false).unwrap();
    gate.close(G);
    assert_eq!(gate.freeze(G), Err(NotDrained { open: false, active: 1 }));
    gate.release();
    assert_eq!(gate.freeze(G), Ok(()));
    assert!(gate.word().is_stopping() && gate.try_claim(|| false).is_err());
}

#[test]
fn a_full_gate_refuses_without_touching_its_other_bits() {
    let open = Word::closed(G).open(G);
    let full = (0..MOST_ACTIVE).fold(open, |word, _| word.claim().unwrap());
    assert_eq!((full.active(), full.claim()), (MOST_ACTIVE, None));
    assert!(full.is_open() && full.release().claim().is_some());
}

#[test]
fn a_gate_that_knows_sessions_admits_those_alone_and_asks_only_then() {
    let gate = Gate::closed(Generation(1));
    let known = || true;
    assert!(gate.try_claim(known).is_err(), "closed is closed");
    gate.open(Generation(2));
    assert!(gate.try_claim(|| panic!("it is open to all")).is_ok());
    gate.know(Generation(3));
    let word = gate.word();
    assert!(word.is_known() && !word.is_open() && word.generation() == Generation(3) && word.active() == 1);
    assert!(gate.try_claim(|| false).is_err() && gate.try_claim(known).is_ok());
    assert_eq!(gate.freeze(Generation(4)), Err(NotDrained { open: false, active: 2 }));
    gate.close(Generation(4));
    assert!(!gate.word().is_known() && gate.try_claim(known).is_err());
    gate.know(Generation(5));
    (0..2).for_each(|_| assert!(gate.release().is_known()));
    assert_eq!(gate.freeze(Generation(6)), Ok(()));
    assert!(gate.try_claim(known).is_err());
    gate.open(Generation(7));
    assert!(gate.word().is_open());
}
