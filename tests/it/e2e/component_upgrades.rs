//! A component is upgraded while its users serve: who is restarted, who is not, and what bad commands do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use neap::traffic::{Mix, Request};
use neap::wire::api::{ComponentPlanView, RippleState, RippleView};
use neap::wire::page::Page;

use super::components::{Workshop, scan, shape, stale};
use crate::support::cluster::{Cluster, Ran};
use crate::support::load::{Lane, Load, letters};
use crate::support::release::mail;
use crate::support::{SOON, until, watch};

/// The processes of each program, sorted.
fn processes(cluster: &Cluster) -> BTreeMap<String, Vec<i32>> {
    let mut all = BTreeMap::<String, Vec<i32>>::new();
    for pid in cluster.instances() {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = environ.split(|byte| *byte == 0).find_map(|one| one.strip_prefix(b"NEAP_PROGRAM="));
        if let Some(name) = name {
            all.entry(String::from_utf8_lossy(name).into_owned()).or_default().push(pid);
        }
    }
    all.values_mut().for_each(|pids| pids.sort_unstable());
    all
}

/// Generations of a program's placements: they rise whenever a gate moves.
fn generations(cluster: &Cluster, program: &str) -> Vec<u64> {
    cluster.placements(program).unwrap().iter().map(|placement| placement.generation).collect()
}

fn plain() -> Mix {
    Mix::new(vec![Request::get("/")]).unwrap()
}

