//! Owns what people ask of ripples: upgrade, restart, remove, abort, pause. From a request to a plan, or to the problem
//! with its cure. Must not know HTTP.

use std::time::Duration;

use super::control::{About, Control};
use super::records::{ReleaseRecord, RippleRecord};
use crate::domain::manifest::BATCH_MAX;
use crate::domain::names::{ProgramName, Release, Revision, RippleId, ServerName, Version};
use crate::domain::program::{Manifest, MinServing, OnDrainTimeout, UpgradeRule};
use crate::domain::ripple::Asked;
use crate::domain::ripple::plan::{self, Ask, NoPlan, Plan, Policy, RippleKind};
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
) -> Result<Planned, Problem> {
    match plan_upgrade(control, program, to, options) {
        Ok(plan) => Ok(Planned::Ripple(start(control, plan, options, asked_by))),
        Err(problem) if problem.code == Code::NothingToDo => Ok(Planned::NothingToDo(program.clone(), to.clone())),
        Err(problem) => Err(problem),
    }
}

/// Starts a ripple to the version that runs already.
pub fn restart(
    control: &mut Control,
    program: &ProgramName,
    options: &RippleOptions,
    asked_by: Option<String>,
) -> Result<RippleId, Problem> {
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

fn make(
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
    let hold = options.hold_ms.map_or(rule.hold, Duration::from_millis);
    let batch = options.batch.unwrap_or(rule.batch);
    if !(1..=BATCH_MAX).contains(&batch) {
        return Err(Problem::new(Code::BadRequest, format!("batch {batch} is out of range: 1 to {BATCH_MAX}"))
            .hint("1 is one server after the other"));
    }
    let force = options.force || rule.on_drain_timeout == OnDrainTimeout::Force;
    let policy = Policy {
        batch: batch as usize,
        min_serving: 0,
        drain_timeout: options.drain_timeout_ms.map_or(rule.drain_timeout, Duration::from_millis),
        on_drain_timeout: if force { OnDrainTimeout::Force } else { OnDrainTimeout::Abort },
        long_lived: rule.long_lived,
        soak: options.soak_ms.map_or(rule.soak, Duration::from_millis),
        unhealthy_limit: Duration::from_secs(60),
    };
    let min_serving = options.min_serving.map_or(rule.min_serving, MinServing::AtLeast);
    let ask =
        Ask { id, kind, program: program.clone(), to, servers, min_serving, holds: hold > Duration::ZERO, policy };
    plan::plan(ask, &control.leader.list).map_err(|no_plan| problem(no_plan, program))
}

fn leads(control: &Control) -> Result<(), Problem> {
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
            "add a server; or let routers hold requests meanwhile with `--hold 10s`; or allow fewer with `--min-serving N`",
        ),
    }
}

fn new_id() -> RippleId {
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
pub fn ask(control: &mut Control, id: &RippleId, asked: Asked) -> Result<(), Problem> {
    leads(control)?;
    let record = control.ripples.get(id).ok_or_else(|| unknown(id))?;
    if record.ripple.is_none() && record.receipt.is_none() {
        let plan = record.plan.clone();
        control.leader.start(plan);
    }
    if control.leader.ask(id, asked) {
        return Ok(());
    }
    Err(Problem::new(Code::RippleEnded, format!("ripple {id} has ended"))
        .hint(format!("`neap ripple show {id}` tells how")))
}

/// There is no such ripple.
pub fn unknown(id: &RippleId) -> Problem {
    Problem::new(Code::UnknownRipple, format!("there is no ripple {id}")).hint("`neap ripple ls` shows what there is")
}

/// The plan's name for `--plan`: it changes when the cluster does.
pub fn plan_id(plan: &Plan, revision: Revision) -> String {
    format!("{}-{revision}", plan.id)
}
