//! How an instance starts, and what is said when it does not.

use super::*;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use neap::programs::adopt;
use neap::programs::instance::Exit;
use neap::programs::open_files;
use neap::programs::probe::{self, StartReason};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[actix_rt::test]
async fn a_program_is_launched_probed_and_stopped_by_its_signal() {
    let ground = Ground::python(SERVER, "[health]\npath = '/'\n");
    let instance = ground.run().await;
    let port = instance.record().port;
    assert!(get(port, "GET /main.py HTTP/1.1").starts_with("HTTP/1.0 200"));
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), false));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[actix_rt::test]
async fn the_environment_is_clean() {
    let ground = Ground::new("[process]\ncommand = ['sleep', '60']\nenv = { MODE = '{version} on {node}' }\n");
    let instance = ground.launch().await;
    let environ = environ_of(instance.record().pid, "sleep").await;
    let mut names: Vec<&str> = environ.split_terminator('\0').map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    let expected = "HOME LANG MODE NEAP_INSTANCE NEAP_NODE NEAP_PROGRAM NEAP_VERSION PATH PORT";
    assert_eq!(names.join(" "), expected);
    let home = ground.around.data(&ground.manifest.name);
    for expected in ["MODE=1.0 on s1".to_owned(), format!("HOME={}", home.display()), "NEAP_PROGRAM=shop".into()] {
        assert!(environ.split('\0').any(|line| line == expected), "{expected}");
    }
    assert_eq!(fs::metadata(home).unwrap().permissions().mode() & 0o777, 0o700);
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_program_may_open_as_many_files_as_before_its_node_took_all_that_there_are() {
    let bound = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(900), ..bound }).unwrap();
    let (all, taken) = (open_files::take_all(), getrlimit(Resource::Nofile));
    assert!(all == bound.maximum && taken.current == bound.maximum, "{taken:?}");
    let ground = Ground::new("[process]\ncommand = ['sleep', '60']\n");
    let instance = ground.launch().await;
    environ_of(instance.record().pid, "sleep").await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", instance.record().pid)).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("900"), "{files}");
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_program_that_exits_at_once_fails_fast_with_its_status_and_its_last_lines() {
    let script = "import sys\nfor i in range(30): print('line', i)\nsys.exit('no database')";
    let ground = Ground::python(script, "");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::Exited(Exit::Status(1)));
    assert!(failure.after < ground.manifest.health.start_timeout / 2);
    assert_eq!(failure.lines.len(), probe::LINES_SHOWN);
    assert_eq!(failure.lines.last().map(String::as_str), Some("no database"));
    assert!(failure.to_string().contains("exit status 1"), "{failure}");
    assert_eq!(instance.try_exited(), Some(Exit::Status(1)));
}

#[actix_rt::test]
async fn a_program_that_cannot_be_run_says_which_and_why() {
    let ground = Ground::new("[process]\ncommand = ['./missing']\n");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::Exited(Exit::Status(127)));
    assert!(failure.lines.join("").contains("cannot start ./missing"), "{:?}", failure.lines);
}

#[actix_rt::test]
async fn a_program_that_listens_on_nothing_or_elsewhere_is_told_so() {
    let short = "[health]\nstart_timeout = '1s'\n";
    let ground = Ground::python("import time; time.sleep(60)", short);
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    assert_eq!(failure.reason, StartReason::ListensOnNothing { port: instance.record().port, others: vec![] });
    stop_now(&instance).await;

    let elsewhere =
        "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\nprint(s.getsockname()[1])\ntime.sleep(60)";
    let ground = Ground::python(elsewhere, short);
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err();
    let port: u16 = failure.lines[0].parse().unwrap();
    assert_eq!(
        failure.reason,
        StartReason::ListensOnNothing { port: instance.record().port, others: vec![port] },
        "{failure}"
    );
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_program_that_is_never_healthy_fails_with_what_it_answered() {
    let ground = Ground::python(SERVER, "[health]\npath = '/healthz'\nstart_timeout = '1s'\n");
    let instance = ground.launch().await;
    let failure = ground.started(&instance).await.unwrap_err().to_string();
    assert!(failure.contains("GET /healthz answered 404"), "{failure}");
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_foreign_listener_on_the_port_is_not_taken_for_the_program() {
    let ground = Ground::python("import time; time.sleep(60)", "[health]\nstart_timeout = '1s'\n");
    let waiting = ground.spawn().await.unwrap();
    let _other = TcpListener::bind(("127.0.0.1", waiting.record().port)).unwrap();
    let instance = waiting.go().await.unwrap();
    let failure = ground.started(&instance).await.unwrap_err();
    assert!(matches!(failure.reason, StartReason::ForeignListener { .. }), "{failure}");
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_child_without_the_word_never_becomes_the_program() {
    let ground = Ground::python("open('started', 'w')", "");
    let waiting = ground.spawn().await.unwrap();
    let pid = waiting.record().pid;
    assert!(lives(pid));
    let cmdline = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    eventually("the launcher waits", || cmdline().contains("launch-instance").then_some(())).await;
    drop(waiting);
    assert!(!lives(pid));
    assert!(!ground.room().join("started").exists());
    assert!(adopt::strays(&ground.scope(), &[]).is_empty());
}

#[actix_rt::test]
async fn an_env_file_that_others_may_read_stops_the_launch_and_frees_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    fs::write(&secrets, "TOKEN=x").unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    let ground = Ground::new(&format!("[process]\ncommand = ['sleep', '60']\nenv_file = '{}'\n", secrets.display()));
    let told = ground.spawn().await.unwrap_err().to_string();
    assert!(told.contains("its mode is 0644") && told.contains("chmod 600"), "{told}");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let waiting = ground.spawn().await.unwrap();
    let environ = environ_of(waiting.record().pid, "launch-instance").await;
    assert!(environ.contains("TOKEN=x"));
}
