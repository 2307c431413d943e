//! Owns the walk over a model's reachable graph: breadth first for what must never be, and backwards from the goals
//! for what must always stay possible (invariant L, which `eventually` is not). Must not know what is modelled.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use stateright::{Expectation, Model};

/// What a walk found.
pub struct Walk {
    pub states: usize,
    pub edges: usize,
    pub took: Duration,
    /// The graph is larger than the limit: nothing is proven.
    pub cut_short: bool,
    /// The name of the property that does not hold, and the shortest way there.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// The shortest way to a state from which no goal can be reached.
    pub stuck: Option<Vec<String>>,
}

impl Walk {
    /// Fails with the way to whatever is wrong.
    pub fn assert_sound(&self, name: &str) {
        println!("{name}: {} states, {} edges, {:.1} s", self.states, self.edges, self.took.as_secs_f64());
        if let Some((property, way)) = &self.broken {
            panic!("{name}: {property}\n{}", way.join("\n"));
        }
        if let Some(way) = &self.stuck {
            panic!("{name}: stuck\n{}", way.join("\n"));
        }
        assert!(!self.cut_short, "{name}: more than {} states", self.states);
    }
}

struct Graph {
    known: HashMap<u64, u32>,
    /// From where, and by which of the actions there, a state was first reached.
    parents: Vec<(u32, u16)>,
    edges: Vec<(u32, u32)>,
    goals: Vec<u32>,
}

/// Walks the whole graph, up to `limit` states; stops at the first property broken.
pub fn walk<M: Model>(model: &M, goal: impl Fn(&M::State) -> bool, limit: usize) -> Walk
where
    M::State: Clone + Hash,
    M::Action: Debug,
{
    let begun = Instant::now();
    let mut graph = Graph { known: HashMap::new(), parents: Vec::new(), edges: Vec::new(), goals: Vec::new() };
    let (broken, cut_short) = forwards(model, &goal, limit, &mut graph);
    let stuck = if broken.is_none() && !cut_short { backwards(&graph) } else { None };
    Walk {
        states: graph.parents.len(),
        edges: graph.edges.len(),
        took: begun.elapsed(),
        cut_short,
        broken: broken.map(|(name, at)| (name, way(model, &graph, at))),
        stuck: stuck.map(|at| way(model, &graph, at)),
    }
}

fn forwards<M: Model>(
    model: &M,
    goal: &impl Fn(&M::State) -> bool,
    limit: usize,
    graph: &mut Graph,
) -> (Option<(&'static str, u32)>, bool)
where
    M::State: Clone + Hash,
{
    let properties = model.properties();
    let mut queue = VecDeque::new();
    for state in model.init_states() {
        graph.meet(&state, (u32::MAX, 0));
        queue.push_back((graph.parents.len() as u32 - 1, state));
    }
    let mut actions = Vec::new();
    while let Some((at, state)) = queue.pop_front() {
        for property in properties.iter().filter(|property| property.expectation == Expectation::Always) {
            if !(property.condition)(model, &state) {
                return (Some((property.name, at)), false);
            }
        }
        if goal(&state) {
            graph.goals.push(at);
        }
        if graph.parents.len() > limit {
            return (None, true);
        }
        actions.clear();
        model.actions(&state, &mut actions);
        for (index, action) in actions.drain(..).enumerate() {
            let Some(next) = model.next_state(&state, action) else { continue };
            let (to, new) = graph.meet(&next, (at, index as u16));
            graph.edges.push((at, to));
            if new {
                queue.push_back((to, next));
            }
        }
    }
    (None, false)
}

impl Graph {
    fn meet<S: Hash>(&mut self, state: &S, parent: (u32, u16)) -> (u32, bool) {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let next = self.parents.len() as u32;
        match self.known.entry(hasher.finish()) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(unknown) => {
                unknown.insert(next);
                self.parents.push(parent);
                (next, true)
            }
        }
    }
}

/// The first state that no goal can be reached from.
fn backwards(graph: &Graph) -> Option<u32> {
    let count = graph.parents.len();
    let mut starts = vec![0u32; count + 1];
    graph.edges.iter().for_each(|&(_, to)| starts[to as usize + 1] += 1);
    (0..count).for_each(|index| starts[index + 1] += starts[index]);
    let (mut froms, mut filled) = (vec![0u32; graph.edges.len()], starts.clone());
    for &(from, to) in &graph.edges {
        froms[filled[to as usize] as usize] = from;
        filled[to as usize] += 1;
    }
    let mut reaches = vec![false; count];
    let mut stack = graph.goals.clone();
    while let Some(at) = stack.pop() {
        if !std::mem::replace(&mut reaches[at as usize], true) {
            stack.extend(&froms[starts[at as usize] as usize..starts[at as usize + 1] as usize]);
        }
    }
    reaches.iter().position(|reaches| !reaches).map(|at| at as u32)
}

/// The shortest way to a state, told step by step.
fn way<M: Model>(model: &M, graph: &Graph, mut at: u32) -> Vec<String>
where
    M::State: Clone,
    M::Action: Debug,
{
    let mut choices = Vec::new();
    while graph.parents[at as usize].0 != u32::MAX {
        let (from, choice) = graph.parents[at as usize];
        choices.push(choice);
        at = from;
    }
    let mut state = model.init_states().into_iter().nth(at as usize).expect("a first state");
    let mut told = Vec::new();
    for choice in choices.into_iter().rev() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let action = actions.swap_remove(choice as usize);
        told.push(model.format_action(&action));
        state = model.next_state(&state, action).expect("an action that was taken before");
    }
    told
}
