use std::collections::BTreeMap;

use super::*;
use crate::domain::names::{ServerName, Sha256, Version};

fn component(name: &str) -> Component {
    let version = Some(ComponentVersion { by: VersionBy::Package, text: "1".into() });
    Component { name: ComponentName::new(name).unwrap(), kind: Kind::Package, version }
}

fn evidence(source: Source, can_load: bool, chain: &[(&str, How)]) -> Evidence {
    let chain = chain.iter().map(|(name, how)| Hop { name: (*name).to_owned(), how: *how }).collect();
    Evidence { source, can_load, chain }
}

fn sighting(name: &str, evidence: Evidence) -> Sighting {
    Sighting { component: component(name), file: Some(format!("/lib/{name}")), evidence, stale: None }
}

fn needed(name: &str) -> Sighting {
    sighting(name, evidence(Source::Static, false, &[("bin/server", How::Command), (name, How::Runpath)]))
}

fn loadable(name: &str) -> Sighting {
    sighting(name, evidence(Source::Static, true, &[("python3", How::Command), (name, How::Cache)]))
}

fn usage(program: &str, sightings: Vec<Sighting>) -> Usage {
    let release = Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) };
    let edges = compile(sightings, 100).edges;
    Usage { program: ProgramName::new(program).unwrap(), release, edges, unread: Vec::new() }
}

#[test]
fn evidence_reads_as_the_way_from_the_program_to_the_component() {
    let told = evidence(Source::Static, false, &[("bin/server", How::Command), ("libssl.so.3", How::Runpath)]);
    assert_eq!(told.to_string(), "bin/server → libssl.so.3 (runpath)");
}

#[test]
fn sources_are_kept_apart_and_the_shortest_evidence_of_each_stays() {
    let long = [("bin/server", How::Command), ("liba.so", How::Rpath), ("libssl3", How::Cache)];
    let mapped = evidence(Source::Observed, false, &[("/lib/libssl3", How::Mapped)]);
    let all = vec![
        sighting("libssl3", evidence(Source::Static, false, &long)),
        needed("libssl3"),
        sighting("libssl3", mapped.clone()),
    ];
    let mut backwards = all.clone();
    backwards.reverse();
    let compiled = compile(all, 10);
    assert_eq!(compile(backwards, 10), compiled, "the order of looking does not matter");
    let [edge] = &compiled.edges[..] else { panic!("{compiled:?}") };
    assert_eq!(edge.evidence, [needed("libssl3").evidence, mapped]);
    assert_eq!(edge.files, ["/lib/libssl3"]);
}

#[test]
fn what_an_interpreter_can_only_load_is_shown_and_quiesces_nobody() {
    let edges = compile([loadable("libssl3"), loadable("libz"), needed("libz")], 10).edges;
    assert_eq!(edges.iter().map(Edge::quiesces).collect::<Vec<_>>(), [false, true]);
    assert_eq!(edges[1].evidence.len(), 1, "what is needed is not told to be loadable as well");
    let observed = sighting("libssl3", evidence(Source::Observed, false, &[("/lib/libssl3", How::Mapped)]));
    let edges = compile([loadable("libssl3"), observed], 10).edges;
    assert!(edges[0].quiesces() && edges[0].evidence.len() == 2);
}

