//! Owns where a session's request should go, from nothing but its tag and the Server List: any router, also one that has
//! just started, decides alike; and neap's own cookies, which no program sees. Must not know how a request is sent there.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::snapshot::{Placement, Program};
use crate::domain::names::{ProgramName, Version};
use crate::domain::program::SessionPolicy;
use crate::domain::routing::{Candidate, Fit, Standing};
use crate::domain::session::{self, Cookies, HeldTag, RememberedTags};
use crate::link::tag_keys::TagKeys;
use crate::proxy::{HeadWriter, RequestHead};

/// To a server's data port: the session's tag, as its client sent it.
pub const TAG: &str = "Neap-Tag";
const COOKIE: &str = "Cookie";
/// What most others take.
const OTHERS_BYTES: usize = 512;

/// What a request of a program with sessions carries.
pub struct Carried {
    /// Its client came through TLS.
    pub secure: bool,
    pub tag: Option<Rc<HeldTag>>,
    has_own: bool,
}

impl Carried {
    pub fn of(
        head: &RequestHead<'_>,
        secure: bool,
        program: &ProgramName,
        keys: &TagKeys,
        remembered: &RefCell<RememberedTags>,
    ) -> Self {
        let mut carried = Self { secure, tag: None, has_own: false };
        for header in head.headers.iter().filter(|header| is_cookie(header.name)) {
            for own in Cookies::of(header.value).own() {
                carried.has_own = true;
                let Some(text) = own.value_of(program.as_str()) else { continue };
                let keys = keys.get();
                // Forged ones are as none. Of several authentic ones the newest counts: an older is of another path.
                let tag = keys.as_ref().and_then(|keys| remembered.borrow_mut().check(text, program, keys));
                if tag.as_ref().map(|tag| tag.issued) >= carried.tag.as_ref().map(|tag| tag.issued) {
                    carried.tag = tag;
                }
            }
        }
        carried
    }

    /// Whether the client's field goes on as it is.
    pub fn keeps(&self, name: &str) -> bool {
        !(self.has_own && is_cookie(name))
    }

    /// Writes the cookies that are not neap's, where they do not go on as they were.
    pub fn write_cookies(&self, head: &RequestHead<'_>, out: &mut HeadWriter<'_>) {
        if !self.has_own {
            return;
        }
        let mut others = Vec::with_capacity(OTHERS_BYTES);
        for header in head.headers.iter().filter(|header| is_cookie(header.name)) {
            others.clear();
            Cookies::of(header.value).write_others(&mut others);
            if !others.is_empty() {
                // As it came, which cannot end its line.
                out.add_clean(COOKIE, &others);
            }
        }
    }
}

fn is_cookie(name: &str) -> bool {
    name.len() == COOKIE.len() && name.eq_ignore_ascii_case(COOKIE)
}

/// The program's placements as a dispatch of this session sees them, in their order.
pub fn candidates<'a>(
    program: &'a Program,
    tag: &'a HeldTag,
    now: Instant,
) -> impl ExactSizeIterator<Item = Candidate<'a>> + Clone {
    program.placements.iter().map(move |placement| {
        let candidate = placement.candidate(now);
        Candidate { fit: fit(program, placement, candidate.standing, tag), ..candidate }
    })
}

/// Versions only go forward: a session that has seen the version that a ripple brings sees no other; one that has not
/// does so when it is among the share that is as large as that of the servers which have it.
fn fit(program: &Program, placement: &Placement, standing: Standing, tag: &HeldTag) -> Fit {
    let listed = &placement.listed;
    let version = listed.version.as_ref().map(Version::as_str);
    let (seen, forward) = (tag.version(), program.forward());
    let brings = forward.map(|forward| forward.to.as_str());
    let is_new = brings == Some(seen);
    let fits = match forward {
        Some(forward) if is_new || session::is_in_share(tag.id, forward.share_ppm) => version == brings,
        Some(_) => version != brings,
        None => version == Some(seen),
    };
    if placement.server.name.as_str() == tag.server() {
        // Its server knows better than a list that is behind; but a server that was upgraded since is as any other.
        let is_there = version == Some(seen) || is_new || forward.is_none();
        let sticky = program.manifest().session.as_ref().is_some_and(|rule| rule.policy == SessionPolicy::Sticky);
        let stays = sticky && (listed.takes_requests || listed.keeps_sessions);
        if is_there && (stays || (standing == Standing::First && (fits || is_new || sticky || forward.is_none()))) {
            return Fit::Home;
        }
    }
    match fits {
        true if is_new || forward.is_none() => Fit::FitsAlone,
        true => Fit::Fits,
        false => Fit::Misfit,
    }
}

#[cfg(test)]
#[path = "affinity_tests.rs"]
mod tests;
