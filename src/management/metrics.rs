//! Owns management's metrics. Must not know what anyone does about them.

use actix_web::HttpResponse;
use actix_web::web::Data;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::api::Desk;
use super::control::Control;
use crate::wire::problem::{Code, Problem};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct NodeLabels {
    node: String,
    role: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PlacementLabels {
    program: String,
    server: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RippleLabels {
    program: String,
    state: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HolderLabels {
    node: String,
}

pub async fn metrics(desk: Data<Desk>) -> Result<HttpResponse, Problem> {
    let mut registry = desk.look(registry).await?;
    let sessions = Family::<PlacementLabels, Gauge>::default();
    for (program, server, count) in desk.sessions.counts() {
        let labels = PlacementLabels { program: program.to_string(), server: server.to_string() };
        sessions.get_or_create(&labels).set(count as i64);
    }
    registry.register("sessions", "Sessions in the master list, by the server where they are at home", sessions);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}

fn registry(control: &Control) -> Registry {
    let mut registry = Registry::with_prefix("neap");
    let nodes = Family::<NodeLabels, Gauge>::default();
    let held = Family::<HolderLabels, Gauge>::default();
    for ((role, name), node) in &control.nodes {
        let labels = NodeLabels { node: name.to_string(), role: role.as_str().to_owned() };
        nodes.get_or_create(&labels).set(i64::from(node.up));
        if let Some(stamp) = &node.held {
            held.get_or_create(&HolderLabels { node: name.to_string() }).set(stamp.revision.0 as i64);
        }
    }
    registry.register("node_up", "Whether a node is heard of", nodes);
    registry.register("server_list_revision", "The revision of the Server List that a router holds", held);
    let (gates, active) = (Family::<PlacementLabels, Gauge>::default(), Family::<PlacementLabels, Gauge>::default());
    for (program, cells) in &control.leader.list.cells {
        for (server, seen) in cells.iter().filter_map(|(server, cell)| Some((server, cell.observed.as_ref()?))) {
            let labels = PlacementLabels { program: program.to_string(), server: server.to_string() };
            gates.get_or_create(&labels).set(i64::from(seen.state.takes_requests()));
            active.get_or_create(&labels).set(seen.active as i64);
        }
    }
    registry.register("gate_state", "1: the gate is open", gates);
    registry.register("active_requests", "Requests admitted that have not ended", active);
    let ripples = Family::<RippleLabels, Gauge>::default();
    for ripple in control.leader.ripples.values().filter(|ripple| !ripple.state.is_over()) {
        let state = format!("{:?}", ripple.state).to_lowercase();
        ripples.get_or_create(&RippleLabels { program: ripple.plan.program.to_string(), state }).set(1);
    }
    registry.register("ripple_state", "1 for each ripple under way", ripples);
    registry
}
