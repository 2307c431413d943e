//! Owns how a scenario is written: from the text of an event to what is done, and from what happens to text.
//! Must not know how anything is decided.

use std::time::Duration;

use neap::domain::duration;
use neap::domain::names::{Release, RippleId, ServerName, Version};
use neap::domain::placement::Order;
use neap::domain::program::{LongLived, MinServing, OnDrainTimeout, RollbackOn};
use neap::domain::ripple::machine::Send;
use neap::domain::ripple::plan::{Ask, NoPlan, Plan, Policy, RippleKind};
use neap::domain::ripple::set::{SetPlan, Subject};
use neap::domain::ripple::{Asked, Ripple, RippleState, StepPhase};

use super::driven::{Driven, Srv, program, release};
use super::sets::mail;

/// Plays a scenario's events; answers the scenario as it goes.
pub fn play(text: &str) -> String {
    let mut told = String::new();
    let mut teller = Teller::default();
    let mut driven: Option<Driven> = None;
    for line in text.lines() {
        let Some(event) = line.strip_prefix("> ") else {
            if !line.starts_with("  ") {
                told.push_str(line);
                told.push('\n');
            }
            continue;
        };
        told.push_str(line);
        told.push('\n');
        let mut lines = Vec::new();
        match driven.as_mut() {
            None => driven = Some(servers(event)),
            Some(driven) => lines.extend(happen(driven, event)),
        }
        let driven = driven.as_mut().unwrap();
        driven.settle();
        lines.extend(teller.news(driven));
        for line in lines {
            told.push_str(&format!("  {line}\n"));
        }
    }
    told
}

fn servers(event: &str) -> Driven {
    let words: Vec<&str> = event.split(' ').collect();
    let ["servers", names @ .., "run", version] = words.as_slice() else {
        panic!("not `servers … run …`: {event}")
    };
    Driven::new(names, Some(*version).filter(|version| *version != "nothing"))
}

/// Does what an event says; answers what it is told at once.
fn happen(driven: &mut Driven, event: &str) -> Vec<String> {
    let words: Vec<&str> = event.split(' ').collect();
    match words.as_slice() {
        ["upgrade", "to", version, options @ ..] => return upgrade(driven, version, options),
        ["mail", "runs", version] => driven.mail_runs(version),
        ["replace", component, options @ ..] => {
            let mut ask = asked(driven, None);
            options.iter().for_each(|option| set(&mut ask, option));
            return planned_set(driven.replace(component, ask));
        }
        ["commands", "take", "long"] => driven.commands.take_long = true,
        ["pause"] => return ask(driven, Asked::Pause),
        ["resume"] => return ask(driven, Asked::Nothing),
        ["abort"] => return ask(driven, Asked::Abort),
        ["undo"] => return undo(driven, &driven.id()),
        ["undo", id] => return undo(driven, &RippleId::new(*id).unwrap()),
        ["promote"] => {
            let id = driven.id();
            let promoted = driven.leader.promote(&id) || driven.leader.promote_set(&id);
            return if promoted {
                Vec::new()
            } else {
                vec!["refused: there are no canaries, or it has ended".to_owned()]
            };
        }
        ["after", time] => driven.pass(duration::parse(time).unwrap(), |_| {}),
        ["version", version, "answers", "in", time, "with", errors, "errors", "in", "100"] => {
            let micros = duration::parse(time).unwrap().as_micros() as u64;
            driven.behaves(version, micros, errors.parse().unwrap());
        }
        ["management", "restarts"] => driven.restart(),
        ["hook", hook, "succeeds"] => driven.hook_ends(hook, None, None),
        ["hook", hook, "fails:", why @ ..] => driven.hook_ends(hook, None, Some(&why.join(" "))),
        ["node", "drain", name, how @ ..] => return driven.drain(name, how == ["force"]),
        ["node", "resume", name] => {
            let name = ServerName::new(*name).unwrap();
            return if driven.leader.resume(&name) { Vec::new() } else { vec!["it is not drained".to_owned()] };
        }
        ["undo", "catching", "up"] => {
            let caught_up = |ripple: &&Ripple| ripple.plan.kind == RippleKind::CatchUp;
            let id = driven.leader.ripples.values().find(caught_up).expect("something is caught up").plan.id.clone();
            return undo(driven, &id);
        }
        ["releases", "wait"] => driven.prepared = false,
        ["releases", "are", "prepared"] => driven.prepared = true,
        ["everyone", "obeys"] => driven.everyone_obeys(),
        [name, does @ ..] => {
            let name = ServerName::new(*name).unwrap_or_else(|_| panic!("what is {event}?"));
            assert!(driven.servers.contains_key(&name), "there is no server {name}: {event}");
            on_server(driven, &name, does, event);
        }
        [] => panic!("an empty event"),
    }
    Vec::new()
}

