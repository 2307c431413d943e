//! Owns what the server's actor is asked, and how each is answered. Must not know HTTP.

use std::collections::BTreeMap;
use std::path::Path;

use actix::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::Server;
use crate::app_server::keeping::Lists;
use crate::app_server::program::{Heard, Obey, Program, Stop, Tell};
use crate::app_server::records;
use crate::domain::names::{ProgramName, Release, Sha256, Term};
use crate::domain::placement::{Command, Refusal};
use crate::domain::server_list::Report;
use crate::domain::session_list::End;
use crate::programs::{logs, output, successor};
use crate::wire::messages::{
    EndedSession, Heartbeat, HeldManifest, Lines, Load, NodeRole, Obeyed, Renewals, Sealed, ToServer,
};
use crate::wire::problem::{Code, Problem};

/// Active requests that one answer shows, the oldest.
const REQUESTS_SHOWN_MAX: usize = 1_000;

/// What goes back to who asked.
pub type Answer = Result<Value, Problem>;
pub type Answers = oneshot::Sender<Answer>;

/// A message of management. For `try_send`: a full mailbox is answered by the sender.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ask {
    pub message: ToServer,
    pub reply: Answers,
}

/// "What goes into a heartbeat?"
#[derive(Message)]
#[rtype(result = "Result<Heartbeat, Problem>")]
pub struct Beat;

/// Management answered a heartbeat.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renewed(pub Renewals);

impl Handler<Ask> for Server {
    type Result = ();

    fn handle(&mut self, Ask { message, reply }: Ask, ctx: &mut Context<Self>) {
        match message {
            ToServer::Seal { term, asked } => self.seal(&term, asked, reply, ctx),
            ToServer::Command { program, command } => self.command(program, command, reply, ctx),
            ToServer::Together { operation, members, work } => self.together(operation, members, work, reply, ctx),
            ToServer::Worked { operation } => answer(reply, json(self.shared.sets.outcome(&operation))),
            ToServer::Prepare { program, release, manifest } => {
                answer(reply, self.prepare(program, release, *manifest, ctx).and_then(json));
            }
            ToServer::Hook { program, order } => answer(reply, self.hook(&program, order, ctx).and_then(json)),
            ToServer::Measure { program } => answer(reply, json(self.shared.ledger.figures(&program))),
            ToServer::Ledger {} => answer(reply, json(self.shared.ledger.cut(&self.shared.identity.run))),
            ToServer::Requests { program } => {
                let known = self.known(&program);
                answer(reply, known.and_then(|()| json(self.shared.ledger.active(&program, REQUESTS_SHOWN_MAX))));
            }
            ToServer::Logs { program, lines } => match self.known(&program) {
                Ok(()) => self.logs(&program, lines, reply, ctx),
                Err(problem) => answer(reply, Err(problem)),
            },
            ToServer::EndSession { program, id } => {
                let was_here = Lists::end(&*self.shared.sessions, &program, id, End::Ended);
                answer(reply, json(EndedSession { was_here }));
            }
            ToServer::TakeBinary(order) => answer(reply, successor::take(&order).and_then(json)),
            ToServer::Components { have, scan } => self.tell_components(have, scan, reply, ctx),
        }
    }
}

impl Handler<Beat> for Server {
    type Result = ResponseFuture<Result<Heartbeat, Problem>>;

    fn handle(&mut self, _: Beat, _: &mut Context<Self>) -> Self::Result {
        let (reports, active) = (self.reports(), self.shared.ledger.active_total());
        let sessions_only_here = Some(self.shared.sessions.only_here());
        let (components, cpu_milli) = (self.components.digest(), self.cpu_milli());
        Box::pin(async move {
            let load = Load { load_average: load_average(), active_requests: active, connections: active };
            Ok(Heartbeat {
                role: NodeRole::AppServer,
                held: None,
                reports: reports.await?,
                load,
                components,
                cpu_milli,
                sessions_only_here,
                active: Default::default(),
            })
        })
    }
}

impl Handler<Renewed> for Server {
    type Result = ();

    fn handle(&mut self, Renewed(renewals): Renewed, _: &mut Context<Self>) {
        let Renewals { term, renewed, kept_closed, .. } = renewals;
        if self.shared.check_term(&term).is_err() {
            // An old leader's word renews nothing (protocol P8).
            return;
        }
        for renewal in renewed {
            let program = renewal.program.clone();
            self.hear(&program, Heard::Renewed { term: term.clone(), renewal });
        }
        for program in kept_closed {
            self.hear(&program, Heard::KeptClosed);
        }
    }
}

impl Handler<Stop> for Server {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        for (name, program) in std::mem::take(&mut self.programs) {
            if program.try_send(Stop).is_err() {
                tracing::warn!(program = %name, "a full mailbox: its actor ends with the process");
            }
        }
        ctx.stop();
    }
}

impl Server {
    fn cpu_milli(&self) -> std::collections::BTreeMap<ProgramName, u32> {
        let usage = self.preparer.machine.usage();
        usage.borrow().cpu_milli().map(|(program, milli)| (program.clone(), milli)).collect()
    }

    fn hear(&self, program: &ProgramName, heard: Heard) {
        let Some(actor) = self.programs.get(program) else { return };
        if actor.try_send(heard).is_err() {
            // The next heartbeat's answer says it again.
            tracing::warn!(%program, "a full mailbox: a renewal was not heard");
        }
    }

    fn known(&self, program: &ProgramName) -> Result<(), Problem> {
        match self.programs.contains_key(program) {
            true => Ok(()),
            false => Err(Problem::new(Code::UnknownProgram, format!("this server has no program \"{program}\""))),
        }
    }

