//! Owns the hooks that run on this server: each at most once, begun and ended on disk, so that who asks again is told.
//! Must not know when a ripple wants one.

use actix::prelude::*;

use super::Server;
use crate::app_server::records::{self, HookRecord};
use crate::domain::names::ProgramName;
use crate::domain::program::Manifest;
use crate::domain::ripple::hooks::{HookEnd, HookOrder};
use crate::programs::{hook, instance};
use crate::wire::messages::HookTold;
use crate::wire::problem::{Code, Problem};

/// Hooks that run at once.
const RUNNING_MAX: usize = 16;

impl Server {
    /// Begins a hook that is new here; tells how one ended that is not.
    pub(super) fn hook(
        &mut self,
        program: &ProgramName,
        order: HookOrder,
        ctx: &mut Context<Self>,
    ) -> Result<HookTold, Problem> {
        let failed = |error| Problem::new(Code::StoreFailed, format!("a hook's record: {error}"));
        let store = self.shared.store.clone();
        let key = records::hook_key(program, &order);
        if self.hooks.contains(&key) {
            return Ok(HookTold { end: None });
        }
        match records::hook(&store, &key).map_err(failed)? {
            Some(HookRecord { end: Some(end) }) => return Ok(HookTold { end: Some(end) }),
            // Of an earlier run of this node: what was left of it went when this run began.
            Some(HookRecord { end: None }) => {
                let end = HookEnd::lost("the server's node stopped while it ran");
                records::save_hook(&store, &key, &HookRecord { end: Some(end.clone()) }).map_err(failed)?;
                return Ok(HookTold { end: Some(end) });
            }
            None => {}
        }
        if self.hooks.len() >= RUNNING_MAX {
            return Err(Problem::new(Code::Unavailable, format!("{RUNNING_MAX} hooks run; ask again")));
        }
        let manifest = self.hooks_manifest(program, &order)?;
        records::save_hook(&store, &key, &HookRecord { end: None }).map_err(failed)?;
        self.hooks.insert(key.clone());
        tracing::info!(%program, hook = order.hook.as_str(), ripple = %order.ripple, "a hook begins");
        self.run_hook(key, manifest, order, ctx);
        Ok(HookTold { end: None })
    }

    fn hooks_manifest(&self, program: &ProgramName, order: &HookOrder) -> Result<Manifest, Problem> {
        let unknown = || {
            let detail = format!("release {} of {program} is not prepared on this server", order.release.version);
            Problem::new(Code::UnknownRelease, detail).hint("prepare it first")
        };
        let held = records::manifest(&self.shared.store, program, &order.release);
        held.ok().flatten().ok_or_else(unknown)
    }

    fn run_hook(&mut self, key: String, manifest: Manifest, order: HookOrder, ctx: &mut Context<Self>) {
        let machine = self.preparer.machine.clone();
        let running = tokio::task::spawn_local(async move {
            let Some(dir) = machine.rooms().path(&manifest.name, order.release.sha256) else {
                return HookEnd::lost("its release is not unpacked on this server");
            };
            let name = instance::new_name(machine.scope(), &manifest.name);
            hook::run(machine.around(), &manifest, &dir, &name, &order).await
        });
        ctx.spawn(running.into_actor(self).map(move |ended, server, _| {
            let end = ended.unwrap_or_else(|error| HookEnd::lost(format!("neap made a mistake: {error}")));
            tracing::info!(key, well = end.well, how = end.how, "a hook ended");
            let saved = records::save_hook(&server.shared.store, &key, &HookRecord { end: Some(end) });
            if let Err(error) = saved {
                // Asked again, it counts as one of which nobody knows the end: never as one that went well.
                tracing::error!(key, %error, "a hook's end cannot be saved");
            }
            server.hooks.remove(&key);
            server.shared.nudge();
        }));
    }
}