fn on_server(driven: &mut Driven, name: &ServerName, does: &[&str], event: &str) {
    match does {
        ["hook", hook, "succeeds"] => return driven.hook_ends(hook, Some(name), None),
        ["hook", hook, "fails:", why @ ..] => return driven.hook_ends(hook, Some(name), Some(&why.join(" "))),
        ["command", "ends"] => return driven.command_ends(name, None),
        ["command", "fails:", why @ ..] => return driven.command_ends(name, Some(why.join(" "))),
        ["loses", "its", "lease"] => return driven.lease_runs_out(name, &program()),
        ["mail", "loses", "its", "lease"] => return driven.lease_runs_out(name, &mail()),
        ["mail", "has", count, "active"] => {
            driven.cell_mut(name, &mail()).active = count.parse().unwrap();
            return;
        }
        ["mail", "is", "unhealthy"] => {
            driven.cell_mut(name, &mail()).healthy = false;
            return;
        }
        ["mail", "is", "healthy"] => {
            driven.cell_mut(name, &mail()).healthy = true;
            return;
        }
        _ => {}
    }
    let server = driven.servers.get_mut(name).unwrap();
    match does {
        ["obeys"] => driven.obeys(name),
        ["has", count, "active"] => server.active = count.parse().unwrap(),
        ["uses", own, "and", "mail", other, "of", cores, "cores"] => {
            server.uses = (milli(own), milli(other));
            server.cores = cores.parse().unwrap();
        }
        ["answers", count, "a", "second"] => server.rate = count.parse().unwrap(),
        ["is", "healthy"] => server.healthy = true,
        ["is", "unhealthy"] => server.healthy = false,
        ["is", "restarted"] => server.restarts += 1,
        ["is", "silent"] => server.silent = true,
        ["is", "heard"] => server.silent = false,
        ["crashes"] => driven.crash(name),
        ["boots"] => driven.boot(name),
        ["comes", "up"] => driven.comes_up(name),
        ["is", "slow", "to", "start", version] => {
            server.slow.insert(Version::new(*version).unwrap());
        }
        ["fails", "to", "start", version, why @ ..] => {
            let version = Version::new(version.trim_end_matches(':')).unwrap();
            server.fails.insert(version, why.join(" "));
        }
        _ => panic!("what is {event}?"),
    }
}

fn milli(cores: &str) -> u32 {
    (cores.parse::<f64>().unwrap() * 1_000.0) as u32
}

fn ask(driven: &mut Driven, asked: Asked) -> Vec<String> {
    if driven.ask(asked) { Vec::new() } else { vec!["refused: the ripple has ended".to_owned()] }
}

/// What somebody asks for who says nothing more.
pub fn asked(driven: &Driven, to: Option<Release>) -> Ask {
    Ask {
        id: driven.next_id(),
        kind: RippleKind::Upgrade,
        program: program(),
        to,
        servers: driven.servers.keys().cloned().collect(),
        min_serving: MinServing::Auto,
        holds: false,
        hooks: Default::default(),
        policy: Policy {
            strategy: Default::default(),
            batch: 1,
            canary: 0,
            promote: Default::default(),
            rollback_on: None,
            hooks: Vec::new(),
            max_utilization_milli: 800,
            capacity_wait: Duration::from_secs(600),
            min_serving: 0,
            drain_timeout: Duration::from_secs(30),
            on_drain_timeout: OnDrainTimeout::Abort,
            long_lived: LongLived::Wait,
            soak: Duration::ZERO,
            unhealthy_limit: Duration::from_secs(60),
        },
    }
}

fn upgrade(driven: &mut Driven, version: &str, options: &[&str]) -> Vec<String> {
    let mut ask = asked(driven, Some(release(version)));
    for option in options.iter().filter(|option| **option != "scope=server") {
        set(&mut ask, option);
    }
    if options.contains(&"scope=server") {
        return planned_set(driven.upgrade_server(ask));
    }
    match driven.start(ask) {
        Ok(plan) => planned(&plan),
        Err(why) => vec![format!("refused: {why}")],
    }
}

fn undo(driven: &mut Driven, id: &RippleId) -> Vec<String> {
    match driven.undo(id) {
        Ok(plan) => planned(&plan),
        Err(why) => vec![format!("refused: {why}")],
    }
}

