//! A program goes from version to version under all kinds of traffic, beside others.

use neap::wire::api::{Receipt, StepState};

use crate::support::cluster::Cluster;
use crate::support::load::{Account, Lane, Load, brief, everything, letters, pages, sockets};
use crate::support::release::{mail, shop, site};

#[test]
fn a_program_goes_to_two_new_versions_and_back_and_no_client_notices() {
    let cluster = Cluster::start();
    for program in [shop("1.0.0"), mail("1.0.0"), site("1.0.0")] {
        cluster.deploy(&program);
    }
    let load = Load::start(
        &cluster,
        vec![
            Lane::to("shop", 100.0, everything()).versions(&["1.0.0", "2.0.0", "3.0.0"]),
            Lane::to("shop", 0.15, sockets()),
            Lane::to("mail", 40.0, letters()).versions(&["1.0.0"]),
            Lane::to("site", 60.0, pages()),
        ],
    );
    for version in ["2.0.0", "3.0.0"] {
        let ripple = cluster.deploy(&shop(version));
        nothing_lost(&cluster.receipt(ripple.id.as_str()));
        load.answered_by(version);
    }
    cluster.well(&["upgrade", "shop", "--to", "1.0.0"]);
    nothing_lost(&cluster.receipt(cluster.last_ripple("shop").id.as_str()));
    load.flows();
    let account = load.finish();
    account.nothing_lost(&cluster);
    assert!(account.report.all.frames_echoed > 0);
    cluster.until_serves("shop", "1.0.0", 3);
}

/// The receipt balances, names no failure, and shows neighbours that were never refused.
#[track_caller]
fn nothing_lost(receipt: &Receipt) {
    assert!(receipt.balanced, "{receipt:#?}");
    assert_eq!((receipt.unaccounted, receipt.failures.len()), (0, 0), "{receipt:#?}");
    for account in &receipt.accounts {
        assert_eq!((account.cut, account.failed, account.completed_5xx), (0, 0, 0), "{account:?}");
    }
    for neighbour in &receipt.neighbours {
        let harm = (neighbour.refused, neighbour.cut, neighbour.failed, neighbour.completed_5xx);
        assert_eq!(harm, (0, 0, 0, 0), "{neighbour:?}");
    }
    let mut neighbours: Vec<_> = receipt.neighbours.iter().map(|neighbour| neighbour.program.as_str()).collect();
    neighbours.sort_unstable();
    neighbours.dedup();
    assert_eq!(neighbours, ["mail", "site"]);
    assert_eq!(receipt.out_of_service.len(), 3, "{receipt:#?}");
}

#[test]
fn a_receipt_counts_just_what_clients_and_programs_count() {
    let cluster = Cluster::start();
    cluster.deploy(&shop("1.0.0"));
    cluster.deploy(&mail("1.0.0"));
    // It is counted here, not judged.
    let unjudged = "rollback_on = { error_rate = 0.5, p99_factor = 1000, min_requests = 20 }";
    let second = shop("2.0.0").slowly(1.0, 0.1).upgrade(r#"soak = "3s""#).upgrade(unjudged);
    let id = cluster.begin(&second, &[]);
    cluster.until_running(&id);
    let load = Load::start(&cluster, vec![Lane::to("shop", 120.0, brief()), Lane::to("mail", 40.0, letters())]);
    load.answered_by("2.0.0");
    crate::support::until("the last step soaks", crate::support::watch::RIPPLE, || {
        let ripple = cluster.ripple(&id)?;
        assert!(!ripple.state.ended(), "the soak was too short for this machine: {ripple:?}");
        let last = ripple.steps.iter().all(|step| matches!(step.state, StepState::Upgraded | StepState::Soaking));
        if last { Ok(()) } else { Err(crate::support::watch::show(&ripple)) }
    });
    let account = load.finish();
    assert!(!cluster.ripple(&id).unwrap().state.ended(), "the soak was too short for this machine");
    cluster.until_upgraded(&id);
    account.nothing_lost(&cluster);
    agree(&account, &cluster.receipt(&id));
}

/// Every request that a client sent is in the receipt, once.
fn agree(account: &Account, receipt: &Receipt) {
    let [shop, mail] = &account.report.targets[..] else { panic!("two targets") };
    let total = |count: fn(&neap::wire::api::Account) -> u64| receipt.accounts.iter().map(count).sum::<u64>();
    assert!(receipt.balanced, "{receipt:#?}");
    assert_eq!(total(|account| account.admitted), shop.counts.sent, "{receipt:#?}");
    assert_eq!(total(|account| account.completed), shop.counts.ok, "{receipt:#?}");
    assert_eq!(total(|account| account.active_at_end), 0, "{receipt:#?}");
    for (version, answers) in &shop.counts.by_version {
        let of_version = receipt.accounts.iter().filter(|account| account.version.as_str() == version);
        assert_eq!(of_version.map(|account| account.completed).sum::<u64>(), *answers, "{version}: {receipt:#?}");
    }
    let neighbour: u64 = receipt.neighbours.iter().map(|neighbour| neighbour.completed).sum();
    assert_eq!(neighbour, mail.counts.ok, "{receipt:#?}");
}
