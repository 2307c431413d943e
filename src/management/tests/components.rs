//! The Components List is what servers say, whatever gets lost on the way.

use super::*;
use crate::management::component_views;
use crate::wire::problem::Code;

/// Waits until management knows of just these uses, as "program component".
async fn until_known(bench: &Bench, server: &FakeServer, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        bench.tell(server.heartbeat()).await;
        let known: Vec<String> = bench
            .look(|control| {
                let uses = control.components.uses();
                uses.map(|one| format!("{} {}", one.usage.program, one.edge.component.name)).collect()
            })
            .await;
        if known == expected {
            return;
        }
        assert!(Instant::now() < deadline, "still {known:?}");
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_rt::test]
async fn what_a_server_says_by_digest_is_asked_for_once_and_outlives_management() {
    let bench = Bench::new();
    let server = FakeServer::start("app-1");
    bench.tell(server.registration()).await;
    server.uses("mail", &["libc6"]);
    server.uses("shop", &["libc6", "libssl3"]);
    until_known(&bench, &server, &["mail libc6", "shop libc6", "shop libssl3"]).await;
    let asked = server.asked();
    for _ in 0..5 {
        bench.tell(server.heartbeat()).await;
    }
    server.uses("shop", &["libc6"]);
    until_known(&bench, &server, &["mail libc6", "shop libc6"]).await;
    assert!((1..=2).contains(&(server.asked() - asked)), "it asks again only for what is new");
    server.forgets("mail");
    until_known(&bench, &server, &["shop libc6"]).await;
    let again = bench.restart().await;
    let known = again.look(|control| component_views::components(&control.components)).await;
    assert_eq!(known.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["libc6"]);
    let asked = server.asked();
    again.tell(server.registration()).await;
    again.tell(server.heartbeat()).await;
    again.tell(server.heartbeat()).await;
    assert_eq!(server.asked(), asked, "it is on disk: nobody is asked");
}

#[actix_rt::test]
async fn what_finds_no_place_is_told_and_not_asked_for_again_and_again() {
    let bench = Bench::new();
    let server = FakeServer::start("app-1");
    bench.tell(server.registration()).await;
    bench.with(|control| control.bounds.components_size = 1).await;
    server.uses("shop", &["libssl3"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let refused = |control: &Control| control.events.iter().filter(|event| event.kind == "components_refused").count();
    while bench.look(refused).await == 0 {
        bench.tell(server.heartbeat()).await;
        assert!(Instant::now() < deadline);
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    let settled = server.asked();
    for _ in 0..20 {
        bench.tell(server.heartbeat()).await;
        actix_rt::task::yield_now().await;
    }
    assert!(server.asked() <= settled + 2, "{} asks", server.asked() - settled);
    assert_eq!(bench.look(|control| control.components.uses().count()).await, 0);
}

#[actix_rt::test]
async fn a_component_nobody_uses_is_unknown_with_the_cure() {
    let bench = Bench::new();
    let problem = bench.look(|control| component_views::component(&control.components, "libssl3")).await.unwrap_err();
    assert_eq!(problem.code, Code::UnknownComponent);
    assert!(problem.hint.unwrap().contains("neap component ls"));
}
