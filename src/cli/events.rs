//! Owns `neap events`: what happened in the cluster. Must not know who tells of it.

use clap::Args;

use super::Ctx;
use super::failure::Failure;
use super::out;
use super::unbuilt::not_built;
use crate::wire::api::{EventView, path};

#[derive(Args, Debug)]
pub struct EventsArgs {
    #[arg(short, long, hide = true)]
    follow: bool,
}

impl EventsArgs {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        if self.follow {
            return not_built("neap events -f");
        }
        let events = ctx.client.list::<EventView>(path::EVENTS, &[]).await?;
        ctx.out.list(&events, |events| {
            out::table(
                &["AT", "KIND", "WHAT"],
                events.iter().map(|event| vec![format!("{:.0}", event.at), event.kind.clone(), event.message.clone()]),
            )
        })
    }
}
