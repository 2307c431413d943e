//! Owns what people ask of sets: to upgrade a component on all servers whose programs use it. From a request to a plan,
//! or to the problem with its cure. Must not know HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::Digest;

use super::asks::{self, as_shown, leads, new_id, note_asked};
use super::component_views;
use super::control::{About, Control};
use super::records::{RippleRecord, SetRecord};
use crate::domain::components::Kind;
use crate::domain::manifest::BATCH_MAX;
use crate::domain::names::{ProgramName, RippleId, ServerName, Sha256, Version};
use crate::domain::placement::Work;
use crate::domain::program::{Scope, Strategy};
use crate::domain::ripple::plan::{Plan, PlannedStep, Policy, RippleKind};
use crate::domain::ripple::set::{Set, SetPlan, Subject};
use crate::domain::ripple::undo::NoUndo;
use crate::domain::ripple::{Asked, Ripple};
use crate::wire::api::{self, ComponentUpgradeRequest};
use crate::wire::problem::{Code, Problem};

/// How long a component's command may take, where nobody says.
const WITHIN: Duration = Duration::from_secs(15 * 60);
/// Words of a command, and characters of all of them.
const WORDS_MAX: usize = 1_000;
const CHARS_MAX: usize = 64 * 1024;

/// A set that is planned, with the ripples that are its parts.
pub struct PlannedSet {
    pub set: SetPlan,
    pub parts: Vec<Plan>,
    pub hold_ms: Option<u64>,
}

/// Plans the upgrade of a component; nothing is changed.
pub fn plan(control: &Control, word: &str, request: &ComponentUpgradeRequest) -> Result<PlannedSet, Problem> {
    leads(control)?;
    let view = component_views::component(&control.components, word)?;
    if view.kind == Kind::Node {
        return Err(Problem::new(Code::BadRequest, "neap itself is upgraded by its binary, not by a command")
            .hint("`neap upgrade --component neap --binary FILE` upgrades all nodes: docs/self-upgrade.md"));
    }
    let within = request.within_ms.map_or(WITHIN, Duration::from_millis);
    let work = Work { run: command(&request.run, "run")?, within };
    let undo_run = request.undo_run.as_ref().map(|words| command(words, "undo_run")).transpose()?;
    let batch = request.options.batch.unwrap_or(1);
    if !(1..=BATCH_MAX).contains(&batch) {
        return Err(Problem::new(Code::BadRequest, format!("batch {batch} is out of range: 1 to {BATCH_MAX}"))
            .hint("1 is one server after the other"));
    }
    let users = users(control, &view);
    if users.is_empty() {
        return Err(Problem::new(Code::NothingToDo, format!("no program that runs uses {}", view.name)).hint(
            "run the command on each server yourself: no gate has to close for it; `neap component scan` looks again",
        ));
    }
    let id = new_id();
    let mut parts = Vec::new();
    for (number, (program, servers)) in users.into_iter().enumerate() {
        parts.push(part(control, &id, number, &program, servers, request)?);
    }
    let mut servers: Vec<ServerName> =
        parts.iter().flat_map(|part| part.steps.iter().map(|step| step.server.clone())).collect();
    servers.sort();
    servers.dedup();
    let canary = request.options.canary.unwrap_or(0) as usize;
    let set = SetPlan {
        id,
        subject: Subject::Component { name: view.name, undo_work: undo_run.map(|run| Work { run, within }), work },
        batch: (batch as usize).clamp(1, servers.len()),
        // Nobody would be left to be promoted to.
        canary: if canary >= servers.len() { 0 } else { canary },
        promote: request.options.promote.unwrap_or_default(),
        servers,
        parts: parts.iter().map(|part| part.id.clone()).collect(),
        undoes: None,
    };
    Ok(PlannedSet { set, parts, hold_ms: request.options.hold_ms })
}

fn command(words: &[String], what: &str) -> Result<Vec<String>, Problem> {
    let chars: usize = words.iter().map(String::len).sum();
    let bad = |why: &str| {
        Problem::new(Code::BadRequest, format!("{what}: {why}"))
            .hint("a command is its words, such as [\"apt-get\", \"install\", \"-y\", \"libssl3\"]; no shell reads it")
    };
    match words.first() {
        None => Err(bad("there is no command")),
        Some(first) if first.is_empty() => Err(bad("the command's first word is empty")),
        Some(_) if words.len() > WORDS_MAX || chars > CHARS_MAX => Err(bad("the command is too long")),
        Some(_) if words.iter().any(|word| word.contains('\0')) => Err(bad("a word holds a zero byte")),
        Some(_) => Ok(words.to_vec()),
    }
}

