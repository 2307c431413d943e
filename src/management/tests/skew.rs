//! Nodes of other releases of neap register.

use super::Bench;
use super::fake::FakeServer;
use crate::domain::names::Sha256;
use crate::management::nodes::FromNode;
use crate::wire::binary::{Binary, PROTOCOL};
use crate::wire::messages::ToManagement;
use crate::wire::problem::Code;

#[actix_rt::test]
async fn nodes_one_release_apart_are_taken_and_one_further_away_is_refused_with_the_cure() {
    let bench = Bench::new();
    let server = FakeServer::start("app-1");
    for (protocol, taken) in
        [(None, true), (Some(PROTOCOL), true), (Some(PROTOCOL + 1), true), (Some(PROTOCOL + 2), false)]
    {
        let mut envelope = server.registration();
        let ToManagement::Register(registration) = &mut envelope.body else { panic!("it registers") };
        registration.binary =
            protocol.map(|protocol| Binary { sha256: Sha256([1; 32]), version: "9.0.0".to_owned(), protocol });
        let answer = bench.list.send(FromNode(envelope)).await.unwrap();
        match answer {
            Ok(_) => assert!(taken, "{protocol:?}"),
            Err(problem) => {
                assert_eq!((taken, problem.code), (false, Code::VersionSkew));
                let said = problem.to_string();
                assert!(said.contains("app-1 runs neap 0 with protocol 3"), "{said}");
                assert!(problem.hint.as_deref().unwrap().contains("upgrade this management"), "{problem:?}");
            }
        }
    }
}