/// Three programs, of which two use one library of the machine, one of them through another; and the library.
fn three(cluster: &Cluster) -> (Workshop, std::path::PathBuf) {
    let workshop = Workshop::at(cluster.dir());
    let greet = workshop.install("libgreet.so.1", "greet", 1);
    workshop.install("libother.so.1", "other", 2);
    cluster.deploy(&workshop.direct("direct", "libgreet.so.1", "greet").upgrade(r#"soak = "0s""#));
    cluster.deploy(&workshop.through().upgrade(r#"soak = "0s""#));
    cluster.deploy(&workshop.direct("apart", "libother.so.1", "other").upgrade(r#"soak = "0s""#));
    scan(cluster);
    (workshop, greet)
}

fn upgrade(cluster: &Cluster, component: &Path, before: &[&str], run: &[&str]) -> Ran {
    let mut args = vec!["upgrade", "--component", component.to_str().unwrap()];
    args.extend(before);
    args.push("--run");
    args.extend(run);
    cluster.neap(&args)
}

/// The newest ripple of a component.
fn last(cluster: &Cluster) -> RippleView {
    let all: Page<RippleView> = cluster.ask("ripples").unwrap();
    let id = all.items.iter().find(|ripple| ripple.program.is_none()).unwrap().id.clone();
    cluster.ripple(id.as_str()).unwrap()
}

#[test]
fn a_component_is_upgraded_under_load_and_just_its_users_are_restarted() {
    let cluster = Cluster::shaped(shape(2));
    let (workshop, greet) = three(&cluster);
    cluster.deploy(&mail("1.0.0"));
    let new = workshop.build("libgreet.so.1", "greet", 3);
    let (from, to) = (new.to_str().unwrap(), greet.to_str().unwrap());
    // The servers of a test are one machine: what is there already is left as it is.
    let script = format!("cmp -s {from} {to} || {{ cp {from} {to}.new && mv {to}.new {to}; }} && echo replaced");
    let planned = upgrade(&cluster, &greet, &["--plan", "-o", "json"], &["sh", "-c", &script]);
    let plan: ComponentPlanView = serde_json::from_str(&planned.out).unwrap();
    let evidence: Vec<&str> = plan.programs.iter().map(|one| one.evidence.as_str()).collect();
    assert_eq!(
        evidence,
        [
            "direct → server → libgreet.so.1 (runpath)",
            "through → bin/server → libown.so (runpath) → libgreet.so.1 (runpath)"
        ]
    );
    assert!(plan.steps.iter().all(|step| step.programs.len() == 2), "{plan:#?}");

    let before = processes(&cluster);
    let still = [generations(&cluster, "apart"), generations(&cluster, "mail")];
    let load = Load::start(
        &cluster,
        vec![
            Lane::to("direct", 50.0, plain()),
            Lane::to("through", 50.0, plain()),
            Lane::to("apart", 50.0, plain()),
            Lane::to("mail", 30.0, letters()).versions(&["1.0.0"]),
        ],
    );
    let ran = upgrade(&cluster, &greet, &[], &["sh", "-c", &script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    load.flows();
    load.finish().nothing_lost(&cluster);

    let after = processes(&cluster);
    for program in ["direct", "through"] {
        assert_eq!(after[program].len(), 2, "{after:?}");
        assert!(after[program].iter().all(|pid| !before[program].contains(pid)), "{program} was restarted");
    }
    for program in ["apart", "mail"] {
        assert_eq!(after[program], before[program], "{program} was left alone");
    }
    assert_eq!([generations(&cluster, "apart"), generations(&cluster, "mail")], still, "their gates never moved");
    assert_eq!(stale(&cluster, &workshop.dir), [""; 0]);

    let ripple = last(&cluster);
    assert_eq!((ripple.state, ripple.parts.len()), (RippleState::Upgraded, 2));
    for step in &ripple.steps {
        let command = step.command.as_ref().unwrap();
        assert_eq!((&command.failure, &command.output[..]), (&None, &["replaced".to_owned()][..]));
    }
    for part in &ripple.parts {
        let receipt = cluster.receipt(part.id.as_str());
        assert!(receipt.balanced, "{receipt:#?}");
        assert!(receipt.accounts.iter().all(|account| (account.cut, account.failed) == (0, 0)), "{receipt:#?}");
    }
    let shown = cluster.well(&["ripple", "show", ripple.id.as_str()]).out;
    assert!(shown.contains("direct, through") && shown.contains("replaced"), "{shown}");
}

#[test]
fn a_command_that_fails_or_hangs_is_told_with_what_it_wrote_and_is_taken_back() {
    let cluster = Cluster::shaped(shape(2));
    let (workshop, greet) = three(&cluster);
    let mark = workshop.dir.join("taken-back");
    let undo = format!("sh -c 'echo once >> {}'", mark.display());
    let apart = processes(&cluster)["apart"].clone();
    let load = Load::start(&cluster, vec![Lane::to("direct", 50.0, plain()), Lane::to("through", 50.0, plain())]);
    let ran = upgrade(&cluster, &greet, &["--undo-run", &undo], &["sh", "-c", "echo no room left >&2; exit 7"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("exit status 7") && ran.err.contains("no room left"), "{ran:?}");
    until("it has undone itself", watch::RIPPLE, || {
        let undo = last(&cluster);
        if undo.undoes.is_some() && undo.state == RippleState::Undone { Ok(()) } else { Err(format!("{undo:#?}")) }
    });
    assert_eq!(fs::read_to_string(&mark).unwrap(), "once\n", "on the one server that was touched");

    let hung = upgrade(&cluster, &greet, &["--run-timeout", "1s"], &["sleep", "600"]);
    assert_eq!(hung.code, 1, "{hung:?}");
    assert!(hung.err.contains("not done within 1s"), "{hung:?}");
    let told = last(&cluster);
    assert_eq!(told.state, RippleState::Failed);
    let refused = cluster.neap(&["ripple", "undo", told.id.as_str()]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.err.contains("no command that takes it back"), "{refused:?}");
    for program in ["direct", "through"] {
        cluster.until_serves(program, "1", 2);
    }
    load.flows();
    load.finish().nothing_lost(&cluster);
    assert_eq!(processes(&cluster)["apart"], apart);
}

#[test]
fn what_is_asked_of_a_component_wrongly_is_refused_plainly() {
    let cluster = Cluster::shaped(shape(1));
    let workshop = Workshop::at(cluster.dir());
    let greet = workshop.install("libgreet.so.1", "greet", 1);
    cluster.deploy(&workshop.direct("direct", "libgreet.so.1", "greet"));
    scan(&cluster);
    let unknown = upgrade(&cluster, Path::new("libnothing.so.9"), &[], &["true"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("libnothing.so.9") && unknown.err.contains("neap component ls"), "{unknown:?}");
    let only = upgrade(&cluster, &greet, &[], &["true"]);
    assert_eq!(only.code, 5, "{only:?}");
    assert!(only.err.contains("direct") && only.err.contains("--hold"), "{only:?}");
    let nothing = cluster.neap(&["upgrade", "--component", greet.to_str().unwrap()]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    let open = upgrade(&cluster, &greet, &["--undo-run", "sh -c 'open"], &["true"]);
    assert_eq!(open.code, 2, "{open:?}");
    // Where routers hold requests meanwhile, the only server may go.
    let held = upgrade(&cluster, &greet, &["--hold", "20s"], &["true"]);
    assert_eq!(held.code, 0, "{held:?}");
}

#[test]
fn a_server_that_dies_while_the_command_runs_waits_for_it_and_says_that_it_does_not_know() {
    let mut cluster = Cluster::shaped(shape(2));
    let (workshop, greet) = three(&cluster);
    let (begun, ended) = (workshop.dir.join("begun"), workshop.dir.join("ended"));
    let script = format!("echo > {}; sleep 3; echo > {}", begun.display(), ended.display());
    let begin = upgrade(&cluster, &greet, &["--detach"], &["sh", "-c", &script]);
    assert_eq!(begin.code, 0, "{begin:?}");
    until("the command runs", SOON, || if begun.exists() { Ok(()) } else { Err("not yet".to_owned()) });
    let ripple = last(&cluster);
    let at = ripple.steps.iter().find(|step| step.times.command_ms.is_none()).unwrap().server.to_string();
    cluster.node(&at).kill9();
    cluster.node(&at).start();
    let over = until("it has ended", watch::RIPPLE, || {
        let ripple = cluster.ripple(ripple.id.as_str())?;
        if ripple.state.ended() { Ok(ripple) } else { Err(format!("{ripple:#?}")) }
    });
    assert!(ended.exists(), "the command was not killed with its node, and was waited for");
    assert_eq!(over.state, RippleState::Failed, "{over:#?}");
    assert!(over.reason.as_ref().unwrap().contains("not known"), "{over:#?}");
    for program in ["direct", "through", "apart"] {
        cluster.until_serves(program, "1", 2);
    }
}
