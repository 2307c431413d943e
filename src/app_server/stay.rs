//! Owns a session's part in one request at this server: known by its tag, told to the program, begun or ended by what the
//! program answers, and listed before the request's claim is given back (protocol P16). Must not know how a request came,
//! or where lists are kept.

use std::rc::Rc;
use std::sync::Arc;

use super::keeping::arrivals::Came;
use super::session_lists::ProgramList;
use crate::domain::names::{ProgramName, ServerName, Version};
use crate::domain::program::{Manifest, SessionRule};
use crate::domain::session::{
    HeldTag, Place, ProgramCookie, RememberedTags, SessionId, Tag, WallMillis, set_by_program,
};
use crate::domain::session_list::{Arrival, End};
use crate::link::tag_keys::TagKeys;
use crate::proxy::{HeadWriter, ResponseHead};

/// By which a program hears of the session.
const SESSION_HEADER: &str = "Neap-Session";
const SET_COOKIE: &str = "Set-Cookie";
/// What most cookies take.
const COOKIE_BYTES: usize = 256;

/// What requests to one instance need to know of sessions.
#[derive(Debug)]
pub struct Sessions {
    pub list: Arc<ProgramList>,
    pub place: Place,
    keys: TagKeys,
    program: ProgramName,
    rule: SessionRule,
    /// How the tag's cookie begins, to its value, and what follows that.
    cookie: Vec<u8>,
    attributes: Vec<u8>,
}

/// What a request's client sent of a session.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    pub tag: Option<Rc<HeldTag>>,
    /// Through TLS.
    pub secure: bool,
}

/// One admitted request's session; given back by drop.
#[derive(Debug)]
pub struct Stay {
    sessions: Arc<Sessions>,
    id: SessionId,
    /// It is in the list, with this request under way.
    listed: bool,
    /// Its tag is of here, and new enough.
    tagged: bool,
    secure: bool,
}

impl Sessions {
    /// `None`: the program has none.
    pub fn of(
        manifest: &Manifest,
        server: &ServerName,
        version: &Version,
        keys: &TagKeys,
        list: impl FnOnce() -> Arc<ProgramList>,
    ) -> Option<Arc<Self>> {
        let rule = manifest.session.clone()?;
        let (list, place) = (list(), Place { server: server.clone(), version: version.clone() });
        list.settle(place.clone(), millis(rule.idle));
        let (program, keys) = (manifest.name.clone(), keys.clone());
        let cookie = format!("neap_{program}=").into_bytes();
        let attributes = format!("; Path={}; HttpOnly; SameSite=Lax", manifest.cookie_path()).into_bytes();
        Some(Arc::new(Self { list, place, keys, program, rule, cookie, attributes }))
    }

    /// Whether the tag says that its session is at home here, and it has not ended.
    pub fn knows(&self, carried: &Carried) -> bool {
        let is_here = |tag: &&Rc<HeldTag>| tag.is_at(&self.place) && !self.list.is_over(tag.id, tag.issued, now());
        carried.tag.as_ref().filter(is_here).is_some()
    }

    /// The tag that the text is, if it is an authentic one of this program.
    pub fn check(&self, text: &[u8], remembered: &mut RememberedTags) -> Option<Rc<HeldTag>> {
        remembered.check(text, &self.program, self.keys.get().as_ref()?)
    }

    /// A request was admitted.
    pub fn enter(self: &Arc<Self>, carried: &Carried) -> Option<Stay> {
        // Without a key no tag could be believed when it comes back.
        if self.keys.get().is_none() {
            return None;
        }
        let (now, secure) = (now(), carried.secure);
        if let Some(tag) = &carried.tag {
            match self.list.arrive(tag.id, tag.issued, &self.place, now) {
                Arrival::Known | Arrival::Listed => {
                    let is_new = now < tag.issued.saturating_add(millis(self.rule.idle) / 8) && !tag.old_key;
                    let tagged = is_new && tag.is_at(&self.place);
                    self.moved(tag);
                    return Some(Stay { sessions: self.clone(), id: tag.id, listed: true, tagged, secure });
                }
                Arrival::Full => return None,
                Arrival::Ended => {}
            }
        }
        let id = SessionId::from_bytes(rand::random());
        self.list.mint(id);
        Some(Stay { sessions: self.clone(), id, listed: false, tagged: false, secure })
    }
}

