//! Owns what people ask of ripples: upgrade, restart, remove, abort, pause. From a request to a plan, or to the problem
//! with its cure. Must not know HTTP.

use std::time::Duration;

use sha2::Digest;

use super::control::{About, Control};
use super::overlaps::may_overlap;
use super::records::{ReleaseRecord, RippleRecord};
use super::set_asks;
use crate::domain::manifest::BATCH_MAX;
use crate::domain::names::{ProgramName, Release, RippleId, ServerName, Sha256, Version};
use crate::domain::program::{Manifest, MinServing, OnDrainTimeout, Scope, UpgradeRule};
use crate::domain::ripple::plan::{self, Ask, NoPlan, Plan, Policy, RippleKind};
use crate::domain::ripple::undo::NoUndo;
use crate::domain::ripple::{Asked, Ripple};
use crate::domain::routing::RouteTable;
use crate::domain::server_list::Wanted;
use crate::wire::api::RippleOptions;
use crate::wire::problem::{Code, Problem};

/// What came of a request for a ripple.
pub enum Planned {
    Ripple(RippleId),
    NothingToDo(ProgramName, Version),
}

/// Plans an upgrade; nothing is changed.
pub fn plan_upgrade(
    control: &Control,
    program: &ProgramName,
    to: &Version,
    options: &RippleOptions,
) -> Result<Plan, Problem> {
    let record = release(control, program, to)?;
    let (servers, rule) = (control.servers_for(&record.manifest), &record.manifest.upgrade);
    let plan = make(control, RippleKind::Upgrade, program, Some(record.release.clone()), servers, rule, options)?;
    takes_no_ones_requests(control, &record.manifest)?;
    Ok(plan)
}

/// Refuses a rule that another program has, or is about to get: its requests would go elsewhere unsaid. What the program
/// has already it may keep.
fn takes_no_ones_requests(control: &Control, manifest: &Manifest) -> Result<(), Problem> {
    let under_way = control.ripples.values().filter(|record| record.receipt.is_none()).map(|record| &record.plan);
    let coming = under_way.filter_map(|plan| control.release(&plan.program, plan.to.as_ref()?));
    let present = control.leader.list.programs.keys().filter_map(|name| control.manifest(name));
    let mut others = present.chain(coming.map(|record| &record.manifest)).filter(|other| other.name != manifest.name);
    let own = control.manifest(&manifest.name);
    let taken = others.find_map(|other| {
        let rule = RouteTable::shared(manifest, other)?;
        let kept = own.and_then(|own| RouteTable::shared(own, other));
        (kept.as_ref() != Some(&rule)).then_some((rule, &other.name))
    });
    let Some((rule, other)) = taken else { return Ok(()) };
    Err(Problem::new(Code::RouteTaken, format!("{} {}: {other} has the {rule}", manifest.name, manifest.version))
        .hint(format!("give it another in its manifest, with another --version; or `neap program rm {other}` first")))
}

fn release<'a>(control: &'a Control, program: &ProgramName, version: &Version) -> Result<&'a ReleaseRecord, Problem> {
    let of_program = control.releases.get(program).filter(|releases| !releases.is_empty()).ok_or_else(|| {
        Problem::new(Code::UnknownProgram, format!("there is no release of a program named {program}"))
            .hint("`neap release ls` shows what there is; `neap deploy DIR` pushes a release and upgrades to it")
    })?;
    of_program.get(version).ok_or_else(|| {
        let known: Vec<&str> = of_program.keys().map(Version::as_str).collect();
        Problem::new(Code::UnknownVersion, format!("{program} has no version {version}"))
            .hint(format!("it has {}; `neap release push DIR` adds one", known.join(", ")))
    })
}