/// Who would be quiesced, where: of what is placed, and runs, now.
fn users(control: &Control, view: &api::ComponentView) -> BTreeMap<ProgramName, Vec<ServerName>> {
    let mut users = BTreeMap::<ProgramName, Vec<ServerName>>::new();
    for one in view.uses.iter().filter(|one| one.quiesced) {
        let placed = control
            .leader
            .list
            .programs
            .get(&one.program)
            .is_some_and(|wanted| wanted.release.is_some() && wanted.servers.contains(&one.server));
        let seen = control.leader.list.observed(&one.program, &one.server);
        if placed && seen.is_none_or(|seen| seen.release.is_some()) {
            users.entry(one.program.clone()).or_default().push(one.server.clone());
        }
    }
    users
}

fn part(
    control: &Control,
    set: &RippleId,
    number: usize,
    program: &ProgramName,
    servers: Vec<ServerName>,
    request: &ComponentUpgradeRequest,
) -> Result<Plan, Problem> {
    let wanted = control.leader.list.programs.get(program).and_then(|wanted| wanted.release.clone());
    let rule = control.manifest(program).map(|manifest| manifest.upgrade.clone());
    let (Some(release), Some(rule)) = (wanted, rule) else {
        return Err(Problem::new(Code::UnknownProgram, format!("there is no program named {program}")));
    };
    // Whoever is to be restarted is restarted in what it runs, also where that is not yet what is wanted of all.
    let (canary, batch, strategy) = (Some(0), request.options.batch.or(Some(1)), Some(Strategy::Quiesce));
    let options = api::RippleOptions { canary, batch, strategy, ..request.options.clone() };
    let plan = asks::make(control, RippleKind::Restart, program, Some(release), servers, &rule, &options)?;
    as_part(plan, set, number)
}

/// A plan's id for `--plan`: another as soon as what it would do, or what it would do it to, is another.
pub fn plan_id(control: &Control, planned: &PlannedSet) -> String {
    let parts: Vec<String> = planned.parts.iter().map(|part| asks::plan_id(control, part)).collect();
    let SetPlan { subject, servers, batch, canary, promote, .. } = &planned.set;
    let whole = (subject, servers, batch, canary, promote, parts);
    let digest = Sha256(sha2::Sha256::digest(serde_json::to_vec(&whole).unwrap_or_default()).into()).to_string();
    format!("plan-{}", &digest[..16])
}

/// Starts the upgrade of a component.
pub fn start(
    control: &mut Control,
    word: &str,
    request: &ComponentUpgradeRequest,
    asked_by: Option<String>,
) -> Result<RippleId, Problem> {
    let planned = plan(control, word, request)?;
    as_shown(request.plan.as_deref(), &plan_id(control, &planned))?;
    Ok(begin(control, planned, asked_by))
}

/// Plans an upgrade that takes all programs of a server out of service at once; `None`: that is not asked for, or there is
/// nothing beside it to take out.
pub fn plan_server(
    control: &Control,
    program: &ProgramName,
    to: &Version,
    options: &api::RippleOptions,
) -> Result<Option<PlannedSet>, Problem> {
    if options.scope != Scope::Server {
        return Ok(None);
    }
    // What leaves service as a whole has nothing beside it to be started.
    let options = &api::RippleOptions { strategy: Some(Strategy::Quiesce), ..options.clone() };
    let main = asks::plan_upgrade(control, program, to, options)?;
    if main.kind != RippleKind::Upgrade {
        return Ok(None);
    }
    if !main.policy.hooks.is_empty() {
        return Err(Problem::new(
            Code::BadRequest,
            format!("{program} has hooks, which run with the scope of a program only"),
        )
        .hint("leave --scope out"));
    }
    let id = new_id();
    let mut parts = vec![as_part(main, &id, 0)?];
    let others = control.leader.list.programs.iter().filter(|(name, _)| *name != program);
    for (name, wanted) in others {
        let here = |step: &PlannedStep| {
            let seen = control.leader.list.observed(name, &step.server);
            seen.is_some_and(|seen| seen.release.is_some()).then(|| step.server.clone())
        };
        let servers: Vec<ServerName> = parts[0].steps.iter().filter_map(here).collect();
        let rule = control.manifest(name).map(|manifest| manifest.upgrade.clone());
        let (Some(release), Some(rule), false) = (wanted.release.clone(), rule, servers.is_empty()) else { continue };
        let options = api::RippleOptions { canary: Some(0), min_serving: None, ..options.clone() };
        let plan = asks::make(control, RippleKind::Aside, name, Some(release), servers, &rule, &options)?;
        parts.push(as_part(plan, &id, parts.len())?);
    }
    let main = &parts[0];
    let set = SetPlan {
        id,
        subject: Subject::Server { program: program.clone() },
        servers: main.steps.iter().map(|step| step.server.clone()).collect(),
        batch: main.policy.batch,
        canary: main.policy.canary,
        promote: main.policy.promote,
        parts: parts.iter().map(|part| part.id.clone()).collect(),
        undoes: None,
    };
    Ok(Some(PlannedSet { set, parts, hold_ms: options.hold_ms }))
}

