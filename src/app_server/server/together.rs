//! Owns how this server obeys one order to all members of a set (protocol P15): each is judged and its gate frozen, none
//! of it seen by anybody; then one write, and all go on; or all are as they were. Must not know what a member does next.

use std::collections::BTreeSet;

use actix::prelude::*;
use futures_util::future::join_all;

use super::Server;
use super::messages::{Answers, answer, json};
use crate::app_server::program::{Commit, GiveBack, Program, Reserve, Reserved, Tell};
use crate::app_server::records;
use crate::app_server::shared::Shared;
use crate::domain::names::{OperationId, ProgramName};
use crate::domain::placement::{Refusal, Work};
use crate::store::Change;
use crate::wire::messages::{Member, Refused, TogetherObeyed};
use crate::wire::problem::{Code, Problem};

/// How long a member may take to be judged, with what is cut by force before.
const JUDGE_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

impl Server {
    pub(super) fn together(
        &mut self,
        operation: OperationId,
        members: Vec<Member>,
        work: Work,
        reply: Answers,
        ctx: &mut Context<Self>,
    ) {
        let programs: BTreeSet<&ProgramName> = members.iter().map(|member| &member.program).collect();
        let Some(first) = members.first().filter(|_| programs.len() == members.len()) else {
            let detail = "a set has at least one member, and each of them once";
            return answer(reply, Err(Problem::new(Code::BadRequest, detail)));
        };
        match self.promise(&first.command.term) {
            Err(problem) => return answer(reply, Err(problem)),
            Ok(Err(refusal)) => return self.tell_set(operation, members, Some((None, refusal)), reply, ctx),
            Ok(Ok(())) => {}
        }
        if self.shared.sets.is_known(&operation) {
            return self.tell_set(operation, members, None, reply, ctx);
        }
        let actors: Result<Vec<Addr<Program>>, Problem> =
            members.iter().map(|member| self.program(&member.program)).collect();
        let actors = match actors {
            Ok(actors) => actors,
            Err(problem) => return answer(reply, Err(problem)),
        };
        // Two at once would give back what the other has frozen.
        if !self.freezing.insert(operation.clone()) {
            return answer(reply, Err(Problem::new(Code::Unavailable, "it is being judged; ask again")));
        }
        let shared = self.shared.clone();
        let (set, asked) = (operation.clone(), members.clone());
        let judging = async move { freeze_all(&shared, set, asked, work, actors).await };
        ctx.spawn(judging.into_actor(self).map(move |judged, server, ctx| {
            server.freezing.remove(&operation);
            match judged {
                Ok(refusal) => server.tell_set(operation, members, refusal, reply, ctx),
                Err(problem) => answer(reply, Err(problem)),
            }
        }));
    }

    /// Answers with how the members stand, and how the work ended, if it has.
    fn tell_set(
        &self,
        operation: OperationId,
        members: Vec<Member>,
        refusal: Option<(Option<ProgramName>, Refusal)>,
        reply: Answers,
        ctx: &mut Context<Self>,
    ) {
        let run = self.shared.identity.run.clone();
        let worked = self.shared.sets.worked(&operation);
        let actors = members.iter().filter_map(|member| self.programs.get(&member.program));
        let asked: Vec<_> = actors.map(|actor| actor.send(Tell).timeout(super::TELL_WAIT)).collect();
        let refused = refusal.map(|(program, refusal)| Refused { program, refusal });
        ctx.spawn(
            async move {
                let told = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>();
                let reports = told.map_err(|error| silent(&error));
                answer(reply, reports.and_then(|reports| json(TogetherObeyed { run, refused, reports, worked })));
            }
            .into_actor(self),
        );
    }
}

fn silent(error: &MailboxError) -> Problem {
    Problem::new(Code::Unavailable, format!("a program's actor does not answer: {error}"))
}

/// Freezes every member and saves all of it in one write; or gives all of it back, and says whose refusal it was.
async fn freeze_all(
    shared: &Shared,
    operation: OperationId,
    members: Vec<Member>,
    work: Work,
    actors: Vec<Addr<Program>>,
) -> Result<Option<(Option<ProgramName>, Refusal)>, Problem> {
    let programs: Vec<ProgramName> = members.iter().map(|member| member.program.clone()).collect();
    let asked = actors.iter().zip(members).map(|(actor, member)| {
        actor.send(Reserve { set: operation.clone(), command: member.command }).timeout(JUDGE_WAIT)
    });
    let mut changes = Vec::new();
    let mut verdict = Ok(None);
    for (answered, program) in join_all(asked).await.into_iter().zip(&programs) {
        match answered.map_err(|error| silent(&error)).and_then(|answered| answered) {
            Ok(Reserved::Frozen(more)) => changes.extend(more),
            Ok(Reserved::Refused(refusal)) => {
                verdict = verdict.map(|found: Option<_>| found.or(Some((Some(program.clone()), refusal))));
            }
            Err(problem) => verdict = Err(problem),
        }
    }
    if matches!(verdict, Ok(None))
        && let Err(problem) = save(shared, &operation, programs, work, changes)
    {
        verdict = Err(problem);
    }
    // All of them have answered or will have: what waits in a mailbox is before this.
    let well = matches!(verdict, Ok(None));
    for actor in actors {
        let (set, heard) = (operation.clone(), "a member of a set does not hear how it was judged");
        let sent = if well { actor.send(Commit { set }).await } else { actor.send(GiveBack { set }).await };
        if let Err(error) = sent {
            tracing::error!(%error, "{heard}");
        }
    }
    verdict
}

/// The one write: every member's placement, its instances' marks, and the set itself.
fn save(
    shared: &Shared,
    operation: &OperationId,
    programs: Vec<ProgramName>,
    work: Work,
    mut changes: Vec<Change>,
) -> Result<(), Problem> {
    let record = shared.sets.record(operation, programs.into_iter().collect(), work);
    let saved = records::set(&record).and_then(|change| {
        changes.push(change);
        shared.store.save(changes)
    });
    saved.map_err(|error| {
        let code = if error.is_disk_full() { Code::DiskFull } else { Code::StoreFailed };
        Problem::new(code, format!("the order was not obeyed: it could not be saved: {error}"))
    })?;
    shared.sets.begin(record);
    Ok(())
}
