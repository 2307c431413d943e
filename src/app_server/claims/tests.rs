use super::*;

const G: Generation = Generation(7);

fn slot() -> Arc<Slot> {
    let slot = Arc::new(Slot::new(ProgramName::new("shop").unwrap(), Nudge::default()));
    slot.point(Arc::new(Admission::nobody(G)));
    slot
}

fn opened(generation: Generation) -> Arc<Admission> {
    let admission = Admission::nobody(generation);
    admission.gate.open(generation);
    Arc::new(admission)
}

#[test]
fn a_closed_gate_refuses_with_its_generation() {
    assert_eq!(slot().claim().unwrap_err(), Refused { generation: G });
}

#[test]
fn a_claim_is_counted_until_it_is_dropped() {
    let slot = slot();
    slot.admission().gate.open(G);
    let claim = slot.claim().unwrap();
    assert_eq!(slot.admission().active(), 1);
    drop(claim);
    assert_eq!(slot.admission().active(), 0);
}

#[test]
fn a_claim_follows_a_pointer_that_moved() {
    let slot = slot();
    let old = slot.point(opened(G.next()));
    assert!(!old.gate.word().is_open());
    let claim = slot.claim().unwrap();
    assert!(!claim.is_outdated());
    slot.point(opened(G.next()));
    assert!(claim.is_outdated());
}

#[test]
fn a_door_that_knows_an_older_pointer_admits_through_the_present_one_and_lets_go_of_the_older() {
    let slot = slot();
    let entry = Rc::new(Entry::to(slot.clone()));
    let first = opened(G);
    slot.point(first.clone());
    drop(entry.claim(|_| false).unwrap());
    let old = slot.point(opened(G.next()));
    // Not closed yet: it was still right to admit there.
    drop(entry.claim(|_| false).unwrap());
    old.gate.close(G.next());
    let claim = entry.claim(|_| false).unwrap();
    assert_eq!((claim.word().generation(), slot.admission().active(), first.active()), (G.next(), 1, 0));
    drop(old);
    assert_eq!(Arc::strong_count(&first), 1, "the entry holds it still");
    slot.admission().gate.close(G.next().next());
    assert_eq!(entry.claim(|_| false).unwrap_err(), Refused { generation: G.next().next() });
}

#[test]
fn idle_doors_are_refreshed_when_nudged() {
    let (nudge, shop) = (Nudge::default(), ProgramName::new("shop").unwrap());
    let claims = Arc::new(Claims::telling(nudge.clone()));
    let entries = Entries::new(claims.clone());
    assert!(entries.entry("shop").is_none());
    let slot = claims.open_slot(&shop);
    assert!(Rc::ptr_eq(&entries.entry("shop").unwrap(), &entries.entry("shop").unwrap()));
    let mut nudges = nudge.take();
    let first = opened(G);
    slot.point(first.clone());
    drop(entries.entry("shop").unwrap().claim(|_| false).unwrap());
    nudges.borrow_and_update();
    drop(slot.point(opened(G.next())));
    assert!(nudges.has_changed().unwrap() && Arc::strong_count(&first) == 2);
    entries.refresh();
    assert_eq!(Arc::strong_count(&first), 1);
}

#[test]
fn claims_at_a_retired_gate_keep_the_present_one_from_freezing() {
    let slot = slot();
    slot.point(opened(G));
    let claim = slot.claim().unwrap();
    let old = slot.point(Arc::new(Admission::nobody(G)));
    old.gate.close(G);
    let retired = [old];
    assert_eq!(freeze(&slot.admission(), &retired, G), Err(NotDrained { open: false, active: 1 }));
    drop(claim);
    assert_eq!(freeze(&slot.admission(), &retired, G.next()), Ok(()));
}

#[test]
fn a_slot_is_made_once() {
    let claims = Claims::default();
    let shop = ProgramName::new("shop").unwrap();
    assert!(claims.slot("shop").is_none());
    assert!(Arc::ptr_eq(&claims.open_slot(&shop), &claims.open_slot(&shop)));
    assert!(claims.slot("shop").is_some());
}

#[tokio::test]
async fn the_last_claim_of_a_closed_gate_is_noticed_even_before_anyone_waits() {
    let slot = slot();
    slot.admission().gate.open(G);
    let (first, last) = (slot.claim().unwrap(), slot.claim().unwrap());
    slot.admission().gate.close(G.next());
    drop(first);
    drop(last);
    tokio::time::timeout(Duration::from_secs(5), slot.emptied()).await.unwrap();
}

#[test]
fn of_many_threads_every_claim_is_either_counted_or_refused() {
    let slot = slot();
    slot.admission().gate.open(G);
    let claimed = std::thread::scope(|scope| {
        let claimers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).filter(|_| slot.claim().map(std::mem::forget).is_ok()).count()))
            .collect();
        slot.admission().gate.close(G.next());
        claimers.into_iter().map(|claimer| claimer.join().unwrap()).sum::<usize>()
    });
    assert_eq!(slot.admission().active(), claimed as u64);
}
