//! Owns traffic at a cluster's programs, and the comparison of what clients and programs say of it.
//! Must not know upgrades.

use std::time::Duration;

use neap::traffic::{Mix, Plan, Report, Request, Running, Target, start};

use super::cluster::Cluster;
use super::{SOON, until};

/// Traffic that runs.
pub struct Load {
    running: Running,
    programs: Vec<String>,
}

/// What came of it.
pub struct Account {
    pub report: Report,
    programs: Vec<String>,
}

/// One program's traffic: its name, requests a second, and what is asked.
pub struct Lane {
    program: &'static str,
    router: u8,
    rate: f64,
    mix: Mix,
    versions: Vec<String>,
    headers: Vec<(String, String)>,
    sessions: usize,
}

impl Lane {
    pub fn to(program: &'static str, rate: f64, mix: Mix) -> Self {
        Self { program, router: 1, rate, mix, versions: Vec::new(), headers: Vec::new(), sessions: 0 }
    }

    /// By another router than the first.
    pub fn by_router(self, router: u8) -> Self {
        Self { router, ..self }
    }

    /// By so many clients that keep their cookies.
    pub fn sessions(self, sessions: usize) -> Self {
        Self { sessions, ..self }
    }

    /// Each request on a connection of its own.
    pub fn unkept(self) -> Self {
        Self { headers: vec![("Connection".to_owned(), "close".to_owned())], ..self }
    }

    /// An answer of another version is a failure.
    pub fn versions(self, versions: &[&str]) -> Self {
        Self { versions: versions.iter().map(|version| (*version).to_owned()).collect(), ..self }
    }
}

impl Load {
    pub fn start(cluster: &Cluster, lanes: Vec<Lane>) -> Self {
        let target = |lane: &Lane| Target {
            expect_versions: lane.versions.clone(),
            sessions: lane.sessions,
            headers: lane.headers.clone(),
            ..Target::new(cluster.url(lane.router, lane.program).parse().unwrap(), lane.rate).mix(lane.mix.clone())
        };
        let plan = Plan::new(lanes.iter().map(target).collect()).timeout(Duration::from_secs(40));
        let running = start(plan).unwrap();
        let load = Self { running, programs: lanes.iter().map(|lane| lane.program.to_owned()).collect() };
        load.flows();
        load
    }

    /// Waits until every target has answered some more; what is asked from here on is under load.
    #[track_caller]
    pub fn flows(&self) {
        let seen: Vec<u64> = self.running.snapshot().targets.iter().map(|target| target.counts.ok).collect();
        until("traffic flows", SOON, || {
            let now = self.running.snapshot();
            // Those that are asked once in a while are not waited for.
            let steady = now.targets.iter().zip(&seen).filter(|(target, _)| target.rate >= 1.0);
            let more = steady.into_iter().all(|(target, before)| target.counts.ok >= before + 20);
            if more { Ok(()) } else { Err(format!("{:#?}", now.all.errors)) }
        });
    }

    /// Waits until clients have begun so many sessions.
    #[track_caller]
    pub fn has_sessions(&self, least: u64) {
        until(&format!("{least} sessions have begun"), SOON, || {
            let all = self.running.snapshot().all;
            if all.sessions.begun >= least { Ok(()) } else { Err(format!("{:?} {:#?}", all.sessions, all.errors)) }
        });
    }

    /// Waits until a version answers clients.
    #[track_caller]
    pub fn answered_by(&self, version: &str) {
        until(&format!("{version} answers"), SOON, || {
            let versions = self.running.snapshot().all.by_version;
            if versions.contains_key(version) { Ok(()) } else { Err(format!("{versions:?}")) }
        });
    }

    /// Sends no more, and waits for every answer.
    pub fn finish(self) -> Account {
        Account { report: self.running.finish_blocking(), programs: self.programs }
    }
}

impl Account {
    /// No request has failed, and each POST was executed once, where it says so in the logs of the programs.
    #[track_caller]
    pub fn nothing_lost(&self, cluster: &Cluster) {
        assert!(
            self.report.passed,
            "{} of {} failed: {:#?}",
            self.report.all.failed, self.report.all.sent, self.report.all.errors
        );
        for program in &self.programs {
            let acknowledged = self.acknowledged(program);
            assert_eq!(acknowledged, cluster.executed(program), "POSTs of {program}");
        }
    }

    /// The POSTs to a program that were answered, sorted.
    pub fn acknowledged(&self, program: &str) -> Vec<String> {
        let targets = (0..self.programs.len()).filter(|target| self.programs[*target] == program);
        let mut ids: Vec<String> =
            targets.flat_map(|target| self.report.acknowledged(target).map(str::to_owned)).collect();
        ids.sort_unstable();
        ids
    }

    /// Some failed, but no POST was executed twice, and none that was acknowledged was lost.
    #[track_caller]
    pub fn each_post_at_most_once(&self, cluster: &Cluster) {
        for program in &self.programs {
            let executed = cluster.executed(program);
            if let Some(twice) = executed.windows(2).find(|two| two[0] == two[1]) {
                panic!("{program} has executed {} twice", twice[0]);
            }
            let lost: Vec<_> =
                self.acknowledged(program).into_iter().filter(|id| executed.binary_search(id).is_err()).collect();
            assert!(lost.is_empty(), "acknowledged and not executed by {program}: {lost:?}");
        }
    }
}

/// All that clients of a shop do, in shares of 200: most of it small.
pub fn everything() -> Mix {
    let mix = vec![
        Request::get("/").weight(178).expect_echo(),
        Request::post("/orders", 2_000).weight(14).expect_echo(),
        Request::post("/orders", 1 << 20).weight(1).expect_echo(),
        Request::get("/stream?bytes=200000&chunks=20&ms=25").weight(3).expect_bytes(200_000).expect_echo(),
        Request::get("/slow?ms=3000").weight(2).expect_echo(),
        Request::websocket("/ws", Duration::from_secs(2)).weight(2),
    ];
    Mix::new(mix).unwrap()
}

/// WebSockets that live for ten seconds.
pub fn sockets() -> Mix {
    Mix::new(vec![Request::websocket("/ws", Duration::from_secs(10))]).unwrap()
}

/// What clients of a shop do when nothing takes long.
pub fn brief() -> Mix {
    let mix = vec![
        Request::get("/").weight(16).expect_echo(),
        Request::post("/orders", 2_000).weight(3).expect_echo(),
        Request::get("/slow?ms=300").weight(1).expect_echo(),
    ];
    Mix::new(mix).unwrap()
}

/// What clients of the mail do.
pub fn letters() -> Mix {
    let mix = vec![
        Request::get("/").weight(18).expect_echo(),
        Request::post("/letters", 4_000).weight(1).expect_echo(),
        Request::get("/slow?ms=300").weight(1).expect_echo(),
    ];
    Mix::new(mix).unwrap()
}

/// What clients of the site do.
pub fn pages() -> Mix {
    Mix::new(vec![Request::get("/").weight(3), Request::get("/style.css")]).unwrap()
}