#[test]
fn a_bound_leaves_out_the_loadable_first_and_says_so() {
    let compiled = compile([loadable("a"), needed("b"), needed("c"), loadable("d")], 2);
    assert_eq!(compiled.edges.iter().map(|edge| edge.component.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    let unread = compiled.unread.unwrap().to_string();
    assert!(unread.contains("2 more components") && unread.contains("[app_server.limits]"), "{unread}");
}

fn disk(inode: u64, modified: i64) -> Disk {
    Disk { id: FileId { device: 0x0801, inode }, size: 10, modified }
}

fn seen(inode: u64) -> Seen {
    let then = disk(inode, 1);
    let file = "/lib/liba.so.1.0".to_owned();
    Seen { file, id: then.id, component: component("a"), then: Some(then), running: None, mapped: true, deleted: false }
}

#[test]
fn memory_that_differs_from_disk_is_stale_and_says_how() {
    let why = |seen: &Seen, own, named| seen.judge(own, named).map(|stale| stale.why);
    let same = disk(1, 1);
    assert_eq!(why(&seen(1), Some(same), Some(same)), None);
    assert_eq!(why(&seen(1), Some(same), None), None);
    assert_eq!(why(&seen(1), None, None), Some(Replaced::Deleted));
    assert_eq!(why(&seen(1), Some(disk(2, 1)), None), Some(Replaced::Replaced));
    assert_eq!(why(&seen(1), Some(disk(1, 2)), None), Some(Replaced::Rewritten));
    assert_eq!(why(&seen(1), Some(same), Some(disk(2, 1))), Some(Replaced::Relinked));
    // An inode number is given again: the kernel's word stands.
    assert_eq!(why(&Seen { deleted: true, ..seen(1) }, Some(same), None), Some(Replaced::Replaced));
    assert_eq!(why(&Seen { mapped: false, ..seen(1) }, None, None), None, "it is not in memory any more");
}

#[test]
fn file_systems_without_a_device_number_are_compared_by_inode_alone() {
    let at = |device, inode| Disk { id: FileId { device, inode }, ..disk(1, 1) };
    let on = |device| Seen { id: FileId { device, inode: 1 }, then: Some(at(device, 1)), ..seen(1) };
    assert_eq!(on(0x1c).judge(Some(at(0x2f, 1)), None), None);
    assert!(on(0x1c).judge(Some(at(0x2f, 2)), None).is_some());
    assert!(on(0x0801).judge(Some(at(0x0802, 1)), None).is_some());
}

#[test]
fn what_was_seen_since_the_instance_started_is_remembered_and_another_instance_begins_anew() {
    let mut memory = Memory::default().of("one");
    assert_eq!(memory.take_in(vec![seen(1), seen(2)], 10), 0);
    let renamed = Seen { file: "/lib/moved".into(), deleted: true, ..seen(1) };
    assert_eq!(memory.take_in(vec![renamed, seen(3)], 2), 1, "a third finds no place");
    assert_eq!(
        memory.seen.iter().map(|seen| (seen.id.inode, seen.mapped)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    assert!(memory.seen[0].file == "/lib/liba.so.1.0" && memory.seen[0].deleted, "as it was seen first");
    let mut later = memory.clone();
    assert_eq!(later.take_in(vec![Seen { file: "/lib/libnew.so".into(), ..seen(2) }], 10), 0);
    assert_eq!(later.seen.len(), 3, "the number of a file that is gone was given to another");
    assert_eq!(memory.clone().of("one"), memory);
    assert_eq!(memory.of("two").seen, []);
}

fn list(most: usize) -> (ComponentsList, ServerName, Taken) {
    let (mut list, server) = (ComponentsList::default(), ServerName::new("app-1").unwrap());
    let sent = [usage("shop", vec![needed("libssl3"), needed("libc6")]), usage("mail", vec![loadable("libssl3")])];
    let has = sent.iter().map(|usage| (usage.program.clone(), Sha256([7; 32]))).collect();
    let sent = sent.into_iter().map(|usage| (usage, Sha256([7; 32]), 100)).collect();
    let taken = list.take(&server, &has, sent, most);
    (list, server, taken)
}

#[test]
fn the_list_goes_from_component_to_programs() {
    let (list, ..) = list(1_000);
    let name = ComponentName::new("libssl3").unwrap();
    let uses: Vec<_> = list.of(&name).iter().map(|one| (one.usage.program.to_string(), one.edge.quiesces())).collect();
    assert_eq!(uses, [("mail".to_owned(), false), ("shop".to_owned(), true)]);
    assert_eq!(list.named_by_file("/lib/libssl3"), [&name]);
    assert_eq!(list.named_by_file("libssl3"), [&name]);
    assert_eq!(list.named_by_file("ssl"), [&name; 0]);
}

#[test]
fn what_a_server_has_no_more_is_dropped_and_what_it_has_still_is_kept() {
    let (mut list, server, _) = list(1_000);
    let shop = ProgramName::new("shop").unwrap();
    let has = BTreeMap::from([(shop.clone(), Sha256([7; 32]))]);
    let taken = list.take(&server, &has, Vec::new(), 1_000);
    assert_eq!((taken.kept.len(), taken.dropped.len()), (0, 1));
    assert_eq!(list.digests(&server), has);
    assert_eq!(list.usage(&server, &shop).unwrap().edges.len(), 2);
    // A usage that the server does not claim to have is none of its own.
    let stray = (usage("stray", vec![needed("libc6")]), Sha256([8; 32]), 100);
    assert_eq!(list.take(&server, &has, vec![stray], 1_000), Taken::default());
}

#[test]
fn more_than_the_bound_is_refused_and_what_was_known_of_it_goes() {
    let (mut list, server, taken) = list(150);
    assert_eq!((taken.kept.len(), taken.refused.len()), (1, 1));
    let has = BTreeMap::from([(ProgramName::new("shop").unwrap(), Sha256([7; 32]))]);
    let grown = (usage("shop", vec![needed("libc6")]), Sha256([9; 32]), 200);
    assert_eq!(list.take(&server, &has, vec![grown], 150).refused.len(), 1);
    assert!(list.digests(&server).is_empty() && list.uses().count() == 0);
}
