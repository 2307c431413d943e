//! When routers hear of what servers say.

use actix::prelude::*;

use super::fake::name;
use super::{Bench, servers};
use crate::domain::names::Generation;
use crate::domain::server_list::Report;
use crate::management::list_actor::ListActor;

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
