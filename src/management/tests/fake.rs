//! A server that obeys through the domain's own code, with instances that start and stop at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};

use super::program;
use crate::domain::components::{Component, Evidence, Kind, Sighting, Source, Usage, compile};
use crate::domain::gate::NotDrained;
use crate::domain::ledger::LedgerCut;
use crate::domain::manifest;
use crate::domain::names::{NodeName, ProgramName, Sha256, Version};
use crate::domain::placement::{Effect, Event, Here, Placement, State, Worked};
use crate::domain::program::Manifest;
use crate::domain::seal::Seal;
use crate::domain::server_list::Report;
use crate::link::identity::Identity;
use crate::wire::binary::BinaryTold;
use crate::wire::components::{digest, digest_of};
use crate::wire::envelope::{Envelope, MESSAGES_PATH};
use crate::wire::messages::{
    EndedSession, Heartbeat, HookTold, Load, Member, NodeRole, Obeyed, Prepared, Refused, Registration, Sealed,
    ToManagement, ToServer, TogetherObeyed, ToldComponents,
};

pub fn name(given: &str) -> NodeName {
    NodeName::new(given).unwrap()
}

pub fn manifest(version: &Version) -> Manifest {
    let text =
        format!("name = \"shop\"\nversion = \"{version}\"\nroutes = [\"*/shop\"]\n[process]\ncommand = [\"./shop\"]\n");
    manifest::parse("program.toml", &text).unwrap()
}

struct Inside {
    identity: Identity,
    seal: Seal,
    placements: HashMap<ProgramName, Placement>,
    active: u64,
    dead: bool,
    fails: HashMap<Version, String>,
    usages: BTreeMap<ProgramName, Usage>,
    /// How often it was asked what its programs use.
    asked: usize,
}

pub struct FakeServer {
    inside: Arc<Mutex<Inside>>,
    address: std::net::SocketAddr,
    handle: ServerHandle,
}

impl FakeServer {
    pub fn start(given: &str) -> Self {
        let identity = Identity::begin(name(given));
        let (seal, placements, fails, usages) = Default::default();
        let inside = Arc::new(Mutex::new(Inside {
            identity,
            seal,
            placements,
            active: 0,
            dead: false,
            fails,
            usages,
            asked: 0,
        }));
        let shared = Data::from(inside.clone());
        let server =
            HttpServer::new(move || App::new().app_data(shared.clone()).route(MESSAGES_PATH, web::post().to(answer)))
                .workers(1)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { inside, address, handle }
    }

    /// Dies: nothing is obeyed any more, and what listens goes.
    pub async fn stop(&self) {
        self.inside().dead = true;
        self.handle.stop(false).await;
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    pub fn envelope(&self, body: ToManagement) -> Envelope<ToManagement> {
        self.inside().identity.envelope(None, body)
    }

    pub fn registration(&self) -> Envelope<ToManagement> {
        self.envelope(ToManagement::Register(Box::new(Registration {
            role: NodeRole::AppServer,
            control: self.address,
            data: self.address,
            labels: Default::default(),
            version: "0".to_owned(),
            cores: 1,
            binary: None,
        })))
    }

    pub fn placement(&self) -> Placement {
        self.inside().placements[&program()].clone()
    }

    pub fn report(&self) -> Report {
        self.inside().report(&program())
    }

    /// From now on a program uses just these packages.
    pub fn uses(&self, program: &str, packages: &[&str]) {
        let program = ProgramName::new(program).unwrap();
        let sighting = |name: &&str| Sighting {
            component: Component { name: name.parse().unwrap(), kind: Kind::Package, version: None },
            file: None,
            evidence: Evidence { source: Source::Static, can_load: false, chain: Vec::new() },
            stale: None,
        };
        let edges = compile(packages.iter().map(sighting), 100).edges;
        let release = super::release("1");
        let usage = Usage { program: program.clone(), release, edges, unread: Vec::new() };
        self.inside().usages.insert(program, usage);
    }

    pub fn forgets(&self, program: &str) {
        self.inside().usages.remove(program);
    }

    pub fn asked(&self) -> usize {
        self.inside().asked
    }

    /// A heartbeat that tells by digest what its programs use.
    pub fn heartbeat(&self) -> Envelope<ToManagement> {
        let has = self.inside().has();
        let (role, load) = (NodeRole::AppServer, Load::default());
        let components = Some(digest_of(&has));
        self.envelope(ToManagement::Heartbeat(Box::new(Heartbeat {
            role,
            held: None,
            reports: vec![],
            load,
            components,
            cpu_milli: Default::default(),
            sessions_only_here: None,
            active: Default::default(),
        })))
    }

    pub fn keep_active(&self, active: u64) {
        self.inside().active = active;
    }

    pub fn fail_starts_of(&self, version: &str, why: &str) {
        self.inside().fails.insert(super::version(version), why.to_owned());
    }
}

impl Inside {
    fn has(&self) -> BTreeMap<ProgramName, Sha256> {
        self.usages.iter().map(|(program, usage)| (program.clone(), digest(usage).0)).collect()
    }

