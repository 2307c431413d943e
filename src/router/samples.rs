//! Owns lists and programs for this role's own tests. Must not know what is tested.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{Rules, Shared};
use crate::domain::names::{Generation, NodeName, ProgramName, Revision, RunId, Term, Version};
use crate::domain::program::{
    Health, Kind, LongLived, Manifest, MinServing, OnDrainTimeout, PlacementRule, Route, StaticFiles, UpgradeRule,
};
use crate::link::identity::Identity;
use crate::wire::messages::{ListStamp, RouterList, RouterPlacement, RouterProgram, RouterServer};

/// What workers share, without anybody told of them.
pub fn shared(workers: usize) -> Arc<Shared> {
    let rules = Rules {
        identity: Identity::begin(NodeName::new("router-1").unwrap()),
        secret: None,
        tag_keys: Default::default(),
        trusted: Arc::new(|_: IpAddr| false),
        expose_version: false,
        held_requests: 1,
        unreachable_wait: Duration::from_secs(1),
        crowd: Arc::default(),
        certificates: None,
        redirect: None,
    };
    Shared::new(rules, workers, None)
}

pub fn stamped(term: u64, revision: u64) -> ListStamp {
    let term = Term { number: term, management: NodeName::new("m1").unwrap() };
    ListStamp { term, revision: Revision(revision) }
}

/// Servers s1 to s3 on ports 1 to 3, all up.
pub fn list(term: u64, revision: u64, programs: &[RouterProgram]) -> RouterList {
    let server = |n: u16| RouterServer {
        name: NodeName::new(format!("s{n}")).unwrap(),
        data: ([127, 0, 0, 1], n).into(),
        up: true,
    };
    RouterList {
        stamp: stamped(term, revision),
        since: None,
        servers: (1..=3).map(server).collect(),
        programs: programs.to_vec(),
        removed: Vec::new(),
    }
}

/// A program at `*/NAME`, placed at generation 1 of run `r-SERVER`.
pub fn program(name: &str, placements: &[(&str, bool)]) -> RouterProgram {
    let placement = |(server, takes_requests): &(&str, bool)| RouterPlacement {
        server: NodeName::new(server).unwrap(),
        run: Some(RunId::new(format!("r-{server}")).unwrap()),
        generation: Generation(1),
        version: Some(Version::new("1").unwrap()),
        takes_requests: *takes_requests,
        keeps_sessions: false,
        active: 0,
        by_router: Default::default(),
    };
    RouterProgram { manifest: manifest(name), placements: placements.iter().map(placement).collect(), forward: None }
}

pub fn manifest(name: &str) -> Manifest {
    let second = Duration::from_secs(1);
    Manifest {
        name: ProgramName::new(name).unwrap(),
        version: Version::new("1").unwrap(),
        routes: vec![Route { host: None, prefix: format!("/{name}") }],
        strip_prefix: false,
        matches: Vec::new(),
        placement: PlacementRule { servers: vec!["*".into()], labels: BTreeMap::new() },
        kind: Kind::Static(StaticFiles { root: "public".into(), spa: false }),
        request_timeout: second * 60,
        body_limit: 10 << 20,
        health: Health { path: None, interval: second, timeout: second, start_timeout: second, unhealthy_after: 3 },
        session: None,
        upgrade: UpgradeRule {
            strategy: Default::default(),
            max_utilization_milli: 0,
            capacity_wait: second,
            batch: 1,
            hooks: Default::default(),
            rollback_on: Default::default(),
            canary: 0,
            promote: Default::default(),
            min_serving: MinServing::Auto,
            drain_timeout: second,
            on_drain_timeout: OnDrainTimeout::Abort,
            long_lived: LongLived::Wait,
            long_lived_grace: second,
            hold: Duration::ZERO,
            soak: Duration::ZERO,
        },
        components: Vec::new(),
    }
}