/// Starts an upgrade.
pub fn upgrade(
    control: &mut Control,
    program: &ProgramName,
    to: &Version,
    options: &RippleOptions,
    asked_by: Option<String>,
    shown: Option<&str>,
) -> Result<Planned, Problem> {
    if let Some(id) = set_asks::upgrade_server(control, program, to, options, &asked_by, shown)? {
        return Ok(Planned::Ripple(id));
    }
    match plan_upgrade(control, program, to, options) {
        Ok(plan) => {
            as_shown(shown, &plan_id(control, &plan))?;
            Ok(Planned::Ripple(start(control, plan, options, asked_by)))
        }
        Err(problem) if problem.code == Code::NothingToDo => {
            as_shown(shown, NO_PLAN)?;
            Ok(Planned::NothingToDo(program.clone(), to.clone()))
        }
        Err(problem) => Err(problem),
    }
}

/// The id of a plan in which there is nothing to do.
pub const NO_PLAN: &str = "none";

/// A ripple that starts from a plan which was shown fails if it would do something else by now.
pub(super) fn as_shown(shown: Option<&str>, now: &str) -> Result<(), Problem> {
    if shown.is_none_or(|shown| shown == now) {
        return Ok(());
    }
    Err(Problem::new(Code::PreconditionFailed, "the cluster has changed since the plan was made")
        .hint("look at the new plan: the same command with --plan"))
}

/// Starts a ripple to the version that runs already.
pub fn restart(
    control: &mut Control,
    program: &ProgramName,
    options: &RippleOptions,
    asked_by: Option<String>,
) -> Result<RippleId, Problem> {
    if options.scope == Scope::Server {
        return Err(Problem::new(Code::BadRequest, "a restart is of one program")
            .hint("`neap node drain` takes a whole server out of service"));
    }
    let wanted = wanted(control, program)?;
    let release = wanted.release.clone().ok_or_else(|| {
        Problem::new(Code::NoServer, format!("{program} runs nowhere yet")).hint("`neap upgrade` installs it")
    })?;
    let servers = wanted.servers.clone();
    let rule = self::release(control, program, &release.version)?.manifest.upgrade.clone();
    let plan = make(control, RippleKind::Restart, program, Some(release), servers, &rule, options)?;
    Ok(start(control, plan, options, asked_by))
}

/// Starts a ripple that quiesces, drains and takes the program away everywhere.
pub fn remove(control: &mut Control, program: &ProgramName, asked_by: Option<String>) -> Result<RippleId, Problem> {
    wanted(control, program)?;
    let servers: Vec<ServerName> =
        control.leader.list.cells.get(program).into_iter().flatten().map(|c| c.0.clone()).collect();
    // What was never installed well has no release that speaks for it.
    let newest = || control.releases.get(program)?.values().max_by_key(|record| record.pushed_at);
    let manifest = control.manifest(program).or_else(|| newest().map(|record| &record.manifest));
    let rule = manifest.map(|manifest| manifest.upgrade.clone());
    let rule = rule.ok_or_else(|| Problem::new(Code::UnknownProgram, format!("{program} was never deployed")))?;
    let options = RippleOptions::default();
    let plan = make(control, RippleKind::Remove, program, None, servers, &rule, &options)?;
    Ok(start(control, plan, &options, asked_by))
}

fn wanted<'a>(control: &'a Control, program: &ProgramName) -> Result<&'a Wanted, Problem> {
    control.leader.list.programs.get(program).ok_or_else(|| {
        Problem::new(Code::UnknownProgram, format!("there is no program named {program}"))
            .hint("`neap program ls` shows what there is")
    })
}