    /// One usage an answer, as if they were large.
    fn tell_components(&mut self, have: &BTreeMap<ProgramName, Sha256>) -> ToldComponents {
        self.asked += 1;
        let has = self.has();
        let new = self.usages.values().find(|usage| have.get(&usage.program) != has.get(&usage.program));
        ToldComponents { usages: new.cloned().into_iter().collect(), has }
    }

    fn report(&self, program: &ProgramName) -> Report {
        let absent = Placement::absent(program.clone());
        let placement = self.placements.get(program).unwrap_or(&absent);
        Report::of(placement, placement.state == State::Open, self.active, 0)
    }

    fn obey(&mut self, message: ToServer) -> serde_json::Value {
        match message {
            ToServer::Seal { term, asked } => {
                let refusal = self.seal.admit(&term).err();
                let reports = self.placements.keys().map(|program| self.report(program)).collect();
                let run = self.identity.run.clone();
                serde_json::to_value(Sealed { run, asked, refusal, reports, manifests: vec![] })
            }
            ToServer::Prepare { .. } => serde_json::to_value(Prepared::Ready),
            ToServer::Command { program, command } => {
                let refusal = self.command(&program, &command).err();
                let report = self.report(&program);
                serde_json::to_value(Obeyed { run: self.identity.run.clone(), refusal, report })
            }
            ToServer::Ledger {} => {
                let run = self.identity.run.clone();
                serde_json::to_value(LedgerCut { run, entries: vec![], failures: vec![] })
            }
            ToServer::Hook { .. } => serde_json::to_value(HookTold { end: None }),
            ToServer::Requests { .. } | ToServer::Logs { .. } | ToServer::Measure { .. } => Ok(serde_json::json!([])),
            ToServer::Together { members, .. } => serde_json::to_value(self.together(&members)),
            ToServer::Worked { .. } => {
                serde_json::to_value(Some(Worked { failure: None, lines: vec!["done".to_owned()], took_ms: 1 }))
            }
            ToServer::Components { have, .. } => serde_json::to_value(self.tell_components(&have)),
            ToServer::TakeBinary(order) => {
                let (run, sha256) = (self.identity.run.clone(), order.sha256);
                serde_json::to_value(BinaryTold { run, sha256, stage: None })
            }
            ToServer::EndSession { .. } => serde_json::to_value(EndedSession::default()),
        }
        .unwrap()
    }

    /// All members obey: its instances drain, stop and start at once.
    fn together(&mut self, members: &[Member]) -> TogetherObeyed {
        let refused = members.iter().find_map(|member| {
            let refusal = self.command(&member.program, &member.command).err()?;
            Some(Refused { program: Some(member.program.clone()), refusal })
        });
        let reports = members.iter().map(|member| self.report(&member.program)).collect();
        TogetherObeyed { run: self.identity.run.clone(), refused, reports, worked: None }
    }

    fn command(
        &mut self,
        program: &ProgramName,
        command: &crate::domain::placement::Command,
    ) -> Result<(), crate::domain::placement::Refusal> {
        self.seal.admit(&command.term)?;
        let (run, active) = (self.identity.run.clone(), self.active);
        let here = Here { run: &run, now: 0, lease: Duration::from_secs(60), orphans: 0, sticky: None };
        let placement = self.placements.entry(program.clone()).or_insert_with(|| Placement::absent(program.clone()));
        let freeze = |_| if active == 0 { Ok(()) } else { Err(NotDrained { open: false, active }) };
        let mut effects = placement.command(command, &here, freeze)?;
        while let Some(effect) = effects.pop() {
            let event = match effect {
                Effect::Stop => Event::Stopped,
                Effect::Start(release) => match self.fails.get(&release.version) {
                    Some(why) => Event::StartFailed(why.clone()),
                    None => Event::Started,
                },
                Effect::StartBeside(_) => Event::Started,
                Effect::StopBeside | Effect::StopOld => Event::Stopped,
                Effect::Switch(_) => Event::OldDrained,
                Effect::Await(_) => Event::Worked(Ok(())),
                Effect::CloseGate(_)
                | Effect::KnowGate(_)
                | Effect::OpenGate(_)
                | Effect::MigrateSessions
                | Effect::Report => continue,
            };
            effects.extend(placement.event(&event, &here));
        }
        Ok(())
    }
}

async fn answer(inside: Data<Mutex<Inside>>, body: Bytes) -> HttpResponse {
    let envelope = Envelope::<ToServer>::parse(&body).unwrap();
    let mut inside = inside.lock().unwrap();
    if inside.dead {
        return HttpResponse::BadGateway().force_close().finish();
    }
    HttpResponse::Ok().json(inside.obey(envelope.body))
}