/// Starts an upgrade that takes all programs of a server out of service at once; `None`: it is to be one of the program
/// alone, or there is nothing to do, which is said in the words of that.
pub(super) fn upgrade_server(
    control: &mut Control,
    program: &ProgramName,
    to: &Version,
    options: &api::RippleOptions,
    asked_by: &Option<String>,
    shown: Option<&str>,
) -> Result<Option<RippleId>, Problem> {
    match plan_server(control, program, to, options) {
        Ok(Some(planned)) => {
            as_shown(shown, &plan_id(control, &planned))?;
            Ok(Some(begin(control, planned, asked_by.clone())))
        }
        Err(problem) if problem.code != Code::NothingToDo => Err(problem),
        Ok(None) | Err(_) => Ok(None),
    }
}

pub(super) fn as_part(plan: Plan, set: &RippleId, number: usize) -> Result<Plan, Problem> {
    let id = RippleId::new(format!("{set}-{}", number + 1));
    let id = id.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    // A program's hooks go with upgrades of the program alone.
    let policy = Policy { hooks: Vec::new(), ..plan.policy };
    Ok(Plan { id, set: Some(set.clone()), policy, ..plan })
}

/// Starts what was planned.
pub(super) fn begin(control: &mut Control, planned: PlannedSet, asked_by: Option<String>) -> RippleId {
    let PlannedSet { set, parts, hold_ms } = planned;
    let id = set.id.clone();
    let programs: Vec<&str> = parts.iter().map(|part| part.program.as_str()).collect();
    let message = format!("ripple {id} upgrades {}: {} leave service", subject(&set.subject), programs.join(", "));
    control.event("ripple_started", message, About { ripple: Some(&id), ..About::default() });
    for part in parts {
        let record = RippleRecord::planned(part, asked_by.clone(), hold_ms);
        control.ripples.insert(record.plan.id.clone(), record);
    }
    let mut record = SetRecord::new(Set::new(set.clone()), asked_by);
    record.evidence = evidence(control, &set);
    control.sets.insert(id.clone(), record);
    control.leader.start_set(set);
    id
}

/// What a set is about, as people read it.
pub fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Component { name, .. } => name.to_string(),
        Subject::Server { program } => format!("{program}, server by server as a whole"),
    }
}

/// Why each program is in it, as it was known when it was planned.
pub fn evidence(control: &Control, set: &SetPlan) -> BTreeMap<ProgramName, String> {
    let Subject::Component { name, .. } = &set.subject else { return BTreeMap::new() };
    let uses = control.components.of(name);
    let certain = uses.iter().filter_map(|one| {
        let evidence = one.edge.evidence.iter().find(|evidence| !evidence.can_load)?;
        Some((one.usage.program.clone(), format!("{} → {evidence}", one.usage.program)))
    });
    certain.collect()
}

/// The set that is meant by an id, its own or a part's.
pub fn set_of(control: &Control, id: &RippleId) -> Option<RippleId> {
    if control.sets.contains_key(id) {
        return Some(id.clone());
    }
    control.ripples.get(id)?.plan.set.clone()
}

/// Asks a set to abort, pause or go on.
pub fn ask(control: &mut Control, id: &RippleId, asked: Asked, asked_by: Option<&str>) -> Result<(), Problem> {
    leads(control)?;
    if !control.leader.ask_set(id, asked) {
        return Err(asks::ended(id));
    }
    note(control, id, asks::asked_word(asked), asked_by);
    Ok(())
}

/// Lets a set go on after its canaries.
pub fn promote(control: &mut Control, id: &RippleId, asked_by: Option<&str>) -> Result<(), Problem> {
    leads(control)?;
    if control.sets.get(id).is_some_and(|record| record.set.plan.canary == 0) {
        return Err(Problem::new(Code::NothingToPromote, format!("ripple {id} has no canaries"))
            .hint("`--canary N` upgrades N servers first and then waits"));
    }
    if !control.leader.promote_set(id) {
        return Err(asks::ended(id));
    }
    note(control, id, "promoted", asked_by);
    Ok(())
}