pub(super) fn make(
    control: &Control,
    kind: RippleKind,
    program: &ProgramName,
    to: Option<Release>,
    servers: Vec<ServerName>,
    rule: &UpgradeRule,
    options: &RippleOptions,
) -> Result<Plan, Problem> {
    leads(control)?;
    let (known, most) = (control.leader.list.programs.contains_key(program), control.bounds.programs);
    if !known && control.leader.list.programs.len() >= most {
        return Err(Problem::new(Code::TooManyRequests, format!("there are {most} programs already"))
            .hint("remove one with `neap program rm`, or raise management.limits.programs"));
    }
    let id = new_id();
    let planned = control.ripples.values().find(|record| record.plan.program == *program && record.ripple.is_none());
    let under_way = control.leader.under_way(program).map(|ripple| &ripple.plan.id);
    if let Some(under_way) = planned.map(|record| &record.plan.id).or(under_way) {
        return Err(problem(NoPlan::Busy { under_way: under_way.clone() }, program));
    }
    may_overlap(control, program, to.as_ref(), options.strategy.unwrap_or(rule.strategy))?;
    let hold = options.hold_ms.map_or(rule.hold, Duration::from_millis);
    let batch = options.batch.unwrap_or(rule.batch);
    if !(1..=BATCH_MAX).contains(&batch) {
        return Err(Problem::new(Code::BadRequest, format!("batch {batch} is out of range: 1 to {BATCH_MAX}"))
            .hint("1 is one server after the other"));
    }
    let force = options.force || rule.on_drain_timeout == OnDrainTimeout::Force;
    let policy = Policy {
        strategy: options.strategy.unwrap_or(rule.strategy),
        batch: batch as usize,
        canary: options.canary.unwrap_or(rule.canary) as usize,
        promote: options.promote.unwrap_or(rule.promote),
        rollback_on: Some(rule.rollback_on),
        hooks: Vec::new(),
        max_utilization_milli: rule.max_utilization_milli,
        capacity_wait: rule.capacity_wait,
        min_serving: 0,
        drain_timeout: options.drain_timeout_ms.map_or(rule.drain_timeout, Duration::from_millis),
        on_drain_timeout: if force { OnDrainTimeout::Force } else { OnDrainTimeout::Abort },
        long_lived: rule.long_lived,
        soak: options.soak_ms.map_or(rule.soak, Duration::from_millis),
        unhealthy_limit: Duration::from_secs(60),
    };
    let min_serving = options.min_serving.map_or(rule.min_serving, MinServing::AtLeast);
    let (holds, hooks) = (hold > Duration::ZERO, rule.hooks.clone());
    let ask = Ask { id, kind, program: program.clone(), to, servers, min_serving, holds, policy, hooks };
    plan::plan(ask, &control.leader.list).map_err(|no_plan| problem(no_plan, program))
}

pub(super) fn leads(control: &Control) -> Result<(), Problem> {
    match &control.leader.stepped_down {
        None => Ok(()),
        Some(term) => Err(Problem::new(Code::NotLeader, format!("management {} leads (term {term})", term.management))
            .hint("ask that one; or restart this one, which then takes over")),
    }
}

fn problem(no_plan: NoPlan, program: &ProgramName) -> Problem {
    let said = no_plan.to_string();
    match no_plan {
        NoPlan::Busy { under_way } => Problem::new(Code::Busy, format!("{program}: {said}"))
            .hint(format!("`neap ripple show {under_way} --watch` follows it; `neap ripple abort {under_way}` ends it")),
        NoPlan::NoServer => Problem::new(Code::NoServer, format!("{program}: no server fits its placement"))
            .hint("`neap node ls` shows the servers; [placement] of the manifest names those that it wants"),
        NoPlan::NothingToDo => Problem::new(Code::NothingToDo, format!("{program}: {said}")),
        NoPlan::MinServing { .. } => Problem::new(Code::MinServing, format!("{program}: {said}")).hint(
            "start the new version beside the old one with `--strategy overlap`; or let routers hold requests meanwhile \
             with `--hold 10s`; or add a server; or allow fewer with `--min-serving N`",
        ),
    }
}

pub(super) fn new_id() -> RippleId {
    let id = crate::link::identity::new_id().to_ascii_lowercase();
    RippleId::new(id).expect("a ULID is a ripple id")
}

