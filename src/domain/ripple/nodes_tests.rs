//! Node ripples, driven by what a small cluster would say.

use std::collections::BTreeMap;

use super::*;

const OLD: Sha256 = Sha256([1; 32]);
const NEW: Sha256 = Sha256([2; 32]);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn step(name: &str, kind: NodeKind) -> NodeStep {
    NodeStep { node: node(name), kind, from: Some(OLD), to: NEW, phase: NodePhase::Pending }
}

/// What the nodes are like, and a ripple over them.
struct World {
    ripple: NodeRipple,
    nodes: BTreeMap<NodeName, Seen>,
    minted: u32,
    done: Vec<Do>,
}

impl World {
    fn new() -> Self {
        let steps = vec![
            step("s1", NodeKind::Server),
            step("s2", NodeKind::Server),
            step("r1", NodeKind::Router),
            step("m", NodeKind::Management),
        ];
        let ripple = NodeRipple::new(RippleId::new("r").unwrap(), steps, None);
        let run = |name: &NodeName| RunId::new(format!("{name}.1")).ok();
        let seen =
            |name: &NodeName| Seen { up: true, run: run(name), runs: Some(OLD), serves: true, ..Seen::default() };
        let nodes = ripple.steps.iter().map(|step| (step.node.clone(), seen(&step.node))).collect();
        Self { ripple, nodes, minted: 0, done: Vec::new() }
    }

    fn at(&mut self, name: &str) -> &mut Seen {
        self.nodes.get_mut(name).unwrap()
    }

    /// Looks until nothing moves, as with a node that does what it is told but takes no binary.
    fn look(&mut self) {
        for _ in 0..20 {
            let minted = &mut self.minted;
            let mint = || {
                *minted += 1;
                OperationId::new(format!("o{minted}")).ok()
            };
            let before = self.ripple.clone();
            let acts = self.ripple.advance(|name| self.nodes[name].clone(), mint);
            for act in &acts {
                match act {
                    Do::Drain { node, .. } => {
                        let seen = self.nodes.get_mut(node).unwrap();
                        (seen.drained, seen.serves) = (true, false);
                    }
                    Do::Resume { node } => {
                        let seen = self.nodes.get_mut(node).unwrap();
                        (seen.drained, seen.serves) = (false, true);
                    }
                    Do::Take { .. } => {}
                }
            }
            let stands = acts.iter().all(|act| self.done.last() == Some(act)) && before.steps == self.ripple.steps;
            self.done.extend(acts);
            if stands {
                return;
            }
        }
        panic!("it never rests: {:?}", self.ripple);
    }

    /// The node comes up again, with this binary.
    fn comes_up(&mut self, name: &str, runs: Sha256) {
        let run = RunId::new(format!("{name}.2")).ok();
        let seen = self.at(name);
        (seen.up, seen.run, seen.runs, seen.told) = (true, run, Some(runs), None);
        self.look();
    }

    fn takes(&self) -> Vec<&str> {
        let mut taken: Vec<&str> = Vec::new();
        for act in &self.done {
            if let Do::Take { node, .. } = act
                && taken.last() != Some(&node.as_str())
            {
                taken.push(node.as_str());
            }
        }
        taken
    }
}

#[test]
fn servers_are_drained_one_after_the_other_then_routers_and_management_last() {
    let mut world = World::new();
    for name in ["s1", "s2", "r1", "m"] {
        world.look();
        let gates = name.starts_with('s');
        assert_eq!((world.at(name).drained, world.at(name).serves), (gates, !gates), "{name}");
        let others = world.nodes.iter().filter(|(other, seen)| other.as_str() != name && !seen.serves).count();
        assert_eq!(others, 0, "no other is out of service");
        assert_eq!(world.ripple.wait, Some((node(name), NodeReason::Answer)));
        world.at(name).up = false;
        world.look();
        let silent = if name == "m" { NodeReason::Settling } else { NodeReason::Silent };
        assert_eq!(world.ripple.wait, Some((node(name), silent)));
        world.comes_up(name, NEW);
        assert!(world.at(name).serves, "{name} serves again");
    }
    assert_eq!(world.takes(), ["s1", "s2", "r1", "m"]);
    assert_eq!((world.ripple.state, world.ripple.reason.clone()), (RippleState::Upgraded, None));
}

