//! Requests and answers byte for byte: vectors as data, each tried with a router, with a server, and with both in a row.

mod changes;
mod client;
mod format;
mod grounds;
mod random;
mod run;
mod strict;
mod upstream;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use neap::domain::names::RunId;

use format::{Run, Vector};
use run::Ground;
use upstream::Upstream;

/// All vectors, file by file; of those files only whose names have the text.
fn vectors(only: &str) -> Vec<Vector> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    names.sort();
    let read = |name: &String| format::read(name, &fs::read_to_string(dir.join(name)).unwrap());
    names.iter().filter(|name| name.contains(only)).flat_map(read).collect()
}

async fn all(run: Run, address: SocketAddr, upstream: Upstream) {
    let only = std::env::var("NEAP_TEST_VECTORS").unwrap_or_default();
    on_ground(run, address, upstream, move |ground| run::all(ground, &vectors(&only))).await;
}

/// Off the system's own thread, which has its actors to run.
async fn on_ground(run: Run, address: SocketAddr, upstream: Upstream, test: impl FnOnce(&Ground) + Send + 'static) {
    let ground = Ground { run, address, upstream };
    let ran = tokio::task::spawn_blocking(move || test(&ground)).await;
    if let Err(failed) = ran {
        std::panic::resume_unwind(failed.into_panic());
    }
}

#[actix_rt::test]
async fn whatever_a_client_sends_a_router_sends_on_requests_of_one_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let (upstream, address) = Upstream::begin();
    let under = grounds::router(dir.path(), address, &RunId::new("r").unwrap()).await;
    on_ground(Run::Router, under.http(), upstream, random::requests).await;
    under.router.stop().await;
}

#[actix_rt::test]
async fn whatever_a_program_answers_a_client_gets_answers_of_one_meaning() {
    let server = grounds::Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let under = grounds::router(dir.path(), server.node.data, &server.node.run).await;
    on_ground(Run::Both, under.http(), server.upstream.clone(), random::answers).await;
    under.router.stop().await;
}

#[actix_rt::test]
async fn every_vector_holds_at_a_router() {
    let dir = tempfile::tempdir().unwrap();
    let (upstream, address) = Upstream::begin();
    let under = grounds::router(dir.path(), address, &RunId::new("r").unwrap()).await;
    all(Run::Router, under.http(), upstream).await;
    under.router.stop().await;
}

#[actix_rt::test]
async fn every_vector_holds_at_a_server() {
    let server = grounds::Server::start().await;
    all(Run::Server, server.node.data, server.upstream.clone()).await;
}

#[actix_rt::test]
async fn every_vector_holds_with_a_router_before_a_server() {
    let server = grounds::Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let under = grounds::router(dir.path(), server.node.data, &server.node.run).await;
    all(Run::Both, under.http(), server.upstream.clone()).await;
    under.router.stop().await;
}

#[test]
fn there_are_as_many_vectors_as_there_should_be() {
    let (answers, requests): (Vec<_>, Vec<_>) =
        vectors("").into_iter().partition(|vector| vector.answers.iter().any(|script| !script.bytes.is_empty()));
    let names: std::collections::HashSet<_> = requests.iter().chain(&answers).map(|vector| &vector.name).collect();
    assert_eq!(names.len(), requests.len() + answers.len(), "two vectors have one name");
    println!("{} of requests, {} of answers", requests.len(), answers.len());
    assert!(requests.len() >= 200 && answers.len() >= 50, "{} and {}", requests.len(), answers.len());
}