impl Sessions {
    /// One that was at home elsewhere is taken in the master list, and its data fetched.
    fn moved(&self, tag: &HeldTag) {
        if tag.server() == self.place.server.as_str() {
            return;
        }
        let (Ok(server), Ok(version)) = (tag.server().parse(), tag.version().parse()) else { return };
        let (program, to, issued) = (self.program.clone(), self.place.clone(), tag.issued);
        self.list.came(|| Came { program, id: tag.id, from: Place { server, version }, to, issued });
    }
}

impl Stay {
    pub fn write_headers(&self, out: &mut HeadWriter<'_>) {
        out.add_clean(SESSION_HEADER, &self.id.text());
    }

    /// The program's answer begins, ends or goes on with the session.
    pub fn answered(&mut self, head: &ResponseHead<'_>, out: &mut HeadWriter<'_>) {
        if self.tagged && self.sessions.rule.cookie.is_none() {
            // Nothing of it begins or ends with an answer, and its client's tag is as good as a new one.
            return;
        }
        let now = now();
        match self.cookie_in(head, now) {
            Some(ProgramCookie::Cleared) if self.listed => {
                self.sessions.list.end(self.id, End::Cleared, now);
                self.forget(out);
                return;
            }
            Some(ProgramCookie::Set) if !self.listed => {
                self.sessions.list.unmint(self.id);
                self.listed = true;
                if !self.sessions.list.begin(self.id, &self.sessions.place, now) {
                    tracing::warn!(program = %self.sessions.program, "the Session List is full: a session is not known");
                    return;
                }
            }
            // One that neap begins counts once its tag has come back.
            None if self.sessions.rule.cookie.is_none() => {}
            _ if !self.listed => return,
            _ => {}
        }
        if !self.tagged {
            self.tag(now, out);
        }
    }

    /// What the answer does to the program's own cookie: the last of its words counts.
    fn cookie_in(&self, head: &ResponseHead<'_>, now: WallMillis) -> Option<ProgramCookie> {
        let name = self.sessions.rule.cookie.as_deref()?;
        let fields = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(SET_COOKIE));
        fields.filter_map(|field| set_by_program(field.value, name, now)).next_back()
    }

    fn tag(&self, now: WallMillis, out: &mut HeadWriter<'_>) {
        let keys = self.sessions.keys.get();
        let Some(keys) = keys.as_ref() else { return };
        let (place, program) = (&self.sessions.place, &self.sessions.program);
        self.write(out, |value| Tag::write(self.id, (&place.server, &place.version), now, program, keys, value));
    }

    fn forget(&self, out: &mut HeadWriter<'_>) {
        self.write(out, |value| value.extend_from_slice(b"; Max-Age=0"));
    }

    fn write(&self, out: &mut HeadWriter<'_>, content: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::with_capacity(COOKIE_BYTES);
        value.extend_from_slice(&self.sessions.cookie);
        content(&mut value);
        value.extend_from_slice(&self.sessions.attributes);
        if self.secure {
            value.extend_from_slice(b"; Secure");
        }
        out.add(SET_COOKIE, value);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.listed {
            self.sessions.list.finish(self.id, now());
        } else {
            self.sessions.list.unmint(self.id);
        }
    }
}

fn millis(duration: std::time::Duration) -> WallMillis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock: sessions outlive runs.
pub fn now() -> WallMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, millis)
}

#[cfg(test)]
#[path = "stay_tests.rs"]
mod tests;