/// Starts the way back from a set. `None`: it had changed nothing, and is aborted, or is over.
pub fn undo(control: &mut Control, id: &RippleId, asked_by: Option<String>) -> Result<Option<RippleId>, Problem> {
    leads(control)?;
    let record = control.sets.get(id).ok_or_else(|| asks::unknown(id))?;
    let set = control.leader.sets.get(id).unwrap_or(&record.set).clone();
    let parts: Vec<Ripple> = set
        .plan
        .parts
        .iter()
        .filter_map(|part| {
            let kept = control.ripples.get(part).and_then(|record| record.ripple.as_ref());
            control.leader.ripples.get(part).or(kept).cloned()
        })
        .collect();
    if let (Subject::Server { .. }, Some(main)) = (&set.plan.subject, parts.first()) {
        return undo_main(control, &set, main, asked_by);
    }
    let undo = new_id();
    match control.leader.undo_set(undo.clone(), &set, &parts.iter().collect::<Vec<_>>()) {
        Ok(plans) => {
            note(control, id, &format!("undone by ripple {undo}, asked for"), asked_by.as_deref());
            keep_undo(control, &undo, &plans, asked_by);
            Ok(Some(undo))
        }
        Err(NoUndo::Nothing) => Ok(None),
        Err(why @ NoUndo::Busy { .. }) => Err(Problem::new(Code::Busy, format!("ripple {id} cannot be undone: {why}"))
            .hint("`neap ripple ls` shows what is under way")),
        Err(NoUndo::NoCommand) => {
            Err(Problem::new(Code::CannotUndo, format!("ripple {id} was given no command that takes it back")).hint(
                format!("`neap upgrade --component {} --run CMD` with a command that does", subject(&set.plan.subject)),
            ))
        }
        Err(why) => Err(Problem::new(Code::CannotUndo, format!("ripple {id} cannot be undone: {why}"))),
    }
}

/// The program that was upgraded goes back; the others have nothing to go back to.
fn undo_main(
    control: &mut Control,
    set: &Set,
    main: &Ripple,
    asked_by: Option<String>,
) -> Result<Option<RippleId>, Problem> {
    let running = !set.state.is_over();
    let plan = match control.leader.undo(new_id(), main) {
        Ok(plan) => Some(plan),
        Err(NoUndo::Nothing) => None,
        Err(why) => return Err(asks::no_undo(why, &main.plan)),
    };
    if running {
        control.leader.ask_set(&set.plan.id, Asked::Abort);
    }
    let Some(plan) = plan else { return Ok(None) };
    let undo = plan.id.clone();
    note(control, &set.plan.id, &format!("undone by ripple {undo}, asked for"), asked_by.as_deref());
    let hold_ms = control.ripples.get(&main.plan.id).and_then(|record| record.hold_ms);
    let mut record = RippleRecord::planned(plan, asked_by, hold_ms);
    record.ripple = control.leader.ripples.get(&undo).cloned();
    control.ripples.insert(undo.clone(), record);
    Ok(Some(undo))
}

/// Records of an undo that the leadership has started.
pub fn keep_undo(control: &mut Control, id: &RippleId, plans: &[Plan], asked_by: Option<String>) {
    let Some(set) = control.leader.sets.get(id).cloned() else { return };
    let what = subject(&set.plan.subject);
    let undone = set.plan.undoes.clone();
    let message = match &undone {
        Some(undone) => format!("ripple {id} takes {what} back to what it was before ripple {undone}"),
        None => format!("ripple {id} upgrades {what}"),
    };
    control.event("ripple_started", message, About { ripple: Some(id), ..About::default() });
    for plan in plans {
        let hold_ms = plan.undoes.as_ref().and_then(|part| control.ripples.get(part)).and_then(|record| record.hold_ms);
        let mut record = RippleRecord::planned(plan.clone(), asked_by.clone(), hold_ms);
        record.ripple = control.leader.ripples.get(&plan.id).cloned();
        control.ripples.insert(plan.id.clone(), record);
    }
    let mut record = SetRecord::new(set.clone(), asked_by);
    record.evidence = evidence(control, &set.plan);
    control.sets.insert(id.clone(), record);
}

/// Keeps who has asked a set for what, at each of its parts.
fn note(control: &mut Control, id: &RippleId, what: &str, asked_by: Option<&str>) {
    let parts = control.sets.get(id).map(|record| record.set.plan.parts.clone()).unwrap_or_default();
    for part in parts {
        note_asked(control, &part, what, asked_by);
    }
}
