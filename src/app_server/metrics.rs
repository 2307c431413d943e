//! Owns the metrics page: the ledger and the gates as Prometheus reads them, made anew for each look. Must not count
//! anything itself.

use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::claims::Claims;
use super::keeping::Lists as _;
use super::ledger::Ledger;
use super::session_lists::SessionLists;
use crate::domain::names::{NodeName, RunId};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Outcome {
    program: String,
    version: String,
    server: String,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Here {
    program: String,
    server: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// The page.
pub fn page(
    claims: &Claims,
    ledger: &Ledger,
    lists: &SessionLists,
    name: &NodeName,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    counters(&mut registry, ledger, name);
    gates(&mut registry, claims, name);
    sessions(&mut registry, lists, name);
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("neap_build_info", "What runs here", build);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn counters(registry: &mut Registry, ledger: &Ledger, name: &NodeName) {
    let (requests, refused) = (Family::<Outcome, Counter>::default(), Family::<Here, Counter>::default());
    let Ok(run) = RunId::new("metrics") else { return };
    for entry in ledger.cut(&run).entries {
        let version = entry.version.map(|version| version.to_string()).unwrap_or_default();
        let counts = entry.counts;
        let ends = [
            ("completed", counts.completed),
            ("client_left", counts.client_left),
            ("cut", counts.cut),
            ("failed", counts.failed),
        ];
        for (outcome, count) in ends {
            let (program, version, server) = (entry.program.to_string(), version.clone(), name.to_string());
            requests.get_or_create(&Outcome { program, version, server, outcome }).inc_by(count);
        }
        let here = Here { program: entry.program.to_string(), server: name.to_string() };
        refused.get_or_create(&here).inc_by(counts.refused);
    }
    registry.register("neap_requests", "Requests that ended here, by how", requests);
    registry.register("neap_refused", "Requests turned away before the program saw them", refused);
}

fn sessions(registry: &mut Registry, lists: &SessionLists, name: &NodeName) {
    let (sessions, no_room) = (Family::<Here, Gauge>::default(), Family::<Here, Counter>::default());
    for program in lists.programs() {
        let here = Here { program: program.to_string(), server: name.to_string() };
        let list = lists.program(&program);
        sessions.get_or_create(&here).set(list.count() as i64);
        no_room.get_or_create(&here).inc_by(list.without_room());
    }
    registry.register("neap_sessions_without_room", "Requests served without a session: the list is full", no_room);
    registry.register("neap_sessions", "Sessions in the Active Session List", sessions);
}

fn gates(registry: &mut Registry, claims: &Claims, name: &NodeName) {
    let (state, active) = (Family::<Here, Gauge>::default(), Family::<Here, Gauge>::default());
    let (up, restarts) = (Family::<Here, Gauge>::default(), Family::<Here, Counter>::default());
    for slot in claims.all() {
        let word = slot.admission().gate.word();
        let here = Here { program: slot.program.to_string(), server: name.to_string() };
        up.get_or_create(&here).set(i64::from(slot.healthy.load(Relaxed)));
        restarts.get_or_create(&here).inc_by(slot.restarts.load(Relaxed));
        state.get_or_create(&here).set(i64::from(word.is_open()));
        active.get_or_create(&here).set(word.active() as i64);
    }
    registry.register("neap_instance_up", "1: the instance answers its probes", up);
    registry.register("neap_instance_restarts", "Instances started in the place of one that ended by itself", restarts);
    registry.register("neap_gate_state", "1: the gate is open; 0: closed", state);
    registry.register("neap_active_requests", "Requests admitted and not ended", active);
}