fn start(control: &mut Control, plan: Plan, options: &RippleOptions, asked_by: Option<String>) -> RippleId {
    let id = plan.id.clone();
    let servers = plan.steps.iter().map(|step| step.server.clone()).collect();
    let wanted = Wanted { release: None, servers };
    control.leader.list.programs.entry(plan.program.clone()).or_insert(wanted);
    let to = plan.to.as_ref().map_or("nothing".to_owned(), |release| release.version.to_string());
    let message = format!("ripple {id} takes {} to {to}", plan.program);
    let about = About { program: Some(&plan.program), ripple: Some(&id), node: None };
    control.event("ripple_started", message, about);
    control.ripples.insert(id.clone(), RippleRecord::planned(plan, asked_by, options.hold_ms));
    id
}

/// Asks a ripple to abort, pause or go on.
pub fn ask(control: &mut Control, id: &RippleId, asked: Asked, asked_by: Option<String>) -> Result<(), Problem> {
    leads(control)?;
    if let Some(set) = set_asks::set_of(control, id) {
        return set_asks::ask(control, &set, asked, asked_by.as_deref());
    }
    control.ripples.get(id).ok_or_else(|| unknown(id))?;
    begin_now(control, id);
    if !control.leader.ask(id, asked) {
        return Err(ended(id));
    }
    note_asked(control, id, asked_word(asked), asked_by.as_deref());
    Ok(())
}

/// What was done to a ripple by asking.
pub(super) fn asked_word(asked: Asked) -> &'static str {
    match asked {
        Asked::Nothing => "resumed",
        Asked::Pause => "paused",
        Asked::Abort => "aborted",
    }
}

/// What came of asking for a ripple to be undone.
pub enum Undo {
    /// By this ripple; or, where it had changed nothing yet, it is aborted itself.
    Ripple(RippleId),
    Nothing(ProgramName, Option<Version>),
    /// Of a set.
    NothingOfSet(RippleId),
}

/// Starts the way back from a ripple.
pub fn undo(control: &mut Control, id: &RippleId, asked_by: Option<String>) -> Result<Undo, Problem> {
    leads(control)?;
    if let Some(set) = set_asks::set_of(control, id) {
        let undo = set_asks::undo(control, &set, asked_by)?;
        return Ok(undo.map_or(Undo::NothingOfSet(set), Undo::Ripple));
    }
    control.ripples.get(id).ok_or_else(|| unknown(id))?;
    begin_now(control, id);
    let record = control.ripples.get(id).ok_or_else(|| unknown(id))?;
    let undone = control.leader.ripples.get(id).or(record.ripple.as_ref()).cloned().ok_or_else(|| unknown(id))?;
    let (program, hold_ms) = (undone.plan.program.clone(), record.hold_ms);
    still_known(control, &undone)?;
    let plan = match control.leader.undo(new_id(), &undone) {
        Ok(plan) => plan,
        Err(NoUndo::Nothing) if undone.state.is_over() => {
            let was = undone.plan.was.or_else(|| undone.plan.steps.into_iter().find_map(|step| step.from));
            return Ok(Undo::Nothing(program, was.map(|release| release.version)));
        }
        Err(NoUndo::Nothing) => return Ok(Undo::Ripple(id.clone())),
        Err(why) => return Err(no_undo(why, &undone.plan)),
    };
    let message = format!("ripple {} takes {program} back to what it was before ripple {id}", plan.id);
    let about = About { program: Some(&program), ripple: Some(&plan.id), node: None };
    control.event("ripple_started", message, about);
    let undo = plan.id.clone();
    note_asked(control, id, &format!("undone by ripple {undo}, asked for"), asked_by.as_deref());
    let mut record = RippleRecord::planned(plan, asked_by, hold_ms);
    record.ripple = control.leader.ripples.get(&undo).cloned();
    control.ripples.insert(undo.clone(), record);
    Ok(Undo::Ripple(undo))
}

/// What a ripple goes back to has to be there still.
fn still_known(control: &Control, undone: &Ripple) -> Result<(), Problem> {
    let program = &undone.plan.program;
    let gone = |release: &&Release| control.release(program, release).is_none();
    match undone.plan.steps.iter().filter_map(|step| step.from.as_ref()).find(gone) {
        None => Ok(()),
        Some(release) => {
            let version = &release.version;
            Err(Problem::new(Code::UnknownRelease, format!("{program} {version} is not kept any more"))
                .hint("push it again with `neap release push DIR`, then upgrade to it"))
        }
    }
}

