//! Every interleaving of the gate's atomic word, by loom: the same `gate.rs`, with loom's atomics in the place of the
//! processor's.

#[allow(dead_code)]
#[path = "../src/domain"]
mod domain {
    #[path = "gate.rs"]
    pub mod gate;
    #[path = "names.rs"]
    pub mod names;
    pub mod sync {
        pub use loom::sync::atomic::{AtomicU64, Ordering};
    }
}

use domain::gate::Gate;
use domain::names::Generation;
use loom::sync::Arc;
use loom::thread;

const OPEN: Generation = Generation(1);
const CLOSED: Generation = Generation(2);
const STOPPING: Generation = Generation(3);

fn open() -> Arc<Gate> {
    let gate = Gate::closed(Generation(0));
    gate.open(OPEN);
    Arc::new(gate)
}

#[test]
fn a_claim_and_a_freeze_never_both_succeed() {
    loom::model(|| {
        let gate = open();
        let claim = {
            let gate = gate.clone();
            thread::spawn(move || gate.try_claim(|| false).is_ok())
        };
        gate.close(CLOSED);
        let frozen = gate.freeze(STOPPING).is_ok();
        let claimed = claim.join().unwrap();
        assert!(!(frozen && claimed), "frozen under a request");
        assert_eq!(gate.word().active(), u64::from(claimed));
        assert_eq!(gate.word().is_stopping(), frozen);
    });
}

#[test]
fn two_claims_and_a_freeze_never_all_succeed_and_none_is_lost() {
    loom::model(|| {
        let gate = open();
        let claims: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || gate.try_claim(|| false).is_ok())
            })
            .collect();
        gate.close(CLOSED);
        let frozen = gate.freeze(STOPPING).is_ok();
        let claimed: u64 = claims.into_iter().map(|claim| u64::from(claim.join().unwrap())).sum();
        assert!(!(frozen && claimed > 0), "frozen under a request");
        assert_eq!(gate.word().active(), claimed);
    });
}

#[test]
fn a_freeze_succeeds_only_after_the_last_release() {
    loom::model(|| {
        let gate = open();
        gate.try_claim(|| false).unwrap();
        let release = {
            let gate = gate.clone();
            thread::spawn(move || {
                let word = gate.release();
                assert_eq!(word.active(), 0);
            })
        };
        gate.close(CLOSED);
        let left = gate.freeze(STOPPING).err();
        release.join().unwrap();
        assert!(left.is_none_or(|left| left.active == 1 && !left.open));
        assert_eq!(gate.word().active(), 0);
        assert_eq!(gate.freeze(STOPPING), Ok(()));
        assert!(gate.try_claim(|| false).is_err());
    });
}

#[test]
fn whoever_releases_last_at_a_closed_gate_learns_that_it_is_drained() {
    loom::model(|| {
        let gate = open();
        gate.try_claim(|| false).unwrap();
        let release = {
            let gate = gate.clone();
            thread::spawn(move || gate.release())
        };
        let closed = gate.close(CLOSED);
        let released = release.join().unwrap();
        let told_by_release = !released.is_open() && released.active() == 0;
        assert!(told_by_release || closed.active() == 0, "nobody learns that the gate is drained");
    });
}
