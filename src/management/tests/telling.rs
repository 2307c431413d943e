//! When routers hear of what servers say.

use actix::prelude::*;

use super::fake::name;
use super::{Bench, program, servers};
use crate::domain::names::Generation;
use crate::domain::server_list::Report;
use crate::link::identity::Identity;
use crate::management::list_actor::ListActor;
use crate::management::routers::Routers;
use crate::wire::messages::{ActiveThere, Heartbeat, NodeRole, Registration, RouterList, ToManagement};

/// A server says that its placement has moved on. Answered with whether routers hear of it at once.
struct Said {
    report: Report,
    /// Something else has come that is not saved yet.
    due: bool,
    /// What came before could not be saved.
    unsaved: bool,
}

impl Message for Said {
    type Result = bool;
}

impl Handler<Said> for ListActor {
    type Result = MessageResult<Said>;

    fn handle(&mut self, said: Said, ctx: &mut Context<Self>) -> Self::Result {
        let server = name("app-1");
        let run = self.control.leader.list.servers[&server].sealed.clone().unwrap();
        self.control.leader.heard(&server, &run, said.report);
        let before = self.control.published.clone();
        (self.due, self.unsaved) = (said.due, said.unsaved);
        self.tell_what_is_seen(ctx);
        (self.due, self.unsaved) = (false, false);
        MessageResult(self.control.published != before)
    }
}

#[actix_rt::test]
async fn routers_hear_at_once_what_a_server_says_unless_something_here_is_not_on_disk() {
    let bench = Bench::new();
    let servers = servers(&bench, 1).await;
    bench.push("1").await;
    let id = bench.upgrade("1").await;
    bench.until(&id, |ripple| ripple.state.ended()).await;
    let moved = |by: u64| {
        let report = servers[0].report();
        Report { generation: Generation(report.generation.0 + by), ..report }
    };
    let say = |report, due, unsaved| bench.list.send(Said { report, due, unsaved });
    assert!(!say(moved(1), true, false).await.unwrap(), "a turn is due");
    assert!(!say(moved(2), false, true).await.unwrap(), "the disk is full");
    assert!(say(moved(3), false, false).await.unwrap());
}

/// A router that is up, with so many active requests of the program at this server.
async fn router(bench: &Bench, router: &Identity, server: &str, active: u64) {
    let address = ([127, 0, 0, 1], 1).into();
    let registration = Registration {
        role: NodeRole::Router,
        control: address,
        data: address,
        labels: Default::default(),
        version: "0".to_owned(),
        cores: 1,
        binary: None,
    };
    let beat = Heartbeat {
        role: NodeRole::Router,
        held: None,
        reports: Vec::new(),
        load: Default::default(),
        components: None,
        cpu_milli: Default::default(),
        sessions_only_here: None,
        active: ActiveThere::from([(program(), [(name(server), active)].into())]),
    };
    bench.tell(router.envelope(None, ToManagement::Register(Box::new(registration)))).await;
    bench.tell(router.envelope(None, ToManagement::Heartbeat(Box::new(beat)))).await;
}

#[actix_rt::test]
async fn each_of_several_routers_hears_of_the_others_requests_and_one_alone_of_none() {
    let bench = Bench::new();
    let _servers = servers(&bench, 2).await;
    bench.push("1").await;
    let id = bench.upgrade("1").await;
    bench.until(&id, |ripple| ripple.state.ended()).await;
    let (one, two) = (Identity::begin(name("router-1")), Identity::begin(name("router-2")));
    let told = || {
        bench.with(|control| {
            let (mut routers, now) = (Routers::default(), std::time::Instant::now());
            routers.publish(control, now);
            let due: Vec<RouterList> = routers.due(control, now).into_iter().map(|(_, _, list)| list).collect();
            let of = |list: &RouterList| {
                let shown = list.programs[0].placements.iter().map(|at| {
                    let by: Vec<_> = at.by_router.iter().map(|(router, active)| format!("{router} {active}")).collect();
                    format!("{}: {} of {}", at.server, by.join(", "), at.active)
                });
                shown.collect::<Vec<_>>().join("; ")
            };
            due.iter().map(of).collect::<Vec<_>>()
        })
    };
    router(&bench, &one, "app-1", 3).await;
    assert_eq!(told().await, ["app-1:  of 0; app-2:  of 0"]);
    router(&bench, &two, "app-1", 4).await;
    let both = "app-1: router-1 3, router-2 4 of 7; app-2:  of 0";
    assert_eq!(told().await, [both, both]);
    router(&bench, &two, "app-2", 5).await;
    let moved = "app-1: router-1 3 of 3; app-2: router-2 5 of 5";
    assert_eq!(told().await, [moved, moved]);
    // One that is silent has nothing any more, as far as anybody knows.
    bench.with(|control| control.nodes.get_mut(&(NodeRole::Router, name("router-2"))).unwrap().up = false).await;
    assert_eq!(told().await, ["app-1:  of 0; app-2:  of 0"]);
}
