//! Owns the tests of `gate.rs`, which loom includes by itself. Must not know its bits.

use super::gate::{Gate, MOST_ACTIVE, NotDrained, Word};
use super::names::Generation;

const G: Generation = Generation(7);

#[test]
fn a_closed_gate_refuses_and_names_its_generation() {
    let gate = Gate::closed(G);
    let refused = gate.try_claim().unwrap_err();
    assert_eq!((refused.is_open(), refused.generation()), (false, G));
}

#[test]
fn an_open_gate_counts_what_it_admits() {
    let gate = Gate::closed(G);
    gate.open(G.next());
    assert!(gate.try_claim().is_ok() && gate.try_claim().is_ok());
    assert_eq!(gate.word().active(), 2);
    assert_eq!(gate.release().active(), 1);
    assert_eq!(gate.word().generation(), Generation(8));
}

#[test]
fn a_gate_freezes_only_when_closed_and_empty() {
    let gate = Gate::closed(G);
    gate.open(G);
    assert_eq!(gate.freeze(G), Err(NotDrained { open: true, active: 0 }));
    gate.try_claim().unwrap();
    gate.close(G);
    assert_eq!(gate.freeze(G), Err(NotDrained { open: false, active: 1 }));
    gate.release();
    assert_eq!(gate.freeze(G), Ok(()));
    assert!(gate.word().is_stopping() && gate.try_claim().is_err());
}

#[test]
fn a_full_gate_refuses_without_touching_its_other_bits() {
    let open = Word::closed(G).open(G);
    let full = (0..MOST_ACTIVE).fold(open, |word, _| word.claim().unwrap());
    assert_eq!((full.active(), full.claim()), (MOST_ACTIVE, None));
    assert!(full.is_open() && full.release().claim().is_some());
}