    fn seal(&mut self, term: &Term, asked: u64, reply: Answers, ctx: &mut Context<Self>) {
        let run = self.shared.identity.run.clone();
        match self.promise(term) {
            Err(problem) => return answer(reply, Err(problem)),
            Ok(Err(refusal)) => {
                let refusal = Some(refusal);
                return answer(reply, json(Sealed { run, asked, refusal, reports: Vec::new(), manifests: Vec::new() }));
            }
            Ok(Ok(())) => {}
        }
        // Each report comes after every command that was let through under an earlier term: mailboxes keep order, and
        // what waits outside one is judged by the promise again.
        let (reports, store) = (self.reports(), self.shared.store.clone());
        ctx.spawn(
            async move {
                let sealed = reports.await.and_then(|reports| {
                    let manifests = held_manifests(&store, &reports)?;
                    json(Sealed { run, asked, refusal: None, reports, manifests })
                });
                answer(reply, sealed);
            }
            .into_actor(self),
        );
    }

    fn command(&mut self, program: ProgramName, command: Command, reply: Answers, ctx: &mut Context<Self>) {
        let actor = match self.program(&program) {
            Ok(actor) => actor,
            Err(problem) => return answer(reply, Err(problem)),
        };
        match self.promise(&command.term) {
            Err(problem) => return answer(reply, Err(problem)),
            Ok(Err(refusal)) => return self.refuse(actor, refusal, reply, ctx),
            Ok(Ok(())) => {}
        }
        let (tell, told) = oneshot::channel();
        if actor.try_send(Obey { command, reply: tell }).is_err() {
            let full = Problem::new(Code::QueueFull, format!("{program} has too many messages to look at; ask again"));
            return answer(reply, Err(full));
        }
        ctx.spawn(
            async move {
                let lost = || Problem::new(Code::Unavailable, "the program's actor ended before it answered");
                answer(reply, told.await.unwrap_or_else(|_| Err(lost())).and_then(json));
            }
            .into_actor(self),
        );
    }

    /// A stale term is answered with the present state, too.
    fn refuse(&self, actor: Addr<Program>, refusal: Refusal, reply: Answers, ctx: &mut Context<Self>) {
        let run = self.shared.identity.run.clone();
        let asked = actor.send(Tell).timeout(super::TELL_WAIT);
        ctx.spawn(
            async move {
                let lost =
                    |error| Problem::new(Code::Unavailable, format!("a program's actor does not answer: {error}"));
                let report = asked.await.map_err(lost);
                answer(reply, report.and_then(|report| json(Obeyed { run, refusal: Some(refusal), report })));
            }
            .into_actor(self),
        );
    }

    fn tell_components(
        &self,
        have: BTreeMap<ProgramName, Sha256>,
        scan: bool,
        reply: Answers,
        ctx: &mut Context<Self>,
    ) {
        let components = self.components.clone();
        ctx.spawn(
            async move {
                if scan {
                    components.scan().await;
                }
                let partly = || Problem::new(Code::Unavailable, "this server looks for its instances still; ask again");
                let told = components.digest().map(|_| components.tell(&have));
                answer(reply, told.ok_or_else(partly).and_then(json));
            }
            .into_actor(self),
        );
    }

    fn logs(&self, program: &ProgramName, lines: usize, reply: Answers, ctx: &mut Context<Self>) {
        let dir = self.preparer.machine.around().logs(program);
        let reading = tokio::task::spawn_blocking(move || tail(&dir, lines.min(logs::LINES_MAX)));
        ctx.spawn(
            async move {
                let lines = reading.await.unwrap_or_default();
                answer(reply, json(Lines { lines }));
            }
            .into_actor(self),
        );
    }
}

/// The last lines over all instances' files: the newest instance's, and before them those of the one before it.
fn tail(dir: &Path, lines: usize) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for file in output::files(dir).into_iter().take(output::LIMITS.instances) {
        let missing = lines.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        let mut older = logs::tail(&file, missing);
        older.append(&mut found);
        found = older;
    }
    found
}

fn held_manifests(store: &crate::store::Store, reports: &[Report]) -> Result<Vec<HeldManifest>, Problem> {
    let mut held = Vec::new();
    for report in reports {
        for release in held_releases(report) {
            let failed = |error| Problem::new(Code::StoreFailed, format!("a manifest cannot be read: {error}"));
            if let Some(manifest) = records::manifest(store, &report.program, release).map_err(failed)? {
                held.push(HeldManifest { release: release.clone(), manifest });
            }
        }
    }
    Ok(held)
}

/// Every release that a placement runs, goes to or from, or is wanted to have.
pub(super) fn held_releases(report: &Report) -> Vec<&Release> {
    let operation = report.operation.iter().flat_map(|operation| [&operation.from, &operation.to]);
    let desired = report.desired.iter().map(|desired| &desired.release);
    let mut releases: Vec<&Release> =
        [&report.release].into_iter().chain(operation).chain(desired).filter_map(Option::as_ref).collect();
    releases.sort();
    releases.dedup();
    releases
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

pub(super) fn json<T: Serialize>(answer: T) -> Answer {
    serde_json::to_value(answer)
        .map_err(|error| Problem::new(Code::Internal, format!("the answer cannot be written: {error}")))
}

pub(super) fn answer(reply: Answers, answer: Answer) {
    // Who asked may have gone: then there is nobody to tell.
    let _ = reply.send(answer);
}