pub(super) fn no_undo(why: NoUndo, plan: &Plan) -> Problem {
    let (id, program) = (&plan.id, &plan.program);
    let said = format!("ripple {id} cannot be undone: {why}");
    match why {
        NoUndo::Busy { under_way } => problem(NoPlan::Busy { under_way }, program),
        NoUndo::Nothing => Problem::new(Code::NothingToDo, said),
        NoUndo::NoCommand => Problem::new(Code::CannotUndo, said),
        NoUndo::CatchUp => Problem::new(Code::CannotUndo, said)
            .hint(format!("`neap upgrade {program} --to VERSION` changes what is desired everywhere")),
        NoUndo::Superseded { .. } => Problem::new(Code::CannotUndo, said).hint(format!(
            "undo the later ripple first (`neap ripple ls {program}`); or `neap upgrade {program} --to VERSION`"
        )),
    }
}

/// Lets a ripple go on after its canaries.
pub fn promote(control: &mut Control, id: &RippleId, asked_by: Option<String>) -> Result<(), Problem> {
    leads(control)?;
    if let Some(set) = set_asks::set_of(control, id) {
        return set_asks::promote(control, &set, asked_by.as_deref());
    }
    let record = control.ripples.get(id).ok_or_else(|| unknown(id))?;
    if record.plan.policy.canary == 0 {
        return Err(Problem::new(Code::NothingToPromote, format!("ripple {id} has no canaries"))
            .hint("`--canary N`, or canary in [upgrade] of the manifest, upgrades N servers first and then waits"));
    }
    begin_now(control, id);
    if !control.leader.promote(id) {
        return Err(ended(id));
    }
    note_asked(control, id, "promoted", asked_by.as_deref());
    Ok(())
}

/// Keeps who has asked a ripple for what.
pub(super) fn note_asked(control: &mut Control, id: &RippleId, what: &str, asked_by: Option<&str>) {
    if let Some(record) = control.ripples.get_mut(id) {
        record.note(None, format!("{what} by {}", asked_by.unwrap_or("somebody")));
    }
}

/// A ripple whose ledgers are still being read begins at once.
pub(super) fn begin_now(control: &mut Control, id: &RippleId) {
    let record = control.ripples.get(id).filter(|record| record.ripple.is_none() && record.receipt.is_none());
    if let Some(plan) = record.map(|record| record.plan.clone()) {
        control.leader.start(plan);
    }
}

pub(super) fn ended(id: &RippleId) -> Problem {
    Problem::new(Code::RippleEnded, format!("ripple {id} has ended")).hint(format!("`neap ripple show {id}` tells how"))
}

/// There is no such ripple.
pub(super) fn unknown(id: &RippleId) -> Problem {
    Problem::new(Code::UnknownRipple, format!("there is no ripple {id}")).hint("`neap ripple ls` shows what there is")
}

/// A plan's id for `--plan`: that of what it would do, and of the placements that it would do it to. It is another as
/// soon as one of these is.
pub fn plan_id(control: &Control, plan: &Plan) -> String {
    let list = &control.leader.list;
    let placements = plan.steps.iter().map(|step| {
        let up = list.servers.get(&step.server).is_some_and(|server| server.up);
        let seen = list.observed(&plan.program, &step.server);
        (up, seen.map(|seen| (seen.state, seen.generation, seen.healthy, &seen.release)))
    });
    let placements: Vec<_> = placements.collect();
    let whole = (&plan.program, plan.kind, &plan.to, &plan.steps, &plan.policy, placements);
    let text = serde_json::to_vec(&whole).unwrap_or_default();
    let digest = Sha256(sha2::Sha256::digest(&text).into()).to_string();
    format!("plan-{}", &digest[..16])
}
