//! Instances that outlive their node.

use super::*;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use neap::programs::adopt::{self, Found};
use neap::programs::instance::{Exit, InstanceRecord};
use neap::programs::logs;
use neap::programs::orphans::Orphans;
use neap::programs::probe;
use neap::programs::stop;

#[actix_rt::test]
async fn a_program_without_its_name_in_its_environment_is_still_adopted() {
    let ground = Ground::new("[process]\ncommand = ['env', '-i', 'sleep', '600']\n");
    let launched = ground.launch().await;
    let record = launched.record().clone();
    let bare = || fs::read_to_string(format!("/proc/{}/cmdline", record.pid)).ok().filter(|l| l.starts_with("sleep"));
    eventually("it runs without environment", bare).await;
    let Found::Alive(adopted) = adopt::adopt(&record, &ground.ports).unwrap() else { panic!("it lives") };
    assert!(!stop_now(&adopted).await.killed);
    assert_eq!(launched.exited().await, Exit::Signal(15));
}

/// Not a test of its own: the node that `…dies_with…` and `…outlives…` kill. It launches as its environment says.
#[actix_rt::test]
async fn helper_node_that_is_killed() {
    let Ok(data_dir) = std::env::var("TEST_NODE_DIR") else { return };
    let mut ground = Ground::python(SERVER, "");
    ground.around.data_dir = PathBuf::from(&data_dir);
    fs::create_dir_all(ground.room()).unwrap();
    fs::write(ground.room().join("main.py"), SERVER).unwrap();
    let waiting = ground.spawn().await.unwrap();
    let record = Path::new(&data_dir).join("record.json");
    let persist = |record: &InstanceRecord, path: &Path| {
        fs::write(path.with_extension("tmp"), serde_json::to_vec(record).unwrap()).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    };
    if std::env::var("TEST_NODE_GO").is_ok() {
        let (known, log) = (waiting.record().clone(), ground.around.log(&ground.manifest.name, &waiting.record().name));
        let instance = waiting.go().await.unwrap();
        probe::started(&instance, &ground.manifest.health, &log).await.unwrap();
        persist(&known, &record);
    } else {
        persist(waiting.record(), &record);
        std::mem::forget(waiting);
    }
    std::future::pending::<()>().await;
}

/// Runs the helper node in `dir` until it has recorded its instance, and kills it.
async fn killed_node(dir: &Path, go: bool) -> InstanceRecord {
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["--exact", "programs::adoption::helper_node_that_is_killed", "--nocapture"]);
    node.env("TEST_NODE_DIR", dir).stdout(Stdio::null());
    if go {
        node.env("TEST_NODE_GO", "1");
    }
    let mut node = node.spawn().unwrap();
    let read = || serde_json::from_slice(&fs::read(dir.join("record.json")).ok()?).ok();
    let record: InstanceRecord = eventually("the helper's record", read).await;
    assert!(lives(record.pid));
    node.kill().unwrap();
    node.wait().unwrap();
    record
}

#[actix_rt::test]
async fn a_child_whose_parent_dies_before_the_word_ends_with_it() {
    let ground = Ground::python(SERVER, "");
    let record = killed_node(&ground.around.data_dir, false).await;
    eventually("the child ends", || (!lives(record.pid)).then_some(())).await;
    assert!(matches!(adopt::adopt(&record, &ground.ports).unwrap(), Found::Gone));
    assert!(TcpStream::connect(("127.0.0.1", record.port)).is_err());
}

#[actix_rt::test]
async fn a_launcher_that_never_got_the_word_is_not_adopted() {
    let ground = Ground::python(SERVER, "");
    let waiting = ground.spawn().await.unwrap();
    let record = waiting.record().clone();
    let cmdline = || fs::read_to_string(format!("/proc/{}/cmdline", record.pid)).unwrap();
    eventually("the launcher waits", || cmdline().contains("launch-instance").then_some(())).await;
    assert!(matches!(adopt::adopt(&record, &ground.ports).unwrap(), Found::Gone));
    assert_eq!(stop::kill_rest(&record).await.unwrap(), 1);
    assert!(!lives(record.pid));
}

#[actix_rt::test]
async fn an_instance_outlives_its_node_and_is_adopted_by_the_next() {
    let ground = Ground::python(SERVER, "[health]\npath = '/'\n");
    let record = killed_node(&ground.around.data_dir, true).await;
    assert!(get(record.port, "GET / HTTP/1.1").starts_with("HTTP/1.0 200"));
    assert_eq!(adopt::strays(&ground.scope(), &[]).len(), 1);
    assert!(adopt::strays(&ground.scope(), std::slice::from_ref(&record.name)).is_empty());

    for other in [
        InstanceRecord { start_time: record.start_time + 1, ..record.clone() },
        InstanceRecord { boot_id: "another".into(), ..record.clone() },
        InstanceRecord { name: "another".into(), ..record.clone() },
        InstanceRecord { pid: 1, ..record.clone() },
    ] {
        assert!(matches!(adopt::adopt(&other, &ground.ports).unwrap(), Found::Gone), "{other:?}");
    }
    let Found::Alive(instance) = adopt::adopt(&record, &ground.ports).unwrap() else { panic!("it lives") };
    assert!(instance.is_adopted() && instance.try_exited().is_none());
    probe::probe(([127, 0, 0, 1], record.port).into(), &ground.manifest.health).await.unwrap();
    assert_ne!(ground.ports.lease().unwrap().port(), record.port);
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Unknown, false));
    assert!(!lives(record.pid));
    assert!(matches!(adopt::adopt(&record, &ground.ports).unwrap(), Found::Gone));
}

#[actix_rt::test]
async fn the_exit_of_an_adopted_instance_is_noticed_and_its_rest_is_killed() {
    let ground = Ground::python(STUBBORN, "");
    let launched = ground.run().await;
    let record = launched.record().clone();
    let child: u32 = logs::tail(&ground.log(&launched), 1)[0].parse().unwrap();
    let Found::Alive(adopted) = adopt::adopt(&record, &ground.ports).unwrap() else { panic!("it lives") };
    launched.signal(rustix::process::Signal::KILL).unwrap();
    let exit = tokio::time::timeout(DEADLINE, adopted.exited()).await.unwrap();
    assert_eq!(exit, Exit::Unknown);
    assert_eq!(launched.exited().await, Exit::Signal(9));
    assert!(lives(child));
    assert_eq!(stop::kill_rest(&record).await.unwrap(), 1);
    assert!(!lives(child));
}

const SLOW: &str = "
import socket, sys, time
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
held = [s.accept() for _ in range(2)]
print('both', flush=True)
while True: time.sleep(1)
";

#[actix_rt::test]
async fn connections_of_a_dead_node_are_orphans_until_the_instance_ends() {
    let ground = Ground::python(SLOW, "");
    let instance = ground.run().await; // The probe's connection is the first that it accepts.
    let port = instance.record().port;
    let request = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let own = request.local_addr().unwrap().port();
    let log = ground.log(&instance);
    eventually("both accepted", || logs::tail(&log, 1).first().filter(|line| *line == "both").map(|_| ())).await;
    drop(request);
    let mut orphans = Orphans::at_boot(port).unwrap();
    assert!(orphans.remote_ports().contains(&own));
    assert!(orphans.remaining().unwrap() >= 1);
    stop_now(&instance).await;
    assert_eq!(orphans.remaining().unwrap(), 0);
}
