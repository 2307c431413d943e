//! Owns the seam between a router and a server in one process: the one asks, the other answers, and neither knows the
//! other. Must not know what is asked and answered.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::watch;

use crate::app_server::{Direct, DirectDesk, DirectVisit};
use crate::domain::names::{Generation, ProgramName, RunId, ServerName, Version};
use crate::domain::session::HeldTag;
use crate::proxy::{About, HeadWriter, LongLived, Outcome, ResponseHead, Target};
use crate::router::{Desk, Here, Visit};

impl Here for Direct {
    fn name(&self) -> &ServerName {
        self.name()
    }

    fn run(&self) -> &RunId {
        self.run()
    }

    fn data(&self) -> SocketAddr {
        self.data()
    }

    fn desk(&self) -> Box<dyn Desk> {
        Box::new(self.desk())
    }

    fn nudges(&self) -> watch::Receiver<()> {
        self.nudges()
    }
}

impl Desk for DirectDesk {
    fn visit(&self, program: &ProgramName) -> Box<dyn Visit> {
        Box::new(self.visit(program))
    }

    fn nudged(&self) {
        self.nudged();
    }
}

impl Visit for DirectVisit {
    fn carry(&mut self, tag: Option<Rc<HeldTag>>, secure: bool) {
        self.carry(tag, secure);
    }

    fn write_headers(&self, out: &mut HeadWriter<'_>) {
        self.write_headers(out);
    }

    fn admit(&mut self, about: &About, now: Instant) -> Result<Target, Generation> {
        self.admit(about, now)
    }

    fn not_connected(&mut self) -> Option<Generation> {
        self.not_connected()
    }

    fn withdraw(&mut self) {
        self.withdraw();
    }

    fn answered(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        self.answered(head, out);
    }

    fn version(&self) -> Option<&Version> {
        self.version()
    }

    fn long_lived(&mut self, _: LongLived) {
        self.set_long_lived();
    }

    fn is_cut(&self) -> bool {
        self.is_cut()
    }

    fn ended(&mut self, outcome: Outcome, about: &About) {
        self.ended(outcome, about);
    }
}
