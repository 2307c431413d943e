//! Owns what the Server List actor is asked by this process. Must not know what any of it is for.

use actix::prelude::*;

use super::control::Control;
use super::list_actor::ListActor;
use crate::wire::problem::{Code, Problem};

/// Runs a piece of code on the state, then decides, saves and performs. The answer leaves after the save.
pub struct With<R: Send + 'static>(Box<dyn FnOnce(&mut Control) -> R + Send>);

impl<R: Send + 'static> With<R> {
    pub fn new(code: impl FnOnce(&mut Control) -> R + Send + 'static) -> Self {
        Self(Box::new(code))
    }
}

impl<R: Send + 'static> Message for With<R> {
    type Result = Result<R, Problem>;
}

impl<R: Send + 'static> Handler<With<R>> for ListActor {
    type Result = Result<R, Problem>;

    fn handle(&mut self, message: With<R>, ctx: &mut Context<Self>) -> Result<R, Problem> {
        let before = self.control.copy();
        let answer = (message.0)(&mut self.control);
        self.control.save().map_err(|error| {
            // Who is told that it failed must not find it done later.
            self.control.restore(before);
            let code = if error.is_disk_full() { Code::DiskFull } else { Code::StoreFailed };
            Problem::new(code, error.to_string()).hint("free some space where [store] path is, then ask again")
        })?;
        self.turn(ctx);
        Ok(answer)
    }
}

/// Looks at the state without changing it.
pub struct Look<R: Send + 'static>(Box<dyn FnOnce(&Control) -> R + Send>);

impl<R: Send + 'static> Look<R> {
    pub fn new(code: impl FnOnce(&Control) -> R + Send + 'static) -> Self {
        Self(Box::new(code))
    }
}

impl<R: Send + 'static> Message for Look<R> {
    type Result = R;
}

impl<R: Send + 'static> Handler<Look<R>> for ListActor {
    type Result = MessageResult<Look<R>>;

    fn handle(&mut self, message: Look<R>, _: &mut Context<Self>) -> Self::Result {
        MessageResult((message.0)(&self.control))
    }
}

/// Stops the actor; what is saved goes on when it is started again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

impl Handler<Stop> for ListActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        self.control.export_last();
        ctx.stop();
    }
}