fn set(ask: &mut Ask, option: &str) {
    let (key, value) = option.split_once('=').unwrap_or((option, ""));
    match key {
        "batch" => ask.policy.batch = value.parse().unwrap(),
        "strategy" => ask.policy.strategy = value.parse().unwrap(),
        "capacity_wait" => ask.policy.capacity_wait = duration::parse(value).unwrap(),
        "canary" => ask.policy.canary = value.parse().unwrap(),
        "judge" => ask.policy.rollback_on = Some(RollbackOn::default()),
        "promote" => ask.policy.promote = value.parse().unwrap(),
        "min_serving" => ask.min_serving = MinServing::AtLeast(value.parse().unwrap()),
        "hold" => ask.holds = true,
        "soak" => ask.policy.soak = duration::parse(value).unwrap(),
        "drain_timeout" => ask.policy.drain_timeout = duration::parse(value).unwrap(),
        "force" => ask.policy.on_drain_timeout = OnDrainTimeout::Force,
        "hooks" => {
            for hook in value.split(',') {
                let argv = vec!["./hook".to_owned()];
                match hook {
                    "before_ripple" => ask.hooks.before_ripple = argv,
                    "before_step" => ask.hooks.before_step = argv,
                    "after_step" => ask.hooks.after_step = argv,
                    "after_ripple" => ask.hooks.after_ripple = argv,
                    _ => panic!("what is {hook}?"),
                }
            }
        }
        "restart" => ask.kind = RippleKind::Restart,
        "remove" => (ask.kind, ask.to) = (RippleKind::Remove, None),
        _ => panic!("what is {option}?"),
    }
}

fn planned_set(planned: Result<SetPlan, NoPlan>) -> Vec<String> {
    let plan = match planned {
        Ok(plan) => plan,
        Err(why) => return vec![format!("refused: {why}")],
    };
    let what = match &plan.subject {
        Subject::Component { name, .. } => format!("component {name}"),
        Subject::Server { program } => format!("{program} and all beside it"),
    };
    let order: Vec<&str> = plan.servers.iter().map(|server| server.as_str()).collect();
    vec![format!("plan: {what} on {}, {} at a time", order.join(" "), plan.batch)]
}

fn planned(plan: &Plan) -> Vec<String> {
    let policy = &plan.policy;
    let order: Vec<&str> = plan.steps.iter().map(|step| step.server.as_str()).collect();
    vec![format!(
        "plan: {} of {}, {} at a time, {} stay",
        format!("{:?}", plan.kind).to_lowercase(),
        order.join(" "),
        policy.batch,
        policy.min_serving
    )]
}

/// What was told already, so that only what is new is.
#[derive(Default)]
struct Teller {
    sends: Vec<String>,
    steps: Vec<String>,
    wait: Option<String>,
    verdicts: Vec<String>,
    ends: Vec<String>,
    serving: String,
    mails: String,
}

impl Teller {
    fn news(&mut self, driven: &Driven) -> Vec<String> {
        let mut lines = Vec::new();
        let sends: Vec<String> = driven.sends.iter().map(sent).filter(|send| !send.is_empty()).collect();
        lines.extend(sends.iter().filter(|send| !self.sends.contains(send)).cloned());
        self.sends = sends;
        let steps: Vec<String> = driven.leader.ripples.values().flat_map(steps).collect();
        lines.extend(steps.iter().filter(|step| !self.steps.contains(step)).cloned());
        self.steps = steps;
        let verdicts: Vec<String> = driven.leader.ripples.values().flat_map(verdicts).collect();
        lines.extend(verdicts.iter().filter(|verdict| !self.verdicts.contains(verdict)).cloned());
        self.verdicts = verdicts;
        let of_sets = driven.leader.sets.values().find_map(|set| set.wait.as_ref());
        let waits = of_sets.or_else(|| driven.leader.ripples.values().find_map(|ripple| ripple.wait.as_ref()));
        let wait = waits.map(|wait| {
            let at = wait.server.as_ref().map(|server| format!("{server}: ")).unwrap_or_default();
            let until = wait.until.map(|until| format!(", at most {}", shown(until.saturating_sub(driven.now))));
            format!("waits for {at}{}{}", wait.reason, until.unwrap_or_default())
        });
        if wait != self.wait {
            lines.extend(wait.clone());
        }
        self.wait = wait;
        let ripples = driven.leader.ripples.values().map(|ripple| (&ripple.plan.id, ripple.state, &ripple.reason));
        let sets = driven.leader.sets.values().map(|set| (&set.plan.id, set.state, &set.reason));
        let ends: Vec<String> = ripples.chain(sets).filter_map(|(id, state, reason)| end(id, state, reason)).collect();
        lines.extend(ends.iter().filter(|end| !self.ends.contains(end)).cloned());
        self.ends = ends;
        let serving: Vec<String> = driven.serving().iter().map(|name| serves(driven, name)).collect();
        let serving = format!("serving: {}", if serving.is_empty() { "nobody".to_owned() } else { serving.join(" ") });
        if serving != self.serving {
            lines.push(serving.clone());
        }
        self.serving = serving;
        let mails: Vec<String> = driven.mail.iter().filter_map(|(name, mail)| version(name, mail)).collect();
        let mails = format!("serving mail: {}", if mails.is_empty() { "nobody".to_owned() } else { mails.join(" ") });
        if !driven.mail.is_empty() && mails != self.mails {
            lines.push(mails.clone());
        }
        self.mails = mails;
        lines
    }
}

