//! A program that something else runs: a real nginx, upgraded, reloaded and restarted by its own commands under load.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use neap::traffic::{Mix, Request};
use neap::wire::api::RippleState;

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load};
use crate::support::watch::show;
use crate::support::{SOON, until};

/// An nginx below a directory; stopped when dropped. `None`: there is none on this machine, which is told; where CI is
/// set, that is a failure.
struct Nginx {
    dir: PathBuf,
    port: u16,
}

impl Nginx {
    fn prepare(dir: &Path) -> Option<Self> {
        let binary = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let Some(binary) = binary else {
            assert!(std::env::var_os("CI").is_none(), "nginx is missing: apt-get install nginx-light");
            eprintln!("NOT TESTED: nginx is missing: apt-get install nginx-light");
            return None;
        };
        let dir = dir.join("nginx");
        fs::create_dir_all(dir.join("tmp")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.display();
        let conf = format!(
            "daemon on;\nuser root;\nworker_processes 1;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\n\
             events {{ worker_connections 256; }}\nhttp {{\n access_log off;\n client_body_temp_path {at}/tmp;\n\
             proxy_temp_path {at}/tmp;\n fastcgi_temp_path {at}/tmp;\n uwsgi_temp_path {at}/tmp;\n\
             scgi_temp_path {at}/tmp;\n server {{ listen 127.0.0.1:{port}; root {at}/current/public; }}\n}}\n"
        );
        fs::write(dir.join("nginx.conf"), conf).unwrap();
        // What an administrator would have: one command that takes a release's directory, and one each to stop and start.
        let run = format!("{binary} -p {at} -c {at}/nginx.conf");
        let script = format!(
            "#!/bin/sh\nset -e\ncase $1 in\n\
             use) test -f $2/public/index.html; ln -sfn $2 {at}/next; mv -T {at}/next {at}/current;;\n\
             reload) $0 use $2; if [ -e {at}/nginx.pid ]; then {run} -s reload; else {run}; fi;;\n\
             start) $0 stop; {run};;\n\
             stop) if [ -e {at}/nginx.pid ]; then {run} -s quit; while [ -e {at}/nginx.pid ]; do sleep 0.02; done; fi;;\n\
             esac\n"
        );
        fs::write(dir.join("ctl"), script).unwrap();
        fs::set_permissions(dir.join("ctl"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Some(Self { dir, port })
    }

    /// A release of a site; `how` are its commands.
    fn release(&self, into: &Path, version: &str, how: &str) -> PathBuf {
        let dir = into.join(format!("web-{version}"));
        fs::create_dir_all(dir.join("public")).unwrap();
        fs::write(dir.join("public/index.html"), format!("this is version {version}\n")).unwrap();
        let (ctl, port) = (self.dir.join("ctl").display().to_string(), self.port);
        let manifest = format!(
            "name = \"web\"\nversion = \"{version}\"\nroutes = [\"*/web\"]\nstrip_prefix = true\n[external]\n\
             url = \"http://127.0.0.1:{port}\"\n{}\n[health]\npath = \"/\"\nstart_timeout = \"5s\"\n\
             [upgrade]\nsoak = \"0s\"\nhold = \"20s\"\n",
            how.replace("CTL", &ctl)
        );
        fs::write(dir.join("program.toml"), manifest).unwrap();
        dir
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new(self.dir.join("ctl")).arg("stop").status();
    }
}

const RELOADED: &str = "upgrade = [\"CTL\", \"reload\", \"{dir}\"]";
const RESTARTED: &str =
    "stop = [\"CTL\", \"stop\"]\nupgrade = [\"CTL\", \"use\", \"{dir}\"]\nstart = [\"CTL\", \"start\"]";

fn answers(cluster: &Cluster, version: &str) {
    until(&format!("{version} answers"), SOON, || {
        let answer = cluster.get("/web/", std::time::Duration::from_secs(5))?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        if body.contains(version) { Ok(()) } else { Err(body) }
    });
}

#[test]
fn an_nginx_is_upgraded_by_reload_and_by_restart_under_load_and_loses_nothing() {
    let mut cluster = Cluster::shaped(Shape { servers: 1, ..Shape::default() });
    let Some(nginx) = Nginx::prepare(cluster.dir()) else { return };
    let deploy = |cluster: &Cluster, version: &str, how: &str| {
        let dir = nginx.release(cluster.dir(), version, how);
        cluster.neap(&["deploy", dir.to_str().unwrap()])
    };
    let first = deploy(&cluster, "1.0.0", RELOADED);
    assert_eq!(first.code, 0, "{first:?}");
    answers(&cluster, "1.0.0");
    let load = Load::start(&cluster, vec![Lane::to("web", 60.0, Mix::new(vec![Request::get("/")]).unwrap())]);
    for (version, how) in [("2.0.0", RELOADED), ("3.0.0", RESTARTED), ("4.0.0", RESTARTED)] {
        let ran = deploy(&cluster, version, how);
        assert_eq!(ran.code, 0, "{version}: {ran:?}");
        answers(&cluster, version);
        load.flows();
    }
    cluster.well(&["program", "restart", "web"]);
    // One whose command fails is taken back by the commands of the one before.
    let dir = nginx.release(cluster.dir(), "5.0.0", "upgrade = [\"sh\", \"-c\", \"echo no room; exit 9\"]");
    let ran = cluster.neap(&["deploy", dir.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("exit status 9") && ran.err.contains("no room"), "{ran:?}");
    answers(&cluster, "4.0.0");
    let ripple = cluster.last_ripple("web");
    assert_eq!(ripple.state, RippleState::Failed, "{}", show(&ripple));
    load.flows();
    let account = load.finish();
    assert!(account.report.passed, "{:#?}", account.report.all.errors);
    // The node's death is not its death, and the next run of the node brings nothing again.
    let pid = fs::read_to_string(nginx.dir.join("nginx.pid")).unwrap();
    cluster.node("server-1").kill9();
    cluster.node("server-1").start();
    cluster.until_serves("web", "4.0.0", 1);
    answers(&cluster, "4.0.0");
    assert_eq!(fs::read_to_string(nginx.dir.join("nginx.pid")).unwrap(), pid);
}