#[test]
fn a_node_that_fails_to_take_it_serves_again_and_nobody_else_is_touched() {
    let mut world = World::new();
    world.look();
    world.at("s1").told = Some(Told::Failed("it is no ELF file".to_owned()));
    world.look();
    assert_eq!(world.ripple.state, RippleState::Failed);
    assert_eq!(world.ripple.reason.as_deref(), Some("s1: it is no ELF file"));
    assert!(world.at("s1").serves);
    assert_eq!(world.takes(), ["s1"]);
    assert_eq!(world.ripple.undo(RippleId::new("u").unwrap()), None, "there is nothing to take back");
}

#[test]
fn a_node_that_was_started_again_with_what_it_had_is_a_failure_and_not_tried_again() {
    let mut world = World::new();
    world.look();
    world.comes_up("s1", OLD);
    assert_eq!(world.ripple.wait, Some((node("s1"), NodeReason::Answer)), "it is asked what became of it");
    world.at("s1").told = Some(Told::Unknown);
    world.look();
    assert_eq!(world.ripple.state, RippleState::Failed);
    assert!(world.ripple.reason.as_ref().unwrap().contains("started again"), "{:?}", world.ripple.reason);
    // One that does not know the operation in the run that was ordered has not heard of it yet.
    let mut world = World::new();
    world.look();
    world.at("s1").told = Some(Told::Unknown);
    world.look();
    assert_eq!(world.ripple.state, RippleState::Running);
}

#[test]
fn an_abort_opens_the_gates_that_were_closing_and_lets_a_binary_that_is_on_its_way_arrive() {
    let mut world = World::new();
    let seen = Seen { drained: false, ..world.at("s1").clone() };
    let acts = world.ripple.advance(|_| seen.clone(), || OperationId::new("o").ok());
    assert!(acts.is_empty());
    assert!(world.ripple.ask(Asked::Abort));
    world.look();
    assert_eq!(world.ripple.state, RippleState::Aborted);
    assert!(world.at("s1").serves && world.takes().is_empty());
    let mut world = World::new();
    world.look();
    assert!(world.ripple.ask(Asked::Abort) && !world.ripple.ask(Asked::Nothing));
    world.comes_up("s1", NEW);
    assert_eq!(world.ripple.state, RippleState::Aborted);
    assert!(world.at("s1").serves);
    assert_eq!(world.takes(), ["s1"], "nobody else begins");
}

#[test]
fn a_pause_lets_the_step_end_and_keeps_the_next_from_beginning() {
    let mut world = World::new();
    world.look();
    world.ripple.ask(Asked::Pause);
    world.comes_up("s1", NEW);
    assert_eq!(world.ripple.state, RippleState::Paused);
    assert!(world.at("s2").serves);
    world.ripple.ask(Asked::Nothing);
    world.look();
    assert_eq!(world.takes(), ["s1", "s2"]);
}

#[test]
fn one_that_a_person_has_drained_stays_drained() {
    let mut world = World::new();
    (world.at("s1").out_of_service, world.at("s1").drained, world.at("s1").serves) = (true, true, false);
    world.look();
    world.comes_up("s1", NEW);
    let resumed = world.done.iter().any(|act| matches!(act, Do::Resume { node } if node.as_str() == "s1"));
    assert!(!resumed && world.ripple.steps[0].phase == NodePhase::Done);
}

#[test]
fn the_way_back_is_the_last_first_with_management_at_the_end() {
    let mut world = World::new();
    for name in ["s1", "s2", "r1", "m"] {
        world.look();
        world.comes_up(name, NEW);
    }
    let back = world.ripple.undo(RippleId::new("u").unwrap()).unwrap();
    let order: Vec<&str> = back.steps.iter().map(|step| step.node.as_str()).collect();
    assert_eq!(order, ["r1", "s2", "s1", "m"]);
    assert!(back.steps.iter().all(|step| step.to == OLD && step.phase == NodePhase::Pending));
}

#[test]
fn one_that_has_it_already_is_done_and_one_that_is_down_is_waited_for() {
    let mut world = World::new();
    world.at("s1").runs = Some(NEW);
    world.at("s2").up = false;
    world.look();
    assert_eq!(world.ripple.wait, Some((node("s2"), NodeReason::Down)));
    assert!(world.takes().is_empty() && world.at("s1").serves);
}
