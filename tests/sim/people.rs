//! Owns what people ask of the simulated cluster, at any moment. Must not know how it is carried out.

use std::time::Duration;

use neap::domain::names::{Release, RippleId, Sha256, Version};
use neap::domain::program::{Hooks, LongLived, MinServing, OnDrainTimeout, Promote, RollbackOn, Strategy};
use neap::domain::ripple::plan::{Ask, Policy, RippleKind, plan};
use neap::domain::ripple::wait::Reason;
use neap::domain::ripple::{Asked, RippleState};
use neap::domain::server_list::Wanted;

use super::world::Sim;

/// A version's release; its number says what it is like (`Sim::is_bad`, `Sim::answers_badly`).
pub fn release(number: u32) -> Release {
    let mut sha256 = [0; 32];
    sha256[..4].copy_from_slice(&number.to_be_bytes());
    Release { version: Version::new(number.to_string()).expect("a version"), sha256: Sha256(sha256) }
}

impl Sim {
    /// Somebody does something.
    pub fn somebody_asks(&mut self) {
        let program = self.chance(self.settings.programs as u64) as usize;
        let name = self.programs[program].clone();
        let Some(leader) = &mut self.leader else { return };
        let under_way = leader.under_way(&name).map(|ripple| ripple.plan.id.clone());
        let dice = self.rng.below(100);
        match under_way {
            None if dice < 70 => self.somebody_upgrades(program),
            None => {
                let Some(id) = self.asked.get(&name).cloned() else { return };
                self.somebody_undoes(&id);
            }
            Some(id) if dice < 6 => self.somebody_undoes(&id),
            Some(id) => {
                let asked = match dice {
                    6..12 => Asked::Abort,
                    12..20 => Asked::Pause,
                    20..35 => Asked::Nothing,
                    35..50 => {
                        leader.promote(&id);
                        return;
                    }
                    _ => return,
                };
                leader.ask(&id, asked);
                self.log(|| format!("somebody asks {id} for {asked:?}"));
            }
        }
    }

    fn somebody_undoes(&mut self, id: &RippleId) {
        let Some(leader) = &mut self.leader else { return };
        let Some(undone) = leader.ripples.get(id).cloned() else { return };
        self.made += 1;
        let undo = RippleId::new(format!("undo-{}", self.made)).expect("an id");
        let told = leader.undo(undo, &undone).is_ok();
        self.log(|| format!("somebody undoes {id}: {told}"));
    }

    fn somebody_upgrades(&mut self, program: usize) {
        let name = self.programs[program].clone();
        self.versions[program] += 1;
        self.made += 1;
        let restarts = self.chance(10) == 0;
        let id = RippleId::new(format!("r-{}", self.made)).expect("an id");
        let servers = self.placed[program].iter().map(|&server| self.servers[server].name.clone()).collect();
        let many = self.placed[program].len() as u64;
        let chance = |sim: &mut Self, percent: u64| sim.chance(100) < percent;
        let argv = |sim: &mut Self| if chance(sim, 15) { vec!["./hook".to_owned()] } else { Vec::new() };
        let hooks = Hooks {
            before_ripple: argv(self),
            before_step: argv(self),
            after_step: argv(self),
            after_ripple: argv(self),
            ..Hooks::default()
        };
        let batch = if self.settings.servers > 50 { many / 4 + 1 } else { 1 + self.chance(3) };
        let policy = Policy {
            strategy: if chance(self, 35) { Strategy::Overlap } else { Strategy::Quiesce },
            batch: batch as usize,
            canary: if chance(self, 20) { 1 } else { 0 },
            promote: if chance(self, 50) { Promote::Auto } else { Promote::Manual },
            rollback_on: chance(self, 50).then(RollbackOn::default),
            hooks: Vec::new(),
            max_utilization_milli: 800,
            capacity_wait: Duration::from_secs(600),
            min_serving: 0,
            drain_timeout: Duration::from_millis(500 + self.chance(4_000)),
            on_drain_timeout: if chance(self, 50) { OnDrainTimeout::Abort } else { OnDrainTimeout::Force },
            long_lived: LongLived::Wait,
            soak: Duration::from_millis(self.chance(3) * 500),
            unhealthy_limit: Duration::from_secs(20),
        };
        let min_serving = if chance(self, 70) { MinServing::Auto } else { MinServing::AtLeast(self.chance(3) as u32) };
        let kind = if restarts { RippleKind::Restart } else { RippleKind::Upgrade };
        let number = self.versions[program];
        let Some(leader) = &mut self.leader else { return };
        let present = leader.list.programs.get(&name).and_then(|wanted| wanted.release.clone());
        let to = if restarts { present } else { Some(release(number)) };
        let holds = self.rng.below(10) == 0;
        let ask = Ask { id: id.clone(), kind, program: name.clone(), to, servers, min_serving, holds, policy, hooks };
        let planned = plan(ask, &leader.list);
        let told =
            planned.as_ref().map(|plan| format!("{:?} {:?}", plan.kind, plan.policy)).map_err(ToString::to_string);
        if let Ok(plan) = planned {
            let servers = plan.steps.iter().map(|step| step.server.clone()).collect();
            leader.list.programs.entry(name.clone()).or_insert(Wanted { release: None, servers });
            leader.start(plan);
            self.asked.insert(name.clone(), id.clone());
        }
        self.log(|| format!("somebody asks for {id}, {name} to {number}: {told:?}"));
    }

    /// When all is to come to rest: whoever waits for a person has one.
    pub fn somebody_clears_up(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        let waiting: Vec<(RippleId, bool)> = leader
            .ripples
            .values()
            .filter(|ripple| !ripple.state.is_over())
            .filter_map(|ripple| match ripple.wait.as_ref().map(|wait| &wait.reason) {
                Some(Reason::Promotion { .. }) => Some((ripple.plan.id.clone(), true)),
                _ if ripple.state == RippleState::Paused => Some((ripple.plan.id.clone(), false)),
                // What can never be is given up: a margin that the cluster does not have.
                Some(Reason::MinServing { .. } | Reason::OldInstance) => None,
                _ => None,
            })
            .collect();
        for (id, promote) in waiting {
            if promote {
                leader.promote(&id);
            } else {
                leader.ask(&id, Asked::Nothing);
            }
        }
    }
}
