//! Owns the answer to "where would this go, and why". Must not change anything by answering.

use std::time::Instant;

use super::snapshot::{Placement, Snapshot};
use crate::domain::routing::dispatch::Bounds;
use crate::domain::routing::{Ask, Dispatch, Next};
use crate::wire::messages::{Candidate, RouteExplained};
use crate::wire::problem::{Code, Problem};

/// Says which rule a URL matches, and which server a request for it would be sent to now.
pub fn explain(snapshot: &Snapshot, url: &str, now: Instant) -> Result<RouteExplained, Problem> {
    let (host, path) = split(url)?;
    let headers: [(&str, &[u8]); 0] = [];
    let Some(matched) = snapshot.table.find(Ask { host, path, headers }) else {
        return Ok(RouteExplained { rule: None, program: None, chosen: None, candidates: Vec::new() });
    };
    let program = &snapshot.programs[matched.program];
    let bounds = Bounds::holding(program.manifest().upgrade.hold);
    let chosen = match Dispatch::new(bounds, 0).next(0, program.candidates(now)) {
        Next::Try(place) => Some(program.placements[place].server.name.clone()),
        Next::Wait { .. } | Next::GiveUp(_) => None,
    };
    Ok(RouteExplained {
        rule: Some(matched.rule.to_string()),
        program: Some(program.name().clone()),
        chosen,
        candidates: program.placements.iter().map(|placement| candidate(placement, now)).collect(),
    })
}

fn candidate(placement: &Placement, now: Instant) -> Candidate {
    Candidate {
        server: placement.server.name.clone(),
        takes_requests: placement.listed.takes_requests,
        active: placement.active(),
        why: placement.why(now),
    }
}

/// Host and path of `http://host/path?query`, or of `host/path`.
fn split(url: &str) -> Result<(&str, &str), Problem> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    if host.is_empty() && path == "/" {
        let problem = Problem::new(Code::BadRequest, format!("\"{url}\" names no host and no path"));
        return Err(problem.hint("write it as in http://shop.example.com/cart"));
    }
    Ok((host, path))
}

#[cfg(test)]
mod tests {
    use super::super::list::HeldList;
    use super::super::samples::{list, program};
    use super::super::snapshot::Setting;
    use super::*;

    #[test]
    fn a_url_is_explained_by_rule_server_and_reason() {
        let held = HeldList::whole(list(1, 1, &[program("shop", &[("s1", false), ("s2", true)])]));
        let snapshot = Snapshot::build(held, &Snapshot::default(), &Setting::sample(1));
        let said = explain(&snapshot, "http://any.example.com:8080/shop/cart?x=/mail", Instant::now()).unwrap();
        assert_eq!(said.rule.as_deref(), Some("route */shop"));
        assert_eq!(said.chosen.unwrap().as_str(), "s2");
        assert!(said.candidates[0].why.contains("takes no requests"), "{:?}", said.candidates);
        assert_eq!(explain(&snapshot, "host/other", Instant::now()).unwrap().program, None);
        assert!(explain(&snapshot, "http://", Instant::now()).is_err());
    }
}
