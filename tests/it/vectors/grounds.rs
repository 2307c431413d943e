//! Owns what stands between client and upstream: a router, a server, or the one before the other. Must not know vectors.

use std::io::IoSliceMut;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use neap::domain::manifest;
use neap::domain::names::{Generation, NodeName, RunId, Version};
use neap::domain::placement::State;
use neap::wire::messages::{Prepared, RouterList, RouterPlacement, RouterProgram, RouterServer};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::upstream::Upstream;
use crate::app_server::ground::{self, Ground, Node, eventually};
use crate::router::support::{Under, config, stamp};

/// Bodies larger than this are 413; small, so that a vector can show it.
const BODY_LIMIT: &str = "128KiB";

/// A server with the program, whose place an upstream of this test has taken.
pub struct Server {
    pub node: Node,
    pub upstream: Upstream,
    _ground: Ground,
}

impl Server {
    /// Installs a program that does nothing but open its port and hand it over, so that each byte and each end of a
    /// connection is the server's own.
    pub async fn start() -> Self {
        let mut ground = Ground::new();
        ground.workers = 1;
        let path = ground.dir.path().join("handed");
        let socket = UnixListener::bind(&path).unwrap();
        let script = format!(
            "import signal, socket, sys\n\
             port = socket.socket()\n\
             port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
             port.bind((\"127.0.0.1\", int(sys.argv[1])))\n\
             port.listen(128)\n\
             there = socket.socket(socket.AF_UNIX)\n\
             there.connect({:?})\n\
             socket.send_fds(there, [b\"x\"], [port.fileno()])\n\
             signal.pause()\n",
            path.display().to_string()
        );
        let node = ground.node().await;
        let more = format!("body_limit = '{BODY_LIMIT}'\n[health]\ninterval = '60s'\n");
        let made = ground.release("1.0", &script, &more);
        ground.seal(&node).await;
        assert_eq!(ground.prepare(&node, &made).await, Prepared::Ready);
        let operation = ground.operation();
        let obeyed = ground.order(&node, &operation, Generation(0), ground.upgrade_to(&made.0, false)).await;
        assert_eq!(obeyed.refusal, None);
        ground.until_state(&node, State::Open).await;
        socket.set_nonblocking(true).unwrap();
        let there = eventually("the program hands its port over", async || socket.accept().ok()).await.0;
        there.set_nonblocking(false).unwrap();
        let upstream = Upstream::on(received(&there));
        Self { node, upstream, _ground: ground }
    }
}

fn received(there: &std::os::unix::net::UnixStream) -> TcpListener {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(there, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty()).unwrap();
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    descriptors.next().expect("a descriptor was sent").into()
}

/// A router that knows the program at `to`: by any path, at `/strip` without that prefix; and another, at `/admin`.
pub async fn router(dir: &Path, to: SocketAddr, run: &RunId) -> Under {
    let mut config = config(dir);
    config.workers = 1;
    let under = Under::test(config).await;
    under.tell(list(to, run)).await;
    under
}

fn list(to: SocketAddr, run: &RunId) -> RouterList {
    let server = NodeName::new("s1").unwrap();
    let placement = RouterPlacement {
        server: server.clone(),
        run: Some(run.clone()),
        generation: Generation(1),
        version: Some(Version::new("1.0").unwrap()),
        takes_requests: true,
        keeps_sessions: false,
        active: 0,
        by_router: Default::default(),
    };
    let program = |name: &str, routes: &str| {
        let text = format!(
            "name = \"{name}\"\nversion = \"1.0\"\nroutes = [{routes}]\nstrip_prefix = true\n\
             [static]\nroot = \"public\"\nbody_limit = \"{BODY_LIMIT}\"\n"
        );
        let manifest = manifest::parse("program.toml", &text).unwrap();
        RouterProgram { manifest, placements: vec![placement.clone()], forward: None }
    };
    RouterList {
        stamp: stamp(1),
        since: None,
        servers: vec![RouterServer { name: server, data: to, up: true }],
        programs: vec![
            program(ground::shop().as_str(), "\"*/\", \"*/strip\""),
            program("admin", "\"*/admin\", \"admin.example.org/\""),
        ],
        removed: Vec::new(),
    }
}