fn shown(millis: u64) -> String {
    duration::show(Duration::from_millis(millis))
}

/// "a(2)", if it serves there, on a server that is up.
fn version(name: &ServerName, cell: &Srv) -> Option<String> {
    let placement = &cell.placement;
    let release = placement.release.as_ref().filter(|_| placement.state.takes_requests() && cell.healthy)?;
    Some(format!("{name}({})", release.version))
}

fn serves(driven: &Driven, name: &ServerName) -> String {
    let placement = &driven.servers[name].placement;
    let version = placement.release.as_ref().filter(|_| placement.state.takes_requests());
    format!("{name}({})", version.map_or("?", |release| release.version.as_str()))
}

fn sent(send: &Send) -> String {
    match send {
        Send::Seal { server, .. } => format!("{server} ← seal"),
        Send::Prepare { server, release, .. } => format!("{server} ← prepare {}", release.version),
        Send::Hook { server, order, .. } => {
            let at = server.as_ref().map_or("management".to_owned(), ToString::to_string);
            format!("{at} ← {}", order.hook.as_str())
        }
        // Asked again and again while a step soaks.
        Send::Measure { .. } => String::new(),
        Send::Command { server, command, .. } => {
            let order = match &command.order {
                Order::Quiesce { .. } => "quiesce".to_owned(),
                Order::Reopen => "reopen".to_owned(),
                Order::Open => "open".to_owned(),
                Order::Migrate => "migrate".to_owned(),
                Order::Upgrade { to, force, .. } => {
                    format!("upgrade to {}{}", to.version, if *force { ", by force" } else { "" })
                }
                Order::Overlap { to, .. } => format!("overlap to {}", to.version),
                Order::Remove { .. } => "remove".to_owned(),
                Order::Together { .. } => "together".to_owned(),
            };
            format!("{server} ← {order}")
        }
        Send::Together { server, members, work, .. } => {
            let members: Vec<&str> = members.iter().map(|member| member.program.as_str()).collect();
            format!("{server} ← stop {}, then {}", members.join(" and "), work.run.join(" "))
        }
        Send::Worked { .. } => String::new(),
    }
}

fn steps(ripple: &Ripple) -> Vec<String> {
    let steps = ripple.steps.iter().zip(&ripple.plan.steps);
    steps
        .filter_map(|(step, planned)| {
            let phase = match step {
                StepPhase::Pending => return None,
                StepPhase::Quiescing { .. } => "quiescing".to_owned(),
                StepPhase::Upgrading { .. } => "upgrading".to_owned(),
                StepPhase::Overlapping { .. } => "overlapping".to_owned(),
                StepPhase::Soaking { .. } => "soaking".to_owned(),
                StepPhase::Done => "done".to_owned(),
                StepPhase::Skipped { reason } => format!("skipped: {reason}"),
                StepPhase::Failed { reason } => format!("failed: {reason}"),
            };
            Some(format!("{} {}: {phase}", ripple.plan.id, planned.server))
        })
        .collect()
}

fn verdicts(ripple: &Ripple) -> Vec<String> {
    let verdicts = ripple.verdicts.iter();
    verdicts.map(|(server, verdict)| format!("{} {server}: {verdict}", ripple.plan.id)).collect()
}

fn end(id: &RippleId, state: RippleState, reason: &Option<String>) -> Option<String> {
    let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    state.is_over().then(|| format!("{id} {state:?}{why}").to_lowercase())
}
